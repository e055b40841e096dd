"""Video classifiers of transformers: windows of a video get the scores that the library's own pipeline gives them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from clips import LazyClips
from test_hf_models import LABELS, NAMES, assert_same_pixels, digests, edit, hub, save
from test_window_models import clip_of

import vidbatch
from vidbatch.config import LabelConfig
from vidbatch.decode import read_frames, window_job
from vidbatch.decoding.window_clips import decode_windows
from vidbatch.errors import ConfigError, ModelError
from vidbatch.models import find_model, load_spec, model_for
from vidbatch.networks import build
from vidbatch.windows import window_dtype

transformers = pytest.importorskip("transformers")

SIDE, NUM_FRAMES = 64, 4
SIZES: dict[str, Any] = {"image_size": SIDE, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2, "intermediate_size": 64, **NAMES}
CROP = {"size": {"shortest_edge": 72}, "crop_size": {"height": SIDE, "width": SIDE}}


def videomae() -> tuple[Any, Any]:
    config = transformers.VideoMAEConfig(num_frames=NUM_FRAMES, **SIZES)
    return transformers.VideoMAEForVideoClassification(config), transformers.VideoMAEVideoProcessor(**CROP)


def videomae_as_before_transformers_5() -> tuple[Any, Any]:
    return videomae()[0], transformers.VideoMAEImageProcessor(**CROP)


def timesformer() -> tuple[Any, Any]:
    config = transformers.TimesformerConfig(num_frames=NUM_FRAMES, **SIZES)
    return transformers.TimesformerForVideoClassification(config), transformers.TimesformerVideoProcessor(**CROP)


def vivit() -> tuple[Any, Any]:
    sizes = {**SIZES, "tubelet_size": [2, 16, 16]}
    del sizes["patch_size"]
    config = transformers.VivitConfig(num_frames=NUM_FRAMES, **sizes)
    return transformers.VivitForVideoClassification(config), transformers.VivitVideoProcessor(**CROP)


def vjepa2() -> tuple[Any, Any]:
    config = transformers.VJEPA2Config(
        crop_size=SIDE, frames_per_clip=NUM_FRAMES, hidden_size=32, num_attention_heads=2, num_hidden_layers=2,
        num_pooler_layers=1, pred_hidden_size=32, pred_num_attention_heads=2, pred_num_hidden_layers=1, **NAMES,
    )  # fmt: skip
    return transformers.VJEPA2ForVideoClassification(config), transformers.VJEPA2VideoProcessor(crop_size=SIDE)


MODELS: list[Callable[[], tuple[Any, Any]]] = [videomae, videomae_as_before_transformers_5, timesformer, vivit, vjepa2]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_model(folder: Path, make: Callable[[], tuple[Any, Any]]) -> Path:
    torch.manual_seed(0)
    return save(folder, *make())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("videomae"), videomae)


def windows_of(path: Path, spec: Any) -> Any:
    """As `label` decodes them."""
    job = window_job(clip_of(path), LabelConfig(inputs=("x",), output="y"), spec.frame, spec.video.windows)
    dtype = window_dtype(spec.video.windows.num_frames, spec.frame.height, spec.frame.width)
    chunks = list(decode_windows(job))
    pixels = [np.frombuffer(pixels, dtype).copy() for _, pixels in chunks if pixels is not None]
    return np.concatenate([np.empty(0, dtype), *pixels])


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_of_the_same_frames_scores_are_those_of_transformers(make: Any, clips: LazyClips, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", make)
    spec, weights = load_spec(find_model(f"hf:{folder}", sampling="fps=2"))
    assert (spec.labels, spec.video and spec.video.windows.num_frames) == (LABELS, NUM_FRAMES)
    windows = windows_of(clips["bikes.mp4"], spec)
    network = build(spec, weights, num_threads=2)
    scores, embeddings = network(windows)
    assert len(windows) >= 4
    assert embeddings.shape == (len(windows), spec.embedding_size)

    starts = (np.arange(len(windows)) + 0.5) * duration(clips["bikes.mp4"]) / len(windows) - NUM_FRAMES / 2 / 2
    times = (starts[:, None] + np.arange(NUM_FRAMES) / 2).ravel()
    whole = read_frames(clips["bikes.mp4"], times=times)[0].reshape(len(windows), NUM_FRAMES, 272, 640, 3)
    processor = transformers.AutoVideoProcessor.from_pretrained(folder)
    library = transformers.AutoModelForVideoClassification.from_pretrained(folder).eval()
    shown = processor(videos=[torch.from_numpy(one) for one in whole], return_tensors="pt", do_sample_frames=False)
    with torch.inference_mode():
        expected = library(**shown).logits.softmax(1)
    (seen,) = shown.values()
    assert_same_pixels(windows["frames"], seen, spec)
    assert (scores - expected).abs().max() < 0.005
    assert expected.std(0).max() > 0.002  # the windows are told apart


def duration(path: Path) -> float:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return float(stream.duration * stream.time_base)


@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
def test_label_says_of_a_short_video_what_the_pipeline_says(model: Path, clips: LazyClips, tmp_path: Path) -> None:
    """The pipeline's own way to pick frames is followed: the first four of the video, one after the other."""
    short = tmp_path / "short.mp4"
    write_beginning(clips["bikes.mp4"], short, num_frames=NUM_FRAMES)
    pipeline = transformers.pipeline("video-classification", str(model), device="cpu", dtype="float32")
    # Without torchcodec it reads videos by PyAV and takes the processor of images, of the same settings.
    pipeline.video_processor, pipeline.image_processor = None, transformers.VideoMAEImageProcessor(**CROP)
    said = {entry["label"]: entry["score"] for entry in pipeline(str(short), top_k=5)}
    assert max(said.values()) - min(said.values()) > 0.02
    result = vidbatch.label(short, output=tmp_path / "out", model=f"hf:{model}", sampling="fps=30", embedding=True)
    row = result.videos.to_arrow().to_pylist()[0]
    assert (row["status"], row["num_frames_sampled"]) == ("ok", 1)
    assert {entry["label"]: entry["score"] for entry in row["top_k"]} == pytest.approx(said, abs=0.005)
    assert len(result.frames.to_arrow()["embedding"][0]) == 32
    again = vidbatch.label(short, output=tmp_path / "out", model=f"hf:{model}", sampling="fps=30", embedding=True)
    assert again.record.state == "nothing_to_do"


