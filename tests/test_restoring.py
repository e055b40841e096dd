"""The networks that enhance: what they are trained to undo, how they are trained, and what they make of videos."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
from av.video.frame import VideoFrame
from click.testing import CliRunner
from clips import LazyClips
from test_enhance import LOSSLESS, done, in_clips, job, pictures
from torch.nn import functional

from vidbatch.cli import cli
from vidbatch.enhancing import networked
from vidbatch.enhancing.chain import Chain, Target, reach_of
from vidbatch.enhancing.config import EnhanceConfig, enhance_digest, load_enhance_config
from vidbatch.enhancing.filters import FilterLink, Method, rows_of, shape_of
from vidbatch.enhancing.run import enhance
from vidbatch.enhancing.types import Step
from vidbatch.errors import ConfigError
from vidbatch.restoring import cleaner, degrade, levels, planes, reduction, upscaler
from vidbatch.restoring.cleaner import Cleaner
from vidbatch.restoring.denoiser import SEEN_AROUND, Denoiser
from vidbatch.restoring.spec import EnhancerSpec, read_enhancer, save_enhancer, start
from vidbatch.testing import make_video
from vidbatch.training.loop import Loop, Worker
from vidbatch.training.restore_config import RestoreConfig, load_restore_config
from vidbatch.training.restoring import Restoring
from vidbatch.training.run import find_places
from vidbatch.training.videos import find_videos, make_training_set, read_facts


def step_of(name: str, method: str, strength: float | None = None) -> Step:
    settings = {"inputs": "a", "output": "b", "steps": name, name: method, f"{name}_strength": strength}
    (step,) = EnhanceConfig.model_validate({k: v for k, v in settings.items() if v is not None}).wanted_steps
    return step


@pytest.fixture(scope="module")
def random_denoiser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was not trained: it changes frames, whatever they are."""
    place = tmp_path_factory.mktemp("random") / "denoiser"
    spec = EnhancerSpec.of("denoise", num_frames=5, widths=(8, 12, 16))
    network = spec.build(seed=3)
    for weight in network.parameters():
        weight.data.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    save_enhancer(str(place), network.state_dict(), spec)
    return place


@pytest.fixture(scope="module")
def random_levels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was not trained, for colours: it brightens whatever it sees, how much depends on what it sees."""
    place = tmp_path_factory.mktemp("random") / "levels"
    spec = EnhancerSpec.of("colour", num_frames=1, widths=(8,))
    network = spec.build(seed=3)
    state = network.state_dict()
    last = max(name for name in state if name.startswith("body") and name.endswith("weight")).removesuffix("weight")
    state[f"{last}weight"] *= 50
    state[f"{last}bias"][8:] = -0.5
    save_enhancer(str(place), state, spec)
    return place


@pytest.fixture(scope="module")
def random_cleaner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was not trained, against artefacts: it changes luma by some levels."""
    place = tmp_path_factory.mktemp("random") / "cleaner"
    spec = EnhancerSpec.of("artefacts", num_frames=3, widths=(8,))
    save_enhancer(str(place), at_random(spec).state_dict(), spec)
    return place


def at_random(spec: EnhancerSpec) -> torch.nn.Module:
    network = spec.build(seed=3)
    assert isinstance(network, Cleaner)
    network.exit.weight.data.normal_(std=0.02, generator=torch.Generator().manual_seed(3))
    return network


# --- what they are made of ------------------------------------------------------------------------------------------


def test_cells_are_pictures_in_another_order() -> None:
    luma, chroma = torch.rand(2, 1, 32, 48), torch.rand(2, 2, 16, 24)
    again = planes.unpack(planes.pack(luma, chroma))
    assert torch.equal(again[0], luma)
    assert torch.equal(again[1], chroma)


