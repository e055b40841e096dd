"""The camera-motion set: its labels are what another measurement sees, its seed fixes all, its splits share nothing."""

from __future__ import annotations

import hashlib
import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from clips import LazyClips

from vidbatch.decode import read_frames
from vidbatch.manifests import batches

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def motion() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("camera_motion")


@pytest.fixture(scope="module")
def films(motion: Any) -> Any:
    """Two short films, one for each of two splits."""
    return (motion.Film("bikes.mp4", "train", 0, 10, 1.5), motion.Film("runners.mp4", "test", 0, 5, 1.5))


@pytest.fixture(scope="module")
def pictures(motion: Any, films: Any, clips: LazyClips) -> Any:
    assert all(clips[film.clip].is_file() for film in films)
    return motion.take_pictures(films)


@pytest.fixture(scope="module")
def small_set(motion: Any, films: Any, pictures: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("motion")
    motion.make_set(folder, motion.Settings(train=4, validation=0, test=2, films=films), pictures)
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Lines of the manifest, as training reads them."""
    return [{"url": row.url, **row.metadata} for page in batches(str(folder / "manifest.csv"), None) for row in page]


# --- what moves, measured otherwise ---------------------------------------------------------------------------------


def shift_between(before: Floats, after: Floats) -> Floats:
    """How far (right, down) the picture moved, by phase correlation (Kuglin and Hines, 1975), to parts of a pixel."""
    window = np.outer(np.hanning(before.shape[0]), np.hanning(before.shape[1]))
    spectra = [np.fft.fft2((grey - grey.mean()) * window) for grey in (before, after)]
    cross = spectra[1] * spectra[0].conj()
    peak_of = np.fft.ifft2(cross / np.maximum(abs(cross), 1e-9 * abs(cross).max())).real
    rows, columns = peak_of.shape
    frequencies = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns)[None, :])
    smooth = np.fft.ifft2(np.fft.fft2(peak_of) * np.exp(-2 * (np.pi * frequencies) ** 2)).real
    row, column = np.unravel_index(smooth.argmax(), smooth.shape)

    def vertex(low: float, middle: float, high: float) -> float:
        return 0.5 * (low - high) / min(low - 2 * middle + high, -1e-12)

    down = row + vertex(smooth[row - 1, column], smooth[row, column], smooth[(row + 1) % rows, column])
    right = column + vertex(smooth[row, column - 1], smooth[row, column], smooth[row, (column + 1) % columns])
    return np.array([(right + columns / 2) % columns - columns / 2, (down + rows / 2) % rows - rows / 2])


def motion_of(frames: npt.NDArray[np.uint8]) -> tuple[Floats, float, float, float]:
    """(way of the camera right and down in pixels, growth, turn in radians, wobble in pixels) of a clip.

    Shifts of five overlapping parts between frames three apart; a median over parts ignores what moves by itself.
    """
    grey = frames.mean(axis=3)
    height, width = grey.shape[1:]
    places = [(0, 0), (0, width // 2), (height // 2, 0), (height // 2, width // 2), (height // 4, width // 4)]
    parts = [(slice(y, y + height // 2), slice(x, x + width // 2)) for y, x in places]
    middles = np.array([[x + width // 4 - width / 2, y + height // 4 - height / 2] for y, x in places])
    ways, growths, turns = [], [], []
    for index in range(0, len(grey) - 3, 3):
        shifts = np.array([shift_between(grey[index][part], grey[index + 3][part]) for part in parts])
        way = np.median(shifts, axis=0)
        corners, rest = middles[:4], (shifts - way)[:4]
        distance = (corners**2).sum(axis=1)
        ways.append(-way)
        growths.append(np.median((rest * corners).sum(axis=1) / distance))
        turns.append(np.median((corners[:, 0] * rest[:, 1] - corners[:, 1] * rest[:, 0]) / distance))
    total = np.sum(ways, axis=0)
    return total, float(np.sum(growths)), float(np.sum(turns)), float(np.std(ways, axis=0).max())


def named(frames: npt.NDArray[np.uint8]) -> str:
    """The label that the measured motion would get, by its largest part."""
    (right, down), growth, turn, wobble = motion_of(frames)
    sizes = {"pan": abs(right) / 15, "tilt": abs(down) / 14, "zoom": abs(growth) / 0.16, "roll": abs(turn) / 0.14}
    sizes["shake"] = wobble / 1.5 if max(abs(right), abs(down)) < 4 * wobble else 0.0
    kind = max(sizes, key=lambda name: sizes[name])
    if sizes[kind] < 0.5:
        return "static"
    ends = {
        "pan": "right" if right > 0 else "left",
        "tilt": "down" if down > 0 else "up",
        "zoom": "in" if growth > 0 else "out",
    }
    return f"{kind}_{ends[kind]}" if kind in ends else kind


def test_the_measurement_finds_a_known_shift() -> None:
    noise = np.random.default_rng(0).random((60, 80))
    assert shift_between(noise[10:50, 10:70], noise[7:47, 15:75]) == pytest.approx([-5, 3], abs=0.1)


def test_labels_are_what_another_measurement_sees(motion: Any, films: Any, pictures: Any) -> None:
    """On frames as they are rendered, foreground and noise included; slow and odd ones may fool it now and then."""
    settings = motion.Settings(films=films)
    right: Counter[str] = Counter()
    opposite = 0
    for label in motion.LABELS:
        for number in range(8):
            frames, _ = motion.render(pictures["train"], label, np.random.default_rng((number, 1)), settings)
            found = named(frames)
            right[label] += found == label
            opposite += found == motion.OPPOSITE.get(label)
    assert opposite == 0
    assert sum(right.values()) >= 0.95 * 8 * len(motion.LABELS), right
    assert min(right[label] for label in motion.LABELS) >= 7, right


def test_labels_hold_for_what_is_more_like_recordings(
    motion: Any, films: Any, pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without what hides the ground, which that measurement cannot see past; the slowest are too slow to be named."""
    for hides in ("TITLES", "CROWDS", "FILLING", "CAPTIONS", "FADES", "BARRED", "HELD", "BLURRED"):
        monkeypatch.setattr(motion.camera_recorded, hides, 0.0)
    settings = motion.Settings(films=films, recorded=True)
    found: dict[str, list[bool]] = {}
    for label in motion.LABELS:
        for number in range(8):
            frames, _ = motion.render(pictures["train"], label, np.random.default_rng((number, 2)), settings)
            (right, down), growth, _, _ = motion_of(frames)
            ways = {"pan_left": -right, "pan_right": right, "tilt_up": -down, "tilt_down": down}
            ways |= {"zoom_in": growth, "zoom_out": -growth}
            still = max(abs(right), abs(down)) < 5 and abs(growth) < 0.12
            found.setdefault(label, []).append(still if label == "static" else ways.get(label, 1) > 0)
    assert min(sum(named_right) for named_right in found.values()) >= 6, found
    assert sum(map(sum, found.values())) >= 0.92 * 8 * len(motion.LABELS), found


def test_what_the_camera_follows_stays_in_the_picture_and_what_is_on_the_ground_leaves_it(motion: Any) -> None:
    from camera_paths import Path as CameraPath
    from PIL import Image

    ones = np.ones(2)
    pan = CameraPath(np.array([0.0, 0.2]), 0 * ones, ones, 0 * ones, "linear", 0.2)
    white, whole = Image.new("RGB", (40, 40), "white"), Image.new("L", (40, 40), 255)

    def middle_of_thing(depth: float, index: int) -> float:
        thing = motion.camera_recorded.Thing(white, whole, 0.1, np.zeros((2, 2)), ones, depth)
        seen = Image.new("RGB", (200, 150))
        motion.camera_recorded.put([thing], seen, pan, index)
        return float(np.asarray(seen).any(axis=(0, 2)).nonzero()[0].mean())

    assert [middle_of_thing(depth, 0) for depth in (0, 1, 1.5)] == pytest.approx([100] * 3, abs=1.5)
    assert [middle_of_thing(depth, 1) for depth in (0, 1, 1.5)] == pytest.approx([100, 60, 40], abs=1.5)


def test_labels_hold_for_what_comes_out_of_the_file_too(small_set: Path) -> None:
    rows = [row for row in rows_of(small_set) if row["quality"] == "high" and row["label"][:3] in ("pan", "til", "zoo")]
    found = [named(read_frames(row["url"], sampling="all")[0]) for row in rows]
    assert len(rows) >= 12
    assert np.mean([name == row["label"] for name, row in zip(found, rows, strict=True)]) >= 0.75


# --- the set --------------------------------------------------------------------------------------------------------


def test_every_class_has_as_many_clips_and_every_clip_is_there(motion: Any, small_set: Path) -> None:
    rows = rows_of(small_set)
    counts = Counter((row["split"], row["label"]) for row in rows)
    assert counts == {(s, label): n for s, n in (("train", 4), ("test", 2)) for label in motion.LABELS}
    assert len({row["url"] for row in rows}) == len(rows) == len(list(small_set.glob("*/*")))
    for row in rows:
        assert row["source"].partition("@")[0] == {"train": "bikes.mp4", "test": "runners.mp4"}[row["split"]]


def test_every_clip_with_a_direction_is_there_reversed_with_the_opposite_label(motion: Any, small_set: Path) -> None:
    rows = {row["url"]: row for row in rows_of(small_set)}
    twins = [row for row in rows.values() if row["reversed_of"]]
    assert len(twins) == len([row for row in rows.values() if row["label"] in motion.OPPOSITE]) / 2
    for twin in twins:
        there = next(row for url, row in rows.items() if url.endswith(twin["reversed_of"]))
        assert twin["label"] == motion.OPPOSITE[there["label"]]
        assert all(twin[name] == there[name] for name in ("split", "quality", "codec", "source"))
        forth, back = (read_frames(row["url"], sampling="all")[0].astype(int) for row in (there, twin))
        same, other = abs(forth - back[::-1]).mean(), abs(forth - back).mean()
        assert same < 0.7 * other


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    motion: Any, films: Any, pictures: Any, small_set: Path, tmp_path: Path
) -> None:
    def digests(folder: Path) -> dict[str, str]:
        paths = sorted(path for path in folder.glob("**/*") if path.is_file())
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    first = digests(small_set)
    motion.make_set(tmp_path / "again", motion.Settings(train=4, validation=0, test=2, films=films), pictures)
    assert digests(tmp_path / "again") == first
    motion.make_set(tmp_path / "other", motion.Settings(seed=1, train=4, validation=0, test=2, films=films), pictures)
    other = digests(tmp_path / "other")
    assert other.keys() == first.keys()
    assert not {name for name in other if other[name] == first[name]} - {"manifest.csv"}


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9"])
def test_a_lower_quality_is_smaller_and_further_from_the_frames(
    codec: str, motion: Any, pictures: Any, tmp_path: Path
) -> None:
    frames, _ = motion.render(pictures["train"], "pan_left", np.random.default_rng(1), motion.Settings())
    sizes, errors = [], []
    for quality in motion.QUALITIES:
        path = tmp_path / f"{quality}.{motion.CODECS[codec][0]}"
        motion.encode(frames, path, codec=codec, quality=quality, fps=12)
        read, pts, _ = read_frames(path, sampling="all")
        assert read.shape == frames.shape == (24, 96, 128, 3)
        assert pts == pytest.approx(np.arange(24) / 12, abs=1e-3)
        sizes.append(path.stat().st_size)
        errors.append(abs(read.astype(int) - frames).mean())
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)
    assert errors[0] < 6


