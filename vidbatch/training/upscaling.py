"""Windows of one good picture in; a loss and a PSNR of each out: what the training of an upscaler is about.

Squares are cut out of a picture, turned and mirrored at random, reduced as scalers do (reduction.py), and what the
network makes of them is compared with what they were, luma only. Some squares are cut twice as large and reduced once
before: what a codec or a soft lens has taken from a picture at its own size is there at half of it. Others are made
soft, as much of what cameras record is: there is nothing to be added then. All that is left to chance is keyed by the
window; all that costs time is done for a whole batch, on the device.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor, nn

from vidbatch.restoring import planes, reduction
from vidbatch.restoring.upscaler import twice
from vidbatch.training.objective import Judged, autocast
from vidbatch.training.restoring import Restoring
from vidbatch.windows import Ints, Keys, random_bits

_REDUCED_BEFORE: Final = 0.4
"""Share of the squares that are cut twice as large, where the picture has room for them."""
_SOFT: Final = 0.4
"""Share of the squares that are made soft."""
_SIGMAS: Final = (0.3, 1.2)
"""Of their softness, in pixels."""
_LEAST: Final = 1e-7
"""Mean squared error, of 1, that is told of a picture at least: 70 dB."""


class _Square(NamedTuple):
    pixels: Tensor
    """uint8 (3, side, side)"""
    before: int
    """Kernel that it is reduced by first, if it is large."""
    kernel: int
    sigma: float
    """How soft it is made."""


class Upscaling(Restoring):
    """The objective of an upscaler, on its device."""

    _classical = (0.0, 0)

    def judge(self, network: nn.Module, windows: Any, videos: Ints, keys: Keys) -> Judged:  # noqa: ARG002
        """Losses and scores of windows, cut and reduced always alike; notes what Lanczos comes to."""
        good, reduced = self._pairs(windows, random_bits(keys, seed=0, epoch=0, purpose="judge"))
        total, count = self._classical
        scores = _scores(twice(reduced) - good, len(windows))
        self._classical = (total + float(scores.sum()), count + len(windows))
        return self._compared(network, good, reduced, len(windows))

    def save(self, url: str, network: nn.Module, numbers: dict[str, Any]) -> None:
        """Write the folder that `enhance` takes; beside the score of its epoch stands that of Lanczos."""
        total, count = self._classical
        super().save(url, network, numbers | ({"score_of_lanczos": total / count} if count else {}))

    def _judged(self, network: nn.Module, windows: Any, seeds: Keys) -> Judged:
        return self._compared(network, *self._pairs(windows, seeds), len(windows))

    def _compared(self, network: nn.Module, good: Tensor, reduced: Tensor, n: int) -> Judged:
        with autocast(self._device, self._config.precision):
            made = network(reduced)
        difference = made.float() - good
        losses = self._losses(difference, torch.ones((), device=self._device))
        return Judged(losses.view(n, -1).mean(1), _scores(difference.detach(), n))

    def _pairs(self, windows: Any, seeds: Keys) -> tuple[Tensor, Tensor]:
        """Luma of all windows' squares (N, 1, crop, crop), and the same reduced (N, 1, crop/2, crop/2)."""
        squares = [each for at in range(len(windows)) for each in self._cut(windows["frames"][at][0], seeds[at])]
        crop = self._config.crop
        small, large = ([at for at, each in enumerate(squares) if (each.pixels.shape[1] > crop) == is_large]
                        for is_large in (False, True))  # fmt: skip
        parts = [self._luma(squares, small), self._luma(squares, large)]
        if large:
            before = torch.tensor([squares[at].before for at in large])
            parts[1] = reduction.halved(parts[1], before)
        order = torch.tensor(small + large).argsort().to(self._device)
        good = torch.cat([part for part in parts if len(part)])[order]
        good = planes.quantised(reduction.softened(good, torch.tensor([each.sigma for each in squares])))
        kernels = torch.tensor([each.kernel for each in squares])
        return good, planes.quantised(reduction.halved(good, kernels))

    def _luma(self, squares: list[_Square], places: list[int]) -> Tensor:
        if not places:
            return torch.empty(0, device=self._device)
        pixels = torch.stack([squares[at].pixels for at in places]).to(self._device)
        return planes.to_yuv(pixels.float().div(255))[0]

    def _cut(self, picture: Any, seed: np.uint64) -> list[_Square]:
        """Squares of a picture uint8 (H, W, 3), each turned and mirrored in one of eight ways."""
        config = self._config
        generator = Generator().manual_seed(int(seed) % 2**63)
        pixels = torch.from_numpy(np.ascontiguousarray(picture)).movedim(-1, 0)
        height, width = pixels.shape[1:]
        has_room = min(height, width) >= 2 * config.crop
        numbers = torch.rand(config.crops_per_window, 6, generator=generator).tolist()
        softness = torch.rand(config.crops_per_window, 2, generator=generator)
        sigmas = (_SIGMAS[0] + (_SIGMAS[1] - _SIGMAS[0]) * softness[:, 1]) * (softness[:, 0] < _SOFT)
        kernels = reduction.random_kernels(2 * config.crops_per_window, generator).view(-1, 2).tolist()
        found = []
        for at, (size, down, across, mirrored, turned, upside) in enumerate(numbers):
            side = 2 * config.crop if has_room and size < _REDUCED_BEFORE else config.crop
            top, left = int(down * (height - side + 1)), int(across * (width - side + 1))
            square = pixels[:, top : top + side, left : left + side]
            square = square.flip([dim for dim, number in ((2, mirrored), (1, upside)) if number < 0.5])
            square = square.transpose(1, 2) if turned < 0.5 else square
            before, kernel = kernels[at]
            found.append(_Square(square, before, kernel, float(sigmas[at])))
        return found


def _scores(differences: Tensor, n: int) -> Tensor:
    """PSNR of each of n windows, of the differences of its squares (N, 1, H, W)."""
    errors = differences.clamp(-1, 1).square().reshape(n, -1).mean(1)
    return -10 * errors.clamp(min=_LEAST).log10()
