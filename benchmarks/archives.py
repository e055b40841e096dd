"""Parameters in, folders of real video out: cut and encoded once, then kept below `.cache/benchmarks`.

Needs ffmpeg on the PATH and the real clips of tests/clips.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from harness import CACHE, REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests"))
from clips import clip_path

ENCODE = ("-an", "-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-pix_fmt", "yuv420p", "-threads", "1")
ENCODE_LONG_GOPS = ("-an", "-c:v", "libx264", "-preset", "medium", "-g", "250", "-pix_fmt", "yuv420p", "-threads", "1")
MIN_PIECE_SECONDS = 5.0


class Source(NamedTuple):
    """A 16:9 clip; its frame rate rounded to a whole number, so that a stride and a time grid mean the same frames."""

    name: str
    frames_per_second: int


WIDE = (
    Source("bunny_whole.mp4", 24),
    Source("bunny_trailer.mp4", 24),
    Source("sintel_trailer.mp4", 24),
    Source("motorway.mp4", 60),
    Source("globe.mp4", 30),
    Source("handheld.avi", 30),
)
_OF_720P = {"bunny_whole.mp4", "bunny_trailer.mp4", "sintel_trailer.mp4"}


def mixed(*, seconds: int, copies: int, max_pieces: int | None = None) -> Path:
    """Folder of H.264 mp4 files of about `seconds`, 16:9, 270p to 720p, 24 to 60 fps, default GOPs, no sound.

    Args: `copies` of every piece, each a file of its own name; `max_pieces` of each source clip, None for all.
    """
    of_pieces = f"{seconds}s_{max_pieces or 'all'}"
    pieces = built(f"pieces_{of_pieces}", lambda folder: _cut(folder, WIDE, seconds, max_pieces, ENCODE))
    return _copied(pieces, f"mixed_{seconds}s_x{copies}_{max_pieces or 'all'}", copies)


def long_gops(*, seconds: int, copies: int, max_pieces: int | None = None) -> Path:
    """Folder of H.264 mp4 files of about `seconds`, 720p, 24 fps, x264's medium B-frames, a keyframe every 250 frames
    and at cuts, no sound. Args: as of `mixed`.
    """
    sources = tuple(source for source in WIDE if source.name in _OF_720P)
    of_pieces = f"{seconds}s_{max_pieces or 'all'}"
    name = f"long_gop_pieces_{of_pieces}"
    pieces = built(name, lambda folder: _cut(folder, sources, seconds, max_pieces, ENCODE_LONG_GOPS))
    return _copied(pieces, f"long_gops_{seconds}s_x{copies}_{max_pieces or 'all'}", copies)


def _copied(pieces: Path, name: str, copies: int) -> Path:
    def fill(folder: Path) -> None:
        for path in sorted(pieces.iterdir()):
            for copy in range(copies):
                os.link(path, folder / f"{path.stem}_copy{copy}.mp4")

    return built(name, fill)


def every_nth(archive: Path, n: int) -> Path:
    """A smaller folder with every n-th file of an archive."""

    def fill(folder: Path) -> None:
        for path in sorted(archive.iterdir())[::n]:
            os.link(path, folder / path.name)

    return built(f"{archive.name}_every{n}", fill)


def first(archive: Path, n: int) -> Path:
    """A folder with the first n files of an archive."""

    def fill(folder: Path) -> None:
        for path in sorted(archive.iterdir())[:n]:
            os.link(path, folder / path.name)

    return built(f"{archive.name}_first{n}", fill)


def turning(*, seconds: int, first: int, second: int) -> Path:
    """Folder of H.264 mp4 files of a film, 24 fps: `first` of 1080p with long GOPs, then, by name, `second` of 108p and
    nothing but keyframes.
    """
    kinds = {"1080p": (1920, ENCODE_LONG_GOPS), "108p": (192, (*ENCODE, "-g", "1"))}

    def encode(folder: Path) -> None:
        for name, (width, how) in kinds.items():
            for number in range(4):
                source = ("-ss", 60 + number * seconds, "-t", seconds, "-i", clip_path("bunny_whole.mp4"))
                size = ("-vf", f"scale={width}:-2:flags=bicubic")
                ffmpeg(*source, *size, *how, folder / f"{name}_{number}.mp4")

    pieces = built(f"turning_pieces_{seconds}s", encode)

    def fill(folder: Path) -> None:
        for order, (name, count) in enumerate(zip(kinds, (first, second), strict=True)):
            for number in range(count):
                os.link(pieces / f"{name}_{number % 4}.mp4", folder / f"{order}_{name}_{number:03d}.mp4")

    return built(f"turning_{seconds}s_{first}_{second}", fill)


def long_1080p(seconds: int) -> Path:
    """One mp4 of that length: a real trailer scaled to 1920x1080, encoded once, then repeated by stream copy."""
    source = clip_path("sintel_trailer.mp4")

    def encode(folder: Path) -> None:
        scale = ("-vf", "scale=1920:1080:flags=bicubic", *ENCODE[:-2], "-threads", "2")
        ffmpeg("-i", source, *scale, folder / "once.mp4")

    once = built("sintel_1080p", encode) / "once.mp4"

    def repeat(folder: Path) -> None:
        copy = ("-c", "copy", "-t", str(seconds), "-movflags", "+faststart")
        ffmpeg("-stream_loop", "-1", "-i", once, *copy, folder / f"sintel_1080p_{seconds}s.mp4")

    return next(built(f"long_1080p_{seconds}s", repeat).iterdir())


def even_gops(gop_seconds: int) -> Path:
    """One mp4 of two minutes of 1080p at 8 Mbit/s and 24 fps, with a keyframe every so many seconds and no others."""

    def encode(folder: Path) -> None:
        frames = str(24 * gop_seconds)
        gops = ("-g", frames, "-keyint_min", frames, "-sc_threshold", "0", "-b:v", "8M", "-threads", "2")
        size = ("-vf", "scale=1920:1080:flags=bicubic", "-pix_fmt", "yuv420p")
        source = ("-ss", "60", "-t", "120", "-i", clip_path("bunny_whole.mp4"))
        ffmpeg(*source, "-an", "-c:v", "libx264", "-preset", "veryfast", *size, *gops, folder / "even_gops.mp4")

    return next(built(f"gops_of_{gop_seconds}s_120s", encode).iterdir())


def hopeless(count: int) -> Path:
    """Folder of `count` objects that fail at once, in subfolders of 1,000: by turns no bytes and a line of text."""

    def fill(folder: Path) -> None:
        for number in range(count):
            if number % 1000 == 0:
                (folder / f"{number // 1000:04d}").mkdir()
            path = folder / f"{number // 1000:04d}" / f"{number:07d}.mp4"
            path.write_bytes(b"" if number % 2 else b"this is not a video\n")

    return built(f"hopeless_{count}", fill)


def hollow(count: int, size_bytes: int) -> Path:
    """Folder of `count` objects of that size that nobody opens: files with nothing but a hole in them."""

    def fill(folder: Path) -> None:
        for number in range(count):
            with (folder / f"{number:07d}.mp4").open("wb") as file:
                file.truncate(size_bytes)

    return built(f"hollow_{size_bytes}_{count}", fill)


def _cut(folder: Path, sources: Sequence[Source], seconds: int, max_pieces: int | None, encode: Sequence[str]) -> None:
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(lambda job: ffmpeg(*job), _cut_jobs(folder, sources, seconds, max_pieces, encode)))


def _cut_jobs(
    folder: Path, sources: Sequence[Source], seconds: int, max_pieces: int | None, encode: Sequence[str]
) -> Iterator[tuple[object, ...]]:
    for source in sources:
        path = clip_path(source.name)
        length = _length_seconds(source.name)
        starts = [s for s in range(0, int(length), seconds) if length - s >= MIN_PIECE_SECONDS]
        for number, start in enumerate(starts[:max_pieces]):
            target = folder / f"{path.stem}_{number:03d}.mp4"
            rate = source.frames_per_second
            even = ("-vf", f"setpts=N/{rate}/TB", "-r", rate, "-frames:v", seconds * rate)
            yield ("-ss", start, "-i", path, *even, *encode, target)


def _length_seconds(name: str) -> float:
    truth = json.loads((REPOSITORY / "tests" / "clips.json").read_text())[name]
    numerator, _, denominator = truth["frame_rate"].partition("/")
    return float(truth["num_frames"]) * float(denominator) / float(numerator)


def ffmpeg(*words: object) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, words)], check=True)


def built(name: str, fill: Callable[[Path], None]) -> Path:
    """The folder of that name, filled once: it appears whole or not at all."""
    folder = CACHE / "archives" / name
    if not folder.exists():
        scratch = folder.with_name(f".{name}.{os.getpid()}")
        scratch.mkdir(parents=True)
        try:
            fill(scratch)
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder
