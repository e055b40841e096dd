"""A seed in; the archive that upscalers are trained with out: sharp pictures cut out of photographs and trailers.

None shares a film or a photograph with the clips that benchmarks judge by, which are real recordings. Of each
photograph a few cuts are taken, at scales of their own: from the photograph as it is, where a camera's blur and noise
are seen, to the whole of it made small, as sharp as can be. Trailers are all made small: else their codec is learnt.

    python benchmarks/upscale_data.py           prints the folder; made once, then kept below .cache/benchmarks

A video a photograph, each frame another cut of 480x272. They are encoded by x264 with nothing but key frames at a
constant rate factor of RATE_FACTOR: 48 dB and more, at a third of the size of what has no losses.
"""

from __future__ import annotations

import argparse
import math
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
from archives import built
from clips import fetch
from enhance_data import HEIGHT, TRAILERS, WIDTH, Pixels, write
from photographs import more_photographs, photographs
from PIL import Image

from vidbatch.decode import read_frames
from vidbatch.schema import FrameSpec

VERSION: Final = 1
"""Raised when the same seed gives another archive."""
RATE_FACTOR: Final = 10
CUTS: Final = 4
"""Of a photograph, at most."""
SECONDS_A_PICTURE: Final = 1.6
"""Of trailers."""
DULL: Final = 1.5
"""Mean difference of neighbouring pixels, in levels, below which a cut shows too little to learn from."""


def cuts_of(path: Path, rng: np.random.Generator) -> Iterator[Pixels]:
    """Cuts uint8 (HEIGHT, WIDTH, 3) of a photograph; none if it is too small."""
    photograph = Image.open(path).convert("RGB")
    largest = min(photograph.width / WIDTH, photograph.height / HEIGHT)
    if largest < 1:
        return
    count = min(CUTS, max(1, round(largest**2)))
    for scale in np.exp(math.log(largest) * (np.arange(count) + rng.random(count)) / count):
        size = (max(WIDTH, round(photograph.width / scale)), max(HEIGHT, round(photograph.height / scale)))
        small = np.asarray(photograph.resize(size, Image.Resampling.LANCZOS))
        for _ in range(8):
            top, left = (int(rng.integers(0, room + 1)) for room in (size[1] - HEIGHT, size[0] - WIDTH))
            cut = small[top : top + HEIGHT, left : left + WIDTH]
            if np.abs(np.diff(cut.astype(np.float32).mean(2), axis=1)).mean() > DULL:
                yield cut
                break


def pictures_of(name: str, path: str) -> Iterator[Pixels]:
    """Pictures of a trailer, made small."""
    first, last = TRAILERS[name]
    times = np.arange(first, last, SECONDS_A_PICTURE)
    frames, _, _ = read_frames(path, times=times, size=FrameSpec(HEIGHT, WIDTH, 1.0, "lanczos"))
    for frame in frames:
        if np.abs(np.diff(frame.astype(np.float32).mean(2), axis=1)).mean() > DULL:
            yield frame


def make(name: str, path: str, seed: int, folder: str) -> None:
    """The video of a photograph or a trailer, if there is something to see."""
    rng = np.random.default_rng([2, seed, zlib.crc32(name.encode())])
    found = list(pictures_of(name, path) if name in TRAILERS else cuts_of(Path(path), rng))
    if found:  # pictures that have nothing to do with each other
        path = Path(folder) / f"{name.partition('.')[0]}.mp4"
        write(path, found, "libx264", gop=1, crf=str(RATE_FACTOR), preset="veryslow", threads="1")


def upscale_archive(seed: int = 0) -> Path:
    """The folder, made by all CPUs, once, then kept."""

    def fill(folder: Path) -> None:
        taken = photographs() | more_photographs() | fetch(TRAILERS)
        names, paths = list(taken), [os.fspath(path) for path in taken.values()]
        with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(make, names, paths, [seed] * len(names), [os.fspath(folder)] * len(names)))

    return built(f"upscale_v{VERSION}_seed{seed}", fill)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    print(upscale_archive(parser.parse_args().seed))


if __name__ == "__main__":
    main()
