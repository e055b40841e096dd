"""Frames around one in, that one without noise out.

    frames ──> weights of each neighbour, value by value ──> their weighted mean ─────────────────────────────┐
           └─> coefficients of the mean (linear) x gates, which a U-Net over three scales finds ──> a guess ──┴─> blend
           └─> variances, as logarithms ──> U-Net and blend

The answer is a blend, value by value, of the mean and of a guess, which begins as a smooth picture: detail does not
have to pass through the U-Net, which only has to know where there is some. Neighbours are weighed by how much smoothed
differences to the middle frame stand out of what is seen within it. Both are after Maggioni et al., "Efficient
multi-stage video denoising with recurrent spatio-temporal fusion" (2021); gates on coefficients are the shrinkage of
transforms (Donoho and Johnstone, 1994), learnt. Nothing is aligned and no level of noise is given: it has to see for
itself, which is easier with variances in time and space before its eyes (a decibel after the same few steps). Cells of
4 x 4 pixels are its pixels (planes.py), after FFDNet (Zhang et al., 2018): most work is done at a quarter of the height
and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

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
_NUM_VARIANCES: Final = 8
_LEAST_VARIANCE: Final = 1e-6
"""What a quarter of a level makes, with values of 0 to 1."""
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


class _Pointwise(nn.Conv2d):
    """A convolution of 1 x 1, as a product of matrices where that is faster: on one CPU, with values side by side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cpu or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        return functional.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class _Averaged(NamedTuple):
    """What is known of the middle frame before the U-Net; each is (N, C, h, w)."""

    mean: Tensor
    """Of what agrees; C is 24."""
    weights: Tensor
    """The sum of the others' weights; C is 24."""
    moving: Tensor
    """Variances to the next frame or the last one, whichever is less; of luma and chroma."""
    level: Tensor
    """The mean of a cell's luma and of each of its chroma."""
    texture: Tensor
    """Variances within a cell, of luma and chroma."""


class Denoiser(nn.Module):
    """Cells (N, T, 24, h, w) of T frames in, cells (N, 24, h, w) of the middle one out, h and w multiples of 4.

    Args: `widths` are the channels at a quarter, an eighth and a sixteenth of the height and width.
    """

    def __init__(self, num_frames: int = 5, widths: Sequence[int] = (32, 48, 96)) -> None:
        super().__init__()
        self.num_frames = num_frames
        one, two, three = widths
        self.compared = nn.Conv2d(CHANNELS, 2 * _NUM_COMPARED, 3, padding=1, bias=False)
        self.differing = nn.Conv2d(2 * _NUM_COMPARED, 16, 3, padding=1)
        self.weighing = _Pointwise(16, CHANNELS)
        self.analysis = nn.Conv2d(CHANNELS, _NUM_COEFFICIENTS, 3, padding=1)
        self.entry = _Pointwise(_NUM_COEFFICIENTS + CHANNELS + _NUM_VARIANCES, one)
        self.down_two = nn.Conv2d(one, two, 2, stride=2)
        self.two = _Residual(two)
        self.down_three = nn.Conv2d(two, three, 2, stride=2)
        self.three = nn.Sequential(_Residual(three), _Residual(three))
        self.up_two = _Pointwise(three, 4 * two)
        self.two_again = _Residual(two)
        self.up_one = _Pointwise(two, 4 * one)
        self.one = _Residual(one)
        self.gate = _Pointwise(one, _NUM_COEFFICIENTS)
        self.guess = nn.Conv2d(_NUM_COEFFICIENTS + one, CHANNELS, 3, padding=1)
        self.judge = _Pointwise(one + _NUM_VARIANCES, 16)
        self.keep = _Pointwise(16, CHANNELS)
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

    def average(self, frames: Sequence[Tensor], known: Sequence[Tensor]) -> _Averaged:
        """The middle frame averaged with what agrees with it in the others.

        Args: cells (N, 24, h, w) of the T frames, and what `encode` made of them.
        """
        half = self.num_frames // 2
        own, level = known[half].tensor_split([_NUM_COMPARED], dim=1)
        of_difference, of_level = self.differing.weight.tensor_split([_NUM_COMPARED], dim=1)
        within = functional.conv2d(level.abs(), of_level, self.differing.bias, padding=1)
        total, weights = frames[half], torch.zeros_like(frames[half])
        moving = []
        for place, (frame, other) in enumerate(zip(frames, known, strict=True)):
            if place == half:
                continue
            difference = (other[:, :_NUM_COMPARED] - own).abs()
            seen = functional.relu(functional.conv2d(difference, of_difference, padding=1) + within)
            weight = torch.sigmoid(self.weighing(seen))
            total = torch.addcmul(total, weight, frame)
            weights = weights + weight
            if abs(place - half) == 1:
                moving.append(_pooled(_of_kinds((frame - frames[half]).float().square())))
        mean = total / (1 + weights)
        least = torch.stack(moving).amin(0) if moving else torch.zeros_like(mean[:, :2]).float()
        level, texture = _levels_of(mean.float())
        return _Averaged(mean, weights, least, level, texture)

    def merge(self, frames: Sequence[Tensor], known: Sequence[Tensor]) -> Tensor:
        """Cells of the middle frame (N, 24, h, w). Args: as of `average`."""
        found = self._average_by_rows(frames, known)
        mean, smooth = found.mean, _pooled(found.level)
        variances = _variances(found, smooth).to(mean.dtype)
        coefficients = self.analysis(mean - 0.5)
        one = self.entry(torch.cat([coefficients, found.weights, variances], dim=1))
        two = self.two(functional.relu(self.down_two(functional.relu(one))))
        three = self.three(functional.relu(self.down_three(two)))
        two = self.two_again(two + functional.pixel_shuffle(self.up_two(three), 2))
        one = functional.relu(self.one(one + functional.pixel_shuffle(self.up_one(two), 2)))
        gated = coefficients * torch.sigmoid(self.gate(one))
        guess = self.guess(torch.cat([gated, one], dim=1)) + smooth.to(mean.dtype)[:, _PART_OF_VALUE]
        kept = self.keep(functional.relu(self.judge(torch.cat([one, variances], dim=1))))
        return torch.lerp(guess, mean, torch.sigmoid(kept).to(mean.dtype))

    def forward(self, cells: Tensor) -> Tensor:
        """The middle frame's cells (N, 24, h, w) of those of T frames (N, T, 24, h, w)."""
        known = self.encode(cells.flatten(0, 1))
        known = known.reshape(*cells.shape[:2], *known.shape[1:])
        return self.merge(cells.unbind(1), known.unbind(1))

    def _average_by_rows(self, frames: Sequence[Tensor], known: Sequence[Tensor]) -> _Averaged:
        """`average`, some rows after the others; one row around them is looked at."""
        num_rows = frames[0].shape[2]
        at_once = _ROWS_AT_ONCE if frames[0].is_cpu else num_rows
        found = []
        for top in range(0, num_rows, at_once):
            first, last = max(0, top - 1), min(num_rows, top + at_once + 1)
            part = self.average([each[:, :, first:last] for each in frames], [each[:, :, first:last] for each in known])
            found.append([each[:, :, top - first : top - first + at_once] for each in part])
        return _Averaged(*(torch.cat(parts, dim=2) for parts in zip(*found, strict=True)))


