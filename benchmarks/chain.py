"""Archives through several programs in; their wall and CPU seconds, pair by pair, out: what the whole chain costs.

Contenders: vidbatch; two processes with PyAV and torch and no framework; a plain Ray Data program; a plain Daft program
(in .venv-peers, left out without it). Same files, same network, same sampled frames. Each contender's settings are
tried on a part of the archive and its best are kept.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import archives
import harness
import numpy as np
import pyarrow.parquet as pq
import ray_health
from harness import InvalidRun, Usage

MODEL = "efficientnet-lite0"
PTS_TOLERANCE_SECONDS = 0.002
CONFIDENT_SCORE = 0.3
MIN_SAME_LABEL = 0.9
"""Programs resize with other filters, so that frames of which the model knows little may get another label. Of the
frames where the reference scores at least CONFIDENT_SCORE, this share, rounded down, must get the same one."""

Settings = dict[str, Any]
ONE_PER_FILE = {"read_cpus": 0.5, "model_cpus": 0.5, "write_cpus": 0.1, "num_blocks": "one_per_file"}


class Load(NamedTuple):
    """An archive, how it is sampled, and the settings that each contender may choose from."""

    name: str
    what: str
    sampling: str
    archive: Path
    part: Path
    """What settings are tried on: long enough that start-up does not decide which look best."""
    tried: dict[str, list[Settings]]


def loads(*, quick: bool) -> list[Load]:
    """All loads, their archives made."""
    if quick:
        mixed = mixed_part = archives.mixed(seconds=5, copies=1, max_pieces=1)
        long_gops = long_part = archives.long_gops(seconds=6, copies=1, max_pieces=1)
    else:
        mixed = archives.mixed(seconds=15, copies=2)
        mixed_part = archives.every_nth(mixed, 2)
        long_gops = archives.long_gops(seconds=20, copies=2)
        long_part = archives.every_nth(long_gops, 2)
    ours: list[Settings] = [{}, {"decode_workers": 2, "model_workers": 2}]
    two_process: list[Settings] = [{"mode": "shared"}, {"mode": "split"}]
    ray_data: list[Settings] = [
        ONE_PER_FILE | {"read_concurrency": 2},
        ONE_PER_FILE | {"read_concurrency": 2, "model_threads": 2},
        ONE_PER_FILE | {"read_concurrency": 2, "batch_size": 128},
        {},
    ]
    daft: list[Settings] = [{}, {"model_threads": 2}, {"use_process": True}, {"batch_size": 8}]
    sparse = [
        Load(
            f"long_gops_{interval}s",
            "720p, GOPs of 250 with B-frames",
            sampling,
            long_gops,
            long_part,
            {
                "vidbatch": [settings | {"sampling": sampling} for settings in ours],
                "ray_data": [settings | {"interval_seconds": interval} for settings in ray_data],
                "daft": [settings | {"interval_seconds": interval} for settings in daft],
            },
        )
        for sampling, interval in (("fps=1", 1), ("fps=0.2", 5))
    ]
    tried = {"vidbatch": ours, "two_process": two_process, "ray_data": ray_data}
    return [*sparse, Load("mixed", "270p to 720p, default GOPs", "fps=1", mixed, mixed_part, tried)]


class Frame(NamedTuple):
    """What a contender said of one sampled frame."""

    pts_seconds: float
    scores: dict[str, float]  # top-k, best first


def run(contender: str, archive: Path, settings: Settings) -> tuple[Usage, dict[str, list[Frame]]]:
    """Run a contender in a fresh process and read back what it wrote, by file name."""
    with tempfile.TemporaryDirectory(dir=harness.CACHE) as folder:
        output = Path(folder) / "tables"
        usage = harness.run(command(contender, archive, output, settings))
        frames = read_frames(output)
        if "lost_workers" in usage.report and not ray_health.is_healthy(usage.report):
            raise InvalidRun(f"{contender}: {usage.report}")
        if usage.report.get("failed"):
            raise InvalidRun(f"{contender}: {usage.report['failed']} videos failed")
        return usage, frames


def command(contender: str, archive: Path, output: Path, settings: Settings) -> list[str]:
    """Command line of a contender."""
    if contender == "two_process":
        return harness.python("contender_two_process.py", archive, output, "--mode", settings["mode"])
    arguments = harness.python(f"contender_{contender}.py", archive, output, "--settings", json.dumps(settings))
    return [str(harness.PEERS_PYTHON), *arguments[1:]] if contender == "daft" else arguments


def read_frames(output: Path) -> dict[str, list[Frame]]:
    """Sampled frames of each file, in order of time."""
    rows = pq.read_table(output / "frames").to_pylist()
    frames: dict[str, list[Frame]] = {}
    for row in rows:
        name = Path(row.get("url") or row["path"]).name
        if "top_k_labels" in row:
            scores = dict(zip(row["top_k_labels"], row["top_k_scores"], strict=True))
        else:
            scores = {entry["label"]: entry["score"] for entry in row["top_k"]}
        frames.setdefault(name, []).append(Frame(row["pts_seconds"], scores))
    return {name: sorted(found) for name, found in frames.items()}


def compare(reference: Mapping[str, list[Frame]], other: Mapping[str, list[Frame]]) -> dict[str, Any]:
    """How alike two results are; InvalidRun when they are not results of the same work."""
    if reference.keys() != other.keys():
        raise InvalidRun(f"other videos: {sorted(reference.keys() ^ other.keys())[:5]}")
    is_same: list[tuple[bool, bool]] = []  # is the reference confident, is the label the same
    for name, frames in reference.items():
        theirs = other[name]
        if len(frames) != len(theirs):
            raise InvalidRun(f"{name}: {len(frames)} and {len(theirs)} frames")
        for a, b in zip(frames, theirs, strict=True):
            if abs(a.pts_seconds - b.pts_seconds) > PTS_TOLERANCE_SECONDS:
                raise InvalidRun(f"{name}: frames at {a.pts_seconds} s and {b.pts_seconds} s")
            label, score = next(iter(a.scores.items()))
            is_same.append((score >= CONFIDENT_SCORE, label == next(iter(b.scores))))
    confident = [same for is_confident, same in is_same if is_confident]
    if not confident or sum(confident) < math.floor(MIN_SAME_LABEL * len(confident)):
        raise InvalidRun(f"only {sum(confident)} of {len(confident)} confident frames have the same label")
    return {
        "frames": len(is_same),
        "same_label": round(sum(same for _, same in is_same) / len(is_same), 4),
        "confident_frames": len(confident),
        "confident_same_label": round(sum(confident) / len(confident), 4),
    }


def tune(load: Load) -> dict[str, Any]:
    """Run every setting once, verified against vidbatch's first; the fastest of each contender wins."""
    _, reference = run("vidbatch", load.part, load.tried["vidbatch"][0])
    result: dict[str, Any] = {}
    for contender, choices in load.tried.items():
        rows = []
        for settings in choices:
            usage, frames = run(contender, load.part, settings)
            agreement = compare(reference, frames)
            rows.append({"settings": settings, "wall_seconds": round(usage.wall_seconds, 2), **agreement})
            print(f"tried  {contender:<12} {usage.wall_seconds:7.2f} s  {settings}  {agreement}", flush=True)
        best = min(rows, key=lambda row: float(row["wall_seconds"]))
        result[contender] = {"best": best["settings"], "tried": rows}
    return result


