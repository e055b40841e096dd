"""Objects in, clips out: a plain object is one video, a tar shard as many as it has members that may be videos.

Shards are walked by threads, a few ahead of the consumer, in an order that does not vary.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any, Final, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from vidbatch import storage
from vidbatch.errors import StorageError, VideoError
from vidbatch.schema import video_id
from vidbatch.storage import StoredObject
from vidbatch.storage import tar as storage_tar
from vidbatch.storage.types import pages_ahead

Clip: TypeAlias = dict[str, Any]
"""One row of schema.CLIP."""

_BLOCK_BYTES: Final = 2**18
_PAGE_MEMBERS: Final = 256
# A worker that meets members of two gzipped shards by turns would unpack both again and again.
_PAGE_MEMBERS_GZIPPED: Final = 100_000
_PAGE_BYTES: Final = 16 * 2**20
"""Of names and sidecars: a page that holds more ends, however few its members are."""
_INDEXED_MEMBERS: Final = 100_000
_INDEXED_BYTES: Final = 64 * 2**20
"""A shard of more members, each some hundred bytes in memory, or with more to say of them, is walked by every run."""
_MOST_LEVELS: Final = 100
"""What is nested deeper than this is left out where JSON cannot be written otherwise."""

_NOT_VIDEO: Final = frozenset(
    {
        *("txt", "json", "jsonl", "ndjson", "csv", "tsv", "parquet", "arrow", "feather", "xml", "yaml", "yml", "toml"),
        *("md", "rst", "log", "ini", "html", "htm", "pdf", "doc", "docx", "py", "ipynb", "sh", "db", "sqlite"),
        *("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "svg", "ico", "heic"),
        *("mp3", "wav", "flac", "aac", "m4a", "opus", "wma"),
        *("npy", "npz", "pt", "pth", "safetensors", "onnx", "pkl", "pickle", "h5"),
        *("cls", "idx", "srt", "vtt", "ass", "ssa", "sub", "nfo", "sfv", "md5", "sha1", "sha256", "torrent"),
        *("gz", "zip", "7z", "rar", "bz2", "xz", "zst", "part", "crdownload", "tmp", "lock"),
    }
)
"""Extensions that are skipped in listings and shards; a file that is named is always tried."""


class Found(NamedTuple):
    """A video or shard as an input names it."""

    object: StoredObject
    member: str | None = None
    """Given: only this member of the shard. None: all of a shard, or the object itself."""
    times: list[float] | None = None
    metadata: dict[str, Any] | None = None
    problem: VideoError | None = None
    """Why it is known to be unreadable."""


def may_be_video(path: str) -> bool:
    """False for hidden files, files in hidden folders, and extensions that no video has."""
    segments = [segment for segment in path.split("/") if segment not in ("", ".", "..")]
    if not segments or any(segment.startswith(".") for segment in segments):
        return False
    stem, dot, extension = segments[-1].rpartition(".")
    return storage_tar.is_shard(segments[-1]) or not (dot and stem and extension.lower() in _NOT_VIDEO)


class ShardIndexes:
    """What shards hold, kept in a folder so that each version of a shard is walked once: a Parquet file a shard.

    A cache: what cannot be read or written is done without.
    """

    _SCHEMA: Final = pa.schema(
        [
            pa.field("name", pa.string()),
            pa.field("offset", pa.int64()),
            pa.field("size_bytes", pa.int64()),
            pa.field("metadata", pa.string()),  # JSON
            pa.field("problem", pa.string()),
        ]
    )

    def __init__(self, folder: str, *, writes: bool) -> None:
        self._folder = folder
        self._writes = writes

    def read(self, shard: StoredObject) -> tuple[list[dict[str, Any]], bool] | None:
        """A row for each member that may be a video, and whether the shard is gzipped; None if it is to be walked."""
        if not _tells_changes(shard):
            return None
        try:
            content, _ = storage.read_with_version(self._url(shard))
            if content is None:
                return None
            table = pq.read_table(io.BytesIO(content), use_threads=False)
            rows: list[dict[str, Any]] = table.to_pylist()
            for row in rows:  # none is kept: what sidecars say takes many times the memory of its text
                _kept_member(row)
        except (StorageError, OSError, ValueError, TypeError, KeyError, RecursionError, pa.ArrowException):
            return None
        return rows, (table.schema.metadata or {}).get(b"gzipped") == b"1"

    def write(self, shard: StoredObject, rows: list[dict[str, Any]], *, gzipped: bool) -> None:
        """Keep what a walk found: rows of the schema."""
        if not self._writes or not _tells_changes(shard):
            return
        buffer = io.BytesIO()
        with_kind = self._SCHEMA.with_metadata({"gzipped": "1" if gzipped else "0"})
        pq.write_table(pa.Table.from_pylist(rows, schema=with_kind), buffer, compression="zstd")
        with suppress(StorageError):
            storage.put(self._url(shard), buffer.getvalue())

    def _url(self, shard: StoredObject) -> str:
        name = hashlib.blake2b(f"{shard.url}\0{shard.content_version}".encode(), digest_size=16).hexdigest()
        return storage.join(self._folder, f"{name}.parquet")


def _kept_member(row: dict[str, Any]) -> storage_tar.Member:
    return storage_tar.Member(**row | {"metadata": json.loads(row["metadata"])})


def _tells_changes(shard: StoredObject) -> bool:
    return shard.etag is not None or shard.mtime_seconds is not None


def clip_pages(found: Sequence[Found], indexes: ShardIndexes | None = None) -> Iterator[list[Clip]]:
    """One clip for each video in what was found, in pages; a shard that cannot be read is one failed clip."""
    places = []
    for shard, group in groupby(found, _shard_of):
        items = list(group)
        if shard is None:
            places.append(iter([[_clip(item, problem=item.problem) for item in items]]))
        elif items[0].member is not None:
            places.append(_named_members(items, indexes))
        else:
            places.extend(_all_members(item, indexes) for item in items)
    if all(_shard_of(item) is None for item in found):
        yield from places[0] if places else ()
    else:
        yield from pages_ahead(places, _next_page)


def _shard_of(item: Found) -> tuple[str, bool] | None:
    if item.problem is None and (item.member is not None or storage_tar.is_shard(item.object.url)):
        return item.object.url, item.member is None
    return None


def _next_page(pages: Iterator[list[Clip]]) -> tuple[list[Clip], list[Iterator[list[Clip]]]]:
    page = next(pages, None)
    return ([], []) if page is None else (page, [pages])


def _all_members(item: Found, indexes: ShardIndexes | None) -> Iterator[list[Clip]]:
    kept = None if indexes is None else indexes.read(item.object)
    if kept is not None:
        rows, gzipped = kept
        size = _PAGE_MEMBERS_GZIPPED if gzipped else _PAGE_MEMBERS
        for start in range(0, len(rows), size):
            yield [_clip(item, _kept_member(row), gzipped=gzipped) for row in rows[start : start + size]]
        return
    page: list[Clip] = []
    page_bytes = num_videos = num_bytes = 0
    walked: list[dict[str, Any]] | None = []
    gzipped = False
    problem: VideoError | None = None
    try:
        with storage.open_read(item.object.source, block_bytes=_BLOCK_BYTES, etag=item.object.etag) as stream:
            gzipped = storage_tar.is_gzipped(stream)
            for member in storage_tar.members(stream):
                if not may_be_video(member.name):
                    continue
                row = member._asdict() | {"metadata": _json(member.metadata)}
                size = len(member.name) + len(row["metadata"])
                num_videos, num_bytes = num_videos + 1, num_bytes + size
                if num_videos > _INDEXED_MEMBERS or num_bytes > _INDEXED_BYTES:
                    walked = None
                elif walked is not None:
                    walked.append(row)
                page.append(_clip(item, member, gzipped=gzipped))
                page_bytes += size
                if len(page) >= (_PAGE_MEMBERS_GZIPPED if gzipped else _PAGE_MEMBERS) or page_bytes > _PAGE_BYTES:
                    yield page
                    page, page_bytes = [], 0
    except VideoError as error:
        problem = error
    if problem is None and not num_videos:
        problem = VideoError("empty", "the shard has no member that may be a video")
    if problem is not None:
        page.append(_clip(item, problem=problem))
    elif indexes is not None and walked is not None:
        indexes.write(item.object, walked, gzipped=gzipped)
    yield page


def _named_members(items: list[Found], indexes: ShardIndexes | None) -> Iterator[list[Clip]]:
    """The members that manifest rows name; a shard that was not walked before is read until the last is found.

    What a walk for some of its members finds is not kept: it ends before the others.
    """
    shard = items[0].object
    wanted = {item.member: item for item in items}
    kept = None if indexes is None else indexes.read(shard)
    if kept is not None and wanted.keys() <= {row["name"] for row in kept[0]}:
        members: Iterator[storage_tar.Member] = (_kept_member(row) for row in kept[0] if row["name"] in wanted)
        yield [_clip(wanted.pop(m.name), _without_sidecars(m), gzipped=kept[1]) for m in members if m.name in wanted]
        return
    page: list[Clip] = []
    problem = VideoError("missing", "the shard has no such member")
    try:
        with storage.open_read(shard.source, block_bytes=_BLOCK_BYTES, etag=shard.etag) as stream:
            gzipped = storage_tar.is_gzipped(stream)
            for member in storage_tar.members(stream, sidecars=False):
                item = wanted.pop(member.name, None)
                if item is not None:
                    page.append(_clip(item, member, gzipped=gzipped))
                if not wanted:
                    break
    except VideoError as error:
        problem = error
    yield [*page, *(_clip(item, problem=problem) for item in wanted.values())]


def _without_sidecars(member: storage_tar.Member) -> storage_tar.Member:
    """The manifest says what there is to say of a member that it names."""
    return member._replace(metadata={})


def _clip(
    item: Found,
    member: storage_tar.Member | None = None,
    *,
    gzipped: bool = False,
    problem: VideoError | None = None,
) -> Clip:
    found = item.object
    name = member.name if member else item.member
    metadata = {**(member.metadata if member else {}), **(item.metadata or {})}
    if member is not None and member.problem:
        problem = VideoError("unsupported", member.problem)
    return {
        "video_id": video_id(found.url, name),
        "url": found.url,
        "member": name,
        "etag": found.etag,
        "size_bytes": member.size_bytes if member else None if name else found.size_bytes,
        "content_version": _content_version(found, item.times),
        "metadata": _json(metadata) if metadata else None,
        "source": found.source,
        "member_offset": member.offset if member and not gzipped else None,
        "clip_index": 0,
        "num_clips": 1,
        "start_seconds": None,
        "end_seconds": None,
        "times": item.times,
        "error_kind": problem.kind if problem else None,
        "error_message": storage.redact(problem.message) if problem else None,
    }


def _content_version(found: StoredObject, times: list[float] | None) -> str:
    """The object's own; with the times to look at, which are a part of what is asked of this one video."""
    if times is None:
        return found.content_version
    digest = hashlib.blake2b(repr(times).encode(), digest_size=8).hexdigest()
    return f"{found.content_version}-times:{digest}"


def _json(metadata: dict[str, Any]) -> str:
    """JSON that every reader takes: no NaN, nothing that is not Unicode; what JSON has no type for as text."""
    try:
        text = json.dumps(metadata, ensure_ascii=False, allow_nan=False, default=_json_text)
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(metadata, allow_nan=False, default=_json_text)
    except (ValueError, RecursionError):
        return _json(_writable(metadata, _MOST_LEVELS))
    return text


def _json_text(value: Any) -> Any:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _writable(value: Any, levels: int) -> Any:
    """The same with null for the numbers that JSON has not, and for what is nested deeper than so many levels."""
    if isinstance(value, dict):
        return {key: _writable(inner, levels - 1) for key, inner in value.items()} if levels else None
    if isinstance(value, list | tuple):
        return [_writable(inner, levels - 1) for inner in value] if levels else None
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value
