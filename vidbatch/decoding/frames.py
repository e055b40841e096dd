"""A clip goes in; chunks of its sampled frames come out, as uint8 RGB with their presentation times, in order.

Runs in the decoder's child process. Only the frames are decoded that the sample needs, or a frame of the sample
(route.py), one at a time. At most one chunk of pictures and one undecided frame are held, whatever the length. Damage
ends the clip: the frames before it are given, the last chunk says what happened.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from fractions import Fraction
from functools import partial
from typing import Any, Final

import numpy as np
from av.video.frame import VideoFrame

from vidbatch import storage
from vidbatch.decoding.container import Video, open_clip
from vidbatch.decoding.held import Shown
from vidbatch.decoding.log import Log
from vidbatch.decoding.measure import end_of_last_frame, frame_ticks
from vidbatch.decoding.pictures import PictureMaker, Pixels
from vidbatch.decoding.reading import FrameReader
from vidbatch.decoding.route import Aim
from vidbatch.decoding.types import Job, TargetSize
from vidbatch.errors import VideoError
from vidbatch.sampling import (
    Before,
    CountingSelector,
    Grid,
    KeyframeSelector,
    NearestKeyframeSelector,
    Selector,
    Since,
    Times,
    TimeSelector,
    even_ticks,
    parse_sampling,
    seconds_of,
    tick_of,
)
from vidbatch.yuv import Layout

CHUNK_BYTES: Final = 16 * 2**20
CHUNK_FRAMES: Final = 64
_SPARSE_SECONDS: Final = 2  # keyframes are hardly ever closer
_SEEK_FROM_SECONDS: Final = 5
"""A first wanted time nearer to the start than this is reached by decoding from there."""

Record = dict[str, Any]


def decode_clip(job: Job) -> Iterator[tuple[Record, memoryview | None]]:
    """Yield the chunks of a clip: records with the fields of schema.PIXELS that decoding decides, and the pixels.

    The first record holds only the header. Pixels are uint8 (num_frames, height, width, 3), or planes if the record has
    a `layout` (yuv.Layout); valid until the next item is asked for, or for good if the job is `in_one_chunk`. The last
    record has `is_last_chunk`, error and cost; a bad video is no exception. An empty record says that decoding goes on.
    """
    cost = Cost()
    chunks = _Chunks(job.size, as_yuv=job.as_yuv)
    problem: VideoError | None = None
    try:
        with open_clip(job.clip) as stream, Log() as log:
            cost.stream = stream
            with Video(stream, bounds=job.bounds, log=log) as video:
                yield from cost.outside(video.header, None)
                # The picture is the smaller of the two only where a size is given and it is not of planes.
                make = None if job.size is None or job.as_yuv else partial(chunks.picture_of, video=video)
                sample = ClipSample(job, video, log, make=make)
                cost.video, cost.reader = video, sample.reader
                chunks.makes_in_place = sample.wants_all
                if job.in_one_chunk:
                    chunks.num_frames_kept = sample.num_frames_at_most
                for shown in sample:
                    if shown is None:
                        yield from cost.outside({}, None)
                        continue
                    if not chunks.fits(shown, video):
                        yield from cost.outside(*chunks.take())
                    chunks.add(shown, video)
    except VideoError as error:
        problem = error
    record, pixels = chunks.take()
    yield record | cost.end(problem), pixels


class ClipSample:
    """Iterates over the frames of a clip that its sampling wants; None now and then says that it goes on.

    A clip with a start has the whole video's sample between start and end: a grid begins at the video's first frame,
    frames are counted from there. Args: `make` gives the picture of a frame, where that is better kept than the frame.
    """

    def __init__(self, job: Job, video: Video, log: Log, *, make: Callable[[VideoFrame], Pixels] | None = None) -> None:
        clip = job.clip
        self._sampling = parse_sampling(job.sampling)
        self._video = video
        self._bounds = job.bounds
        self._progress_ticks = max(1, round(Fraction(job.clip_seconds) / video.time_base))
        self._start = _tick_or_none(clip["start_seconds"], video.time_base)
        self._end = _tick_or_none(clip["end_seconds"], video.time_base)
        times = clip["times"]
        self._times = None if times is None else sorted(tick_of(t, video.time_base) for t in times)
        self._origin: int | None = None
        self._whole_end = 0
        self._counted: Times | None = None
        is_last_wanted = self._sampling.kind == "times" and self._end is None
        self.wants_all = self._sampling.kind == "all" and self._times is None
        self.reader = FrameReader(
            video,
            log,
            aim_from=self._aim_from,
            wants_last=is_last_wanted,
            make=None if self._goes_by_keyframes else make,  # of keyframes that are near, one is chosen later
            wants_all=self.wants_all,
        )

    def __iter__(self) -> Iterator[Shown | None]:
        if not self._times and (self._times is not None or self._sampling.kind == "times"):
            return  # no time of this clip is asked for
        selector: Selector | None = None
        last: Shown | None = None
        problem: VideoError | None = None
        stopped_at: Shown | None = None
        frames = self._frames()
        try:
            for shown in frames:
                if shown is None:
                    yield None
                    continue
                if self._goes_by_keyframes and not shown.is_keyframe:
                    continue
                if self._end is not None and shown.tick >= self._end:
                    stopped_at = shown
                    break
                if selector is None:
                    selector = self._selector(first_tick=shown.tick)
                    self.reader.set_out(shown.tick)
                if selector.feed(shown.tick, shown.is_keyframe) and self._is_inside(last):
                    yield last
                last = shown
                if selector.exhausted:
                    return
        except VideoError as error:
            problem = error
        finally:
            frames.close()
        if last is None or selector is None:
            wanted = False
        elif stopped_at is not None and self._goes_by_keyframes:
            wanted = selector.feed(stopped_at.tick, stopped_at.is_keyframe)
        else:
            wanted = selector.finish(self._last_end(last, stopped_at is not None, problem))
        if wanted and self._is_inside(last):
            yield last
        if problem is not None:
            raise problem

    @property
    def num_frames_at_most(self) -> int | None:
        """How many frames there will be at most if the header is right; None if it says nothing."""
        if self._times is not None:
            return len(self._times)
        if self._sampling.kind == "count":
            return self._sampling.number
        seconds, rate = self._video.header["duration_seconds"], self._video.header["frame_rate"]
        if self._sampling.kind in ("fps", "nearest_keyframe"):
            rate = self._sampling.frames_per_second
        elif self._video.header["num_frames_from_header"] is not None:
            return int(self._video.header["num_frames_from_header"])
        return None if seconds is None or rate is None else math.ceil(seconds * rate) + 1

    def _aim_from(self, first_tick: int) -> Aim | None:
        """What the reader may go for, None where every frame has to be seen."""
        selector = self._selector(first_tick=first_tick)
        if isinstance(selector, KeyframeSelector | NearestKeyframeSelector):
            return "keyframes"
        if not isinstance(selector, TimeSelector):
            return None
        return selector.wanted if self._start is None else Since(self._start, selector.wanted)

    def _is_inside(self, shown: Shown | None) -> bool:
        return shown is not None and (self._start is None or shown.tick >= self._start)

    def _last_end(self, last: Shown, stopped: bool, problem: VideoError | None) -> int | None:
        """Until when the last frame is shown; explicit times behind a whole video's end mean its last frame."""
        if stopped:
            return self._end
        end = self.reader.next_tick
        if end is None:
            if self._sampling.kind == "times" and self._end is None and problem is None:
                return None
            end = last.end
        return end if self._end is None else min(end, self._end)

    def _frames(self) -> Generator[Shown | None, None, None]:
        """The decoded frames that may matter, with a None each time that enough of the video has passed."""
        if self._times is None:
            self._measure()
        if self._is_sparse:
            self._video.read_cues()
        target = self._seek_target()
        bound = round(Fraction(self._bounds.max_duration_seconds) / self._video.time_base)
        first: int | None = None
        reported = 0
        for shown in self.reader.frames(target):
            first = shown.tick if first is None else first
            if shown.tick - first > bound:
                raise VideoError("bounds", f"frames after more than {self._bounds.max_duration_seconds:.0f} s")
            if (shown.tick - first) // self._progress_ticks > reported:
                reported = (shown.tick - first) // self._progress_ticks
                yield None
            if self._start is None or shown.tick >= self._start or self._goes_by_all_before:
                yield shown

    @property
    def _is_sparse(self) -> bool:
        """Whether wanted times lie further apart than keyframes, or may."""
        seconds, number = self._video.header["duration_seconds"], self.num_frames_at_most
        return not self._goes_by_keyframes and bool(seconds and number and seconds > _SPARSE_SECONDS * number)

    @property
    def _goes_by_keyframes(self) -> bool:
        return self._sampling.kind == "nearest_keyframe" and self._times is None

    @property
    def _goes_by_all_before(self) -> bool:
        """Whether it depends on what is before the clip which of its frames are in the sample."""
        counts = self._sampling.kind == "every" and self._times is None and self._counted is None
        return self._goes_by_keyframes or counts

    def _seek_target(self) -> int | None:
        """The tick to begin near, None for the beginning."""
        if self._goes_by_all_before:
            return None
        if self._times is None:
            return self._start
        if self._start is not None:
            return max(self._start, self._times[0])
        near = (self._video.stream.start_time or 0) + round(_SEEK_FROM_SECONDS / self._video.time_base)
        return self._times[0] if self._times[0] > near else None

    def _measure(self) -> None:
        """Find out what a sample of the whole video depends on, before this part of it is decoded."""
        kind = self._sampling.kind
        has_end = kind in ("nearest_keyframe", "count")
        counts = kind == "every" and self._sampling.number > 1
        if not (has_end or counts or (kind == "fps" and self._start is not None)):
            return
        first = self.reader.first()
        if first is not None:
            self._origin = first.tick
            if has_end:
                self._whole_end = end_of_last_frame(self._video, decoding_delay=first.decoding_delay)
            if counts and (ticks := frame_ticks(self._video, first_tick=first.tick)) is not None:
                self._counted = Times(ticks[:: self._sampling.number])
        self._video.reopen()

    def _selector(self, *, first_tick: int) -> Selector:
        kind = self._sampling.kind
        origin = first_tick if self._origin is None else self._origin
        if self._times is not None:
            return TimeSelector(Times(self._times), clamp_low=kind == "times" and self._start is None)
        if kind in ("fps", "nearest_keyframe"):
            grid = Grid.of_rate(origin, self._sampling.frames_per_second, self._video.time_base)
            if kind == "fps":
                return TimeSelector(grid)
            units = 2 * grid.step.denominator  # so that grid times, and those amid two frames, are whole numbers
            fine = Before(self._whole_end * units, Grid(origin * units, grid.step * units))
            return NearestKeyframeSelector(fine, units_a_tick=units)
        if kind == "count":
            return TimeSelector(Times(even_ticks(self._sampling.number, origin, self._whole_end)))
        if kind == "keyframes":
            return KeyframeSelector()
        if self._counted is not None:
            return TimeSelector(self._counted)
        return CountingSelector(self._sampling.number if kind == "every" else 1)


