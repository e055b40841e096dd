"""Training: the same curve whatever interrupts it and however many workers share it; mistakes are one sentence."""

from __future__ import annotations

import io
import itertools
import json
import math
import shutil
import signal
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from fading import LABELS, config, make_archive, make_fading, make_speeds, settings
from runs import VIDBATCH, heed_ctrl_c
from servers import MotoServer

import vidbatch
from vidbatch import storage
from vidbatch.bundles import save_bundle
from vidbatch.config import LabelConfig
from vidbatch.decode import window_job
from vidbatch.decoding.window_clips import decode_windows
from vidbatch.errors import ConfigError, TrainingDiverged
from vidbatch.models import find_model, load_spec
from vidbatch.networks import build
from vidbatch.testing import make_shard
from vidbatch.training.classifying import Losses, bundle_config, make_network
from vidbatch.training.config import TrainConfig, load_train_config
from vidbatch.training.loader import Cache, Loader, Wanted
from vidbatch.training.loop import FIRST_SCALE, Loop
from vidbatch.training.optimise import Schedule
from vidbatch.training.run import conclude, find_places, read_weights
from vidbatch.training.videos import TrainingSet, find_videos, make_training_set, read_facts
from vidbatch.training.worker import tensorboard_events
from vidbatch.windows import window_dtype

Rows = list[dict[str, Any]]

ALL_TRAIN: dict[str, Any] = {"train_share": 1.0, "validation_share": 0.0}
"""Of a few videos the hashes, which differ with the path, may leave a class without any to train with."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Torch's threads wait for each other by spinning: on a machine that others use, two are slower than one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that become brighter or darker, a folder per class."""
    return make_archive(tmp_path_factory.mktemp("fading") / "archive", split=True)


@pytest.fixture(scope="session")
def output(archive: Path) -> Path:
    """Beside it is the cache that all runs share; nothing is written to it by loops."""
    return archive.parent / "output"


def prepared(config: TrainConfig) -> TrainingSet:
    listed = find_videos(config)
    return make_training_set(listed, read_facts(listed.clips, config), config)


def curve(rows: Rows) -> Rows:
    return [{name: value for name, value in row.items() if name != "windows_per_second"} for row in rows]


def trained(config: TrainConfig, data: TrainingSet | None = None) -> Loop:
    loop = Loop(config, prepared(config) if data is None else data)
    loop.run(lambda _numbers, _state: None)
    return loop


# --- the loop -------------------------------------------------------------------------------------------------------


def test_what_only_the_order_of_frames_says_is_learnt(archive: Path, output: Path) -> None:
    loop = trained(config(archive, output, epochs=6))
    assert loop.epochs[-1]["validation_accuracy"] > 0.8
    assert loop.epochs[-1]["accuracy"] > 0.8
    assert loop.best["epoch"] is not None


def test_a_seed_gives_one_curve_bit_for_bit_and_another_seed_another(archive: Path, output: Path) -> None:
    augment = {
        "crop_area": (0.7, 1.0),
        "brightness": 0.2,
        "flip": {"probability": 0.5, "swaps": dict([LABELS, LABELS[::-1]])},
    }
    first = config(archive, output, augment=augment, jitter=0.2, places=2)
    data = prepared(first)
    assert curve(trained(first, data).steps) == curve(trained(first, data).steps)
    other = first.model_copy(update={"seed": 1})
    assert curve(trained(other, data).steps) != curve(trained(first, data).steps)


@pytest.mark.parametrize("stop_after", [1, 4, 6, 9])
def test_a_run_goes_on_in_mid_epoch_as_if_it_had_not_stopped(archive: Path, output: Path, stop_after: int) -> None:
    changes = {"epochs": 3, "ema_decay": 0.9, "schedule": "plateau", "warmup_epochs": 0.5, "plateau_epochs": 0}
    run = config(archive, output, **changes)
    data = prepared(run)
    kept: dict[int, bytes] = {}

    def keep(_numbers: dict[str, Any], state: Any) -> None:
        if loop.step == stop_after:
            buffer = io.BytesIO()
            torch.save(state(), buffer)
            kept[stop_after] = buffer.getvalue()

    loop = Loop(run, data)
    loop.run(keep)
    again = Loop(run, data)
    again.load_state(torch.load(io.BytesIO(kept[stop_after]), weights_only=True))
    again.run(lambda _numbers, _state: None)
    assert curve(again.steps) == curve(loop.steps)
    assert again.epochs == loop.epochs
    for name, weight in loop.kept.state_dict().items():
        assert torch.equal(weight, again.kept.state_dict()[name]), name


