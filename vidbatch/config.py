"""What a user can set, checked as a whole before the first task starts.

`LabelConfig` is the one list of settings: flags, YAML files and `vidbatch.label(...)` all end here.
A wrong value raises ConfigError in one sentence: the field, its value, what is allowed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vidbatch.errors import ConfigError
from vidbatch.sampling import parse_sampling

_NUMBER: Final = re.compile(r"[-+]?\d+(\.\d+)?")


class RunSettings(BaseModel):
    """What the settings of every kind of run have in common: they are immutable, and have `inputs` and an `output`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("inputs", mode="before", check_fields=False)
    @classmethod
    def _one_input_is_enough(cls, value: object) -> object:
        return (os.fspath(value),) if isinstance(value, str | os.PathLike) else value

    @field_validator("output", mode="before", check_fields=False)
    @classmethod
    def _output_is_text(cls, value: object) -> object:
        return path_as_text(value)

    @field_validator("inputs", check_fields=False)
    @classmethod
    def _inputs_are_absolute(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(absolute, value))

    @field_validator("output", check_fields=False)
    @classmethod
    def _output_is_absolute(cls, value: str) -> str:
        return absolute(value)


class LabelConfig(RunSettings):
    """Settings of one `label` run; immutable. Field descriptions are also the help texts of the flags."""

    inputs: tuple[str, ...] = Field(
        min_length=1,
        description="Directories, prefixes, globs, files, tar shards or manifests; local, s3://, gs://, az:// or http(s)://.",
    )
    output: str = Field(min_length=1, description="Directory or s3://, gs:// or az:// prefix of the tables.")
    model: str = Field(
        "efficientnet-lite0",
        min_length=1,
        description="efficientnet-lite0, a torchvision name (resnet50, resnet50@IMAGENET1K_V2, "
        "resnet50@s3://bucket/w.pth), timm:NAME[@PATH], hf:ORG/NAME[@REVISION] or hf:./DIR (transformers), FILE.onnx, "
        "FILE.pt2, or a bundle (file:DIR, s3://bucket/bundle).",
    )
    sampling: str = Field(
        "fps=1",
        description="fps=F | nearest_keyframe=F | every=N | count=N | keyframes | all | times=COLUMN "
        "(of the manifest, seconds). Of windows: hf: models for videos want fps=F, bundles none.",
    )
    top_k: int = Field(5, ge=1, le=100, description="Labels kept per frame and per video.")
    embedding: bool = Field(False, description="Add the model's embedding (float16) to `frames`.")
    limit: int | None = Field(None, ge=1, description="Work on at most this many videos.")
    batch_size: int = Field(32, ge=1, le=4096, description="Frames the model sees at once.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs: auto, cpu or cuda.")
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = Field(
        "auto",
        description="Of the model's sums: fp32 (auto on CPUs), tf32 (auto on GPUs), bf16 (GPUs, and CPUs that have "
        "instructions for it) or fp16 (GPUs).",
    )
    compile: bool = Field(
        False, description="Let torch compile the model, on GPUs: slower to start, then faster. Needs a C compiler."
    )
    runtime: Literal["auto", "torch"] = Field(
        "auto",
        description="What computes on CPUs: torch, or (auto) ONNX Runtime where it is installed and all layers of the "
        "network are known: faster, with the same scores.",
    )
    hand_over: Literal["rgb", "yuv420"] = Field(
        "rgb",
        description="What decoders hand to models: rgb pictures of the model's size, or unscaled yuv420 ones that are "
        "scaled and converted where the model runs.",
    )
    decode_workers: int | None = Field(None, ge=1, description="Decode actors; default: one a CPU.")
    model_workers: int | None = Field(
        None, ge=1, description="Model actors; default: one a GPU, else one in four CPUs, at least one a node."
    )
    decode_timeout_seconds: float = Field(
        300.0, gt=0, description="A clip that takes longer to decode is killed and tried once more."
    )
    model_timeout_seconds: float = Field(
        600.0, gt=0, description="A model that takes longer for a batch is started anew; its videos are tried alone."
    )
    decode_memory_mb: int = Field(2048, ge=256, description="A decoder process that grows beyond this is killed (MiB).")
    clip_seconds: float = Field(
        120.0, gt=0, description="Long videos are cut at keyframes into clips of about this length."
    )
    long_video_mb: int = Field(
        16, ge=0, description="Videos larger than this (MiB) are opened once beforehand, to be cut into clips."
    )
    max_pixels: int = Field(2**26, ge=1, description="Pictures with more pixels than this fail as `bounds`.")
    max_duration_seconds: float = Field(86_400.0, gt=0, description="Videos longer than this fail as `bounds`.")
    max_packets: int = Field(50_000_000, ge=1, description="Videos with more packets than this fail as `bounds`.")
    max_failed_share: float = Field(
        0.05, ge=0, le=1, description="Exit with 1 when a larger share of the run's videos failed."
    )
    stage_seconds: float = Field(
        20.0, ge=0, description="Finished videos are made durable this often: what a kill can cost."
    )
    retry_failed: bool = Field(False, description="Also retry videos that failed for a permanent reason.")
    partition_by: Literal["none", "date"] = Field(
        "none", description="date: tables below date=<first seen>/, for nightly runs."
    )
    buckets: int = Field(
        16, ge=1, le=4096, description="Files per table (and date); fixed by the first run over an output."
    )

    @field_validator("sampling")
    @classmethod
    def _sampling_parses(cls, value: str) -> str:
        return str(parse_sampling(value))


