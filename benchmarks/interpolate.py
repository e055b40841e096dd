"""How near to what they were real frames come that were left out and made again of those around, and what it costs.

    python benchmarks/interpolate.py                        the network that comes with vidbatch
    python benchmarks/interpolate.py --interpolate FOLDER   that of jobs/train_interpolate.py

Real recordings, the clips of enhance_clips.py at their own size; no film of them was trained with, but how the network
is built was chosen with a look at them. Of each clip, windows are taken that hold no cut and no frame that is repeated
(neighbours differ by a level or more), by motion: the 95th percentile of the flow from the first to the last of the
frames that another is made of, in pixels of 720p. The middle one of three frames is made of its neighbours, and of two
four frames apart those at 1/4 and 3/4. Contenders are the methods of `vidbatch enhance --steps interpolate`, FFmpeg's
minterpolate with the options that are best for two of the clips, and repeating the first frame. Figures are of luma,
whole frames before any encoding: means over clips of means over windows, with bootstrap intervals over clips.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, Final, NamedTuple

import av
import harness
import numpy as np
import torch
from av.filter import Graph
from av.video.frame import VideoFrame
from clips import fetch
from enhance_clips import JUDGED_BY, TUNED_ON, Scores, converted, luma_of
from upscale import scores_of

from vidbatch.enhancing import cuts
from vidbatch.enhancing.chain import Machine
from vidbatch.enhancing.config import EnhanceConfig
from vidbatch.enhancing.interpolating import MCI, Between, MotionCompensated, method_of
from vidbatch.enhancing.types import Step
from vidbatch.restoring import flow

CLIPS: Final = (*JUDGED_BY, *TUNED_ON)
BINS: Final = {"slow": (2, 8), "middling": (8, 20), "fast": (20, 40)}
"""Pixels of 720p."""
WINDOW: Final = 13
"""Frames: of those numbered from 0 the fourth is the first that another is made of."""
FIRST: Final = 4
CANDIDATES: Final = 40
"""Windows of a clip that are looked at, evenly spread."""
MOST_FRAMES: Final = 900
WINDOWS_A_BIN: Final = 3
"""Of a clip."""
LEAST: Final = 1.0
"""Mean difference of neighbours, in levels."""
OPTIONS: Final = (
    MCI, "mc_mode=obmc:me_mode=bidir", "mc_mode=aobmc:me_mode=bidir", "mc_mode=aobmc:me_mode=bidir:vsbmc=1:mb_size=8",
    "mc_mode=aobmc:me_mode=bidir:vsbmc=1:me=umh", "mc_mode=aobmc:me_mode=bidir:vsbmc=1:search_param=64",
    "mc_mode=aobmc:me_mode=bilat:vsbmc=1",
)  # fmt: skip
"""Of minterpolate, tried on the tuning clips."""
TIMES: Final = {"1/2": (2, 1), "1/4": (4, 1), "3/4": (4, 3)}
"""Frames from the first to the last, and to the one between."""
OURS: Final = "network"


class Window(NamedTuple):
    """Frames that follow each other, and how much moves in them."""

    frames: list[VideoFrame]
    bin: str


# --- windows --------------------------------------------------------------------------------------------------------


def windows_of(clip: str, most: int) -> list[Window]:
    """Windows of a clip, of each bin as many as there are, at most so many, evenly spread."""
    found: dict[str, list[Window]] = {name: [] for name in BINS}
    for frames in candidates(clip):
        motion = motion_of(frames[FIRST], frames[FIRST + 2])
        name = next((name for name, (low, high) in BINS.items() if low <= motion < high), None)
        if name is not None:
            found[name].append(Window(frames, name))
    kept = []
    for windows in found.values():
        places = np.linspace(0, len(windows) - 1, min(most, len(windows))).round().astype(int)
        kept += [windows[place] for place in places]
    return kept


def candidates(clip: str) -> Iterator[list[VideoFrame]]:
    """Windows without a cut or a repeated frame."""
    path = str(fetch((clip,))[clip])
    with av.open(path) as container:
        number = sum(packet.size > 0 for packet in container.demux(video=0))
    starts = set(np.linspace(1, min(number, MOST_FRAMES) - WINDOW - 1, CANDIDATES).round().astype(int).tolist())
    held: list[VideoFrame] = []
    with av.open(path) as container:
        for place, frame in enumerate(container.decode(video=0)):
            if place > MOST_FRAMES:
                return
            held = [*held, frame][-WINDOW:]
            if place - WINDOW + 1 in starts and len(held) == WINDOW:
                frames = [_even(frame) for frame in held]
                if is_one_movement(frames):
                    yield frames


def _even(frame: VideoFrame) -> VideoFrame:
    width, height = frame.width // 2 * 2, frame.height // 2 * 2
    return converted(frame, [("crop", f"{width}:{height}:0:0"), ("format", "yuv420p")])


def is_one_movement(frames: list[VideoFrame]) -> bool:
    rows, columns = cuts.SMALL
    nodes = [("scale", f"{columns}:{rows}:flags=area"), ("format", "gray")]
    small = [luma_of(converted(frame, nodes)).astype(np.float32) for frame in frames]
    lumas = [luma_of(frame).astype(np.int16) for frame in frames]
    pairs = [cuts.Pair(cuts.apart(small[n], small[n + 1]), is_same=False) for n in range(len(frames) - 1)]
    around = [None, *pairs, None]
    if any(cuts.verdict(around[n], pair, around[n + 2]) == "cut" for n, pair in enumerate(pairs)):
        return False
    return all(np.abs(lumas[n + 1] - lumas[n]).mean() >= LEAST for n in range(FIRST, FIRST + 4))


def motion_of(first: VideoFrame, last: VideoFrame) -> float:
    """95th percentile of the flow, in pixels of 720p."""
    found = flow.one_way(np.ascontiguousarray(luma_of(first)), np.ascontiguousarray(luma_of(last)))
    return float(np.percentile(2 * np.hypot(*found), 95) * 720 / first.height)


# --- contenders -----------------------------------------------------------------------------------------------------


class Repeat:
    """The first frame once more."""

    def prepare(self, frame: VideoFrame) -> VideoFrame:
        """The frame."""
        return frame

    def make(self, before: Any, first: Any, last: Any, after: Any, phases: Sequence[float]) -> list[VideoFrame]:  # noqa: ARG002
        """See Between."""
        return [first] * len(phases)


def step_of(method: str) -> Step:
    settings = {"inputs": ("x",), "output": "y", "steps": ("interpolate",), "interpolate": method}
    (step,) = EnhanceConfig.model_validate(settings).wanted_steps
    return step


def contenders(network: str, options: str) -> dict[str, Between]:
    ways: dict[str, Between] = {"repeat": Repeat(), "minterpolate": MotionCompensated(options)}
    ways |= {name: method_of(step_of(name), Machine()) for name in ("blend", "dis")}
    return ways | {OURS: method_of(step_of(network), Machine())}


def scores(way: Between, window: Window, at: str) -> Scores:
    gap, place = TIMES[at]
    known = [way.prepare(window.frames[FIRST + gap * n]) for n in (-1, 0, 1, 2)]
    made = way.make(known[0], known[1], known[2], known[3], [place / gap])
    return scores_of(made, [window.frames[FIRST + place]])


def tuned(windows: dict[str, list[Window]], options: Sequence[str]) -> tuple[str, dict[str, float]]:
    """The options of minterpolate that are best for the tuning clips, and what each comes to."""
    of = [window for clip in TUNED_ON for window in windows.get(clip, ())]
    found = {
        each: round(statistics.mean(scores(MotionCompensated(each), w, "1/2").psnr for w in of), 3) for each in options
    }
    return max(found, key=found.__getitem__), found


# --- figures --------------------------------------------------------------------------------------------------------


def compare(at: str, ways: dict[str, Between], windows: dict[str, list[Window]]) -> dict[str, Any]:
    """One row: all contenders, clip by clip."""
    found = {
        clip: {name: [scores(way, window, at) for window in of] for name, way in ways.items()}
        for clip, of in windows.items()
    }
    clips = {
        clip: {name: {key: round(statistics.mean(getattr(s, key) for s in of), 4) for key in Scores._fields}
               for name, of in scored.items()}
        for clip, scored in found.items()
    }  # fmt: skip
    over = {
        name: {clip: of[OURS]["psnr"] - of[name]["psnr"] for clip, of in clips.items()} for name in ways if name != OURS
    }
    row: dict[str, Any] = {"time": at}
    for key in Scores._fields:
        row[key] = {name: round(statistics.mean(of[name][key] for of in clips.values()), 4) for name in ways}
    best = max(over, key=row["psnr"].__getitem__)
    worst = min(over[best], key=over[best].__getitem__)
    row |= {
        "best_other": best,
        "over": {name: {"db": round(statistics.mean(of.values()), 3), "interval": harness.interval(list(of.values())),
                        "clips_ahead": sum(value > 0 for value in of.values())} for name, of in over.items()},
        "worst_clip": worst,
        "worst_over_best_db": round(over[best][worst], 3),
        "bins": _by_bin(found, windows),
        "clips": clips,
    }  # fmt: skip
    print(f"t = {at}: {row['psnr']}, over {best} {row['over'][best]}", file=sys.stderr, flush=True)
    return row


def _by_bin(found: dict[str, Any], windows: dict[str, list[Window]]) -> dict[str, Any]:
    """Means over the windows of each bin, of all clips."""
    bins = {}
    for name, pixels in BINS.items():
        places = [(clip, n) for clip, of in windows.items() for n, window in enumerate(of) if window.bin == name]
        if places:
            bins[name] = {
                "pixels": pixels,
                "windows": len(places),
                **{
                    key: {
                        way: round(statistics.mean(getattr(found[clip][way][n], key) for clip, n in places), 4)
                        for way in found[places[0][0]]
                    }
                    for key in Scores._fields
                },
            }
    return bins


def cpu_seconds(ways: dict[str, Between], options: str, *, rounds: int) -> dict[str, float]:
    """CPU seconds a frame of 720p that is made between two, one thread, decoding excluded, in turn.

    Each goes over frames as they come, as `enhance` does; minterpolate in one go, which is the fastest way it has.
    """
    torch.set_num_threads(1)
    frames = [converted(f, [("scale", "1280:720")]) for f in next(iter(candidates("bikes.mp4")))[:8]]
    times: dict[str, list[float]] = {name: [] for name in ways if name != "repeat"}
    for _ in range(rounds + 1):
        for name, of in times.items():
            began = time.process_time()
            made = _streamed(frames, options) if name == "minterpolate" else _in_order(ways[name], frames)
            of.append((time.process_time() - began) / made)
    return {name: round(statistics.median(of[1:]), 4) for name, of in times.items()}


def _in_order(way: Between, frames: list[VideoFrame]) -> int:
    known = [way.prepare(frame) for frame in frames]
    for n in range(1, len(frames) - 2):
        way.make(known[n - 1], known[n], known[n + 1], known[n + 2], [0.5])
    return len(frames) - 3


def _streamed(frames: list[VideoFrame], options: str) -> int:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(width=1280, height=720, format=frames[0].format, time_base=Fraction(1, 25))
    sink = graph.add("buffersink")
    graph.link_nodes(source, graph.add("minterpolate", f"fps=50:mi_mode=mci:scd=none:{options}"), sink).configure()
    made = 0
    for number, frame in enumerate(frames):
        frame.pts, frame.time_base = number, Fraction(1, 25)
        source.push(frame)
        while True:
            try:
                made += sink.pull().pts % 2
            except (av.BlockingIOError, av.EOFError):
                break
    return made


def plot(row: dict[str, Any]) -> Any:
    """By how much each is nearer to the frames left out than DIS is, clip by clip."""
    names = [name for name in row["psnr"] if name not in ("dis", "repeat")]
    return harness.bars_over(row["clips"], "dis", names, label="PSNR over DIS, dB", order="dis", step=0.25)


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--interpolate", default="network", metavar="FOLDER", help="of a network by train-enhancer")
    given = parser.parse_args()
    network = step_of(given.interpolate).network
    clips = ("carphone.mp4", TUNED_ON[1]) if given.quick else CLIPS
    windows = {clip: windows_of(clip, 1 if given.quick else WINDOWS_A_BIN) for clip in clips}
    nothing = [clip for clip in clips if not windows[clip]]
    windows = {clip: of for clip, of in windows.items() if of}
    options, tuning = tuned(windows, OPTIONS[:2] if given.quick else OPTIONS)
    ways = contenders(given.interpolate, options)
    found: dict[str, Any] = {
        "weights": None if network is None else network.digest,
        "windows": {clip: len(of) for clip, of in windows.items()},
        "clips_without_windows": nothing,
        "minterpolate_options": options,
        "minterpolate_tuning_psnr": tuning,
        "rows": [compare(at, ways, windows) for at in TIMES],
        "cpu_seconds_a_720p_frame": cpu_seconds(ways, options, rounds=1 if given.quick else 3),
    }
    print(found["cpu_seconds_a_720p_frame"], file=sys.stderr)
    folder = harness.results_dir(given)
    harness.save(folder, "interpolate", found, quick=given.quick)
    harness.save_plot(folder, "interpolate", plot(found["rows"][0]))


if __name__ == "__main__":
    main()
