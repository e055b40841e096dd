"""Windows of frames in; a loss and a PSNR of pictures between two of them out: what learns to interpolate.

Out of each window two frames are taken and one between them, most often neighbours, and how everything moves between
the two, and from both outwards where the window has frames there, is found in whole frames (restoring/flow.py), by as
many threads as there are windows: about 30 ms a window of 480x272, once, for what was found is kept in memory. Squares
are then cut out, mirrored and turned back in time at random, as the window's key has it.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor, nn

from vidbatch.restoring import flow, planes
from vidbatch.restoring.interpolator import CHANNELS, beginning, to_cells
from vidbatch.training.objective import Judged, autocast
from vidbatch.training.restore_config import RestoreConfig
from vidbatch.training.restoring import CHROMA_WEIGHT, Restoring, scores_of
from vidbatch.transforms import to_float
from vidbatch.windows import Ints, Keys, random_bits

_NUM_LUMA: Final = 4
"""Values of a cell that are luma."""
_NEIGHBOURS: Final = 0.6
"""Share of the windows of which a frame is made out of its neighbours; of the rest, any frame between any two."""
_LONGEST: Final = 4
"""Frames from one to the next of those that a frame is made of, at most."""
_SHARE_OF_CACHE: Final = 0.25
"""Memory that flows may take, of what decoded windows may take of a disk."""
_DRAWN_WEIGHT: Final = 0.25
"""Of the loss of what is drawn along the flows, before anything is added: so that flows are learnt, too."""


class _Sample(NamedTuple):
    """Squares of a window."""

    frames: Tensor
    """uint8 (crops, 3, crop, crop, 3): first, last, and the one between."""
    flows: Tensor
    """float32 (crops, 4, 2, crop/2, crop/2)"""
    times: Tensor
    """(crops,)"""


class Interpolating(Restoring):
    """The objective of a network that makes frames between others, on its device."""

    def __init__(self, config: RestoreConfig, device: torch.device, weights: bytes | None) -> None:
        super().__init__(config, device, weights)
        self._threads = ThreadPoolExecutor(min(config.slice_size, os.cpu_count() or 1), "flow")
        self._baselines: dict[int, tuple[float, float]] = {}
        self._flows: dict[bytes, npt.NDArray[np.float16]] = {}
        self._left_bytes = int(_SHARE_OF_CACHE * config.cache_gb * 1e9)

    def judge(self, network: nn.Module, windows: Any, videos: Ints, keys: Keys) -> Judged:  # noqa: ARG002
        """Losses and PSNR of windows, always alike; what comes of them without a network is noted once."""
        seeds = random_bits(keys, seed=0, epoch=0, purpose="judge")
        frames, flows, times, wanted = self._given(windows, seeds)
        if any(int(key) not in self._baselines for key in keys):
            blend = torch.lerp(frames[:, 0], frames[:, 1], times.view(-1, 1, 1, 1))
            found = [
                scores_of(_errors(each - wanted), len(keys)).tolist()
                for each in (beginning(frames, flows, times), blend)
            ]
            self._baselines |= {int(key): pair for key, pair in zip(keys, zip(*found, strict=True), strict=True)}
        return self._between(network, frames, flows, times, wanted, len(windows))

    def save(self, url: str, network: nn.Module, numbers: dict[str, Any]) -> None:
        """Write the folder that `enhance` takes; with what the first worker's validation windows come to without it."""
        if self._baselines:
            flowing, blended = np.mean(list(self._baselines.values()), axis=0)
            numbers = {**numbers, "validation_psnr_of_dis": float(flowing), "validation_psnr_of_blend": float(blended)}
        super().save(url, network, numbers)

    def _judged(self, network: nn.Module, windows: Any, seeds: Keys) -> Judged:
        return self._between(network, *self._given(windows, seeds), len(windows))

    def _between(
        self, network: nn.Module, frames: Tensor, flows: Tensor, times: Tensor, wanted: Tensor, n: int
    ) -> Judged:
        with autocast(self._device, self._config.precision):
            made = network(frames, flows, times)
        weights = torch.ones(CHANNELS, device=self._device)
        weights[_NUM_LUMA:] = CHROMA_WEIGHT
        weights = weights[:, None, None] / weights.mean()
        losses = self._losses(made.picture - wanted, weights) + _DRAWN_WEIGHT * self._losses(
            made.drawn - wanted, weights
        )
        scores = scores_of(_errors(made.picture.detach().clamp(0, 1) - wanted), n)
        return Judged(losses.view(n, -1).mean(1), scores)

    def _given(self, windows: Any, seeds: Keys) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cells of two frames (N, 2, 6, h, w), flows, times, and cells of what is between; on the device."""
        parts = zip(*self._threads.map(self._sample, windows["frames"], seeds), strict=True)
        seen, flows, times = (torch.cat(part).to(self._device, non_blocking=True) for part in parts)
        luma, chroma = planes.to_yuv(to_float(seen).flatten(0, 1))
        cells = to_cells(*map(planes.quantised, (luma, chroma)))
        cells = cells.reshape(len(seen), 3, *cells.shape[1:])
        return cells[:, :2], flows, times, cells[:, 2]

    def _sample(self, window: Any, seed: np.uint64) -> _Sample:
        config = self._config
        generator = Generator().manual_seed(int(seed) % 2**63)
        first, middle, last = _places(len(window), torch.rand(4, generator=generator).tolist())
        frames = np.ascontiguousarray(window[[first, last, middle]])
        gap, one, other = last - first, _luma(frames[0]), _luma(frames[1])
        before = _luma(window[first - gap]) if first >= gap else None
        after = _luma(window[last + gap]) if last + gap < len(window) else None
        whole = torch.from_numpy(self._flows_of(before, one, other, after))
        pictures = torch.from_numpy(frames)
        height, width = pictures.shape[1:3]
        squares = []
        for _ in range(config.crops_per_window):
            numbers = torch.rand(6, generator=generator).tolist()
            top = int(numbers[0] * (height - config.crop + 1)) // 2 * 2
            left = int(numbers[1] * (width - config.crop + 1)) // 2 * 2
            square = pictures[:, top : top + config.crop, left : left + config.crop]
            half = config.crop // 2
            flows = whole[..., top // 2 : top // 2 + half, left // 2 : left // 2 + half]
            time = (middle - first) / (last - first)
            squares.append(_turned(square, flows, time, [number < 0.5 for number in numbers[2:]]))
        found = zip(*squares, strict=True)
        return _Sample(*(torch.stack(part) for part in found))

    def _flows_of(
        self, before: flow.Plane | None, first: flow.Plane, last: flow.Plane, after: flow.Plane | None
    ) -> flow.Flows:
        """flow.between, to half precision, found once for each pair."""
        parts = b"".join(b"-" if plane is None else plane.tobytes() for plane in (before, first, last, after))
        key = hashlib.blake2b(parts, digest_size=16).digest()
        found = self._flows.get(key)
        if found is None:
            found = flow.between(before, first, last, after).astype(np.float16)
            if found.nbytes <= self._left_bytes:
                self._left_bytes -= found.nbytes
                self._flows[key] = found
        return found.astype(np.float32)


def _places(length: int, numbers: list[float]) -> tuple[int, int, int]:
    """First, middle and last of the frames of a window that are used."""
    if numbers[0] < _NEIGHBOURS:
        gap, spare = 2, (length - 7) // 2  # with a frame before and one after, if there is room
        first = 2 + int(numbers[2] * (2 * spare + 1)) if spare >= 0 else int(numbers[2] * (length - 2))
    else:
        gap = 2 + int(numbers[1] * (min(_LONGEST, length - 1) - 1))
        first = int(numbers[2] * (length - gap))
    return first, first + 1 + int(numbers[3] * (gap - 1)), first + gap


def _turned(frames: Tensor, flows: Tensor, time: float, does: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """A sample mirrored from left to right, from top to bottom, at its diagonal, in time."""
    for dim, component, is_done in ((2, 0, does[0]), (1, 1, does[1])):
        if is_done:
            frames, flows = frames.flip(dim), flows.flip(dim + 1)
            sign = torch.ones(2)
            sign[component] = -1
            flows = flows * sign.view(2, 1, 1)
    if does[2]:
        frames, flows = frames.transpose(1, 2), flows.transpose(-1, -2).flip(1)
    if does[3]:
        frames, flows, time = frames[[1, 0, 2]], flows[[1, 0, 3, 2]], 1 - time
    return frames, flows, torch.tensor(time)


def _luma(frame: Any) -> Any:
    """uint8 (H, W) of RGB, near enough for its flow."""
    red, green, blue = (frame[..., channel].astype(np.uint16) for channel in range(3))
    return ((54 * red + 183 * green + 19 * blue) >> 8).astype(np.uint8)


def _errors(differences: Tensor) -> Tensor:
    """Mean squared error of the luma of each square."""
    return differences[:, :_NUM_LUMA].square().mean((1, 2, 3))
