"""How near to what they were real clips come that were reduced to half and upscaled again, and what it costs.

    python benchmarks/upscale.py                    the network that comes with vidbatch
    python benchmarks/upscale.py --upscale FOLDER   that of jobs/train_upscale.py

The clips of enhance_clips.py, no film of which was trained with: real recordings, 16 frames each. Each is reduced to
half the width and height by FFmpeg's scaler, in 8 bits of YUV 4:2:0, by one of three kernels, of which `bicubic` is
its default, and by bicubic with x264 behind it. Contenders are what `vidbatch enhance --steps upscale` does, by the
network and by Lanczos, and FFmpeg's other kernels. Nothing is tuned. Figures are of luma, whole frames without a margin
left out: means over clips of means over frames, with bootstrap intervals over clips.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import harness
import numpy as np
import numpy.typing as npt
import torch
from av.video.frame import VideoFrame
from enhance_clips import (
    JUDGED_BY,
    TUNED_ON,
    Scores,
    by_clip,
    coded,
    converted,
    luma_of,
    psnr_of,
    read,
    test_clips,
    to_rgb,
)

from vidbatch.enhancing.chain import Chain, Target
from vidbatch.enhancing.config import EnhanceConfig
from vidbatch.enhancing.filters import FilterLink, Method, scaling, shape_of
from vidbatch.enhancing.quality import differences
from vidbatch.enhancing.types import Step

Frames = list[VideoFrame]
Upscaler = Callable[[Frames], Frames]

CLIPS: Final = (*JUDGED_BY, *TUNED_ON)
REDUCTIONS: Final = {"bicubic": "bicubic", "area": "area", "lanczos": "lanczos", "bicubic_x264": "bicubic"}
"""The kernel of each."""
RATE_FACTOR: Final = 23
"""Of x264, its default."""
KERNELS: Final = ("bilinear", "bicubic", "spline")
"""Of FFmpeg's scaler, beside Lanczos."""
SPEED_SIZE: Final = (640, 360)
"""Width and height of what becomes 720p."""


# --- contenders -----------------------------------------------------------------------------------------------------


def step_of(method: str) -> Step:
    settings = {"inputs": ("x",), "output": "y", "steps": ("upscale",), "upscale": method}
    (step,) = EnhanceConfig.model_validate(settings).wanted_steps
    return step


def by_vidbatch(step: Step, frames: Frames) -> Frames:
    """What `vidbatch enhance` does."""
    target = Target(2 * frames[0].width, 2 * frames[0].height, "yuv420p")
    chain = Chain([step], target, deinterlaces=False)
    return [made for frame in frames for made in chain.push(frame)] + list(chain.flush())


def by_kernel(kernel: str, frames: Frames) -> Frames:
    link = FilterLink(shape_of(frames[0]), [(Method(lambda _: [scaling(kernel, "2*iw:2*ih")]), 1.0)])
    return [made for frame in frames for made in link.push(frame)] + list(link.flush())


def contenders(network: str) -> dict[str, Upscaler]:
    ours = {"vidbatch": partial(by_vidbatch, step_of(network)), "lanczos": partial(by_vidbatch, step_of("lanczos"))}
    return ours | {kernel: partial(by_kernel, kernel) for kernel in KERNELS}


# --- figures --------------------------------------------------------------------------------------------------------


