"""Staged results in, published tables out: what is in `videos/` and `frames/` is only ever changed here.

Layout of an output:

    videos/[date=YYYY-MM-DD/]bucket=NN.parquet     one file per range of video_id, replaced whole
    frames/[date=YYYY-MM-DD/]bucket=NN.parquet
    enhanced/[date=YYYY-MM-DD/]bucket=NN.parquet   of `enhance`: by the same protocol, without the steps of `frames`
    _runs/layout.json                              number of buckets and partitioning, fixed by the first run
    _runs/<run_id>.json                            run record
    _runs/<run_id>/staged/<date>/NNNNN.{frames,videos,enhanced}.parquet   finished, not yet published
    _shards/<hash of url and version>.parquet      what a tar shard holds (shards.py); may be deleted at any time

The protocol:
1. A part is staged `frames` first, `videos` second; a part without its `videos` file does not exist.
2. A bucket's new content is old rows minus the videos in the parts, plus the parts' rows; of two runs with the same
   video the later one (by run id) wins. `frames` is replaced before `videos`, each only if nobody changed it since
   it was read; otherwise the merge starts over. So a glob over the files shows each video at most once, and a video
   is done when its `videos` row stands. Nobody overwrites `frames` of a later run, though its `videos` row may still
   be missing: whichever way two runs interleave, both tables end with the same run's rows.
3. A shard that could not be read has a row of its own; rows of its members take its place.
4. Parts are deleted after every bucket is published. Whoever starts next publishes what a dead run left: merging
   a part twice changes nothing.

Every write of a run has a name, and a run may die before it, after it and, where it is of several files, midway:

    probe            a file that nobody reads, written to learn what the store can do; what is left may be deleted
    layout           created only if there is none, never changed: a run reads it after writing it, or another's
    record           describes and decides nothing: a kill leaves one that says `running`
    shard index      a copy of what the shard says, by url and version: without it the shard is walked again
    stage frames     before `stage videos` there is no part: its videos have no row and are worked on again. The run id
                     in the path is nobody else's, so what is left is read by nobody
    stage videos     from here on the part is there for whoever comes next, whole: `frames` was written before
    publish frames   before: nothing has changed. After: the part is still staged, and its next merge finds the same
                     rows of the same run in `frames` and puts them there again; meanwhile `videos` says what it said
    publish videos   after it the videos are done. The part is still staged: merged again, it replaces rows by
                     themselves, or, where a later run has published them, is left out
    discard videos   every bucket of every part is published. Of the parts that are left a merge changes nothing
    discard frames   these parts do not exist any more; what is left is read by nobody

That two runs, alive or dying, end with the same tables in every order of their steps with two changes of turn is
enumerated in tests/test_publish.py, as is a death at each moment above; `make chaos` does it to whole runs.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vidbatch import schema, storage
from vidbatch.config import LabelConfig
from vidbatch.errors import TRANSIENT_KINDS, ConfigError, PublishConflict
from vidbatch.metrics import RUNS

ROW_GROUP_ROWS = 65_536
"""Small enough that min/max statistics prune, large enough that zstd and readers are efficient."""
MAX_CONFLICTS = 50
FILES_AHEAD: Final = 8
"""Staged parts fetched at once while they are merged."""
RESULTS_VERSION: Final = 1
"""Raised when the same settings give other results than before (decoding, resizing, pooling): relabels everything."""


class Tables(NamedTuple):
    """What a kind of run publishes: a table of one row a video and, if it has one, `frames` of several."""

    videos: str
    schema: pa.Schema
    has_frames: bool

    @property
    def suffix(self) -> str:
        """How the name of a staged part ends."""
        return f".{self.videos}.parquet"


LABELS: Final = Tables("videos", schema.VIDEOS, has_frames=True)
ENHANCED: Final = Tables("enhanced", schema.ENHANCED, has_frames=False)


class Layout(NamedTuple):
    """How an output is divided into files; fixed by its first run."""

    buckets: int
    partition_by: str

    def bucket_of(self, video_id: str) -> int:
        """Bucket number: equal ranges of the id's first 32 bits, so that sorting by id groups buckets."""
        return int(video_id[:8], 16) * self.buckets >> 32

    def is_in(self, bucket: int) -> pc.Expression:
        """Filter for the rows of a bucket."""
        low, high = (f"{-(-(number << 32) // self.buckets):08x}" for number in (bucket, bucket + 1))
        at_least = pc.field("video_id") >= low
        return at_least if bucket + 1 == self.buckets else at_least & (pc.field("video_id") < high)

    def file_name(self, bucket: int) -> str:
        """`bucket=03.parquet`, zero-padded so that listings sort."""
        return f"bucket={bucket:0{len(str(self.buckets - 1))}d}.parquet"


