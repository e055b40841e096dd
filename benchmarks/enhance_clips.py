"""A seed in; real recordings and the same, spoilt in known ways, out: what benchmarks/enhance.py judges by.

No clip, and no other scene of its film, was trained with (enhance_data.py). Each is 16 frames at their own size. What
is spoilt is spoilt once, in 8 bits, and kept without losses; all contenders read the same file.

    <clip>/good.mkv            as decoded, YUV 4:2:0
    <clip>/sigma25.mkv         white noise of so many levels in red, green and blue, clipped; RGB
    <clip>/camera_crf23.mkv    noise of a sensor of sigma 15, then x264; YUV 4:2:0
    <clip>/codec_crf32.mkv     x264 only; YUV 4:2:0
    <clip>/colour_all.mkv      cast, gamma and contrast, constant over the clip; RGB
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NamedTuple

import av
import numpy as np
import numpy.typing as npt
from archives import built
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from clips import fetch
from enhance_data import sensor_noise
from harness import InvalidRun

Pixels = npt.NDArray[np.uint8]

VERSION: Final = 1
NUM_FRAMES: Final = 16
TUNED_ON: Final = ("surveillance.avi", "runners.mp4")
"""Filters get the parameters that are best for these."""
JUDGED_BY: Final = ("bikes.mp4", "carphone.mp4", "city.mpg", "concert.3gp", "handheld.avi", "motorway.mp4", "tree.avi")
FIRST_FRAME: Final = {"handheld.avi": 120, "motorway.mp4": 300, "surveillance.avi": 200, "concert.3gp": 300}
"""Of others it is 20."""
SIGMAS: Final = (10, 25, 50)
CAMERA_SIGMA: Final = 15.0
CAMERA_LIGHT: Final = 0.7
"""Share of the variance that grows with the light."""
CAMERA_RATES: Final = (23, 28)
CODEC_RATES: Final = (32, 37)
COLOURS: Final = ("cast", "gamma", "contrast", "all")
ACCURATE: Final = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"


class Scores(NamedTuple):
    """Of one clip."""

    psnr: float
    ssim: float


class Colours(NamedTuple):
    """How a clip's colours are spoilt; cast of red, green and blue."""

    cast: npt.NDArray[np.float64]
    gamma: float
    contrast: float
    offset: float


def test_clips() -> Path:
    """The folder of all clips, made once, then kept."""

    def fill(folder: Path) -> None:
        for name, path in fetch((*TUNED_ON, *JUDGED_BY)).items():
            _spoil(name, path, folder)

    return built(f"enhance_test_v{VERSION}", fill)


def _spoil(name: str, path: Path, folder: Path) -> None:
    place = folder / name
    place.mkdir()
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    write(place / "good.mkv", list(_part(path, FIRST_FRAME.get(name, 20))))
    good = read(place / "good.mkv")
    rgb = np.stack([to_rgb(frame) for frame in good])
    for sigma in SIGMAS:
        noisy = rgb + sigma * rng.standard_normal(rgb.shape, np.float32)
        write(place / f"sigma{sigma}.mkv", frames_of(_levels(noisy)))
    noisy = sensor_noise(rgb, CAMERA_SIGMA, CAMERA_LIGHT, rng)
    for rate in CAMERA_RATES:
        write(place / f"camera_crf{rate}.mkv", coded(frames_of(noisy), rate))
    for rate in CODEC_RATES:
        write(place / f"codec_crf{rate}.mkv", coded(good, rate))
    for kind in COLOURS:
        write(place / f"colour_{kind}.mkv", frames_of(recoloured(rgb, _colours(kind, rng))))


