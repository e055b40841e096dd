"""Networks in torch: an architecture's name and weights in; a callable from uint8 frames to probabilities out.

The only module that defines, builds and fills networks. Layouts: frames_nhwc are uint8 RGB as the decoder gives them,
images_nchw float32 normalised. C is the number of classes, D the embedding size.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from vidbatch import computing, hf_models, programs
from vidbatch.computing import USUAL, How
from vidbatch.cores import Cores
from vidbatch.errors import ModelError
from vidbatch.model_names import LITE0, STAMP
from vidbatch.onnx_networks import Program, program_of
from vidbatch.schema import FrameSpec

if TYPE_CHECKING:
    from vidbatch.models import ModelSpec
    from vidbatch.program_networks import ProgramNetwork
    from vidbatch.window_networks import NetworkOfWindows

CPU_SLICE_FRAMES: Final = 4
"""Frames a CPU runs at once, whatever the batch: the default model takes 12.4 ms a frame at 4, 16.7 at 8, 21.3 at 32 on
one core, because the layers of 4 frames stay in the cache and below 32 MiB, where malloc maps fresh pages each time."""

_UNREADABLE: Final = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError,
    OverflowError, struct.error,
)  # fmt: skip
"""What torch.load raises for files that are not its own, depending on where in the file it notices."""

_CODE: Final = re.compile(r"GLOBAL ([\w.]+)")

State = Mapping[str, Tensor]


# --- networks of our own --------------------------------------------------------------------------------------------


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, relu: bool = True) -> nn.Module:
    """Convolution with TensorFlow's SAME padding (for sizes the stride divides), batch norm and ReLU6."""
    missing = kernel - stride
    layers: list[nn.Module] = []
    if stride > 1:
        layers.append(nn.ZeroPad2d((missing // 2, missing - missing // 2) * 2))
    padding = missing // 2 if stride == 1 else 0
    layers.append(nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False))
    layers.append(nn.BatchNorm2d(outputs, eps=1e-3))
    return nn.Sequential(*layers, *([nn.ReLU6(inplace=True)] if relu else []))


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, expand: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expand
        self.expand = _conv(inputs, inner, 1) if expand > 1 else nn.Identity()
        self.depthwise = _conv(inner, inner, kernel, stride=stride, groups=inner)
        self.project = _conv(inner, outputs, 1, relu=False)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.is_residual else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0: no squeeze-excite, ReLU6. Takes images_nchw whose sides are multiples of 32."""

    STAGES: Final = (  # expand, outputs, blocks, stride of the first block, kernel
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    )  # fmt: skip

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.stem = _conv(3, 32, 3, stride=2)
        blocks: list[nn.Module] = []
        width = 32
        for expand, outputs, count, stride, kernel in self.STAGES:
            for i in range(count):
                first = stride if i == 0 else 1
                blocks.append(_InvertedResidual(width, outputs, expand=expand, kernel=kernel, stride=first))
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = _conv(width, 1280, 1)
        self.classifier = nn.Linear(1280, num_classes)

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Logits, N x C."""
        features = self.head(self.blocks(self.stem(images_nchw))).mean((2, 3))
        logits: Tensor = self.classifier(features)
        return logits


def make_module(architecture: str, num_classes: int, frame: FrameSpec) -> nn.Module:
    """The network with random weights, in eval mode, for images of the frame's size."""
    library, _, name = architecture.rpartition(":")
    if library == "torchvision":
        import torchvision

        options: dict[str, Any] = {"num_classes": num_classes}
        if name.startswith("vit_"):
            options["image_size"] = frame.height
        if name in ("googlenet", "inception_v3"):
            options["init_weights"] = False  # minutes of random numbers that the weights replace
        module: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    elif library == "timm":
        import timm

        try:
            module = timm.create_model(name, pretrained=False, num_classes=num_classes)
        except RuntimeError as error:  # a tag (the part after the dot) that does not exist
            raise ModelError(f"timm cannot make {name!r}: {error}") from error
    elif architecture == LITE0:
        module = EfficientNetLite0(num_classes)
    elif architecture == STAMP:
        from vidbatch.stamp import StampNetwork

        module = StampNetwork(num_classes, frame)
    else:
        raise ModelError(f"there is no architecture {architecture!r}")
    return module.eval()


# --- weights --------------------------------------------------------------------------------------------------------


def to_safetensors(state: State) -> bytes:
    """The state dict as safetensors, each tensor with memory of its own."""
    from safetensors.torch import save

    own = {name: value.detach().to("cpu").contiguous().clone() for name, value in state.items()}
    return bytes(save(own))


def read_state(weights: bytes, where: str) -> dict[str, Tensor]:
    """The state dict inside a .safetensors, .pth or .pt file; wrappers and common key prefixes are taken off.

    Nothing in the file is ever executed. Args: `where` names the file in errors. Raises ModelError.
    """
    state = _load(weights, where)
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    is_state = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not state or not is_state:
        raise ModelError(f"{where}: holds no state dict (names and tensors)")
    for prefix in ("module.", "_orig_mod.", "model.") * 2:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def _load(weights: bytes, where: str) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load

    if weights[8:9] == b"{":  # safetensors: 8 bytes of length, then JSON
        try:
            return load(weights)
        except (SafetensorError, *_UNREADABLE) as error:  # KeyError: a type of numbers that torch has not
            raise ModelError(f"{where}: not a readable safetensors file: {error}") from error
    try:
        with warnings.catch_warnings(action="ignore"):  # of a file that is refused anyway
            return torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise ModelError(f"{where}: not a state dict that torch can load safely: {_why_not(error)}") from None


def _why_not(error: Exception) -> str:
    """The one thing to know of torch's page of advice, most of which is how to run what a file holds after all."""
    text = str(error).strip()
    if code := _CODE.search(text):
        return f"it holds {code[1]}, which would be run; save the state_dict() alone"
    if "TorchScript" in text:
        return "it is a TorchScript archive; save the state_dict() alone"
    if "weights_only" in text:
        return "it is nothing that torch.save writes of names and tensors"
    return text.partition("\n")[0][:200] or type(error).__name__


def fill(module: nn.Module, state: State, where: str) -> nn.Module:
    """Copy the weights in. Raises ModelError that names the first key which is missing, unexpected or misshapen."""
    wanted = module.state_dict()
    if isinstance(module, EfficientNetLite0) and state.keys() != wanted.keys():
        state = _in_order(wanted, state, where)
    state = {name: value for name, value in state.items() if name in wanted or "num_batches_tracked" not in name}
    for name, value in wanted.items():
        if name not in state:
            if name.endswith("num_batches_tracked"):  # counts training steps; old files lack it
                state[name] = value
                continue
            raise ModelError(f"{where}: has no {name!r}, which the network needs")
        if state[name].shape != value.shape:
            shapes = f"{tuple(state[name].shape)} instead of {tuple(value.shape)}"
            raise ModelError(f"{where}: {name!r} has shape {shapes}")
        if value.is_floating_point() and not _holds_floats(state[name]):
            raise ModelError(f"{where}: {name!r} holds {_kind_of(state[name])} where the network has floats")
    for name in state:
        if name not in wanted:
            raise ModelError(f"{where}: holds {name!r}, which the network does not have")
    module.load_state_dict(dict(state))
    return module


def _holds_floats(value: Tensor) -> bool:
    is_there = value.layout == torch.strided and not value.is_meta
    return is_there and value.is_floating_point() and not value.is_quantized


def _kind_of(value: Tensor) -> str:
    what = "nothing" if value.is_meta else str(value.dtype).removeprefix("torch.")
    return what if value.layout == torch.strided else f"{value.layout} {what}".removeprefix("torch.")


def _in_order(wanted: State, state: State, where: str) -> dict[str, Tensor]:
    """Weights of another implementation of the same network: same tensors, in the same order, under other names.

    The last part of each name must agree too, so that no file in another order can be taken for it.
    """
    if len(wanted) != len(state):
        raise ModelError(f"{where}: holds {len(state)} tensors; {LITE0} has {len(wanted)}")
    for ours, theirs in zip(wanted, state, strict=True):
        if ours.rpartition(".")[2] != theirs.rpartition(".")[2]:
            raise ModelError(f"{where}: {theirs!r} stands where {LITE0} has {ours!r}")
    return dict(zip(wanted, state.values(), strict=True))


# --- what a network is made of --------------------------------------------------------------------------------------


class Facts(NamedTuple):
    """What a network and its weights turn out to be when a frame is sent through."""

    classifier: str
    """Name of the last layer that was called: nn.Linear or nn.Conv2d."""
    num_classes: int
    embedding_size: int


def inspect(architecture: str, weights: bytes, frame: FrameSpec, where: str, *, details: str = "") -> Facts:
    """Load the weights as a worker will, and count classes and embedding. Raises ModelError for weights that don't fit.

    The number of classes is that of the weights' last layer, whatever it was trained for.
    """
    if architecture in programs.KINDS:
        from vidbatch.program_networks import inspect_program

        return inspect_program(architecture, weights, frame, where, details=details)
    if details:
        return probe(hf_models.make_module(details, weights, where), noise(frame), where, check=True)
    state = read_state(weights, where)
    plain = make_module(architecture, 1000, frame)
    last = probe(plain, noise(frame), where).classifier
    if isinstance(plain, EfficientNetLite0) and last + ".weight" not in state:
        state = _in_order(plain.state_dict(), state, where)
    num_classes = num_classes_of(state, plain.state_dict(), last + ".weight", where)
    module = fill(make_module(architecture, num_classes, frame), state, where)
    return probe(module, noise(frame), where, check=True)


def num_classes_of(state: State, plain: State, name: str, where: str) -> int:
    """How many classes the last layer has; before a network of that size is made, it is made sure of that it is one."""
    if name not in state:
        raise ModelError(f"{where}: has no {name!r}, which the network needs")
    weight, wanted = state[name], plain[name]
    if not weight.numel() or weight.ndim != wanted.ndim:  # what is in each is compared when the network is filled
        shapes = f"{tuple(weight.shape)} instead of {('classes', *wanted.shape[1:])}"
        raise ModelError(f"{where}: {name!r} has shape {shapes}")
    if weight.is_meta or weight.layout != torch.strided or 0 in weight.stride():  # one number, said to be any number
        raise ModelError(f"{where}: {name!r} is no plain array of numbers")
    return weight.shape[0]


def probe(module: nn.Module, images: Tensor, where: str, *, check: bool = False) -> Facts:
    """Send images through a network. Raises ModelError unless it gives one score a class (finite ones: `check`)."""
    called: list[tuple[str, int]] = []

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _layer, inputs: called.append((name, _pooled(inputs[0]).shape[1]))

    layers = [(n, layer) for n, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_pre_hook(note(name)) for name, layer in layers]
    with torch.inference_mode():
        output = module(images)
    for hook in hooks:
        hook.remove()
    if not isinstance(output, Tensor) or output.ndim != 2:
        raise ModelError(f"{where}: the network does not give one score a class")
    if check and not output.isfinite().all():
        raise ModelError(f"{where}: the network gives no finite scores")
    classifier, embedding_size = called[-1]
    return Facts(classifier, output.shape[1], embedding_size)


def noise(frame: FrameSpec, num_frames: int | None = None) -> Tensor:
    """One image, 1 x 3 x H x W, or one window, 1 x `num_frames` x 3 x H x W; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, 3) if num_frames is None else (1, num_frames, 3)
    return torch.rand((*shape, frame.height, frame.width), generator=generator) * 2 - 1


def _pooled(features: Tensor) -> Tensor:
    """N x D of whatever enters the last layer: N x D, N x tokens x D, or N x D x height x width."""
    if features.ndim == 4:
        return features.mean((2, 3))
    return features.mean(1) if features.ndim == 3 else features


# --- the network as the stages see it -------------------------------------------------------------------------------


class Network:
    """A network with its weights on its device: uint8 frames in, probabilities and embeddings out.

    On a CPU, up to `num_threads` slices run side by side, each on one core.
    """

    def __init__(
        self,
        spec: ModelSpec,
        module: nn.Module,
        classifier: str,
        device: torch.device,
        num_threads: int,
        how: How,
        program: Program | None,
    ) -> None:
        self._program = program
        self.labels = spec.labels
        self.embedding_size = spec.embedding_size
        self.device = device
        self._dtype = computing.dtype_of(how)
        self._module = module.to(device, self._dtype).to(memory_format=torch.channels_last)
        # (value / 255 - mean) / std as one multiplication and one addition
        std = torch.tensor(spec.std, device=device).view(1, 3, 1, 1)
        mean = torch.tensor(spec.mean, device=device).view(1, 3, 1, 1)
        self._scale, self._shift = 1 / (255 * std), -mean / std
        self._of_thread = threading.local()  # what enters the last layer of the slice a thread is at
        self.cores = Cores(num_threads if device.type == "cpu" else 1)
        module.get_submodule(classifier).register_forward_pre_hook(self._keep)
        computing.compiled(module, how)

    def __call__(self, frames_nhwc: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (float32, N x C, rows sum to 1) and embeddings (float32, N x D) of uint8 frames on the device.

        The embedding is what enters the last layer, averaged over positions where there are several.
        """
        if self.device.type != "cpu":
            return self._run(frames_nhwc)
        parts = self.cores.map(self._run, torch.split(frames_nhwc, CPU_SLICE_FRAMES))
        return torch.cat([scores for scores, _ in parts]), torch.cat([features for _, features in parts])

    @torch.inference_mode()
    def _run(self, frames_nhwc: Tensor) -> tuple[Tensor, Tensor]:
        # An NHWC buffer seen as NCHW is what torch calls channels_last: nothing is moved.
        images_nchw = frames_nhwc.permute(0, 3, 1, 2).to(torch.float32).mul_(self._scale).add_(self._shift)
        if self._program is not None:
            logits, features = self._program(images_nchw)
        else:
            logits = self._module(images_nchw.to(self._dtype))
            features = self._of_thread.features
        return logits.float().softmax(1), _pooled(features).float()

    def _keep(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._of_thread.features = inputs[0]


def build(
    spec: ModelSpec, weights: bytes, device: str = "cpu", *, num_threads: int = 1, how: How = USUAL
) -> Network | NetworkOfWindows | ProgramNetwork:
    """The network ready to run on `cpu` or `cuda`.

    Args: `num_threads` slices of a batch run at once on a CPU, each with one of torch's own threads.
    Raises ModelError for weights that do not fit.
    """
    if spec.video is not None:
        from vidbatch.window_networks import build_windows

        return build_windows(spec, spec.video, weights, device, num_threads=num_threads, how=how)
    if spec.architecture in programs.KINDS:
        from vidbatch.program_networks import build_program

        return build_program(spec, weights, device, num_threads=num_threads)
    if spec.details:
        module = hf_models.make_module(spec.details, weights, spec.name)
    else:
        module = make_module(spec.architecture, len(spec.labels), spec.frame)
        fill(module, read_state(weights, spec.name), spec.name)
    classifier = probe(module, noise(spec.frame), spec.name, check=True).classifier
    where = torch.device(device)
    computing.set_products(how, where)
    program = None
    if not spec.details:
        module = computing.fused(module, classifier, noise(spec.frame))
        if computing.may_be_a_program(how, where):
            program = program_of(module, classifier, noise(spec.frame))
    return Network(spec, module, classifier, where, num_threads, how, program)
