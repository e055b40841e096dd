"""What libraries publish: a model that was found without a file or a recipe in; its weights and preprocessing out.

Asks torchvision, timm or transformers, which import torch; called by models.load_spec in the driver alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vidbatch import storage
from vidbatch.bundles import HALF, Preprocessing
from vidbatch.errors import ConfigError
from vidbatch.schema import FrameSpec

if TYPE_CHECKING:
    from vidbatch.models import ModelRef


def download(ref: ModelRef) -> bytes:
    """The weights as safetensors. Raises ConfigError that says where to fetch them by other means."""
    from vidbatch.networks import to_safetensors

    library, _, name = ref.architecture.partition(":")
    if library == "timm":
        import timm

        if not timm.is_model_pretrained(name):
            network = name.partition(".")[0]
            allowed = ", ".join([*timm.list_models(f"{network}.*", pretrained=True), f"timm:{network}@PATH"])
            raise ConfigError(f"model: timm publishes no weights {name!r}; allowed: {allowed}")
        with _downloading(ref, "the file its model card names"):
            return to_safetensors(timm.create_model(name, pretrained=True).state_dict())
    import torchvision

    assert ref.published is not None, f"{ref.name} has neither weights nor a place to download them from"
    member = torchvision.models.get_model_weights(name)[ref.published.member]
    with _downloading(ref, ref.published.url):
        return to_safetensors(member.get_state_dict(progress=False, check_hash=True))


@contextmanager
def _downloading(ref: ModelRef, url: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:  # no network, a wrong hash, a name the hub does not have
        reason = storage.redact(str(error).strip().partition("\n")[0][:200])
        architecture = ref.architecture.removeprefix("torchvision:")
        raise ConfigError(
            f"model: the weights {ref.name!r} cannot be downloaded here ({reason}): fetch {url} elsewhere and name "
            f"the file: {architecture}@PATH"
        ) from error


def ask_library(ref: ModelRef) -> Preprocessing:
    """What the library that made a model shows it. Raises ConfigError for what our decoder cannot do."""
    library, _, name = ref.architecture.partition(":")
    if library == "timm":
        return _ask_timm(name)
    if library == "transformers":
        from vidbatch import hf_processors

        return hf_processors.ask_processor(ref.details, ref.name)
    import torchvision

    assert ref.published is not None, f"{ref.name} has no published weights to ask about"
    recipe: Any = torchvision.models.get_model_weights(name)[ref.published.member].transforms()
    (crop,), (resize,) = recipe.crop_size, recipe.resize_size
    mean, std = tuple(recipe.mean), tuple(recipe.std)
    if name in ("googlenet", "inception_v3"):
        # Their published weights come with transform_input=True, which turns ImageNet's mean and std into these.
        mean = std = HALF
    return Preprocessing(FrameSpec(crop, crop, crop / resize, _interpolation(recipe.interpolation.value)), mean, std)


def _ask_timm(name: str) -> Preprocessing:
    import timm

    how = timm.data.resolve_model_data_config(timm.create_model(name, pretrained=False))
    _, height, width = how["input_size"]
    frame = FrameSpec(height, width, float(how["crop_pct"]), _interpolation(how["interpolation"]))
    return Preprocessing(frame, tuple(how["mean"]), tuple(how["std"]))


def _interpolation(name: str) -> Any:
    return name if name in ("bilinear", "bicubic", "lanczos") else "bicubic"
