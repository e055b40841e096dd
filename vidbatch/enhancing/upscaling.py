"""Frames through an upscaler of vidbatch.restoring: planar YUV of any depth in, the same twice as wide and high out.

Runs in the child process, as a link of chain.Chain. The network makes luma, where detail is seen; chroma is as Lanczos
makes it. Each frame is made by itself, large ones in strips, which bounds memory; a strip's surroundings are as large
as what the network sees of them, so that no strip shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from av.video.frame import VideoFrame

from vidbatch.enhancing.filters import METHODS, FilterLink, Shape, depth_of, tagged
from vidbatch.restoring.upscaler import FACTOR, SEEN_AROUND, Upscaler

_MOST_PIXELS: Final = {"cpu": 2**18, "cuda": 2**21}
"""Of a strip of what goes in, on each device; a strip has at least as many rows as the network sees around it."""


class UpscaleLink:
    """Frames of a shape, twice as wide and high."""

    def __init__(self, network: Upscaler, shape: Shape, device: str) -> None:
        self._network = network
        self._device = device
        self._lanczos = FilterLink(shape, [(METHODS["upscale"]["lanczos"], 1.0)])
        bits = depth_of(shape.pixel_format)
        self._greatest = 2**bits - 1
        self._one = 255.0 * 2 ** (bits - 8)
        """The level that is 1 to the network, which has learnt of 8 bits."""

    @torch.inference_mode()
    def push(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """The larger frame."""
        (made,) = self._lanczos.push(frame)
        luma, larger = _luma(frame), _luma(made)
        for top, bottom in strips(len(luma), luma.shape[1], _MOST_PIXELS[self._device]):
            larger[FACTOR * top : FACTOR * bottom] = self._strip(luma, top, bottom)
        yield tagged(made, frame)

    def flush(self) -> Iterator[VideoFrame]:
        """Nothing: no frame waits for another."""
        yield from ()

    def _strip(self, luma: npt.NDArray[Any], top: int, bottom: int) -> npt.NDArray[Any]:
        """What becomes of the rows from top to bottom: levels (2 * rows, 2 * width)."""
        first, last = max(0, top - SEEN_AROUND), min(len(luma), bottom + SEEN_AROUND)
        seen = torch.from_numpy(luma[first:last].astype(np.float32)).to(self._device).div_(self._one)[None, None]
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # whatever the network is, Lanczos is exact
            made = self._network(seen)[0, 0, FACTOR * (top - first) : FACTOR * (bottom - first)]
        levels: npt.NDArray[Any] = made.mul(self._one).round_().clamp_(0, self._greatest).cpu().numpy()
        return levels


def strips(height: int, width: int, most_pixels: int) -> Iterator[tuple[int, int]]:
    """First row and the row behind the last one, of strips of the same height but for the last."""
    rows = max(SEEN_AROUND, most_pixels // width)
    for top in range(0, height, rows):
        yield top, min(height, top + rows)


def _luma(frame: VideoFrame) -> npt.NDArray[Any]:
    """Luma as uint8 or uint16 (height, width), not a copy."""
    plane = frame.planes[0]
    kind = np.uint8 if depth_of(frame.format.name) == 8 else np.dtype("<u2")
    rows: npt.NDArray[Any] = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)
    return rows[:, : plane.width]
