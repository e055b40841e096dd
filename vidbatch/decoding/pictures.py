"""Decoded frames go in; upright uint8 RGB pictures on square pixels, of the size a model wants, come out, or planes.

Runs in the decoder's child process, only for frames that are kept. libavfilter crops first (a pointer moved, no
copy) and scales only what remains, except for models that are owed the very pixels of a library that crops last.

Colours are what FFmpeg's `scale` makes of them: matrix and range as tagged, BT.601 limited range where a YUV frame is
not tagged, whatever its size. Frames are scaled as they are: interlaced ones keep both fields, transparency is dropped.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.filter.context import FilterContext
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame

from vidbatch.decoding.types import TargetSize
from vidbatch.yuv import INTERPOLATIONS, LUMA_WEIGHTS, Layout

Pixels = npt.NDArray[np.uint8]

_OF_8_BIT_YUV_420: Final = frozenset({"yuv420p", "yuvj420p"})
_FULL_RANGE: Final = 2


class Orientation(NamedTuple):
    """What turns a stored picture upright: transpose it first, then mirror it."""

    transpose: bool = False
    mirror_columns: bool = False
    mirror_rows: bool = False


class _Shape(NamedTuple):
    """All that a filter graph depends on."""

    width: int
    height: int
    pixel_format: str
    colour_space: int
    colour_range: int
    pixel_aspect: Fraction
    transpose: bool


class PictureMaker:
    """Turns frames into pictures of one size; remembers the filter graph of the last kind of frame.

    Args: `target` is the size to make; None for whole pictures, of the size at which the first one is displayed.
    """

    def __init__(self, target: TargetSize | None) -> None:
        self._target = target
        self._orientations: dict[int, Orientation] = {}
        self._shape: _Shape | None = None
        self._graph: Graph | None = None
        self._entry: FilterContext | None = None
        self._exit: FilterContext | None = None

    def size_of(self, frame: VideoFrame, pixel_aspect: Fraction | None) -> tuple[int, int]:
        """(height, width) of the pictures, fixed by the first frame asked about where no size was given."""
        if self._target is None:
            aspect = _sane(pixel_aspect)
            width, height = max(1, round(frame.width * aspect)), frame.height
            if self._orientation(frame).transpose:
                width, height = height, width
            self._target = TargetSize(height, width, 1.0, "bicubic")
        return self._target.height, self._target.width

    def make(self, frame: VideoFrame, pixel_aspect: Fraction | None, out: Pixels) -> None:
        """Write the picture of `frame` into `out`, uint8 of shape (height, width, 3)."""
        self.size_of(frame, pixel_aspect)
        turn = self._orientation(frame)
        shape = self._shape_of(frame, pixel_aspect)
        if shape != self._shape:
            self._build(shape)
        assert self._entry is not None
        assert self._exit is not None
        self._entry.push(frame)
        scaled = self._exit.pull()
        assert isinstance(scaled, VideoFrame)
        plane = scaled.planes[0]
        rows: Pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(scaled.height, plane.line_size)
        picture = _turned(rows[:, : 3 * scaled.width].reshape(scaled.height, scaled.width, 3), turn)
        top, left = ((whole - part) // 2 for whole, part in zip(picture.shape, out.shape[:2], strict=False))
        out[...] = picture[top : top + out.shape[0], left : left + out.shape[1]]

    def layout_of(self, frame: VideoFrame, pixel_aspect: Fraction | None) -> Layout | None:
        """How `take_planes` gives the picture of `frame`; None for one that only `make` can give."""
        target, shape = self._target, self._shape_of(frame, pixel_aspect)
        if target is None or target.interpolation not in INTERPOLATIONS or frame.colorspace not in LUMA_WEIGHTS:
            return None
        if shape.pixel_format not in _OF_8_BIT_YUV_420:
            return None
        (width, height, _, _), scaled = _cuts(shape, target)
        if scaled != _stored_size(shape, target):
            return None
        is_full_range = shape.colour_range == _FULL_RANGE or shape.pixel_format == "yuvj420p"
        return Layout(height, width, shape.colour_space, is_full_range, *self._orientation(frame))

    def take_planes(self, frame: VideoFrame, pixel_aspect: Fraction | None, layout: Layout, out: Pixels) -> None:
        """Copy the planes of the part that is shown into `out`, uint8 of shape (layout.size_bytes,)."""
        assert self._target is not None
        (_, _, left, top), _ = _cuts(self._shape_of(frame, pixel_aspect), self._target)
        begin = 0
        for plane, shift, (height, width) in zip(frame.planes, (0, 1, 1), layout.planes, strict=True):
            rows: Pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
            end = begin + height * width
            shown = rows[top >> shift : (top >> shift) + height, left >> shift : (left >> shift) + width]
            out[begin:end].reshape(height, width)[...] = shown
            begin = end

    def _shape_of(self, frame: VideoFrame, pixel_aspect: Fraction | None) -> _Shape:
        return _Shape(
            frame.width,
            frame.height,
            frame.format.name,
            frame.colorspace,
            frame.color_range,
            _sane(pixel_aspect),
            self._orientation(frame).transpose,
        )

    def _orientation(self, frame: VideoFrame) -> Orientation:
        # PyAV's view of the side data and its frame hold each other until Python looks for cycles, which kept
        # a hundred frames of 720p alive: so it is asked for once for each angle.
        if frame.rotation not in self._orientations:
            self._orientations[frame.rotation] = orientation_of(frame)
        return self._orientations[frame.rotation]

    def _build(self, shape: _Shape) -> None:
        assert self._target is not None
        interpolation = self._target.interpolation
        crop, (height, width) = _cuts(shape, self._target)
        graph = Graph()
        graph.threads = 1
        nodes = [
            graph.add(
                "buffer",
                video_size=f"{shape.width}x{shape.height}",
                pix_fmt=shape.pixel_format,
                time_base="1/1000",
                pixel_aspect="1/1",
                colorspace=str(shape.colour_space),
                range=str(shape.colour_range),
            ),
            graph.add("crop", "{}:{}:{}:{}:exact=1".format(*crop)),
            # Exact arithmetic, so that the same frame gives the same bytes on every processor. By way of three planes,
            # which FFmpeg writes by vector instructions, the same values take 0.55 ms instead of 1.1 (720p to 256x144).
            graph.add("scale", f"{width}:{height}:flags={interpolation}+accurate_rnd+full_chroma_int+bitexact"),
            graph.add("format", "gbrp"),
            graph.add("scale", "flags=bitexact"),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        self._graph, self._entry, self._exit, self._shape = graph, nodes[0], nodes[-1], shape


def orientation_of(frame: VideoFrame) -> Orientation:
    """How to turn a frame upright, from its display matrix; angles between are rounded to quarter turns."""
    data = _display_matrix(frame)
    if data is None:
        return Orientation()
    # Column vectors of the picture's axes, fixed point: (x, y) goes to (a x + c y, b x + d y).
    a, b, _, c, d = struct.unpack("=5i", data[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)


def _display_matrix(frame: VideoFrame) -> bytes | None:
    side_data: Any = frame.side_data
    found = side_data.get(SideDataType.DISPLAYMATRIX)
    return None if found is None else bytes(found)


def _turned(picture: Pixels, turn: Orientation) -> Pixels:
    if turn.transpose:
        picture = picture.swapaxes(0, 1)
    if turn.mirror_columns:
        picture = picture[:, ::-1]
    if turn.mirror_rows:
        picture = picture[::-1]
    return picture


def _sane(pixel_aspect: Fraction | None) -> Fraction:
    """Width of a pixel by its height; 1 where it is unknown or absurd."""
    if pixel_aspect is None or not Fraction(1, 16) <= pixel_aspect <= 16:
        return Fraction(1)
    return pixel_aspect


def _stored_size(shape: _Shape, target: TargetSize) -> tuple[int, int]:
    """(height, width) of the target as it lies before the picture is turned."""
    return (target.width, target.height) if shape.transpose else (target.height, target.width)


@lru_cache(maxsize=16)  # asked for several times a frame, of few kinds of frames
def _cuts(shape: _Shape, target: TargetSize) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """What is cut out, (width, height, left, top) in stored pixels, and the (height, width) which that is scaled to.

    Where the latter is more than the target, its centre is the picture: schema.FrameSpec says of which `fit`.
    """
    size = _stored_size(shape, target)
    whole = (shape.width, shape.height, 0, 0)
    if target.fit == "stretch":
        return whole, (round(size[0] / target.crop_share), round(size[1] / target.crop_share))
    if target.fit == "scale_then_crop":
        rows, columns = shape.height, max(1, round(shape.width * shape.pixel_aspect))
        short, long = sorted((rows, columns))
        if long <= _LONGEST * short:
            edge = round(min(size) / target.crop_share)
            scaled = edge, edge * long // short  # the longer side as transformers and torchvision round it
            return whole, scaled if rows <= columns else scaled[::-1]
    return _crop(shape, size, target.crop_share), size


_LONGEST: Final = 8
"""Sides; of longer pictures what is cut away anyway is not scaled first, in memory that their shape would decide."""


def _crop(shape: _Shape, target: tuple[int, int], crop_share: float) -> tuple[int, int, int, int]:
    """(width, height, left, top) in stored pixels of the centre that scales to the target (height, width).

    The picture is scaled so that the target fills `crop_share` of it in the direction where it fits worse: for a
    square target, the shorter displayed side is scaled to size / crop_share.
    """
    target_height, target_width = target
    displayed_width = shape.width * shape.pixel_aspect
    scale = max(Fraction(target_width) / displayed_width, Fraction(target_height, shape.height)) / Fraction(crop_share)
    width = min(shape.width, max(1, round(target_width / scale / shape.pixel_aspect)))
    height = min(shape.height, max(1, round(target_height / scale)))
    # Chroma samples are shared by up to four pixels: a crop that begins between them would shift the colours.
    left, top = ((whole - part) // 2 for whole, part in ((shape.width, width), (shape.height, height)))
    step = 4 if "410" in shape.pixel_format or "411" in shape.pixel_format else 2
    return width, height, left - left % step, top - top % step
