"""What runs on a GPU says what the CPU says: labels, frames, losses. Needs a GPU, but no server and no fetched clip.

VIDBATCH_REQUIRE_GPU=1 python -m pytest -m gpu tests/test_gpu.py tests/test_classify.py tests/test_transforms.py
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from fading import config as train_config
from fading import make_archive, settings

import vidbatch
from vidbatch.classify import Classifier
from vidbatch.config import LabelConfig
from vidbatch.models import find_model, load_spec
from vidbatch.networks import Network
from vidbatch.schema import FrameSpec
from vidbatch.stamp import make_stamp_bundle
from vidbatch.testing import make_video
from vidbatch.training.loop import Loop, Worker
from vidbatch.training.videos import find_videos, make_training_set, read_facts
from vidbatch.windows import window_dtype

pytestmark = pytest.mark.gpu
LEVELS = 2
"""Of 255, between a frame that a GPU made and one of the CPU."""


@pytest.fixture(scope="module", autouse=True)
def _gpu() -> None:
    if not torch.cuda.is_available():
        assert os.environ.get("VIDBATCH_REQUIRE_GPU") != "1", "VIDBATCH_REQUIRE_GPU=1, and there is no GPU"
        pytest.skip("no CUDA device")


@pytest.fixture(scope="module")
def gpu_ray(_gpu: None) -> Iterator[None]:
    """A Ray of four CPUs and a GPU, without the servers that other tests have theirs know."""
    import ray

    paths = [str(Path(vidbatch.__file__).parent.parent), str(Path(__file__).parent)]
    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=500 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def stamp_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("stamp")
    make_stamp_bundle(folder, num_classes=16, frame=FrameSpec(64, 64))
    return f"file:{folder}"


@pytest.fixture(scope="module")
def fading(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("fading") / "archive", split=True)


def rows(result: Any, table: str, names: tuple[str, ...]) -> list[tuple[Any, ...]]:
    found = getattr(result, table).to_arrow().to_pylist()
    return sorted(tuple(row[name] for name in names) for row in found)


# --- label ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("gpu_ray")
@pytest.mark.parametrize("hand_over", ["rgb", "yuv420"])
def test_label_says_on_a_gpu_what_it_says_on_a_cpu(tmp_path: Path, stamp_model: str, hand_over: str) -> None:
    (tmp_path / "videos").mkdir()
    for number in range(6):
        make_video(tmp_path / "videos" / f"{number}.mp4", video_number=number, num_frames=40, b_frames=2)
    found = {}
    for device in ("cpu", "cuda"):
        result = vidbatch.label(
            str(tmp_path / "videos"), output=str(tmp_path / device), model=stamp_model, sampling="every=4",
            hand_over=hand_over, device=device, batch_size=16, buckets=2, decode_workers=2,
        )  # fmt: skip
        assert result.record.by_status == {"ok": 6}
        assert (result.record.pools["model_gpus"] > 0) == (device == "cuda")
        videos = rows(result, "videos", ("url", "label", "num_frames_sampled"))
        frames = rows(result, "frames", ("url", "frame_index", "label"))
        found[device] = (videos, frames)
        assert {(Path(url).stem, label) for url, label, _ in videos} == {(str(n), f"video_{n}") for n in range(6)}
    assert found["cuda"] == found["cpu"]
    assert len(found["cuda"][1]) == 60


def classifier(model: str, **changes: Any) -> Classifier:
    spec, weights = load_spec(find_model(model))
    return Classifier(spec, LabelConfig(inputs=("x",), output="y", device="cuda", **changes), weights)


def test_a_batch_that_a_gpu_has_no_memory_for_is_halved_until_it_has(
    stamp_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What PyTorch may take is bounded, so that a batch of 256 is too much, with what the network makes of it."""
    run = Network._run
    seen: list[int] = []

    def greedy(self: Network, frames: torch.Tensor) -> Any:
        held = torch.empty((len(frames), 8 * 2**20), dtype=torch.uint8, device=self.device)
        seen.append(len(frames))
        return run(self, frames), held

    monkeypatch.setattr(Network, "_run", lambda self, frames: greedy(self, frames)[0])
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 600 * 2**20) / total)
    try:
        small = classifier(stamp_model, batch_size=256)  # warming up is halved, too
        assert small._batch_size == 64
        small._batch_size = 256
        chunks = [torch.zeros((100, 64, 64, 3), dtype=torch.uint8).numpy() for _ in range(3)]
        answers = small._answers(list(chunks))
        assert small._batch_size == 64
        assert answers.counts.tolist() == [100, 100, 100]
        assert answers.faults == {}
        assert max(seen) == 64
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


# --- train ----------------------------------------------------------------------------------------------------------


def prepared(folder: Path, output: Path, **changes: Any) -> tuple[Any, Any]:
    run = train_config(folder, output, **changes)
    listed = find_videos(run)
    return run, make_training_set(listed, read_facts(listed.clips, run), run)


