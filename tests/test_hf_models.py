"""Models of transformers: what its own processor and network say is what `label` says, or one clear sentence."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from clips import LazyClips
from PIL import Image
from servers import MotoServer

from vidbatch import hf_processors, models, storage
from vidbatch.bundles import Preprocessing
from vidbatch.decode import read_frames
from vidbatch.errors import ConfigError, ModelError
from vidbatch.models import find_model, load_spec
from vidbatch.networks import build
from vidbatch.schema import FrameSpec

transformers = pytest.importorskip("transformers")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LABELS = ("ant", "bee", "cow", "dog", "elk")
NAMES = {"num_labels": 5, "id2label": dict(enumerate(LABELS))}
SIDE = 64
HALF = [0.5] * 3
SQUARE = {"height": SIDE, "width": SIDE}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def save(folder: Path, model: Any, processor: Any) -> Path:
    """A model of random weights, whose last layer is made to tell pictures apart."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("classifier") and weight.ndim == 2:
                weight.mul_(20)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_vit(folder: Path, seed: int = 0, processor: Any = None) -> Path:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(image_size=SIDE, patch_size=16, **sizes, **NAMES)
    processor = processor or transformers.ViTImageProcessor(size=SQUARE)
    return save(folder, transformers.ViTForImageClassification(config), processor)


