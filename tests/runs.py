"""Whole runs to be disturbed: an archive of short and long videos and a bad one, the command, the tables to compare."""

from __future__ import annotations

import io
import math
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vidbatch import storage
from vidbatch.stamp import make_stamp_bundle
from vidbatch.testing import make_video

VIDBATCH = [sys.executable, "-c", "from vidbatch.cli import main; main()"]
Rows = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def heed_ctrl_c() -> None:
    """For a process that is to be stopped: all that a shell has started in the background ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def fill(folder: Path, num_videos: int) -> None:
    """Videos (the long ones are cut into clips), a bad one, a model, settings that stage at once."""
    (folder / "archive").mkdir()
    for number in range(num_videos):
        frames = 240 if number % 6 == 0 else 60
        make_video(folder / "archive" / f"video-{number:02d}.mp4", num_frames=frames, fps=10, gop=20,
                   video_number=number)  # fmt: skip
    (folder / "archive" / "bad.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(1000))
    make_stamp_bundle(folder / "model", num_classes=num_videos)
    (folder / "settings.yaml").write_text(
        f"inputs: [{folder / 'archive'}]\nmodel: file:{folder / 'model'}\nsampling: fps=5\n"
        "stage_seconds: 0.2\nclip_seconds: 6\nlong_video_mb: 0\nmax_failed_share: 0.5\n"
    )


def command(folder: Path, output: Path, dies_at: tuple[str, ...] | None = None) -> list[str]:
    """The run; given what points.die_at takes (a crash point and a moment), one that dies there."""
    python = VIDBATCH
    if dies_at is not None:
        python = [sys.executable, "-c", f"import points; points.die_at(*{dies_at!r}); {VIDBATCH[-1]}"]
    return [*python, "label", "--config", str(folder / "settings.yaml"), "--output", str(output)]


def rows(output: Path | str) -> Rows:
    """Both tables of a folder or S3 prefix without what names the run, in a fixed order."""
    tables = []
    for name in ("videos", "frames"):
        files = [url for url in storage.list_files(storage.join(str(output), name)) if url.endswith(".parquet")]
        found = [row for url in files for row in pq.read_table(io.BytesIO(storage.read_bytes(url))).to_pylist()]
        for row in found:
            row.pop("run_id"), row.pop("finished_at", None)
        tables.append(sorted(found, key=lambda r: (r["url"], r["member"] or "", r.get("frame_index", 0))))
    return tables[0], tables[1]


def _is_same(one: Any, other: Any) -> bool:
    """Equal, where scores may differ as those of a video do that was cut into clips and of one that was not.

    Where the planner could not read a long video it is not cut, so that a fault may show in the last digit of a mean.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            math.isclose(one[name], other[name], abs_tol=1e-5)
            if name == "score" and None not in (one[name], other[name])
            else _is_same(one[name], other[name])
            for name in one
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return bool(one == other)


def differences(clean: Rows, found: Rows) -> dict[str, int]:
    """How many rows are missing, there twice, or other than they should be."""
    result = {"lost": 0, "doubled": 0, "wrong": 0}
    for wanted, given in zip(clean, found, strict=True):
        expected = {(row["url"], row["member"], row.get("frame_index")): row for row in wanted}
        seen: set[Any] = set()
        for row in given:
            key = row["url"], row["member"], row.get("frame_index")
            result["doubled"] += key in seen
            result["wrong"] += key not in expected or not _is_same(expected[key], row)
            seen.add(key)
        result["lost"] += len(expected.keys() - seen)
    return result
