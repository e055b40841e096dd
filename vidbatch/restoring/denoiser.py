"""A frame and those around it in, the frame without noise or compression artefacts out.

Each frame is encoded once, by itself; what is known of the neighbours is let through where it agrees with the frame in
the middle, then a U-Net over three scales says what to take away. Cells of 4 x 4 pixels are its pixels (planes.py), so
that most of the work is done at a quarter of the height and width. After FastDVDnet (Tassano et al., 2020), of which
it keeps that motion is left to the network and nothing is aligned, and FFDNet (Zhang et al., 2018), whose cells these
are; no level of noise is given: it has to see that for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidbatch.restoring.planes import CHANNELS, start_evenly

MULTIPLE: Final = 16
"""Height and width of what goes in are multiples of so many pixels: a cell, halved twice."""
SEEN_AROUND: Final = 128
"""What is so many pixels away from a pixel, or more, has no influence on it; a multiple of MULTIPLE.

Convolutions of 3 x 3: four at 16 pixels, four at 8, and three at 4 make 108."""


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
        self.encoder = nn.Conv2d(CHANNELS, one, 3, padding=1)
        self.agreement = nn.Parameter(torch.ones(num_frames - 1, one, 1, 1))
        self.merging = nn.Conv2d(num_frames * one, one, 1)
        self.down_two = nn.Conv2d(one, two, 2, stride=2)
        self.two = _Residual(two)
        self.down_three = nn.Conv2d(two, three, 2, stride=2)
        self.three = nn.Sequential(_Residual(three), _Residual(three))
        self.up_two = nn.Conv2d(three, 4 * two, 1)
        self.two_again = _Residual(two)
        self.up_one = nn.Conv2d(two, 4 * one, 1)
        self.one = _Residual(one)
        self.last = nn.Conv2d(one, CHANNELS, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                start_evenly(module)
            if isinstance(module, _Residual):  # begins as no change
                nn.init.zeros_(module.second.weight)
        with torch.no_grad():  # what is seen nearby leads in the beginning: noise is there
            self.up_two.weight.mul_(0.1)
            self.up_one.weight.mul_(0.1)
        nn.init.zeros_(self.last.weight)  # a random change at the beginning is unlearnt by letting all features die

    def encode(self, cells: Tensor) -> Tensor:
        """What is known of frames (N, 24, h, w), each by itself."""
        known: Tensor = self.encoder(cells - 0.5)
        return known

    def merge(self, known: Sequence[Tensor], middle: Tensor) -> Tensor:
        """Cells of the middle frame. Args: what `encode` made of the T frames; the middle one's cells (N, 24, h, w)."""
        half = self.num_frames // 2
        own = known[half]
        others = [*known[:half], *known[half + 1 :]]
        agreeing = [
            other * torch.exp(-(sharpness.abs() * (other - own).abs()))
            for other, sharpness in zip(others, self.agreement, strict=True)
        ]
        one = self.merging(torch.cat([own, *agreeing], dim=1))  # linear: an average of frames passes as it is
        two = self.two(functional.relu(self.down_two(functional.relu(one))))
        three = self.three(functional.relu(self.down_three(two)))
        two = self.two_again(two + functional.pixel_shuffle(self.up_two(three), 2))
        one = self.one(one + functional.pixel_shuffle(self.up_one(two), 2))
        change: Tensor = self.last(one)
        return middle + change

    def forward(self, cells: Tensor) -> Tensor:
        """The middle frame's cells (N, 24, h, w) of those of T frames (N, T, 24, h, w)."""
        known = self.encode(cells.flatten(0, 1))
        known = known.reshape(*cells.shape[:2], *known.shape[1:])
        return self.merge(known.unbind(1), cells[:, self.num_frames // 2])
