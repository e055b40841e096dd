"""An opened video and the bounds of a clip go in; its frames come out, enhanced, with the times they are shown for.

Runs in the child process. The frames around the clip that its filters reach are decoded too, so that each frame comes
out as it would of the whole video. Frames that damage leaves out are not made up: those before it come out, then the
VideoError.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Final

from av.video.frame import PictureType, VideoFrame

from vidbatch.decoding.container import Video
from vidbatch.decoding.frames import frame_of
from vidbatch.decoding.held import Shown
from vidbatch.decoding.log import Log
from vidbatch.decoding.reading import FrameReader
from vidbatch.enhancing.chain import Timed
from vidbatch.enhancing.filters import plain
from vidbatch.enhancing.passage import Around, Passage
from vidbatch.enhancing.types import Facts
from vidbatch.errors import VideoError
from vidbatch.sampling import tick_of

_HIGH_DYNAMIC_RANGE: Final = {16: "PQ", 18: "HLG"}
_PROGRESSIVE: Final = (0, 1)
"""What a header says of the order of fields where there are none, or nothing is known."""


def is_interlaced(video: Video) -> bool:
    """Whether the header says that frames are two fields."""
    return video.context.field_order not in _PROGRESSIVE


def check_colour(transfer: int) -> None:
    """Raise VideoError for high dynamic range: what is made for a few hundred times more light cannot be kept so."""
    if (name := _HIGH_DYNAMIC_RANGE.get(transfer)) is not None:
        raise VideoError("unsupported_colour", f"high dynamic range ({name})")


def _frame_of(shown: Shown) -> VideoFrame:
    frame = frame_of(shown)
    assert isinstance(frame, VideoFrame), "pictures come only from readers that were told how to make them"
    return frame


class ClipReader:
    """Iterates over the enhanced frames of a clip, and keeps count in `facts`.

    Args: `around` is what `passage` sees; the frames come in ticks of `time_base`; the clip is [start, end) in seconds,
    None for the beginning and the end of the video; `measures` has the first frame of the video, and one a second,
    come with its original.
    """

    def __init__(
        self, video: Video, log: Log, passage: Passage, around: Around, facts: Facts, *, time_base: Fraction,
        clip: dict[str, float | None], measures: bool = True, max_duration_seconds: float = math.inf,
    ) -> None:  # fmt: skip
        self._video = video
        self._log = log
        self._passage = passage
        self._reach = around.reach
        self._facts = facts
        self._time_base = time_base
        self._start, self._end = (
            None if (seconds := clip[name]) is None else tick_of(seconds, video.time_base)
            for name in ("start_seconds", "end_seconds")
        )
        self._measures = measures
        self._max_duration_seconds = max_duration_seconds
        self._first_seen = None if self._start is None else self._start - round(around.seconds_before / video.time_base)
        self._last_seen = None if self._end is None else self._end + round(around.seconds_behind / video.time_base)
        self._last_tick: int | None = None

    def __iter__(self) -> Iterator[Timed]:
        problem: VideoError | None = None
        try:
            for shown in self._timed(self._decoded()):
                frame = plain(_frame_of(shown))
                original = frame if self._is_measured(shown) else None
                yield from self._given(self._passage.push(Timed(shown.tick, shown.end, frame, original, original)))
        except VideoError as error:
            problem = error
        yield from self._given(self._passage.flush())
        if problem is not None:
            raise problem

    def _timed(self, decoded: Iterator[Shown]) -> Iterator[Shown]:
        while True:
            began = time.perf_counter()
            item = next(decoded, None)
            self._facts.decode_seconds += time.perf_counter() - began
            if item is None:
                return
            yield item

    def _given(self, frames: Iterable[Timed]) -> Iterator[Timed]:
        """The enhanced frames that lie in the clip, each at its time."""
        frames = iter(frames)
        while True:
            began = time.perf_counter()
            timed = next(frames, None)
            self._facts.enhance_seconds += time.perf_counter() - began
            if timed is None:
                return
            if not self._is_inside(timed.tick * self._time_base):
                continue
            tick, frame = timed.tick if self._last_tick is None else max(timed.tick, self._last_tick + 1), timed.frame
            self._last_tick = tick
            frame.pts, frame.time_base = tick, self._time_base
            frame.duration = max(1, timed.end - tick)
            frame.pict_type = PictureType.NONE  # else encoders make of each frame what it was
            yield timed._replace(tick=tick, end=tick + frame.duration)

    def _is_inside(self, seconds: Fraction) -> bool:
        """Whether what is shown from a time on is the clip's."""
        base = self._video.time_base
        return (self._start is None or seconds >= self._start * base) and (
            self._end is None or seconds < self._end * base
        )

    def _is_measured(self, shown: Shown) -> bool:
        """Of the whole video's frames the first, and those shown when a second begins: the same however it is cut."""
        if not self._measures:
            return False
        is_first = self._start is None and not self._facts.num_frames_decoded
        return is_first or math.ceil(shown.tick * self._video.time_base) < shown.end * self._video.time_base

    def _decoded(self) -> Iterator[Shown]:
        """The clip's frames and those around it that are wanted."""
        behind = 0
        first: int | None = None
        for shown in self._from_start():
            first = shown.tick if first is None else first
            if (shown.tick - first) * self._video.time_base > self._max_duration_seconds:
                raise VideoError("bounds", f"frames after more than {self._max_duration_seconds:.0f} s")
            check_colour(int(_frame_of(shown).color_trc))
            if self._last_seen is not None and shown.tick >= self._last_seen:
                if behind >= self._reach.behind:
                    return
                behind += 1
            yield shown
            self._facts.num_frames_decoded += self._is_inside(shown.tick * self._video.time_base)

    def _from_start(self) -> Iterator[Shown]:
        """Frames from the first within reach on, or from the beginning."""
        if self._first_seen is None:
            yield from FrameReader(self._video, self._log).frames()
            return
        if not self._reach.before:
            start = self._first_seen
            yield from (s for s in FrameReader(self._video, self._log).frames(start) if s.tick >= start)
            return
        lowest = self._video.stream.start_time or 0
        ticks = max(2 * self._reach.before * self._video.frame_ticks, 1)
        before: deque[Shown] = deque(maxlen=self._reach.before)
        while True:
            begin = self._first_seen - ticks if self._first_seen - ticks > lowest else None
            frames = FrameReader(self._video, self._log).frames(begin)
            at: Shown | None = None
            before.clear()
            for at in frames:
                if at.tick >= self._first_seen:
                    break
                before.append(at)
            if len(before) == self._reach.before or begin is None:
                break
            ticks *= 4  # frames last longer here than on average
            self._video.reopen()
        yield from before
        if at is not None and at.tick >= self._first_seen:
            yield at
            yield from frames