def measure(archive: Path, best: Mapping[str, Settings], rounds: int) -> dict[str, list[Usage]]:
    """Runs in turn, each compared with the first of vidbatch."""
    reference: dict[str, list[Frame]] = {}

    def contender(name: str) -> Callable[[], Usage]:
        def once() -> Usage:
            usage, frames = run(name, archive, best[name])
            if not reference:
                reference.update(frames)
            compare(reference, frames)
            return usage

        return once

    return harness.in_turn({name: contender(name) for name in best}, rounds)


def summary(usages: Mapping[str, list[Usage]], startup_seconds: Mapping[str, float]) -> dict[str, Any]:
    """Wall and CPU of every contender, and vidbatch's ratio to each other one: with and without start-up."""
    result: dict[str, Any] = {}
    ours = [usage.wall_seconds for usage in usages["vidbatch"]]
    ours_work = [wall - startup_seconds["vidbatch"] for wall in ours]
    for name, runs in usages.items():
        walls = [usage.wall_seconds for usage in runs]
        works = [wall - startup_seconds[name] for wall in walls]
        result[name] = {
            "wall_seconds": harness.spread(walls, 2),
            "cpu_seconds": harness.spread([usage.cpu_seconds for usage in runs], 2),
            "startup_seconds": round(startup_seconds[name], 2),
            "wall_seconds_without_startup": harness.spread(works, 2),
            "report_of_last": runs[-1].report,
        }
        if name != "vidbatch":
            # Above 1: that many times vidbatch's wall time, so vidbatch is faster.
            result[name]["wall_over_vidbatch"] = harness.ratio(walls, ours)
            result[name]["wall_over_vidbatch_without_startup"] = harness.ratio(works, ours_work)
            result[name]["vidbatch_over_wall"] = harness.ratio(ours, walls)
            result[name]["vidbatch_over_wall_without_startup"] = harness.ratio(ours_work, works)
    return result


