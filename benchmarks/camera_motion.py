"""A seed in; a folder of small clips of known camera motion over real pictures out, with a manifest of their labels.

A task that single frames cannot solve: static, pan, tilt and zoom in both directions, roll, shake. A virtual camera
moves over frames of the real clips of tests/clips.py, other pictures' parts move through the view, noise is added, and
x264 or VP9 encodes it at one of three qualities. Every pan, tilt and zoom is there a second time with its frames
reversed and the opposite label. No picture is in two splits, and no film of the test in another. With `recorded` clips
are more like recordings (camera_recorded.py), of photographs, too.

    python benchmarks/camera_motion.py --seed 0        prints the folder; made once, then kept below .cache/benchmarks
    manifest.csv: url,label,split,quality,codec,source,reversed_of
"""

from __future__ import annotations

import argparse
import csv
import math
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import av
import camera_recorded
import numpy as np
import numpy.typing as npt
from archives import built
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from camera_paths import LABELS, OPPOSITE, corners_of, path_of
from camera_paths import Path as CameraPath
from PIL import Image, ImageOps

from vidbatch.decode import read_frames
from vidbatch.schema import FrameSpec

Pixels = npt.NDArray[np.uint8]

VERSION: Final = 1
RECORDED: Final = 2
"""Raised when the same seed gives other clips; the second when it does of recorded ones."""
PICTURE: Final = FrameSpec(300, 400, 1.0, "area")
SPLITS: Final = ("train", "validation", "test")
QUALITIES: Final = ("high", "medium", "low")
CODECS: Final = {
    "libx264": ("mp4", {"preset": "veryfast"}, {"high": 18, "medium": 30, "low": 40}),
    "libvpx-vp9": (
        "webm",
        {"deadline": "realtime", "cpu-used": "8", "b": "0"},
        {"high": 24, "medium": 44, "low": 58},
    ),
}
"""Container, options and constant rate factor of each quality."""
COLUMNS: Final = ("url", "label", "split", "quality", "codec", "source", "reversed_of")


class Film(NamedTuple):
    """Where pictures are taken from: every so many seconds of a part of a clip of tests/clips.py."""

    clip: str
    split: str
    start_seconds: float
    end_seconds: float
    every_seconds: float


FILMS: Final = (
    Film("bunny_whole.mp4", "train", 15, 470, 1.5),
    Film("motorway.mp4", "train", 0, 29, 4),
    Film("surveillance.avi", "train", 0, 79, 8),
    Film("concert.3gp", "train", 0, 60, 3),
    Film("bunny_whole.mp4", "validation", 490, 575, 2),
    Film("globe.mp4", "validation", 0, 30, 6),
    Film("sintel_trailer.mp4", "test", 10, 50, 0.8),
    Film("bikes.mp4", "test", 0, 10, 0.7),
    Film("runners.mp4", "test", 0, 5, 0.8),
    Film("city.mpg", "test", 0.6, 8, 1.5),
    Film("handheld.avi", "test", 0, 16, 1),
    Film("tree.avi", "test", 0, 8, 4),
)
"""Validation has other scenes of one film that is trained on, 20 s apart; test shares no film with the others."""
LEAST_DETAIL: Final = 2.0
"""Mean difference of neighbouring pixels, of 255 levels, below which a picture (black, a title) shows no motion."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is made; the numbers are clips a class, even, reversed ones included."""

    seed: int = 0
    train: int = 400
    validation: int = 40
    test: int = 240
    num_frames: int = 24
    fps: int = 12
    height: int = 96
    width: int = 128
    recorded: bool = False
    films: tuple[Film, ...] = field(default=FILMS, repr=False)

    def __post_init__(self) -> None:
        if any(getattr(self, split) % 2 for split in SPLITS):
            raise ValueError("clips a class must be even: half of them are the others reversed")

    @property
    def name(self) -> str:
        """Of the folder: everything the clips depend on."""
        counts = "x".join(str(getattr(self, split)) for split in SPLITS)
        size = f"{self.width}x{self.height}_{self.num_frames}f{self.fps}"
        return (
            f"camera_motion_v{VERSION}_seed{self.seed}_{counts}_{size}{f'_recorded{RECORDED}' if self.recorded else ''}"
        )


class Pictures(NamedTuple):
    """Pictures of one split."""

    pixels: Pixels
    """uint8 (number, 300, 400, 3) RGB; may be a file that is mapped into memory."""
    sources: tuple[str, ...]
    """`bikes.mp4@1.40s`: which frame each is."""


