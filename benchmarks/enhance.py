"""How much better videos look that `vidbatch enhance` has made, beside the classical filters, and what it costs.

    python benchmarks/enhance.py                the networks that come with vidbatch
    python benchmarks/enhance.py --denoise FOLDER --artefacts FOLDER --colour FOLDER
                                                those of jobs/train_denoise.py and its siblings

Real recordings, spoilt in known ways (enhance_clips.py), go through networks, which know
nothing of the kind or strength of what was done, and through filters whose strength was tuned for exactly that, on two
other recordings; an optimum on the edge of what was tried has more tried. Figures are means over clips of means over
frames, PSNR in dB of RGB (of luma where a codec has spoilt), with bootstrap intervals over clips.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import harness
import numpy as np
import numpy.typing as npt
import torch
from archives import CACHE
from av.video.frame import VideoFrame
from clips import clip_path
from enhance_clips import (
    CAMERA_RATES,
    CODEC_RATES,
    COLOURS,
    JUDGED_BY,
    SIGMAS,
    TUNED_ON,
    Scores,
    by_clip,
    frames_of,
    luma_of,
    psnr_of,
    read,
    test_clips,
    to_rgb,
)

from vidbatch.enhancing.chain import Chain, Target
from vidbatch.enhancing.config import EnhanceConfig, describe
from vidbatch.enhancing.filters import FilterLink, Method, plain, shape_of
from vidbatch.enhancing.quality import differences

Filter = Callable[[Path], list[VideoFrame]]
Pixels = npt.NDArray[np.uint8]

NOISE: Final = (*(f"sigma{sigma}" for sigma in SIGMAS), *(f"camera_crf{rate}" for rate in CAMERA_RATES))
CODEC: Final = tuple(f"codec_crf{rate}" for rate in CODEC_RATES)
COLOUR: Final = tuple(f"colour_{kind}" for kind in COLOURS)
A_CUT: Final = 40.0
"""Mean difference of neighbouring good frames, in levels: one of another shot."""
WIDER: Final = 1.35
"""The next strength that is tried is so many times the last."""
MOST_TRIED: Final = 14


class Contender(NamedTuple):
    """A filter with one number to tune."""

    name: str
    make: Callable[[float], Filter]
    begin: float
    most: float = float("inf")
    least: float = 0.0


class Network(NamedTuple):
    """What `vidbatch enhance` does with a network."""

    name: str
    """With the digest of the weights."""
    run: Filter


# --- contenders -----------------------------------------------------------------------------------------------------


def network(step: str, method: str, strength: float = 1.0) -> Network:
    """One by the name of its method, or in a folder."""
    settings = {"inputs": ("x",), "output": "y", "steps": (step,), step: method, f"{step}_strength": strength}
    steps = EnhanceConfig.model_validate(settings).wanted_steps

    def run(path: Path) -> list[VideoFrame]:
        frames = read(path)
        chain = Chain(steps, Target(frames[0].width, frames[0].height, "yuv420p"), deinterlaces=False)
        return [made for frame in frames for made in chain.push(frame)] + list(chain.flush())

    return Network(describe(steps), run)


def graph(pixel_format: str, nodes: Callable[[float], list[tuple[str, str]]]) -> Callable[[float], Filter]:
    """Filters of the FFmpeg that PyAV brings along."""

    def make(x: float) -> Filter:
        def run(path: Path) -> list[VideoFrame]:
            frames = [plain(frame) for frame in read(path)]
            method = Method(lambda _: [("format", pixel_format), *nodes(x)])
            link = FilterLink(shape_of(frames[0]), [(method, 1.0)])
            return [made for frame in frames for made in link.push(frame)] + list(link.flush())

        return run

    return make


def system_ffmpeg(nodes: Callable[[float], str]) -> Callable[[float], Filter]:
    """Filters that only the system's ffmpeg has."""

    def make(x: float) -> Filter:
        def run(path: Path) -> list[VideoFrame]:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out.mkv"
                command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(path), "-vf", f"format=yuv420p,{nodes(x)}"]
                subprocess.run([*command, "-c:v", "ffv1", str(out)], check=True)
                return read(out)

        return run

    return make


