"""Which frames come out, and what they look like: every codec and container, every sampling, against ffprobe."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from av import VideoFrame
from av.filter import Graph
from decoding import (
    OPEN_GOP,
    OPEN_GOP_NAMES,
    SMALL,
    SPEC,
    VIDEO_NAMES,
    VIDEOS,
    Truth,
    clip_row,
    config,
    ffprobe_truth,
    together,
    video_file,
    work,
)

from vidbatch import schema, storage
from vidbatch.decode import Decoder, plan, read_frames
from vidbatch.decoding.pictures import PictureMaker
from vidbatch.decoding.types import TargetSize
from vidbatch.schema import FrameSpec
from vidbatch.testing import make_video, read_stamp, stamped


def shown_at(times: list[Fraction], wanted: Fraction) -> int:
    return max((number for number, time in enumerate(times) if time <= wanted), default=0)


def grid_frames(times: list[Fraction], end: Fraction, fps: Fraction) -> list[int]:
    """Numbers of the frames shown at first, first + 1/fps, ... before the end."""
    numbers, wanted = [], times[0]
    while wanted < end:
        numbers.append(shown_at(times, wanted))
        wanted += 1 / fps
    return sorted(set(numbers))


@pytest.fixture(scope="module", params=[*VIDEOS, *OPEN_GOP], ids=[*VIDEO_NAMES, *OPEN_GOP_NAMES])
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    """60 frames in one of the codecs and containers, with the times that ffprobe gives them."""
    codec, suffix, options = request.param
    rate = 25 if suffix == "mpg" else Fraction(30_000, 1001)
    path = video_file(tmp_path_factory.mktemp("video"), codec, suffix, options, num_frames=60, fps=rate, video_number=3)
    truth = ffprobe_truth(path)
    assert len(truth.times) == 60
    return path, truth


@pytest.mark.parametrize(
    "sampling", ["fps=1", "fps=7", "fps=30000/1001", "every=1", "every=7", "count=5", "all", "times=t"]
)
def test_sampled_frames_are_the_ones_shown_at_the_wanted_times(video: tuple[Path, Truth], sampling: str) -> None:
    path, (times, end, packet_end) = video
    # Program streams do not time every packet; AVI times none, so that only the first frame tells how late they run.
    known_end = packet_end if path.suffix == ".mpg" else end
    kind, _, value = sampling.partition("=")
    wanted = [-1.0, 0.5, 0.5, float(times[20]), round(float(times[33]), 6), float(times[41]) - 0.004, 77.0]
    expected = {
        "fps": lambda: grid_frames(times, end, Fraction(value)),
        "every": lambda: list(range(0, 60, int(value))),
        "count": lambda: [
            shown_at(times, times[0] + (k + Fraction(1, 2)) / 5 * (known_end - times[0])) for k in range(5)
        ],
        "all": lambda: list(range(60)),
        "times": lambda: sorted({0, shown_at(times, Fraction(0.5)), 20, 33, 40, 59}),
    }[kind]()
    frames, seconds, report = read_frames(path, sampling=sampling, size=SPEC, times=wanted if kind == "times" else None)
    assert report.error_kind is None
    assert [read_stamp(frame) for frame in frames] == [(3, number) for number in expected]
    assert seconds.tolist() == pytest.approx([float(times[number]) for number in expected], abs=1e-9)


def test_the_keyframes_sampling_gives_the_frames_flagged_as_keyframes(video: tuple[Path, Truth]) -> None:
    path, _ = video
    everything, _, whole = read_frames(path, sampling="all", size=SMALL)
    keyframes, _, report = read_frames(path, sampling="keyframes", size=SMALL)
    assert report.is_keyframe.all()
    assert whole.is_keyframe[0]
    assert np.array_equal(keyframes, everything[whole.is_keyframe])


def test_the_nearest_keyframes_are_taken_for_a_grid_of_times(video: tuple[Path, Truth]) -> None:
    path, _ = video
    keyframes, seconds, _ = read_frames(path, sampling="keyframes", size=SMALL)
    _, times, _ = read_frames(path, sampling="fps=2", size=SMALL)
    grid = times[0] + np.arange(len(times)) / 2
    nearest, _, report = read_frames(path, sampling="nearest_keyframe=2", size=SMALL)
    chosen = sorted({int(np.argmin(np.abs(seconds - time) + 1e-6 * np.arange(len(seconds)))) for time in grid})
    assert report.is_keyframe.all()
    assert np.array_equal(nearest, keyframes[chosen])


def test_variable_frame_rates_and_late_starts_keep_their_times(tmp_path: Path) -> None:
    ticks = [0, 1, 400, 401, 402, 2500, 2501, 9000]
    for suffix, base in (("mp4", Fraction(1, 1000)), ("mkv", Fraction(1, 1000)), ("ts", Fraction(1, 90_000))):
        path = tmp_path / f"v.{suffix}"
        scaled = [int(Fraction(tick, 1000) / base) for tick in ticks]
        start = int(3 / base)
        make_video(path, num_frames=8, pts=scaled, time_base=base, start_ticks=start, b_frames=2)
        frames, seconds, _ = read_frames(path, sampling="fps=1", size=SPEC)
        numbers = [read_stamp(frame)[1] for frame in frames]
        # Seconds 0, 1, 2 show frames 0 and 4; 3 to 8 frame 6; 9 the last.
        assert numbers == [0, 4, 6, 7], suffix
        assert (seconds - seconds[0]).tolist() == pytest.approx([0.0, 0.402, 2.501, 9.0])


@pytest.mark.parametrize(("codec", "suffix"), [("mpeg4", "avi"), ("libx264", "mp4"), ("libx264", "mkv")])
def test_frames_ten_minutes_apart_are_given_at_their_times(tmp_path: Path, codec: str, suffix: str) -> None:
    """The time base of such an AVI is ten minutes: a tick is more than the length of a clip."""
    path = tmp_path / f"v.{suffix}"
    make_video(path, codec=codec, fps=Fraction(1, 600), num_frames=30, gop=5, width=96, height=96)
    for sampling, wanted in (("all", range(30)), ("fps=1", range(30)), ("keyframes", range(0, 30, 5))):
        settings = config(sampling=sampling)
        decoder = Decoder(settings, SMALL)
        for rows in ([clip_row(path)], plan(clip_row(path), settings)):
            parts = together(decoder(work(rows)), SMALL)
            assert {part.error_kind for part in parts} == {None}, parts[0].last["error_message"]
            frames = [number for part in parts for number in part.stamps]
            assert frames == list(wanted)
            assert [t for part in parts for t in part.pts_seconds] == [600.0 * number for number in wanted]
        decoder.close()


def test_a_grid_point_on_a_frame_border_is_never_the_frame_before(tmp_path: Path) -> None:
    """29.97 frames a second on a clock of 90 kHz: each grid point lies exactly where a frame begins."""
    path = tmp_path / "v.ts"
    make_video(path, codec="mpeg2video", num_frames=300, fps=Fraction(30_000, 1001), width=160, height=120, gop=300)
    frames, _, _ = read_frames(path, sampling="fps=30000/1001", size=SPEC)
    assert [read_stamp(frame)[1] for frame in frames] == list(range(300))
    frames, _, _ = read_frames(path, sampling="fps=10000/1001", size=SPEC)
    assert [read_stamp(frame)[1] for frame in frames] == list(range(0, 300, 3))


def test_an_edit_list_hides_what_it_cuts_off(tmp_path: Path) -> None:
    make_video(tmp_path / "whole.mp4", num_frames=60, gop=20, b_frames=2)
    command = ["ffmpeg", "-v", "error", "-ss", "1.0", "-i", "whole.mp4", "-c", "copy", "cut.mov"]
    subprocess.run(command, cwd=tmp_path, check=True)
    frames, seconds, report = read_frames(tmp_path / "cut.mov", sampling="all", size=SPEC)
    times = ffprobe_truth(tmp_path / "cut.mov").times
    assert report.error_kind is None
    assert [read_stamp(frame)[1] for frame in frames] == list(range(60 - len(times), 60))
    assert read_stamp(frames[0]) == (0, 25)
    assert seconds.tolist() == pytest.approx([float(time) for time in times])


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotated_videos_come_out_upright(tmp_path: Path, rotation: int, suffix: str) -> None:
    path = tmp_path / f"v.{suffix}"
    make_video(path, num_frames=3, width=320, height=180, rotation=rotation)
    for spec, share in ((SPEC, 0.875), (None, 1.0)):
        frames, _, _ = read_frames(path, sampling="all", size=spec)
        assert [read_stamp(frame, crop_share=share) for frame in frames] == [(0, 0), (0, 1), (0, 2)]
    assert frames.shape[1:3] == ((180, 320) if rotation % 180 == 0 else (320, 180))


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize("aspect", [Fraction(16, 15), Fraction(2), Fraction(1, 2)])
def test_pixels_that_are_not_square_are_made_square(tmp_path: Path, aspect: Fraction, rotation: int) -> None:
    path = tmp_path / "v.mp4"
    make_video(path, num_frames=2, width=240, height=240, pixel_aspect=aspect, rotation=rotation, options={"crf": "10"})
    for spec, share in ((SPEC, 0.875), (None, 1.0)):
        frames, _, _ = read_frames(path, sampling="all", size=spec)
        assert [read_stamp(frame, crop_share=share) for frame in frames] == [(0, 0), (0, 1)]
    displayed = (240, round(240 * aspect))
    assert frames.shape[1:3] == (displayed if rotation == 0 else displayed[::-1])


@pytest.mark.parametrize("aspect", ["65535/1", "1/65535", "0/1"])
def test_absurd_pixel_aspects_are_ignored(tmp_path: Path, aspect: str) -> None:
    make_video(tmp_path / "v.mkv", num_frames=2)
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        "v.mkv",
        "-c",
        "copy",
        "-bsf:v",
        f"h264_metadata=sample_aspect_ratio={aspect}",
    ]
    subprocess.run([*command, "a.mkv"], cwd=tmp_path, check=True)
    frames, _, _ = read_frames(tmp_path / "a.mkv", sampling="all")
    assert frames.shape[1:] == (240, 320, 3)


@pytest.mark.parametrize(
    ("codec", "suffix", "pix_fmt"),
    [
        ("libx264", "mp4", "gray"),
        ("libx264", "mp4", "yuv444p"),
        ("libx264", "mkv", "yuv420p10le"),
        ("libx265", "mp4", "yuv420p10le"),
        ("libx265", "mp4", "yuv422p12le"),
        ("ffv1", "mkv", "yuv410p"),
        ("ffv1", "mkv", "gray16le"),
        ("ffv1", "mkv", "rgb48le"),
        ("ffv1", "avi", "yuva420p"),
        ("huffyuv", "avi", "rgb24"),
        ("qtrle", "mov", "argb"),
        ("png", "mov", "rgba"),
        ("png", "mov", "pal8"),
        ("mjpeg", "mov", "yuvj422p"),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(tmp_path: Path, codec: str, suffix: str, pix_fmt: str) -> None:
    path = tmp_path / f"v.{suffix}"
    if pix_fmt == "pal8":
        make_video(tmp_path / "rgb.mov", codec="png", pix_fmt="rgb24", num_frames=3)
        command = ["ffmpeg", "-v", "error", "-i", "rgb.mov", "-c:v", "png", "-pix_fmt", "pal8", "v.mov"]
        subprocess.run(command, cwd=tmp_path, check=True)
    else:
        options = {"x265-params": "log-level=none"} if codec == "libx265" else None
        make_video(path, codec=codec, pix_fmt=pix_fmt, num_frames=3, options=options)
    frames, _, report = read_frames(path, sampling="all", size=None)
    assert report.error_kind is None
    assert frames.shape == (3, 240, 320, 3)
    assert [read_stamp(frame, crop_share=1) for frame in frames] == [(0, 0), (0, 1), (0, 2)]
    if pix_fmt == "pal8":
        return  # 256 fixed colours are far from the ramp's
    ramp = stamped(0, 0, width=320, height=240)[10, 10:300].astype(int)
    assert np.abs(frames[0][10, 10:300].astype(int) - ramp).mean() < 6  # a narrow range or a wrong matrix shows


@pytest.mark.parametrize("matrix", ["bt709", "bt470bg", "smpte170m", "bt2020nc", "unknown"])
@pytest.mark.parametrize("colour_range", ["tv", "pc"])
def test_colours_are_what_ffmpeg_makes_of_them(tmp_path: Path, matrix: str, colour_range: str) -> None:
    source = "color=c=0x2080e0:s=1280x720:d=0.2,format=yuv420p"
    tags = ["-colorspace", matrix, "-color_range", colour_range]
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, *tags, "-c:v", "libx264", "-crf", "1", "v.mp4"]
    subprocess.run(command, cwd=tmp_path, check=True)
    frames, _, _ = read_frames(tmp_path / "v.mp4", sampling="count=1", size=SPEC)
    command = ["ffmpeg", "-v", "error", "-i", "v.mp4", "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout
    theirs = np.frombuffer(raw, np.uint8).reshape(720, 1280, 3)[360, 640].astype(int)
    assert np.abs(frames[0, 112, 112].astype(int) - theirs).max() <= 2


def test_interlaced_video_gives_every_frame(tmp_path: Path) -> None:
    make_video(tmp_path / "p.mkv", codec="ffv1", num_frames=20, fps=50, width=320, height=240)
    encode = ["-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-top", "1", "-b:v", "4M"]
    command = ["ffmpeg", "-v", "error", "-i", "p.mkv", "-vf", "tinterlace=interleave_top", *encode, "i.ts"]
    subprocess.run(command, cwd=tmp_path, check=True)
    frames, seconds, report = read_frames(tmp_path / "i.ts", sampling="all", size=SPEC)
    assert report.error_kind is None
    assert seconds.tolist() == pytest.approx([float(t) for t in ffprobe_truth(tmp_path / "i.ts").times])
    assert len(frames) == 10
    assert all((frame.std(axis=(0, 1)) > 20).all() for frame in frames)


def test_frames_are_scaled_and_cropped_like_the_usual_evaluation_transform(clips: Any) -> None:
    """Shorter side to 256, centre of 224, antialiased bicubic: what torchvision's and timm's models were judged by."""
    pil = pytest.importorskip("PIL.Image")
    whole, _, _ = read_frames(clips["bunny.mp4"], sampling="count=3")
    ours, _, _ = read_frames(clips["bunny.mp4"], sampling="count=3", size=SPEC)
    height, width = whole.shape[1:3]
    for frame, mine in zip(whole, ours, strict=True):
        scaled = pil.fromarray(frame).resize((256 * width // height, 256), pil.BICUBIC)
        left, top = (scaled.width - 224) // 2, 16
        usual = np.asarray(scaled.crop((left, top, left + 224, top + 224)), int)
        assert np.abs(mine.astype(int) - usual).mean() < 4
        assert np.abs(mine.mean(axis=(0, 1)) - usual.mean(axis=(0, 1))).max() < 0.5


def test_a_target_that_is_not_square_is_filled(tmp_path: Path) -> None:
    make_video(tmp_path / "v.mp4", num_frames=1, width=320, height=240)
    for spec in (FrameSpec(100, 200), FrameSpec(200, 100), FrameSpec(90, 160, 1.0, "area")):
        frames, _, _ = read_frames(tmp_path / "v.mp4", sampling="all", size=spec)
        assert frames.shape == (1, spec.height, spec.width, 3)
        assert frames.min(axis=(0, 1, 3)).max() < 250


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "area"])
def test_every_interpolation_of_the_schema_works(tmp_path: Path, interpolation: Any) -> None:
    make_video(tmp_path / "v.mp4", num_frames=2)
    frames, _, _ = read_frames(tmp_path / "v.mp4", sampling="all", size=FrameSpec(96, 96, 0.875, interpolation))
    assert [read_stamp(frame)[1] for frame in frames] == [0, 1]


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv411p", "yuv410p", "yuv420p10le",
                                     "nv12", "p010le", "rgb24", "rgba", "gbrp", "gray", "yuva420p"])  # fmt: skip
def test_a_picture_has_the_very_values_of_ffmpegs_scaling_in_one_step(pix_fmt: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    frame = VideoFrame.from_ndarray(noise, format="rgb24").reformat(format=pix_fmt)
    for height, width in ((96, 128), (240, 320), (300, 400)):
        ours = np.empty((height, width, 3), np.uint8)
        PictureMaker(TargetSize(height, width, 1.0, "bicubic")).make(frame, None, ours)
        graph = Graph()
        graph.threads = 1
        look = {"colorspace": str(frame.colorspace), "range": str(frame.color_range), "pixel_aspect": "1/1"}
        source = graph.add("buffer", video_size="320x240", pix_fmt=pix_fmt, time_base="1/1000", **look)
        scale = graph.add("scale", f"{width}:{height}:flags=bicubic+accurate_rnd+full_chroma_int+bitexact")
        sink = graph.add("buffersink")
        graph.link_nodes(source, scale, graph.add("format", "rgb24"), sink).configure()
        source.push(frame)
        assert np.array_equal(ours, sink.pull().to_ndarray())


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("fit", ["scale_then_crop", "stretch"])
@pytest.mark.parametrize("size", [(322, 182), (182, 322), (2000, 200)])
def test_pictures_that_are_cropped_last_lie_where_libraries_put_them(
    tmp_path: Path, rotation: int, fit: Any, size: tuple[int, int]
) -> None:
    pil = pytest.importorskip("PIL.Image")
    stored = {"width": size[0], "height": size[1], "rotation": rotation}
    make_video(tmp_path / "a.mp4", num_frames=1, pix_fmt="yuv444p", options={"crf": "8"}, **stored)
    (whole,), _, _ = read_frames(tmp_path / "a.mp4")
    (ours,), _, _ = read_frames(tmp_path / "a.mp4", size=FrameSpec(72, 64, 0.8, "bicubic", fit))
    rows, columns = whole.shape[:2]
    short = min(rows, columns)
    scaled = (90, 80) if fit == "stretch" else (80 * rows // short, 80 * columns // short)
    theirs = np.pad(np.asarray(pil.fromarray(whole).resize(scaled[::-1], pil.BICUBIC), int), ((1, 1), (1, 1), (0, 0)))
    top, left = (scaled[0] - 72) // 2 + 1, (scaled[1] - 64) // 2 + 1

    def apart(down: int, right: int) -> float:
        return float(np.abs(theirs[top + down :, left + right :][:72, :64] - ours).mean())

    aside = min(apart(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right)
    if fit == "scale_then_crop" and max(size) > 8 * min(size):  # cut first, whatever its shape
        return
    assert apart(0, 0) < min(2.0, aside / 2)


def test_pictures_that_change_their_size_midway_are_scaled_alike(tmp_path: Path) -> None:
    for number, (width, height) in enumerate([(320, 240), (176, 144), (640, 360)]):
        make_video(
            tmp_path / f"{number}.ts",
            num_frames=8,
            width=width,
            height=height,
            video_number=number,
            start_ticks=8 * number,
        )
    joined = b"".join((tmp_path / f"{number}.ts").read_bytes() for number in range(3))
    (tmp_path / "joined.ts").write_bytes(joined)
    frames, seconds, _ = read_frames(tmp_path / "joined.ts", sampling="all", size=SPEC)
    assert [read_stamp(frame) for frame in frames] == [(video, frame) for video in range(3) for frame in range(8)]
    assert (np.diff(seconds) > 0).all()
    whole, _, _ = read_frames(tmp_path / "joined.ts", sampling="all")
    assert whole.shape == (24, 240, 320, 3)


def test_a_recording_whose_clock_starts_anew_has_one_timeline(tmp_path: Path) -> None:
    for number in range(2):
        make_video(tmp_path / f"{number}.ts", num_frames=50, video_number=number, start_ticks=(1 - number) * 25 * 600)
    (tmp_path / "joined.ts").write_bytes((tmp_path / "0.ts").read_bytes() + (tmp_path / "1.ts").read_bytes())
    frames, seconds, _ = read_frames(tmp_path / "joined.ts", sampling="fps=2", size=SPEC)
    assert [read_stamp(frame)[0] for frame in frames] == [0] * 4 + [1] * 4
    assert np.diff(seconds).tolist() == pytest.approx([0.5] * 7, abs=0.05)


@pytest.mark.parametrize("sampling", ["all", "fps=5", "keyframes"])
def test_streams_that_appear_on_the_way_do_not_disturb_the_one_that_is_read(tmp_path: Path, sampling: str) -> None:
    """As where a recording's sound or a second camera begins later; there may be any number of them."""
    make_video(tmp_path / "0.ts", num_frames=50, gop=10)
    late = []
    for number in range(1, 20):
        ids = ["-streamid", f"0:{400 + number}", "-mpegts_pmt_start_pid", f"{4100 + number}",
               "-mpegts_service_id", f"{number + 1}"]  # fmt: skip
        command = ["ffmpeg", "-v", "error", "-i", "0.ts", "-c", "copy", "-frames:v", "2", *ids]
        subprocess.run([*command, f"{number}.ts"], cwd=tmp_path, check=True)
        late.append((tmp_path / f"{number}.ts").read_bytes())
    (tmp_path / "all.ts").write_bytes((tmp_path / "0.ts").read_bytes() + b"".join(late))
    frames, seconds, _ = read_frames(tmp_path / "all.ts", sampling=sampling, size=SPEC)
    alone, alone_seconds, _ = read_frames(tmp_path / "0.ts", sampling=sampling, size=SPEC)
    assert list(seconds) == list(alone_seconds)
    assert np.array_equal(frames, alone)


