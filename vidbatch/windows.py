"""Labelled videos and their lengths in; windows of T frames out, each with an id of its own and the times to look at.

Arithmetic only: no file is opened here. Whatever is left to chance is a pure function of a seed and of names, never of
the order in which videos are listed, of how many workers there are, or of what was drawn before.

The labelled part of a video is cut into as many equal slots as windows fit. One window lies in each: anywhere in it,
keyed by (seed, epoch, window id), to train; in its middle to evaluate.

    part       |-----------slot 0------------|-----------slot 1------------|
    train          [x   x   x   x]                      [x   x   x   x]
    evaluate           [x   x   x   x]               [x   x   x   x]

Positions are seconds on the stream's clock (`fps`) or frame numbers (`every`). W is the number of windows, T of frames.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vidbatch.errors import ConfigError

Split = Literal["train", "validation", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]

_TOLERANCE: Final = 1e-6  # of a step: 2.0 s hold 16 steps of 1/8 s, however 2.0 was computed


# --- what is given --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A video, or its part [start_seconds, end_seconds), with its label. Raises ConfigError for an empty part."""

    url: str
    """Normalised: no query string, no credentials."""
    label: str
    member: str | None = None
    """Name inside a tar shard."""
    group: str | None = None
    """Videos of one group (a camera, a patient, a film) stay in one split; None: the video is a group of its own."""
    split: Split | None = None
    """Given by the manifest; None: decided by the hash."""
    start_seconds: float | None = None
    """On the stream's clock; None: from the first frame."""
    end_seconds: float | None = None
    """None: to the last frame."""

    def __post_init__(self) -> None:
        start, end = self.start_seconds or 0.0, math.inf if self.end_seconds is None else self.end_seconds
        if not 0 <= start < end:
            raise ConfigError(f"{self.name}: the part from {self.start_seconds} to {self.end_seconds} s holds nothing")
        if self.split not in (None, *SPLITS):
            raise ConfigError(f"{self.name}: split: {self.split!r} is not allowed: {', '.join(SPLITS)}")

    @property
    def name(self) -> str:
        """For people and hashes: the URL, and the member where there is one."""
        return self.url if self.member is None else f"{self.url}!{self.member}"


class WindowSpec(BaseModel):
    """How windows are cut; stored with the model, because the model expects such windows. Give `fps` or `every`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_frames: int = Field(16, ge=1, le=1024, description="T: frames in a window.")
    fps: float | None = Field(None, gt=0, le=1000, description="Frames a second of the sample.")
    every: int | None = Field(None, ge=1, le=1_000_000, description="Or: every N-th frame of the video.")
    windows_per_video: int | None = Field(None, ge=1, description="At most so many; None: as many as fit.")
    short: Literal["pad", "drop"] = Field("pad", description="What happens to videos shorter than a window.")

    @model_validator(mode="after")
    def _one_of_both(self) -> WindowSpec:
        if (self.fps is None) == (self.every is None):
            raise ValueError("give either fps or every")
        return self

    @property
    def sampling(self) -> str:
        """What `label` would call it: how often frames are looked at."""
        return f"fps={self.fps:g}" if self.fps is not None else f"every={self.every}"

    @property
    def step(self) -> float:
        """Distance of a window's frames: seconds (`fps`) or frames (`every`)."""
        return 1 / self.fps if self.fps is not None else float(self.every or 1)


class Extent(NamedTuple):
    """Where the labelled part of a video begins and how long it is, in seconds (`fps`) or frames (`every`)."""

    first: float
    length: float