def open_layout(config: LabelConfig) -> Layout:
    """Read the output's layout, or fix it now; ConfigError when the settings ask for another one."""
    content = {
        "schema_version": schema.SCHEMA_VERSION,
        "buckets": config.buckets,
        "partition_by": config.partition_by,
    }
    storage.put_if(_layout_url(config.output), json.dumps(content).encode(), expected=None)
    layout = read_layout(config)
    assert layout is not None, "it was there, or has just been written"
    return layout


def read_layout(config: LabelConfig) -> Layout | None:
    """The layout that the first run fixed, None before it; ConfigError when the settings ask for another one."""
    content, _ = storage.read_with_version(_layout_url(config.output))
    if content is None:
        return None
    stored = json.loads(content)
    where = storage.redact(config.output)
    if stored["schema_version"] != schema.SCHEMA_VERSION:
        raise ConfigError(
            f"output: {where!r} was written with schema version {stored['schema_version']}, "
            f"this vidbatch writes {schema.SCHEMA_VERSION}: use another output"
        )
    for name in ("buckets", "partition_by"):
        asked = getattr(config, name)
        if name in config.model_fields_set and asked != stored[name]:
            raise ConfigError(
                f"{name}: {asked!r} is not allowed: {where!r} was laid out with {stored[name]!r} by its first run"
            )
    return Layout(stored["buckets"], stored["partition_by"])


def _layout_url(output: str) -> str:
    return storage.join(output, RUNS, "layout.json")


def encode_parquet(table: pa.Table) -> bytes:
    """Parquet bytes with zstd, statistics and a page index."""
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        row_group_size=ROW_GROUP_ROWS,
        write_statistics=True,
        write_page_index=True,
    )
    return buffer.getvalue()


def config_digest(config: LabelConfig, model_digest: str) -> str:
    """32 hex digits over everything that changes a result, and nothing else."""
    parts: dict[str, Any] = {
        "results_version": RESULTS_VERSION,
        "schema_version": schema.SCHEMA_VERSION,
        "model": model_digest,
        "sampling": config.sampling,
        "top_k": config.top_k,
        "embedding": config.embedding,
    }
    usual = {"hand_over": "rgb", "precision": "auto"}
    parts |= {name: getattr(config, name) for name in usual if getattr(config, name) != usual[name]}
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


# --- what is already done -------------------------------------------------------------------------------------------


@dataclass
class Published:
    """What the published `videos` say, a page at a time: nothing here grows with the archive but id hashes."""

    output: str
    layout: Layout
    table: str = "videos"
    _files: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._files = [
            url for url in storage.list_files(storage.join(self.output, self.table)) if url.endswith(".parquet")
        ]

    def done(self, config_digest: str, *, retry_failed: bool) -> Iterator[tuple[pa.Array, pa.Array]]:
        """Arrays of (video_id, content_version) that a run with this digest need not look at again."""
        columns = ["video_id", "content_version", "config_digest", "error_kind"]
        for url in self._files:
            table = pq.read_table(io.BytesIO(storage.read_bytes(url)), columns=columns)
            finished = pc.is_null(table["error_kind"])
            if not retry_failed:
                transient = pc.is_in(table["error_kind"], pa.array(sorted(TRANSIENT_KINDS)))
                finished = pc.invert(transient)
            table = table.filter(pc.and_(finished, pc.equal(table["config_digest"], config_digest)))
            yield table["video_id"].combine_chunks(), table["content_version"].combine_chunks()

    def first_seen(self) -> FirstSeen:
        """Which date partition each published video lives in (only for outputs partitioned by date)."""
        ids, days = [np.empty(0, "S16")], [np.empty(0, np.int32)]
        for url in self._files if self.layout.partition_by == "date" else []:
            day = date.fromisoformat(url.split("date=")[1].split("/")[0]).toordinal()
            column = pq.read_table(io.BytesIO(storage.read_bytes(url)), columns=["video_id"])["video_id"]
            ids.append(_id_keys(column))
            days.append(np.full(len(column), day, np.int32))
        return FirstSeen(np.concatenate(ids), np.concatenate(days))


def _id_keys(video_ids: Iterable[Any]) -> np.ndarray[Any, np.dtype[np.bytes_]]:
    return np.frombuffer(b"".join(bytes.fromhex(str(v)) for v in video_ids), "S16")


class FirstSeen:
    """Date partition of each known video, in 20 bytes a video."""

    def __init__(self, ids: np.ndarray[Any, Any], days: np.ndarray[Any, Any]) -> None:
        order = np.argsort(ids)
        self._ids, self._days = ids[order], days[order]

    def partition(self, video_id: str, today: date) -> str:
        """`date=YYYY-MM-DD`, of the first run that saw the video."""
        key = np.frombuffer(bytes.fromhex(video_id), "S16")[0]
        at = int(np.searchsorted(self._ids, key))
        known = at < len(self._ids) and self._ids[at] == key
        return f"date={date.fromordinal(int(self._days[at])) if known else today}"


