"""Numbers go in; videos whose pixels say which video and which frame they are come out, and the numbers back again.

For tests of anything that moves frames about: a frame that carries its identity shows when rows are mixed up, when
a neighbour was picked, when a picture was not turned upright. The stamp survives lossy codecs, scaling and a centre
crop.

    make_video("a.mp4", video_number=7, num_frames=50, b_frames=2)
    frames, times, report = read_frames("a.mp4", sampling="every=10", size=FrameSpec(224, 224))
    [read_stamp(frame) for frame in frames]  ->  [(7, 0), (7, 10), (7, 20), (7, 30), (7, 40)]
"""

from __future__ import annotations

import binascii
import io
import os
import tarfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

Pixels = npt.NDArray[np.uint8]

_CELLS: Final = 7
"""The stamp is a square of 7 x 7 black and white cells: 4 corners, 2 x 16 bits of numbers, 13 of checksum."""
_STAMP_SHARE: Final = 0.72
"""Its side, as a share of the picture's shorter displayed side: inside a centre crop of 0.875 with room to spare."""
_CORNERS: Final = {(0, 0): 1, (0, _CELLS - 1): 1, (_CELLS - 1, 0): 1, (_CELLS - 1, _CELLS - 1): 0}
_QUIET: Final[dict[str, dict[str, str]]] = {
    "libx265": {"x265-params": "log-level=none"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libaom-av1": {"usage": "realtime", "cpu-used": "9"},
    "libsvtav1": {"preset": "12"},
    "libx264": {"preset": "veryfast"},
}
"""Encoder options that make small videos quickly and silently."""


def make_video(
    path: str | os.PathLike[str],
    *,
    codec: str = "libx264",
    num_frames: int = 50,
    fps: Fraction | int = 25,
    width: int = 320,
    height: int = 240,
    gop: int = 12,
    b_frames: int = 0,
    video_number: int = 0,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    start_ticks: int = 0,
    rotation: int = 0,
    pixel_aspect: Fraction | int = 1,
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    container: str | None = None,
    with_sound: bool = False,
) -> None:
    """Encode a video whose frames carry `video_number` and their own number, 0 to num_frames - 1.

    Args: `width` and `height` are stored pixels, each `pixel_aspect` times as wide as high; `rotation` is the
    clockwise quarter turn (0, 90, 180, 270 degrees) by which players turn them, so that stamps are upright then.
    `pts` are the frames' times in ticks of `time_base` (default: one tick a frame), to which `start_ticks` is added;
    `options` are the encoder's, `container_options` the muxer's, `container` its name if the suffix does not say.
    """
    base = Fraction(time_base or 1 / Fraction(fps))
    ticks = [start_ticks + tick for tick in (range(num_frames) if pts is None else pts)]
    with av.open(os.fspath(path), "w", format=container, container_options=dict(container_options or {})) as out:
        stream = out.add_stream(codec, rate=Fraction(fps), options=_QUIET.get(codec, {}) | dict(options or {}))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.gop_size, stream.max_b_frames = gop, b_frames
        stream.codec_context.time_base = base
        stream.codec_context.sample_aspect_ratio = Fraction(pixel_aspect)
        if rotation:
            stream.set_display_rotation(-rotation)
        sound = out.add_stream("aac" if "webm" not in str(path) else "libopus", rate=48_000) if with_sound else None
        for number, tick in enumerate(ticks):
            pixels = stamped(video_number, number, width=width, height=height, pixel_aspect=pixel_aspect, turn=rotation)
            frame = VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = tick, base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None:
            _add_silence(out, sound, seconds=float((ticks[-1] - ticks[0]) * base))


def stamped(
    video_number: int,
    frame_number: int,
    *,
    width: int,
    height: int,
    pixel_aspect: Fraction | int = 1,
    turn: int = 0,
) -> Pixels:
    """A picture of uint8 (height, width, 3) with the stamp in its middle; `turn` as `rotation` of make_video."""
    aspect = float(pixel_aspect)
    side = _STAMP_SHARE * min(width * aspect, height)
    cells = np.rot90(_cells(video_number, frame_number), turn // 90)
    stamp = _enlarge(cells, rows=round(side), columns=round(side / aspect))
    ramp = (np.arange(width) * 96 // width + 64 + 3 * frame_number) % 160
    picture = np.broadcast_to(ramp[None, :, None], (height, width, 3)).astype(np.uint8)
    top, left = (height - stamp.shape[0]) // 2, (width - stamp.shape[1]) // 2
    picture[top : top + stamp.shape[0], left : left + stamp.shape[1]] = stamp[:, :, None]
    return picture


def read_stamp(frame: npt.NDArray[Any], *, crop_share: float = 0.875) -> tuple[int, int]:
    """(video number, frame number) of a picture made by `make_video`, uint8 (height, width, 3), upright.

    Args: `crop_share` is the share of the shorter side that was kept; 1 for whole pictures.
    Raises ValueError when there is no stamp, or it cannot be read.
    """
    height, width = frame.shape[:2]
    side = _STAMP_SHARE / crop_share * min(height, width)
    grey = frame.reshape(height, width, -1).mean(axis=2)
    cells = np.zeros((_CELLS, _CELLS), int)
    for row, column in np.ndindex(_CELLS, _CELLS):
        middle_y = (height - side) / 2 + (row + 0.5) * side / _CELLS
        middle_x = (width - side) / 2 + (column + 0.5) * side / _CELLS
        reach = side / _CELLS / 4
        patch = grey[
            round(middle_y - reach) : round(middle_y + reach) + 1, round(middle_x - reach) : round(middle_x + reach) + 1
        ]
        cells[row, column] = patch.mean() > 127
    if any(cells[place] != value for place, value in _CORNERS.items()):
        raise ValueError("there is no upright stamp in this picture")
    bits = [int(cells[place]) for place in np.ndindex(_CELLS, _CELLS) if place not in _CORNERS]
    value = int("".join(map(str, bits)), 2)
    numbers, checksum = divmod(value, 2**13)
    if checksum != _checksum(numbers):
        raise ValueError("the stamp's checksum is wrong")
    return divmod(numbers, 2**16)


def make_shard(path: str | os.PathLike[str], files: Mapping[str, bytes | str | os.PathLike[str]]) -> None:
    """Write a tar (.tar, or gzipped: .tar.gz, .tgz) of the given members: their content, or a file that holds it."""
    mode = "w:gz" if os.fspath(path).endswith(("gz",)) else "w"
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]  # the mode is one of two literals
        for name, content in files.items():
            data = content if isinstance(content, bytes) else Path(content).read_bytes()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _cells(video_number: int, frame_number: int) -> npt.NDArray[np.uint8]:
    """0 and 1 in a square of _CELLS x _CELLS."""
    if not (0 <= video_number < 2**16 and 0 <= frame_number < 2**16):
        raise ValueError(f"a stamp holds numbers below 65536, not {video_number} and {frame_number}")
    numbers = (video_number << 16) | frame_number
    bits = iter(f"{(numbers << 13) | _checksum(numbers):045b}")
    cells = np.zeros((_CELLS, _CELLS), np.uint8)
    for place in np.ndindex(_CELLS, _CELLS):
        cells[place] = _CORNERS[place] if place in _CORNERS else int(next(bits))
    return cells


def _checksum(numbers: int) -> int:
    return binascii.crc_hqx(numbers.to_bytes(4, "big"), 0xFFFF) & 0x1FFF


def _enlarge(cells: npt.NDArray[np.uint8], *, rows: int, columns: int) -> Pixels:
    row_of = np.arange(rows) * _CELLS // rows
    column_of = np.arange(columns) * _CELLS // columns
    return (cells[row_of[:, None], column_of[None, :]] * 255).astype(np.uint8)


def _add_silence(out: av.container.OutputContainer, stream: Any, *, seconds: float) -> None:
    samples = np.zeros((1, 1024), np.float32)
    for index in range(int(seconds * 48_000 / 1024)):
        frame = av.AudioFrame.from_ndarray(samples, format="flt" if stream.name == "libopus" else "fltp", layout="mono")
        frame.sample_rate, frame.pts = 48_000, index * 1024
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
