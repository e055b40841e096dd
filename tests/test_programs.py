"""Exported programs: a file of ONNX or torch.export labels as the module it was made of, or says why not."""

from __future__ import annotations

import io
import json
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from clips import LazyClips
from torch import nn

import vidbatch
from vidbatch.decode import read_frames
from vidbatch.errors import ConfigError, ModelError
from vidbatch.models import find_model, load_spec
from vidbatch.networks import build
from vidbatch.program_networks import ProgramNetwork
from vidbatch.schema import FrameSpec

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

HEIGHT, WIDTH = 64, 96
SIDECAR: dict[str, Any] = {
    "labels": ["ant", "bee", "cow"], "height": HEIGHT, "width": WIDTH, "crop_share": 1.0, "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.4],
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


class TwoOutputs(nn.Module):
    """Scores and, if wanted, what enters the last layer; the body is a part of torchvision's SqueezeNet."""

    def __init__(self, *, seed: int = 0, embeds: bool = False, softmax: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = torchvision.models.squeezenet1_1().features[:4]
        self.head = nn.Linear(128, 3)
        nn.init.normal_(self.head.weight, std=2.0)
        self.embeds, self.softmax = embeds, softmax

    def forward(self, images: torch.Tensor) -> Any:
        features = self.body(images).mean((2, 3))
        scores = self.head(features)
        scores = scores.softmax(1) if self.softmax else scores
        return (scores, features) if self.embeds else scores


def export(path: Path, module: nn.Module, *, batch: int | None = None, sidecar: dict[str, Any] | None = None) -> Path:
    """Args: `batch` is fixed in the program; None: it takes any."""
    example = (torch.randn(batch or 2, 3, HEIGHT, WIDTH),)
    if path.suffix == ".pt2":
        dynamic = None if batch else ({0: torch.export.Dim("n")},)
        torch.export.save(torch.export.export(module.eval(), example, dynamic_shapes=dynamic), path)
    else:
        axes = {} if batch else {"images": {0: "n"}}
        with warnings.catch_warnings(action="ignore"):  # the exporter without dynamo, in a tenth of the time
            torch.onnx.export(module.eval(), example, path, dynamo=False, input_names=["images"], dynamic_axes=axes)
    path.with_suffix(".json").write_text(json.dumps(SIDECAR if sidecar is None else sidecar))
    return path


@pytest.fixture(scope="module", params=["onnx", "pt2"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    return export(folder / f"model.{request.param}", TwoOutputs(embeds=True))


@pytest.fixture
def copy(program: Path, tmp_path: Path) -> Path:
    shutil.copy(program.with_suffix(".json"), tmp_path)
    return Path(shutil.copy(program, tmp_path))


def expected(module: nn.Module, frames_nhwc: torch.Tensor) -> Any:
    images = torchvision.transforms.functional.normalize(
        frames_nhwc.permute(0, 3, 1, 2) / 255, SIDECAR["mean"], SIDECAR["std"]
    )
    with torch.inference_mode():
        return module.eval()(images)


def test_scores_and_embeddings_of_real_frames_are_the_modules_own(program: Path, clips: LazyClips) -> None:
    spec, content = load_spec(find_model(str(program)))
    assert (spec.labels, spec.frame) == (("ant", "bee", "cow"), FrameSpec(HEIGHT, WIDTH, 1.0))
    frames = torch.from_numpy(read_frames(clips["carphone.mp4"], sampling="count=9", size=spec.frame)[0])
    logits, features = expected(TwoOutputs(embeds=True), frames)
    for num_threads in (1, 2):
        scores, embeddings = build(spec, content, num_threads=num_threads)(frames)
        assert (scores - logits.softmax(1)).abs().max() < 1e-4
        assert embeddings.shape == (9, spec.embedding_size) == (9, 128)
        assert (embeddings - features).abs().max() < 1e-3 * features.abs().max()


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_a_fixed_batch_is_filled_up_and_probabilities_stay_as_they_are(tmp_path: Path, suffix: str) -> None:
    module = TwoOutputs(softmax=True)
    path = export(tmp_path / f"m.{suffix}", module, batch=3, sidecar={**SIDECAR, "scores": "probabilities"})
    spec, content = load_spec(find_model(f"file:{path}"))
    assert spec.embedding_size == 0
    frames = torch.randint(0, 256, (4, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    scores, embeddings = build(spec, content)(frames)
    assert (scores - expected(module, frames)).abs().max() < 1e-4
    assert embeddings.shape == (4, 0)


def test_a_gpu_without_memory_is_not_taken_for_a_program_that_is_wrong(program: Path) -> None:
    def run(images_nchw: torch.Tensor) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    spec, _ = load_spec(find_model(str(program)))
    network = ProgramNetwork(spec, run, None, torch.device("cpu"), 1)
    with pytest.raises(torch.OutOfMemoryError):  # by which classify.py tries smaller batches
        network(torch.zeros((2, HEIGHT, WIDTH, 3), dtype=torch.uint8))


def test_weights_that_an_onnx_file_keeps_beside_it_are_read_and_travel_along(tmp_path: Path) -> None:
    whole = export(tmp_path / "whole.onnx", TwoOutputs())
    split = tmp_path / "split.onnx"
    onnx.save_model(onnx.load(whole), split, save_as_external_data=True, location="split.onnx.data", size_threshold=0)
    shutil.copy(whole.with_suffix(".json"), split.with_suffix(".json"))
    frames = torch.randint(0, 256, (2, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    of_both = [build(*load_spec(find_model(str(path))))(frames)[0] for path in (whole, split)]
    assert torch.equal(*of_both)
    digest = find_model(str(split)).digest
    data = bytearray((tmp_path / "split.onnx.data").read_bytes())
    data[100] ^= 1
    (tmp_path / "split.onnx.data").write_bytes(data)
    assert find_model(str(split)).digest != digest
    (tmp_path / "split.onnx.data").unlink()
    with pytest.raises(
        ConfigError, match=r"split\.onnx\.data' cannot be read: .*, where the program keeps its weights"
    ):
        find_model(str(split))


def test_weights_elsewhere_than_beside_an_onnx_file_are_not_read(tmp_path: Path) -> None:
    path = export(tmp_path / "m.onnx", TwoOutputs())
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ConfigError, match=r"keeps weights in '\.\./secret'; allowed: files beside it"):
        find_model(str(path))


@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
def test_label_goes_on_where_it_was_and_begins_anew_with_another_program(tmp_path: Path, clips: LazyClips) -> None:
    def label(**settings: Any) -> Any:
        return vidbatch.label(clips["carphone.mp4"], output=tmp_path / "out", model=str(path), **settings)

    path = export(tmp_path / "m.onnx", TwoOutputs())
    with pytest.raises(ConfigError, match=r"embedding: True is not allowed: .* gives scores alone, no second output"):
        label(embedding=True)
    with pytest.raises(ConfigError, match=r"device: 'cuda' is not allowed"):
        label(device="cuda")
    first = label().videos.to_arrow().to_pylist()[0]
    assert first["status"] == "ok"
    assert {entry["label"] for entry in first["top_k"]} == {"ant", "bee", "cow"}
    assert label().record.state == "nothing_to_do"
    export(path, TwoOutputs(seed=1))
    second = label().videos.to_arrow().to_pylist()
    assert len(second) == 1
    assert second[0]["config_digest"] != first["config_digest"]
    assert second[0]["score"] != first["score"]


# --- what is refused ------------------------------------------------------------------------------------------------


def edit(path: Path, **changes: Any) -> None:
    sidecar = path.with_suffix(".json")
    told = {**json.loads(sidecar.read_text()), **changes}
    sidecar.write_text(json.dumps({name: value for name, value in told.items() if value is not None}))


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda p: p.unlink(), "cannot be read"),
    "no sidecar": (lambda p: p.with_suffix(".json").unlink(), 'which says what the program sees, such as {"labels": ['),
    "no mean": (lambda p: edit(p, mean=None), "model.json: mean: not given; it is required"),
    "another field": (lambda p: edit(p, colour="bgr"), "colour: no such field; allowed: labels, height, width"),
    "other scores": (lambda p: edit(p, scores="odds"), "scores: input should be 'logits' or 'probabilities'"),
    "too few labels": (lambda p: edit(p, labels=["a"]), "labels: 1 given; the weights have 3 classes"),
    "another size": (
        lambda p: edit(p, height=32),
        "the program takes images of N x 3 x 64 x 96; its .json says N x 3 x 32",
    ),
    "no probabilities": (lambda p: edit(p, scores="probabilities"), 'are no probabilities; say "scores": "logits"'),
    "rubbish": (lambda p: p.write_bytes(b"rubbish"), "not a "),
    "nothing": (lambda p: p.write_bytes(b""), "not a "),
    "half": (lambda p: p.write_bytes(p.read_bytes()[:20_000]), "model."),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_program_that_cannot_be_used_is_one_sentence(copy: Path, what: str) -> None:
    spoil, sentence = WRONG[what]
    spoil(copy)
    with pytest.raises((ConfigError, ModelError)) as caught:
        load_spec(find_model(str(copy)))
    assert sentence in str(caught.value)
    assert str(copy.with_suffix("")) in str(caught.value)
    assert "\n" not in str(caught.value)


def rewritten(path: Path, change: Callable[[str, bytes], tuple[str, bytes]]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(buffer, "w") as made:
        for name in archive.namelist():
            made.writestr(*change(name, archive.read(name)))
    path.write_bytes(buffer.getvalue())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda n, c: (n, c.replace(b'"use_pickle": false', b'"use_pickle": true')), "holds pickled objects"),
        (lambda n, c: (n.replace("data/weights/weight_0", "data/constants/opaque_obj_0"), c), "would be run"),
        (lambda n, c: (n.replace("data/weights/weight_0", "data/aotinductor/model/a.so"), c), "would be run"),
    ],
)
def test_code_and_pickles_in_a_pt2_are_refused(
    tmp_path: Path, program: Path, change: Callable[[str, bytes], tuple[str, bytes]], sentence: str
) -> None:
    if program.suffix != ".pt2":
        pytest.skip("an ONNX file holds neither")
    shutil.copy(program, tmp_path / "m.pt2")
    shutil.copy(program.with_suffix(".json"), tmp_path / "m.json")
    rewritten(tmp_path / "m.pt2", change)
    with pytest.raises(ModelError, match=sentence):
        load_spec(find_model(str(tmp_path / "m.pt2")))
