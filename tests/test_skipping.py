"""Frames that no one asked for and no other frame needs are left out, and nothing else changes by one bit."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from decoding import SMALL, video_file
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vidbatch.decode import ReadReport, read_frames
from vidbatch.decoding import skipping
from vidbatch.testing import make_video

SAMPLINGS = ["fps=1", "fps=0.3", "fps=7", "count=5", "every=11"]
SKIPPABLE = [
    ("libx264", "mp4", {"b_frames": 3}),
    ("libx264", "mov", {"b_frames": 2, "gop": 50}),
    ("mpeg4", "mp4", {"b_frames": 2}),
    ("mpeg2video", "mp4", {"b_frames": 2}),
]


def sample(path: Path, sampling: str, **bounds: float) -> ReadReport:
    """The report of a sample, whose frames and times are compared with those of decoding every frame."""
    frames, times, report = read_frames(path, sampling=sampling, size=SMALL, **bounds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skipping, "_CODECS", frozenset())
        all_frames, all_times, all_report = read_frames(path, sampling=sampling, size=SMALL, **bounds)
    assert np.array_equal(times, all_times)
    assert np.array_equal(frames, all_frames)
    assert report.error_kind == all_report.error_kind
    assert report.num_frames_decoded <= all_report.num_frames_decoded + skipping.LOOK_AHEAD
    return report


@pytest.mark.parametrize(("codec", "suffix", "options"), SKIPPABLE)
def test_a_sparse_sample_is_that_of_the_whole_and_costs_fewer_frames(
    tmp_path: Path, codec: str, suffix: str, options: dict[str, Any]
) -> None:
    path = video_file(tmp_path, codec, suffix, options, num_frames=150)
    for sampling in SAMPLINGS:
        report = sample(path, sampling)
        assert sampling not in ("fps=1", "fps=0.3") or report.num_frames_decoded < 0.7 * 150
        sample(path, sampling, start_seconds=1.3, end_seconds=4.1)


def test_a_video_without_such_frames_is_decoded_whole(tmp_path: Path) -> None:
    path = video_file(tmp_path, "libx264", "mp4", {"options": {"x264-params": "bframes=0"}}, num_frames=100)
    _, _, report = read_frames(path, sampling="fps=1", size=SMALL)
    assert report.num_frames_decoded == 100


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    b_frames=st.integers(0, 8),
    pyramid=st.sampled_from(["none", "strict", "normal"]),
    refs=st.integers(1, 6),
    gop=st.integers(2, 60),
    open_gop=st.booleans(),
    adapt=st.integers(0, 2),
    sampling=st.sampled_from(SAMPLINGS),
    uneven=st.booleans(),
    start_ticks=st.sampled_from([0, 7000, 900_000]),
    bounds=st.sampled_from(
        [{}, {"start_seconds": 0.7}, {"end_seconds": 1.9}, {"start_seconds": 0.7, "end_seconds": 1.9}]
    ),
)
def test_whatever_x264_makes_is_sampled_exactly(
    tmp_path: Path,
    *,
    b_frames: int,
    pyramid: str,
    refs: int,
    gop: int,
    open_gop: bool,
    adapt: int,
    sampling: str,
    uneven: bool,
    start_ticks: int,
    bounds: dict[str, float],
) -> None:
    path = tmp_path / "v.mp4"
    parameters = (
        f"bframes={b_frames}:b-pyramid={pyramid}:ref={refs}:keyint={gop}:open-gop={open_gop:d}:b-adapt={adapt}:"
        "scenecut=0:threads=1"
    )
    steps = np.random.default_rng(gop).choice([1500, 3000, 3000, 3000, 9000], 90) if uneven else np.full(90, 3000)
    make_video(
        path,
        num_frames=90,
        width=96,
        height=64,
        pts=np.cumsum(steps).tolist(),
        time_base=Fraction(1, 90_000),
        start_ticks=start_ticks,
        options={"preset": "veryfast", "x264-params": parameters},
    )
    sample(path, sampling, **bounds)


@pytest.mark.parametrize("name", ["bunny_trailer.mp4", "sintel_trailer.mp4", "motorway.mp4", "globe.mp4"])
def test_real_clips_are_sampled_exactly(clips: Any, name: str) -> None:
    sample(clips[name], "fps=1", end_seconds=12.0)
    sample(clips[name], "count=9", start_seconds=3.3, end_seconds=8.2)


def test_damage_to_a_frame_that_nobody_needs_takes_nothing_from_the_sample(tmp_path: Path) -> None:
    path = video_file(tmp_path, "libx264", "mp4", {"b_frames": 3}, num_frames=100)
    before = read_frames(path, sampling="fps=1", size=SMALL)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    # A slice (NAL type 1) that says of itself that it is no reference, and is not shown at a whole second.
    needless = next(p for p in packets[40:] if bytes(p)[4] == 0x01 and round(float(p.pts * p.time_base) * 25) % 25)
    content = bytearray(path.read_bytes())
    content[needless.pos + 5 : needless.pos + 9] = bytes(4)  # its header: no macroblock has so high a number
    path.write_bytes(content)
    assert read_frames(path, sampling="all", size=SMALL)[2].error_kind == "corrupt"
    frames, times, report = read_frames(path, sampling="fps=1", size=SMALL)
    assert report.error_kind is None
    assert np.array_equal(times, before[1])
    assert np.array_equal(frames, before[0])