class Job(NamedTuple):
    """One motion to render; `number` is that of the clip in its split and class."""

    split: str
    label: str
    number: int


class Row(NamedTuple):
    """A line of the manifest."""

    url: str
    label: str
    split: str
    quality: str
    codec: str
    source: str
    reversed_of: str


# --- pictures -------------------------------------------------------------------------------------------------------


def take_pictures(films: Sequence[Film]) -> dict[str, Pictures]:
    """The pictures of every split: frames at regular times, without those that show too little."""
    from clips import fetch  # put on the path by `archives`

    paths = fetch({film.clip for film in films})
    found: dict[str, tuple[list[Pixels], list[str]]] = {split: ([], []) for split in SPLITS}
    for film in films:
        times = np.arange(film.start_seconds, film.end_seconds, film.every_seconds)
        frames, pts_seconds, _ = read_frames(paths[film.clip], times=times, size=PICTURE)
        pixels, sources = found[film.split]
        for frame, seconds in zip(frames, pts_seconds, strict=True):
            if detail_of(frame) >= LEAST_DETAIL:
                pixels.append(frame)
                sources.append(f"{film.clip}@{seconds:.2f}s")
    return {split: Pictures(np.stack(pixels), tuple(names)) for split, (pixels, names) in found.items() if pixels}


def detail_of(picture: Pixels) -> float:
    """Mean absolute difference of neighbouring pixels."""
    grey = picture.mean(axis=2)
    return float((abs(np.diff(grey, axis=0)).mean() + abs(np.diff(grey, axis=1)).mean()) / 2)


def take_photographs() -> Pictures:
    """Photographs, cut to the size of pictures; the source of each begins with its package."""
    from photographs import MORE, PHOTOGRAPHS, more_photographs, photographs

    catalogue = PHOTOGRAPHS | MORE
    pixels, sources = [], []
    for name, path in (photographs() | more_photographs()).items():
        with Image.open(path) as photograph:
            photograph.draft("RGB", (2 * PICTURE.width, 2 * PICTURE.height))
            size = (PICTURE.width, PICTURE.height)
            cut = np.asarray(ImageOps.fit(photograph.convert("RGB"), size, Image.Resampling.BOX))
        if detail_of(cut) >= LEAST_DETAIL:
            pixels.append(cut)
            sources.append(f"{catalogue[name].package.name}@{name}")
    return Pictures(np.stack(pixels), tuple(sources))


def _kept_pictures(settings: Settings) -> Path:
    def fill(folder: Path) -> None:
        for split, pictures in take_pictures(settings.films).items():
            if settings.recorded and split == "train":
                more = take_photographs()
                pixels = np.concatenate([pictures.pixels, more.pixels])
                pictures = Pictures(pixels, (*pictures.sources, *more.sources))
            np.save(folder / f"{split}.npy", pictures.pixels)
            (folder / f"{split}.txt").write_text("\n".join(pictures.sources))

    of_recorded = f"_recorded{RECORDED}" if settings.recorded else ""
    return built(f"camera_motion_pictures_v{VERSION}{of_recorded}", fill)


def _load_pictures(folder: Path, split: str) -> Pictures:
    names = tuple((folder / f"{split}.txt").read_text().splitlines())
    return Pictures(np.load(folder / f"{split}.npy", mmap_mode="r"), names)


# --- one clip -------------------------------------------------------------------------------------------------------


def render(pictures: Pictures, label: str, rng: np.random.Generator, settings: Settings) -> tuple[Pixels, str]:
    """Frames uint8 (T, height, width, 3) of a camera that moves over one of the pictures, and that picture's source."""
    if settings.recorded:
        return _recording(pictures, label, rng, settings)
    number = _choose(pictures, rng)
    world = Image.fromarray(pictures.pixels[number])
    if rng.random() < 0.5:
        world = world.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    aspect = settings.width / settings.height
    path = path_of(label, settings.num_frames, rng, aspect=aspect)
    view, centre = _place(path, world.size, aspect, rng)
    objects = [_moving_object(pictures, view, centre, world.size, settings, rng) for _ in range(rng.integers(0, 3))]
    frames = []
    for index in range(settings.num_frames):
        scene = world.copy() if objects else world
        for sprite, mask, places in objects:
            scene.paste(sprite, tuple(places[index]), mask)
        frames.append(np.asarray(_look(scene, path, index, view, centre, settings).reduce(2)))
    return _filmed(np.stack(frames), rng), pictures.sources[number]


