"""What the pictures of a shot are like in, levels and gamma of each channel out: the curves that give colours back.

    how often each channel has each level, exactly ──> quantiles, what is clipped ──┐
    a small picture ──> differences of channels, by brightness; of what is grey ────┴─> perceptron ──> `Curves`

    value' = ((value - black) / (white - black)) ** gamma        clipped to 0..1, for each of red, green and blue

which undoes any sequence of a cast, a gamma and a change of contrast. The network says how much of the stretching to
all 256 levels is right, how much of each channel's own stretching (white is what is brightest in every channel: Land
and McCann, "Lightness and retinex theory", 1971), and what to add to that. The ends have to be those of whole frames,
exactly: what cameras record reaches from 0 to 255, and what somebody flattened does not, by no more than it was
flattened. A picture is then changed by three curves of 256 entries, whatever its size.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from vidbatch.restoring.planes import start_evenly

THUMBNAIL: Final = (36, 64)
"""Height and width of the small picture; one of several frames has so many times the height."""
NUM_LEVELS: Final = 256
_QUANTILES: Final = (
    0, 0.0005, 0.002, 0.01, 0.03, 0.08, 0.2, 0.35, 0.5, 0.65, 0.8, 0.92, 0.97, 0.99, 0.998, 0.9995, 1,
)  # fmt: skip
_NUM_BRIGHTNESSES: Final = 6
_NUM_SEEN: Final = 6 * len(_QUANTILES) + 6 + 4 + 3 * _NUM_BRIGHTNESSES + 6
_NUM_ANSWERS: Final = 9
"""The share of the stretching, of each channel's own, three whites, black, gamma."""
_LEAST_RANGE: Final = 0.05
_FLATTENED: Final = 0.76
"""A picture whose contrast somebody took away has a smaller range than this (degrade.random_colours)."""
_GREY: Final = 0.08
"""Difference of channels of what is nearly grey."""
_FEW: Final = 0.01
"""Share of a picture below which its mean says little."""
_MOST_BLACK, _MOST_WHITE, _MOST_BENT = 0.15, 0.6, 1.2
"""What is added at most: to black, and to the logarithms of white and gamma."""
_DROPPED: Final = 0.1


class Seen(NamedTuple):
    """What is known of N pictures."""

    values: Tensor
    """(N, _NUM_SEEN), about -1 to 1."""
    low: Tensor
    """(N, 1): the least value of all channels, 0 to 1."""
    size: Tensor
    """(N, 1): from there to the greatest one."""
    own: Tensor
    """(N, 3): from there to the greatest one of each channel."""


