"""Names and numbers in; which network looks at windows, checked and ready for JSON, out. Without torch.

`resnet18+gru` is an image network (torchvision, timm or ours) that sees each frame, and a head that sees their order;
`r3d_18` is a network of torchvision that sees a window whole. video_networks.py builds them.
"""

from __future__ import annotations

import difflib
from typing import Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from vidbatch.errors import ConfigError
from vidbatch.model_names import STAMP, known_architecture, torchvision_tasks

Head = Literal["mean", "lstm", "gru", "attention"]
HEADS: Final[tuple[Head, ...]] = get_args(Head)

SMALL: Final = "small"
"""Our own image network for CPUs."""
CORRELATION: Final = "correlation"
"""Our own for motion, for CPUs too: it looks for each place of a frame in the frame before."""
OWN: Final = (SMALL, CORRELATION)


class VideoSpec(BaseModel):
    """A network for windows; stands in a bundle's config. Everything but `network` and `head` matters to heads only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str = Field(
        description="small, correlation, an image network (resnet18, timm:NAME) or a video network (r3d_18)."
    )
    head: Head | None = Field(None, description="What sees the order of frames; None for video networks.")
    grid: int = Field(4, ge=1, le=16, description="Rows and columns of cells that a frame's features keep.")
    width: int = Field(128, ge=8, le=4096, description="Values a frame has in the head.")
    layers: int = Field(1, ge=1, le=24, description="Layers of the head.")
    attention_heads: int = Field(4, ge=1, le=64, description="Of each attention layer; they share the width.")
    dropout: float = Field(0.1, ge=0, lt=1)
    freeze_batch_norm: bool = Field(True, description="Statistics stay those of the weights the training starts from.")

    @classmethod
    def of(cls, text: str, **settings: object) -> VideoSpec:
        """The spec of `NETWORK+HEAD` or `VIDEO_NETWORK`. Raises ConfigError for what is neither."""
        network, _, head = text.partition("+")
        if head and head not in HEADS:
            raise ConfigError(f"model: head {head!r} is not allowed: {', '.join(HEADS)}")
        return cls.model_validate({"network": network, "head": head or None, **settings})

    @field_validator("network")
    @classmethod
    def _is_known(cls, value: str) -> str:
        return known_network(value)

    @model_validator(mode="after")
    def _head_fits(self) -> VideoSpec:
        if self.is_video_network and self.head is not None:
            raise ValueError(f"{self.network} sees windows whole: it takes no head")
        if not self.is_video_network and self.head is None:
            raise ValueError(f"{self.network} sees single frames: add a head, such as {self.network}+gru")
        if self.head == "attention" and self.width % self.attention_heads:
            raise ValueError(f"width: {self.width} is not a multiple of attention_heads, {self.attention_heads}")
        return self

    @property
    def is_video_network(self) -> bool:
        """Whether the network sees windows whole."""
        library, _, name = self.network.partition(":")
        return library == "torchvision" and torchvision_tasks()[name] == "video"

    @property
    def name(self) -> str:
        """For people and tables: `small+gru`, `torchvision:r3d_18`."""
        return self.network if self.head is None else f"{self.network}+{self.head}"


def known_network(text: str) -> str:
    """The full name of a network for windows or their frames. Raises ConfigError with close matches otherwise."""
    if text in OWN:
        return text
    video_names = [name for name, task in torchvision_tasks().items() if task == "video"]
    name = text.removeprefix("torchvision:")
    if name in video_names:
        return f"torchvision:{name}"
    if text == STAMP:
        raise ConfigError(f"model: {text!r} has no features to train a head on")
    close = difflib.get_close_matches(name, [*video_names, *OWN], n=1, cutoff=0.8)
    try:
        return known_architecture(text)
    except ConfigError as error:
        if close:
            raise ConfigError(f"model: there is no {text!r}; did you mean {close[0]}?") from error
        raise
