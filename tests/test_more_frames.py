"""Videos in, smoother ones out: which frames there are, when they are shown, and what is seen in them."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.video.frame import VideoFrame
from clips import LazyClips
from points import POINTS_OF_ENHANCE
from servers import MotoServer
from test_enhance import (
    LOSSLESS,
    SETTINGS,
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

import vidbatch
from vidbatch import storage
from vidbatch.enhancing import cuts
from vidbatch.enhancing.config import describe, enhance_digest, load_enhance_config
from vidbatch.enhancing.passage import around
from vidbatch.enhancing.run import enhance
from vidbatch.enhancing.timeline import Timeline
from vidbatch.enhancing.types import Pace, Step
from vidbatch.errors import ConfigError
from vidbatch.restoring.spec import EnhancerSpec, read_enhancer, save_enhancer
from vidbatch.testing import make_video

HEIGHT, WIDTH = 96, 160
METHODS = ("dis", "network", "minterpolate", "blend")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was not trained: it makes what it begins with."""
    place = tmp_path_factory.mktemp("untrained") / "interpolator"
    spec = EnhancerSpec.of("interpolate", num_frames=2, widths=(8, 8, 8))
    save_enhancer(str(place), spec.build().state_dict(), spec)
    return place


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest, untrained: Path) -> str:
    return str(untrained) if request.param == "network" else str(request.param)


def step_of(method: str, **pace: Any) -> Step:
    given = {"inputs": "a", "output": "b", "steps": "interpolate", "interpolate": method, **pace}
    (step,) = load_enhance_config(given).wanted_steps
    return step


def texture() -> npt.NDArray[np.float64]:
    """Smooth, 32 x 32, from 60 to 250."""
    rows, columns = np.mgrid[:32, :32]
    return 155 + 47 * np.sin(columns / 3 + rows / 5) + 47 * np.cos(rows / 4 - columns / 7)


