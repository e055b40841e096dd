"""A seed in; the archive that the network against compression artefacts is trained with out.

It shares no film and no photograph with the clips that benchmarks/enhance.py judges by, which are real recordings. To
be like them, pictures are as sharp as their pixels allow, some of them, because they are drawn twice as large and
reduced by areas; a camera moves over a photograph, and things cut out of others move before it (interpolate_data.py);
half have the noise of a sensor, which is part of what is good here, since what a codec was given is what is wanted
back; half have been through a codec before, as nearly all recordings have. The rest is of animated trailers.

    python benchmarks/artefact_data.py          prints the folder; made once, then kept below .cache/benchmarks

Each file is a pair, lossless and grey: upper half the luma that x264 was given, lower half what became of it at a
constant rate factor of 22 to 40. Half begin with a codec's first picture. Both halves begin where its blocks do.
"""

from __future__ import annotations

import argparse
import math
import os
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NamedTuple

import av
import cv2
import numpy as np
import numpy.typing as npt
from archives import built
from av.video.frame import VideoFrame
from clips import fetch
from enhance_data import FPS, TRAILERS, make_all, sensor_noise
from interpolate_data import cut_out, speed
from photographs import more_photographs, photographs
from PIL import Image

from vidbatch.decode import read_frames
from vidbatch.schema import FrameSpec

Pixels = npt.NDArray[np.uint8]

VERSION: Final = 1
"""Raised when the same seed gives another archive."""
HEIGHT, WIDTH = 272, 480
NUM_FRAMES: Final = 22
"""Of a piece when it is encoded."""
NUM_KEPT: Final = 10
SCENES_A_PHOTOGRAPH: Final = 3
PIECES_A_SECOND: Final = 1.2


class Piece(NamedTuple):
    """A scene, named by the photograph behind it, or a part of a trailer from a second on."""

    name: str
    paths: tuple[str, ...]
    """The photograph behind and those before it, or the trailer."""
    start_seconds: float | None
    seed: int


def pieces(seed: int) -> Iterator[Piece]:
    """All there are."""
    known = {**photographs(), **more_photographs()}
    names = sorted(known)
    for number in range(SCENES_A_PHOTOGRAPH):
        for name in names:
            rng = np.random.default_rng([4, seed, number, zlib.crc32(name.encode())])
            others = rng.choice(names, int(rng.choice([0, 1, 2, 4])))
            yield Piece(f"{name}_{number}", tuple(str(known[each]) for each in (name, *others)), None, seed)
    for name, path in fetch(TRAILERS).items():
        first, last = TRAILERS[name][0], min(46.0, TRAILERS[name][1])  # without credits
        for number in range(int((last - first) * PIECES_A_SECOND)):
            start = first + number / PIECES_A_SECOND
            yield Piece(f"{name.partition('.')[0]}_{start:05.1f}s", (str(path),), start, seed)


class Layer(NamedTuple):
    """Something that moves: premultiplied red, green, blue and opacity, float32 (h, w, 4), 0 to 1."""

    picture: Any
    ways: Any
    """Where its centre is in each frame, of the frame drawn twice as large, (NUM_FRAMES, 2)."""
    turns: Any
    """Radians, of each frame."""
    sizes: Any

    def drawn(self, below: Any, number: int) -> Any:
        """A picture (2 * HEIGHT, 2 * WIDTH, 3) with this before it."""
        height, width = self.picture.shape[:2]
        cos, sin = (self.sizes[number] * function(self.turns[number]) for function in (math.cos, math.sin))
        x, y = self.ways[number]
        matrix = np.array([[cos, -sin, x - cos * width / 2 + sin * height / 2],
                           [sin, cos, y - sin * width / 2 - cos * height / 2]])  # fmt: skip
        border = cv2.BORDER_REFLECT_101 if below is None else cv2.BORDER_CONSTANT
        size = (2 * WIDTH, 2 * HEIGHT)
        seen = cv2.warpAffine(self.picture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border)
        return seen[..., :3] if below is None else seen[..., :3] + below * (1 - seen[..., 3:].clip(0, 1))


