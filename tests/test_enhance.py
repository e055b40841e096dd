"""Videos in, better-looking ones and a row of what changed out: first in this process, then as runs on Ray."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clips import LazyClips
from points import POINTS_OF_ENHANCE
from servers import MotoServer, SeaweedServer

import vidbatch
from vidbatch import schema, storage
from vidbatch.decode import keep_whole, plan
from vidbatch.decoding.isolation import IsolatedProcess
from vidbatch.decoding.planning import plan_clip
from vidbatch.decoding.types import Job
from vidbatch.enhancing.chain import Chain, Target
from vidbatch.enhancing.clip import enhance_clip, join_clips
from vidbatch.enhancing.config import EnhanceConfig, enhance_digest, load_enhance_config
from vidbatch.enhancing.filters import METHODS
from vidbatch.enhancing.quality import noise, sharpness
from vidbatch.enhancing.run import enhance
from vidbatch.enhancing.types import Encoding, EnhanceJob, Facts, JoinJob, Step
from vidbatch.enhancing.worker import Enhancer, clip_url, join
from vidbatch.errors import ConfigError
from vidbatch.source import DoneVideos, Planner, read_work
from vidbatch.testing import make_shard, make_video, read_stamp

LOSSLESS = {"crf": 0.0, "preset": "ultrafast"}
"""Of libx264: what its packets decode to is what it was handed."""
TEMPORAL = (Step("denoise", "atadenoise", 0.5), Step("colour", "normalize", 0.5))

VIDBATCH = "from vidbatch.cli import main; main()"


def job(
    path: Path, folder: Path, *steps: Step, container: str = "mp4", clip: tuple[int, int] = (0, 1),
    kind: type[EnhanceJob] = EnhanceJob, bounds: dict[str, Any] | None = None, contact_sheet: bool = False,
    more: dict[str, Any] | None = None, **encoding: Any,
) -> Any:  # fmt: skip
    row = dict.fromkeys(column.name for column in schema.CLIP) | {
        "source": str(path), "size_bytes": path.stat().st_size, "content_version": "", "clip_index": clip[0],
        "num_clips": clip[1], **(bounds or {}),
    }  # fmt: skip
    wanted = {
        "encoder": "libx264", "crf": None, "bit_rate": None, "two_pass": False, "gop": 50, "preset": None,
        "pixel_format": None, "options": {}, "threads": 1,
    }  # fmt: skip
    place = folder / f"{path.name}-{time.monotonic_ns()}"
    place.mkdir(parents=True)
    return kind(row, steps, Encoding(**(wanted | encoding)), container, str(place), contact_sheet=contact_sheet,
                **(more or {}))  # fmt: skip


def done(wanted: Any) -> Facts:
    function = join_clips if isinstance(wanted, JoinJob) else enhance_clip
    *_, (record, _) = function(wanted)
    return Facts.from_dict(json.loads(json.dumps(record["facts"])))


def in_clips(path: Path, folder: Path, *steps: Step, seconds: float, **options: Any) -> tuple[JoinJob, Facts]:
    """The video cut at keyframes, its clips enhanced one by one and joined; at least three clips."""
    whole = job(path, folder)
    *_, (plan, _) = plan_clip(Job(whole.clip, "all", clip_seconds=seconds))
    clips = plan["clips"]
    assert len(clips) >= 3
    jobs = [job(path, folder, *steps, clip=(n, len(clips)), bounds=c, **options) for n, c in enumerate(clips)]
    facts = tuple(map(done, jobs))
    having = [part.packets for part, fact in zip(jobs, facts, strict=True) if fact.num_frames]
    joined = job(path, folder, *steps, kind=JoinJob, more={"urls": tuple(having), "facts": facts}, **options)
    return joined, done(joined)


def pictures(path: str | Path) -> list[tuple[float, bytes]]:
    """(time, planes without padding) of every frame."""
    with av.open(os.fspath(path)) as file:
        return [
            (float(frame.pts * frame.time_base), b"".join(map(_pixels, frame.planes))) for frame in file.decode(video=0)
        ]


def _pixels(plane: Any) -> bytes:
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)
    return rows[:, : plane.width].tobytes()


def ffmpeg(*words: object) -> None:
    subprocess.run(["ffmpeg", "-y", "-loglevel", "error", *map(str, words)], check=True, timeout=60)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of variable frame rate with B-frames, that cuts into several clips."""
    path = tmp_path_factory.mktemp("uneven") / "uneven.mp4"
    ticks = np.cumsum([0, *(1 + n * 7 % 9 for n in range(59))]).tolist()
    make_video(path, num_frames=60, gop=10, b_frames=2, pts=ticks, time_base=Fraction(1, 30), with_sound=True)
    return path


