"""An evaluation, whole: labelled videos of a split -> a label run over them -> what it said against what they are.

<output>/evaluate.parquet   a row a video: truth, label, score, probabilities
<output>/windows.parquet    the same, a row a window
<output>/evaluate.json      the numbers, by video and by window
<output>/*.png              confusion matrix, curves of the training, the surest mistakes
<output>/labels/            the label run: a rerun does only what is missing

The videos are labelled by `label` itself, so what is evaluated is what is served; each video counts once.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidbatch import models, pipeline, storage
from vidbatch.errors import ConfigError
from vidbatch.evaluation.config import EvaluateConfig
from vidbatch.evaluation.scores import errors_of, scores_of
from vidbatch.metrics import Progress
from vidbatch.publish import encode_parquet
from vidbatch.training.run import RECORD
from vidbatch.training.videos import LeftOut, list_labelled, targets_of
from vidbatch.windows import Labelled, assign_splits, classes_of

MOST_CLASSES: Final = 100
Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How right a model is; also <output>/evaluate.json."""

    output: str
    model: str
    labels: tuple[str, ...]
    videos: dict[str, Any]
    """scores.scores_of over videos: probabilities are the mean over a video's windows or frames. Of a model that tells
    a number scores.errors_of."""
    windows: dict[str, Any]
    """The same over windows, or over frames for models of single frames."""
    failed: dict[str, str] = field(repr=False)
    """Videos that gave no answer, and why; they are in no number."""
    left_out: list[LeftOut] = field(repr=False)
    """Without a label."""


def evaluate(config: EvaluateConfig, progress: Progress | None = None) -> Evaluation:
    """Label the videos of the split and compare. Raises ConfigError before the first task for what cannot work."""
    for library in ("sklearn", *(("matplotlib",) if config.charts else ())):
        if find_spec(library) is None:
            raise ConfigError(f"evaluate needs {library}: pip install 'vidbatch[evaluate]'")
    reference = models.find_model(config.model, sampling=config.sampling)
    labels = reference.labels or models.load_spec(reference)[0].labels
    if len(labels) > MOST_CLASSES:
        raise ConfigError(f"model: {reference.name!r} has {len(labels)} classes; evaluate takes {MOST_CLASSES}")
    videos, left_out = _videos_of_split(with_split_of_training(config))
    tells_number = reference.video is not None and reference.video.target is not None
    truths: list[Any] = targets_of(videos).tolist() if tells_number else _classes_of(videos, labels)
    place = storage.join(config.output, "videos.parquet")
    _put_table(place, [{"url": video.url, "member": video.member, "label": video.label} for video in videos])
    result = pipeline.label(config.label_settings(place, output=storage.join(config.output, "labels")), progress)
    said = _rows_of(result.videos.to_arrow(), videos, truths, labels)
    windows = _rows_of(result.frames.to_arrow(), videos, truths, labels)
    _put_table(storage.join(config.output, "evaluate.parquet"), said)
    _put_table(storage.join(config.output, "windows.parquet"), windows)
    evaluation = Evaluation(
        output=config.output,
        model=reference.name,
        labels=labels,
        videos=_scores(said, labels),
        windows=_scores(windows, labels),
        failed={row["url"]: f"{row['error_kind']}: {row['error_message']}" for row in said if row["label"] is None},
        left_out=left_out,
    )
    storage.put(storage.join(config.output, "evaluate.json"), json.dumps(_as_json(evaluation), indent=1).encode())
    if config.charts:
        _draw(config, evaluation, said, windows)
    return evaluation


def with_split_of_training(config: EvaluateConfig) -> EvaluateConfig:
    """The same with the seed and shares of the training that made the bundle, where none is given and it says so."""
    names = {"seed", "train_share", "validation_share"}
    if names & config.model_fields_set:
        return config
    try:
        record = json.loads(_read_beside(config.model, RECORD))
        return config.model_copy(update={name: record["config"][name] for name in names})
    except (OSError, ValueError, KeyError):  # no bundle, or one that `train` did not make
        return config


def _videos_of_split(config: EvaluateConfig) -> tuple[list[Labelled], list[LeftOut]]:
    listing = config.label_settings(*config.inputs, output=config.output)
    _, videos, left_out = list_labelled(listing.model_copy(update={"sampling": "all"}), config.label_column)
    for video in videos:
        if video.start_seconds is not None or video.end_seconds is not None:
            raise ConfigError(f"{video.name}: start and end: parts of videos cannot be evaluated; cut them out first")
    splits = assign_splits(videos, config.shares, seed=config.seed)
    chosen = [video for video, split in zip(videos, splits, strict=True) if config.split in ("all", split)]
    if not chosen:
        raise ConfigError(f"split: {config.split!r} holds none of the {len(videos)} labelled videos; allowed: all")
    return chosen, left_out


