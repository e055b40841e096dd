"""Inputs in; which videos are trained with and which are kept apart, their classes and windows, and what was left out.

A label is the video's `label` in a manifest or a shard's .json, what its .cls says, or the name of the folder of its
class below the input. `start` and `end` (seconds), `group` and `split` may stand beside it. What has no label, or one
that is too uncertain, is counted and left out; so is a video that cannot be opened.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from vidbatch import source, storage
from vidbatch.bundles import TargetSpec
from vidbatch.config import LabelConfig
from vidbatch.decode import Clip, window_job
from vidbatch.decoding.isolation import IsolatedProcess, ProcessLost
from vidbatch.errors import ConfigError, VideoError
from vidbatch.manifests import is_manifest
from vidbatch.training.config import TrainConfig
from vidbatch.training.settings import TrainSettings
from vidbatch.windows import (
    Extent,
    Floats,
    Ints,
    Labelled,
    Split,
    Windows,
    assign_splits,
    check_classes,
    classes_of,
    count_by_label,
    extent_of,
    make_windows,
)

_UNLABELLED = "video"
"""The one class of videos that need no label."""
_FACTS: str = "vidbatch.decoding.window_clips:facts_of"


class LeftOut(NamedTuple):
    """A video that is not used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The labelled videos of the inputs; lists of one length."""

    clips: list[Clip] = field(repr=False)
    """Where each is, as schema.CLIP."""
    videos: list[Labelled] = field(repr=False)
    classes: Ints = field(repr=False)
    """Class numbers, int64."""
    splits: list[Split] = field(repr=False)
    labels: tuple[str, ...]
    left_out: list[LeftOut]
    targets: Floats | None = field(repr=False, default=None)
    """Of a regression: the number that each label is; `labels` is then its name, and all are of that one class."""


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """All that workers need to know of the data."""

    listed: Listed
    train: Windows
    validation: Windows
    left_out: list[LeftOut]
    """All of them: without a label, unreadable, too short."""

    @property
    def labels(self) -> tuple[str, ...]:
        """One a class, in the order of the last layer."""
        return self.listed.labels

    @property
    def target(self) -> TargetSpec | None:
        """Mean and standard deviation of the targets of the windows to train with; None without targets."""
        if self.listed.targets is None:
            return None
        of_windows = self.listed.targets[self.train.video]
        return TargetSpec(mean=float(of_windows.mean()), std=float(of_windows.std()) or 1.0)

    def classes_of(self, windows: Windows) -> Ints:
        """Class number of each window."""
        classes: Ints = self.listed.classes[windows.video]
        return classes

    def counts(self) -> dict[str, Any]:
        """For records and for people: videos and windows of each class and split."""
        splits = {"train": self.train, "validation": self.validation}
        return {
            "videos": {
                name: count_by_label(
                    self.labels, self.listed.classes[[at == name for at in self.listed.splits]].tolist()
                )
                for name in ("train", "validation", "test")
            },
            "windows": {name: count_by_label(self.labels, self.classes_of(of).tolist()) for name, of in splits.items()},
            "padded_windows": {name: of.num_padded for name, of in splits.items()},
            "left_out": len(self.left_out),
        }


# --- which videos ---------------------------------------------------------------------------------------------------


def find_videos(config: TrainSettings) -> Listed:
    """List the inputs; needs neither Ray nor torch and opens no video.

    Raises ConfigError for inputs that cannot be read, unknown labels, fewer than two classes, a class without a video
    to train with, contradictory splits.
    """
    column, least = (config.label_column, config.min_score) if isinstance(config, TrainConfig) else (None, 0.0)
    clips, videos, left_out = list_labelled(config.decoding, column, least)
    splits = assign_splits(videos, config.shares, seed=config.seed)
    targets: Floats | None = None
    labels: tuple[str, ...] = (column or _UNLABELLED,)
    classes: Ints = np.zeros(len(videos), np.int64)
    if isinstance(config, TrainConfig):
        if config.task == "regression":
            targets = targets_of(videos)
        else:
            labels, classes = classes_of(videos, config.labels)
    check_classes(labels, classes, splits)
    return Listed(
        clips=clips, videos=videos, classes=classes, splits=splits, labels=labels, left_out=left_out, targets=targets
    )


def targets_of(videos: Sequence[Labelled]) -> Floats:
    """The numbers that labels are, float64 (n,). Raises ConfigError for a label that is none."""
    numbers = []
    for video in videos:
        try:
            numbers.append(float(video.label))
        except ValueError:
            raise ConfigError(f"{video.name}: label {video.label!r} is not a number, as a regression wants") from None
    if not np.isfinite(numbers).all():
        raise ConfigError("labels of a regression: all must be finite numbers")
    return np.array(numbers, np.float64)


def list_labelled(
    config: LabelConfig, label_column: str | None = "label", min_score: float = 0.0
) -> tuple[list[Clip], list[Labelled], list[LeftOut]]:
    """Where each labelled video of the inputs is, and its label; and what has none. ConfigError if all have none."""
    clips: list[Clip] = []
    videos: list[Labelled] = []
    left_out: list[LeftOut] = []
    for place, clip in source.iter_listed(config):
        found = _labelled(place, clip, label_column, min_score)
        if isinstance(found, LeftOut):
            left_out.append(found)
        else:
            clips.append(clip)
            videos.append(found)
    if not videos:
        first = f"; the first: {left_out[0].name}: {left_out[0].reason}" if left_out else ""
        raise ConfigError(f"inputs: no labelled video among {len(left_out)}{first}")
    return clips, videos, left_out


def _labelled(place: str, clip: Clip, label_column: str | None, min_score: float) -> Labelled | LeftOut:
    name = clip["url"] if clip["member"] is None else f"{clip['url']}!{clip['member']}"
    if clip["error_kind"] is not None:
        return LeftOut(name, f"{clip['error_kind']}: {clip['error_message']}")
    known: dict[str, Any] = json.loads(clip["metadata"]) if clip["metadata"] else {}
    if isinstance(known.get("json"), dict):
        known = known["json"] | known
    label = _UNLABELLED if label_column is None else _text(known.get(label_column))
    if label is None:
        label = _text(known.get("cls")) or (None if is_manifest(place) else _folder_below(place, clip["url"]))
    if label is None:
        return LeftOut(name, f"no label: neither {label_column!r} nor .cls nor the folder of a class")
    try:
        score = _number(known, "score")
        if score is not None and score < min_score:
            return LeftOut(name, f"score {score:g} below min_score {min_score:g}")
        return Labelled(
            url=clip["url"],
            member=clip["member"],
            label=label,
            group=_text(known.get("group")),
            split=_text(known.get("split")),  # type: ignore[arg-type]  # Labelled checks it
            start_seconds=_number(known, "start"),
            end_seconds=_number(known, "end"),
        )
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None


def _text(value: Any) -> str | None:
    return None if value is None or not str(value).strip() else str(value).strip()


def _number(known: dict[str, Any], column: str) -> float | None:
    text = _text(known.get(column))
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{column}: {text!r} is not a number") from None
    return None if math.isnan(value) else value


def _folder_below(place: str, url: str) -> str | None:
    """The first folder of a video's path below the input's."""
    root = storage.normalise(place).rstrip("/") + "/"
    folder, separator, _ = url.removeprefix(root).partition("/")
    return folder if separator and url.startswith(root) else None


# --- their lengths and windows --------------------------------------------------------------------------------------


def read_facts(clips: Sequence[Clip], config: TrainSettings) -> list[dict[str, Any]]:
    """First time and duration of each video, by its packets, or `error`; decoded in one child process."""
    limits = config.decoding
    process = IsolatedProcess(
        timeout_seconds=limits.decode_timeout_seconds, memory_bytes=limits.decode_memory_mb * 2**20
    )
    facts: list[dict[str, Any]] = []
    try:
        for clip in clips:
            try:
                ((record, _),) = process.call(_FACTS, window_job(clip, limits, config.frame, config.windows))
                facts.append(record)
            except (VideoError, ProcessLost) as error:
                facts.append({"error": f"{error.kind}: {error.message}"})
    finally:
        process.close()
    return facts


def make_training_set(listed: Listed, facts: Iterable[dict[str, Any]], config: TrainSettings) -> TrainingSet:
    """Windows of all videos. Raises ConfigError where videos that cannot be read leave a class without any."""
    extents: list[Extent | None] = []
    left_out = list(listed.left_out)
    for video, known in zip(listed.videos, facts, strict=True):
        if "error" in known:
            left_out.append(LeftOut(video.name, known["error"]))
            extents.append(None)
        else:
            extents.append(extent_of(video, config.windows, **known))
    windows = make_windows(listed.videos, extents, config.windows)
    left_out += [LeftOut(listed.videos[at].name, "too short for a window") for at in windows.too_short]
    train = windows.of_split(listed.splits, "train")
    present = set(listed.classes[train.video].tolist())
    for number, label in enumerate(listed.labels):
        if number not in present:
            reasons = dict(left_out)
            of_class = (v for v, its in zip(listed.videos, listed.classes, strict=True) if its == number)
            why = next(f"{v.name}: {reasons[v.name]}" for v in of_class if v.name in reasons)
            raise ConfigError(f"labels: no video of class {label!r} can be used to train with; the first: {why}")
    return TrainingSet(
        listed=listed, train=train, validation=windows.of_split(listed.splits, "validation"), left_out=left_out
    )


def videos_table(data: TrainingSet) -> pa.Table:
    """One row a video: which split it is in, how many windows it gave, or why it was left out."""
    listed = data.listed
    counts: Counter[int] = Counter()
    for windows in (data.train, data.validation):
        counts.update(windows.video.tolist())
    reasons = {left.name: left.reason for left in data.left_out}
    rows = [
        {
            "url": video.url,
            "member": video.member,
            "label": video.label,
            "group": video.group,
            "split": split,
            "start": video.start_seconds,
            "end": video.end_seconds,
            "num_windows": counts[at] if split != "test" else None,
            "left_out": reasons.get(video.name),
        }
        for at, (video, split) in enumerate(zip(listed.videos, listed.splits, strict=True))
    ]
    known = {video.name for video in listed.videos}
    rows += [{"url": left.name, "left_out": left.reason} for left in data.left_out if left.name not in known]
    text = ("url", "member", "label", "group", "split")
    columns = [*((name, pa.string()) for name in text), ("start", pa.float64()), ("end", pa.float64())]
    return pa.Table.from_pylist(rows, pa.schema([*columns, ("num_windows", pa.int64()), ("left_out", pa.string())]))