def good_frames(clip: str, most: int | None) -> Frames:
    """Of a size that halves are of an even size."""
    frames = read(test_clips() / clip / "good.mkv")[:most]
    width, height = (side // 4 * 4 for side in (frames[0].width, frames[0].height))
    return [converted(frame, [("crop", f"{width}:{height}:0:0")]) for frame in frames]


def reduced(frames: Frames, reduction: str) -> Frames:
    """Half as wide and high."""
    nodes = [scaling(REDUCTIONS[reduction], f"{frames[0].width // 2}:{frames[0].height // 2}")]
    small = [converted(frame, nodes) for frame in frames]
    return coded(small, RATE_FACTOR) if reduction.endswith("x264") else small


def scores_of(made: Frames, good: Frames) -> Scores:
    """Raises InvalidRun where there are other frames than there were."""
    found, wanted = [luma_of(f) for f in made], [luma_of(f) for f in good]
    psnr = psnr_of(found, wanted)
    return Scores(psnr, statistics.mean(differences(_grey(a), _grey(b))[1] for a, b in zip(wanted, found, strict=True)))


def _grey(luma: npt.NDArray[np.uint8]) -> VideoFrame:
    return VideoFrame.from_ndarray(np.ascontiguousarray(luma), format="gray")


def compare(reduction: str, ways: dict[str, Upscaler], clips: Sequence[str], most: int | None) -> dict[str, Any]:
    """One row: all contenders, clip by clip."""
    found: dict[str, dict[str, Scores]] = {name: {} for name in ways}
    for clip in clips:
        good = good_frames(clip, most)
        small = reduced(good, reduction)
        for name, way in ways.items():
            found[name][clip] = scores_of(way(small), good)
    psnr = {name: statistics.mean(of.psnr for of in scores.values()) for name, scores in found.items()}
    over = {clip: found["vidbatch"][clip].psnr - found["lanczos"][clip].psnr for clip in clips}
    best = max((name for name in ways if name != "vidbatch"), key=psnr.__getitem__)
    over_best = [found["vidbatch"][clip].psnr - found[best][clip].psnr for clip in clips]
    row = {
        "reduction": reduction,
        "psnr": {name: round(value, 3) for name, value in psnr.items()},
        "ssim": {name: round(statistics.mean(s.ssim for s in of.values()), 4) for name, of in found.items()},
        "over_lanczos_db": round(statistics.mean(over.values()), 3),
        "over_lanczos_interval": harness.interval(list(over.values())),
        "clips_ahead_of_lanczos": sum(value > 0 for value in over.values()),
        "best_classical": best,
        "over_best_classical_db": round(statistics.mean(over_best), 3),
        "over_best_classical_interval": harness.interval(over_best),
        "worst_clip": min(over, key=over.__getitem__),
        "worst_over_lanczos_db": round(min(over.values()), 3),
        "clips": by_clip(found),
    }
    print(f"{reduction}: {psnr['vidbatch']:.2f} dB, {row['over_lanczos_db']:+.2f} over Lanczos "
          f"{row['over_lanczos_interval']}, worst {row['worst_clip']} {row['worst_over_lanczos_db']:+.2f}; "
          f"{row['over_best_classical_db']:+.2f} over {best}", file=sys.stderr, flush=True)  # fmt: skip
    return row


def cpu_seconds(ways: dict[str, Upscaler], *, rounds: int) -> dict[str, float]:
    """CPU seconds a frame of 720p that comes out, one thread, in turn."""
    torch.set_num_threads(1)
    width, height = SPEED_SIZE
    nodes = [("scale", f"{width}:{height}"), ("format", "yuv420p")]
    source = [converted(frame, nodes) for frame in read(test_clips() / JUDGED_BY[0] / "good.mkv")[:4]]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            began = time.process_time()
            way(source)
            times[name].append((time.process_time() - began) / len(source))
    return {name: round(statistics.median(of[1:]), 5) for name, of in times.items()}


def plot(row: dict[str, Any]) -> Any:
    """By how much each is nearer to the clips than Lanczos, clip by clip."""
    names = [name for name in row["psnr"] if name != "lanczos"]
    return harness.bars_over(row["clips"], "lanczos", names, label="PSNR over Lanczos, dB", order="vidbatch", step=0.2)


def picture(place: Path, ways: dict[str, Upscaler]) -> None:
    """By Lanczos, by the network, and as it was: a part of a clip in the public domain."""
    from PIL import Image

    good = good_frames("city.mpg", 9)[8:]
    small = reduced(good, "bicubic")
    shown = [to_rgb(frames[0])[60:300, 120:440] for frames in (ways["lanczos"](small), ways["vidbatch"](small), good)]
    Image.fromarray(np.hstack(shown)).save(place, quality=90)


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--upscale", default="network", metavar="FOLDER", help="of a network by train-enhancer")
    options = parser.parse_args()
    ways = contenders(options.upscale)
    quick = {"clips": CLIPS[:2], "most": 2} if options.quick else {"clips": CLIPS, "most": None}
    network = step_of(options.upscale).network
    found: dict[str, Any] = {
        "weights": None if network is None else network.digest,
        "rows": [compare(reduction, ways, **quick) for reduction in list(REDUCTIONS)[: 1 if options.quick else None]],
        "cpu_seconds_a_720p_frame": cpu_seconds(ways, rounds=1 if options.quick else 9),
    }
    print(found["cpu_seconds_a_720p_frame"], file=sys.stderr)
    folder = harness.results_dir(options)
    harness.save(folder, "upscale", found, quick=options.quick)
    harness.save_plot(folder, "upscale", plot(found["rows"][0]))
    picture(folder / "upscale.jpg", ways)


if __name__ == "__main__":
    main()