def _recording(pictures: Pictures, label: str, rng: np.random.Generator, settings: Settings) -> tuple[Pixels, str]:
    """As render, with more of what recordings have; one in twenty changes to another picture on the way."""
    aspect = settings.width / settings.height
    path = path_of(label, settings.num_frames, rng, aspect=aspect, recorded=True)

    def shot(number: int) -> Pixels:
        is_title = rng.random() < camera_recorded.TITLES
        world = Image.fromarray(pictures.pixels[number])
        world = camera_recorded.title(world.size, rng) if is_title else world
        if rng.random() < 0.5:
            world = world.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        view, centre = _place(path, world.size, aspect, rng)
        others = pictures.pixels[[_choose(pictures, rng) for _ in range(3)]]
        things = [] if is_title else camera_recorded.things_of(others, settings.num_frames, rng)
        frames = []
        for index in range(settings.num_frames):
            seen = _look(world, path, index, view, centre, settings)
            camera_recorded.put(things, seen, path, index)
            frames.append(np.asarray(seen.reduce(2)))
        return np.stack(frames)

    number = _choose(pictures, rng)
    frames = shot(number)
    if rng.random() < 0.05:
        middle, steep = rng.uniform(-0.2, 1.2), rng.uniform(2, 8)
        share = np.clip((np.linspace(0, 1, len(frames)) - middle) * steep + 0.5, 0, 1)[:, None, None, None]
        frames = (frames * (1 - share) + shot(_choose(pictures, rng)) * share).astype(np.uint8)
    return camera_recorded.filmed(frames, rng), pictures.sources[number]


def _choose(pictures: Pictures, rng: np.random.Generator) -> int:
    """Any picture; films with many of them come more often, but not in proportion."""
    films = np.array([source.partition("@")[0] for source in pictures.sources])
    names, counts = np.unique(films, return_counts=True)
    film = rng.choice(names, p=np.sqrt(counts) / np.sqrt(counts).sum())
    return int(rng.choice(np.flatnonzero(films == film)))


def _place(
    path: CameraPath, size: tuple[int, int], aspect: float, rng: np.random.Generator
) -> tuple[float, tuple[float, float]]:
    """Width of the view and where its centre starts, in pixels of the picture, so that it never leaves the picture."""
    corners = corners_of(path, aspect=aspect).reshape(-1, 2)
    low, high = corners.min(axis=0), corners.max(axis=0)
    widest = min(np.array(size) / (high - low))
    view = min(widest, float(rng.uniform(0.5, 0.62)) * size[0])
    least, room = -view * low, np.maximum(0, size - view * (high - low))
    x, y = least + room * rng.random(2)
    return view, (float(x), float(y))