def per_frame(function: Callable[[npt.NDArray[np.float64], float], Any]) -> Callable[[float], Filter]:
    """A function of each frame's RGB, float64 0 to 255."""

    def make(x: float) -> Filter:
        def run(path: Path) -> list[VideoFrame]:
            made = [function(to_rgb(frame).astype(np.float64), x) for frame in read(path)]
            return frames_of(np.clip(np.round(np.stack(made)), 0, 255).astype(np.uint8))

        return run

    return make


def grey_world(rgb: npt.NDArray[np.float64], x: float) -> Any:
    """Each channel's mean becomes that of all, by the share x."""
    means = rgb.mean((0, 1))
    return rgb * (means.mean() / np.maximum(1, means)) ** x


def percentile_stretch(rgb: npt.NDArray[np.float64], x: float) -> Any:
    """The darkest and lightest x percent of each channel become black and white."""
    low, high = np.percentile(rgb, [x, 100 - x], axis=(0, 1))
    return (rgb - low) * 255 / np.maximum(1, high - low)


def fast_nl_means(rgb: npt.NDArray[np.float64], x: float) -> Any:
    """OpenCV's non-local means of lightness and colour apart."""
    return cv2.fastNlMeansDenoisingColored(rgb.astype(np.uint8)[..., ::-1].copy(), None, x, x, 7, 21)[..., ::-1]