def extent_of(
    video: Labelled,
    spec: WindowSpec,
    *,
    duration_seconds: float | None,
    first_seconds: float = 0.0,
    frame_rate: float | None = None,
    num_frames: int | None = None,
) -> Extent | None:
    """The part of a video that is labelled and exists, from header facts; None where they do not tell its length.

    Args: `first_seconds` is the first frame's time. With `every`, `num_frames` and, for parts, `frame_rate` are needed.
    """
    start, end = video.start_seconds, video.end_seconds
    if spec.fps is not None:
        if duration_seconds is None:
            return None
        first = max(first_seconds, first_seconds if start is None else start)
        last = min(first_seconds + duration_seconds, math.inf if end is None else end)
        return Extent(first, max(0.0, last - first))
    if num_frames is None or ((start, end) != (None, None) and not frame_rate):
        return None
    rate = frame_rate or 1.0
    first = 0 if start is None else math.ceil(max(0.0, start - first_seconds) * rate - _TOLERANCE)
    last = num_frames if end is None else min(num_frames, math.ceil((end - first_seconds) * rate - _TOLERANCE))
    return Extent(float(first), float(max(0, last - first)))


# --- split ----------------------------------------------------------------------------------------------------------


class Shares(NamedTuple):
    """Which share of the groups goes into which split; together 1."""

    train: float = 0.8
    validation: float = 0.1
    test: float = 0.1

    @classmethod
    def of(cls, train: float, validation: float) -> Shares:
        """With what is left for the test."""
        return cls(train, validation, max(0.0, 1 - train - validation))


def assign_splits(videos: Sequence[Labelled], shares: Shares | None = None, *, seed: int = 0) -> list[Split]:
    """The split of each video: the one it was given, else by a hash of its group (or of its own name).

    Never by frame, and independent of all other videos: adding or reordering some moves none. Raises ConfigError for
    shares that are none, and for a video or a group that was given two splits.
    """
    shares = shares or Shares()
    if min(shares) < 0 or not math.isclose(sum(shares), 1.0):
        raise ConfigError(f"shares: {tuple(shares)} is not allowed: none below 0, together 1")
    given: dict[tuple[str, str], tuple[Split, str]] = {}
    for video in videos:
        if video.split is not None:
            split, first = given.setdefault(_group_of(video), (video.split, video.name))
            if split != video.split:
                what = "this video" if video.group is None else f"group {video.group!r}"
                raise ConfigError(f"split: {what} is in {split} ({first}) and in {video.split} ({video.name})")
    found: list[Split] = []
    for video in videos:
        group = _group_of(video)
        found.append(given[group][0] if group in given else _split_by_hash(group, shares, seed))
    return found


def _group_of(video: Labelled) -> tuple[str, str]:
    return ("video", f"{video.url}\0{video.member or ''}") if video.group is None else ("group", video.group)


def _split_by_hash(group: tuple[str, str], shares: Shares, seed: int) -> Split:
    place = _hash64(f"{seed}\0{group[0]}\0{group[1]}") / 2**64
    if place < shares.test:
        return "test"
    return "validation" if place < shares.test + shares.validation else "train"


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


# --- classes --------------------------------------------------------------------------------------------------------


def classes_of(videos: Sequence[Labelled], labels: Sequence[str] | None = None) -> tuple[tuple[str, ...], Ints]:
    """The labels in the order of the last layer, and each video's class number, int64.

    Args: `labels` fixes names and order; None: those of the videos, sorted. Raises ConfigError for a label that is not
    among them, for one that is given twice and for fewer than two.
    """
    names = tuple(sorted({video.label for video in videos}) if labels is None else labels)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(f"labels: {twice[0]!r} is given twice")
    if len(names) < 2:
        only = f"only {names[0]!r}" if names else "no label"
        raise ConfigError(f"labels: {only} among {len(videos)} videos: a classifier needs at least two classes")
    number = {name: index for index, name in enumerate(names)}
    for video in videos:
        if video.label not in number:
            close = difflib.get_close_matches(video.label, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(names[:20])}"
            raise ConfigError(f"{video.name}: label {video.label!r} is unknown; {hint}")
    return names, np.array([number[video.label] for video in videos], np.int64)


def check_classes(labels: Sequence[str], classes: Ints, splits: Sequence[Split]) -> None:
    """Raise ConfigError unless every class has a video to train with; says where the others of that class are."""
    counts = Counter(zip(classes.tolist(), splits, strict=True))
    for number, label in enumerate(labels):
        if not counts[number, "train"]:
            where = ", ".join(f"{counts[number, split]} in {split}" for split in SPLITS[1:])
            raise ConfigError(
                f"labels: class {label!r} has no video to train with ({where}): add some, leave the label out, "
                "or give the split in the manifest"
            )


