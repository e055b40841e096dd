"""The same networks computed in several ways on one CPU core: CPU seconds a frame, and how alike the labels are.

Frames of real clips go through each way; before a time counts, its labels and scores are compared with those of float32
in torch. Ways run in turn, each in slices of four frames as `label` has them, and ratios are taken pair by pair. The
default model has its own weights; ResNet-50 has random ones, of which only the speed means something.

int8 is what onnxruntime.quantization makes of the default model, calibrated on frames of clips that it is not judged
by. `label` takes such a program as FILE.onnx; nothing in vidbatch makes one.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gpu
import harness
import numpy as np
import torch
from harness import InvalidRun

from vidbatch.networks import CPU_SLICE_FRAMES

ROUNDS, QUICK_ROUNDS = 7, 1
NUM_TIMED, QUICK_NUM_TIMED = 16, 4
CLIPS: Final = (
    "basketball.mp4", "bikes.mp4", "bunny_trailer.mp4", "carphone.mp4", "cartwheel.avi", "city.mpg", "concert.mp4",
    "football.avi", "globe.mp4", "handheld.avi", "motorway.mp4", "policeman.avi", "runners.mp4", "segway_crowd.mp4",
    "segway_shop.mp4", "sintel_trailer.mp4", "surveillance.avi", "tree.avi",
)  # fmt: skip
SURE: Final = 0.05
"""A label is sure whose score is so much above the next one."""
EXACT: Final = ("torch", "torch, not channels_last", "torch, compiled", "ONNX Runtime")
LARGEST_DIFFERENCE: Final = 1e-4
"""Of probabilities, between ways that are all float32."""
FRAMES_A_CLIP: Final = 8

Way = Callable[[torch.Tensor], torch.Tensor]
"""Frames uint8 (N, H, W, 3) in, probabilities (N, C) out."""


def frames_of(names: tuple[str, ...], count: int, height: int, width: int, crop_share: float) -> torch.Tensor:
    """So many frames of each clip, as `label` decodes them."""
    from clips import clip_path

    from vidbatch.decode import read_frames
    from vidbatch.schema import FrameSpec

    size = FrameSpec(height, width, crop_share)
    found = [read_frames(str(clip_path(name)), sampling=f"count={count}", size=size)[0] for name in names]
    return torch.from_numpy(np.concatenate(found))


def ways_of(spec: Any, weights: bytes, calibration: torch.Tensor | None, *, compiles: bool) -> dict[str, Way]:
    """Ways to compute a network, float32 in torch first.

    Args: without frames to calibrate with there is no int8; to compile takes a minute, and minutes on a busy machine.
    """
    from vidbatch import computing
    from vidbatch.computing import How
    from vidbatch.networks import build

    def way(how: How) -> Way:
        network: Any = build(spec, weights, how=how)
        return lambda frames: network(frames)[0]

    found = {
        "torch": way(How(runtime="torch")),
        "torch, not channels_last": not_channels_last(build(spec, weights, how=How(runtime="torch"))),
        "ONNX Runtime": way(How()),
    }
    if computing._cpu_has_bf16():
        found["torch, bf16"] = way(How("bf16"))
    if compiles:
        found["torch, compiled"] = compiled(build(spec, weights, how=How(runtime="torch")))
    if calibration is not None:
        found["ONNX Runtime, int8"] = in_int8(build(spec, weights, how=How(runtime="torch")), calibration)
    return found


def images_of(network: Any, frames: torch.Tensor) -> torch.Tensor:
    """What enters a network of frames."""
    images: torch.Tensor = frames.permute(0, 3, 1, 2).to(torch.float32).mul_(network._scale).add_(network._shift)
    return images


def by_slices(network: Any, logits: Callable[[torch.Tensor], torch.Tensor]) -> Way:
    """A way that gives slices of frames to a function of images."""

    @torch.inference_mode()
    def run(frames: torch.Tensor) -> torch.Tensor:
        slices = torch.split(frames, CPU_SLICE_FRAMES)
        return torch.cat([logits(images_of(network, part)).softmax(1) for part in slices])

    return run


def not_channels_last(network: Any) -> Way:
    """The layout that torch has by itself."""
    module = gpu.bare(network).to(memory_format=torch.contiguous_format)
    return by_slices(network, lambda images: module(images.contiguous()))


def compiled(network: Any) -> Way:
    """By torch.compile, with weights laid out for the CPU's kernels."""
    module: Any = torch.compile(gpu.bare(network), dynamic=False, options={"freezing": True})
    return by_slices(network, module)


