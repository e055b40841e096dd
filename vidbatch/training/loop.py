"""The training loop of one worker: steps, epochs, what is kept of them. Knows torch.distributed, but nothing of Ray.

Every global batch is cut into slices of a fixed size, and a worker works off whole slices of it. What is left to chance
in a slice (augmentation, dropout) is keyed by (seed, step, slice, window), so that neither the number of workers nor
where a run went on changes what a window goes through; no state of random generators has to be kept. Gradients and
losses are summed over all slices of all workers and divided by the windows that count, those that can be decoded.

    order    | batch 0 | batch 1 | ...                      a function of seed, epoch and window ids (epochs.py)
    batch    [slice 0][slice 1][slice 2][slice 3]
    workers   (---- 0 --------)(---- 1 --------)            sum of gradients -> / windows -> clip -> optimizer
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from vidbatch.epochs import (
    Order,
    balanced_order,
    batches,
    epoch_order,
    evaluation_rows,
    num_batches,
    rank_part,
)
from vidbatch.training.classifying import Classifying
from vidbatch.training.cleaning import Cleaning
from vidbatch.training.config import TrainConfig
from vidbatch.training.interpolating import Interpolating
from vidbatch.training.loader import Loader, Slice, Wanted
from vidbatch.training.objective import Objective
from vidbatch.training.optimise import Schedule, held_weights, make_average, make_optimizer
from vidbatch.training.recolouring import Recolouring
from vidbatch.training.restore_config import RestoreConfig
from vidbatch.training.restoring import Restoring
from vidbatch.training.settings import TrainSettings
from vidbatch.training.upscaling import Upscaling
from vidbatch.training.videos import TrainingSet
from vidbatch.windows import Ints, Keys, Windows, random_bits

STATE_VERSION: Final = 1
FIRST_SCALE: Final = 4096.0
"""Of losses in fp16; lower than torch's own, because gradients here are sums over a batch until a step is made."""
State = dict[str, Any]
Report = Callable[[dict[str, Any], Callable[[], State]], None]
"""Told of finished steps and epochs: the numbers, and what gives the state for a checkpoint of this moment."""


class Outcome(NamedTuple):
    """How a run ended."""

    state: str
    """finished | stopped_early | diverged"""
    message: str
    epochs: int
    best_epoch: int | None


def make_objective(
    config: TrainSettings, data: TrainingSet, device: torch.device, weights: bytes | None = None
) -> Objective:
    """What the settings are for. Raises ConfigError or ModelError for a network that cannot be built or started."""
    if isinstance(config, TrainConfig):
        return Classifying(config, data, device, weights)
    assert isinstance(config, RestoreConfig)
    kinds = {"artefacts": Cleaning, "colour": Recolouring, "interpolate": Interpolating, "upscale": Upscaling}
    return kinds.get(config.kind, Restoring)(config, device, weights)


class _Asked(NamedTuple):
    """Which slice of which batch a loader's slice is."""

    k: int
    number: int
    rows: Any  # int64 (n,): windows
    keys: Keys
    counts: bool
    is_last: bool  # of this worker's slices of the batch


class Worker(NamedTuple):
    """Which worker this is, and what its library does to a network so that gradients are shared."""

    rank: int = 0
    num_ranks: int = 1
    device: torch.device = torch.device("cpu")
    share: Callable[[nn.Module], nn.Module] = lambda network: network
    cache_share: float = 1.0


