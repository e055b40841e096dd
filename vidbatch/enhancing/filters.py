"""Decoded frames go in, enhanced ones come out, one for each and in order, by filters that FFmpeg has.

Runs in the child process, as a link of chain.Chain. A method is a few nodes of a filter graph, its parameters grow
with the strength.

                                                                    CPU ms a frame of 720p
    denoise   nlmeans       non-local means: strong                    412    s up to 12
              bm3d          block matching in one picture: sharp        64    sigma up to 20
              fftdnoiz      Wiener filter of the spectrum's blocks      27    sigma up to 20
              atadenoise    average of 9 frames where they agree       2.9    thresholds up to 0.12 and 0.24
              deblock       the edges of a codec's blocks              1.9    alpha, beta up to twice the default
    colour    normalize     each channel stretched, over a second      5.3    strength
              greyedge      white balance: the average edge is grey    193    mixed in
              grayworld     white balance: the average is grey          23    mixed in
              colorcorrect  white balance: the median is grey          1.0    mixed in
    upscale   lanczos       twice as wide and high                      1.0    none

What makes frames between others is in interpolating.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, NamedTuple

import av
import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.filter.context import FilterContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from vidbatch.enhancing.types import UPSCALED
from vidbatch.errors import VideoError

Nodes = list[tuple[str, str]]
"""Filters and their arguments, in FFmpeg's words."""

