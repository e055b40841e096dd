"""Archives in, the clips still to do out: found lazily, known ones subtracted, small ones packed together.

An archive is a folder or prefix, a glob, a file, a tar shard or a manifest; none of it is ever in memory as a whole.
Only `archive_datasource` knows Ray.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa

from vidbatch import manifests, storage
from vidbatch.config import LabelConfig
from vidbatch.errors import ConfigError, VideoError
from vidbatch.sampling import parse_sampling
from vidbatch.schema import WORK, video_id
from vidbatch.shards import Clip, Found, ShardIndexes, clip_pages, may_be_video
from vidbatch.storage import StoredObject
from vidbatch.storage.globs import has_magic

Planner: TypeAlias = Callable[[Clip], list[Clip]]
"""One whole video in, its clips out: one for a short video, several for a long one."""

LONG_VIDEO_BYTES: Final = LabelConfig.model_fields["long_video_mb"].default * 2**20
"""Larger videos are planned, and their clips travel alone."""

PACK_BYTES: Final = 8 * 2**20
PACK_VIDEOS: Final = 32
PACKS_PER_SIZE: Final = 2
"""Packs of a size that each decoder gets before packs grow by one video: all decoders begin at once, and at the end of
a small archive none works long on a large pack while others have nothing left."""

SHARDS: Final = "_shards"
"""Folder of an output in which stands what its shards hold."""

_STAT_THREADS: Final = 32
_UNKNOWN_BYTES: Final = 4 * 2**20

_LOG = logging.getLogger(__name__)

Keys: TypeAlias = np.ndarray[Any, np.dtype[np.bytes_]]


# --- identity and what is done --------------------------------------------------------------------------------------


def done_key(video_id: str, content_version: str) -> bytes:
    """16 bytes that name one content of one video."""
    return hashlib.blake2b(f"{video_id}\0{content_version}".encode(), digest_size=16).digest()


class DoneVideos:
    """Which contents of which videos need no work: 16 bytes each, sorted.

    Args: pairs of (video_id, content_version), each of them a str or an Arrow array of strings.
    """

    def __init__(self, pairs: Iterable[tuple[Any, Any]] = ()) -> None:
        keys = bytearray()
        for ids, versions in pairs:
            if isinstance(ids, str):
                keys += done_key(ids, versions)
                continue
            for one_id, version in zip(ids.to_pylist(), versions.to_pylist(), strict=True):
                keys += done_key(one_id, version)
        self._keys: Keys = np.sort(np.frombuffer(keys, "S16"))

    def __len__(self) -> int:
        return len(self._keys)

    def contains(self, video_id: str, content_version: str) -> bool:
        """Whether this content of this video is done."""
        return bool(_member_of(self._keys, _keys_of([done_key(video_id, content_version)]))[0])

    def without(self, clips: list[Clip]) -> list[Clip]:
        """The clips whose videos are not done, in their order."""
        if not len(self._keys) or not clips:
            return clips
        keys = _keys_of(done_key(clip["video_id"], clip["content_version"]) for clip in clips)
        return [clip for clip, known in zip(clips, _member_of(self._keys, keys), strict=True) if not known]


def _keys_of(digests: Iterable[bytes]) -> Keys:
    return np.frombuffer(b"".join(digests), "S16")


def _member_of(known: Keys, keys: Keys) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which keys are among the sorted known ones."""
    if not len(known):
        return np.zeros(len(keys), bool)
    places = np.searchsorted(known, keys)
    return np.equal(known[np.minimum(places, len(known) - 1)], keys)


class _Seen:
    """Videos met so far, 16 bytes each: sorted runs that are merged when they have grown alike, as in an LSM tree."""

    def __init__(self) -> None:
        self._runs: list[Keys] = []
        self.num_repeated = 0

    def new(self, clips: list[Clip]) -> list[Clip]:
        """The clips whose video was not met before, in their order; the others are counted."""
        keys = _keys_of(bytes.fromhex(clip["video_id"]) for clip in clips)
        fresh = np.zeros(len(keys), bool)
        fresh[np.unique(keys, return_index=True)[1]] = True
        for run in self._runs:
            fresh &= ~_member_of(run, keys)
        self._add(np.sort(keys[fresh]))
        self.num_repeated += int(len(keys) - fresh.sum())
        return [clip for clip, is_new in zip(clips, fresh, strict=True) if is_new]

    def _add(self, run: Keys) -> None:
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]))
        self._runs.append(run)


# --- the archive ----------------------------------------------------------------------------------------------------


