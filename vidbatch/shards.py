"""Objects in, clips out: a plain object is one video, a tar shard as many as it has members that may be videos.

Shards are walked by threads, a few ahead of the consumer, in an order that does not vary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple, TypeAlias

from vidbatch import storage
from vidbatch.errors import VideoError
from vidbatch.storage import StoredObject
from vidbatch.storage import tar as storage_tar
from vidbatch.storage.types import pages_ahead

Clip: TypeAlias = dict[str, Any]
"""One row of schema.CLIP."""

_BLOCK_BYTES: Final = 2**18
_PAGE_MEMBERS: Final = 256
# A worker that meets members of two gzipped shards by turns would unpack both again and again.
_PAGE_MEMBERS_GZIPPED: Final = 100_000

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


def video_id(url: str, member: str | None) -> str:
    """32 hex digits that name a video for good: a hash of its normalised URL and its member."""
    return hashlib.blake2b(f"{url}\0{member or ''}".encode(), digest_size=16).hexdigest()


def may_be_video(path: str) -> bool:
    """False for hidden files, files in hidden folders, and extensions that no video has."""
    segments = [segment for segment in path.split("/") if segment not in ("", ".", "..")]
    if not segments or any(segment.startswith(".") for segment in segments):
        return False
    stem, dot, extension = segments[-1].rpartition(".")
    return storage_tar.is_shard(segments[-1]) or not (dot and stem and extension.lower() in _NOT_VIDEO)


def clip_pages(found: Sequence[Found]) -> Iterator[list[Clip]]:
    """One clip for each video in what was found, in pages; a shard that cannot be read is one failed clip."""
    places = []
    for shard, group in groupby(found, _shard_of):
        items = list(group)
        if shard is None:
            places.append(iter([[_clip(item, problem=item.problem) for item in items]]))
        elif items[0].member is not None:
            places.append(_named_members(items))
        else:
            places.extend(_all_members(item) for item in items)
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


def _all_members(item: Found) -> Iterator[list[Clip]]:
    page: list[Clip] = []
    num_videos = 0
    problem: VideoError | None = None
    try:
        with storage.open_read(item.object.source, block_bytes=_BLOCK_BYTES) as stream:
            gzipped = storage_tar.is_gzipped(stream)
            for member in storage_tar.members(stream):
                if not may_be_video(member.name):
                    continue
                num_videos += 1
                page.append(_clip(item, member, gzipped=gzipped))
                if len(page) >= (_PAGE_MEMBERS_GZIPPED if gzipped else _PAGE_MEMBERS):
                    yield page
                    page = []
    except VideoError as error:
        problem = error
    if problem is None and not num_videos:
        problem = VideoError("empty", "the shard has no member that may be a video")
    if problem is not None:
        page.append(_clip(item, problem=problem))
    yield page


def _named_members(items: list[Found]) -> Iterator[list[Clip]]:
    """The members that manifest rows name; the shard is read until the last of them is found."""
    wanted = {item.member: item for item in items}
    page: list[Clip] = []
    problem = VideoError("missing", "the shard has no such member")
    try:
        with storage.open_read(items[0].object.source, block_bytes=_BLOCK_BYTES) as stream:
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
    except ValueError:
        return _json(_finite(metadata))
    return text


def _json_text(value: Any) -> Any:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _finite(value: Any) -> Any:
    """The same with null for the numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value