class _Chunks:
    """Collects pictures in one buffer that is used again and again, or in one of `num_frames_kept` that is not."""

    def __init__(self, size: TargetSize | None, *, as_yuv: bool) -> None:
        self.num_frames_kept: int | None = None
        self.makes_in_place = False
        """Whether every picture that is made ahead will be added."""
        self._as_yuv = as_yuv
        self._maker = PictureMaker(size)
        self._layout: Layout | None = None
        self._buffer: Pixels | None = None
        self._pts_seconds: list[float] = []
        self._is_keyframe: list[bool] = []
        self._num_made_ahead = 0
        self._num_taken = 0

    def fits(self, shown: Shown, video: Video) -> bool:
        """Whether the frame's picture can be added to those that are here."""
        if self._buffer is None or not self._pts_seconds:
            return True
        return len(self._pts_seconds) < len(self._buffer) and self._layout_of(frame_of(shown), video) == self._layout

    def picture_of(self, frame: VideoFrame, video: Video) -> Pixels:
        """The picture of a frame, to be added later in the order of asking."""
        aspect = video.stream.sample_aspect_ratio
        shape = (*self._maker.size_of(frame, aspect), 3)
        picture = self._place_for(shape) if self.makes_in_place else None
        if picture is None:
            picture = np.empty(shape, np.uint8)
        self._maker.make(frame, aspect, picture)
        self._num_made_ahead += 1
        return picture

    def _place_for(self, shape: tuple[int, ...]) -> Pixels | None:
        """Where the next picture that is made ahead will lie in the buffer, or behind that; None without room."""
        if self._buffer is None:
            self._buffer = self._new_buffer(shape)
        place = len(self._pts_seconds) + self._num_made_ahead
        return self._buffer[place] if place < len(self._buffer) and self._buffer.shape[1:] == shape else None

    def add(self, shown: Shown, video: Video) -> None:
        frame = frame_of(shown)
        layout = self._layout_of(frame, video)
        aspect = None if isinstance(frame, np.ndarray) else video.stream.sample_aspect_ratio
        if self._buffer is None or layout != self._layout:
            self._layout = layout
            if isinstance(frame, np.ndarray):
                one = frame.shape
            elif layout is not None:
                one = (layout.size_bytes,)
            else:
                one = (*self._maker.size_of(frame, aspect), 3)
            self._buffer = self._new_buffer(one)
        out = self._buffer[len(self._pts_seconds)]
        if isinstance(frame, np.ndarray):
            self._num_made_ahead -= 1
            if not np.may_share_memory(frame, out):
                out[...] = frame
        elif layout is None:
            self._maker.make(frame, aspect, out)
        else:
            self._maker.take_planes(frame, aspect, layout, out)
        self._pts_seconds.append(seconds_of(shown.tick, video.time_base))
        self._is_keyframe.append(shown.is_keyframe)

    def _layout_of(self, frame: VideoFrame | Pixels, video: Video) -> Layout | None:
        if not self._as_yuv or isinstance(frame, np.ndarray):
            return None
        return self._maker.layout_of(frame, video.stream.sample_aspect_ratio)

    def _new_buffer(self, one: tuple[int, ...]) -> Pixels:
        if self.num_frames_kept is not None:
            with suppress(MemoryError, ValueError):  # of what is not written to, nothing is taken
                return np.empty((max(1, self.num_frames_kept), *one), np.uint8)
        capacity = max(1, min(CHUNK_FRAMES, CHUNK_BYTES // math.prod(one)))
        return np.empty((capacity, *one), np.uint8)

    def take(self) -> tuple[Record, memoryview | None]:
        """The record of what was collected, its pixels, and a fresh start."""
        num_frames = len(self._pts_seconds)
        record: Record = {
            "chunk_index": self._num_taken,
            "is_last_chunk": False,
            "num_frames": num_frames,
            "pts_seconds": self._pts_seconds,
            "is_keyframe": self._is_keyframe,
            "layout": self._layout and self._layout._asdict(),
        }
        self._num_taken += 1
        self._pts_seconds, self._is_keyframe = [], []
        buffer = self._buffer
        if self.num_frames_kept is not None:
            self._buffer = None
        return record, None if buffer is None else buffer[:num_frames].data


class Cost:
    """What decoding a clip took, without the time that others spent with its chunks."""

    def __init__(self) -> None:
        self.stream: storage.Reader | None = None
        self.video: Video | None = None
        self.reader: FrameReader | None = None
        self._cpu_began = time.process_time()
        self._wall_began = time.perf_counter()

    def outside(self, record: Record, pixels: memoryview | None) -> Iterator[tuple[Record, memoryview | None]]:
        """Yield one item and leave out how long that took."""
        left = time.perf_counter()
        yield record, pixels
        self._wall_began += time.perf_counter() - left

    def end(self, problem: VideoError | None) -> Record:
        """The fields of schema.PIXELS that only a clip's last chunk has, and those of a decode.ReadReport."""
        return {
            "is_last_chunk": True,
            "error_kind": problem and problem.kind,
            "error_message": problem and problem.message,
            "decode_cpu_seconds": time.process_time() - self._cpu_began,
            "decode_wall_seconds": time.perf_counter() - self._wall_began,
            "read_bytes": 0 if self.stream is None else self.stream.bytes_read,
            "num_frames_decoded": 0 if self.reader is None else self.reader.num_frames_decoded,
            "num_packets_read": 0 if self.video is None else self.video.num_packets_in_all,
            "all_decoded_because": self.reader and self.reader.all_decoded_because,
        }


def frame_of(shown: Shown) -> VideoFrame | Pixels:
    """The frame, or the picture that was made of it. Raises VideoError where the decoder gave none."""
    if shown.frame is None:
        raise VideoError("corrupt", "the decoder gave no frame for a packet that promised one")
    return shown.frame


def _tick_or_none(seconds: float | None, time_base: Fraction) -> int | None:
    return None if seconds is None else tick_of(seconds, time_base)