def test_a_range_gives_the_part_of_the_whole_sample_inside_it(tmp_path: Path) -> None:
    make_video(tmp_path / "v.mp4", num_frames=200, gop=30, b_frames=2)
    for sampling in ("fps=3", "nearest_keyframe=0.7", "every=7", "count=11", "keyframes", "all"):
        whole, whole_seconds, _ = read_frames(tmp_path / "v.mp4", sampling=sampling, size=SMALL)
        part, seconds, _ = read_frames(
            tmp_path / "v.mp4", sampling=sampling, size=SMALL, start_seconds=2.5, end_seconds=6.52
        )
        inside = (whole_seconds >= 2.5) & (whole_seconds < 6.52)
        assert inside.any()
        assert seconds.tolist() == whole_seconds[inside].tolist(), sampling
        assert np.array_equal(part, whole[inside])


def test_the_default_video_stream_is_chosen_and_cover_art_is_not(tmp_path: Path) -> None:
    make_video(tmp_path / "small.mp4", num_frames=5, width=160, height=120, video_number=1)
    make_video(tmp_path / "large.mp4", num_frames=5, width=320, height=240, video_number=2)
    both = ["ffmpeg", "-v", "error", "-i", "small.mp4", "-i", "large.mp4", "-map", "0", "-map", "1", "-c", "copy"]
    none = ["-disposition:v:0", "0", "-disposition:v:1", "0"]
    for name, more, expected in [
        ("default.mkv", ["-disposition:v:0", "default", "-disposition:v:1", "0"], 1),
        ("largest.mkv", none, 2),
        (
            "art.mp4",
            ["-c:v:1", "png", "-frames:v:1", "1", "-disposition:v:0", "0", "-disposition:v:1", "attached_pic"],
            1,
        ),
    ]:
        subprocess.run([*both, *more, name], cwd=tmp_path, check=True)
        frames, _, _ = read_frames(tmp_path / name, sampling="count=1", size=SPEC)
        assert read_stamp(frames[0])[0] == expected, name


