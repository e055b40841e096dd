"""A seed in; the archive that the network which interpolates is trained with out, of photographs and animated trailers.

It shares no film and no photograph with the clips that benchmarks/interpolate.py judges by, which are real recordings.
Half of it and more are scenes of layers: a camera moves over a photograph, and before it things cut out of other
photographs move by themselves, up to 25 pixels a frame, so that there is something to be seen behind what has passed;
neither goes straight on, as hands and what is alive do not.
The rest is of trailers, each or every second frame. All are 480x272, 24 frames a second, and as real recordings are:
some with noise, some blurred by motion, behind x264 at a constant rate factor of 10 to 24.

    python benchmarks/interpolate_data.py       prints the folder; made once, then kept below .cache/benchmarks
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from archives import built
from clips import fetch
from enhance_data import FPS, HEIGHT, PIECES_A_SECOND, TRAILERS, WIDTH, make_all, sensor_noise, write
from photographs import more_photographs, photographs
from PIL import Image

from vidbatch.decode import read_frames
from vidbatch.schema import FrameSpec

Pixels = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]

VERSION: Final = 1
"""Raised when the same seed gives another archive."""
NUM_FRAMES: Final = 10
SCENES_A_PHOTOGRAPH: Final = 3
CUT: Final = 30.0
"""Mean difference, in levels, of neighbours of which one begins a scene."""
LEAST: Final = 1.0
"""Mean difference of neighbours, in levels, of a piece of a trailer: less is a still."""
SUBFRAMES: Final = 4
"""Of a frame that is blurred by motion."""


class Piece(NamedTuple):
    """A scene, named by the photograph behind it, or a part of a trailer from a second on."""

    name: str
    paths: tuple[str, ...]
    """The photograph behind and those before it, or the trailer."""
    start_seconds: float | None
    step: int
    seed: int


class Layer(NamedTuple):
    """Something that moves: premultiplied red, green, blue and opacity, float32 (h, w, 4), 0 to 1."""

    picture: Any
    velocity: Matrix
    """Pixels a frame."""
    turn: float
    """Radians a frame."""
    growth: float
    """Log of its size, a frame."""
    bend: Matrix
    """Pixels a frame, a frame."""
    centre: Matrix
    """Where its centre is in the middle of the piece."""
    wobble: Matrix
    """What is added to that in each frame, (NUM_FRAMES, 2)."""

    def drawn(self, below: Any, time: float) -> Any:
        """A picture (HEIGHT, WIDTH, 3) with this before it; `time` in frames from the middle."""
        height, width = self.picture.shape[:2]
        size, angle = math.exp(self.growth * time), self.turn * time
        added = [np.interp(time + NUM_FRAMES / 2, np.arange(NUM_FRAMES), each) for each in self.wobble.T]
        x, y = self.centre + self.velocity * time + self.bend * time * time / 2 + added
        cos, sin = size * math.cos(angle), size * math.sin(angle)
        matrix = np.array(
            [
                [cos, -sin, x - cos * width / 2 + sin * height / 2],
                [sin, cos, y - sin * width / 2 - cos * height / 2],
            ]
        )
        is_behind = below is None
        border = cv2.BORDER_REFLECT_101 if is_behind else cv2.BORDER_CONSTANT
        seen = cv2.warpAffine(self.picture, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=border)
        if is_behind:
            return seen[..., :3]
        return seen[..., :3] + below * (1 - seen[..., 3:].clip(0, 1))


def pieces(seed: int) -> Iterator[Piece]:
    """All there are."""
    known = {**photographs(), **more_photographs()}
    names = sorted(known)
    for number in range(SCENES_A_PHOTOGRAPH):
        for name in names:
            rng = np.random.default_rng([2, seed, number, zlib.crc32(name.encode())])
            others = rng.choice(names, int(rng.integers(1, 5)))
            paths = [str(known[each]) for each in (name, *others)]
            yield Piece(f"{name}_{number}", tuple(paths), None, 1, 1000 * seed + number)
    for name, path in fetch(TRAILERS).items():
        first, last = TRAILERS[name]
        for step in (1, 2):
            for number in range(int((last - first) * PIECES_A_SECOND)):
                start = first + (number + 0.5 * (step - 1)) / PIECES_A_SECOND
                yield Piece(f"{name.partition('.')[0]}_{step}_{start:05.1f}s", (str(path),), start, step, 1000 * seed)


def speed(rng: np.random.Generator, most: float) -> Matrix:
    """A velocity, slow ones as often as fast ones."""
    length = 0.0 if rng.random() < 0.15 else most ** rng.uniform(-0.2, 1)
    angle = rng.uniform(0, 2 * math.pi)
    return length * np.array([math.cos(angle), math.sin(angle)])


def wobble(rng: np.random.Generator, share: float, most: float) -> Matrix:
    """Way (NUM_FRAMES, 2) of what a hand holds, or of what goes where it likes; a share of all do not stand still."""
    way = np.zeros((NUM_FRAMES, 2))
    if rng.random() < share:
        push, velocity = math.exp(rng.uniform(math.log(0.05), math.log(most))), np.zeros(2)
        for number in range(1, NUM_FRAMES):
            velocity = 0.85 * velocity + rng.normal(0, push, 2)
            way[number] = way[number - 1] + velocity
    if rng.random() < share / 3:
        way += rng.normal(0, rng.uniform(0.05, 0.5), way.shape)
    return way


def scene(piece: Piece, rng: np.random.Generator) -> Pixels:
    """Frames uint8 (NUM_FRAMES, HEIGHT, WIDTH, 3) of layers."""
    camera, hand = speed(rng, 20.0), wobble(rng, 0.6, 2.5)
    whole = [photograph(path) for path in piece.paths]
    behind = scaled(whole[0], rng.uniform(1.1, 2.2) * max(WIDTH / whole[0].width, HEIGHT / whole[0].height))
    layers = [
        Layer(
            np.dstack([behind, np.ones(behind.shape[:2], np.float32)]),
            camera,
            rng.choice([0, 0.003, 0.012]) * rng.uniform(-1, 1),
            rng.choice([0, 0.002, 0.012]) * rng.uniform(-1, 1),
            rng.normal(0, 0.08, 2) * np.linalg.norm(camera),
            np.array([WIDTH, HEIGHT]) / 2,
            hand,
        )
    ]
    for picture in whole[1:]:
        moving = camera * rng.choice([0.0, 1.0, 1.3]) + speed(rng, 14.0)
        moving *= min(1.0, 25 / max(1e-6, float(np.linalg.norm(moving))))
        bend = rng.normal(0, 0.08, 2) * np.linalg.norm(moving)
        turn, growth = rng.choice([0, 0.01, 0.04]) * rng.uniform(-1, 1), rng.choice([0, 0.01]) * rng.uniform(-1, 1)
        centre = rng.uniform(0.1, 0.9, 2) * np.array([WIDTH, HEIGHT])
        own = hand + wobble(rng, 0.4, 1.0)
        layers.append(Layer(cut_out(picture, rng), moving, turn, growth, bend, centre, own))
    shutter = rng.uniform(0.2, 0.6) if rng.random() < 0.3 else 0.0
    light = rng.normal(0, 0.01) if rng.random() < 0.2 else 0.0
    frames = []
    for number in range(NUM_FRAMES):
        steps = np.linspace(-0.5, 0.5, SUBFRAMES) * shutter if shutter else [0.0]
        parts = [together(layers, number - NUM_FRAMES / 2 + step) for step in steps]
        frames.append(np.mean(parts, axis=0) * (1 + light * (number - NUM_FRAMES / 2)))
    return np.clip(np.round(np.stack(frames) * 255), 0, 255).astype(np.uint8)


def together(layers: list[Layer], time: float) -> Any:
    """What is seen at a time."""
    picture = None
    for layer in layers:
        picture = layer.drawn(picture, time)
    return picture


def photograph(path: str) -> Image.Image:
    """A photograph, not much larger than it has to be."""
    opened = Image.open(path)
    opened.draft("RGB", (3 * WIDTH, 3 * HEIGHT))
    return opened.convert("RGB")


def scaled(picture: Image.Image, scale: float) -> Any:
    """float32 (h, w, 3), 0 to 1."""
    size = max(32, round(picture.width * scale)), max(32, round(picture.height * scale))
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC), np.float32) / 255


def cut_out(picture: Image.Image, rng: np.random.Generator) -> Any:
    """A part of a photograph with an outline of its own: a blob, something angular or something thin."""
    kind = rng.choice(["blob", "angular", "thin"], p=[0.55, 0.3, 0.15])
    width, height = (int(side) for side in np.exp(rng.uniform(math.log(30), math.log(260), 2)))
    if kind == "thin":
        width, height = (int(rng.integers(4, 14)), height + 40) if rng.random() < 0.5 else (width + 40, 8)
    texture = scaled(picture, max(1.0, rng.uniform(1, 2.5)) * max(width / picture.width, height / picture.height))
    top, left = (int(rng.integers(0, room + 1)) for room in (texture.shape[0] - height, texture.shape[1] - width))
    texture = texture[top : top + height, left : left + width]
    if kind == "thin":
        opacity = np.ones((height, width), np.float32)
    else:
        angles = np.sort(rng.uniform(0, 2 * math.pi, int(rng.integers(3, 9)))) if kind == "angular" else None
        opacity = outline(height, width, angles, rng)
    layer = np.dstack([texture[: opacity.shape[0], : opacity.shape[1]], np.ones_like(opacity)])
    layer = cv2.copyMakeBorder(layer * opacity[..., None], 4, 4, 4, 4, cv2.BORDER_CONSTANT)
    softness = rng.choice([0.0, 0.7, 1.5], p=[0.3, 0.5, 0.2])
    if softness:
        soft = cv2.GaussianBlur(layer[..., 3], (0, 0), softness)
        layer = np.dstack([layer[..., :3] * (soft / np.maximum(layer[..., 3], 1e-3)).clip(0, 1)[..., None], soft])
        layer[..., 3] = np.where(layer[..., :3].max(-1) > 0, layer[..., 3], 0)
    return layer


def outline(height: int, width: int, angles: Any, rng: np.random.Generator) -> Any:
    """What is inside of a closed line, float32 (height, width), drawn four times as large."""
    if angles is None:
        angles = np.linspace(0, 2 * math.pi, 72, endpoint=False)
        radii = 1 + sum(rng.normal(0, 0.25 / k) * np.cos(k * angles + rng.uniform(0, 6.3)) for k in range(1, 6))
    else:
        radii = rng.uniform(0.5, 1, len(angles))
    radii = (radii / np.abs(radii).max()).clip(0.1, 1)
    points = np.stack([np.cos(angles) * radii * width * 2, np.sin(angles) * radii * height * 2], axis=1)
    canvas = np.zeros((4 * height, 4 * width), np.uint8)
    cv2.fillPoly(canvas, [np.round(points + np.array([2 * width, 2 * height])).astype(np.int32)], 255)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def trailer(piece: Piece, rng: np.random.Generator) -> Pixels | None:
    """Frames of a trailer; None where there is a cut among them, or nothing that moves."""
    times = (piece.start_seconds or 0.0) + np.arange(NUM_FRAMES) * piece.step / FPS
    is_whole = bool(rng.random() < 0.5)
    frames, _, _ = read_frames(
        piece.paths[0], times=times, **({"size": FrameSpec(HEIGHT, WIDTH, 1.0, "area")} if is_whole else {})
    )
    if not is_whole:
        top, left = (int(rng.integers(0, room + 1)) // 2 * 2 for room in (720 - HEIGHT, 1280 - WIDTH))
        frames = frames[:, top : top + HEIGHT, left : left + WIDTH]
    differences = np.abs(np.diff(frames[:, ::2, ::2].astype(np.int16), axis=0)).mean((1, 2, 3))
    return None if len(frames) < NUM_FRAMES or differences.max() > CUT or differences.min() < LEAST else frames


def make(piece: Piece, folder: str) -> None:
    """The file of one piece."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng([3, piece.seed, zlib.crc32(piece.name.encode())])
    frames = scene(piece, rng) if piece.start_seconds is None else trailer(piece, rng)
    if frames is None:
        return
    rate_factor = rng.uniform(10, 18)
    if rng.random() < 0.35:
        frames, rate_factor = sensor_noise(frames, rng.uniform(1, 6), rng.random(), rng), rng.uniform(18, 24)
    write(Path(folder) / f"{piece.name}.mkv", frames, "libx264", crf=f"{rate_factor:.1f}", preset="medium", threads="1")


def motion_archive(seed: int = 0) -> Path:
    """The folder, made by all CPUs, once, then kept."""
    return built(f"motion_v{VERSION}_seed{seed}", lambda folder: make_all(make, pieces(seed), folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    print(motion_archive(parser.parse_args().seed))


if __name__ == "__main__":
    main()
