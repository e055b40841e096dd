"""One worker of a run on Ray Train: the loop, with its checkpoints, its bundle and its curves put where they belong.

<output>/model.safetensors, config.json   the bundle, or the network that enhances: weights of the best epoch so far
<output>/training/steps.parquet           a row a step: loss, learning rate, gradient norm, hash of the window ids
<output>/training/epochs.parquet          a row an epoch: losses and accuracies
<output>/training/tensorboard/            both, if wanted, for TensorBoard
<output>/checkpoints/                     Ray Train's: what a run goes on from
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch

from vidbatch import storage
from vidbatch.publish import encode_parquet
from vidbatch.training.loop import Loop, Worker
from vidbatch.training.settings import TrainSettings
from vidbatch.training.tracking import Tracked, Tracker

CHECKPOINT: Final = "state.pt"
SAID_EVERY_SECONDS: Final = 0.5


class Board:
    """An actor that holds the latest numbers of a run, for whoever looks."""

    def __init__(self) -> None:
        self._latest: dict[str, Any] = {}

    def show(self, numbers: dict[str, Any]) -> None:
        """Replace what there is to be seen."""
        self._latest = numbers

    def latest(self) -> dict[str, Any]:
        """What was shown last; empty before."""
        return self._latest


def train_worker(given: dict[str, Any]) -> dict[str, Any]:
    """What Ray Train runs in every worker; the fields of loop.Outcome come back.

    Args: `given` holds `config`, references to `data` (TrainingSet) and `weights` (bytes or None), the `board`, and the
    run in MLflow that is `tracked`, or None.
    """
    config: TrainSettings = given["config"]
    data, weights = ray.get([given["data"], given["weights"]])
    context = ray.train.get_context()
    torch.set_num_threads(given["num_threads"])
    worker = Worker(
        rank=context.get_world_rank(),
        num_ranks=context.get_world_size(),
        device=ray.train.torch.get_device(),
        share=ray.train.torch.prepare_model,
        cache_share=1 / context.get_local_world_size(),
    )
    loop = Loop(config, data, worker, weights=weights)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            loop.load_state(torch.load(os.path.join(folder, CHECKPOINT), map_location="cpu", weights_only=True))
    keeper = Keeper(loop, is_first=worker.rank == 0, board=given["board"], tracked=given["tracked"])
    outcome = loop.run(keeper.report, on_best=keeper.keep_bundle)
    keeper.write_curves()
    return {**outcome._asdict(), "failed": loop.failed, "steps": loop.step}


class Keeper:
    """Writes what has to outlive the worker; only the first one does, but all take part in every checkpoint."""

    def __init__(self, loop: Loop, *, is_first: bool, board: Any = None, tracked: Tracked | None = None) -> None:
        self._loop = loop
        self._is_first = is_first
        self._board = board
        self._tracker = None if tracked is None else Tracker(tracked)
        self._said = 0.0

    def report(self, numbers: dict[str, Any], state: Any) -> None:
        """Show the numbers; at the end of an epoch, and every so many steps, make a checkpoint."""
        is_epoch = "best_epoch" in numbers
        self._show(numbers, at_once=is_epoch)
        every = self._loop.config.checkpoint_steps
        if not is_epoch and (every is None or self._loop.step % every):
            return
        if is_epoch:
            self.write_curves()
        if not self._is_first:
            ray.train.report(numbers)
            return
        with tempfile.TemporaryDirectory() as folder:
            torch.save(state(), os.path.join(folder, CHECKPOINT))
            ray.train.report(numbers, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def keep_bundle(self) -> None:
        """Write the weights that are kept where they are used from."""
        if self._is_first:
            self._loop.objective.save(self._loop.config.output, self._loop.kept, self._loop.best)

    def write_curves(self) -> None:
        """Write the tables of steps and epochs."""
        if not self._is_first:
            return
        output = self._loop.config.output
        for name, rows in (("steps", self._loop.steps), ("epochs", self._loop.epochs)):
            put_table(output, name, pa.Table.from_pylist(rows))
        if self._loop.config.tensorboard:
            place = storage.join(output, "training", "tensorboard", "events.out.tfevents.0.vidbatch")
            storage.put(place, tensorboard_events(self._loop.steps, self._loop.epochs))
        if self._tracker is not None:
            self._tracker.tell(self._loop.steps, self._loop.epochs)

    def _show(self, numbers: dict[str, Any], *, at_once: bool) -> None:
        if self._is_first and self._board is not None:
            now = time.monotonic()
            if at_once or now - self._said >= SAID_EVERY_SECONDS:
                self._said = now
                self._board.show.remote(numbers)


def put_table(output: str, name: str, table: pa.Table) -> None:
    """Write <output>/training/<name>.parquet; one without a column is left out."""
    if table.num_columns:
        storage.put(storage.join(output, "training", f"{name}.parquet"), encode_parquet(table))


def tensorboard_events(steps: Sequence[dict[str, Any]], epochs: Sequence[dict[str, Any]]) -> bytes:
    """An event file of all curves: written anew each time, because a run that goes on must not tell a step twice."""
    from tensorboardX import SummaryWriter  # Ray Train brings it along

    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for kind, rows in (("steps", steps), ("epochs", epochs)):
                for row in rows:
                    for name, value in row.items():
                        if name not in ("step", "epoch") and isinstance(value, int | float):
                            writer.add_scalar(f"{kind}/{name}", value, row["step"])
        (place,) = Path(folder).iterdir()
        return place.read_bytes()
