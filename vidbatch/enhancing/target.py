"""Enhanced frames of a few seconds go in; the largest crf that leaves them as good as was asked for comes out.

Runs in the child process. Some parts of a clip are encoded at a few values of crf, decoded and compared; between them
quality is taken to be linear in crf, as it nearly is. Quality is XPSNR, a PSNR that weighs errors by how well they are
seen (C. Helmrich et al., "XPSNR: A Low-Complexity Extension of the Perceptually Weighted PSNR", 2020), of luma, by
FFmpeg's filter of that name: as good as VMAF at telling which of two encodings people prefer, at a hundredth of its
cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from typing import Final

import av
from av.codec.context import CodecContext
from av.filter import Graph
from av.filter.context import FilterContext
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame

from vidbatch.enhancing.encode import encoder_of
from vidbatch.enhancing.filters import buffer_of, shape_of
from vidbatch.enhancing.types import CRFS, Encoding, Picture, Trial
from vidbatch.errors import VideoError

MOST_FRAMES: Final = 48
"""Of a part; a part of 4K takes 600 MB."""
PART_SECONDS: Final = 2.0
_NUM_PARTS: Final = 3
_KEYFRAME_HELPS: Final = 8
"""So many frames behind the keyframe that a part begins with are better than others would be, and are not counted."""
_DECODERS: Final = {"av1": "libdav1d"}
"""Where FFmpeg's own wants hardware."""
_ROUNDED_TO: Final = 0.25
_BEST_DB: Final = 100.0
"""Of equal frames."""


def parts_of(start_seconds: float, end_seconds: float | None) -> list[tuple[float, float]]:
    """(start, end) of the parts to try, spread evenly over a clip whose end may be unknown."""
    length = PART_SECONDS if end_seconds is None else (end_seconds - start_seconds) / _NUM_PARTS
    margin = max(0.0, (length - PART_SECONDS) / 2)
    starts = [start_seconds + number * length + margin for number in range(_NUM_PARTS)]
    return [(start, start + min(length, PART_SECONDS)) for start in starts]


def tried(
    frames: Sequence[VideoFrame], encoding: Encoding, picture: Picture, rung: Picture, seconds: float
) -> Iterator[Trial]:
    """Trials of frames, in their order, at their times and as large as `rung` wants them, at each of CRFS."""
    ticks = [frame.pts for frame in frames]  # encoders spend less on frames that are shown for shorter
    for crf in CRFS[encoding.encoder].tried:
        context = encoder_of(encoding.at(crf), picture, rung)
        packets = []
        for tick, frame in zip(ticks, frames, strict=True):
            frame.pts, frame.time_base = tick, Fraction(*picture.time_base)
            frame.pict_type = PictureType.NONE
            packets += context.encode(frame)
        packets += context.encode(None)
        decoder = CodecContext.create(_DECODERS.get(context.codec.canonical_name, context.codec.canonical_name), "r")
        decoder.extradata = context.extradata
        assert isinstance(decoder, VideoCodecContext)
        seen = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
        seen.sort(key=lambda frame: frame.pts or 0)
        levels = list(xpsnr(frames, seen))
        levels = levels[_KEYFRAME_HELPS:] if len(levels) > 2 * _KEYFRAME_HELPS else levels
        size_bytes = sum(packet.size for packet in packets)
        yield Trial(crf, size_bytes, seconds, sum(10 ** (-level / 10) for level in levels), len(levels))


def crf_for(target_xpsnr_db: float, trials: Sequence[Trial], encoder: str) -> float:
    """The largest crf that reaches the target, by straight lines between the trials and beyond them."""
    points = [(trial.crf, trial.xpsnr_db) for trial in trials]
    least, greatest = CRFS[encoder].allowed
    pairs = list(pairwise(points))
    (before, behind) = next((pair for pair in pairs if pair[1][1] <= target_xpsnr_db), pairs[-1])
    slope = min(-0.05, (behind[1] - before[1]) / (behind[0] - before[0]))
    crf = before[0] + (target_xpsnr_db - before[1]) / slope
    return min(greatest, max(least, math.floor(crf / _ROUNDED_TO) * _ROUNDED_TO))


def xpsnr(before: Sequence[VideoFrame], after: Sequence[VideoFrame]) -> Iterator[float]:
    """XPSNR of luma of each frame, in dB. Raises VideoError for frames that the filter does not take."""
    graph = Graph()
    graph.threads = 1
    try:
        sources = [buffer_of(graph, shape_of(frames[0])) for frames in (before, after)]
        compared, sink = graph.add("xpsnr"), graph.add("buffersink")
        for number, source in enumerate(sources):
            source.link_to(compared, 0, number)
        compared.link_to(sink)
        graph.configure()
        for number, pair in enumerate(zip(before, after, strict=True)):
            for source, frame in zip(sources, pair, strict=True):
                frame.pts, frame.time_base = number, Fraction(1, 1000)
                source.push(frame)
            yield from _levels(sink)
        for source in sources:
            source.push(None)
        yield from _levels(sink)
    except (av.FFmpegError, ValueError) as error:
        raise VideoError("encode", f"its quality cannot be measured: {error}") from None


def _levels(sink: FilterContext) -> Iterator[float]:
    with suppress(av.BlockingIOError, av.EOFError):
        while True:
            level = float(sink.pull().metadata["lavfi.xpsnr.xpsnr.y"])
            yield min(_BEST_DB, level) if level == level else _BEST_DB