def _classes_of(videos: list[Labelled], labels: tuple[str, ...]) -> list[Any]:
    """What each video is, checked to be a label of the model."""
    return [labels[number] for number in classes_of(videos, labels)[1]]


def _rows_of(table: pa.Table, videos: list[Labelled], truths: list[Any], labels: tuple[str, ...]) -> Rows:
    """The rows of a published table with the truth beside them (a label, or a number), in order of videos and time."""
    known = {(video.url, video.member): at for at, video in enumerate(videos)}
    rows: Rows = []
    for row in table.to_pylist():
        at = known.get((row["url"], row["member"]))
        if at is None:  # of an earlier evaluation of more videos
            continue
        scores = {entry["label"]: entry["score"] for entry in row["top_k"] or ()}
        found = {name: row.get(name) for name in ("url", "member", "pts_seconds", "error_kind", "error_message")}
        found |= {"truth": truths[at], "label": row["label"], "score": row["score"]}
        found["probabilities"] = [scores.get(label, 0.0) for label in labels] if scores and len(labels) > 1 else None
        rows.append(found)
    return sorted(rows, key=lambda row: (row["url"], row["member"] or "", row["pts_seconds"] or 0.0))


def _scores(rows: Rows, labels: tuple[str, ...]) -> dict[str, Any]:
    if len(labels) == 1:  # the name of a number
        answered = [row for row in rows if row["score"] is not None]
        return errors_of(*(np.array([row[name] for row in answered], np.float64) for name in ("truth", "score")))
    answered = [row for row in rows if row["probabilities"] is not None]
    truth = np.array([labels.index(row["truth"]) for row in answered], np.int64)
    probabilities = np.array([row["probabilities"] for row in answered], np.float64).reshape(-1, len(labels))
    return scores_of(truth, probabilities, labels)


def _as_json(evaluation: Evaluation) -> dict[str, Any]:
    names = ("model", "labels", "videos", "windows", "failed")
    return {name: getattr(evaluation, name) for name in names} | {"left_out": [list(x) for x in evaluation.left_out]}


def _draw(config: EvaluateConfig, evaluation: Evaluation, said: Rows, windows: Rows) -> None:
    from vidbatch.evaluation import charts

    if "confusion" in evaluation.videos:
        picture = charts.confusion_chart(evaluation.videos["confusion"], evaluation.labels)
        storage.put(storage.join(config.output, "confusion.png"), picture)
    wrong = [row for row in said if row["label"] not in (None, row["truth"]) and row["member"] is None]
    wrong = wrong if len(evaluation.labels) > 1 else []  # numbers are never quite right
    for row in wrong:
        seconds = sorted({w["pts_seconds"] for w in windows if w["url"] == row["url"]})
        step = max(1, len(seconds) // charts.FRAMES_OF_A_MISTAKE)
        row["seconds"] = seconds[::step] if len(seconds) > 1 else [seconds[0] + 0.25 * n for n in range(4)]
    if wrong:
        sheet = charts.mistakes_sheet(sorted(wrong, key=lambda row: -row["score"]))
        storage.put(storage.join(config.output, "mistakes.png"), sheet)
    curves = [_training_rows(config.model, name) for name in ("steps", "epochs")]
    if curves[0]:
        storage.put(storage.join(config.output, "curves.png"), charts.curves_chart(*curves))


def _training_rows(model: str, name: str) -> Rows:
    """A table that `train` left beside its bundle; none for other models."""
    try:
        rows: Rows = pq.read_table(io.BytesIO(_read_beside(model, "training", f"{name}.parquet"))).to_pylist()
    except (OSError, ValueError):
        return []
    return rows


def _read_beside(model: str, *name: str) -> bytes:
    """A file in the folder of a bundle. Raises OSError where it is not, or the model is no bundle."""
    return storage.read_bytes(storage.join(model.removeprefix("file:"), *name))


def _put_table(place: str, rows: Rows) -> None:
    kinds = {"pts_seconds": pa.float64(), "score": pa.float32(), "probabilities": pa.list_(pa.float32())}
    names = list(rows[0]) if rows else []
    if rows and isinstance(rows[0].get("truth"), float):
        kinds["truth"] = pa.float64()
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names])
    storage.put(place, encode_parquet(pa.Table.from_pylist(rows, schema)))
