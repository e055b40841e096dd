"""An opened container goes in; its frames come out in presentation order, each with the tick from which it is shown.

Runs in the decoder's child process. Ends with a VideoError where the data are damaged or end too early: the frames
before are given, none after.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Final, NamedTuple

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidbatch.decoding.clock import Clock
from vidbatch.decoding.container import Log, Video
from vidbatch.decoding.skipping import LOOK_AHEAD, Skipper, WantedIn
from vidbatch.errors import VideoError

_STEPS_BACK_SECONDS: Final = (0, 3, 30)
_STEPS_BACK_BY_BISECTION_SECONDS: Final = (1, 5, 30)
"""How far before the wanted time to look for a keyframe that leads there, before beginning at the beginning.

Where a seek bisects the file by decoding times, it ends just behind the keyframe that is shown at the wanted time.
"""
_BISECTED: Final = frozenset({"mpegts", "mpeg"})

_SKIPPED: Final = {"matroska,webm": "", "flv": "Packet mismatch"}
"""Demuxers that skip damage to where they find their feet again, and what of their errors says that they did."""

_RESTART_SECONDS: Final = 10
_ORDERS_KEPT: Final = 256


class Shown(NamedTuple):
    """A decoded frame, shown from one tick of the stream's time base to another by its own duration."""

    tick: int
    end: int
    frame: VideoFrame


class FirstFrame(NamedTuple):
    """When the first frame is shown, and how much later that is than its packet's decoding time, in ticks."""

    tick: int
    decoding_delay: int


class FrameReader:
    """Decodes a video's frames; counts them in `num_frames_decoded`.

    From when `is_wanted` is set, frames that are not wanted, and that no other one needs, are left out. The frames
    before and after them come as they would have come, and the video's last one always comes.
    """

    def __init__(self, video: Video, log: Log) -> None:
        self._video = video
        self._log = log
        self.num_frames_decoded = 0
        self.is_wanted: WantedIn | None = None

    def from_beginning(self) -> Iterator[Shown]:
        """All frames. Raises VideoError behind the last good one where there is damage."""
        return self._pass(None).frames()

    def first(self) -> FirstFrame | None:
        """About the video's first frame, None if there is none; the video is left behind it."""
        whole = self._pass(None)
        for shown in whole.frames():
            return FirstFrame(shown.tick, 0 if whole.first_dts is None else max(0, shown.tick - whole.first_dts))
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
            frames = self._pass(tick).frames()
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

    def _pass(self, from_tick: int | None) -> _Pass:
        return _Pass(self, self._video, self._log, from_tick)


