"""Frames and when they are shown go in, more of them come out: those that went in as they were, others between them.

Runs in the child process, between two chains (passage.py). How a frame between two others is made:

                                                                    CPU ms a frame of 720p, made
    dis           OpenCV's DIS flow, both frames drawn along it        310
    network       the same flow, and a network upon it (flowing.py)    850
    minterpolate  FFmpeg's, block by block, motion compensated         460
    blend         a mixture of both                                      1

None is made across a cut (cuts.py): there the nearer of the two frames is repeated. Where a frame is repeated in the
video itself, it is repeated; where one stands for much longer than frames do there, it stands; so does the last one.
What comes of two frames depends on these, and on the one before and the one behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, Final, Protocol

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame

from vidbatch.enhancing import cuts
from vidbatch.enhancing.chain import Machine, Timed
from vidbatch.enhancing.cuts import Pair, Verdict
from vidbatch.enhancing.filters import (
    Conversion,
    Reach,
    Shape,
    buffer_of,
    depth_of,
    format_of,
    is_planar_yuv,
    rows_of,
    shape_of,
    tagged,
)
from vidbatch.enhancing.timeline import Moment, Timeline
from vidbatch.enhancing.types import Step
from vidbatch.errors import VideoError

REACH: Final = Reach(2, 2)
"""Of what lies in a clip: what is between its first frame and the one before depends on the one before that, too."""
_LONG_SECONDS: Final = Fraction(1, 4)
_LONG_FRAMES: Final = 4
"""A frame stands that is shown for longer than both."""
_STEADY: Final = 1.25
"""How many times as long a frame is shown as its neighbour, at most, if speeds are told from both."""
_OF_FLOWS: Final = "yuv420p"
MCI: Final = "mc_mode=aobmc:me_mode=bidir:vsbmc=1"
_SMALLEST_OF_MCI: Final = 32
"""Width and height, in pixels."""
_TICKS: Final = 100_000


class Between(Protocol):
    """A way to make frames between others."""

    def prepare(self, frame: VideoFrame) -> Any:
        """What it has to know of a frame, found once."""

    def make(self, before: Any, first: Any, last: Any, after: Any, phases: Sequence[float]) -> list[VideoFrame]:
        """The frames at some times between two: 0 would be the first, 1 the last; None before or after: there is none
        that says how they move."""


@dataclass
class _Held:
    """A frame, and what is known of it and of how the next one follows."""

    timed: Timed
    shape: Shape
    way: _Way
    pair: Pair | None = None
    """With the next one; None: there is none, or it is of another size."""
    prepared: Any = field(default=None)

    @cached_property
    def small(self) -> Any:
        return np.asarray(self.way.small(self.timed.frame).to_ndarray(), np.float32)

    @cached_property
    def luma(self) -> Any:
        return self.way.luma(self.timed.frame)

    def known(self) -> Any:
        if self.prepared is None:
            self.prepared = self.way.prepare(self.timed.frame)
        return self.prepared


class Interpolation:
    """Push frames in their order, iterate over those of the file that are ready.

    Args: `frame_seconds`, how long a frame of the source is shown on average.
    """

    def __init__(self, step: Step, timeline: Timeline, frame_seconds: Fraction, machine: Machine) -> None:
        self._step = step
        self._timeline = timeline
        self._machine = machine
        self._longest = max(_LONG_FRAMES * frame_seconds, _LONG_SECONDS) / timeline.time_base
        self._ways: dict[Shape, _Way] = {}
        self._held: list[_Held] = []
        self._at = 0
        self.changes: list[str] = []

    def push(self, timed: Timed) -> Iterator[Timed]:
        """Take the next frame; give those of the file from one two frames before it on."""
        shape = shape_of(timed.frame)
        held = _Held(timed, shape, self._way(shape))
        if self._held and self._held[-1].shape == shape:
            last = self._held[-1]
            last.pair = cuts.pair_of((last.small, held.small), lambda: (last.luma, held.luma))
        self._held.append(held)
        if len(self._held) - self._at > REACH.behind:
            yield from self._next()

    def flush(self) -> Iterator[Timed]:
        """Give what is still on the way."""
        while self._at < len(self._held):
            yield from self._next()
        self._held, self._at = [], 0

    def _way(self, shape: Shape) -> _Way:
        if shape not in self._ways:
            self._ways[shape] = way = _Way(shape, self._step, self._machine)
            bits = depth_of(shape.pixel_format)
            change = f"frames between others were made of 8 bits of {bits}"
            if bits > 8 and way.is_converted and change not in self.changes:
                self.changes.append(change)
        return self._ways[shape]

    def _next(self) -> Iterator[Timed]:
        """The frames of the file from a frame on, until the next one is shown."""
        first = self._held[self._at]
        last = self._held[self._at + 1] if self._at + 1 < len(self._held) else None
        until = first.timed.end if last is None else last.timed.tick
        moments = self._timeline.moments(first.timed.tick, until)
        between = [moment for moment in moments if 0 < moment.phase < 1]
        is_made = bool(between) and self._lies_between(self._at) == "moves"
        made = iter(self._made([moment.phase for moment in between]) if is_made else [])
        shown = first.timed.original
        for moment in moments:
            if is_made and 0 < moment.phase < 1:
                timed = Timed(moment.tick, moment.end, next(made), is_made=True)
            else:
                timed = self._kept(moment, first, last)
            if shown is not None and timed.is_made == is_made:
                timed, shown = timed._replace(beside=shown), None
            yield timed
        if self._at < 1:
            self._at += 1
        else:
            del self._held[0]

    def _kept(self, moment: Moment, first: _Held, last: _Held | None) -> Timed:
        """A frame that there was, at its time or repeated."""
        is_cut = last is not None and self._lies_between(self._at) == "cut"
        chosen = last if last is not None and (moment.phase == 1 or (is_cut and moment.phase > 0.5)) else first
        is_at_its_time = moment.phase == (0 if chosen is first else 1)
        return Timed(moment.tick, moment.end, chosen.timed.frame, chosen.timed.original if is_at_its_time else None)

    def _lies_between(self, at: int) -> Verdict:
        """What lies between a frame and the next one."""
        if at < 0 or at + 1 >= len(self._held):
            return "same"
        held = self._held[at]
        if held.pair is None:
            return "cut"
        if self._ticks_at(at) > self._longest:
            return "same"
        before = self._held[at - 1].pair if at else None
        return cuts.verdict(before, held.pair, self._held[at + 1].pair)

    def _ticks_at(self, at: int) -> int:
        """Ticks that a frame is shown for, until the next one."""
        return self._held[at + 1].timed.tick - self._held[at].timed.tick

    def _made(self, phases: list[float]) -> list[VideoFrame]:
        at = self._at
        before = self._held[at - 1].known() if self._leads_on(at - 1) else None
        after = self._held[at + 2].known() if self._leads_on(at + 1) else None
        first, last = self._held[at], self._held[at + 1]
        made = first.way.make(before, first.known(), last.known(), after, phases)
        return [tagged(frame, self._held[at].timed.frame) for frame in made]

    def _leads_on(self, pair: int) -> bool:
        """Whether a pair before or behind tells how things move: at that pace, and in that shot."""
        if pair < 0 or pair + 1 >= len(self._held) or self._lies_between(pair) != "moves":
            return False
        here, there = self._ticks_at(self._at), self._ticks_at(pair)
        return max(here, there) <= _STEADY * min(here, there)


class _Way:
    """How frames of a shape are looked at, and how others are made of them."""

    def __init__(self, shape: Shape, step: Step, machine: Machine) -> None:
        rows, columns = cuts.SMALL
        self.small = Conversion(shape, [("scale", f"{columns}:{rows}:flags=area"), ("format", "gray")])
        self._has_luma = is_planar_yuv(shape.pixel_format) and depth_of(shape.pixel_format) == 8
        self._gray = None if self._has_luma else Conversion(shape, [("format", "gray")])
        self._shape = shape
        self._method = method_of(step, machine)
        self.is_converted = shape.pixel_format != _OF_FLOWS and step.method != "blend"
        self._there = Conversion(shape, [("format", format_of(_OF_FLOWS, shape))]) if self.is_converted else None
        self._back: Conversion | None = None

    def luma(self, frame: VideoFrame) -> Any:
        return rows_of(frame if self._gray is None else self._gray(frame), 0)

    def prepare(self, frame: VideoFrame) -> Any:
        return self._method.prepare(frame if self._there is None else self._there(frame))

    def make(self, before: Any, first: Any, last: Any, after: Any, phases: list[float]) -> list[VideoFrame]:
        made = self._method.make(before, first, last, after, phases)
        if not self.is_converted:
            return made
        if self._back is None:
            self._back = Conversion(shape_of(made[0]), [("format", format_of(self._shape.pixel_format, self._shape))])
        return [self._back(frame) for frame in made]


def method_of(step: Step, machine: Machine) -> Between:
    """The way that a step is done by."""
    if step.method == "blend":
        return Blend()
    if step.method == "minterpolate":
        return MotionCompensated()
    from vidbatch.enhancing.networked import make_interpolator  # loads torch

    return make_interpolator(step.network, machine.device, machine.threads)


class Blend:
    """A mixture of two frames, by FFmpeg's filter of that name."""

    def prepare(self, frame: VideoFrame) -> VideoFrame:
        """The frame."""
        return frame

    def make(
        self, before: VideoFrame | None, first: VideoFrame, last: VideoFrame, after: VideoFrame | None,  # noqa: ARG002
        phases: Sequence[float],
    ) -> list[VideoFrame]:  # fmt: skip
        """See Between."""
        return [_mixed(first, last, phase) for phase in phases]


