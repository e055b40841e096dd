"""Precisions and compilation: refused where they make no sense, and no different labels where they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import LazyClips
from test_classify import chunk, pixels

from vidbatch import computing, onnx_networks
from vidbatch.classify import Classifier
from vidbatch.computing import How
from vidbatch.config import LabelConfig
from vidbatch.decode import read_frames
from vidbatch.errors import ConfigError
from vidbatch.models import find_model, load_spec, model_for
from vidbatch.networks import build, make_module, noise, probe
from vidbatch.onnx_networks import program_of
from vidbatch.pools import pool_sizes
from vidbatch.publish import config_digest
from vidbatch.schema import FrameSpec
from vidbatch.stamp import make_stamp_bundle
from vidbatch.testing import stamped

NO_GPU = [{"CPU": 2.0}]


def config(**settings: Any) -> LabelConfig:
    return LabelConfig(inputs=("in",), output="out", **settings)


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_what_only_gpus_do_is_refused_without_one(precision: str) -> None:
    with pytest.raises(ConfigError, match=f"precision: '{precision}' is not allowed without a GPU; allowed: auto, fp"):
        pool_sizes(config(precision=precision), NO_GPU)
    pool_sizes(config(precision=precision), [{"CPU": 2.0, "GPU": 1.0}])
    with pytest.raises(ConfigError, match="without a GPU"):
        pool_sizes(config(precision=precision, device="cpu"), [{"CPU": 2.0, "GPU": 1.0}])


def test_bf16_is_refused_on_a_cpu_that_would_only_be_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computing, "_CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("flags : sse2 avx2 avx512f avx512_vnni\n")
    with pytest.raises(ConfigError, match=r"precision: 'bf16' is not allowed: this CPU has no instructions for it"):
        pool_sizes(config(precision="bf16"), NO_GPU)
    for flags in ("flags : avx512f avx512_bf16 avx512_vnni", "flags : amx_bf16 amx_tile", "Features : asimd bf16"):
        (tmp_path / "cpuinfo").write_text(f"{flags}\n")
        pool_sizes(config(precision="bf16"), NO_GPU)


def test_to_compile_needs_a_gpu_and_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="compile: True is not allowed without a GPU: a CPU takes minutes"):
        pool_sizes(config(compile=True), NO_GPU)
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"compile: True is not allowed: .* a C compiler \(no-such-compiler\)"):
        pool_sizes(config(compile=True), [{"CPU": 2.0, "GPU": 1.0}])
    pool_sizes(config(), NO_GPU)


@pytest.mark.parametrize(
    ("settings", "said"), [({"precision": "bf16"}, "precision: 'bf16'"), ({"compile": True}, "compile: True")]
)
def test_a_program_computes_as_it_was_exported(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    class Means(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3))

    place = tmp_path / "means.pt2"
    torch.export.save(torch.export.export(Means(), (torch.zeros(1, 3, 32, 32),)), place)
    (tmp_path / "means.json").write_text(
        '{"labels": ["r", "g", "b"], "height": 32, "width": 32, "mean": [0, 0, 0], "std": [1, 1, 1]}'
    )
    assert model_for(config(model=str(place))).architecture == "pt2"
    with pytest.raises(ConfigError, match=rf"{said} is not allowed: '.*means.pt2' computes as it was exported"):
        model_for(config(model=str(place), **settings))


def test_results_of_another_precision_are_other_results_and_compiled_ones_are_not() -> None:
    usual = config_digest(config(), "model")
    others = [config_digest(config(precision=precision), "model") for precision in ("fp32", "tf32", "bf16", "fp16")]
    assert len({usual, *others}) == 5
    assert config_digest(config(compile=True), "model") == usual


def test_bf16_says_what_fp32_says_of_real_frames_wherever_that_is_sure(clips: LazyClips) -> None:
    spec, weights = load_spec(find_model("efficientnet-lite0"))
    names = ("carphone.mp4", "bikes.mp4", "motorway.mp4")
    frames = np.concatenate([read_frames(clips[name], sampling="count=4", size=spec.frame)[0] for name in names])
    exact, exact_embeddings = build(spec, weights)(torch.from_numpy(frames))
    rough, rough_embeddings = build(spec, weights, how=How("bf16"))(torch.from_numpy(frames))
    assert rough.dtype == rough_embeddings.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.1
    assert not torch.equal(rough, exact)
    best = exact.topk(2, dim=1).values
    is_sure = best[:, 0] - best[:, 1] > 0.05
    assert is_sure.sum() >= 6
    assert torch.equal(rough.argmax(1)[is_sure], exact.argmax(1)[is_sure])
    assert torch.nn.functional.cosine_similarity(rough_embeddings, exact_embeddings).min() > 0.99


def test_a_compiled_network_says_the_same_of_any_number_of_frames_and_is_compiled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, where torch traces as for a GPU and then runs what it traced as it stands."""
    monkeypatch.setattr(computing, "_BACKEND", "eager")
    frame = FrameSpec(64, 64, 1.0)
    make_stamp_bundle(tmp_path, num_classes=8, frame=frame)
    spec, weights = load_spec(find_model(f"file:{tmp_path}"))
    settings = {"batch_size": 4, "device": "cpu", "embedding": True}
    eager, compiled = (Classifier(spec, config(**settings, compile=on), weights) for on in (False, True))
    graphs = torch._dynamo.utils.counters["stats"]
    num_graphs = graphs["unique_graphs"]
    assert num_graphs > 0
    times = ["model_cpu_seconds", "model_wall_seconds"]
    for count in (4, 1, 3, 9, 0):
        pictures = [stamped(count, number, width=64, height=64) for number in range(count)]
        table = pixels([chunk(1, np.stack(pictures) if pictures else np.empty((0, 64, 64, 3), np.uint8))])
        assert compiled(table).drop_columns(times).equals(eager(table).drop_columns(times))
        assert graphs["unique_graphs"] == num_graphs


