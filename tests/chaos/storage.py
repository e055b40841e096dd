"""Object storage that misbehaves: one of run.py's places.

A label run whose archive and tables are both on S3, behind faults that a seed says, is run again until there is nothing
left to try again; its tables are compared row for row with those of an undisturbed run. The full disk needs root: it
mounts one.
"""

from __future__ import annotations

import logging
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

from disks import small_disk
from faulty_s3 import PASSING, FaultyS3
from runs import VIDBATCH, Rows, differences, rows
from servers import MotoServer

from vidbatch.config import LabelConfig, load_config
from vidbatch.errors import TRANSIENT_KINDS, VidbatchError
from vidbatch.stamp import make_stamp_bundle
from vidbatch.testing import make_shard, make_video

NUM_VIDEOS = 8
SMALL = [f"video-{number}.mp4" for number in range(NUM_VIDEOS)]
LARGE = "large.mkv"
SHARD = "shard.tar"
MOST_RUNS = 6


@dataclass
class Place:
    """An archive on S3: small videos, a large one that is read in pieces and cut in two, a shard; and a model."""

    server: MotoServer
    folder: Path
    bucket: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    another: bytes = b""
    """A video that may stand in the place of the large one."""
    clean: Rows = ((), ())  # type: ignore[assignment]  # the tables of a run that nothing disturbed

    def config(self, output: str) -> LabelConfig:
        return load_config({"output": output}, self.folder / "settings.yaml")

    def command(self, output: str) -> list[str]:
        return [*VIDBATCH, "label", "--config", str(self.folder / "settings.yaml"), "--output", output]

    def put(self, name: str, data: bytes) -> None:
        self.server.client().put_object(Bucket=self.bucket.removeprefix("s3://"), Key=f"archive/{name}", Body=data)

    @contextmanager
    def faults(self, seed: int) -> Iterator[FaultyS3]:
        """The archive as it should be, behind a gate that does nothing yet."""
        gate = FaultyS3(self.server, seed)
        self.server.gate = gate
        try:
            yield gate
        finally:
            self.server.forget()


def make_place(server: MotoServer, folder: Path) -> Place:
    """The environment must say that S3 is this server, here and where Ray's workers are."""
    from vidbatch.pipeline import label

    place = Place(server, folder, server())
    make_stamp_bundle(folder / "model", num_classes=16)
    (folder / "settings.yaml").write_text(
        f"inputs: [{place.bucket}/archive]\nmodel: file:{folder / 'model'}\nsampling: fps=5\nstage_seconds: 0.2\n"
        "clip_seconds: 5\nlong_video_mb: 1\nmax_failed_share: 1\n"
    )
    for number, name in enumerate(SMALL):
        make_video(folder / name, num_frames=20 + 5 * number, fps=10, video_number=number)
        place.objects[name] = (folder / name).read_bytes()
    for number in (12, 13):
        make_video(folder / f"{number}.mkv", codec="rawvideo", num_frames=80, fps=10, video_number=number)
    place.objects[LARGE], place.another = ((folder / f"{number}.mkv").read_bytes() for number in (12, 13))
    make_shard(folder / SHARD, {f"{n}.mp4": place.objects[SMALL[n]] for n in (0, 1)})
    place.objects[SHARD] = (folder / SHARD).read_bytes()
    for name, data in place.objects.items():
        place.put(name, data)
    label(place.config(f"{place.bucket}/clean"))
    place.clean = rows(f"{place.bucket}/clean")
    assert len(place.clean[0]) == NUM_VIDEOS + 3
    assert {row["status"] for row in place.clean[0]} == {"ok"}
    return place


def run(place: Place, output: str) -> dict[str, Any]:
    """One run: how it ended, and with which kinds of errors."""
    from vidbatch.pipeline import label

    try:
        record = label(place.config(output)).record
    except VidbatchError as error:
        return {"state": f"{type(error).__name__}: {error}", "kinds": {"the whole run": 1}}
    return {"state": record.state, "kinds": record.by_error_kind}


def settle(place: Place, output: str) -> list[dict[str, Any]]:
    """Runs until nothing is left that a rerun would try again."""
    done: list[dict[str, Any]] = []
    while len(done) < MOST_RUNS:
        done.append(run(place, output))
        if not done[-1]["kinds"].keys() & (TRANSIENT_KINDS | {"the whole run"}):
            break
    return done