MATRICES: Final = {1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020nc", 10: "bt2020c"}
RGB_MATRIX: Final = 0
MATRIX_OF_RGB: Final = 1
"""What RGB becomes where the encoder takes none: BT.709, limited range."""
RANGES: Final = {1: "tv", 2: "pc"}
_SMOOTHED_FRAMES: Final = 24
_GRAPH_TIME_BASE: Final = Fraction(1, 1000)


class Reach(NamedTuple):
    """How many frames before and behind a frame decide what becomes of it."""

    before: int
    behind: int


NO_REACH: Final = Reach(0, 0)


@dataclass(frozen=True)
class Method:
    """A way to do a step. Args: `nodes` are made for a strength; `is_mixed` has the graph mix in what they give."""

    nodes: Callable[[float], Nodes]
    reach: Reach = NO_REACH
    is_mixed: bool = False
    takes_8_bits_only: bool = False
    factor: int = 1
    """How many times as wide and as high frames become."""


METHODS: Final[dict[str, dict[str, Method]]] = {
    "denoise": {
        "nlmeans": Method(lambda x: [("nlmeans", f"s={max(1.0, 12 * x):g}")], takes_8_bits_only=True),
        "bm3d": Method(lambda x: [("bm3d", f"sigma={20 * x:g}:block=16:bstep=8")]),
        "fftdnoiz": Method(lambda x: [("fftdnoiz", f"sigma={20 * x:g}")]),
        "atadenoise": Method(
            lambda x: [
                ("atadenoise", ":".join(f"{p}a={0.12 * x * x:g}:{p}b={0.24 * x * x:g}" for p in "012") + ":s=9")
            ],
            Reach(4, 4),
        ),
        "deblock": Method(lambda x: [("deblock", f"filter=strong:alpha={0.196 * x:g}:beta={0.1 * x:g}")]),
    },
    "colour": {
        "normalize": Method(
            lambda x: [("normalize", f"strength={x:g}:smoothing={_SMOOTHED_FRAMES}")], Reach(_SMOOTHED_FRAMES, 0)
        ),
        "greyedge": Method(
            lambda _: [("greyedge", "difford=1:minknorm=5:sigma=2")], is_mixed=True, takes_8_bits_only=True
        ),
        "grayworld": Method(lambda _: [("grayworld", "")], is_mixed=True),
        "colorcorrect": Method(lambda _: [("colorcorrect", "analyze=median")], is_mixed=True),
    },
    "upscale": {"lanczos": Method(lambda _: [scaling("lanczos", "2*iw:2*ih")], factor=UPSCALED)},
}
"""The methods of each step, by name; the first is the default."""


def scaling(kernel: str, size: str) -> tuple[str, str]:
    """The node that scales, exactly; chroma lies beside the left one of two pixels, as decoders of today say or mean.

    FFmpeg by itself takes chroma that nothing is said of to lie between them: half a pixel off, behind twice the size.
    """
    return "scale", f"{size}:flags={kernel}+accurate_rnd+bitexact:in_chroma_loc=left:out_chroma_loc=left"


DEINTERLACE: Final = Method(lambda _: [("bwdif", "mode=send_frame:deint=interlaced")], Reach(2, 2))


class Shape(NamedTuple):
    """All that a filter graph depends on; matrix and range in FFmpeg's numbers."""

    width: int
    height: int
    pixel_format: str
    matrix: int
    range: int
    is_interlaced: bool

    def times(self, factor: int) -> Shape:
        """The shape of frames that many times as wide and as high."""
        return self._replace(width=factor * self.width, height=factor * self.height)


def shape_of(frame: VideoFrame) -> Shape:
    """What a graph has to know of a frame."""
    return Shape(
        frame.width,
        frame.height,
        frame.format.name,
        int(frame.colorspace),
        int(frame.color_range),
        frame.interlaced_frame,
    )


def buffer_of(graph: Graph, shape: Shape) -> FilterContext:
    """The node of a graph where frames of a shape go in, in milliseconds and on square pixels."""
    return graph.add(
        "buffer",
        video_size=f"{shape.width}x{shape.height}",
        pix_fmt=shape.pixel_format,
        time_base="1/1000",
        pixel_aspect="1/1",
        colorspace=str(shape.matrix),
        range=str(shape.range),
    )


class FilterLink:
    """Frames of one shape through a filter graph: push frames, get those that are ready, then flush.

    Raises VideoError for frames that these filters do not take.
    """

    def __init__(self, shape: Shape, methods: Iterable[tuple[Method, float]]) -> None:
        graph = Graph()
        graph.threads = 1
        try:
            self._entry = last = buffer_of(graph, shape)
            for method, strength in methods:
                last = _add(graph, last, method, strength, shape)
            self._exit = graph.add("buffersink")
            last.link_to(self._exit)
            graph.configure()
        except (av.FFmpegError, ValueError) as error:
            raise VideoError("unsupported", f"filters on {shape.pixel_format}: {error}") from None
        self._graph = graph  # its contexts do not keep it alive
        self._number = 0

    def push(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """Take the next frame; give those that are ready."""
        frame.pts, frame.time_base = self._number, _GRAPH_TIME_BASE
        self._number += 1
        try:
            self._entry.push(frame)
        except (av.FFmpegError, ValueError) as error:
            raise VideoError("unsupported", f"filters: {error}") from None
        yield from self._ready()

    def flush(self) -> Iterator[VideoFrame]:
        """Give what is still on the way; nothing can be pushed any more."""
        self._entry.push(None)
        yield from self._ready()

    def _ready(self) -> Iterator[VideoFrame]:
        with suppress(av.BlockingIOError, av.EOFError):
            while True:
                frame = self._exit.pull()
                assert isinstance(frame, VideoFrame)
                yield frame


class Conversion:
    """A frame of a shape in, one of another out. Args: `nodes` need no frames but the one."""

    def __init__(self, shape: Shape, nodes: Nodes) -> None:
        self._link = FilterLink(shape, [(Method(lambda _: nodes), 1.0)])

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """The other frame."""
        (made,) = self._link.push(frame)
        return made


def _add(graph: Graph, last: FilterContext, method: Method, strength: float, shape: Shape) -> FilterContext:
    """Append a method's nodes; where it is mixed, on one arm of two that meet again."""
    nodes = [graph.add(name, arguments or None) for name, arguments in method.nodes(strength)]
    if not method.is_mixed or strength >= 1:
        graph.link_nodes(last, *nodes)
        return nodes[-1]
    split, same = graph.add("split", "2"), graph.add("format", format_of(shape.pixel_format, shape))
    mixed = graph.add("blend", f"all_mode=normal:all_opacity={strength:g}")
    last.link_to(split)
    graph.link_nodes(split, *nodes, same)
    same.link_to(mixed, 0, 0)
    split.link_to(mixed, 1, 1)
    return mixed


def depth_of(pixel_format: str) -> int:
    """Bits of a sample."""
    return max(component.bits for component in VideoFormat(pixel_format).components)


def format_of(pixel_format: str, shape: Shape) -> str:
    """Arguments of `format` that keep matrix and range, also for what comes back from RGB."""
    arguments = pixel_format
    if not is_rgb(pixel_format):
        if shape.matrix == RGB_MATRIX:
            return f"{arguments}:color_spaces={MATRICES[MATRIX_OF_RGB]}:color_ranges={RANGES[1]}"
        if (matrix := MATRICES.get(shape.matrix)) is not None:
            arguments += f":color_spaces={matrix}"
        if (used := RANGES.get(shape.range)) is not None:
            arguments += f":color_ranges={used}"
    return arguments


def is_rgb(pixel_format: str) -> bool:
    """Whether a pixel format has red, green and blue, or a palette of them."""
    return VideoFormat(pixel_format).is_rgb or pixel_format.startswith("pal")


def is_planar_yuv(pixel_format: str) -> bool:
    """Whether luma is the first of planes of its own, whole bytes a sample, with or without chroma, and no alpha."""
    return re.fullmatch(r"(yuv4\d\dp|gray)((9|1\d)le)?", pixel_format) is not None


def plain(frame: VideoFrame) -> VideoFrame:
    """The frame, with full range as a property and not as a pixel format of its own (yuvj420p): encoders differ."""
    if not frame.format.name.startswith("yuvj"):
        return frame
    same = VideoFrame(frame.width, frame.height, frame.format.name.replace("yuvj", "yuv"))
    for number in range(len(frame.planes)):
        rows_of(same, number)[...] = rows_of(frame, number)
    same.pts, same.time_base = frame.pts, frame.time_base
    tagged(same, frame).color_range = 2
    return same


def rows_of(frame: VideoFrame, number: int) -> npt.NDArray[Any]:
    """A plane as uint8 (height, width), not a copy."""
    plane = frame.planes[number]
    rows: npt.NDArray[Any] = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)
    return rows[:, : plane.width]


def padded(frame: VideoFrame, width: int, height: int) -> VideoFrame:
    """The frame with its last row and column repeated. FFmpeg's `pad` blackens the last column of odd widths."""
    made = VideoFrame(width, height, frame.format.name)
    for number, (plane, larger_plane) in enumerate(zip(frame.planes, made.planes, strict=True)):
        parts = [part for part in frame.format.components if part.plane == number]
        size = sum((part.bits + 7) // 8 for part in parts)  # bytes from one sample to the next
        samples = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)[:, : plane.width * size]
        rows, columns = larger_plane.height - plane.height, larger_plane.width - plane.width
        room = ((0, rows), (0, columns), (0, 0))
        filled = np.pad(samples.reshape(plane.height, plane.width, size), room, mode="edge")
        target = np.frombuffer(memoryview(larger_plane), np.uint8).reshape(larger_plane.height, -1)
        target[:, : larger_plane.width * size] = filled.reshape(larger_plane.height, -1)
    return tagged(made, frame)


def larger(frame: VideoFrame, factor: int) -> VideoFrame:
    """The frame so many times as wide and as high, a power of UPSCALED, by Lanczos."""
    while factor > 1:
        link = FilterLink(shape_of(frame), [(METHODS["upscale"]["lanczos"], 1.0)])
        kept = frame.pts, frame.time_base
        (made,) = link.push(frame)
        frame.pts, frame.time_base = kept
        frame, factor = tagged(made, frame), factor // UPSCALED
    return frame


def tagged(made: VideoFrame, like: VideoFrame) -> VideoFrame:
    """The frame with what another one says of its colours, and its time."""
    if like.time_base:
        made.pts, made.time_base = like.pts, like.time_base
    made.colorspace, made.color_range = like.colorspace, like.color_range
    made.color_primaries, made.color_trc = like.color_primaries, like.color_trc
    return made
