"""Runs on a kept cluster in, killed at random; out, whether any row was lost, doubled or wrong.

A label run over a small archive on a kept cluster of two nodes is struck in one place at a moment that its seed says,
then run again until it ends by itself; its tables are compared row for row with those of an undisturbed run.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Final

import psutil
from points import POINTS
from runs import command, differences, fill, heed_ctrl_c, rows

NUM_VIDEOS: Final = 30
SEED: Final = 20261124
MOST_RUNS: Final = 5
RUN_SECONDS: Final = 180.0
STUCK_SECONDS: Final = 30.0
STAGES: Final = {"decode": "Decoder", "model": "Classify"}
DEATHS: Final = [(name, moment) for name in POINTS if name != "shard index" for moment in ("before", "after")]


class Kills(AbstractContextManager["Kills"]):
    """An archive, a model, settings, and a cluster that outlives the runs.

    Scenarios: `driver`, `decode`, `model` and `raylet` are processes that are killed; `writer` is the driver while it
    publishes; `stop` a SIGTERM or Ctrl-C, to be answered with exit code 130; `stuck` a node that does nothing for 30
    seconds; `point` a driver that dies just before or after a write of the protocol (see points.py).
    """

    planned: Final = {"driver": 15, "decode": 10, "model": 5, "writer": 10, "raylet": 5, "stop": 4, "stuck": 2,
                      "point": len(DEATHS)}  # fmt: skip

    def __enter__(self) -> Kills:
        from ray.cluster_utils import Cluster

        self._temporary = tempfile.TemporaryDirectory(prefix="vidbatch-chaos-")
        self.folder = Path(self._temporary.name)
        fill(self.folder, NUM_VIDEOS)
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        try:
            self.worker = self.cluster.add_node(num_cpus=1)
            subprocess.run(command(self.folder, self.folder / "clean"), env=self.env, check=True, capture_output=True)
            self.clean = rows(self.folder / "clean")
            assert len(self.clean[0]) == NUM_VIDEOS + 1
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.shutdown()
        self._temporary.cleanup()

    @property
    def env(self) -> dict[str, str]:
        tests = str(Path(__file__).resolve().parents[1])
        python_path = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")]))
        return {**os.environ, "RAY_ADDRESS": self.cluster.address, "PYTHONPATH": python_path}

    def revive(self) -> None:
        """A node in the place of one that was killed."""
        if psutil_of(self.worker) is None:
            self.cluster.remove_node(self.worker, allow_graceful=False)  # what else there was of it
            self.worker = self.cluster.add_node(num_cpus=1)

    def once(self, victim: str, number: int) -> dict[str, Any]:
        """One run that is struck once, and as many more as it takes."""
        seed = f"{SEED}-{victim}-{number}"
        moments = random.Random(seed)
        output = self.folder / f"{victim}-{number}"
        self.revive()
        was_struck, codes, began = False, [], time.monotonic()
        with (self.folder / f"{victim}-{number}.log").open("wb") as log:
            for _ in range(MOST_RUNS):
                dies_at = DEATHS[number % len(DEATHS)] if victim == "point" and not was_struck else None
                pipes: dict[str, Any] = {"stdout": log, "stderr": log, "preexec_fn": heed_ctrl_c}
                driver = subprocess.Popen(command(self.folder, output, dies_at), env=self.env, **pipes)
                try:
                    if not was_struck and victim != "point":
                        was_struck = strike(self, victim, number, driver, output, moments)
                    codes.append(driver.wait(RUN_SECONDS))
                except subprocess.TimeoutExpired:
                    codes.append(None)
                finally:
                    driver.kill()
                    driver.wait()
                was_struck = was_struck or (dies_at is not None and codes[-1] == -signal.SIGKILL)
                if codes[-1] == 0 and was_struck:
                    break
                if codes[-1] == 0:  # it was over before it could be struck
                    shutil.rmtree(output)
        result: dict[str, Any] = {"seed": seed, "struck": was_struck, "exit_codes": codes}
        if codes[-1] == 0:
            result |= differences(self.clean, rows(output))
        else:
            result |= {"lost": len(self.clean[0]), "doubled": 0, "wrong": 0}
        if victim == "stop" and was_struck and codes[0] not in (0, 130):
            result["wrong"] += 1
        return result | {"seconds": round(time.monotonic() - began, 1)}


# --- victims --------------------------------------------------------------------------------------------------------


def psutil_of(node: Any) -> psutil.Process | None:
    """The raylet of a node of the cluster, None if it is gone."""
    try:
        process = psutil.Process(node.all_processes["raylet"][0].process.pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except (psutil.NoSuchProcess, KeyError, IndexError):
        return None


def actors(place: Kills, stage: str) -> list[psutil.Process]:
    """Ray workers of this cluster that run a stage's actors, by the title that Ray gives them."""
    found = []
    for node in (place.cluster.head_node, place.worker):
        raylet = psutil_of(node)
        for child in [] if raylet is None else raylet.children(recursive=True):
            try:
                if stage in " ".join(child.cmdline()) or stage in child.name():
                    found.append(child)
            except psutil.Error:
                continue
    return found


def staged(output: Path) -> int:
    return len(list(output.glob("_runs/*/staged/*/*.videos.parquet")))


def is_time(place: Kills, victim: str, output: Path) -> bool:
    """Whether there is something to kill that matters."""
    if victim in STAGES:
        return bool(actors(place, STAGES[victim]))
    if victim == "driver":
        return (output / "_runs").exists()
    if victim == "writer":
        return staged(output) > 8 or any(output.glob("frames/*.parquet"))
    return staged(output) > 0


def strike(
    place: Kills, victim: str, number: int, driver: subprocess.Popen[bytes], output: Path, moments: random.Random
) -> bool:
    """Wait for a moment at which there is something to kill, and kill it; False if the run ended before."""
    deadline = time.monotonic() + RUN_SECONDS
    delay = moments.random() * {"driver": 8.0, "writer": 0.3}.get(victim, 1.5)
    while driver.poll() is None and time.monotonic() < deadline:
        if is_time(place, victim, output):
            time.sleep(delay)
            with suppress(psutil.NoSuchProcess):  # it was gone in that moment: there will be another one
                if driver.poll() is None and hit(place, victim, number, driver, moments):
                    return True
        time.sleep(0.01)
    return False


def hit(place: Kills, victim: str, number: int, driver: subprocess.Popen[bytes], moments: random.Random) -> bool:
    """Kill it now; False if it is not there."""
    if victim in ("driver", "writer"):
        driver.kill()
    elif victim == "stop":
        driver.send_signal(signal.SIGINT if number % 2 else signal.SIGTERM)
    elif victim in STAGES:
        targets = actors(place, STAGES[victim])
        if not targets:
            return False
        targets[moments.randrange(len(targets))].kill()
    else:
        raylet = psutil_of(place.worker)
        if raylet is None:
            return False
        if victim == "raylet":
            raylet.kill()
        else:
            stand_still([raylet, *raylet.children(recursive=True)])
    return True


def stand_still(processes: list[psutil.Process]) -> None:
    """A host that does nothing for a while, and then goes on as if nothing had happened."""
    for what, seconds in ((signal.SIGSTOP, STUCK_SECONDS), (signal.SIGCONT, 0.0)):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(what)
        time.sleep(seconds)
