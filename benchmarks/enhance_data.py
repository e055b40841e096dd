"""A seed in; the archives that networks which enhance are trained with out, made of photographs and animated trailers.

Neither shares a film or a photograph with the clips that benchmarks/enhance.py judges by, which are real recordings.
A camera wanders over each photograph (photographs.py), so that neighbouring frames differ as those of a film do; of
each trailer short pieces are taken, scaled down or cut out. All are 24 frames a second.

    python benchmarks/enhance_data.py           prints two folders; made once, then kept below .cache/benchmarks

and in the first one

    noise/    pairs (upper half good, lower half spoilt) of 480x272, lossless: equal halves, which training itself
              spoils with noise, and the noise of a sensor behind x264 at a constant rate factor of 20 to 30

The second holds good pictures of 256x144, of more photographs: what colours are learnt from.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NamedTuple

import av
import numpy as np
import numpy.typing as npt
from archives import built
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from clips import fetch
from photographs import more_photographs, photographs
from PIL import Image

from vidbatch.decode import read_frames
from vidbatch.schema import FrameSpec

Pixels = npt.NDArray[np.uint8]

VERSION: Final = 1
"""Raised when the same seed gives other archives."""
HEIGHT, WIDTH = 272, 480
FPS: Final = 24
NUM_FRAMES: Final = 26
"""Of a piece before it is encoded; the last NUM_KEPT are kept, so that few of them are a codec's first picture."""
NUM_KEPT: Final = 14
PATHS_A_PHOTOGRAPH: Final = 4
TRAILERS: Final = {"bunny_trailer.mp4": (2.0, 33.0), "sintel_trailer.mp4": (8.0, 50.0)}
"""Seconds between which pieces are taken, without title cards and credits."""
PIECES_A_SECOND: Final = 1.2


class Piece(NamedTuple):
    """Where frames come from: a photograph, or a trailer from a second on."""

    source: str
    path: str
    start_seconds: float | None
    seed: int

    @property
    def name(self) -> str:
        """Of the files, without what was done."""
        where = "" if self.start_seconds is None else f"_{self.start_seconds:05.1f}s"
        return f"{self.source.partition('.')[0]}{where}_{self.seed}"


def pieces(seed: int) -> Iterator[Piece]:
    """Those of photographs and trailers."""
    yield from pieces_of(photographs(), seed)
    for name, path in fetch(TRAILERS).items():
        first, last = TRAILERS[name]
        for number in range(int((last - first) * PIECES_A_SECOND)):
            yield Piece(name, str(path), first + number / PIECES_A_SECOND, 1000 * seed)


def pieces_of(taken: Mapping[str, Path], seed: int) -> Iterator[Piece]:
    """Those of photographs, by name."""
    for name, path in taken.items():
        for number in range(PATHS_A_PHOTOGRAPH):
            yield Piece(name, str(path), None, 1000 * seed + number)