def test_sound_beside_the_pictures_changes_nothing(tmp_path: Path) -> None:
    for suffix in ("mp4", "mkv", "ts"):
        make_video(tmp_path / f"v.{suffix}", num_frames=60, with_sound=True)
        frames, _, report = read_frames(tmp_path / f"v.{suffix}", sampling="every=10", size=SPEC)
        assert report.error_kind is None
        assert [read_stamp(frame)[1] for frame in frames] == list(range(0, 60, 10))


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    made = Decoder(config(sampling="all"), SPEC)
    yield made
    made.close()


def test_a_pack_of_clips_comes_out_clip_by_clip_in_chunks(tmp_path: Path, decoder: Decoder) -> None:
    paths = [tmp_path / f"{number}.mp4" for number in range(3)]
    for number, path in enumerate(paths):
        make_video(path, num_frames=[150, 1, 64][number], video_number=number)
    pack = [clip_row(path, metadata='{"a": 1}', etag="x", size_bytes=5) for path in paths]
    clips = together(decoder(work(pack[:2], pack[2:])), SPEC)
    assert [[row["num_frames"] for row in clip.rows] for clip in clips] == [[64, 64, 22], [1], [64]]
    for number, clip in enumerate(clips):
        assert [read_stamp(frame) for frame in clip.frames] == [(number, n) for n in range(len(clip.frames))]
        identity = {column.name: pack[number][column.name] for column in schema.IDENTITY}
        assert all(row.items() >= identity.items() for row in clip.rows)
        last = clip.last
        assert (last["codec"], last["width"], last["height"], last["frame_rate"]) == ("h264", 320, 240, 25.0)
        assert last["container"].startswith("mov,mp4")
        assert last["duration_seconds"] == pytest.approx(len(clip.frames) / 25)
        assert last["num_frames_from_header"] == last["num_frames_decoded"] == len(clip.frames)
        assert last["read_bytes"] > 0
        assert 0 < last["decode_cpu_seconds"] < 60
        assert last["decode_wall_seconds"] > 0