# --- staged parts ---------------------------------------------------------------------------------------------------


def stage_part(output: str, run_id: str, partition: str, number: int, videos: pa.Table, frames: pa.Table) -> str:
    """Write finished videos durably, out of readers' sight; returns the url of the part's `videos` file."""
    base = storage.join(output, RUNS, run_id, "staged", partition or "all", f"{number:05d}")
    storage.put(f"{base}.frames.parquet", encode_parquet(frames.sort_by("video_id")))
    storage.put(f"{base}.videos.parquet", encode_parquet(videos.sort_by("video_id")))
    return f"{base}.videos.parquet"


def stage_rows(output: str, run_id: str, tables: Tables, partition: str, number: int, videos: pa.Table) -> str:
    """The same for a kind of run that publishes no `frames`."""
    url = storage.join(output, RUNS, run_id, "staged", partition or "all", f"{number:05d}{tables.suffix}")
    storage.put(url, encode_parquet(videos.sort_by("video_id")))
    return url


def staged_parts(output: str, tables: Tables = LABELS) -> list[str]:
    """Urls of the `videos` files of all parts staged, by any run."""
    files = storage.list_files(storage.join(output, RUNS))
    return sorted(url for url in files if "/staged/" in url and url.endswith(tables.suffix))


def discard(parts: list[str]) -> None:
    """Delete parts, `videos` first: a part without it does not exist."""
    storage.delete(parts)
    storage.delete([_frames_of(part) for part in parts if part.endswith(LABELS.suffix)])


def _frames_of(part: str) -> str:
    return part.removesuffix(LABELS.suffix) + ".frames.parquet"


# --- publishing -----------------------------------------------------------------------------------------------------


def publish(output: str, layout: Layout, parts: list[str], tables: Tables = LABELS) -> None:
    """Publish staged parts and delete them: a bucket at a time, so that memory holds one bucket's rows."""
    by_partition: dict[str, list[str]] = {}
    for part in parts:
        by_partition.setdefault(part.split("/")[-2], []).append(part)
    for partition, members in sorted(by_partition.items()):
        touched: set[int] = set()
        walked: dict[str, str] = {}
        for _part, table in _read_ahead([(part, None) for part in members], ["video_id", "url", "member", "run_id"]):
            touched.update(layout.bucket_of(video_id) for video_id in table["video_id"].to_pylist())
            for shard_id, run_id in _walked_shards(table):
                walked[shard_id] = max(run_id, walked.get(shard_id, ""))
        touched.update(map(layout.bucket_of, walked))
        for bucket in sorted(touched):
            place = [] if partition == "all" else [partition]
            name = layout.file_name(bucket)
            videos_url = storage.join(output, tables.videos, *place, name)
            frames_url = storage.join(output, "frames", *place, name)
            _publish_bucket(tables, videos_url, frames_url, layout.is_in(bucket), members, walked)
    discard(parts)


def _walked_shards(table: pa.Table) -> Iterator[tuple[str, str]]:
    """(video_id that a shard itself has where it cannot be read, run) of each shard with rows of members here."""
    of_members = table.filter(pc.is_valid(table["member"]))
    latest = of_members.group_by("url", use_threads=False).aggregate([("run_id", "max")])
    for url, run_id in zip(latest["url"].to_pylist(), latest["run_id_max"].to_pylist(), strict=True):
        yield schema.video_id(url, None), run_id


def _publish_bucket(
    tables: Tables,
    videos_url: str,
    frames_url: str,
    is_in: pc.Expression,
    parts: list[str],
    walked: dict[str, str],
) -> None:
    """Merge the parts' rows of one bucket into its files; PublishConflict if others keep winning."""
    for _attempt in range(MAX_CONFLICTS):
        old_videos, videos_version = _read_versioned(videos_url)
        old_frames, frames_version = _read_versioned(frames_url) if tables.has_frames else (None, None)
        staged = dict(_read_ahead([(part, is_in) for part in parts]))
        winners = _newest(staged, old_videos, old_frames)
        outdated = _outdated(old_videos, walked)
        if not winners and not outdated:
            return
        wanted = {part: pc.field("video_id").isin(ids) for part, ids in winners.items()}
        new_videos = [staged[part].filter(expression) for part, expression in wanted.items()]
        replaced = pa.array([video_id for ids in winners.values() for video_id in ids], pa.string())
        videos = _merge(old_videos, pa.concat_arrays([replaced, outdated]), new_videos, tables.schema)
        is_put = True
        if winners and tables.has_frames:
            new_frames = [table for _url, table in _read_ahead([(_frames_of(part), wanted[part]) for part in wanted])]
            is_put = _put_table(frames_url, _merge(old_frames, replaced, new_frames, None), frames_version)
        if is_put and _put_table(videos_url, videos, videos_version):
            return
    raise PublishConflict(f"{storage.redact(videos_url)} was replaced by another run {MAX_CONFLICTS} times in a row")


