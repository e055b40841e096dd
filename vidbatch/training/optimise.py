"""Settings in; PyTorch's optimizer, its learning-rate schedule and averaged weights out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vidbatch.training.settings import TrainSettings

WARMUP_START = 0.01
"""Share of the learning rate that a warm-up begins with."""


def make_optimizer(groups: list[dict[str, Any]], config: TrainSettings) -> Optimizer:
    """Over weights in groups, as an objective gives them."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=config.momentum)
    return (torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW)(groups)


def held_weights(optimizer: Optimizer) -> list[nn.Parameter]:
    """Weights of the body, for runs that train it later only: until then their gradients are thrown away.

    Not by `requires_grad`: DistributedDataParallel shares the gradients of the weights that had it at the beginning.
    """
    groups = [group for group in optimizer.param_groups if group["name"].startswith("body")]
    return [weight for group in groups for weight in group["params"]]


class Schedule:
    """The learning rate over steps; with `plateau` also over epochs."""

    def __init__(self, optimizer: Optimizer, config: TrainSettings, *, steps_per_epoch: int) -> None:
        warmup = round(config.warmup_epochs * steps_per_epoch)
        total = config.epochs * steps_per_epoch
        self._by_epoch: ReduceLROnPlateau | None = None
        after: LRScheduler
        if config.schedule == "cosine":
            after = CosineAnnealingLR(optimizer, max(1, total - warmup))
        elif config.schedule == "step":
            after = StepLR(optimizer, config.step_epochs * steps_per_epoch, config.step_factor)
        else:
            after = ConstantLR(optimizer, 1.0, 0)
            if config.schedule == "plateau":
                self._by_epoch = ReduceLROnPlateau(
                    optimizer, "max", factor=config.step_factor, patience=config.plateau_epochs
                )
        self._by_step: LRScheduler = after
        if warmup:
            rising = LinearLR(optimizer, WARMUP_START, 1.0, warmup)
            self._by_step = SequentialLR(optimizer, [rising, after], [warmup])

    def after_step(self) -> None:
        """Go on by one step."""
        self._by_step.step()

    def after_epoch(self, score: float) -> None:
        """Learn how good the epoch was, the higher the better."""
        if self._by_epoch is not None:
            self._by_epoch.step(score)

    def state_dict(self) -> dict[str, Any]:
        """To be kept in a checkpoint."""
        plateau = None if self._by_epoch is None else self._by_epoch.state_dict()
        return {"by_step": self._by_step.state_dict(), "by_epoch": plateau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._by_step.load_state_dict(state["by_step"])
        if self._by_epoch is not None:
            self._by_epoch.load_state_dict(state["by_epoch"])


def make_average(network: nn.Module, config: TrainSettings) -> AveragedModel | None:
    """The exponential moving average of the weights, if one is wanted."""
    if config.ema_decay is None:
        return None
    averaging: Any = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]
    return AveragedModel(network, multi_avg_fn=averaging)
