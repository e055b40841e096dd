"""Windows of uint8 frames in; the float images and features that a network takes out, on the frames' device.

Shared by training, labelling and enhancing, so that they cannot differ. Layouts: N windows of T frames, C channels, H
rows, W columns; frames are uint8 RGB as the decoder gives them, images float32. A single frame is a window of T = 1.
Borders: the median repeats the outermost pixels, Gaussian and Sobel mirror about them (OpenCV's defaults,
BORDER_REPLICATE and BORDER_REFLECT_101; SciPy's "nearest" and "mirror").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidbatch.input_spec import Channel, Feature, InputSpec

LUMA: Final = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601), as in OpenCV's and Pillow's grey."""

GAUSSIAN_TRUNCATE: Final = 4.0
"""A Gaussian's kernel ends at so many sigmas, as SciPy's does."""

# The 19 comparisons after which the middle of 9 values is at place 4 (Paeth, Graphics Gems, 1990).
_MEDIAN_OF_9: Final = (
    (1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3), (5, 8), (4, 7), (3, 6), (1, 4),
    (2, 5), (4, 7), (4, 2), (6, 4), (4, 2),
)  # fmt: skip


class Inputs(NamedTuple):
    """What enters a network."""

    images: Tensor
    """float32 (N, T, C, H, W)."""
    features: Tensor | None
    """float32 (N, T, F): averages over cells; None where the spec asks for none."""


def to_float(frames_nthwc: Tensor) -> Tensor:
    """Images (N, T, 3, H, W) of values 0 to 1, of frames uint8 (N, T, H, W, 3); (N, 3, H, W) of (N, H, W, 3)."""
    return frames_nthwc.movedim(-1, -3).to(torch.float32).div(255)


class InputTransform(nn.Module):
    """Does what an InputSpec says: images of values 0 to 1 in, `Inputs` out.

    Args: `mean` and `std` of red, green and blue as a bundle has them.
    """

    def __init__(self, spec: InputSpec, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images_ntchw: Tensor) -> Inputs:
        """`Inputs` of images (N, T, 3, H, W) of values 0 to 1."""
        images = images_ntchw
        if self.spec.median:
            images = median(images, self.spec.median)
        if self.spec.gaussian_sigma:
            images = gaussian(images, self.spec.gaussian_sigma)
        signed = differences(luma(images)) if self.spec.needs_differences else None
        channels = [self._channel(name, images, signed) for name in self.spec.channels]
        features = [self._feature(name, signed) for name in self.spec.features]
        return Inputs(torch.cat(channels, dim=2), torch.cat(features, dim=2) if features else None)

    def _channel(self, name: Channel, images: Tensor, signed: Tensor | None) -> Tensor:
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        if name == "rgb":
            return (images - mean) / std
        if name == "grey":
            return (luma(images) - mean.mean()) / std.mean()
        assert signed is not None, "spec.needs_differences"
        if name == "energy":
            cells = cell_averages(signed.abs(), self.spec.cells)
            return self.spec.gain * _spread(cells, images.shape[-2], images.shape[-1])
        if name == "gradient":
            return self.spec.gain * gradient_size(signed)
        return self.spec.gain * (signed if name == "signed_difference" else signed.abs())

    def _feature(self, name: Feature, signed: Tensor | None) -> Tensor:
        assert signed is not None, "spec.needs_differences"
        of_pixels = signed.abs() if name == "energy" else gradient_size(signed)
        return self.spec.gain * cell_averages(of_pixels, self.spec.cells).flatten(2)


# --- spatial filters ------------------------------------------------------------------------------------------------


def median(images: Tensor, size: int) -> Tensor:
    """The median of the size x size pixels around each pixel, per channel. Args: `size` is odd; images (..., H, W)."""
    rows, columns = images.shape[-2:]
    reach = size // 2
    padded = functional.pad(images.reshape(-1, 1, rows, columns), (reach,) * 4, mode="replicate")
    shifted = [padded[..., y : y + rows, x : x + columns] for y in range(size) for x in range(size)]
    if size == 3:  # four times as fast as sorting, on one core
        for low, high in _MEDIAN_OF_9:
            smaller = torch.minimum(shifted[low], shifted[high])
            shifted[high] = torch.maximum(shifted[low], shifted[high])
            shifted[low] = smaller
        return shifted[4].reshape(images.shape)
    return torch.stack(shifted).median(dim=0).values.reshape(images.shape)


def gaussian(images: Tensor, sigma: float) -> Tensor:
    """Images (..., H, W), smoothed by a Gaussian of `sigma` pixels.

    Its kernel must not reach further than the picture: ValueError otherwise.
    """
    reach = int(GAUSSIAN_TRUNCATE * sigma + 0.5)
    rows, columns = images.shape[-2:]
    if reach >= min(rows, columns):
        raise ValueError(f"a Gaussian of {sigma} pixels reaches over the whole of a {columns} x {rows} picture")
    weights = [math.exp(-0.5 * (place / sigma) ** 2) for place in range(-reach, 1)]
    total = 2 * sum(weights) - 1
    smooth = functional.pad(images.reshape(-1, 1, rows, columns), (reach,) * 4, mode="reflect")
    for dim, length in ((-1, columns), (-2, rows)):  # ten times as fast as conv2d with one channel, on one core
        taps = [smooth.narrow(dim, place, length) for place in range(2 * reach + 1)]
        smooth = taps[reach] / total
        for place in range(reach):
            smooth.add_(taps[place] + taps[-1 - place], alpha=weights[place] / total)
    return smooth.reshape(images.shape)


def sobel(images: Tensor) -> tuple[Tensor, Tensor]:
    """Change per pixel to the right and downwards (Sobel's kernel over 8), each as images (..., H, W)."""
    rows, columns = images.shape[-2:]
    padded = functional.pad(images.reshape(-1, 1, rows, columns), (1,) * 4, mode="reflect")
    across = padded[..., 2:] - padded[..., :-2]
    right = (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 8
    down = padded[..., 2:, :] - padded[..., :-2, :]
    down = (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / 8
    return right.reshape(images.shape), down.reshape(images.shape)


def luma(images_ntchw: Tensor) -> Tensor:
    """Grey images (N, T, 1, H, W) of RGB ones."""
    red, green, blue = images_ntchw.unbind(dim=-3)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(-3)


# --- differences of frames ------------------------------------------------------------------------------------------


def differences(images_ntchw: Tensor) -> Tensor:
    """Each frame minus the one before it, of the same shape; 0 for the first frame.

    The absolute values of a window and of its reversal are the same, in reverse order but for the leading 0: what
    averages over time cannot tell them apart.
    """
    changes = images_ntchw[:, 1:] - images_ntchw[:, :-1]
    return functional.pad(changes, (0, 0, 0, 0, 0, 0, 1, 0))


def gradient_size(images: Tensor) -> Tensor:
    """Length of the Sobel gradient at each pixel, of the same shape; of differences: where edges moved."""
    right, down = sobel(images)
    return torch.hypot(right, down)


def cell_averages(images: Tensor, cells: int) -> Tensor:
    """Averages over a grid of cells x cells: (N, T, C, cells, cells). Of absolute differences: the motion energy."""
    averages: Tensor = functional.adaptive_avg_pool2d(images.flatten(0, 1), cells)
    return averages.view(*images.shape[:3], cells, cells)


def _spread(averages: Tensor, rows: int, columns: int) -> Tensor:
    spread: Tensor = functional.interpolate(averages.flatten(0, 1), (rows, columns), mode="nearest")
    return spread.view(*averages.shape[:3], rows, columns)