def test_a_chunk_holds_at_most_sixteen_mebibytes(tmp_path: Path) -> None:
    make_video(tmp_path / "v.mp4", num_frames=12)
    large = FrameSpec(1024, 1024)
    decoder = Decoder(config(sampling="all"), large)
    tables = list(decoder(work([clip_row(tmp_path / "v.mp4")])))
    decoder.close()
    assert [table.column("num_frames")[0].as_py() for table in tables] == [5, 5, 2]
    assert all(table.nbytes <= 16 * 2**20 + 4096 for table in tables)


def test_a_clip_without_a_wanted_time_is_one_empty_chunk_without_error(tmp_path: Path, decoder: Decoder) -> None:
    make_video(tmp_path / "v.mp4", num_frames=30)
    row = clip_row(tmp_path / "v.mp4", times=[], start_seconds=0.48, clip_index=1, num_clips=2)
    [clip] = together(decoder(work([row])), SPEC)
    assert (len(clip.frames), clip.error_kind, clip.last["codec"]) == (0, None, "h264")


def test_a_clip_that_listing_found_unreadable_is_reported_without_being_opened(decoder: Decoder) -> None:
    row = clip_row("/nowhere.mp4", error_kind="permission", error_message="denied")
    [clip] = together(decoder(work([row])), SPEC)
    assert (clip.error_kind, clip.last["error_message"], len(clip.frames)) == ("permission", "denied", 0)