def _mixed(first: VideoFrame, last: VideoFrame, phase: float) -> VideoFrame:
    shape, graph = shape_of(first), Graph()
    sources = [buffer_of(graph, shape) for _ in range(2)]
    mix = graph.add("blend", f"all_mode=normal:all_opacity={1 - phase:.6f}")
    for number, source in enumerate(sources):
        source.link_to(mix, 0, number)
    sink = graph.add("buffersink")
    graph.link_nodes(mix, graph.add("format", format_of(shape.pixel_format, shape)), sink)
    graph.configure()
    for source, frame in zip(sources, (first, last), strict=True):
        frame.pts, frame.time_base = 0, Fraction(1, 1000)
        source.push(frame)
        source.push(None)
    return _pulled(sink)


class MotionCompensated:
    """FFmpeg's minterpolate: of each four frames by themselves, so that it does not matter what was before.

    Where there is no frame before or behind, the nearest one stands in. Args: `options` of the filter.
    """

    def __init__(self, options: str = MCI) -> None:
        self._options = options

    def prepare(self, frame: VideoFrame) -> VideoFrame:
        """The frame."""
        return frame

    def make(
        self, before: VideoFrame | None, first: VideoFrame, last: VideoFrame, after: VideoFrame | None,
        phases: Sequence[float],
    ) -> list[VideoFrame]:  # fmt: skip
        """See Between."""
        return [self._at([before or first, first, last, after or last], phase) for phase in phases]

    def _at(self, frames: list[VideoFrame], phase: float) -> VideoFrame:
        """It gives a frame every fourth second: the frames, a second apart, stand so that one is where it is due."""
        graph = Graph()
        graph.threads = 1
        shape = shape_of(frames[0])
        if min(shape.width, shape.height) < _SMALLEST_OF_MCI:
            raise VideoError("unsupported", f"minterpolate takes no pictures of {shape.width}x{shape.height}")
        source = graph.add(
            "buffer", video_size=f"{shape.width}x{shape.height}", pix_fmt=shape.pixel_format,
            time_base=f"1/{_TICKS}", pixel_aspect="1/1", colorspace=str(shape.matrix), range=str(shape.range),
        )  # fmt: skip
        sink = graph.add("buffersink")
        ending = graph.add("format", format_of(shape.pixel_format, shape))
        try:
            between = graph.add("minterpolate", f"fps=1/4:mi_mode=mci:scd=none:{self._options}")
            graph.link_nodes(source, between, ending, sink).configure()
            for number, frame in enumerate(frames):
                frame.pts, frame.time_base = round((8 + number - 1 - phase) * _TICKS), Fraction(1, _TICKS)
                source.push(frame)
            return _pulled(sink)
        except (av.FFmpegError, ValueError) as error:
            raise VideoError("unsupported", f"minterpolate: {error}") from None


def _pulled(sink: Any) -> VideoFrame:
    frame = sink.pull()
    assert isinstance(frame, VideoFrame)
    return frame
