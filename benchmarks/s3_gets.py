"""Real videos on an S3 endpoint in; requests counted at that server, per object, out.

The archive holds files below and above 8 MiB and a tar shard; the tables go to a local folder.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import harness
import ray_health
import s3_server
from archives import clip_path
from harness import InvalidRun

SMALL_BYTES = 8 * 2**20
ALLOWED_GETS = 2
SMALL = (
    "bikes.mp4", "bunny.mp4", "bunny_trailer.mp4", "carphone.mp4", "city.mpg", "concert.mkv", "concert.mp4",
    "concert.webm", "globe.mp4", "globe_5s.avi", "handheld.avi", "runners.mp4", "sintel_trailer.mp4",
)  # fmt: skip
LARGE = ("motorway.mp4", "bunny_whole.mp4")
IN_SHARD = ("bikes.mp4", "globe_5s.mp4", "runners.mp4")


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
    content = {
        **measured,
        "most_gets_of_a_small_object": most,
        "allowed_gets": ALLOWED_GETS,
        "reached": most <= ALLOWED_GETS,
    }
    harness.save(harness.results_dir(options), "s3_gets", content, quick=options.quick)
    for row in measured["objects"]:
        print(f"{row['key']:<32} {row['size_bytes']:>12,} bytes  {row['gets']} GET  {row['heads']} HEAD  "
              f"{row['bytes_sent_over_size']:.2f} of its size sent")  # fmt: skip
    print(f"at most {most} GETs for an object of at most 8 MiB, {ALLOWED_GETS} allowed")


if __name__ == "__main__":
    main()
