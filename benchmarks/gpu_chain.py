"""Videos in; how fast `label` and `enhance` work on them beside a GPU, and how busy it is, out as a line of JSON each.

What gpu.py runs in a process of its own, with a Ray of its own. Start-up is the time of a run over one tiny video; it
is left out of the speeds and stands beside them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from harness import InvalidRun

Report = dict[str, Any]
PICTURES: Final = ("astronaut", "coffee", "chelsea", "rocket")
"""Of scikit-image, which brings them along."""
RATES: Final = (1, 5)
"""Frames a second that are labelled."""
SURE: Final = 0.05
"""Labels have to be the same where the best score is so much above the next one."""


class Sizes(NamedTuple):
    """How large a run is."""

    height: int
    width: int
    distinct: int
    """Videos with pictures of their own."""
    seconds: int
    label_seconds: float
    """What a timed run of `label` should take, by what decoding alone takes."""
    enhance_seconds: int
    """Of each video that is enhanced."""


FULL: Final = Sizes(720, 1280, 8, 20, 6.0, 6)
QUICK: Final = Sizes(144, 256, 2, 2, 0.1, 1)
FRAME_RATE: Final = 25


# --- videos ---------------------------------------------------------------------------------------------------------


def picture(number: int, height: int, width: int) -> Any:
    """A photograph, uint8 (height, width, 3), or a texture where scikit-image has it not."""
    import cv2

    try:
        from skimage import data

        found = getattr(data, PICTURES[number % len(PICTURES)])()
    except Exception:  # noqa: BLE001  # not installed, or without its pictures: a texture will do
        found = np.random.default_rng(number).integers(0, 256, (24, 32, 3), np.uint8)
    return cv2.resize(np.ascontiguousarray(found[..., :3]), (width, height), interpolation=cv2.INTER_CUBIC)


def frames(number: int, count: int, height: int, width: int, sigma: float = 4.0) -> Iterator[Any]:
    """A camera that moves over a photograph, uint8 (height, width, 3) RGB, with a sensor's noise of so many levels."""
    chance = np.random.default_rng(number)
    large = picture(number, height * 5 // 4, width * 5 // 4).astype(np.int16)
    noises = [np.round(sigma * chance.standard_normal((height, width, 3))).astype(np.int16) for _ in range(4)]
    for at in range(count):
        top = round(height / 8 * (1 + np.sin(at / 40 + number)))
        left = round(width / 8 * (1 + np.cos(at / 55 + number)))
        yield (large[top : top + height, left : left + width] + noises[at % 4]).clip(0, 255).astype(np.uint8)


def encode(path: str, number: int, count: int, height: int, width: int) -> None:
    """An H.264 mp4 with x264's B-frames, a keyframe every 250 frames and at cuts."""
    import av

    with av.open(path, "w") as out:
        options = {"preset": "veryfast", "crf": "23", "threads": "1"}
        stream = out.add_stream("libx264", rate=FRAME_RATE, width=width, height=height, options=options)
        stream.pix_fmt, stream.gop_size = "yuv420p", 250
        for pixels in frames(number, count, height, width):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode(None))


@contextmanager
def processes(number: int) -> Iterator[ProcessPoolExecutor]:
    """So many fresh processes, one CPU each."""
    with ProcessPoolExecutor(number, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def make_videos(folder: Path, sizes: Sizes, cores: int) -> None:
    """`base` and `short` videos to be labelled and enhanced, and a `tiny` one to start up with."""
    wanted = [("base", n, sizes.seconds * FRAME_RATE) for n in range(sizes.distinct)]
    wanted += [("short", n, sizes.enhance_seconds * FRAME_RATE) for n in range(max(sizes.distinct, cores))]
    wanted += [("tiny", 0, 5)]
    with processes(min(cores, len(wanted))) as pool:
        jobs = []
        for kind, number, count in wanted:
            (folder / kind).mkdir(parents=True, exist_ok=True)
            path = str(folder / kind / f"{number:03d}.mp4")
            jobs.append(pool.submit(encode, path, number, count, sizes.height, sizes.width))
        for job in jobs:
            job.result()


def copied(base: Path, folder: Path, copies: int) -> Path:
    """A folder with so many files of each video."""
    folder.mkdir()
    for path in sorted(base.iterdir()):
        for copy in range(copies):
            os.link(path, folder / f"{path.stem}_copy{copy:03d}.mp4")
    return folder


# --- how busy the GPU is --------------------------------------------------------------------------------------------


class BusyGpu:
    """Samples what the driver says of the first GPU: the share of time in which a kernel ran."""

    EVERY_SECONDS = 0.1

    def __init__(self, *, is_there: bool) -> None:
        self._seconds = 0.0
        self._memory = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._handle: Any = None
        if is_there:
            with suppress(Exception):
                import pynvml

                pynvml.nvmlInit()
                self._nvml, self._handle = pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)

    def __enter__(self) -> BusyGpu:
        if self._handle is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._handle is not None:
            self._thread.join()

    def _run(self) -> None:
        last = time.perf_counter()
        while not self._end.wait(self.EVERY_SECONDS):
            now = time.perf_counter()
            with suppress(Exception):
                self._seconds += (now - last) * self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100
                self._memory = max(self._memory, self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)
            last = now

    def report(self, seconds: float) -> Report:
        """Shares of so many seconds; None where nobody says."""
        if self._handle is None:
            return {"gpu_busy_share": None, "gpu_memory_mb": None}
        return {"gpu_busy_share": round(self._seconds / seconds, 4), "gpu_memory_mb": round(self._memory / 1e6)}


