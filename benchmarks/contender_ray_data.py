"""An archive in, one `frames` table out: a plain Ray Data program as Ray's documentation teaches it, for chain.py.

read_videos with its own fps and resize -> map_batches(model class) in its own actor pool -> write_parquet.
All videos of the archive have one shape (16:9), so that one `resize` and a centre crop are the model's preprocessing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray_health
from ray.data import ActorPoolStrategy

RESIZE = (256, 455)  # height, width of a 16:9 frame whose shorter side is 224 / 0.875
CROP = 224
TOP_K = 5


class Classify:
    """Batches of frames in, top-k labels and scores out."""

    def __init__(self, model: str, num_threads: int) -> None:
        import torch

        from vidbatch import models, networks

        torch.set_num_threads(num_threads)
        spec, weights = models.load_spec(models.find_model(model))
        self._network = networks.build(spec, weights, "cpu")
        self._labels = np.array(spec.labels, dtype=object)

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
        """Centre crop, network, top-k: numpy batches of frames in, columns of one row a frame out."""
        import torch

        frames = batch["frame"]
        top, left = (frames.shape[1] - CROP) // 2, (frames.shape[2] - CROP) // 2
        crops = np.ascontiguousarray(frames[:, top : top + CROP, left : left + CROP])
        with torch.inference_mode():
            probabilities, _ = self._network(torch.from_numpy(crops))
            scores, indices = probabilities.topk(TOP_K)
        labels = self._labels[indices.numpy()]
        return {
            "path": batch["path"],
            "frame_index": batch["frame_index"],
            "pts_seconds": np.asarray(batch["frame_timestamp"])[:, 0],
            "label": labels[:, 0],
            "score": scores[:, 0].numpy(),
            "top_k_labels": [row.tolist() for row in labels],
            "top_k_scores": [row.tolist() for row in scores],
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("archive", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="efficientnet-lite0")
    parser.add_argument("--settings", default="{}", help="JSON, see loads() of chain.py")
    options = parser.parse_args()
    settings = {
        "interval_seconds": 1,
        "read_cpus": 1.0,
        "read_concurrency": None,
        "num_blocks": None,
        "model_actors": 1,
        "model_cpus": 1.0,
        "model_threads": 1,
        "batch_size": 32,
        "write_cpus": 1.0,
        **json.loads(options.settings),
    }
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    paths = sorted(str(path) for path in options.archive.iterdir())
    blocks = settings["num_blocks"]
    frames = ray.data.read_videos(
        paths,
        fps=1,
        resize=RESIZE,
        include_paths=True,
        include_timestamps=True,
        num_cpus=settings["read_cpus"],
        concurrency=settings["read_concurrency"],
        override_num_blocks=len(paths) if blocks == "one_per_file" else blocks,
    )
    if (interval := settings["interval_seconds"]) > 1:  # `fps` takes whole rates only
        frames = frames.filter(lambda row: round(row["frame_timestamp"][0]) % interval == 0)
    labelled = frames.map_batches(
        Classify,
        fn_constructor_args=(options.model, settings["model_threads"]),
        batch_size=settings["batch_size"],
        compute=ActorPoolStrategy(size=settings["model_actors"]),
        num_cpus=settings["model_cpus"],
    )
    labelled.write_parquet(str(options.output / "frames"), ray_remote_args={"num_cpus": settings["write_cpus"]})
    health = ray_health.report()
    ray.shutdown()
    print(json.dumps({"videos": len(paths), "settings": settings, **health}))


if __name__ == "__main__":
    main()