def test_an_epoch_has_every_window_once_and_the_same_batches_in_every_run(archive: Path, output: Path) -> None:
    run = config(archive, output)
    data = prepared(run)
    loop = trained(run, data)
    per_epoch = Counter(row["epoch"] for row in loop.steps for _ in range(row["num_windows"]))
    assert per_epoch == {0: len(data.train), 1: len(data.train)}
    other = trained(run.model_copy(update={"model": "small+mean", "learning_rate": 0.1}), data)
    assert [row["windows_hash"] for row in loop.steps] == [row["windows_hash"] for row in other.steps]
    first, second = ([row["windows_hash"] for row in loop.steps if row["epoch"] == epoch] for epoch in (0, 1))
    assert first != second, "epochs are shuffled anew"


def test_a_batch_gives_the_same_gradients_however_it_is_sliced(archive: Path, output: Path) -> None:
    run = config(archive, output, dropout=0.0, epochs=1)
    data = prepared(run)
    losses = [[row["loss"] for row in trained(run.model_copy(update={"slice_size": n}), data).steps] for n in (1, 2, 8)]
    assert np.allclose(losses[0], losses[1], rtol=1e-4)
    assert np.allclose(losses[0], losses[2], rtol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd", "momentum": 0.5, "clip_norm": 0.1},
        {"optimizer": "adam", "label_smoothing": 0.1, "balance": "weights"},
        {"augment": {"mixup_alpha": 0.4}, "balance": "sampling"},
        {"model": "small+attention", "ema_decay": 0.5, "features": ("energy",)},
        {"model": "small+mean", "freeze_body": True, "body_factor": 0.1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_way_to_optimise_trains(archive: Path, output: Path, changes: dict[str, Any]) -> None:
    run = config(archive, output, epochs=1, **changes)
    before = {name: value.clone() for name, value in Loop(run, prepared(run)).network.state_dict().items()}
    loop = trained(run)
    assert all(math.isfinite(row["loss"]) for row in loop.steps)
    after = loop.kept.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert any(name.startswith("classifier") for name in changed)
    assert any(name.startswith("body") for name in changed) != run.freeze_body


def test_a_frozen_body_is_trained_from_the_epoch_on_that_is_asked_for(archive: Path, output: Path) -> None:
    run = config(archive, output, freeze_body=True, unfreeze_at=2, epochs=3)
    loop = Loop(run, prepared(run))
    bodies = [_body_of(loop)]
    loop.run(lambda numbers, _state: bodies.append(_body_of(loop)) if "best_epoch" in numbers else None)
    assert [torch.equal(one, other) for one, other in itertools.pairwise(bodies)] == [True, True, False]


def _body_of(loop: Loop) -> torch.Tensor:
    return torch.cat([weight.detach().flatten().clone() for weight in loop.network.body.parameters()])


def test_scaled_losses_of_fp16_train_as_those_of_fp32(archive: Path, output: Path) -> None:
    """On the CPU, which `train` itself does not offer; the scale is part of a checkpoint."""
    run = config(archive, output, epochs=1)
    data = prepared(run)
    short = Loop(run.model_copy(update={"precision": "fp16"}), data)
    scales = []
    short.run(lambda _numbers, state: scales.append(state()["scaler"]["scale"]))
    assert scales
    assert set(scales) == {FIRST_SCALE}
    steps = short.steps, trained(run, data).steps
    for name, nearness in (("loss", 0.01), ("gradient_norm", 0.1)):  # later steps differ by what fp16 makes of these
        assert steps[0][0][name] == pytest.approx(steps[1][0][name], rel=nearness)
    losses = [[row["loss"] for row in rows] for rows in steps]
    assert np.allclose(*losses, atol=0.1)
    assert losses[0] != losses[1]


def speeds(manifest: Path, output: Path) -> TrainConfig:
    changes = {"task": "regression", "label_column": "levels", "model": "small+mean", "epochs": 14, "dropout": 0.0}
    return config(manifest, output, **changes)


def test_a_number_is_learnt_and_told_in_its_own_unit(tmp_path: Path) -> None:
    run = speeds(make_speeds(tmp_path / "videos"), tmp_path / "output")
    data = prepared(run)
    loop = trained(run, data)
    assert data.target is not None
    assert data.target.std > 3
    assert loop.epochs[-1]["validation_mean_error"] < data.target.std / 2
    save_bundle(tmp_path / "model", loop.kept.state_dict(), bundle_config(run, data))
    spec, weights = load_spec(find_model(f"file:{tmp_path / 'model'}"))
    assert spec.labels == ("levels",)
    assert spec.video is not None
    windows = data.validation
    loader = Loader(run)
    columns = zip(windows.video, windows.centred(), windows.num_real.tolist(), strict=True)
    (found,) = loader.slices([(0, [Wanted(data.listed.clips[at], times, real) for at, times, real in columns])])
    loader.close()
    told, _ = build(spec, weights, "cpu")(found.windows)
    assert data.listed.targets is not None
    errors = np.abs(told[:, 0].numpy() - data.listed.targets[windows.video])
    assert errors.mean() == pytest.approx(loop.epochs[-1]["validation_mean_error"], rel=1e-3)


def test_the_absolute_error_is_trained_in_place_of_the_squared_one_if_wanted(tmp_path: Path) -> None:
    config_of = {"task": "regression", "label_column": "levels"}
    outputs = torch.tensor([[0.0], [1.0], [3.0]])
    truth = torch.tensor([0.0, 0.0, 0.0])
    manifest = make_speeds(tmp_path / "videos", num_videos=2)
    manifest.write_text(manifest.read_text().replace("validation", "train"))
    for loss, expected in (("mse", [0.0, 1.0, 9.0]), ("l1", [0.0, 1.0, 3.0])):
        run = config(manifest, tmp_path / "output", **ALL_TRAIN, **config_of, loss=loss)
        losses = Losses(run, prepared(run), torch.device("cpu"))
        assert losses.to_train(outputs, truth).tolist() == losses.to_judge(outputs, truth).tolist() == expected
    run = speeds(make_speeds(tmp_path / "many"), tmp_path / "output").model_copy(update={"loss": "l1"})
    data = prepared(run)
    assert data.target is not None
    always_the_mean = 0.87 * data.target.std  # the mean error of that answer: the speeds are evenly spaced
    assert trained(run, data).epochs[-1]["validation_mean_error"] < 0.75 * always_the_mean


def test_a_label_that_is_no_number_is_a_sentence(tmp_path: Path) -> None:
    manifest = make_speeds(tmp_path / "videos", num_videos=2)
    manifest.write_text(manifest.read_text().replace("8.000", "fast"))
    with pytest.raises(ConfigError, match=r"label '-?fast' is not a number, as a regression wants"):
        find_videos(speeds(manifest, tmp_path / "output"))


def test_the_curves_can_be_read_by_tensorboard() -> None:
    """Its records: a length, a checksum, a protocol buffer with the step and the value."""
    from tensorboardX.proto.event_pb2 import Event

    steps = [{"step": step, "epoch": 0, "loss": 0.5 * step, "windows_hash": "a"} for step in range(3)]
    content = io.BytesIO(tensorboard_events(steps, [{"epoch": 0, "step": 3, "accuracy": 0.75}]))
    found = []
    while head := content.read(12):
        event = Event.FromString(content.read(struct.unpack("<Q", head[:8])[0]))
        content.read(4)
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    assert found == [*(("steps/loss", step, 0.5 * step) for step in range(3)), ("epochs/accuracy", 3, 0.75)]


def test_training_stops_early_once_nothing_gets_better(archive: Path, output: Path) -> None:
    run = config(archive, output, epochs=50, learning_rate=1e-9, patience=2, monitor="accuracy")
    loop = Loop(run, prepared(run))
    outcome = loop.run(lambda _numbers, _state: None)
    assert outcome.state == "stopped_early"
    assert outcome.epochs == 3
    assert outcome.best_epoch == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schedule": "constant"}, [1, 1, 1, 1, 1, 1, 1, 1]),
        ({"schedule": "step", "step_epochs": 2, "step_factor": 0.5}, [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]),
        ({"schedule": "cosine"}, [0.5 + 0.5 * math.cos(math.pi * step / 8) for step in range(8)]),
        ({"schedule": "plateau", "plateau_epochs": 0, "step_factor": 0.5}, [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]),
        ({"schedule": "constant", "warmup_epochs": 2}, [0.01, 0.2575, 0.505, 0.7525, 1, 1, 1, 1]),
    ],
    ids=["constant", "step", "cosine", "plateau", "warm-up"],
)
def test_the_learning_rate_follows_its_schedule(output: Path, changes: dict[str, Any], expected: list[float]) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = Schedule(optimizer, config(output, output, epochs=4, **changes), steps_per_epoch=2)
    rates = []
    for step in range(8):
        rates.append(optimizer.param_groups[0]["lr"] / 2.0)
        optimizer.step()
        schedule.after_step()
        if step % 2:
            schedule.after_epoch(0.0)
    assert rates == pytest.approx(expected, abs=1e-6)


