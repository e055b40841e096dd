"""The model stage: every frame's answer is its own, whatever chunks and batches it travelled in."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import identity

from vidbatch import schema
from vidbatch.classify import Classifier, check_device
from vidbatch.config import LabelConfig
from vidbatch.errors import ConfigError
from vidbatch.models import ModelSpec, find_model, load_spec
from vidbatch.networks import Network, build
from vidbatch.schema import FrameSpec
from vidbatch.stamp import make_stamp_bundle
from vidbatch.testing import read_stamp, stamped

Model = tuple[ModelSpec, bytes]
Array = np.ndarray[Any, Any]
STAMP_FRAME = FrameSpec(64, 64, 1.0)
NUM_CLASSES = 8


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    """Two threads that wait for each other take ten times as long on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def default() -> Model:
    return load_spec(find_model("efficientnet-lite0"))


@pytest.fixture(scope="module")
def stamp(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("stamp")
    make_stamp_bundle(folder, num_classes=NUM_CLASSES, frame=STAMP_FRAME)
    return load_spec(find_model(f"file:{folder}"))


def config(**settings: Any) -> LabelConfig:
    return LabelConfig(inputs=("unused",), output="unused", **{"device": "cpu", **settings})


def chunk(video: int, frames_nhwc: Array, *, index: int = 0, last: bool = True) -> dict[str, Any]:
    """A PIXELS row; what is not about pixels is different in every row."""
    count = len(frames_nhwc)
    return {
        **identity(video),
        "metadata": f'{{"row": {video}}}',
        "clip_index": index % 3,
        "num_clips": 3,
        "chunk_index": index,
        "is_last_chunk": last,
        "num_frames": count,
        "pts_seconds": [video + 0.1 * i for i in range(count)],
        "is_keyframe": [i % 2 == 0 for i in range(count)],
        **dict.fromkeys([field.name for field in schema.HEADER]),
        "codec": f"codec {video}",
        "error_kind": None if last else "corrupt",
        "error_message": None,
        "decode_cpu_seconds": float(video),
        "decode_wall_seconds": None,
        "read_bytes": video * 1000 + index,
        "num_frames_decoded": count,
        "frames": frames_nhwc.tobytes(),
    }


def pixels(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema.PIXELS)


def stamps(video: int, numbers: range) -> Array:
    pictures = [stamped(video, number, width=STAMP_FRAME.width, height=STAMP_FRAME.height) for number in numbers]
    return np.stack(pictures) if pictures else np.empty((0, 64, 64, 3), np.uint8)


def noise(count: int, frame: FrameSpec, seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (count, frame.height, frame.width, 3), np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=0, max_size=12),
    batch_size=st.integers(1, 20),
    top_k=st.integers(1, NUM_CLASSES + 3),
    embedding=st.booleans(),
    slices=st.booleans(),
)
def test_every_frame_gets_its_own_answer_however_chunks_fall(
    stamp: Model, sizes: list[int], batch_size: int, top_k: int, embedding: bool, slices: bool
) -> None:
    """The pictures carry their video's and their own number: an answer that moved by one place is seen."""
    spec, weights = stamp
    classifier = Classifier(spec, config(batch_size=batch_size, top_k=top_k, embedding=embedding), weights)
    videos = [17 * i + 3 for i in range(len(sizes))]
    rows = [chunk(v, stamps(v, range(5, 5 + n)), index=i) for i, (v, n) in enumerate(zip(videos, sizes, strict=True))]
    table = pixels(rows)
    if slices and len(rows) > 1:  # tables arrive in several Arrow chunks, and as slices of larger ones
        table = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    answers = classifier(table)
    assert answers.schema == schema.PREDICTIONS
    assert answers.num_rows == len(rows)
    k = min(top_k, NUM_CLASSES)
    for row, given_row, video, count in zip(answers.to_pylist(), rows, videos, sizes, strict=True):
        assert row["num_frames"] == count
        for name in schema.PIXELS.names:
            if name not in ("frames", "layout"):
                assert row[name] == given_row[name]
        index = np.array(row["top_k_index"], int).reshape(count, k)
        score = np.array(row["top_k_score"]).reshape(count, k)
        assert (index[:, 0] == video % NUM_CLASSES).all()
        assert score[:, 0] == pytest.approx(1)
        assert (np.diff(score, axis=1) <= 0).all()
        if count == 0:
            assert row["score_sum"] is None
            assert row["embedding"] is None
            continue
        assert row["score_sum"] == pytest.approx(np.eye(NUM_CLASSES)[video % NUM_CLASSES] * count, abs=1e-5)
        if embedding:
            values = np.frombuffer(row["embedding"], np.float16).reshape(count, spec.embedding_size)
            assert values[:, -2:].tolist() == [[video, number] for number in range(5, 5 + count)]
        else:
            assert row["embedding"] is None


