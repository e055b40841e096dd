"""Decoded frames go in; the ticks from which they are shown come out, in order whatever their timestamps say.

Ticks are of the stream's time base.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from av.video.frame import VideoFrame

_JUMP_BACK_SECONDS: Final = 10
_JUMP_AHEAD_SECONDS: Final = 12 * 3600
"""Times that fall back by more are a new start of the clock (a joined recording), by less a disorder. FFmpeg takes
some falls in transport streams for the clock's overflow and adds a day: no frame is shown for so long."""


class Clock:
    """Gives each frame its tick, never one before the last.

    A frame's own time counts, or that of decoding order where own times are missing or worse (FFmpeg's best effort
    rule, as ffprobe reports it). Frames without any follow one frame duration after the last. Where the clock starts
    anew, time goes on from the last frame, so that a joined recording has one timeline.
    """

    def __init__(self, time_base: Fraction, frame_ticks: int) -> None:
        self._frame_ticks = frame_ticks
        self._jump_back = round(_JUMP_BACK_SECONDS / time_base)
        self._jump_ahead = round(_JUMP_AHEAD_SECONDS / time_base)
        self._last: int | None = None
        self._offset = 0
        self._last_pts = self._last_dts = -(2**63)
        self._num_bad_pts = self._num_bad_dts = self._num_without_pts = 0
        self.end = 0
        """When the last frame's own duration is over."""
        self.is_plain = True
        """Whether every frame so far was shown at its own time."""

    def tick(self, frame: VideoFrame) -> int:
        """The tick from which the next frame in presentation order is shown."""
        self._num_without_pts += frame.pts is None
        own = self._best_effort(frame.pts, frame.dts)
        if self._last is None:
            tick = 0 if own is None else own
        elif own is None:
            tick = self.end
        else:
            if not -self._jump_back <= own + self._offset - self._last <= self._jump_ahead:
                self._offset = self.end - own
            tick = max(self._last, own + self._offset)
        self._last = tick
        self.is_plain = not (self._offset or self._num_bad_pts or self._num_without_pts)
        self.end = tick + (frame.duration or self._frame_ticks)
        return tick

    def _best_effort(self, pts: int | None, dts: int | None) -> int | None:
        if dts is not None:
            self._num_bad_dts += dts <= self._last_dts
            self._last_dts = dts
        elif pts is not None:
            self._last_dts = pts
        if pts is not None:
            self._num_bad_pts += pts <= self._last_pts
            self._last_pts = pts
        elif dts is not None:
            self._last_pts = dts
        if pts is not None and (self._num_bad_pts <= self._num_bad_dts or dts is None):
            return pts
        return dts