def test_a_run_that_stops_after_some_epochs_is_the_beginning_of_one_of_all(archive: Path, output: Path) -> None:
    run = config(archive, output, epochs=3)
    data = prepared(run)
    loop = Loop(run.model_copy(update={"stop_after": 2}), data)
    outcome = loop.run(lambda _numbers, _state: None)
    assert (outcome.state, outcome.epochs) == ("stopped_early", 2)
    assert curve(loop.steps) == curve(trained(run, data).steps)[: len(loop.steps)]


def test_a_loss_that_is_no_number_stops_before_it_spoils_the_weights(archive: Path, output: Path) -> None:
    run = config(archive, output, optimizer="sgd", learning_rate=1e30, weight_decay=0.0)
    loop = Loop(run, prepared(run))
    outcome = loop.run(lambda _numbers, _state: None)
    assert outcome.state == "diverged"
    assert "is no number in step" in outcome.message
    assert ".mp4" in outcome.message


def test_a_run_that_diverged_says_where_and_what_is_kept(archive: Path, tmp_path: Path) -> None:
    run = config(archive, tmp_path / "output")
    record = {"counts": {"left_out": 0}}
    outcome = {"state": "diverged", "message": "the loss is no number in step 3", "epochs": 0, "best_epoch": None}
    with pytest.raises(TrainingDiverged, match="the loss is no number in step 3; no epoch was finished: try a smaller"):
        conclude(run, record, outcome | {"failed": {}})
    with pytest.raises(TrainingDiverged, match="the bundle holds epoch 2, the checkpoint the last good step"):
        conclude(run, record, outcome | {"failed": {}, "best_epoch": 2})
    assert json.loads((tmp_path / "output" / "train.json").read_text())["state"] == "diverged"


