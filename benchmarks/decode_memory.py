"""A two-hour 1080p file through a real `label` run in; peak unique memory of the decode workers out.

A decode worker is the actor and the child process it decodes in. Its figure is the sum of both processes' peaks:
no moment can have been above it. The file is a real trailer at 1920x1080, repeated by stream copy.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import archives
import harness
import psutil
import ray_health
from harness import InvalidRun

ALLOWED_MB = 400.0
FULL_SECONDS, QUICK_SECONDS = 7200, 20


def group_of(process: psutil.Process) -> str | None:
    """`decode_actor`, `decode_child` or `model_actor`; None for all other processes."""
    line = " ".join(process.cmdline())
    if "MapBatches(Decoder)" in line:
        return "decode_actor"
    if "vidbatch.decoding.isolation" in line:
        return "decode_child"
    if "MapBatches(Classif" in line:
        return "model_actor"
    return None


def measure(video: Path, seconds: int, settings: str) -> dict[str, Any]:
    """One run over the file, every second of it looked at."""
    with tempfile.TemporaryDirectory(dir=harness.CACHE) as output:
        command = harness.python("contender_vidbatch.py", video, f"{output}/tables", "--settings", settings)
        usage = harness.run(command, watch=group_of)
    report = usage.report
    # A stream copy ends with the packet it ends with: a second more or less.
    if report["failed"] or abs(report["frames"] - seconds) > 1 or not ray_health.is_healthy(report):
        raise InvalidRun(str(report))
    missing = {"decode_actor", "decode_child"} - usage.peak_uss_mb.keys()
    if missing:
        raise InvalidRun(f"no process was seen as {missing}")
    uss = {name: round(peak, 1) for name, peak in usage.peak_uss_mb.items()}
    return {
        "peak_uss_mb": uss,
        "peak_rss_mb": {name: round(peak, 1) for name, peak in usage.peak_rss_mb.items()},
        "decode_worker_peak_uss_mb": round(uss["decode_actor"] + uss["decode_child"], 1),
        "wall_seconds": round(usage.wall_seconds, 1),
        "frames_sampled": report["frames"],
        "stages": report["stages"],
        "pools": report["pools"],
        "spilled_bytes": report["spilled_bytes"],
    }


def plot(folder: Path, measured: dict[str, Any]) -> None:
    made, axis = harness.figure(width=6.0, height=1.8)
    peaks = measured["peak_uss_mb"]
    axis.barh(0, peaks["decode_actor"], color="#9aa5b1", label="actor (Ray worker)")
    axis.barh(0, peaks["decode_child"], left=peaks["decode_actor"], color="#2a6f97", label="its decoding child")
    axis.axvline(ALLOWED_MB, color="#bc4749", linestyle="--")
    axis.text(ALLOWED_MB, 0, " allowed", color="#bc4749", va="center")
    axis.set_xlim(0, ALLOWED_MB * 1.3)
    axis.set_yticks([])
    axis.set_xlabel("peak unique MB")
    axis.set_title("One decode worker on a long 1080p file", loc="left", fontsize=10)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    harness.save_plot(folder, "decode_memory", made)


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--seconds", type=int, help="length of the file")
    options = parser.parse_args()
    seconds = options.seconds or (QUICK_SECONDS if options.quick else FULL_SECONDS)
    video = archives.long_1080p(seconds)
    measured = measure(video, seconds, '{"clip_seconds": 10}' if options.quick else "{}")
    content = {
        "video": {"seconds": seconds, "bytes": video.stat().st_size, "size": "1920x1080", "codec": "h264"},
        "sampling": "fps=1",
        **measured,
        "allowed_mb": ALLOWED_MB,
        "reached": measured["decode_worker_peak_uss_mb"] <= ALLOWED_MB,
    }
    folder = harness.results_dir(options)
    harness.save(folder, "decode_memory", content, quick=options.quick)
    plot(folder, measured)
    print(f"decode worker {measured['decode_worker_peak_uss_mb']} MB unique of {ALLOWED_MB} allowed: {measured}")


if __name__ == "__main__":
    main()
