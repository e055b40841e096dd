"""Stages with the interfaces of vidbatch's Decoder and Classifier that wait as long as the real ones were measured to.

They let one machine stand for many: a waiting worker takes no CPU, so what is left to see is the chain itself, that is
Ray, the driver and the sink. Frames are one byte each. All workers start together, once the last of them is up.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

BARRIER_SECONDS = 1200.0


class Waits(NamedTuple):
    """Seconds a video, its sampled frames, and the folder where every worker says that it is up."""

    decode_seconds: float
    model_seconds: float
    num_frames: int
    num_classes: int
    barrier: str
    num_workers: int


def wait_for_all(waits: Waits) -> None:
    """Return when all workers of all stages have called this."""
    folder = Path(waits.barrier)
    (folder / f"{os.getpid()}").touch()
    deadline = time.monotonic() + BARRIER_SECONDS
    while len(os.listdir(folder)) < waits.num_workers:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(os.listdir(folder))} of {waits.num_workers} workers came up")
        time.sleep(0.5)


def stages(waits: Waits) -> tuple[type, type]:
    """The decoder's class and the classifier's class, to be given to the chain in place of the real ones."""

    class WaitingDecoder:
        def __init__(self, _config: Any, _frame_spec: Any, _watch: Any) -> None:
            wait_for_all(waits)

        def __call__(self, work: pa.Table) -> Iterator[pa.Table]:
            for pack in work["clips"].to_pylist():
                for clip in pack:
                    time.sleep(waits.decode_seconds)
                    yield pixels(clip, waits)

    class WaitingClassifier:
        def __init__(self, _spec: Any, _config: Any, weights: Any, _num_threads: int, _watch: Any) -> None:
            import ray

            ray.get(weights)
            wait_for_all(waits)

        def __call__(self, table: pa.Table) -> pa.Table:
            time.sleep(waits.model_seconds * len(table))
            return predictions(table, waits)

    return WaitingDecoder, WaitingClassifier


def pixels(clip: dict[str, Any], waits: Waits) -> pa.Table:
    """One PIXELS row: the whole clip in one chunk."""
    from vidbatch import schema

    row = {name: clip[name] for name in (*(f.name for f in schema.IDENTITY), "clip_index", "num_clips")}
    row |= {
        "chunk_index": 0,
        "is_last_chunk": True,
        "num_frames": waits.num_frames,
        "pts_seconds": [float(n) for n in range(waits.num_frames)],
        "is_keyframe": [n == 0 for n in range(waits.num_frames)],
        "decode_cpu_seconds": 0.0,
        "decode_wall_seconds": waits.decode_seconds,
        "read_bytes": clip["size_bytes"],
        "num_frames_decoded": waits.num_frames,
        "frames": bytes(waits.num_frames),
    }
    return pa.Table.from_pylist([row], schema=schema.PIXELS)


def predictions(table: pa.Table, waits: Waits) -> pa.Table:
    """PREDICTIONS of as many rows, as large as real ones: five labels a frame and a score sum of every class."""
    import numpy as np

    from vidbatch import schema

    k = 5
    sums = np.full(waits.num_classes, waits.num_frames / waits.num_classes, np.float32)
    result = table.drop_columns(["frames"])
    columns = {
        "top_k_index": [list(range(k)) * n for n in table["num_frames"].to_pylist()],
        "top_k_score": [[1 / waits.num_classes] * k * n for n in table["num_frames"].to_pylist()],
        "score_sum": [sums] * len(table),
        "embedding": [None] * len(table),
        "model_cpu_seconds": [0.0] * len(table),
        "model_wall_seconds": [waits.model_seconds] * len(table),
    }
    for name, values in columns.items():
        result = result.append_column(name, pa.array(values, schema.PREDICTIONS.field(name).type))
    return result.select(schema.PREDICTIONS.names).cast(schema.PREDICTIONS)
