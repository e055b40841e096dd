"""What a user can set for an evaluation, checked as a whole before the first task starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from vidbatch.config import LabelConfig, RunSettings, load_settings
from vidbatch.windows import Shares


class EvaluateConfig(RunSettings):
    """Settings of one evaluation; immutable. Field descriptions are also the help texts of the flags."""

    inputs: tuple[str, ...] = Field(
        min_length=1, description="Labelled videos, as for train: folders of a folder per class, manifests, tar shards."
    )
    output: str = Field(
        min_length=1, description="Directory or s3://, gs:// or az:// prefix of the tables, numbers and pictures."
    )
    model: str = Field(min_length=1, description="As for label: a bundle (file:DIR), or any other model.")
    split: Literal["test", "validation", "train", "all"] = Field("test", description="Which videos; all: no split.")
    seed: int = Field(0, ge=0, description="Of the split; if the bundle is from train, that of the training.")
    train_share: float = Field(0.8, ge=0, le=1, description="Of the split; as for the seed.")
    validation_share: float = Field(0.1, ge=0, le=1, description="Of the split; as for the seed.")
    label_column: str = Field("label", min_length=1, description="Column (or key of the .json) that is the label.")
    sampling: str | None = Field(None, description="As for label, for models of single frames, and of hf: for videos.")
    batch_size: int = Field(32, ge=1, le=4096, description="Frames the model sees at once.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs.")
    charts: bool = Field(True, description="Draw the confusion matrix, the curves and the worst mistakes.")

    @property
    def shares(self) -> Shares:
        """Of the splits; what is left is for the test."""
        return Shares.of(self.train_share, self.validation_share)

    def label_settings(self, *inputs: str, output: str) -> LabelConfig:
        """Settings of the label run that does the work."""
        settings: dict[str, Any] = {"inputs": inputs, "output": output, "model": self.model, "top_k": 100}
        settings |= {
            "batch_size": self.batch_size,
            "device": self.device,
            "max_failed_share": 1.0,
        }
        if self.sampling is not None:
            settings["sampling"] = self.sampling
        return load_settings(LabelConfig, settings)


def load_evaluate_config(settings: dict[str, Any], config_file: str | Path | None = None) -> EvaluateConfig:
    """Merge a YAML file and explicit settings (which win; None means not given) into a checked EvaluateConfig.

    Raises ConfigError with one sentence that names the first wrong field, its value and what is allowed.
    """
    return load_settings(EvaluateConfig, settings, config_file)
