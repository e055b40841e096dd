"""An archive in, `videos` and `frames` tables out: two processes with PyAV and torch and no framework, for chain.py.

--mode shared: both processes take file after file from one queue and do everything (decode, model) themselves.
--mode split:  one process decodes, the other runs the model on batches that come through a queue.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing as mp
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CROP, SHORTER_SIDE = 224, 256
TOP_K = 5
Array = np.ndarray[Any, Any]


class Sample(NamedTuple):
    """The sampled frames of one video."""

    path: str
    frames_nhwc: Array  # uint8
    pts_seconds: list[float]
    is_keyframe: list[bool]


def decode(path: str) -> Sample:
    """The frames that are shown at 0, 1, 2, ... seconds, at the model's input size."""
    frames, times, keyframes = [], [], []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        shown, origin, wanted = None, None, 0
        for frame in container.decode(stream):
            if shown is None:
                origin = frame.pts
            elif wanted < (until := (frame.pts - origin) * frame.time_base):
                _keep(shown, frames, times, keyframes)
                wanted = math.ceil(until)
            shown = frame
        if shown is not None and wanted < (shown.pts + (shown.duration or 1) - origin) * shown.time_base:
            _keep(shown, frames, times, keyframes)
    return Sample(path, np.stack(frames), times, keyframes)


def _keep(frame: av.VideoFrame, frames: list[Array], times: list[float], keyframes: list[bool]) -> None:
    scale = SHORTER_SIDE / min(frame.width, frame.height)
    width, height = round(frame.width * scale), round(frame.height * scale)
    pixels = frame.reformat(width=width, height=height, format="rgb24", interpolation="BICUBIC").to_ndarray()
    top, left = (height - CROP) // 2, (width - CROP) // 2
    frames.append(pixels[top : top + CROP, left : left + CROP])
    times.append(float(frame.pts * frame.time_base))
    keyframes.append(bool(frame.key_frame))


class Model:
    """Sampled frames in; rows of both tables out."""

    def __init__(self, name: str, num_threads: int) -> None:
        import torch

        from vidbatch import models, networks

        torch.set_num_threads(num_threads)
        spec, weights = models.load_spec(models.find_model(name))
        self._network = networks.build(spec, weights, "cpu")
        self._labels = spec.labels

    def rows(self, sample: Sample) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The video's row, mean-pooled, and its frames' rows."""
        import torch

        with torch.inference_mode():
            probabilities, _ = self._network(torch.from_numpy(sample.frames_nhwc))
            mean = probabilities.mean(0, keepdim=True)
            top_of_frames, top_of_video = self._top(probabilities), self._top(mean)[0]
        frames = [
            {"url": sample.path, "frame_index": n, "pts_seconds": pts, "is_keyframe": key, **_best(top)}
            for n, (pts, key, top) in enumerate(zip(sample.pts_seconds, sample.is_keyframe, top_of_frames, strict=True))
        ]
        return {"url": sample.path, "num_frames_sampled": len(frames), **_best(top_of_video)}, frames

    def _top(self, probabilities: Any) -> list[list[dict[str, Any]]]:
        scores, indices = probabilities.topk(TOP_K)
        return [
            [{"label": self._labels[i], "score": s} for s, i in zip(row_s, row_i, strict=True)]
            for row_s, row_i in zip(scores.tolist(), indices.tolist(), strict=True)
        ]


def _best(top: list[dict[str, Any]]) -> dict[str, Any]:
    return {"label": top[0]["label"], "score": top[0]["score"], "top_k": top}


def _do_all(todo: Any, results: Any, model: str) -> None:
    try:
        network = Model(model, 1)
        for path in iter(todo.get, None):
            results.put(network.rows(decode(path)))
    finally:
        results.put(None)  # also when it breaks: the exit code then says so


def _decode_only(todo: Any, samples: Any) -> None:
    try:
        for path in iter(todo.get, None):
            samples.put(decode(path))
    finally:
        samples.put(None)


def _model_only(samples: Any, results: Any, model: str) -> None:
    try:
        network = Model(model, 1)
        for sample in iter(samples.get, None):
            results.put(network.rows(sample))
    finally:
        results.put(None)


def _start(mode: str, paths: list[str], model: str) -> Iterator[Any]:
    context = mp.get_context("spawn")
    todo, results, samples = context.Queue(), context.Queue(), context.Queue(8)
    if mode == "shared":
        jobs = [(_do_all, (todo, results, model))] * 2
    else:
        jobs = [(_decode_only, (todo, samples)), (_model_only, (samples, results, model))]
    workers = [context.Process(target=target, args=arguments) for target, arguments in jobs]
    for worker in workers:
        worker.start()
    num_readers, num_writers = (2, 2) if mode == "shared" else (1, 1)
    for path in [*paths, *[None] * num_readers]:
        todo.put(path)
    for _ in range(num_writers):
        yield from iter(results.get, None)
    for worker in workers:
        worker.join()
        if worker.exitcode != 0:
            raise RuntimeError(f"a worker ended with {worker.exitcode}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("archive", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--mode", choices=["shared", "split"], default="shared")
    parser.add_argument("--model", default="efficientnet-lite0")
    options = parser.parse_args()
    paths = sorted(str(path) for path in options.archive.iterdir())
    results = list(_start(options.mode, paths, options.model))
    for name, rows in (("videos", [v for v, _ in results]), ("frames", [f for _, fs in results for f in fs])):
        (options.output / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), options.output / name / "all.parquet", compression="zstd")
    print(json.dumps({"videos": len(results), "frames": sum(len(frames) for _, frames in results)}))


if __name__ == "__main__":
    main()
