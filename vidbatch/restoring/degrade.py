"""Good pictures in, spoilt ones out, of the kinds that the networks of this package learn to undo; seeded.

Values are 0 to 1, each picture or window is spoilt in its own way, and what comes out has been bytes, as in a file.
Codecs are not here: pairs of frames before and after one are made once, as videos (see `pairs` of RestoreConfig).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from vidbatch.restoring.planes import quantised

MOST_SIGMA: float = 55.0


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low


def noisy(frames: Tensor, generator: Generator) -> Tensor:
    """Windows (N, T, 3, H, W), on any device, with noise of a kind and strength of its own each, of at most MOST_SIGMA.

    Half of them have white noise of one sigma; a third that of a sensor, whose variance grows with the light (Poisson
    and Gaussian, Foi et al., 2008); the rest noise that was smoothed, as scaling and demosaicing do. One in 20 stays as
    it is: what is clean has to be left alone.
    """
    n = len(frames)
    kind = torch.rand(n, 1, 1, 1, 1, generator=generator)
    sigma = _uniform((n, 1, 1, 1, 1), 0, MOST_SIGMA, generator) / 255
    share = torch.rand(n, 1, 1, 1, 1, generator=generator)
    light = torch.where((kind >= 0.5) & (kind < 0.83), share, torch.zeros_like(share))
    sigma = torch.where(kind < 0.95, sigma, torch.zeros_like(sigma))
    is_smooth = (kind.flatten() >= 0.83).nonzero().flatten().tolist()
    sigma, light = sigma.to(frames.device), light.to(frames.device)
    deviation = sigma * (1 - light + light * 2 * frames.clamp(0, 1)).sqrt()
    if not frames.is_cpu:  # what each device makes of a seed is its own; to draw here what a GPU needs takes too long
        generator = Generator(frames.device).manual_seed(generator.initial_seed())
    noise = torch.randn(frames.shape, generator=generator, device=frames.device)
    for at in is_smooth:
        smooth = torch.nn.functional.avg_pool2d(noise[at], 3, stride=1, padding=1)
        noise[at] = 0.5 * noise[at] + 1.5 * smooth
    return quantised(frames + deviation * noise)


def exposed(pictures: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) whose darkest thousandth is black, and the brightest one of each channel white."""
    n, channels = pictures.shape[:2]
    ends = torch.tensor([0.001, 0.999], device=pictures.device)
    low, high = torch.quantile(pictures.flatten(2), ends, dim=2)
    low = low.amin(1, keepdim=True).clamp(max=0.4).expand(n, channels)
    high = high.clamp(min=0.25).maximum(low + 0.1)
    return quantised(((pictures - low[..., None, None]) / (high - low)[..., None, None]).clamp(0, 1))


class Colours(NamedTuple):
    """How colours are spoilt; N pictures."""

    cast: Tensor
    """(N, 3): what red, green and blue are multiplied by."""
    gamma: Tensor
    """(N,)"""
    contrast: Tensor
    """(N,)"""
    offset: Tensor
    """(N,): what is black after the contrast has changed."""


def random_colours(n: int, generator: Generator) -> Colours:
    """Each of cast, gamma and contrast is there or not; three pictures in ten stay as they are.

    A cast is exp(U(-0.25, 0.25)) of each channel, a gamma exp of U(0.25, 0.55) with either sign, a contrast
    U(0.5, 0.75) with an offset that keeps what is white below 1.
    """
    has = (torch.rand(3, n, generator=generator) < 0.65) & (torch.rand(n, generator=generator) >= 0.3)
    cast = torch.where(has[0][:, None], _uniform((n, 3), -0.25, 0.25, generator).exp(), torch.ones(n, 3))
    bend = _uniform((n,), 0.25, 0.55, generator) * torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    contrast = torch.where(has[2], _uniform((n,), 0.5, 0.75, generator), torch.ones(n))
    offset = (1 - contrast) * torch.rand(n, generator=generator)
    return Colours(cast, torch.where(has[1], bend.exp(), torch.ones(n)), contrast, offset)


def recoloured(pictures: Tensor, colours: Colours) -> Tensor:
    """Pictures (N, ..., 3, H, W), cast first, then bent, then flattened."""
    shape = [len(pictures), *[1] * (pictures.ndim - 1)]
    cast = colours.cast.reshape(len(pictures), *[1] * (pictures.ndim - 4), 3, 1, 1)
    bent = (pictures * cast).clamp(0, 1).pow(colours.gamma.reshape(shape))
    return quantised(bent * colours.contrast.reshape(shape) + colours.offset.reshape(shape))
