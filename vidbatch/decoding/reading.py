"""An opened container goes in; its frames come out in presentation order, each with the tick from which it is shown.

Runs in the decoder's child process. Ends with a VideoError where the data are damaged or end too early: the frames
before are given, none after.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Final, NamedTuple

import av
from av.video.frame import VideoFrame

from vidbatch.decoding.clock import Clock
from vidbatch.decoding.container import Video
from vidbatch.decoding.entries import Entries
from vidbatch.decoding.held import HeldBack, Shown
from vidbatch.decoding.log import Log
from vidbatch.decoding.packets import Lookahead, VideoPacket
from vidbatch.decoding.pictures import Pixels
from vidbatch.decoding.route import Aim, Jump, Route
from vidbatch.errors import VideoError
from vidbatch.sampling import is_wanted

_STEPS_BACK_SECONDS: Final = (0, 3, 30)
_STEPS_BACK_BY_BISECTION_SECONDS: Final = (1, 5, 30)
"""How far before the wanted time to look for a keyframe that leads there, before beginning at the beginning.

Where a seek bisects the file by decoding times, it ends just behind the keyframe that is shown at the wanted time.
"""
_BISECTED: Final = frozenset({"mpegts", "mpeg"})

_RESTART_SECONDS: Final = 10


class FirstFrame(NamedTuple):
    """When the first frame is shown, and how much later that is than its packet's decoding time, in ticks."""

    tick: int
    decoding_delay: int


class FrameReader:
    """Decodes a video's frames.

    From when there is an `aim`, only the frames that it wants are sure to come, with some of those between; where
    nothing follows that it wants, `next_tick` is when the frame after the last one would have been shown.

    Args: `aim_from` gives the aim of frames the first of which is shown at a tick, None if every frame has to be seen;
    `wants_last` says that wanted times behind the end mean the last frame; `make` gives the picture that is kept in
    place of a frame that is wanted, as far as that is known (`wants_all`: of every one), None to keep frames.
    """

    def __init__(
        self,
        video: Video,
        log: Log,
        *,
        aim_from: Callable[[int], Aim | None] = lambda _tick: None,
        wants_last: bool = False,
        make: Callable[[VideoFrame], Pixels] | None = None,
        wants_all: bool = False,
    ) -> None:
        self._video = video
        self._log = log
        self.make = make
        self.wants_all = wants_all
        self._aim_from: Callable[[int], Aim | None] | None = aim_from
        self._wants_last = wants_last
        self._may_seek = True
        self._has_sought = False
        self.entries = Entries(video.context.codec.canonical_name, video.context.extradata)
        self.aim: Aim | None = None
        self.next_tick: int | None = None
        self.num_frames_decoded = 0
        self.all_decoded_because: str | None = None
        """Why every frame was decoded though not every one was wanted; None if that was not so."""

    def frames(self, from_tick: int | None = None) -> Iterator[Shown]:
        """All frames, or those from a keyframe on, the first of them shown at `from_tick` or before if any frame is.

        Raises VideoError behind the last good one where there is damage.
        """
        last: int | None = None
        given_up_to: int | None = None
        while True:
            try:
                for shown in self._begin(from_tick):
                    if given_up_to is None or shown.tick > given_up_to:
                        last = shown.tick
                        yield shown
                return
            except _WrongWay as wrong:
                given_up_to = last
                if self._has_sought and self._may_seek:  # packets read one by one tell more than an index
                    self._may_seek = False
                else:  # decoding everything decides
                    self.aim = self.next_tick = None
                    self._aim_from = None
                    self.all_decoded_because = str(wrong)
                self._video.reopen()

    def set_out(self, tick: int) -> None:
        """Choose the aim of frames the first of which is shown at this tick, unless it is chosen."""
        if self._aim_from is not None:
            self.aim = self.aim or self._aim_from(tick)

    def first(self) -> FirstFrame | None:
        """About the video's first frame, None if there is none; the video is left behind it."""
        whole = self._pass(None)
        for shown in whole.frames():
            return FirstFrame(shown.tick, 0 if whole.first_dts is None else max(0, shown.tick - whole.first_dts))
        return None

    def _begin(self, from_tick: int | None) -> Iterator[Shown]:
        """The frames from the best place to begin.

        The container may offer a keyframe behind `from_tick` (its index is in decoding order), or one from which the
        decoder recovers only later: what comes out decides, and else decoding begins further back.
        """
        if from_tick is not None:
            bisected = self._video.demuxer in _BISECTED
            for attempt, seconds in enumerate(_STEPS_BACK_BY_BISECTION_SECONDS if bisected else _STEPS_BACK_SECONDS):
                if not self._video.seek(from_tick - round(seconds / self._video.time_base)):
                    break
                frames = self._follow(self._pass(from_tick, sets_out=attempt == 0))
                try:
                    first = next(frames, None)
                except (VideoError, _WrongWay):
                    first = None
                if first is not None and first.tick <= from_tick:
                    yield first
                    yield from frames
                    return
                self.aim = None  # what does not begin as expected is looked at frame by frame until it has begun
            self._video.reopen()
        yield from self._follow(self._pass(None, sets_out=from_tick is None))

    def _follow(self, current: _Pass) -> Iterator[Shown]:
        """The frames of a pass and of those that its jumps lead to."""
        while True:
            last: Shown | None = None
            try:
                for last in current.frames():
                    yield last
            except VideoError as error:
                if last is not None and last.frame is None and self._is_wanted(last):
                    raise _WrongWay(f"damage behind a frame that is shown on for it: {error.message}") from error
                # What is damaged for one who comes by a jump need not be for another.
                if current.made is None or error.kind not in ("corrupt", "truncated"):
                    raise
                raise _WrongWay(f"after a jump: {error.message}") from error
            if self.aim is not None and not current.route.is_plain:
                self.all_decoded_because = current.route.not_plain_because
            if current.jump is None:
                return
            if current.jump == Jump():
                self.next_tick = current.route.next_tick
                return
            current = self._land(current, current.jump)

    def _is_wanted(self, shown: Shown) -> bool:
        return not isinstance(self.aim, str | None) and is_wanted(self.aim, shown.tick, shown.end)

    def _land(self, left: _Pass, jump: Jump) -> _Pass:
        packets = left.packets
        if jump.seek_tick is not None:
            left_at = _moment(packets[0])
            self._has_sought = True
            packets = Lookahead(self._video, self._log) if self._video.seek(jump.seek_tick) else packets
            if not packets.fill(1) or _moment(packets[0]) <= left_at:
                raise _WrongWay("a seek did not lead ahead")
        elif jump.packets_ahead is not None:
            packets.drop(jump.packets_ahead)
        if not packets.fill(1):
            raise _WrongWay("nothing follows a jump")
        self._video.context.flush_buffers()
        return _Pass(self, self._video, self._log, packets, packets[0].pts, made=jump)

    def _pass(self, from_tick: int | None, *, sets_out: bool = False) -> _Pass:
        sets_out = sets_out and self._aim_from is not None  # what packets promised of the first frame misled before
        return _Pass(self, self._video, self._log, Lookahead(self._video, self._log), from_tick, sets_out=sets_out)

    def route_of(self, packets: Lookahead, made: Jump | None) -> Route:
        """The route of a pass over these packets."""
        return Route(
            self._video, packets, self.entries, made=made, may_seek=self._may_seek, wants_last=self._wants_last
        )


