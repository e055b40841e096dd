"""A picture's luma in, the same twice as high and wide out: Lanczos, and what a small network adds to it.

    luma ──> Lanczos ──────────────────────────────────────────────────────────────┐
         └─> a convolution, residual blocks, one more: four values of each pixel ──> + ──> twice the height and width

The network begins as Lanczos, to which its last layer adds nothing yet. All layers are at the scale of what goes in, of
which each pixel becomes 2 x 2 at the end (Shi et al., "Real-time single image and video super-resolution using an
efficient sub-pixel convolutional neural network", 2016). Cells of 2 x 2 pixels with more channels, as in denoiser.py,
and a U-Net gained less in the same time, of training and of use.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidbatch.restoring.planes import Residual, start_evenly

FACTOR: Final = 2
DEPTH: Final = 3
"""Residual blocks."""
SEEN_AROUND: Final = 2 * DEPTH + 3
"""What is so many pixels away from a pixel of what goes in, or more, has no influence on what it becomes."""
LOBES: Final = 3
"""Of Lanczos's window, as FFmpeg's `lanczos`."""


def lanczos(distances: Tensor) -> Tensor:
    """Lanczos's weights of samples that are so many samples away."""
    inside = torch.sinc(distances) * torch.sinc(distances / LOBES)
    return torch.where(distances.abs() < LOBES, inside, torch.zeros_like(inside))


@lru_cache(maxsize=1)
@torch.inference_mode(mode=False)  # they may be used for training later
def _phases() -> Tensor:
    """Weights (4, 1, 7, 7) of the four pixels that a pixel becomes, row by row: the middle of each is a quarter off."""
    places = torch.arange(-LOBES, LOBES + 1, dtype=torch.float64)
    rows = torch.stack([lanczos(places - shift) for shift in (-0.25, 0.25)])
    rows = rows / rows.sum(1, keepdim=True)
    return torch.einsum("ai,bj->abij", rows, rows).reshape(FACTOR**2, 1, 2 * LOBES + 1, 2 * LOBES + 1).float()


def twice(planes: Tensor) -> Tensor:
    """Planes (N, C, H, W) twice as high and wide by Lanczos, as (N, C, 2H, 2W); edges go on as they are."""
    n, channels, height, width = planes.shape
    each = planes.reshape(n * channels, 1, height, width)
    padded = functional.pad(each, (LOBES,) * 4, mode="replicate")
    phases = _phases().to(planes.device, planes.dtype)
    return functional.pixel_shuffle(functional.conv2d(padded, phases), FACTOR).reshape(
        n, channels, 2 * height, 2 * width
    )


class Upscaler(nn.Module):
    """Luma (N, 1, H, W), 0 to 1, in, luma (N, 1, 2H, 2W) out.

    Args: `width` channels of each of `depth` residual blocks.
    """

    def __init__(self, width: int = 32, depth: int = DEPTH) -> None:
        super().__init__()
        self.entry = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Residual(width) for _ in range(depth)))
        self.exit = nn.Conv2d(width, FACTOR**2, 3, padding=1)
        start_evenly(self.entry)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, luma: Tensor) -> Tensor:
        """What luma becomes; the sum with Lanczos is as precise as what goes in, autocast or not."""
        centred = (luma - 0.5).to(self.entry.weight.dtype, memory_format=torch.channels_last)
        seen = self.blocks(functional.relu(self.entry(centred), inplace=True))
        change = functional.pixel_shuffle(self.exit(seen), FACTOR)
        with torch.autocast(luma.device.type, enabled=False):
            return twice(luma) + change.to(luma.dtype)