def plot(folder: Path, measured: Sequence[Mapping[str, Any]]) -> None:
    made, axes = harness.figure(height=1.9 * len(measured), rows=len(measured))
    for load, axis in zip(measured, np.ravel(axes), strict=True):
        contenders = load["contenders"]
        for at, row in enumerate(contenders.values()):
            wall, startup = row["wall_seconds"], row["startup_seconds"]
            axis.barh(at, startup, color="#9aa5b1", label="start-up" if at == 0 else None)
            axis.barh(at, wall["median"] - startup, left=startup, color="#2a6f97", label="work" if at == 0 else None)
            axis.errorbar(
                wall["median"], at, xerr=[[wall["median"] - wall["min"]], [wall["max"] - wall["median"]]], color="black"
            )
            axis.text(wall["max"], at, f"  {wall['median']:.0f} s", va="center")
        axis.set_yticks(range(len(contenders)), [name.replace("_", " ") for name in contenders])
        axis.invert_yaxis()
        archive = load["archive"]
        title = f"{archive['files']} videos, {archive['what']}: {archive['sampling']}"
        axis.set_title(title, loc="left", fontsize=10)
    axis.set_xlabel("wall seconds (median, min to max)")
    np.ravel(axes)[0].legend(frameon=False, fontsize=8, loc="lower right")
    harness.save_plot(folder, "chain", made)


def of_load(load: Load, rounds: int, startups: int) -> dict[str, Any]:
    """Everything about one load: settings tried, and all contenders measured."""
    print(f"{load.name}: {load.what}, {load.sampling}", flush=True)
    tuned = tune(load)
    best = {name: found["best"] for name, found in tuned.items()}
    one = archives.first(load.archive, 1)
    alone = harness.in_turn({name: (lambda name=name: run(name, one, best[name])[0]) for name in best}, startups)
    startup_seconds = {name: statistics.median(u.wall_seconds for u in runs) for name, runs in alone.items()}
    measured = summary(measure(load.archive, best, rounds), startup_seconds)
    for name, row in measured.items():
        print(f"{name:<12} {row['wall_seconds']['median']:8.2f} s wall, {row['cpu_seconds']['median']:8.2f} s CPU, "
              f"{row['wall_seconds_without_startup']['median']:8.2f} s without start-up, "
              f"{row.get('wall_over_vidbatch_without_startup', {}).get('median', 1):.3f} of vidbatch's",
              flush=True)  # fmt: skip
    files = list(load.archive.iterdir())
    about = {
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "name": load.archive.name,
        "what": load.what,
        "sampling": load.sampling,
        "model": MODEL,
        "startup": "wall seconds of a run over one video",
    }
    return {"name": load.name, "archive": about, "settings": tuned, "contenders": measured}


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=None)
    options = parser.parse_args()
    harness.CACHE.mkdir(parents=True, exist_ok=True)
    folder = harness.results_dir(options)
    rounds, startups = (options.rounds or 1, 1) if options.quick else (options.rounds or 3, 2)
    measured = []
    for load in loads(quick=options.quick):
        tried = {name: choices[: 1 if options.quick else None] for name, choices in load.tried.items()}
        if not harness.PEERS_PYTHON.exists():
            tried.pop("daft", None)
        measured.append(of_load(load._replace(tried=tried), rounds, startups))
        harness.save(folder, "chain", {"loads": measured}, quick=options.quick)  # an hour's work: kept as it comes
    plot(folder, measured)


if __name__ == "__main__":
    main()
