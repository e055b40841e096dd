"""Videos in, the same twice as wide and high out: by Lanczos and by networks."""

from __future__ import annotations

import json
import math
import os
import subprocess
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
from av.video.frame import VideoFrame
from clips import LazyClips
from points import POINTS_OF_ENHANCE
from test_enhance import (
    LOSSLESS,
    SETTINGS,
    check_output,
    command,
    done,
    ffmpeg,
    files,
    fill,
    in_clips,
    job,
    make_changing,
    make_odd,
    pictures,
    rows,
)
from test_restoring import frames_of, step_of, through

import vidbatch
from vidbatch.decoding.isolation import IsolatedProcess
from vidbatch.decoding.types import Bounds
from vidbatch.enhancing import networked, upscaling
from vidbatch.enhancing.chain import Target, reach_of
from vidbatch.enhancing.config import enhance_digest, load_enhance_config
from vidbatch.enhancing.filters import larger, rows_of
from vidbatch.enhancing.quality import differences
from vidbatch.enhancing.run import enhance
from vidbatch.enhancing.types import Facts, Step
from vidbatch.errors import ConfigError
from vidbatch.restoring.spec import EnhancerSpec, read_enhancer, save_enhancer
from vidbatch.testing import make_video, read_stamp

LANCZOS = Step("upscale", "lanczos", 1.0)