def in_int8(network: Any, calibration: torch.Tensor) -> Way:
    """Weights and layers in 8 bits, by onnxruntime.quantization."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    from vidbatch.onnx_networks import _load, _Translation

    last = [name for name, layer in network._module.named_modules() if isinstance(layer, torch.nn.Linear)][-1]
    content = _Translation(gpu.bare(network), last).content()
    slices = iter(torch.split(calibration, CPU_SLICE_FRAMES))

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            part = next(slices, None)
            return None if part is None else {"images": images_of(network, part).contiguous().numpy()}

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "int8.onnx"
        quantize_static(
            onnx.load_model_from_string(content), made, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        program = _load(made.read_bytes())
    return by_slices(network, lambda images: program(images)[0])


def alike(said: torch.Tensor, truth: torch.Tensor) -> dict[str, Any]:
    """How alike scores are."""
    best = truth.topk(2, dim=1).values
    is_sure, is_same = best[:, 0] - best[:, 1] > SURE, said.argmax(1) == truth.argmax(1)
    return {
        "frames": len(truth),
        "same_labels": round(float(is_same.float().mean()), 4),
        "sure_frames": int(is_sure.sum()),
        "same_sure_labels": round(float(is_same[is_sure].float().mean()), 4) if is_sure.any() else None,
        "largest_difference": round(float((said - truth).abs().max()), 6),
    }


def measure(name: str, model: str, *, quick: bool) -> dict[str, Any]:
    """Figures of one network. Raises InvalidRun where a way that is meant to be exact is not."""
    from vidbatch.models import find_model, load_spec

    spec, weights = load_spec(find_model(model))
    is_trained = model == "efficientnet-lite0"  # of others only the speed means something
    each, size = FRAMES_A_CLIP if is_trained and not quick else 1, spec.frame
    frames = frames_of(CLIPS[::2], each, size.height, size.width, size.crop_share)
    calibration = frames_of(CLIPS[1::2], each, size.height, size.width, size.crop_share) if is_trained else None
    ways = ways_of(spec, weights, calibration, compiles=is_trained and not quick)
    rounds, num_timed = (QUICK_ROUNDS, QUICK_NUM_TIMED) if quick else (ROUNDS, NUM_TIMED)
    rows, truth = {}, ways["torch"](frames)
    for way, run in ways.items():
        began = time.perf_counter()
        run(frames[:CPU_SLICE_FRAMES])
        rows[way] = {"first_call_seconds": round(time.perf_counter() - began, 2), **alike(run(frames), truth)}
        if way in EXACT and rows[way]["largest_difference"] > LARGEST_DIFFERENCE:
            raise InvalidRun(f"{name}, {way}: scores are {rows[way]['largest_difference']} apart")
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    timed = frames[:: max(1, len(frames) // num_timed)][:num_timed]
    for _ in range(rounds):
        for way, run in ways.items():
            began = time.process_time()
            run(timed)
            seconds[way].append((time.process_time() - began) / len(timed))
    for way in ways:
        rows[way] |= {
            "cpu_ms_a_frame": harness.spread([1000 * each for each in seconds[way]], 2),
            "speed_over_torch": harness.ratio(seconds["torch"], seconds[way]),
        }
        said = rows[way]
        print(
            f"{name}, {way}: {said['cpu_ms_a_frame']['median']:.1f} ms, {said['speed_over_torch']['median']:.2f}x, "
            f"labels {said['same_labels']:.3f}, {said['largest_difference']:.1e} apart", flush=True,
        )  # fmt: skip
    return {"frame": [size.height, size.width], "trained": is_trained, "ways": rows}


def main() -> None:
    options = harness.arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    harness.CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=harness.CACHE) as folder:
        models = {"efficientnet-lite0": "efficientnet-lite0"}
        if not options.quick:
            models["resnet50"] = gpu.resnet50(Path(folder))
        found = {name: measure(name, model, quick=options.quick) for name, model in models.items()}
    content = {"models": found, "slice_frames": CPU_SLICE_FRAMES}
    harness.save(harness.results_dir(options), "cpu_models", content, quick=options.quick)


if __name__ == "__main__":
    main()
