"""Windows of one good picture in; a loss and a PSNR of each out: what the training of a network for colours is about.

A part of a picture, at least half as high and wide, is spoilt (degrade.py), looked at as `enhance` looks at a shot
(levels.py), and what the curves make of it is compared with what it was, in small. Most good pictures are exposed first
as cameras do, so that white is white: many photographs that are learnt from are toned, as recordings hardly are. All
that is left to chance is keyed by the window.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from vidbatch.restoring import degrade, levels
from vidbatch.training.objective import Judged, autocast
from vidbatch.training.restoring import Restoring, scores_of
from vidbatch.transforms import to_float
from vidbatch.windows import Keys

_EXPOSED: Final = 0.9
"""Share of the pictures that are exposed well before they are spoilt."""


class Recolouring(Restoring):
    """The objective of a network for colours, on its device."""

    def _judged(self, network: nn.Module, windows: Any, seeds: Keys) -> Judged:
        n = len(windows)
        found = [each for at in range(n) for each in self._spoilt(windows["frames"][at][0], seeds[at])]
        good, small, counts = (torch.stack(part).to(self._device) for part in zip(*found, strict=True))
        with autocast(self._device, self._config.precision):
            curves = network(counts, small)
        made = levels.apply(small, curves.float())
        difference = made - good
        losses = self._losses(difference, torch.ones((), device=self._device))
        return Judged(losses.view(n, -1).mean(1), scores_of(difference.detach().square().mean((1, 2, 3)), n))

    def _spoilt(self, picture: Any, seed: np.uint64) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Parts of a picture uint8 (H, W, 3): good and spoilt in small (3, 36, 64), and counts (3, 256) of these."""
        generator = Generator().manual_seed(int(seed) % 2**63)
        pixels = torch.from_numpy(np.ascontiguousarray(picture))
        height, width = pixels.shape[:2]
        found = []
        for _ in range(self._config.crops_per_window):
            size, down, across, mirrored, exposed = torch.rand(5, generator=generator).tolist()
            rows, columns = (int(side * (0.5 + 0.5 * size)) for side in (height, width))
            top, left = int(down * (height - rows + 1)), int(across * (width - columns + 1))
            part = pixels[top : top + rows, left : left + columns].flip([1] if mirrored < 0.5 else [])
            good = to_float(part[None])
            if exposed < _EXPOSED:
                good = degrade.exposed(good)
            spoilt = degrade.recoloured(good, degrade.random_colours(1, generator))
            counts = levels.count(spoilt.mul(255).round().to(torch.uint8))
            good, small = (functional.interpolate(each, levels.THUMBNAIL, mode="area")[0] for each in (good, spoilt))
            found.append((good, small, counts))
        return found