class Levels(nn.Module):
    """What is `look`ed at in, (N, 9) out: black, log(white), log(gamma), of red, green and blue each."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        last = nn.Linear(width, _NUM_ANSWERS)
        self.body = nn.Sequential(
            nn.Linear(_NUM_SEEN, width), nn.ReLU(), nn.Dropout(_DROPPED),
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(_DROPPED), last,
        )  # fmt: skip
        for module in self.modules():
            if isinstance(module, nn.Linear):
                start_evenly(module)
        with torch.no_grad():
            last.weight.mul_(1e-2)  # begins as half of the stretching

    def forward(self, counts: Tensor, pictures: Tensor) -> Tensor:
        """(N, 9). Args: as of `look`."""
        seen = look(counts, pictures)
        share, owns, whites, black, gamma = self.body(seen.values).float().split([1, 3, 3, 1, 1], dim=1)
        share, owns = torch.sigmoid(4 * share), torch.sigmoid(4 * owns)
        white = share * torch.lerp(seen.size.log().expand_as(seen.own), seen.own.log(), owns)
        white = white + _MOST_WHITE * torch.tanh(whites)
        black = share * seen.low + _MOST_BLACK * torch.tanh(black)
        gamma = _MOST_BENT * torch.tanh(gamma)
        return torch.cat([black.expand(-1, 3), white, gamma.expand(-1, 3)], dim=1)


def count(pictures: Tensor) -> Tensor:
    """How often each channel has each level, as shares, (3, 256). Args: pictures uint8 (..., 3, H, W)."""
    channels = pictures.movedim(-3, 0).flatten(1)
    counts = torch.stack([torch.bincount(channel, minlength=NUM_LEVELS) for channel in channels])
    return counts.float() / channels.shape[1]


def look(counts: Tensor, pictures: Tensor) -> Seen:
    """What a network has to know of pictures.

    Args: `counts` (N, 3, 256) are shares of levels; small pictures are (N, 3, h, 64), 0 to 1, any number of frames one
    below the other.
    """
    shares = torch.tensor(_QUANTILES, device=counts.device).mul(1 - 2e-7).add(1e-7)
    found = torch.searchsorted(counts.cumsum(2), shares.expand(*counts.shape[:2], -1).contiguous())
    places = found.clamp(max=NUM_LEVELS - 1)
    quantiles = places / (NUM_LEVELS - 1)
    low, high = quantiles[..., 0].amin(1, keepdim=True), quantiles[..., -1].amax(1, keepdim=True)
    size = (high - low).clamp(min=_LEAST_RANGE)
    stretched = (quantiles - low[..., None]) / size[..., None]
    clipped = counts.gather(2, places[..., [0, -1]]).add(1e-4).log().mul(0.2).add(1)
    about = [3 * low, 3 * (1 - high), size.log(), (size < _FLATTENED).to(size.dtype)]
    small = ((pictures - low[..., None, None]) / size[..., None, None]).clamp(0, 1)
    among = 3 * (stretched - stretched.mean(1, keepdim=True))
    parts = [stretched - 0.5, among, clipped]
    values = torch.cat([*(part.flatten(1) for part in parts), *about, *_of_colours(small)], dim=1)
    return Seen(values, low, size, (quantiles[..., -1] - low).clamp(min=_LEAST_RANGE))


def _of_colours(pictures: Tensor) -> list[Tensor]:
    """Of pictures (N, 3, h, w): red and blue beside green, by brightness, of what is grey, of edges; (N, k) each."""
    beside = pictures[:, [0, 2]] - pictures[:, [1]]
    brightness, spread = pictures.mean(1, keepdim=True), pictures.amax(1) - pictures.amin(1)
    kind = (brightness * _NUM_BRIGHTNESSES).long().clamp(max=_NUM_BRIGHTNESSES - 1)
    found = []
    for number in range(_NUM_BRIGHTNESSES):
        is_it = (kind == number).to(pictures.dtype)
        share = is_it.mean((2, 3))
        found += [(beside * is_it).mean((2, 3)) / (share + _FEW), share]
    is_grey = torch.exp(-(spread[:, None] / _GREY).square())
    share = is_grey.mean((2, 3))
    found += [5 * (beside * is_grey).mean((2, 3)) / (share + _FEW), share, spread.mean((1, 2))[:, None]]
    edges = pictures.diff(dim=3).abs().mean((2, 3)) + 1e-3  # van de Weijer et al., "Edge-based color constancy" (2007)
    return [*found, (edges[:, [0, 2]] / edges[:, [1]]).log()]


def apply(pictures: Tensor, curves: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) of values 0 to 1, changed by what `Levels` found, (N, 9)."""
    black, white, gamma = (part[:, :, None, None] for part in curves.chunk(3, dim=1))
    stretched = ((pictures - black) / white.exp()).clamp(max=1)
    bent = stretched.clamp(min=1e-4).pow(gamma.exp())  # of 0 it has no gradient
    return torch.where(stretched > 0, bent, torch.zeros_like(bent))


def tables(curves: Tensor) -> Tensor:
    """What becomes of each of 256 levels, uint8 (3, 256), by curves (9,)."""
    levels = torch.linspace(0, 1, NUM_LEVELS).expand(1, 3, 1, NUM_LEVELS)
    return apply(levels, curves[None])[0, :, 0].mul(255).round().to(torch.uint8)