# --- windows --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows as columns of length W; those of one video stand together, in the order of the videos."""

    spec: WindowSpec
    video: Ints
    """Number of the video in the list that was given."""
    ordinal: Ints
    """0.. among the windows of its part."""
    slot_start: Floats
    slot_length: Floats
    part_end: Floats
    num_real: Ints
    """Frames that exist, 1 to T; the rest of a window is padding."""
    key: Keys
    """The window's id as a number: from url, member, part, ordinal and spec, nothing else."""
    too_short: tuple[int, ...] = field(default=(), repr=False)
    """Videos that gave no window: shorter than one with `short="drop"`, or without a single frame."""
    unreadable: tuple[int, ...] = field(default=(), repr=False)
    """Videos whose extent is not known."""

    def __len__(self) -> int:
        return len(self.video)

    @property
    def num_padded(self) -> int:
        """Windows that hold less than T frames."""
        return int((self.num_real < self.spec.num_frames).sum())

    def id_of(self, row: int) -> str:
        """16 hex digits that name the window, the same in every run over the same video with the same spec."""
        return f"{int(self.key[row]):016x}"

    def take(self, rows: Ints | Bools) -> Windows:
        """Some of the windows, in the order asked for: those of a split, of a batch."""
        columns = ("video", "ordinal", "slot_start", "slot_length", "part_end", "num_real", "key")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    def of_split(self, splits: Sequence[Split], split: Split) -> Windows:
        """The windows of the videos of one split; `splits` holds that of every video."""
        return self.take(np.array([name == split for name in splits], bool)[self.video])

    @property
    def is_real(self) -> Bools:
        """bool (W, T): False where a frame is padding; real frames come first."""
        real: Bools = np.arange(self.spec.num_frames)[None, :] < self.num_real[:, None]
        return real

    def centred(self) -> Floats:
        """Positions to evaluate at, float64 (W, T): each window in the middle of its slot. Padding repeats the last."""
        return self._positions(np.full(len(self), 0.5))

    def random(self, *, seed: int, epoch: int, jitter: float = 0.0, keys: Keys | None = None) -> Floats:
        """Positions to train at, float64 (W, T): each window anywhere in its slot. Padding repeats the last.

        Args: `jitter` below 0.5 moves each frame by up to that share of a step; `keys` replace the windows' own where
        a window is drawn more than once an epoch (epochs.balanced_order).
        """
        keys = self.key if keys is None else keys
        places = uniform(keys, seed=seed, epoch=epoch, purpose="offset")
        if not jitter:
            return self._positions(places)
        if not 0 <= jitter < 0.5:
            raise ConfigError(f"jitter: {jitter!r} is not allowed: at least 0 and below 0.5")
        frames = np.arange(self.spec.num_frames, dtype=np.uint64)
        moved = uniform(mixed(keys)[:, None] + frames, seed=seed, epoch=epoch, purpose="jitter")
        return self._positions(places, (2 * moved - 1) * jitter)

    def _positions(self, places: Floats, moved: Floats | float = 0.0) -> Floats:
        slack = np.maximum(0.0, self.slot_length - self.spec.num_frames * self.spec.step)
        starts = self.slot_start + places * slack
        last = self.num_real[:, None] - 1
        steps = np.clip(np.arange(self.spec.num_frames)[None, :] + moved, 0, last)
        steps = np.where(self.is_real, steps, np.take_along_axis(steps, last, axis=1))
        positions = starts[:, None] + steps * self.spec.step
        if self.spec.every is not None:
            return np.minimum(np.floor(positions + _TOLERANCE), self.part_end[:, None] - 1)
        return np.asarray(positions, np.float64)