def test_no_picture_is_in_two_splits_and_no_film_of_the_test_in_another(motion: Any) -> None:
    def times(split: str) -> set[tuple[str, float]]:
        films = [film for film in motion.FILMS if film.split == split]
        return {(f.clip, t) for f in films for t in np.arange(f.start_seconds, f.end_seconds, f.every_seconds)}

    stems = {split: {clip.partition("_")[0].partition(".")[0] for clip, _ in times(split)} for split in motion.SPLITS}
    assert not stems["test"] & (stems["train"] | stems["validation"])
    for clip in stems["train"] & stems["validation"]:
        ends = [f.end_seconds for f in motion.FILMS if f.clip.startswith(clip) and f.split == "train"]
        starts = [f.start_seconds for f in motion.FILMS if f.clip.startswith(clip) and f.split == "validation"]
        assert min(starts) - max(ends) >= 20


@pytest.mark.parametrize("aspect", [4 / 3, 16 / 9])
def test_the_view_never_leaves_the_picture(aspect: float, motion: Any) -> None:
    for label in motion.LABELS:
        for number in range(40):
            rng = np.random.default_rng((number, 2))
            path = motion.path_of(label, 24, rng, aspect=aspect)
            view, centre = motion._place(path, (400, 300), aspect, rng)
            corners = np.array(centre) + view * motion.corners_of(path, aspect=aspect)
            assert corners.min() >= -1e-6
            assert (corners <= np.array([400, 300]) + 1e-6).all()
            assert view > 100


