"""The model stage: PIXELS chunks in, PREDICTIONS rows out: the same rows in the same order, pixels replaced by answers.

Frames of all chunks of a call are joined to full batches and taken apart again; no frame's answer depends on the
frames beside it. A chunk on which the model fails, alone and twice, or of which it says no finite scores, goes on
without frames, as an error of its video; so does one on which it hung twice (watch.py). Layout: frames_nhwc is uint8
RGB, as decode gives it; windows are of windows.window_dtype.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
import pyarrow as pa

from vidbatch import computing
from vidbatch.config import LabelConfig
from vidbatch.errors import ConfigError
from vidbatch.models import ModelSpec
from vidbatch.schema import PIXELS, PREDICTIONS, FrameSpec
from vidbatch.watch import MOST_HANGS, Watched
from vidbatch.windows import window_dtype
from vidbatch.yuv import Layout, to_rgb

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, Any]


def check_device(device: Literal["auto", "cpu", "cuda"], *, num_gpus: float | None = None) -> None:
    """Raise ConfigError when `cuda` was asked for and there is none.

    Args: `num_gpus` is what the cluster has; None asks torch about this machine (and imports it only for `cuda`).
    """
    if device != "cuda":
        return
    if num_gpus is None:
        import torch

        num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not num_gpus:
        raise ConfigError("device: 'cuda' is not allowed: there is no GPU here; allowed: auto, cpu")


class Classifier:
    """A model held ready on its device by one process; calls take and give tables."""

    def __init__(
        self, spec: ModelSpec, config: LabelConfig, weights: bytes, *, num_threads: int = 1, watch: Any = None
    ) -> None:
        """Build the model and send frames through once, so that the first call is as fast as the others.

        Args: `watch`, the actor's handle, is told of every call. `num_threads` cores of a CPU are used at once, as
        long as they are free (cores.py).
        """
        import torch

        from vidbatch.networks import build

        check_device(config.device)
        torch.set_num_threads(1)  # networks have their own: cores.py
        on_gpu = config.device != "cpu" and torch.cuda.is_available()
        how = computing.How(config.precision, config.compile, config.runtime)
        device = "cuda" if on_gpu else "cpu"
        self._network = cast(Any, build(spec, weights, device, num_threads=num_threads, how=how))
        self._is_padded = how.is_compiled
        self._frame = spec.frame
        self._window: np.dtype[Any] | None = None
        self._batch_size = config.batch_size
        if spec.video is not None:
            num_frames = spec.video.windows.num_frames
            self._window = window_dtype(num_frames, spec.frame.height, spec.frame.width)
            self._batch_size = max(1, config.batch_size // num_frames)
        self._top_k = min(config.top_k, len(spec.labels))
        self._embedding = config.embedding
        self._watched = Watched(watch)
        self._model_timeout_seconds = config.model_timeout_seconds
        while not self._warmed_up(self._batch_size if on_gpu or self._is_padded else 1):
            self._batch_size = -(-self._batch_size // 2)

    def _warmed_up(self, num_frames: int) -> bool:
        """Send frames (or windows) of nothing through; False if there is no memory on the GPU for more than one."""
        import torch

        try:
            if self._window is not None:
                self._network(np.zeros(num_frames, self._window))
            else:
                self._network(
                    torch.zeros((num_frames, *_shape(self._frame)), dtype=torch.uint8).to(self._network.device)
                )
        except torch.OutOfMemoryError:
            if num_frames == 1:
                raise
            return False
        return True

    def __call__(self, table: pa.Table) -> pa.Table:
        """PREDICTIONS of a PIXELS table of any number of rows; rows without frames pass through.

        Process CPU and wall seconds of the call are shared out by the number of frames.
        """
        started, cpu_started = time.perf_counter(), time.process_time()
        chunks = [
            self._chunk(cell, layout)
            for cell, layout in zip(table.column("frames"), table.column("layout").to_pylist(), strict=True)
        ]
        counts, answers, faults = self._watched_answers(chunks, table)
        cpu_seconds, wall_seconds = time.process_time() - cpu_started, time.perf_counter() - started
        columns = _answer_columns(counts, answers)
        share = counts / counts.sum() if counts.any() else np.zeros(len(counts))
        columns["model_cpu_seconds"] = pa.array(share * cpu_seconds)
        columns["model_wall_seconds"] = pa.array(share * wall_seconds)
        for field in PIXELS:
            if field.name in PREDICTIONS.names:
                columns[field.name] = table.column(field.name)
        if faults:
            columns |= _without_frames(table, faults)
        return pa.table([columns[field.name] for field in PREDICTIONS], names=PREDICTIONS.names).cast(PREDICTIONS)

    def _watched_answers(self, chunks: list[Array | Tensor], table: pa.Table) -> _Answers:
        """What the model says of all chunks, known to the watch; a chunk that it hung on before is tried alone."""
        names = [
            f"{video_id}/{clip}/{chunk}"
            for video_id, clip, chunk in zip(
                *(table.column(name).to_pylist() for name in ("video_id", "clip_index", "chunk_index")), strict=True
            )
        ]
        urls = table.column("url").to_pylist()
        hangs = self._watched.hangs(names)
        answers = None
        for start, end in _apart([count > 0 for count in hangs]):
            if hangs[start] >= MOST_HANGS:
                said = f"no answer within {self._model_timeout_seconds:g} s, in {hangs[start]} tries"
                part = self._no_answer(chunks[start], said)
            else:
                num_frames = sum(len(chunk) for chunk in chunks[start:end])
                allowed = self._model_timeout_seconds * max(1, -(-num_frames // self._batch_size))
                with self._watched.on(names[start:end], urls[start:end], allowed):
                    part = self._answers(chunks[start:end])
            answers = part if answers is None else _joined(answers, part)
        return self._answers([]) if answers is None else answers

    def _no_answer(self, chunk: Array | Tensor, said: str) -> _Answers:
        none = np.zeros(1, np.int64)
        return _Answers(none, self._classify([chunk[:0]], none), {0: said})

    def _answers(self, chunks: list[Array | Tensor], *, is_last_try: bool = False) -> _Answers:
        """What the model says of all chunks; halves of those that it fails on are tried again, down to one chunk."""
        import torch

        counts = np.array([len(chunk) for chunk in chunks], dtype=np.int64)
        try:
            return _finite(counts, self._classify(chunks, counts))
        except torch.AcceleratorError:  # the GPU is of no use to this process any more
            raise
        except Exception as error:  # noqa: BLE001  # whatever a network raises is about what it was given
            is_too_large = isinstance(error, torch.OutOfMemoryError) and self._batch_size > 1
            said = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        # Behind the handler: an exception that is being handled holds all that the failed call had on the GPU.
        if is_too_large:
            self._batch_size = -(-self._batch_size // 2)
            return self._answers(chunks)
        if len(chunks) > 1:
            middle = len(chunks) // 2
            return _joined(self._answers(chunks[:middle]), self._answers(chunks[middle:]))
        if not is_last_try:
            return self._answers(chunks, is_last_try=True)
        return self._no_answer(chunks[0], said)

    def _chunk(self, cell: pa.LargeBinaryScalar, layout: dict[str, Any] | None) -> Array | Tensor:
        """The frames of one chunk, uint8 n x height x width x 3: not copied, or made on the device out of planes."""
        if self._window is not None:
            return np.frombuffer(cell.as_buffer(), self._window)
        if layout is None:
            return _frames_nhwc(cell, self._frame)
        import torch

        of = Layout(**layout)
        pictures = np.frombuffer(cell.as_buffer(), np.uint8).reshape(-1, of.size_bytes)
        height, width, interpolation = self._frame.height, self._frame.width, self._frame.interpolation
        on_device = torch.from_numpy(pictures.copy()).to(self._network.device)  # torch warns of memory it cannot write
        return to_rgb(on_device, of, height=height, width=width, interpolation=interpolation)

    def _classify(self, chunks: list[Array | Tensor], counts: Array) -> dict[str, Array]:
        """Arrays over all frames in order: index and score (N x k), embedding (N x D); score_sum is rows x C."""
        import torch

        device = self._network.device
        row_of_frame = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(device)
        sums = torch.zeros((len(counts), len(self._network.labels)), device=device)
        indices, scores, embeddings = [], [], []
        first = 0
        for batch in self._batches(chunks):
            count = len(batch)
            if self._is_padded:
                batch = computing.padded(batch, self._batch_size)
            probabilities, embedding = (of[:count] for of in self._network(batch))
            sums.index_add_(0, row_of_frame[first : first + count], probabilities)
            best = probabilities.topk(self._top_k, dim=1)
            indices.append(best.indices.to(torch.int32))
            scores.append(best.values)
            if self._embedding:
                embeddings.append(embedding.to(torch.float16))
            first += count
        answers = {"index": indices, "score": scores, "embedding": embeddings, "score_sum": [sums]}
        return {name: torch.cat(parts).cpu().numpy() for name, parts in answers.items() if parts}

    def _batches(self, chunks: list[Array | Tensor]) -> Iterator[Any]:
        """The frames of all chunks in order, in batches of the set size on the device; the last may be smaller.

        Windows stay where they are: their network takes them to the device.
        """
        import torch

        if self._window is not None:
            windows = np.concatenate([np.empty(0, self._window), *map(np.asarray, chunks)])
            for start in range(0, len(windows), self._batch_size):
                yield windows[start : start + self._batch_size]
            return
        if any(isinstance(chunk, torch.Tensor) for chunk in chunks):
            device = self._network.device
            parts = [c if isinstance(c, torch.Tensor) else torch.from_numpy(c.copy()).to(device) for c in chunks]
            frames = torch.cat(parts)
            for start in range(0, len(frames), self._batch_size):
                yield frames[start : start + self._batch_size]
            return
        # Pinned memory lets a copy to the GPU run while the next batch is gathered; torch keeps it until it is done.
        pinned = self._network.device.type == "cuda"
        left = sum(len(chunk) for chunk in chunks)
        batch, filled = torch.empty(0), 0
        for chunk in chunks:
            while len(chunk):
                if filled == 0:
                    shape = (min(self._batch_size, left), *_shape(self._frame))
                    batch = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
                taken = chunk[: len(batch) - filled]
                batch.numpy()[filled : filled + len(taken)] = taken
                filled += len(taken)
                chunk = chunk[len(taken) :]
                if filled == len(batch):
                    yield batch.to(self._network.device, non_blocking=True)
                    left -= filled
                    filled = 0


class _Answers(NamedTuple):
    """Of a list of chunks: the frames that count, arrays over all of them in order, and what is wrong with which."""

    counts: Array  # int64 (chunks,)
    arrays: dict[str, Array]
    faults: dict[int, str]


def _apart(is_suspect: list[bool]) -> Iterator[tuple[int, int]]:
    """Ranges [start, end) of neighbours, in order: each suspect alone, the others together."""
    start = 0
    for end in range(1, len(is_suspect) + 1):
        if end == len(is_suspect) or is_suspect[end] or is_suspect[start]:
            yield start, end
            start = end


def _finite(counts: Array, arrays: dict[str, Array]) -> _Answers:
    """The answers without the chunks of which a frame has scores that are no numbers."""
    if "score" not in arrays or np.isfinite(arrays["score"]).all():
        return _Answers(counts, arrays, {})
    chunk_of_frame = np.repeat(np.arange(len(counts)), counts)
    wrong = np.bincount(chunk_of_frame[~np.isfinite(arrays["score"]).all(axis=1)], minlength=len(counts))
    faults = {
        int(at): f"the model's scores of {wrong[at]} of {counts[at]} frames are not finite"
        for at in np.flatnonzero(wrong)
    }
    kept = (wrong == 0)[chunk_of_frame]
    arrays = {name: array if name == "score_sum" else array[kept] for name, array in arrays.items()}
    return _Answers(np.where(wrong, 0, counts), arrays, faults)


def _joined(first: _Answers, second: _Answers) -> _Answers:
    names = first.arrays.keys() | second.arrays.keys()  # without any frame, some are missing
    arrays = {
        name: np.concatenate([part.arrays[name] for part in (first, second) if name in part.arrays]) for name in names
    }
    faults = first.faults | {len(first.counts) + at: said for at, said in second.faults.items()}
    return _Answers(np.concatenate([first.counts, second.counts]), arrays, faults)


def _without_frames(table: pa.Table, faults: dict[int, str]) -> dict[str, pa.Array]:
    """The columns that change where the model failed: no frames, and an error."""
    columns = {
        name: table.column(name).to_pylist()
        for name in ("num_frames", "pts_seconds", "is_keyframe", "error_kind", "error_message")
    }
    for at, said in faults.items():
        columns["num_frames"][at], columns["pts_seconds"][at], columns["is_keyframe"][at] = 0, [], []
        columns["error_kind"][at], columns["error_message"][at] = "model", said
    return {name: pa.array(values, PREDICTIONS.field(name).type) for name, values in columns.items()}


def _shape(frame: FrameSpec) -> tuple[int, int, int]:
    return frame.height, frame.width, 3


def _frames_nhwc(cell: pa.LargeBinaryScalar, frame: FrameSpec) -> Array:
    """The frames of one chunk, uint8 n x height x width x 3, without copying them."""
    return np.frombuffer(cell.as_buffer(), np.uint8).reshape(-1, *_shape(frame))


def _answer_columns(counts: Array, answers: dict[str, Array]) -> dict[str, pa.Array]:
    """The columns that answers fill, one value a row, from arrays over all frames."""
    ends = np.cumsum(counts)
    starts = ends - counts
    empty = counts == 0
    num_classes = answers["score_sum"].shape[1]
    columns: dict[str, pa.Array] = {
        "top_k_index": _lists(answers.get("index"), np.append(starts, counts.sum()), np.int32),
        "top_k_score": _lists(answers.get("score"), np.append(starts, counts.sum()), np.float32),
        "score_sum": pa.ListArray.from_arrays(
            pa.array(np.append(0, np.cumsum(~empty) * num_classes).astype(np.int32)),
            pa.array(answers["score_sum"][~empty].ravel()),
            mask=pa.array(empty),
        ),
        "embedding": pa.nulls(len(counts), pa.large_binary()),
    }
    if "embedding" in answers:
        parts = [answers["embedding"][a:b].tobytes() if b > a else None for a, b in zip(starts, ends, strict=True)]
        columns["embedding"] = pa.array(parts, pa.large_binary())
    return columns


def _lists(values: Array | None, borders: Array, dtype: type) -> pa.ListArray:
    """One flat list a row, of frames [borders[i], borders[i + 1])."""
    flat = np.empty((0, 1), dtype) if values is None else values
    return pa.ListArray.from_arrays(pa.array((borders * flat.shape[1]).astype(np.int32)), pa.array(flat.ravel()))