@pytest.mark.parametrize(
    ("model", "augment"),
    [
        ("small+gru", {}),
        ("small+attention", {"mixup_alpha": 0.4, "crop_area": (0.7, 1.0), "brightness": 0.2}),
        ("correlation+lstm", {}),
    ],
)
def test_the_losses_of_a_gpu_are_those_of_a_cpu(
    fading: Path, tmp_path: Path, model: str, augment: dict[str, Any]
) -> None:
    run, data = prepared(fading, tmp_path / "out", model=model, augment=augment, dropout=0.0, ema_decay=0.9)
    curves = []
    for device in ("cpu", "cuda"):
        loop = Loop(run, data, Worker(device=torch.device(device)))
        loop.run(lambda _numbers, _state: None)
        curves.append([step["loss"] for step in loop.steps] + [loop.epochs[-1]["validation_loss"]])
    assert np.allclose(*curves, rtol=0.02)


@pytest.mark.parametrize(
    "changes",
    [{"precision": "bf16"}, {"precision": "fp16"}, {"clip_norm": 0.5, "optimizer": "sgd", "schedule": "plateau"}],
)
def test_every_way_to_train_on_a_gpu_learns(fading: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    epochs = {"epochs": 6, "learning_rate": 1e-2 if "optimizer" in changes else 3e-3}
    run, data = prepared(fading, tmp_path / "out", **epochs, **changes)
    loop = Loop(run, data, Worker(device=torch.device("cuda")))
    loop.run(lambda _numbers, _state: None)
    assert loop.epochs[-1]["loss"] < 0.95 * loop.epochs[0]["loss"]


def test_a_state_of_a_gpu_goes_on_in_mid_epoch(fading: Path, tmp_path: Path) -> None:
    run, data = prepared(fading, tmp_path / "out", epochs=3, precision="fp16", ema_decay=0.9, dropout=0.0)
    kept: dict[str, bytes] = {}

    def keep(_numbers: dict[str, Any], state: Any) -> None:
        if loop.step == 5:
            buffer = io.BytesIO()
            torch.save(state(), buffer)
            kept["state"] = buffer.getvalue()

    loop = Loop(run, data, Worker(device=torch.device("cuda")))
    loop.run(keep)
    again = Loop(run, data, Worker(device=torch.device("cuda")))
    again.load_state(torch.load(io.BytesIO(kept["state"]), map_location="cpu", weights_only=True))
    again.run(lambda _numbers, _state: None)
    assert np.allclose([row["loss"] for row in again.steps], [row["loss"] for row in loop.steps], rtol=0.02)
    assert [row["windows_hash"] for row in again.steps] == [row["windows_hash"] for row in loop.steps]


def test_a_loss_on_a_gpu_that_is_no_number_names_its_video(fading: Path, tmp_path: Path) -> None:
    run, data = prepared(fading, tmp_path / "out")
    loop = Loop(run, data, Worker(device=torch.device("cuda")))
    with torch.no_grad():
        next(loop.network.parameters()).fill_(float("nan"))
    outcome = loop.run(lambda _numbers, _state: None)
    assert outcome.state == "diverged"
    assert "the loss is no number in step 0 (epoch 0), first at" in outcome.message
    assert ".mp4" in outcome.message


@pytest.mark.usefixtures("gpu_ray")
def test_a_run_of_one_worker_on_a_gpu_learns_and_goes_on_where_it_was(
    fading: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Train with NCCL; the second call finds the checkpoint of the first, and nothing left to train."""
    wanted = settings(fading, tmp_path / "out", device="cuda", epochs=4, max_failures=0)
    inputs, output = wanted.pop("inputs"), wanted.pop("output")

    def steps() -> list[dict[str, Any]]:
        return list(pq.read_table(f"{output}/training/steps.parquet").to_pylist())

    class Killed(Exception):
        pass

    def killed(*_: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("vidbatch.training.run.conclude", killed)
        with pytest.raises(Killed):  # all is trained, but the record does not say so
            vidbatch.train(*inputs, output=output, **wanted)
    before = steps()
    result = vidbatch.train(*inputs, output=output, **wanted)
    assert result.state == "finished"
    assert [row["loss"] for row in steps()] == [row["loss"] for row in before], "nothing was trained twice"
    of_epoch = [np.mean([row["loss"] for row in before if row["epoch"] == epoch]) for epoch in (0, 3)]
    assert of_epoch[1] < of_epoch[0]
    labelled = vidbatch.label(
        str(fading), output=str(tmp_path / "labels"), model=f"file:{output}", device="cuda", buckets=2,
        decode_workers=2, limit=4,
    )  # fmt: skip
    assert labelled.record.by_status == {"ok": 4}


def test_windows_get_the_answers_of_a_cpu(fading: Path, tmp_path: Path) -> None:
    from vidbatch.bundles import WindowModel
    from vidbatch.training.classifying import make_network
    from vidbatch.window_networks import NetworkOfWindows

    run, _ = prepared(fading, tmp_path / "out", model="resnet18+attention", grid=1, channels=("rgb", "energy"))
    video: WindowModel = run.video
    windows = np.zeros(5, window_dtype(run.num_frames, *run.frame_size))
    windows["frames"] = np.random.default_rng(0).integers(0, 256, windows["frames"].shape)
    windows["num_real"] = [6, 1, 3, 6, 5]
    said = []
    for device in ("cpu", "cuda"):
        network = make_network(run, 2)
        on = NetworkOfWindows(network, video, run.frame, run.mean, run.std, torch.device(device), 1)
        said.append([part.cpu().numpy() for part in on(windows)])
    for ours, truth in zip(*said, strict=True):
        assert np.allclose(ours, truth, atol=0.02)


# --- enhance --------------------------------------------------------------------------------------------------------


def video_of_noise(path: Path, *, num_frames: int, height: int, width: int, sigma: float = 12.0) -> None:
    import av

    chance = np.random.default_rng(0)
    cells = chance.integers(30, 220, (height // 8, width // 8, 3))
    picture = np.kron(cells, np.ones((8, 8, 1)))
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, width=width, height=height, options={"qp": "0"})
        stream.pix_fmt = "yuv420p"
        for number in range(num_frames):
            pixels = np.roll(picture, 2 * number, axis=1) + sigma * chance.standard_normal(picture.shape)
            frame = av.VideoFrame.from_ndarray(pixels.clip(0, 255).astype(np.uint8), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def frames_of(path: str | Path) -> Any:
    import av

    with av.open(str(path).removeprefix("file://")) as video:
        return np.stack([frame.to_ndarray() for frame in video.decode(video=0)]).astype(np.int16)


@pytest.mark.usefixtures("gpu_ray")
def test_enhanced_frames_of_a_gpu_are_those_of_a_cpu(tmp_path: Path) -> None:
    """Encoded without loss, so that a level is a level."""
    (tmp_path / "videos").mkdir()
    video_of_noise(tmp_path / "videos" / "a.mp4", num_frames=12, height=160, width=240)
    made = {}
    for device in ("cpu", "cuda"):
        result = vidbatch.enhance(
            str(tmp_path / "videos"), output=str(tmp_path / device), denoise="network", device=device, crf=0, buckets=2,
            workers_per_gpu=4, workers=1 if device == "cpu" else None,
        )  # fmt: skip
        assert result.record.by_status == {"ok": 1}
        assert (result.record.pools["enhance_gpus"] > 0) == (device == "cuda")
        (row,) = result.enhanced.to_arrow().to_pylist()
        made[device] = frames_of(next((tmp_path / device / "media").iterdir()))
        assert row["error_kind"] is None
    given = frames_of(tmp_path / "videos" / "a.mp4")
    apart = np.abs(made["cuda"] - made["cpu"])
    assert made["cuda"].shape == given.shape
    assert apart.max() <= LEVELS
    assert apart.mean() < 0.1
    assert np.abs(made["cuda"] - given).mean() > 2, "noise is gone"


@pytest.mark.parametrize("size", [(96, 128), (1104, 1920)])
def test_the_denoiser_makes_the_frames_of_a_cpu_in_strips_too(size: tuple[int, int]) -> None:
    """The second size is made in strips; of it a few cells are looked at."""
    from av.video.frame import VideoFrame

    from vidbatch.enhancing.config import EnhanceConfig
    from vidbatch.enhancing.networked import DenoiseLink
    from vidbatch.restoring.spec import read_enhancer

    wanted = {"inputs": ("x",), "output": "y", "steps": ("denoise",), "denoise": "network"}
    (step,) = EnhanceConfig.model_validate(wanted).wanted_steps
    assert step.network is not None
    enhancer = read_enhancer(step.network.place)
    chance = np.random.default_rng(1)
    height, width = size
    ramp = np.linspace(20, 230, width)[None, :, None] + np.linspace(-15, 15, height)[:, None, None]
    count = enhancer.spec.num_frames // 2 + 1
    frames = [
        VideoFrame.from_ndarray(
            (ramp + 15 * chance.standard_normal((height, width, 3))).clip(0, 255).astype(np.uint8), format="rgb24"
        ).reformat(format="yuv420p")
        for _ in range(count)
    ]
    made = []
    for device in ("cpu", "cuda"):
        link = DenoiseLink(enhancer.load().to(device), 1.0, device)
        found = [one for frame in frames for one in link.push(frame)]
        assert len(found) == 1
        made.append(found[0].to_ndarray().astype(np.int16))
    apart = np.abs(made[0] - made[1])
    assert apart.max() <= LEVELS
    assert apart.mean() < 0.1
