"""An exported program in; a callable from uint8 frames to probabilities out: what networks.py is for networks of torch.

ONNX Runtime and torch.export run what a file holds as it stands: a program whose batch is fixed gets batches of that
size, the last filled up with black frames.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from vidbatch.cores import Cores
from vidbatch.errors import ModelError
from vidbatch.networks import CPU_SLICE_FRAMES, Facts
from vidbatch.schema import FrameSpec

if TYPE_CHECKING:
    from vidbatch.models import ModelSpec

Run = Callable[[Tensor], list[Tensor]]
"""Images float32 N x 3 x H x W on the device in; the program's outputs, on the device, out."""


def inspect_program(kind: str, content: bytes, frame: FrameSpec, where: str, *, details: str) -> Facts:
    """Load a program as a worker will, and count classes and embedding. Raises ModelError for one that does not fit."""
    run, batch = _load(kind, content, frame, where, torch.device("cpu"))
    scores, embedding = _outputs(run, torch.zeros((batch or 1, 3, frame.height, frame.width)), where)
    if not scores.isfinite().all():
        raise ModelError(f"{where}: the program gives no finite scores")
    if json.loads(details)["scores"] == "probabilities":
        is_one = (scores.sum(1) - 1).abs() < _IS_ONE
        if not is_one.all() or scores.min() < 0:
            raise ModelError(f'{where}: the program\'s scores are no probabilities; say "scores": "logits"')
    return Facts("", scores.shape[1], embedding.shape[1])


_IS_ONE: Final = 0.01


def build_program(spec: ModelSpec, content: bytes, device: str, *, num_threads: int) -> ProgramNetwork:
    """The program ready to run on `cpu` or `cuda`. Raises ModelError for a file that is none."""
    where = torch.device(device)
    if spec.architecture == "onnx" and device != "cpu" and not _onnx_runs_on_cuda():
        where = torch.device("cpu")  # `auto`: models.model_for refuses `cuda`
    run, batch = _load(spec.architecture, content, spec.frame, spec.name, where)
    return ProgramNetwork(spec, run, batch, where, num_threads)


def _outputs(run: Run, images_nchw: Tensor, where: str) -> tuple[Tensor, Tensor]:
    """Scores N x C and embeddings N x D, D = 0 where there are none. Raises ModelError for other outputs."""
    try:
        outputs = run(images_nchw)
    except (torch.OutOfMemoryError, torch.AcceleratorError):  # of the GPU: classify.py knows what to do
        raise
    except Exception as error:  # whatever a program raises is about what it was given
        raise ModelError(f"{where}: the program does not take {_shape(images_nchw)}: {_first_line(error)}") from error
    count = len(images_nchw)
    if not outputs or outputs[0].ndim != 2 or outputs[0].shape[0] != count:
        shapes = ", ".join(_shape(output) for output in outputs) or "nothing"
        raise ModelError(f"{where}: the program gives {shapes} for {count} images; wanted: scores of shape {count} x C")
    if len(outputs) > 1 and outputs[1].ndim == 2 and outputs[1].shape[0] == count:
        return outputs[0].float(), outputs[1].float()
    return outputs[0].float(), outputs[0].new_empty((count, 0), dtype=torch.float32)


