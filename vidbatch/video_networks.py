"""A VideoSpec in; a network in torch from windows of images to one score a class out.

N windows of T frames, C image channels, H rows, W columns; K classes. Each frame's feature map is averaged over a grid
of cells, so that where something is survives: globally pooled features do not change when the camera pans. The cells
become one vector a frame, and a head turns T vectors into one:

    mean        their average: blind to the order of frames, unless the network is `correlation`
    lstm, gru   the state after the last real frame
    attention   a class token that sees all real frames and their places (Vaswani et al., 2017)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidbatch import networks
from vidbatch.errors import ConfigError
from vidbatch.input_spec import InputSpec
from vidbatch.schema import FrameSpec
from vidbatch.video_spec import CORRELATION, SMALL, VideoSpec
from vidbatch.video_weights import take_channels

_BEHIND_THE_MAP: Final = ("classifier", "fc", "head", "heads", "AuxLogits", "aux")
"""First names of the modules of torchvision's networks that follow the last feature map."""


# --- one vector a frame ---------------------------------------------------------------------------------------------


class SmallNetwork(nn.Module):
    """Four convolutions for CPUs: images (M, C, H, W) to maps (M, 64, H / 16, W / 16); 0.1 million weights.

    GroupNorm, not BatchNorm: no statistics over the batch, so that results do not depend on how a batch is shared out.
    None after the first layer: it would make a still's noise as loud as motion where differences are all that is seen.
    """

    NUM_MAPS: Final = 64

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, 16, 5, stride=2, padding=2), nn.ReLU(inplace=True)]
        for inputs, outputs in pairwise((16, 32, 64, self.NUM_MAPS)):
            layers.append(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False))
            layers += [nn.GroupNorm(outputs // 8, outputs), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Feature maps of single images."""
        maps: Tensor = self.layers(images)
        return maps


class DetailNetwork(nn.Module):
    """Three convolutions that give every place a name: images (M, C, H, W) to maps (M, 16, H / 4, W / 4).

    No norm: Shifts compares directions of the maps' vectors, whatever their lengths.
    """

    NUM_MAPS: Final = 16

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 8, 5, stride=2, padding=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, self.NUM_MAPS, 3, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Feature maps of single images."""
        maps: Tensor = self.layers(images)
        return maps


class Shifts(nn.Module):
    """Where each place of a frame was in the frame before: maps (N, T, D, H, W) to (N, T, 49, H, W), sums of 1.

    A correlation of neighbouring frames over shifts of up to REACH places (Dosovitskiy et al., FlowNet, 2015), as
    cosines, and a softmax over the shifts. What a picture shows does not matter to it, so few pictures teach motion.
    The first frame is compared with itself; a frame never sees those behind it, padding among them.
    """

    REACH: Final = 3
    NUM_MAPS: Final = (2 * REACH + 1) ** 2

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(2.0))  # its exponential multiplies the cosines

    def forward(self, maps: Tensor) -> Tensor:
        """Shares of the shifts, rows of them from top to bottom."""
        vectors = functional.normalize(maps - maps.mean((-2, -1), keepdim=True), dim=2)
        before = torch.cat([vectors[:, :1], vectors[:, :-1]], dim=1)
        found = correlation(vectors.flatten(0, 1), before.flatten(0, 1), self.REACH)
        return (found * self.sharpness.exp()).softmax(1).reshape(*maps.shape[:2], *found.shape[1:])


def correlation(maps: Tensor, others: Tensor, reach: int) -> Tensor:
    """Dot products of each place's vector with those of `others` up to `reach` rows and columns from there.

    (M, D, H, W) twice in, (M, (2 reach + 1)^2, H, W) out; beyond the border vectors are 0.
    """
    count, _, rows, columns = maps.shape
    shifts = 2 * reach + 1
    left = maps.permute(0, 2, 3, 1).contiguous()
    right = functional.pad(others, (reach,) * 4).transpose(1, 2).contiguous()
    found = []
    for shift in range(shifts):  # a product of whole rows, of which a diagonal band is kept: a third of the time of
        products = left @ right[:, shift : shift + rows]  # one shift after the other, on one core
        picture, row, column, _ = products.stride()
        found.append(products.as_strided((count, rows, columns, shifts), (picture, row, column + 1, 1)))
    return torch.cat(found, dim=3).permute(0, 3, 1, 2)


class _Timm(nn.Module):
    """A timm network without its classifier; what it gives as NHWC or as tokens becomes NCHW."""

    def __init__(self, name: str, frame: FrameSpec) -> None:
        super().__init__()
        self.module = cast(Any, networks.make_module(f"timm:{name}", 2, frame))
        self.module.reset_classifier(0, "")

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.module(images)
        if features.ndim == 4 and features.shape[1] != self.module.num_features:
            features = features.permute(0, 3, 1, 2)
        return features


def _torchvision(architecture: str, frame: FrameSpec) -> nn.Module:
    """The part of an image network, torchvision's or ours, up to its last feature map."""
    from torchvision.models.feature_extraction import create_feature_extractor

    module = networks.make_module(architecture, 2, frame)
    maps: list[str] = []

    def note(name: str) -> Callable[[nn.Module, object, object], None]:
        return lambda _part, _inputs, output: maps.append(name) if _is_map(output) else None

    parts = [(name, part) for name, part in module.named_modules() if name.partition(".")[0] not in _BEHIND_THE_MAP]
    hooks = [part.register_forward_hook(note(name)) for name, part in parts if name]
    with torch.no_grad():
        module(torch.zeros(2, 3, frame.height, frame.width))
    for hook in hooks:
        hook.remove()
    cut: nn.Module = create_feature_extractor(
        module,
        {maps[-1]: "map"},  # a part ends after all that is in it
        suppress_diff_warning=True,  # training adds only what is cut off
    )
    return cut


def _is_map(output: object) -> bool:
    """Whether a module's output still knows where things are: N x D x rows x columns, or N x tokens x D."""
    if not isinstance(output, Tensor):
        return False
    return (output.ndim == 4 and output.shape[2] * output.shape[3] > 1) or (output.ndim == 3 and output.shape[1] > 1)


_OWN: Final = {SMALL: SmallNetwork, CORRELATION: DetailNetwork}


class FrameEncoder(nn.Module):
    """Images (M, C, H, W) to maps (M, D, rows, columns), by the network a spec names."""

    def __init__(self, spec: VideoSpec, inputs: InputSpec, frame: FrameSpec) -> None:
        super().__init__()
        library, _, name = spec.network.rpartition(":")
        if spec.network in _OWN:
            self.module: nn.Module = _OWN[spec.network](inputs.num_channels)
        else:
            self.module = _Timm(name, frame) if library == "timm" else _torchvision(spec.network, frame)
            take_channels(self.module, inputs)
        with torch.no_grad():
            shape = self.eval()(torch.zeros(2, inputs.num_channels, frame.height, frame.width)).shape
        self.num_maps: int = shape[1]
        if min(shape[2:]) < spec.grid:
            raise ConfigError(
                f"model: {spec.network} sees frames of {frame.width} x {frame.height} as {shape[3]} x {shape[2]} "
                f"cells, less than the grid of {spec.grid} x {spec.grid}: give it larger frames or take a smaller grid"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Feature maps of single images."""
        found: Tensor | dict[str, Tensor] = self.module(images)
        maps = found["map"] if isinstance(found, dict) else found
        if maps.ndim == 3:  # tokens in reading order of a square, after class tokens and the like
            side = math.isqrt(maps.shape[1])
            cells = maps[:, maps.shape[1] - side * side :].transpose(1, 2)
            maps = cells.reshape(*cells.shape[:2], side, side)
        return maps


# --- one vector a window --------------------------------------------------------------------------------------------


class MeanHead(nn.Module):
    """The average over real frames: (N, T, width) to (N, width)."""

    def forward(self, frames: Tensor, is_real: Tensor) -> Tensor:
        """Average of the frames that are no padding."""
        weights = is_real.to(frames.dtype).unsqueeze(2)
        return (frames * weights).sum(1) / weights.sum(1).clamp(min=1)


class RecurrentHead(nn.Module):
    """An LSTM's or a GRU's output after the last real frame; padding comes after it and is never looked at."""

    def __init__(self, spec: VideoSpec) -> None:
        super().__init__()
        kind = nn.LSTM if spec.head == "lstm" else nn.GRU
        dropout = spec.dropout if spec.layers > 1 else 0.0
        self.layers = kind(spec.width, spec.width, spec.layers, batch_first=True, dropout=dropout)

    def forward(self, frames: Tensor, is_real: Tensor) -> Tensor:
        """State after the last frame that is no padding."""
        states: Tensor = self.layers(frames)[0]
        last = (is_real.sum(1) - 1).clamp(min=0)
        return states[torch.arange(len(states), device=states.device), last]


class AttentionHead(nn.Module):
    """A transformer encoder over a class token and the real frames, whose places are added as sines and cosines."""

    def __init__(self, spec: VideoSpec) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, spec.width))
        layer = nn.TransformerEncoderLayer(
            spec.width, spec.attention_heads, 2 * spec.width, spec.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, spec.layers, norm=nn.LayerNorm(spec.width), enable_nested_tensor=False
        )

    def forward(self, frames: Tensor, is_real: Tensor) -> Tensor:
        """What the class token has become."""
        placed = frames + _places(frames)
        tokens = torch.cat([self.class_token.expand(len(frames), -1, -1).to(placed), placed], dim=1)
        ignored = functional.pad(~is_real, (1, 0), value=False)
        found: Tensor = self.layers(tokens, src_key_padding_mask=ignored)
        return found[:, 0]


def _places(frames: Tensor) -> Tensor:
    """Sinusoidal positional encoding (Vaswani et al., 2017) of T places: (T, width)."""
    _, count, width = frames.shape
    places = torch.arange(count, device=frames.device, dtype=torch.float32)
    rates = torch.exp(torch.arange(0, width, 2, device=frames.device) * (-math.log(10_000.0) / width))
    angles = places[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width].to(frames.dtype)


# --- the whole ------------------------------------------------------------------------------------------------------


class WindowNetwork(nn.Module):
    """What both kinds of network have in common: how they are called, and what stays frozen.

    Attributes: `body` is what may start from weights trained elsewhere; the rest starts at random.
    """

    body: nn.Module
    last_layer: str = ""
    """Name in `body` of the layer that gives the scores, if it is there."""

    def __init__(self, spec: VideoSpec) -> None:
        super().__init__()
        self.spec = spec

    def train(self, mode: bool = True) -> WindowNetwork:
        """As nn.Module has it, but frozen batch norms stay in eval mode: one batch's statistics never matter."""
        super().train(mode)
        if self.spec.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Tensor, is_real: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        """Logits (N, K) of images (N, T, C, H, W).

        Args: `is_real` bool (N, T), False for padding, which follows the real frames; None: all are real. `features`
        (N, T, F) as transforms.Inputs has them.
        """
        raise NotImplementedError

    def body_state(self) -> dict[str, Tensor]:
        """Weights of the body, under the names that its library gives them."""
        return self._library_module().state_dict()

    def load_body_state(self, state: dict[str, Tensor]) -> None:
        """Replace weights of the body by those given, under the same names."""
        self._library_module().load_state_dict(state, strict=False)

    def is_last_layer(self, name: str) -> bool:
        """Whether a weight of the body belongs to the layer that gives the scores."""
        return bool(self.last_layer) and name.startswith(f"{self.last_layer}.")

    def _library_module(self) -> nn.Module:
        return self.body


class FramesNetwork(WindowNetwork):
    """An image network for every frame, with `correlation` the shifts between neighbours, and a head for their order.

    Padding does not change its answer.
    """

    def __init__(self, spec: VideoSpec, inputs: InputSpec, frame: FrameSpec, num_classes: int) -> None:
        super().__init__(spec)
        self.body = FrameEncoder(spec, inputs, frame)
        self.shifts = Shifts() if spec.network == CORRELATION else None
        num_maps = self.body.num_maps if self.shifts is None else Shifts.NUM_MAPS
        values = num_maps * spec.grid**2 + inputs.num_features
        self.project = nn.Sequential(nn.Linear(values, spec.width), nn.LayerNorm(spec.width), nn.GELU())
        self.dropout = nn.Dropout(spec.dropout)
        if spec.head == "mean":
            self.head: nn.Module = MeanHead()
        else:
            self.head = AttentionHead(spec) if spec.head == "attention" else RecurrentHead(spec)
        self.classifier = nn.Linear(spec.width, num_classes)

    def forward(self, images: Tensor, is_real: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        """Logits (N, K); see WindowNetwork."""
        windows, frames = images.shape[:2]
        maps = self.body(images.flatten(0, 1))
        if self.shifts is not None:
            maps = self.shifts(maps.reshape(windows, frames, *maps.shape[1:])).flatten(0, 1)
        cells = functional.adaptive_avg_pool2d(maps, self.spec.grid).reshape(windows, frames, -1)
        if features is not None:
            cells = torch.cat([cells, features], dim=2)
        if is_real is None:
            is_real = torch.ones(windows, frames, dtype=torch.bool, device=images.device)
        logits: Tensor = self.classifier(self.dropout(self.head(self.project(cells), is_real)))
        return logits

    def _library_module(self) -> nn.Module:
        module = self.body.module
        assert isinstance(module, nn.Module)
        return cast(nn.Module, module.module) if isinstance(module, _Timm) else module


class WholeNetwork(WindowNetwork):
    """A video network of torchvision. It has no mask: padding, which repeats the last frame, is seen as a still."""

    def __init__(self, spec: VideoSpec, inputs: InputSpec, frame: FrameSpec, num_classes: int, num_frames: int) -> None:
        super().__init__(spec)
        import torchvision

        if inputs.features:
            raise ConfigError(f"model: {spec.network} takes images only: features are for a head")
        name = spec.network.partition(":")[2]
        self.body = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
        take_channels(self.body, inputs)
        parts = [name for name, part in self.body.named_modules() if isinstance(part, nn.Linear | nn.Conv3d)]
        self.last_layer = parts[-1]
        _check_window_fits(name, frame, num_frames)

    def forward(self, images: Tensor, is_real: Tensor | None = None, features: Tensor | None = None) -> Tensor:  # noqa: ARG002  # the base's arguments
        """Logits (N, K); see WindowNetwork."""
        logits: Tensor = self.body(images.transpose(1, 2))
        return logits


def _check_window_fits(name: str, frame: FrameSpec, num_frames: int) -> None:
    import torchvision

    with torch.device("meta"), torch.inference_mode():  # shapes only: nothing is computed
        module = torchvision.models.get_model(name, weights=None).eval()
        try:
            module(torch.empty(1, 3, num_frames, frame.height, frame.width))
        except (RuntimeError, ValueError) as error:
            size = f"{num_frames} frames of {frame.width} x {frame.height}"
            raise ConfigError(f"model: {name} cannot take windows of {size}: {error}") from None


def build_video_network(
    spec: VideoSpec, inputs: InputSpec, frame: FrameSpec, *, num_frames: int, num_classes: int, seed: int = 0
) -> WindowNetwork:
    """The network with random weights that depend on `seed` alone, in training mode, on the CPU.

    Raises ConfigError for frames or windows that are too small for it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if spec.is_video_network:
            return WholeNetwork(spec, inputs, frame, num_classes, num_frames).train()
        return FramesNetwork(spec, inputs, frame, num_classes).train()
