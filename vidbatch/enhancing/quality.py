"""Frames before and after go in; how much they differ, how sharp and noisy they are, and small pictures come out.

Runs in the child process. PSNR and SSIM are those of FFmpeg's filters of that name, over all planes; sharpness is the
variance of the Laplacian of luma, noise the sigma that J. Immerkaer's "Fast noise variance estimation" (1996) gives.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidbatch.enhancing.filters import buffer_of, format_of, shape_of
from vidbatch.enhancing.types import Facts

SHEET_ROWS: Final = 6
"""Pairs of pictures on a contact sheet, at most."""
_THUMBNAIL_WIDTH: Final = 480
_KEPT: Final = 2 * SHEET_ROWS

_STRIP_ROWS: Final = 32

Luma = npt.NDArray[Any]
"""(height, width) in levels of 0 to 255, uint8 or float32."""


def measure(facts: Facts, before: VideoFrame, after: VideoFrame) -> None:
    """Add what there is to say of one frame; of one whose size has changed nothing is said."""
    if after.width - before.width not in (0, 1) or after.height - before.height not in (0, 1):
        return
    luma = _luma(before)
    figures = sharpness(luma), noise(luma)
    error_power, ssim, figures_after = 0.0, 1.0, figures
    if after is not before:  # as it is where there is nothing to do
        error_power, ssim = differences(before, after)
        luma = _luma(after)[: before.height, : before.width]
        figures_after = sharpness(luma), noise(luma)
    facts.num_measured += 1
    facts.error_power += error_power
    facts.ssim += ssim
    facts.sharpness_before += figures[0]
    facts.sharpness_after += figures_after[0]
    facts.noise_before += figures[1]
    facts.noise_after += figures_after[1]


def sharpness(luma: Luma) -> float:
    """Variance of the Laplacian of (height, width), in squared levels."""
    total = squares = 0.0
    for part in _strips(luma):
        answer = part[:-2, 1:-1] + part[2:, 1:-1]
        answer += part[1:-1, :-2]
        answer += part[1:-1, 2:]
        answer -= 4 * part[1:-1, 1:-1]
        total += float(answer.sum(dtype=np.float64))
        squares += float(np.vdot(answer, answer))
    number: int = max(1, (luma.shape[0] - 2) * (luma.shape[1] - 2))
    return max(0.0, squares / number - (total / number) ** 2)


def noise(luma: Luma) -> float:
    """Sigma of white noise in (height, width), in levels: what a filter sees that no smooth surface answers."""
    total = 0.0
    for part in _strips(luma):
        rows = part[:-2] + part[2:]
        rows -= 2 * part[1:-1]
        answer = rows[:, :-2] + rows[:, 2:]
        answer -= 2 * rows[:, 1:-1]
        total += float(np.abs(answer, out=answer).sum(dtype=np.float64))
    number: int = max(1, (luma.shape[0] - 2) * (luma.shape[1] - 2))
    return math.sqrt(math.pi / 2) / 6 * total / number


def _strips(luma: Luma) -> Iterator[npt.NDArray[np.float32]]:
    """The picture in strips that share two rows with the next: what stays in the cache takes a third of the time."""
    height, width = luma.shape
    for top in range(0, height - 2 if width > 2 else 0, _STRIP_ROWS):
        yield luma[top : top + _STRIP_ROWS + 2].astype(np.float32)


def _luma(frame: VideoFrame) -> Luma:
    return np.asarray(frame.reformat(format="gray").to_ndarray(), np.uint8)


def differences(before: VideoFrame, after: VideoFrame) -> tuple[float, float]:
    """(mean squared error by the square of the greatest value, SSIM), both over all planes."""
    graph = Graph()
    graph.threads = 1
    sources = [buffer_of(graph, shape_of(frame)) for frame in (before, after)]
    splits, wanted = [graph.add("split", "2") for _ in sources], format_of(after.format.name, shape_of(after))
    psnr, ssim, sinks = graph.add("psnr"), graph.add("ssim"), [graph.add("buffersink") for _ in range(2)]
    for number, (source, split) in enumerate(zip(sources, splits, strict=True)):
        # What was padded to an even size is compared without that.
        crop = graph.add("crop", f"{before.width}:{before.height}:0:0:exact=1")
        graph.link_nodes(source, graph.add("format", wanted), crop, split)
        split.link_to(psnr, 0, number)
        split.link_to(ssim, 1, number)
    psnr.link_to(sinks[0])
    ssim.link_to(sinks[1])
    graph.configure()
    for source, frame in zip(sources, (before, after), strict=True):
        kept = frame.pts, frame.time_base
        frame.pts, frame.time_base = 0, Fraction(1, 1000)
        source.push(frame)
        frame.pts = kept[0]
        if kept[1]:
            frame.time_base = kept[1]
    for source in sources:
        source.push(None)
    said: dict[str, str] = {}
    for sink in sinks:
        said |= sink.pull().metadata
    greatest = 2 ** max(c.bits for c in after.format.components) - 1
    return float(said["lavfi.psnr.mse_avg"]) / greatest**2, float(said["lavfi.ssim.All"])


# --- small pictures -------------------------------------------------------------------------------------------------


class Thumbnails:
    """Keeps some pairs of small pictures, spread evenly over however many there are."""

    def __init__(self) -> None:
        self._pairs: list[list[str]] = []
        self._step = 1
        self._number = 0

    def add(self, before: VideoFrame, after: VideoFrame) -> None:
        """Keep the pair, if it is its turn."""
        if self._number % self._step == 0:
            self._pairs.append([base64.b64encode(_jpeg(_small(frame))).decode() for frame in (before, after)])
            if len(self._pairs) == _KEPT:
                self._pairs, self._step = self._pairs[::2], 2 * self._step
        self._number += 1

    def take(self) -> list[list[str]]:
        """The pairs that were kept, in their order."""
        return self._pairs


def contact_sheet(pairs: list[list[str]]) -> bytes:
    """A JPEG of at most SHEET_ROWS rows, spread evenly: before on the left, after on the right."""
    places = np.linspace(0, len(pairs) - 1, min(SHEET_ROWS, len(pairs))).round().astype(int)
    pictures = [[_decoded(base64.b64decode(side)) for side in pairs[place]] for place in dict.fromkeys(places.tolist())]
    height, width = pictures[0][0].shape[:2]
    rows = [np.hstack([_fitted(side, height, width) for side in pair]) for pair in pictures]
    return _jpeg(VideoFrame.from_ndarray(np.vstack(rows), format="rgb24"))


def _small(frame: VideoFrame) -> VideoFrame:
    width = min(_THUMBNAIL_WIDTH, frame.width) // 2 * 2 or 2
    return frame.reformat(width=width, height=max(2, round(frame.height * width / frame.width) // 2 * 2))


def _jpeg(frame: VideoFrame) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mjpeg") as out:
        stream = out.add_stream("mjpeg", rate=1, options={"qscale": "3"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuvj420p"
        picture = frame.reformat(format="yuvj420p", dst_color_range="JPEG")
        picture.pts, picture.time_base = 0, Fraction(1)
        out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return file.getvalue()


def _decoded(jpeg: bytes) -> npt.NDArray[np.uint8]:
    with av.open(io.BytesIO(jpeg), "r", format="mjpeg") as file:
        picture: Any = next(file.decode(video=0)).to_ndarray(format="rgb24")
    return np.asarray(picture, np.uint8)


def _fitted(picture: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    fitted = np.zeros((height, width, 3), np.uint8)
    part = picture[:height, :width]
    fitted[: part.shape[0], : part.shape[1]] = part
    return fitted
