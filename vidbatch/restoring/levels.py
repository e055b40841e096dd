"""A small picture in, levels and gamma of each channel out: the curves that give it its colours back.

The network sees a thumbnail and, with it, how the values of each channel are spread (their cumulative histogram). Its
answer is nine numbers, so that the full picture is changed by three curves of 256 entries whatever its size:

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
NUM_CURVES: Final = 9
_MOST_BLACK: Final = 0.5
_MOST_GAMMA: Final = 1.2
"""Of its logarithm."""


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
        last = nn.Linear(64, NUM_CURVES)
        self.head = nn.Sequential(
            nn.Linear(4 * width + 3 * NUM_BINS, 128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.ReLU(),
            last,
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                start_evenly(module)
        with torch.no_grad():
            last.weight.mul_(1e-2)  # begins as hardly any change

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 9) of pictures (N, 3, H, W)."""
        seen = self.body(pictures - 0.5)
        found: Tensor = self.head(torch.cat([seen.mean((2, 3)), seen.amax((2, 3)), spread(pictures)], dim=1))
        black, white, gamma = found.chunk(3, dim=1)
        return torch.cat(
            [_MOST_BLACK * torch.tanh(black), _MOST_GAMMA * torch.tanh(white), _MOST_GAMMA * torch.tanh(gamma)], dim=1
        )


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