def test_answers_of_the_default_model_are_those_of_each_frame_alone(default: Model) -> None:
    spec, weights = default
    network = build(spec, weights)
    counts = [2, 0, 4, 1]
    frames = [noise(count, spec.frame, seed) for seed, count in enumerate(counts)]
    alone = [[network(torch.from_numpy(picture[None])) for picture in pictures] for pictures in frames]
    table = pixels([chunk(i, f) for i, f in enumerate(frames)])
    for batch_size in (1, 3, 32):
        answers = Classifier(spec, config(batch_size=batch_size, embedding=True, top_k=4), weights)(table)
        for row, outputs in zip(answers.to_pylist(), alone, strict=True):
            if not outputs:
                continue
            probabilities = np.concatenate([scores.numpy() for scores, _ in outputs])
            embeddings = np.concatenate([features.numpy() for _, features in outputs])
            assert np.abs(np.array(row["score_sum"]) - probabilities.sum(0)).max() < 1e-5
            index = np.array(row["top_k_index"]).reshape(-1, 4)
            score = np.array(row["top_k_score"]).reshape(-1, 4)
            assert np.abs(score - np.take_along_axis(probabilities, index, axis=1)).max() < 1e-5
            assert np.abs(score + np.sort(-probabilities, axis=1)[:, :4]).max() < 1e-5
            got = np.frombuffer(row["embedding"], np.float16).reshape(embeddings.shape)
            assert np.allclose(got.astype(np.float32), embeddings, atol=2e-3, rtol=1e-3)


def test_threads_change_how_long_a_call_takes_and_nothing_else(default: Model) -> None:
    spec, weights = default
    table = pixels([chunk(1, noise(30, spec.frame, 1)), chunk(2, noise(9, spec.frame, 2))])
    answers = [Classifier(spec, config(embedding=True), weights, num_threads=n)(table) for n in (1, 2, 3)]
    times = ["model_cpu_seconds", "model_wall_seconds"]
    first = answers[0].drop_columns(times)
    assert all(other.drop_columns(times).equals(first) for other in answers[1:])


def test_the_time_of_a_call_is_shared_out_by_frames(stamp: Model) -> None:
    spec, weights = stamp
    classifier = Classifier(spec, config(), weights, num_threads=1)
    answers = classifier(
        pixels([chunk(1, stamps(1, range(30))), chunk(2, stamps(2, range(0))), chunk(3, stamps(3, range(10)))])
    )
    wall = answers["model_wall_seconds"].to_pylist()
    cpu = answers["model_cpu_seconds"].to_pylist()
    assert wall[0] == pytest.approx(3 * wall[2])
    assert cpu[0] == pytest.approx(3 * cpu[2])
    assert wall[1] == cpu[1] == 0
    assert 0 < sum(cpu) < 60
    assert torch.get_num_threads() == 1


def test_frames_of_the_wrong_size_are_never_guessed_at(stamp: Model) -> None:
    spec, weights = stamp
    classifier = Classifier(spec, config(), weights)
    with pytest.raises(ValueError, match="reshape"):
        classifier(pixels([chunk(1, np.zeros((1, 64, 63, 3), np.uint8))]))


def test_the_stage_can_be_sent_to_another_process(stamp: Model) -> None:
    spec, weights = stamp
    kind, arguments = pickle.loads(pickle.dumps((Classifier, (spec, config(), weights))))
    answers = kind(*arguments)(pixels([chunk(6, stamps(6, range(2)))]))
    assert answers["top_k_index"].to_pylist()[0][0] == 6


