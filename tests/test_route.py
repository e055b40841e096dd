"""Only what a sample needs is decoded, and what comes out is that of decoding everything, bit for bit."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from decoding import OPEN_GOP, OPEN_GOP_NAMES, SMALL, VIDEO_NAMES, VIDEOS, video_file
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from servers import MotoServer

from vidbatch import storage
from vidbatch.decode import ReadReport, read_frames
from vidbatch.decoding import container as container_module
from vidbatch.decoding import frames as decoding_frames
from vidbatch.decoding.entries import Entries
from vidbatch.decoding.frames import ClipSample
from vidbatch.decoding.route import Route
from vidbatch.testing import make_video

SAMPLINGS = ["fps=1", "fps=0.3", "fps=7", "nearest_keyframe=1", "count=5", "count=2", "keyframes", "every=11"]
BOUNDS: list[dict[str, float]] = [
    {}, {"start_seconds": 0.7}, {"end_seconds": 1.9}, {"end_seconds": 2.0}, {"start_seconds": 0.7, "end_seconds": 1.9},
]  # fmt: skip
UNKNOWN = {"flv.flv", "libx264.avi"}
"""A codec of which it is not known where decoding may begin, and packets without presentation times."""


def sample(path: Path, sampling: str, **options: Any) -> ReadReport:
    """The report of a sample, whose frames and times are compared with those of decoding every frame."""
    frames, times, report = read_frames(path, sampling=sampling, size=SMALL, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClipSample, "_aim_from", lambda _self, _tick: None)
        patch.setattr(decoding_frames, "frame_ticks", lambda _video, *, first_tick: None)  # count them
        all_frames, all_times, all_report = read_frames(path, sampling=sampling, size=SMALL, **options)
    assert np.array_equal(times, all_times), (sampling, options, times, all_times)
    assert np.array_equal(frames, all_frames), (sampling, options)
    assert np.array_equal(report.is_keyframe, all_report.is_keyframe)
    assert report.error_kind == all_report.error_kind
    if report.all_decoded_because is None:
        # What the decoder held at the end; and all up to a seek that misled (a keyframe that is none) once more.
        assert report.num_frames_decoded <= 2 * all_report.num_frames_decoded + 20
    return report


@pytest.mark.parametrize(
    ("codec", "suffix", "options"), VIDEOS + OPEN_GOP, ids=[f"{name}" for name in VIDEO_NAMES + OPEN_GOP_NAMES]
)
def test_a_sparse_sample_is_that_of_the_whole_and_costs_fewer_frames(
    tmp_path: Path, codec: str, suffix: str, options: dict[str, Any]
) -> None:
    path = video_file(tmp_path, codec, suffix, options, num_frames=150)
    for sampling in SAMPLINGS:
        report = sample(path, sampling)
        if f"{codec}.{suffix}" in UNKNOWN or suffix == "mpg":
            continue
        if sampling in ("fps=1", "fps=0.3", "count=2"):
            assert report.num_frames_decoded < 0.35 * 150
        assert report.all_decoded_because is None
    tells_of_frames = codec not in ("libvpx", "mpeg4") and suffix != "mpg" and f"{codec}.{suffix}" not in UNKNOWN
    for sampling, options_of, share in (("every=70", {}, 0.35), ("every=11", {"start_seconds": 4.1}, 0.6)):
        assert sample(path, sampling, **options_of).num_frames_decoded < share * 150 or not tells_of_frames
    sample(path, "fps=1", start_seconds=1.3, end_seconds=4.1)
    sample(path, "keyframes", start_seconds=1.3, end_seconds=4.1)
    sample(path, "times=t", times=[-1.0, 0.5, 0.52, 3.3, 99.0])


def test_why_everything_was_decoded_is_said(tmp_path: Path) -> None:
    for codec, suffix, words in [("flv", "flv", "not known of this codec"), ("libx264", "avi", "presentation times")]:
        report = sample(video_file(tmp_path, codec, suffix, {"b_frames": 2} if codec == "libx264" else {}), "fps=1")
        assert report.all_decoded_because is not None
        assert words in report.all_decoded_because


@st.composite
def encodings(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of make_video: encoders whose streams can be entered at some places and skipped in part."""
    codec = draw(st.sampled_from(["libx264", "libx264", "libx264", "libx265", "libvpx-vp9", "mpeg2video", "mpeg4"]))
    gop, b_frames = draw(st.integers(2, 60)), draw(st.integers(0, 8))
    made: dict[str, Any] = {"codec": codec, "gop": gop, "b_frames": min(b_frames, 3)}
    containers = {"libvpx-vp9": ["webm", "mp4"], "mpeg4": ["mp4", "mkv"]}.get(codec, ["mp4", "mkv", "ts"])
    made["suffix"] = draw(st.sampled_from(containers))
    if codec not in ("mpeg2video", "mpeg4"):  # these know only coarse clocks
        uneven = draw(st.booleans())
        steps = np.random.default_rng(gop).choice([1500, 3000, 3000, 3000, 9000], 90) if uneven else np.full(90, 3000)
        made |= {"pts": np.cumsum(steps).tolist(), "time_base": Fraction(1, 90_000)}
        made["start_ticks"] = draw(st.sampled_from([0, 7000, 900_000]))
    if codec == "libx264":
        parameters = (
            f"bframes={b_frames}:b-pyramid={draw(st.sampled_from(['none', 'strict', 'normal']))}:"
            f"ref={draw(st.integers(1, 6))}:keyint={gop}:b-adapt={draw(st.integers(0, 2))}:scenecut=0:threads=1:"
            + draw(st.sampled_from(["open-gop=0", "open-gop=1", "intra-refresh=1"]))
        )
        made["options"] = {"preset": "veryfast", "x264-params": parameters}
    if codec == "libx265":
        parameters = (
            f"log-level=none:bframes={min(b_frames, gop - 1)}:b-pyramid={draw(st.booleans()):d}:"
            f"ref={draw(st.integers(1, 5))}:keyint={gop}:min-keyint=1:open-gop={draw(st.booleans()):d}:"
            f"temporal-layers={draw(st.sampled_from([0, 0, 3]))}:scenecut=0:pools=1:frame-threads=1"
        )
        made["options"] = {"preset": "ultrafast", "x265-params": parameters}
    if codec == "libvpx-vp9":
        made["options"] = {"cpu-used": "8", "lag-in-frames": "12", "auto-alt-ref": str(draw(st.integers(0, 2)))}
    return made


