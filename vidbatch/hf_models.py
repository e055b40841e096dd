"""Image classifiers of transformers: a repository of the Hugging Face hub, or a folder laid out like one, in; its
labels, preprocessing and network out.

Read are config.json, preprocessor_config.json and model.safetensors and no other file: no pickle, and none of the
Python that a repository may bring along. The first two travel in a model's `details`; the library itself makes the
network and the processor of them, so that it decides what they mean.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

from vidbatch import storage
from vidbatch.bundles import Preprocessing, Rgb
from vidbatch.errors import ConfigError, ModelError
from vidbatch.schema import FrameSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG: Final = "config.json"
PROCESSOR: Final = "preprocessor_config.json"
WEIGHTS: Final = "model.safetensors"

TOLERANCE_LEVELS: Final = 1.0
TOLERANCE_PIXELS: Final = 1.0
"""By how much, of 255 levels, what a network sees of a smooth picture may differ from what its processor shows it: by
rounding, and by what the picture grows over this many of the network's pixels, where a crop begins between two."""

_ON_THE_HUB: Final = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")
_KINDS: Final = re.compile(r"\w+ForImageClassification(WithTeacher)?")
_RESAMPLING: Final[dict[int, Literal["lanczos", "bilinear", "bicubic"]]] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of what a FrameSpec knows too."""
_CONVNEXT_STRETCHES_FROM: Final = 384
"""Pixels; from this size on, processors with a `crop_pct` stretch pictures and crop none."""
_GROWTH: Final = 190
"""Levels from one side of the smooth picture to the other."""


class Repository(NamedTuple):
    """What was read of a model: nothing of it needs torch."""

    kind: str
    """The class of transformers, such as ViTForImageClassification."""
    labels: tuple[str, ...] | None
    details: str
    """JSON: {"config": ..., "processor": ...}, the contents of the two files."""
    weights: bytes


# --- find -----------------------------------------------------------------------------------------------------------


def read_repository(text: str) -> Repository:
    """The model at ORG/NAME or ORG/NAME@REVISION on the hub, or at a path that begins with . / ~ or a URL.

    Files of the hub are kept in its own cache, and taken from there where it cannot be reached. Raises ConfigError in
    one sentence: no such model, no image classifier, weights that are not one safetensors file.
    """
    if find_spec("transformers") is None:
        raise ConfigError("model: hf: models need the package transformers: pip install 'vidbatch[hf]'")
    read = _reader(text)
    config = _json(read, CONFIG, text)
    if config.get("auto_map"):
        raise ConfigError(
            f"model: {_named(text)}: its config.json names Python of its own (auto_map), which is not run"
        )
    kind = next(iter(config.get("architectures") or ()), None)
    if not isinstance(kind, str) or not _KINDS.fullmatch(kind):
        raise ConfigError(
            f"model: {_named(text)} is a {kind or 'model without architectures'}; allowed: image classifiers"
        )
    processor = _json(read, PROCESSOR, text)
    for name in ("_name_or_path", "transformers_version"):  # where it was last, not what it is
        config.pop(name, None)
    details = json.dumps({"config": config, "processor": processor}, sort_keys=True)
    return Repository(kind, _labels(config, text), details, _weights(read, text))


class _Reader:
    """Reads files of one folder or prefix."""

    def __init__(self, place: str) -> None:
        self._place = os.path.expanduser(place)

    def __call__(self, name: str) -> bytes | None:
        """The file's content; None when there is none. Raises ConfigError."""
        url = storage.join(self._place, name)
        try:
            return storage.read_bytes(url) if storage.exists(url) else None
        except OSError as error:
            raise ConfigError(f"model: {_named(url)} cannot be read: {error}") from error


class _HubReader:
    """Reads files of one commit of a repository of the hub: that of the first file it is asked for."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._name, _, revision = text.partition("@")
        self._revision = revision or None

    def __call__(self, name: str) -> bytes | None:
        """The file's content; None when there is none. Raises ConfigError."""
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            path = huggingface_hub.hf_hub_download(self._name, name, revision=self._revision)
        except LocalEntryNotFoundError as error:
            raise self._refused("is not on this machine, and the hub cannot be reached") from error
        except EntryNotFoundError:
            return None
        except (OSError, ValueError) as error:  # no such repository or revision, no access, no network
            raise self._refused(f"cannot be had: {_first_line(error)}") from error
        self._revision = os.path.basename(os.path.dirname(path))
        with open(path, "rb") as file:
            return file.read()

    def _refused(self, why: str) -> ConfigError:
        return ConfigError(
            f"model: hf:{self._text} {why}; fetch config.json, preprocessor_config.json and model.safetensors "
            "elsewhere and name the folder: hf:./FOLDER"
        )


def _reader(text: str) -> _Reader | _HubReader:
    if text.startswith((".", "/", "~")) or "://" in text:
        return _Reader(text)
    if not _ON_THE_HUB.fullmatch(text):
        raise ConfigError(
            f"model: 'hf:{_named(text)}' is not allowed: hf:ORG/NAME, hf:ORG/NAME@REVISION or hf:./FOLDER"
        )
    return _HubReader(text)


