"""Real clips in, files that no encoder made out: thousands of them, each from its number alone. Shards likewise."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from clips import LazyClips

Rng = np.random.Generator
LONGEST_BYTES = 300_000
"""Of a real clip: what comes later is cut off beforehand, where the index comes first."""

SOURCES = (
    "carphone.mp4", "bikes.mp4", "concert.mp4", "concert.mov", "concert.mkv", "concert.webm", "concert.avi",
    "concert.flv", "concert.mpg", "concert.3gp", "concert.asf", "concert.ogv", "concert.rm", "concert.swf",
    "concert.gif", "concert.m4v", "concert.vob", "globe_5s.avi",
)  # fmt: skip
_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"dinf", b"mvex", b"moof", b"traf"}
_ABSURD = (0, 1, 7, 0x7FFF, 0xFFFF, 10**9, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class Box(NamedTuple):
    """A box of an mp4 or mov file: its place, its size with the header, its type."""

    offset: int
    size: int
    kind: bytes


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """All boxes, outer ones before inner ones, as far as they make sense."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        size = end - start if size == 0 else size
        if size < 8:
            return
        yield Box(start, min(size, end - start), kind)
        if kind in _CONTAINERS:
            yield from boxes(data, start + 8, min(start + size, end))
        start += size


def flip_bytes(data: bytes, _other: bytes, rng: Rng) -> bytes:
    """Some bytes anywhere, or in the header."""
    mutated = bytearray(data)
    reach = len(data) if rng.random() < 0.5 else min(len(data), 4000)
    for place in rng.integers(0, reach, int(rng.integers(1, 200))):
        mutated[place] = rng.integers(256)
    return bytes(mutated)


def cut_off(data: bytes, _other: bytes, rng: Rng) -> bytes:
    """The beginning only, or all but the beginning."""
    place = int(rng.integers(0, len(data)))
    return data[:place] if rng.random() < 0.7 else data[place:]


def splice(data: bytes, other: bytes, rng: Rng) -> bytes:
    """Another file, of another format maybe, from the middle on or in the middle."""
    first, second = sorted(int(place) for place in rng.integers(0, len(data), 2))
    piece = other[int(rng.integers(0, len(other))) :][: second - first + 1]
    return data[:first] + piece + data[second:]


def repeat(data: bytes, _other: bytes, rng: Rng) -> bytes:
    """A piece twice or many times."""
    first, second = sorted(int(place) for place in rng.integers(0, len(data), 2))
    times = int(rng.integers(2, 6))
    return data[:first] + data[first:second] * times + data[second:]


def blank(data: bytes, _other: bytes, rng: Rng) -> bytes:
    """A run of zeros or ones."""
    first = int(rng.integers(0, len(data)))
    length = int(rng.integers(1, 20_000))
    return data[:first] + bytes([rng.choice([0, 255])]) * length + data[first + length :]


def absurd_numbers(data: bytes, _other: bytes, rng: Rng) -> bytes:
    """Numbers of four bytes in the header: sizes of pictures, counts of frames, time bases, chunk sizes."""
    mutated = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        place = int(rng.integers(0, min(len(data) - 4, 4000)))
        number = int(rng.choice(_ABSURD))
        mutated[place : place + 4] = struct.pack(">I" if rng.random() < 0.5 else "<I", number)
    return bytes(mutated)


def box_surgery(data: bytes, other: bytes, rng: Rng) -> bytes:
    """Of an mp4: a box too long or short, gone, twice, inside itself, of another kind, or full of absurd numbers."""
    found = list(boxes(data))
    if len(found) < 2:
        return absurd_numbers(data, other, rng)
    box = found[int(rng.integers(len(found)))]
    begin, end = box.offset, box.offset + box.size
    what = int(rng.integers(6))
    if what == 0:
        return data[:begin] + struct.pack(">I", int(rng.choice(_ABSURD))) + data[begin + 4 :]
    if what == 1:
        return data[:begin] + data[end:]
    if what == 2:
        return data[:end] + data[begin:end] + data[end:]
    if what == 3:
        return data[: begin + 8] + data[begin:end][:100_000] + data[begin + 8 :]
    if what == 4:
        kind = found[int(rng.integers(len(found)))].kind
        return data[: begin + 4] + kind + data[begin + 8 :]
    mutated = bytearray(data)
    for place in rng.integers(begin + 8, max(begin + 9, end - 4), int(rng.integers(1, 8))):
        mutated[place : place + 4] = struct.pack(">I", int(rng.choice(_ABSURD)))
    return bytes(mutated)