def check_exactness(folder: Path, made: dict[str, Any], sampling: str, bounds: dict[str, float]) -> None:
    path = folder / f"v.{made.pop('suffix')}"
    try:
        make_video(path, num_frames=90, width=96, height=64, fps=30, **made)
    except av.FFmpegError:  # settings that the encoder refuses together
        reject()
    sample(path, sampling, **bounds)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=encodings(), sampling=st.sampled_from(SAMPLINGS), bounds=st.sampled_from(BOUNDS))
def test_whatever_encoders_make_is_sampled_exactly(
    tmp_path: Path, made: dict[str, Any], sampling: str, bounds: dict[str, float]
) -> None:
    check_exactness(tmp_path, made, sampling, bounds)


@pytest.mark.long
@pytest.mark.timeout(1200)
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=encodings(), sampling=st.sampled_from(SAMPLINGS), bounds=st.sampled_from(BOUNDS))
def test_whatever_encoders_make_is_sampled_exactly_a_thousand_times(
    tmp_path: Path, made: dict[str, Any], sampling: str, bounds: dict[str, float]
) -> None:
    check_exactness(tmp_path, made, sampling, bounds)


REAL = ["bikes.mp4", "bunny_trailer.mp4", "city.mpg", "concert.avi", "concert.mkv", "concert.webm", "globe.mp4",
        "motorway.mp4", "sintel_trailer.mp4", "title_card.mp4"]  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_clips_are_sampled_exactly(clips: Any, name: str) -> None:
    sample(clips[name], "fps=1", end_seconds=12.0)
    sample(clips[name], "keyframes", end_seconds=12.0)
    sample(clips[name], "count=9", start_seconds=3.3, end_seconds=8.2)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_every_real_clip_is_sampled_exactly(clips: Any) -> None:
    for path in clips.values():
        for sampling in ("fps=1", "fps=0.2", "count=8", "keyframes"):
            sample(path, sampling, end_seconds=60.0)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("parameters", ["intra-refresh=1", "open-gop=1:bframes=3", "open-gop=0"])