class _Pass:
    """One run over the packets from where the video stands; from a keyframe on if that is not the beginning.

    Damage to frames before `from_tick` does not count: what was seeked over can lack what it refers to.
    """

    def __init__(self, reader: FrameReader, video: Video, log: Log, from_tick: int | None) -> None:
        self._reader = reader
        self._video = video
        self._log = log
        self._from_tick = from_tick
        self._packets = _Lookahead(video.packets())
        self._clock = Clock(video.time_base, video.frame_ticks)
        self._skipper = Skipper(video, self._clock, from_tick)
        self._held = _HeldBack()
        self._have_keyframe = False
        self._trouble: BaseException | None = None
        self._num_frames = 0
        self.first_dts: int | None = None

    def frames(self) -> Iterator[Shown]:
        """The frames in presentation order, with a VideoError behind the last good one if there is damage."""
        self._log.new_errors_of(self._video.demuxer)  # of opening: FFmpeg may have looked far ahead
        for number, packet in enumerate(self._packets):
            if number == 0:
                self.first_dts = packet.dts
            if self._from_tick is not None and not self._have_keyframe and not packet.is_keyframe:
                continue
            frames, damage = self._decode(packet)
            if damage is not None and not self._have_keyframe and not packet.is_keyframe:
                self._trouble = self._trouble or damage  # recordings begin anywhere: not decodable up to a keyframe
                continue
            self._have_keyframe = self._have_keyframe or packet.is_keyframe
            if (yield from self._accept(frames, depth=self._video.context.reorder_depth)):
                self._video.fail(None, at_end=self._packets.are_last())
            if damage is not None:
                yield from self._drain(contiguous=True, before=packet.pts)
                self._video.fail(damage, at_end=self._packets.are_last())
        yield from self._end()

    def _decode(self, packet: Packet[VideoStream]) -> tuple[list[VideoFrame], BaseException | None]:
        damage = self._damage_in_container(packet)
        if damage is not None:
            return [], damage
        self._held.sent(packet.pts)
        if self._skipper.is_possible:
            following = self._packets.peek(LOOK_AHEAD)
            skips = self._skipper.may_skip(packet, following, self._reader.is_wanted)
            self._video.context.skip_frame = "NONREF" if skips else "DEFAULT"
        try:
            return self._video.context.decode(packet), None
        except (av.FFmpegError, ValueError) as error:
            return [], error

    def _damage_in_container(self, packet: Packet[VideoStream]) -> BaseException | None:
        name = self._video.demuxer
        # Where the next packet is only found by searching, this one is likely to hold the beginning of the damage.
        following = self._packets.peek(2)
        if following and name in _SKIPPED:  # what is said at the very end is for problem_at_end
            errors = [line for line in self._log.new_errors_of(name) if _SKIPPED[name] in line]
            if errors:
                return VideoError("corrupt", f"{name}: {errors[-1]}")
        if packet.is_corrupt and not (name == "mpegts" and self._is_join(packet, following)):
            return VideoError("corrupt", f"{name}: incomplete or damaged packet")
        return None

    def _is_join(self, packet: Packet[VideoStream], following: list[Packet[VideoStream]]) -> bool:
        """Whether a transport stream's packets are only not numbered on, because another recording begins here.

        Then a keyframe follows, one frame later or at quite another time; what is lost leaves a gap.
        """
        for number, later in enumerate(following, 1):
            if later.is_keyframe and later.dts is not None and packet.dts is not None:
                gap = (later.dts - packet.dts) / self._video.frame_ticks - number
                return abs(gap) < 1 or abs(gap * self._video.frame_ticks * self._video.time_base) > _RESTART_SECONDS
        return False

    def _accept(self, frames: list[VideoFrame], *, depth: int | None) -> Generator[Shown, None, bool]:
        """Hold back, and give what has been held back for long enough; whether a damaged frame came.

        Without a depth all are held back, up to the first that leaves a gap.
        """
        for frame in frames:
            end_before = self._clock.end
            tick = self._clock.tick(frame)
            end_before = max(end_before, self._skipper.end_of_skipped(tick))
            self._reader.num_frames_decoded += 1
            if frame.is_corrupt:
                if self._from_tick is None or tick >= self._from_tick:
                    yield from self._held.take_decoded_before(frame)
                    return True
                continue
            if depth is None and self._num_frames and tick > end_before + (self._clock.end - tick) // 2:
                break
            self._num_frames += 1
            self._held.add(Shown(tick, self._clock.end, frame))
            if depth is not None:
                yield from self._held.take_down_to(depth)
        return False

    def _drain(self, *, contiguous: bool, before: int | None = None) -> Generator[Shown, None, bool]:
        """What the decoder and we still hold; before damage only what leaves no gap. Whether a damaged frame came."""
        try:
            frames = self._video.context.decode(None)
        except (av.FFmpegError, ValueError):
            frames, contiguous = [], True
        if contiguous:  # a frame without a time of its own may lie behind the gap
            frames = [frame for frame in frames if frame.pts is not None and (before is None or frame.pts < before)]
        if (yield from self._accept(frames, depth=None if contiguous else 0)):
            return True
        yield from self._held.take_down_to(0)
        return False

    def _end(self) -> Iterator[Shown]:
        problem = self._video.problem_at_end(self._video.num_packets if self._from_tick is None else None)
        if (yield from self._drain(contiguous=problem is not None)) and problem is None:
            self._video.fail(None, at_end=True)
        if not self._num_frames and self._trouble is not None:
            self._video.fail(self._trouble, at_end=True)
        if problem is not None:
            raise problem
        if not self._num_frames and self._from_tick is None:
            raise VideoError("no_video_stream", f"{self._video.num_packets} packets, but no picture in them")


class _Lookahead:
    """Packets, and a view of the ones to come; reading that fails is noticed behind the last packet that came."""

    def __init__(self, packets: Iterator[Packet[VideoStream]]) -> None:
        self._packets = packets
        self._seen: deque[Packet[VideoStream]] = deque()
        self._failure: VideoError | None = None

    def __iter__(self) -> Iterator[Packet[VideoStream]]:
        while self.peek(1):
            yield self._seen.popleft()
        if self._failure is not None:
            raise self._failure

    def peek(self, number: int) -> list[Packet[VideoStream]]:
        try:
            self._seen.extend(islice(self._packets, max(0, number - len(self._seen))))
        except VideoError as error:
            self._failure = error
        return list(self._seen)

    def are_last(self) -> bool:
        """Whether the data end here: demuxers make up to two more packets of a torn one."""
        return len(self.peek(3)) < 3 and self._failure is None


class _HeldBack:
    """Frames kept back while a damaged picture may still come that they were predicted from.

    A damaged picture is flagged when it is shown; by then pictures predicted from it may have been shown already:

        decoded   I0 P3! B1 B2      P3 is damaged, and B1 and B2 with it
        shown     I0 B1 B2 P3!      but only P3 says so
    """

    def __init__(self) -> None:
        self._frames: deque[Shown] = deque()
        self._order: dict[int, int] = {}
        self._num_sent = 0

    def sent(self, pts: int | None) -> None:
        """A packet went to the decoder; its frame will carry the same time."""
        self._num_sent += 1
        if pts is not None:
            self._order[pts] = self._num_sent
            if len(self._order) > _ORDERS_KEPT:
                del self._order[next(iter(self._order))]

    def add(self, shown: Shown) -> None:
        self._frames.append(shown)

    def take_down_to(self, depth: int) -> Iterator[Shown]:
        while len(self._frames) > depth:
            yield self._frames.popleft()

    def take_decoded_before(self, damaged: VideoFrame) -> Iterator[Shown]:
        """The frames up to the first that was decoded after the damaged one, or may have been."""
        limit = self._order.get(damaged.pts, 0) if damaged.pts is not None else 0
        while self._frames:
            pts = self._frames[0].frame.pts
            if pts is None or self._order.get(pts, limit) >= limit:
                break
            yield self._frames.popleft()
        self._frames.clear()