def scene(piece: Piece, rng: np.random.Generator) -> Pixels:
    """Frames uint8 (NUM_FRAMES, HEIGHT, WIDTH, 3) of layers."""
    whole = [_opened(path) for path in piece.paths]
    least = 2.1 * max(WIDTH / whole[0].width, HEIGHT / whole[0].height)
    behind = _scaled(whole[0], max(least, min(1.0, least * math.exp(rng.uniform(0, 1.2)))))
    camera = 2 * speed(rng, 7.0) * (rng.random() < 0.6)
    hand = 2 * _hand(rng)
    time = np.arange(NUM_FRAMES) - NUM_FRAMES / 2
    middle = np.array([WIDTH, HEIGHT], np.float64)
    room = np.maximum(0, np.array(behind.shape[1::-1]) / 2 - middle - 20)
    corner = middle + rng.uniform(-1, 1, 2) * room
    growth, turn = (rng.choice([0, 0, 0.001, 0.005]) * rng.uniform(-1, 1) for _ in range(2))
    layers = [Layer(np.dstack([behind, np.ones(behind.shape[:2], np.float32)]),
                    corner + time[:, None] * camera + hand, turn * time, np.exp(growth * time))]  # fmt: skip
    for picture in whole[1:]:
        moving = camera * rng.choice([0.0, 1.0, 1.3]) + 2 * speed(rng, 7.0)
        bend = rng.normal(0, 0.05, 2) * np.linalg.norm(moving)
        way = rng.uniform(0.1, 0.9, 2) * 2 * middle + time[:, None] * moving + time[:, None] ** 2 * bend / 2 + hand
        turn = rng.choice([0, 0.01, 0.03]) * rng.uniform(-1, 1)
        layers.append(Layer(cut_out(picture, rng), way, turn * time, np.exp(0 * time)))
    shutter = rng.random() < 0.2
    gamma, gain = math.exp(rng.normal(0, 0.25)), min(1.1, math.exp(rng.normal(-0.05, 0.2)))
    light = rng.normal(0, 0.01) if rng.random() < 0.1 else 0.0
    frames, last = [], None
    for number in range(NUM_FRAMES):
        picture = None
        for layer in layers:
            picture = layer.drawn(picture, number)
        small = cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).clip(0, 1)
        shown = small if last is None or not shutter else 0.5 * (small + last)
        last = small
        frames.append(shown**gamma * gain * (1 + light * number))
    return np.clip(np.round(np.stack(frames) * 255), 0, 255).astype(np.uint8)


def _hand(rng: np.random.Generator) -> Any:
    """Way (NUM_FRAMES, 2) of what a hand holds; half stand still."""
    if rng.random() < 0.5:
        return np.zeros((NUM_FRAMES, 2))
    push = math.exp(rng.uniform(math.log(0.02), math.log(0.6)))
    velocity, way = np.zeros(2), np.zeros((NUM_FRAMES, 2))
    for number in range(1, NUM_FRAMES):
        velocity = 0.85 * velocity + rng.normal(0, push, 2)
        way[number] = way[number - 1] + velocity
    return way


def _opened(path: str) -> Image.Image:
    opened = Image.open(path)
    opened.draft("RGB", (4 * WIDTH, 4 * HEIGHT))
    return opened.convert("RGB")


def _scaled(picture: Image.Image, scale: float) -> Any:
    size = max(32, round(picture.width * scale)), max(32, round(picture.height * scale))
    filter_ = Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BICUBIC
    return np.asarray(picture.resize(size, filter_), np.float32) / 255


