"""Luma of frames around one in, that of the middle one without compression artefacts out.

    the middle frame ─┬───────────────────────────────────────────────────────────────────────────> + ──> luma
                      └─> less what is smooth in it ──┬─> a convolution, residual blocks, one more ─┘
    the others ─────────> less the middle frame ──────┘

The network begins as no change: its last layer adds nothing yet. It sees a picture in cells of 2 x 2 pixels, and less
what is smooth in it, since what codecs leave is small beside the levels that it lies upon: in the same time it gained
0.2 dB instead of 0.1. A U-Net upon cells of 2 x 2 or 4 x 4 pixels gained less in the same time, of training and of use.
Frames before and behind are of use once it knows what to do with one: it is trained with one at first.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidbatch.restoring.planes import Residual, start_evenly

MULTIPLE: Final = 8
"""Height and width of what goes in are multiples of so many pixels: the blocks of codecs are, too."""
DEPTH: Final = 4
"""Residual blocks."""
SEEN_AROUND: Final = 32
"""What is so many pixels away from a pixel, or more, has no influence on it; a multiple of MULTIPLE.

Ten convolutions of 3 x 3 cells of 2 x 2 pixels make 20 pixels, what is smooth less than another 12."""

_CELL: Final = 2
_SMOOTH: Final = 4
"""Side of the squares whose means make what is smooth."""
_GAIN: Final = 10.0
"""What differences are multiplied by, and what is added is divided by."""


class Cleaner(nn.Module):
    """Luma (N, T, H, W) of T frames in, 0 to 1, luma (N, 1, H, W) of the middle one out; sides: multiples of MULTIPLE.

    Weights of a network that sees one frame may be loaded, too: to others it then pays no attention yet.
    Args: `width` channels of each of `depth` residual blocks.
    """

    def __init__(self, num_frames: int = 3, width: int = 32, depth: int = DEPTH) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.entry = nn.Conv2d(num_frames * _CELL**2, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Residual(width) for _ in range(depth)))
        self.exit = nn.Conv2d(width, _CELL**2, 3, padding=1)
        start_evenly(self.entry)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)  # type: ignore[arg-type]  # it has one
        self.register_load_state_dict_pre_hook(_widened)  # type: ignore[no-untyped-call]

    def forward(self, luma: Tensor) -> Tensor:
        """What becomes of the middle frame; what stays of it is as precise as what goes in, autocast or not."""
        half = self.num_frames // 2
        middle = luma[:, half : half + 1]
        parts = [luma[:, :half] - middle, middle - _smooth(middle), luma[:, half + 1 :] - middle]
        detail = (torch.cat(parts, dim=1) * _GAIN).to(self.entry.weight.dtype)
        seen = functional.pixel_unshuffle(detail, _CELL).contiguous(memory_format=torch.channels_last)
        change = self.exit(self.blocks(functional.relu(self.entry(seen), inplace=True)))
        return middle + functional.pixel_shuffle(change, _CELL).to(luma.dtype) / _GAIN


def _widened(network: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Make weights of a network that sees one frame those of one that sees more, before they are loaded."""
    assert isinstance(network, Cleaner)
    weight = state.get(f"{prefix}entry.weight")
    others = _CELL**2 * (network.num_frames // 2)
    if others and weight is not None and weight.ndim == 4 and weight.shape[1] == _CELL**2:
        state[f"{prefix}entry.weight"] = functional.pad(weight, (0, 0, 0, 0, others, others))


def _smooth(luma: Tensor) -> Tensor:
    """What is left of luma (N, 1, H, W) without detail, as large."""
    means = functional.avg_pool2d(luma, _SMOOTH)
    wider = functional.avg_pool2d(means, 3, stride=1, padding=1, count_include_pad=False)
    return functional.interpolate(wider, scale_factor=float(_SMOOTH), mode="bilinear", align_corners=False)
