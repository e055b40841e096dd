"""What a user can set for the training of a network that enhances, checked as a whole before the first task starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from vidbatch.config import load_settings, path_as_text
from vidbatch.restoring.spec import EnhancerSpec, Kind
from vidbatch.training.settings import TrainSettings


class RestoreConfig(TrainSettings):
    """Settings of one run; immutable. Field descriptions are also the help texts of the flags.

    Videos need no labels: what is good is spoilt here, or comes with its spoilt twin (`pairs`).
    """

    inputs: tuple[str, ...] = Field(
        min_length=1,
        description="Folders, globs, manifests or tar shards of good videos; local, s3://, gs://, az:// or http(s)://.",
    )
    output: str = Field(
        min_length=1, description="Directory or s3://, gs:// or az:// prefix of the network, curves and checkpoints."
    )
    kind: Kind = Field(
        "denoise", description="What is learnt: denoise, artefacts (those of codecs), colour, interpolate or upscale."
    )
    pairs: bool = Field(
        False,
        description="The upper half of each frame is good, the lower half is the same, spoilt; halves that are equal "
        "are spoilt with noise here.",
    )
    crop: int = Field(128, ge=32, le=4096, multiple_of=16, description="Side of the squares trained with, pixels.")
    crops_per_window: int = Field(2, ge=1, le=256, description="Squares of each window.")
    loss: Literal["charbonnier", "l1", "mse", "psnr", "rms", "root"] = Field(
        "charbonnier",
        description="Of differences: charbonnier (l1, but smooth at 0), l1, mse; psnr (a square that is a decibel "
        "better counts as much as any other), rms (its root mean squared error) or root (of that, between both).",
    )
    widths: tuple[int, ...] | None = Field(
        None, description="Channels of the network: one for artefacts, colour and upscale, else three."
    )
    start_from: str | None = Field(None, description="A network of the same kind to start from: its folder or prefix.")
    num_frames: int = Field(
        5,
        ge=1,
        le=33,
        description="Frames that the network sees; the middle one is enhanced. For interpolate: frames of a window, "
        "out of which two are seen, and one between them is made.",
    )
    fps: float = Field(24.0, gt=0, le=1000, description="Frames a second of a window.")
    short: Literal["pad", "drop"] = Field("drop", description="What happens to videos shorter than a window.")
    frame_size: tuple[int, int] = Field((360, 640), description="HEIGHTxWIDTH of frames, pixels.")
    validation_share: float = Field(0.1, ge=0, le=1, description="Share to choose the best epoch by; the rest: unused.")
    train_share: float = Field(0.9, ge=0, le=1, description="Share of the videos to train with, chosen by hash.")
    ema_decay: float | None = Field(0.999, gt=0, lt=1, description="Of averaged weights, which are then what is kept.")

    @field_validator("widths", mode="before")
    @classmethod
    def _widths_as_text(cls, value: object) -> object:
        return tuple(value.split(",")) if isinstance(value, str) else value

    @field_validator("start_from", mode="before")
    @classmethod
    def _place_is_text(cls, value: object) -> object:
        return path_as_text(value)

    @model_validator(mode="after")
    def _kind_fits(self) -> RestoreConfig:
        if self.kind == "artefacts" and not self.pairs:
            raise ValueError("pairs: False is not allowed with kind artefacts: what a codec does is not imitated here")
        sees_one = self.kind in ("colour", "upscale")
        if sees_one and self.pairs:
            raise ValueError(f"pairs: True is not allowed with kind {self.kind}: pictures are spoilt here")
        if sees_one and self.num_frames != 1:
            raise ValueError(
                f"num_frames: {self.num_frames} is not allowed with kind {self.kind}, which sees one picture"
            )
        if self.kind == "interpolate":
            if self.pairs:
                raise ValueError("pairs: True is not allowed with kind interpolate: nothing is spoilt")
            if self.num_frames < 3:
                raise ValueError(f"num_frames: {self.num_frames} is not allowed with kind interpolate: at least 3")
        elif not sees_one and self.num_frames % 2 == 0:
            raise ValueError(f"num_frames: {self.num_frames} is even, but one frame is the middle one")
        height, width = self.frame_size
        if self.crop > min(height // (2 if self.pairs else 1), width):
            raise ValueError(f"crop: {self.crop} is larger than a frame of {height}x{width}")
        _ = self.network
        return self

    @property
    def network(self) -> EnhancerSpec:
        """What is built."""
        num_frames = 2 if self.kind == "interpolate" else self.num_frames
        return EnhancerSpec.of(self.kind, num_frames=num_frames, widths=self.widths)

    @property
    def score_name(self) -> str:
        """Of the number beside the loss: what the frames that are made come to, in dB."""
        return "psnr"

    def score_of(self, loss: float, score: float) -> float:
        """What an epoch is judged by, the higher the better."""
        return score if math.isfinite(loss) else -math.inf


def load_restore_config(settings: dict[str, Any], config_file: str | Path | None = None) -> RestoreConfig:
    """Merge a YAML file and explicit settings (which win; None means not given) into a checked RestoreConfig.

    Raises ConfigError with one sentence that names the first wrong field, its value and what is allowed.
    """
    return load_settings(RestoreConfig, settings, config_file)
