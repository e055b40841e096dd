"""An archive that is hard to decode first and hard on the model later in; who uses the cores, out: JSON and plot.

One run over both halves, on one real Ray node of two CPUs and on two of one pinned core each. Nothing of the chain is
replaced. Actors stay what and where they are: there are as many decoders as CPUs, and models that together have as
many threads, so that either can use all of them, and the system gives the cores to whoever has work.

Expected before it was measured: nine tenths of the cores in use in both halves, and at least 0.8 in any five seconds
between them. The first holds; the second not on one node, where the model sees after some ten seconds that cores are
free (vidbatch/cores.py). Before it looked, the second half kept 0.64 of them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import harness
import ray_health
from autoscaling import real_nodes
from harness import InvalidRun

from vidbatch.metrics import Progress

Row = dict[str, Any]
NODES = ([2], [1, 1])
SAMPLING = "fps=5"
HALVES = {"decode": "1080p, to be decoded almost whole", "model": "108p, intra only"}
"""What most of the work is, and the videos that make it so; files of the first come first by name."""
KINDS = ("decode", "model", "rest")
"""Who may use a core: decoders, models, all else."""
LOOK_SECONDS = 0.5
WINDOW_SECONDS = 5.0
INNER = (0.15, 0.85)
"""Between these shares of a half's videos both pools are filled by it alone."""


class CoreUse(threading.Thread):
    """Every half second: CPU seconds that decoders, models and all else of this process' tree have used so far."""

    def __init__(self) -> None:
        import psutil

        super().__init__(daemon=True)
        self._psutil = psutil
        self._over = threading.Event()
        self._used: dict[tuple[int, float], tuple[str, float]] = {}
        self.points: list[Row] = []

    def run(self) -> None:
        """Look, until closed."""
        while not self._over.wait(LOOK_SECONDS):
            self._look()

    def close(self) -> None:
        """Look no more."""
        self._over.set()
        self.join()

    def _look(self) -> None:
        me = self._psutil.Process()
        for process in (me, *me.children(recursive=True)):
            try:
                times = process.cpu_times()
                key = (process.pid, process.create_time())
                self._used[key] = (self._kind(process), times.user + times.system)
            except (self._psutil.NoSuchProcess, self._psutil.AccessDenied):
                continue
        sums = dict.fromkeys(KINDS, 0.0)
        for kind, seconds in self._used.values():
            sums[kind] += seconds
        self.points.append({"at": time.time(), **sums})

    def _kind(self, process: Any) -> str:
        words = " ".join(process.cmdline())
        if "decoding.isolation" in words or "MapBatches(Decoder)" in words:
            return "decode"
        return "model" if "Classify)" in words else "rest"


class Finished(Progress):
    """Remembers when how many videos were finished."""

    def __init__(self) -> None:
        super().__init__(enabled=False)
        self.at: list[float] = []

    def update(self, totals: Any) -> None:
        """Called with the sink's totals whenever predictions have arrived."""
        self.at += [time.time()] * (totals.videos - len(self.at))


def child(options: argparse.Namespace) -> Row:
    """One run on nodes of these CPUs."""
    from vidbatch import pipeline
    from vidbatch.config import LabelConfig

    nodes = json.loads(options.nodes)
    cores = sorted(os.sched_getaffinity(0))[:2]
    config = LabelConfig(inputs=(options.archive,), output=options.output, sampling=SAMPLING)
    finished = Finished()
    with real_nodes(nodes, cores=cores if len(nodes) > 1 else None):
        use = CoreUse()
        use.start()
        began, busy = time.time(), harness.machine_busy_seconds()
        record = pipeline.label(config, finished).record
        machine = harness.machine_busy_seconds() - busy
        use.close()
        health = ray_health.report()
    if not ray_health.is_healthy(health) or record.by_status.get("ok", 0) != record.videos:
        raise InvalidRun(f"{health}, {record.by_status}")
    own = sum(use.points[-1][kind] - use.points[0][kind] for kind in KINDS)
    seconds = time.time() - began
    return {
        "nodes": nodes,
        "pools": record.pools,
        "videos": record.videos,
        "seconds": round(seconds, 1),
        "others_cpu_share": round((machine - own) / (seconds * len(cores)), 3),
        "finished_at": [round(at - began, 2) for at in finished.at],
        "core_use": [{name: round(value - began * (name == "at"), 2) for name, value in p.items()} for p in use.points],
        **health,
    }