class Loop:
    """The state of a training run and how it goes on: `run` to the end, from wherever `load_state` puts it."""

    def __init__(
        self, config: TrainSettings, data: TrainingSet, worker: Worker | None = None, *, weights: bytes | None = None
    ) -> None:
        self.config = config
        self.data = data
        self.worker = worker or Worker()
        device = self.worker.device
        self.objective = make_objective(config, data, device, weights)
        self.network = self.objective.network
        self._shared = self.worker.share(self.network)
        self._steps_per_epoch = num_batches(len(self._order(0).rows), config.batch_size)
        self.optimizer = make_optimizer(self.objective.groups(), config)
        self._weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        self._held = held_weights(self.optimizer)
        self._scaler = torch.amp.GradScaler(device.type, FIRST_SCALE, enabled=config.precision == "fp16")
        self._schedule = Schedule(self.optimizer, config, steps_per_epoch=self._steps_per_epoch)
        self.average = make_average(self.network, config)
        if config.compile:
            self.network.compile()  # in place, and after the average was copied from it
        self._loader = Loader(config, share=self.worker.cache_share)
        self.epoch = self.k = self.step = 0
        self.steps: list[dict[str, Any]] = []
        self.epochs: list[dict[str, Any]] = []
        self.failed: dict[str, str] = {}
        self.best: dict[str, Any] = {"epoch": None, "score": -math.inf}
        self._sums = [0.0, 0.0, 0.0]

    # --- what a checkpoint holds ------------------------------------------------------------------------------------

    def state(self) -> State:
        """All that a run needs to go on at the next step, for torch.save; plain types and tensors."""
        return {
            "version": STATE_VERSION,
            "digest": self.config.digest,
            "place": [self.epoch, self.k, self.step],
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "best": dict(self.best),
            "steps": list(self.steps),
            "epochs": list(self.epochs),
            "failed": dict(self.failed),
            "sums": list(self._sums),
        }

    def load_state(self, state: State) -> None:
        """Go on where `state` was called, by a loop of the same settings and videos."""
        self.epoch, self.k, self.step = state["place"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.best, self.steps, self.epochs = state["best"], state["steps"], state["epochs"]
        self.failed, self._sums = state["failed"], state["sums"]

    @property
    def kept(self) -> nn.Module:
        """The network whose weights are validated and kept: the average, where there is one."""
        return self.network if self.average is None else self.average.module

    @property
    def _is_stale(self) -> bool:
        patience, best = self.config.patience, self.best["epoch"]
        return patience is not None and best is not None and self.epoch - best >= patience

    # --- the run ----------------------------------------------------------------------------------------------------

    def run(self, report: Report, *, on_best: Callable[[], None] = lambda: None) -> Outcome:
        """Train to the end. Args: `on_best` is called when the weights that are kept are the best so far."""
        try:
            while self.epoch < self.config.epochs:
                if self._is_stale:
                    said = f"no better for {self.config.patience} epochs"
                    return Outcome("stopped_early", said, self.epoch, self.best["epoch"])
                if self.epoch == self.config.stop_after:
                    return Outcome("stopped_early", "as was asked for", self.epoch, self.best["epoch"])
                problem = self._train_epoch(report)
                if problem is not None:
                    return Outcome("diverged", problem, self.epoch, self.best["epoch"])
                self._finish_epoch(on_best)
                report(self.epochs[-1], self.state)
            return Outcome("finished", "", self.epoch, self.best["epoch"])
        finally:
            self._loader.close()

    def _train_epoch(self, report: Report) -> str | None:
        """All steps of the epoch that are left; says what is wrong if it must not go on."""
        self._shared.train()
        order = self._order(self.epoch)
        asked = self._loader.slices(self._asked(order))
        with contextlib.closing(asked):
            sums = torch.zeros(3, dtype=torch.float64, device=self.worker.device)
            losses: list[tuple[Ints, Tensor]] = []
            began = time.perf_counter()
            part = next(asked, None)
            while part is not None:
                with self._one_by_one(part.key.is_last):
                    found, of_rows = self._slice(part)
                sums += found
                losses += of_rows
                key, part = part.key, next(asked, None)  # gathered while a GPU is at work: a step waits for it
                if not key.is_last:
                    continue
                problem = self._step(sums, losses, order, key.k, began)
                if problem is not None:
                    return problem
                sums.zero_()
                losses, began = [], time.perf_counter()
                if self.k < self._steps_per_epoch:
                    report(self.steps[-1], self.state)
        return None

    def _order(self, epoch: int) -> Order:
        windows, seed = self.data.train, self.config.seed
        if self.config.is_balanced:
            return balanced_order(windows.key, self.data.classes_of(windows), seed=seed, epoch=epoch)
        return epoch_order(windows.key, seed=seed, epoch=epoch)

    def _asked(self, order: Order) -> Iterator[tuple[_Asked, list[Wanted]]]:
        """This worker's slices of the batches that are left; one that does not count where it would have none."""
        config, train = self.config, self.data.train
        for k, batch in batches(order, config.batch_size, first=self.k):
            num_slices = num_batches(len(batch.rows), config.slice_size)
            part = rank_part(num_slices, rank=self.worker.rank, num_ranks=self.worker.num_ranks)
            mine = part.positions[part.is_real] if part.is_real.any() else part.positions[:1]
            for number in mine.tolist():
                piece = batch.batch(number, config.slice_size)
                windows = train.take(piece.rows)
                places = windows.random(
                    seed=config.seed, epoch=self.epoch % config.places, jitter=config.jitter, keys=piece.keys
                )
                key = _Asked(k, number, piece.rows, piece.keys, bool(part.is_real.any()), number == mine[-1])
                yield key, self._wanted(windows, places)

    def _wanted(self, windows: Windows, places: Any) -> list[Wanted]:
        clips = self.data.listed.clips
        columns = zip(windows.video.tolist(), places, windows.num_real.tolist(), strict=True)
        return [Wanted(clips[video], positions, real) for video, positions, real in columns]

    @contextlib.contextmanager
    def _one_by_one(self, is_last: bool) -> Iterator[None]:
        """Gradients are shared once a step, with the last slice."""
        hold = getattr(self._shared, "no_sync", contextlib.nullcontext)
        with contextlib.nullcontext() if is_last else hold():
            yield

    def _slice(self, part: Slice[_Asked]) -> tuple[Tensor, list[tuple[Ints, Tensor]]]:
        """Add a slice's gradients; [sum of losses, windows, sum of scores], and the losses of its windows by row.

        Nothing here waits for a GPU: its numbers stay there until the step is made.
        """
        asked, config = part.key, self.config
        good = [place for place in range(len(part.windows)) if place not in part.failures]
        for place, why in part.failures.items():
            self.failed[self._name(asked.rows[place])] = why
        counts = asked.counts and bool(good)
        good = good or [0]  # something has to go through the network, so that gradients are shared
        rows = asked.rows[good]
        seeds = random_bits(np.array([asked.number], np.uint64), seed=config.seed, epoch=self.step, purpose="dropout")
        torch.manual_seed(int(seeds[0]) % 2**63)
        losses, scores = self.objective.train(
            self._shared, part.of(good), self.data.train.video[rows], asked.keys[good], epoch=self.epoch
        )
        total = losses.sum() * (1.0 if counts else 0.0)
        self._scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        if not counts:
            return torch.zeros(3, dtype=torch.float64, device=self.worker.device), []
        losses = losses.detach()
        sums = [losses.double().sum(), torch.ones_like(losses).double().sum(), scores.double().sum()]
        return torch.stack(sums), [(rows, losses)]

    def _step(self, sums: Tensor, losses: list[tuple[Ints, Tensor]], order: Order, k: int, began: float) -> str | None:
        """Let the optimizer use the gradients of the batch; says what is wrong if they are no numbers."""
        sums = self._summed(sums)
        factor = self.worker.num_ranks / sums[1].clamp(min=1.0)  # DDP has divided the sum by the workers
        self._scaler.unscale_(self.optimizer)
        for weight in self._held if self.epoch < self.config.held_epochs else ():
            weight.grad = None
        for weight in self._weights:
            if weight.grad is not None:
                weight.grad.mul_(factor)
        limit = math.inf if self.config.clip_norm is None else self.config.clip_norm
        of_gradients = nn.utils.clip_grad_norm_(self._weights, limit).double().reshape(1)
        loss_sum, num_windows, score_sum, norm = torch.cat([sums, of_gradients]).tolist()  # the one wait for a GPU
        count = max(1.0, num_windows)
        batch = order.batch(k, self.config.batch_size)
        # The scaler leaves out a step whose gradients were too large for fp16, and takes a smaller scale.
        if not math.isfinite(loss_sum) or not (math.isfinite(norm) or self._scaler.is_enabled()):
            return self._divergence(loss_sum, losses, batch)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.steps.append(
            {
                "step": self.step,
                "epoch": self.epoch,
                "loss": loss_sum / count,
                "learning_rate": float(self.optimizer.param_groups[-1]["lr"]),
                "gradient_norm": norm,
                "num_windows": int(num_windows),
                "windows_hash": hashlib.blake2b(batch.keys.tobytes(), digest_size=8).hexdigest(),
                "windows_per_second": round(count / max(1e-9, time.perf_counter() - began), 2),
            }
        )
        self._schedule.after_step()
        self._sums = [self._sums[0] + loss_sum, self._sums[1] + num_windows, self._sums[2] + score_sum]
        self.step += 1
        self.k = k + 1
        return None

    def _divergence(self, loss_sum: float, losses: list[tuple[Ints, Tensor]], batch: Order) -> str:
        mine = [
            self._name(row)
            for rows, of_rows in losses
            for row, is_number in zip(rows, of_rows.isfinite().tolist(), strict=True)
            if not is_number
        ]
        names = [name for of_rank in self._gathered(mine) for name in of_rank]
        where = f"step {self.step} (epoch {self.epoch})"
        if names:
            return f"the loss is no number in {where}, first at {names[0]}"
        what = "loss" if not math.isfinite(loss_sum) else "gradient"
        first = self._name(batch.rows[0])
        return f"the {what} is no number in {where}, in a batch of {len(batch.rows)} windows that begins with {first}"

    # --- the end of an epoch ----------------------------------------------------------------------------------------

    def _finish_epoch(self, on_best: Callable[[], None]) -> None:
        trained = _averages(self._sums)
        name = self.config.score_name
        numbers: dict[str, Any] = {"epoch": self.epoch, "step": self.step, "loss": trained[0], name: trained[1]}
        judged = trained
        if len(self.data.validation):
            judged = _averages(self._validate())
            numbers |= {"validation_loss": judged[0], f"validation_{name}": judged[1]}
        score = self.config.score_of(*judged)
        for of_rank in self._gathered(self.failed):
            self.failed |= of_rank
        numbers["num_failed"] = len(self.failed)
        self._schedule.after_epoch(score)
        self.epoch, self.k, self._sums = self.epoch + 1, 0, [0.0, 0.0, 0.0]
        if score > self.best["score"] or self.best["epoch"] is None:
            self.best = {"epoch": self.epoch, "score": score}
            on_best()
        numbers["best_epoch"] = self.best["epoch"]
        self.epochs.append(numbers)

    @torch.inference_mode()
    def _validate(self) -> list[float]:
        """Sum of losses, windows and sum of scores over the validation windows of all workers."""
        windows, size = self.data.validation, self.config.slice_size
        rows = evaluation_rows(windows.video, rank=self.worker.rank, num_ranks=self.worker.num_ranks)
        mine = windows.take(rows)
        wanted = self._wanted(mine, mine.centred())
        network = self.kept.eval()
        sums = torch.zeros(3, dtype=torch.float64, device=self.worker.device)
        starts = range(0, len(wanted), size)
        for part in self._loader.slices((start, wanted[start : start + size]) for start in starts):
            good = [place for place in range(len(part.windows)) if place not in part.failures]
            for place, why in part.failures.items():
                self.failed[self._name_of(mine, part.key + place)] = why
            if not good:
                continue
            here = slice(part.key, part.key + size)
            losses, scores = self.objective.judge(network, part.of(good), mine.video[here][good], mine.key[here][good])
            sums += torch.stack([losses.double().sum(), torch.ones_like(losses).double().sum(), scores.double().sum()])
        found: list[float] = self._summed(sums).tolist()
        return found

    # --- over all workers -------------------------------------------------------------------------------------------

    def _summed(self, values: Tensor) -> Tensor:
        if self.worker.num_ranks > 1:
            dist.all_reduce(values)
        return values

    def _gathered(self, value: Any) -> list[Any]:
        """What every worker has, in order of rank."""
        if self.worker.num_ranks == 1:
            return [value]
        found: list[Any] = [None] * self.worker.num_ranks
        dist.all_gather_object(found, value)
        return found

    def _name(self, row: int) -> str:
        return self._name_of(self.data.train, row)

    def _name_of(self, windows: Windows, row: int) -> str:
        return self.data.listed.videos[int(windows.video[row])].name


def _averages(sums: list[float]) -> tuple[float, float]:
    """Mean loss and mean score of [sum of losses, windows, sum of scores]."""
    return sums[0] / max(1.0, sums[1]), sums[2] / max(1.0, sums[1])
