"""Which networks exist: names in; what is installed, which published weights it has, close matches for a typo out.

Reads the sources of torchvision and timm instead of importing them: the names are known in milliseconds, while an
import would load torch (seconds), also for a run that finds nothing to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from vidbatch.errors import ConfigError

LITE0: Final = "efficientnet-lite0"
STAMP: Final = "stamp"
OURS: Final = (LITE0, STAMP)
"""Networks defined in networks.py; all others come from torchvision or timm."""

_REGISTERED = re.compile(r'^@register_model(?:\((?:name="(\w+)")?\))?\n.*?^def (\w+)\(', re.M | re.S)
_MEMBER = re.compile(r"^    ([A-Z]\w*) = (\w+)(.*?)(?=^    [A-Z]\w* = |\Z)", re.M | re.S)


class PublishedWeights(NamedTuple):
    """Weights that torchvision publishes: the enum member's name and where they can be downloaded."""

    member: str
    url: str


def known_architecture(text: str) -> str:
    """The full name of a network (`resnet18` -> `torchvision:resnet18`).

    Raises ConfigError for a name nobody knows (with the closest ones), for a network that does not take single images,
    and for timm: names where timm is not installed.
    """
    library, separator, name = text.rpartition(":")
    if not separator and name in OURS:
        return name
    if library == "timm":
        if name.partition(".")[0] not in timm_names():
            raise ConfigError(f"model: timm has no network {name!r}{_closest(name, timm_names())}")
        return f"timm:{name}"
    if library not in ("", "torchvision"):
        raise ConfigError(f"model: {text!r} is not allowed: before the colon stands torchvision, timm, hf or file")
    task = torchvision_tasks().get(name)
    if task is None:
        images = [known for known, task in torchvision_tasks().items() if task == "image"]
        raise ConfigError(f"model: there is no {name!r}{_closest(name, [*OURS, *images])}")
    if task != "image":
        raise ConfigError(f"model: {name!r} is a {task} model; label takes image models only, such as resnet50")
    return f"torchvision:{name}"


def torchvision_weights(name: str) -> dict[str, PublishedWeights]:
    """The weights torchvision publishes for a network, by name; DEFAULT and other aliases name their target."""
    text = _sources("torchvision")[name].read_text()
    enum = re.search(rf"^def {name}\(\s*\*,\s*weights: Optional\[(\w+)\]", text, re.M)
    body = enum and re.search(rf"^class {enum[1]}\(WeightsEnum\):\n(.*?)(?=^\S)", text, re.M | re.S)
    found: dict[str, PublishedWeights] = {}
    for member, value, rest in _MEMBER.findall(body[1] if body else ""):
        url = re.search(r'url="([^"]+)"', rest)
        if value == "Weights" and url:
            found[member] = PublishedWeights(member, url[1])
        elif value in found:
            found[member] = found[value]
    return found


def torchvision_tasks() -> dict[str, str]:
    """What each torchvision network is for: image, video, detection, segmentation, optical_flow, quantization."""
    return {name: _task(path) for name, path in _sources("torchvision").items()}


def _task(path: Path) -> str:
    return "image" if path.parent.name == "models" else path.parent.name


def timm_names() -> Collection[str]:
    """All networks of the installed timm. Raises ConfigError with the way to install it where there is none."""
    if find_spec("timm") is None:
        raise ConfigError("model: timm: models need the package timm: pip install 'vidbatch[timm]'")
    return _sources("timm").keys()


def installed_version(library: str) -> str:
    """Version of the installed library (torchvision or timm), which fixes the weights its names stand for."""
    return version(library)


@cache
def _sources(library: str) -> dict[str, Path]:
    spec = find_spec(library)
    assert spec is not None, f"{library} is not installed"
    assert spec.origin is not None, f"{library} is not a package of files"
    found = {}
    for path in sorted((Path(spec.origin).parent / "models").rglob("*.py")):
        for name, function in _REGISTERED.findall(path.read_text()):
            found[name or function] = path
    return found


def _closest(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
    if not close:
        return f"; allowed: {LITE0}, torchvision names (resnet50), timm:NAME, hf:ORG/NAME, file:DIR or an s3:// bundle"
    return f"; did you mean {' or '.join(close)}?"
