"""Settings of a network that enhances, and the folder or prefix that it is kept in.

<folder>/model.safetensors    the state dict, half precision
<folder>/config.json          EnhancerSpec: what it is, and how it was trained

Those that come with vidbatch lie in weights/ beside this file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vidbatch import storage
from vidbatch.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["denoise", "artefacts", "colour", "interpolate", "upscale"]
SHIPPED: Final = "vidbatch:"
"""What the place of a network that comes with vidbatch begins with: it lies elsewhere on every machine."""
_WEIGHTS: Final = Path(__file__).parent / "weights"
_WIDTHS: Final[dict[str, tuple[int, ...]]] = {
    "denoise": (32, 48, 96),
    "artefacts": (32,),
    "colour": (96,),
    "interpolate": (16, 48, 64),
    "upscale": (32,),
}


class EnhancerSpec(BaseModel):
    """config.json of a network that enhances."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["vidbatch-enhancer-1"] = "vidbatch-enhancer-1"
    kind: Kind
    num_frames: int = Field(ge=1, le=33)
    """Frames that are looked at; the middle one is enhanced, or one between two is made."""
    widths: tuple[int, ...]
    """Channels; see denoiser.Denoiser, cleaner.Cleaner, levels.Levels, interpolator.Interpolator, upscaler.Upscaler."""
    trained: dict[str, Any] = {}
    """Settings and figures of the training, for people."""

    @model_validator(mode="after")
    def _widths_fit(self) -> EnhancerSpec:
        wanted = len(_WIDTHS[self.kind])
        if len(self.widths) != wanted or not all(4 <= width <= 1024 for width in self.widths):
            raise ValueError(f"widths: {self.widths} is not allowed: {wanted} of 4 to 1024 channels")
        return self

    @classmethod
    def of(cls, kind: Kind, *, num_frames: int, widths: tuple[int, ...] | None = None) -> EnhancerSpec:
        """With the widths that are the default for its kind."""
        return cls(kind=kind, num_frames=num_frames, widths=widths or _WIDTHS[kind])

    def build(self, seed: int = 0) -> nn.Module:
        """The network, at random."""
        import torch

        from vidbatch.restoring.cleaner import Cleaner
        from vidbatch.restoring.denoiser import Denoiser
        from vidbatch.restoring.interpolator import Interpolator
        from vidbatch.restoring.levels import Levels
        from vidbatch.restoring.upscaler import Upscaler

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.kind == "artefacts":
                return Cleaner(self.num_frames, *self.widths)
            if self.kind == "upscale":
                return Upscaler(*self.widths)
            if self.kind == "interpolate":
                return Interpolator(self.widths)
            return Levels(*self.widths) if self.kind == "colour" else Denoiser(self.num_frames, self.widths)


class Enhancer(NamedTuple):
    """A network as it is kept."""

    spec: EnhancerSpec
    weights: bytes
    """safetensors"""

    @property
    def digest(self) -> str:
        """12 hex digits over all that its results depend on."""
        spec = self.spec.model_dump_json(exclude={"trained"})
        return hashlib.sha256(spec.encode() + self.weights).hexdigest()[:12]

    def load(self) -> nn.Module:
        """The network, to be used. Raises ConfigError for weights of another network."""
        return start(self.spec.build(), self.weights, self.spec.kind).eval()


def start(network: nn.Module, weights: bytes, where: str) -> nn.Module:
    """The network with the weights of a file. Raises ConfigError for those of another one."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        network.load_state_dict({name: value.float() for name, value in load(weights).items()})
    except (RuntimeError, SafetensorError) as error:
        raise ConfigError(f"{where}: not the weights of this network: {str(error).splitlines()[0]}") from None
    return network


def read_enhancer(place: str) -> Enhancer:
    """What a folder or prefix holds, or vidbatch:NAME. Raises ConfigError for one that holds no such network."""
    base = str(_WEIGHTS / place.removeprefix(SHIPPED)) if place.startswith(SHIPPED) else place
    try:
        text = storage.read_bytes(storage.join(base, "config.json"))
        weights = storage.read_bytes(storage.join(base, "model.safetensors"))
    except OSError as error:
        raise ConfigError(f"{storage.redact(place)!r} is not a network that enhances: {error}") from error
    try:
        return Enhancer(EnhancerSpec.model_validate_json(text), weights)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"])) or "config.json"
        raise ConfigError(f"{storage.redact(place)}/config.json: {field}: {problem['msg']}") from None


def save_enhancer(place: str, state: Mapping[str, Any], spec: EnhancerSpec) -> None:
    """Write a folder or prefix; config.json comes last, so that a half-written one is none. Raises StorageError.

    Args: `state` is the network's state dict, on any device; it is kept in half precision.
    """
    from safetensors.torch import save

    halves = {name: value.detach().cpu().half().contiguous() for name, value in state.items()}
    storage.put(storage.join(place, "model.safetensors"), save(halves))
    text = json.dumps(spec.model_dump(mode="json"), indent=1, ensure_ascii=False)
    storage.put(storage.join(place, "config.json"), text.encode())