def clahe(rgb: npt.NDArray[np.float64], x: float) -> Any:
    """OpenCV's contrast of lightness, tile by tile."""
    lab = cv2.cvtColor(rgb.astype(np.uint8), cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=x, tileGridSize=(8, 8)).apply(lab[..., 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def identity(path: Path) -> list[VideoFrame]:
    """Nothing is done."""
    return read(path)


def _hqdn3d(temporal: float) -> Callable[[float], str]:
    return lambda x: f"hqdn3d={x:g}:{0.75 * x:g}:{temporal * x:g}:{0.75 * temporal * x:g}"


def denoisers(kind: str) -> list[Contender]:
    """Filters against noise; of nlmeans, behind a codec, only the way that was best against every sigma before one."""
    ways = [(where, p, r) for where in ("yuv420p", "gbrp") for p, r in ((7, 15), (5, 9))]
    found = [
        Contender(f"nlmeans {where} p={p} r={r}", graph(where, _nlmeans(p, r)), 6, 30, 1)
        for where, p, r in (ways if kind.startswith("sigma") else ways[1:2])
    ]
    found += [Contender(f"hqdn3d {t:g}", system_ffmpeg(_hqdn3d(t)), 8, 255) for t in (0.75, 1.5)]
    found.append(Contender("fastNlMeans", per_frame(fast_nl_means), 8))
    return found


def _nlmeans(p: int, r: int) -> Callable[[float], list[tuple[str, str]]]:
    return lambda x: [("nlmeans", f"s={x:g}:p={p}:r={r}")]


def reported_beside() -> list[Contender]:
    """BM3D, which is not to be beaten but known."""
    bm3d = graph("yuv420p", lambda x: [("bm3d", f"sigma={x:g}:block=16:bstep=4:group=8:range=9")])
    return [Contender("bm3d yuv420p", bm3d, 12)]


def deblockers() -> list[Contender]:
    """Filters against what codecs do."""
    return [
        Contender("deblock", graph("yuv420p", _deblock), 0.3, 1),
        Contender("nlmeans", graph("yuv420p", _nlmeans(7, 15)), 2, 30, 1),
        *(Contender(f"hqdn3d {t:g}", system_ffmpeg(_hqdn3d(t)), 1, 255) for t in (0.75, 1.5)),
    ]


def _deblock(x: float) -> list[tuple[str, str]]:
    return [("deblock", f"filter=strong:alpha={0.196 * x:g}:beta={0.1 * x:g}")]


def colourists() -> list[Contender]:
    """Filters that correct colours."""
    return [
        Contender("grey world", per_frame(grey_world), 0.8, 1.2),
        Contender("percentile stretch", per_frame(percentile_stretch), 0.5, 30),
        *(
            Contender(
                f"normalize independence={i:g}",
                graph("gbrp", lambda x, i=i: [("normalize", f"strength={x:g}:independence={i:g}")]),  # type: ignore[misc]
                0.5,
                1,
            )
            for i in (0.0, 0.5, 1.0)
        ),
        Contender("greyedge", graph("gbrp", lambda x: [("greyedge", f"difford=1:minknorm=5:sigma={x:g}")]), 2, 100),
        Contender("CLAHE", per_frame(clahe), 1.5),
    ]


# --- figures --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def good_rgb(clip: str) -> Pixels:
    return np.stack([to_rgb(frame) for frame in read(test_clips() / clip / "good.mkv")])


@lru_cache(maxsize=32)
def good_luma(clip: str) -> Pixels:
    return np.stack([luma_of(frame) for frame in read(test_clips() / clip / "good.mkv")])


def scores_of(filtered: Filter, kind: str, clip: str) -> Scores:
    """Of one clip that was spoilt in one way."""
    made = filtered(test_clips() / clip / f"{kind}.mkv")
    of_luma = kind.startswith("codec")
    psnr = psnr_of(
        [luma_of(frame) if of_luma else to_rgb(frame) for frame in made],
        good_luma(clip) if of_luma else good_rgb(clip),
        of=f"{clip}: ",
    )
    good = read(test_clips() / clip / "good.mkv")
    pairs = list(zip(good, made, strict=True))[:: max(1, len(good) // 4)]
    return Scores(psnr, float(np.mean([differences(_as_yuv(one), _as_yuv(other))[1] for one, other in pairs])))


def _as_yuv(frame: VideoFrame) -> VideoFrame:
    return frame if frame.format.name == "yuv420p" else frame.reformat(format="yuv420p")


class Memory:
    """What filters, or networks, came to before: they do not change, are slow, and are wanted again.

    Networks are known by their weights; forget theirs (the file) when the code that runs them makes other frames.
    """

    def __init__(self, what: str) -> None:
        self._path = CACHE / f"enhance_{what}_{test_clips().name}.json"
        self._known: dict[str, list[float]] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def of_filter(self, contender: Contender, x: float, kind: str, clip: str) -> Scores:
        """Of one clip, by a filter with its number."""
        return self._of(f"{contender.name} {x:.6g}", lambda: contender.make(x), kind, clip)

    def of_network(self, ours: Network, kind: str, clip: str) -> Scores:
        """Likewise, by a network."""
        return self._of(ours.name, lambda: ours.run, kind, clip)

    def _of(self, name: str, make: Callable[[], Filter], kind: str, clip: str) -> Scores:
        key = f"{name} {kind} {clip}"
        if key not in self._known:
            self._known[key] = list(scores_of(make(), kind, clip))
            self._path.write_text(json.dumps(self._known, indent=0))
        return Scores(*self._known[key])


def tuned(contender: Contender, kind: str, memory: Memory) -> tuple[float, float]:
    """The number that is best for the clips that are tuned on, and how good it is there."""
    tried: dict[float, float] = {}

    def of(x: float) -> float:
        x = max(min(x, contender.most), contender.least)
        if x not in tried:
            tried[x] = statistics.mean(memory.of_filter(contender, x, kind, clip).psnr for clip in TUNED_ON)
        return tried[x]

    best = contender.begin
    of(best)
    while len(tried) < MOST_TRIED:
        above, below = min(best * WIDER, contender.most), best / WIDER
        if of(above) <= tried[best] >= of(below):
            break
        best = max(tried, key=tried.__getitem__)
    best = max(tried, key=tried.__getitem__)
    return best, tried[best]


# --- the table ------------------------------------------------------------------------------------------------------


def compare(
    kind: str, ours: Network, contenders: Sequence[Contender], beside: Sequence[Contender] = ()
) -> dict[str, Any]:
    """One row: ours, identity and every contender at its best, clip by clip."""
    memory, networks = Memory("filters"), Memory("networks")
    found: dict[str, dict[str, Scores]] = {
        "vidbatch": {clip: networks.of_network(ours, kind, clip) for clip in JUDGED_BY},
        "identity": {clip: scores_of(identity, kind, clip) for clip in JUDGED_BY},
    }
    strengths: dict[str, float] = {}
    for contender in (*contenders, *beside):
        began = time.perf_counter()
        x, _ = tuned(contender, kind, memory)
        strengths[contender.name] = x
        found[contender.name] = {clip: memory.of_filter(contender, x, kind, clip) for clip in JUDGED_BY}
        print(f"  {contender.name} {strengths[contender.name]:g}: {_mean(found[contender.name]):.2f} dB "
              f"({time.perf_counter() - began:.0f} s)", file=sys.stderr, flush=True)  # fmt: skip
    rivals = [contender.name for contender in contenders]
    best = max((*rivals, "identity"), key=lambda name: _mean(found[name]))
    ours_by_clip = {clip: scores.psnr for clip, scores in found["vidbatch"].items()}
    over_best = [ours_by_clip[clip] - found[best][clip].psnr for clip in JUDGED_BY]
    best_each = {clip: max(found[name][clip].psnr for name in (*rivals, "identity")) for clip in JUDGED_BY}
    over_each = {clip: ours_by_clip[clip] - best_each[clip] for clip in JUDGED_BY}
    over_input = {clip: ours_by_clip[clip] - found["identity"][clip].psnr for clip in JUDGED_BY}
    row = {
        "kind": kind,
        "psnr": {name: round(_mean(of), 3) for name, of in found.items()},
        "ssim": {name: round(statistics.mean(s.ssim for s in of.values()), 4) for name, of in found.items()},
        "strengths": {name: round(x, 4) for name, x in strengths.items()},
        "best_filter": best,
        "over_best_filter_db": round(statistics.mean(over_best), 3),
        "over_best_filter_interval": harness.interval(over_best),
        "over_best_filter_per_clip_db": round(statistics.mean(over_each.values()), 3),
        "over_input_db": round(statistics.mean(over_input.values()), 3),
        "worst_clip": min(over_each, key=over_each.__getitem__),
        "worst_over_best_filter_db": round(min(over_each.values()), 3),
        "worst_over_input_db": round(min(over_input.values()), 3),
        "clips": by_clip(found),
    }
    print(f"{kind}: {row['psnr']['vidbatch']:.2f} dB, {row['over_best_filter_db']:+.2f} over {best}, "
          f"{row['over_input_db']:+.2f} over the input", flush=True)  # fmt: skip
    return row


def _mean(scores: dict[str, Scores]) -> float:
    return statistics.mean(score.psnr for score in scores.values())


def clean_colours(ours: Network) -> dict[str, Any]:
    """What becomes of good colours, as CIE's difference of 2000; how much levels flicker within a shot, if spoilt."""
    from skimage.color import deltaE_ciede2000, rgb2lab

    differing, means, greatest = {}, [], []
    for clip in JUDGED_BY:
        made = [to_rgb(frame) for frame in ours.run(test_clips() / clip / "good.mkv")]
        pairs = list(zip(good_rgb(clip), made, strict=True))[::5]
        differing[clip] = np.concatenate(
            [deltaE_ciede2000(rgb2lab(one), rgb2lab(other)).ravel() for one, other in pairs]
        )
        within = np.abs(np.diff(good_rgb(clip)[:, ::4, ::4].astype(np.float32), axis=0)).mean((1, 2, 3)) < A_CUT
        for kind in COLOUR:
            frames = ours.run(test_clips() / clip / f"{kind}.mkv")
            offset = [
                (to_rgb(frame).astype(np.float64) - wanted).mean((0, 1))
                for frame, wanted in zip(frames, good_rgb(clip), strict=True)
            ]
            steps = np.abs(np.diff(np.stack(offset), axis=0))[within]
            means.append(float(steps.mean()))
            greatest.append(float(steps.max()))
    everything = np.concatenate(list(differing.values()))
    return {
        "delta_e_mean": round(float(everything.mean()), 3),
        "delta_e_95th": round(float(np.percentile(everything, 95)), 3),
        "delta_e_by_clip": {clip: round(float(values.mean()), 3) for clip, values in differing.items()},
        "flicker_mean_levels": round(statistics.mean(means), 4),
        "flicker_greatest_levels": round(max(greatest), 3),
    }


def cpu_ratio(denoiser: Network, *, pairs: int) -> dict[str, Any]:
    """CPU seconds a frame of 720p of the denoiser and of nlmeans, one thread, in turn."""
    torch.set_num_threads(1)
    source = read(clip_path("sintel_trailer.mp4"))[600:612]
    with tempfile.TemporaryDirectory() as folder:
        from enhance_clips import write

        path = Path(folder) / "720p.mkv"
        write(path, source)
        ways = {"vidbatch": denoiser.run, "nlmeans": graph("yuv420p", _nlmeans(7, 15))(6.0)}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(pairs + 1):
            for name, way in ways.items():
                began = time.process_time()
                way(path)
                times[name].append((time.process_time() - began) / len(source))
    ratios = [ours / theirs for ours, theirs in zip(times["vidbatch"][1:], times["nlmeans"][1:], strict=True)]
    return {
        "cpu_ms_a_frame": {name: round(1000 * statistics.median(of[1:]), 1) for name, of in times.items()},
        "over_nlmeans": round(statistics.median(ratios), 3),
    }


def speeds(*, rounds: int, seconds: int) -> dict[str, Any]:
    """Frames a second over those of an ffmpeg command line with the same encoder settings, one thread each."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.mp4"
        cut = ["ffmpeg", "-v", "error", "-nostdin", "-ss", "10", "-i", str(clip_path("sintel_trailer.mp4"))]
        subprocess.run([*cut, "-t", str(seconds), "-an", "-c:v", "libx264", "-crf", "18", str(source)], check=True)
        found = {}
        for name, (steps, filters) in {
            "transcode": ("none", ""),
            "atadenoise": ("denoise=atadenoise", "-vf atadenoise=0a=0.03:0b=0.06:1a=0.03:1b=0.06:2a=0.03:2b=0.06:s=9"),
        }.items():
            theirs = (
                f"ffmpeg -v error -nostdin -y -threads 1 -filter_threads 1 -i {source} {filters} -c:v libx264 -crf 20 "
                f"-g 250 -threads 1 -movflags +faststart {folder}/out.mp4 && "
                f"echo '{{\"frames\": '$(ffprobe -v error -count_packets -show_entries stream=nb_read_packets "
                f"-of csv=p=0 {folder}/out.mp4)'}}'"
            )
            usages = harness.in_turn(
                {
                    "vidbatch": lambda steps=steps: harness.run(  # type: ignore[misc]
                        harness.python("contender_enhance.py", source, steps, 1)
                    ),
                    "ffmpeg": lambda theirs=theirs: harness.run(["bash", "-c", theirs]),  # type: ignore[misc]
                },
                rounds,
                say=lambda line: print(line, file=sys.stderr, flush=True),
            )
            ours, others = usages["vidbatch"], usages["ffmpeg"]
            if {usage.report["frames"] for usage in (*ours, *others)} != {ours[0].report["frames"]}:
                raise harness.InvalidRun(f"{name}: not as many frames")
            found[name] = {
                "frames": ours[0].report["frames"],
                "fps": {k: round(v[0].report["frames"] / v[0].wall_seconds, 1) for k, v in usages.items()},
                "fps_over_ffmpeg": harness.ratio(
                    [usage.wall_seconds for usage in others], [usage.wall_seconds for usage in ours]
                ),
                "cpu_over_ffmpeg": harness.ratio(
                    [usage.cpu_seconds for usage in ours], [usage.cpu_seconds for usage in others]
                ),
            }
        return found


def plot(rows: Sequence[dict[str, Any]]) -> Any:
    """What was spoilt, what the best filter makes of it, and what vidbatch does."""
    made, axes = harness.figure(width=8.5)
    places = np.arange(len(rows))
    bars = (
        ("as it is", [row["psnr"]["identity"] for row in rows]),
        ("best filter, tuned for each", [row["psnr"][row["best_filter"]] for row in rows]),
        ("vidbatch enhance", [row["psnr"]["vidbatch"] for row in rows]),
    )
    for number, (label, values) in enumerate(bars):
        axes.bar(places + (number - 1) * 0.27, values, 0.25, label=label)
    axes.set_xticks(places, [row["kind"].replace("_", "\n") for row in rows], fontsize=8)
    axes.set_ylim(10)
    axes.set_ylabel("PSNR, dB")
    axes.legend(fontsize=8)
    return made


def picture(place: Path, denoiser: Network) -> None:
    """Before (left) and after (right) of a clip in the public domain: white noise, noise of a sensor behind x264."""
    from PIL import Image

    rows = []
    for kind in (NOISE[1], NOISE[-1]):
        path = test_clips() / "city.mpg" / f"{kind}.mkv"
        sides = [to_rgb(frames[8])[60:330, 120:600] for frames in (read(path), denoiser.run(path))]
        rows.append(np.hstack(sides))
    Image.fromarray(np.vstack(rows)).save(place, quality=88)


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--only", choices=("noise", "codec", "colour", "cpu"), help="one part; nothing is saved")
    for name, shipped in {"denoise": "network", "artefacts": "artefacts", "colour": "network"}.items():
        parser.add_argument(f"--{name}", default=shipped, metavar="FOLDER", help="of a network by train-enhancer")
    options = parser.parse_args()
    given = {"noise": options.denoise, "codec": options.artefacts, "colour": options.colour, "cpu": options.denoise}
    parts = [part for part, folder in given.items() if folder and options.only in (None, part)]
    if not parts:
        parser.error(f"--only {options.only} needs a network for it")
    few = 1 if options.quick else None
    found: dict[str, Any] = {"rows": []}
    if "noise" in parts:
        ours = network("denoise", options.denoise)
        for kind in NOISE[1 : 2 if few else None] if few else NOISE:
            beside = reported_beside()[:few] if kind == NOISE[0] else []  # of one kind: a quarter of an hour
            found["rows"].append(compare(kind, ours, denoisers(kind)[:few], beside))
    if "codec" in parts:
        for kind in CODEC[:few]:
            found["rows"].append(compare(kind, network("denoise", options.artefacts), deblockers()[:few]))
    if "colour" in parts:
        ours = network("colour", options.colour)
        for kind in COLOUR[-1:] if few else COLOUR:
            found["rows"].append(compare(kind, ours, colourists()[:few]))
        found["colours"] = clean_colours(ours)
    if "cpu" in parts:
        found["cpu"] = cpu_ratio(network("denoise", options.denoise), pairs=1 if few else 5)
        found["speeds"] = speeds(rounds=1 if few else 5, seconds=2 if few else 20)
    print(found.get("colours", ""), found.get("cpu", ""), found.get("speeds", ""))
    if not options.only:
        folder = harness.results_dir(options)
        harness.save(folder, "enhance", found, quick=options.quick)
        harness.save_plot(folder, "enhance", plot(found["rows"]))
        picture(folder / "enhance.jpg", network("denoise", options.denoise))


if __name__ == "__main__":
    main()
