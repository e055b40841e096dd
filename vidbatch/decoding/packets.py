"""Packets in decoding order in; the same out one by one, with a view of those to come and what was said of them."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, TypeAlias

from av.packet import Packet
from av.video.stream import VideoStream

from vidbatch.decoding.container import SKIPPED, Video
from vidbatch.decoding.log import Log
from vidbatch.errors import VideoError

VideoPacket: TypeAlias = "Packet[VideoStream]"

REORDERED: Final = 20
"""How many packets around one to look at, at most, for those shown before and after it: no codec reorders pictures by
more than 16."""

_MOST_AHEAD: Final = 1000
_MOST_AHEAD_BYTES: Final = 16 * 2**20


class Lookahead:
    """The packets from where the video stands. Reading that fails is noticed behind the last packet that came."""

    def __init__(self, video: Video, log: Log) -> None:
        self._packets = video.packets()
        self._log = log
        self._demuxer = video.demuxer
        self._skips_damage = self._demuxer in SKIPPED
        self._ahead: deque[VideoPacket] = deque()
        self._errors: deque[str | None] = deque()
        self._error_before: str | None = None
        self._error_at_end: str | None = None
        self._num_bytes = 0
        self.ticks: list[int] = []
        """When the frames of the packets ahead are shown, ascending, as far as the packets say."""
        self._failure: VideoError | None = None
        self.is_at_end = False
        """Whether the packets ahead are the last ones."""
        log.new_errors_of(self._demuxer)  # of seeking, or of damage that is met again

    def more(self) -> bool:
        """Whether a packet is ahead; raises the VideoError that reading ended with."""
        if not self._ahead and not self.fill(1) and self._failure is not None:
            raise self._failure
        return bool(self._ahead)

    def pop(self) -> VideoPacket:
        """The next packet."""
        self._error_before = self._errors.popleft()
        packet = self._ahead.popleft()
        self._num_bytes -= packet.size
        if packet.pts is not None and not packet.is_discard:
            del self.ticks[bisect_left(self.ticks, packet.pts)]
        return packet

    def __len__(self) -> int:
        return len(self._ahead)

    def __getitem__(self, number: int) -> VideoPacket:
        return self._ahead[number]

    def fill(self, number: int) -> bool:
        """Read on until so many packets are ahead; whether there are."""
        while len(self._ahead) < number and (packet := self._read()) is not None:
            self._append(packet)
        return len(self._ahead) >= number

    def _read(self) -> VideoPacket | None:
        """The next packet that is not ahead yet; None once there is none."""
        if self.is_at_end or self._failure is not None:
            return None
        try:
            packet = next(self._packets, None)
        except VideoError as error:
            self._failure = error
            return None
        if packet is None:
            self.is_at_end = True
            if self._ahead:
                self._error_at_end = self._latest_error()
        return packet

    def _append(self, packet: VideoPacket) -> None:
        self._ahead.append(packet)
        if packet.pts is not None and not packet.is_discard:
            insort(self.ticks, packet.pts)
        self._errors.append(self._latest_error() if self._skips_damage else None)
        self._num_bytes += packet.size

    def _latest_error(self) -> str | None:
        if not self._skips_damage:
            return None
        errors = [line for line in self._log.new_errors_of(self._demuxer) if SKIPPED[self._demuxer] in line]
        return errors[-1] if errors else None

    def fill_up_to(self, tick: int) -> None:
        """Read on until all that is shown at the tick or before is ahead: frames are not decoded after they are shown.

        Where that is not known, as far as frames are ever reordered.
        """
        while self.fill_towards(tick):
            pass

    def fill_towards(self, tick: int) -> bool:
        """Read one packet of those that `fill_up_to` reads; False if they are all ahead."""
        if len(self._ahead) >= REORDERED:
            return False
        if self._ahead and (dts := self._ahead[-1].dts) is not None and dts >= tick:
            return False
        return self.fill(len(self._ahead) + 1)

    def reaches(self, number: int) -> bool:
        """As `fill`, within what may be held in memory."""
        if len(self._ahead) < number and (len(self._ahead) >= _MOST_AHEAD or self._num_bytes > _MOST_AHEAD_BYTES):
            return False
        return self.fill(number)

    def following(self, number: int = REORDERED) -> Iterator[VideoPacket]:
        """The next packets, up to so many of them."""
        self.fill(number)
        return islice(self._ahead, number)

    def drop(self, number: int) -> None:
        """Leave out the next packets."""
        for _ in range(number):
            self.pop()
        if self._errors:
            self._errors[0] = None  # of what was left out

    def drop_up_to(self, is_looked_for: Callable[[VideoPacket], bool]) -> bool:
        """Leave out the packets before the next one that is looked for; False where there is none: all are left out."""
        while self._ahead and not is_looked_for(self._ahead[0]):
            self.drop(1)
        if self._ahead:
            return True
        while (packet := self._read()) is not None:
            self._latest_error()  # of what is left out
            if is_looked_for(packet):
                self._append(packet)
                return True
        return False

    def error_near(self) -> str | None:
        """What the container had to say about damage that it skipped, reading the packet just taken and the next two.

        None behind the last packet: then what was said is for Video.problem_at_end.
        """
        if not self._skips_damage or not self.fill(1):
            return None
        is_near_end = not self.fill(2)
        said = [self._error_before, *islice(self._errors, 2), self._error_at_end if is_near_end else None]
        return next((line for line in said if line is not None), None)

    def are_last(self) -> bool:
        """Whether the data end here: demuxers make up to two more packets of a torn one."""
        return not self.fill(3) and self._failure is None
