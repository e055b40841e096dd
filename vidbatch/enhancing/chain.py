"""The steps of a run, one behind the other: decoded frames go in, enhanced ones come out, one for each and in order.

Runs in the child process. Neighbouring steps by FFmpeg's filters are one filter graph (filters.py); a step by a network
(networked.py, upscaling.py) or by OpenCV (opencv.py) is a link of its own, which takes and gives 8-bit YUV 4:2:0, or
planar YUV of any kind where it upscales. Strength 0 is no link at all, so that frames stay as they are, bit for bit.
The step that makes more frames than there were stands between two chains: passage.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from av.video.frame import VideoFrame

from vidbatch.enhancing.filters import (
    DEINTERLACE,
    METHODS,
    NO_REACH,
    FilterLink,
    Method,
    Nodes,
    Reach,
    Shape,
    depth_of,
    format_of,
    is_planar_yuv,
    is_rgb,
    padded,
    plain,
    shape_of,
)
from vidbatch.enhancing.types import UPSCALED, Step

_OF_LINKS = "yuv420p"
_OF_RGB = "rgb24"
_OF_UPSCALING = "yuv444p"
"""Of what is not planar YUV."""


class Link(Protocol):
    """Part of a chain, for frames of one shape."""

    def push(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """Take the next frame; give those that are ready."""

    def flush(self) -> Iterator[VideoFrame]:
        """Give what is still on the way; nothing is pushed any more."""


class Timed(NamedTuple):
    """A frame, shown from one tick to another: of the source's time base, behind interpolation of the file's."""

    tick: int
    end: int
    frame: VideoFrame
    original: VideoFrame | None = None
    """The decoded frame that it is measured by."""
    beside: VideoFrame | None = None
    """The decoded frame that was shown at this time, where a contact sheet may show both."""
    is_made: bool = False
    """Whether it was made between two others."""


class Target(NamedTuple):
    """What all frames become: their size in pixels, and the pixel format."""

    width: int
    height: int
    pixel_format: str


class Machine(NamedTuple):
    """What networks run on."""

    device: str = "cpu"
    threads: int = 1


def reach_of(steps: Iterable[Step], *, deinterlaces: bool) -> Reach:
    """How many frames before and behind a frame all steps together see."""
    reaches = [_reach_of(step) for step in steps if step.strength > 0]
    if deinterlaces:
        reaches.append(DEINTERLACE.reach)
    return Reach(sum(reach.before for reach in reaches), sum(reach.behind for reach in reaches))


def _reach_of(step: Step) -> Reach:
    if step.network is None:
        method = METHODS[step.name].get(step.method)
        return NO_REACH if method is None else method.reach
    from vidbatch.enhancing.networked import reach_of_network  # loads torch

    return reach_of_network(step.network)


class Chain:
    """Push frames, iterate over what is ready; as many frames come out as went in.

    Args: `deinterlaces` where the header says that there are two fields in a frame; frames that say so themselves
    are deinterlaced anyway. Frames of another size are scaled to that of the target, odd ones padded; where there is
    none, they come out as large as the steps make them, in the pixel format that they had.
    """

    def __init__(
        self, steps: Iterable[Step], target: Target | None, *, deinterlaces: bool, machine: Machine | None = None
    ) -> None:
        self._steps = [step for step in steps if step.strength > 0]
        self._target = target
        self._machine = machine or Machine()
        self._is_interlaced = deinterlaces
        self._shape: Shape | None = None
        self._links: list[Link] = []
        self.changes: list[str] = []

    def push(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """Take the next frame; give those that are ready."""
        frame = plain(frame)
        self._is_interlaced = self._is_interlaced or frame.interlaced_frame
        shape = shape_of(frame)._replace(is_interlaced=self._is_interlaced)
        if shape != self._shape:
            yield from self.flush()
            self._shape = shape
            self._links = self._make_links(shape)
        yield from self._through(0, frame)

    def flush(self) -> Iterator[VideoFrame]:
        """Give what is still on the way; the next frame begins anew."""
        for place, link in enumerate(self._links):
            for frame in link.flush():
                yield from self._through(place + 1, frame)
        self._links, self._shape = [], None

    def _through(self, place: int, frame: VideoFrame) -> Iterator[VideoFrame]:
        """What comes out at the end because a frame is pushed into a link."""
        if place == len(self._links):
            yield frame
            return
        for given in self._links[place].push(frame):
            yield from self._through(place + 1, given)

    def _make_links(self, shape: Shape) -> list[Link]:
        """What frames of this shape go through; also says what is changed beside the steps."""
        links: list[Link] = []
        methods: list[tuple[Method, float]] = []
        if shape.is_interlaced:
            self._say("deinterlaced (bwdif), a frame for each frame")
            methods.append((DEINTERLACE, 1.0))
        depth = depth_of(shape.pixel_format)
        entry = at = shape  # before the methods that wait for a link, and behind them
        for step in self._steps:
            method = METHODS[step.name].get(step.method)
            wanted = _taken_by(step, at.pixel_format)
            if depth > 8 and (method.takes_8_bits_only if method is not None else depth_of(wanted) == 8):
                self._say(f"{step.method} saw 8 bits of {depth}")
            if method is not None:
                methods.append((method, step.strength))
                at = at.times(method.factor)
                continue
            if at.pixel_format != wanted:
                methods.append((_formatting(wanted, at), 1.0))
            if methods:
                links.append(FilterLink(entry, methods))
                methods = []
            at = at._replace(pixel_format=wanted)
            links.append(self._link_of(step, at))
            entry = at = at.times(UPSCALED if step.name == "upscale" else 1)
        target = self._target or Target(at.width, at.height, shape.pixel_format)
        ending = self._ending(at, shape.pixel_format, target)
        if methods or ending or at.pixel_format != target.pixel_format:
            methods.append((_formatting(target.pixel_format, at, ending), 1.0))
            links.append(FilterLink(entry, methods))
        if _pads(at, target):
            links.append(_PadLink(target))
        return links

    def _link_of(self, step: Step, shape: Shape) -> Link:
        if step.network is None:
            from vidbatch.enhancing.opencv import OpenCVLink

            return OpenCVLink(step.method, step.strength)
        from vidbatch.enhancing.networked import make_link  # loads torch

        return make_link(step.network, step.strength, shape, self._machine.device, self._machine.threads)

    def _ending(self, shape: Shape, pixel_format: str, target: Target) -> Nodes:
        """What makes frames as large as the target. Args: `pixel_format` is the one that they had at first."""
        if pixel_format != target.pixel_format:
            self._say(f"pixel format {pixel_format} became {target.pixel_format}")
        sizes = f"{shape.width}x{shape.height} to {target.width}x{target.height}"
        if _pads(shape, target):
            self._say(f"padded from {sizes}: the encoder takes even sizes only")
        elif (target.width, target.height) != (shape.width, shape.height):
            self._say(f"frames scaled from {sizes}")
            return [("scale", f"{target.width}:{target.height}:flags=bicubic+accurate_rnd+bitexact")]
        return []

    def _say(self, change: str) -> None:
        if change not in self.changes:
            self.changes.append(change)


class _PadLink:
    """Frames of one size and pixel format, as large as the target: the last row and column go on."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def push(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """The larger frame."""
        yield padded(frame, self._target.width, self._target.height)

    def flush(self) -> Iterator[VideoFrame]:
        """Nothing: no frame waits for another."""
        yield from ()


def _pads(shape: Shape, target: Target) -> bool:
    """Whether frames lack but a row or a column."""
    return (target.width - shape.width, target.height - shape.height) in ((0, 1), (1, 0), (1, 1))


def _taken_by(step: Step, pixel_format: str) -> str:
    """The pixel format that a step's link wants of frames that are in another one."""
    if step.name == "colour" and step.network is not None and is_rgb(pixel_format):
        return _OF_RGB
    if step.name != "upscale":
        return _OF_LINKS
    return pixel_format if is_planar_yuv(pixel_format) else _OF_UPSCALING


def _formatting(pixel_format: str, shape: Shape, before: Nodes | None = None) -> Method:
    return Method(lambda _: [*(before or []), ("format", format_of(pixel_format, shape))])
