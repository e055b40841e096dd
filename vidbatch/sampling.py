"""A sampling rule and presentation times go in; which frames are in the sample comes out. No decoding here.

Times are integer ticks of the stream's time base, or exact fractions of them, so that no float decides
between two neighbours. A frame is shown during the half-open interval [its time, the next frame's time); the
last one until its own duration is over. Wanted times that fall into one interval give that frame once.

    ticks   0        100       200       300      400
    frames  |---a----|---b-----|---c-----|---d----|
    wanted      x      y    z                 w        -> a, b, d
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal, Protocol

SamplingKind = Literal["fps", "nearest_keyframe", "every", "count", "keyframes", "all", "times"]

_FORMS: Final = "fps=F | nearest_keyframe=F | every=N | count=N | keyframes | all | times=COLUMN"
_MAX_FRAMES_PER_SECOND: Final = 10_000
_MAX_NUMBER: Final = 10**9

# Printed times are rounded to microseconds (ffprobe, most manifests); a quarter tick keeps fine clocks exact.
_TIME_TOLERANCE_SECONDS: Final = Fraction(1, 10**6)


@dataclass(frozen=True)
class Sampling:
    """Which frames to look at; `str()` gives the canonical text that `parse_sampling` reads.

    `value` is a Fraction (frames a second) for fps and nearest_keyframe, an int for every and count, the manifest's
    column for times, and None for keyframes and all.
    """

    kind: SamplingKind
    value: Fraction | int | str | None = None

    def __str__(self) -> str:
        if self.value is None:
            return self.kind
        shown = _decimal(self.value) if isinstance(self.value, Fraction) else str(self.value)
        return f"{self.kind}={shown}"

    @property
    def frames_per_second(self) -> Fraction:
        """The grid's rate; only of fps and nearest_keyframe."""
        assert isinstance(self.value, Fraction)
        return self.value

    @property
    def number(self) -> int:
        """The N of every=N and count=N."""
        assert isinstance(self.value, int)
        return self.value

    @property
    def column(self) -> str | None:
        """The manifest column that holds the times, for times=COLUMN; None for every other kind."""
        return self.value if isinstance(self.value, str) else None


def parse_sampling(text: str) -> Sampling:
    """Read one of the forms of a sampling, fps=F and so on; ValueError says which there are."""
    kind, equals, value = (part.strip() for part in text.partition("="))
    if kind in ("keyframes", "all") and not equals:
        return Sampling(kind)  # type: ignore[arg-type]
    if kind in ("fps", "nearest_keyframe") and value:
        return Sampling(kind, _parse_rate(kind, value))  # type: ignore[arg-type]  # mypy does not narrow a str by `in`
    if kind in ("every", "count") and value:
        return Sampling(kind, _parse_number(kind, value))  # type: ignore[arg-type]
    if kind == "times" and value:
        return Sampling("times", value)
    raise ValueError(f"sampling must be one of {_FORMS}")


def _parse_rate(kind: str, text: str) -> Fraction:
    if re.fullmatch(r"\d{1,9}(\.\d{0,9})?|\.\d{1,9}|\d{1,9}/\d{1,9}", text, re.ASCII):
        try:
            rate = Fraction(text.rstrip(".") if "." in text else text)
        except ZeroDivisionError:
            rate = Fraction(0)
        if 0 < rate <= _MAX_FRAMES_PER_SECOND:
            return rate
    raise ValueError(f"{kind} needs a number above 0 and up to {_MAX_FRAMES_PER_SECOND}, like 1, 0.5 or 30000/1001")


def _parse_number(kind: str, text: str) -> int:
    if re.fullmatch(r"\d{1,10}", text, re.ASCII) and 1 <= int(text) <= _MAX_NUMBER:
        return int(text)
    raise ValueError(f"{kind} needs a whole number of at least 1, like {kind}=10")


def _decimal(value: Fraction) -> str:
    """The shortest exact text: 1/2 -> "0.5", 30000/1001 -> "30000/1001"."""
    for digits in range(10):
        scaled = value * 10**digits
        if scaled.denominator == 1:
            whole, part = divmod(scaled.numerator, 10**digits)
            return f"{whole}.{part:0{digits}d}" if digits else str(whole)
    return f"{value.numerator}/{value.denominator}"


