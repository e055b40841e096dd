"""A window model, of a bundle or of transformers, and its weights in; from uint8 windows to probabilities out.

What networks.py is for single frames: everything between the decoder's windows and the answer, preprocessing included,
so that a trained network sees in `label` what it saw in training. N windows of T frames, K classes, D embedding size.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
from torch import Tensor, nn

from vidbatch import computing, hf_models, networks
from vidbatch.bundles import HALF, Windowed, WindowModel
from vidbatch.computing import USUAL, How
from vidbatch.cores import Cores
from vidbatch.errors import ModelError
from vidbatch.networks import Facts
from vidbatch.schema import FrameSpec
from vidbatch.transforms import InputTransform, to_float
from vidbatch.video_networks import WholeNetwork, WindowNetwork, build_video_network
from vidbatch.windows import window_dtype

if TYPE_CHECKING:
    from vidbatch.models import ModelSpec

_CPU_SLICE_WINDOWS: Final = 1
"""Windows a CPU runs at once in one thread: with T frames each, the layers of more leave the cache."""


def inspect_windows(video: Windowed, weights: bytes, frame: FrameSpec, where: str, *, details: str = "") -> Facts:
    """Load the weights as a worker will, and count classes and embedding. Raises ModelError for weights that don't fit.

    The number of classes is that of the weights' last layer.
    """
    module: nn.Module
    if details:
        module = _OfTransformers(details, weights, frame, video.windows.num_frames, where)
        num_classes = module.num_classes
    else:
        state = networks.read_state(weights, where)
        plain = _network(video, frame, 2)
        last = _name_of_last_layer(plain)
        num_classes = networks.num_classes_of(state, plain.state_dict(), last + ".weight", where)
        module = networks.fill(_network(video, frame, num_classes), state, where)
    windows = np.zeros(1, window_dtype(video.windows.num_frames, frame.height, frame.width))
    windows["num_real"] = video.windows.num_frames
    runs = NetworkOfWindows(module, video, frame, HALF, HALF, torch.device("cpu"), 1)
    scores, embeddings = runs(windows)
    if not scores.isfinite().all():
        raise ModelError(f"{where}: the network gives no finite scores")
    return Facts(_name_of_last_layer(module), num_classes, embeddings.shape[1])


def build_windows(
    spec: ModelSpec, video: Windowed, weights: bytes, device: str, *, num_threads: int, how: How
) -> NetworkOfWindows:
    """The network ready to run on `cpu` or `cuda`. Raises ModelError for weights that do not fit."""
    module: nn.Module
    if spec.details:
        module = _OfTransformers(spec.details, weights, spec.frame, video.windows.num_frames, spec.name)
    else:
        module = _network(video, spec.frame, len(spec.labels))
        networks.fill(module, networks.read_state(weights, spec.name), spec.name)
    where = torch.device(device)
    computing.set_products(how, where)
    return NetworkOfWindows(
        module, video, spec.frame, spec.mean, spec.std, where, num_threads, labels=spec.labels, how=how
    )


def _network(video: Windowed, frame: FrameSpec, num_classes: int) -> WindowNetwork:
    assert isinstance(video, WindowModel), "windows of a model that is neither a bundle's nor of transformers"
    num_frames = video.windows.num_frames
    return build_video_network(video.network, video.inputs, frame, num_frames=num_frames, num_classes=num_classes)


class _OfTransformers(nn.Module):
    """A video classifier of transformers, called as a WindowNetwork is; padding is seen by it like any frame."""

    def __init__(self, details: str, weights: bytes, frame: FrameSpec, num_frames: int, where: str) -> None:
        super().__init__()
        self.body = hf_models.make_module(details, weights, where)
        facts = networks.probe(self.body, networks.noise(frame, num_frames), where, check=True)
        self.last_layer, self.num_classes = facts.classifier, facts.num_classes

    def forward(self, images: Tensor, is_real: Tensor, features: Tensor | None) -> Tensor:  # noqa: ARG002  # as called
        logits: Tensor = self.body(images)
        return logits


def _name_of_last_layer(module: nn.Module) -> str:
    return f"body.{module.last_layer}" if isinstance(module, WholeNetwork | _OfTransformers) else "classifier"


class NetworkOfWindows:
    """The counterpart of networks.Network: windows of windows.window_dtype in, probabilities and embeddings out.

    On a CPU, `num_threads` windows run side by side, each on one core.
    """

    def __init__(
        self,
        module: nn.Module,
        video: Windowed,
        frame: FrameSpec,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        num_threads: int,
        *,
        labels: tuple[str, ...] = (),
        how: How = USUAL,
    ) -> None:
        self.labels = labels
        self.device = device
        self._how = how
        self._target = video.target
        self.dtype = window_dtype(video.windows.num_frames, frame.height, frame.width)
        self._module = module.eval().to(device)
        self._prepare = InputTransform(video.inputs, mean, std).to(device)
        self._of_thread = threading.local()
        self.cores = Cores(num_threads if device.type == "cpu" else 1)
        module.get_submodule(_name_of_last_layer(module)).register_forward_pre_hook(self._keep)
        computing.compiled(module, how)

    def __call__(self, windows: Any) -> tuple[Tensor, Tensor]:
        """Probabilities (float32, N x K, rows sum to 1) and embeddings (float32, N x D) of windows in memory.

        Of a model that tells a number (N x 1), that number.
        """
        if self.device.type != "cpu":
            return self._run(windows)
        slices = [windows[at : at + _CPU_SLICE_WINDOWS] for at in range(0, len(windows), _CPU_SLICE_WINDOWS)]
        parts = self.cores.map(self._run, slices)
        return torch.cat([scores for scores, _ in parts]), torch.cat([features for _, features in parts])

    @torch.inference_mode()
    def _run(self, windows: Any) -> tuple[Tensor, Tensor]:
        frames, is_real = tensors_of(windows, self.device)
        inputs = self._prepare(to_float(frames))
        with computing.autocast(self._how, self.device):
            logits = self._module(inputs.images, is_real, inputs.features)
        features = cast(Tensor, self._of_thread.features).float()
        if self._target is not None:
            return logits.float() * self._target.std + self._target.mean, features
        return logits.float().softmax(1), features

    def _keep(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        features = inputs[0]
        self._of_thread.features = features.flatten(2).mean(2) if features.ndim > 2 else features


def tensors_of(windows: Any, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Frames uint8 (N, T, H, W, 3) and whether each is real, bool (N, T), of windows of windows.window_dtype."""
    pixels = windows["frames"]
    # From pinned memory a copy to a GPU waits for nothing; torch keeps the memory until it is done.
    frames = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=torch.device(device).type == "cuda")
    np.copyto(frames.numpy(), pixels)
    is_real = np.arange(pixels.shape[1])[None, :] < windows["num_real"].astype(np.int64)[:, None]
    return frames.to(device, non_blocking=True), torch.from_numpy(is_real).to(device, non_blocking=True)