def test_a_video_that_cannot_be_decoded_any_more_is_left_out_of_the_mean(tmp_path: Path) -> None:
    folder = make_archive(tmp_path / "archive", per_class=6)
    run = config(folder, tmp_path / "output", **ALL_TRAIN, epochs=1, batch_size=24)
    data = prepared(run)
    broken = folder / "brighter" / "03.mp4"
    broken.write_bytes(broken.read_bytes()[:300])
    loop = trained(run, data)
    assert list(loop.failed) == [f"file://{broken}"]
    assert loop.steps[0]["num_windows"] == len(data.train) - 2
    assert 0.3 < loop.steps[0]["loss"] < 1.5, "a mean over those that are left"


def test_a_network_starts_from_a_file_or_from_published_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # where a download would have left them; nothing can be downloaded
    module = torchvision.models.squeezenet1_1()
    url = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url
    kept = tmp_path / "hub" / "checkpoints" / Path(url).name
    kept.parent.mkdir(parents=True)
    torch.save(module.state_dict(), kept)
    for place in ("IMAGENET1K_V1", str(kept)):
        run = config(
            tmp_path, tmp_path / "output", model="squeezenet1_1+mean", start_from=place, grid=2, channels="rgb"
        )
        network = make_network(run, 2, read_weights(run))
        body = network.body_state()
        assert all(torch.equal(value, module.state_dict()[name]) for name, value in body.items())
        assert body.keys() == {name for name in module.state_dict() if name.startswith("features")}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"start_from": "DEFAULT"}, "start_from: 'DEFAULT' is not allowed for small: give a file of its weights"),
        ({"start_from": "no.pth"}, "no.pth' cannot be read"),
        ({"start_from": "IMAGENET1K_V9", "model": "resnet18+gru"}, "resnet18 has no weights 'IMAGENET1K_V9'; allowed:"),
    ],
)
def test_weights_that_there_are_not_are_one_sentence(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_weights(config(tmp_path, tmp_path / "output", **changes))
    assert sentence in str(caught.value)


# --- what training sees ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"every": 1}, {"every": 3, "num_frames": 4}, {"fps": 3.0}])
def test_training_sees_the_very_frames_that_labelling_sees(
    archive: Path, output: Path, changes: dict[str, Any]
) -> None:
    run = config(archive, output, cache_gb=0, **changes)
    data = prepared(run)
    windows = data.validation
    loader = Loader(run)
    clips = [data.listed.clips[video] for video in windows.video]
    columns = zip(clips, windows.centred(), windows.num_real.tolist(), strict=True)
    (found,) = loader.slices([("all", [Wanted(*each) for each in columns])])
    loader.close()
    assert not found.failures
    dtype = window_dtype(run.num_frames, *run.frame_size)
    limits = LabelConfig(inputs=("x",), output="y")
    for video in dict.fromkeys(windows.video.tolist()):
        job = window_job(data.listed.clips[video], limits, run.frame, run.windows)
        labelled = b"".join(bytes(pixels) for _, pixels in decode_windows(job) if pixels is not None)
        assert found.windows[windows.video == video].tobytes() == labelled
        assert len(labelled) % dtype.itemsize == 0


def test_the_cache_gives_back_what_was_decoded_and_keeps_its_bound(archive: Path, tmp_path: Path) -> None:
    window = window_dtype(6, 48, 64).itemsize
    run = config(archive, tmp_path / "output", cache_gb=2.5 * window / 1e9)
    data = prepared(run)
    wanted = [
        Wanted(data.listed.clips[video], places, 6)
        for video, places in zip(data.train.video[:5].tolist(), data.train.centred()[:5], strict=True)
    ]
    for _ in range(2):
        loader = Loader(run)
        (found,) = loader.slices([(0, wanted)])
        loader.close()
        assert len(list((tmp_path / "cache").glob("*/*.window"))) == 2
    cache = Cache(run, window_dtype(6, 48, 64), share=1.0)
    again = np.zeros_like(found.windows)
    kept = [place for place, each in enumerate(wanted) if cache.read(each, again[place : place + 1])]
    assert len(kept) == 2
    assert all(again[place].tobytes() == found.windows[place].tobytes() for place in kept)


# --- labelled videos ------------------------------------------------------------------------------------------------


def labels_of(run: TrainConfig) -> dict[str, str]:
    return {Path(video.name).name.rpartition("!")[2]: video.label for video in find_videos(run).videos}


def test_a_folder_per_class_names_the_labels(archive: Path, output: Path) -> None:
    listed = find_videos(config(archive, output, inputs=(str(archive),)))
    assert listed.labels == LABELS
    assert {Path(video.url).parent.name == video.label for video in listed.videos} == {True}
    assert set(listed.splits) == {"train", "validation"}


def test_a_manifest_names_labels_parts_groups_and_splits(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "url,label,start,end,group,split\n"
        f"{archive}/brighter/00.mp4,brighter,0,0.7,a,\n{archive}/brighter/00.mp4,darker,0.7,1.5,a,\n"
        f"{archive}/darker/01.mp4,darker,,,b,test\n{archive}/brighter/02.mp4,brighter,,,c,train\n"
        f"{archive}/darker/03.mp4,darker,,,d,train\n{archive}/darker/04.mp4,,,,e,\n"
    )
    run = config(tmp_path / "list.csv", tmp_path / "output", num_frames=4)
    listed = find_videos(run)
    assert [(video.start_seconds, video.end_seconds) for video in listed.videos[:2]] == [(0.0, 0.7), (0.7, 1.5)]
    assert listed.splits[0] == listed.splits[1], "one group"
    assert listed.splits[2:] == ["test", "train", "train"]
    assert [left.reason for left in listed.left_out] == ["no label: neither 'label' nor .cls nor the folder of a class"]
    data = make_training_set(listed, read_facts(listed.clips, run), run)
    assert (data.train.num_real[data.train.video == 3] == 4).all()


def test_shards_name_labels_in_their_sidecars(archive: Path, tmp_path: Path) -> None:
    files: dict[str, Any] = {}
    for number in range(4):
        files |= {f"a{number}.mp4": archive / "brighter" / f"{number:02d}.mp4", f"a{number}.cls": b"brighter"}
        files |= {f"b{number}.mp4": archive / "darker" / f"{number:02d}.mp4", f"b{number}.json": b'{"label": "darker"}'}
    make_shard(tmp_path / "shard.tar", files)
    run = config(tmp_path / "shard.tar", tmp_path / "output", **ALL_TRAIN)
    assert labels_of(run) == {f"a{n}.mp4": "brighter" for n in range(4)} | {f"b{n}.mp4": "darker" for n in range(4)}
    assert len(prepared(run).train)


def test_the_tables_of_a_label_run_are_pseudo_labels_above_a_score(archive: Path, tmp_path: Path) -> None:
    rows = [
        {"url": f"file://{archive}/{label}/{number:02d}.mp4", "label": label, "score": score, "status": "ok"}
        for label in LABELS
        for number, score in enumerate((0.9, 0.95, 0.8, 0.4))
    ]
    rows.append({"url": f"file://{archive}/x.mp4", "label": None, "score": None, "status": "failed"})
    (tmp_path / "videos").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "videos" / "bucket=00.parquet")
    listed = find_videos(config(tmp_path / "videos" / "*.parquet", tmp_path / "output", min_score=0.5, **ALL_TRAIN))
    assert len(listed.videos) == 6
    assert Counter(left.reason.split(" ")[0] for left in listed.left_out) == {"score": 2, "missing:": 1}