def make_resnet(folder: Path) -> Path:
    torch.manual_seed(1)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **NAMES
    )
    return save(
        folder,
        transformers.ResNetForImageClassification(config),
        transformers.ConvNextImageProcessor(size={"shortest_edge": 224}),
    )


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vit(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_resnet(tmp_path_factory.mktemp("resnet"))


@pytest.fixture
def copy(vit: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(vit, tmp_path / "vit"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --- the same answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_scores_are_those_of_the_librarys_own_pipeline(
    name: str, clips: LazyClips, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(name)
    spec, weights = load_spec(find_model(f"hf:{folder}"))
    assert spec.labels == LABELS
    ours, _, _ = read_frames(clips["bikes.mp4"], sampling="count=5", size=spec.frame)
    scores, embeddings = build(spec, weights, num_threads=2)(torch.from_numpy(ours))
    assert embeddings.shape == (5, spec.embedding_size)

    pictures = [Image.fromarray(frame) for frame in read_frames(clips["bikes.mp4"], sampling="count=5")[0]]
    pipeline = transformers.pipeline("image-classification", str(folder), device="cpu", dtype="float32")
    said = [{entry["label"]: entry["score"] for entry in one} for one in pipeline(pictures, top_k=5)]
    expected = torch.tensor([[one[label] for label in LABELS] for one in said])
    seen = pipeline.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
    assert_same_pixels(ours, seen, spec)
    assert (scores - expected).abs().max() < 0.005
    assert expected.std(0).max() > 0.005  # the frames are told apart


def assert_same_pixels(ours: Any, theirs: torch.Tensor, spec: Any) -> None:
    """Ours are uint8 (..., H, W, 3), theirs normalised (..., 3, H, W).

    We scale the planes of the video and convert what comes out; they convert, then scale: both round at each step, and
    colours, of which a video holds a quarter, are made more at another moment. Shown a picture one pixel aside they
    would be 3 to 8 levels apart on average here.
    """
    std, mean = (torch.tensor(values).view(3, 1, 1) for values in (spec.std, spec.mean))
    levels = ((theirs * std + mean) * 255 - torch.from_numpy(ours.copy()).movedim(-1, -3)).abs()
    assert levels.mean() < 0.5
    assert levels.flatten().kthvalue(int(0.99 * levels.numel())).values <= 2.5


def test_of_the_same_pixels_scores_and_embeddings_are_the_models_own(vit: Path) -> None:
    spec, weights = load_spec(find_model(f"hf:{vit}"))
    frames = torch.randint(0, 256, (3, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scores, embeddings = build(spec, weights)(frames)
    model = transformers.AutoModelForImageClassification.from_pretrained(vit).eval()
    with torch.inference_mode():
        images = (frames.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
        expected = model(pixel_values=images, output_hidden_states=True)
        features = model.vit.layernorm(expected.hidden_states[-1])[:, 0]
    assert (scores - expected.logits.softmax(1)).abs().max() < 1e-5
    assert (embeddings - features).abs().max() < 1e-4


def details_of(processor: Any) -> str:
    config = {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
    return json.dumps({"config": config, "processor": processor.to_dict()})


PROCESSORS: dict[str, tuple[Callable[[], Any], FrameSpec, float, float]] = {
    "stretched": (
        lambda: transformers.ViTImageProcessor(size=SQUARE, resample=3),
        FrameSpec(64, 64, 1.0, "bicubic", "stretch"), 0.5, 0.5,
    ),
    "cropped": (
        lambda: transformers.CLIPImageProcessor(
            size={"shortest_edge": 80}, crop_size=SQUARE, image_mean=[0.1] * 3, image_std=[0.2] * 3
        ),
        FrameSpec(64, 64, 0.8, "bicubic", "scale_then_crop"), 0.1, 0.2,
    ),
    "cropped by a share": (
        lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 224}, image_std=[1] * 3, image_mean=HALF),
        FrameSpec(224, 224, 224 / 256, "bicubic", "scale_then_crop"), 0.5, 1.0,
    ),
    "a share that is too large to crop": (
        lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 384}, image_std=[1] * 3, image_mean=HALF),
        FrameSpec(384, 384, 1.0, "bicubic", "stretch"), 0.5, 1.0,
    ),
    "cropped to another shape than it was scaled to": (
        lambda: transformers.CLIPImageProcessor(
            size={"shortest_edge": 96}, crop_size={"height": 64, "width": 80}, image_mean=HALF, image_std=HALF
        ),
        FrameSpec(64, 80, 64 / 96, "bicubic", "scale_then_crop"), 0.5, 0.5,
    ),
    "stretched, then cropped": (
        lambda: transformers.CLIPImageProcessor(
            size={"height": 80, "width": 80}, crop_size=SQUARE, image_mean=HALF, image_std=HALF
        ),
        FrameSpec(64, 64, 0.8, "bicubic", "stretch"), 0.5, 0.5,
    ),
    "from -1 to 1, normalised twice": (
        lambda: transformers.EfficientNetImageProcessor(size=SQUARE, rescale_factor=1 / 127.5, rescale_offset=True),
        FrameSpec(64, 64, 1.0, "bicubic", "stretch"), 0.75, 0.125,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PROCESSORS)
def test_preprocessing_is_the_processors(what: str) -> None:
    make, frame, mean, std = PROCESSORS[what]
    found = hf_processors.ask_processor(details_of(make()), "it")
    assert found.frame[:2] + found.frame[3:] == frame[:2] + frame[3:]
    assert found.frame.crop_share == pytest.approx(frame.crop_share)
    assert found.mean == pytest.approx((mean,) * 3)
    assert found.std == pytest.approx((std,) * 3)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: transformers.MobileViTImageProcessor(size={"shortest_edge": 72}, crop_size=SQUARE), "cannot be done"),
        (lambda: transformers.DetrImageProcessor(), "scales to {'longest_edge': 1333, 'shortest_edge': 800}"),
        (lambda: transformers.ViTImageProcessor(size=SQUARE, resample=0), "resamples by"),
        (lambda: transformers.ViTImageProcessor(size=SQUARE, do_resize=False), "leaves pictures at their size"),
        (
            lambda: transformers.CLIPImageProcessor(size={"shortest_edge": 60}, crop_size=SQUARE),
            "pads pictures of 60 pixels to 64",
        ),
        (
            lambda: transformers.CLIPImageProcessor(size={"shortest_edge": 60}, do_center_crop=False),
            "whose size depends on their shape",
        ),
    ],
)
def test_preprocessing_that_cannot_be_done_here_is_refused(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        hf_processors.ask_processor(details_of(make()), "hf:it")
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("model: hf:it: its processor, ")


# --- what is read ---------------------------------------------------------------------------------------------------


def test_a_model_is_found_without_torch_and_known_by_its_weights(copy: Path, tmp_path: Path) -> None:
    first = find_model(f"hf:{copy}")
    assert first.labels == LABELS
    moved = Path(shutil.move(copy, tmp_path / "elsewhere"))
    assert find_model(f"hf:{moved}").digest == first.digest
    make_vit(moved, seed=2)
    assert find_model(f"hf:{moved}").digest != first.digest
    make_vit(moved)
    edit(moved / "preprocessor_config.json", image_mean=[0.4, 0.5, 0.5])
    assert find_model(f"hf:{moved}").digest != first.digest
    code = f"import sys; from vidbatch.models import *; find_model('hf:{moved}'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_digests_of_other_models_stay_what_they_were() -> None:
    how = Preprocessing(FrameSpec(8, 8), (0.5,) * 3, (0.5,) * 3)
    stretched = how._replace(frame=how.frame._replace(fit="stretch"))
    digests = [
        models._ref(name="a", architecture="stamp", weights=b"", preprocessing=one).digest for one in (how, stretched)
    ]
    assert digests[0] == "7a6957fd92e5653327db46f46c159377e5767db4012d6bda201959ded4801535"
    assert digests[1] != digests[0]


def test_models_are_read_from_s3(vit: Path, moto_s3: MotoServer) -> None:
    bucket = moto_s3()
    for path in vit.iterdir():
        storage.put(f"{bucket}/models/vit/{path.name}", path.read_bytes())
    assert find_model(f"hf:{bucket}/models/vit").digest == find_model(f"hf:{vit}").digest


def test_a_model_of_the_hub_is_read_from_its_cache_where_the_hub_is_out_of_reach(vit: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--zoo--vit"
    shutil.copytree(vit, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    names = ["hf:zoo/vit", f"hf:zoo/vit@{COMMIT}", "hf:zoo/vit@v2", "hf:zoo/yak"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    first, second, *refused = digests(names, environment)
    assert first == second == find_model(f"hf:{vit}").digest
    for name, line in zip(names[2:], refused, strict=True):
        assert line.startswith(f"model: {name} is not on this machine, and the hub cannot be reached")
        assert line.endswith("hf:./FOLDER")


def test_a_model_is_fetched_from_a_hub_and_kept(vit: Path, tmp_path: Path) -> None:
    with hub({"zoo/vit": vit}) as endpoint:
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        found, missing, revision = digests(["hf:zoo/vit", "hf:zoo/yak", "hf:zoo/vit@v2"], environment)
    assert found == find_model(f"hf:{vit}").digest
    assert missing.startswith("model: hf:zoo/yak is not on the hub, or open only to those who log in there")
    assert revision.startswith("model: hf:zoo/vit@v2 is on the hub, without a revision 'v2'")
    assert digests(["hf:zoo/vit"], {**environment, "HF_HUB_OFFLINE": "1"}) == [found]


def digests(names: list[str], environment: dict[str, str]) -> list[str]:
    """What a new process says of models: their digests, or why not."""
    code = (
        "from vidbatch.models import *\n"
        f"for name in {names}:\n"
        "    try: print(find_model(name, sampling='fps=1').digest)\n"
        "    except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.splitlines()


@contextmanager
def hub(repositories: dict[str, Path]) -> Iterator[str]:
    """Serves folders as the Hugging Face hub serves repositories; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            repository, _, name = self.path.strip("/").partition("/resolve/")
            revision, _, file = name.partition("/")
            path = repositories.get(repository, Path()) / file
            missing = "Repo" if repository not in repositories else "Entry" if not path.is_file() else ""
            missing = missing or ("" if revision in ("main", COMMIT) else "Revision")
            if missing:
                self.send_response(404)
                self.send_header("X-Error-Code", f"{missing}NotFound")
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = path.read_bytes()
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def do_GET(self) -> None:
            self.do_HEAD()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


# --- what is refused ------------------------------------------------------------------------------------------------


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def sharded(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda f: (f / "config.json").unlink(), "is not a model of transformers: it has no config.json"),
    "no processor": (lambda f: (f / "preprocessor_config.json").unlink(), "it has no preprocessor_config.json"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json is not valid JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "config.json must hold a JSON object"),
    "another task": (
        lambda f: edit(f / "config.json", architectures=["BertForMaskedLM"]),
        "is a BertForMaskedLM; allowed: classifiers of images or videos",
    ),
    "code of its own": (
        lambda f: edit(f / "config.json", auto_map={"AutoModel": "code.Model"}),
        "names Python of its own (auto_map), which is not run",
    ),
    "several labels at once": (
        lambda f: edit(f / "config.json", problem_type="multi_label_classification"),
        "is made for multi_label_classification; allowed: single_label_classification",
    ),
    "labels with a gap": (
        lambda f: edit(f / "config.json", id2label={"0": "a", "2": "b"}),
        "must name the classes 0, 1",
    ),
    "pickles": (pickled, "are not there as model.safetensors, the one form that is read"),
    "shards": (sharded, "are cut into several files"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_folder_that_is_no_such_model_is_one_sentence(copy: Path, what: str) -> None:
    spoil, sentence = WRONG[what]
    spoil(copy)
    with pytest.raises(ConfigError) as caught:
        find_model(f"hf:{copy}")
    assert sentence in str(caught.value)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: edit(f / "config.json", hidden_size=64), "has another shape of 'classifier.weight'"),
        (lambda f: edit(f / "config.json", num_hidden_layers=3), "has no 'vit.layers.2."),
        (lambda f: edit(f / "config.json", model_type="alpaca"), "transformers cannot load it"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x02."), "is not a readable safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"12345678{" + bytes(99)), "transformers cannot load it"),
        (lambda f: edit(f / "config.json", id2label={"0": "a", "1": "b"}), "has another shape of 'classifier"),
        (lambda f: edit(f / "preprocessor_config.json", size={"height": 32, "width": 32}), "does not take 3 x 32 x 32"),
    ],
)
def test_weights_that_do_not_fit_are_one_sentence(copy: Path, spoil: Callable[[Path], object], sentence: str) -> None:
    spoil(copy)
    with pytest.raises(ModelError) as caught:
        load_spec(find_model(f"hf:{copy}"))
    assert sentence in str(caught.value)
    assert f"hf:{copy}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["hf:", "hf:a/b/c", "hf:a b", "hf:a/b@", "hf:s3://u:p@b/c"])
def test_a_name_that_cannot_be_one_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_model(text)
    assert "hf:ORG/NAME" in str(caught.value) or "credentials" in str(caught.value)


def test_a_folder_of_transformers_named_as_a_bundle_says_how_to_name_it(vit: Path) -> None:
    with pytest.raises(ConfigError, match=rf"is a model of transformers, not a bundle: name it as hf:{vit}"):
        find_model(f"file:{vit}")
