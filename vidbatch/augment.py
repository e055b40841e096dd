"""Windows of images and their classes in; the same windows, changed at random for training, out.

All frames of a window are changed alike. What happens to a window is keyed by (seed, epoch, window key): the same on
any rank, at any place in the batch, whatever was drawn before; torch's global random state is left as it was. The
changes are torchvision's (transforms.v2). Not for several threads of one process at once: torch's generator is shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from vidbatch.errors import ConfigError
from vidbatch.input_spec import AugmentSpec, MirrorSpec
from vidbatch.windows import Floats, Ints, Keys, mixed, random_bits, uniform


class Augmented(NamedTuple):
    """Changed windows. The loss of a window is share * loss(class) + (1 - share) * loss(class of its partner)."""

    images: Tensor
    """float32 (N, T, 3, H, W), values 0 to 1."""
    classes: Tensor
    """int64 (N,): those given, or what mirrored windows became."""
    partner: Tensor
    """int64 (N,): place of the window that was mixed in; its own without mixup."""
    share: Tensor
    """float32 (N,): how much of the window is its own, 1 without mixup."""


class Augmenter:
    """Does what an AugmentSpec says. Raises ConfigError for labels in `swaps` that the model does not have."""

    def __init__(self, spec: AugmentSpec, labels: Sequence[str]) -> None:
        self.spec = spec
        self._flip = _swapped_classes("flip", spec.flip, labels)
        self._upside_down = _swapped_classes("upside_down", spec.upside_down, labels)
        self._reverse = _swapped_classes("reverse", spec.reverse, labels)
        self._colours: v2.Transform | None = None
        if spec.brightness or spec.contrast or spec.saturation or spec.hue:
            self._colours = v2.ColorJitter(spec.brightness, spec.contrast, spec.saturation, spec.hue)

    def __call__(
        self, images: Tensor, classes: Tensor, keys: Keys, *, seed: int, epoch: int, num_real: Ints | None = None
    ) -> Augmented:
        """Change the windows, float32 (N, T, 3, H, W) of values 0 to 1, on their device.

        Args: `classes` int64 (N,); `keys` uint64 (N,) name the windows; `num_real` int64 (N,) counts their frames
        that are not padding, None: all.
        """
        frames = images.shape[1]
        real = np.full(len(images), frames) if num_real is None else num_real
        seeds = random_bits(keys, seed=seed, epoch=epoch, purpose="augment")
        places = np.stack([uniform(mixed(seeds + np.uint64(n)), seed=seed, epoch=epoch, purpose="m") for n in range(3)])
        changed, numbers = [], []
        for row, (window, number) in enumerate(zip(images, classes.tolist(), strict=True)):
            window, number = self._mirrored(window, number, places[:, row], int(real[row]))
            with _keyed(int(seeds[row])):
                window = self._cropped(window)
                window = window if self._colours is None else self._colours(window)
            changed.append(window)
            numbers.append(number)
        done = torch.stack(changed) if changed else images
        partner, share = self._partners(seeds, real)
        if self.spec.mixup_alpha:
            weight = torch.from_numpy(share).to(done)[:, None, None, None, None]
            done = weight * done + (1 - weight) * done[torch.from_numpy(partner).to(done.device)]
        return Augmented(
            done,
            torch.tensor(numbers, dtype=torch.int64, device=classes.device),
            torch.from_numpy(partner).to(classes.device),
            torch.from_numpy(share).to(classes.device, torch.float32),
        )

    def _mirrored(self, window: Tensor, number: int, places: Floats, num_real: int) -> tuple[Tensor, int]:
        if places[0] < self.spec.flip.probability:
            window, number = v2.functional.horizontal_flip(window), self._flip[number]
        if places[1] < self.spec.upside_down.probability:
            window, number = v2.functional.vertical_flip(window), self._upside_down[number]
        if places[2] < self.spec.reverse.probability:
            order = torch.arange(num_real - 1, num_real - 1 - len(window), -1).clamp_(min=0)  # padding repeats the last
            window, number = window[order.to(window.device)], self._reverse[number]
        return window, number

    def _cropped(self, window: Tensor) -> Tensor:
        if self.spec.crop_area == (1.0, 1.0) and self.spec.crop_aspect == (1.0, 1.0):
            return window
        rows, columns = window.shape[-2:]
        low, high = (stretch * columns / rows for stretch in self.spec.crop_aspect)
        place = v2.RandomResizedCrop((rows, columns), self.spec.crop_area, (low, high), antialias=True)
        done: Tensor = place(window)
        return done

    def _partners(self, seeds: Keys, num_real: Ints) -> tuple[Ints, Floats]:
        """Neighbours are partners, 0 with 1, 2 with 3, unless one has more padding; an odd number's last has none."""
        count = len(seeds)
        partner, share = np.arange(count), np.ones(count)
        if self.spec.mixup_alpha:
            for first in range(0, count - 1, 2):
                if num_real[first] == num_real[first + 1]:
                    generator = np.random.Generator(np.random.Philox(key=int(seeds[first])))
                    share[first : first + 2] = generator.beta(self.spec.mixup_alpha, self.spec.mixup_alpha)
                    partner[first : first + 2] = first + 1, first
        return partner, share


def _swapped_classes(name: str, mirror: MirrorSpec, labels: Sequence[str]) -> Mapping[int, int]:
    number = {label: index for index, label in enumerate(labels)}
    for label in (*mirror.swaps, *mirror.swaps.values()):
        if label not in number:
            raise ConfigError(f"augment: {name}: swaps: label {label!r} is unknown; allowed: {', '.join(labels)}")
    return {index: number[mirror.swaps.get(label, label)] for index, label in enumerate(labels)}


@contextmanager
def _keyed(seed: int) -> Iterator[None]:
    """Within, torch's CPU generator, from which torchvision draws its parameters, is at a known place."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed % 2**63)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
