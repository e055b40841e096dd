"""Frames around one in, that one without noise or compression artefacts out.

    frames ──> weights of each neighbour, value by value ──> their weighted mean ─────────────────────────────┐
           └─> coefficients of the mean (linear) x gates, which a U-Net over three scales finds ──> a guess ──┴─> blend

The answer is a blend, value by value, of the mean and of a guess, which begins as a smooth picture: detail does not
have to pass through the U-Net, which only has to know where there is some. Neighbours are weighed by how much smoothed
differences to the middle frame stand out of what is seen within it. Both are after Maggioni et al., "Efficient
multi-stage video denoising with recurrent spatio-temporal fusion" (2021); gates on coefficients are the shrinkage of
transforms (Donoho and Johnstone, 1994), learnt. Nothing is aligned and no level of noise is given: it has to see for
itself. Cells of 4 x 4 pixels are its pixels (planes.py), after FFDNet (Zhang et al., 2018): most work is done at a
quarter of the height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidbatch.restoring.planes import CHANNELS, NUM_LUMA, start_evenly

MULTIPLE: Final = 16
"""Height and width of what goes in are multiples of so many pixels: a cell, halved twice."""
SEEN_AROUND: Final = 128
"""What is so many pixels away from a pixel, or more, has no influence on it; a multiple of MULTIPLE.

Convolutions of 3 x 3: four at 16 pixels, four at 8, and six at 4 make 120."""

_NUM_COMPARED: Final = 8
"""Values by which a cell is compared with the same cell of another frame."""
_NUM_COEFFICIENTS: Final = 48
_ROWS_AT_ONCE: Final = 32
"""Of cells, where frames are averaged: what stays in a CPU's cache takes half as long."""


class _Residual(nn.Module):
    """Two convolutions whose answer is added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.second(functional.relu(self.first(x)))
        return x + change


class Denoiser(nn.Module):
    """Cells (N, T, 24, h, w) of T frames in, cells (N, 24, h, w) of the middle one out, h and w multiples of 4.

    Args: `widths` are the channels at a quarter, an eighth and a sixteenth of the height and width.
    """

    def __init__(self, num_frames: int = 5, widths: Sequence[int] = (32, 64, 96)) -> None:
        super().__init__()
        self.num_frames = num_frames
        one, two, three = widths
        self.compared = nn.Conv2d(CHANNELS, 2 * _NUM_COMPARED, 3, padding=1, bias=False)
        self.differing = nn.Conv2d(2 * _NUM_COMPARED, 16, 3, padding=1)
        self.weighing = nn.Conv2d(16, CHANNELS, 1)
        self.analysis = nn.Conv2d(CHANNELS, _NUM_COEFFICIENTS, 3, padding=1)
        self.entry = nn.Conv2d(_NUM_COEFFICIENTS + CHANNELS, one, 1)
        self.down_two = nn.Conv2d(one, two, 2, stride=2)
        self.two = _Residual(two)
        self.down_three = nn.Conv2d(two, three, 2, stride=2)
        self.three = nn.Sequential(_Residual(three), _Residual(three))
        self.up_two = nn.Conv2d(three, 4 * two, 1)
        self.two_again = _Residual(two)
        self.up_one = nn.Conv2d(two, 4 * one, 1)
        self.one = _Residual(one)
        self.gate = nn.Conv2d(one, _NUM_COEFFICIENTS, 1)
        self.guess = nn.Conv2d(_NUM_COEFFICIENTS + one, CHANNELS, 3, padding=1)
        self.keep = nn.Conv2d(one, CHANNELS, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                start_evenly(module)
            if isinstance(module, _Residual):  # begins as no change
                nn.init.zeros_(module.second.weight)
        with torch.no_grad():  # what is seen nearby leads in the beginning: noise is there
            self.up_two.weight.mul_(0.1)
            self.up_one.weight.mul_(0.1)
            self.guess.weight.mul_(0.05)  # a random answer at the beginning is unlearnt by letting all features die
        nn.init.zeros_(self.weighing.weight)
        nn.init.zeros_(self.keep.weight)

    def encode(self, cells: Tensor) -> Tensor:
        """What frames (N, 24, h, w) are compared by, each by itself: (N, 16, h, w)."""
        known: Tensor = self.compared(cells - 0.5)
        return known

    def average(self, frames: Sequence[Tensor], known: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The middle frame averaged with what agrees with it in the others, and the sum of the others' weights.

        Args: cells (N, 24, h, w) of the T frames, and what `encode` made of them. Returns two like the cells.
        """
        half = self.num_frames // 2
        own, level = known[half].tensor_split([_NUM_COMPARED], dim=1)
        level = level.abs()
        total, weights = frames[half], torch.zeros_like(frames[half])
        for place, (frame, other) in enumerate(zip(frames, known, strict=True)):
            if place == half:
                continue
            difference = (other[:, :_NUM_COMPARED] - own).abs()
            seen = functional.relu(self.differing(torch.cat([difference, level], dim=1)))
            weight = torch.sigmoid(self.weighing(seen))
            total = total + weight * frame
            weights = weights + weight
        return total / (1 + weights), weights

    def merge(self, frames: Sequence[Tensor], known: Sequence[Tensor]) -> Tensor:
        """Cells of the middle frame (N, 24, h, w). Args: as of `average`."""
        mean, weights = self._average_by_rows(frames, known)
        coefficients = self.analysis(mean - 0.5)
        one = self.entry(torch.cat([coefficients, weights], dim=1))
        two = self.two(functional.relu(self.down_two(functional.relu(one))))
        three = self.three(functional.relu(self.down_three(two)))
        two = self.two_again(two + functional.pixel_shuffle(self.up_two(three), 2))
        one = functional.relu(self.one(one + functional.pixel_shuffle(self.up_one(two), 2)))
        gated = coefficients * torch.sigmoid(self.gate(one))
        guess = _smooth(mean) + self.guess(torch.cat([gated, one], dim=1))
        return torch.lerp(guess, mean, torch.sigmoid(self.keep(one)).to(mean.dtype))

    def forward(self, cells: Tensor) -> Tensor:
        """The middle frame's cells (N, 24, h, w) of those of T frames (N, T, 24, h, w)."""
        known = self.encode(cells.flatten(0, 1))
        known = known.reshape(*cells.shape[:2], *known.shape[1:])
        return self.merge(cells.unbind(1), known.unbind(1))

    def _average_by_rows(self, frames: Sequence[Tensor], known: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """`average`, some rows after the others; one row around them is looked at."""
        num_rows = frames[0].shape[2]
        at_once = _ROWS_AT_ONCE if frames[0].is_cpu else num_rows
        found = []
        for top in range(0, num_rows, at_once):
            first, last = max(0, top - 1), min(num_rows, top + at_once + 1)
            part = self.average([each[:, :, first:last] for each in frames], [each[:, :, first:last] for each in known])
            found.append([each[:, :, top - first : top - first + at_once] for each in part])
        mean, weights = (torch.cat(parts, dim=2) for parts in zip(*found, strict=True))
        return mean, weights


def _smooth(cells: Tensor) -> Tensor:
    """Cells (N, 24, h, w) of which each luma and each kind of chroma is the mean over 3 x 3 cells."""
    parts = cells.tensor_split([NUM_LUMA, (NUM_LUMA + CHANNELS) // 2], dim=1)
    means = torch.cat([part.mean(1, keepdim=True) for part in parts], dim=1)
    around = functional.avg_pool2d(means, 3, stride=1, padding=1, count_include_pad=False)
    return torch.cat([around[:, k : k + 1].expand_as(part) for k, part in enumerate(parts)], dim=1)