class PlanConfig(LabelConfig):
    """Settings of `plan`: those of the `label` run that is asked about, and what is asked."""

    measure: int | None = Field(
        None,
        ge=1,
        description="Label so many videos first, taken at random, on the Ray that `label` would use, and predict from "
        "what they take; their rows are thrown away. 24 take half a minute on two cores; the more, the surer.",
    )
    nodes: int | None = Field(
        None, ge=1, description="Nodes to predict for; default: those that were measured, else one."
    )
    cpus_per_node: int | None = Field(
        None, ge=1, description="CPUs of each; default: those of the nodes that were measured, else of this machine."
    )
    hours: float | None = Field(
        None, gt=0, description="Recommend nodes that are done within so many hours, in place of --nodes."
    )
    price_per_hour: float | None = Field(None, ge=0, description="Of a node, in any currency.")

    @model_validator(mode="after")
    def _nodes_or_hours(self) -> Self:
        if self.nodes is not None and self.hours is not None:
            raise ValueError(f"hours: {self.hours:g} is not allowed beside nodes: they are what it recommends")
        return self


def path_as_text(value: object) -> object:
    """The text of a path object; all else as it is."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def absolute(place: str) -> str:
    """A relative path means the driver's folder, wherever the workers are."""
    return place if "://" in place else os.path.abspath(os.path.expanduser(place))


def load_config(settings: dict[str, Any], config_file: str | Path | None = None) -> LabelConfig:
    """Merge a YAML file and explicit settings (which win; None means not given) into a checked LabelConfig.

    Raises ConfigError with one sentence that names the first wrong field, its value and what is allowed.
    """
    return load_settings(LabelConfig, settings, config_file)


Settings = TypeVar("Settings", bound=BaseModel)


def load_settings(kind: type[Settings], settings: dict[str, Any], config_file: str | Path | None = None) -> Settings:
    """The same for another kind of run: its model class of settings."""
    merged = _read_yaml(config_file) if config_file is not None else {}
    merged.update({name: value for name, value in settings.items() if value is not None})
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_first_sentence(error, kind)) from None


def _read_yaml(path: str | Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"config file {str(path)!r} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config file {str(path)!r} is not valid YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"config file {str(path)!r} must hold `name: value` lines, not a {type(content).__name__}")
    return content


def _first_sentence(error: ValidationError, kind: type[BaseModel]) -> str:
    problem = error.errors()[0]
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:  # of several fields together: it names them itself
        return message
    field = ".".join(part for part in problem["loc"] if isinstance(part, str))
    if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
        return f"{field}: no such setting; allowed: {', '.join(kind.model_fields)}"
    if problem["type"] == "missing":
        return f"{field}: not given; it is required"
    given = problem["input"]
    shown = given if isinstance(given, str) and _NUMBER.fullmatch(given) else repr(given)  # as a flag has it
    return f"{field}: {shown} is not allowed: {message[:1].lower()}{message[1:]}"
