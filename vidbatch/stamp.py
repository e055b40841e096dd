"""A network for tests and benchmarks: frames of `testing.make_video` in, the number their pixels carry out.

It runs through the whole chain as any other model does, from a bundle, and its answers can be checked: the label of
every frame must be that of its own video, and its embedding must end with its own frame's number.
"""

from __future__ import annotations

import os
from typing import Final

import torch
from torch import Tensor, nn

from vidbatch.bundles import BundleConfig, save_bundle
from vidbatch.model_names import STAMP
from vidbatch.schema import FrameSpec

# The stamp as `testing.stamped` draws it; the tests read each other's stamps, so that these cannot drift apart.
_CELLS: Final = 7
_STAMP_SHARE: Final = 0.72
_CORNERS: Final = {0: 1.0, 6: 1.0, 42: 1.0, 48: 0.0}
_CERTAIN: Final = 30.0  # a logit that softmax turns into a probability of 1 - 1e-13 x classes


class StampNetwork(nn.Module):
    """Logits that say `video number modulo C` with certainty, or nothing (all equal) of a frame without a stamp.

    The embedding holds C values of which the class's is 1, then the video number and the frame number.
    """

    def __init__(self, num_classes: int, frame: FrameSpec) -> None:
        super().__init__()
        self._num_classes = num_classes
        self._patches = _middles(frame)
        self.classifier = nn.Linear(num_classes + 2, num_classes, bias=False)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.eye(num_classes, num_classes + 2) * _CERTAIN)

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Logits, N x C, of images with values from 0 to 1."""
        grey = images_nchw.mean(1)
        cells = torch.stack([grey[:, rows, columns].mean((1, 2)) for rows, columns in self._patches], 1)
        bits = (cells > 0.5).to(torch.float64)
        is_stamp = torch.stack([bits[:, place] == value for place, value in _CORNERS.items()], 1).all(1)
        numbers = bits[:, [place for place in range(_CELLS**2) if place not in _CORNERS][:32]].view(-1, 2, 16)
        powers = 2.0 ** torch.arange(15, -1, -1, device=bits.device, dtype=torch.float64)
        video_and_frame = (numbers * powers).sum(2) * is_stamp[:, None]
        classes = torch.arange(self._num_classes, device=bits.device)
        one_hot = (video_and_frame[:, :1].remainder(self._num_classes) == classes) & is_stamp[:, None]
        logits: Tensor = self.classifier(torch.cat([one_hot, video_and_frame], 1).to(images_nchw.dtype))
        return logits


def make_stamp_bundle(
    url: str | os.PathLike[str], *, num_classes: int = 16, frame: FrameSpec | None = None
) -> list[str]:
    """Write a bundle of the StampNetwork and return its labels: `video_0`, `video_1`, …

    Args: smaller frames (at least 64 x 64) make faster tests.
    """
    frame = frame or FrameSpec(224, 224)
    labels = [f"video_{number}" for number in range(num_classes)]
    config = BundleConfig(
        architecture=STAMP,
        labels=tuple(labels),
        height=frame.height,
        width=frame.width,
        crop_share=frame.crop_share,
        interpolation=frame.interpolation,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    save_bundle(url, StampNetwork(num_classes, frame).state_dict(), config)
    return labels


def _middles(frame: FrameSpec) -> list[tuple[slice, slice]]:
    """Rows and columns of the inner quarter of each cell, in reading order."""
    side = _STAMP_SHARE / frame.crop_share * min(frame.height, frame.width)
    reach = side / _CELLS / 4

    def along(length: int, cell: int) -> slice:
        middle = (length - side) / 2 + (cell + 0.5) * side / _CELLS
        return slice(round(middle - reach), round(middle + reach) + 1)

    return [(along(frame.height, y), along(frame.width, x)) for y in range(_CELLS) for x in range(_CELLS)]
