"""Whole runs to be disturbed: an archive of short and long videos and a bad one, the command, the tables to compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vidbatch.stamp import make_stamp_bundle
from vidbatch.testing import make_video

VIDBATCH = [sys.executable, "-c", "from vidbatch.cli import main; main()"]
Rows = tuple[list[dict[str, Any]], list[dict[str, Any]]]


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


def command(folder: Path, output: Path, dies_at: tuple[str, str] | None = None) -> list[str]:
    """The run; given a crash point and a moment (points.py), one that dies there."""
    python = VIDBATCH
    if dies_at is not None:
        python = [sys.executable, "-c", f"import points; points.die_at(*{dies_at!r}); {VIDBATCH[-1]}"]
    return [*python, "label", "--config", str(folder / "settings.yaml"), "--output", str(output)]


def rows(output: Path) -> Rows:
    """Both tables without what names the run, in a fixed order."""
    tables = []
    for name in ("videos", "frames"):
        found = [r for f in sorted((output / name).glob("*.parquet")) for r in pq.read_table(f).to_pylist()]
        for row in found:
            row.pop("run_id"), row.pop("finished_at", None)
        tables.append(sorted(found, key=lambda r: (r["url"], r.get("frame_index", 0))))
    return tables[0], tables[1]


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
