"""Our own model format: a folder or prefix in; weights, architecture, labels and preprocessing of one model out.

<bundle>/model.safetensors    the state dict
<bundle>/config.json          BundleConfig: everything else that a label depends on

`vidbatch-bundle-1` is a network for single frames; `vidbatch-bundle-2` one for windows of frames, which has `video`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from vidbatch import storage
from vidbatch.errors import ConfigError
from vidbatch.input_spec import InputSpec
from vidbatch.model_names import LITE0, known_architecture
from vidbatch.schema import Fit, FrameSpec
from vidbatch.video_spec import VideoSpec
from vidbatch.windows import WindowSpec

if TYPE_CHECKING:
    import torch

Rgb = tuple[float, float, float]
HALF: Final[Rgb] = (0.5, 0.5, 0.5)
Size = Annotated[int, Field(ge=8, le=4096)]

Format = Literal["vidbatch-bundle-1", "vidbatch-bundle-2"]
_OF_FRAMES: Final[Format] = "vidbatch-bundle-1"
_OF_WINDOWS: Final[Format] = "vidbatch-bundle-2"


class Preprocessing(NamedTuple):
    """What frames a model wants, and what is done to them: (value / 255 - mean) / std."""

    frame: FrameSpec
    mean: Rgb
    std: Rgb


class TargetSpec(BaseModel):
    """A number that a model tells, instead of classes: its one output * std + mean. The label is the number's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float = Field(allow_inf_nan=False)
    std: float = Field(gt=0, allow_inf_nan=False)


class Windowed(BaseModel):
    """How a model looks at windows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: InputSpec = InputSpec.model_validate({})
    windows: WindowSpec
    target: TargetSpec | None = None
    """None: the model tells classes."""


class WindowModel(Windowed):
    """What looks at windows, and how: training and labelling do the same with it."""

    network: VideoSpec


class PictureSpec(BaseModel):
    """What a model sees and calls its classes; frames are (value / 255 - mean) / std, channels in RGB order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: tuple[str, ...] | None = Field(None, min_length=1)
    """One a class, in the order of the last layer; None: ImageNet's names for 1000 classes, else class_0, class_1, …"""
    height: Size = 224
    width: Size = 224
    crop_share: float = Field(0.875, gt=0, le=1)
    interpolation: Literal["bilinear", "bicubic", "lanczos", "area"] = "bicubic"
    fit: Fit = "crop"
    """What is done to pictures of another shape: schema.FrameSpec."""
    mean: Rgb = HALF
    std: Rgb = HALF

    @field_validator("std")
    @classmethod
    def _can_divide(cls, value: Rgb) -> Rgb:
        if min(value) <= 0:
            raise ValueError("all three must be above 0")
        return value

    @property
    def frame(self) -> FrameSpec:
        """The frames this model wants."""
        return FrameSpec(self.height, self.width, self.crop_share, self.interpolation, self.fit)


class BundleConfig(PictureSpec):
    """config.json of a bundle."""

    format: Format = _OF_FRAMES
    video: WindowModel | None = None
    """None: a network for single frames."""
    architecture: str = Field("", validate_default=True)
    """torchvision:NAME, timm:NAME, efficientnet-lite0 or stamp; with `video`, the name of its network."""

    @model_validator(mode="before")
    @classmethod
    def _format_follows(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("video") is not None:
            return {"format": _OF_WINDOWS, **given}
        return given

    @field_validator("architecture")
    @classmethod
    def _is_known(cls, value: str, others: ValidationInfo) -> str:
        video = others.data.get("video")
        if video is None:
            if not value:
                raise ValueError("not given; it is required")
            return known_architecture(value)
        if value not in ("", video.network.name):
            raise ValueError(f"{value!r} is not the name of the network of `video`, {video.network.name!r}")
        name: str = video.network.name
        return name

    @model_validator(mode="after")
    def _size_fits(self) -> BundleConfig:
        if self.architecture == LITE0 and (self.height % 32 or self.width % 32):
            raise ValueError(f"height and width must be multiples of 32 for {LITE0}")
        if self.video is not None and self.video.target is not None and len(self.labels or ()) != 1:
            raise ValueError("a model that tells a number has one label, its name")
        if (self.video is not None) != (self.format == _OF_WINDOWS):
            raise ValueError(f"{self.format} has {'no' if self.video else 'a'} `video`")
        return self


def read_bundle(url: str) -> tuple[BundleConfig, bytes]:
    """A bundle's config and its weights (safetensors). Raises ConfigError for what is not a bundle."""
    place = storage.join(url, "config.json")
    try:
        found = storage.read_bytes(place)
    except OSError as error:
        raise ConfigError(f"model: {storage.redact(url)!r} is not a bundle: {error}") from error
    if b'"model_type"' in found and b'"architectures"' in found:
        named = storage.redact(url)
        raise ConfigError(f"model: {named!r} is a model of transformers, not a bundle: name it as hf:{named}")
    config = read_spec(BundleConfig, found, place)
    try:
        return config, storage.read_bytes(storage.join(url, "model.safetensors"))
    except OSError as error:
        raise ConfigError(f"model: {storage.redact(url)!r} is not a whole bundle: {error}") from error


Spec = TypeVar("Spec", bound=PictureSpec)


def read_spec(kind: type[Spec], content: bytes, place: str) -> Spec:
    """A file's content, checked. Raises ConfigError that names the file at `place` and its first wrong field."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise ConfigError(f"model: {storage.redact(place)}: {_first_sentence(error, kind)}") from None


def save_bundle(url: str | os.PathLike[str], state: Mapping[str, torch.Tensor], config: BundleConfig) -> None:
    """Write a bundle to a folder or s3:// prefix; config.json comes last, so that a half-written one is none.

    Args: `state` is the module's `state_dict()`, on any device. Raises StorageError.
    """
    from vidbatch.networks import to_safetensors

    base = os.fspath(url)
    text = json.dumps(config.model_dump(mode="json"), indent=1, ensure_ascii=False)
    storage.put(storage.join(base, "model.safetensors"), to_safetensors(state))
    storage.put(storage.join(base, "config.json"), text.encode())


def _first_sentence(error: ValidationError, kind: type[PictureSpec]) -> str:
    problem = error.errors()[0]
    field = str(problem["loc"][0]) if problem["loc"] else "config"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("model: ")
    if field == "format":
        read = " and ".join(get_args(Format))
        return f"format: {problem['input']!r} is of another version of vidbatch; this one reads {read}"
    if problem["type"] == "extra_forbidden":
        return f"{field}: no such field; allowed: {', '.join(kind.model_fields)}"
    if problem["type"] == "missing":
        return f"{field}: not given; it is required"
    if problem["type"] == "json_invalid":
        return f"not valid JSON: {message}"
    return f"{field}: {message[:1].lower()}{message[1:]}"