_NUM_CHROMA: Final = (CHANNELS - NUM_LUMA) // 2
_PART_OF_VALUE: Final = [0] * NUM_LUMA + [1] * _NUM_CHROMA + [2] * _NUM_CHROMA
"""Of each value of a cell: luma, or which chroma it is."""


def _of_kinds(cells: Tensor) -> Tensor:
    """Means over luma and over all chroma, (N, 2, h, w)."""
    return torch.stack([cells[:, :NUM_LUMA].mean(1), cells[:, NUM_LUMA:].mean(1)], dim=1)


def _levels_of(cells: Tensor) -> tuple[Tensor, Tensor]:
    """Means of luma and each chroma (N, 3, h, w) of cells, and the variances of luma and chroma around them."""
    parts = cells.tensor_split([NUM_LUMA, NUM_LUMA + _NUM_CHROMA], dim=1)
    means = torch.stack([part.mean(1) for part in parts], dim=1)
    return means, _of_kinds((cells - means[:, _PART_OF_VALUE]).square())


def _pooled(values: Tensor) -> Tensor:
    """Means over 3 x 3 cells, of those that there are."""
    return functional.avg_pool2d(values, 3, stride=1, padding=1, count_include_pad=False)


def _variances(seen: _Averaged, smooth: Tensor) -> Tensor:
    """Logarithms of variances (N, 8, h, w) in time, within cells, and of cells; luma and chroma of each, about 0 to 1.

    Args: `smooth` is the pooled level (N, 3, h, w).
    """
    among = (_pooled(seen.level.square()) - smooth.square()).clamp(min=0)
    among = torch.stack([among[:, 0], among[:, 1] + among[:, 2]], dim=1)
    values = torch.cat([seen.moving, seen.texture, _pooled(seen.texture), among], dim=1)
    found = (values + _LEAST_VARIANCE).log().mul(0.2).add(1.2)
    return found.contiguous(memory_format=torch.channels_last)  # as the cells are: 1 x 1 is faster then