def film(
    path: Path, places: Sequence[float], *, ticks: Sequence[int] | None = None, rate: int = 10, gop: int = 5,
    grounds: Sequence[int] | None = None,
) -> Path:  # fmt: skip
    """A square at these columns, before a ground of these levels, at these ticks of 1/(100 * rate) s, or each 100."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"crf": "2", "preset": "veryfast", "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", gop
        stream.time_base = stream.codec_context.time_base = Fraction(1, 100 * rate)
        for number, place in enumerate(places):
            planes = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
            planes[:HEIGHT] = 16 if grounds is None else grounds[number]
            planes[32:64, round(place) : round(place) + 32] = texture()
            frame = VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = 100 * number if ticks is None else ticks[number], Fraction(1, 100 * rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def luma_of(planes: bytes) -> npt.NDArray[np.float64]:
    return np.frombuffer(planes[: HEIGHT * WIDTH], np.uint8).reshape(HEIGHT, WIDTH).astype(float)


def place_of(planes: bytes) -> float:
    """Where the square is, before a dark ground."""
    found, wanted = luma_of(planes) - 16, texture() - 16
    found[found < 8] = 0
    centre = (wanted.sum(0) * np.arange(32)).sum() / wanted.sum()
    return float((found.sum(0) * np.arange(WIDTH)).sum() / found.sum() - centre)


def smoothed(path: Path, folder: Path, *steps: Step, **options: Any) -> list[tuple[float, bytes]]:
    wanted = job(path, folder, *steps, **(LOSSLESS | options))
    facts = done(wanted)
    assert facts.error_kind is None, facts.error_message
    return pictures(wanted.file)


# --- what is seen ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pace", [{"times": 2}, {"times": 4}, {"fps": 25}, {"fps": "30000/1001"}, {"fps": 4}], ids=str)
def test_what_moves_is_where_it_is_at_that_time(tmp_path: Path, method: str, pace: dict[str, Any]) -> None:
    """A square that moves 8 pixels a frame, 80 a second; behind its last frame nothing is known, and it stands."""
    film(tmp_path / "a.mp4", [8 + 8 * n for n in range(10)])
    found = smoothed(tmp_path / "a.mp4", tmp_path, step_of(method, **pace))
    for seconds, planes in found:
        tolerance = 3.0 if method == "minterpolate" else 0.6
        assert place_of(planes) == pytest.approx(8 + 80 * min(seconds, 0.9), abs=tolerance), seconds
    rate = Fraction(pace["fps"]) if "fps" in pace else Fraction(10 * pace["times"])
    assert [seconds for seconds, _ in found] == pytest.approx([n / rate for n in range(-(-rate // 1))], abs=1e-6)


@pytest.mark.parametrize("times", [2, 3])
def test_frames_that_there_were_stay_as_they_are_at_their_time(tmp_path: Path, method: str, times: int) -> None:
    path = film(tmp_path / "a.mp4", [8 + 5 * n for n in range(8)])
    found = smoothed(path, tmp_path, step_of(method, times=times))
    assert found[::times] == pictures(path)
    assert len(found) == 8 * times


def test_blending_shows_both_frames(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [8, 28, 48])
    kept, (made, *_) = pictures(path), smoothed(path, tmp_path, step_of("blend", times=4))[1:]
    wanted = 0.75 * luma_of(kept[0][1]) + 0.25 * luma_of(kept[1][1])
    assert np.abs(luma_of(made[1]) - wanted).max() <= 1


def test_a_network_sees_the_frames_around_where_they_tell_how_things_move(tmp_path: Path, untrained: Path) -> None:
    """What gets faster is believed by half by an untrained network, if frames come evenly and no cut is there."""
    places = [4 + 0.5 * n * n for n in range(13)]
    even = smoothed(film(tmp_path / "a.mp4", places), tmp_path, step_of(str(untrained)))
    straight = smoothed(tmp_path / "a.mp4", tmp_path, step_of("dis"))
    assert place_of(straight[21][1]) - place_of(even[21][1]) == pytest.approx(0.5 / 8, abs=0.05)
    ticks = [0, *np.cumsum([100, 250] * 6).tolist()]
    film(tmp_path / "b.mp4", places, ticks=ticks)
    uneven, straight = (smoothed(tmp_path / "b.mp4", tmp_path, step_of(by)) for by in (str(untrained), "dis"))
    assert place_of(uneven[21][1]) == pytest.approx(place_of(straight[21][1]), abs=0.02)


# --- cuts and repeats -----------------------------------------------------------------------------------------------


def test_nothing_is_made_across_a_cut(tmp_path: Path, method: str) -> None:
    """The nearer frame is repeated; what lies within a shot is made as ever."""
    places, grounds = [8, 16, 24, 100, 108, 116], [16, 16, 16, 200, 200, 200]
    path = film(tmp_path / "a.mp4", places, grounds=grounds)
    kept = [planes for _, planes in pictures(path)]
    found = [planes for _, planes in smoothed(path, tmp_path, step_of(method, times=4))]
    assert found[8:13] == [kept[2], kept[2], kept[2], kept[3], kept[3]]
    assert all(made not in kept for made in found[5:8] + found[13:16])


def test_neither_a_pan_nor_a_flash_is_a_cut_and_a_cut_in_a_fast_pan_is_one() -> None:
    rng = np.random.default_rng(0)
    wide, other = (np.kron(rng.uniform(0, 255, (36, 100)), np.ones((1, 4))).astype(np.float32) for _ in range(2))
    frames = [wide[:, 6 * n : 6 * n + 64] for n in range(8)] + [other[:, 6 * n : 6 * n + 64] for n in range(8)]
    nothing = np.zeros((HEIGHT, WIDTH), np.uint8), np.ones((HEIGHT, WIDTH), np.uint8)
    pairs = [cuts.pair_of((one, two), lambda: nothing) for one, two in itertools.pairwise(frames)]
    around = [None, *pairs, None]
    found = [cuts.verdict(around[n], pair, around[n + 2]) for n, pair in enumerate(pairs)]
    assert found == ["moves"] * 7 + ["cut"] + ["moves"] * 7
    dim, bright = cuts.Pair(3.0, False), cuts.Pair(30.0, False)
    assert cuts.verdict(dim, bright, bright) == "moves"
    assert cuts.verdict(dim, bright, dim) == "cut"


@pytest.mark.parametrize(
    ("name", "seconds", "wanted"),
    [("bikes.mp4", 9, [29, 75, 136, 186]), ("city.mpg", 6, [115]), ("runners.mp4", 4, [])],
)
def test_cuts_of_real_clips_are_found(clips: LazyClips, name: str, seconds: int, wanted: list[int]) -> None:
    """A cut lies behind each of these frames, as the eye says."""
    words = ["ffmpeg", "-v", "error", "-t", str(seconds), "-i", clips[name], "-vf", "scale=64:36:flags=area", "-f",
             "rawvideo", "-pix_fmt", "gray", "-fps_mode", "passthrough", "-"]  # fmt: skip
    raw = subprocess.run(list(map(str, words)), capture_output=True, check=True).stdout
    small = np.frombuffer(raw, np.uint8).reshape(-1, 36, 64).astype(np.float32)
    moving = np.zeros((16, 16), np.uint8), np.full((16, 16), 9, np.uint8)
    pairs = [cuts.pair_of((one, two), lambda: moving) for one, two in itertools.pairwise(small)]
    around = [None, *pairs, None]
    assert [n for n, pair in enumerate(pairs) if cuts.verdict(around[n], pair, around[n + 2]) == "cut"] == wanted


def test_a_repeated_frame_is_repeated_and_one_that_stands_long_stands(tmp_path: Path, method: str) -> None:
    path = film(tmp_path / "a.mp4", [8, 16, 16, 24, 32, 40], ticks=[0, 100, 200, 300, 1300, 1400])
    kept = [planes for _, planes in pictures(path)]
    found = smoothed(path, tmp_path, step_of(method, times=2))
    assert [seconds for seconds, _ in found[:9]] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.8, 1.3])
    planes = [planes for _, planes in found]
    assert place_of(planes[3]) == pytest.approx(16, abs=0.3)
    assert planes[3] == kept[1]
    assert planes[7] == kept[3]
    assert all(planes[n] not in kept for n in (1, 5, 9))


# --- times ----------------------------------------------------------------------------------------------------------


def test_times_of_variable_frame_rate_lie_evenly_between_and_the_sound_is_as_it_was(tmp_path: Path) -> None:
    ticks = np.cumsum([0, *(50 + n * 37 % 120 for n in range(39))]).tolist()
    film(tmp_path / "silent.mp4", [8 + 2 * n for n in range(40)], ticks=ticks)
    ffmpeg("-i", tmp_path / "silent.mp4", "-f", "lavfi", "-i", "sine=duration=5", "-c:v", "copy", "-c:a", "aac",
           tmp_path / "a.mp4")  # fmt: skip
    before = [seconds for seconds, _ in pictures(tmp_path / "a.mp4")]
    for pace in ({"times": 3}, {"fps": 24}):
        wanted = job(tmp_path / "a.mp4", tmp_path, step_of("blend", **pace), preset="ultrafast")
        facts = done(wanted)
        assert (facts.error_kind, facts.changes) == (None, [])
        found = [seconds for seconds, _ in pictures(wanted.file)]
        if "times" in pace:
            assert found[::3] == pytest.approx(before, abs=1e-6)
            assert found[1::3][:-1] == pytest.approx(np.interp(np.arange(39) + 1 / 3, range(40), before), abs=1e-4)
        else:
            assert found == pytest.approx(before[0] + np.arange(len(found)) / 24, abs=1e-4)
        assert facts.end_seconds == pytest.approx(before[-1] + 0.1, abs=0.2)
        assert facts.num_frames == len(found)
        sound = []
        for place in (wanted.file, str(tmp_path / "a.mp4")):
            with av.open(place) as file:
                sound.append([(packet.pts, bytes(packet)) for packet in file.demux(audio=0) if packet.size])
        assert sound[0] == sound[1] != []


@pytest.mark.parametrize("fps", ["60", "24000/1001", "59.94", "7/3"])
@pytest.mark.parametrize("base", [Fraction(1, 1000), Fraction(1001, 30000), Fraction(1, 90000)])
def test_frames_of_a_rate_are_those_of_the_whole_video_however_it_is_cut(fps: str, base: Fraction) -> None:
    """Whatever the times of the source, there is one frame for each time of the grid, and it lies between its two."""
    timeline = Timeline(Pace(fps=Fraction(fps).as_integer_ratio()), base, Fraction(30), first_tick=70)
    ticks = (70 + np.cumsum(np.random.default_rng(1).integers(1, round(0.2 / base), 50))).tolist()
    ticks[0] = 70
    found = [(a, b, moment) for a, b in itertools.pairwise(ticks) for moment in timeline.moments(a, b)]
    unit = timeline.file_time_base
    times = [float(moment.tick * unit) for _, _, moment in found]
    grid = [float(70 * base + n / Fraction(fps)) for n in range(len(found))]
    assert times == pytest.approx(grid, abs=1e-6)
    assert times[-1] + float(1 / Fraction(fps)) >= float(ticks[-1] * base)
    for a, b, moment in found:
        assert (float(moment.tick * unit) - float(a * base)) / float((b - a) * base) == pytest.approx(
            moment.phase, abs=0.035
        )
    assert all(one.end == two.tick for (_, _, one), (_, _, two) in itertools.pairwise(found))


@pytest.mark.parametrize("container", ["mp4", "mkv", "webm"])
def test_every_container_holds_the_times(tmp_path: Path, container: str) -> None:
    film(tmp_path / "a.mp4", [8 + 5 * n for n in range(12)], rate=25)
    encoder = "libvpx-vp9" if container == "webm" else "libx264"
    preset = "8" if container == "webm" else "ultrafast"
    wanted = job(tmp_path / "a.mp4", tmp_path, step_of("blend", fps=60), container=container, encoder=encoder,
                 preset=preset)  # fmt: skip
    facts = done(wanted)
    assert (facts.error_kind, facts.num_frames) == (None, 29)
    tolerance = 1e-4 if container == "mp4" else 6e-4
    with av.open(wanted.file) as file:
        stream = file.streams.video[0]
        times = [float(frame.pts * frame.time_base) for frame in file.decode(video=0)]
        assert float(stream.average_rate) == pytest.approx(60, rel=0.02)
    assert times == pytest.approx(np.arange(29) / 60, abs=tolerance)


# --- clips ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pace", [{"times": 2}, {"fps": 23}], ids=str)
@pytest.mark.parametrize("kind", ["even", "variable frame rate"])
def test_clips_joined_are_the_frames_of_one_clip_bit_for_bit(
    tmp_path: Path, method: str, pace: dict[str, Any], kind: str
) -> None:
    """With filters that see several frames on both sides, and a cut and a repeat on the way."""
    grounds = [16] * 13 + [150] * 17
    places = [8 + 3 * n for n in range(30)]
    places[20] = places[19]
    ticks = None if kind == "even" else np.cumsum([0, *(60 + n * 37 % 90 for n in range(29))]).tolist()
    path = film(tmp_path / "a.mp4", places, grounds=grounds, ticks=ticks)
    smooth = Step("denoise", "atadenoise", 0.5)
    steps = [smooth, step_of(method, **pace), smooth]
    whole = job(path, tmp_path, *steps, **LOSSLESS)
    alone = done(whole)
    joined, facts = in_clips(path, tmp_path, *steps, seconds=0.8, **LOSSLESS)
    assert (alone.error_kind, facts.error_kind) == (None, None)
    for name in ("num_frames", "num_interpolated", "num_measured", "num_frames_decoded", "picture", "changes"):
        assert getattr(facts, name) == getattr(alone, name), name
    assert facts.error_power == pytest.approx(alone.error_power)
    assert pictures(joined.file) == pictures(whole.file)
    assert 0 < facts.num_interpolated < facts.num_frames


def test_so_many_frames_around_a_clip_are_seen_as_all_steps_together_see(untrained: Path) -> None:
    smooth = Step("denoise", "atadenoise", 0.5)  # sees 4 on both sides
    for pace, reach, seconds in ((Pace(times=2), 4 + 2 + 2, 0), (Pace(fps=(20, 1)), 4 + 2, Fraction(1, 5))):
        step = step_of(str(untrained))._replace(pace=pace)
        found = around((smooth, step, smooth), Timeline(pace, Fraction(1, 90), Fraction(30), 0), deinterlaces=False)
        assert found == ((reach, reach), seconds, seconds)


# --- unusual videos -------------------------------------------------------------------------------------------------


UNUSUAL: dict[str, tuple[str, Any, int, str, list[str]]] = {
    # name: file, how it is made, frames in, pixel format behind, what is said to be changed
    "odd size": ("odd.mkv", make_odd, 10, "yuv420p",
                 ["padded from 175x143 to 176x144: the encoder takes even sizes only"]),
    "one frame": ("one.mp4", lambda path: make_video(path, num_frames=1), 1, "yuv420p", []),
    "two frames": ("two.mp4", lambda path: make_video(path, num_frames=2), 2, "yuv420p", []),
    "10 bits": ("ten.mp4", lambda path: make_video(path, num_frames=5, pix_fmt="yuv420p10le"), 5, "yuv420p10le",
                ["frames between others were made of 8 bits of 10"]),
    "4:4:4": ("full.mp4", lambda path: make_video(path, num_frames=5, pix_fmt="yuv444p"), 5, "yuv444p", []),
    "full range": ("range.mp4", lambda path: make_video(path, num_frames=5, pix_fmt="yuvj420p"), 5, "yuv420p", []),
    "red, green, blue": ("a.mov", lambda path: make_video(path, num_frames=5, pix_fmt="rgb24", codec="png"), 5,
                         "yuv444p", ["pixel format rgb24 became yuv444p"]),
    "tiny": ("tiny.mp4", lambda path: make_video(path, num_frames=5, width=32, height=16), 5, "yuv420p", []),
    "a changing size": ("changing.h264", make_changing, 20, "yuv420p", ["frames scaled from 160x120 to 320x240"]),
    "no times": ("raw.h264", lambda path: make_video(path, num_frames=10, container="h264"), 10, "yuv420p", []),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_videos_get_twice_as_many_frames_too(tmp_path: Path, method: str, name: str) -> None:
    file, make, num_frames, pixel_format, changes = UNUSUAL[name]
    make(tmp_path / file)
    wanted = job(tmp_path / file, tmp_path, step_of(method), container="mkv", preset="ultrafast")
    facts = done(wanted)
    if (name, method) == ("tiny", "minterpolate"):
        assert (facts.error_kind, facts.error_message) == ("unsupported", "minterpolate takes no pictures of 32x16")
        return
    assert facts.error_kind is None, facts.error_message
    assert facts.num_frames == 2 * num_frames
    assert facts.changes == ([] if name == "10 bits" and method == "blend" else changes)
    with av.open(wanted.file) as written:
        frames = list(written.decode(video=0))
    assert len({frame.pts for frame in frames}) == 2 * num_frames
    assert frames[0].format.name.replace("yuvj", "yuv") == pixel_format
    assert (frames[0].color_range == 2) == (name == "full range")


def test_what_is_interlaced_is_deinterlaced_before_and_what_is_upscaled_behind_is_larger(
    clips: LazyClips, tmp_path: Path
) -> None:
    path = tmp_path / "fields.mp4"
    ffmpeg("-t", 1, "-i", clips["carphone.mp4"], "-vf", "tinterlace=interleave_top,fieldorder=tff", "-pix_fmt",
           "yuv420p", "-c:v", "libx264", "-flags", "+ildct+ilme", "-x264opts", "tff=1", path)  # fmt: skip
    wanted = job(path, tmp_path, step_of("dis"), Step("upscale", "lanczos", 1.0), preset="ultrafast")
    facts = done(wanted)
    assert facts.changes == ["deinterlaced (bwdif), a frame for each frame"]
    assert facts.num_frames == 2 * facts.num_frames_decoded
    with av.open(wanted.file) as file:
        frame = next(file.decode(video=0))
    assert (frame.width, frame.height) == (2 * 176, 2 * 144)


def test_a_video_that_is_damaged_further_on_is_kept_up_to_there(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", [8 + 2 * n for n in range(60)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    wanted = job(path, tmp_path, step_of("blend"), preset="ultrafast")
    facts = done(wanted)
    assert facts.error_kind == "truncated"
    assert facts.num_frames == 2 * facts.num_frames_decoded > 40


# --- figures --------------------------------------------------------------------------------------------------------


def test_figures_are_of_frames_that_were_kept_and_the_sheet_shows_what_was_made(tmp_path: Path) -> None:
    """Twelve frames of ten a second: two are measured, and both are followed by one that was made."""
    film(tmp_path / "a.mp4", [8 + 8 * n for n in range(12)])
    wanted = job(tmp_path / "a.mp4", tmp_path, step_of("dis"), contact_sheet=True, **LOSSLESS)
    facts = done(wanted)
    assert (facts.num_measured, facts.error_power, facts.ssim) == (2, 0.0, 2.0)
    assert (facts.num_frames_decoded, facts.num_frames, facts.num_interpolated) == (12, 24, 11)
    with av.open(wanted.sheet) as file:
        sheet = next(file.decode(video=0)).to_ndarray(format="gray").astype(float)
    assert sheet.shape == (2 * HEIGHT, 2 * WIDTH)
    centres = []
    for row in np.split(sheet, 2):
        for half in np.split(row, 2, axis=1):
            light = np.where(half > 40, half, 0)
            centres.append((light.sum(0) * np.arange(WIDTH)).sum() / light.sum())
    assert np.diff(centres) == pytest.approx([4, 76, 4], abs=1)


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"interpolate": "rife"}, "interpolate: 'rife' is not allowed: network, minterpolate, blend, dis, or the"),
        ({"times": 1}, "times: 1 is not allowed: input should be greater than or equal to 2"),
        ({"times": 2, "fps": 60}, "fps: 60 is not allowed together with times 2: give one of them"),
        (
            {"fps": "fast"},
            "fps: 'fast' is not allowed: frames a second, from 1 to 960, as 60, 59.94 or 60000/1001, are",
        ),
        ({"fps": "60/0"}, "fps: '60/0' is not allowed: frames a second"),
        ({"fps": 60, "steps": "denoise"}, "fps: 60 is not allowed without interpolate among the steps"),
        ({"steps": "interpolate,interpolate"}, "steps: interpolate is allowed once: say how many frames it makes"),
        ({"interpolate": "./nowhere"}, "interpolate: '.*nowhere' is not a network that enhances"),
        ({"denoise": "NETWORK", "steps": "denoise"}, "denoise: '.*' is not allowed: it is a network for interpolate"),
    ],
)
def test_a_wrong_setting_is_one_sentence(untrained: Path, changes: dict[str, Any], sentence: str) -> None:
    given = {name: str(untrained) if value == "NETWORK" else value for name, value in changes.items()}
    with pytest.raises(ConfigError, match="^" + sentence):
        _ = load_enhance_config({"inputs": "a", "output": "b", "steps": "interpolate", **given}).wanted_steps


def test_the_digest_and_the_table_tell_the_method_and_the_pace(untrained: Path) -> None:
    def config(**settings: Any) -> Any:
        return load_enhance_config({"inputs": "a", "output": "b", "steps": "interpolate", **settings})

    ways: list[dict[str, Any]] = [{}, {"times": 4}, {"fps": 60}, {"fps": "59.94"}, {"interpolate": "blend"},
                                  {"interpolate": untrained}, {"steps": "denoise,interpolate"},
                                  {"steps": "interpolate,denoise"}]  # fmt: skip
    assert len({enhance_digest(config(**way)) for way in ways}) == len(ways)
    assert enhance_digest(config()) == enhance_digest(config(times=2))
    digest = read_enhancer(str(untrained)).digest
    found = [describe(config(**way).wanted_steps) for way in ways[:6]]
    assert found == ["interpolate=dis:2x", "interpolate=dis:4x", "interpolate=dis:60fps", "interpolate=dis:2997/50fps",
                     "interpolate=blend:2x", f"interpolate=network@{digest}:2x"]  # fmt: skip


# --- runs -----------------------------------------------------------------------------------------------------------


def check_smooth(output: str) -> None:
    """Each video has one row; each row one whole file, of twice as many frames; nothing else is there."""
    bad, long, short = rows(output)
    assert (bad["status"], bad["output_url"], bad["num_frames_interpolated"]) == ("failed", None, 0)
    for row, num_frames, rate in ((long, 120, 10), (short, 20, 25)):
        assert (row["status"], row["num_frames_decoded"], row["num_frames"]) == ("ok", num_frames, 2 * num_frames)
        assert row["num_frames_interpolated"] <= num_frames - 1
        assert row["frame_rate"] == pytest.approx(rate, rel=0.01)
        assert row["output_frame_rate"] == pytest.approx(2 * rate, rel=0.01)
        assert row["output_duration_seconds"] == pytest.approx(num_frames / rate, rel=0.01)
        data = storage.read_bytes(row["output_url"])
        assert row["output_bit_rate"] == pytest.approx(8 * len(data) / row["output_duration_seconds"])
    found = files(output)
    assert len(found["media"]) == 2
    assert found["_clips"] == []


@pytest.mark.usefixtures("local_ray")
def test_an_archive_on_s3_becomes_a_smoother_one_as_the_readme_says(
    moto_s3: MotoServer, tmp_path: Path, vidbatch_command: Any
) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (line,) = re.findall(r"^    (vidbatch enhance s3:.*--steps interpolate.*)$", readme, re.MULTILINE)
    fill(tmp_path / "in")
    bucket = moto_s3()
    for path in (tmp_path / "in").iterdir():
        storage.put(f"{bucket}/videos/{path.name}", path.read_bytes())
    words = shlex.split(line.replace("s3://bucket", bucket))[1:]
    output = words[words.index("--output") + 1]
    more = ["--clip-seconds", 3, "--long-video-mb", 0, "--preset", "ultrafast", "--max-failed-share", 0.5]
    code, said = vidbatch_command(*words, *more)
    assert code == 0, said
    check_smooth(output)
    assert {row["steps"] for row in rows(output)} == {"interpolate=dis:2x"}


@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("name", POINTS_OF_ENHANCE)
def test_a_driver_killed_at_a_write_leaves_no_part_of_a_file(tmp_path: Path, name: str) -> None:
    fill(tmp_path / "in")
    output = str(tmp_path / "out")
    steps = {"steps": "interpolate", "interpolate": "blend"}
    words = [word for flag, value in steps.items() for word in (f"--{flag}", value)]
    died = subprocess.run([*command(tmp_path, output, (name, "before")), *words], capture_output=True, text=True,
                          timeout=200)  # fmt: skip
    assert died.returncode == -9, died.stderr
    assert [file for file in files(output)["media"] if not file.endswith(".mp4")] == []
    for file in files(output)["media"]:
        assert len(pictures(f"{output}/{file}")) in (40, 240)
    result = enhance(load_enhance_config({"output": output, **steps}, tmp_path / "settings.yaml"))
    assert result.record.state in ("finished", "nothing_to_do")
    check_smooth(output)


@pytest.mark.usefixtures("local_ray")
def test_the_same_run_again_does_nothing_and_another_pace_all(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    make_video(tmp_path / "in" / "a.mp4", num_frames=20)
    given = SETTINGS | {"steps": "interpolate", "interpolate": "blend"}
    states = [
        vidbatch.enhance(tmp_path / "in", output=str(tmp_path / "out"), **given, **pace).record.state
        for pace in ({}, {"times": 2}, {"fps": 60})
    ]
    assert states == ["finished", "nothing_to_do", "finished"]
    assert rows(str(tmp_path / "out"))[0]["output_frame_rate"] == pytest.approx(60, rel=0.01)
