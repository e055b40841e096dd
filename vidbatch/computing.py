"""How a network computes: a precision's name in; whether it makes sense here, and networks made to compute so, out.

    auto   fp32 on a CPU, tf32 on a GPU
    fp32   everything in float32
    tf32   products of float32 on a GPU with 10 bits behind the point
    bf16   weights and layers in bfloat16: on GPUs, and on CPUs that have instructions for it
    fp16   the same in float16, on GPUs only: a value above 65,504 is none

Scores are float32 in all of them. torch is imported where it is used: what a user asks for is checked without it.
"""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from vidbatch.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]

_BACKEND: Final = "inductor"
_CPUINFO: Final = Path("/proc/cpuinfo")
_FOR_BF16: Final = re.compile(r"\b(avx512_bf16|amx_bf16|bf16)\b")


class How(NamedTuple):
    """What a user chose of how a network computes."""

    precision: Precision = "auto"
    is_compiled: bool = False
    runtime: Literal["auto", "torch"] = "auto"


USUAL: Final = How()


def check(how: How, *, on_gpu: bool) -> None:
    """Raise ConfigError for what cannot be done here, or would only be slower. Imports no torch.

    It is this machine that is looked at: a cluster's nodes are taken to be like the driver's.
    """
    if how.precision in ("tf32", "fp16") and not on_gpu:
        raise ConfigError(f"precision: {how.precision!r} is not allowed without a GPU; allowed: auto, fp32, bf16")
    if how.precision == "bf16" and not on_gpu and not _cpu_has_bf16():
        raise ConfigError(
            "precision: 'bf16' is not allowed: this CPU has no instructions for it (avx512_bf16, amx_bf16) and would "
            "be slower than in fp32; allowed: auto, fp32"
        )
    if how.is_compiled and not on_gpu:
        raise ConfigError("compile: True is not allowed without a GPU: a CPU takes minutes for it, and gains nothing")
    if how.is_compiled and (missing := _missing_to_compile()):
        raise ConfigError(
            f"compile: True is not allowed: torch compiles with {missing}, which is not here; apt-get install gcc "
            "python3-dev, or leave it out"
        )


def _cpu_has_bf16() -> bool:
    if not _CPUINFO.exists():  # no Linux: torch knows a way or another
        return True
    return _FOR_BF16.search(_CPUINFO.read_text()) is not None


def _missing_to_compile() -> str:
    """What torch needs beside a GPU's own compiler, for what launches kernels, and does not find; nothing: empty."""
    given = os.environ.get("CC")
    if not any(map(shutil.which, [given] if given else ["gcc", "clang", "cc"])):
        return f"a C compiler ({given or 'gcc'})"
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        return "Python's headers (Python.h)"
    return ""


# --- what networks do about it --------------------------------------------------------------------------------------


def dtype_of(how: How) -> torch.dtype:
    """What the layers of a network of single frames hold."""
    import torch

    return _half(how) or torch.float32


def autocast(how: How, device: torch.device) -> Any:
    """What has the layers of a network of windows compute so, as in training."""
    import torch

    dtype = _half(how)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def _half(how: How) -> torch.dtype | None:
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(how.precision)


def set_products(how: How, device: torch.device) -> None:
    """Let this process multiply float32 on a GPU in TF32, or not."""
    import torch

    if device.type != "cpu":
        torch.set_float32_matmul_precision("highest" if how.precision == "fp32" else "high")
        torch.backends.cudnn.allow_tf32 = how.precision != "fp32"


def may_be_a_program(how: How, device: torch.device) -> bool:
    """Whether ONNX Runtime may take a network over from torch."""
    is_usual = how.precision in ("auto", "fp32") and not how.is_compiled
    return is_usual and device.type == "cpu" and how.runtime == "auto"


def fused(module: nn.Module, classifier: str, images: Tensor) -> nn.Module:
    """The network with batch norms folded into their convolutions, if it can be traced and says the same then.

    On one core, in torch, the default model takes 12.4 ms a frame instead of 14.4, ResNet-50 87 instead of 90,
    MobileNetV3 7.9 instead of 9.0.
    """
    import torch
    from torch.fx.experimental.optimization import fuse

    called: list[bool] = []
    try:
        made: nn.Module = fuse(module)
        hook = made.get_submodule(classifier).register_forward_pre_hook(lambda *_: called.append(True))
    except (ValueError, TypeError, AttributeError, RuntimeError):  # what tracing a network's own Python can end in
        return module
    with torch.inference_mode():
        is_same = torch.allclose(made(images), module(images), rtol=1e-3, atol=1e-3)
    hook.remove()
    return made if is_same and called else module


def compiled(module: nn.Module, how: How) -> nn.Module:
    """The network, compiled when it is first called if that was asked for: for each shape that it is called with."""
    if how.is_compiled:
        module.compile(dynamic=False, backend=_BACKEND)
    return module


def padded(batch: Any, count: int) -> Any:
    """A batch of frames, or an array of windows, with zeros behind it to that size: a network is compiled for one."""
    import numpy as np
    import torch

    missing = count - len(batch)
    if missing <= 0:
        return batch
    if isinstance(batch, torch.Tensor):
        return torch.cat([batch, batch.new_zeros((missing, *batch.shape[1:]))])
    return np.concatenate([batch, np.zeros(missing, batch.dtype)])
