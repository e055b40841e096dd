"""Archives of 1,000 to 100,000 objects in; peak memory of the driver process while it lists and labels them, out.

list:   every pending video of a local folder and of an S3 prefix, as `label` and `plan` iterate over them
label:  a whole run over objects that fail at once (by turns empty and not a video), to the published rows
again:  the same command once more: nothing to do
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import archives
import harness
import psutil
import ray_health
from harness import InvalidRun, Usage

ALLOWED_GROWTH_MB = 100.0


def child(mode: str, source: str, output: str) -> dict[str, Any]:
    """What the measured process does."""
    from vidbatch.config import LabelConfig

    config = LabelConfig(inputs=(source,), output=output, max_failed_share=1.0)
    started = time.perf_counter()
    if mode == "list":
        from vidbatch.source import DoneVideos, iter_pending

        count = sum(1 for _ in iter_pending(config, DoneVideos([])))
        return {"videos": count, "seconds": time.perf_counter() - started}
    if mode == "again":
        from vidbatch.pipeline import label

        result = label(config)
        if result.record.state != "nothing_to_do" or "ray" in sys.modules:
            raise InvalidRun(f"a second run was {result.record.state}")
        return {"videos": result.videos.to_dataset().count_rows(), "seconds": time.perf_counter() - started}
    return {**_label(config), "seconds": time.perf_counter() - started}


def _label(config: Any) -> dict[str, Any]:
    import ray

    from vidbatch.pipeline import label

    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    record = label(config).record
    health = ray_health.report()
    ray.shutdown()
    return {
        "videos": record.videos,
        "by_error_kind": record.by_error_kind,
        "wall_seconds": record.wall_seconds,
        **health,
    }


def measure(mode: str, source: str, output: str, count: int) -> dict[str, Any]:
    """One measured process; InvalidRun unless it saw exactly the objects that are there."""
    command = harness.python("listing.py", "--child", mode, source, output)
    sample_seconds = harness.SAMPLE_SECONDS if mode == "label" else 0.02  # listing alone is over in no time
    usage = harness.run(command, watch=_is_driver, sample_seconds=sample_seconds)
    if usage.report["videos"] != count:
        raise InvalidRun(f"{usage.report['videos']} of {count} objects")
    if mode == "label":
        expected = {"not_a_video": (count + 1) // 2, "empty": count // 2}
        if usage.report["by_error_kind"] != expected or not ray_health.is_healthy(usage.report):
            raise InvalidRun(str(usage.report))
    return _row(usage, count)


def _is_driver(process: psutil.Process) -> str | None:
    return "driver" if process.ppid() == os.getpid() and "--child" in process.cmdline() else None


def _row(usage: Usage, count: int) -> dict[str, Any]:
    seconds = usage.report["seconds"]
    return {
        "objects": count,
        "driver_peak_uss_mb": round(usage.peak_uss_mb["driver"], 1),
        "driver_peak_rss_mb": round(usage.report["peak_rss_mb"], 1),
        "seconds": round(seconds, 2),
        "objects_per_second": round(count / seconds),
        "wall_seconds": round(usage.wall_seconds, 2),
        "spilled_bytes": usage.report.get("spilled_bytes", 0),
    }


@contextmanager
def s3_archive(count: int) -> Iterator[str]:
    """An S3 prefix with `count` empty objects in prefixes of 1,000."""
    import s3_server

    with s3_server.running() as server:
        for number in range(count):
            server.put(f"videos/{number // 1000:04d}/{number:07d}.mp4", b"")
        yield f"s3://{s3_server.BUCKET}/videos"


def growth(rows: list[dict[str, Any]]) -> float:
    """MB that the peak unique memory grew from the smallest to the largest archive."""
    return float(rows[-1]["driver_peak_uss_mb"] - rows[0]["driver_peak_uss_mb"])


def plot(folder: Path, measured: dict[str, list[dict[str, Any]]]) -> None:
    made, axis = harness.figure(width=6.0, height=3.2)
    for name, rows in measured.items():
        axis.plot(
            [row["objects"] for row in rows],
            [row["driver_peak_uss_mb"] for row in rows],
            marker="o",
            label=name.replace("_", " "),
        )
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("objects in the archive")
    axis.set_ylabel("driver peak, unique MB")
    axis.set_title("Memory of the driver against the size of the archive", loc="left", fontsize=10)
    axis.legend(frameon=False, fontsize=8)
    harness.save_plot(folder, "listing", made)


def measure_all(sizes: list[int], say: Callable[[str], None] = print) -> dict[str, list[dict[str, Any]]]:
    """Rows by what was measured, smallest archive first."""
    measured: dict[str, list[dict[str, Any]]] = {}

    def keep(name: str, row: dict[str, Any]) -> None:
        measured.setdefault(name, []).append(row)
        say(f"{name:<10} {row}")

    for count in sizes:
        folder = str(archives.hopeless(count))
        with tempfile.TemporaryDirectory(dir=harness.CACHE) as output:
            keep("list_local", measure("list", folder, f"{output}/unused", count))
            with s3_archive(count) as url:
                keep("list_s3", measure("list", url, f"{output}/unused", count))
            keep("label", measure("label", folder, f"{output}/tables", count))
            keep("again", measure("again", folder, f"{output}/tables", count))
    return measured


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--child", nargs=3, metavar=("MODE", "SOURCE", "OUTPUT"), help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="+", help="objects in the archives, ascending")
    options = parser.parse_args()
    if options.child:
        report = child(*options.child)
        peak_rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        print(json.dumps({**report, "peak_rss_mb": peak_rss_mb}))
        return
    harness.CACHE.mkdir(parents=True, exist_ok=True)
    sizes = options.sizes or ([200, 400] if options.quick else [1_000, 10_000, 100_000])
    measured = measure_all(sizes)
    growths = {name: round(growth(rows), 1) for name, rows in measured.items()}
    spilled = sum(row["spilled_bytes"] for rows in measured.values() for row in rows)
    content = {
        "measured": measured,
        "growth_mb": growths,
        "allowed_growth_mb": ALLOWED_GROWTH_MB,
        "spilled_bytes": spilled,
        "reached": max(growths.values()) <= ALLOWED_GROWTH_MB and spilled == 0,
    }
    folder = harness.results_dir(options)
    harness.save(folder, "listing", content, quick=options.quick)
    plot(folder, measured)
    print(f"growth {growths} MB, allowed {ALLOWED_GROWTH_MB}; spilled {spilled} bytes; reached: {content['reached']}")


if __name__ == "__main__":
    main()