def test_videos_that_cannot_be_used_are_counted_and_named(tmp_path: Path) -> None:
    folder = make_archive(tmp_path / "archive", per_class=5)
    (folder / "brighter" / "bad.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(1000))
    make_fading(folder / "brighter" / "short.mp4", "brighter", seed=1, num_frames=3)
    run = config(folder, tmp_path / "output", short="drop", **ALL_TRAIN)
    data = prepared(run)
    reasons = {Path(left.name).name: left.reason for left in data.left_out}
    assert reasons.pop("bad.mp4").startswith("truncated: ")
    assert reasons == {"short.mp4": "too short for a window"}
    assert data.counts()["left_out"] == 2


@pytest.mark.parametrize(
    ("rows", "changes", "sentence"),
    [
        (
            ["a,brighter", "b,brighter"],
            {},
            "labels: only 'brighter' among 2 videos: a classifier needs at least two classes",
        ),
        (
            ["a,brighter", "b,drakker"],
            {"labels": "brighter,darker"},
            "label 'drakker' is unknown; did you mean 'darker'?",
        ),
        (["a,brighter", "b,brighter"], {"labels": "brighter,darker"}, "class 'darker' has no video to train with"),
        (["a,", "b,"], {}, "inputs: no labelled video among 2; the first: "),
        (["a,brighter", "b,darker", "a,brighter"], {}, "this part of this video is listed twice"),
        (["a,brighter", "b,darker"], {"label_column": "kind"}, "no label: neither 'kind'"),
        (["a,brighter", "b,darker"], {"min_score": 2}, "min_score: 2 is not allowed"),
    ],
)
def test_labels_that_cannot_be_trained_are_one_sentence(
    archive: Path, tmp_path: Path, rows: list[str], changes: dict[str, Any], sentence: str
) -> None:
    for name, label in (("a", "brighter"), ("b", "darker")):
        shutil.copy(archive / label / "00.mp4", tmp_path / f"{name}.mp4")
    lines = [f"{tmp_path}/{row.replace(',', '.mp4,', 1)},train" for row in rows]
    (tmp_path / "list.csv").write_text("\n".join(["url,label,split", *lines]) + "\n")
    with pytest.raises(ConfigError) as caught:
        prepared(config(tmp_path / "list.csv", tmp_path / "output", **changes))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_of_which_nothing_can_be_read_is_one_sentence(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "archive" / "darker").mkdir(parents=True)
    shutil.copytree(archive / "brighter", tmp_path / "archive" / "brighter")
    (tmp_path / "archive" / "darker" / "bad.mp4").write_bytes(bytes(5000))
    with pytest.raises(
        ConfigError, match=r"no video of class 'darker' can be used to train with; the first: .*bad\.mp4"
    ):
        prepared(config(tmp_path / "archive", tmp_path / "output", **ALL_TRAIN))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch_size": 9}, "batch_size: 9 is not a multiple of slice_size, 2"),
        ({"num_workers": 8}, "num_workers: 8 workers cannot share out 4 slices of a batch"),
        ({"min_workers": 3, "num_workers": 2}, "min_workers: 3 is more than num_workers, 2"),
        ({"task": "regression", "balance": "weights"}, "balance: 'weights' is not allowed with task regression"),
        ({"task": "regression", "labels": "a,b"}, "labels: ('a', 'b') is not allowed with task regression"),
        ({"unfreeze_at": 3}, "unfreeze_at: 3 is not allowed without freeze_body"),
        ({"model": "small"}, "small sees single frames: add a head, such as small+gru"),
        ({"model": "small+gur"}, "head 'gur' is not allowed: mean, lstm, gru, attention"),
        ({"optimizer": "adamax"}, "optimizer: 'adamax' is not allowed"),
        ({"frame_size": "4x4"}, "height and width are from 8 to 4096 pixels"),
        ({"slice_size": 1, "augment": {"mixup_alpha": 1}}, "slice_size: 1 is odd, but mixup goes by pairs"),
        ({"train_share": 0.9, "validation_share": 0.2}, "train_share and validation_share are 1.1"),
        ({"every": 2, "fps": 8.0}, "every: 2 is not allowed with fps: give either"),
        ({"every": 0}, "every: 0 is not allowed"),
        ({"loss": "l1"}, "loss: 'l1' is not allowed with task classes, of which it is cross-entropy"),
        ({"loss": "l2", "task": "regression"}, "loss: 'l2' is not allowed"),
        ({"epoch": 3}, "epoch: no such setting; allowed: inputs, output, train_share"),
        ({"augment": {"hue": 3}}, "augment.hue: 3 is not allowed: input should be less than or equal to 0.5"),
        ({"augment": {"hew": 3}}, "augment.hew: 3 is not allowed"),
        ({"augment": "hue"}, "augment: 'hue' is not allowed"),
    ],
)
def test_settings_that_cannot_work_are_one_sentence(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, tmp_path, **changes)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("nodes", "changes", "expected"),
    [
        ([{"CPU": 2}], {}, (2, False)),
        ([{"CPU": 2}], {"num_workers": 2}, (1, False)),
        ([{"CPU": 8}, {"CPU": 4}, {"CPU": 0}], {"num_workers": 4}, (2, False)),
        ([{"CPU": 8, "GPU": 2}], {"num_workers": 2, "device": "auto"}, (4, True)),
        ([{"CPU": 2}], {"num_workers": 3}, "num_workers: 3 workers of 1 CPU each do not fit here; allowed: 2"),
        ([{"CPU": 8, "GPU": 1}], {"num_workers": 2, "device": "cuda"}, "2 workers of 4 CPUs and a GPU each do not fit"),
        ([{"CPU": 2}], {"device": "cuda"}, "device: 'cuda' is not allowed: there is no GPU here"),
        ([{"CPU": 2}], {"precision": "fp16"}, "precision: 'fp16' is not allowed without a GPU"),
        ([{"CPU": 2}], {"num_workers": 4, "min_workers": 2}, (1, False)),
        ([{"CPU": 1}], {"num_workers": 4, "min_workers": 2}, "min_workers: 2 workers of 1 CPU each do not fit here"),
    ],
)
def test_workers_share_out_the_cluster_or_a_sentence_says_why_not(
    tmp_path: Path, nodes: list[dict[str, float]], changes: dict[str, Any], expected: tuple[int, bool] | str
) -> None:
    run = config(tmp_path, tmp_path, **changes)
    if isinstance(expected, tuple):
        assert find_places(run, nodes) == expected
        return
    with pytest.raises(ConfigError) as caught:
        find_places(run, nodes)
    assert expected in str(caught.value)


