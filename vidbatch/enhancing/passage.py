"""All that a run does to frames: those of the source go in, each at its time, those of the file come out.

    chain -> interpolation -> chain

A chain gives a frame for each (chain.py); what lies between two of them gives more (interpolating.py), at times of a
finer time base (timeline.py). Without the step `interpolate` there is one chain.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

from vidbatch.enhancing.chain import Chain, Machine, Target, Timed, reach_of
from vidbatch.enhancing.filters import NO_REACH, Reach
from vidbatch.enhancing.interpolating import REACH, Interpolation
from vidbatch.enhancing.timeline import Timeline
from vidbatch.enhancing.types import Step


class Around(NamedTuple):
    """What decides, of a video, what becomes of a part of it: so many seconds around, and so many frames beyond."""

    reach: Reach = NO_REACH
    seconds_before: Fraction = Fraction(0)
    seconds_behind: Fraction = Fraction(0)


def around(steps: tuple[Step, ...], timeline: Timeline | None, *, deinterlaces: bool) -> Around:
    """How much of a video around a part of it all steps together see."""
    first, _, rest = _parted(steps)
    before = reach_of(first, deinterlaces=deinterlaces)
    if timeline is None:
        return Around(before)
    behind = reach_of(rest, deinterlaces=False)
    pace, seconds = timeline.pace, [Fraction(0), Fraction(0)]
    if pace.times is not None:
        frames = [math.ceil(number / pace.times) for number in behind]
    else:  # as many frames of the source as are shown meanwhile
        frames, seconds = [0, 0], [number / timeline.file_rate for number in behind]
    reach = Reach(*(sum(parts) for parts in zip(before, REACH, frames, strict=True)))
    return Around(reach, *seconds)


def _parted(steps: tuple[Step, ...]) -> tuple[tuple[Step, ...], Step | None, tuple[Step, ...]]:
    """The steps before interpolation, that step, and those behind it."""
    place = next((number for number, step in enumerate(steps) if step.pace is not None), len(steps))
    return steps[:place], next(iter(steps[place:]), None), steps[place + 1 :]


class Passage:
    """Push frames in their order, iterate over those of the file that are ready.

    Args: `timeline` is None where there is no interpolation; `frame_seconds`, how long a frame is shown on average.
    """

    def __init__(
        self, steps: tuple[Step, ...], target: Target, timeline: Timeline | None, *, frame_seconds: Fraction,
        deinterlaces: bool, machine: Machine | None = None,
    ) -> None:  # fmt: skip
        machine = machine or Machine()
        first, step, rest = _parted(steps)
        self._parts: list[_Chained | Interpolation] = []
        if step is None or timeline is None:
            self._parts = [_Chained(Chain(first, target, deinterlaces=deinterlaces, machine=machine))]
            return
        self._parts = [
            _Chained(Chain(first, None, deinterlaces=deinterlaces, machine=machine)),
            Interpolation(step, timeline, frame_seconds, machine),
            _Chained(Chain(rest, target, deinterlaces=False, machine=machine)),
        ]

    @property
    def changes(self) -> list[str]:
        """What is changed beside the steps, a sentence each."""
        return list(dict.fromkeys(change for part in self._parts for change in part.changes))

    def push(self, timed: Timed) -> Iterator[Timed]:
        """Take the next frame; give those that are ready."""
        yield from self._through(0, [timed])

    def flush(self) -> Iterator[Timed]:
        """Give what is still on the way."""
        for place, part in enumerate(self._parts):
            yield from self._through(place + 1, part.flush())

    def _through(self, place: int, given: Iterable[Timed]) -> Iterator[Timed]:
        """What comes out at the end because frames come to a part."""
        if place == len(self._parts):
            yield from given
            return
        for timed in given:
            yield from self._through(place + 1, self._parts[place].push(timed))


class _Chained:
    """A chain, for frames that have times."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._waiting: deque[Timed] = deque()

    @property
    def changes(self) -> list[str]:
        return self._chain.changes

    def push(self, timed: Timed) -> Iterator[Timed]:
        self._waiting.append(timed)
        for frame in self._chain.push(timed.frame):
            yield self._waiting.popleft()._replace(frame=frame)

    def flush(self) -> Iterator[Timed]:
        for frame in self._chain.flush():
            yield self._waiting.popleft()._replace(frame=frame)
