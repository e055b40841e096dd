"""An archive in, one `frames` table out: a plain Daft program as Daft's documentation teaches it, for chain.py.

read_video_frames with its own interval and resize -> a model class in its own processes -> write_parquet. It runs in
.venv-peers (scripts/install.sh peers), whose packages come first; what the network needs besides comes from .venv.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import daft
import numpy as np
from daft import DataType

REPOSITORY = Path(__file__).resolve().parent.parent
RESIZE = (256, 455)  # height, width of a 16:9 frame whose shorter side is 224 / 0.875
CROP = 224
TOP_K = 5
ROW = DataType.struct(
    {"top_k_labels": DataType.list(DataType.string()), "top_k_scores": DataType.list(DataType.float32())}
)


def reach_vidbatch() -> None:
    """Make the network importable, behind this environment's own packages."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    sys.path += [str(REPOSITORY), str(REPOSITORY / ".venv" / "lib" / version / "site-packages")]


def classifier(settings: dict[str, Any]) -> Callable[..., Any]:
    """The model class as Daft runs it."""

    @daft.cls(max_concurrency=settings["model_workers"], use_process=settings["use_process"])
    class Classify:
        def __init__(self, model: str, num_threads: int) -> None:
            reach_vidbatch()
            import torch

            from vidbatch import models, networks

            torch.set_num_threads(num_threads)
            spec, weights = models.load_spec(models.find_model(model))
            self._network = networks.build(spec, weights, "cpu")
            self._labels = np.array(spec.labels, dtype=object)

        @daft.method.batch(return_dtype=ROW, batch_size=settings["batch_size"])
        def classify(self, images: daft.Series) -> list[dict[str, Any]]:
            """Centre crop, network, top-k."""
            import torch

            pixels = images.to_arrow()
            pixels = getattr(pixels, "storage", pixels).flatten().to_numpy()
            frames = pixels.reshape(-1, *RESIZE, 3)
            top, left = (RESIZE[0] - CROP) // 2, (RESIZE[1] - CROP) // 2
            crops = np.ascontiguousarray(frames[:, top : top + CROP, left : left + CROP])
            with torch.inference_mode():
                probabilities, _ = self._network(torch.from_numpy(crops))
                scores, indices = probabilities.topk(TOP_K)
            labels = self._labels[indices.numpy()]
            return [
                {"top_k_labels": names.tolist(), "top_k_scores": row}
                for names, row in zip(labels, scores.tolist(), strict=True)
            ]

    made: Callable[..., Any] = Classify(settings["model"], settings["model_threads"]).classify
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("archive", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--settings", default="{}", help="JSON, see loads() of chain.py")
    options = parser.parse_args()
    settings = {
        "model": "efficientnet-lite0",
        "interval_seconds": 1.0,
        "model_workers": 1,
        "model_threads": 1,
        "batch_size": 32,
        "use_process": None,
        **json.loads(options.settings),
    }
    logging.disable(logging.WARNING)
    # With as many files open as there are cores, Daft 0.7 waits for itself forever; one thread reads them all anyway.
    daft.set_execution_config(scantask_max_parallel=1)
    paths = sorted(str(path) for path in options.archive.iterdir())
    frames = daft.read_video_frames(paths, *RESIZE, sample_interval_seconds=settings["interval_seconds"])
    labelled = frames.select("path", "frame_index", "frame_time", top=classifier(settings)(daft.col("data")))
    columns = [
        daft.col("path"),
        daft.col("frame_index"),
        daft.col("frame_time").alias("pts_seconds"),
        daft.col("top").get("top_k_labels").alias("top_k_labels"),
        daft.col("top").get("top_k_scores").alias("top_k_scores"),
    ]
    written = labelled.select(*columns).write_parquet(str(options.output / "frames"))
    files = written.to_pydict()
    print(json.dumps({"videos": len(paths), "files": len(files["path"]), "settings": settings}))
    sys.stdout.flush()
    os._exit(0)  # its threads would keep the process for some seconds


if __name__ == "__main__":
    main()
