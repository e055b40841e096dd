"""Tar shards: an open stream in; out come the members that may be videos, with what their sidecars say.

Nothing is ever extracted: members are names, offsets and sizes, whatever their names say. Only headers and sidecars
are read of a plain tar; a gzipped one is decompressed on the way. Damage raises VideoError after the members before it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, NamedTuple, cast

from vidbatch.errors import ErrorKind, VideoError
from vidbatch.storage.reader import Reader

SHARD_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz")
UNPACKED_LIMIT_BYTES: Final = 8 * 2**30
"""A gzipped shard that unpacks to more is refused, as `bounds`."""

Stream = BinaryIO | Reader

_SIDECARS: Final = ("json", "cls", "txt")
_SIDECAR_LIMIT_BYTES: Final = 2**20
_HEADER_LIMIT_BYTES: Final = 4 * 2**20
"""Of one member: its header and all that stands before it, such as a long name, attributes, a map of holes."""
_GLOBAL_LIMIT_BYTES: Final = 2**20
_GLOBAL_LIMIT: Final = 1000
"""Attributes that hold for all members that follow; tarfile copies them for each of those."""
_LARGEST_BYTES: Final = 2**62
"""More than any shard holds, and what the columns of a table can."""
_GROUP_LIMIT: Final = 1000
_GROUP_LIMIT_BYTES: Final = 4 * 2**20
_GROUP_GIVES_BYTES: Final = 16 * 2**20
"""What a group's videos take of sidecars that they share: of a thousand videos each could take the same megabyte."""


class Member(NamedTuple):
    """One regular file of a shard."""

    name: str
    offset: int
    """Where its data starts in the (unpacked) tar, in bytes."""
    size_bytes: int
    metadata: dict[str, Any]
    """Sidecars' content by their extension: {"json": …, "cls": …, "txt": …}."""
    problem: str | None = None


def is_shard(name: str) -> bool:
    """Whether a name ends as a tar shard's does."""
    return name.lower().endswith(SHARD_SUFFIXES)


def is_gzipped(stream: Stream) -> bool:
    """Whether the data is gzipped, whatever it is called; leaves the stream at its start."""
    stream.seek(0)
    magic = stream.read(2)
    stream.seek(0)
    return magic == b"\x1f\x8b"


def members(stream: Stream, *, sidecars: bool = True) -> Iterator[Member]:
    """Members in the order of the shard, each name once; sidecars are not among them, but in their video's metadata.

    A sidecar must stand next to its video, as WebDataset writes them: `a.mp4` takes `a.json`, and `a.left.mp4` takes
    `a.left.json` and `a.json`. Sidecars of more than a megabyte, or with more beside them than fits memory, are left
    out. With `sidecars=False` they are members like all others, and nothing but headers is read. Raises VideoError
    (empty, truncated, corrupt, bounds) where the shard is damaged.
    """
    if not sidecars:
        yield from (member for member, _ in _files(stream, sidecars=False))
        return
    group: list[Member] = []
    said: dict[tuple[str, str], _Said] = {}
    group_bytes = 0
    problem: VideoError | None = None
    try:
        for member, data in _files(stream, sidecars=True):
            is_full = len(group) > _GROUP_LIMIT or group_bytes > _GROUP_LIMIT_BYTES
            if is_full or (group and _sample(member.name) != _sample(group[0].name)):
                yield from _with_sidecars(group, said)
                group, said, group_bytes = [], {}, 0
            stem, extension = _split(member.name)
            if data is not None:
                said[stem, extension] = _Said(_sidecar_value(extension, data), len(data))
            group.append(member)
            group_bytes += len(member.name) + len(data or b"")
    except VideoError as error:
        problem = error
    yield from _with_sidecars(group, said)
    if problem is not None:
        raise problem


def _split(name: str) -> tuple[str, str]:
    stem, extension = os.path.splitext(name)
    return stem, extension[1:].lower()


