"""PREDICTIONS tables in, in any order; whole videos out, as staged parts of `videos` and `frames` rows.

A video may arrive as many chunks of many clips, shuffled with those of other videos. It is held until its last
chunk is there, then its frames are numbered, its scores mean-pooled over all frames of all clips (sum of float32
sums / count, so that cutting a video into clips changes no result by more than 1e-5), and its rows are complete.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa

from vidbatch import schema
from vidbatch.errors import TooManyFailures

STAGE_ROWS: Final = 200_000
"""A part is staged when this many frame rows are waiting, however short the time."""
STAGE_VIDEOS: Final = 1_000
"""Or so many videos: each takes some 10 kB while it waits and its row is made."""
HOPELESS_AFTER: Final = 100
"""When the first so many videos all fail for one reason, the run is stopped: the reason is not the videos."""

Row = dict[str, Any]
Array = np.ndarray[Any, Any]
_IDENTITY = [f.name for f in schema.IDENTITY]
_HEADER = [f.name for f in schema.HEADER]


@dataclass(slots=True)
class _Chunk:
    pts_seconds: Array  # float64 (n,)
    is_keyframe: Array  # bool (n,)
    top_k_index: Array  # int32 (n, k)
    top_k_score: Array  # float32 (n, k)
    embedding: Array | None  # float16 (n, d)
    score_sum: Array | None  # float32 (classes,)


@dataclass(slots=True)
class _Video:
    """One video in assembly: chunks by (clip, chunk), and what the last chunk of each clip said."""

    identity: Row
    num_clips: int
    chunks: dict[tuple[int, int], _Chunk] = field(default_factory=dict)
    last_chunk: dict[int, int] = field(default_factory=dict)
    header: Row = field(default_factory=dict)
    errors: dict[int, tuple[str, str]] = field(default_factory=dict)
    finished_at: datetime | None = None

    def is_complete(self) -> bool:
        return len(self.last_chunk) == self.num_clips and len(self.chunks) == sum(
            last + 1 for last in self.last_chunk.values()
        )

    @property
    def num_frames(self) -> int:
        return sum(len(chunk.pts_seconds) for chunk in self.chunks.values())

    @property
    def status(self) -> str:
        if not self.errors:
            return "ok"
        return "partial" if self.num_frames else "failed"


@dataclass(slots=True)
class Done:
    """What a run of any kind has done so far."""

    videos: int = 0
    frames: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    by_error_kind: Counter[str] = field(default_factory=Counter)
    read_bytes: int = 0
    frames_decoded: int = 0
    tell: Callable[[Row, str, str | None, str | None], None] | None = None
    """Is told of every finished video: its identity, status, error kind and message."""

    @property
    def failed(self) -> int:
        """Videos without any result."""
        return self.by_status["failed"]

    def add_video(self, identity: Row, status: str, error_kind: str | None, message: str | None) -> None:
        """Count a finished video. Raises TooManyFailures when the first ones all failed for one reason."""
        self.videos += 1
        self.by_status[status] += 1
        if error_kind is not None:
            self.by_error_kind[error_kind] += 1
        if self.tell is not None:
            self.tell(identity, status, error_kind, message)
        if self.failed == self.videos == HOPELESS_AFTER and len(self.by_error_kind) == 1:
            raise TooManyFailures(
                f"the first {HOPELESS_AFTER} videos all failed with {error_kind!r} (the last: {message}); "
                "nothing was published"
            )


@dataclass(slots=True)
class Totals(Done):
    """What a run has labelled so far; seconds are summed over workers."""

    decode_cpu_seconds: float = 0.0
    decode_wall_seconds: float = 0.0
    model_cpu_seconds: float = 0.0
    model_wall_seconds: float = 0.0

    def stages(self) -> dict[str, dict[str, float]]:
        """CPU and busy seconds, rows and bytes of every stage, for the run record."""
        return {
            "decode": {
                "cpu_seconds": round(self.decode_cpu_seconds, 3),
                "busy_seconds": round(self.decode_wall_seconds, 3),
                "frames_decoded": self.frames_decoded,
                "frames_kept": self.frames,
                "read_bytes": self.read_bytes,
            },
            "classify": {
                "cpu_seconds": round(self.model_cpu_seconds, 3),
                "busy_seconds": round(self.model_wall_seconds, 3),
                "frames": self.frames,
            },
            "sink": {"cpu_seconds": round(time.process_time(), 3), "videos": self.videos},
        }


class Sink:
    """Assembles videos from predictions and stages them.

    Args: `labels` names the model's classes by number; `embedding_size` is None without --embedding;
    `stage(partition, number, videos, frames)` makes one part durable, at least every `stage_seconds`.
    """

    def __init__(
        self,
        *,
        labels: tuple[str, ...],
        top_k: int,
        embedding_size: int | None,
        provenance: dict[str, str],
        model: str,
        stage_seconds: float,
        partition_of: Callable[[str, date], str],
        stage: Callable[[str, int, pa.Table, pa.Table], str],
    ) -> None:
        self._labels = pa.array(labels, pa.string())
        self._top_k = min(top_k, len(labels))
        self._frames_schema = schema.frames_schema(embedding_size)
        self._provenance = provenance
        self._model = model
        self._stage_seconds = stage_seconds
        self._partition_of = partition_of
        self._stage = stage
        self._open: dict[str, _Video] = {}
        self._finished: list[_Video] = []
        self._waiting_rows = 0
        self._waiting_since = time.monotonic()
        self._num_parts = 0
        self.totals = Totals()
        self.parts: list[str] = []

    def add(self, table: pa.Table) -> None:
        """Take one PREDICTIONS table; stage what has become complete when it is time."""
        for row in _rows(table):
            self._add_chunk(row)
        waited = time.monotonic() - self._waiting_since
        is_much = self._waiting_rows >= STAGE_ROWS or len(self._finished) >= STAGE_VIDEOS
        if self._finished and (is_much or waited >= self._stage_seconds):
            self.flush()

    def flush(self) -> None:
        """Stage every complete video; videos still in assembly are left for the next run."""
        today = datetime.now(UTC).date()
        groups: dict[str, list[_Video]] = {}
        for video in self._finished:
            groups.setdefault(self._partition_of(video.identity["video_id"], today), []).append(video)
        for partition, videos in groups.items():
            tables = self._videos_table(videos), self._frames_table([v for v in videos if v.num_frames])
            self.parts.append(self._stage(partition, self._num_parts, *tables))
            self._num_parts += 1
        self._finished = []
        self._waiting_rows = 0
        self._waiting_since = time.monotonic()

    def _add_chunk(self, row: Row) -> None:
        video = self._open.get(row["video_id"])
        if video is None:
            identity = {name: row[name] for name in _IDENTITY}
            video = self._open[row["video_id"]] = _Video(identity, row["num_clips"])
        key = (row["clip_index"], row["chunk_index"])
        if key in video.chunks:
            return  # a retried task may deliver what it had delivered before
        video.chunks[key] = row["chunk"]
        if row["error_kind"] is not None:
            video.errors.setdefault(row["clip_index"], (row["error_kind"], row["error_message"]))
        if row["is_last_chunk"]:
            video.last_chunk[row["clip_index"]] = row["chunk_index"]
            video.header = video.header or {n: row[n] for n in _HEADER if row[n] is not None}
        self._count(row)
        if video.is_complete():
            if any(kind == "model" for kind, _ in video.errors.values()):
                video.chunks.clear()  # what is left are frames with gaps between
            del self._open[row["video_id"]]
            video.finished_at = datetime.now(UTC)
            self._finished.append(video)
            self._waiting_rows += video.num_frames
            error = _first_error(video) if video.errors else (None, None)
            self.totals.add_video(video.identity, video.status, *error)

    def _count(self, row: Row) -> None:
        totals = self.totals
        totals.frames += row["num_frames"]
        totals.model_cpu_seconds += row["model_cpu_seconds"]
        totals.model_wall_seconds += row["model_wall_seconds"]
        totals.decode_cpu_seconds += row["decode_cpu_seconds"] or 0.0
        totals.decode_wall_seconds += row["decode_wall_seconds"] or 0.0
        totals.read_bytes += row["read_bytes"] or 0
        totals.frames_decoded += row["num_frames_decoded"] or 0

    def _videos_table(self, videos: list[_Video]) -> pa.Table:
        rows = [self._video_row(video) for video in videos]
        return pa.Table.from_pylist(rows, schema=schema.VIDEOS)

    def _video_row(self, video: _Video) -> Row:
        kind, message = _first_error(video) if video.errors else (None, None)
        row: Row = {
            **video.identity,
            **video.header,
            **self._provenance,
            "status": video.status,
            "error_kind": kind,
            "error_message": message,
            "num_frames_sampled": video.num_frames,
            "model": self._model,
            "finished_at": video.finished_at,
        }
        sums = [chunk.score_sum for chunk in video.chunks.values() if chunk.score_sum is not None]
        if video.num_frames and sums:
            means = np.stack(sums).sum(axis=0, dtype=np.float32) / np.float32(video.num_frames)
            best = np.argsort(-means, kind="stable")[: self._top_k]
            row["top_k"] = [{"label": self._labels[int(i)].as_py(), "score": means[i]} for i in best]
            row["label"], row["score"] = row["top_k"][0]["label"], row["top_k"][0]["score"]
        return row

    def _frames_table(self, videos: list[_Video]) -> pa.Table:
        """All frames of these videos, in order of clip and chunk, as one table."""
        if not videos:
            return self._frames_schema.empty_table()
        chunks = [video.chunks[key] for video in videos for key in sorted(video.chunks)]
        chunks = [chunk for chunk in chunks if len(chunk.pts_seconds)]
        counts = [video.num_frames for video in videos]
        total = sum(counts)

        def repeated(values: list[Any]) -> pa.Array:
            codes = pa.array(np.repeat(np.arange(len(counts), dtype=np.int32), counts))
            return pa.array(values, pa.string()).take(codes)

        index = np.concatenate([chunk.top_k_index for chunk in chunks])
        score = np.concatenate([chunk.top_k_score for chunk in chunks])
        columns: dict[str, Any] = {name: repeated([v.identity[name] for v in videos]) for name in _IDENTITY[:3]}
        columns |= {
            "frame_index": np.concatenate([np.arange(n, dtype=np.int32) for n in counts]),
            "pts_seconds": np.concatenate([chunk.pts_seconds for chunk in chunks]),
            "is_keyframe": np.concatenate([chunk.is_keyframe for chunk in chunks]),
            "label": self._labels.take(pa.array(index[:, 0])),
            "score": score[:, 0],
            "top_k": self._top_k_column(index, score),
            **{name: pa.repeat(pa.scalar(value), total) for name, value in self._provenance.items()},
        }
        if "embedding" in self._frames_schema.names:
            parts = [chunk.embedding for chunk in chunks if chunk.embedding is not None]
            columns["embedding"] = pa.FixedSizeListArray.from_arrays(
                pa.array(np.concatenate(parts).ravel()), type=self._frames_schema.field("embedding").type
            )
        return pa.table([pa.array(columns[f.name], f.type) for f in self._frames_schema], schema=self._frames_schema)

    def _top_k_column(self, index: Array, score: Array) -> pa.Array:
        num_rows, k = index.shape
        entries = pa.StructArray.from_arrays(
            [self._labels.take(pa.array(index.ravel())), pa.array(score.ravel())],
            fields=list(schema.TOP_K.value_type),
        )
        offsets = np.arange(num_rows + 1, dtype=np.int32) * np.int32(k)
        return pa.ListArray.from_arrays(pa.array(offsets), entries, type=schema.TOP_K)


def _first_error(video: _Video) -> tuple[str, str]:
    return video.errors[min(video.errors)]


def _rows(table: pa.Table) -> list[Row]:
    """Rows of a PREDICTIONS table: plain values, with the arrays of its frames as one _Chunk."""
    arrays = ("pts_seconds", "is_keyframe", "top_k_index", "top_k_score", "score_sum", "embedding")
    rows: list[Row] = table.drop_columns(list(arrays)).to_pylist()
    for at, row in enumerate(rows):
        cells = {name: table[name][at] for name in arrays}
        n = row["num_frames"]
        row["chunk"] = _Chunk(
            pts_seconds=_numbers(cells["pts_seconds"]),
            is_keyframe=_numbers(cells["is_keyframe"]).astype(bool),
            top_k_index=_numbers(cells["top_k_index"]).reshape(n, -1) if n else np.empty((0, 0), np.int32),
            top_k_score=_numbers(cells["top_k_score"]).reshape(n, -1) if n else np.empty((0, 0), np.float32),
            embedding=np.frombuffer(cells["embedding"].as_py(), np.float16).reshape(n, -1)
            if n and cells["embedding"].is_valid
            else None,
            score_sum=_numbers(cells["score_sum"]) if cells["score_sum"].is_valid else None,
        )
    return rows


def _numbers(cell: pa.ListScalar) -> Array:
    """A copy, so that the block it came in can be freed."""
    return np.array(cell.values.to_numpy(zero_copy_only=False))
