"""Cutting long videos: the clips together give exactly the sample of the whole, times and pixels alike."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoding import OPEN_GOP, OPEN_GOP_NAMES, SMALL, VIDEO_NAMES, VIDEOS, Decoded, clip_row, config, together, work

from vidbatch import schema
from vidbatch.config import LabelConfig
from vidbatch.decode import Decoder, plan
from vidbatch.testing import make_video

SAMPLINGS = ["fps=1", "fps=7", "every=10", "every=1", "count=20", "keyframes", "all", "times=t"]
TIMES = [-5.0, 0.0, 0.01, 3.3, 3.31, 5.0, 5.5, 30.0]

# What cannot be cut, and why: its packets carry no presentation times, or frames cannot be counted by packets.
WHOLE = {("libx264.avi", None), ("mpeg2video.mpg", None)}
WHOLE |= {(name, "every") for name in ("libvpx.webm", "mpeg4.avi", "mpeg4.mp4", "flv.flv")}


@pytest.fixture(scope="module", params=[*VIDEOS, *OPEN_GOP], ids=[*VIDEO_NAMES, *OPEN_GOP_NAMES])
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    codec, suffix, options = request.param
    path = tmp_path_factory.mktemp("video") / f"video.{suffix}"
    rate = 25 if suffix == "mpg" else Fraction(30_000, 1001)
    size = {"width": 96, "height": 96, "num_frames": 220, "gop": 25, "fps": rate}
    make_video(path, codec=codec, **(options | size))
    return f"{codec}.{suffix}", path


DECODERS: dict[str, Decoder] = {}


@pytest.fixture(scope="module", autouse=True)
def _close_decoders() -> Iterator[None]:
    yield
    for decoder in DECODERS.values():
        decoder.close()


def _decoder(settings: LabelConfig) -> Decoder:
    if settings.sampling not in DECODERS:
        DECODERS[settings.sampling] = Decoder(settings, SMALL)
    return DECODERS[settings.sampling]


def decoded(rows: list[dict[str, Any]], settings: LabelConfig) -> list[Decoded]:
    return together(_decoder(settings)(work(rows)), SMALL)


def assert_same(parts: list[Decoded], whole: Decoded) -> None:
    assert [t for part in parts for t in part.pts_seconds] == whole.pts_seconds
    assert [k for part in parts for k in part.is_keyframe] == whole.is_keyframe
    assert np.array_equal(np.concatenate([part.frames for part in parts]), whole.frames)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_clips_of_a_video_give_the_sample_of_the_whole(video: tuple[str, Path], sampling: str) -> None:
    name, path = video
    kind = sampling.partition("=")[0]
    settings = config(sampling=sampling, clip_seconds=2)
    row = clip_row(path, times=TIMES if kind == "times" else None)
    clips = plan(row, settings)
    if {(name, None), (name, kind)} & WHOLE:
        assert clips == [row]
        return
    assert len(clips) >= 3
    assert [clip["clip_index"] for clip in clips] == list(range(len(clips)))
    assert {clip["num_clips"] for clip in clips} == {len(clips)}
    whole, *parts = decoded([row | {"clip_index": 99}, *clips], settings)
    assert whole.error_kind is None
    assert all(part.error_kind is None for part in parts)
    assert len(whole.frames) >= 5
    assert_same(parts, whole)


def test_cuts_are_presentation_times_of_keyframes_about_a_clip_apart(tmp_path: Path) -> None:
    make_video(tmp_path / "v.mp4", num_frames=500, gop=20, b_frames=2, width=96, height=96)
    settings = config(sampling="keyframes", clip_seconds=3)
    row = clip_row(tmp_path / "v.mp4", etag="e", metadata="{}")
    clips = plan(row, settings)
    assert clips[0]["start_seconds"] is None
    assert clips[-1]["end_seconds"] is None
    assert all(earlier["end_seconds"] == later["start_seconds"] for earlier, later in pairwise(clips))
    cuts = [clip["start_seconds"] for clip in clips[1:]]
    [whole] = decoded([row], settings)
    assert set(cuts) <= set(whole.pts_seconds)
    assert all(2 <= later - earlier <= 4 for earlier, later in pairwise(cuts))
    identity = [column.name for column in schema.IDENTITY]
    assert all(clip[name] == row[name] for clip in clips for name in identity)


def test_a_clip_is_not_decoded_from_the_beginning(tmp_path: Path) -> None:
    for suffix in ("mp4", "mkv", "ts"):
        make_video(tmp_path / f"v.{suffix}", num_frames=1000, gop=25, width=96, height=96)
        settings = config(sampling="fps=1", clip_seconds=4)
        clips = plan(clip_row(tmp_path / f"v.{suffix}"), settings)
        num_decoded = [part.last["num_frames_decoded"] for part in decoded(clips, settings)]
        assert max(num_decoded) <= 300, suffix
        assert sum(num_decoded) <= 1700, suffix


def test_a_video_with_one_keyframe_stays_whole(tmp_path: Path) -> None:
    make_video(tmp_path / "v.mp4", num_frames=500, gop=10_000, width=96, height=96, options={"sc_threshold": "0"})
    row = clip_row(tmp_path / "v.mp4")
    assert plan(row, config(clip_seconds=2)) == [row]


def test_periodic_intra_refresh_offers_no_false_cuts(tmp_path: Path) -> None:
    """No keyframes: the picture is refreshed column by column, and entry points recover only later."""
    options = {"intra-refresh": "1", "x264-params": "keyint=25"}
    make_video(tmp_path / "v.mkv", num_frames=300, gop=25, width=96, height=96, options=options)
    settings = config(sampling="fps=5", clip_seconds=2)
    row = clip_row(tmp_path / "v.mkv")
    clips = plan(row, settings)
    whole, *parts = decoded([row | {"clip_index": 99}, *clips], settings)
    assert_same(parts, whole)
    assert len(whole.frames) == 60


def test_a_short_video_stays_whole(tmp_path: Path) -> None:
    make_video(tmp_path / "v.mp4", num_frames=70, gop=5)
    row = clip_row(tmp_path / "v.mp4")
    assert plan(row, config(clip_seconds=2)) == [row]
    assert len(plan(row, config(clip_seconds=1))) == 3


@pytest.mark.parametrize("sampling", ["fps=4", "every=3", "count=9", "all"])
def test_variable_frame_rates_and_late_starts_are_cut_exactly(tmp_path: Path, sampling: str) -> None:
    rng = np.random.default_rng(5)
    ticks = np.cumsum(rng.integers(180, 9000, 300)).tolist()
    for suffix in ("mp4", "mkv", "ts"):
        path = tmp_path / f"v.{suffix}"
        clock = {"pts": ticks, "time_base": Fraction(1, 90_000), "start_ticks": 450_000}
        make_video(path, num_frames=300, gop=20, width=96, height=96, b_frames=2, **clock)
        settings = config(sampling=sampling, clip_seconds=2)
        row = clip_row(path)
        clips = plan(row, settings)
        assert len(clips) >= 4, suffix
        whole, *parts = decoded([row | {"clip_index": 99}, *clips], settings)
        assert_same(parts, whole)


def test_an_edit_list_is_respected_in_every_clip(tmp_path: Path) -> None:
    make_video(tmp_path / "whole.mp4", num_frames=400, gop=30, b_frames=2, width=96, height=96)
    command = ["ffmpeg", "-v", "error", "-ss", "1.7", "-i", "whole.mp4", "-c", "copy", "cut.mp4"]
    subprocess.run(command, cwd=tmp_path, check=True)
    for sampling in ("fps=3", "every=4", "count=13"):
        settings = config(sampling=sampling, clip_seconds=2)
        row = clip_row(tmp_path / "cut.mp4")
        clips = plan(row, settings)
        assert len(clips) >= 4
        whole, *parts = decoded([row | {"clip_index": 99}, *clips], settings)
        assert_same(parts, whole)


def test_clips_of_which_no_time_is_wanted_are_left_out(tmp_path: Path) -> None:
    make_video(tmp_path / "v.mp4", num_frames=500, gop=25, width=96, height=96)
    settings = config(sampling="times=t", clip_seconds=2)
    row = clip_row(tmp_path / "v.mp4", times=[7.0, 7.1, 15.0])
    clips = plan(row, settings)
    assert [clip["times"] for clip in clips] == [[7.0, 7.1], [15.0]] or len(clips) == 3
    whole, *parts = decoded([row | {"clip_index": 99}, *clips], settings)
    assert whole.pts_seconds == pytest.approx([7.0, 7.08, 15.0])
    assert_same(parts, whole)


@pytest.mark.parametrize("content", [b"", b"no video at all", None])
def test_what_cannot_be_opened_is_left_as_it_is_for_decoding_to_explain(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "v.mp4"
    if content is not None:
        path.write_bytes(content)
    row = clip_row(path)
    assert plan(row, config()) == [row]


def test_a_truncated_video_is_cut_only_where_there_are_data(tmp_path: Path) -> None:
    make_video(
        tmp_path / "v.mp4", num_frames=500, gop=25, container_options={"movflags": "faststart"}, width=96, height=96
    )
    data = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "t.mp4").write_bytes(data[: len(data) // 2])
    settings = config(sampling="fps=1", clip_seconds=2)
    row = clip_row(tmp_path / "t.mp4")
    clips = plan(row, settings)
    assert len(clips) >= 3
    whole, *parts = decoded([row | {"clip_index": 99}, *clips], settings)
    assert whole.error_kind == parts[-1].error_kind == "truncated"
    assert [part.error_kind for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert_same(parts, whole)


def test_clips_that_are_already_cut_or_failed_are_left_alone() -> None:
    for row in (clip_row("/nowhere", error_kind="missing"), clip_row("/nowhere", num_clips=4, clip_index=2)):
        assert plan(row, config()) == [row]


def test_a_real_long_video_is_cut_and_loses_nothing(clips: Any) -> None:
    row = clip_row(clips["bunny_trailer.mp4"])
    settings = config(sampling="fps=1", clip_seconds=10)
    cut = plan(row, settings)
    assert len(cut) >= 3
    whole, *parts = decoded([row | {"clip_index": 99}, *cut], settings)
    assert_same(parts, whole)