def test_a_reversed_path_is_one_of_the_opposite_label(motion: Any) -> None:
    for label in motion.OPPOSITE:
        path = motion.path_of(label, 24, np.random.default_rng(3))
        other = motion.path_of(motion.OPPOSITE[label], 24, np.random.default_rng(3))
        for name in ("x", "y", "size"):
            there, back = (np.log(getattr(p, name)) if name == "size" else getattr(p, name) for p in (path, other))
            if name[0] == {"pan": "x", "tilt": "y", "zoom": "s"}[label.partition("_")[0]]:
                assert np.sign(there[-1] - there[0]) == -np.sign(back[-1] - back[0]) != 0


def test_an_odd_number_of_clips_and_a_motion_nobody_knows_are_refused(motion: Any) -> None:
    with pytest.raises(ValueError, match="must be even"):
        motion.Settings(train=3)
    with pytest.raises(ValueError, match="'dolly' is none of static, pan_left"):
        motion.path_of("dolly", 24, np.random.default_rng(0))


def test_training_knows_the_labels_and_what_a_reversal_makes_of_them(motion: Any) -> None:
    settings = yaml.safe_load((BENCHMARKS / "camera_motion.yaml").read_text())
    assert settings["num_frames"] / settings["fps"] == motion.Settings().num_frames / motion.Settings().fps
    assert tuple(settings["labels"]) == motion.LABELS
    augment = settings["augment"]
    assert augment["reverse"]["swaps"] == motion.OPPOSITE
    assert augment["flip"]["swaps"] | augment["upside_down"]["swaps"] == {
        label: other for label, other in motion.OPPOSITE.items() if not label.startswith("zoom")
    }