def kinds_of(output: str) -> dict[str, str | None]:
    """error_kind of every published row, by the name of its object."""
    return {
        (row["member"] or "") + row["url"].rpartition("/")[2]: row["error_kind"] for row in rows(output)[0]
    }  # fmt: skip


def _compared(place: Place, output: str, runs: list[dict[str, Any]], gate: FaultyS3) -> dict[str, Any]:
    found = differences(place.clean, rows(output))
    return {**found, "runs": [done["kinds"] or done["state"] for done in runs], "faults": dict(gate.struck)}


# --- scenarios ------------------------------------------------------------------------------------------------------


def each_its_own(place: Place, seed: int) -> dict[str, Any]:
    """Every object meets another fault: some pass, some last until the run is over; one is overwritten meanwhile."""
    chance = random.Random(seed)
    output = f"{place.bucket}/each-{seed}"
    passing = [("reset", 2), ("truncated", 2), ("internal", 2), ("slow_down", 2), ("stall_in_body", 1)]
    lasting = {"missing": "missing", "forbidden": "permission", "reset": "storage"}
    names = chance.sample(SMALL, len(SMALL))
    expected: dict[str, str | None] = {LARGE: "changed", SHARD: "permission"}
    place.put(LARGE, place.another)
    with place.faults(seed) as gate:
        gate.stall_seconds = 2.0
        for name, (fault, times) in zip(names, passing, strict=False):
            gate.on(f"archive/{name}", fault, times)
            expected[name] = None
        for name, (fault, kind) in zip(names[len(passing) :], lasting.items(), strict=True):
            gate.on(f"archive/{name}", fault, 999)
            expected[name] = kind
        gate.on(f"archive/{SHARD}", "forbidden", 999)
        gate.on(f"archive/{LARGE}", "", 0, then=lambda: place.put(LARGE, place.objects[LARGE]))
        first = run(place, output)
    found = kinds_of(output)
    wrong_kinds = {name: found.get(name) for name in expected if found.get(name, "no row") != expected[name]}
    result = _compared(place, output, [first, *settle(place, output)], gate)
    return result | {"wrong": result["wrong"] + len(wrong_kinds), "wrong_kinds": wrong_kinds}


def storm(place: Place, seed: int) -> dict[str, Any]:
    """One request in twelve, whatever for, begins a burst of errors, resets or truncated bodies."""
    output = f"{place.bucket}/storm-{seed}"
    with place.faults(seed) as gate:
        gate.storm(PASSING, share=0.08, burst=3)
        runs = settle(place, output)
    return _compared(place, output, runs, gate)


def outage(place: Place, seed: int) -> dict[str, Any]:
    """For twenty seconds, at any moment of the run, the store says nothing but 503."""
    chance = random.Random(seed)
    output = f"{place.bucket}/outage-{seed}"
    with place.faults(seed) as gate:
        gate.outage(chance.choice(PASSING[:3]), after_requests=chance.randrange(5, 80), seconds=20)
        runs = settle(place, output)
    return _compared(place, output, runs, gate)


def expired(place: Place, seed: int) -> dict[str, Any]:
    """From some moment of the run on everything is refused, the tables too; before the next run it is allowed again."""
    output = f"{place.bucket}/expired-{seed}"
    with place.faults(seed) as gate:
        gate.outage("forbidden", after_requests=random.Random(seed).randrange(15, 60), seconds=1e9)
        first = run(place, output)
    return _compared(place, output, [first, *settle(place, output)], gate)


def missing(place: Place, seed: int) -> dict[str, Any]:
    """Objects that are listed are not there yet, for the first one to three times that they are read."""
    chance = random.Random(seed)
    output = f"{place.bucket}/missing-{seed}"
    with place.faults(seed) as gate:
        for name in place.objects:
            gate.on(f"archive/{name}", "missing", chance.randrange(4))
        runs = settle(place, output)
    return _compared(place, output, runs, gate)


def overwritten(place: Place, seed: int) -> dict[str, Any]:
    """Objects are overwritten after they were read for the first time."""
    chance = random.Random(seed)
    output = f"{place.bucket}/overwritten-{seed}"
    with place.faults(seed) as gate:
        for name in [LARGE, *chance.sample(SMALL, 3)]:
            place.put(name, place.another if name == LARGE else place.objects[SMALL[0]] + bytes(1))
            gate.on(f"archive/{name}", "", 0, then=lambda name=name: place.put(name, place.objects[name]))  # type: ignore[misc]
        first = run(place, output)
    return _compared(place, output, [first, *settle(place, output)], gate)