def trailer(piece: Piece, rng: np.random.Generator) -> Pixels | None:
    """Frames of a trailer, reduced or cut out; None where there are too few."""
    times = (piece.start_seconds or 0.0) + np.arange(NUM_FRAMES) / FPS
    if rng.random() < 0.6:
        frames, _, _ = read_frames(piece.paths[0], times=times, size=FrameSpec(HEIGHT, WIDTH, 1.0, "area"))
    else:
        frames, _, _ = read_frames(piece.paths[0], times=times)
        top, left = (int(rng.integers(0, room + 1)) // 2 * 2 for room in (720 - HEIGHT, 1280 - WIDTH))
        frames = frames[:, top : top + HEIGHT, left : left + WIDTH]
    return frames if len(frames) == NUM_FRAMES else None


def coded(frames: list[VideoFrame], codec: str, decoder_name: str, **options: str) -> list[VideoFrame]:
    """What becomes of frames of YUV 4:2:0."""
    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.height, encoder.width, encoder.pix_fmt = frames[0].height, frames[0].width, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, FPS), Fraction(FPS)
    encoder.options = {"threads": "1", **options}
    decoder: Any = av.CodecContext.create(decoder_name, "r")
    kept: list[VideoFrame] = []
    for number, frame in enumerate(frames):
        given = VideoFrame.from_ndarray(frame.to_ndarray(), format="yuv420p")
        given.pts, given.time_base = number, Fraction(1, FPS)
        for packet in encoder.encode(given):
            kept += decoder.decode(packet)
    for packet in [*encoder.encode(None), None]:
        kept += decoder.decode(packet)
    return kept


def make(piece: Piece, folder: str) -> None:
    """The file of one piece."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng([5, piece.seed, zlib.crc32(piece.name.encode())])
    rgb = scene(piece, rng) if piece.start_seconds is None else trailer(piece, rng)
    if rgb is None:
        return
    if rng.random() < 0.55:
        rgb = sensor_noise(rgb, math.exp(rng.uniform(math.log(0.7), math.log(8))), rng.random(), rng)
    good = [VideoFrame.from_ndarray(each, format="rgb24").reformat(format="yuv420p") for each in rgb]
    before = rng.random()
    if before < 0.25:
        good = coded(good, "libx264", "h264", crf=f"{rng.uniform(14, 25):.1f}", preset="fast")
    elif before < 0.5:
        quantiser = str(rng.integers(2, 7))
        good = coded(good, "mpeg4", "mpeg4", qmin=quantiser, qmax=quantiser, g="40")
    preset = str(rng.choice(["medium", "medium", "medium", "veryfast", "slow"]))
    spoilt = coded(good, "libx264", "h264", crf=f"{rng.uniform(22, 40):.1f}", preset=preset)
    first = 0 if rng.random() < 0.5 else int(rng.integers(0, NUM_FRAMES - NUM_KEPT + 1))
    _write_pairs(Path(folder) / f"{piece.name}.mkv", good[first:], spoilt[first:])


def _write_pairs(path: Path, good: list[VideoFrame], spoilt: list[VideoFrame]) -> None:
    with av.open(os.fspath(path), "w") as out:
        stream: Any = out.add_stream("ffv1", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = 2 * HEIGHT, WIDTH, "yuv420p"
        grey = np.full((HEIGHT, WIDTH), 128, np.uint8)  # half as high and wide, of two halves, blue and red
        for number, (one, other) in enumerate(zip(good[:NUM_KEPT], spoilt[:NUM_KEPT], strict=True)):
            luma = [each.to_ndarray()[:HEIGHT] for each in (one, other)]
            frame = VideoFrame.from_ndarray(np.concatenate([*luma, grey]), "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def artefact_archive(seed: int = 0) -> Path:
    """The folder, made by all CPUs, once, then kept."""
    return built(f"artefacts_v{VERSION}_seed{seed}", lambda folder: make_all(make, pieces(seed), folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    print(artefact_archive(parser.parse_args().seed))


if __name__ == "__main__":
    main()
