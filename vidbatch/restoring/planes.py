"""Pictures as the networks of this package see them: YUV 4:2:0 in cells of 4 x 4 pixels, and back.

A cell is 24 values: 16 of luma and 4 of each kind of chroma, row by row, all 0 to 1. So nothing is converted or scaled
on the way from a decoder to an encoder, and a network's first layer already sees a quarter of the height and width.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidbatch.yuv import LUMA_WEIGHTS

CELL: Final = 4
"""Rows and columns of luma in a cell."""
CHANNELS: Final = 24
NUM_LUMA: Final = 16

_BT709: Final = 1
"""Key of yuv.LUMA_WEIGHTS."""


def pack(luma: Tensor, chroma: Tensor) -> Tensor:
    """Cells (N, 24, H/4, W/4) of luma (N, 1, H, W) and chroma (N, 2, H/2, W/2); sides are multiples of CELL."""
    return torch.cat([functional.pixel_unshuffle(luma, CELL), functional.pixel_unshuffle(chroma, CELL // 2)], dim=1)


def unpack(cells: Tensor) -> tuple[Tensor, Tensor]:
    """Luma (N, 1, H, W) and chroma (N, 2, H/2, W/2) of cells (N, 24, H/4, W/4)."""
    luma, chroma = cells[:, :NUM_LUMA], cells[:, NUM_LUMA:]
    return functional.pixel_shuffle(luma, CELL), functional.pixel_shuffle(chroma, CELL // 2)


def to_yuv(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Luma (N, 1, H, W) and chroma (N, 2, H/2, W/2), BT.709, limited range, of RGB (N, 3, H, W); all values 0 to 1.

    A sample of chroma is the mean of its four pixels.
    """
    red_weight, blue_weight = LUMA_WEIGHTS[_BT709]
    red, green, blue = rgb.unbind(1)
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    chroma = torch.stack([(blue - luma) / (2 * (1 - blue_weight)), (red - luma) / (2 * (1 - red_weight))], dim=1)
    halved = functional.avg_pool2d(chroma, 2)
    return (16 + 219 * luma[:, None]) / 255, (128 + 224 * halved) / 255


def quantised(values: Tensor) -> Tensor:
    """Values 0 to 1 as they are when they have been bytes."""
    return values.mul(255).round().clamp(0, 255).div(255)


def start_evenly(layer: nn.Conv2d | nn.Linear) -> None:
    """Random weights whose answers are as large as what goes in (He et al., 2015), and no bias."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Residual(nn.Module):
    """Two convolutions whose answer is added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        for layer in (self.first, self.second):
            start_evenly(layer)
        with torch.no_grad():
            self.second.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, width, H, W) in, as many out."""
        change: Tensor = self.second(functional.relu(self.first(x), inplace=True))
        return x + change