def _part(path: Path, first: int) -> Iterator[VideoFrame]:
    """Frames as YUV 4:2:0 of even size."""
    with av.open(os.fspath(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number >= first + NUM_FRAMES:
                return
            if number >= first:
                width, height = frame.width // 2 * 2, frame.height // 2 * 2
                yield converted(frame, [("crop", f"{width}:{height}:0:0"), ("format", "yuv420p")])


def _colours(kind: str, rng: np.random.Generator) -> Colours:
    cast = np.exp(rng.uniform(-0.25, 0.25, 3))
    gamma = float(np.exp(rng.choice([-1, 1]) * rng.uniform(0.25, 0.55)))
    contrast = float(rng.uniform(0.5, 0.75))
    offset = float((1 - contrast) * rng.random())
    return Colours(
        cast if kind in ("cast", "all") else np.ones(3),
        gamma if kind in ("gamma", "all") else 1.0,
        contrast if kind in ("contrast", "all") else 1.0,
        offset if kind in ("contrast", "all") else 0.0,
    )


def recoloured(rgb: Pixels, colours: Colours) -> Pixels:
    """Frames with spoilt colours: cast, then gamma, then contrast."""
    levels = np.arange(256) / 255
    found = np.empty_like(rgb)
    for channel in range(3):
        bent = np.clip(levels * colours.cast[channel], 0, 1) ** colours.gamma
        table = _levels(255 * (bent * colours.contrast + colours.offset))
        found[..., channel] = table[rgb[..., channel]]
    return found


def _levels(values: Any) -> Pixels:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


# --- files and frames -----------------------------------------------------------------------------------------------


def read(path: Path) -> list[VideoFrame]:
    """All frames of a file of these."""
    with av.open(os.fspath(path)) as container:
        return list(container.decode(video=0))


def to_rgb(frame: VideoFrame) -> Pixels:
    """uint8 (height, width, 3), by FFmpeg's most exact way."""
    return converted(frame, [("scale", ACCURATE), ("format", "rgb24")]).to_ndarray()


def luma_of(frame: VideoFrame) -> Pixels:
    """uint8 (height, width), of a frame of YUV."""
    plane = frame.planes[0]
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)[:, : plane.width]


def converted(frame: VideoFrame, nodes: Sequence[tuple[str, str]]) -> VideoFrame:
    """One frame through some of FFmpeg's filters."""
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25))
    sink = graph.add("buffersink")
    graph.link_nodes(source, *(graph.add(name, arguments) for name, arguments in nodes), sink).configure()
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    source.push(frame)
    made = sink.pull()
    assert isinstance(made, VideoFrame)
    return made


def psnr_of(made: Sequence[Pixels], wanted: Sequence[Pixels], *, of: str = "") -> float:
    """Mean over frames, in dB. Raises InvalidRun, which says `of` what, for other frames than there were."""
    found, good = np.stack(made), np.stack(wanted)
    if found.shape != good.shape:
        raise InvalidRun(f"{of}{found.shape} frames of {good.shape}")
    errors = ((found.astype(np.float32) - good) ** 2).reshape(len(found), -1).mean(1)
    return float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-4))))


def by_clip(found: Mapping[str, Mapping[str, Scores]]) -> dict[str, dict[str, dict[str, float]]]:
    """Of each clip all contenders' scores, as results have them. Args: of each contender the scores of all clips."""
    (clips, *_) = found.values()
    return {
        clip: {name: {"psnr": round(of[clip].psnr, 3), "ssim": round(of[clip].ssim, 4)} for name, of in found.items()}
        for clip in clips
    }


def frames_of(rgb: Pixels) -> list[VideoFrame]:
    return [VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24") for pixels in rgb]


def write(path: Path, frames: Sequence[VideoFrame]) -> None:
    """A file of frames, RGB or YUV 4:2:0, without losses."""
    is_rgb = frames[0].format.name == "rgb24"
    with av.open(os.fspath(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames[0].height, frames[0].width
        stream.pix_fmt = "bgr0" if is_rgb else "yuv420p"
        for number, frame in enumerate(frames):
            kept = converted(frame, [("format", "bgr0")]) if is_rgb else frame
            kept.pts, kept.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(kept))
        out.mux(stream.encode(None))


def coded(frames: Sequence[VideoFrame], rate: int) -> list[VideoFrame]:
    """Frames that x264 has encoded with its default preset, without a byte of a file."""
    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width, encoder.pix_fmt = frames[0].height, frames[0].width, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    encoder.options = {"crf": str(rate), "threads": "1"}
    decoder: Any = av.CodecContext.create("h264", "r")
    kept: list[VideoFrame] = []
    for number, frame in enumerate(frames):
        given = converted(frame, [("scale", ACCURATE), ("format", "yuv420p")])
        given.pts, given.time_base = number, Fraction(1, 25)
        for packet in encoder.encode(given):
            kept += decoder.decode(packet)
    for packet in [*encoder.encode(None), None]:
        kept += decoder.decode(packet)
    return kept
