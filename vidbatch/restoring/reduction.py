"""Pictures in, the same half as high and wide out, as scalers reduce them: what an upscaler is trained to undo.

Reduced by exactly two, each output sample lies between two of the input, and every scaler is one symmetric row of
weights, down and across. They stretch their kernel by two, so that little aliases: FFmpeg's `bicubic` (its default) and
`lanczos`, and `area`, the mean of four pixels, which keeps more detail and aliases more.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Generator, Tensor
from torch.nn import functional

from vidbatch.restoring.upscaler import LOBES, lanczos

KERNELS: Final = ("bicubic", "area", "lanczos")
_SHARES: Final = (0.5, 0.25, 0.25)
"""How often each is chosen: most pictures are reduced by the default."""
_SHARPNESS: Final = 0.6
"""Of bicubic: FFmpeg's default. The value at the first lobe, as -a of Keys (1981)."""
_REACH: Final = 2 * LOBES
_SOFT_REACH: Final = 3


def _bicubic(distances: Tensor) -> Tensor:
    x, a = distances.abs(), -_SHARPNESS
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def weights() -> Tensor:
    """Of each of KERNELS, float32 (3, 12); they sum to 1."""
    distances = (torch.arange(2 * _REACH, dtype=torch.float64) - _REACH + 0.5) / 2
    area = (distances.abs() < 0.5).double()
    found = torch.stack([_bicubic(distances), area, lanczos(distances)])
    return (found / found.sum(1, keepdim=True)).float()


def random_kernels(n: int, generator: Generator) -> Tensor:
    """Places in KERNELS, int64 (n,)."""
    return torch.multinomial(torch.tensor(_SHARES), n, replacement=True, generator=generator)


def halved(pictures: Tensor, kernels: Tensor) -> Tensor:
    """Pictures (N, C, H, W) as (N, C, H/2, W/2), each reduced by a kernel of its own; edges go on as they are.

    Args: `kernels` are places in KERNELS, int64 (N,). What comes out is not limited to what went in.
    """
    of_each = weights().to(pictures.device, pictures.dtype)[kernels.to(pictures.device)]
    return _filtered(pictures, of_each, _REACH - 1, 2)


def softened(pictures: Tensor, sigmas: Tensor) -> Tensor:
    """Pictures (N, C, H, W), each smoothed by a Gaussian of so many pixels, about 1 at most; (N,), 0: as it is."""
    distances = torch.arange(-_SOFT_REACH, _SOFT_REACH + 1, device=pictures.device, dtype=pictures.dtype)
    sigmas = sigmas.to(pictures.device, pictures.dtype).clamp(min=0.05)
    of_each = (-0.5 * (distances / sigmas[:, None]).square()).exp()
    return _filtered(pictures, of_each / of_each.sum(1, keepdim=True), _SOFT_REACH, 1)


def _filtered(pictures: Tensor, of_each: Tensor, room: int, step: int) -> Tensor:
    """Every step-th sample, weighed with those around it, across and down. Args: weights (N, K) of each picture."""
    length = of_each.shape[1]
    padded = functional.pad(pictures, (room,) * 4, mode="replicate")
    across = torch.einsum("nchwk,nk->nchw", padded.unfold(3, length, step), of_each)
    return torch.einsum("nchwk,nk->nchw", across.unfold(2, length, step), of_each)
