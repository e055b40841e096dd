"""Windows of labelled videos in; a loss and a score of each out: what the training of a classifier is about.

Classes: cross-entropy, and whether the window is right. Regression: the squared or the absolute error of the target
in units of its standard deviation, which a network learns whatever the target's unit is, and the absolute error in that
unit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vidbatch.augment import Augmenter
from vidbatch.bundles import BundleConfig, save_bundle
from vidbatch.epochs import class_weights
from vidbatch.training.config import TrainConfig
from vidbatch.training.objective import Judged, autocast
from vidbatch.training.videos import TrainingSet
from vidbatch.transforms import InputTransform, to_float
from vidbatch.video_networks import WindowNetwork, build_video_network
from vidbatch.video_weights import parameter_groups, read_weights, set_frozen, start_from
from vidbatch.window_networks import tensors_of
from vidbatch.windows import Ints, Keys


def make_network(config: TrainConfig, num_classes: int, weights: bytes | None = None) -> WindowNetwork:
    """The network a run begins with, on the CPU. Raises ConfigError for frames that are too small for it, ModelError.

    Args: `weights` is the file of `start_from`.
    """
    video = config.video
    network = build_video_network(
        video.network,
        video.inputs,
        config.frame,
        num_frames=config.num_frames,
        num_classes=num_classes,
        seed=config.seed,
    )
    if weights is not None:
        where = config.start_from or "start_from"
        state = read_weights(video.network.network, weights, config.frame, where)
        start_from(network, state, video.inputs, where)
    set_frozen(network, config.freeze_body and config.unfreeze_at is None)
    return network


class Classifying:
    """The objective of a classifier, or of a regression, on its device."""

    def __init__(self, config: TrainConfig, data: TrainingSet, device: torch.device, weights: bytes | None) -> None:
        self._config = config
        self._data = data
        self._device = device
        self.network = make_network(config, len(data.labels), weights).to(device)
        self._augment = Augmenter(config.augment, data.labels)
        self._prepare = InputTransform(config.video.inputs, config.mean, config.std).to(device)
        self._losses = Losses(config, data, device)

    def groups(self) -> list[dict[str, Any]]:
        """Weights that are not frozen, in groups of body and head."""
        config = self._config
        return parameter_groups(
            self.network,
            learning_rate=config.learning_rate,
            body_factor=config.body_factor,
            weight_decay=config.weight_decay,
        )

    def train(self, network: nn.Module, windows: Any, videos: Ints, keys: Keys, *, epoch: int) -> Judged:
        """Losses of windows, each changed as its key has it."""
        frames, is_real = tensors_of(windows, self._device)
        classes = torch.from_numpy(self._data.listed.classes[videos])  # on the CPU, where they are looked at one by one
        num_real = np.maximum(windows["num_real"].astype(np.int64), 1)
        seed = self._config.seed
        changed = self._augment(to_float(frames), classes, keys, seed=seed, epoch=epoch, num_real=num_real)
        logits = self._logits(network, changed.images, is_real)
        truth = self._losses.truth(videos, changed.classes)
        losses = self._losses.to_train(logits, truth)
        if self._config.augment.mixup_alpha:
            partner, share = (part.to(self._device, non_blocking=True) for part in (changed.partner, changed.share))
            losses = share * losses + (1 - share) * self._losses.to_train(logits, truth[partner])
        return Judged(losses, self._losses.scores(logits.detach(), truth))

    def judge(self, network: nn.Module, windows: Any, videos: Ints, keys: Keys) -> Judged:  # noqa: ARG002
        """The same of windows as they are."""
        frames, is_real = tensors_of(windows, self._device)
        logits = self._logits(network, to_float(frames), is_real)
        truth = self._losses.truth(videos, torch.from_numpy(self._data.listed.classes[videos]))
        return Judged(self._losses.to_judge(logits, truth), self._losses.scores(logits, truth))

    def _logits(self, network: nn.Module, images: Tensor, is_real: Tensor) -> Tensor:
        inputs = self._prepare(images)
        with autocast(self._device, self._config.precision):
            logits: Tensor = network(inputs.images, is_real, inputs.features)
        return logits.float()

    def save(self, url: str, network: nn.Module, numbers: dict[str, Any]) -> None:  # noqa: ARG002
        """Write the bundle that `label` takes."""
        save_bundle(url, network.state_dict(), bundle_config(self._config, self._data))


def bundle_config(config: TrainConfig, data: TrainingSet) -> BundleConfig:
    """config.json of what is trained."""
    frame = config.frame
    return BundleConfig(
        architecture=config.video.network.name,
        video=config.video.model_copy(update={"target": data.target}),
        labels=data.labels,
        height=frame.height,
        width=frame.width,
        crop_share=frame.crop_share,
        interpolation=frame.interpolation,
        mean=config.mean,
        std=config.std,
    )


class Losses:
    """The losses of a run, on its device. N windows, K classes or one output."""

    def __init__(self, config: TrainConfig, data: TrainingSet, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._target = data.target
        self._targets: Tensor | None = None
        if self._target is not None and data.listed.targets is not None:
            scaled = (data.listed.targets - self._target.mean) / self._target.std
            self._targets = torch.from_numpy(scaled).to(device, torch.float32)
        self._class_weights: Tensor | None = None
        if config.balance == "weights":
            of_classes = class_weights(data.classes_of(data.train), len(data.labels))
            self._class_weights = torch.from_numpy(of_classes).to(device, torch.float32)

    def truth(self, videos: Any, classes: Tensor) -> Tensor:
        """What is true of windows (N,): `classes` themselves, or the targets of their `videos`, int64 (N,)."""
        if self._targets is None:
            return classes.to(self._device, non_blocking=True)
        return self._targets[torch.from_numpy(videos).to(self._device, non_blocking=True)]

    def to_train(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """The loss of each window, float32 (N,), with the weights and the smoothing of the settings."""
        if self._targets is not None:
            loss = functional.l1_loss if self._config.loss == "l1" else functional.mse_loss
            return loss(outputs[:, 0], truth, reduction="none")
        smoothing = self._config.label_smoothing
        return functional.cross_entropy(
            outputs, truth, weight=self._class_weights, label_smoothing=smoothing, reduction="none"
        )

    def to_judge(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """The same without weights and smoothing."""
        if self._targets is not None:
            return self.to_train(outputs, truth)
        return functional.cross_entropy(outputs, truth, reduction="none")

    def scores(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """1 for a window that is right, 0 for another; of targets the absolute error in their own unit."""
        if self._target is not None:
            return (outputs[:, 0] - truth).abs() * self._target.std
        return (outputs.argmax(1) == truth).float()
