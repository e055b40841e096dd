"""Keys of windows in; the order of an epoch, its global batches and each rank's part of them out.

Arithmetic only, and every answer a pure function of its arguments. An epoch is a permutation of window numbers that
depends on (seed, epoch, keys) alone; global batch k is a fixed slice of it; rank r's part is a fixed slice of the
batch. So 1, 2 and 4 workers see the same windows in the same step, and a run goes on at any step by starting there.

    order    | 7 2 9 4 | 0 5 1 8 | 6 3 |          batches of 4: k = 0, 1, 2
    batch 2    rank 0: 6 3    rank 1: 6* 3*       * padding, not real: it must not count in the loss
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vidbatch.errors import ConfigError
from vidbatch.windows import Bools, Floats, Ints, Keys, mixed, random_bits


class Order(NamedTuple):
    """What an epoch goes through, in this order."""

    rows: Ints
    """Window numbers, each once; in a balanced order windows of small classes several times."""
    keys: Keys
    """What offsets and augmentation are keyed by: the window's key, for its second and later copies another one."""

    def batch(self, k: int, size: int) -> Order:
        """Global batch k: a slice of `size` entries, of fewer at the end."""
        return Order(self.rows[k * size : (k + 1) * size], self.keys[k * size : (k + 1) * size])


def epoch_order(keys: Keys, *, seed: int, epoch: int) -> Order:
    """Every window once. The relative order of two windows does not depend on which others there are."""
    rows = _shuffled(keys, seed, epoch)
    return Order(rows, keys[rows])


def balanced_order(keys: Keys, classes: Ints, *, seed: int, epoch: int) -> Order:
    """Every class as often as the most frequent one; within a class each window as often as any other, or once more.

    Args: `classes` holds each window's class number, int64.
    """
    wanted = int(np.bincount(classes).max(initial=0))
    rows, copies = [], []
    for number in np.unique(classes):
        members = np.flatnonzero(classes == number)
        rank = np.empty(len(members), np.int64)  # which windows get the copy that is left over changes by epoch
        rank[_shuffled(keys[members], seed, epoch, "left over")] = np.arange(len(members))
        times = wanted // len(members) + (rank < wanted % len(members))
        rows.append(np.repeat(members, times))
        copies.append(np.concatenate([np.arange(count) for count in times]))
    if not rows:
        return epoch_order(keys, seed=seed, epoch=epoch)
    row, copy = np.concatenate(rows), np.concatenate(copies).astype(np.uint64)
    own = np.where(copy == 0, keys[row], mixed(keys[row] ^ mixed(copy)))
    order = _shuffled(own, seed, epoch)
    return Order(row[order], own[order])


def _shuffled(keys: Keys, seed: int, epoch: int, purpose: str = "order") -> Ints:
    found: Ints = np.lexsort((keys, random_bits(keys, seed=seed, epoch=epoch, purpose=purpose)))
    return found


def num_batches(num_windows: int, size: int) -> int:
    """Global batches in an epoch; the last may be smaller."""
    return -(-num_windows // size)


def place_of(step: int, num_windows: int, size: int) -> tuple[int, int]:
    """(epoch, k) of a global step counted from 0 over all epochs, to go on after so many finished steps."""
    return divmod(step, num_batches(num_windows, size))


def batches(order: Order, size: int, *, first: int = 0) -> Iterator[tuple[int, Order]]:
    """(k, global batch) from batch `first` to the end of the epoch."""
    for k in range(first, num_batches(len(order.rows), size)):
        yield k, order.batch(k, size)


class Part(NamedTuple):
    """A rank's part of a global batch; all ranks' parts are of one size, so that no rank waits for ever."""

    positions: Ints
    """Places in the global batch."""
    is_real: Bools
    """False for the padding of a last batch: places that another rank has too, to be left out of loss and metrics.

    With sum(loss * is_real) * num_ranks / (real windows of the global batch) as each rank's loss, the mean of gradients
    over the ranks is that of one worker with the whole batch.
    """


def rank_part(batch_size: int, *, rank: int, num_ranks: int, multiple: int = 1) -> Part:
    """The part of one rank: neighbouring places, so that pairs stay together with `multiple=2` (mixup needs that).

    Args: `batch_size` is that of this batch, the last one may be small; a part's size is a multiple of `multiple`.
    """
    if not 0 <= rank < num_ranks:
        raise ConfigError(f"rank: {rank} is not allowed with {num_ranks} workers")
    each = -(-batch_size // (num_ranks * multiple)) * multiple
    places = np.arange(rank * each, (rank + 1) * each, dtype=np.int64)
    return Part(places % max(1, batch_size), places < batch_size)


def evaluation_rows(video: Ints, *, rank: int, num_ranks: int) -> Ints:
    """Which rows a rank evaluates: each on one rank only, all windows of a video on the same one, none twice.

    Args: `video` is the column of `Windows`, where those of one video stand together.
    """
    starts = np.flatnonzero(np.diff(video, prepend=video[:1] - 1))
    lengths = np.diff(starts, append=len(video))
    dealt = np.repeat(starts * num_ranks // max(1, len(video)), lengths)
    return np.flatnonzero(dealt == rank)


def class_weights(classes: Ints, num_classes: int) -> Floats:
    """Weight of each class in a loss, float64 (C,): inverse to its frequency, so that the windows' mean weight is 1.

    The "balanced" weights of scikit-learn (King and Zeng, 2001). Raises ConfigError for a class without a window.
    """
    counts: npt.NDArray[np.int64] = np.bincount(classes, minlength=num_classes)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        raise ConfigError(f"class weights: class number {empty[0]} has no window to train with")
    return np.asarray(len(classes) / (num_classes * counts), np.float64)