# --- label ----------------------------------------------------------------------------------------------------------


def decode_only(path: str, sampling: str, size: Any) -> int:
    """Frames of a video, decoded as `label` decodes them."""
    from vidbatch.decode import read_frames

    found, _, _ = read_frames(path, sampling=sampling, size=size)
    return len(found)


def ceiling(pool: ProcessPoolExecutor, videos: list[Path], sampling: str, size: Any) -> Report:
    """Speed of as many processes as there are CPUs that only decode."""
    began = time.perf_counter()
    found = sum(pool.map(decode_only, map(str, videos), [sampling] * len(videos), [size] * len(videos)))
    seconds = time.perf_counter() - began
    return {"videos": len(videos), "frames": found, "frames_per_second": found / seconds, "seconds": seconds}


def labelled(options: argparse.Namespace, place: Path, name: str, sampling: str) -> Any:
    """The record of a run of `label`, of which every video has to be good."""
    import vidbatch

    result = vidbatch.label(
        str(place), output=str(options.folder / f"out-{name}"), sampling=sampling, model=options.model, buckets=4,
        device=options.device,
    )  # fmt: skip
    record = result.record
    if record.by_status != {"ok": record.videos}:
        raise InvalidRun(f"{name}: {record.by_status} {record.by_error_kind}")
    return result


def check_labels(options: argparse.Namespace, result: Any, spec: Any, weights: bytes) -> Report:
    """What `label` says of one video is what the network says on the CPU."""
    from vidbatch.decode import read_frames
    from vidbatch.networks import build

    rows = result.frames.to_arrow().to_pylist()
    url = min(row["url"] for row in rows)
    ours = sorted((row for row in rows if row["url"] == url), key=lambda row: row["frame_index"])
    pixels, _, _ = read_frames(url.removeprefix("file://"), sampling="fps=1", size=spec.frame)
    import torch

    torch.set_num_threads(1)
    scores, _ = build(spec, weights, "cpu")(torch.from_numpy(pixels))
    best = scores.topk(2, dim=1)
    sure = (best.values[:, 0] - best.values[:, 1] > SURE).tolist()
    truth = [spec.labels[at] for at in best.indices[:, 0].tolist()]
    if len(truth) != len(ours):
        raise InvalidRun(f"label: {len(ours)} frames of {url}, not {len(truth)}")
    wrong = [at for at, row in enumerate(ours) if sure[at] and row["label"] != truth[at]]
    apart = max(abs(row["score"] - float(best.values[at, 0])) for at, row in enumerate(ours))
    if wrong or apart > options.tolerance:
        raise InvalidRun(f"label: other labels in frames {wrong}, scores {apart:.3f} apart")
    return {"frames": len(ours), "sure": sum(sure), "largest_difference_of_scores": round(apart, 5)}


