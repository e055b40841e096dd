"""Weights trained elsewhere in; a network for windows that starts from them, its parts frozen or grouped by rate, out.

`body` names the part of a video_networks.WindowNetwork that may be trained already; the rest begins at random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from vidbatch import networks
from vidbatch.errors import ModelError
from vidbatch.input_spec import CHANNELS, InputSpec
from vidbatch.model_names import LITE0
from vidbatch.schema import FrameSpec

if TYPE_CHECKING:
    from vidbatch.video_networks import WindowNetwork

_NORMS: Final = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


# --- first layer ----------------------------------------------------------------------------------------------------


def take_channels(module: nn.Module, inputs: InputSpec) -> None:
    """Let a network of RGB images take the spec's channels; RGB's weights stay, others are drawn as PyTorch does."""
    if inputs.channels == ("rgb",):
        return
    first = _first_convolution(module)
    old = first.weight.detach()
    first.in_channels = inputs.num_channels
    first.weight = nn.Parameter(old.new_empty(old.shape[0], inputs.num_channels, *old.shape[2:]))
    nn.init.kaiming_uniform_(first.weight, a=math.sqrt(5))
    if "rgb" in inputs.channels:
        place = _place_of_rgb(inputs)
        with torch.no_grad():
            first.weight[:, place : place + 3] = old


def _first_convolution(module: nn.Module) -> nn.Conv2d | nn.Conv3d:
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Conv3d) and part.in_channels == 3:
            return part
    raise ModelError("the network has no convolution of 3 channels that could take others")


def _place_of_rgb(inputs: InputSpec) -> int:
    return sum(CHANNELS[name] for name in inputs.channels[: inputs.channels.index("rgb")])


def _for_channels(given: Tensor, wanted: Tensor, inputs: InputSpec) -> Tensor | None:
    """A first layer's RGB weights for the spec's channels; None where these are weights of something else."""
    if given.ndim < 4 or given.shape[1] != 3 or wanted.shape[1] != inputs.num_channels:
        return None
    if given.shape[:1] + given.shape[2:] != wanted.shape[:1] + wanted.shape[2:]:
        return None
    if "rgb" not in inputs.channels:
        return given.sum(1, keepdim=True).div(inputs.num_channels).expand_as(wanted).clone()
    place = _place_of_rgb(inputs)
    spread = torch.zeros_like(wanted)
    spread[:, place : place + 3] = given
    return spread


# --- start ----------------------------------------------------------------------------------------------------------


def read_weights(architecture: str, weights: bytes, frame: FrameSpec, where: str) -> Mapping[str, Tensor]:
    """The state dict of a weights file, under the names of the architecture. Raises ModelError for what is none."""
    state = networks.read_state(weights, where)
    if architecture == LITE0:  # whose published file goes by other names
        return networks.fill(networks.make_module(LITE0, 1000, frame), state, where).state_dict()
    return state


def start_from(network: WindowNetwork, state: Mapping[str, Tensor], inputs: InputSpec, where: str) -> None:
    """Copy the weights of the same network, trained elsewhere on RGB images, into the body; heads and a video network's
    last layer stay as they are.

    The first layer's weights of other channels become 0, so that the network begins with what it knew; without RGB
    each channel gets the average of RGB's. Raises ModelError that names the first weight which is missing or misshapen.
    """
    filled = {}
    for name, value in network.body_state().items():
        if network.is_last_layer(name):
            continue
        given = state.get(name)
        if given is not None and given.shape != value.shape:
            given = _for_channels(given, value, inputs)
        if given is None and not name.endswith("num_batches_tracked"):  # counts training steps; old files lack it
            problem = "has another shape" if name in state else "is missing"
            raise ModelError(f"{where}: {name!r}, which the network needs, {problem}")
        filled[name] = value if given is None else given
    network.load_body_state(filled)


# --- what is trained, and how fast ----------------------------------------------------------------------------------


def set_frozen(network: WindowNetwork, is_frozen: bool) -> None:
    """Freeze or unfreeze the body; a video network's last layer stays trainable."""
    for name, weight in network.body.named_parameters():
        if not network.is_last_layer(name):
            weight.requires_grad_(not is_frozen)


def parameter_groups(
    network: WindowNetwork, *, learning_rate: float, body_factor: float = 1.0, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Groups for a torch optimizer, named `body`, `body_no_decay`, `head`, `head_no_decay`; empty ones left out.

    Args: the body's learning rate is `body_factor` times that of the rest. Biases, norms and class tokens do not decay;
    frozen weights are in no group.
    """
    body = {id(weight) for name, weight in network.body.named_parameters() if not network.is_last_layer(name)}
    norms = {id(w) for part in network.modules() if isinstance(part, _NORMS) for w in part.parameters(recurse=False)}
    groups: dict[str, list[nn.Parameter]] = {}
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            where = "body" if id(weight) in body else "head"
            decays = weight.ndim > 1 and id(weight) not in norms and not name.endswith("class_token")
            groups.setdefault(where if decays else f"{where}_no_decay", []).append(weight)
    return [
        {
            "name": name,
            "params": weights,
            "lr": learning_rate * (body_factor if name.startswith("body") else 1.0),
            "weight_decay": 0.0 if name.endswith("no_decay") else weight_decay,
        }
        for name, weights in groups.items()
    ]
