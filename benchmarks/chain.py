"""One archive through three programs in; their wall and CPU seconds, pair by pair, out: what the whole chain costs.

Contenders: vidbatch; two processes with PyAV and torch and no framework; a plain Ray Data program. Same files, same
network, same sampled frames. Each contender's settings are tried on a part of the archive and its best are kept.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import archives
import harness
import pyarrow.parquet as pq
import ray_health
from harness import InvalidRun, Usage

MODEL = "efficientnet-lite0"
PTS_TOLERANCE_SECONDS = 0.002
CONFIDENT_SCORE = 0.3
MIN_SAME_LABEL = 0.95
"""Programs resize with other filters, so that frames of which the model knows little may get another label. Of the
frames where the reference scores at least CONFIDENT_SCORE, this share must get the same one."""

Settings = dict[str, Any]
HALVES = {"read_cpus": 0.5, "model_cpus": 0.5, "write_cpus": 0.1}
TRIED: dict[str, list[Settings]] = {
    "vidbatch": [{}, {"decode_workers": 2, "model_workers": 2}],
    "two_process": [{"mode": "shared"}, {"mode": "split"}],
    "ray_data": [
        {},
        {**HALVES, "num_blocks": "one_per_file"},
        {**HALVES, "num_blocks": "one_per_file", "read_concurrency": 2},
        {**HALVES, "num_blocks": "one_per_file", "read_concurrency": 2, "model_threads": 2},
        {**HALVES, "num_blocks": "one_per_file", "read_concurrency": 2, "batch_size": 128},
    ],
}


class Frame(NamedTuple):
    """What a contender said of one sampled frame."""

    pts_seconds: float
    scores: dict[str, float]  # top-k, best first


def run(contender: str, archive: Path, settings: Settings) -> tuple[Usage, dict[str, list[Frame]]]:
    """Run a contender in a fresh process and read back what it wrote, by file name."""
    with tempfile.TemporaryDirectory(dir=harness.CACHE) as folder:
        output = Path(folder) / "tables"
        usage = harness.run(command(contender, archive, output, settings))
        frames = read_frames(contender, output)
        if "lost_workers" in usage.report and not ray_health.is_healthy(usage.report):
            raise InvalidRun(f"{contender}: {usage.report}")
        if usage.report.get("failed"):
            raise InvalidRun(f"{contender}: {usage.report['failed']} videos failed")
        return usage, frames


def command(contender: str, archive: Path, output: Path, settings: Settings) -> list[str]:
    """Command line of a contender."""
    if contender == "two_process":
        return harness.python("contender_two_process.py", archive, output, "--mode", settings["mode"])
    return harness.python(f"contender_{contender}.py", archive, output, "--settings", json.dumps(settings))


def read_frames(contender: str, output: Path) -> dict[str, list[Frame]]:
    """Sampled frames of each file, in order of time."""
    rows = pq.read_table(output / "frames").to_pylist()
    frames: dict[str, list[Frame]] = {}
    for row in rows:
        name = Path(row["path" if contender == "ray_data" else "url"]).name
        if contender == "ray_data":
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
    if not confident or sum(confident) < MIN_SAME_LABEL * len(confident):
        raise InvalidRun(f"only {sum(confident)} of {len(confident)} confident frames have the same label")
    return {
        "frames": len(is_same),
        "same_label": round(sum(same for _, same in is_same) / len(is_same), 4),
        "confident_frames": len(confident),
        "confident_same_label": round(sum(confident) / len(confident), 4),
    }


def tune(archive: Path, tried: Mapping[str, list[Settings]]) -> dict[str, Any]:
    """Run every setting once, verified against vidbatch's defaults; the fastest of each contender wins."""
    _, reference = run("vidbatch", archive, {})
    result: dict[str, Any] = {}
    for contender, choices in tried.items():
        rows = []
        for settings in choices:
            usage, frames = run(contender, archive, settings)
            agreement = compare(reference, frames)
            rows.append({"settings": settings, "wall_seconds": round(usage.wall_seconds, 2), **agreement})
            print(f"tried  {contender:<12} {usage.wall_seconds:7.2f} s  {settings}  {agreement}")
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


def plot(folder: Path, measured: Mapping[str, Any], title: str) -> None:
    made, axis = harness.figure(height=2.6)
    names = list(measured)
    for at, name in enumerate(names):
        wall = measured[name]["wall_seconds"]
        startup = measured[name]["startup_seconds"]
        axis.barh(at, startup, color="#9aa5b1", label="start-up" if at == 0 else None)
        axis.barh(at, wall["median"] - startup, left=startup, color="#2a6f97", label="work" if at == 0 else None)
        axis.errorbar(
            wall["median"], at, xerr=[[wall["median"] - wall["min"]], [wall["max"] - wall["median"]]], color="black"
        )
        axis.text(wall["max"], at, f"  {wall['median']:.0f} s", va="center")
    axis.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axis.invert_yaxis()
    axis.set_xlabel("wall seconds (median, min to max)")
    axis.set_title(title, loc="left", fontsize=10)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    harness.save_plot(folder, "chain", made)


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--copies", type=int, default=7, help="of each of the about 50 pieces of 15 s")
    options = parser.parse_args()
    harness.CACHE.mkdir(parents=True, exist_ok=True)
    folder = harness.results_dir(options)
    if options.quick:
        archive = archives.mixed(seconds=5, copies=1, max_pieces=1)
        part, rounds, startups = archive, options.rounds or 1, 1
        tried = {name: [choices[0]] for name, choices in TRIED.items()}
    else:
        archive = archives.mixed(seconds=15, copies=options.copies)
        # Long enough that start-up does not decide which settings look best.
        part, rounds, startups = archives.every_nth(archive, options.copies), options.rounds or 3, 2
        tried = TRIED
    tuned = tune(part, tried)
    best = {name: found["best"] for name, found in tuned.items()}
    one = archives.first(archive, 1)
    alone = harness.in_turn({name: (lambda name=name: run(name, one, best[name])[0]) for name in best}, startups)
    startup_seconds = {name: statistics.median(u.wall_seconds for u in runs) for name, runs in alone.items()}
    usages = measure(archive, best, rounds)
    measured = summary(usages, startup_seconds)
    files = sorted(archive.iterdir())
    about = {
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "what": archive.name,
        "sampling": "fps=1",
        "model": MODEL,
        "startup": "wall seconds of a run over one video",
    }
    harness.save(folder, "chain", {"archive": about, "settings": tuned, "contenders": measured}, quick=options.quick)
    plot(folder, measured, f"The same {len(files)} videos labelled by three programs")
    for name, row in measured.items():
        print(f"{name:<12} {row['wall_seconds']['median']:8.2f} s wall, {row['cpu_seconds']['median']:8.2f} s CPU, "
              f"{row['wall_seconds_without_startup']['median']:8.2f} s without start-up, "
              f"{row.get('wall_over_vidbatch', {}).get('median', 1):.3f} of vidbatch's wall")  # fmt: skip


if __name__ == "__main__":
    main()