def measure_label(options: argparse.Namespace, sizes: Sizes) -> Report:
    """Frames a second of the whole chain, of decoding alone by as many processes, and how busy the GPU is."""
    from vidbatch.models import find_model, load_spec

    spec, weights = load_spec(find_model(options.model))
    base = sorted((options.folder / "base").iterdir())
    found: Report = {"rows": []}
    for attempt in range(2):  # the first one also reads libraries from disk
        startup = labelled(options, options.folder / "tiny", f"tiny-{attempt}", "fps=1").record
    found["startup_seconds"] = round(startup.wall_seconds["work"], 2)
    with processes(options.cores) as pool:
        list(pool.map(decode_only, [str(base[0])] * 2 * options.cores, ["count=1"] * 2 * options.cores,
                      [spec.frame] * 2 * options.cores))  # fmt: skip
        for rate in RATES:
            sampling = f"fps={rate}"
            trial = ceiling(pool, base * max(1, 2 * options.cores // len(base)), sampling, spec.frame)
            copies = max(1, round(sizes.label_seconds * trial["videos"] / trial["seconds"] / len(base)))
            archive = copied(options.folder / "base", options.folder / f"archive-{rate}", copies)
            before = ceiling(pool, sorted(archive.iterdir()), sampling, spec.frame)
            with BusyGpu(is_there=options.gpus > 0) as busy:
                result = labelled(options, archive, sampling.replace("=", ""), sampling)
            after = ceiling(pool, sorted(archive.iterdir()), sampling, spec.frame)
            if rate == 1:
                found["verified"] = check_labels(options, result, spec, weights)
            record = result.record
            if record.frames != before["frames"]:
                raise InvalidRun(f"label: {record.frames} frames, decoding alone gives {before['frames']}")
            seconds = max(0.01, record.wall_seconds["work"] - startup.wall_seconds["work"])
            most = (before["frames_per_second"] + after["frames_per_second"]) / 2
            found["rows"].append({
                "sampling": sampling,
                "videos": record.videos,
                "video_seconds": sizes.seconds,
                "frames": record.frames,
                "frames_per_second": round(record.frames / seconds, 1),
                "seconds": round(seconds, 2),
                "decoding_alone_frames_per_second": [
                    round(each["frames_per_second"], 1) for each in (before, after)
                ],
                "over_decoding_alone": round(record.frames / seconds / most, 4),
                **busy.report(seconds),
                "stages": record.stages,
                "pools": record.pools,
            })  # fmt: skip
            print(f"label {sampling}: {record.frames / seconds:.0f} frames/s, decoding alone {most:.0f}", flush=True)
    return found


# --- enhance --------------------------------------------------------------------------------------------------------


def measure_enhance(options: argparse.Namespace, sizes: Sizes) -> Report:
    """Frames a second of `enhance` with the network that comes along, encoding by x264 veryfast included."""
    import vidbatch

    def run(name: str, place: str) -> Any:
        record = vidbatch.enhance(
            str(options.folder / place), output=str(options.folder / f"out-{name}"), denoise="network",
            preset="veryfast", buckets=4, device=options.device, workers_per_gpu=options.cores,
        ).record  # fmt: skip
        if record.by_status != {"ok": record.videos}:
            raise InvalidRun(f"{name}: {record.by_status} {record.by_error_kind}")
        return record

    for attempt in range(2):
        startup = run(f"enhance-tiny-{attempt}", "tiny")
    with BusyGpu(is_there=options.gpus > 0) as busy:
        record = run("enhance", "short")
    seconds = max(0.01, record.wall_seconds["work"] - startup.wall_seconds["work"])
    print(f"enhance: {record.frames / seconds:.0f} frames/s", flush=True)
    return {
        "size": [sizes.height, sizes.width],
        "videos": record.videos,
        "frames": record.frames,
        "frames_per_second": round(record.frames / seconds, 1),
        "seconds": round(seconds, 2),
        "startup_seconds": round(startup.wall_seconds["work"], 2),
        **busy.report(seconds),
        "stages": record.stages,
        "pools": record.pools,
    }


PARTS: Final[dict[str, Callable[[argparse.Namespace, Sizes], Report]]] = {
    "label": measure_label,
    "enhance": measure_enhance,
}


def main() -> None:
    """Print a line of JSON for each part; one that fails says why."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tolerance", type=float, required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    import ray

    sizes = QUICK if options.quick else FULL
    options.cores = len(os.sched_getaffinity(0))
    began = time.perf_counter()
    make_videos(options.folder, sizes, options.cores)
    print(f"videos made in {time.perf_counter() - began:.1f} s", flush=True)
    ray.init(
        "local", num_cpus=options.cores, num_gpus=options.gpus, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    for part in options.parts:
        began = time.perf_counter()
        try:
            found = PARTS[part](options, sizes)
        except Exception as error:  # noqa: BLE001  # the other part is still to be had
            found = {"failed": f"{type(error).__name__}: {error}"[:2000], "trace": traceback.format_exc()[-3000:]}
        print(json.dumps({part: {**found, "took_seconds": round(time.perf_counter() - began, 1)}}), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