def write_beginning(source: Path, place: Path, *, num_frames: int) -> None:
    """The first frames of a video, anew and without a loss, at 30 a second."""
    with av.open(str(source)) as given, av.open(str(place), "w") as written:
        stream = written.add_stream("libx264", rate=30, options={"qp": "0", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 640, 272, "yuv420p"
        for number, frame in zip(range(num_frames), given.decode(video=0), strict=False):
            frame.pts, frame.time_base, frame.pict_type = number, Fraction(1, 30), av.video.frame.PictureType.NONE
            written.mux(stream.encode(frame))
        written.mux(stream.encode(None))


def test_a_model_of_the_hub_is_read_with_either_kind_of_processor(model: Path, tmp_path: Path) -> None:
    older = make_model(tmp_path / "older", videomae_as_before_transformers_5)
    names = ["hf:zoo/model", "hf:zoo/older"]
    with hub({"zoo/model": model, "zoo/older": older}) as endpoint:
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        found = digests(names, environment)
    assert found == [find_model(f"hf:{folder}", sampling="fps=1").digest for folder in (model, older)]
    assert digests(names, {**environment, "HF_HUB_OFFLINE": "1"}) == found


# --- what is refused, and what is another model ---------------------------------------------------------------------


def test_a_model_that_tells_no_times_wants_a_sampling_by_time(model: Path) -> None:
    config = LabelConfig(inputs=("x",), output="y", model=f"hf:{model}")
    with pytest.raises(
        ConfigError, match=r"sampling: is not given: .* looks at 4 frames at once and tells not how far"
    ):
        model_for(config)
    with pytest.raises(ConfigError, match=r"sampling: 'count=4' is not allowed: .* allowed: fps=F"):
        model_for(config.model_copy(update={"sampling": "count=4"}))
    given = config.model_dump(exclude_unset=True)
    ways = [model_for(LabelConfig(**given, sampling=how)) for how in ("fps=2", "fps=4")]
    assert [way.video and way.video.windows.fps for way in ways] == [2, 4]
    assert ways[0].digest != ways[1].digest


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: edit(f / "config.json", num_frames=None), "num_frames of config.json is None; allowed: a number"),
        (lambda f: (f / "video_preprocessor_config.json").unlink(), "it has no preprocessor_config.json"),
        (lambda f: edit(f / "config.json", num_hidden_layers=3), "model.safetensors has no 'videomae.encoder.layer"),
        (
            lambda f: edit(f / "video_preprocessor_config.json", crop_size={"height": 48, "width": 48}),
            "does not take 4 x 3 x 48 x 48",
        ),
        (
            lambda f: edit(f / "video_preprocessor_config.json", do_center_crop=False),
            "gives pictures whose size depends on their shape",
        ),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    model: Path, tmp_path: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    spoil(copy)
    with pytest.raises((ConfigError, ModelError)) as caught:
        load_spec(find_model(f"hf:{copy}", sampling="fps=2"))
    assert sentence in str(caught.value)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_processor_of_another_model_is_another_model(model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    before = find_model(f"hf:{copy}", sampling="fps=2")
    settings = json.loads((copy / "video_preprocessor_config.json").read_text())
    (copy / "video_preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.4, 0.5, 0.5]}))
    assert find_model(f"hf:{copy}", sampling="fps=2").digest != before.digest
