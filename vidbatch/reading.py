"""An opened container goes in; its frames come out in presentation order, each with the tick from which it is shown.

Runs in the decoder's child process. Ends with a VideoError where the data are damaged or end too early: the frames
before are given, none after.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidbatch.container import Log, Video
from vidbatch.errors import VideoError

_STEPS_BACK_SECONDS: Final = (0, 3, 30)
_STEPS_BACK_BY_BISECTION_SECONDS: Final = (1, 5, 30)
"""How far before the wanted time to look for a keyframe that leads there, before beginning at the beginning.

Where a seek bisects the file by decoding times, it ends just behind the keyframe that is shown at the wanted time.
"""
_BISECTED: Final = frozenset({"mpegts", "mpeg"})

_JUMP_BACK_SECONDS: Final = 10
_JUMP_AHEAD_SECONDS: Final = 12 * 3600
"""Times that fall back by more are a new start of the clock (a joined recording), by less a disorder. FFmpeg takes
some falls in transport streams for the clock's overflow and adds a day: no frame is shown for so long."""

_RESYNCHRONISING: Final = "matroska,webm"
"""The demuxer that skips damage to the next cluster and only logs it."""


class Shown(NamedTuple):
    """A decoded frame and the tick of the stream's time base from which it is shown."""

    tick: int
    frame: VideoFrame


class FirstFrame(NamedTuple):
    """When the first frame is shown, and how much later that is than its packet's decoding time, in ticks."""

    tick: int
    decoding_delay: int


class Clock:
    """Gives each frame its tick, never one before the last.

    A frame's own time counts, or that of decoding order where own times are missing or worse (FFmpeg's best effort
    rule, as ffprobe reports it). Frames without any follow one frame duration after the last. Where the clock starts
    anew, time goes on from the last frame, so that a joined recording has one timeline.
    """

    def __init__(self, video: Video) -> None:
        self._frame_ticks = video.frame_ticks
        self._jump_back = round(_JUMP_BACK_SECONDS / video.time_base)
        self._jump_ahead = round(_JUMP_AHEAD_SECONDS / video.time_base)
        self._last: int | None = None
        self._offset = 0
        self._last_pts = self._last_dts = -(2**63)
        self._num_bad_pts = self._num_bad_dts = 0
        self.end = 0
        """When the last frame's own duration is over."""

    def tick(self, frame: VideoFrame) -> int:
        """The tick from which the next frame in presentation order is shown."""
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


class FrameReader:
    """Decodes a video's frames; counts them in `num_frames_decoded`."""

    def __init__(self, video: Video, log: Log) -> None:
        self._video = video
        self._log = log
        self.num_frames_decoded = 0
        self.clock = Clock(video)
        self._first_dts: int | None = None

    def from_beginning(self) -> Iterator[Shown]:
        """All frames. Raises VideoError behind the last good one where there is damage."""
        return self._read(from_tick=None)

    def first(self) -> FirstFrame | None:
        """About the video's first frame, None if there is none; the video is left behind it."""
        for shown in self.from_beginning():
            return FirstFrame(shown.tick, 0 if self._first_dts is None else max(0, shown.tick - self._first_dts))
        return None

    def from_tick(self, tick: int) -> Iterator[Shown]:
        """The frames from a keyframe on, the first of them shown at `tick` or before if any frame is.

        The container may offer a keyframe behind `tick` (its index is in decoding order), or one from which the
        decoder recovers only later: what comes out decides, and else decoding begins further back.
        """
        bisected = self._video.demuxer in _BISECTED
        steps = _STEPS_BACK_BY_BISECTION_SECONDS if bisected else _STEPS_BACK_SECONDS
        for seconds in steps:
            if not self._video.seek(tick - round(seconds / self._video.time_base)):
                break
            frames = self._read(from_tick=tick)
            try:
                first = next(frames, None)
            except VideoError:
                continue
            if first is not None and first.tick <= tick:
                yield first
                yield from frames
                return
        self._video.reopen()
        yield from self.from_beginning()

    def _read(self, *, from_tick: int | None) -> Iterator[Shown]:
        self.clock = Clock(self._video)
        packets = self._video.packets()
        have_keyframe = False
        trouble: BaseException | None = None
        num_shown = 0
        for packet in packets:
            if from_tick is None and self._video.num_packets == 1:
                self._first_dts = packet.dts
            if from_tick is not None and not have_keyframe and not packet.is_keyframe:
                continue
            damage = self._damage_in_container(packet)
            frames: list[VideoFrame] = []
            if damage is None:
                try:
                    frames = self._video.context.decode(packet)
                except (av.FFmpegError, ValueError) as error:
                    damage = error
            if damage is not None and not have_keyframe and not packet.is_keyframe:
                trouble = trouble or damage  # a recording that begins between keyframes cannot be decoded there
                continue
            have_keyframe = have_keyframe or packet.is_keyframe
            for frame in frames:
                tick = self._tick(frame)
                if not frame.is_corrupt:
                    num_shown += 1
                    yield Shown(tick, frame)
                elif from_tick is None or tick >= from_tick:
                    self._video.fail(None, at_end=_are_last(packets))
            if damage is not None:
                yield from self._undamaged(before=packet.pts)
                self._video.fail(damage, at_end=_are_last(packets))
        yield from self._last_frames(num_shown, trouble, from_tick)

    def _damage_in_container(self, packet: Packet[VideoStream]) -> BaseException | None:
        errors = self._log.new_errors_of(self._video.demuxer)
        if errors and self._video.demuxer == _RESYNCHRONISING:
            return VideoError("corrupt", f"{self._video.demuxer}: {errors[-1]}")
        if packet.is_corrupt and not (self._video.demuxer == "mpegts" and self._video.reports_damage):
            return VideoError("corrupt", f"{self._video.demuxer}: incomplete or damaged packet")
        return None

    def _tick(self, frame: VideoFrame) -> int:
        self.num_frames_decoded += 1
        return self.clock.tick(frame)

    def _undamaged(self, *, before: int | None) -> Iterator[Shown]:
        """What the decoder still holds from before a damaged packet."""
        try:
            frames = self._video.context.decode(None)
        except (av.FFmpegError, ValueError):
            return
        for frame in frames:
            if frame.is_corrupt or (before is not None and frame.pts is not None and frame.pts >= before):
                return
            yield Shown(self._tick(frame), frame)

    def _last_frames(self, num_shown: int, trouble: BaseException | None, from_tick: int | None) -> Iterator[Shown]:
        try:
            frames = self._video.context.decode(None)
        except (av.FFmpegError, ValueError) as error:
            self._video.fail(error, at_end=True)
        for frame in frames:
            if frame.is_corrupt:
                self._video.fail(None, at_end=True)
            num_shown += 1
            yield Shown(self._tick(frame), frame)
        if not num_shown and trouble is not None:
            self._video.fail(trouble, at_end=True)
        self._video.check_end(self._video.num_packets if from_tick is None else None)
        if not num_shown and from_tick is None:
            raise VideoError("no_video_stream", f"{self._video.num_packets} packets, but no picture in them")


def _are_last(packets: Iterator[Packet[VideoStream]]) -> bool:
    """Whether the data end here: demuxers make up to two more packets of the torn one."""
    return len(list(islice(packets, 3))) < 3