def _json(read: _Reader | _HubReader, name: str, text: str) -> dict[str, Any]:
    content = read(name)
    if content is None:
        raise ConfigError(f"model: {_named(text)} is not a model of transformers: it has no {name}")
    try:
        found = json.loads(content)
    except ValueError as error:
        raise ConfigError(f"model: {_named(text)}: {name} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"model: {_named(text)}: {name} must hold a JSON object")
    return found


def _labels(config: Mapping[str, Any], text: str) -> tuple[str, ...] | None:
    names = config.get("id2label")
    if names is None:
        return None
    try:
        by_number = {int(number): str(name) for number, name in names.items()}
    except (AttributeError, ValueError):
        by_number = {}
    if not by_number or sorted(by_number) != list(range(len(by_number))):
        raise ConfigError(f"model: {_named(text)}: id2label of config.json must name the classes 0, 1, 2 and so on")
    return tuple(by_number[number] for number in range(len(by_number)))


def _weights(read: _Reader | _HubReader, text: str) -> bytes:
    weights = read(WEIGHTS)
    if weights is not None:
        return weights
    if read(f"{WEIGHTS}.index.json") is not None:
        why = "are cut into several files; save_pretrained(..., max_shard_size='50GB') makes one"
    else:  # pickles are not even looked at
        why = f"are not there as {WEIGHTS}, the one form that is read; save_pretrained of transformers makes it"
    raise ConfigError(f"model: the weights of {_named(text)} {why}")


def _named(text: str) -> str:
    return storage.redact(text)


def _first_line(error: Exception) -> str:
    return storage.redact(str(error).strip().partition("\n")[0][:200]) or type(error).__name__


# --- preprocessing --------------------------------------------------------------------------------------------------


def ask_processor(details: str, where: str) -> Preprocessing:
    """What the model's own processor does, as our decoder and networks do it.

    Both are shown a smooth picture, upright and across, and have to agree (TOLERANCE_LEVELS). Raises ConfigError where
    they cannot (a size that depends on the picture, padding, channels in another order).
    """
    import torch

    processor = _processor(details, where)
    try:
        found = _preprocessing(processor)
    except _NotOurs as why:
        raise ConfigError(f"model: {where}: its processor, {type(processor).__name__}, {why}") from None
    for height, width in ((240, 320), (320, 240)):
        picture = _smooth_picture(height, width)
        theirs = cast("Tensor", processor(images=picture, return_tensors="pt")["pixel_values"])[0]
        ours = _as_seen(picture, found)
        apart = (theirs - ours).abs().amax((1, 2)) if theirs.shape == ours.shape else torch.full((3,), torch.inf)
        levels = float((apart * torch.tensor(found.std)).max()) * 255
        if not levels <= TOLERANCE_LEVELS + TOLERANCE_PIXELS * _GROWTH / min(found.frame[:2]):
            raise ConfigError(
                f"model: {where}: its processor, {type(processor).__name__}, does to pictures what cannot be done here "
                f"({levels:.3g} of 255 levels apart)"
            )
    return found


class _NotOurs(Exception):
    """The processor does what no Preprocessing says; the message goes on after its name."""


def _preprocessing(processor: Any) -> Preprocessing:
    def told(name: str) -> Any:
        return getattr(processor, name, None)

    if not told("do_resize"):
        raise _NotOurs("leaves pictures at their size")
    interpolation = _RESAMPLING.get(int(told("resample") or 0))
    if interpolation is None:
        raise _NotOurs(f"resamples by {told('resample')!r}; allowed: bilinear, bicubic, lanczos")
    size, crop = dict(told("size") or {}), dict(told("crop_size") or {}) if told("do_center_crop") else None
    frame = _frame(size, crop, told("crop_pct"))
    factor = (float(told("rescale_factor")) if told("do_rescale") else 1.0) * 255
    offset = 1.0 if told("do_rescale") and told("rescale_offset") else 0.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if told("do_normalize"):
        mean, std = _three(told("image_mean")), _three(told("image_std"))
    again = _three(told("image_std")) if told("include_top") else (1.0, 1.0, 1.0)
    return Preprocessing(
        frame._replace(interpolation=interpolation),
        cast(Rgb, tuple((offset + value) / factor for value in mean)),
        cast(Rgb, tuple(value * more / factor for value, more in zip(std, again, strict=True))),
    )


def _frame(size: Mapping[str, int], crop: Mapping[str, int] | None, crop_pct: float | None) -> FrameSpec:
    edge = size.get("shortest_edge")
    if edge and crop_pct:
        if edge >= _CONVNEXT_STRETCHES_FROM:
            return FrameSpec(edge, edge, 1.0, fit="stretch")
        return FrameSpec(edge, edge, edge / int(edge / crop_pct))
    if edge and set(size) == {"shortest_edge"}:
        if crop is None or crop["height"] != crop["width"]:
            raise _NotOurs("gives pictures whose size depends on their shape; allowed: a square crop")
        if crop["height"] > edge:
            raise _NotOurs(f"pads pictures of {edge} pixels to {crop['height']}")
        return FrameSpec(crop["height"], crop["width"], crop["height"] / edge)
    if set(size) != {"height", "width"}:
        raise _NotOurs(f"scales to {dict(size)}; allowed: shortest_edge, or height and width")
    if crop is None:
        return FrameSpec(size["height"], size["width"], 1.0, fit="stretch")
    share = crop["height"] / size["height"]
    if share > 1 or abs(share - crop["width"] / size["width"]) > 0.01:
        raise _NotOurs(f"crops {dict(crop)} of {dict(size)}; allowed: the same share of both")
    return FrameSpec(crop["height"], crop["width"], share, fit="stretch")


def _three(values: Any) -> Rgb:
    found = tuple(float(value) for value in ([values] * 3 if isinstance(values, int | float) else values or ()))
    if len(found) != 3:
        raise _NotOurs(f"has {len(found)} channels; allowed: 3")
    return found


def _smooth_picture(height: int, width: int) -> Tensor:
    """uint8 (3, height, width): its channels grow to the right, downwards and to the left."""
    import torch

    down = torch.linspace(20, 20 + _GROWTH, height).view(-1, 1).expand(height, width)
    right = torch.linspace(60, 60 + _GROWTH, width).expand(height, width)
    return torch.stack([right, down, 255 - right]).round().to(torch.uint8)


def _as_seen(picture: Tensor, how: Preprocessing) -> Tensor:
    """What a network sees of a picture of square pixels, float32 (3, H, W): the decoder's part of it, done by torch."""
    import torch

    rows, columns = picture.shape[-2:]
    height, width, share = how.frame[:3]
    if how.frame.fit == "stretch":
        part = round(rows * share), round(columns * share)
    else:
        scale = max(width / columns, height / rows) / share
        part = round(height / scale), round(width / scale)
    top, left = (rows - part[0]) // 2, (columns - part[1]) // 2
    cut = picture[None, :, top : top + part[0], left : left + part[1]].float()
    seen = torch.nn.functional.interpolate(cut, (height, width), mode="bilinear", antialias=True)[0]
    return (seen / 255 - torch.tensor(how.mean).view(3, 1, 1)) / torch.tensor(how.std).view(3, 1, 1)


# --- transformers itself --------------------------------------------------------------------------------------------


def make_module(details: str, weights: bytes, where: str) -> nn.Module:
    """The network with its weights, in eval mode and float32: images_nchw in, logits N x C out. Raises ModelError."""
    import torch
    from torch import nn

    class Logits(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, images_nchw: Tensor) -> Tensor:
            try:
                logits: Tensor = self.model(pixel_values=images_nchw).logits
            except ValueError as error:  # of a size that is not the network's
                takes = " x ".join(map(str, images_nchw.shape[1:]))
                raise ModelError(f"{where}: the network does not take {takes}: {_first_line(error)}") from error
            return logits

    if weights[8:9] != b"{":  # 8 bytes of length, then JSON
        raise ModelError(f"{where}: {WEIGHTS} is not a readable safetensors file")
    with _folder(details, weights) as folder:
        model, told = _from_library(
            "AutoModelForImageClassification", folder, where, dtype=torch.float32, use_safetensors=True,
            output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    for problem in ("missing_keys", "mismatched_keys"):
        for found in sorted(told[problem], key=str):
            name = found if isinstance(found, str) else found[0]
            what = "has no" if problem == "missing_keys" else "has another shape of"
            raise ModelError(f"{where}: {WEIGHTS} {what} {name!r}, which the network needs")
    return Logits(model).eval()


def _processor(details: str, where: str) -> Any:
    with _folder(details) as folder:
        return _from_library("AutoImageProcessor", folder, where)


def _from_library(name: str, folder: str, where: str, **options: Any) -> Any:
    """What a class of transformers makes of a folder, without a word, a download or a line of a stranger's Python."""
    import transformers

    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        made = getattr(transformers, name)
        return made.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:  # whatever it raises is about the files it was given
        raise ModelError(f"{where}: transformers cannot load it: {_first_line(error)}") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()


@contextmanager
def _folder(details: str, weights: bytes | None = None) -> Iterator[str]:
    """The files as the library wants them, on this machine's disk for as long as it reads them."""
    told = json.loads(details)
    with tempfile.TemporaryDirectory(prefix="vidbatch-") as folder:
        for name, content in (
            (CONFIG, json.dumps(told["config"]).encode()),
            (PROCESSOR, json.dumps(told["processor"]).encode()),
            (WEIGHTS, weights),
        ):
            if content is not None:
                with open(os.path.join(folder, name), "wb") as file:
                    file.write(content)
        yield folder
