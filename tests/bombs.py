"""A name and a folder in; out comes a small file that claims, or unpacks to, far more than it is."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

from vidbatch.testing import make_video

HUGE = 16_000
"""Pixels a side; FFmpeg's own limit, which is not what these are to meet, lies little above."""
BILLION = 10**9


def _patched(data: bytes, mark: bytes, offset: int, *values: int, form: str = ">I") -> bytes:
    """Numbers in place of those that stand so many bytes behind the first `mark`."""
    place = data.index(mark) + len(mark) + offset
    new = b"".join(struct.pack(form, value) for value in values)
    return data[:place] + new + data[place + len(new) :]


def _small(folder: Path, suffix: str, **options: object) -> bytes:
    path = folder / f"small.{suffix}"
    make_video(path, **{"num_frames": 20, "width": 96, "height": 96, **options})  # type: ignore[arg-type]
    return path.read_bytes()


def _ffmpeg(folder: Path, suffix: str, source: str, *options: str) -> bytes:
    path = folder / f"small.{suffix}"
    command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", source, *options, str(path)]
    subprocess.run(command, check=True)
    return path.read_bytes()


# --- pictures of 256 million pixels ---------------------------------------------------------------------------------


def black_png(folder: Path) -> bytes:
    """Pictures that are what they say: 32 kB each, 256 MB when they are decoded."""
    return _ffmpeg(folder, "mov", f"color=black:s={HUGE}x{HUGE}:r=1,format=monob", "-c:v", "png", "-frames:v", "2")


def huge_gif(folder: Path) -> bytes:
    return _patched(_ffmpeg(folder, "gif", "testsrc=d=1:r=10:s=96x96"), b"GIF89a", 0, HUGE, HUGE, form="<H")


def huge_vp8_keyframe(folder: Path) -> bytes:
    """The container says 96x96, the first keyframe says other."""
    return _patched(_small(folder, "webm", codec="libvpx"), b"\x9d\x01\x2a", 0, HUGE, HUGE, form="<H")


def huge_jpegs(folder: Path) -> bytes:
    data = _small(folder, "avi", codec="mjpeg", pix_fmt="yuvj420p")
    sizes = struct.pack(">HH", 96, 96)
    return data.replace(b"\x08" + sizes, b"\x08" + struct.pack(">HH", HUGE, HUGE))


# --- hours and days -------------------------------------------------------------------------------------------------


def two_frames_a_day_apart(folder: Path) -> bytes:
    return _small(folder, "mp4", num_frames=2, pts=[0, 25 * 100_000])


def two_frames_a_day_apart_in_matroska(folder: Path) -> bytes:
    return _small(folder, "mkv", num_frames=2, pts=[0, 25 * 100_000])


def a_day_of_black(folder: Path) -> bytes:
    return _ffmpeg(folder, "mkv", "color=black:s=64x64:r=1/1000:d=100000", "-c:v", "libx264")


def a_day_of_black_that_the_header_does_not_tell(folder: Path) -> bytes:
    return a_day_of_black(folder).replace(b"\x44\x89\x88", b"\xec\x89\x00", 1)  # Duration becomes Void


def days_of_avi(folder: Path) -> bytes:
    return _patched(_small(folder, "avi", codec="mpeg4"), b"strh", 4 + 32, BILLION, form="<I")


# --- a billion frames -----------------------------------------------------------------------------------------------


def a_billion_times(folder: Path) -> bytes:
    return _patched(_small(folder, "mp4"), b"stts", 8, BILLION)


def a_billion_samples(folder: Path) -> bytes:
    data = _patched(_small(folder, "mp4"), b"stsz", 4, 100, BILLION)
    return _patched(_patched(data, b"stsc", 12, BILLION), b"stts", 8, BILLION)


def an_index_of_a_gigabyte(folder: Path) -> bytes:
    """Fewer samples than the default bound allows: FFmpeg makes an entry of 32 bytes of each."""
    data = _patched(_small(folder, "mp4"), b"stsz", 4, 100, 20_000_000)
    return _patched(_patched(data, b"stsc", 12, 20_000_000), b"stts", 8, 20_000_000)


# --- times that cannot be divided by --------------------------------------------------------------------------------


def no_time_scale(folder: Path) -> bytes:
    return _patched(_patched(_small(folder, "mp4"), b"mdhd", 12, 0), b"mvhd", 12, 0)


def no_time_scale_of_the_stream(folder: Path) -> bytes:
    return _patched(_small(folder, "mp4"), b"mdhd", 12, 0)


def no_rate(folder: Path) -> bytes:
    return _patched(_small(folder, "avi", codec="mpeg4"), b"strh", 4 + 20, 0, 0, form="<I")


def no_time_scale_of_matroska(folder: Path) -> bytes:
    return _patched(_small(folder, "mkv"), b"\x2a\xd7\xb1\x83", 0, 0, 0, 0, form="B")


def a_duration_that_is_no_number(folder: Path) -> bytes:
    return _patched(_small(folder, "mkv"), b"\x44\x89\x88", 0, 0x7FF80000, 0)


def an_endless_duration(folder: Path) -> bytes:
    return _patched(_small(folder, "mkv"), b"\x44\x89\x88", 0, 0x7FF00000, 0)


Maker = Callable[[Path], bytes]
ANY = ("ok", "bounds", "memory", "corrupt", "truncated", "no_video_stream")
BOMBS: dict[Maker, tuple[str, ...]] = {
    black_png: ("bounds",),
    huge_gif: ("bounds",),
    huge_vp8_keyframe: ("bounds",),
    huge_jpegs: ("bounds", "corrupt"),
    two_frames_a_day_apart: ("bounds",),
    two_frames_a_day_apart_in_matroska: ("bounds",),
    a_day_of_black: ("bounds",),
    a_day_of_black_that_the_header_does_not_tell: ("bounds",),
    days_of_avi: ("bounds",),
    a_billion_times: ("ok",),
    a_billion_samples: ("no_video_stream", "memory", "bounds", "truncated"),
    an_index_of_a_gigabyte: ("memory", "no_video_stream", "truncated"),
    no_time_scale: ANY,
    no_time_scale_of_the_stream: ANY,
    no_rate: ("ok",),
    no_time_scale_of_matroska: ("ok",),
    a_duration_that_is_no_number: ("ok",),
    an_endless_duration: ("ok", "bounds"),
}
"""How each may end: `ok`, or a key of ERROR_KINDS."""
