"""Classifiers of transformers, of images and of videos: a repository of the Hugging Face hub, or a folder laid out like
one, in; its labels and network out.

Read are config.json, the processor's JSON and model.safetensors and no other file: no pickle, and none of the Python
that a repository may bring along. The first two travel in a model's `details`; the library itself makes the network and
the processor (hf_processors.py) of them, so that it decides what they mean.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vidbatch import storage
from vidbatch.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG: Final = "config.json"
PROCESSOR: Final = "preprocessor_config.json"
VIDEO_PROCESSOR: Final = "video_preprocessor_config.json"
WEIGHTS: Final = "model.safetensors"

_ON_THE_HUB: Final = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")
_KINDS: Final = re.compile(r"\w+For(Image|Video)Classification(WithTeacher)?")
_OTHER_PROBLEMS: Final = ("multi_label_classification", "regression")


class Repository(NamedTuple):
    """What was read of a model: nothing of it needs torch."""

    kind: str
    """The class of transformers, such as ViTForImageClassification."""
    labels: tuple[str, ...] | None
    details: str
    """JSON: {"config": ..., "processor": ...}, the contents of the two files."""
    weights: bytes
    num_frames: int | None
    """That a video classifier looks at at once; None: one of images."""


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
            f"model: {_named(text)} is a {kind or 'model without architectures'}; allowed: classifiers of images or "
            "videos"
        )
    if config.get("problem_type") in _OTHER_PROBLEMS:
        raise ConfigError(
            f"model: {_named(text)} is made for {config['problem_type']}; allowed: single_label_classification"
        )
    num_frames = _num_frames(config, text) if is_of_videos(kind) else None
    processor = _processor_of(read, text, of_videos=num_frames is not None)
    for name in ("_name_or_path", "transformers_version"):  # where it was last, not what it is
        config.pop(name, None)
    details = json.dumps({"config": config, "processor": processor}, sort_keys=True)
    return Repository(kind, _labels(config, text), details, _weights(read, text), num_frames)


def is_of_videos(kind: str) -> bool:
    """Whether a class of transformers looks at several frames at once."""
    return "ForVideoClassification" in kind


class _Reader:
    """Reads files of one folder or prefix."""

    def __init__(self, place: str) -> None:
        self._place = os.path.expanduser(place)

    def __call__(self, name: str, *, is_optional: bool = False) -> bytes | None:  # noqa: ARG002  # as the other
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

    def __call__(self, name: str, *, is_optional: bool = False) -> bytes | None:
        """The file's content; None when there is none. Raises ConfigError.

        Args: out of the hub's reach, a file that `is_optional` and is not on this machine counts as none.
        """
        import huggingface_hub
        from huggingface_hub.errors import (
            EntryNotFoundError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        try:
            path = huggingface_hub.hf_hub_download(self._name, name, revision=self._revision)
        except LocalEntryNotFoundError as error:
            if is_optional:
                return None
            raise self._refused("is not on this machine, and the hub cannot be reached") from error
        except EntryNotFoundError:
            return None
        except RepositoryNotFoundError as error:
            raise self._refused("is not on the hub, or open only to those who log in there (hf auth login)") from error
        except RevisionNotFoundError as error:
            raise self._refused(f"is on the hub, without a revision {self._revision!r}") from error
        except (OSError, ValueError) as error:  # of the hub, or of this machine's disk
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


def _processor_of(read: _Reader | _HubReader, text: str, *, of_videos: bool) -> dict[str, Any]:
    """Video classifiers have a file of their own for it since transformers 5; most on the hub are older."""
    if of_videos and read(VIDEO_PROCESSOR, is_optional=True) is not None:
        return _json(read, VIDEO_PROCESSOR, text)
    return _json(read, PROCESSOR, text)


def _num_frames(config: Mapping[str, Any], text: str) -> int:
    found = config.get("num_frames", config.get("frames_per_clip"))  # the latter is V-JEPA's
    if not isinstance(found, int) or not 1 <= found <= 1024:
        raise ConfigError(
            f"model: {_named(text)}: num_frames of config.json is {found!r}; allowed: a number from 1 to 1024"
        )
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


# --- transformers itself --------------------------------------------------------------------------------------------


def make_module(details: str, weights: bytes, where: str) -> nn.Module:
    """The network with its weights, in eval mode and float32: logits N x C come out. Raises ModelError.

    In go images_nchw, or windows N x T x 3 x H x W of a video classifier.
    """
    import torch
    from torch import nn

    class Logits(nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model
            self.input_name: str = model.main_input_name

        def forward(self, images: Tensor) -> Tensor:
            try:
                logits: Tensor = self.model(**{self.input_name: images}).logits
            except (ValueError, RuntimeError) as error:  # of a size that is not the network's
                if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
                    raise
                takes = " x ".join(map(str, images.shape[1:]))
                raise ModelError(f"{where}: the network does not take {takes}: {_first_line(error)}") from error
            return logits

    if weights[8:9] != b"{":  # 8 bytes of length, then JSON
        raise ModelError(f"{where}: {WEIGHTS} is not a readable safetensors file")
    kind = "Video" if is_of_videos(json.loads(details)["config"]["architectures"][0]) else "Image"
    with _folder(details, weights) as folder:
        model, told = _from_library(
            f"AutoModelFor{kind}Classification", folder, where, dtype=torch.float32, use_safetensors=True,
            output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    for problem in ("missing_keys", "mismatched_keys"):
        for found in sorted(told[problem], key=str):
            name = found if isinstance(found, str) else found[0]
            what = "has no" if problem == "missing_keys" else "has another shape of"
            raise ModelError(f"{where}: {WEIGHTS} {what} {name!r}, which the network needs")
    return Logits(model).eval()


def make_processor(details: str, where: str) -> Any:
    """The model's own processor, of images or of videos. Raises ModelError."""
    kind = "Video" if is_of_videos(json.loads(details)["config"]["architectures"][0]) else "Image"
    with _folder(details) as folder:
        return _from_library(f"Auto{kind}Processor", folder, where)


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