def test_importing_the_stage_loads_no_torch() -> None:
    code = "import sys; from vidbatch.classify import *; check_device('cpu'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_cuda_without_a_gpu_is_a_config_error(stamp: Model) -> None:
    check_device("cuda", num_gpus=1)
    with pytest.raises(ConfigError, match="device: 'cuda' is not allowed"):
        check_device("cuda", num_gpus=0)
    if not torch.cuda.is_available():
        spec, weights = stamp
        with pytest.raises(ConfigError, match="device: 'cuda' is not allowed"):
            Classifier(spec, config(device="cuda"), weights)


@pytest.mark.gpu
def test_answers_on_the_gpu_are_those_of_the_cpu(default: Model) -> None:
    if not torch.cuda.is_available():
        assert os.environ.get("VIDBATCH_REQUIRE_GPU") != "1", "VIDBATCH_REQUIRE_GPU=1, and there is no GPU"
        pytest.skip("no CUDA device")
    spec, weights = default
    rows = pixels([chunk(i, noise(count, spec.frame, i)) for i, count in enumerate([70, 0, 3, 40])])
    settings_of = {"batch_size": 32, "embedding": True, "top_k": 1}
    on_cpu = Classifier(spec, config(**settings_of), weights)(rows)
    on_gpu = Classifier(spec, config(**{**settings_of, "device": "cuda"}), weights)(rows)
    for cpu_row, gpu_row in zip(on_cpu.to_pylist(), on_gpu.to_pylist(), strict=True):
        assert gpu_row["video_id"] == cpu_row["video_id"]
        if cpu_row["num_frames"]:
            assert gpu_row["score_sum"] == pytest.approx(cpu_row["score_sum"], abs=0.02 * cpu_row["num_frames"])
            cpu_embedding, gpu_embedding = (np.frombuffer(r["embedding"], np.float16) for r in (cpu_row, gpu_row))
            assert np.abs(cpu_embedding - gpu_embedding).mean() < 0.01


def test_a_model_from_a_bundle_needs_nothing_but_its_bytes(stamp: Model, tmp_path: Path) -> None:
    """What reaches a worker is the spec and the bytes: neither the bundle nor the weights' package need be there."""
    spec, weights = stamp
    (tmp_path / "model").write_bytes(pickle.dumps((spec, weights, config())))
    table = pixels([chunk(5, stamps(5, range(2)))])
    (tmp_path / "table").write_bytes(pickle.dumps(table))
    code = (
        "import pickle, sys; from vidbatch.classify import Classifier;"
        "load = lambda name: pickle.load(open(name, 'rb')); spec, weights, config = load('model');"
        "answers = Classifier(spec, config, weights)(load('table'));"
        "print(answers['top_k_index'].to_pylist()[0][0], 'torchvision' in sys.modules, 'timm' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**environment, "OMP_DISPLAY_ENV": "true"},
    )
    assert done.stdout.strip() == "5 False False"
    # OpenMP says what it runs with: threads that spin while they wait starve the decoders beside them.
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr


class Moody:
    """A network that fails on some pictures: `fault(videos)` is called with the video of each frame it is given."""

    def __init__(self, network: Any, fault: Any) -> None:
        self._network, self._fault = network, fault
        self.labels, self.device, self.embedding_size = network.labels, network.device, network.embedding_size

    def __call__(self, frames_nhwc: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        probabilities, embedding = self._network(frames_nhwc)
        spoilt = self._fault([read_stamp(frame, crop_share=1)[0] for frame in frames_nhwc.numpy()])
        return torch.where(torch.tensor(spoilt)[:, None], torch.nan, probabilities), embedding


def raising(*bad: int) -> Any:
    def fault(videos: list[int]) -> list[bool]:
        if set(bad) & set(videos):
            raise RuntimeError(f"cannot look at\n{len(videos)} frames")
        return [False] * len(videos)

    return fault


def nan(*bad: int) -> Any:
    return lambda videos: [video in bad and index % 2 == 0 for index, video in enumerate(videos)]


@pytest.mark.parametrize(("fault", "said"), [(raising, "RuntimeError: cannot look at"), (nan, "are not finite")])
@pytest.mark.parametrize("bad", [(), (3,), (0, 7), (1, 2, 3), tuple(range(8))], ids=str)
@pytest.mark.parametrize("embedding", [False, True])
def test_a_model_that_fails_on_some_videos_answers_for_the_others(
    stamp: Model, bad: tuple[int, ...], fault: Any, said: str, embedding: bool
) -> None:
    spec, weights = stamp
    classifier = Classifier(spec, config(batch_size=5, embedding=embedding), weights)
    table = pixels([chunk(v, stamps(v, range(v + 1)), index=v) for v in range(8)])
    whole = classifier(table).to_pylist()
    classifier._network = Moody(classifier._network, fault(*bad))  # type: ignore[assignment]
    answers = classifier(table)
    assert answers.schema == schema.PREDICTIONS
    for video, (row, good) in enumerate(zip(answers.to_pylist(), whole, strict=True)):
        if video not in bad:
            for name in ("model_cpu_seconds", "model_wall_seconds"):
                row.pop(name), good.pop(name)
            assert row == good
            continue
        assert row["error_kind"] == "model"
        assert said in row["error_message"]
        assert row["num_frames"] == 0
        assert row["pts_seconds"] == row["is_keyframe"] == row["top_k_index"] == row["top_k_score"] == []
        assert row["score_sum"] is row["embedding"] is None
        assert row["codec"] == good["codec"]


def test_a_model_that_fails_once_is_asked_again(stamp: Model) -> None:
    spec, weights = stamp
    classifier = Classifier(spec, config(), weights)
    calls = []

    def fault(videos: list[int]) -> list[bool]:
        calls.append(videos)
        if len(calls) == 1:
            raise RuntimeError("just now")
        return [False] * len(videos)

    classifier._network = Moody(classifier._network, fault)  # type: ignore[assignment]
    [row] = classifier(pixels([chunk(3, stamps(3, range(4)))])).to_pylist()
    assert (row["num_frames"], row["error_kind"]) == (4, None)
    assert len(calls) == 2


def test_a_model_that_runs_out_of_memory_gets_smaller_batches(stamp: Model) -> None:
    spec, weights = stamp
    classifier = Classifier(spec, config(batch_size=32), weights)

    def fault(videos: list[int]) -> list[bool]:
        if len(videos) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [False] * len(videos)

    classifier._network = Moody(classifier._network, fault)  # type: ignore[assignment]
    rows = classifier(pixels([chunk(v, stamps(v, range(9))) for v in range(4)])).to_pylist()
    assert [(row["num_frames"], row["error_kind"]) for row in rows] == [(9, None)] * 4


def test_what_a_call_without_memory_had_is_let_go_before_a_smaller_batch_is_tried(stamp: Model) -> None:
    """An exception that is being handled keeps its frames, and with them all tensors of the call that failed."""
    spec, weights = stamp
    classifier = Classifier(spec, config(batch_size=16), weights)
    held: list[weakref.ref[torch.Tensor]] = []

    def fault(videos: list[int]) -> list[bool]:
        assert not any(reference() is not None for reference in held)
        activations = torch.zeros(8)
        held.append(weakref.ref(activations))
        if len(videos) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [False] * len(videos)

    classifier._network = Moody(classifier._network, fault)  # type: ignore[assignment]
    [row] = classifier(pixels([chunk(3, stamps(3, range(9)))])).to_pylist()
    assert (row["num_frames"], row["error_kind"]) == (9, None)
    assert len(held) > 3


def test_a_model_for_whose_batch_there_is_no_memory_starts_with_a_smaller_one(
    stamp: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, weights = stamp
    run = Network.__call__

    def poor(self: Network, frames: torch.Tensor, **options: Any) -> Any:
        if len(frames) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, frames, **options)

    monkeypatch.setattr(Network, "__call__", poor)
    classifier = Classifier(spec, config(batch_size=16), weights)
    assert not classifier._warmed_up(16)
    assert classifier._warmed_up(4)
    monkeypatch.setattr(Network, "__call__", lambda *_, **__: poor(classifier._network, [None] * 6))  # type: ignore[arg-type]
    with pytest.raises(torch.OutOfMemoryError):
        classifier._warmed_up(1)