def stall(place: Place, seed: int) -> dict[str, Any]:
    """Answers that stand still for thirty seconds, before they begin or in their middle, once or again and again."""
    chance = random.Random(seed)
    output = f"{place.bucket}/stall-{seed}"
    with place.faults(seed) as gate:
        gate.stall_seconds = 30.0
        for name in chance.sample(list(place.objects), 3):
            gate.on(f"archive/{name}", chance.choice(["stall", "stall_in_body"]), chance.choice([1, 2, 4]))
        runs = settle(place, output)
    return _compared(place, output, runs, gate)


def slow(place: Place, seed: int) -> dict[str, Any]:
    """Every body takes half a second, and some take five."""
    output = f"{place.bucket}/slow-{seed}"
    with place.faults(seed) as gate:
        gate.slow_seconds = random.Random(seed).choice([0.5, 5.0])
        gate.storm(("slow",), share=0.3, burst=2)
        runs = settle(place, output)
    return _compared(place, output, runs, gate)


def full_disk(place: Place, seed: int) -> dict[str, Any]:
    """The tables go to a disk that is soon full; the next run finds room."""
    chance = random.Random(seed)
    output = place.folder / f"disk-{seed}"
    with place.faults(seed) as gate, small_disk(output, chance.randrange(40, 240)) as grow:
        first = run(place, str(output))
        halves = [str(path) for path in output.rglob("*") if path.suffix == ".tmp"]
        rows(output)  # every file that is there can be read
        said = "No space left on device" in first["state"]
        grow(64_000)
        result = _compared(place, str(output), [first, *settle(place, str(output))], gate)
    return result | {"wrong": result["wrong"] + len(halves) + (not said), "said": first["state"]}


def two_at_once(place: Place, seed: int) -> dict[str, Any]:
    """The same command twice over one output, the second up to three seconds later; each a process with its own Ray."""
    output = f"{place.bucket}/two-{seed}"
    processes = []
    for delay in (0.0, 3 * random.Random(seed).random()):
        time.sleep(delay)
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(place.command(output), **pipes))
    said = [process.communicate(timeout=280)[1] for process in processes]
    codes = [process.returncode for process in processes]
    runs = [{"kinds": f"exit code {code}", "state": ""} for code in codes]
    result = _compared(place, output, runs, FaultyS3(place.server))
    return result | {"wrong": result["wrong"] + sum(map(bool, codes)), "said": said if any(codes) else []}


SCENARIOS: dict[str, Callable[[Place, int], dict[str, Any]]] = {
    "each_its_own": each_its_own,
    "storm": storm,
    "outage": outage,
    "expired": expired,
    "missing": missing,
    "overwritten": overwritten,
    "stall": stall,
    "slow": slow,
    "full_disk": full_disk,
    "two_at_once": two_at_once,
}


def play(place: Place, scenario: str, seed: int) -> dict[str, Any]:
    """Its seed, the faults there were, rows lost, doubled and wrong, seconds, and what else there is to know."""
    began = time.monotonic()
    found = SCENARIOS[scenario](place, seed)
    struck = bool(found["faults"]) or scenario in ("full_disk", "two_at_once", "overwritten")
    return {"seed": seed, "struck": struck, **found, "seconds": round(time.monotonic() - began, 1)}


def is_well(result: dict[str, Any]) -> bool:
    return not (result["lost"] or result["doubled"] or result["wrong"])


class Storage(AbstractContextManager["Storage"]):
    """An S3 server behind faults, an archive on it, and a Ray that outlives the runs."""

    planned: Final = dict.fromkeys(SCENARIOS, 2)

    def __enter__(self) -> Storage:
        import ray

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        with ExitStack() as stack:
            server = MotoServer()
            stack.callback(server.stop)
            stack.enter_context(mock.patch.dict(os.environ, server.env))  # before Ray is started: workers inherit it
            ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            stack.callback(ray.shutdown)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vidbatch-chaos-"))
            self._place = make_place(server, Path(folder))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def once(self, scenario: str, number: int) -> dict[str, Any]:
        """One scenario with the seed of this number."""
        return play(self._place, scenario, 1 + number)