def _look(
    scene: Image.Image, path: CameraPath, index: int, view: float, centre: tuple[float, float], settings: Settings
) -> Image.Image:
    """What the camera sees, drawn at twice the size: to be averaged, so that fine detail does not flicker."""
    columns, rows = 2 * settings.width, 2 * settings.height
    scale = view * path.size[index] / columns
    cos, sin = scale * math.cos(path.angle[index]), scale * math.sin(path.angle[index])
    x, y = centre[0] + view * path.x[index], centre[1] + view * path.y[index]
    matrix = (
        cos, -sin, x - cos * columns / 2 + sin * rows / 2,
        sin, cos, y - sin * columns / 2 - cos * rows / 2,
    )  # fmt: skip
    return scene.transform((columns, rows), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _moving_object(
    pictures: Pictures,
    view: float,
    centre: tuple[float, float],
    size: tuple[int, int],
    settings: Settings,
    rng: np.random.Generator,
) -> tuple[Image.Image, Image.Image, npt.NDArray[np.int64]]:
    """A round piece of another picture, its mask, and its corner in each frame: it goes a way of its own."""
    other = Image.fromarray(pictures.pixels[_choose(pictures, rng)])
    columns, rows = (min(int(view * rng.uniform(0.08, 0.25)), side - 1) for side in size)
    left, top = int(rng.integers(size[0] - columns)), int(rng.integers(size[1] - rows))
    sprite = other.crop((left, top, left + columns, top + rows))
    across, down = np.meshgrid(np.linspace(-1, 1, columns), np.linspace(-1, 1, rows))
    mask = Image.fromarray((np.clip((1 - np.hypot(across, down)) * 5, 0, 1) * 255).astype(np.uint8))
    time = np.linspace(-0.5, 0.5, settings.num_frames)[:, None]
    middle = np.array(centre) + view * rng.uniform(-0.4, 0.4, 2)
    places = middle + view * time * rng.uniform(-0.6, 0.6, 2) - [columns / 2, rows / 2]
    return sprite, mask, np.round(places).astype(np.int64)


def _filmed(frames: Pixels, rng: np.random.Generator) -> Pixels:
    """The frames with exposure, flicker and sensor noise of a camera."""
    exposure = rng.uniform(0.75, 1.2) * (1 + rng.normal(0, 0.01, (len(frames), 1, 1, 1)))
    noise = rng.standard_normal(frames.shape, np.float32) * np.float32(rng.uniform(0, 5))
    return np.clip(frames * exposure + noise, 0, 255).astype(np.uint8)


def encode(frames: Pixels, path: Path, *, codec: str, quality: str, fps: int) -> None:
    """Write the frames; the same ones give the same bytes with the same FFmpeg."""
    _, options, rates = CODECS[codec]
    with av.open(os.fspath(path), "w", container_options={"fflags": "bitexact"}) as out:
        stream = out.add_stream(codec, rate=fps, options={**options, "crf": str(rates[quality])})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        stream.codec_context.thread_count = 1
        for number, pixels in enumerate(frames):
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


# --- the set --------------------------------------------------------------------------------------------------------


def jobs_of(settings: Settings) -> Iterator[Job]:
    """Every motion to render; of those that have an opposite half as many, as each becomes two clips."""
    for split in SPLITS:
        for label in LABELS:
            count = getattr(settings, split)
            for number in range(count // 2 if label in OPPOSITE else count):
                yield Job(split, label, number)


def make_clips(job: Job, pictures: Pictures, folder: Path, settings: Settings) -> list[Row]:
    """Render a motion and write it, and its reversal where that has another label; depends on seed and job only."""
    key = (
        RECORDED if settings.recorded else VERSION,
        settings.seed,
        SPLITS.index(job.split),
        LABELS.index(job.label),
        job.number,
    )
    rng = np.random.default_rng(np.random.SeedSequence(key))
    frames, source = render(pictures, job.label, rng, settings)
    quality = QUALITIES[job.number % len(QUALITIES)]
    codec = list(CODECS)[job.number // len(QUALITIES) % len(CODECS)]

    def write(name: str, shown: Pixels) -> str:
        url = f"{job.split}/{name}.{CODECS[codec][0]}"
        encode(shown, folder / url, codec=codec, quality=quality, fps=settings.fps)
        return url

    name = f"{job.label}_{job.number:05d}"
    url = write(name, frames)
    rows = [Row(url, job.label, job.split, quality, codec, source, "")]
    if job.label in OPPOSITE:
        twin = write(f"{name}_reversed", frames[::-1])
        rows.append(Row(twin, OPPOSITE[job.label], job.split, quality, codec, source, url))
    return rows


def make_set(folder: Path, settings: Settings, pictures: dict[str, Pictures]) -> None:
    """All clips and the manifest in this process, for small sets."""
    _prepare(folder, settings)
    _write_manifest(folder, (make_clips(job, pictures[job.split], folder, settings) for job in jobs_of(settings)))


def camera_motion(settings: Settings) -> Path:
    """The folder of a set: made by all CPUs, once, then kept."""
    pictures = _kept_pictures(settings)

    def fill(folder: Path) -> None:
        _prepare(folder, settings)
        make = partial(_make_elsewhere, pictures=pictures, folder=folder, settings=settings)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=spawn) as pool:
            _write_manifest(folder, pool.map(make, jobs_of(settings), chunksize=32))

    return built(settings.name, fill)


def _make_elsewhere(job: Job, *, pictures: Path, folder: Path, settings: Settings) -> list[Row]:
    return make_clips(job, _load_pictures(pictures, job.split), folder, settings)


def _prepare(folder: Path, settings: Settings) -> None:
    for split in SPLITS:
        if getattr(settings, split):
            (folder / split).mkdir(parents=True)


def _write_manifest(folder: Path, rows: Iterable[list[Row]]) -> None:
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for several in rows:
            writer.writerows(several)


def main() -> int:
    """Make the set, and say where it is."""
    parser = argparse.ArgumentParser(description="Make clips of known camera motion over real pictures.")
    for name in ("seed", *SPLITS):
        parser.add_argument(f"--{name}", type=int, default=getattr(Settings(), name))
    parser.add_argument("--quick", action="store_true", help="a few clips only")
    options = parser.parse_args()
    settings = Settings(seed=options.seed, train=options.train, validation=options.validation, test=options.test)
    if options.quick:
        settings = replace(settings, train=6, validation=2, test=6)
    print(camera_motion(settings) / "manifest.csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
