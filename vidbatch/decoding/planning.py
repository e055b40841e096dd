"""A long video goes in; the clips to cut it into come out, whose samples together are exactly the whole one's.

Runs in the decoder's child process. Cuts are presentation times of keyframes from which decoding may begin
(entries.py), found by seeking where the container has an index and by reading all packets where not. Wanted times are
settled here, where the whole is known:

    keyframes  |       K1          K2          |      fps, count, every, times: each clip gets its times
    clips      [ first )[ second  )[ last      ]      keyframes, all: the range says it all
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

from vidbatch.decoding.container import Video, open_clip
from vidbatch.decoding.log import Log
from vidbatch.decoding.measure import counts_by_packets, end_of_last_frame, packet_times
from vidbatch.decoding.reading import FirstFrame, FrameReader
from vidbatch.decoding.types import Job
from vidbatch.sampling import Grid, Sampling, even_ticks, parse_sampling, seconds_of, tick_of

_WORTH_CUTTING: Final = 1.5
"""Videos up to this many clip lengths stay whole."""

_PACKETS_A_REPORT: Final = 10_000

Cuts = list[int]
Clips = list[dict[str, Any]]


def plan_clip(job: Job) -> Iterator[tuple[dict[str, Any], None]]:
    """Yield empty records while it goes on, then one with `clips`: the start, end and times of each.

    An empty list means that the clip should stay as it is. Raises VideoError for a video that cannot be opened.
    `job.clip_seconds` is about how long a clip shall be.
    """
    with open_clip(job.clip) as stream, Log() as log, Video(stream, bounds=job.bounds, log=log) as video:
        if parse_sampling(job.sampling).kind == "nearest_keyframe":  # cheap, and goes by keyframes beside a cut
            yield {"clips": []}, None
            return
        seconds = video.header["duration_seconds"]
        if seconds is not None and seconds <= _WORTH_CUTTING * job.clip_seconds:
            yield {"clips": []}, None
            return
        first = FrameReader(video, log).first()
        if first is None:
            yield {"clips": []}, None
            return
        clip_ticks = max(1, round(job.clip_seconds / video.time_base))
        plan = _Plan(video, parse_sampling(job.sampling), first, clip_ticks)
        for _ in plan.find():
            yield {}, None
        yield {"clips": plan.clips(job.clip["times"])}, None


class _Plan:
    """Cut points of one video, and the times of every frame where the sampling counts frames."""

    def __init__(self, video: Video, sampling: Sampling, first: FirstFrame, clip_ticks: int) -> None:
        self._video = video
        self._sampling = sampling
        self._first = first.tick
        self._decoding_delay = first.decoding_delay
        self._clip_ticks = clip_ticks
        self._cuts: Cuts = []
        self._frame_ticks: list[int] = []

    def find(self) -> Iterator[None]:
        """Look for the cuts; yields now and then."""
        counts = self._sampling.kind == "every"
        if counts and not counts_by_packets(self._video):
            return
        if not counts and self._video.is_indexed and self._video.header["duration_seconds"]:
            yield from self._find_by_seeking()
        else:
            yield from self._find_by_reading()

    def clips(self, times: list[float] | None) -> Clips:
        """The clips between the cuts; those of which no time is wanted are left out."""
        if not self._cuts:
            return []
        wanted = self._wanted_ticks(times)
        bounds = [None, *self._cuts, None]
        clips = [self._clip(start, end, wanted) for start, end in pairwise(bounds)]
        return [clip for clip in clips if clip["times"] != []]

    def _find_by_seeking(self) -> Iterator[None]:
        tick = self._first + self._clip_ticks
        end = self._first + round(self._video.header["duration_seconds"] / self._video.time_base)
        while tick < end:
            if not self._video.seek(tick):
                return
            found = next((t.pts for t in packet_times(self._video) if t.is_entry), None)
            if found is None:
                return
            self._add_cut(found)
            tick += self._clip_ticks * max(1, (found - tick) // self._clip_ticks + 1)  # one behind what is found
            yield

    def _find_by_reading(self) -> Iterator[None]:
        self._video.reopen()
        latest_entry = self._first
        for number, packet in enumerate(packet_times(self._video)):
            if packet.pts is None or (packet.is_entry and packet.pts < latest_entry and number):
                self._cuts = []  # no times to cut at, or a clock that starts anew: stays whole
                return
            if packet.is_entry:
                latest_entry = max(latest_entry, packet.pts)
                if packet.pts - (self._cuts[-1] if self._cuts else self._first) >= self._clip_ticks:
                    self._add_cut(packet.pts)
            if self._sampling.kind == "every" and packet.pts >= self._first:
                self._frame_ticks.append(packet.pts)
            if number % _PACKETS_A_REPORT == 0:
                yield
        self._frame_ticks.sort()
        if len(set(self._frame_ticks)) < len(self._frame_ticks):
            self._cuts = []  # frames of equal times cannot be told apart by them

    def _add_cut(self, tick: int) -> None:
        if tick > (self._cuts[-1] if self._cuts else self._first):
            self._cuts.append(tick)

    def _wanted_ticks(self, times: list[float] | None) -> list[int] | None:
        """All ticks to look at, for the kinds whose whole list is known."""
        number = self._sampling.value
        if self._sampling.kind == "times":
            return sorted(tick_of(t, self._video.time_base) for t in times or ())
        if self._sampling.kind == "count":
            end = end_of_last_frame(self._video, decoding_delay=self._decoding_delay)
            return even_ticks(self._sampling.number, self._first, end)
        if self._sampling.kind == "every":
            assert isinstance(number, int)
            return self._frame_ticks[::number]
        return None

    def _clip(self, start: int | None, end: int | None, wanted: list[int] | None) -> dict[str, Any]:
        time_base = self._video.time_base
        ticks: list[int] | None = None
        if wanted is not None:
            low = 0 if start is None else bisect_right(wanted, start - 1)
            high = len(wanted) if end is None else bisect_right(wanted, end - 1)
            ticks = wanted[low:high]
        elif self._sampling.kind == "fps" and end is not None:
            # The last clip gets none: where the grid ends is known when its last frame is decoded.
            grid = Grid.of_rate(self._first, self._sampling.frames_per_second, time_base)
            ticks = grid.ticks(self._first if start is None else start, end)
        return {
            "start_seconds": None if start is None else seconds_of(start, time_base),
            "end_seconds": None if end is None else seconds_of(end, time_base),
            "times": None if ticks is None else [seconds_of(tick, time_base) for tick in ticks],
        }
