"""Packets in decoding order in; out comes which of them need no decoding: nothing refers to them, nobody wants them.

A decoder told to skip pictures that are no reference (skip_frame = NONREF, set anew for each packet) leaves out exactly
those of a packet that no other picture needs, so every other picture comes out bit for bit as it does without. Which
frame is shown at a wanted time is known from the packets' presentation times; wherever those are not plain, all is
decoded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Final

from av.packet import Packet
from av.video.stream import VideoStream

from vidbatch.decoding.clock import Clock
from vidbatch.decoding.container import Video

LOOK_AHEAD: Final = 20
"""Packets to look at on both sides for the one shown next: no codec reorders pictures by more than 16. Were one missed,
the frame would only seem to be shown for longer, and be decoded for nothing."""

_CODECS: Final = frozenset({"h264", "mpeg1video", "mpeg2video", "mpeg4"})
"""Whose decoders skip by what the packet says, and only pictures that no other refers to. HEVC's goes by a mark that
holds within one temporal layer; VP8's, VP9's and AV1's cannot."""
_DEMUXERS: Final = frozenset({"mov,mp4,m4a,3gp,3g2,mj2"})
"""Where packets come from an index: in others, looking ahead changes where damage is noticed."""

WantedIn = Callable[[int, int], bool]
"""Whether a frame shown from one tick to another is wanted."""


class Skipper:
    """Decides for the packets of one pass over a video, in their order."""

    def __init__(self, video: Video, clock: Clock, from_tick: int | None) -> None:
        self.is_possible = video.context.codec.canonical_name in _CODECS and video.demuxer in _DEMUXERS
        self._clock = clock
        self._frame_ticks = video.frame_ticks
        self._from_tick = from_tick
        self._first_keyframe: int | None = None
        self._sent: deque[int] = deque(maxlen=LOOK_AHEAD)
        self._skipped: list[int] = []  # a heap

    def may_skip(
        self, packet: Packet[VideoStream], following: Sequence[Packet[VideoStream]], is_wanted: WantedIn | None
    ) -> bool:
        """Whether this packet, the next to be sent, needs no decoding; `following` come after it."""
        if packet.pts is None or not self._clock.is_plain:
            self.is_possible = False
            return False
        skips = self._is_needless(packet, packet.pts, following, is_wanted)
        if not packet.is_discard:
            self._sent.append(packet.pts)
        if packet.is_keyframe and self._first_keyframe is None:
            self._first_keyframe = packet.pts
        if skips:
            heappush(self._skipped, packet.pts)
        return skips

    def _is_needless(
        self,
        packet: Packet[VideoStream],
        pts: int,
        following: Sequence[Packet[VideoStream]],
        is_wanted: WantedIn | None,
    ) -> bool:
        if is_wanted is None or packet.is_keyframe or packet.is_discard or packet.is_corrupt:
            return False
        # Frames up to the first keyframe decide where the pass really begins: see FrameReader.from_tick.
        if self._first_keyframe is None or pts <= max(self._first_keyframe, self._from_tick or pts - 1):
            return False
        later = [t for t in self._sent if t > pts]
        later += [p.pts for p in following if p.pts is not None and p.pts > pts and not p.is_discard]
        return bool(later) and not is_wanted(pts, min(later))

    def end_of_skipped(self, tick: int) -> int:
        """Until when the frames skipped before `tick` would have been shown, 0 for none; asked once, in order."""
        end = 0
        while self._skipped and self._skipped[0] < tick:
            end = heappop(self._skipped) + self._frame_ticks
        return end
