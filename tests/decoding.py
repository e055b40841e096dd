"""Help for tests of decoding: rows of clips, the chain's tables taken apart, and what ffprobe says of a file."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vidbatch import schema
from vidbatch.config import LabelConfig
from vidbatch.schema import FrameSpec
from vidbatch.testing import make_video, read_stamp

SPEC = FrameSpec(224, 224)
SMALL = FrameSpec(64, 64, 0.875, "bilinear")

# codec, suffix, options of make_video: the containers and codecs that the README promises.
VIDEOS: list[tuple[str, str, dict[str, Any]]] = [
    ("libx264", "mp4", {"b_frames": 2}),
    ("libx264", "mov", {"b_frames": 2}),
    ("libx264", "mkv", {"b_frames": 2}),
    ("libx264", "avi", {"b_frames": 2}),
    ("libx264", "ts", {"b_frames": 2}),
    ("libx264", "flv", {"b_frames": 2}),
    ("libx265", "mp4", {"b_frames": 2}),
    ("libx265", "mkv", {"b_frames": 2}),
    ("libx265", "ts", {"b_frames": 2}),
    ("libvpx", "webm", {}),
    ("libvpx-vp9", "webm", {}),
    ("libvpx-vp9", "mp4", {}),
    ("libsvtav1", "mp4", {}),
    ("libsvtav1", "webm", {}),
    ("mpeg2video", "ts", {"b_frames": 2}),
    ("mpeg2video", "mpg", {"b_frames": 2}),
    ("mpeg2video", "mkv", {"b_frames": 2}),
    ("mpeg4", "avi", {}),
    ("mpeg4", "mp4", {"b_frames": 2}),
    ("mjpeg", "avi", {"pix_fmt": "yuvj420p"}),
    ("mjpeg", "mov", {"pix_fmt": "yuvj420p"}),
    ("flv", "flv", {}),
    ("prores_ks", "mov", {"pix_fmt": "yuv422p10le"}),
]
VIDEO_NAMES = [f"{codec}.{suffix}" for codec, suffix, _ in VIDEOS]

OPEN_GOP: list[tuple[str, str, dict[str, Any]]] = [
    (codec, suffix, {"b_frames": 3, "options": {f"{codec[3:]}-params": f"{quiet}open-gop=1:keyint=25:scenecut=0"}})
    for codec, quiet in (("libx264", ""), ("libx265", "log-level=none:"))
    for suffix in ("mp4", "mkv", "ts")
]
OPEN_GOP_NAMES = [f"{codec}-open-gop.{suffix}" for codec, suffix, _ in OPEN_GOP]


def video_file(folder: Path, codec: str, suffix: str, options: dict[str, Any], **more: Any) -> Path:
    path = folder / f"video.{suffix}"
    make_video(path, codec=codec, **{**options, **more})
    return path


def config(**settings: Any) -> LabelConfig:
    return LabelConfig(inputs=("unused",), output="unused", **settings)


def clip_row(path: Path | str, **columns: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(column.name for column in schema.CLIP)
    url = f"file://{path}"
    return row | {
        "video_id": f"{abs(hash(url)):032x}"[:32],
        "url": url,
        "content_version": "1",
        "source": str(path),
        "clip_index": 0,
        "num_clips": 1,
        **columns,
    }


def work(*packs: list[dict[str, Any]]) -> pa.Table:
    return pa.table({"clips": pa.array(packs, schema.WORK.field("clips").type)}, schema=schema.WORK)


@dataclass
class Decoded:
    """All chunks of one clip put together."""

    frames: np.ndarray[Any, Any]
    pts_seconds: list[float]
    is_keyframe: list[bool]
    last: dict[str, Any]
    rows: list[dict[str, Any]] = field(repr=False, default_factory=list)

    @property
    def error_kind(self) -> str | None:
        kind: str | None = self.last["error_kind"]
        return kind

    @property
    def stamps(self) -> list[int]:
        return [read_stamp(frame)[1] for frame in self.frames]


def together(tables: Iterable[pa.Table], spec: FrameSpec) -> list[Decoded]:
    """Each clip's chunks joined, with what the schema promises of them checked."""
    clips: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for table in tables:
        assert table.schema.equals(schema.PIXELS)
        for row in table.to_pylist():
            assert len(row["frames"]) == row["num_frames"] * spec.frame_bytes <= 16 * 2**20
            assert len(row["pts_seconds"]) == len(row["is_keyframe"]) == row["num_frames"]
            clips.setdefault((row["url"], row["clip_index"]), []).append(row)
    return [_joined(rows, spec) for rows in clips.values()]


def _joined(rows: list[dict[str, Any]], spec: FrameSpec) -> Decoded:
    assert [row["chunk_index"] for row in rows] == list(range(len(rows)))
    assert [row["is_last_chunk"] for row in rows] == [False] * (len(rows) - 1) + [True]
    assert all(row["codec"] is row["error_kind"] is row["decode_cpu_seconds"] is None for row in rows[:-1])
    pixels = b"".join(row["frames"] for row in rows)
    return Decoded(
        frames=np.frombuffer(pixels, np.uint8).reshape(-1, spec.height, spec.width, 3),
        pts_seconds=[t for row in rows for t in row["pts_seconds"]],
        is_keyframe=[k for row in rows for k in row["is_keyframe"]],
        last=rows[-1],
        rows=rows,
    )


def ffprobe_times(path: Path) -> list[Fraction]:
    """When each frame is shown, in seconds and order, by another version of FFmpeg than the one under test."""
    entries = "stream=time_base:frame=best_effort_timestamp"
    command = ["ffprobe", "-v", "error", "-threads", "1", "-select_streams", "v:0", "-show_entries", entries]
    output = subprocess.run([*command, "-of", "flat", str(path)], capture_output=True, text=True, check=True).stdout
    facts = [line.split("=", 1) for line in output.splitlines() if "=" in line]
    base = next(Fraction(value.strip('"')) for name, value in facts if name.endswith("time_base"))
    ticks = [value for name, value in facts if name.endswith("best_effort_timestamp")]
    return [int(tick) * base for tick in ticks if tick != '"N/A"']
