"""The stamp that tests rely on: it survives what it should, and its absence is noticed."""

from __future__ import annotations

import tarfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from decoding import SPEC, ffprobe_truth
from hypothesis import given, settings
from hypothesis import strategies as st

from vidbatch.decode import read_frames
from vidbatch.testing import make_shard, make_video, read_stamp, stamped

NUMBERS = st.integers(0, 2**16 - 1)


@given(NUMBERS, NUMBERS)
@settings(max_examples=50)
def test_a_stamp_gives_its_numbers_back(video: int, frame: int) -> None:
    assert read_stamp(stamped(video, frame, width=160, height=120), crop_share=1) == (video, frame)


@given(NUMBERS, NUMBERS, st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_a_stamp_survives_heavy_noise(video: int, frame: int, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 60, (120, 160, 3))
    noisy = np.clip(stamped(video, frame, width=160, height=120) + noise, 0, 255).astype(np.uint8)
    assert read_stamp(noisy, crop_share=1) == (video, frame)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_picture_that_is_not_upright_has_no_stamp(turn: int) -> None:
    with pytest.raises(ValueError, match="upright"):
        read_stamp(stamped(1, 2, width=120, height=120, turn=turn), crop_share=1)


def test_a_mirrored_picture_has_no_stamp() -> None:
    with pytest.raises(ValueError, match="stamp"):
        read_stamp(stamped(1, 2, width=120, height=120)[:, ::-1], crop_share=1)


def test_a_picture_without_a_stamp_is_refused() -> None:
    rng = np.random.default_rng(0)
    for picture in rng.integers(0, 256, (200, 64, 64, 3), np.uint8):
        with pytest.raises(ValueError, match="stamp"):
            read_stamp(picture)


def test_one_wrong_cell_is_noticed() -> None:
    picture = stamped(5, 6, width=140, height=140)
    cell = round(0.72 * 140 / 7)
    picture[70 - cell // 2 : 70 + cell // 2, 70 - cell // 2 : 70 + cell // 2] ^= 255
    with pytest.raises(ValueError, match="checksum"):
        read_stamp(picture, crop_share=1)


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="65536"):
        stamped(2**16, 0, width=64, height=64)


def test_a_video_carries_its_numbers_through_a_lossy_codec_and_the_model_s_crop(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", num_frames=9, video_number=7, width=176, height=144, options={"crf": "35"})
    frames, _, _ = read_frames(tmp_path / "a.mp4", sampling="all", size=SPEC)
    assert [read_stamp(frame) for frame in frames] == [(7, number) for number in range(9)]


def test_a_video_is_shown_at_the_times_asked_for(tmp_path: Path) -> None:
    ticks = [0, 3003, 3004, 90_000, 90_001, 200_000]
    make_video(tmp_path / "a.mp4", num_frames=6, pts=ticks, time_base=Fraction(1, 90_000), start_ticks=4500)
    times = ffprobe_truth(tmp_path / "a.mp4").times
    assert [time - times[0] for time in times] == [Fraction(tick, 90_000) for tick in ticks]


def test_a_shard_holds_its_members_plain_or_gzipped(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"from a file")
    for name in ("shard.tar", "shard.tar.gz", "shard.tgz"):
        make_shard(tmp_path / name, {"a.mp4": b"content", "sub/b.mp4": tmp_path / "x"})
        with tarfile.open(tmp_path / name) as tar:
            assert [tar.extractfile(member).read() for member in tar] == [b"content", b"from a file"]  # type: ignore[union-attr]
        assert (tmp_path / name).read_bytes().startswith(b"\x1f\x8b") == (name != "shard.tar")
