"""A small picture in, levels and gamma of each channel out: the curves that give it its colours back.

The network sees a thumbnail, stretched so that its values reach from 0 to 1, and how those of each channel are spread
(their cumulative histogram). What it answers is how much of that stretching is right, and what a camera has done to
the light: the same black and gamma for all channels, and a white of each. The full picture is then changed by three
curves of 256 entries, whatever its size:

    value' = ((value - black) / (white - black)) ** gamma        clipped to 0..1, for each of red, green and blue

which undoes any sequence of a cast, a gamma and a change of contrast. The idea of a network that looks at a small
picture and predicts curves or tables for the large one is that of Zeng et al., "Learning image-adaptive 3D lookup
tables" (2020). `Curves` are averaged over neighbouring frames before they are applied (enhancing/networked.py).
"""

from __future__ import annotations

import itertools
from typing import Final

import torch
from torch import Tensor, nn

from vidbatch.restoring.planes import start_evenly

THUMBNAIL: Final = (72, 128)
"""Height and width of what the network sees."""
NUM_BINS: Final = 32
_NUM_ANSWERS: Final = 6
"""The share of the stretching, black, three whites, gamma."""
_ENDS: Final = (0.003, 0.997)
"""Quantiles of all values that a stretched picture has at 0 and 1."""
_LEAST_RANGE: Final = 0.1
_FLATTENED: Final = 0.76
"""A picture whose contrast somebody took away has a smaller range than this (degrade.random_colours)."""
_MOST_BLACK: Final = 0.2
_MOST_BENT: Final = 1.2
"""Of the logarithms of white and gamma."""


class Levels(nn.Module):
    """Pictures (N, 3, 72, 128) of values 0 to 1 in, (N, 9) out: black, log(white), log(gamma), three of each."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        sizes = [3, width // 2, width, 2 * width, 2 * width]
        self.body = nn.Sequential(
            *(
                layer
                for n_in, n_out in itertools.pairwise(sizes)
                for layer in (nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.ReLU())
            )
        )
        last = nn.Linear(64, _NUM_ANSWERS)
        self.head = nn.Sequential(
            nn.Linear(4 * width + 3 * NUM_BINS + 4, 128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.ReLU(),
            last,
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                start_evenly(module)
        with torch.no_grad():
            last.weight.mul_(1e-2)  # begins as half of the stretching

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 9) of pictures (N, 3, H, W)."""
        ends = torch.tensor(_ENDS, device=pictures.device)
        low, high = torch.quantile(pictures.float().flatten(1), ends, dim=1)[..., None].to(pictures.dtype)
        size = (high - low).clamp(min=_LEAST_RANGE)
        stretched = ((pictures - low[..., None, None]) / size[..., None, None]).clamp(0, 1)
        seen = self.body(stretched - 0.5)
        about = [3 * low, 3 * (1 - high), size.log(), (size < _FLATTENED).to(size.dtype)]
        found = self.head(torch.cat([seen.mean((2, 3)), seen.amax((2, 3)), spread(stretched), *about], dim=1))
        share, black, white, gamma = found.split([1, 1, 3, 1], dim=1)
        share = torch.sigmoid(4 * share)
        black = share * low + _MOST_BLACK * torch.tanh(black)
        white = share * size.log() + _MOST_BENT * torch.tanh(white)
        gamma = _MOST_BENT * torch.tanh(gamma)
        return torch.cat([black.expand(-1, 3), white, gamma.expand(-1, 3)], dim=1)


def spread(pictures: Tensor) -> Tensor:
    """The share of each channel's values below k / 32, k from 1 to 32: (N, 96) of pictures (N, 3, H, W)."""
    n, channels = pictures.shape[:2]
    values = pictures.flatten(2)
    bins = (values * NUM_BINS).long().clamp_(0, NUM_BINS - 1)
    counts = values.new_zeros(n, channels, NUM_BINS).scatter_add_(2, bins, torch.ones_like(values))
    return (counts.cumsum(2) / values.shape[2]).flatten(1) - 0.5


def apply(pictures: Tensor, curves: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) of values 0 to 1, changed by what `Levels` found, (N, 9)."""
    black, white, gamma = (part[:, :, None, None] for part in curves.chunk(3, dim=1))
    stretched = ((pictures - black) / white.exp()).clamp(max=1)
    bent = stretched.clamp(min=1e-4).pow(gamma.exp())  # of 0 it has no gradient
    return torch.where(stretched > 0, bent, torch.zeros_like(bent))


def tables(curves: Tensor) -> Tensor:
    """What becomes of each of 256 levels, uint8 (3, 256), by curves (9,)."""
    levels = torch.linspace(0, 1, 256).expand(1, 3, 1, 256)
    return apply(levels, curves[None])[0, :, 0].mul(255).round().to(torch.uint8)
