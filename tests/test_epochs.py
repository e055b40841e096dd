"""The order of an epoch: every window once, the same for any number of workers, and resumable at any step."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidbatch import epochs
from vidbatch.errors import ConfigError
from vidbatch.windows import Keys, mixed


def keys_of(count: int) -> Keys:
    return mixed(np.arange(count, dtype=np.uint64))


def test_an_epoch_holds_every_window_once_in_another_order_each_time() -> None:
    keys = keys_of(500)
    orders = [epochs.epoch_order(keys, seed=s, epoch=e) for s, e in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        assert sorted(order.rows.tolist()) == list(range(500))
        assert (order.keys == keys[order.rows]).all()
    assert len({tuple(order.rows.tolist()) for order in orders}) == 3
    assert epochs.epoch_order(keys, seed=0, epoch=1).rows.tolist() == orders[1].rows.tolist()


def test_the_order_of_windows_does_not_depend_on_how_they_were_listed() -> None:
    keys = keys_of(100)
    listed = np.random.default_rng(0).permutation(100)
    assert (
        epochs.epoch_order(keys[listed], seed=3, epoch=4).keys.tolist()
        == epochs.epoch_order(keys, seed=3, epoch=4).keys.tolist()
    )


@given(size=st.integers(1, 40), count=st.integers(1, 130), multiple=st.sampled_from([1, 2]))
def test_any_number_of_workers_sees_the_same_windows_in_every_global_batch(
    size: int, count: int, multiple: int
) -> None:
    order = epochs.epoch_order(keys_of(count), seed=0, epoch=0)
    seen = []
    for _, batch in epochs.batches(order, size):
        for num_ranks in (1, 2, 3, 4):
            parts = [
                epochs.rank_part(len(batch.rows), rank=r, num_ranks=num_ranks, multiple=multiple)
                for r in range(num_ranks)
            ]
            assert len({len(part.positions) for part in parts}) == 1
            assert len(parts[0].positions) % multiple == 0
            real = np.concatenate([part.positions[part.is_real] for part in parts])
            assert real.tolist() == list(range(len(batch.rows)))
            for part in parts:
                assert set(part.positions.tolist()) <= set(range(len(batch.rows)))
        seen += batch.rows.tolist()
    assert seen == order.rows.tolist()


@pytest.mark.parametrize("size", [5, 6, 7, 8])
def test_pairs_stay_together_on_any_number_of_workers(size: int) -> None:
    def pairs(num_ranks: int) -> set[tuple[int, int]]:
        found = set()
        for rank in range(num_ranks):
            part = epochs.rank_part(size, rank=rank, num_ranks=num_ranks, multiple=2)
            first, second = part.positions[::2], part.positions[1::2]
            found |= {
                (a, b) for a, b, real in zip(first.tolist(), second.tolist(), part.is_real[::2], strict=True) if real
            }
        return found

    assert pairs(1) == pairs(2) == pairs(4)


@given(count=st.integers(1, 60), size=st.integers(1, 20), done=st.integers(0, 300))
def test_a_run_goes_on_at_any_step_where_it_would_have_been(count: int, size: int, done: int) -> None:
    keys = keys_of(count)

    def windows(first_step: int) -> list[list[int]]:
        epoch, k = epochs.place_of(first_step, count, size)
        found = []
        for later in range(epoch, epoch + 3):
            order = epochs.epoch_order(keys, seed=0, epoch=later)
            found += [batch.rows.tolist() for _, batch in epochs.batches(order, size, first=k)]
            k = 0
        return found

    uninterrupted = [
        batch.rows.tolist()
        for epoch in range(done // epochs.num_batches(count, size) + 3)
        for _, batch in epochs.batches(epochs.epoch_order(keys, seed=0, epoch=epoch), size)
    ]
    assert windows(done) == uninterrupted[done:]


def test_a_balanced_epoch_shows_every_class_as_often_and_every_window_about_as_often() -> None:
    classes = np.array([0] * 70 + [1] * 20 + [3] * 7)
    keys = keys_of(97)
    order = epochs.balanced_order(keys, classes, seed=0, epoch=0)
    assert Counter(classes[order.rows].tolist()) == {0: 70, 1: 70, 3: 70}
    for number, low, high in ((0, 1, 1), (1, 3, 4), (3, 10, 10)):
        counts = np.bincount(order.rows, minlength=97)[classes == number]
        assert (counts.min(), counts.max()) == (low, high)
    assert len(set(order.keys.tolist())) == 210, "copies of a window must be augmented differently"
    assert set(keys.tolist()) <= set(order.keys.tolist())
    assert classes[order.rows][:105].sum() != 0, "classes are not shown one after the other"


def test_which_windows_of_a_small_class_are_shown_once_more_changes_by_epoch() -> None:
    classes = np.array([0] * 15 + [1] * 10)
    extra = set()
    for epoch in range(30):
        rows = epochs.balanced_order(keys_of(25), classes, seed=0, epoch=epoch).rows
        counts = np.bincount(rows, minlength=25)[15:]
        extra |= set(np.flatnonzero(counts == 2).tolist())
    assert extra == set(range(10))


def test_no_window_at_all_is_an_empty_epoch() -> None:
    none = np.empty(0, np.uint64)
    order = epochs.balanced_order(none, np.empty(0, np.int64), seed=0, epoch=0)
    assert list(epochs.batches(order, 4)) == []


@given(counts=st.lists(st.integers(1, 9), max_size=30), num_ranks=st.integers(1, 5))
def test_evaluation_scores_each_window_once_and_a_videos_windows_on_one_rank(counts: list[int], num_ranks: int) -> None:
    video = np.repeat(np.arange(len(counts)), counts)
    parts = [epochs.evaluation_rows(video, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(video)))
    videos = [set(video[part].tolist()) for part in parts]
    assert sum(map(len, videos)) == len(counts)


def test_evaluation_is_shared_out_evenly() -> None:
    video = np.repeat(np.arange(1000), 3)
    sizes = [len(epochs.evaluation_rows(video, rank=rank, num_ranks=4)) for rank in range(4)]
    assert max(sizes) - min(sizes) <= 3


def test_class_weights_make_every_class_weigh_the_same() -> None:
    classes = np.array([0] * 90 + [1] * 9 + [2])
    weights = epochs.class_weights(classes, 3)
    assert weights * [90, 9, 1] == pytest.approx([100 / 3] * 3)
    assert weights[classes].mean() == pytest.approx(1)


def test_a_class_without_windows_has_no_weight() -> None:
    with pytest.raises(ConfigError, match="class number 1 has no window"):
        epochs.class_weights(np.array([0, 2]), 3)


def test_a_rank_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="rank: 2 is not allowed with 2 workers"):
        epochs.rank_part(4, rank=2, num_ranks=2)