def judged(row: Row, videos: dict[str, int]) -> Row:
    """Shares of two cores in use in the inner part of each half, by stage, and the least in five seconds between."""
    at, first = row["finished_at"], 0
    halves, limits = {}, []
    for half, number in videos.items():
        begin, end = (at[first + round(share * (number - 1))] for share in INNER)
        halves[half] = {kind: round(share, 3) for kind, share in shares_of(row["core_use"], begin, end).items()}
        halves[half]["all"] = round(sum(halves[half].values()), 3)
        limits += [begin, end]
        first += number
    starts = [p["at"] for p in row["core_use"] if limits[0] <= p["at"] <= limits[-1] - WINDOW_SECONDS]
    least = min(sum(shares_of(row["core_use"], begin, begin + WINDOW_SECONDS).values()) for begin in starts)
    return {**row, "halves": halves, "least_share_in_5_seconds": round(least, 3)}


def shares_of(points: list[Row], begin: float, end: float) -> dict[str, float]:
    """Of two cores, by kind, between two times."""
    inside = [p for p in points if begin <= p["at"] <= end]
    first, last = inside[0], inside[-1]
    cores_seconds = 2 * (last["at"] - first["at"])
    return {kind: (last[kind] - first[kind]) / cores_seconds for kind in KINDS}


def plot(folder: Path, content: Row) -> None:
    """Cores in use over time, by who uses them."""
    made, axes = harness.figure(width=9.0, height=3.2, columns=len(content["runs"]))
    for axis, row in zip(axes.ravel(), content["runs"], strict=True):
        points = row["core_use"]
        pairs = [(a, b) for a, b in zip(points, points[4:], strict=False)]
        times = [b["at"] for _, b in pairs]
        used = [[(b[kind] - a[kind]) / (b["at"] - a["at"]) for a, b in pairs] for kind in KINDS]
        axis.stackplot(times, used, labels=["decoders", "models", "all else"])
        axis.axvline(row["finished_at"][content["videos"]["decode"] - 1], color="black", linestyle=":", linewidth=1)
        number = len(row["nodes"])
        axis.set_title(f"{number} node{'s' * (number > 1)} (dotted: last of the first half)", loc="left", fontsize=10)
        axis.set_xlabel("seconds")
        axis.set_ylabel("cores in use")
    axes.ravel()[0].legend(frameon=False, fontsize=8, loc="upper right")
    harness.save_plot(folder, "balance", made)


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    for name in ("archive", "output", "nodes"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options)))
        return
    import archives

    harness.CACHE.mkdir(parents=True, exist_ok=True)
    videos = {"decode": 8, "model": 24} if options.quick else {"decode": 40, "model": 120}
    archive = archives.turning(seconds=10, first=videos["decode"], second=videos["model"])
    runs = []
    for nodes in NODES:
        with tempfile.TemporaryDirectory(dir=harness.CACHE) as output:
            command = harness.python("balance.py", "--child", "--archive", archive, "--output", f"{output}/tables",
                                     "--nodes", json.dumps(nodes))  # fmt: skip
            row = judged(harness.run(command).report, videos)
        said = ", ".join(f"{half} {found['all']:.2f} ({found['decode']:.2f} decoders, {found['model']:.2f} models)"
                         for half, found in row["halves"].items())  # fmt: skip
        print(f"{len(nodes)} node(s): cores in use: {said}; least in 5 s {row['least_share_in_5_seconds']:.2f}")
        runs.append(row)
    content = {"sampling": SAMPLING, "halves": HALVES, "videos": videos, "runs": runs}
    folder = harness.results_dir(options)
    harness.save(folder, "balance", content, quick=options.quick)
    plot(folder, content)


if __name__ == "__main__":
    main()
