"""Planes of 8-bit YUV 4:2:0 pictures in; uint8 RGB frames of a model's size out, made where the model runs.

The other way to hand pictures over (`hand_over: yuv420`): a decoder's CPU scales and converts nothing, half as many
bytes a pixel travel as in RGB, and torch scales each plane and converts the colours, on the GPU if there is one.
Frames equal those of the CPU (decoding/pictures.py) but for other filters and rounding: see TOLERANCE_LEVELS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE_LEVELS: Final = 1.0
"""A frame's mean absolute difference from the CPU's, of 255 levels, at most."""

INTERPOLATIONS: Final = frozenset({"bilinear", "bicubic"})
"""Those of schema.FrameSpec that torch has too."""

LUMA_WEIGHTS: Final = {
    1: (0.2126, 0.0722),  # BT.709
    2: (0.299, 0.114),  # not tagged: as FFmpeg takes it
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601, 625 lines
    6: (0.299, 0.114),  # BT.601, 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
}
"""Weights of red and blue in luma by FFmpeg's AVCOL_SPC number (ITU-T H.273, table 4)."""


class Layout(NamedTuple):
    """How pictures lie in memory, and what turns them upright: transposed first, then mirrored.

    A picture is its luma plane, height x width, then its two chroma planes of half the height and width, rounded up,
    all uint8.
    """

    height: int
    width: int
    colour_space: int  # a key of LUMA_WEIGHTS
    is_full_range: bool
    transpose: bool = False
    mirror_columns: bool = False
    mirror_rows: bool = False

    @property
    def planes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each plane."""
        chroma = (self.height + 1) // 2, (self.width + 1) // 2
        return (self.height, self.width), chroma, chroma

    @property
    def size_bytes(self) -> int:
        """Of one picture."""
        return sum(height * width for height, width in self.planes)


def to_rgb(pictures: Tensor, layout: Layout, *, height: int, width: int, interpolation: str) -> Tensor:
    """Frames uint8 (n, height, width, 3) of pictures uint8 (n, layout.size_bytes), on the pictures' device.

    Each plane is scaled on its own (chroma centred between luma samples, as FFmpeg's scaler has it by default), then
    converted by the matrix and range of the layout. Args: `interpolation` is one of INTERPOLATIONS.
    """
    import torch

    if layout.transpose:
        height, width = width, height
    planes = torch.split(pictures, [rows * columns for rows, columns in layout.planes], dim=1)
    scaled = [
        torch.nn.functional.interpolate(
            plane.view(-1, 1, *size).float(), (height, width), mode=interpolation, antialias=True
        )[:, 0]
        for plane, size in zip(planes, layout.planes, strict=True)
    ]
    luma, blue, red = scaled
    red_weight, blue_weight = LUMA_WEIGHTS[layout.colour_space]
    luma_range, chroma_range, black = (255.0, 255.0, 0.0) if layout.is_full_range else (219.0, 224.0, 16.0)
    luma = (luma - black) * (255 / luma_range)
    blue = (blue - 128) * (255 / chroma_range) * (2 * (1 - blue_weight))
    red = (red - 128) * (255 / chroma_range) * (2 * (1 - red_weight))
    green = luma - (red_weight * red + blue_weight * blue) / (1 - red_weight - blue_weight)
    frames = torch.stack([luma + red, green, luma + blue], dim=-1).round_().clamp_(0, 255).to(torch.uint8)
    if layout.transpose:
        frames = frames.transpose(1, 2)
    turned = [dim for dim, mirror in ((2, layout.mirror_columns), (1, layout.mirror_rows)) if mirror]
    return (frames.flip(turned) if turned else frames).contiguous()
