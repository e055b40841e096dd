"""Names and numbers in; what is done to a window's frames before a network sees them, checked and ready for JSON, out.

InputSpec belongs to a model and stands in its bundle: training, labelling and evaluation all do the same with it
(transforms.py). AugmentSpec belongs to a training run alone (augment.py). Neither needs torch. Size, crop and
interpolation of frames are the decoder's: schema.FrameSpec.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Channel = Literal["rgb", "grey", "difference", "signed_difference", "energy", "gradient"]
Feature = Literal["energy", "gradient"]

CHANNELS: Final[dict[Channel, int]] = {
    "rgb": 3,  # (value / 255 - mean) / std
    "grey": 1,  # luma, normalised by the average of mean and std
    "difference": 1,  # of luma from the frame before, absolute; 0 for the first frame, as in all below
    "signed_difference": 1,  # the same with its sign: the one that tells a window from its reversal
    "energy": 1,  # the absolute difference, averaged over each cell of a grid
    "gradient": 1,  # size of the Sobel gradient of the difference
}
"""What the network's first layer can be given, and how many channels each is."""


class InputSpec(BaseModel):
    """Filters, then channels, in this order; the defaults are frames as any image model takes them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    median: Literal[0, 3, 5] = Field(0, description="Side of a median filter, pixels; 0: none.")
    gaussian_sigma: float = Field(0.0, ge=0, le=10, description="Of a Gaussian filter, pixels; 0: none.")
    channels: tuple[Channel, ...] = Field(("rgb",), min_length=1, description=f"Of {', '.join(CHANNELS)}.")
    features: tuple[Feature, ...] = Field((), description="Averages over cells that join a frame's features.")
    cells: int = Field(4, ge=1, le=32, description="Rows and columns of the grid of `energy` and of `features`.")
    gain: float = Field(4.0, gt=0, le=100, description="What differences (0 to 1) are multiplied by.")

    @field_validator("channels", "features")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("each can be given once")
        return value

    @property
    def num_channels(self) -> int:
        """Of the images that enter the network."""
        return sum(CHANNELS[name] for name in self.channels)

    @property
    def num_features(self) -> int:
        """Values a frame that join its features in a temporal head."""
        return len(self.features) * self.cells**2

    @property
    def needs_differences(self) -> bool:
        """Whether a frame's neighbours matter."""
        return bool(self.features) or not set(self.channels) <= {"rgb", "grey"}


class MirrorSpec(BaseModel):
    """A change of the whole window that may change what its label means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    probability: Annotated[float, Field(ge=0, le=1)] = 0.0
    swaps: Annotated[dict[str, str], Field(description="Labels that become others: {pan_left: pan_right, ...}.")] = {}


class AugmentSpec(BaseModel):
    """Random changes of training windows, the same for all frames of a window; the defaults change nothing.

    Changes in time are chosen with the window's times (windows.Windows.random: offset and jitter), before decoding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip: MirrorSpec = Field(MirrorSpec(), description="Left to right.")
    upside_down: MirrorSpec = Field(MirrorSpec(), description="Top to bottom.")
    reverse: MirrorSpec = Field(MirrorSpec(), description="Last frame first.")
    crop_area: tuple[float, float] = Field((1.0, 1.0), description="Least and greatest share of the area that is kept.")
    crop_aspect: tuple[float, float] = Field((1.0, 1.0), description="Least and greatest stretch of width by height.")
    brightness: float = Field(0.0, ge=0, le=1, description="Factor from 1 - b to 1 + b; so for the next two.")
    contrast: float = Field(0.0, ge=0, le=1)
    saturation: float = Field(0.0, ge=0, le=1)
    hue: float = Field(0.0, ge=0, le=0.5, description="Share of a turn of the colour circle.")
    mixup_alpha: float = Field(0.0, ge=0, le=10, description="Of the Beta distribution of mixup's share; 0: no mixup.")

    @field_validator("crop_area", "crop_aspect")
    @classmethod
    def _from_low_to_high(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("the first must be above 0 and at most the second")
        return value

    @field_validator("crop_area")
    @classmethod
    def _within_the_picture(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[1] > 1:
            raise ValueError("at most 1")
        return value
