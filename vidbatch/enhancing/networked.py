"""Frames through the networks of vidbatch.restoring: 8-bit YUV 4:2:0 in and out, one frame for each and in order.

Runs in the child process, as a link of chain.Chain. What a frame becomes depends on the frames within reach of it and
on nothing else, so that a clip of a long video gives the frames that the whole video gives.

Denoiser. What a frame is compared by is found once and kept until it is no neighbour any more. At the ends of a video,
where there are too few neighbours, those of the other side stand in. Large pictures are made in strips, which bounds
memory; a strip's surroundings are as large as what the network sees of them, so that no strip shows.

On a GPU that can, its convolutions work in bf16: not in fp16, which holds no value above 65,504.

Cleaner. The same of luma alone; chroma stays as it is, bit for bit.

Upscaler: see upscaling.py. Interpolator: see flowing.py.

Levels. A frame's curves are found in all frames around it that belong to the same shot: levels must not flicker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from itertools import islice
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from av.video.frame import VideoFrame
from torch import Tensor
from torch.nn import functional

from vidbatch.enhancing.chain import Link
from vidbatch.enhancing.filters import RGB_MATRIX, Conversion, Reach, Shape, format_of, is_rgb, rows_of, tagged
from vidbatch.enhancing.flowing import Flowing, frame_of_planes
from vidbatch.enhancing.types import Network
from vidbatch.enhancing.upscaling import UpscaleLink
from vidbatch.errors import VideoError
from vidbatch.restoring import cleaner, levels, planes
from vidbatch.restoring.cleaner import Cleaner
from vidbatch.restoring.denoiser import MULTIPLE, SEEN_AROUND, Denoiser
from vidbatch.restoring.interpolator import Interpolator
from vidbatch.restoring.levels import Levels
from vidbatch.restoring.spec import read_enhancer
from vidbatch.restoring.upscaler import Upscaler

_MOST_ROWS: Final = 544
"""Of a strip, and only of pictures that are larger than _LARGE."""
_LARGE: Final = 1920 * 1088
_MOST_PIXELS: Final = {"cpu": 2**18, "cuda": 2**21}
"""Of a strip of luma that is cleaned, on each device."""
_SHOT: Final = Reach(48, 12)
"""Frames by which the curves of one are found."""
_MOST_SMALL: Final = 8
"""Small pictures of a shot that are looked at, evenly spaced; what levels there are is counted in all frames."""
_CUT: Final = 0.12
"""Mean difference of two small pictures, of 1, that no movement makes."""


def reach_of_network(network: Network) -> Reach:
    """How many frames around a frame a network sees."""
    if network.kind == "colour":
        return _SHOT
    return Reach(network.num_frames // 2, network.num_frames // 2)


def make_link(network: Network, strength: float, shape: Shape, device: str, threads: int) -> Link:
    """The link for frames of a shape, which is 8-bit YUV 4:2:0, or any planar YUV where it upscales."""
    torch.set_num_threads(threads)
    module = _loaded(network, device)
    if isinstance(module, Denoiser):
        return DenoiseLink(module, strength, device)
    if isinstance(module, Cleaner):
        return CleanLink(module, strength, device)
    if isinstance(module, Upscaler):
        return UpscaleLink(module, shape, device)
    assert isinstance(module, Levels)
    return ColourLink(module, strength, shape, device)


def make_interpolator(network: Network | None, device: str, threads: int) -> Flowing:
    """What makes frames between others. Args: `network` is None where flows alone do."""
    torch.set_num_threads(threads)
    if network is None:
        return Flowing(None, device)
    module = _loaded(network, device)
    assert isinstance(module, Interpolator)
    return Flowing(module, device, partial(_in_bf16, device))


@lru_cache(maxsize=4)
def _loaded(network: Network, device: str) -> torch.nn.Module:
    enhancer = read_enhancer(network.place)
    if enhancer.digest != network.digest:
        raise VideoError("model", f"the network {network.place} has changed since the run began")
    return enhancer.load().to(device)


def _in_bf16(device: str) -> AbstractContextManager[object]:
    """What has convolutions work in bf16 on GPUs that were made for it; elsewhere all is float32."""
    is_able = device != "cpu" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=is_able)


Item = TypeVar("Item")


class _Around(Generic[Item]):
    """What is known of frames, in order: each is given once, when all within reach behind it are there.

    It comes with those around it: a list of what is within reach, and its place in it.
    """

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._held: deque[Item] = deque()
        self._at = 0

    def add(self, item: Item) -> Iterator[tuple[list[Item], int]]:
        """Take the next one; give the one that has all of its neighbours now."""
        self._held.append(item)
        if len(self._held) - self._at > self._reach.behind:
            yield self._next()

    def flush(self) -> Iterator[tuple[list[Item], int]]:
        """Give those that have no more neighbours behind them."""
        while self._at < len(self._held):
            yield self._next()

    def _next(self) -> tuple[list[Item], int]:
        known, at = list(islice(self._held, self._at + self._reach.behind + 1)), self._at
        if at == self._reach.before:
            self._held.popleft()
        else:
            self._at += 1
        return known, at


# --- without noise --------------------------------------------------------------------------------------------------


class _Seen(NamedTuple):
    frame: VideoFrame
    cells: Tensor
    known: Tensor


class DenoiseLink:
    """Frames without noise or artefacts. Args: `strength` is the share of the change that is made, 0 to 1."""

    def __init__(self, network: Denoiser, strength: float, device: str) -> None:
        self._network = network
        self._strength = strength
        self._device = device
        self._half = network.num_frames // 2
        self._around: _Around[_Seen] = _Around(Reach(self._half, self._half))

    @torch.inference_mode()
    def push(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """Take the next frame; give that which has all its neighbours now."""
        cells = cells_of(frame, self._device).contiguous(memory_format=torch.channels_last)
        with _in_bf16(self._device):
            known = self._network.encode(cells)
        for seen, at in self._around.add(_Seen(frame, cells, known)):
            yield self._made(seen, at)

    @torch.inference_mode()
    def flush(self) -> Iterator[VideoFrame]:
        """Give the frames that have no more neighbours behind them."""
        for seen, at in self._around.flush():
            yield self._made(seen, at)

    def _made(self, seen: list[_Seen], at: int) -> VideoFrame:
        frame, middle, _ = seen[at]
        window = [seen[_mirrored(at + offset, len(seen))] for offset in range(-self._half, self._half + 1)]
        made = torch.cat([self._strip(window, *rows) for rows in _strips(middle)], dim=2)
        return frame_of(middle + self._strength * (made - middle), like=frame)

    def _strip(self, window: list[_Seen], top: int, bottom: int) -> Tensor:
        """Rows of cells from top to bottom of what becomes of the frame in the middle of a window."""
        around = SEEN_AROUND // planes.CELL
        first, last = max(0, top - around), min(window[0].cells.shape[2], bottom + around)
        cells = [each.cells[:, :, first:last] for each in window]
        with _in_bf16(self._device):
            made = self._network.merge(cells, [each.known[:, :, first:last] for each in window])
        return made[:, :, top - first : bottom - first]


def _mirrored(place: int, count: int) -> int:
    """Where the neighbour is that stands in for one before the first frame or behind the last."""
    place = abs(place)
    place = 2 * (count - 1) - place if place >= count else place
    return min(max(place, 0), count - 1)


def _strips(cells: Tensor) -> Iterator[tuple[int, int]]:
    """First row of cells and the row behind the last one, of each strip."""
    rows, columns = cells.shape[2:]
    height = _MOST_ROWS // planes.CELL if rows * columns * planes.CELL**2 > _LARGE else rows
    for top in range(0, rows, height):
        yield top, min(rows, top + height)


def cells_of(frame: VideoFrame, device: str = "cpu") -> Tensor:
    """Cells (1, 24, h, w) of a frame, values 0 to 1; what is no multiple of MULTIPLE is filled with the edge.

    Bytes travel to the device, and numbers are made of them there.
    """
    height, width = (-(-side // MULTIPLE) * MULTIPLE for side in (frame.height, frame.width))
    found = [torch.from_numpy(rows_of(frame, number).copy()).to(device) for number in range(3)]
    luma = _filled(found[0][None, None], height, width)
    chroma = _filled(torch.stack(found[1:])[None], height // 2, width // 2)
    return planes.pack(luma, chroma)


def _filled(plane: Tensor, height: int, width: int) -> Tensor:
    rows, columns = plane.shape[2:]
    values = plane.float().div_(255)
    return functional.pad(values, (0, width - columns, 0, height - rows), mode="replicate")


def frame_of(cells: Tensor, *, like: VideoFrame) -> VideoFrame:
    """The frame of cells (1, 24, h, w), of the size and colours of another."""
    return frame_of_planes(*planes.unpack(cells.float()), like=like)


# --- without compression artefacts -----------------------------------------------------------------------------------


class _Luma(NamedTuple):
    frame: VideoFrame
    luma: Tensor
    """(1, 1, H, W)"""


class CleanLink:
    """Frames without compression artefacts. Args: `strength` is the share of the change that is made, 0 to 1."""

    def __init__(self, network: Cleaner, strength: float, device: str) -> None:
        self._network = network
        self._strength = strength
        self._device = device
        self._half = network.num_frames // 2
        self._around: _Around[_Luma] = _Around(Reach(self._half, self._half))

    @torch.inference_mode()
    def push(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """Take the next frame; give that which has all its neighbours now."""
        height, width = (-(-side // cleaner.MULTIPLE) * cleaner.MULTIPLE for side in (frame.height, frame.width))
        luma = torch.from_numpy(rows_of(frame, 0).copy()).to(self._device)
        for seen, at in self._around.add(_Luma(frame, _filled(luma[None, None], height, width))):
            yield self._made(seen, at)

    @torch.inference_mode()
    def flush(self) -> Iterator[VideoFrame]:
        """Give the frames that have no more neighbours behind them."""
        for seen, at in self._around.flush():
            yield self._made(seen, at)

    def _made(self, seen: list[_Luma], at: int) -> VideoFrame:
        frame, luma = seen[at]
        near = [seen[_mirrored(at + offset, len(seen))].luma for offset in range(-self._half, self._half + 1)]
        window, (height, width) = torch.cat(near, dim=1), luma.shape[2:]
        most = max(cleaner.SEEN_AROUND, _MOST_PIXELS[self._device] // width // cleaner.MULTIPLE * cleaner.MULTIPLE)
        change = torch.cat([self._strip(window, top, min(top + most, height)) for top in range(0, height, most)], dim=2)
        levels = (luma + self._strength * change).mul_(255).round_().clamp_(0, 255).to(torch.uint8)
        made = VideoFrame(frame.width, frame.height, "yuv420p")
        rows_of(made, 0)[...] = levels[0, 0, : frame.height, : frame.width].cpu().numpy()
        for number in (1, 2):
            rows_of(made, number)[...] = rows_of(frame, number)
        return tagged(made, frame)

    def _strip(self, window: Tensor, top: int, bottom: int) -> Tensor:
        """What is added to the rows from top to bottom of the frame in the middle of a window (1, T, H, W)."""
        first = max(0, top - cleaner.SEEN_AROUND)
        seen = window[:, :, first : bottom + cleaner.SEEN_AROUND]
        with _in_bf16(self._device):
            change: Tensor = self._network(seen) - seen[:, self._half : self._half + 1]
        return change[:, :, top - first : bottom - first]


# --- in better colours ----------------------------------------------------------------------------------------------


class _Held(NamedTuple):
    frame: VideoFrame
    counts: Tensor
    """(3, 256)"""
    small: Tensor
    """(3, 36, 64)"""
    shot: int


class ColourLink:
    """Frames in better colours. Args: `strength` is the share of the change that is made, 0 to 1."""

    def __init__(self, network: Levels, strength: float, shape: Shape, device: str) -> None:
        self._network = network
        self._strength = strength
        self._device = device
        rows, columns = levels.THUMBNAIL
        self._small = Conversion(shape, [("scale", f"{columns}:{rows}:flags=area"), ("format", "rgb24")])
        self._to_rgb = Conversion(shape, [("format", "rgb24")])
        rgb = shape._replace(pixel_format="rgb24", matrix=RGB_MATRIX, range=2)
        self._back = Conversion(rgb, [("format", format_of(shape.pixel_format, shape))])
        # A sample of chroma has four of luma; what is made between such samples is brighter, or darker, than all.
        share = 1 if is_rgb(shape.pixel_format) else 2
        counted = (max(1, shape.width // share), max(1, shape.height // share))
        self._counted = Conversion(shape, [("scale", f"{counted[0]}:{counted[1]}:flags=area"), ("format", "rgb24")])
        self._around: _Around[_Held] = _Around(_SHOT)
        self._last: Tensor | None = None
        self._shot = 0

    @torch.inference_mode()
    def push(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """Take the next frame; give that which has all its neighbours now."""
        small = torch.from_numpy(self._small(frame).to_ndarray()).movedim(-1, 0).float().div(255)
        if self._last is not None and float((small - self._last).abs().mean()) > _CUT:
            self._shot += 1
        self._last = small
        counts = levels.count(torch.from_numpy(self._counted(frame).to_ndarray()).movedim(-1, 0))
        for held, at in self._around.add(_Held(frame, counts, small, self._shot)):
            yield self._made(held, at)

    def flush(self) -> Iterator[VideoFrame]:
        """Give the frames that have no more neighbours behind them."""
        for held, at in self._around.flush():
            yield self._made(held, at)

    def _made(self, held: list[_Held], at: int) -> VideoFrame:
        frame = held[at].frame
        curves = self._curves([each for each in held if each.shot == held[at].shot])
        tables = levels.tables(curves * self._strength).numpy()
        if all(np.array_equal(table, np.arange(256)) for table in tables):
            return frame
        rgb = self._to_rgb(frame).to_ndarray()
        for channel, table in enumerate(tables):
            rgb[..., channel] = table[rgb[..., channel]]
        return tagged(self._back(VideoFrame.from_ndarray(rgb, format="rgb24")), frame)

    @torch.inference_mode()
    def _curves(self, shot: list[_Held]) -> Tensor:
        """(9,), of the frames of a shot."""
        counts = torch.stack([each.counts for each in shot]).mean(0, keepdim=True)
        small = torch.cat([each.small for each in shot[:: -(-len(shot) // _MOST_SMALL)]], dim=1)
        curves: Tensor = self._network(counts.to(self._device), small[None].to(self._device))
        return curves[0].cpu()