def _moment(packet: VideoPacket) -> int:
    """When a packet is decoded, or shown where behind a seek that is not known."""
    return (packet.pts or 0) if packet.dts is None else packet.dts


class _WrongWay(Exception):
    """A jump led to where frames are not, or may not be, those of a decoding without jumps."""


class _Pass:
    """One run over the packets from where the video stands; from an entry on if that is not the beginning.

    Damage to frames before `from_tick` does not count: what was seeked over can lack what it refers to. A pass that
    ends with a `jump` is to be followed by one that was `made` by it; one that `sets_out` has the reader choose its aim
    before the first frame has come out, if the packets say when that is shown.
    """

    def __init__(
        self,
        reader: FrameReader,
        video: Video,
        log: Log,
        packets: Lookahead,
        from_tick: int | None,
        *,
        made: Jump | None = None,
        sets_out: bool = False,
    ) -> None:
        self._reader = reader
        self._video = video
        self._log = log
        self._from_tick = from_tick
        self.packets = packets
        self.route = reader.route_of(packets, made)
        self.made = made
        self._sets_out = sets_out
        self._first_tick: int | None = None  # as the packets say
        self.jump: Jump | None = None
        self._clock = Clock(video.time_base, video.frame_ticks)
        self._held = HeldBack()
        self._have_begun = False
        self._have_keyframe = False
        self._trouble: BaseException | None = None
        self._num_frames = 0
        self._skips = False
        self._expects = False
        self.first_dts: int | None = None

    def frames(self) -> Iterator[Shown]:
        """The frames in presentation order, with a VideoError behind the last good one if there is damage."""
        if self.made is not None and not self.route.begins_well(self.packets[0]):
            raise _WrongWay("decoding cannot begin exactly at a keyframe of the index")
        if self.made is None and self.packets.more():
            self.route.check_times()
            if self._sets_out and (tick := self.route.first_tick) is not None:
                self._first_tick = tick
                self._reader.set_out(tick)
        while self.packets.more():
            aim = self._reader.aim if self._clock.is_plain else None
            if aim is not None:
                if not self._expects and self.made is None and self.route.has_begun:
                    self._expects = True
                    self.route.expect(aim)
                if (jump := self.route.look(aim)) is not None:
                    self.jump = jump
                    yield from self._leave()
                    return
            packet = self.packets.pop()
            if self.first_dts is None:
                self.first_dts = packet.dts
            if self._from_tick is not None and not self._have_begun and not self._reader.entries.may_include(packet):
                if packet.dts is not None and packet.dts > self._from_tick:
                    return  # what comes from here on is shown too late
                continue
            self._have_begun = True
            frames, damage = self._decode(packet, aim)
            if damage is not None and not self._have_keyframe and not packet.is_keyframe:
                self._trouble = self._trouble or damage  # recordings begin anywhere: not decodable up to a keyframe
                continue
            self._have_keyframe = self._have_keyframe or packet.is_keyframe
            if frames and (yield from self._accept(frames, depth=self._video.context.reorder_depth)):
                self._video.fail(None, at_end=self.packets.are_last())
            del frames  # the decoder uses a picture's memory again, still in the cache, once nobody holds it
            if damage is not None:
                yield from self._drain(contiguous=True, before=packet.pts)
                self._video.fail(damage, at_end=self.packets.are_last())
        yield from self._end()

    def _decode(self, packet: VideoPacket, aim: Aim | None) -> tuple[list[VideoFrame], BaseException | None]:
        damage = self._damage_in_container(packet)
        if damage is not None:
            return [], damage
        self._held.sent(packet, is_keyframe=self._video.is_keyframe(packet))
        treatment = self.route.treatment(packet, aim)
        self.route.treated(packet, treatment)
        if self.route.has_misled:
            raise _WrongWay(self.route.not_plain_because)
        if treatment == "drop":
            return [], None
        if (treatment == "skip") != self._skips:
            self._skips = treatment == "skip"
            self._video.context.skip_frame = "NONREF" if self._skips else "DEFAULT"
        try:
            return self._video.context.decode(packet), None
        except (av.FFmpegError, ValueError) as error:
            return [], error

    def _damage_in_container(self, packet: VideoPacket) -> BaseException | None:
        # Where the next packet is only found by searching, this one is likely to hold the beginning of the damage.
        if (said := self.packets.error_near()) is not None:
            return VideoError("corrupt", f"{self._video.demuxer}: {said}")
        if packet.is_corrupt and not (self._video.demuxer == "mpegts" and self._is_join(packet)):
            return VideoError("corrupt", f"{self._video.demuxer}: incomplete or damaged packet")
        return None

    def _is_join(self, packet: VideoPacket) -> bool:
        """Whether a transport stream's packets are only not numbered on, because another recording begins here.

        Then a keyframe follows, one frame later or at quite another time; what is lost leaves a gap.
        """
        for number, later in enumerate(self.packets.following(2), 1):
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
            may_be_wanted, end_of_needless = self.route.at(tick)
            end_before = max(end_before, end_of_needless)
            if self.made is not None and not self._num_frames and tick > (self._from_tick or tick):
                raise _WrongWay("the decoder recovered only some frames after a jump")
            self._reader.num_frames_decoded += 1
            if frame.is_corrupt:
                if self._from_tick is None or tick >= self._from_tick:
                    yield from self._held.take_decoded_before(frame)
                    return True
                continue
            if self._first_tick is not None and not self._num_frames and tick != self._first_tick:
                raise _WrongWay("the first frame is not shown when its packet says")
            if depth is None and self._num_frames and tick > end_before + (self._clock.end - tick) // 2:
                break
            self._num_frames += 1
            kept: VideoFrame | Pixels | None = None
            if may_be_wanted:
                kept = self._reader.make(frame) if self._reader.make and self._is_wanted_for_sure else frame
            self._held.add(frame.pts, Shown(tick, self._clock.end, kept, self._held.is_keyframe(frame)))
            if depth is not None:
                yield from self._held.take_down_to(depth)
        return False

    @property
    def _is_wanted_for_sure(self) -> bool:
        """Whether a frame that may be wanted is, but for a few."""
        if self._reader.wants_all:
            return True
        return self._reader.aim is not None and self._clock.is_plain and self.route.tells_needless

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

    def _leave(self) -> Iterator[Shown]:
        """What is still to come of the packets sent before a jump."""
        if self.jump == Jump() and self.packets.is_at_end:
            yield from self._end()
        elif (yield from self._drain(contiguous=False)):
            self._video.fail(None, at_end=False)
        if self._skips:
            self._video.context.skip_frame = "DEFAULT"

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
