"""Models of windows as bundles: what they decode, what they answer, what `label` publishes of them."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

import vidbatch
from vidbatch.bundles import BundleConfig, WindowModel, save_bundle
from vidbatch.classify import Classifier
from vidbatch.computing import How
from vidbatch.config import LabelConfig
from vidbatch.decode import WINDOWS_FUNCTION, Decoder, window_job
from vidbatch.decoding.isolation import IsolatedProcess
from vidbatch.decoding.window_clips import decode_windows, facts_of
from vidbatch.errors import ConfigError, ModelError
from vidbatch.input_spec import InputSpec
from vidbatch.models import find_model, load_spec
from vidbatch.networks import build
from vidbatch.schema import CLIP, PREDICTIONS, WORK, FrameSpec
from vidbatch.testing import make_video, read_stamp
from vidbatch.transforms import InputTransform, to_float
from vidbatch.video_networks import build_video_network
from vidbatch.video_spec import VideoSpec
from vidbatch.window_networks import tensors_of
from vidbatch.windows import Extent, Labelled, WindowSpec, make_windows, window_dtype

FRAME = FrameSpec(96, 128)
WINDOWS = WindowSpec(num_frames=4, fps=5.0)
BY_NUMBER = WindowSpec(num_frames=4, every=2)
INPUTS = InputSpec(channels=("rgb", "signed_difference"), features=("energy",))
CONFIG = LabelConfig(inputs=("x",), output="y")


def bundle(folder: Path, **changes: Any) -> str:
    """A bundle of random weights with three classes."""
    settings: dict[str, Any] = {"inputs": INPUTS, "windows": WINDOWS, "network": VideoSpec.of("small+gru", width=16)}
    video = WindowModel.model_validate(settings | changes)
    module = build_video_network(
        video.network, video.inputs, FRAME, num_frames=video.windows.num_frames, num_classes=3, seed=3
    )
    config = BundleConfig(video=video, labels=("a", "b", "c"), height=FRAME.height, width=FRAME.width)
    save_bundle(folder, module.state_dict(), config)
    return f"file:{folder}"


def clip_of(path: Path, **columns: Any) -> dict[str, Any]:
    known = {"video_id": path.stem, "url": f"file://{path}", "source": str(path), "content_version": "1"}
    numbers = {"clip_index": 0, "num_clips": 1, "size_bytes": path.stat().st_size}
    return dict.fromkeys(field.name for field in CLIP) | known | numbers | columns


def decoded(path: Path, windows: WindowSpec = WINDOWS) -> Any:
    """The windows of a video as `label` decodes them, of windows.window_dtype."""
    job = window_job(clip_of(path), CONFIG, FRAME, windows)
    dtype = window_dtype(windows.num_frames, FRAME.height, FRAME.width)
    chunks = [np.frombuffer(pixels, dtype).copy() for _, pixels in decode_windows(job) if pixels is not None]
    return np.concatenate([np.empty(0, dtype), *chunks])


def frame_numbers(window: Any) -> list[int]:
    return [read_stamp(frame)[1] for frame in window["frames"]]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    make_video(tmp_path / "a.mp4", num_frames=30, fps=10, gop=15, b_frames=2, video_number=7)
    return tmp_path / "a.mp4"


# --- decoding -------------------------------------------------------------------------------------------------------


def test_the_windows_of_a_video_stand_amid_its_slots(video: Path) -> None:
    # 3 s hold 15 steps of 0.2 s, three windows of 4: slots of 1 s, each window of 0.8 s 0.1 s behind its slot's start
    found = decoded(video)
    assert [frame_numbers(window) for window in found] == [[1, 3, 5, 7], [11, 13, 15, 17], [21, 23, 25, 27]]
    assert found["num_real"].tolist() == [4, 4, 4]


def test_a_short_video_is_padded_by_its_last_frame_or_dropped(tmp_path: Path) -> None:
    make_video(tmp_path / "short.mp4", num_frames=5, fps=10)
    (window,) = decoded(tmp_path / "short.mp4")
    assert frame_numbers(window) == [0, 2, 4, 4]
    assert window["num_real"] == 3
    assert len(decoded(tmp_path / "short.mp4", WINDOWS.model_copy(update={"short": "drop"}))) == 0


def test_a_slow_video_shows_a_frame_at_several_positions(tmp_path: Path) -> None:
    make_video(tmp_path / "slow.mp4", num_frames=4, fps=2)
    assert [frame_numbers(window) for window in decoded(tmp_path / "slow.mp4")] == [[0, 0, 1, 1], [2, 2, 3, 3]]


def test_times_begin_at_the_first_frame_whatever_its_time(tmp_path: Path) -> None:
    make_video(tmp_path / "late.mp4", num_frames=30, fps=10, start_ticks=45)
    job = window_job(clip_of(tmp_path / "late.mp4"), CONFIG, FRAME, WINDOWS)
    ((facts, _),) = facts_of(job)
    assert facts == {"first_seconds": pytest.approx(4.5), "duration_seconds": pytest.approx(3.0)}
    assert [frame_numbers(window)[0] for window in decoded(tmp_path / "late.mp4")] == [1, 11, 21]


@pytest.mark.parametrize(
    "settings",
    [
        {"num_frames": 40},
        {"num_frames": 40, "fps": 7, "b_frames": 2},
        {"num_frames": 40, "pts": [3 * n + (n > 10) * 100 for n in range(40)], "time_base": Fraction(1, 30)},
        {"num_frames": 40, "start_ticks": 45},
        {"num_frames": 40, "codec": "mpeg4", "container": "avi"},
        {"num_frames": 40, "codec": "libvpx", "container": "webm"},
        {"num_frames": 40, "container": "mpegts", "b_frames": 2},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_windows_of_every_second_frame_go_by_frames_whatever_their_times(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    # 40 frames hold 5 windows of 4 steps of 2: slots of 8, which a window fills
    path = tmp_path / f"a.{settings.get('container', 'mp4')}"
    make_video(path, **settings)
    found = decoded(path, BY_NUMBER)
    assert [frame_numbers(window) for window in found] == [[n, n + 2, n + 4, n + 6] for n in range(0, 40, 8)]
    ((facts, _),) = facts_of(window_job(clip_of(path), CONFIG, FRAME, BY_NUMBER))
    assert facts["num_frames"] == 40
    assert facts["frame_rate"] == pytest.approx(40 / facts["duration_seconds"])


def test_a_video_shorter_than_a_window_of_frames_is_padded_or_dropped(tmp_path: Path) -> None:
    make_video(tmp_path / "short.mp4", num_frames=5)
    (window,) = decoded(tmp_path / "short.mp4", BY_NUMBER)
    assert frame_numbers(window) == [0, 2, 4, 4]
    assert window["num_real"] == 3
    assert len(decoded(tmp_path / "short.mp4", BY_NUMBER.model_copy(update={"short": "drop"}))) == 0


@pytest.mark.parametrize(("spec", "extent"), [(WINDOWS, Extent(0.0, 3.0)), (BY_NUMBER, Extent(0.0, 30.0))])
def test_given_positions_show_the_same_frames_as_found_ones(video: Path, spec: WindowSpec, extent: Extent) -> None:
    """What training asks for (positions of windows it knows) and what labelling finds by itself: bit for bit."""
    windows = make_windows([Labelled(url="x", label="a")], [extent], spec)
    job = window_job(clip_of(video), CONFIG, FRAME, spec)
    process = IsolatedProcess(timeout_seconds=60, memory_bytes=2**30)
    asked = type(job)(**{**vars(job), "positions": windows.centred().tolist(), "num_real": windows.num_real.tolist()})
    dtype = window_dtype(4, FRAME.height, FRAME.width)
    given = [np.frombuffer(pixels, dtype) for _, pixels in process.call(WINDOWS_FUNCTION, asked) if pixels]
    process.close()
    assert np.concatenate(given).tobytes() == decoded(video, spec).tobytes()


def test_a_damaged_video_gives_the_windows_before_the_damage(tmp_path: Path) -> None:
    make_video(tmp_path / "whole.ts", num_frames=60, fps=10, gop=10, container="mpegts")
    content = (tmp_path / "whole.ts").read_bytes()
    (tmp_path / "cut.ts").write_bytes(content[: len(content) // 2] + bytes(len(content) // 2))
    whole, cut = decoded(tmp_path / "whole.ts"), decoded(tmp_path / "cut.ts")
    assert 0 < len(cut) <= len(whole)


# --- answers --------------------------------------------------------------------------------------------------------


def test_a_classifier_answers_as_the_network_does_on_the_trainings_tensors(tmp_path: Path, video: Path) -> None:
    spec, weights = load_spec(find_model(bundle(tmp_path / "model")))
    assert spec.video is not None
    decoder = Decoder(CONFIG, spec.frame, None, spec.video.windows)
    work = pa.Table.from_pylist([{"clips": [clip_of(video)]}], schema=WORK)
    pixels = pa.concat_tables(decoder(work))
    decoder.close()
    answers = Classifier(spec, CONFIG, weights)(pixels)
    assert answers.schema.equals(PREDICTIONS)
    assert answers["num_frames"].to_pylist() == [3]
    assert answers["pts_seconds"].to_pylist() == [[pytest.approx(0.1), pytest.approx(1.1), pytest.approx(2.1)]]

    network = build_video_network(spec.video.network, INPUTS, FRAME, num_frames=4, num_classes=3, seed=3).eval()
    frames, is_real = tensors_of(decoded(video))
    inputs = InputTransform(INPUTS, spec.mean, spec.std)(to_float(frames))
    with torch.no_grad():
        expected = network(inputs.images, is_real, inputs.features).softmax(1)
    sums = np.array(answers["score_sum"].to_pylist()[0])
    assert np.allclose(sums, expected.sum(0).numpy(), atol=1e-5)


@pytest.mark.parametrize("network", ["small+attention", "small+mean", "correlation+gru", "r3d_18"])
def test_a_bundle_of_each_kind_of_network_is_a_whole_model(tmp_path: Path, network: str) -> None:
    settings = {"inputs": InputSpec.model_validate({}), "network": VideoSpec.of(network)}
    reference = find_model(bundle(tmp_path / "model", **settings))
    spec, _ = load_spec(reference)
    assert spec.labels == ("a", "b", "c")
    assert spec.embedding_size == (512 if network == "r3d_18" else 128)


def test_everything_a_windows_label_depends_on_changes_the_digest(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"inputs": INPUTS.model_copy(update={"gain": 2.0})},
        {"windows": WINDOWS.model_copy(update={"fps": 4.0})},
    ]
    digests = {find_model(bundle(tmp_path / str(number), **change)).digest for number, change in enumerate(changes)}
    assert len(digests) == len(changes)


# --- bundles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": "vidbatch-bundle-9"}, "format: 'vidbatch-bundle-9' is of another version of vidbatch"),
        ({"format": "vidbatch-bundle-1"}, "vidbatch-bundle-1 has no `video`"),
        ({"architecture": "resnet18"}, "'resnet18' is not the name of the network of `video`"),
        ({"video": None}, "architecture: "),
    ],
)
def test_a_wrong_bundle_of_windows_is_one_sentence(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    model = bundle(tmp_path)
    place = tmp_path / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    with pytest.raises(ConfigError, match=sentence):
        find_model(model)


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    model = bundle(tmp_path)
    other = build_video_network(VideoSpec.of("small+mean", width=16), INPUTS, FRAME, num_frames=4, num_classes=3)
    config = BundleConfig.model_validate_json((tmp_path / "config.json").read_text())
    save_bundle(tmp_path, other.state_dict(), config)
    with pytest.raises(ModelError, match=r"has no 'head\.layers"):
        load_spec(find_model(model))


# --- label ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [torch.zeros(()), torch.zeros(3), torch.zeros(0, 128)])
def test_a_last_layer_of_another_shape_is_refused_in_a_sentence(tmp_path: Path, weight: torch.Tensor) -> None:
    folder = tmp_path / "model"
    model = bundle(folder)
    state = load_file(folder / "model.safetensors") | {"classifier.weight": weight}
    save_bundle(folder, state, BundleConfig.model_validate_json((folder / "config.json").read_text()))
    with pytest.raises(ModelError, match=r"'classifier\.weight' has shape"):
        load_spec(find_model(model))


def test_settings_that_a_model_of_windows_decides_by_itself_are_refused(tmp_path: Path, video: Path) -> None:
    model = bundle(tmp_path / "model")
    for setting in ({"sampling": "fps=2"}, {"hand_over": "yuv420"}):
        with pytest.raises(ConfigError, match="looks at windows of 4 frames, fps=5"):
            vidbatch.label(video, output=tmp_path / "out", model=model, **setting)


@pytest.mark.usefixtures("local_ray")
def test_label_publishes_a_row_a_window(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    for number, num_frames in enumerate((30, 5, 100)):
        make_video(archive / f"{number}.mp4", num_frames=num_frames, fps=10, gop=20, video_number=number)
    (archive / "bad.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(1000))
    settings: dict[str, Any] = {"embedding": True, "max_failed_share": 0.5, "long_video_mb": 0, "clip_seconds": 1}
    model = bundle(tmp_path / "model")
    result = vidbatch.label(archive, output=tmp_path / "out", model=model, **settings)
    videos = {row["url"][-5:]: row for row in result.videos.to_arrow().to_pylist()}
    assert [videos[f"{name}.mp4"]["num_frames_sampled"] for name in (0, 1, 2)] == [3, 1, 12]
    assert videos["d.mp4"]["status"] == "failed"
    rows = [row for row in result.frames.to_arrow().to_pylist() if row["url"].endswith("0.mp4")]
    assert [round(row["pts_seconds"], 3) for row in rows] == [0.1, 1.1, 2.1]
    assert len(rows[0]["embedding"]) == 16
    scores = {entry["label"]: entry["score"] for entry in videos["0.mp4"]["top_k"]}
    for label, score in scores.items():
        of_windows = [next(e["score"] for e in row["top_k"] if e["label"] == label) for row in rows]
        assert score == pytest.approx(np.mean(of_windows), abs=1e-5)
    by_number = bundle(tmp_path / "by_number", windows=BY_NUMBER)
    result = vidbatch.label(archive, output=tmp_path / "out_by_number", model=by_number, **settings)
    videos = {row["url"][-5:]: row for row in result.videos.to_arrow().to_pylist()}
    assert [videos[f"{name}.mp4"]["num_frames_sampled"] for name in (0, 1, 2)] == [3, 1, 12]
    rows = [row for row in result.frames.to_arrow().to_pylist() if row["url"].endswith("0.mp4")]
    assert [round(row["pts_seconds"], 3) for row in rows] == [0.1, 1.1, 2.1]


def test_in_bf16_a_model_of_windows_answers_nearly_the_same(video: Path, tmp_path: Path) -> None:
    spec, weights = load_spec(find_model(bundle(tmp_path / "model")))
    windows = decoded(video)
    exact, rough = (build(spec, weights, how=How(precision))(windows)[0] for precision in ("fp32", "bf16"))
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert torch.allclose(rough, exact, atol=0.03)
