"""Random changes of training windows: alike for all frames, keyed by the window and by nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vidbatch.augment import Augmented, Augmenter
from vidbatch.errors import ConfigError
from vidbatch.input_spec import AugmentSpec, MirrorSpec
from vidbatch.windows import mixed

LABELS = ("left", "right", "still")
SWAPS = {"left": "right", "right": "left"}
ALL = AugmentSpec(
    flip=MirrorSpec(probability=0.5, swaps=SWAPS),
    upside_down=MirrorSpec(probability=0.5),
    reverse=MirrorSpec(probability=0.5, swaps=SWAPS),
    crop_area=(0.4, 0.9),
    crop_aspect=(0.8, 1.25),
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    hue=0.1,
)
KEYS = mixed(np.arange(12, dtype=np.uint64))
CLASSES = torch.tensor([0, 1, 2] * 4)


def windows(count: int = 12, frames: int = 4) -> Tensor:
    return torch.rand((count, frames, 3, 24, 32), generator=torch.Generator().manual_seed(3))


def augmented(spec: AugmentSpec, images: Tensor, seed: int = 0, epoch: int = 0) -> Augmented:
    return Augmenter(spec, LABELS)(images, CLASSES[: len(images)], KEYS[: len(images)], seed=seed, epoch=epoch)


def test_the_defaults_change_nothing() -> None:
    done = augmented(AugmentSpec(), windows())
    assert done.images.equal(windows())
    assert done.classes.equal(CLASSES)
    assert done.partner.tolist() == list(range(12))
    assert (done.share == 1).all()


def test_a_window_is_changed_the_same_way_at_any_place_in_any_batch() -> None:
    whole = augmented(ALL, windows())
    rows = [7, 2, 9]
    torch.rand(17)  # whatever was drawn before
    part = Augmenter(ALL, LABELS)(windows()[rows], CLASSES[rows], KEYS[rows], seed=0, epoch=0)
    assert part.images.equal(whole.images[rows])
    assert part.classes.equal(whole.classes[rows])


def test_another_epoch_seed_or_key_changes_a_window_otherwise() -> None:
    same = windows(1).expand(12, -1, -1, -1, -1)
    first = augmented(ALL, same).images
    assert len({float(window.sum()) for window in first}) == 12
    for other in (augmented(ALL, same, epoch=1), augmented(ALL, same, seed=1)):
        assert all(not ours.equal(theirs) for ours, theirs in zip(first, other.images, strict=True))


def test_the_global_random_state_is_neither_used_nor_touched() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    first = augmented(ALL, windows())
    assert torch.rand(3).equal(wanted)
    assert augmented(ALL, windows()).images.equal(first.images)


def test_all_frames_of_a_window_are_changed_alike() -> None:
    still = windows(12, 1).expand(-1, 5, -1, -1, -1)
    done = augmented(ALL, still).images
    assert not done.equal(still)
    for frame in range(1, 5):
        assert done[:, frame].allclose(done[:, 0], atol=1e-6)


@pytest.mark.parametrize(("name", "dim"), [("flip", -1), ("upside_down", -2), ("reverse", 0)])
def test_a_mirrored_window_has_the_label_of_what_it_became(name: str, dim: int) -> None:
    spec = AugmentSpec.model_validate({name: {"probability": 0.5, "swaps": SWAPS}})
    images = windows()
    done = augmented(spec, images)
    mirrored = [not new.equal(old) for new, old in zip(done.images, images, strict=True)]
    assert 0 < sum(mirrored) < 12
    for new, old, is_mirrored, now, before in zip(done.images, images, mirrored, done.classes, CLASSES, strict=True):
        assert new.equal(old.flip(dim) if is_mirrored else old)
        assert now == ({0: 1, 1: 0, 2: 2}[int(before)] if is_mirrored else before)


def test_padding_stays_at_the_end_of_a_reversed_window() -> None:
    spec = AugmentSpec(reverse=MirrorSpec(probability=1))
    images = windows(2)
    images[0, 3] = images[0, 2]  # three frames, and one of padding that repeats the last
    done = Augmenter(spec, LABELS)(
        images, CLASSES[:2], KEYS[:2], seed=0, epoch=0, num_real=np.array([3, 4], np.int64)
    ).images
    assert done[0].equal(images[0, [2, 1, 0, 0]])
    assert done[1].equal(images[1].flip(0))


def test_a_crop_shows_a_part_of_the_picture_at_full_size() -> None:
    columns = torch.linspace(0, 1, 32).expand(12, 2, 3, 24, 32)
    done = augmented(AugmentSpec(crop_area=(0.3, 0.5)), columns).images
    assert done.shape == columns.shape
    assert (done[..., -1] - done[..., 0] < 0.85).all()
    assert (done.diff(dim=-1) >= -1e-6).all()


def test_images_stay_within_0_and_1() -> None:
    done = augmented(ALL, windows()).images
    assert done.min() >= 0
    assert done.max() <= 1


def test_mixup_mixes_neighbours_by_a_share_that_is_keyed() -> None:
    spec = AugmentSpec(mixup_alpha=0.4)
    images = windows(5)
    done = augmented(spec, images)
    assert done.partner.tolist() == [1, 0, 3, 2, 4]
    assert done.share[4] == 1
    assert done.share[0] == done.share[1]
    assert 0 < done.share[0] < 1
    share = done.share[2]
    assert done.images[2].allclose(share * images[2] + (1 - share) * images[3], atol=1e-6)
    assert done.images[3].allclose(share * images[3] + (1 - share) * images[2], atol=1e-6)
    pair = Augmenter(spec, LABELS)(images[2:4], CLASSES[2:4], KEYS[2:4], seed=0, epoch=0)
    assert pair.images.allclose(done.images[2:4], atol=1e-6)


def test_windows_of_unequal_padding_are_not_mixed() -> None:
    num_real = np.array([4, 3], np.int64)
    done = Augmenter(AugmentSpec(mixup_alpha=1), LABELS)(
        windows(2), CLASSES[:2], KEYS[:2], seed=0, epoch=0, num_real=num_real
    )
    assert done.images.equal(windows(2))
    assert done.partner.tolist() == [0, 1]


def test_swapped_labels_must_be_the_models() -> None:
    with pytest.raises(ConfigError, match="flip: swaps: label 'rigth' is unknown; allowed: left, right, still"):
        Augmenter(AugmentSpec(flip=MirrorSpec(probability=1, swaps={"left": "rigth"})), LABELS)


def test_an_empty_batch_stays_empty() -> None:
    assert len(augmented(ALL, windows()[:0]).images) == 0
