"""Nodes that join or leave while a run works: pools follow, and the tables are those of a run with no such thing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from runs import Rows, differences, fill, rows

from vidbatch import growth

NUM_VIDEOS = 40
SEEN_SECONDS = 60.0
"""Within which what joins must be in use; on a quiet machine it takes 3 for decoders and 10 for models."""


class Work:
    """A stage that says who did it."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.05)
        return {"worker": [os.getpid()] * len(batch["id"])}


def workers(num_blocks: int, sizes: Sequence[int]) -> Iterator[int]:
    """Processes of the one pool of a dataset that begins with one of them and is told another size at once."""
    import ray
    from ray.data import ActorPoolStrategy

    items: list[dict[str, Any]] = [{"id": number} for number in range(num_blocks)]
    data = ray.data.from_items(items, override_num_blocks=num_blocks)
    data = data.map_batches(Work, compute=ActorPoolStrategy(size=1), num_cpus=0.1)
    growth.follow_cluster(data, lambda _nodes: sizes, lambda _sizes: None)
    yield from (row["worker"] for row in data.iter_rows())


@pytest.fixture
def _looks_often(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "LOOK_SECONDS", 0.05)


@pytest.mark.usefixtures("_looks_often")
def test_a_pool_of_a_running_dataset_gets_the_size_that_it_is_given() -> None:
    seen: set[int] = set()
    for worker in workers(500, [2]):
        seen.add(worker)
        if len(seen) == 2:
            return
    raise AssertionError("one actor has done it all")


@pytest.mark.usefixtures("_looks_often")
def test_where_ray_does_not_let_it_be_changed_pools_keep_their_size_and_the_run_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert len(set(workers(3, [3, 3]))) == 1  # it has one pool
    assert caplog.text.count("pools keep their size") == 1


# --- whole runs on nodes that are processes of this machine -----------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("growth")
    fill(folder, NUM_VIDEOS)
    few = (folder / "settings.yaml").read_text() + "decode_workers: 2\nbatch_size: 8\n"
    (folder / "few.yaml").write_text(few)
    return folder


class Run:
    """A run on a cluster of its own, whose stages sleep as long as they are told."""

    def __init__(self, place: Path, name: str, cluster: Any, *words: object, settings: str = "settings.yaml") -> None:
        self.output, self.calls = place / name, place / f"{name}-calls"
        self.calls.mkdir()
        script = [sys.executable, str(Path(__file__).parent / "growing.py"), place / settings]
        env = {**os.environ, "RAY_ADDRESS": cluster.address}
        self._log = place / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                list(map(str, [*script, self.output, self.calls, *words])), env=env, stdout=subprocess.PIPE, stderr=log
            )
        self._deadline = time.monotonic() + 280

    def wait_for(self, is_so: Callable[[], bool]) -> float:
        """Seconds until something is so, which must be before the run ends."""
        began = time.monotonic()
        while not is_so():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < self._deadline
            time.sleep(0.1)
        return time.monotonic() - began

    def workers(self, stage: str, node: str = "*") -> set[str]:
        """Processes of a stage, on a node, that have ended a call."""
        files = self.calls.glob(f"{stage}-{node}-*")
        return {line.split()[0] for file in files for line in file.read_text().splitlines()}

    def end(self) -> dict[str, Any]:
        try:
            said, _ = self._process.communicate(timeout=self._deadline - time.monotonic())
        finally:
            self._process.kill()
        assert self._process.returncode == 0, self._log.read_text()
        answer: dict[str, Any] = json.loads(said.splitlines()[-1])
        return answer


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head of two CPUs, beside which nodes can be added and removed."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, **STORE})
    yield made
    made.shutdown()


STORE = {"object_store_memory": 150 * 2**20}


@pytest.fixture(scope="module")
def clean(place: Path, local_ray: None) -> Rows:
    from vidbatch.config import load_config
    from vidbatch.pipeline import label

    label(load_config({"output": place / "clean"}, place / "settings.yaml"))
    return rows(place / "clean")


def is_same(clean: Rows, run: Run) -> bool:
    return differences(clean, rows(run.output)) == {"lost": 0, "doubled": 0, "wrong": 0}


@pytest.mark.long
def test_a_node_that_joins_decodes_and_one_that_leaves_again_costs_no_row(
    place: Path, clean: Rows, cluster: Any
) -> None:
    run = Run(place, "joins", cluster, "--decode-seconds", 1.0)
    run.wait_for(lambda: len(run.workers("decode")) == 2)
    new = cluster.add_node(num_cpus=2, **STORE)
    used_after = run.wait_for(lambda: len(run.workers("decode", new.node_id)) == 2)
    cluster.remove_node(new, allow_graceful=False)
    said = run.end()["said"]
    print(f"two decoders of a node that joined had ended a call {used_after:.1f} s later")
    assert used_after < SEEN_SECONDS
    assert "the cluster has changed: decoders 4, models 2" in said
    assert "the cluster has changed: decoders 2, models 1" in said
    assert is_same(clean, run)


@pytest.mark.long
def test_models_are_added_too_and_four_cold_ones_are_in_full_use_within_a_minute(
    place: Path, clean: Rows, cluster: Any
) -> None:
    nodes = [cluster.add_node(num_cpus=6, **STORE)]
    run = Run(place, "models", cluster, "--model-seconds", 2.0, settings="few.yaml")
    run.wait_for(lambda: len(run.workers("model")) == 2)
    nodes.append(cluster.add_node(num_cpus=8, **STORE))
    used_after = run.wait_for(lambda: len(run.workers("model", nodes[1].node_id)) == 2)
    print(f"two models of a node that joined had ended a call {used_after:.1f} s later")
    assert run.end()["pools"]["model_workers"] == 2
    assert used_after < SEEN_SECONDS
    assert is_same(clean, run)

    cold = Run(place, "cold", cluster, "--model-seconds", 2.0, settings="few.yaml")
    cold.wait_for(lambda: len(list(cold.calls.glob("decode-*"))) > 0)
    full_after = cold.wait_for(lambda: len(cold.workers("model")) == 4)
    print(f"four cold models had ended a call {full_after:.1f} s after the first decoder had")
    assert cold.end()["pools"]["model_workers"] == 4
    assert full_after < SEEN_SECONDS
    assert is_same(clean, cold)


@pytest.mark.long
def test_models_go_where_a_gpu_is_and_decoders_to_nodes_without_one_too(place: Path, clean: Rows, cluster: Any) -> None:
    """Ray believes in any GPU that it is told of; the model, which finds none, takes the CPU."""
    gpu, bare = cluster.add_node(num_cpus=2, num_gpus=1, **STORE), cluster.add_node(num_cpus=2, **STORE)
    run = Run(place, "mixed", cluster, "--decode-seconds", 0.5)
    pools = run.end()["pools"]
    assert (pools["decode_workers"], pools["model_workers"], pools["model_gpus"]) == (6, 1, 1.0)
    assert run.workers("model") == run.workers("model", gpu.node_id)
    assert run.workers("decode", gpu.node_id)
    assert run.workers("decode", bare.node_id)
    assert is_same(clean, run)