# --- frames ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [(), (Step("denoise", "nlmeans", 0.0), Step("colour", "greyedge", 0.0))])
def test_strength_zero_leaves_every_frame_and_its_time_as_they_are(
    uneven: Path, tmp_path: Path, steps: tuple[Step, ...]
) -> None:
    wanted = job(uneven, tmp_path, *steps, **LOSSLESS)
    facts = done(wanted)
    assert (facts.error_kind, facts.num_frames, facts.changes) == (None, 60, [])
    assert facts.error_power == 0
    assert pictures(wanted.file) == pictures(uneven)


@pytest.mark.parametrize("kind", ["variable frame rate", "interlaced", "cut off"])
def test_clips_joined_are_the_frames_of_one_clip_bit_for_bit(
    uneven: Path, clips: LazyClips, tmp_path: Path, kind: str
) -> None:
    path, changes = uneven, []
    if kind == "interlaced":
        path, changes = tmp_path / "fields.mp4", ["deinterlaced (bwdif), a frame for each frame"]
        ffmpeg("-i", clips["carphone.mp4"], "-vf", "tinterlace=interleave_top,fieldorder=tff", "-pix_fmt", "yuv420p",
               "-g", 15, "-c:v", "libx264", "-flags", "+ildct+ilme", "-x264opts", "tff=1", path)  # fmt: skip
    elif kind == "cut off":
        path = tmp_path / "cut.mkv"
        ffmpeg("-i", clips["bikes.mp4"], "-vf", "scale=160:68", "-g", 25, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    whole = job(path, tmp_path, *TEMPORAL, **LOSSLESS)
    alone = done(whole)
    joined, facts = in_clips(path, tmp_path, *TEMPORAL, seconds=1, **LOSSLESS)
    assert (facts.num_frames, facts.num_measured) == (alone.num_frames, alone.num_measured)
    assert facts.error_power == pytest.approx(alone.error_power)
    assert facts.changes == alone.changes == changes
    assert facts.error_kind == alone.error_kind == ("truncated" if kind == "cut off" else None)
    assert pictures(joined.file) == pictures(whole.file)


@pytest.mark.parametrize(
    ("encoder", "container"), [("libx264", "mp4"), ("libx265", "mkv"), ("libvpx-vp9", "webm"), ("libsvtav1", "mp4")]
)
def test_joined_clips_of_every_codec_keep_frames_times_and_sound(
    uneven: Path, tmp_path: Path, encoder: str, container: str
) -> None:
    preset = {"libvpx-vp9": "8", "libsvtav1": "8"}.get(encoder, "veryfast")
    joined, facts = in_clips(uneven, tmp_path, seconds=3, encoder=encoder, container=container, preset=preset, crf=22.0)
    assert facts.error_kind is None, facts.error_message
    with av.open(joined.file) as file, av.open(str(uneven)) as source:
        frames = list(file.decode(video=0))
        assert [read_stamp(frame.to_ndarray(format="rgb24"), crop_share=1)[1] for frame in frames] == list(range(60))
        starts = [float(stream.start_time * stream.time_base) for stream in file.streams]
        before = [float(stream.start_time * stream.time_base) for stream in source.streams]
        assert starts[1] - starts[0] == pytest.approx(before[1] - before[0], abs=0.025)  # of one frame of sound
        times = np.array([float(frame.pts * frame.time_base) for frame in frames])
    wanted = np.array([seconds for seconds, _ in pictures(uneven)])
    assert np.abs((times - times[0]) - (wanted - wanted[0])).max() <= (0.0011 if container != "mp4" else 1e-9)


def test_frames_are_encoded_as_the_encoder_likes_and_not_as_they_were(tmp_path: Path) -> None:
    make_video(tmp_path / "intra.mp4", num_frames=40, gop=1)
    wanted = job(tmp_path / "intra.mp4", tmp_path, gop=20, options={"sc_threshold": "0"})
    assert done(wanted).error_kind is None
    with av.open(wanted.file) as file:
        assert sum(packet.is_keyframe for packet in file.demux(video=0) if packet.size) == 2


# --- methods and figures --------------------------------------------------------------------------------------------


def noisy(path: Path, *, sigma: float, cast: tuple[float, float, float] = (1, 1, 1)) -> None:
    """Twelve frames of a smooth picture with white noise and a colour cast, stored without loss."""
    chance = np.random.default_rng(1)
    ramp = np.linspace(60, 160, 128)[None, :, None] * np.linspace(0.7, 1, 96)[:, None, None] * np.array(cast)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "rgb24"
        for _ in range(12):
            picture = ramp + chance.normal(0, sigma, (96, 128, 3))
            frame = av.VideoFrame.from_ndarray(picture.round().clip(0, 255).astype(np.uint8), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


@pytest.mark.parametrize("method", sorted(METHODS["denoise"].keys() - {"deblock"}))
def test_every_way_to_denoise_takes_noise_away_and_more_at_full_strength(tmp_path: Path, method: str) -> None:
    noisy(tmp_path / "noisy.mov", sigma=4)
    half, full = (
        done(job(tmp_path / "noisy.mov", tmp_path, Step("denoise", method, x), preset="ultrafast")) for x in (0.5, 1.0)
    )
    assert half.error_kind is None, half.error_message
    assert half.noise_after < 0.9 * half.noise_before
    assert full.noise_after < 0.75 * half.noise_before
    assert full.noise_after < 1.1 * half.noise_after
    assert half.num_frames == full.num_frames == 12


def test_deblocking_smooths_the_edges_of_blocks(clips: LazyClips, tmp_path: Path) -> None:
    ffmpeg("-i", clips["carphone.mp4"], "-frames:v", 20, "-c:v", "mpeg2video", "-q:v", 25, tmp_path / "blocks.mpg")
    facts = done(job(tmp_path / "blocks.mpg", tmp_path, Step("denoise", "deblock", 1.0), preset="ultrafast"))
    assert facts.sharpness_after < facts.sharpness_before


@pytest.mark.parametrize("method", METHODS["colour"])
def test_every_way_to_correct_colours_weakens_a_cast(tmp_path: Path, method: str) -> None:
    noisy(tmp_path / "blue.mov", sigma=0.5, cast=(0.8, 1, 1.25))
    spread = {}
    for strength in (0.0, 0.5, 1.0):
        wanted = job(tmp_path / "blue.mov", tmp_path, Step("colour", method, strength), pixel_format="yuv444p")
        assert done(wanted).error_kind is None
        with av.open(wanted.file) as file:
            means = next(file.decode(video=0)).to_ndarray(format="rgb24").mean(axis=(0, 1))
        spread[strength] = means.max() - means.min()
    assert spread[1.0] < spread[0.5] < spread[0.0]


def test_figures_of_noise_and_sharpness_are_those_of_what_was_put_in() -> None:
    chance = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(200), np.arange(300)).astype(np.float32) / 4
    for sigma in (2, 10):
        assert noise(ramp + chance.normal(0, sigma, ramp.shape).astype(np.float32)) == pytest.approx(sigma, rel=0.05)
    assert noise(ramp) < 1e-3
    white = chance.normal(0, 3, (400, 400)).astype(np.float32)
    assert sharpness(white) == pytest.approx(20 * 9, rel=0.05)  # 1 x 4 squared and 4 x 1 squared


def test_psnr_and_ssim_compare_the_enhanced_frame_with_the_decoded_one(tmp_path: Path) -> None:
    noisy(tmp_path / "noisy.mov", sigma=8)
    wanted = job(tmp_path / "noisy.mov", tmp_path, Step("denoise", "bm3d", 1.0), pixel_format="yuv444p", **LOSSLESS)
    facts = done(wanted)
    assert facts.num_measured == 1
    with av.open(str(tmp_path / "noisy.mov")) as file, av.open(wanted.file) as written:
        frames = [next(one.decode(video=0)) for one in (file, written)]
    # In the colours of the written file, where the filter compares them too.
    before, after = (
        f.reformat(format="yuv444p", dst_colorspace="ITU709", dst_color_range="MPEG").to_ndarray().astype(float)
        for f in frames
    )
    assert facts.error_power * 255**2 == pytest.approx(np.square(before - after).mean(), rel=0.05)
    assert 0.2 < facts.ssim < 0.99


# --- what is not pictures -------------------------------------------------------------------------------------------


TAGS = ("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709")


@pytest.mark.parametrize("container", ["mp4", "mkv", "webm"])
def test_sound_subtitles_chapters_metadata_and_tags_are_copied_or_said_to_be_gone(
    clips: LazyClips, tmp_path: Path, container: str
) -> None:
    (tmp_path / "words.srt").write_text("1\n00:00:00,500 --> 00:00:01,500\nhello\n")
    (tmp_path / "facts.txt").write_text(";FFMETADATA1\ntitle=A film\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=1000\n"
                                        "title=first\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=1000\nEND=2000\n")  # fmt: skip
    path = tmp_path / "rich.mp4"
    ffmpeg("-i", clips["bikes.mp4"], "-f", "lavfi", "-i", "sine=duration=2", "-i", tmp_path / "words.srt", "-i",
           tmp_path / "facts.txt", "-map", "0:v", "-map", "1:a", "-map", "2:s", "-map_metadata", 3, "-map_chapters", 3,
           "-t", 2, "-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac", "-c:s", "mov_text", *TAGS,
           "-metadata:s:a:0", "language=deu", path)  # fmt: skip
    wanted = job(path, tmp_path, container=container, encoder="libvpx-vp9", preset="8")
    facts = done(wanted)
    with av.open(wanted.file) as file, av.open(str(path)) as source:
        kinds = [(stream.type, stream.codec_context.codec.canonical_name) for stream in file.streams
                 if stream.type in ("video", "audio", "subtitle")]  # fmt: skip
        assert file.metadata["title"] == "A film"
        assert file.streams.audio[0].language == "deu"
        assert len(file.chapters()) == (0 if container == "webm" else 2)
        frame = next(file.decode(video=0))
        assert (frame.colorspace, frame.color_primaries, frame.color_trc) == (1, 1, 1)
        seconds = [sum(f.samples for f in one.decode(audio=0)) / 44_100 for one in (source,)]
    gone = {
        "mp4": [],
        "mkv": ["subtitle of stream 2 (mov_text) left out: mkv cannot hold it"],
        "webm": [
            "sound of stream 1 (aac) encoded anew (libopus): webm cannot hold it",
            "subtitle of stream 2 (mov_text) left out: webm cannot hold it",
            "2 chapters left out: webm cannot hold them",
        ],
    }
    assert facts.changes == gone[container]
    sound = ("audio", "opus" if container == "webm" else "aac")
    assert kinds == [("video", "vp9"), sound, *([("subtitle", "mov_text")] if container == "mp4" else [])]
    with av.open(wanted.file) as file:
        heard = sum(f.samples / f.sample_rate for f in file.decode(audio=0))
    assert heard == pytest.approx(seconds[0], abs=0.03)


def test_sound_whose_clock_falls_back_is_kept_and_said_to_be_out_of_time(tmp_path: Path) -> None:
    make_video(tmp_path / "part.ts", num_frames=60, with_sound=True)
    (tmp_path / "twice.ts").write_bytes((tmp_path / "part.ts").read_bytes() * 2)
    wanted = job(tmp_path / "twice.ts", tmp_path, preset="ultrafast")
    facts = done(wanted)
    assert facts.num_frames > 50
    assert facts.changes == ["audio of stream 1 of the file is not in time: the source's clock falls back"]
    with av.open(wanted.file) as file:
        assert sum(frame.samples for frame in file.decode(audio=0)) == pytest.approx(2 * 2.4 * 48_000, rel=0.05)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_and_pixel_aspect_are_kept(tmp_path: Path, rotation: int) -> None:
    make_video(tmp_path / "turned.mp4", num_frames=5, rotation=rotation, pixel_aspect=Fraction(4, 3))
    wanted = job(tmp_path / "turned.mp4", tmp_path, *TEMPORAL, preset="ultrafast")
    assert done(wanted).changes == []
    with av.open(wanted.file) as file, av.open(str(tmp_path / "turned.mp4")) as source:
        assert file.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        assert next(file.decode(video=0)).rotation == next(source.decode(video=0)).rotation


def test_a_clock_that_begins_late_begins_at_zero_for_all_streams(tmp_path: Path) -> None:
    make_video(tmp_path / "late.ts", num_frames=30, start_ticks=25 * 3600, with_sound=False)
    wanted = job(tmp_path / "late.ts", tmp_path, preset="ultrafast")
    with av.open(str(tmp_path / "late.ts")) as source:
        late = source.start_time / av.time_base
    assert late >= 3600
    assert done(wanted).changes == [f"all times are {late:.3f} s earlier: the source's clock began late"]
    times = [seconds for seconds, _ in pictures(wanted.file)]
    assert times == pytest.approx(np.arange(30) / 25, abs=1e-3)


# --- videos that are not as one would like them ---------------------------------------------------------------------


def make_odd(path: Path) -> None:
    make_video(path, codec="libvpx-vp9", width=175, height=143, num_frames=10)


def make_changing(path: Path) -> None:
    parts = [path.with_name(f"{width}.h264") for width in (320, 160)]
    for part in parts:
        make_video(part, width=int(part.stem), height=int(part.stem) * 3 // 4, num_frames=10, container="h264")
    path.write_bytes(b"".join(part.read_bytes() for part in parts))


UNUSUAL: dict[str, tuple[str, Any, int, list[str], str]] = {
    # name: file, how it is made, frames, what is said to be changed, pixel format
    "odd size": ("odd.mkv", make_odd, 10, ["padded from 175x143 to 176x144: the encoder takes even sizes only"],
                 "yuv420p"),
    "one frame": ("one.mp4", lambda path: make_video(path, num_frames=1), 1, [], "yuv420p"),
    "10 bits": ("ten.mp4", lambda path: make_video(path, num_frames=5, pix_fmt="yuv420p10le"), 5,
                ["nlmeans saw 8 bits of 10"], "yuv420p10le"),
    "4:4:4": ("full.mp4", lambda path: make_video(path, num_frames=5, pix_fmt="yuv444p"), 5, [], "yuv444p"),
    "full range": ("range.mp4", lambda path: make_video(path, num_frames=5, pix_fmt="yuvj420p"), 5, [], "yuv420p"),
    "a changing size": ("changing.h264", make_changing, 20, ["frames scaled from 160x120 to 320x240"], "yuv420p"),
    "no times": ("raw.h264", lambda path: make_video(path, num_frames=10, container="h264"), 10, [], "yuv420p"),
}  # fmt: skip


@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_videos_come_out_whole_and_what_is_changed_is_said(tmp_path: Path, name: str, encoder: str) -> None:
    file, make, num_frames, changes, pixel_format = UNUSUAL[name]
    make(tmp_path / file)
    wanted = job(tmp_path / file, tmp_path, Step("denoise", "nlmeans", 0.1), encoder=encoder, container="mkv",
                 preset="ultrafast")  # fmt: skip
    facts = done(wanted)
    assert facts.error_kind is None, facts.error_message
    assert (facts.num_frames, facts.changes) == (num_frames, changes)
    assert facts.num_measured >= 1
    with av.open(wanted.file) as written:
        frames = list(written.decode(video=0))
        assert len(frames) == num_frames
        assert frames[0].format.name.replace("yuvj", "yuv") == pixel_format
        assert (frames[0].color_range == 2) == (name == "full range")
        assert len({frame.pts for frame in frames}) == num_frames


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le", "yuv422p", "nv12"])
@pytest.mark.parametrize(("width", "height"), [(175, 143), (175, 144), (174, 143)])
def test_odd_sizes_are_padded_by_their_last_row_and_column(width: int, height: int, pixel_format: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
    wide, high = width + width % 2, height + height % 2
    (made,) = Chain([], Target(wide, high, pixel_format), deinterlaces=False).push(frame)
    assert (made.width, made.height, made.format.name) == (wide, high, pixel_format)
    for number, (before, after) in enumerate(zip(frame.planes, made.planes, strict=True)):
        size = (2 if number and pixel_format == "nv12" else 1) * (2 if "10" in pixel_format else 1)
        old, new = (
            np.frombuffer(memoryview(p), np.uint8)
            .reshape(p.height, -1)[:, : p.width * size]
            .reshape(p.height, -1, size)
            for p in (before, after)
        )
        more = ((0, len(new) - len(old)), (0, new.shape[1] - old.shape[1]), (0, 0))
        assert np.array_equal(new, np.pad(old, more, mode="edge")), number


def test_high_dynamic_range_is_refused_before_anything_is_encoded(clips: LazyClips, tmp_path: Path) -> None:
    path = tmp_path / "hdr.mp4"
    for transfer in ("smpte2084", "arib-std-b67"):
        tags = f"log-level=none:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
        ffmpeg("-i", clips["carphone.mp4"], "-frames:v", 5, "-pix_fmt", "yuv420p10le", "-c:v", "libx265",
               "-x265-params", tags, path)  # fmt: skip
        wanted = job(path, tmp_path)
        facts = done(wanted)
        assert (facts.error_kind, facts.num_frames) == ("unsupported_colour", 0)
        assert os.listdir(wanted.folder) == []


def test_two_passes_hit_the_bitrate(clips: LazyClips, tmp_path: Path) -> None:
    facts = {}
    for encoder in ("libx264", "libx265"):
        wanted = job(
            clips["carphone.mp4"], tmp_path, bit_rate=100_000, two_pass=True, encoder=encoder, preset="veryfast"
        )
        facts[encoder] = done(wanted)
        assert 8 * os.path.getsize(wanted.file) / 4.004 == pytest.approx(100_000, rel=0.1)
    assert all(fact.num_frames == 120 and fact.error_kind is None for fact in facts.values())


def test_a_contact_sheet_shows_before_and_after(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", num_frames=60, fps=10)
    wanted = job(tmp_path / "a.mp4", tmp_path, Step("colour", "normalize", 1.0), contact_sheet=True)
    assert done(wanted).error_kind is None
    with av.open(wanted.sheet) as file:
        sheet = next(file.decode(video=0)).to_ndarray(format="rgb24")
    assert sheet.shape == (6 * 240, 2 * 320, 3)
    shown = [read_stamp(row[:, half : half + 320], crop_share=1)[1] for row in np.split(sheet, 6) for half in (0, 320)]
    assert shown[::2] == shown[1::2] == sorted(shown[::2])
    assert shown[0] == 0
    assert shown[-1] >= 40


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"codec": "h265x"}, "codec: 'h265x' is not allowed: this FFmpeg has no such encoder; allowed: h264, hevc"),
        ({"codec": "aac"}, "codec: 'aac' is not allowed: it encodes audio"),
        ({"container": "webm"}, "container: 'webm' is not allowed: it cannot hold h264"),
        ({"pixel_format": "rgb565"}, "pixel_format: 'rgb565' is not allowed: libx264 takes yuv420p"),
        ({"preset": "hasty"}, "codec: libx264 refuses preset hasty: "),
        ({"crf": 60, "codec": "hevc"}, "codec: libx265 refuses crf 60: "),
        ({"crf": 20, "bitrate": "1M"}, "crf: 20 is not allowed together with bitrate 1M"),
        ({"two_pass": True}, "two_pass: True is not allowed without a bitrate"),
        ({"two_pass": True, "bitrate": "1M", "codec": "vp9"}, "two_pass: True is not allowed with libvpx-vp9"),
        ({"bitrate": "fast"}, "bitrate: 'fast' is not allowed: bits a second, as 800k or 4M, are"),
        ({"steps": "denoise,sharpen"}, "steps: 'sharpen' is not allowed"),
        ({"denoise": "hqdn3d"}, "denoise: 'hqdn3d' is not allowed"),
        ({"denoise_strength": 2}, "denoise_strength: 2 is not allowed"),
        ({"encoder_options": "tune"}, "encoder_options: 'tune' is not allowed: a JSON object"),
    ],
)
def test_a_wrong_setting_is_one_sentence_before_anything_starts(
    tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    make_video(tmp_path / "in" / "a.mp4") if (tmp_path / "in").mkdir() else None
    with pytest.raises(ConfigError, match="^" + sentence.replace("(", r"\(")):
        enhance(load_enhance_config({"inputs": [str(tmp_path / "in")], "output": str(tmp_path / "out"), **settings}))
    assert not (tmp_path / "out").exists()


def test_an_output_inside_an_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it lies in input"):
        enhance(load_enhance_config({"inputs": [str(tmp_path)], "output": str(tmp_path / "better")}))
    assert os.listdir(tmp_path) == []


def test_the_digest_follows_what_changes_a_video_and_nothing_else() -> None:
    def digest(**settings: Any) -> str:
        return enhance_digest(load_enhance_config({"inputs": ["a"], "output": "b", **settings}))

    same = [{}, {"workers": 3}, {"limit": 1}, {"colour": "greyedge"}, {"threads": 2}, {"codec": "libx264"}]
    assert len({digest(**settings) for settings in same}) == 1
    other = [{"denoise": "bm3d"}, {"denoise_strength": 0.4}, {"steps": "denoise,colour"}, {"crf": 10}, {"codec": "av1"},
             {"container": "mkv"}, {"gop": 9}, {"encoder_options": {"tune": "film"}},
             {"contact_sheet": True}]  # fmt: skip
    assert len({digest(**settings) for settings in [{}, *other]}) == len(other) + 1


# --- runs -----------------------------------------------------------------------------------------------------------


def rows(output: str) -> list[dict[str, Any]]:
    files = [url for url in storage.list_files(f"{output}/enhanced") if url.endswith(".parquet")]
    found = [row for url in files for row in pq.read_table(io.BytesIO(storage.read_bytes(url))).to_pylist()]
    return sorted(found, key=lambda row: row["url"])


def files(output: str) -> dict[str, list[str]]:
    """Names of what lies below each folder of an output, hidden files too."""
    names = [url.removeprefix(storage.normalise(output)).strip("/") for url in storage.list_files(output)]
    found: dict[str, list[str]] = {"media": [], "sheets": [], "_clips": []}
    for name in names:
        found.setdefault(name.split("/")[0], []).append(name)
    return found


def fill(folder: Path) -> None:
    folder.mkdir()
    make_video(folder / "long.mp4", num_frames=120, fps=10, gop=20, with_sound=True)
    make_video(folder / "short one.mp4", num_frames=20, video_number=2)
    (folder / "bad.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(1000))


SETTINGS: dict[str, Any] = {
    "steps": "denoise,colour", "preset": "ultrafast", "clip_seconds": 3, "long_video_mb": 0, "max_failed_share": 0.5,
    "stage_seconds": 0,
}  # fmt: skip


def check_output(output: str) -> None:
    """Each video has one row; each row one whole, playable file; nothing else is there."""
    bad, long, short = rows(output)
    assert (bad["status"], bad["error_kind"], bad["output_url"]) == ("failed", "truncated", None)
    for row, num_frames in ((long, 120), (short, 20)):
        assert (row["status"], row["num_frames"], row["changes"]) == ("ok", num_frames, [])
        data = storage.read_bytes(row["output_url"])
        assert len(data) == row["output_size_bytes"]
        with av.open(io.BytesIO(data)) as file:
            stamps = [read_stamp(f.to_ndarray(format="rgb24"), crop_share=1) for f in file.decode(video=0)]
        assert stamps == [(0 if row is long else 2, number) for number in range(num_frames)]
        assert row["psnr_db"] > 10
        assert row["output_bit_rate"] == pytest.approx(8 * len(data) / row["output_duration_seconds"])
    found = files(output)
    assert sorted(found["media"]) == sorted(row["output_url"].split("/", 3)[-1].partition("media/")[1] +
                                            row["output_url"].rpartition("/")[2] for row in (long, short))  # fmt: skip
    assert found["_clips"] == []
    assert not [name for name in found["_runs"] if "staged" in name]


def work_of(config: EnhanceConfig, planner: Planner) -> pa.Table:
    return pa.concat_tables(read_work(config.reading, DoneVideos(), planner, part=0, num_parts=1))


def test_members_of_a_shard_are_enhanced_under_names_of_their_own(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", num_frames=5, video_number=3)
    (tmp_path / "in").mkdir()
    members = {"x/one.mp4": tmp_path / "a.mp4", "x/two?.mp4": tmp_path / "a.mp4", "x/bad.mp4": b"no video"}
    make_shard(tmp_path / "in" / "videos.tar", members)
    settings = {"inputs": [str(tmp_path / "in")], "output": str(tmp_path / "out"), "preset": "ultrafast"}
    config = load_enhance_config(settings)
    enhancer = Enhancer(config)
    table = pa.concat_tables(enhancer(work_of(config, keep_whole)))
    enhancer.close()
    facts = [Facts.from_dict(json.loads(text)) for text in table["facts"].to_pylist()]
    assert [fact.error_kind for fact in facts] == [None, None, "not_a_video"]
    media = sorted(os.listdir(tmp_path / "out" / "media"))
    assert [name.rpartition("-")[0] for name in media] == ["one", "two_"]
    assert [fact.file["url"].rpartition("/")[2] for fact in facts[:2]] == media
    assert all(len(pictures(tmp_path / "out" / "media" / name)) == 5 for name in media)


def test_a_clip_that_is_done_is_not_done_again_and_one_that_is_gone_is_a_transient_failure(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    make_video(tmp_path / "in" / "a.mp4", num_frames=60, fps=10, gop=10)
    places = {"inputs": [str(tmp_path / "in")], "output": str(tmp_path / "out")}
    config = load_enhance_config({**places, "preset": "ultrafast", "clip_seconds": 2, "long_video_mb": 0})
    work = work_of(config, partial(plan, config=config.reading))
    enhancer = Enhancer(config)
    tables = [pa.concat_tables(enhancer(work)) for _ in range(2)]
    enhancer.close()
    assert tables[0].num_rows >= 3
    assert tables[0].equals(tables[1])  # the seconds that it took, too
    clips, facts = tables[0]["clip"].to_pylist(), tables[0]["facts"].to_pylist()
    assert Facts.from_dict(json.loads(join(config, clips, facts))).num_frames == 60
    os.unlink(storage.normalise(clip_url(config, clips[1], "arrow")).removeprefix("file://"))
    lost = Facts.from_dict(json.loads(join(config, clips, facts)))
    assert (lost.error_kind, lost.num_frames, lost.file) == ("missing", 0, {})


@pytest.mark.usefixtures("local_ray")
def test_an_archive_on_s3_becomes_one_of_better_looking_videos(moto_s3: MotoServer, tmp_path: Path) -> None:
    fill(tmp_path / "in")
    bucket = moto_s3()
    for path in (tmp_path / "in").iterdir():
        storage.put(f"{bucket}/in/{path.name}", path.read_bytes())
    result = vidbatch.enhance(f"{bucket}/in", output=f"{bucket}/out", contact_sheet=True, **SETTINGS)
    assert (result.record.state, dict(result.record.by_status)) == ("finished", {"ok": 2, "failed": 1})
    assert result.record.stages["encode"]["frames"] == 140
    check_output(f"{bucket}/out")
    assert len(files(f"{bucket}/out")["sheets"]) == 2
    assert vidbatch.tables(f"{bucket}/out").enhanced.to_arrow().schema.names == schema.ENHANCED.names
    again = vidbatch.enhance(f"{bucket}/in", output=f"{bucket}/out", contact_sheet=True, **SETTINGS)
    assert again.record.state == "nothing_to_do"


def put_and_read_back(url: str, data: bytes, path: Path) -> None:
    path.write_bytes(data)
    storage.put_file(url, str(path))
    assert storage.read_bytes(url) == data


def test_a_file_of_any_size_is_written_whole_or_not_at_all(moto_s3: MotoServer, tmp_path: Path) -> None:
    for place in (str(tmp_path / "out"), moto_s3()):
        put_and_read_back(f"{place}/large.mp4", os.urandom(32 * 2**20 + 7), tmp_path / "large")
        put_and_read_back(f"{place}/large.mp4", b"small", tmp_path / "large")
        kept = moto_s3.client().head_object if place.startswith("s3") else None
        if kept is not None:
            assert kept(Bucket=place.removeprefix("s3://"), Key="large.mp4")["ContentType"] == "video/mp4"
    assert moto_s3.count("PUT", "partNumber=3") == 1
    assert [name for name in os.listdir(tmp_path / "out") if name != "large.mp4"] == []


# --- runs that are disturbed ------------------------------------------------------------------------------------------


def command(folder: Path, output: str, dies_at: tuple[str, str] | None = None) -> list[str]:
    """The run as a process of its own; given a crash point and a moment (points.py), one that dies there."""
    lines = [f"{name}: {value}" for name, value in SETTINGS.items()]
    (folder / "settings.yaml").write_text("\n".join([f"inputs: [{folder / 'in'}]", *lines]))
    find = f"import sys; sys.path.insert(0, {os.fspath(Path(__file__).parent)!r})"
    start = VIDBATCH if dies_at is None else f"{find}; import points; points.die_at(*{dies_at!r}); {VIDBATCH}"
    return [sys.executable, "-c", start, "enhance", "--config", str(folder / "settings.yaml"), "--output", output]


DEATHS = [(name, moment) for name in POINTS_OF_ENHANCE for moment in ("before", "after")]


@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(("name", "moment"), DEATHS)
def test_a_driver_killed_at_a_write_leaves_no_part_of_a_file_and_a_rerun_no_second_row(
    tmp_path: Path, name: str, moment: str
) -> None:
    fill(tmp_path / "in")
    output = str(tmp_path / "out")
    died = subprocess.run(command(tmp_path, output, (name, moment)), capture_output=True, text=True, timeout=200)
    assert died.returncode == -9, died.stderr
    assert [file for file in files(output)["media"] if not file.endswith(".mp4")] == []
    for file in files(output)["media"]:
        assert len(pictures(f"{output}/{file}")) in (20, 120)
    assert len({row["url"] for row in rows(output)}) == len(rows(output))
    result = enhance(load_enhance_config({"output": output}, tmp_path / "settings.yaml"))
    assert result.record.state in ("finished", "nothing_to_do")
    check_output(output)


@pytest.mark.long
@pytest.mark.parametrize("victim", ["actor", "child"])
def test_a_killed_worker_costs_nothing_but_time(tmp_path: Path, victim: str) -> None:
    fill(tmp_path / "in")
    make_video(tmp_path / "in" / "long.mp4", num_frames=120, fps=10, gop=20, with_sound=True, width=640, height=480)
    output = str(tmp_path / "out")
    words = [*command(tmp_path, output), "--steps", "denoise", "--denoise", "nlmeans", "--denoise-strength", "0.1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        struck = None
        while struck is None and process.poll() is None:
            time.sleep(0.05)
            if not list(tmp_path.glob("out/_clips/*/*.json")):
                continue
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    if "vidbatch.decoding.isolation" in " ".join(child.cmdline()) and child.parent() is not None:
                        struck = child.parent() if victim == "actor" else child
                        struck.kill()
                        break
        _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert struck is not None
    check_output(output)


@pytest.mark.long
def test_real_clips_go_from_s3_to_s3_and_play(seaweed_s3: SeaweedServer, clips: LazyClips, tmp_path: Path) -> None:
    """In a process of its own: the Ray of this one's workers knows another S3."""
    bucket = seaweed_s3()
    names = ["bikes.mp4", "carphone.mp4", "runners.mp4", "globe.mp4"]
    for name in names:
        storage.put(f"{bucket}/in/{name}", Path(clips[name]).read_bytes())
    words = ["enhance", f"{bucket}/in", "--output", f"{bucket}/out", "--steps", "denoise,colour",
             "--colour-strength", "0.3", "--clip-seconds", "4", "--long-video-mb", "0", "--preset", "veryfast",
             "--contact-sheet"]  # fmt: skip
    ended = subprocess.run([sys.executable, "-c", VIDBATCH, *words], capture_output=True, text=True, timeout=400)
    assert ended.returncode == 0, ended.stderr
    found = rows(f"{bucket}/out")
    assert [row["url"].rpartition("/")[2] for row in found] == sorted(names)
    for row in found:
        path = tmp_path / row["output_url"].rpartition("/")[2]
        path.write_bytes(storage.read_bytes(row["output_url"]))
        asked = ["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0", "-show_entries",
                 "stream=nb_read_frames,width,height,codec_name", "-of", "json", str(path)]  # fmt: skip
        seen = json.loads(subprocess.run(asked, capture_output=True, check=True, text=True).stdout)["streams"][0]
        assert (int(seen["nb_read_frames"]), seen["codec_name"]) == (row["num_frames"], "h264")
        assert (seen["width"], seen["height"]) == (row["width"], row["height"])
        wanted = [seconds for seconds, _ in pictures(clips[row["url"].rpartition("/")[2]])]
        assert [seconds for seconds, _ in pictures(path)] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.long
def test_memory_is_bounded_at_4k(tmp_path: Path) -> None:
    make_video(tmp_path / "large.mp4", num_frames=60, width=3840, height=2160, gop=25)
    wanted = job(tmp_path / "large.mp4", tmp_path, *TEMPORAL, preset="ultrafast")
    process = IsolatedProcess(timeout_seconds=300, memory_bytes=2**31)
    peak = 0
    for record, _ in process.call("vidbatch.enhancing.clip:enhance_clip", wanted):
        with open(f"/proc/{process.pid}/status") as status:
            peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        facts = Facts.from_dict(record["facts"])
    process.close()
    assert (facts.num_frames, facts.error_kind) == (60, None)
    assert peak < 1_500_000  # kB; a frame takes 12 MB, the filters of this test reach over 33
