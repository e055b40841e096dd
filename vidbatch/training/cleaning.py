"""Windows of pairs in; a loss and a PSNR of each out: what the training against compression artefacts is about.

As restoring.py, of luma alone. Squares begin where a codec's blocks do, for that is how frames come from a decoder. Of
some the first frame is the one that is wanted, with those behind it before it too, as where a video begins: what a
codec makes of its first pictures is unlike what it makes of others.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from vidbatch.restoring import planes
from vidbatch.training.objective import autocast
from vidbatch.training.restoring import Restoring

_AT_FIRST: Final = 8
"""Of so many squares one is of a window's first frame."""


class Cleaning(Restoring):
    """The objective of a network against compression artefacts, on its device."""

    _grid = 8

    def _cells(self, network: nn.Module, good: Tensor, spoilt: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and mean squared error of each square; squares are (N, T, 3, H, W)."""
        wanted, seen = (_luma(each) for each in (good, spoilt))
        half, at_first = seen.shape[1] // 2, slice(None, None, _AT_FIRST)
        mirrored = [abs(offset) for offset in range(-half, half + 1)]
        seen[at_first] = seen[at_first][:, mirrored]
        wanted[at_first, half] = wanted[at_first, 0]
        wanted = wanted[:, half : half + 1]
        with autocast(self._device, self._config.precision):
            made = network(seen)
        difference = made.float() - wanted
        losses = self._losses(difference, torch.ones((), device=self._device))
        return losses, difference.detach().clamp(-1, 1).square().mean((1, 2, 3))


def _luma(squares: Tensor) -> Tensor:
    """(N, T, H, W)"""
    n, num_frames, _, height, width = squares.shape
    return planes.quantised(planes.to_yuv(squares.flatten(0, 1))[0]).view(n, num_frames, height, width)