def make_windows(videos: Sequence[Labelled], extents: Sequence[Extent | None], spec: WindowSpec) -> Windows:
    """Cut every video into windows. Short ones are padded or dropped and, like those without an extent, listed.

    Raises ConfigError when two rows name the same part of the same video, which would be trained twice under one id.
    """
    lengths = np.array([math.nan if extent is None else extent.length for extent in extents], np.float64)
    firsts = np.array([0.0 if extent is None else extent.first for extent in extents], np.float64)
    num_positions = np.ceil(lengths / spec.step - _TOLERANCE)
    fitting = np.floor(lengths / (spec.num_frames * spec.step) + _TOLERANCE)
    counts = np.clip(fitting, 1, spec.windows_per_video)
    with np.errstate(invalid="ignore"):
        is_short = num_positions < (spec.num_frames if spec.short == "drop" else 1)
    is_unknown = np.isnan(lengths)
    counts = np.where(is_short | is_unknown, 0, counts).astype(np.int64)

    video = np.repeat(np.arange(len(videos)), counts)
    ordinal = np.arange(len(video)) - np.repeat(np.cumsum(counts) - counts, counts)
    slot_length = lengths[video] / counts[video]
    names = np.array([_hash64(_part_of(each, spec)) for each in videos], np.uint64)
    _refuse_twins(videos, names)
    return Windows(
        spec=spec,
        video=video,
        ordinal=ordinal,
        slot_start=firsts[video] + ordinal * slot_length,
        slot_length=slot_length,
        part_end=(firsts + lengths)[video],
        num_real=np.minimum(num_positions[video], spec.num_frames).astype(np.int64),
        key=mixed(names[video] + ordinal.astype(np.uint64)),
        too_short=tuple(np.flatnonzero(is_short & ~is_unknown).tolist()),
        unreadable=tuple(np.flatnonzero(is_unknown).tolist()),
    )


def _part_of(video: Labelled, spec: WindowSpec) -> str:
    part = (video.url, video.member, video.start_seconds, video.end_seconds)
    return repr((*part, spec.num_frames, spec.fps, spec.every, spec.windows_per_video))


def _refuse_twins(videos: Sequence[Labelled], names: Keys) -> None:
    unique, first = np.unique(names, return_index=True)
    if len(unique) < len(names):
        again = min(set(range(len(names))) - set(first.tolist()))
        raise ConfigError(f"{videos[again].name}: this part of this video is listed twice")


def shown_at(wanted_seconds: Floats, pts_seconds: Floats) -> Ints:
    """Which of a video's frames is shown at each wanted time: indices into `pts_seconds`, which ascend.

    A time before the first frame gives the first one; a microsecond before a frame counts as its time.
    """
    found: Ints = np.searchsorted(pts_seconds, wanted_seconds + _TOLERANCE, side="right") - 1
    return np.maximum(found, 0)


def window_dtype(num_frames: int, height: int, width: int) -> np.dtype[np.void]:
    """One decoded window as it lies in memory, between processes and in caches: its real frames' number, its frames.

    `frames` are uint8 RGB (T, height, width, 3); those that are padding repeat the last real one.
    """
    return np.dtype([("num_real", np.int32), ("frames", np.uint8, (num_frames, height, width, 3))])


# --- chance, by name ------------------------------------------------------------------------------------------------


def mixed(keys: Keys) -> Keys:
    """A bijection of 64-bit numbers whose results look random: the finaliser of SplitMix64 (Steele et al., 2014)."""
    bits: Any = keys + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    done: Keys = bits ^ (bits >> np.uint64(31))
    return done


def random_bits(keys: Keys, *, seed: int, epoch: int, purpose: str) -> Keys:
    """64 random bits for each key: the same for the same (key, seed, epoch, purpose), whatever else is asked."""
    salt = np.array([_hash64(f"{seed}\0{epoch}\0{purpose}")], np.uint64)
    return mixed(mixed(keys) ^ salt)


def uniform(keys: Keys, *, seed: int, epoch: int, purpose: str) -> Floats:
    """A number in [0, 1) for each key, from the upper 53 of `random_bits`."""
    bits = random_bits(keys, seed=seed, epoch=epoch, purpose=purpose)
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53, np.float64)


def count_by_label(labels: Sequence[str], classes: Iterable[int]) -> dict[str, int]:
    """How many windows or videos each label has; for reports."""
    counts = Counter(classes)
    return {label: counts[number] for number, label in enumerate(labels)}
