"""An evaluation, whole: labelled videos of a split -> a label run over them -> what it said against what they are.

<output>/evaluate.parquet   a row a video, or labelled part: truth, label, score, probabilities
<output>/windows.parquet    the same, a row a window
<output>/evaluate.json      the numbers, by video and by window
<output>/*.png              confusion matrix, curves of the training, the surest mistakes
<output>/labels/            the label run: a rerun does only what is missing

The videos are labelled by `label` itself, so what is evaluated is what is served; each video counts once. To a part
belong the windows of the whole video whose middle lies in it, and what they say on average is what is said of it.
"""

from __future__ import annotations

import io
import json
import math
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
from vidbatch.windows import Labelled, WindowSpec, assign_splits, classes_of

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
    once = {(video.url, video.member): video for video in videos}.values()
    _put_table(place, [{"url": video.url, "member": video.member, "label": video.label} for video in once])
    result = pipeline.label(config.label_settings(place, output=storage.join(config.output, "labels")), progress)
    answers = result.videos.to_arrow()
    middles = _middles(None if reference.video is None else reference.video.windows, answers)
    windows = _rows_of(result.frames.to_arrow(), videos, truths, labels, middles)
    said = _with_parts(_rows_of(answers, videos, truths, labels, middles), windows, labels)
    _put_table(storage.join(config.output, "evaluate.parquet"), said)
    _put_table(storage.join(config.output, "windows.parquet"), windows)
    evaluation = Evaluation(
        output=config.output,
        model=reference.name,
        labels=labels,
        videos=_scores(said, labels),
        windows=_scores(windows, labels),
        failed={_name(row): f"{row['error_kind']}: {row['error_message']}" for row in said if row["label"] is None},
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
    splits = assign_splits(videos, config.shares, seed=config.seed)
    chosen = [video for video, split in zip(videos, splits, strict=True) if config.split in ("all", split)]
    if not chosen:
        raise ConfigError(f"split: {config.split!r} holds none of the {len(videos)} labelled videos; allowed: all")
    return chosen, left_out


def _classes_of(videos: list[Labelled], labels: tuple[str, ...]) -> list[Any]:
    """What each video is, checked to be a label of the model."""
    return [labels[number] for number in classes_of(videos, labels)[1]]


def _middles(spec: WindowSpec | None, answers: pa.Table) -> dict[tuple[str, str | None], float]:
    """By video: how many seconds behind its first frame the middle of a window lies; 0 for single frames."""
    found = {}
    for row in answers.select(["url", "member", "frame_rate"]).to_pylist():
        seconds = 0.0 if spec is None else spec.num_frames * spec.step / 2
        if spec is not None and spec.fps is None:
            seconds = seconds / row["frame_rate"] if row["frame_rate"] else 0.0
        found[row["url"], row["member"]] = seconds
    return found


def _rows_of(
    table: pa.Table,
    videos: list[Labelled],
    truths: list[Any],
    labels: tuple[str, ...],
    middles: dict[tuple[str, str | None], float],
) -> Rows:
    """The rows of a published table with the truth beside them (a label, or a number), in order of videos and time.

    Of `frames` those of the labelled parts; of `videos`, which have no time, one for each part.
    """
    known: dict[tuple[str, str | None], list[int]] = {}
    for at, video in enumerate(videos):
        known.setdefault((video.url, video.member), []).append(at)
    rows: Rows = []
    for row in table.to_pylist():
        key = row["url"], row["member"]
        scores = {entry["label"]: entry["score"] for entry in row["top_k"] or ()}
        for at in known.get(key, ()):  # none: of an earlier evaluation of more videos
            start, end = videos[at].start_seconds, videos[at].end_seconds
            if (seconds := row.get("pts_seconds")) is not None:
                middle = seconds + middles.get(key, 0.0)
                if not (start or -math.inf) <= middle < (math.inf if end is None else end):
                    continue
            found = {name: row.get(name) for name in ("url", "member", "pts_seconds", "error_kind", "error_message")}
            found |= {"start": start, "end": end, "truth": truths[at], "label": row["label"], "score": row["score"]}
            found["probabilities"] = [scores.get(name, 0.0) for name in labels] if scores and len(labels) > 1 else None
            rows.append(found)
    return sorted(rows, key=lambda row: (*_part(row)[:2], row["start"] or 0.0, row["pts_seconds"] or 0.0))


def _part(row: dict[str, Any]) -> tuple[str, str, float | None, float | None]:
    return row["url"], row["member"] or "", row["start"], row["end"]


def _name(row: dict[str, Any]) -> str:
    is_part = row["start"] is not None or row["end"] is not None
    return f"{row['url']} ({row['start']} to {row['end']} s)" if is_part else str(row["url"])


def _with_parts(said: Rows, windows: Rows, labels: tuple[str, ...]) -> Rows:
    """What is said of videos, and of parts on average by their windows; a part without a window has no answer."""
    of_parts: dict[Any, Rows] = {}
    for row in windows:
        of_parts.setdefault(_part(row), []).append(row)
    for row in said:
        if (row["start"], row["end"]) == (None, None) or row["label"] is None:
            continue
        seen = of_parts.get(_part(row), [])
        row["label"] = row["score"] = row["probabilities"] = None
        if not seen:
            row["error_kind"], row["error_message"] = "part", "no window has its middle in it"
        elif len(labels) == 1:
            row["label"], row["score"] = labels[0], float(np.mean([each["score"] for each in seen]))
        else:
            shares = np.mean([each["probabilities"] for each in seen], axis=0)
            row["label"], row["score"] = labels[int(shares.argmax())], float(shares.max())
            row["probabilities"] = shares.tolist()
    return said


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
        seconds = sorted({w["pts_seconds"] for w in windows if _part(w) == _part(row)})
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
    kinds = {name: pa.float64() for name in ("pts_seconds", "start", "end")}
    kinds |= {"score": pa.float32(), "probabilities": pa.list_(pa.float32())}
    names = list(rows[0]) if rows else []
    if rows and isinstance(rows[0].get("truth"), float):
        kinds["truth"] = pa.float64()
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names])
    storage.put(place, encode_parquet(pa.Table.from_pylist(rows, schema)))