def test_a_denoiser_sees_no_further_than_it_says() -> None:
    network = Denoiser(3, (4, 6, 8)).eval()
    for weight in network.parameters():
        weight.data.normal_(std=0.3)
    cells = torch.rand(1, 3, 24, 8, 128)
    changed = cells.clone()
    changed[..., 64:68] = torch.rand(1, 3, 24, 8, 4)
    with torch.no_grad():
        differs = (network(cells) - network(changed)).abs().amax((0, 1, 2)) > 0
    seen = differs.nonzero().flatten()
    assert seen.min() < 60, "it sees some way"
    around = SEEN_AROUND // planes.CELL
    assert seen.min() >= 64 - around
    assert seen.max() < 68 + around


def test_a_cleaner_begins_as_no_change_and_sees_no_further_than_it_says() -> None:
    network = Cleaner(3, 6).eval()
    luma = torch.rand(1, 3, 16, 256)
    assert torch.equal(network(luma), luma[:, 1:2])
    for weight in network.parameters():
        weight.data.normal_(std=0.3)
    changed = luma.clone()
    changed[..., 128:132] = torch.rand(1, 3, 16, 4)
    with torch.no_grad():
        differs = (network(luma) - network(changed)).abs().amax((0, 1, 2)) > 0
    seen = differs.nonzero().flatten()
    assert 128 - cleaner.SEEN_AROUND <= seen.min() < 112
    assert 148 < seen.max() < 132 + cleaner.SEEN_AROUND


def test_a_cleaner_of_one_frame_starts_one_of_more_which_is_the_same_at_first(tmp_path: Path) -> None:
    one, more = (EnhancerSpec.of("artefacts", num_frames=number, widths=(8,)) for number in (1, 5))
    save_enhancer(str(tmp_path), at_random(one).state_dict(), one)
    kept = read_enhancer(str(tmp_path))
    network, luma = start(more.build(), kept.weights, ""), torch.rand(2, 5, 16, 24)
    assert torch.allclose(network(luma), kept.load()(luma[:, 2:3]), atol=1e-6)
    assert not torch.allclose(network(luma), luma[:, 2:3], atol=1e-3)


def test_levels_that_are_known_undo_what_was_spoilt() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(4, 3, 24, 24, generator=generator) * 0.6 + 0.05
    cast, gamma, contrast, offset = torch.tensor([1.2, 0.9, 1.1]), 0.7, 0.6, 0.1
    colours = degrade.Colours(
        cast.expand(4, 3), torch.full((4,), gamma), torch.full((4,), contrast), torch.full((4,), offset)
    )
    spoilt = degrade.recoloured(pictures, colours)
    # value = ((cast * good) ** gamma) * contrast + offset
    white = contrast * cast**gamma
    curves = torch.cat([torch.full((3,), offset), white.log(), torch.full((3,), math.log(1 / gamma))]).expand(4, 9)
    assert (spoilt - pictures).abs().mean() > 0.05
    assert (levels.apply(spoilt, curves) - pictures).abs().max() < 0.02


