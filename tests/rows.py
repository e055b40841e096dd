"""Rows for tests of the sink and of publishing: predictions as a model gives them, tables as the sink makes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from vidbatch import schema, source

LABELS = ("cat", "dog", "fox", "owl")


def identity(number: int, version: str = "v1") -> dict[str, Any]:
    url = f"s3://archive/video-{number:05d}.mp4"
    return {
        "video_id": source.video_id(url, None),
        "url": url,
        "member": None,
        "etag": version,
        "size_bytes": 1000 + number,
        "content_version": f"{version}-{1000 + number}",
        "metadata": None,
    }


def scores(video: int, frame: int) -> np.ndarray[Any, Any]:
    """Probabilities that depend on the video and the frame, so that a swapped row shows."""
    raw = np.random.default_rng([video, frame]).random(len(LABELS), np.float32)
    return raw / raw.sum()


def chunk(
    video: int,
    frames: range,
    *,
    clip: tuple[int, int] = (0, 1),
    index: int = 0,
    last: bool = True,
    error: str | None = None,
    k: int = 2,
    embedding_size: int = 0,
) -> dict[str, Any]:
    probabilities = np.array([scores(video, f) for f in frames], np.float32).reshape(len(frames), len(LABELS))
    best = np.argsort(-probabilities, axis=1)[:, :k]
    header = {"container": "mp4", "codec": "h264", "width": 64, "height": 48, "duration_seconds": 9.0,
              "frame_rate": 25.0, "num_frames_from_header": 225}  # fmt: skip
    return {
        **identity(video),
        "clip_index": clip[0],
        "num_clips": clip[1],
        "chunk_index": index,
        "is_last_chunk": last,
        "num_frames": len(frames),
        "pts_seconds": [float(f) for f in frames],
        "is_keyframe": [f % 2 == 0 for f in frames],
        **(header if last else dict.fromkeys(header)),
        "error_kind": error,
        "error_message": None if error is None else f"it is {error}",
        "decode_cpu_seconds": 1.0 if last else None,
        "decode_wall_seconds": 2.0 if last else None,
        "read_bytes": 10 if last else None,
        "num_frames_decoded": 100 if last else None,
        "top_k_index": best.ravel().tolist(),
        "top_k_score": np.take_along_axis(probabilities, best, axis=1).ravel().tolist(),
        "score_sum": probabilities.sum(axis=0).tolist() if len(frames) else None,
        "embedding": np.full((len(frames), embedding_size), video, np.float16).tobytes() if embedding_size else None,
        "model_cpu_seconds": 0.5,
        "model_wall_seconds": 0.5,
    }


def predictions(*chunks: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(chunks), schema=schema.PREDICTIONS)


def video_and_frames(
    numbers: range,
    run_id: str,
    *,
    digest: str = "d1",
    version: str = "v1",
    num_frames: int = 3,
) -> tuple[pa.Table, pa.Table]:
    """Finished tables of these videos, as a sink would stage them."""
    finished = datetime(2026, 1, 1, tzinfo=UTC)
    provenance = {"config_digest": digest, "run_id": run_id}
    top = [{"label": "cat", "score": 0.5}]
    videos = [
        {**identity(n, version), **provenance, "status": "ok", "num_frames_sampled": num_frames, "label": "cat",
         "score": 0.5, "top_k": top, "model": "m", "finished_at": finished}
        for n in numbers
    ]  # fmt: skip
    frames = [
        {**{k: identity(n)[k] for k in ("video_id", "url", "member")}, **provenance, "frame_index": i,
         "pts_seconds": float(i), "is_keyframe": True, "label": "cat", "score": 0.5, "top_k": top}
        for n in numbers
        for i in range(num_frames)
    ]  # fmt: skip
    return (
        pa.Table.from_pylist(videos, schema=schema.VIDEOS),
        pa.Table.from_pylist(frames, schema=schema.frames_schema()),
    )
