"""Real videos on an S3 endpoint in; requests and bytes counted at that server, per object, out.

A run over an archive of files below and above 8 MiB and a tar shard, whose tables go to a local folder; and sparse
samples of long videos, read with `read_frames`.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import archives
import harness
import numpy as np
import ray_health
import s3_server
from archives import clip_path
from harness import InvalidRun

from vidbatch import decode

SMALL_BYTES = 8 * 2**20
ALLOWED_GETS = 2
SMALL = (
    "bikes.mp4", "bunny.mp4", "bunny_trailer.mp4", "carphone.mp4", "city.mpg", "concert.mkv", "concert.mp4",
    "concert.webm", "globe.mp4", "globe_5s.avi", "handheld.avi", "runners.mp4", "sintel_trailer.mp4",
)  # fmt: skip
LARGE = ("motorway.mp4", "bunny_whole.mp4")
IN_SHARD = ("bikes.mp4", "globe_5s.mp4", "runners.mp4")


class Sample(NamedTuple):
    """A sparse sample of a long video, and what share of its bytes may be sent for it."""

    what: str
    path: Callable[[], Path]
    sampling: str
    allowed_share: float | None


FILM, CLEAR = "10 minutes of 0.7 Mbit/s", "2 minutes of 8 Mbit/s"
SAMPLES = (
    Sample(f"{FILM}, GOPs of 10 s", lambda: clip_path("bunny_whole.mp4"), "count=8", 0.1),
    Sample(f"{CLEAR}, GOPs of 10 s", lambda: archives.even_gops(10), "keyframes", 0.2),
    Sample(f"{CLEAR}, GOPs of 2 s", lambda: archives.even_gops(2), "fps=0.1", 0.3),
    # Many keyframes lie less than a megabyte apart, in the film all: another request costs more than these bytes.
    Sample(f"{CLEAR}, GOPs of 2 s", lambda: archives.even_gops(2), "keyframes", None),
    Sample(f"{FILM}, GOPs of 10 s", lambda: clip_path("bunny_whole.mp4"), "keyframes", None),
)


def measure_samples(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Requests and bytes of each sample, whose frames are those of the local file."""
    rows = []
    with s3_server.running() as server:
        for sample in samples:
            content = sample.path().read_bytes()
            server.put("long.mp4", content)
            server.requests.clear()
            frames, times, report = decode.read_frames(f"s3://{s3_server.BUCKET}/long.mp4", sampling=sample.sampling)
            requests = [request for request in server.requests if request.key == "long.mp4"]
            local_frames, local_times, _ = decode.read_frames(sample.path(), sampling=sample.sampling)
            if not (np.array_equal(frames, local_frames) and np.array_equal(times, local_times)):
                raise InvalidRun(f"{sample.what}, {sample.sampling}: other frames than of the local file")
            share = sum(request.sent_bytes for request in requests) / len(content)
            rows.append(
                {
                    "what": sample.what,
                    "sampling": sample.sampling,
                    "frames": len(frames),
                    "size_bytes": len(content),
                    "gets": sum(request.method == "GET" for request in requests),
                    "share_sent": round(share, 4),
                    "share_counted_by_reader": round(report.read_bytes / len(content), 4),
                    "allowed_share": sample.allowed_share,
                    "reached": sample.allowed_share is None or share <= sample.allowed_share,
                }
            )
            print(f"{sample.what:<40} {sample.sampling:<10} {len(frames):>4} frames  {rows[-1]['gets']:>3} GET  "
                  f"{share:.3f} of its size sent, allowed: {sample.allowed_share or 'any'}")  # fmt: skip
    return rows


def fill(server: s3_server.Server, names: tuple[str, ...]) -> dict[str, int]:
    """Store the clips and a shard of three of them; sizes by key."""
    contents = {f"videos/{name}": clip_path(name).read_bytes() for name in names}
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        with tarfile.open(file.name, "w") as tar:
            for name in IN_SHARD:
                tar.add(clip_path(name), arcname=name)
        contents["videos/shard.tar"] = Path(file.name).read_bytes()
    for key, content in contents.items():
        server.put(key, content)
    return {key: len(content) for key, content in contents.items()}


def measure(names: tuple[str, ...]) -> dict[str, Any]:
    """One run over the archive; requests and bytes by key."""
    with s3_server.running() as server, tempfile.TemporaryDirectory(dir=harness.CACHE) as output:
        sizes = fill(server, names)
        server.requests.clear()
        command = harness.python(
            "contender_vidbatch.py", f"s3://{s3_server.BUCKET}/videos", f"{output}/tables",
        )  # fmt: skip
        usage = harness.run(command)
        requests = list(server.requests)
    report = usage.report
    if report["videos"] != len(names) + len(IN_SHARD) or report["failed"] or not ray_health.is_healthy(report):
        raise InvalidRun(str(report))
    methods = {key: Counter(r.method for r in requests if r.key == key) for key in sizes}
    sent = Counter({key: sum(r.sent_bytes for r in requests if r.key == key) for key in sizes})
    return {
        "objects": [
            {
                "key": key,
                "size_bytes": size,
                "gets": methods[key]["GET"],
                "heads": methods[key]["HEAD"],
                "bytes_sent_over_size": round(sent[key] / size, 3),
            }
            for key, size in sizes.items()
        ],
        "listing_requests": sum(not r.key and "list-type" in r.query for r in requests),
        "other_requests": len(requests) - sum(r.key in sizes for r in requests),
        "wall_seconds": round(usage.wall_seconds, 1),
    }


def main() -> None:
    options = harness.arguments(__doc__).parse_args()
    harness.CACHE.mkdir(parents=True, exist_ok=True)
    names = ("bikes.mp4", "bunny_trailer.mp4", "motorway.mp4") if options.quick else SMALL + LARGE
    measured = measure(names)
    files = [row for row in measured["objects"] if not row["key"].endswith(".tar")]
    most = max(row["gets"] for row in files if row["size_bytes"] <= SMALL_BYTES)
    samples = measure_samples(SAMPLES[:1] if options.quick else SAMPLES)
    content = {
        **measured,
        "samples": samples,
        "most_gets_of_a_small_object": most,
        "allowed_gets": ALLOWED_GETS,
        "reached": most <= ALLOWED_GETS and all(row["reached"] for row in samples),
    }
    harness.save(harness.results_dir(options), "s3_gets", content, quick=options.quick)
    for row in measured["objects"]:
        print(f"{row['key']:<32} {row['size_bytes']:>12,} bytes  {row['gets']} GET  {row['heads']} HEAD  "
              f"{row['bytes_sent_over_size']:.2f} of its size sent")  # fmt: skip
    print(f"at most {most} GETs for an object of at most 8 MiB, {ALLOWED_GETS} allowed")


if __name__ == "__main__":
    main()