def test_how_far_a_picture_reaches_is_seen_exactly_and_what_is_clipped() -> None:
    picture = torch.randint(40, 200, (1, 3, 72, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    picture[0, :, 5, 7] = torch.tensor([240, 220, 30], dtype=torch.uint8)  # one pixel
    counts = levels.count(picture)
    assert torch.equal(counts.sum(1), torch.ones(3))
    small = functional.interpolate(picture / 255, levels.THUMBNAIL, mode="area")
    seen = levels.look(counts[None], small)
    assert torch.allclose(seen.low, torch.tensor([[30 / 255]]))
    assert torch.allclose(seen.size, torch.tensor([[210 / 255]]))
    assert torch.allclose(seen.own * 255, torch.tensor([[210.0, 190.0, 169.0]]))
    twice = levels.look(counts[None], torch.cat([small, small], dim=2))
    assert torch.allclose(twice.values, seen.values, atol=1e-5), (
        "of several pictures as of one that is like all of them"
    )
    bright = picture.clamp(max=150)
    assert not torch.allclose(levels.look(levels.count(bright)[None], small).values, seen.values, atol=0.05)


def test_the_brightest_pixel_of_many_is_seen() -> None:
    counts = torch.rand(200, 3, 256, generator=torch.Generator().manual_seed(0))
    counts[..., :20], counts[..., 180:] = 0, 0
    counts = counts / counts.sum(2, keepdim=True)
    counts[:, 1, 200] = 1e-6  # one of a million
    seen = levels.look(counts, torch.full((200, 3, *levels.THUMBNAIL), 0.3))
    assert torch.allclose(seen.own * 255, torch.tensor([159.0, 180.0, 159.0]).expand(200, 3))


def test_well_exposed_pictures_are_white_in_all_channels() -> None:
    toned = (
        torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        * torch.tensor([0.9, 0.7, 0.6])[:, None, None]
    )
    made = degrade.exposed(toned)
    assert torch.allclose(made.amax((2, 3)), torch.ones(2, 3))
    assert torch.equal(made.mul(255).round(), made.mul(255)), "whole levels"
    assert torch.allclose(degrade.exposed(made), made, atol=0.01)


def test_tables_of_no_change_change_nothing_and_0_stays_0() -> None:
    assert np.array_equal(levels.tables(torch.zeros(9)).numpy(), np.tile(np.arange(256), (3, 1)))
    bright = levels.tables(torch.tensor([0.0] * 6 + [-1.0] * 3)).numpy()
    assert (bright[:, 0] == 0).all()
    assert (bright[:, 255] == 255).all()
    assert (np.diff(bright.astype(int), axis=1) >= 0).all()


def test_noise_is_as_strong_as_it_may_be_and_some_windows_have_none() -> None:
    windows = torch.full((400, 1, 3, 16, 16), 0.5)
    noisy = degrade.noisy(windows, torch.Generator().manual_seed(1))
    sigmas = (noisy - windows).flatten(1).std(1) * 255
    clean = (sigmas < 0.6).float().mean()
    assert 0.02 < clean < 0.12
    assert 45 < sigmas.max() < 75
    assert 20 < sigmas.median() < 35
    assert torch.equal(noisy.mul(255).round(), noisy.mul(255)), "whole levels"
    assert torch.equal(noisy, degrade.noisy(windows, torch.Generator().manual_seed(1)))


# --- the one that comes with vidbatch ---------------------------------------------------------------------------------


def test_the_network_that_comes_along_takes_noise_away(clips: LazyClips) -> None:
    with av.open(str(clips["carphone.mp4"])) as container:
        good = np.stack(
            [frame.to_ndarray(format="rgb24") for frame, _ in zip(container.decode(video=0), range(9), strict=False)]
        )
    noise = np.random.default_rng(0).normal(0, 25, good.shape)
    bad = np.clip(np.round(good + noise), 0, 255).astype(np.uint8)
    shown = (VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p") for pixels in bad)
    made, _ = through([step_of("denoise", "network")], shown, Target(176, 144, "yuv420p"))
    better = np.stack([frame.to_ndarray(format="rgb24") for frame in made])

    def psnr(pixels: npt.NDArray[np.uint8]) -> float:
        return float(10 * np.log10(255**2 / ((pixels.astype(float) - good) ** 2).mean()))

    assert psnr(better) > psnr(bad) + 8


def test_the_network_against_artefacts_brings_luma_nearer_to_what_was_encoded(clips: LazyClips, tmp_path: Path) -> None:
    with av.open(str(clips["runners.mp4"])) as container:
        good = [frame for frame, _ in zip(container.decode(video=0), range(6), strict=False)]
    width, height = good[0].width, good[0].height
    with av.open(str(tmp_path / "coded.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "32", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"  # type: ignore[union-attr]
        for number, frame in enumerate(good):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))  # type: ignore[union-attr]
        out.mux(stream.encode(None))  # type: ignore[union-attr]
    with av.open(str(tmp_path / "coded.mp4")) as container:
        shown = list(container.decode(video=0))
    made, _ = through([step_of("denoise", "artefacts")], iter(shown), Target(width, height, "yuv420p"))

    def errors(frames: list[VideoFrame]) -> npt.NDArray[np.float64]:
        pairs = zip(frames, good, strict=True)
        return np.array([((rows_of(a, 0).astype(float) - rows_of(b, 0)) ** 2).mean() for a, b in pairs])

    gained = 10 * np.log10(errors(shown) / errors(made))
    assert gained.mean() > 0.2
    assert gained.min() > 0


@pytest.mark.parametrize("sigma", [0, 30])
def test_what_a_gpu_works_in_changes_frames_by_a_level_at_most(sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, which has bf16 too: in fp16 the network that comes along gives no numbers at all."""
    (plain, _), frames = through([step_of("denoise", "network")], textured(sigma), Target(96, 80, "yuv420p")), 8
    monkeypatch.setattr(networked, "_in_bf16", lambda _: torch.autocast("cpu", torch.bfloat16))
    (fast, _) = through([step_of("denoise", "network")], textured(sigma), Target(96, 80, "yuv420p"))
    assert len(plain) == len(fast) == frames
    apart = [np.abs(a.to_ndarray().astype(int) - b.to_ndarray()) for a, b in zip(plain, fast, strict=True)]
    assert np.max(apart) <= 1
    assert np.mean(apart) < 0.1


def textured(sigma: float, count: int = 8) -> Iterator[VideoFrame]:
    """Frames of 96 x 80 of a texture that moves, and noise of that many levels."""
    chance = np.random.default_rng(0)
    picture = np.kron(chance.integers(30, 220, (10, 12, 3)), np.ones((8, 8, 1)))
    for number in range(count):
        noisy = np.roll(picture, number, axis=1) + sigma * chance.standard_normal(picture.shape)
        yield VideoFrame.from_ndarray(noisy.clip(0, 255).astype(np.uint8), format="rgb24").reformat(format="yuv420p")


def test_a_network_that_comes_along_is_found_wherever_vidbatch_lies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = step_of("denoise", "network")
    assert step.network is not None
    assert step.network.place == "vidbatch:denoise"
    monkeypatch.chdir(tmp_path)
    assert read_enhancer(step.network.place).digest == step.network.digest


# --- on videos ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["denoise", "colour"])
def test_clips_joined_are_the_frames_of_one_clip(
    tmp_path: Path, random_denoiser: Path, random_levels: Path, clips: LazyClips, name: str
) -> None:
    step = step_of(name, str(random_denoiser if name == "denoise" else random_levels))
    path = tmp_path / "short.mp4"
    with av.open(str(clips["carphone.mp4"])) as source, av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(30000, 1001), options={"g": "30", "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt = 176, 144, "yuv420p"  # type: ignore[union-attr]
        for frame in source.decode(video=0):
            out.mux(stream.encode(frame))  # type: ignore[union-attr]
        out.mux(stream.encode(None))  # type: ignore[union-attr]
    whole = job(path, tmp_path, step, **LOSSLESS)
    assert done(whole).error_kind is None
    joined, facts = in_clips(path, tmp_path, step, seconds=1.0, **LOSSLESS)
    assert facts.error_kind is None
    assert pictures(joined.file) == pictures(whole.file)
    assert pictures(whole.file) != pictures(path)


def frames_of(number: int, height: int, width: int, pixel_format: str = "yuv420p") -> Iterator[VideoFrame]:
    rng = np.random.default_rng(height)
    for n in range(number):
        pixels = np.roll(rng.integers(0, 255, (height, width, 3), np.uint8), n, axis=1)
        frame = VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
        frame.colorspace, frame.color_range = 1, 1
        yield frame


def through(steps: list[Step], frames: Iterator[VideoFrame], target: Target) -> tuple[list[VideoFrame], list[str]]:
    chain = Chain(steps, target, deinterlaces=False)
    made = [given for frame in frames for given in chain.push(frame)]
    return made + list(chain.flush()), chain.changes


@pytest.mark.parametrize("number", [1, 2, 3, 4, 7])
def test_as_many_frames_come_out_as_went_in(random_denoiser: Path, random_levels: Path, number: int) -> None:
    steps = [step_of("denoise", str(random_denoiser)), step_of("colour", str(random_levels))]
    made, _ = through(steps, frames_of(number, 48, 64), Target(64, 48, "yuv420p"))
    assert len(made) == number
    assert {(frame.width, frame.height, frame.format.name, int(frame.colorspace)) for frame in made} == {
        (64, 48, "yuv420p", 1)
    }


def test_odd_sizes_deep_colours_and_filters_on_both_sides(random_denoiser: Path) -> None:
    steps = [
        Step("denoise", "deblock", 0.5),
        step_of("denoise", str(random_denoiser)),
        Step("colour", "normalize", 0.5),
    ]
    made, changes = through(steps, frames_of(6, 47, 63, "yuv444p10le"), Target(64, 48, "yuv420p"))
    assert len(made) == 6
    assert changes == [
        f"{random_denoiser} saw 8 bits of 10",
        "pixel format yuv444p10le became yuv420p",
        "padded from 63x47 to 64x48: the encoder takes even sizes only",
    ]


@pytest.mark.parametrize(("name", "method"), [("denoise", "fastnlmeans"), ("colour", "clahe")])
def test_filters_of_opencv_change_frames_and_more_at_full_strength(name: str, method: str) -> None:
    rng = np.random.default_rng(0)
    waves = 110 + 30 * np.sin(np.mgrid[0:96, 0:128][0][..., None] / 20) + 5 * rng.standard_normal((2, 96, 128, 1))
    pixels = np.repeat(waves, 3, axis=-1).astype(np.uint8)

    def shown() -> Iterator[VideoFrame]:
        yield from (VideoFrame.from_ndarray(p, format="rgb24").reformat(format="yuv420p") for p in pixels)

    before = np.stack([frame.to_ndarray() for frame in shown()]).astype(int)
    changes = []
    for strength in (0.2, 1.0):
        made, _ = through([step_of(name, method, strength)], shown(), Target(128, 96, "yuv420p"))
        changes.append(np.abs(np.stack([frame.to_ndarray() for frame in made]) - before).mean())
    assert 0 < changes[0] < changes[1]


def test_without_opencv_its_filters_are_refused_before_the_first_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidbatch.restoring.flow.find_spec", lambda _name: None)
    with pytest.raises(ConfigError) as raised:
        enhance(load_enhance_config({"inputs": tmp_path, "output": tmp_path / "o", "denoise": "fastnlmeans"}))
    assert str(raised.value) == ("denoise: 'fastnlmeans' is not allowed without OpenCV: pip install 'vidbatch[opencv]'")


def test_strips_do_not_show(random_denoiser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [step_of("denoise", str(random_denoiser))]
    whole, _ = through(steps, frames_of(3, 480, 64), Target(64, 480, "yuv420p"))
    monkeypatch.setattr(networked, "_MOST_ROWS", 160)
    monkeypatch.setattr(networked, "_LARGE", 1)
    stripped, _ = through(steps, frames_of(3, 480, 64), Target(64, 480, "yuv420p"))
    for one, other in zip(whole, stripped, strict=True):
        difference = np.abs(one.to_ndarray().astype(int) - other.to_ndarray())
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3, "rounding only"


def test_cleaned_frames_keep_their_chroma_and_show_no_strips(
    random_cleaner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, target = [step_of("denoise", str(random_cleaner))], Target(70, 202, "yuv420p")
    whole, _ = through(steps, frames_of(2, 202, 70), target)
    monkeypatch.setitem(networked._MOST_PIXELS, "cpu", 48 * 72)
    stripped, _ = through(steps, frames_of(2, 202, 70), target)
    for one, other, before in zip(whole, stripped, frames_of(2, 202, 70), strict=True):
        difference = np.abs(one.to_ndarray().astype(int) - other.to_ndarray())
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3, "rounding only"
        assert np.abs(rows_of(one, 0).astype(int) - rows_of(before, 0)).mean() > 0.5
        assert all(np.array_equal(rows_of(one, plane), rows_of(before, plane)) for plane in (1, 2))


def test_a_part_of_the_strength_is_a_part_of_the_change(random_denoiser: Path) -> None:
    target = Target(64, 48, "yuv420p")
    before = np.stack([frame.to_ndarray() for frame in frames_of(3, 48, 64)]).astype(float)
    changes = []
    for strength in (0.5, 1.0):
        made, _ = through([step_of("denoise", str(random_denoiser), strength)], frames_of(3, 48, 64), target)
        changes.append(np.stack([frame.to_ndarray() for frame in made]) - before)
    inside = np.abs(changes[1]) < 20  # what was not cut off at 0 or 255
    assert np.abs(changes[1][inside] - 2 * changes[0][inside]).mean() < 1.0
    assert np.abs(changes[1]).mean() > 0.5


def test_a_network_reaches_as_many_frames_as_it_sees(random_denoiser: Path) -> None:
    assert reach_of([step_of("denoise", str(random_denoiser))], deinterlaces=False) == (2, 2)
    both = [step_of("denoise", str(random_denoiser)), Step("denoise", "atadenoise", 0.5)]
    assert reach_of(both, deinterlaces=True) == (8, 8)
    assert reach_of([step_of("denoise", "artefacts")], deinterlaces=False) == (1, 1)


# --- settings -------------------------------------------------------------------------------------------------------


def test_the_digest_of_a_run_follows_the_weights_and_not_their_place(random_denoiser: Path, tmp_path: Path) -> None:
    def digest(place: Path, **more: Any) -> str:
        return enhance_digest(load_enhance_config({"inputs": "a", "output": "b", "denoise": place, **more}))

    copy, other = tmp_path / "copy", tmp_path / "other"
    kept = read_enhancer(str(random_denoiser))
    save_enhancer(str(copy), kept.load().state_dict(), kept.spec)
    save_enhancer(str(other), kept.spec.build(seed=9).state_dict(), kept.spec)
    assert digest(random_denoiser) == digest(copy) != digest(other)
    assert digest(random_denoiser, denoise_strength=0.7) != digest(random_denoiser)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"denoise": "netwerk"}, "denoise: 'netwerk' is not allowed: network, artefacts, nlmeans, bm3d, fftdnoiz, "
         "atadenoise, deblock, fastnlmeans, or the folder or prefix of a network (./name for one here) is"),
        ({"colour": "artefacts"}, "colour: 'artefacts' is not allowed: network, normalize, greyedge, grayworld, "
         "colorcorrect, clahe, or the folder or prefix of a network (./name for one here) is"),
    ],
)  # fmt: skip
def test_a_wrong_method_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_enhance_config({"inputs": "a", "output": "b", **changes})
    assert str(raised.value) == sentence


def test_a_place_without_a_network_or_with_one_for_something_else_is_refused(random_denoiser: Path) -> None:
    for changes, said in (
        ({"steps": "colour", "colour": random_denoiser}, "colour: '{}' is not allowed: it is a network for denoise"),
        ({"denoise": random_denoiser / "none"}, "denoise: '{}/none' is not a network that enhances: "),
    ):
        config = load_enhance_config({"inputs": "a", "output": "b", **changes})
        with pytest.raises(ConfigError) as raised:
            _ = config.wanted_steps
        assert str(raised.value).startswith(said.format(random_denoiser))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_frames": 4}, "num_frames: 4 is even, but one frame is the middle one"),
        ({"kind": "colour"}, "num_frames: 5 is not allowed with kind colour, which sees one picture"),
        ({"kind": "artefacts"}, "pairs: False is not allowed with kind artefacts: what a codec does is not imitated "
         "here"),
        ({"crop": 512}, "crop: 512 is larger than a frame of 360x640"),
        ({"widths": (8, 8)}, "widths: (8, 8) is not allowed: 3 of 4 to 1024 channels"),
    ],
)  # fmt: skip
def test_wrong_settings_of_a_training_are_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_restore_config({"inputs": "a", "output": "b", **changes})
    assert str(raised.value) == sentence


# --- training -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of six small videos of smooth, moving pictures: four to train with, two to judge by."""
    return made_videos(tmp_path_factory.mktemp("good"), lambda waves: 127 + 90 * waves)


@pytest.fixture(scope="module")
def sharp_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of black and white shapes."""
    return made_videos(tmp_path_factory.mktemp("sharp"), lambda waves: np.where(waves > 0, 220, 30))


def made_videos(place: Path, levels_of: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Path:
    folder = place / "videos"
    folder.mkdir()
    down, across = np.mgrid[0:64, 0:96] / 16
    for number in range(6):
        with av.open(str(folder / f"{number}.mkv"), "w") as out:
            stream = out.add_stream("ffv1", rate=24)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"  # type: ignore[union-attr]
            for n in range(12):
                waves = [np.sin(across * (1 + number / 4) + n / 5 + c) * np.cos(down + c) for c in range(3)]
                pixels = levels_of(np.stack(waves, axis=-1)).astype(np.uint8)
                out.mux(stream.encode(VideoFrame.from_ndarray(pixels, format="rgb24")))  # type: ignore[union-attr]
            out.mux(stream.encode(None))  # type: ignore[union-attr]
    manifest = folder / "videos.csv"
    rows = [f"{folder / str(number)}.mkv,{'train' if number < 4 else 'validation'}" for number in range(6)]
    manifest.write_text("\n".join(["url,split", *rows]) + "\n")
    return manifest


def training(videos: Path, output: Path, **changes: Any) -> RestoreConfig:
    settings = {
        "inputs": videos, "output": output, "widths": (8, 12, 16), "crop": 32, "crops_per_window": 4,
        "frame_size": (64, 96), "batch_size": 4, "slice_size": 2, "epochs": 12, "train_share": 0.7,
        "validation_share": 0.3, "ema_decay": 0.8, "learning_rate": 3e-3, "cache_gb": 0.0,
    }  # fmt: skip
    return load_restore_config(settings | changes)


def loop_of(config: RestoreConfig) -> Loop:
    listed = find_videos(config)
    return Loop(config, make_training_set(listed, read_facts(listed.clips, config), config), Worker())


def test_a_denoiser_learns_and_a_run_that_goes_on_in_the_middle_ends_the_same(
    good_videos: Path, tmp_path: Path
) -> None:
    config = training(good_videos, tmp_path / "network", epochs=40)
    loop, states = loop_of(config), []
    loop.run(
        lambda numbers, state: (
            states.append(copy.deepcopy(state())) if numbers["step"] == 4 and "best_epoch" not in numbers else None
        )
    )
    scores = [epoch["validation_psnr"] for epoch in loop.epochs]
    assert max(scores) > scores[0] + 0.5
    again = loop_of(config)
    again.load_state(states[0])
    again.run(lambda _numbers, _state: None)
    for name, weight in loop.kept.state_dict().items():
        assert torch.equal(weight, again.kept.state_dict()[name]), name


def test_an_upscaler_begins_as_lanczos_and_learns(sharp_videos: Path, tmp_path: Path) -> None:
    place = tmp_path / "network"
    config = training(sharp_videos, place, kind="upscale", num_frames=1, widths=(8,), epochs=8, loss="root")
    luma = torch.rand(2, 1, 20, 24)
    assert torch.equal(config.network.build()(luma), upscaler.twice(luma))
    loop = loop_of(config)
    loop.run(lambda _numbers, _state: None, on_best=lambda: loop.objective.save(str(place), loop.kept, loop.best))
    trained = read_enhancer(str(place)).spec.trained
    assert trained["score"] > trained["score_of_lanczos"] + 0.5


def test_pictures_are_reduced_as_ffmpeg_does(tmp_path: Path) -> None:
    levels_of = np.random.default_rng(0).integers(0, 256, (96, 128)).astype(np.uint8)
    smooth = np.asarray(functional.avg_pool2d(torch.from_numpy(levels_of).float()[None], 3, 1, 1)[0].round().byte())
    for number, name in enumerate(reduction.KERNELS):
        shape = shape_of(VideoFrame.from_ndarray(smooth, format="gray"))
        link = FilterLink(shape, [(Method(lambda _, name=name: [("scale", f"64:48:flags={name}+accurate_rnd")]), 1.0)])
        (wanted,) = link.push(VideoFrame.from_ndarray(smooth, format="gray"))
        found = reduction.halved(torch.from_numpy(smooth).float()[None, None], torch.tensor([number]))[0, 0]
        difference = found.round().clamp(0, 255) - torch.from_numpy(wanted.to_ndarray()).float()
        assert difference.abs().max() <= 1, name


@pytest.mark.long
def test_colours_are_learnt(good_videos: Path, tmp_path: Path) -> None:
    settings = {"num_frames": 1, "widths": (32,), "epochs": 40, "crop": 64, "ema_decay": 0.9, "loss": "root"}
    loop = loop_of(training(good_videos, tmp_path / "network", kind="colour", **settings))
    loop.run(lambda _numbers, _state: None)
    losses = [epoch["validation_loss"] for epoch in loop.epochs]
    assert min(losses[-5:]) < 0.8 * losses[0]


def test_pairs_are_learnt_from_both_halves_of_a_frame(tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    for number in range(4):
        make_video(folder / f"{number}.mp4", num_frames=12, width=96, height=128)
    loop = loop_of(
        training(
            folder,
            tmp_path / "network",
            kind="artefacts",
            pairs=True,
            num_frames=3,
            widths=(8,),
            frame_size=(128, 96),
            epochs=1,
            train_share=1.0,
            validation_share=0.0,
        )
    )
    loop.run(lambda _numbers, _state: None)
    assert loop.steps
    assert all(math.isfinite(step["loss"]) for step in loop.steps)


def test_losses_differ_in_how_much_a_bad_square_weighs(good_videos: Path, tmp_path: Path) -> None:
    device = torch.device("cpu")
    differences = torch.stack([torch.full((3, 8, 8), 0.02), torch.full((3, 8, 8), 0.2)])
    found = {}
    for loss in ("mse", "charbonnier", "l1", "rms", "root", "psnr"):
        objective = Restoring(training(good_videos, tmp_path / "network", loss=loss), device, None)
        errors = differences.clone().requires_grad_()
        objective._losses(errors, torch.ones(())).sum().backward()
        assert errors.grad is not None
        small, large = errors.grad.abs().mean((1, 2, 3)).tolist()
        found[loss] = large / small
    assert found["mse"] == pytest.approx(10)
    assert found["l1"] == pytest.approx(1)
    assert found["charbonnier"] == pytest.approx(1, abs=0.01)
    assert found["rms"] == pytest.approx(1, abs=0.02)
    assert found["root"] == pytest.approx(10**-0.5, abs=0.02)
    assert found["psnr"] == pytest.approx(0.1, abs=0.03)


def test_bf16_trains_on_a_cpu_and_fp16_does_not(good_videos: Path, tmp_path: Path) -> None:
    nodes = [{"CPU": 2.0}]
    assert not find_places(training(good_videos, tmp_path, precision="bf16"), nodes).on_gpu
    with pytest.raises(ConfigError, match="precision: 'fp16' is not allowed without a GPU; allowed: fp32, bf16"):
        find_places(training(good_videos, tmp_path, precision="fp16"), nodes)
    loop = loop_of(training(good_videos, tmp_path / "network", precision="bf16", epochs=1))
    loop.run(lambda _numbers, _state: None)
    assert all(weight.dtype == torch.float32 for weight in loop.network.parameters())


@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
def test_the_command_trains_a_network_that_enhance_takes(good_videos: Path, tmp_path: Path) -> None:
    command = [
        "train-enhancer", str(good_videos), "--output", str(tmp_path / "network"), "--widths", "8,12,16", "--crop",
        "32", "--frame-size", "64x96", "--batch-size", "4", "--slice-size", "2", "--epochs", "2", "--train-share",
        "0.7", "--validation-share", "0.3",
    ]  # fmt: skip
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    assert "2 epochs" in result.output
    assert "psnr" in result.output
    spec = json.loads((tmp_path / "network" / "config.json").read_text())
    assert spec["trained"]["settings"]["epochs"] == 2
    step = step_of("denoise", str(tmp_path / "network"))
    wanted = job(good_videos.parent / "0.mkv", tmp_path, step)
    facts = done(wanted)
    assert (facts.error_kind, facts.num_frames) == (None, 12)
    assert "nothing to do" in CliRunner().invoke(cli, command).output
