"""Runs in, killed at random; out, whether any row was lost, doubled or wrong: `make chaos`.

A label run over a small archive on a kept cluster of two nodes is killed in one place at a moment that its seed says,
then run again until it ends by itself; its tables are compared row for row with those of an undisturbed run.

    python tests/chaos/kills.py              all of them, about 40 minutes
    python tests/chaos/kills.py driver=2     two kills of the driver only
    python tests/chaos/kills.py --again      forget what an earlier, broken off call has done

What is done is kept in .cache/chaos.json, so that a call that was broken off goes on. Exit code 0 only if all is well.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))
from runs import Rows, command, fill, rows  # noqa: E402  # the tests are no package

STATE = REPOSITORY / ".cache" / "chaos.json"
NUM_VIDEOS = 30
SEED = 20261124
MOST_RUNS = 5
RUN_SECONDS = 180.0
PLANNED = {"driver": 15, "decode": 10, "model": 5, "writer": 10, "raylet": 5, "stop": 3, "stuck": 2}
"""Kills by victim. `writer` is the driver while it publishes; `stop` a SIGTERM, to be answered with exit code 130;
`stuck` a node that does nothing for 30 seconds."""


@dataclass
class Place:
    """Where all runs work: an archive, a model, settings, and a cluster that outlives them."""

    folder: Path
    cluster: Any
    worker: Any

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "RAY_ADDRESS": self.cluster.address}

    def revive(self) -> None:
        """A node in the place of one that was killed."""
        if psutil_of(self.worker) is None:
            self.cluster.remove_node(self.worker, allow_graceful=False)  # what else there was of it
            self.worker = self.cluster.add_node(num_cpus=1)


def make_place(folder: Path) -> Place:
    from ray.cluster_utils import Cluster

    fill(folder, NUM_VIDEOS)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    return Place(folder, cluster, cluster.add_node(num_cpus=1))


def differences(clean: Rows, found: Rows) -> dict[str, int]:
    """How many rows are missing, there twice, or other than they should be."""
    result = {"lost": 0, "doubled": 0, "wrong": 0}
    for wanted, given in zip(clean, found, strict=True):
        expected = {(row["url"], row.get("frame_index")): row for row in wanted}
        seen: set[Any] = set()
        for row in given:
            key = row["url"], row.get("frame_index")
            result["doubled"] += key in seen
            result["wrong"] += expected.get(key) != row
            seen.add(key)
        result["lost"] += len(expected.keys() - seen)
    return result


# --- victims --------------------------------------------------------------------------------------------------------


def psutil_of(node: Any) -> psutil.Process | None:
    """The raylet of a node of the cluster, None if it is gone."""
    try:
        process = psutil.Process(node.all_processes["raylet"][0].process.pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except (psutil.NoSuchProcess, KeyError, IndexError):
        return None


def actors(place: Place, stage: str) -> list[psutil.Process]:
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


STAGES = {"decode": "Decoder", "model": "Classify"}


def is_time(place: Place, victim: str, output: Path) -> bool:
    """Whether there is something to kill that matters."""
    if victim in STAGES:
        return bool(actors(place, STAGES[victim]))
    if victim == "driver":
        return (output / "_runs").exists()
    if victim == "writer":
        return staged(output) > 8 or any(output.glob("frames/*.parquet"))
    return staged(output) > 0


def strike(place: Place, victim: str, driver: subprocess.Popen[bytes], output: Path, moments: random.Random) -> bool:
    """Wait for a moment at which there is something to kill, and kill it; False if the run ended before."""
    deadline = time.monotonic() + RUN_SECONDS
    while not is_time(place, victim, output):
        if driver.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    time.sleep(moments.random() * {"driver": 8.0, "writer": 0.3}.get(victim, 1.5))
    if driver.poll() is not None:
        return False
    if victim in ("driver", "writer"):
        driver.kill()
    elif victim == "stop":
        driver.terminate()
    elif victim in STAGES:
        targets = actors(place, STAGES[victim])
        if not targets:
            return False
        targets[moments.randrange(len(targets))].kill()
    else:
        raylet = psutil_of(place.worker)
        if raylet is None:
            return False
        raylet.send_signal(signal.SIGSTOP if victim == "stuck" else signal.SIGKILL)
        if victim == "stuck":
            time.sleep(30)
            if psutil_of(place.worker) is not None:
                raylet.send_signal(signal.SIGCONT)
    return True


def once(place: Place, victim: str, number: int, clean: Rows) -> dict[str, Any]:
    """One run that is struck once, and as many more as it takes."""
    seed = f"{SEED}-{victim}-{number}"
    moments = random.Random(seed)
    output = place.folder / f"{victim}-{number}"
    place.revive()
    log = (place.folder / f"{victim}-{number}.log").open("wb")
    was_struck, codes, began = False, [], time.monotonic()
    for _ in range(MOST_RUNS):
        driver = subprocess.Popen(command(place.folder, output), stdout=log, stderr=log, env=place.env)
        try:
            if not was_struck:
                was_struck = strike(place, victim, driver, output, moments)
            codes.append(driver.wait(RUN_SECONDS))
        except subprocess.TimeoutExpired:
            codes.append(None)
        finally:
            driver.kill()
            driver.wait()
        if codes[-1] == 0:
            break
    result = {"victim": victim, "seed": seed, "struck": was_struck, "exit_codes": codes}
    result |= differences(clean, rows(output)) if codes[-1] == 0 else {"lost": len(clean[0]), "doubled": 0, "wrong": 0}
    if victim == "stop" and was_struck and codes[0] not in (0, 130):
        result["wrong"] += 1
    return result | {"seconds": round(time.monotonic() - began, 1)}


# --------------------------------------------------------------------------------------------------------------------


def wanted(words: list[str]) -> Iterator[tuple[str, int]]:
    plan = {name: int(number or 1) for name, _, number in (word.partition("=") for word in words)} or PLANNED
    for victim, number in plan.items():
        if victim not in PLANNED:
            sys.exit(f"there is no victim {victim!r}; allowed: {', '.join(PLANNED)}")
        yield from ((victim, at) for at in range(number))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("victims", nargs="*", metavar="VICTIM=N")
    parser.add_argument("--again", action="store_true", help="forget what was done before")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the cluster is to be shut down then, too
    todo = list(wanted(options.victims))
    done: dict[str, Any] = {} if options.again or not STATE.exists() else json.loads(STATE.read_text())
    left = [(victim, at) for victim, at in todo if f"{victim}-{at}" not in done]
    if left:
        with tempfile.TemporaryDirectory(prefix="vidbatch-chaos-") as folder:
            place = make_place(Path(folder))
            try:
                subprocess.run(
                    command(place.folder, place.folder / "clean"), env=place.env, check=True, capture_output=True
                )
                clean = rows(place.folder / "clean")
                assert len(clean[0]) == NUM_VIDEOS + 1
                for victim, at in left:
                    result = once(place, victim, at, clean)
                    print(f"{len(done) + 1:>3} of {len(todo)}  {result}", flush=True)
                    done[f"{victim}-{at}"] = result
                    STATE.parent.mkdir(parents=True, exist_ok=True)
                    STATE.write_text(json.dumps(done, indent=1))
            finally:
                place.cluster.shutdown()
    sys.exit(report([done[f"{victim}-{at}"] for victim, at in todo]))


def report(results: list[dict[str, Any]]) -> int:
    """Print a table by victim; 1 if anything went wrong, 0 otherwise."""
    print(
        f"\n{'victim':<10} {'tried':>6} {'struck':>7} {'lost':>6} {'doubled':>8} {'wrong':>6}  seeds of what went wrong"
    )
    bad = 0
    for victim in dict.fromkeys(result["victim"] for result in results):
        of = [result for result in results if result["victim"] == victim]
        sums = {name: sum(result[name] for result in of) for name in ("struck", "lost", "doubled", "wrong")}
        wrong = [result["seed"] for result in of if result["lost"] or result["doubled"] or result["wrong"]]
        bad += len(wrong)
        print(f"{victim:<10} {len(of):>6} {sums['struck']:>7} {sums['lost']:>6} {sums['doubled']:>8} {sums['wrong']:>6}"
              f"  {', '.join(wrong)}")  # fmt: skip
    return 1 if bad else 0


if __name__ == "__main__":
    main()