def _sample(name: str) -> str:
    """WebDataset's key: the name up to the first dot of its last segment."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


class _Said(NamedTuple):
    value: Any
    size_bytes: int


def _with_sidecars(group: list[Member], sidecars: dict[tuple[str, str], _Said]) -> Iterator[Member]:
    given_bytes = 0
    for member in group:
        stem, extension = _split(member.name)
        if extension in _SIDECARS:
            continue
        said: dict[str, _Said] = {}
        for key in (_sample(member.name), stem):  # the nearer one wins
            said.update({kind: sidecars[key, kind] for kind in _SIDECARS if (key, kind) in sidecars})
        given_bytes += sum(each.size_bytes for each in said.values())
        if given_bytes > _GROUP_GIVES_BYTES:
            said = {}
        yield member._replace(metadata={kind: each.value for kind, each in said.items()})


def _sidecar_value(extension: str, data: bytes) -> Any:
    text = data.decode("utf-8", "replace").strip()
    if extension == "txt":
        return text
    try:
        return json.loads(text)  # a .cls holds a number or a name
    except (ValueError, RecursionError):
        return text


def _files(stream: Stream, *, sidecars: bool) -> Iterator[tuple[Member, bytes | None]]:
    """Regular files, the first of each name, each with its data if it is a sidecar."""
    seen: set[bytes] = set()
    for entry, tar in _entries(stream):
        name = member_name(entry)
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        if not entry.isreg() or digest in seen:
            continue
        seen.add(digest)
        member = Member(name, entry.offset_data, entry.size, {})
        if entry.issparse():
            yield member._replace(problem="sparse members of a tar are not supported"), None
        elif sidecars and _split(name)[1] in _SIDECARS and entry.size <= _SIDECAR_LIMIT_BYTES:
            tar.seek(entry.offset_data)
            yield member, tar.read(entry.size)
        else:
            yield member, None


def member_name(entry: tarfile.TarInfo) -> str:
    """A member's name as text that any table can hold; bytes that are not UTF-8 become escapes."""
    return entry.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class _Headers:
    """What tarfile reads headers from: refuses absurd sizes and remembers the last block.

    A header may claim that gigabytes of metadata follow, and one gzipped megabyte may unpack to a thousand.
    """

    def __init__(self, stream: Stream, limit_bytes: int | None) -> None:
        self._stream = stream
        self._limit_bytes = limit_bytes
        self._num_bytes = 0
        self.last = b""

    def begin(self) -> None:
        """The next member's header begins."""
        self._num_bytes = 0

    def read(self, size: int) -> bytes:
        self._num_bytes += size
        if size < 0:  # would read the whole shard
            raise VideoError("corrupt", f"a tar header claims {size} bytes of metadata")
        if self._num_bytes > _HEADER_LIMIT_BYTES:
            raise VideoError("corrupt", f"a tar header claims more than {_HEADER_LIMIT_BYTES} bytes of metadata")
        self.last = self._stream.read(size)
        return self.last

    def seek(self, position: int) -> int:
        if self._limit_bytes is not None and position > self._limit_bytes:
            raise VideoError("bounds", f"the shard unpacks to more than {self._limit_bytes} bytes")
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()


def _entries(stream: Stream) -> Iterator[tuple[tarfile.TarInfo, _Headers]]:
    """All entries; raises VideoError when the tar does not end as one should."""
    if not stream.read(1):
        raise VideoError("empty", "the shard holds no bytes")
    gzipped = is_gzipped(stream)
    if gzipped:
        tar = _Headers(cast(BinaryIO, gzip.GzipFile(fileobj=stream)), UNPACKED_LIMIT_BYTES)
    else:
        tar = _Headers(stream, None)
    position = -1
    try:
        archive = tarfile.open(fileobj=tar, mode="r:")  # type: ignore[call-overload]  # noqa: SIM115
        while (entry := archive.next()) is not None:
            # A negative size would send tarfile round in a circle.
            if entry.offset <= position or not 0 <= entry.size < _LARGEST_BYTES:
                raise VideoError("corrupt", f"damaged tar header after byte {max(position, 0)}")
            said = archive.pax_headers
            if len(said) > _GLOBAL_LIMIT or sum(map(len, said.values())) > _GLOBAL_LIMIT_BYTES:
                raise VideoError("corrupt", f"too much metadata for all members after byte {max(position, 0)}")
            position = entry.offset
            archive.members = []  # tarfile would keep them all
            yield entry, tar
            tar.begin()
    except (EOFError, tarfile.ReadError) as error:
        words = str(error)
        cut = isinstance(error, EOFError) or "end of data" in words or "truncated" in words
        kind: ErrorKind = "empty" if words == "empty file" else "truncated" if cut else "corrupt"
        raise VideoError(kind, f"damaged shard: {words}") from None
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, ValueError, OverflowError, RecursionError) as error:
        raise VideoError("corrupt", f"damaged shard: {error}") from None
    if 0 < len(tar.last) < tarfile.BLOCKSIZE:
        raise VideoError("truncated", f"the shard ends at byte {archive.offset + len(tar.last)} inside a header")
    if tar.last.strip(b"\0"):
        raise VideoError("corrupt", f"damaged tar header at byte {archive.offset}: what follows cannot be found")
    if not tar.last:
        raise VideoError("truncated", f"the shard ends at byte {archive.offset} without an end mark")