def frames_of(piece: Piece) -> Pixels:
    """Good frames uint8 (NUM_FRAMES, HEIGHT, WIDTH, 3)."""
    rng = np.random.default_rng([piece.seed, zlib.crc32(piece.name.encode())])
    if piece.start_seconds is None:
        return _wandering(Image.open(piece.path).convert("RGB"), rng)
    times = piece.start_seconds + np.arange(NUM_FRAMES) / FPS
    if rng.random() < 0.5:  # as it is, cut out
        frames, _, _ = read_frames(piece.path, times=times)
        top, left = (int(rng.integers(0, room + 1)) // 2 * 2 for room in (720 - HEIGHT, 1280 - WIDTH))
        return frames[:, top : top + HEIGHT, left : left + WIDTH]
    frames, _, _ = read_frames(piece.path, times=times, size=FrameSpec(HEIGHT, WIDTH, 1.0, "area"))
    return frames


def _wandering(photograph: Image.Image, rng: np.random.Generator) -> Pixels:
    """What a camera sees that wanders over a photograph, up to 6 pixels a frame, and zooms a little."""
    if rng.random() < 0.5:
        photograph = photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    largest = min(photograph.width / WIDTH, photograph.height / HEIGHT)
    scale = min(largest * 0.9, math.exp(rng.uniform(math.log(1.2), math.log(max(1.3, largest)))))
    small = photograph.resize(
        (round(photograph.width / scale), round(photograph.height / scale)), Image.Resampling.LANCZOS
    )
    speed = rng.choice([0.0, 0.7, 2.5, 6.0]) * rng.random()
    angle, zoom = rng.uniform(0, 2 * math.pi), rng.choice([0.0, 0.002, 0.006]) * rng.uniform(-1, 1)
    wobble = rng.normal(0, 0.3 * min(1.0, speed), (NUM_FRAMES, 2)).cumsum(axis=0)
    time = np.arange(NUM_FRAMES) - NUM_FRAMES / 2
    sizes = np.exp(zoom * time)
    way = time[:, None] * speed * np.array([math.cos(angle), math.sin(angle)]) + wobble
    room = np.array([small.width, small.height]) - np.array([WIDTH, HEIGHT]) * sizes.max()
    way *= min(1.0, *(room / np.maximum(1e-6, 2 * np.abs(way).max(axis=0))))
    low, high = np.abs(way).max(axis=0), np.maximum(room - np.abs(way).max(axis=0), np.abs(way).max(axis=0))
    corner = np.maximum(0, low + (high - low) * rng.random(2))
    frames = []
    for size, (x, y) in zip(sizes, way, strict=True):
        matrix = (size, 0, corner[0] + x, 0, size, corner[1] + y)
        seen = small.transform((WIDTH, HEIGHT), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
        frames.append(np.asarray(seen))
    return np.stack(frames)


def sensor_noise(frames: Pixels, sigma: float, light: float, rng: np.random.Generator) -> Pixels:
    """Frames with noise of sigma levels, of whose variance a share grows with the light."""
    deviation = sigma * np.sqrt(1 - light + light * 2 * frames / np.float32(255))
    return np.clip(np.round(frames + deviation * rng.standard_normal(frames.shape, np.float32)), 0, 255).astype(
        np.uint8
    )


def coded(frames: Pixels, rate_factor: int, preset: str) -> Pixels:
    """Frames that x264 has encoded."""
    packets, kept = _encoded(frames, "libx264", {"crf": str(rate_factor), "preset": preset, "threads": "1"}), []
    decoder = av.CodecContext.create("h264", "r")
    for packet in [*packets, None]:
        kept += [frame.to_ndarray(format="rgb24") for frame in decoder.decode(packet)]
    return np.stack(kept)


def _encoded(frames: Pixels, codec: str, options: dict[str, str]) -> list[Any]:
    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.height, encoder.width, encoder.pix_fmt = *frames.shape[1:3], "yuv420p"
    encoder.time_base, encoder.framerate, encoder.options = Fraction(1, FPS), Fraction(FPS), options
    packets = []
    for number, pixels in enumerate(frames):
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, FPS)
        packets += encoder.encode(frame)
    return packets + list(encoder.encode(None))


def write(path: Path, frames: Iterable[Pixels], codec: str = "ffv1", *, gop: int | None = None, **options: str) -> None:
    """A file of frames as YUV 4:2:0; without losses but those of that, unless another codec is asked for."""
    frames = list(frames)
    with av.open(os.fspath(path), "w") as out:
        stream = out.add_stream(codec, rate=FPS, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        if gop is not None:
            stream.gop_size = gop
        for number, pixels in enumerate(frames):
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def make(piece: Piece, folder: str) -> None:
    """All files of one piece."""
    rng = np.random.default_rng([1, piece.seed, zlib.crc32(piece.name.encode())])
    good = frames_of(piece)
    last, preset = slice(NUM_FRAMES - NUM_KEPT, None), str(rng.choice(["veryfast", "medium"]))
    noisy = sensor_noise(good, rng.uniform(3, 30), rng.random(), rng)
    spoilt = {
        "noise/{}_clean": good,
        "noise/{}_coded": coded(noisy, int(rng.integers(20, 31)), preset),
    }
    for name, frames in spoilt.items():
        pair = np.concatenate([good[last], frames[last]], axis=1)
        write(Path(folder) / f"{name.format(piece.name)}.mkv", pair)


def make_small(piece: Piece, folder: str) -> None:
    """The file of one piece that colours are learnt from."""
    small = [
        np.asarray(Image.fromarray(frame).resize((256, 144), Image.Resampling.BOX)) for frame in frames_of(piece)[::5]
    ]
    write(Path(folder) / f"{piece.name}.mkv", np.stack(small))


def training_archives(seed: int = 0) -> Path:
    """The folder, made by all CPUs, once, then kept."""

    def fill(folder: Path) -> None:
        (folder / "noise").mkdir()
        make_all(make, pieces(seed), folder)

    return built(f"enhance_v{VERSION}_seed{seed}", fill)


def colour_archive(seed: int = 0) -> Path:
    """The folder of what colours are learnt from, likewise."""
    return built(
        f"enhance_colour_v{VERSION}_seed{seed}",
        lambda folder: make_all(make_small, itertools.chain(pieces(seed), pieces_of(more_photographs(), seed)), folder),
    )


def make_all(make_one: Callable[[Any, str], None], wanted: Iterable[Any], folder: Path) -> None:
    """Files of all pieces, by all CPUs."""
    todo = list(wanted)
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(make_one, todo, [os.fspath(folder)] * len(todo)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    print(training_archives(seed), colour_archive(seed), sep="\n")


if __name__ == "__main__":
    main()