def _newest(
    staged: dict[str, pa.Table], old_videos: pa.Table | None, old_frames: pa.Table | None
) -> dict[str, list[str]]:
    """Part -> video ids that it has to replace; videos that a later run has published, or begun to, are left out."""
    published, begun = _runs_of(old_videos), _runs_of(old_frames)
    best: dict[str, tuple[str, str]] = {}
    for part, table in staged.items():
        for video_id, run_id in _runs_of(table).items():
            is_later = run_id > published.get(video_id, "") and run_id >= begun.get(video_id, "")
            if is_later and run_id > best.get(video_id, ("", ""))[0]:
                best[video_id] = (run_id, part)
    winners: dict[str, list[str]] = {}
    for video_id, (_, part) in best.items():
        winners.setdefault(part, []).append(video_id)
    return winners


def _outdated(old_videos: pa.Table | None, walked: dict[str, str]) -> pa.Array:
    """Rows that earlier runs wrote of shards they could not read at that time: their video_ids."""
    if old_videos is None or not walked:
        return pa.array([], pa.string())
    was_transient = pc.is_in(old_videos["error_kind"], pa.array(sorted(TRANSIENT_KINDS)))
    rows = old_videos.filter(pc.and_(was_transient, pc.is_null(old_videos["member"]))).select(["video_id", "run_id"])
    pairs = zip(rows["video_id"].to_pylist(), rows["run_id"].to_pylist(), strict=True)
    return pa.array([video_id for video_id, run_id in pairs if run_id < walked.get(video_id, "")], pa.string())


def _runs_of(table: pa.Table | None) -> dict[str, str]:
    if table is None:
        return {}
    pairs = table.select(["video_id", "run_id"]).group_by(["video_id", "run_id"]).aggregate([])
    return dict(zip(pairs["video_id"].to_pylist(), pairs["run_id"].to_pylist(), strict=True))


def _merge(old: pa.Table | None, replaced: pa.Array, new: list[pa.Table], target: pa.Schema | None) -> pa.Table:
    """Old rows of all other videos plus the new ones, sorted by url, member and frame."""
    kept = [] if old is None else [old.filter(pc.invert(pc.is_in(old["video_id"], replaced)))]
    tables = kept + new
    target = target or _common_frames_schema([t.schema for t in tables])
    merged = pa.concat_tables([_fit(t, target) for t in tables])
    keys = [(name, "ascending") for name in ("url", "member", "frame_index") if name in target.names]
    return merged.sort_by(keys)


def _common_frames_schema(schemas: list[pa.Schema]) -> pa.Schema:
    """The newest rows decide about the embedding; where they have none, an older one is kept."""
    for candidate in reversed(schemas):
        if "embedding" in candidate.names:
            return schema.frames_schema(candidate.field("embedding").type.list_size)
    return schema.frames_schema()


def _fit(table: pa.Table, target: pa.Schema) -> pa.Table:
    columns = [
        table[f.name] if f.name in table.column_names and table[f.name].type == f.type else pa.nulls(len(table), f.type)
        for f in target
    ]
    return pa.table(columns, schema=target)


def _put_table(url: str, table: pa.Table, expected: str | None) -> bool:
    return storage.put_if(url, encode_parquet(table), expected=expected) is not None


def _read_versioned(url: str) -> tuple[pa.Table | None, str | None]:
    content, version = storage.read_with_version(url)
    return (None if content is None else pq.read_table(io.BytesIO(content))), version


def _read_ahead(
    files: Sequence[tuple[str, pc.Expression | None]], columns: list[str] | None = None
) -> Iterator[tuple[str, pa.Table]]:
    """(url, rows that pass its filter) of each file, in order, without those another run has published meanwhile.

    Bytes are fetched FILES_AHEAD at a time, but one file is parsed at a time: Arrow and malloc keep for each thread
    what it once needed (100,000 videos: 60 MB with one thread, 180 MB with four).
    """
    with ThreadPoolExecutor(FILES_AHEAD, thread_name_prefix="vidbatch-publish") as pool:
        for start in range(0, len(files), FILES_AHEAD):
            some = files[start : start + FILES_AHEAD]
            fetched = pool.map(lambda file: storage.read_with_version(file[0])[0], some)
            for (url, expression), content in zip(some, fetched, strict=True):
                if content is not None:
                    table = pq.ParquetFile(io.BytesIO(content)).read(columns=columns, use_threads=False)
                    yield url, table if expression is None else table.filter(expression)