def tick_of(seconds: float, time_base: Fraction) -> int:
    """The tick at or before a time given as float64 seconds.

    A time that lies less than a microsecond (and less than a quarter of a tick) before a tick counts as on
    it: it is that tick, printed or computed with rounding.
    """
    exact = Fraction(seconds)
    noise = Fraction(math.ulp(seconds)) * 2
    tolerance = max(min(_TIME_TOLERANCE_SECONDS, time_base / 4), noise)
    return math.floor((exact + tolerance) / time_base)


def seconds_of(tick: int, time_base: Fraction) -> float:
    """The float64 nearest to a tick; `tick_of` gives that tick back."""
    return tick * time_base.numerator / time_base.denominator  # of integers: rounded once, and no Fraction is made


class Wanted(Protocol):
    """A set of times at which the frame that is shown is wanted."""

    def next_from(self, start: int) -> int | None:
        """The first tick from `start` on at which a frame is wanted, None if there is none."""
        ...


def is_wanted(wanted: Wanted, start: int, end: int) -> bool:
    """Whether a frame shown in [start, end), in ticks, is wanted."""
    tick = wanted.next_from(start)
    return tick is not None and tick < end


@dataclass(frozen=True)
class Grid:
    """The endless times origin + k * step, k = 0, 1, 2..., in ticks; the step may be a fraction of a tick."""

    origin: int
    step: Fraction

    @classmethod
    def of_rate(cls, origin: int, frames_per_second: Fraction, time_base: Fraction) -> Grid:
        """The grid of `fps=F` whose first time is the tick `origin`."""
        return cls(origin, 1 / (frames_per_second * time_base))

    def next_from(self, start: int) -> int:
        """The first grid time at `start` or later, rounded down to a tick: frames begin on ticks."""
        above, below = self.step.numerator, self.step.denominator  # integers: a Fraction takes ten times as long
        number = max(0, -((self.origin - start) * below // above))
        return self.origin + number * above // below

    def ticks(self, start: int, end: int) -> list[int]:
        """The grid times in [start, end), each rounded down to a tick and given once."""
        found: list[int] = []
        tick = self.next_from(start)
        while tick < end:
            found.append(tick)
            tick = self.next_from(tick + 1)
        return found


class Times:
    """An explicit list of wanted ticks."""

    def __init__(self, ticks: Iterable[int]) -> None:
        self._ticks: Sequence[int] = sorted(set(ticks))

    def next_from(self, start: int) -> int | None:
        """The first wanted tick at `start` or later."""
        place = bisect_left(self._ticks, start)
        return self._ticks[place] if place < len(self._ticks) else None


@dataclass(frozen=True)
class Since:
    """The wanted times that are not before a tick."""

    first: int
    wanted: Wanted

    def next_from(self, start: int) -> int | None:
        """The first of them at `start` or later."""
        return self.wanted.next_from(max(self.first, start))


@dataclass(frozen=True)
class Before:
    """The wanted times that are before a tick."""

    end: int
    wanted: Wanted

    def next_from(self, start: int) -> int | None:
        """The first of them at `start` or later."""
        tick = self.wanted.next_from(start)
        return tick if tick is not None and tick < self.end else None


def even_ticks(number: int, first: int, end: int) -> list[int]:
    """The middles of `number` equal parts of [first, end), each rounded down to a tick."""
    return [first + (2 * part + 1) * (end - first) // (2 * number) for part in range(number)]


class Selector(Protocol):
    """Fed every frame in presentation order, says one frame later whether it belongs to the sample."""

    def feed(self, tick: int, is_keyframe: bool) -> bool:
        """Take the next frame; whether the frame *before* it (False at the first) is in the sample."""
        ...

    def finish(self, end: int | None) -> bool:
        """No more frames: whether the last one, shown until the tick `end` (None: for ever), is in the sample."""
        ...

    @property
    def exhausted(self) -> bool:
        """No frame after the one fed last can be in the sample: decoding may stop, and finish."""
        ...


class TimeSelector:
    """Selects the frames shown at wanted times.

    With `clamp_low` a time before the first frame gives the first frame; else it gives nothing.
    """

    def __init__(self, wanted: Wanted, *, clamp_low: bool = False) -> None:
        self.wanted = wanted
        self._clamp_low = clamp_low
        self._shown_since: int | None = None
        self._before_first = False

    def feed(self, tick: int, is_keyframe: bool) -> bool:  # noqa: ARG002  # the interface's argument
        """Take the next frame; whether the one before it is shown at a wanted time."""
        since, self._shown_since = self._shown_since, tick
        if since is not None:
            early, self._before_first = self._before_first, False
            return early or is_wanted(self.wanted, since, tick)
        self._before_first = self._clamp_low and is_wanted(self.wanted, -(2**63), tick)
        return False

    def finish(self, end: int | None) -> bool:
        """Whether the last frame is shown at a wanted time."""
        if self._shown_since is None:
            return False
        if self._before_first:
            return True
        if end is None:
            return self.wanted.next_from(self._shown_since) is not None
        return is_wanted(self.wanted, self._shown_since, end)

    @property
    def exhausted(self) -> bool:
        """All wanted times lie before the frame fed last."""
        if self._shown_since is None or self._before_first:
            return False
        return self.wanted.next_from(self._shown_since) is None


class CountingSelector:
    """Selects frames 0, N, 2N... in presentation order; N = 1 selects all."""

    exhausted = False

    def __init__(self, every: int) -> None:
        self._every = every
        self._num_fed = 0

    def feed(self, tick: int, is_keyframe: bool) -> bool:  # noqa: ARG002  # the interface's arguments
        """Take the next frame; whether the one before it has a number divisible by N."""
        self._num_fed += 1
        return self._num_fed > 1 and (self._num_fed - 2) % self._every == 0

    def finish(self, end: int | None) -> bool:  # noqa: ARG002  # the interface's argument
        """Whether the last frame has a number divisible by N."""
        return self._num_fed > 0 and (self._num_fed - 1) % self._every == 0


class KeyframeSelector:
    """Selects the frames that the decoder flags as keyframes."""

    exhausted = False

    def __init__(self) -> None:
        self._last_is_key = False

    def feed(self, tick: int, is_keyframe: bool) -> bool:  # noqa: ARG002  # the interface's argument
        """Take the next frame; whether the one before it is a keyframe."""
        last, self._last_is_key = self._last_is_key, is_keyframe
        return last

    def finish(self, end: int | None) -> bool:  # noqa: ARG002  # the interface's argument
        """Whether the last frame is a keyframe."""
        return self._last_is_key


class NearestKeyframeSelector:
    """Selects, of keyframes only, those that are nearest to wanted times; of two as near, the earlier one.

    Approximate, as some like it: a keyframe costs no other frame's decoding. Wanted times are in units of which there
    are `units_a_tick`: rounded to coarse ticks, a time may be nearer to another keyframe.
    """

    def __init__(self, wanted: Wanted, *, units_a_tick: int = 1) -> None:
        self._wanted = wanted
        self._units_a_tick = units_a_tick
        self._last: int | None = None
        self._first_of_last = -(2**63)  # the first time to which the last keyframe is the nearest

    def feed(self, tick: int, is_keyframe: bool) -> bool:  # noqa: ARG002  # the interface's argument
        """Take the next keyframe; whether the one before it is the nearest to a wanted time."""
        last, self._last = self._last, tick * self._units_a_tick
        if last is None:
            return False
        first, self._first_of_last = self._first_of_last, (last + self._last) // 2 + 1
        return is_wanted(self._wanted, first, self._first_of_last)

    def finish(self, end: int | None) -> bool:  # noqa: ARG002  # the interface's argument
        """Whether the last keyframe is the nearest to a wanted time, of which none are after the video's end."""
        return self._last is not None and self._wanted.next_from(self._first_of_last) is not None

    @property
    def exhausted(self) -> bool:
        """All wanted times are nearer to a keyframe before the one fed last."""
        return self._last is not None and self._wanted.next_from(self._first_of_last) is None
