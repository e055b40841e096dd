"""Windows of labelled videos: split by video, cut into slots, drawn by name and never by place."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidbatch.errors import ConfigError
from vidbatch.windows import (
    Extent,
    Labelled,
    Shares,
    Windows,
    WindowSpec,
    assign_splits,
    check_classes,
    classes_of,
    count_by_label,
    extent_of,
    make_windows,
    mixed,
    shown_at,
    uniform,
)

FPS8 = WindowSpec(num_frames=16, fps=8)


def videos(count: int, label: str = "cat") -> list[Labelled]:
    return [Labelled(url=f"s3://archive/{number}.mp4", label=label) for number in range(count)]


def cut(spec: WindowSpec, *lengths: float | None) -> Windows:
    extents = [None if length is None else Extent(0.0, length) for length in lengths]
    return make_windows(videos(len(lengths)), extents, spec)


# --- split ----------------------------------------------------------------------------------------------------------


def test_a_split_does_not_change_when_videos_are_reordered_or_added() -> None:
    before = videos(300)
    splits = dict(zip([v.url for v in before], assign_splits(before), strict=True))
    after = [Labelled(url=f"s3://archive/new{n}.mp4", label="dog") for n in range(50)] + before[::-1]
    for video, split in zip(after, assign_splits(after), strict=True):
        assert splits.get(video.url, split) == split


def test_shares_are_met_and_another_seed_splits_otherwise() -> None:
    many = videos(5000)
    counts = Counter(assign_splits(many, Shares(0.7, 0.1, 0.2)))
    assert counts["train"] / 5000 == pytest.approx(0.7, abs=0.02)
    assert counts["test"] / 5000 == pytest.approx(0.2, abs=0.02)
    assert assign_splits(many, seed=1) != assign_splits(many)


def test_a_larger_validation_share_leaves_the_test_videos_where_they_are() -> None:
    many = videos(500)
    small, large = assign_splits(many, Shares(0.8, 0.1, 0.1)), assign_splits(many, Shares(0.5, 0.4, 0.1))
    assert [split == "test" for split in small] == [split == "test" for split in large]


def test_parts_of_a_video_and_videos_of_a_group_stay_together() -> None:
    parts = [Labelled(url="a.mp4", label="cat", start_seconds=s, end_seconds=s + 1) for s in range(40)]
    assert len(set(assign_splits(parts))) == 1
    grouped = [Labelled(url=f"{n}.mp4", label="cat", group=f"camera {n % 7}") for n in range(70)]
    found = set(zip((video.group for video in grouped), assign_splits(grouped), strict=True))
    assert len(found) == 7


def test_members_of_a_shard_are_videos_of_their_own() -> None:
    members = [Labelled(url="a.tar", member=f"{n}.mp4", label="cat") for n in range(100)]
    assert len(set(assign_splits(members))) == 3


def test_a_split_given_by_the_manifest_holds_for_the_whole_group() -> None:
    given_one = Labelled(url="a.mp4", label="cat", group="film", split="test")
    others = [Labelled(url=f"{n}.mp4", label="cat", group="film") for n in range(5)]
    assert assign_splits([*others, given_one]) == ["test"] * 6


def test_a_group_in_two_splits_is_refused() -> None:
    two = [Labelled(url=f"{split}.mp4", label="cat", group="film", split=split) for split in ("train", "test")]
    with pytest.raises(ConfigError, match=r"group 'film' is in train \(train.mp4\) and in test \(test.mp4\)"):
        assign_splits(two)
    same = [Labelled(url="a.mp4", label="cat", start_seconds=s, split=x) for s, x in ((0, "train"), (5, "test"))]
    with pytest.raises(ConfigError, match="this video is in train"):
        assign_splits(same)


@pytest.mark.parametrize("shares", [Shares(0.8, 0.1, 0.2), Shares(1.2, -0.1, -0.1)])
def test_shares_that_are_none_are_refused(shares: Shares) -> None:
    with pytest.raises(ConfigError, match=r"shares: .* together 1"):
        assign_splits(videos(3), shares)


# --- classes --------------------------------------------------------------------------------------------------------


def test_classes_are_numbered_in_the_order_of_the_labels() -> None:
    mixture = [*videos(2, "dog"), *videos(1, "cat")]
    assert classes_of(mixture)[0] == ("cat", "dog")
    assert classes_of(mixture)[1].tolist() == [1, 1, 0]
    labels, classes = classes_of(mixture, ["dog", "cow", "cat"])
    assert classes.tolist() == [0, 0, 2]
    assert count_by_label(labels, classes) == {"dog": 2, "cow": 0, "cat": 1}


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (["cats", "dog"], "0.mp4: label 'cat' is unknown; did you mean 'cats'"),
        (["zebra", "dog"], "label 'cat' is unknown; allowed: zebra, dog"),
        (["cat", "cat"], "'cat' is given twice"),
        (["cat"], "only 'cat' among 3 videos"),
        (None, "only 'cat' among 3 videos"),
    ],
)
def test_labels_that_cannot_work_are_refused(labels: list[str] | None, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        classes_of(videos(3), labels)


def test_a_class_without_a_video_to_train_with_is_refused_and_says_where_they_are() -> None:
    labels, classes = classes_of([*videos(2, "cat"), *videos(3, "dog")])
    with pytest.raises(ConfigError, match=r"class 'cat' has no video to train with \(1 in validation, 1 in test\)"):
        check_classes(labels, classes, ["validation", "test", "train", "train", "test"])
    check_classes(labels, classes, ["train", "test", "train", "train", "test"])


@pytest.mark.parametrize(("start", "end"), [(2.0, 2.0), (3.0, 1.0), (-1.0, 1.0), (None, 0.0)])
def test_an_empty_part_is_refused(start: float | None, end: float | None) -> None:
    with pytest.raises(ConfigError, match="holds nothing"):
        Labelled(url="a.mp4", label="cat", start_seconds=start, end_seconds=end)


def test_a_split_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="'dev' is not allowed: train, validation, test"):
        Labelled(url="a.mp4", label="cat", split="dev")  # type: ignore[arg-type]


# --- windows --------------------------------------------------------------------------------------------------------


def test_a_video_that_is_exactly_a_window_gives_that_window() -> None:
    windows = cut(FPS8, 16 * (1 / 8))
    assert windows.centred().tolist() == [[k / 8 for k in range(16)]]
    assert windows.random(seed=1, epoch=2).tolist() == windows.centred().tolist()
    assert windows.is_real.all()


def test_centred_windows_lie_in_the_middle_of_their_slots() -> None:
    windows = cut(WindowSpec(num_frames=4, fps=4), 2.5)  # two slots of 1.25 s, windows of 1 s
    assert windows.ordinal.tolist() == [0, 1]
    assert windows.centred()[:, 0].tolist() == [0.125, 1.375]
    assert np.diff(windows.centred()).tolist() == [[0.25] * 3] * 2


@given(
    length=st.floats(0.2, 50),
    frames=st.integers(1, 20),
    fps=st.sampled_from([0.5, 3, 8, 29.97]),
    seed=st.integers(0, 3),
    jitter=st.sampled_from([0.0, 0.3, 0.49]),
)
def test_windows_stay_within_their_slots_and_never_overlap(
    length: float, frames: int, fps: float, seed: int, jitter: float
) -> None:
    windows = make_windows(videos(1), [Extent(3.0, length)], WindowSpec(num_frames=frames, fps=fps))
    for positions in (windows.centred(), windows.random(seed=seed, epoch=0, jitter=jitter)):
        assert (positions >= windows.slot_start[:, None] - 1e-9).all()
        assert (positions < (windows.slot_start + windows.slot_length)[:, None]).all()
        assert (np.diff(positions[windows.num_real == frames]) > 0).all()
        assert (np.diff(positions) >= 0).all()


@given(
    length=st.integers(1, 300),
    frames=st.integers(1, 20),
    every=st.integers(1, 7),
    seed=st.integers(0, 3),
    jitter=st.sampled_from([0.0, 0.4]),
)
def test_frame_numbers_exist_and_follow_the_stride(
    length: int, frames: int, every: int, seed: int, jitter: float
) -> None:
    windows = make_windows(videos(1), [Extent(10.0, length)], WindowSpec(num_frames=frames, every=every))
    for positions in (windows.centred(), windows.random(seed=seed, epoch=0, jitter=jitter)):
        assert (positions == np.floor(positions)).all()
        assert positions.min() >= 10
        assert positions.max() < 10 + length
    steps = np.diff(windows.centred()[windows.num_real == frames])
    assert (steps == every).all()


def test_a_stride_lets_in_every_video_that_has_the_last_frame() -> None:
    spec = WindowSpec(num_frames=3, every=5, short="drop")
    assert cut(spec, 11.0).centred().tolist() == [[0, 5, 10]]
    assert len(cut(spec, 10.0)) == 0


def test_a_short_video_is_padded_with_a_mask_or_dropped_and_counted() -> None:
    padded = cut(FPS8, 0.5, 10.0, 0.0, None)
    assert padded.num_padded == 1
    assert padded.is_real[0].tolist() == [True] * 4 + [False] * 12
    assert padded.centred()[0].tolist() == [0, 0.125, 0.25] + [0.375] * 13
    assert (padded.too_short, padded.unreadable) == ((2,), (3,))
    assert padded.video.tolist() == [0, 1, 1, 1, 1, 1]
    dropped = cut(WindowSpec(num_frames=16, fps=8, short="drop"), 0.5, 10.0, 0.0, None)
    assert (dropped.num_padded, dropped.too_short, dropped.unreadable) == (0, (0, 2), (3,))
    assert dropped.video.tolist() == [1] * 5


def test_at_most_so_many_windows_a_video_are_spread_over_all_of_it() -> None:
    windows = cut(WindowSpec(num_frames=8, fps=8, windows_per_video=2), 100.0)
    assert windows.centred()[:, 0].tolist() == [24.5, 74.5]
    starts = [windows.random(seed=0, epoch=epoch)[0, 0] for epoch in range(200)]
    assert (min(starts), max(starts)) == (pytest.approx(0, abs=2), pytest.approx(49, abs=2))


def test_a_windows_id_depends_on_its_own_video_part_and_spec_only() -> None:
    three = videos(3)
    extents = [Extent(0.0, 4.0)] * 3
    alone = make_windows(three[1:2], extents[1:2], FPS8)
    among = make_windows(three[::-1], extents, FPS8)
    assert [among.id_of(row) for row in np.flatnonzero(among.video == 1)] == [alone.id_of(0), alone.id_of(1)]
    assert len({among.id_of(row) for row in range(6)}) == 6
    assert alone.id_of(0) == "a1a792b8bd1014d0", "ids are kept in checkpoints: they must not change"
    relabelled = [Labelled(url=three[1].url, label="dog")]
    assert make_windows(relabelled, extents[:1], FPS8).id_of(0) == alone.id_of(0)
    for other in (WindowSpec(num_frames=15, fps=8), WindowSpec(num_frames=16, every=8)):
        assert make_windows(three[1:2], [Extent(0.0, 200.0)], other).id_of(0) != alone.id_of(0)


def test_a_random_offset_is_keyed_by_seed_epoch_and_window_alone() -> None:
    windows = make_windows(videos(50), [Extent(0.0, 9.0)] * 50, FPS8)
    whole = windows.random(seed=5, epoch=3)
    rows = np.array([40, 7, 11])
    assert windows.take(rows).random(seed=5, epoch=3).tolist() == whole[rows].tolist()
    for seed, epoch in ((5, 4), (6, 3)):
        other = windows.random(seed=seed, epoch=epoch)
        assert (other[:, 0] != whole[:, 0]).all()
    assert windows.random(seed=5, epoch=3, keys=mixed(windows.key)).tolist() != whole.tolist()


def test_windows_of_a_split_are_those_of_its_videos() -> None:
    windows = make_windows(videos(3), [Extent(0.0, 4.0)] * 3, FPS8)
    assert windows.of_split(["test", "train", "test"], "test").video.tolist() == [0, 0, 2, 2]


def test_the_same_part_listed_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"1\.mp4: this part of this video is listed twice"):
        make_windows([*videos(2), videos(2)[1]], [Extent(0.0, 4.0)] * 3, FPS8)


def test_the_extent_of_a_part_is_what_exists_of_it() -> None:
    part = Labelled(url="a.mp4", label="cat", start_seconds=2.0, end_seconds=9.0)
    assert extent_of(part, FPS8, duration_seconds=5.0, first_seconds=0.5) == Extent(2.0, 3.5)
    assert extent_of(part, FPS8, duration_seconds=1.0) == Extent(2.0, 0.0)
    assert extent_of(part, FPS8, duration_seconds=None) is None
    assert extent_of(videos(1)[0], FPS8, duration_seconds=5.0, first_seconds=0.5) == Extent(0.5, 5.0)
    strided = WindowSpec(num_frames=4, every=2)
    assert extent_of(part, strided, duration_seconds=5.0, num_frames=100, frame_rate=10.0) == Extent(20.0, 70.0)
    assert extent_of(part, strided, duration_seconds=5.0, num_frames=100) is None
    assert extent_of(videos(1)[0], strided, duration_seconds=None, num_frames=100) == Extent(0.0, 100.0)


def test_the_frame_shown_at_a_time_is_the_last_one_that_began() -> None:
    pts = np.array([0.5, 1.0, 1.0 + 1 / 3, 3.0])
    assert shown_at(np.array([0.0, 0.5, 0.99, 1.0 - 1e-9, 1.34, 9.0]), pts).tolist() == [0, 0, 0, 1, 2, 3]


def test_a_spec_survives_json_and_wants_either_fps_or_every() -> None:
    assert WindowSpec.model_validate(json.loads(FPS8.model_dump_json())) == FPS8
    for wrong in ({}, {"fps": 2, "every": 2}):
        with pytest.raises(ValueError, match="either fps or every"):
            WindowSpec(num_frames=8, **wrong)


def test_a_jitter_that_could_swap_frames_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"jitter: 0.5 is not allowed"):
        cut(FPS8, 4.0).random(seed=0, epoch=0, jitter=0.5)


def test_numbers_drawn_by_key_are_spread_evenly_and_independent_of_each_other() -> None:
    keys = np.arange(20_000, dtype=np.uint64)  # the worst keys: neighbours
    numbers = uniform(keys, seed=0, epoch=0, purpose="test")
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    assert counts.sum() == 20_000
    assert abs(counts - 1000).max() < 150  # five standard deviations
    for other in (uniform(keys, seed=0, epoch=1, purpose="test"), uniform(keys, seed=0, epoch=0, purpose="other")):
        assert abs(np.corrcoef(numbers, other)[0, 1]) < 0.03
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.03