def test_settings_may_be_text_as_flags_are() -> None:
    texts = {"frame_size": "48x64", "labels": "a, b", "channels": "rgb,difference", "augment": '{"hue": 0.1}'}
    run = load_train_config({"inputs": "x", "output": "y", "mean": "0.5,0.4,0.3", **texts})
    assert run.frame_size == (48, 64)
    assert run.labels == ("a", "b")
    assert run.channels == ("rgb", "difference")
    assert run.augment.hue == 0.1
    assert run.mean == (0.5, 0.4, 0.3)


# --- on Ray ---------------------------------------------------------------------------------------------------------


def steps_of(output: Path | str) -> Rows:
    table = io.BytesIO(storage.read_bytes(f"{output}/training/steps.parquet"))
    rows: Rows = pq.read_table(table).to_pylist()
    return curve(rows)


def kill_a_worker_after_a_checkpoint(output: Path, killed: list[int]) -> None:
    """SIGKILL one worker of this process's Ray once there is something to go on from."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (output / "checkpoints" / "checkpoint_manager_snapshot.json").exists():
            for process in psutil.Process().children(recursive=True):
                if "RayTrainWorker" in " ".join(process.cmdline()):
                    process.kill()
                    killed.append(process.pid)
                    return
        time.sleep(0.01)


@pytest.mark.usefixtures("local_ray")
@pytest.mark.long
def test_two_workers_one_of_them_killed_give_the_curve_of_one(archive: Path, tmp_path: Path) -> None:
    """A kill in mid-epoch leaves no trace: bit for bit the curve of two workers, and that of one but for rounding."""
    changes = {"epochs": 2, "num_workers": 2, "checkpoint_steps": 3, "cpus_per_worker": 1}
    clean, disturbed = tmp_path / "clean", tmp_path / "disturbed"
    given = settings(archive, clean, **changes)
    videos_of = given.pop("inputs")
    result = vidbatch.train(*videos_of, **given)
    assert result.state == "finished"
    assert set(result.metrics) == {"loss", "accuracy", "validation_loss", "validation_accuracy"}

    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker_after_a_checkpoint, args=(disturbed, killed))
    killer.start()
    again = vidbatch.train(*videos_of, **given | {"output": str(disturbed)})
    killer.join()
    assert killed
    assert again.state == "finished"
    assert steps_of(disturbed) == steps_of(clean)
    weights = [(place / "model.safetensors").read_bytes() for place in (clean, disturbed)]
    assert weights[0] == weights[1]

    alone = trained(config(archive, clean, **changes | {"num_workers": 1}))
    two, one = steps_of(clean), curve(alone.steps)
    assert [row["windows_hash"] for row in two] == [row["windows_hash"] for row in one]
    assert np.allclose([row["loss"] for row in two], [row["loss"] for row in one], rtol=1e-3)

    assert vidbatch.train(*videos_of, **given).state == "nothing_to_do"
    with pytest.raises(ConfigError, match="holds a training run with other values of epochs"):
        vidbatch.train(*videos_of, **given | {"epochs": 5})
    record = json.loads((clean / "train.json").read_text())
    assert record["counts"]["videos"]["train"].keys() == set(LABELS)
    videos = pq.read_table(clean / "training" / "videos.parquet").to_pylist()
    assert Counter(row["split"] for row in videos).keys() == {"train", "validation"}

    spec, _ = load_spec(find_model(f"file:{clean}"))
    assert spec.labels == LABELS


@pytest.mark.usefixtures("local_ray")
@pytest.mark.long
def test_a_model_of_a_number_is_trained_evaluated_and_used(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="vidbatch[evaluate] is not installed")
    manifest = make_speeds(tmp_path / "videos")
    given = speeds(manifest, tmp_path / "model").model_dump(exclude={"inputs"}) | {"cpus_per_worker": 1}
    result = vidbatch.train(manifest, **given)
    assert result.metrics["validation_mean_error"] < 2.4
    model = {"model": f"file:{tmp_path / 'model'}"}
    asked = {"split": "validation", "label_column": "levels"}
    found = vidbatch.evaluate(manifest, output=tmp_path / "evaluated", **model, **asked)
    assert found.videos["mean_absolute_error"] < 2.4
    assert found.videos["r2"] > 0.5
    assert found.windows["count"] >= found.videos["count"] > 3
    vidbatch.label(tmp_path / "videos", output=tmp_path / "labels", **model)
    rows = vidbatch.tables(tmp_path / "labels").videos.to_arrow().to_pylist()
    truth = dict(line.split(",")[:2] for line in manifest.read_text().splitlines()[1:])
    assert {row["label"] for row in rows} == {"levels"}
    errors = [abs(row["score"] - float(truth[Path(row["url"]).name])) for row in rows]
    assert len(errors) == 24
    assert np.mean(errors) < 2.4


@pytest.mark.long
def test_a_compiled_network_has_the_losses_of_one_that_is_not(archive: Path, output: Path) -> None:
    run = config(archive, output, epochs=1, batch_size=4, slice_size=4, dropout=0.0)  # chance is another when compiled
    data = prepared(run)
    compiled = trained(run.model_copy(update={"compile": True}), data)
    assert compiled.network._compiled_call_impl is not None
    plain = trained(run, data)
    assert np.allclose([row["loss"] for row in compiled.steps], [row["loss"] for row in plain.steps], rtol=1e-3)
    assert compiled.kept.state_dict().keys() == plain.kept.state_dict().keys()


@pytest.mark.long
@pytest.mark.parametrize(("stop", "where"), [(signal.SIGINT, "disk"), (signal.SIGKILL, "s3")])
def test_a_stopped_command_goes_on_where_it_was(
    archive: Path,
    tmp_path: Path,
    moto_s3: MotoServer,
    monkeypatch: pytest.MonkeyPatch,
    stop: signal.Signals,
    where: str,
) -> None:
    """Ctrl-C, or the kill of the driver with its whole local Ray: the same command again ends with the same curve, and
    MLflow has one run with every step once.
    """
    output = f"{moto_s3()}/output" if where == "s3" else str(tmp_path / "output")
    given = settings(archive, tmp_path / "output", epochs=4, checkpoint_steps=3, cpus_per_worker=1) | {"output": output}
    if find_spec("mlflow") is not None:
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        given["mlflow_uri"] = f"file://{tmp_path / 'mlruns'}"
    (tmp_path / "train.yaml").write_text(json.dumps(given))  # JSON is YAML, too
    command = [*VIDBATCH, "train", "--config", str(tmp_path / "train.yaml")]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c)
    deadline = time.monotonic() + 200
    while not storage.exists(f"{output}/checkpoints/checkpoint_manager_snapshot.json"):
        assert time.monotonic() < deadline
        assert first.poll() is None, first.stderr and first.stderr.read()
        time.sleep(0.01)
    first.send_signal(stop)
    _, said = first.communicate(timeout=60)
    if stop == signal.SIGINT:
        assert first.returncode == 130
        assert "stopped; run the same command again to go on" in said
    again = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert again.returncode == 0, again.stderr
    assert "vidbatch: finished, 4 epochs" in again.stdout
    assert steps_of(output) == curve(trained(config(archive, tmp_path / "output", epochs=4)).steps)
    if "mlflow_uri" in given:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=given["mlflow_uri"])
        experiment = client.get_experiment_by_name("vidbatch")
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.status == "FINISHED"
        told = client.get_metric_history(run.info.run_id, "steps/loss")
        assert [(metric.step, metric.value) for metric in told] == [
            (row["step"], row["loss"]) for row in steps_of(output)
        ]