def test_a_clip_that_begins_amid_a_video_has_the_frames_of_the_whole(
    tmp_path: Path, parameters: str, suffix: str
) -> None:
    options = {"options": {"x264-params": f"keyint=20:scenecut=0:{parameters}"}}
    path = video_file(tmp_path, "libx264", suffix, options, num_frames=150)
    whole, times, _ = read_frames(path, sampling="all", size=SMALL)
    for start, end in [(2.5, 3.5), (4.0, 4.5), (4.84, 6.0)]:
        part, part_times, _ = read_frames(path, sampling="all", size=SMALL, start_seconds=start, end_seconds=end)
        inside = (times >= start) & (times < end)
        assert np.array_equal(part_times, times[inside])
        assert np.array_equal(part, whole[inside])


def test_far_wanted_frames_are_reached_by_seeking(clips: Any) -> None:
    report = sample(clips["motorway.mp4"], "count=2")
    assert report.all_decoded_because is None
    assert report.num_packets_read < 0.5 * 900
    assert report.num_frames_decoded < 0.1 * 900


def test_a_few_frames_of_a_large_object_cost_a_few_ranges_of_it(clips: Any, moto_s3: MotoServer) -> None:
    path = clips["bunny_whole.mp4"]
    url = f"{moto_s3()}/whole.mp4"
    storage.put(url, path.read_bytes())
    moto_s3.forget()
    frames, times, report = read_frames(url, sampling="count=8", size=SMALL)
    assert moto_s3.count("GET") <= 3 + 8
    assert report.read_bytes < 0.15 * path.stat().st_size
    local_frames, local_times, _ = read_frames(path, sampling="count=8", size=SMALL)
    assert np.array_equal(times, local_times)
    assert np.array_equal(frames, local_frames)


def test_a_few_frames_of_a_large_matroska_file_cost_its_cues_and_a_few_ranges(
    tmp_path: Path, clips: Any, moto_s3: MotoServer
) -> None:
    path = tmp_path / "whole.mkv"
    remux = ["-i", str(clips["bunny_whole.mp4"]), "-map", "0:v", "-map", "0:a", "-c", "copy", str(path)]
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", *remux], check=True, stdin=subprocess.DEVNULL)
    url = f"{moto_s3()}/whole.mkv"
    storage.put(url, path.read_bytes())
    moto_s3.forget()
    frames, times, report = read_frames(url, sampling="count=8", size=SMALL)
    assert moto_s3.count("GET") <= 4 + 2 * 8
    assert report.read_bytes < 0.3 * path.stat().st_size
    assert report.num_packets_read < 0.2 * 14_000
    whole_frames, whole_times, _ = read_frames(clips["bunny_whole.mp4"], sampling="count=8", size=SMALL)
    assert np.allclose(times, whole_times, atol=0.001)  # Matroska's clock has milliseconds
    assert np.array_equal(frames, whole_frames)


@pytest.mark.parametrize(
    ("codec", "suffix", "options"),
    [
        ("libx264", "mkv", {"b_frames": 3, "gop": 40}),
        ("libx264", "mkv", {"options": {"x264-params": "keyint=40:scenecut=0:open-gop=1:bframes=3"}}),
        ("libx264", "mkv", {"options": {"x264-params": "keyint=40:scenecut=0:intra-refresh=1"}}),
        ("libx265", "mkv", {"gop": 40, "b_frames": 3}),
        ("libvpx-vp9", "webm", {"gop": 40}),
    ],
)
@pytest.mark.parametrize("cues", ["true", "false"])
def test_cues_lead_past_what_no_wanted_time_needs_and_false_ones_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, suffix: str, options: dict[str, Any], cues: str
) -> None:
    path = video_file(tmp_path, codec, suffix, options, num_frames=300)
    monkeypatch.setattr(container_module, "_WORTH_READING_CUES_BYTES", 0)
    monkeypatch.setattr(decoding_frames, "_SPARSE_SECONDS", 0)
    if cues == "false":  # of keyframes that are none

        def read_false_ones(video: container_module.Video) -> None:
            video.cues = [(tick, 0) for tick in range(0, round(40 / video.time_base), round(0.7 / video.time_base))]

        monkeypatch.setattr(container_module.Video, "read_cues", read_false_ones)
    leads_past_some = cues == "true" and "intra-refresh" not in str(options)
    for sampling, bounds in (("fps=0.1", {}), ("fps=0.2", {"start_seconds": 6.0})):
        assert sample(path, sampling, **bounds).num_packets_read < 0.7 * 300 or not leads_past_some
    sample(path, "times=t", times=[0.3, 9.1, 9.2, 30.0])