@pytest.mark.parametrize(
    ("name", "is_known"),
    [("torchvision:resnet18", True), ("torchvision:mobilenet_v2", True), ("torchvision:squeezenet1_1", False)],
)
def test_onnx_runtime_takes_over_networks_all_of_whose_layers_are_known(name: str, is_known: bool) -> None:
    pytest.importorskip("onnxruntime", reason="vidbatch[onnx] is not installed")
    frame = FrameSpec(64, 64)
    module = make_module(name, 10, frame)
    classifier = probe(module, noise(frame), name).classifier
    module = computing.fused(module, classifier, noise(frame))
    program = program_of(module, classifier, noise(frame))
    assert (program is not None) == is_known
    if program is not None:
        images = torch.randn(3, 3, 64, 64)
        features: list[torch.Tensor] = []
        module.get_submodule(classifier).register_forward_pre_hook(lambda _, given: features.append(given[0]))
        with torch.inference_mode():
            expected = module(images)
        logits, entering = program(images)
        assert torch.allclose(logits, expected, atol=1e-4)
        assert torch.allclose(entering, features[0], atol=1e-4)
        assert torch.equal(program(images[1:2])[0], logits[1:2]), "an answer depends on the frames beside it"


def test_onnx_runtime_says_of_real_frames_what_torch_says(clips: LazyClips) -> None:
    pytest.importorskip("onnxruntime", reason="vidbatch[onnx] is not installed")
    spec, weights = load_spec(find_model("efficientnet-lite0"))
    frames = torch.from_numpy(read_frames(clips["bikes.mp4"], sampling="count=6", size=spec.frame)[0])
    for said, expected in zip(
        build(spec, weights, num_threads=2)(frames), build(spec, weights, how=How(runtime="torch"))(frames), strict=True
    ):
        assert torch.allclose(said, expected, atol=1e-4)
        assert not torch.equal(said, expected), "both were torch"


def test_a_network_of_other_scores_than_torchs_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="vidbatch[onnx] is not installed")
    frame = FrameSpec(64, 64)
    module = make_module("torchvision:resnet18", 10, frame)
    classifier = probe(module, noise(frame), "resnet18").classifier
    fused = computing.fused(module, classifier, noise(frame))
    wrong = dict(onnx_networks._LAYERS) | {torch.nn.ReLU: lambda _to, _, given: given}
    monkeypatch.setattr(onnx_networks, "_LAYERS", wrong)
    assert program_of(fused, classifier, noise(frame)) is None
