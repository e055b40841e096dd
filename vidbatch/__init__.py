"""vidbatch: object storage full of videos in, Parquet tables of what is in them out, on a Ray cluster.

import vidbatch
result = vidbatch.label("s3://bucket/videos", output="s3://bucket/labels")
result.videos.to_pandas()
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidbatch.enhancing.run import EnhanceResult
    from vidbatch.evaluation.run import Evaluation
    from vidbatch.pipeline import LabelResult
    from vidbatch.results import LabelTables
    from vidbatch.training.run import TrainResult

__version__ = "0.1.0"
__all__ = ["__version__", "enhance", "evaluate", "label", "tables", "train", "train_enhancer"]


def label(*inputs: str | os.PathLike[str], output: str | os.PathLike[str], **settings: Any) -> LabelResult:
    """Label videos and publish the tables `videos` and `frames` below `output`.

    Args: `inputs` are directories, prefixes, globs, files, tar shards or manifests, local, s3://, gs://, az:// or http(s)://;
    `settings` are the fields of `vidbatch.config.LabelConfig` (model, sampling, embedding, limit, ...).
    Raises ConfigError for a wrong setting, before anything starts.
    """
    from vidbatch.config import load_config
    from vidbatch.pipeline import label as run

    return run(load_config({"inputs": tuple(map(os.fspath, inputs)), "output": output, **settings}))


def tables(output: str | os.PathLike[str]) -> LabelTables:
    """Open an output's published tables: `.videos`, `.frames`, `.enhanced`, each as Arrow, pandas, Polars, DuckDB."""
    from vidbatch.results import LabelTables

    return LabelTables(os.fspath(output))


def enhance(*inputs: str | os.PathLike[str], output: str | os.PathLike[str], **settings: Any) -> EnhanceResult:
    """Enhance videos, write them below `output`, and publish the table `enhanced` there.

    Args: `inputs` are as for `label`; `settings` are the fields of `vidbatch.enhancing.config.EnhanceConfig` (steps,
    denoise, codec, crf, ...). Raises ConfigError for a wrong setting, before anything starts.
    """
    from vidbatch.enhancing.config import load_enhance_config
    from vidbatch.enhancing.run import enhance as run

    return run(load_enhance_config({"inputs": tuple(map(os.fspath, inputs)), "output": output, **settings}))


def train(*inputs: str | os.PathLike[str], output: str | os.PathLike[str], **settings: Any) -> TrainResult:
    """Train a video classifier on labelled videos and write it to `output`, as a bundle for `label`.

    Args: `inputs` are folders of a folder per class, manifests with url and label, tar shards with .cls or .json, or
    tables of a label run; `settings` are the fields of `vidbatch.training.config.TrainConfig` (model, epochs, ...).
    Raises ConfigError for a wrong setting or label, before anything starts. A call that was killed goes on when it is
    made again.
    """
    from vidbatch.training.config import load_train_config
    from vidbatch.training.run import train as run

    return run(load_train_config({"inputs": tuple(map(os.fspath, inputs)), "output": output, **settings}))


def train_enhancer(*inputs: str | os.PathLike[str], output: str | os.PathLike[str], **settings: Any) -> TrainResult:
    """Train a network that removes noise or artefacts or corrects colours, and write it to `output`, for `enhance`.

    Args: `inputs` are folders, globs, manifests or tar shards of good videos; `settings` are the fields of
    `vidbatch.training.restore_config.RestoreConfig` (kind, crop, epochs, ...). Raises ConfigError for a wrong setting,
    before anything starts. A call that was killed goes on when it is made again.
    """
    from vidbatch.training.restore_config import load_restore_config
    from vidbatch.training.run import train as run

    return run(load_restore_config({"inputs": tuple(map(os.fspath, inputs)), "output": output, **settings}))


def evaluate(*inputs: str | os.PathLike[str], output: str | os.PathLike[str], **settings: Any) -> Evaluation:
    """Say how right a model is about labelled videos, those of the test split if nothing else is said.

    Args: `inputs` are as for `train`; `settings` are the fields of `vidbatch.evaluation.config.EvaluateConfig` (model,
    split, seed, ...). Raises ConfigError for a wrong setting or label, before anything starts.
    """
    from vidbatch.evaluation.config import load_evaluate_config
    from vidbatch.evaluation.run import evaluate as run

    return run(load_evaluate_config({"inputs": tuple(map(os.fspath, inputs)), "output": output, **settings}))
