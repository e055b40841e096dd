"""Help for tests of decoding: rows of clips, the chain's tables taken apart, and what ffprobe says of a file."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

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
            assert len(row["frames"]) == row["num_frames"] * spec.height * spec.width * 3 <= 16 * 2**20
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


class Truth(NamedTuple):
    """What another version of FFmpeg than the one under test says of a video's frames."""

    times: list[Fraction]
    """When each frame is shown, in seconds and in order; frames at the end without a time follow the one before."""
    end: Fraction
    """When the last frame's duration is over."""
    packet_end: Fraction
    """The same by the packets alone: earlier where the last packet carries no presentation time."""


def ffprobe_truth(path: Path) -> Truth:
    frames, base, rate = _ffprobe(path, "frame=best_effort_timestamp")
    packets, _, _ = _ffprobe(path, "packet=pts,dts,duration")
    ticks = [_number(frame.get("best_effort_timestamp", "N/A")) for frame in frames]
    durations = [_number(packet.get("duration", "N/A")) or 0 for packet in packets]
    known = [tick for tick in ticks if tick is not None]
    step = round(1 / (rate * base))  # of frames whose duration the container does not say
    times = known + [known[-1] + (k + 1) * step for k in range(len(ticks) - len(known))]
    starts = [_number(p.get("pts", "N/A")) for p in packets]
    starts = [_number(p["dts"]) if start is None else start for p, start in zip(packets, starts, strict=True)]
    end, last = max((start, duration) for start, duration in zip(starts, durations, strict=True) if start is not None)
    packet_end = end + (last or step)
    return Truth([tick * base for tick in times], max(packet_end, times[-1] + step) * base, packet_end * base)


def _ffprobe(path: Path, entries: str) -> tuple[list[dict[str, str]], Fraction, Fraction]:
    """(what was asked for, time base, average rate) of the video stream."""
    command = ["ffprobe", "-v", "error", "-threads", "1", "-select_streams", "v:0", "-of", "json"]
    command += ["-show_entries", f"stream=time_base,avg_frame_rate:{entries}", str(path)]
    report = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    found = report[entries.split("=", 1)[0] + "s"]
    stream = report["streams"][0]
    return found, Fraction(stream["time_base"]), Fraction(stream["avg_frame_rate"])


def _number(text: str | int) -> int | None:
    return None if text == "N/A" else int(text)
