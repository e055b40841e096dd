"""`vidbatch train`, `train-enhancer` and `evaluate`: flags are fields of their settings; all else is library."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from vidbatch import storage
from vidbatch.cli_shared import progress, settings_flags
from vidbatch.evaluation.config import EvaluateConfig, load_evaluate_config
from vidbatch.training.config import TrainConfig, load_train_config
from vidbatch.training.restore_config import RestoreConfig, load_restore_config
from vidbatch.training.settings import TrainSettings

if TYPE_CHECKING:
    from vidbatch.training.run import TrainResult

_SHOWN = (
    *("accuracy", "top_5", "precision", "recall", "f1", "calibration_error"),
    *("mean_absolute_error", "root_mean_squared_error", "r2"),
)


@click.command()
@settings_flags(TrainConfig)
def train(inputs: tuple[str, ...], config_file: str | None, as_json: bool, **settings: Any) -> None:
    """Train a video classifier on labelled videos, and write it as a bundle for `vidbatch label`.

    \b
    vidbatch train videos/ --output model/                        a folder per class: videos/cat/1.mp4
    vidbatch train clips.csv --output model/ --model resnet18+gru columns url,label[,start,end,group,split]
    vidbatch train 'labels/videos/*.parquet' --output model/ --min-score 0.9    what a label run was sure of
    vidbatch label more/ --output labels/ --model file:model/

    Killed or stopped? Run the same command again: it goes on at the last checkpoint.
    """
    config = load_train_config({"inputs": inputs or None, **settings}, config_file)
    if _train(config, as_json) is not None:
        where = storage.redact(config.output)
        click.echo(
            f"vidbatch: bundle in {where}, curves in {where}/training; use it: vidbatch label --model file:{where}"
        )


def _train(config: TrainSettings, as_json: bool) -> TrainResult | None:
    """Train and say how it went; None if that was all there is to say."""
    from vidbatch.training.run import Progress
    from vidbatch.training.run import train as run

    with redirect_stdout(sys.stderr):  # Ray prints that a node was lost: stdout is for the result
        result = run(config, Progress(config, progress(as_json=as_json)))
    if as_json:
        click.echo(json.dumps(asdict(result), indent=1))
        return None
    numbers = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in result.metrics.items())
    done = "nothing to do: trained before" if result.state == "nothing_to_do" else result.state.replace("_", " ")
    click.echo(
        f"vidbatch: {done}, {result.epochs} epochs, best: {result.best_epoch} ({numbers}); "
        f"{result.left_out} videos left out, {result.num_failed} failed"
    )
    return result


@click.command("train-enhancer")
@settings_flags(RestoreConfig)
def train_enhancer(inputs: tuple[str, ...], config_file: str | None, as_json: bool, **settings: Any) -> None:
    """Train a network for `vidbatch enhance`: noise, artefacts of codecs, colours, larger frames or ones in between.

    \b
    vidbatch train-enhancer good/ --output network/ --kind denoise      any good videos: they are spoilt on the way
    vidbatch train-enhancer pairs/ --output network/ --kind artefacts --pairs --num-frames 1 --frame-size 720x640
    vidbatch train-enhancer good/ --output network/ --kind upscale --num-frames 1
    vidbatch train-enhancer good/ --output network/ --kind interpolate
    vidbatch enhance videos/ --output better/ --denoise network/

    Killed or stopped? Run the same command again: it goes on at the last checkpoint.
    """
    config = load_restore_config({"inputs": inputs or None, **settings}, config_file)
    if _train(config, as_json) is not None:
        where = storage.redact(config.output)
        click.echo(f"vidbatch: network in {where}, curves in {where}/training; use it: vidbatch enhance")


@click.command()
@settings_flags(EvaluateConfig)
def evaluate(inputs: tuple[str, ...], config_file: str | None, as_json: bool, **settings: Any) -> None:
    """Say how right a model is about labelled videos that it was not trained on.

    \b
    vidbatch evaluate videos/ --output evaluated/ --model file:model/      the test videos of `train videos/`
    vidbatch evaluate other.csv --output evaluated/ --model file:model/ --split all

    Accuracy, top-5, precision, recall, F1, confusion and calibration, by video and by window, as JSON, with the rows
    they come from and pictures.
    """
    config = load_evaluate_config({"inputs": inputs or None, **settings}, config_file)
    from vidbatch.evaluation.run import evaluate as run

    with redirect_stdout(sys.stderr):  # Ray prints that a node was lost: stdout is for the result
        found = run(config, progress(as_json=as_json))
    if as_json:
        click.echo(json.dumps({"videos": found.videos, "windows": found.windows}, indent=1))
        return
    for name, scores in (("videos", found.videos), ("windows", found.windows)):
        if scores["count"]:
            numbers = ", ".join(
                f"{key.replace('_', ' ')} {scores[key]:.3f}" for key in _SHOWN if scores.get(key) is not None
            )
            click.echo(f"vidbatch: {scores['count']} {name}: {numbers}")
    for label, numbers in found.videos.get("by_class", {}).items():
        click.echo(f"  {label:<20} " + "  ".join(f"{key} {numbers[key]:.3f}" for key in ("precision", "recall", "f1")))
    failed = f"{len(found.failed)} failed, {len(found.left_out)} without a label"
    click.echo(f"vidbatch: {failed}; tables, numbers and pictures in {storage.redact(config.output)}")
