"""Training on several real Ray nodes: the curve of one worker, and no window lost or doubled when a node is."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from fading import make_archive, settings
from runs import VIDBATCH

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

Rows = list[dict[str, Any]]
RUN_SECONDS = 300.0
EPOCHS = 20
"""Of five steps each."""


class Nodes:
    """A head and other Ray nodes of this machine, a CPU each, and training runs on them."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self.archive = make_archive(folder / "archive", split=True)
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self.others: list[Any] = []

    def make(self, num_others: int) -> None:
        """So many beside the head."""
        while len(self.others) > num_others:
            self.cluster.remove_node(self.others.pop())
        while len(self.others) < num_others:
            self.others.append(self.cluster.add_node(num_cpus=1, object_store_memory=200 * 2**20))
        self.cluster.wait_for_nodes()

    def lose(self) -> None:
        """SIGKILL the raylet of a node, and all that it has started."""
        node = self.others.pop()
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        for process in [raylet, *raylet.children(recursive=True)]:
            process.kill()
        self.cluster.remove_node(node, allow_graceful=False)

    def start(self, name: str, **changes: Any) -> subprocess.Popen[str]:
        """`vidbatch train`, its output below the folder."""
        given = settings(self.archive, self.folder / name, cpus_per_worker=1, **changes)
        (self.folder / f"{name}.yaml").write_text(json.dumps(given))  # JSON is YAML, too
        command = [*VIDBATCH, "train", "--json", "--config", str(self.folder / f"{name}.yaml")]
        environment = {**os.environ, "RAY_ADDRESS": self.cluster.address}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self, run: subprocess.Popen[str]) -> dict[str, Any]:
        said, problems = run.communicate(timeout=RUN_SECONDS)
        assert run.returncode == 0, said + problems
        return dict(json.loads(said))  # and nothing else: Ray says elsewhere that a node was lost

    def strike(self, name: str, run: subprocess.Popen[str]) -> None:
        """Lose a node as soon as there is a checkpoint, and see that this was in the midst of the run."""
        place = self.folder / name
        deadline = time.monotonic() + RUN_SECONDS
        while not (place / "checkpoints" / "checkpoint_manager_snapshot.json").exists():
            assert run.poll() is None, run.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.lose()
        epochs = place / "training" / "epochs.parquet"
        assert not epochs.exists() or pq.read_table(epochs).num_rows < EPOCHS / 2, "it was too late"

    def undisturbed(self, num_workers: int) -> Rows:
        """The curve of a run that lost nothing, trained once; there have to be nodes enough."""
        name = f"undisturbed-{num_workers}"
        if not (self.folder / name).exists():
            ended = self.end(self.start(name, num_workers=num_workers, epochs=EPOCHS))
            assert (ended["state"], ended["epochs"]) == ("finished", EPOCHS)
        return self.curve(name)

    def curve(self, name: str) -> Rows:
        rows: Rows = pq.read_table(self.folder / name / "training" / "steps.parquet").to_pylist()
        return [{key: value for key, value in row.items() if key != "windows_per_second"} for row in rows]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    place = Nodes(tmp_path_factory.mktemp("nodes"))
    yield place
    place.cluster.shutdown()


def assert_same_but_for_rounding(found: Rows, expected: Rows) -> None:
    """The same windows in every step, each once an epoch, and losses within 1e-3."""
    assert [row["windows_hash"] for row in found] == [row["windows_hash"] for row in expected]
    assert [row["step"] for row in found] == list(range(len(expected)))
    assert np.allclose(losses(found), losses(expected), rtol=1e-3, atol=0)
    assert windows_an_epoch(found) == windows_an_epoch(expected)


def losses(rows: Rows) -> Sequence[float]:
    return [row["loss"] for row in rows]


def windows_an_epoch(rows: Rows) -> Counter[int]:
    return Counter(row["epoch"] for row in rows for _ in range(row["num_windows"]))


def test_one_two_and_four_workers_on_as_many_nodes_give_one_curve(nodes: Nodes) -> None:
    """Over the first hundred losses, which are all."""
    nodes.make(3)
    alone = nodes.undisturbed(1)
    assert len(alone) == 100
    assert len(set(windows_an_epoch(alone).values())) == 1
    for num_workers in (2, 4):
        assert_same_but_for_rounding(nodes.undisturbed(num_workers), alone)


def test_a_node_lost_in_mid_epoch_is_waited_for(nodes: Nodes) -> None:
    """Bit for bit the curve of a run that lost nothing: both had two workers all the time."""
    nodes.make(1)
    whole = nodes.undisturbed(2)
    run = nodes.start("waits", num_workers=2, epochs=EPOCHS, checkpoint_steps=3)
    nodes.strike("waits", run)
    nodes.make(1)
    assert nodes.end(run)["state"] == "finished"
    assert nodes.curve("waits") == whole
    weights = [(nodes.folder / name / "model.safetensors").read_bytes() for name in ("waits", "undisturbed-2")]
    assert weights[0] == weights[1]


def test_without_a_node_that_is_lost_fewer_workers_go_on(nodes: Nodes) -> None:
    nodes.make(1)
    whole = nodes.undisturbed(2)
    run = nodes.start("fewer", num_workers=2, min_workers=1, epochs=EPOCHS, checkpoint_steps=3)
    nodes.strike("fewer", run)
    assert nodes.end(run)["state"] == "finished"
    assert_same_but_for_rounding(nodes.curve("fewer"), whole)
    assert nodes.curve("fewer") != whole, "two workers went on"
