"""One video in, a seekable stream out: a whole object, a byte range of one, or a member of a gzipped shard.

Small objects are read by one request, larger ones block by block in bounded memory. Everything that goes wrong is a
VideoError.
"""

from __future__ import annotations

import os
import tempfile
import threading
import zlib
from collections.abc import Mapping
from gzip import BadGzipFile, GzipFile
from typing import Any, BinaryIO, Final, NamedTuple, cast

from vidbatch.errors import VideoError
from vidbatch.storage import local, tar
from vidbatch.storage.reader import FileReader, RangeReader, Reader
from vidbatch.storage.types import BLOCK_BYTES, RangesNotSupported
from vidbatch.storage.urls import STORES, errors_of_a_video, http, normalise, scheme_of, store_of

_HEAD_SHARE: Final = 1 / 100
_LEAST_HEAD_BYTES: Final = 2**18
HEAD_BYTES: Final = 2**20
"""What is read of a large video, at most, before it is known which of its bytes are needed: as much of it as an index
of all its frames takes."""

SPOOL_LIMIT_BYTES: Final = 8 * 2**30
"""What a server without range requests may send into a temporary file, at most."""


def open_read(
    source: str,
    *,
    offset: int = 0,
    size: int | None = None,
    block_bytes: int = BLOCK_BYTES,
    etag: str | None = None,
) -> Reader:
    """A seekable stream over bytes [offset, offset + size) of an object, or to its end; `.bytes_read` counts.

    An object (or range) of at most `block_bytes` is read by one request, here; a larger one block by block as it is
    read, in bounded memory. A range that reaches beyond the end ends there. With an `etag` (stores and http) only that
    version of the object is read. Raises VideoError (missing, permission, changed, storage, not_a_video), here and from
    every read.
    """
    with errors_of_a_video():
        if scheme_of(source) == "file":
            descriptor, total = local.open_descriptor(local.to_path(source))
            return FileReader(descriptor, offset, _clipped(total, offset, size))
        try:
            return _open_ranges(source, offset=offset, size=size, block_bytes=block_bytes, etag=etag)
        except RangesNotSupported:
            return _open_spooled(source, offset=offset, size=size)


def _clipped(total: int, offset: int, size: int | None) -> int:
    rest = max(0, total - offset)
    return rest if size is None else min(size, rest)


def _open_ranges(source: str, *, offset: int, size: int | None, block_bytes: int, etag: str | None) -> Reader:
    scheme = scheme_of(source)
    side, place = (store_of(scheme), normalise(source)) if scheme in STORES else (http(), source)
    if size == 0:
        return RangeReader(_nothing, size_bytes=0, first=b"", block_bytes=block_bytes)
    start = side.fetch(place, offset, offset + (block_bytes if size is None else min(size, block_bytes)), etag)

    def fetch(begin: int, end: int) -> bytes:
        with errors_of_a_video():
            data: bytes = side.fetch(place, offset + begin, offset + end, start.etag).data
            if len(data) != end - begin:
                raise OSError(f"the storage sent {len(data)} bytes where {end - begin} were asked for")
            return data

    length = _clipped(start.total_bytes, offset, size)
    return RangeReader(fetch, size_bytes=length, first=start.data, block_bytes=block_bytes)


def _nothing(_begin: int, _end: int) -> bytes:
    raise AssertionError("nothing to fetch")


def _open_spooled(source: str, *, offset: int, size: int | None) -> Reader:
    with tempfile.TemporaryFile(prefix="vidbatch-") as file:
        http().copy(source, file, SPOOL_LIMIT_BYTES)
        file.flush()
        total = os.fstat(file.fileno()).st_size
        return FileReader(os.dup(file.fileno()), offset, _clipped(total, offset, size))


# --- members of shards ----------------------------------------------------------------------------------------------


def open_clip(clip: Mapping[str, Any]) -> Reader:
    """The video of a schema.CLIP row, from its first byte to its last, in the version that was listed.

    Raises VideoError, also from every read.
    """
    etag = clip.get("etag")
    if clip["member"] is None:
        return open_read(clip["source"], block_bytes=_block_bytes(clip["size_bytes"]), etag=etag)
    return open_member(
        clip["source"],
        clip["member"],
        offset=clip["member_offset"],
        size=clip["size_bytes"],
        version=clip["content_version"],
        etag=etag,
    )


def open_member(
    source: str, member: str, *, offset: int | None, size: int | None, version: str = "", etag: str | None = None
) -> Reader:
    """A member of a shard: by its place in a plain tar, or (offset None) by its name in a gzipped one.

    The gzipped shard is unpacked once into an unnamed temporary file, which is kept until another one is asked for.
    Raises VideoError, `bounds` for a shard that unpacks to more than tar.UNPACKED_LIMIT_BYTES.
    """
    if offset is not None:
        return open_read(source, offset=offset, size=size, block_bytes=_block_bytes(size), etag=etag)
    return _UNPACKED.open(source, version, member, etag)


def _block_bytes(size: int | None) -> int:
    """How much to read of a video at first: all of a small one."""
    if (size or 0) <= BLOCK_BYTES:
        return BLOCK_BYTES
    return min(HEAD_BYTES, max(_LEAST_HEAD_BYTES, round((size or 0) * _HEAD_SHARE)))


class _Place(NamedTuple):
    offset: int
    size_bytes: int


class _Unpacked:
    """The latest gzipped shard of this process; its disk space is free again when the process ends or dies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shard: tuple[str, str] | None = None
        self._file: BinaryIO | None = None
        self._places: dict[str, _Place] = {}

    def open(self, source: str, version: str, member: str, etag: str | None) -> Reader:
        with self._lock, errors_of_a_video():
            if self._file is None or self._shard != (source, version):
                self._replace(source, version, etag)
            place = self._places.get(member)
            if place is None:
                raise VideoError("missing", f"the shard has no member {member!r}")
            assert self._file is not None
            total = os.fstat(self._file.fileno()).st_size
            size_bytes = _clipped(total, place.offset, place.size_bytes)
            # A descriptor of its own: the stream outlives the shard's turn here.
            return FileReader(os.dup(self._file.fileno()), place.offset, size_bytes)

    def _replace(self, source: str, version: str, etag: str | None) -> None:
        if self._file is not None:
            self._file.close()
        self._shard, self._places = None, {}
        self._file = cast(BinaryIO, tempfile.TemporaryFile(prefix="vidbatch-"))  # noqa: SIM115
        with open_read(source, etag=etag) as packed:
            _unpack(packed, self._file)
        self._file.seek(0)
        try:
            for found in tar.members(self._file, sidecars=False):
                self._places[found.name] = _Place(found.offset, found.size_bytes)
        except VideoError:  # damaged further on, which listing has reported: the members before it are whole
            pass
        self._shard = (source, version)


def _unpack(packed: Reader, file: BinaryIO) -> None:
    stream = GzipFile(fileobj=cast(BinaryIO, packed))
    try:
        while chunk := stream.read1(2**20):  # not read: it would keep back what it has when the data is cut
            file.write(chunk)
            if file.tell() > tar.UNPACKED_LIMIT_BYTES:
                raise VideoError("bounds", f"the shard unpacks to more than {tar.UNPACKED_LIMIT_BYTES} bytes")
    except (EOFError, BadGzipFile, zlib.error):  # what came before the damage is good
        pass
    file.flush()


_UNPACKED = _Unpacked()