def check_inputs(config: LabelConfig) -> None:
    """Raise ConfigError for the first input that does not exist, cannot be read, or lacks a column that is needed."""
    times = _times_column(config)
    for source in config.inputs:
        if manifests.is_manifest(source):
            manifests.check(source, times)
        elif times is not None:
            raise ConfigError(
                f"sampling: '{config.sampling}' is not allowed: input {storage.redact(source)!r} is no manifest "
                f"({', '.join(manifests.MANIFEST_SUFFIXES)}) that could hold the times"
            )
        else:
            next(storage.list_objects(source), None)


def iter_pending(config: LabelConfig, done: DoneVideos) -> Iterator[Clip]:
    """One clip for each video of the archive that is not done, found as it is asked for, at most `config.limit`.

    What cannot be read comes with its `error_kind`. All inputs are checked first; raises ConfigError, StorageError.
    """
    check_inputs(config)
    yield from _pending(config, done, part=0, num_parts=1)


def iter_listed(config: LabelConfig) -> Iterator[tuple[str, Clip]]:
    """(input, clip) for every video that an input names, as often as it does: a manifest may name parts of one video.

    All inputs are checked first; raises ConfigError, StorageError.
    """
    check_inputs(config)
    indexes = ShardIndexes(storage.join(config.output, SHARDS), writes=False)
    for source in config.inputs:
        for page in _found(config.model_copy(update={"inputs": (source,)}), indexes, part=0, num_parts=1):
            yield from ((source, clip) for clip in page)


def _pending(
    config: LabelConfig, done: DoneVideos, *, part: int, num_parts: int, keeps_indexes: bool = False
) -> Iterator[Clip]:
    indexes = ShardIndexes(storage.join(config.output, SHARDS), writes=keeps_indexes)
    left = config.limit
    for page in _deduplicated(config, indexes, part=part, num_parts=num_parts):
        pending = done.without(page)
        yield from pending if left is None else pending[:left]
        if left is not None:
            left -= len(pending)
            if left <= 0:
                return


def _deduplicated(config: LabelConfig, indexes: ShardIndexes, *, part: int, num_parts: int) -> Iterator[list[Clip]]:
    # One listing cannot hold a URL twice; several, or a manifest, can.
    if len(config.inputs) == 1 and not manifests.is_manifest(config.inputs[0]):
        yield from _found(config, indexes, part=part, num_parts=num_parts)
        return
    seen = _Seen()
    for page in _found(config, indexes, part=part, num_parts=num_parts):
        yield seen.new(page)
    if seen.num_repeated:
        _LOG.warning("%d videos were given more than once; each is worked on once", seen.num_repeated)


def _found(config: LabelConfig, indexes: ShardIndexes, *, part: int, num_parts: int) -> Iterator[list[Clip]]:
    """All clips of the archive whose object falls to this part, in pages."""

    def is_mine(url: str) -> bool:
        return num_parts == 1 or int(video_id(url, None), 16) % num_parts == part

    for source in config.inputs:
        if manifests.is_manifest(source):
            yield from _from_manifest(source, _times_column(config), is_mine, indexes)
        else:
            yield from _from_listing(source, is_mine, indexes)


def _times_column(config: LabelConfig) -> str | None:
    sampling = parse_sampling(config.sampling)
    return str(sampling.value) if sampling.kind == "times" else None


def _from_listing(source: str, is_mine: Callable[[str], bool], indexes: ShardIndexes) -> Iterator[list[Clip]]:
    named = storage.normalise(source)
    root = named
    if has_magic(root):
        root = root[: min(root.find(magic) for magic in "*?[" if magic in root)].rpartition("/")[0]
    for page in storage.list_objects(source):
        yield from clip_pages(
            [
                Found(item)
                for item in page
                if is_mine(item.url) and (item.url == named or may_be_video(item.url.removeprefix(root)))
            ],
            indexes,
        )


def _from_manifest(
    source: str, times: str | None, is_mine: Callable[[str], bool], indexes: ShardIndexes
) -> Iterator[list[Clip]]:
    with ThreadPoolExecutor(_STAT_THREADS, thread_name_prefix="vidbatch-stat") as pool:
        for rows in manifests.batches(source, times):
            rows = [row for row in rows if is_mine(_url_of(row.url))]
            found = pool.map(_found_row, rows)
            # Rows of one shard together: it is then walked once for all of them.
            yield from clip_pages(sorted(found, key=lambda item: item.object.url if item.member else ""), indexes)


def _url_of(source: str) -> str:
    try:
        return storage.normalise(source)
    except ConfigError:
        return storage.redact(source)