def test_a_small_object_in_s3_costs_one_request(tmp_path: Path, moto_s3: Any) -> None:
    bucket = moto_s3()
    decoder = Decoder(config(sampling="count=4"), SPEC)  # measures first, then reads again: from memory
    for suffix in ("mp4", "mkv", "ts"):
        make_video(tmp_path / f"v.{suffix}", num_frames=40, b_frames=2)
        storage.put(f"{bucket}/v.{suffix}", (tmp_path / f"v.{suffix}").read_bytes())
        row = clip_row(f"{bucket}/v.{suffix}", size_bytes=(tmp_path / f"v.{suffix}").stat().st_size)
        [clip] = together(decoder(work([row])), SPEC)
        assert (clip.error_kind, clip.stamps) == (None, [5, 15, 25, 35])
        assert moto_s3.count("GET", f"v.{suffix}") == 1
        assert clip.last["read_bytes"] == row["size_bytes"]
    decoder.close()


def test_no_clip_gives_no_table(decoder: Decoder) -> None:
    assert list(decoder(work())) == list(decoder(work([]))) == []
    assert pa.Table is not None


def test_real_clips_decode_without_complaint(clips: Any, decoder: Decoder) -> None:
    names = sorted(set(clips) - {"bunny_whole.mp4", "bunny_trailer.mp4", "sintel_trailer.mp4", "title_card.mp4"})
    decoder = Decoder(config(sampling="fps=1"), SMALL)
    decoded = together(decoder(work([clip_row(clips[name]) for name in names])), SMALL)
    decoder.close()
    for name, clip in zip(names, decoded, strict=True):
        if name == "concert.ogv":  # the one that is broken
            assert (clip.error_kind, clip.last["error_message"]) == ("corrupt", "theora: error in unpack_block_qpis")
            assert len(clip.frames) >= 1
        else:
            assert (clip.error_kind, clip.last["error_message"]) == (None, None), name
            times, end, _ = ffprobe_truth(clips[name])
            expected = grid_frames(times, end, Fraction(1))
            assert clip.pts_seconds == pytest.approx([float(times[n]) for n in expected], abs=1e-9), name


def test_the_module_that_actors_load_needs_neither_av_nor_torch_nor_ray() -> None:
    code = "import sys, vidbatch.decode; print({'av', 'torch', 'ray', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
