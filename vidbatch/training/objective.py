"""What the training loop has to know of what is trained: a network, and what windows say of it.

The loop (loop.py) knows orders, gradients, workers and checkpoints; an objective knows what a window means. There are
three: classifying.py, restoring.py and interpolating.py.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from vidbatch.windows import Ints, Keys


class Judged(NamedTuple):
    """What there is to say of n windows."""

    losses: Tensor
    """float32 (n,), with gradients."""
    scores: Tensor
    """(n,), without: the number beside the loss that people read."""


class Objective(Protocol):
    """What a run trains, on its device."""

    @property
    def network(self) -> nn.Module:
        """The network itself, not wrapped."""

    def groups(self) -> list[dict[str, Any]]:
        """The weights, in groups for a torch optimizer; those to be held back have names that begin with `body`."""

    def train(self, network: nn.Module, windows: Any, videos: Ints, keys: Keys, *, epoch: int) -> Judged:
        """Losses of windows of windows.window_dtype (n,), each changed at random as its key has it.

        Args: `network` is the objective's own, maybe wrapped; `videos` are the places of the windows' videos.
        """

    def judge(self, network: nn.Module, windows: Any, videos: Ints, keys: Keys) -> Judged:
        """The same, always alike, to compare epochs by."""

    def save(self, url: str, network: nn.Module, numbers: dict[str, Any]) -> None:
        """Write what is trained to a folder or prefix, with what the epoch it is of was like."""


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """What has a network work in that precision; fp32: nothing."""
    short = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, short, enabled=short is not None)
