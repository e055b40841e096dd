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
from typing import Final, NamedTuple

from av.video.frame import PictureType, VideoFrame

from vidbatch.decoding.container import Video
from vidbatch.decoding.frames import frame_of
from vidbatch.decoding.held import Shown
from vidbatch.decoding.log import Log
from vidbatch.decoding.reading import FrameReader
from vidbatch.enhancing.chain import Chain
from vidbatch.enhancing.filters import Reach, plain
from vidbatch.enhancing.types import Facts
from vidbatch.errors import VideoError
from vidbatch.sampling import tick_of

_HIGH_DYNAMIC_RANGE: Final = {16: "PQ", 18: "HLG"}
_PROGRESSIVE: Final = (0, 1)
"""What a header says of the order of fields where there are none, or nothing is known."""


class Enhanced(NamedTuple):
    """One frame to encode, shown from a tick of the source's time base to another; `original` where it is measured."""

    tick: int
    end: int
    frame: VideoFrame
    original: VideoFrame | None


class _Waiting(NamedTuple):
    shown: Shown
    is_inside: bool
    original: VideoFrame | None


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

    Args: the clip is [start, end) in seconds, None for the beginning and the end of the video; `measures` has the
    first frame of the video, and one a second, come with its original.
    """

    def __init__(
        self, video: Video, log: Log, chain: Chain, reach: Reach, facts: Facts, *, clip: dict[str, float | None],
        measures: bool = True, max_duration_seconds: float = math.inf,
    ) -> None:  # fmt: skip
        self._video = video
        self._log = log
        self._chain = chain
        self._reach = reach
        self._facts = facts
        self._start, self._end = (
            None if (seconds := clip[name]) is None else tick_of(seconds, video.time_base)
            for name in ("start_seconds", "end_seconds")
        )
        self._measures = measures
        self._max_duration_seconds = max_duration_seconds
        self._waiting: deque[_Waiting] = deque()
        self._last_tick: int | None = None

    def __iter__(self) -> Iterator[Enhanced]:
        problem: VideoError | None = None
        try:
            for shown, is_inside in self._timed(self._decoded()):
                frame = plain(_frame_of(shown))
                original = frame if is_inside and self._is_measured(shown) else None
                self._waiting.append(_Waiting(shown, is_inside, original))
                yield from self._given(self._chain.push(frame))
        except VideoError as error:
            problem = error
        yield from self._given(self._chain.flush())
        if problem is not None:
            raise problem

    def _timed(self, decoded: Iterator[tuple[Shown, bool]]) -> Iterator[tuple[Shown, bool]]:
        while True:
            began = time.perf_counter()
            item = next(decoded, None)
            self._facts.decode_seconds += time.perf_counter() - began
            if item is None:
                return
            yield item

    def _given(self, frames: Iterable[VideoFrame]) -> Iterator[Enhanced]:
        """The enhanced frames that lie in the clip, each at its time."""
        frames = iter(frames)
        while True:
            began = time.perf_counter()
            frame = next(frames, None)
            self._facts.enhance_seconds += time.perf_counter() - began
            if frame is None:
                return
            shown, is_inside, original = self._waiting.popleft()
            if not is_inside:
                continue
            tick = shown.tick if self._last_tick is None else max(shown.tick, self._last_tick + 1)
            self._last_tick = tick
            frame.pts, frame.time_base = tick, self._video.time_base
            frame.duration = max(1, shown.end - tick)
            frame.pict_type = PictureType.NONE  # else encoders make of each frame what it was
            yield Enhanced(tick, tick + frame.duration, frame, original)

    def _is_measured(self, shown: Shown) -> bool:
        """Of the whole video's frames the first, and those shown when a second begins: the same however it is cut."""
        if not self._measures:
            return False
        is_first = self._start is None and not self._facts.num_frames_decoded
        return is_first or math.ceil(shown.tick * self._video.time_base) < shown.end * self._video.time_base

    def _decoded(self) -> Iterator[tuple[Shown, bool]]:
        """The clip's frames and those within reach, and whether each is the clip's."""
        behind = 0
        first: int | None = None
        for shown in self._from_start():
            first = shown.tick if first is None else first
            if (shown.tick - first) * self._video.time_base > self._max_duration_seconds:
                raise VideoError("bounds", f"frames after more than {self._max_duration_seconds:.0f} s")
            check_colour(int(_frame_of(shown).color_trc))
            is_inside = self._start is None or shown.tick >= self._start
            if self._end is not None and shown.tick >= self._end:
                if behind >= self._reach.behind:
                    return
                behind, is_inside = behind + 1, False
            yield shown, is_inside
            self._facts.num_frames_decoded += is_inside

    def _from_start(self) -> Iterator[Shown]:
        """Frames from the first within reach on, or from the beginning."""
        if self._start is None:
            yield from FrameReader(self._video, self._log).frames()
            return
        if not self._reach.before:
            yield from (s for s in FrameReader(self._video, self._log).frames(self._start) if s.tick >= self._start)
            return
        lowest = self._video.stream.start_time or 0
        ticks = max(2 * self._reach.before * self._video.frame_ticks, 1)
        before: deque[Shown] = deque(maxlen=self._reach.before)
        while True:
            begin = self._start - ticks if self._start - ticks > lowest else None
            frames = FrameReader(self._video, self._log).frames(begin)
            at: Shown | None = None
            before.clear()
            for at in frames:
                if at.tick >= self._start:
                    break
                before.append(at)
            if len(before) == self._reach.before or begin is None:
                break
            ticks *= 4  # frames last longer here than on average
            self._video.reopen()
        yield from before
        if at is not None and at.tick >= self._start:
            yield at
            yield from frames
