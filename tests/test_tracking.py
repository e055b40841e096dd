"""Runs of training in MLflow: what it is told, that nothing is told twice, and what happens when it is away."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from fading import config

from vidbatch.errors import ConfigError
from vidbatch.metrics import versions
from vidbatch.training.config import TrainConfig
from vidbatch.training.tracking import Tracked, Tracker, close_run, open_run

mlflow = pytest.importorskip("mlflow", reason="vidbatch[mlflow] is not installed")
STEPS = [
    {"step": n, "epoch": n // 4, "loss": 1 / (n + 1), "learning_rate": 0.1, "windows_hash": f"{n}"} for n in range(8)
]
EPOCHS = [
    {"step": 4, "epoch": 0, "loss": 0.5, "accuracy": 0.75},
    {"step": 8, "epoch": 1, "loss": 0.25, "accuracy": 1.0},
]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """MLflow's own store in a folder: what its servers do, without one."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return f"file://{tmp_path / 'mlruns'}"


def run_of(tmp_path: Path, uri: str, **changes: Any) -> TrainConfig:
    return config(tmp_path / "videos", tmp_path / "output", mlflow_uri=uri, **changes)


def new_record(run: TrainConfig) -> dict[str, Any]:
    return {"config": run.model_dump(mode="json"), "versions": versions()}


def found_in(store: str, tracked: Tracked, name: str) -> list[tuple[int, float]]:
    client = mlflow.MlflowClient(tracking_uri=store)
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(tracked.run_id, name))


def test_a_run_has_the_settings_and_the_curves(tmp_path: Path, store: str) -> None:
    run = run_of(tmp_path, store, mlflow_experiment="fading", epochs=3)
    tracked = open_run(run, new_record(run))
    assert tracked is not None
    Tracker(tracked).tell(STEPS, EPOCHS)
    close_run(tracked, "stopped_early")
    client = mlflow.MlflowClient(tracking_uri=store)
    told = client.get_run(tracked.run_id)
    assert client.get_experiment(told.info.experiment_id).name == "fading"
    assert told.info.run_name == "output"
    assert told.info.status == "FINISHED"
    assert told.data.tags["vidbatch.output"] == str(tmp_path / "output")
    assert told.data.params["epochs"] == "3"
    assert told.data.params["frame_size"] == "[48, 64]"
    assert found_in(store, tracked, "steps/loss") == [(row["step"], row["loss"]) for row in STEPS]
    assert found_in(store, tracked, "epochs/accuracy") == [(4, 0.75), (8, 1.0)]
    assert {name.partition("/")[2] for name in told.data.metrics} == {"loss", "learning_rate", "accuracy"}


def test_a_training_that_goes_on_is_the_same_run_and_tells_no_step_twice(tmp_path: Path, store: str) -> None:
    run = run_of(tmp_path, store)
    record = new_record(run)
    first = open_run(run, record)
    assert first is not None
    tracker = Tracker(first)
    tracker.tell(STEPS[:2], [])
    tracker.tell(STEPS[:4], EPOCHS[:1])
    again = open_run(run, record)
    assert again == first
    Tracker(again).tell(STEPS, EPOCHS)  # all rows, as a checkpoint gives them back
    assert [step for step, _ in found_in(store, again, "steps/loss")] == list(range(8))
    assert [step for step, _ in found_in(store, again, "epochs/loss")] == [4, 8]
    elsewhere = run_of(tmp_path, f"{store}2")
    other = open_run(elsewhere, record)
    assert other is not None
    assert other.run_id != first.run_id


def test_more_metrics_than_mlflow_takes_at_once_are_all_told(tmp_path: Path, store: str) -> None:
    run = run_of(tmp_path, store)
    tracked = open_run(run, new_record(run))
    assert tracked is not None
    rows = [{"step": step, "epoch": 0, "loss": 0.5, "gradient_norm": 1.0} for step in range(700)]
    Tracker(tracked).tell(rows, [])
    assert len(found_in(store, tracked, "steps/gradient_norm")) == 700


def test_an_mlflow_that_is_away_in_the_meantime_is_told_later(
    tmp_path: Path, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(tmp_path, store)
    tracked = open_run(run, new_record(run))
    assert tracked is not None
    tracker = Tracker(tracked)
    place = tmp_path / "mlruns"
    place.rename(tmp_path / "away")
    place.write_text("no folder")
    tracker.tell(STEPS[:4], EPOCHS[:1])
    assert "MLflow was not told" in caplog.text
    place.unlink()
    (tmp_path / "away").rename(place)
    tracker.tell(STEPS, EPOCHS)
    assert len(found_in(store, tracked, "steps/loss")) == 8


def test_an_mlflow_that_cannot_be_reached_is_one_sentence_without_its_password(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        uri = f"http://user:secret@127.0.0.1:{nobody.getsockname()[1]}"
        run = run_of(tmp_path, uri)
        with pytest.raises(ConfigError, match=r"mlflow_uri: 'http://127\.0\.0\.1:\d+' cannot be used: ") as caught:
            open_run(run, new_record(run))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_none_is_told_where_none_is_wanted(tmp_path: Path) -> None:
    run = config(tmp_path / "videos", tmp_path / "output")
    assert open_run(run, {}) is None
    close_run(None, "finished")