@pytest.mark.parametrize(
    ("codec", "parameters", "are_entries"),
    [
        ("libx264", "keyint=10:open-gop=0", True),
        ("libx264", "keyint=10:open-gop=1:bframes=3", True),
        ("libx264", "keyint=10:intra-refresh=1", False),
        ("libx265", "keyint=10:open-gop=1:bframes=3", True),
    ],
)
@pytest.mark.parametrize("suffix", ["mp4", "ts"])
def test_decoding_begins_only_where_the_stream_promises_exactness(
    tmp_path: Path, codec: str, parameters: str, suffix: str, *, are_entries: bool
) -> None:
    name = f"{codec[3:]}-params"
    quiet = "log-level=none:min-keyint=1:" if codec == "libx265" else ""
    path = video_file(tmp_path, codec, suffix, {"options": {name: f"{quiet}scenecut=0:{parameters}"}}, num_frames=60)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        entries = Entries(context.codec.canonical_name, context.extradata)
        packets = [packet for packet in container.demux(video=0) if packet.size]
    keyframes = [packet for packet in packets if packet.is_keyframe]
    assert entries.exist
    assert entries.include(keyframes[0])
    assert all(entries.include(packet) == are_entries for packet in keyframes[1:])
    assert not any(entries.include(packet) for packet in packets if not packet.is_keyframe)


def test_a_jump_that_led_elsewhere_is_made_good_by_decoding_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = video_file(tmp_path, "libx264", "mp4", {"b_frames": 2}, num_frames=150)
    monkeypatch.setattr(Route, "begins_well", lambda _self, packet: packet.pts < 40 * 512)
    report = sample(path, "fps=1")
    assert report.all_decoded_because is not None
    assert report.num_frames_decoded > 100


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_damage_where_nothing_is_needed_takes_nothing_from_the_sample(tmp_path: Path, suffix: str) -> None:
    path = video_file(tmp_path, "libx264", suffix, {"b_frames": 3, "gop": 25}, num_frames=150)
    before = read_frames(path, sampling="fps=1", size=SMALL)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    needless = packets[25 * 3 + 12]  # amid a group of pictures of which only the first is shown at a whole second
    content = bytearray(path.read_bytes())
    place = path.read_bytes().find(bytes(needless)[4:24])
    assert place > 0
    content[place + 2 : place + 14] = bytes(12)
    path.write_bytes(content)
    assert read_frames(path, sampling="all", size=SMALL)[2].error_kind == "corrupt"
    frames, times, report = read_frames(path, sampling="fps=1", size=SMALL)
    assert report.error_kind is None
    assert np.array_equal(times, before[1])
    assert np.array_equal(frames, before[0])


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_damage_on_the_way_to_a_wanted_frame_ends_the_sample_as_it_ends_the_whole(tmp_path: Path, suffix: str) -> None:
    path = video_file(tmp_path, "libx264", suffix, {"b_frames": 3, "gop": 60}, num_frames=150)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    place = path.read_bytes().find(bytes(packets[61])[4:24])  # a reference just behind the second keyframe
    content[place + 2 : place + 14] = bytes(12)
    path.write_bytes(content)
    for sampling in ("fps=1", "count=5"):
        assert sample(path, sampling).error_kind == "corrupt"
