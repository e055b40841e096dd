"""What a processor of transformers does to pictures in; the same as our decoder and networks do it out.

Imports torch; called in the driver alone. How a size comes about is read from the processor's settings, what is done to
values is measured with it, and both are checked by showing it pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, cast

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vidbatch import hf_models
from vidbatch.bundles import Preprocessing, Rgb
from vidbatch.errors import ConfigError
from vidbatch.schema import FrameSpec

TOLERANCE_LEVELS: Final = 1.5
"""By how much, of 255 levels, what a network sees of a smooth picture may differ from what its processor shows it: both
round (half a level each), and at the border of a picture the kinds of interpolation differ by another half."""

_RESAMPLING: Final[dict[int, Literal["lanczos", "bilinear", "bicubic"]]] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of what a FrameSpec knows too."""
_CONVNEXT_STRETCHES_FROM: Final = 384
"""Pixels; from this size on, processors with a `crop_pct` stretch pictures and crop none."""


class _NotOurs(Exception):
    """The processor does what no Preprocessing says; the message goes on after its name."""


def ask_processor(details: str, where: str) -> Preprocessing:
    """What the model's own processor does, as our decoder and networks do it.

    Both are shown smooth pictures, upright and across, and have to agree (TOLERANCE_LEVELS). Raises ConfigError where
    they cannot (a size that depends on the picture, padding, channels in another order), ModelError for a processor
    that transformers cannot make.
    """
    processor = hf_models.make_processor(details, where)
    try:
        frame = _frame_of(processor)
        found = Preprocessing(frame, *_mean_and_std(processor))
    except _NotOurs as why:
        raise ConfigError(f"model: {where}: its processor, {type(processor).__name__}, {why}") from None
    for height, width in ((241, 320), (320, 241)):
        picture = _smooth_picture(height, width)
        theirs, ours = _shown_by(processor, picture), _as_seen(picture, found)
        apart = (theirs - ours).abs().amax((1, 2)) if theirs.shape == ours.shape else torch.full((3,), torch.inf)
        levels = float((apart * torch.tensor(found.std)).max()) * 255
        if not levels <= TOLERANCE_LEVELS:
            raise ConfigError(
                f"model: {where}: its processor, {type(processor).__name__}, does to pictures what cannot be done here "
                f"({levels:.3g} of 255 levels apart)"
            )
    return found


def _shown_by(processor: Any, picture: Tensor) -> Tensor:
    """What the processor makes of a picture, uint8 (3, rows, columns): float32 (3, H, W)."""
    if hasattr(processor, "sample_frames"):  # of videos
        shown = processor(videos=[torch.stack([picture] * 2)], return_tensors="pt", do_sample_frames=False)
    else:
        shown = processor(images=picture, return_tensors="pt")
    values = cast("Tensor", shown.get("pixel_values", shown.get("pixel_values_videos")))
    return values.flatten(0, -4)[0].float()


# --- sizes ----------------------------------------------------------------------------------------------------------


def _frame_of(processor: Any) -> FrameSpec:
    def told(name: str) -> Any:
        return getattr(processor, name, None)

    if not told("do_resize"):
        raise _NotOurs("leaves pictures at their size")
    interpolation = _RESAMPLING.get(int(told("resample") or 0))
    if interpolation is None:
        raise _NotOurs(f"resamples by {told('resample')!r}; allowed: bilinear, bicubic, lanczos")
    crop = _sides(told("crop_size")) if told("do_center_crop") else None
    return _frame(_sides(told("size")), crop, told("crop_pct"))._replace(interpolation=interpolation)


def _sides(size: Any) -> dict[str, int]:
    """The sides that a size tells, by name."""
    return {name: side for name, side in dict(size or {}).items() if side is not None}


def _frame(size: Mapping[str, int], crop: Mapping[str, int] | None, crop_pct: float | None) -> FrameSpec:
    edge = size.get("shortest_edge")
    if edge and crop_pct:
        if edge >= _CONVNEXT_STRETCHES_FROM:
            return FrameSpec(edge, edge, 1.0, fit="stretch")
        return FrameSpec(edge, edge, edge / int(edge / crop_pct), fit="scale_then_crop")
    if edge and set(size) == {"shortest_edge"}:
        if crop is None:
            raise _NotOurs("gives pictures whose size depends on their shape; allowed: a crop")
        if max(crop.values()) > edge:
            raise _NotOurs(f"pads pictures of {edge} pixels to {max(crop.values())}")
        return FrameSpec(crop["height"], crop["width"], min(crop.values()) / edge, fit="scale_then_crop")
    if set(size) != {"height", "width"}:
        raise _NotOurs(f"scales to {dict(size)}; allowed: shortest_edge, or height and width")
    if crop is None:
        return FrameSpec(size["height"], size["width"], 1.0, fit="stretch")
    share = crop["height"] / size["height"]
    if share > 1 or round(crop["width"] / share) != size["width"]:
        raise _NotOurs(f"crops {dict(crop)} of {dict(size)}; allowed: the same share of both")
    return FrameSpec(crop["height"], crop["width"], share, fit="stretch")


# --- values ---------------------------------------------------------------------------------------------------------


def _mean_and_std(processor: Any) -> tuple[Rgb, Rgb]:
    """Of (value / 255 - mean) / std, from what becomes of black and of white."""
    black, white = (
        _shown_by(processor, torch.full((3, 64, 64), level, dtype=torch.uint8)).double() for level in (0, 255)
    )
    if len(black) != 3:
        raise _NotOurs(f"gives {len(black)} channels; allowed: 3")
    black, white = black.mean((1, 2)), white.mean((1, 2))
    if not bool((white > black).all()):
        raise _NotOurs("makes of white what is no more than black")
    std = 1 / (white - black)
    return cast(Rgb, tuple((-black * std).tolist())), cast(Rgb, tuple(std.tolist()))


# --- pictures to compare by -----------------------------------------------------------------------------------------


def _smooth_picture(height: int, width: int) -> Tensor:
    """uint8 (3, height, width): its channels grow to the right, downwards and to the left."""
    down = torch.linspace(20, 210, height).view(-1, 1).expand(height, width)
    right = torch.linspace(60, 250, width).expand(height, width)
    return torch.stack([right, down, 255 - right]).round().to(torch.uint8)


def _as_seen(picture: Tensor, how: Preprocessing) -> Tensor:
    """What a network sees of a picture of square pixels, float32 (3, H, W): the decoder's part of it, done by torch."""
    rows, columns = picture.shape[-2:]
    height, width, share = how.frame[:3]
    if how.frame.fit == "stretch":
        scaled = [round(height / share), round(width / share)]
    else:
        edge = round(min(height, width) / share)
        scaled = [edge * side // min(rows, columns) for side in (rows, columns)]
    whole = interpolate(picture[None].float(), scaled, mode="bilinear", antialias=True)[0]
    top, left = (scaled[0] - height) // 2, (scaled[1] - width) // 2
    seen = whole[:, top : top + height, left : left + width]
    return (seen / 255 - torch.tensor(how.mean).view(3, 1, 1)) / torch.tensor(how.std).view(3, 1, 1)