@pytest.fixture(scope="module")
def random_upscaler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was not trained: it adds something to Lanczos, whatever it sees."""
    place = tmp_path_factory.mktemp("random") / "upscaler"
    spec = EnhancerSpec.of("upscale", num_frames=1, widths=(8,))
    network = spec.build(seed=3)
    for weight in network.parameters():
        weight.data.add_(0.03 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    save_enhancer(str(place), network.state_dict(), spec)
    return place


@pytest.fixture(params=["lanczos", "network"])
def step(request: pytest.FixtureRequest, random_upscaler: Path) -> Step:
    return LANCZOS if request.param == "lanczos" else step_of("upscale", str(random_upscaler))


def luma_of(frame: VideoFrame) -> npt.NDArray[np.int64]:
    return rows_of(frame, 0).astype(np.int64)


# --- whole videos ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["carphone.mp4", "bikes.mp4"])
def test_real_clips_become_twice_as_large_and_keep_their_times_and_sound(
    clips: LazyClips, tmp_path: Path, step: Step, name: str
) -> None:
    path = tmp_path / "short.mp4"
    ffmpeg("-t", 1, "-i", clips[name], "-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", "-preset", "ultrafast",
           "-shortest", path)  # fmt: skip
    wanted = job(path, tmp_path, step, preset="ultrafast")
    facts = done(wanted)
    assert (facts.error_kind, facts.changes) == (None, [])
    with av.open(wanted.file) as file, av.open(str(path)) as source:
        video = source.streams.video[0]
        frames = list(file.decode(video=0))
        assert {(frame.width, frame.height) for frame in frames} == {(2 * video.width, 2 * video.height)}
        assert facts.picture is not None
        assert (facts.picture.width, facts.picture.height) == (2 * video.width, 2 * video.height)
        assert (facts.header["width"], facts.header["height"]) == (video.width, video.height)
    seconds = [at for at, _ in pictures(path)]
    assert [float(frame.pts * frame.time_base) for frame in frames] == pytest.approx(seconds, abs=1e-9)
    sound = []
    for place in (wanted.file, str(path)):
        with av.open(place) as file:
            sound.append([(packet.pts, bytes(packet)) for packet in file.demux(audio=0) if packet.size])
    assert sound[0] == sound[1] != []


def test_at_strength_zero_frames_stay_as_they_are(clips: LazyClips, tmp_path: Path) -> None:
    wanted = job(clips["carphone.mp4"], tmp_path, LANCZOS._replace(strength=0.0), **LOSSLESS)
    assert done(wanted).error_power == 0
    assert pictures(wanted.file) == pictures(clips["carphone.mp4"])


def test_clips_joined_are_the_frames_of_one_clip(clips: LazyClips, tmp_path: Path, step: Step) -> None:
    path = tmp_path / "short.mp4"
    ffmpeg("-i", clips["carphone.mp4"], "-t", 3, "-g", 25, "-preset", "ultrafast", path)
    steps = [Step("denoise", "atadenoise", 0.5), step]
    whole = job(path, tmp_path, *steps, **LOSSLESS)
    alone = done(whole)
    joined, facts = in_clips(path, tmp_path, *steps, seconds=1.0, **LOSSLESS)
    assert (alone.error_kind, facts.error_kind) == (None, None)
    assert facts.error_power == pytest.approx(alone.error_power)
    assert pictures(joined.file) == pictures(whole.file)
    assert facts.picture == alone.picture


@pytest.mark.parametrize("rotation", [90, 180])
def test_rotation_and_pixel_aspect_are_kept(tmp_path: Path, rotation: int) -> None:
    make_video(tmp_path / "turned.mp4", num_frames=3, rotation=rotation, pixel_aspect=Fraction(4, 3))
    wanted = job(tmp_path / "turned.mp4", tmp_path, LANCZOS, preset="ultrafast")
    assert done(wanted).changes == []
    with av.open(wanted.file) as file, av.open(str(tmp_path / "turned.mp4")) as source:
        assert file.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        assert next(file.decode(video=0)).rotation == next(source.decode(video=0)).rotation


UNUSUAL: dict[str, tuple[str, Any, tuple[int, int], str]] = {
    # name: file, how it is made, size behind, pixel format behind
    "odd size": ("odd.mkv", make_odd, (350, 286), "yuv420p"),
    "10 bits": ("a.mp4", lambda path: make_video(path, num_frames=3, pix_fmt="yuv420p10le"), (640, 480), "yuv420p10le"),
    "4:4:4": ("a.mp4", lambda path: make_video(path, num_frames=3, pix_fmt="yuv444p"), (640, 480), "yuv444p"),
    "full range": ("a.mp4", lambda path: make_video(path, num_frames=3, pix_fmt="yuvj420p"), (640, 480), "yuv420p"),
    "red, green, blue": ("a.mov", lambda path: make_video(path, num_frames=3, pix_fmt="rgb24", codec="png"),
                         (640, 480), "yuv444p"),
    "a changing size": ("changing.h264", make_changing, (640, 480), "yuv420p"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_videos_become_twice_as_large_too(tmp_path: Path, step: Step, name: str) -> None:
    file, make, size, pixel_format = UNUSUAL[name]
    make(tmp_path / file)
    wanted = job(tmp_path / file, tmp_path, step, container="mkv", preset="ultrafast")
    facts = done(wanted)
    assert facts.error_kind is None, facts.error_message
    with av.open(wanted.file) as written:
        frames = list(written.decode(video=0))
    assert {(frame.width, frame.height) for frame in frames} == {size}
    assert frames[0].format.name.replace("yuvj", "yuv") == pixel_format
    assert (frames[0].color_range == 2) == (name == "full range")
    changes = {
        "a changing size": ["frames scaled from 320x240 to 640x480"],
        "red, green, blue": ["pixel format rgb24 became yuv444p"],
    }
    assert facts.changes == changes.get(name, [])
    assert facts.num_measured >= 1


def test_upscaled_twice_is_four_times_as_large(tmp_path: Path, step: Step) -> None:
    make_video(tmp_path / "small.mp4", num_frames=3, width=64, height=48)
    wanted = job(tmp_path / "small.mp4", tmp_path, step, step, preset="ultrafast")
    facts = done(wanted)
    with av.open(wanted.file) as file:
        frame = next(file.decode(video=0))
    assert (frame.width, frame.height, facts.num_measured) == (256, 192, 1)


# --- frames ---------------------------------------------------------------------------------------------------------


def ramp(pixel_format: str = "yuv420p") -> VideoFrame:
    """Chroma grows by four levels a pixel, to the right and down; it is known beside each left one of two pixels."""
    frame = VideoFrame(64, 48, pixel_format)
    rows_of(frame, 0)[...] = np.arange(48)[:, None] + 100
    rows_of(frame, 1)[...] = 8 * np.arange(32)
    rows_of(frame, 2)[...] = 8 * np.arange(24)[:, None]
    return frame


def test_colours_stay_where_they_are(step: Step) -> None:
    (made,), _ = through([step], iter([ramp()]), Target(128, 96, "yuv420p"))
    inside = slice(8, -8)
    across = rows_of(made, 1).astype(float)[20, inside]
    down = rows_of(made, 2).astype(float)[inside, 20]
    # Chroma k is known at pixel 2k of the larger picture, which is k - 0.25 of the smaller one; down at 2k + 0.5, or k,
    # where the smaller one has what it has half a pixel further up.
    for found, wanted in ((across, 4 * np.arange(64) - 1), (down, 4 * np.arange(48) - 2)):
        assert found == pytest.approx(wanted[inside], abs=1.5)
        assert (found - wanted[inside]).mean() == pytest.approx(0, abs=0.2)


def test_a_network_that_adds_nothing_is_lanczos(tmp_path: Path) -> None:
    spec = EnhancerSpec.of("upscale", num_frames=1, widths=(8,))
    save_enhancer(str(tmp_path / "nothing"), spec.build().state_dict(), spec)
    shapes = [(48, 64, "yuv420p"), (47, 63, "yuv444p")]
    for height, width, pixel_format in shapes:
        target = Target(2 * width, 2 * height, pixel_format)
        (one,), _ = through([LANCZOS], frames_of(1, height, width, pixel_format), target)
        (other,), _ = through([step_of("upscale", str(tmp_path / "nothing"))],
                              frames_of(1, height, width, pixel_format), target)  # fmt: skip
        difference = np.abs(luma_of(one) - luma_of(other))
        assert difference.max() <= 3  # noise; FFmpeg rounds its weights
        assert (difference > 1).mean() < 0.01
        assert all(np.array_equal(rows_of(one, plane), rows_of(other, plane)) for plane in (1, 2))


def test_strips_do_not_show(random_upscaler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, target = [step_of("upscale", str(random_upscaler))], Target(128, 398, "yuv420p")
    (whole,), _ = through(steps, frames_of(1, 199, 64), target)
    for rows_at_once in (1, 60):
        monkeypatch.setitem(upscaling._MOST_PIXELS, "cpu", rows_at_once * 64)
        (stripped,), _ = through(steps, frames_of(1, 199, 64), target)
        difference = np.abs(whole.to_ndarray().astype(int) - stripped.to_ndarray())
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3, "rounding only"


def test_half_precision_changes_no_level_by_more_than_one(
    clips: LazyClips, random_upscaler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, target = [step_of("upscale", str(random_upscaler))], Target(352, 288, "yuv420p")

    def upscaled() -> npt.NDArray[np.int64]:
        with av.open(str(clips["carphone.mp4"])) as container:
            (made,), _ = through(steps, islice(container.decode(video=0), 1), target)
        return luma_of(made)

    exact = upscaled()
    loaded = networked._loaded
    monkeypatch.setattr(networked, "_loaded", lambda network, device: loaded(network, device).half())
    try:
        halves = upscaled()
    finally:
        loaded.cache_clear()  # the network is in half precision for good
    assert np.abs(exact - halves).max() <= 1
    assert (exact != halves).mean() < 0.05


def test_each_frame_is_upscaled_by_itself(step: Step) -> None:
    assert reach_of([step], deinterlaces=False) == (0, 0)


# --- figures --------------------------------------------------------------------------------------------------------


def test_psnr_and_ssim_compare_with_what_lanczos_makes_of_the_decoded_frame(
    clips: LazyClips, tmp_path: Path, step: Step
) -> None:
    wanted = job(clips["carphone.mp4"], tmp_path, step, **LOSSLESS)
    facts = done(wanted)
    with av.open(str(clips["carphone.mp4"])) as file, av.open(wanted.file) as written:
        pairs = list(zip(file.decode(video=0), written.decode(video=0), strict=True))
        found = [differences(larger(pairs[n][0], 2), pairs[n][1]) for n in (0, 29, 59, 89, 119)]  # of 29.97 a second
    assert facts.num_measured == len(found)
    assert facts.error_power == pytest.approx(sum(power for power, _ in found), rel=0.01)
    assert facts.ssim == pytest.approx(sum(ssim for _, ssim in found), abs=1e-3)
    assert (facts.error_power == 0) == (step is LANCZOS)


def test_a_contact_sheet_shows_before_and_after_in_the_same_size(tmp_path: Path, step: Step) -> None:
    make_video(tmp_path / "a.mp4", num_frames=20, fps=10, width=160, height=120)
    wanted = job(tmp_path / "a.mp4", tmp_path, step, contact_sheet=True)
    assert done(wanted).error_kind is None
    with av.open(wanted.sheet) as file:
        sheet = next(file.decode(video=0)).to_ndarray(format="rgb24")
    assert sheet.shape == (2 * 240, 2 * 320, 3)
    shown = [read_stamp(row[:, half : half + 320], crop_share=1)[1] for row in np.split(sheet, 2) for half in (0, 320)]
    assert shown == [0, 0, 10, 10]


# --- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "kind", "sentence"),
    [
        ({}, "encode", "libx264 takes no pictures of 18000x128, upscaled: [libx264] invalid width x height"),
        ({"encoder": "libx265", "container": "mkv", "max_pixels": 2**20}, "bounds",
         "18000x128 pictures, upscaled; 1048576 pixels are allowed"),
    ],
)  # fmt: skip
def test_pictures_that_become_too_large_are_one_sentence(
    tmp_path: Path, settings: dict[str, Any], kind: str, sentence: str
) -> None:
    make_video(tmp_path / "wide.mkv", width=9000, height=64, num_frames=2)
    more = dict(settings)
    bounds = {"max_pixels": more.pop("max_pixels")} if "max_pixels" in more else {}
    wanted = job(tmp_path / "wide.mkv", tmp_path, LANCZOS, more={"bounds": Bounds(**bounds)}, **more)
    facts = done(wanted)
    assert (facts.error_kind, facts.num_frames) == (kind, 0)
    assert (facts.error_message or "").startswith(sentence)
    assert os.listdir(wanted.folder) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"upscale": "bicubic"}, "upscale: 'bicubic' is not allowed: network, lanczos, or the folder or prefix of a "
         "network (./name for one here) is"),
        ({"upscale": "./nowhere"}, "upscale: '.*nowhere' is not a network that enhances: "),
        ({"denoise": "UPSCALER", "steps": "denoise"}, "denoise: '.*' is not allowed: it is a network for upscale"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_sentence(random_upscaler: Path, changes: dict[str, Any], sentence: str) -> None:
    given = {name: str(random_upscaler) if value == "UPSCALER" else value for name, value in changes.items()}
    with pytest.raises(ConfigError, match="^" + sentence.replace("(", r"\(").replace(")", r"\)")):
        _ = load_enhance_config({"inputs": "a", "output": "b", "steps": "upscale", **given}).wanted_steps


def test_the_digest_follows_the_method_and_the_weights(random_upscaler: Path) -> None:
    def digest(**settings: Any) -> str:
        return enhance_digest(load_enhance_config({"inputs": "a", "output": "b", **settings}))

    assert digest(upscale=random_upscaler) == digest(), "without the step"
    found = {
        digest(steps="upscale"), digest(steps="upscale,upscale"), digest(steps="upscale", upscale=random_upscaler),
        digest(steps="none"), digest(steps="denoise,upscale"), digest(steps="upscale,denoise"),
    }  # fmt: skip
    assert len(found) == 6


# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
def test_rows_tell_both_sizes_and_long_videos_are_upscaled_clip_by_clip(random_upscaler: Path, tmp_path: Path) -> None:
    fill(tmp_path / "in")
    given = SETTINGS | {"steps": "denoise,upscale", "upscale": str(random_upscaler)}
    result = vidbatch.enhance(tmp_path / "in", output=str(tmp_path / "out"), **given)
    assert dict(result.record.by_status) == {"ok": 2, "failed": 1}
    check_output(str(tmp_path / "out"))
    digest = read_enhancer(str(random_upscaler)).digest
    for row in rows(str(tmp_path / "out"))[1:]:
        assert (row["width"], row["height"], row["output_width"], row["output_height"]) == (320, 240, 640, 480)
        assert (row["steps"], row["weights"]) == (f"denoise=atadenoise:0.5,upscale=network@{digest}:1", digest)
        assert 10 < row["psnr_db"] < math.inf


@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("name", POINTS_OF_ENHANCE)
def test_a_driver_killed_at_a_write_leaves_no_part_of_a_file(random_upscaler: Path, tmp_path: Path, name: str) -> None:
    fill(tmp_path / "in")
    output = str(tmp_path / "out")
    steps = {"steps": "upscale", "upscale": str(random_upscaler)}
    words = [word for flag, value in steps.items() for word in (f"--{flag}", value)]
    died = subprocess.run([*command(tmp_path, output, (name, "before")), *words], capture_output=True, text=True,
                          timeout=200)  # fmt: skip
    assert died.returncode == -9, died.stderr
    assert [file for file in files(output)["media"] if not file.endswith(".mp4")] == []
    for file in files(output)["media"]:
        assert len(pictures(f"{output}/{file}")) in (20, 120)
    result = enhance(load_enhance_config({"output": output, **steps}, tmp_path / "settings.yaml"))
    assert result.record.state in ("finished", "nothing_to_do")
    check_output(output)
    assert {row["output_width"] for row in rows(output)} == {None, 640}


@pytest.mark.long
@pytest.mark.timeout(300)
def test_memory_is_bounded_when_4k_comes_out(tmp_path: Path) -> None:
    spec = EnhancerSpec.of("upscale", num_frames=1)
    save_enhancer(str(tmp_path / "network"), spec.build().state_dict(), spec)
    make_video(tmp_path / "large.mp4", num_frames=12, width=1920, height=1080)
    step = step_of("upscale", str(tmp_path / "network"))
    wanted = job(tmp_path / "large.mp4", tmp_path, step, preset="ultrafast")
    process = IsolatedProcess(timeout_seconds=300, memory_bytes=2**31)
    peak = 0
    for record, _ in process.call("vidbatch.enhancing.clip:enhance_clip", wanted):
        with open(f"/proc/{process.pid}/status") as status:
            peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        facts = Facts.from_dict(json.loads(json.dumps(record["facts"]))) if record else Facts()
    process.close()
    assert (facts.num_frames, facts.error_kind) == (12, None)
    assert peak < 1_500_000  # kB; the network's features of a whole frame would take 800 MB
