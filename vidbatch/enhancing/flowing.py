"""Frames between two others, along how everything moves: OpenCV's DIS flow, alone or with a network upon it.

Runs in the child process; 8-bit YUV 4:2:0 in and out. What is between two frames depends on these, and with a network
on the one before and the one behind, and on nothing else. Each flow is found once: what leads from a frame to the one
before it is what the pair before had as its way back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from av.video.frame import VideoFrame
from torch import Tensor

from vidbatch.enhancing.filters import rows_of, tagged
from vidbatch.restoring import flow
from vidbatch.restoring.interpolator import Interpolator, beginning, from_cells, to_cells

_FLOWS_KEPT: Final = 6


class Known(NamedTuple):
    """What there is to know of a frame."""

    frame: VideoFrame
    luma: flow.Plane
    """Even sides: the last row and column go on."""
    cells: Tensor
    """(1, 6, h, w), 0 to 1, on the device."""


class Flowing:
    """Makes frames between others. Args: without a network, they are drawn from both along the flows."""

    def __init__(
        self, network: Interpolator | None, device: str,
        precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:  # fmt: skip
        self._network = network
        self._device = device
        self._precision = precision
        self._flows: dict[tuple[int, int], tuple[flow.Plane, flow.Plane, flow.Flows]] = {}

    def prepare(self, frame: VideoFrame) -> Known:
        """What there is to know of a frame, found once."""
        height, width = frame.height + frame.height % 2, frame.width + frame.width % 2
        luma = _even(rows_of(frame, 0), height, width)
        chroma = np.stack([rows_of(frame, number) for number in (1, 2)])
        levels = (torch.from_numpy(planes).to(self._device) for planes in (luma[None, None], chroma[None]))
        return Known(frame, luma, to_cells(*(each.float().div_(255) for each in levels)))

    @torch.inference_mode()
    def make(
        self, before: Known | None, first: Known, last: Known, after: Known | None, phases: Sequence[float]
    ) -> list[VideoFrame]:
        """The frames at some times between two: 0 would be the first, 1 the last."""
        if self._network is None:
            before = after = None  # nothing is made of what speeds up
        lumas = [None if known is None else known.luma for known in (before, first, last, after)]
        assert lumas[1] is not None
        assert lumas[2] is not None
        found = flow.between(lumas[0], lumas[1], lumas[2], lumas[3], self._flow)
        flows = torch.from_numpy(found).to(self._device)[None]
        frames = torch.stack([first.cells, last.cells], dim=1)
        cells = (self._at(frames, flows, phase).float() for phase in phases)
        return [frame_of_planes(*from_cells(each), like=first.frame) for each in cells]

    def _at(self, frames: Tensor, flows: Tensor, phase: float) -> Tensor:
        times = torch.tensor([phase], device=frames.device)
        if self._network is None:
            return beginning(frames, flows, times)
        with self._precision():
            picture: Tensor = self._network(frames, flows, times).picture
        return picture

    def _flow(self, one: flow.Plane, other: flow.Plane) -> flow.Flows:
        key = id(one), id(other)  # both are kept, so that no other plane has their places
        if key not in self._flows:
            while len(self._flows) >= _FLOWS_KEPT:
                del self._flows[next(iter(self._flows))]
            self._flows[key] = one, other, flow.one_way(one, other)
        return self._flows[key][2]


def _even(plane: npt.NDArray[Any], height: int, width: int) -> flow.Plane:
    more = (0, height - plane.shape[0]), (0, width - plane.shape[1])
    return np.ascontiguousarray(np.pad(plane, more, mode="edge") if more != ((0, 0), (0, 0)) else plane)


def frame_of_planes(luma: Tensor, chroma: Tensor, *, like: VideoFrame) -> VideoFrame:
    """The frame of luma (1, 1, H, W) and chroma (1, 2, H/2, W/2), 0 to 1, of the size and colours of another.

    What is beyond its last row and column is left out.
    """
    made = VideoFrame(like.width, like.height, "yuv420p")
    for number, plane in enumerate((luma[0, 0], chroma[0, 0], chroma[0, 1])):
        rows = rows_of(made, number)
        levels = plane[: rows.shape[0], : rows.shape[1]].mul(255).round_().clamp_(0, 255).to(torch.uint8)
        rows[...] = levels.cpu().numpy()
    return tagged(made, like)
