"""Outputs of a network and what is true of its windows in; a loss and a score of each window out.

Classes: cross-entropy, and whether the window is right. Regression: the squared error of the target in units of its
standard deviation, which a network learns whatever the target's unit is, and the absolute error in that unit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vidbatch.epochs import class_weights
from vidbatch.training.config import TrainConfig
from vidbatch.training.videos import TrainingSet


class Losses:
    """The losses of a run, on its device. N windows, K classes or one output."""

    def __init__(self, config: TrainConfig, data: TrainingSet, device: torch.device) -> None:
        self._config = config
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
        return classes if self._targets is None else self._targets[torch.from_numpy(videos).to(self._targets.device)]

    def to_train(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """The loss of each window, float32 (N,), with the weights and the smoothing of the settings."""
        if self._targets is not None:
            return functional.mse_loss(outputs[:, 0], truth, reduction="none")
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
