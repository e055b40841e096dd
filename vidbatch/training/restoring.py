"""Windows of good frames in, or of pairs; a loss and a PSNR of each out: what the training of an enhancer is about.

Squares are cut out of a window, mirrored and turned back in time at random, spoilt as degrade.py does or cut out of
their spoilt twin likewise, and the network's middle frame is compared with the good one. All that is left to chance
is keyed by the window, so that neither workers nor places in a batch change it.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from torch import Generator, Tensor, nn

from vidbatch.restoring import degrade, planes
from vidbatch.restoring.spec import save_enhancer, start
from vidbatch.training.objective import Judged, autocast
from vidbatch.training.restore_config import RestoreConfig
from vidbatch.training.settings import NOT_IN_DIGEST
from vidbatch.transforms import to_float
from vidbatch.windows import Ints, Keys, random_bits

_EPSILON: Final = 1e-3
"""Of the Charbonnier loss: below this difference it is quadratic."""
_SAME: Final = 0.05
"""Halves are the same if no larger share of their values differs: at the seam chroma is that of both."""
CHROMA_WEIGHT: Final = 4.0
"""Of an error in a sample of chroma: it is that of four pixels, in RGB about as much as one in their luma."""
_GOOD_ENOUGH: Final = 1e-4
"""Mean squared error, of 1, which the loss `psnr` hardly tries to get below: 40 dB; `root` goes on for 10 dB more."""


def make_network(config: RestoreConfig, weights: bytes | None) -> nn.Module:
    """The network a run begins with. Raises ConfigError for weights of another one."""
    network = config.network.build(config.seed)
    return network if weights is None else start(network, weights, "start_from")


class Restoring:
    """The objective of a network that enhances, on its device."""

    _grid = 2
    """Squares begin at multiples of so many pixels: chroma has one sample for two."""

    def __init__(self, config: RestoreConfig, device: torch.device, weights: bytes | None) -> None:
        self._config = config
        self._device = device
        self.network = make_network(config, weights).to(device).to(memory_format=torch.channels_last)

    def groups(self) -> list[dict[str, Any]]:
        """All weights; biases do not decay."""
        config, groups = self._config, []
        for name, is_decaying in (("all", True), ("all_no_decay", False)):
            weights = [weight for weight in self.network.parameters() if (weight.ndim > 1) == is_decaying]
            decay = config.weight_decay if is_decaying else 0.0
            groups.append({"name": name, "params": weights, "lr": config.learning_rate, "weight_decay": decay})
        return groups

    def train(self, network: nn.Module, windows: Any, videos: Ints, keys: Keys, *, epoch: int) -> Judged:  # noqa: ARG002
        """Losses of windows, each cut and spoilt as its key has it."""
        seeds = random_bits(keys, seed=self._config.seed, epoch=epoch, purpose="spoil")
        return self._judged(network, windows, seeds)

    def judge(self, network: nn.Module, windows: Any, videos: Ints, keys: Keys) -> Judged:  # noqa: ARG002
        """The same, cut and spoilt always alike."""
        return self._judged(network, windows, random_bits(keys, seed=0, epoch=0, purpose="judge"))

    def save(self, url: str, network: nn.Module, numbers: dict[str, Any]) -> None:
        """Write the folder that `enhance` takes."""
        settings = self._config.model_dump(mode="json", exclude=set(NOT_IN_DIGEST), exclude_defaults=True)
        trained = {"settings": {"kind": self._config.kind, **settings}, **numbers}
        save_enhancer(url, network.state_dict(), self._config.network.model_copy(update={"trained": trained}))

    def _judged(self, network: nn.Module, windows: Any, seeds: Keys) -> Judged:
        n = len(windows)
        squares = [self._squares(windows["frames"][at], seeds[at]) for at in range(n)]
        good, spoilt = (torch.cat(part).to(self._device) for part in zip(*squares, strict=True))
        losses, errors = self._cells(network, good, spoilt)
        return Judged(losses.view(n, -1).mean(1), scores_of(errors, n))

    def _cells(self, network: nn.Module, good: Tensor, spoilt: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and mean squared error (in luma) of each square; squares are (N, T, 3, H, W)."""
        n, num_frames = spoilt.shape[:2]
        seen = planes.pack(*map(planes.quantised, planes.to_yuv(spoilt.flatten(0, 1))))
        wanted = planes.pack(*planes.to_yuv(good[:, num_frames // 2]))
        seen = seen.view(n, num_frames, *seen.shape[1:])
        with autocast(self._device, self._config.precision):
            made = network(seen)
        difference = made.float() - wanted
        weights = torch.ones(planes.CHANNELS, device=self._device)
        weights[planes.NUM_LUMA :] = CHROMA_WEIGHT
        losses = self._losses(difference, weights[:, None, None] / weights.mean())
        return losses, difference[:, : planes.NUM_LUMA].detach().clamp(-1, 1).square().mean((1, 2, 3))

    def _losses(self, differences: Tensor, weights: Tensor) -> Tensor:
        """Of each square. Args: differences (N, C, h, w); weights of them, whose mean is 1."""
        loss, squares = self._config.loss, differences.square()
        if loss == "psnr":  # Chen et al., "Simple baselines for image restoration" (2022)
            return ((squares * weights).mean((1, 2, 3)) + _GOOD_ENOUGH).log() - math.log(_GOOD_ENOUGH)
        if loss == "rms":
            return ((squares * weights).mean((1, 2, 3)) + 0.1 * _GOOD_ENOUGH).sqrt()
        if loss == "root":  # what is hardly spoilt is kept as it is, and yet what is most spoilt counts most
            return ((squares * weights).mean((1, 2, 3)) + 0.1 * _GOOD_ENOUGH).pow(0.25)
        if loss != "mse":
            squares = (squares + _EPSILON**2).sqrt() if loss == "charbonnier" else differences.abs()
        return (squares * weights).mean((1, 2, 3))

    def _squares(self, frames: Any, seed: np.uint64) -> tuple[Tensor, Tensor]:
        """Squares (crops, T, 3, crop, crop) of a window uint8 (T, H, W, 3), good and spoilt."""
        config = self._config
        generator = Generator().manual_seed(int(seed) % 2**63)
        window = torch.from_numpy(np.ascontiguousarray(frames))
        halves = list(window.chunk(2, dim=1)) if config.pairs else [window, window]
        crop, (height, width) = config.crop, halves[0].shape[1:3]
        found: list[tuple[Tensor, Tensor]] = []
        for _ in range(config.crops_per_window):
            numbers = torch.rand(6, generator=generator).tolist()
            top, left = (
                int(numbers[k] * (side - crop + 1)) // self._grid * self._grid for k, side in enumerate((height, width))
            )
            flips = [dim for dim, number in ((2, numbers[2]), (0, numbers[3])) if number < 0.5]
            one, other = (half[:, top : top + crop, left : left + crop].flip(flips) for half in halves)
            found.append((one, other))
        # Bytes until they are where the network is: what comes after is a device's work.
        pair = [torch.stack(part) for part in zip(*found, strict=True)]
        if config.kind == "denoise" and float((pair[0] != pair[1]).float().mean()) < _SAME:
            good = to_float(pair[0].to(self._device))
            return good, degrade.noisy(good, generator)
        return to_float(pair[0].to(self._device)), to_float(pair[1].to(self._device))


def scores_of(errors: Tensor, n: int) -> Tensor:
    """PSNR of each of n windows, the mean of that of its squares, of mean squared errors (N,) of values 0 to 1."""
    return (-10 * errors.clamp(min=1e-10).log10()).view(n, -1).mean(1)