class ProgramNetwork:
    """The counterpart of networks.Network."""

    def __init__(self, spec: ModelSpec, run: Run, batch: int | None, device: torch.device, num_threads: int) -> None:
        self.labels = spec.labels
        self.embedding_size = spec.embedding_size
        self.device = device
        self._name, self._run, self._batch = spec.name, run, batch
        self._gives_logits = json.loads(spec.details)["scores"] == "logits"
        self._std = torch.tensor(spec.std, device=device).view(1, 3, 1, 1)
        self._mean = torch.tensor(spec.mean, device=device).view(1, 3, 1, 1)
        self.cores = Cores(num_threads if device.type == "cpu" else 1)

    def __call__(self, frames_nhwc: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (float32, N x C, rows sum to 1) and embeddings (float32, N x D) of uint8 frames on the device.

        Args: `is_wide` lets the call use all threads; else it takes one.
        """
        size = self._batch or (CPU_SLICE_FRAMES if self.device.type == "cpu" else max(1, len(frames_nhwc)))
        parts = self.cores.map(self._slice, torch.split(frames_nhwc, size))
        return torch.cat([scores for scores, _ in parts]), torch.cat([features for _, features in parts])

    @torch.inference_mode()
    def _slice(self, frames_nhwc: Tensor) -> tuple[Tensor, Tensor]:
        count = len(frames_nhwc)
        if self._batch is not None and count < self._batch:
            frames_nhwc = torch.nn.functional.pad(frames_nhwc, (0, 0) * 3 + (0, self._batch - count))
        images = frames_nhwc.permute(0, 3, 1, 2).to(torch.float32).div_(255).sub_(self._mean).div_(self._std)
        scores, embedding = _outputs(self._run, images.contiguous(), self._name)
        return (scores.softmax(1) if self._gives_logits else scores)[:count], embedding[:count]


def _load(kind: str, content: bytes, frame: FrameSpec, where: str, device: torch.device) -> tuple[Run, int | None]:
    """What runs a program, and its batch where that is fixed."""
    run, given = (_load_onnx if kind == "onnx" else _load_pt2)(content, where, device)
    wanted = (3, frame.height, frame.width)
    fits = len(given) == 4 and all(has in (None, side) for has, side in zip(given[1:], wanted, strict=True))
    if not fits:
        takes = " x ".join("N" if side is None else str(side) for side in given)
        raise ModelError(
            f"{where}: the program takes images of {takes}; its .json says N x 3 x {wanted[1]} x {wanted[2]}"
        )
    return run, given[0]


# --- ONNX -----------------------------------------------------------------------------------------------------------


def _onnx_runs_on_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _load_onnx(content: bytes, where: str, device: torch.device) -> tuple[Run, tuple[int | None, ...]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # slices run side by side instead
    options.log_severity_level = 3
    providers = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    try:
        session = onnxruntime.InferenceSession(content, options, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no class
        raise ModelError(f"{where}: ONNX Runtime cannot load it: {_first_line(error)}") from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)":
        takes = ", ".join(f"{one.name} {one.type}" for one in inputs)
        raise ModelError(f"{where}: the program takes {takes}; wanted: one tensor(float)")

    def run(images_nchw: Tensor) -> list[Tensor]:
        try:
            found = session.run(None, {inputs[0].name: images_nchw.cpu().numpy()})
        except Exception as error:
            if _NO_MEMORY.search(str(error)):  # it has no exception for it
                raise torch.OutOfMemoryError(_first_line(error)) from error
            raise
        return [torch.from_numpy(output).to(device) for output in found]

    return run, tuple(side if isinstance(side, int) else None for side in inputs[0].shape)


_NO_MEMORY: Final = re.compile(r"(allocate|available) memory|out of memory", re.IGNORECASE)


# --- torch.export ---------------------------------------------------------------------------------------------------


def _load_pt2(content: bytes, where: str, device: torch.device) -> tuple[Run, tuple[int | None, ...]]:
    from torch.export.passes import move_to_device_pass

    _refuse_what_is_no_graph(content, where)
    try:
        program = torch.export.load(io.BytesIO(content))
        if device.type != "cpu":
            program = move_to_device_pass(program, device)
        module = program.module()
    except Exception as error:  # what the many parts of torch that read it raise has no common class
        raise ModelError(f"{where}: torch cannot load it: {_first_line(error)}") from error
    names = program.graph_signature.user_inputs
    images = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(names) != 1 or not isinstance(images[0], Tensor) or images[0].dtype != torch.float32:
        raise ModelError(f"{where}: the program takes {len(names)} inputs; wanted: one of float32")

    def run(images_nchw: Tensor) -> list[Tensor]:
        leaves = torch.utils._pytree.tree_leaves(module(images_nchw))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    return run, tuple(side if isinstance(side, int) else None for side in images[0].shape)


def _refuse_what_is_no_graph(content: bytes, where: str) -> None:
    """Raise ModelError for an archive with compiled code or pickles in it, which torch would run.

    The graph stays a program nevertheless, which torch trusts: a .pt2 of a stranger is not safe.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            told = b"".join(archive.read(name) for name in names if _PAYLOADS.search(name))
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, RuntimeError) as error:
        raise ModelError(f"{where}: not a program that torch.export.save wrote: {_first_line(error)}") from None
    for name in names:
        if not _OF_A_GRAPH.search(name):
            raise ModelError(f"{where}: holds {name!r}, which is no part of an exported graph and would be run")
    if not told:
        raise ModelError(f"{where}: not a program that torch.export.save wrote: it lists no weights")
    if _PICKLED.search(told):
        raise ModelError(f"{where}: holds pickled objects, which would be run; export plain tensors only")


_PAYLOADS: Final = re.compile(r"/data/(weights|constants)/\w+_config\.json$")
_OF_A_GRAPH: Final = re.compile(
    r"/(archive_format|archive_version|byteorder|\.data/\w+|models/\w+\.json|data/(weights|constants)/\w+_config\.json"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+|data/sample_inputs/\w+\.pt)$"
)
_PICKLED: Final = re.compile(rb'"use_pickle":\s*true')


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
