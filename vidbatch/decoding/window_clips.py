"""A video goes in; its windows come out, each as T frames of one size that lie together: for training and labelling.

Runs in the decoder's child process. A position of a window is a time; what is shown then is its frame, so that
neighbouring positions of a slow video share one. In windows of every N-th frame it is the number of a frame, whose time
is found by counting packets from the beginning. Only the frames that some position shows are decoded, in one pass. At
most one chunk of windows is held. Where the data is damaged the windows before it are given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from vidbatch.decoding.container import Video, open_clip
from vidbatch.decoding.frames import CHUNK_BYTES, ClipSample, Cost, Record, frame_of
from vidbatch.decoding.log import Log
from vidbatch.decoding.measure import end_of_last_frame, frame_ticks
from vidbatch.decoding.pictures import PictureMaker, Pixels
from vidbatch.decoding.reading import FrameReader
from vidbatch.decoding.types import TargetSize, WindowJob
from vidbatch.errors import VideoError
from vidbatch.sampling import seconds_of, tick_of
from vidbatch.windows import Ints, Labelled, WindowSpec, extent_of, make_windows, window_dtype

_NO_FRAME: Final = "no frame can be decoded"


class Facts(NamedTuple):
    """Where a video begins and ends, in seconds on its clock, by its frames and packets and not by its header."""

    first_seconds: float
    duration_seconds: float


def facts_of(job: WindowJob) -> Iterator[tuple[Record, None]]:
    """Yield one record with what windows.extent_of has to know; raises VideoError where no frame can be decoded."""
    with open_clip(job.clip) as stream, Log() as log, Video(stream, bounds=job.bounds, log=log) as video:
        facts = measured(video, log)
        ticks = None if job.windows.every is None else counted(video, log)
        yield _known(facts, ticks), None


def decode_windows(job: WindowJob) -> Iterator[tuple[Record, memoryview | None]]:
    """Yield the header, then chunks of windows; records and pixels as those of frames.decode_clip, one row a window.

    Pixels are of windows.window_dtype and valid until the next item is asked for; `pts_seconds` and `is_keyframe` are
    those of each window's first frame.
    """
    assert job.size is not None, "windows have a size"
    cost = Cost()
    out = _Chunk(job.windows, job.size)
    problem: VideoError | None = None
    try:
        with open_clip(job.clip) as stream, Log() as log:
            cost.stream = stream
            with Video(stream, bounds=job.bounds, log=log) as video:
                yield from cost.outside(video.header, None)
                cost.video = video
                filler = _Filler(job, *_wanted(job, video, log), video)
                sample = ClipSample(filler.job, video, log)
                cost.reader = sample.reader
                for shown in sample:
                    if shown is None:
                        yield from cost.outside({}, None)
                        continue
                    for window in filler.add(shown):
                        if out.is_full:
                            yield from cost.outside(*out.take())
                        out.add(window)
                for window in filler.finish():
                    if out.is_full:
                        yield from cost.outside(*out.take())
                    out.add(window)
    except VideoError as error:
        problem = error
    record, pixels = out.take()
    yield record | cost.end(problem), pixels


def measured(video: Video, log: Log) -> Facts:
    """The facts of an opened video, which is left at its beginning."""
    first = FrameReader(video, log).first()
    if first is None:
        raise VideoError("corrupt", _NO_FRAME)
    end = end_of_last_frame(video, decoding_delay=first.decoding_delay)
    video.reopen()
    return Facts(seconds_of(first.tick, video.time_base), seconds_of(max(1, end - first.tick), video.time_base))


def counted(video: Video, log: Log) -> list[int]:
    """When each frame of an opened video is shown, which is left at its beginning; decodes it where packets do not say.

    Of a damaged video the frames before the damage.
    """
    first = FrameReader(video, log).first()
    if first is None:
        raise VideoError("corrupt", _NO_FRAME)
    ticks = frame_ticks(video, first_tick=first.tick)
    if ticks is None:
        video.reopen()
        ticks = []
        with suppress(VideoError):  # which decoding reports
            for shown in FrameReader(video, log).frames():
                ticks.append(shown.tick)
    video.reopen()
    return ticks


def _known(facts: Facts, ticks: list[int] | None) -> Record:
    """Arguments of windows.extent_of; the frame rate is that of the video as a whole."""
    known: Record = facts._asdict()
    return known if ticks is None else known | {"num_frames": len(ticks), "frame_rate": len(ticks) / facts[1]}


def _wanted(job: WindowJob, video: Video, log: Log) -> tuple[list[list[int]], Ints]:
    """Ticks of W windows of T frames and how many are real: those given, or all windows amid their slots."""
    ticks = None if job.windows.every is None else counted(video, log)
    if job.positions is not None:
        assert job.num_real is not None, "comes with positions"
        positions, num_real = np.asarray(job.positions, np.float64), np.asarray(job.num_real, np.int64)
    else:
        whole = Labelled(url=job.clip["url"], label="")
        extent = extent_of(
            whole, job.windows, **_known(measured(video, log), ticks)
        )  # as training has it, to the last bit
        windows = make_windows([whole], [extent], job.windows)
        positions, num_real = windows.centred(), windows.num_real
    if ticks is None:
        return [[tick_of(float(seconds), video.time_base) for seconds in window] for window in positions], num_real
    last = len(ticks) - 1
    return [[ticks[min(int(number), last)] for number in window] for window in positions], num_real


class _Window(NamedTuple):
    """One that is complete."""

    frames: list[Pixels]
    num_real: int
    pts_seconds: float
    is_keyframe: bool


class _Shown(NamedTuple):
    picture: Pixels
    pts_seconds: float
    is_keyframe: bool


class _Filler:
    """Takes the frames that positions show, in order; gives windows as they are complete.

    A position is shown by the last frame that begins at or before it: it is known when a later one comes, or the end.
    """

    def __init__(self, job: WindowJob, ticks: list[list[int]], num_real: Ints, video: Video) -> None:
        wanted = sorted({tick for window in ticks for tick in window})
        times = [seconds_of(tick, video.time_base) for tick in wanted]
        clip = job.clip | {"start_seconds": None, "end_seconds": None, "times": times}
        self.job = replace(job, clip=clip, sampling="times=times")
        self._ticks = ticks
        self._num_real = num_real
        self._maker = PictureMaker(job.size)
        self._video = video
        self._last: _Shown | None = None
        self._next = 0
        self._frames: list[_Shown] = []

    def add(self, shown: Any) -> Iterator[_Window]:
        """The windows that this frame completes, by what was shown before it."""
        if self._last is not None:
            yield from self._fill(shown.tick)
        frame, aspect = frame_of(shown), self._video.stream.sample_aspect_ratio
        assert isinstance(frame, VideoFrame), "no sample of all frames, for which pictures are made at once"
        picture = np.empty((*self._maker.size_of(frame, aspect), 3), np.uint8)
        self._maker.make(frame, aspect, picture)
        self._last = _Shown(picture, seconds_of(shown.tick, self._video.time_base), shown.is_keyframe)

    def finish(self) -> Iterator[_Window]:
        """The windows that are left: what is shown last stays."""
        if self._last is not None:
            yield from self._fill(None)

    def _fill(self, before: int | None) -> Iterator[_Window]:
        assert self._last is not None
        while self._next < len(self._ticks):
            window = self._ticks[self._next]
            while len(self._frames) < len(window) and (before is None or window[len(self._frames)] < before):
                self._frames.append(self._last)
            if len(self._frames) < len(window):
                return
            first = self._frames[0]
            pictures = [shown.picture for shown in self._frames]
            yield _Window(pictures, int(self._num_real[self._next]), first.pts_seconds, first.is_keyframe)
            self._frames = []
            self._next += 1


class _Chunk:
    """Windows in one buffer that is used again and again."""

    def __init__(self, spec: WindowSpec, size: TargetSize) -> None:
        self._dtype = window_dtype(spec.num_frames, size.height, size.width)
        self._capacity = max(1, CHUNK_BYTES // self._dtype.itemsize)
        self._buffer: npt.NDArray[Any] | None = None
        self._pts_seconds: list[float] = []
        self._is_keyframe: list[bool] = []
        self._num_taken = 0

    @property
    def is_full(self) -> bool:
        return len(self._pts_seconds) >= self._capacity

    def add(self, window: _Window) -> None:
        if self._buffer is None:  # of what is not written to, nothing is taken
            self._buffer = np.empty(self._capacity, self._dtype)
        place = self._buffer[len(self._pts_seconds)]
        place["num_real"] = window.num_real
        np.stack(window.frames, out=place["frames"])
        self._pts_seconds.append(window.pts_seconds)
        self._is_keyframe.append(window.is_keyframe)

    def take(self) -> tuple[Record, memoryview | None]:
        num_windows = len(self._pts_seconds)
        record: Record = {
            "chunk_index": self._num_taken,
            "is_last_chunk": False,
            "num_frames": num_windows,
            "pts_seconds": self._pts_seconds,
            "is_keyframe": self._is_keyframe,
            "layout": None,
        }
        self._num_taken += 1
        self._pts_seconds, self._is_keyframe = [], []
        pixels = None if self._buffer is None else self._buffer[:num_windows].view(np.uint8).data
        return record, pixels
