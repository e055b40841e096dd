"""Exported programs: FILE.onnx or FILE.pt2, and FILE.json beside it, in; what is known without torch of them, out.

A program takes float32 images N x 3 x H x W, with N fixed or not, and gives scores N x C; a second output N x D, if it
has one, is the embedding. The JSON holds a ProgramConfig. program_networks.py runs them.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any, Final, Literal, NamedTuple

from pydantic import Field

from vidbatch import storage
from vidbatch.bundles import PictureSpec, Rgb, read_spec
from vidbatch.config import LabelConfig
from vidbatch.errors import ConfigError, ModelError

Kind = Literal["onnx", "pt2"]
KINDS: Final[tuple[Kind, ...]] = ("onnx", "pt2")
_EXAMPLE: Final = '{"labels": ["cat", "dog"], "height": 224, "width": 224, "mean": [0, 0, 0], "std": [1, 1, 1]}'


class ProgramConfig(PictureSpec):
    """FILE.json: as of a bundle, but that no mean and std can be guessed."""

    mean: Rgb = Field()
    std: Rgb = Field()
    scores: Literal["logits", "probabilities"] = "logits"
    """What the program gives; of logits the softmax is taken."""


class Program(NamedTuple):
    """What was read of a program."""

    kind: Kind
    config: ProgramConfig
    content: bytes
    """The whole program: weights that an ONNX file keeps in other files are in it."""


def is_program(text: str) -> bool:
    """Whether a model's name is that of such a file."""
    return text.endswith((".onnx", ".pt2"))


def read_program(place: str) -> Program:
    """The program at a path or URL, and what stands beside it. Raises ConfigError in one sentence."""
    place = os.path.expanduser(place.removeprefix("file:") if not place.startswith("file://") else place)
    base, _, suffix = place.rpartition(".")
    kind: Kind = "onnx" if suffix == "onnx" else "pt2"
    if kind == "onnx" and (find_spec("onnx") is None or find_spec("onnxruntime") is None):
        raise ConfigError("model: .onnx models need the packages onnx and onnxruntime: pip install 'vidbatch[onnx]'")
    content = _read(place, "")
    sidecar = f"{base}.json"
    config = read_spec(
        ProgramConfig, _read(sidecar, f", which says what the program sees, such as {_EXAMPLE}"), sidecar
    )
    return Program(kind, config, _whole(content, place) if kind == "onnx" else content)


def check_settings(architecture: str, name: str, config: LabelConfig) -> None:
    """Raise ConfigError for what the installed ONNX Runtime cannot do, and for what no program lets one choose."""
    if architecture in KINDS and (config.precision != "auto" or config.compile):
        chosen = f"precision: {config.precision!r}" if config.precision != "auto" else "compile: True"
        raise ConfigError(f"{chosen} is not allowed: {name!r} computes as it was exported; leave it out")
    if architecture == "onnx" and config.device == "cuda":
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise ConfigError(
                "device: 'cuda' is not allowed: the installed onnxruntime runs on CPUs only; install onnxruntime-gpu "
                "in its place, or choose auto or cpu"
            )


def _read(place: str, about: str) -> bytes:
    try:
        return storage.read_bytes(place)
    except OSError as error:
        raise ConfigError(f"model: {storage.redact(place)!r} cannot be read: {error}{about}") from error


def _whole(content: bytes, place: str) -> bytes:
    """An ONNX file with the weights that it keeps in files beside it taken in. Raises ConfigError and ModelError."""
    import onnx
    from google.protobuf.message import DecodeError

    named = storage.redact(place)
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelError(f"{named}: not a readable ONNX file: {error}") from None
    if not model.graph.node:
        raise ModelError(f"{named}: not a readable ONNX file: it holds no program")
    files: dict[str, bytes] = {}
    for tensor in onnx.external_data_helper._get_all_tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _take_in(tensor, place, files)
    try:
        return bytes(model.SerializeToString()) if files else content
    except ValueError as error:  # protobuf's limit of 2 GB
        raise ModelError(f"{named}: too large: {error}") from None


def _take_in(tensor: Any, place: str, files: dict[str, bytes]) -> None:
    told = {entry.key: entry.value for entry in tensor.external_data}
    name = told.get("location", "")
    if not name or name != os.path.basename(name) or name == "..":  # of a stranger's file: nowhere but beside it
        raise ConfigError(f"model: {storage.redact(place)!r} keeps weights in {name!r}; allowed: files beside it")
    if name not in files:
        folder, slash, _ = place.rpartition("/")
        files[name] = _read(f"{folder}{slash}{name}", ", where the program keeps its weights")
    start = int(told.get("offset") or 0)
    length = int(told["length"]) if told.get("length") else len(files[name]) - start
    if not 0 <= start <= start + length <= len(files[name]):
        raise ModelError(f"{storage.redact(place)}: its weights reach beyond the end of {name!r}")
    tensor.raw_data = files[name][start : start + length]
    del tensor.external_data[:]
    tensor.data_location = 0
