"""What a user can set for the training of a classifier, checked as a whole before the first task starts.

`TrainConfig` is the one list of settings: flags, YAML files and `vidbatch.train(...)` all end here.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from vidbatch.bundles import WindowModel
from vidbatch.config import load_settings
from vidbatch.input_spec import AugmentSpec, Channel, Feature, InputSpec
from vidbatch.training.settings import TrainSettings
from vidbatch.video_spec import VideoSpec


class TrainConfig(TrainSettings):
    """Settings of one training run; immutable. Field descriptions are also the help texts of the flags."""

    # --- data
    labels: tuple[str, ...] | None = Field(None, description="The classes, in order; default: all found, sorted.")
    task: Literal["classes", "regression"] = Field(
        "classes", description="regression: labels are numbers, and what is trained is how far off the model is."
    )
    label_column: str = Field("label", min_length=1, description="Column (or key of the .json) that is the label.")
    min_score: float = Field(0.0, ge=0, le=1, description="Leave rows with a lower `score` out (pseudo-labels).")

    # --- model
    model: str = Field("small+gru", min_length=1, description="NETWORK+HEAD (resnet18+gru) or a video network.")
    grid: int = Field(4, ge=1, le=16, description="Rows and columns of cells that a frame's features keep.")
    head_width: int = Field(128, ge=8, le=4096, description="Values a frame has in the head.")
    head_layers: int = Field(1, ge=1, le=24, description="Layers of the head.")
    attention_heads: int = Field(4, ge=1, le=64, description="Of each attention layer.")
    dropout: float = Field(0.1, ge=0, lt=1, description="In the head.")
    freeze_batch_norm: bool = Field(True, description="Keep the statistics of the weights the training starts from.")
    start_from: str | None = Field(
        None,
        description="Weights of the image network to start from: a file or URL (.pth, .pt, .safetensors), or a "
        "name under which torchvision publishes them (IMAGENET1K_V1, DEFAULT).",
    )
    freeze_body: bool = Field(False, description="Train the head only.")
    unfreeze_at: int | None = Field(None, ge=1, description="After so many epochs a frozen body is trained, too.")

    # --- what it sees
    mean: tuple[float, float, float] = Field((0.5, 0.5, 0.5), description="Subtracted from values 0 to 1, R,G,B.")
    std: tuple[float, float, float] = Field((0.25, 0.25, 0.25), description="Then divided by, R,G,B.")
    channels: tuple[Channel, ...] = Field(("rgb",), min_length=1, description="Of the images a network sees.")
    features: tuple[Feature, ...] = Field((), description="Averages over cells that join a frame's features.")
    median: Literal[0, 3, 5] = Field(0, description="Side of a median filter, pixels; 0: none.")
    gaussian_sigma: float = Field(0.0, ge=0, le=10, description="Of a Gaussian filter, pixels; 0: none.")
    cells: int = Field(4, ge=1, le=32, description="Rows and columns of the grid of energy and features.")
    gain: float = Field(4.0, gt=0, le=100, description="What differences of frames are multiplied by.")
    augment: AugmentSpec = Field(
        AugmentSpec.model_validate({}), description="Random changes of windows, as JSON: see AugmentSpec."
    )

    # --- optimisation
    body_factor: float = Field(1.0, ge=0, le=100, description="The body's learning rate is so many times the head's.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Of cross-entropy.")
    loss: Literal["mse", "l1"] = Field(
        "mse", description="Of a regression: the mean squared or the mean absolute error; outliers count less in l1."
    )
    balance: Literal["none", "weights", "sampling"] = Field(
        "none", description="weights: rare classes weigh more in the loss; sampling: they are seen more often."
    )
    monitor: Literal["loss", "accuracy"] = Field("loss", description="What says which epoch is the best.")

    @field_validator("labels", "channels", "features", "mean", "std", mode="before")
    @classmethod
    def _lists_as_text(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("augment", mode="before")
    @classmethod
    def _augment_as_text(cls, value: object) -> object:
        return json.loads(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.augment.mixup_alpha and self.slice_size % 2:
            raise ValueError(f"slice_size: {self.slice_size} is odd, but mixup goes by pairs")
        for name in ("labels", "balance", "label_smoothing", "monitor") if self.task == "regression" else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not allowed with task regression")
        if self.task == "classes" and self.loss != "mse":
            raise ValueError(f"loss: {self.loss!r} is not allowed with task classes, of which it is cross-entropy")
        if self.unfreeze_at is not None and not self.freeze_body:
            raise ValueError(f"unfreeze_at: {self.unfreeze_at} is not allowed without freeze_body")
        try:
            _ = self.video
        except ValidationError as error:  # a sentence of one of its parts, instead of a list of them
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return self

    @property
    def video(self) -> WindowModel:
        """The model as its bundle has it."""
        network = VideoSpec.of(
            self.model,
            grid=self.grid,
            width=self.head_width,
            layers=self.head_layers,
            attention_heads=self.attention_heads,
            dropout=self.dropout,
            freeze_batch_norm=self.freeze_batch_norm,
        )
        names = ("median", "gaussian_sigma", "channels", "features", "cells", "gain")
        inputs = InputSpec.model_validate({name: getattr(self, name) for name in names})
        return WindowModel(network=network, inputs=inputs, windows=self.windows)

    @property
    def held_epochs(self) -> int:
        """So many epochs the body is not trained, if it is trained at all."""
        return self.unfreeze_at or 0

    @property
    def is_balanced(self) -> bool:
        """Whether an epoch shows each class as often as the most frequent one."""
        return self.balance == "sampling"

    @property
    def score_name(self) -> str:
        """Of the number beside the loss: the mean absolute error is in the target's unit."""
        return "accuracy" if self.task == "classes" else "mean_error"

    def score_of(self, loss: float, accuracy: float) -> float:
        """What an epoch is judged by, the higher the better."""
        score = accuracy if self.monitor == "accuracy" else -loss
        return score if math.isfinite(score) else -math.inf


def load_train_config(settings: dict[str, Any], config_file: str | Path | None = None) -> TrainConfig:
    """Merge a YAML file and explicit settings (which win; None means not given) into a checked TrainConfig.

    Raises ConfigError with one sentence that names the first wrong field, its value and what is allowed.
    """
    return load_settings(TrainConfig, settings, config_file)
