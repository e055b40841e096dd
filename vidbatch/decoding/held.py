"""Decoded frames go in; they come out again once no damaged one can follow that they were predicted from."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from av.video.frame import VideoFrame

from vidbatch.decoding.packets import VideoPacket
from vidbatch.decoding.pictures import Pixels

_PACKETS_KEPT: Final = 256


class Shown(NamedTuple):
    """A decoded frame, shown from one tick of the stream's time base to another by its own duration."""

    tick: int
    end: int
    frame: VideoFrame | Pixels | None
    """Or its small picture, made at once, or None for one that nobody wants: frames that are kept cost the decoder
    fresh memory for others, and have left the cache when their picture is made."""
    is_keyframe: bool
    """Whether the container and the decoder both say so."""


class HeldBack:
    """Frames kept back while a damaged picture may still come that they were predicted from.

    A damaged picture is flagged when it is shown; by then pictures predicted from it may have been shown already:

        decoded   I0 P3! B1 B2      P3 is damaged, and B1 and B2 with it
        shown     I0 B1 B2 P3!      but only P3 says so
    """

    def __init__(self) -> None:
        self._frames: deque[tuple[int | None, Shown]] = deque()
        self._order: dict[int, tuple[int, bool]] = {}
        self._num_sent = 0

    def sent(self, packet: VideoPacket, *, is_keyframe: bool) -> None:
        """A packet goes to the decoder; its frame will carry the same time."""
        self._num_sent += 1
        if packet.pts is not None:
            self._order[packet.pts] = self._num_sent, is_keyframe
            if len(self._order) > _PACKETS_KEPT:
                del self._order[next(iter(self._order))]

    def is_keyframe(self, frame: VideoFrame) -> bool:
        """Whether the frame's packet and the decoder both say so."""
        return frame.key_frame and (frame.pts is None or self._order.get(frame.pts, (0, True))[1])

    def add(self, pts: int | None, shown: Shown) -> None:
        """Keep back a frame whose packet has this time."""
        self._frames.append((pts, shown))

    def take_down_to(self, depth: int) -> Iterator[Shown]:
        """The first frames, all but so many."""
        while len(self._frames) > depth:
            yield self._frames.popleft()[1]

    def take_decoded_before(self, damaged: VideoFrame) -> Iterator[Shown]:
        """The frames up to the first that was decoded after the damaged one, or may have been."""
        limit = 0 if damaged.pts is None else self._place(damaged.pts, 0)
        while self._frames:
            pts = self._frames[0][0]
            if pts is None or self._place(pts, limit) >= limit:
                break
            yield self._frames.popleft()[1]
        self._frames.clear()

    def _place(self, pts: int, unknown: int) -> int:
        return self._order.get(pts, (unknown, False))[0]