MUTATIONS: tuple[Callable[[bytes, bytes, Rng], bytes], ...] = (
    flip_bytes, cut_off, splice, repeat, blank, absurd_numbers, box_surgery, box_surgery,
)  # fmt: skip


def hostile_file(number: int, clips: LazyClips, folder: Path) -> Path:
    """The file of this number, in that folder: one of the sources, mutated once or several times."""
    rng = np.random.default_rng([20261124, number])
    name = SOURCES[number % len(SOURCES)]
    data = _start_of(clips, name)
    what: list[str] = []
    for _ in range(int(rng.integers(1, 4))):
        mutation: Any = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
        other = _start_of(clips, SOURCES[int(rng.integers(len(SOURCES)))])
        data = mutation(data or b"\0", other, rng) or b"\0"
        what.append(mutation.__name__)
    path = folder / f"{number:04d}-{'-'.join(what)}-{name}"
    path.write_bytes(data)
    return path


def _start_of(clips: LazyClips, name: str) -> bytes:
    with clips[name].open("rb") as file:
        return file.read(LONGEST_BYTES)


# --- shards -----------------------------------------------------------------------------------------------------------

_BLOCK = tarfile.BLOCKSIZE
_SIZES = (b"\x80" + b"\xff" * 11, b"\xff" * 12, b"77777777777\0", b"00000000000\0", b"\x80" + bytes(6) + b"\xff" * 5)
_KINDS = b"0123456789xgLKSVD\0Z"
_DIGITS = b"\0\xff09\n ="


def _shard(form: int) -> bytes:
    """A good shard: sidecars, a long name, one that is not ASCII, and (as pax) a member with a map of holes."""
    buffer = io.BytesIO()
    members = {"a.json": b'{"a": [1, 2.5]}', "a.mp4": b"video" * 200, "b" * 150 + "/c.mp4": b"x" * 700, "é.mp4": b""}
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in {**members, "d.txt": b"text", "d.mp4": b"1"}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), 1.5
            if form == tarfile.PAX_FORMAT and name == "d.mp4":
                entry.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "10", "GNU.sparse.numblocks": "1"}
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _with_checksum(header: bytes) -> bytes:
    blank = header[:148] + b" " * 8 + header[156:]
    return blank[:148] + b"%06o\0 " % (sum(blank) % 8**6) + blank[156:]


def _spoil(data: bytes, rng: Rng) -> bytes:
    """Headers with an absurd size, of another type or of random bytes, their checksum right; blocks gone or twice."""
    at = int(rng.integers(0, max(1, min(len(data) // _BLOCK, 20)))) * _BLOCK
    header = bytearray(data[at : at + _BLOCK].ljust(_BLOCK, b"\0"))
    what = int(rng.integers(6))
    if what == 0:
        header[124:136] = _SIZES[int(rng.integers(len(_SIZES)))]
    elif what == 1:
        header[156] = _KINDS[int(rng.integers(len(_KINDS)))]
    elif what == 2:
        for place in rng.integers(0, _BLOCK, 10):
            header[place] = rng.integers(256)
    elif what == 3:
        return data[: int(rng.integers(1, max(2, len(data))))]
    elif what == 4:
        length = _BLOCK * int(rng.integers(1, 4))
        return data[:at] + data[at : at + length] * int(rng.integers(0, 5)) + data[at + length :]
    else:
        mutated = bytearray(data)
        for place in rng.integers(0, len(data), int(rng.integers(1, 100))):
            mutated[place] = _DIGITS[int(rng.integers(len(_DIGITS)))]
        return bytes(mutated)
    return data[:at] + _with_checksum(bytes(header)) + data[at + _BLOCK :]


def hostile_shard(number: int, folder: Path) -> Path:
    """The shard of this number, in that folder: a good one, spoilt once or several times, by turns gzipped."""
    rng = np.random.default_rng([20261125, number])
    data = _shard((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)[number % 3])
    for _ in range(int(rng.integers(1, 5))):
        data = _spoil(data, rng) or b"\0"
    path = folder / f"{number:04d}.tar"
    path.write_bytes(gzip.compress(data, 1) if number % 4 == 3 else data)
    return path
