"""Packets ahead and wanted times in; out comes which packets need no decoding.

The frame shown at a wanted time is that of the packet with the greatest presentation time up to it. Once it has been
sent to the decoder, nothing is needed up to the last entry (entries.py) that is shown no later than the next wanted
time; and on the way to a wanted frame nothing that no other frame refers to:

    packets   K b P b w b P . . . . . . . K b P b w . . .        b: no reference, K: an entry
    decoded   K . P . w                   K . P . w

Where the container has an index and the way is long, a jump is a seek; else packets are read and dropped. All of it
holds only where packets have plain times; elsewhere all is decoded.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from fractions import Fraction
from heapq import heappop, heappush
from typing import Final, Literal, NamedTuple

from vidbatch.decoding.container import Video
from vidbatch.decoding.entries import Entries
from vidbatch.decoding.packets import REORDERED, Lookahead, VideoPacket
from vidbatch.sampling import Wanted, is_wanted

_SKIPPED_BY_DECODER: Final = frozenset({"h264", "mpeg1video", "mpeg2video", "mpeg4"})
"""Codecs whose decoders, told so for one packet (skip_frame = NONREF), leave it out if no other frame refers to it.
HEVC's goes by a mark that holds within one temporal layer; VP8's, VP9's and AV1's cannot."""

_WORTH_SEEKING_PACKETS: Final = 16
"""Fewer are dropped as they come: a seek costs more. No seek costs a request: storages are told before (`expect`)."""
_MORE_THAN_EVEN: Final = Fraction(5, 4)
"""How much of a group of pictures is read for one amid it, over what it would be if all were of equal size."""
_MOST_APART_SECONDS: Final = 10
"""Where decoding times are further apart, the clock may have started anew."""

Aim = Wanted | Literal["keyframes"]

Treatment = Literal["show", "decode", "skip", "drop"]
"""Of a packet: decode it for its own sake or for others', send it to a decoder that skips it if no other refers to it,
or do not send it."""


class Jump(NamedTuple):
    """Where to go on: so many packets ahead, or at the keyframe that a seek finds; with neither nowhere."""

    packets_ahead: int | None = None
    seek_tick: int | None = None
    target: int | None = None
    """The wanted tick that it is made for."""


class Route:
    """Decides for the packets of one pass over a video, in their order.

    Args: `made` is the jump with which the pass begins, None for one that begins otherwise; `may_seek` allows jumps by
    seeking; `wants_last` says that times after the end mean the last frame.
    """

    def __init__(
        self,
        video: Video,
        packets: Lookahead,
        entries: Entries,
        *,
        made: Jump | None,
        may_seek: bool,
        wants_last: bool,
    ) -> None:
        self._video = video
        self._packets = packets
        self._entries = entries
        self._made = made
        self._may_seek = may_seek
        self._wants_last = wants_last
        self._decoder_skips = video.context.codec.canonical_name in _SKIPPED_BY_DECODER
        self._most_apart = round(_MOST_APART_SECONDS / video.time_base)
        self._sent: list[int] = []  # the latest, ascending
        self._first_sent: int | None = None
        self._greatest_sent = -(2**63)
        self._last_dts: int | None = None
        self._keyframe_delay = 0
        self._target = None if made is None else made.target
        self._look_in = 0
        self._waits_for: int | None = None
        self._needless: list[int] = []  # a heap
        self._has_left_out = False
        self.is_plain = entries.exist
        self.has_misled = False
        """Whether something was left out by times of which a later packet shows that they say nothing."""
        self.not_plain_because = "where decoding may begin is not known of this codec"

    def begins_well(self, packet: VideoPacket) -> bool:
        """Whether the first packet of a pass that began with a jump is one from which frames come out exactly."""
        target = self._target
        return self._entries.include(packet) and (target is None or (packet.pts is not None and packet.pts <= target))

    def check_times(self) -> None:
        """See whether the first packets have plain times; to be asked before a pass that no jump began."""
        if any(_is_belied(packet) for packet in self._packets.following()):
            self._take_all()

    @property
    def first_tick(self) -> int | None:
        """When the first frame of a pass not yet begun is shown, if the packets ahead leave no doubt of it."""
        first = self._packets[0]
        ticks = self._packets.ticks
        if not self.is_plain or not self._entries.include(first) or len(ticks) < len(self._packets):
            return None
        last_dts = None
        for number in range(len(ticks)):
            packet = self._packets[number]
            if not self._follows(packet, last_dts):
                return None
            last_dts = packet.dts
        return first.pts if ticks[0] == first.pts and ticks[1:2] != ticks[:1] else None

    @property
    def tells_needless(self) -> bool:
        """Whether packets of frames that nobody wants are told from others."""
        return self.is_plain and (self._decoder_skips or self._entries.tell_references)

    @property
    def has_begun(self) -> bool:
        """Whether a packet has been treated."""
        return self._first_sent is not None

    def expect(self, aim: Aim) -> None:
        """Tell the storage which bytes the way to all that is wanted leads over, where an index says."""
        if not self.is_plain:
            return
        if self._video.index is not None:
            self._video.expect(self._ranges_of_keyframes() if aim == "keyframes" else self._ranges_of_wanted(aim))
        elif self._video.cues and aim != "keyframes":
            self._video.expect(self._ranges_of_cues(aim))

    def _ranges_of_wanted(self, wanted: Wanted) -> Iterator[tuple[int, int]]:
        index = self._video.index
        assert index is not None
        tick = wanted.next_from(-(2**63) if self._target is None else self._target)
        while tick is not None:
            first = max(0, index.search_timestamp(tick - self._keyframe_delay))
            last = index.search_timestamp(tick, any_frame=True)
            yield self._bytes_between(first, max(first, last) + 8)  # and those by which is seen that it is passed
            if last < 0 or last + 1 >= len(index):
                return
            tick = wanted.next_from(tick + 1)

    def _ranges_of_cues(self, wanted: Wanted) -> Iterator[tuple[int, int]]:
        cues = self._video.cues
        tick = wanted.next_from(-(2**63) if self._target is None else self._target)
        while tick is not None:
            number = max(0, self._cue_up_to(tick))
            if number + 1 >= len(cues):
                return  # as far as is read on from there
            (shown, pos), (next_shown, next_pos) = cues[number], cues[number + 1]
            share = min(Fraction(1), Fraction(max(0, tick - shown), max(1, next_shown - shown)) * _MORE_THAN_EVEN)
            yield pos, pos + max(1, round((next_pos - pos) * share))
            tick = wanted.next_from(tick + 1)

    def _cue_up_to(self, tick: int) -> int:
        """Number of the last cue that is shown at the tick or before, -1 if there is none."""
        return bisect_right(self._video.cues, (tick, 2**63)) - 1

    def _ranges_of_keyframes(self) -> Iterator[tuple[int, int]]:
        index = self._video.index
        assert index is not None
        number = index.search_timestamp(self._last_dts or 0)
        while number >= 0:
            yield self._bytes_between(number, number + 1)
            number = index.search_timestamp(index[number].timestamp + 1, backward=False)

    def _bytes_between(self, first: int, last: int) -> tuple[int, int]:
        """The bytes of these packets, taken for stored in their order."""
        index = self._video.index
        assert index is not None
        begin, end = index[first], index[min(last, len(index) - 1)]
        return begin.pos, max(begin.pos + begin.size, end.pos + end.size)

    def look(self, aim: Aim) -> Jump | None:
        """Whether to go on elsewhere than at the next packet; asked before each, once it is ahead."""
        if not self.is_plain or (self._first_sent is None and self._made is None):
            return None
        return self._to_next_keyframe() if aim == "keyframes" else self._to_next_wanted(aim)

    @property
    def next_tick(self) -> int | None:
        """When the next frame is shown after those that have been sent, None where none follows."""
        return self._tick_behind(self._greatest_sent)

    def _tick_behind(self, tick: int) -> int | None:
        """When the first frame after this tick is shown, None where none follows."""
        while True:
            ahead, sent = _first_behind(tick, self._packets.ticks), _first_behind(tick, self._sent)
            found = ahead if sent is None or (ahead is not None and ahead < sent) else sent
            num_ahead = len(self._packets)
            if found is not None:
                self._packets.fill_up_to(found)
            else:
                self._packets.fill_towards(2**63)
            if len(self._packets) == num_ahead:
                return found

    def is_needless(self, packet: VideoPacket, aim: Aim) -> bool:
        """Whether this packet, just taken, is not wanted itself; whether others refer to it is another question."""
        if not self.is_plain or packet.pts is None or packet.is_discard or packet.is_corrupt:
            return False
        if self._first_sent is None:
            if self._made is None:  # frames are counted, and times, from the first one
                return False
        elif packet.pts <= self._first_sent:  # shown before the first keyframe: says where a pass really begins
            return self._made is not None
        if aim == "keyframes":
            return not packet.is_keyframe
        ahead = _first_behind(packet.pts, self._packets.ticks)
        if ahead is not None and self._target is not None and ahead <= self._target:
            return True  # another one is shown at the first time wanted of those that are left
        end = self._tick_behind(packet.pts)
        return end is not None and not is_wanted(aim, packet.pts, end)

    def treatment(self, packet: VideoPacket, aim: Aim | None) -> Treatment:
        """What to do with this packet, just taken."""
        if aim is None or not self.tells_needless or not self.is_needless(packet, aim):
            return "show"
        if self._decoder_skips:
            return "skip"
        return "decode" if self._entries.is_needed_by_others(packet) else "drop"

    def treated(self, packet: VideoPacket, treatment: Treatment) -> None:
        """So it is going to be done."""
        if not self._follows(packet, self._last_dts) or packet.pts is None:
            self._take_all()
            self.has_misled = _is_belied(packet) and (self._has_left_out or self._made is not None)
            return
        self._has_left_out = self._has_left_out or treatment != "show"
        self._look_in -= 1
        if packet.pts == self._waits_for:
            self._waits_for = None
        self._last_dts = packet.dts
        if packet.is_keyframe and packet.dts is not None:
            self._keyframe_delay = max(self._keyframe_delay, packet.pts - packet.dts)
        if not packet.is_discard:
            insort(self._sent, packet.pts)
            if len(self._sent) > 2 * REORDERED:
                del self._sent[0]
            self._first_sent = packet.pts if self._first_sent is None else self._first_sent
            self._greatest_sent = max(self._greatest_sent, packet.pts)
        if treatment != "show":
            heappush(self._needless, packet.pts)

    def _take_all(self) -> None:
        self.is_plain = False
        self.not_plain_because = "packets have no presentation times, or disordered ones"

    def _follows(self, packet: VideoPacket, last_dts: int | None) -> bool:
        """Whether the packet's times are plain ones behind that decoding time."""
        if _is_belied(packet):
            return False
        return last_dts is None or packet.dts is None or 0 < packet.dts - last_dts <= self._most_apart

    def at(self, tick: int) -> tuple[bool, int]:
        """Whether a frame that comes out may be wanted, and until when needless ones before it were shown (0: none).

        Asked once for each frame, in order.
        """
        end = 0
        while self._needless and self._needless[0] < tick:
            end = heappop(self._needless) + self._video.frame_ticks
        return self._needless[:1] != [tick], end

    # --- jumps to wanted times --------------------------------------------------------------------------------------

    def _to_next_wanted(self, wanted: Wanted) -> Jump | None:
        if self._waits_for is not None and self._look_in > 0:
            return None
        if self._target is None:
            self._target = wanted.next_from(-(2**63))
        while self._target is not None and (following := self._behind_target(self._target)) is not None:
            self._target = wanted.next_from(following)
            self._look_in = 0
        if self._target is None:
            return Jump()
        is_near_end = self._packets.is_at_end and len(self._packets) <= REORDERED
        return self._entry_up_to(self._target) if self._look_in <= 0 or is_near_end else None

    def _behind_target(self, target: int) -> int | None:
        """If the frame shown at the target has been sent: when the next one is shown."""
        while True:  # packet by packet: what is read for nothing may be another request
            later = _first_behind(self._greatest_sent, self._packets.ticks)
            if later is not None and later <= target:
                return None
            if not self._packets.fill_towards(target):
                break
        ahead = self._packets.ticks
        shown_ahead, shown_sent = _last_up_to(target, ahead), _last_up_to(target, self._sent)
        if shown_ahead is None and shown_sent is None:  # a time before the first frame means that one
            if not self._sent or (ahead and ahead[0] <= self._sent[0]):
                return None
            return self._tick_behind(max(self._sent[0], target))
        if shown_sent is None or (shown_ahead is not None and shown_ahead >= shown_sent):
            self._waits_for = shown_ahead
            return None
        return self._tick_behind(target)

    def _is_past_end(self, target: int, num_last: int) -> bool:
        """Whether the target lies behind all frames, and the last one is not wanted or has been sent.

        Args: `num_last` packets are all that is ahead; they have plain times, none of them behind the target.
        """
        ticks = self._packets.ticks
        if target <= self._greatest_sent:
            return False
        if not ticks or ticks[-1] < self._greatest_sent:
            return True
        last = [self._packets[n] for n in range(num_last) if not self._packets[n].is_discard]
        end = max(p.pts + max(p.duration or 0, self._video.frame_ticks) for p in last if p.pts is not None)
        return not self._wants_last and target >= end

    def _entry_up_to(self, target: int) -> Jump | None:
        """A jump to the last entry ahead that is shown at the target or before; to nowhere if the target is none."""
        index = self._video.index
        if index is not None:
            seek_tick = self._if_far(index.search_timestamp(target - self._keyframe_delay))
            if seek_tick is not None:
                return Jump(None, seek_tick, target)
        elif (seek_tick := self._cue_if_far(target)) is not None:
            return Jump(None, seek_tick, target)
        keyframes: list[int] = []
        number = 0
        last_dts = self._last_dts
        self._look_in = 2**63
        while self._packets.reaches(number + 1):
            packet = self._packets[number]
            if not self._follows(packet, last_dts) or packet.pts is None:
                break
            if packet.pts > target:  # what comes before an entry is shown before it: there is none behind
                break
            last_dts = packet.dts
            if number and packet.is_keyframe:
                keyframes.append(number)
            number += 1
        else:
            if self._packets.is_at_end and self._is_past_end(target, number):
                return Jump()
            self._look_in = number // 2 + 1
        found = next((n for n in reversed(keyframes) if self._entries.include(self._packets[n])), None)
        return None if found is None else Jump(found, None, target)

    def _if_far(self, number: int) -> int | None:
        """When the entry of this number in the index is shown, if it is worth a seek."""
        index = self._video.index
        dts = self._packets[0].dts
        if index is None or number < 0 or dts is None or not self._may_seek:
            return None
        if number - index.search_timestamp(dts, any_frame=True) <= _WORTH_SEEKING_PACKETS:
            return None
        # A presentation time: FFmpeg goes further back if frames shown before an open keyframe are asked for.
        return index[number].timestamp + self._keyframe_delay

    def _cue_if_far(self, target: int) -> int | None:
        """When the last cue is shown that leads to the target, if it is worth a seek."""
        number = self._cue_up_to(target)
        here = self._packets[0].dts if self._packets[0].pts is None else self._packets[0].pts
        if number < 0 or here is None or not self._may_seek:
            return None
        tick = self._video.cues[number][0]
        return tick if tick - here > _WORTH_SEEKING_PACKETS * self._video.frame_ticks else None

    # --- jumps to keyframes -----------------------------------------------------------------------------------------

    def _to_next_keyframe(self) -> Jump | None:
        ahead = self._packets[0]
        if self._video.is_keyframe(ahead):
            return None
        index = self._video.index
        if index is not None and ahead.dts is not None:
            seek_tick = self._if_far(index.search_timestamp(ahead.dts + 1, backward=False))
            if seek_tick is not None:
                return Jump(None, seek_tick)
        return Jump(0) if self._packets.drop_up_to(self._video.is_keyframe) else Jump()


def _is_belied(packet: VideoPacket) -> bool:
    """Whether the packet has no time of being shown, or one before it is decoded."""
    return packet.pts is None or (packet.dts is not None and packet.pts < packet.dts)


def _last_up_to(tick: int, ticks: list[int]) -> int | None:
    number = bisect_right(ticks, tick)
    return ticks[number - 1] if number else None


def _first_behind(tick: int, ticks: list[int]) -> int | None:
    number = bisect_right(ticks, tick)
    return ticks[number] if number < len(ticks) else None