def _found_row(row: manifests.Row) -> Found:
    try:
        return Found(storage.stat(row.url), row.member, row.times, row.metadata)
    except VideoError as error:
        unknown = StoredObject(_url_of(row.url), row.url)
        return Found(unknown, row.member, row.times, row.metadata, error)


# --- packs of work --------------------------------------------------------------------------------------------------


def iter_packs(
    clips: Iterable[Clip], planner: Planner, *, num_decoders: int = 1, long_video_bytes: int = LONG_VIDEO_BYTES
) -> Iterator[list[Clip]]:
    """Packs for one decode call each: small videos together, more and more of them, and clips of long ones alone."""
    pack: list[Clip] = []
    pack_bytes = num_packs = 0
    for clip in clips:
        size_bytes = _UNKNOWN_BYTES if clip["size_bytes"] is None else clip["size_bytes"]
        if clip["error_kind"] is not None:
            size_bytes = 0
        if size_bytes > long_video_bytes:
            for piece in planner(clip):
                num_packs += 1
                yield [piece]
            continue
        if pack and pack_bytes + size_bytes > PACK_BYTES:
            num_packs += 1
            yield pack
            pack, pack_bytes = [], 0
        pack.append(clip)
        pack_bytes += size_bytes
        if len(pack) >= min(PACK_VIDEOS, 1 + num_packs // (PACKS_PER_SIZE * num_decoders)):
            num_packs += 1
            yield pack
            pack, pack_bytes = [], 0
    if pack:
        yield pack


def read_work(
    config: LabelConfig,
    done: DoneVideos,
    planner: Planner,
    *,
    part: int,
    num_parts: int,
    num_decoders: int = 1,
    clips: Iterable[Clip] | None = None,
) -> Iterator[pa.Table]:
    """Tables of schema.WORK, one row (one pack) each, for one of `num_parts` disjoint parts of the archive.

    Args: `clips` stand for the archive, where given.
    """
    pending = clips
    if pending is None:
        pending = _pending(config, done, part=part, num_parts=num_parts, keeps_indexes=True)
    long_video_bytes = config.long_video_mb * 2**20
    for pack in iter_packs(pending, planner, num_decoders=num_decoders, long_video_bytes=long_video_bytes):
        yield pa.Table.from_pylist([{"clips": pack}], schema=WORK)


def archive_datasource(
    config: LabelConfig,
    done: DoneVideos,
    *,
    planner: Planner,
    num_read_tasks: int = 1,
    num_decoders: int = 1,
    clips: list[Clip] | None = None,
) -> Any:
    """A ray.data.Datasource of schema.WORK, one pack a row, listed lazily while the rows are consumed.

    Args: `planner` cuts a video of more than `config.long_video_mb` into clips, inside the read task.
    `num_read_tasks` list in parallel, each a disjoint part of the archive; with `config.limit` there is one. `clips`
    are worked on in place of all that can be listed. Ray must be running: what is done goes to the workers through its
    object store. Rows stay apart only under a `DataContext.target_max_block_size` of 1; Ray would gather thousands of
    them into one block otherwise.
    """
    import ray

    num_parts = 1 if config.limit is not None or clips is not None else num_read_tasks
    read_part = partial(_read_part, config, ray.put(done), planner, num_parts, num_decoders, clips)
    return _archive_class()(read_part, num_parts)


def _read_part(
    config: LabelConfig,
    done: Any,
    planner: Planner,
    num_parts: int,
    num_decoders: int,
    clips: list[Clip] | None,
    part: int,
) -> Iterator[pa.Table]:
    import ray

    yield from read_work(
        config, ray.get(done), planner, part=part, num_parts=num_parts, num_decoders=num_decoders, clips=clips
    )


@lru_cache(maxsize=1)
def _archive_class() -> type:
    """The Datasource, made when Ray is first needed: importing it takes seconds, and listing does without."""
    from ray.data import Datasource
    from ray.data.block import BlockMetadata
    from ray.data.datasource import ReadTask

    class Archive(Datasource):  # type: ignore[misc]
        def __init__(self, read_part: Callable[[int], Iterator[pa.Table]], num_parts: int) -> None:
            super().__init__()
            self._read_part = read_part
            self._num_parts = num_parts

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(
            self,
            parallelism: int,  # noqa: ARG002  # as many tasks as were asked for, whatever Ray would like
            per_task_row_limit: int | None = None,
            data_context: Any = None,  # noqa: ARG002
        ) -> list[Any]:
            unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [
                ReadTask(partial(self._read_part, part), unknown, per_task_row_limit=per_task_row_limit)
                for part in range(self._num_parts)
            ]

    return Archive
