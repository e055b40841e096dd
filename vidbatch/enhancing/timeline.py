"""When the frames of a video are shown goes in, when those are that interpolation gives comes out: arithmetic only.

    times=2    0     1         2  3      as they are shown, at whatever rate that is
               0 0.5 1   1.5   2 2.5 3   as many between any two, evenly
    fps        0  :  1  :  :  2:  3  :   evenly over the whole video, from its first frame on

Ticks of the source are of its time base; the file's is finer, so that both its own times and those between are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, NamedTuple

from vidbatch.enhancing.types import Pace

_FINEST: Final = Fraction(1, 10_000_000)
"""Containers and encoders count in 32 bits."""
_WHERE_NONE_FITS: Final = Fraction(1, 1_000_000)
_SAME: Final = Fraction(1, 32)
"""Of the way from a frame to the next: a time that is so near to one of them is that frame's. Containers round more."""


class Moment(NamedTuple):
    """When a frame of the file is shown, in ticks of its time base, and how far on the way between two frames it is."""

    tick: int
    end: int
    phase: float
    """0: the first frame itself; 1: the next one."""


@dataclass(frozen=True)
class Timeline:
    """Args: `time_base` and `rate`, in frames a second, are of the source, `first_tick` of its first frame."""

    pace: Pace
    time_base: Fraction
    rate: Fraction
    first_tick: int

    @property
    def file_time_base(self) -> Fraction:
        """Seconds that a tick of the file takes."""
        if self.pace.times is not None:
            return self.time_base / self.pace.times
        one, other = self.time_base, 1 / self._fps
        shared = math.gcd(one.numerator * other.denominator, other.numerator * one.denominator)
        both = Fraction(shared, one.denominator * other.denominator)
        return both if both >= _FINEST else _WHERE_NONE_FITS

    @property
    def file_rate(self) -> Fraction:
        """Average frames a second of the file."""
        return self._fps if self.pace.times is None else self.rate * self.pace.times

    def moments(self, tick: int, until: int) -> list[Moment]:
        """The frames of the file that are shown from a frame on, until the next one begins; ticks of the source."""
        if (times := self.pace.times) is not None:
            step = until - tick
            if step <= 0:  # times are wrong: nothing lies between
                return [Moment(times * tick, times * tick, 0.0)]
            return [Moment(times * tick + n * step, times * tick + (n + 1) * step, n / times) for n in range(times)]
        if until <= tick:
            return []
        begin, end = ((each - self.first_tick) * self.time_base for each in (tick, until))
        found = []
        for number in range(math.ceil(begin * self._fps), math.ceil(end * self._fps)):
            phase = (number / self._fps - begin) / (end - begin)
            phase = Fraction(0) if phase < _SAME else Fraction(1) if phase > 1 - _SAME else phase
            found.append(Moment(self._tick_of(number), self._tick_of(number + 1), float(phase)))
        return found

    def _tick_of(self, number: int) -> int:
        return round((self.first_tick * self.time_base + number / self._fps) / self.file_time_base)

    @property
    def _fps(self) -> Fraction:
        assert self.pace.fps is not None
        return Fraction(*self.pace.fps)
