"""A training run, whole: list -> split -> look at every video -> train on Ray Train's workers -> a bundle.

`train(config)` runs it; killed or stopped, the same call goes on at the last checkpoint. Everything that the user can
have got wrong is said before the first task.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from vidbatch import metrics, models, storage
from vidbatch.classify import check_device
from vidbatch.errors import ConfigError, StorageError, TrainingDiverged, TrainingFailed
from vidbatch.restoring.spec import read_enhancer
from vidbatch.runs import running_ray
from vidbatch.training.config import TrainConfig
from vidbatch.training.restore_config import RestoreConfig
from vidbatch.training.settings import PUBLISHED, TrainSettings
from vidbatch.training.tracking import Tracked, close_run, open_run
from vidbatch.training.videos import Listed, TrainingSet, find_videos, make_training_set, read_facts, videos_table
from vidbatch.video_spec import OWN

RECORD: Final = "train.json"
VIDEOS_A_TASK: Final = 64
CHECKPOINTS_KEPT: Final = 2
_LOOK_SECONDS: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run made; the tables of its curves are <output>/training/*.parquet."""

    output: str
    """The bundle, too: `--model file:<output>`; of an enhancer `--denoise <output>`."""
    state: str
    """finished, stopped_early, or nothing_to_do for a run that had ended before."""
    epochs: int
    best_epoch: int | None
    metrics: dict[str, float]
    """Of the best epoch: loss and accuracy (a regression's mean_error, an enhancer's psnr), trained and validated."""
    left_out: int
    """Videos that were not used: without a label, unreadable, too short."""
    num_failed: int
    """Videos of which something could not be decoded while training."""


class Progress:
    """Loss, accuracy, windows a second and ETA of a run, shown as `label` shows its own."""

    def __init__(self, config: TrainSettings, shown: metrics.Progress | None = None) -> None:
        self._shown = shown or metrics.Progress(enabled=False)
        self._config = config
        self._first: tuple[float, int] | None = None

    def note(self, text: str) -> None:
        """Say what is going on before the first step."""
        self._shown.note(text)

    def show(self, numbers: dict[str, Any], *, steps_per_epoch: int) -> None:
        """Show a step or an epoch."""
        now, total = time.monotonic(), self._config.epochs * steps_per_epoch
        done = numbers["step"] + ("learning_rate" in numbers)
        self._first = self._first or (now, done)
        left = ""
        if done > self._first[1]:
            left = f"  ETA {metrics.clock((total - done) * (now - self._first[0]) / (done - self._first[1]))}"
        epoch = f"epoch {numbers['epoch'] + 1}/{self._config.epochs}"
        if "learning_rate" in numbers:
            rate = f"{numbers['windows_per_second']:,.0f} windows/s"
            self._shown.tell(f"{epoch}  step {done:,}/{total:,}  loss {numbers['loss']:.4f}  {rate}{left}")
            return
        validated = f"  validation {self._judged(numbers, 'validation_')}" if "validation_loss" in numbers else ""
        self._shown.result(f"{epoch}  {self._judged(numbers)}{validated}{left}")

    def _judged(self, numbers: dict[str, Any], prefix: str = "") -> str:
        name = self._config.score_name
        score = numbers[prefix + name]
        shown = {"accuracy": f"{score:.1%}", "psnr": f"{score:.2f} dB"}.get(name, f"{score:.4g}")
        return f"loss {numbers[prefix + 'loss']:.4f}, {name.replace('_', ' ')} {shown}"

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._shown.close()


def train(config: TrainSettings, progress: Progress | None = None) -> TrainResult:
    """Train to the end, from the last checkpoint of `config.output` if there is one.

    Raises ConfigError before the first task for anything the user got wrong, TrainingDiverged when the loss is no
    number any more, TrainingFailed when workers were lost too often. A kill is resumed by the same call.
    """
    progress = progress or Progress(config)
    listed = find_videos(config)
    record = _open_record(config, listed)
    if record["state"] in ("finished", "stopped_early"):
        return _result(config, record | {"state": "nothing_to_do"})
    weights = read_weights(config)
    _check_model(config, listed.labels, weights)
    tracked = open_run(config, record)
    what = f"labelled videos of {len(listed.labels)} classes" if isinstance(config, TrainConfig) else "videos"
    progress.note(f"{len(listed.videos):,} {what}; starting Ray")
    try:
        with running_ray():
            import ray

            places = find_places(config, [node["Resources"] for node in ray.nodes() if node["Alive"]])
            facts = _facts_on_ray(listed, config)
            data = make_training_set(listed, facts, config)
            record |= {"counts": data.counts(), "left_out": [list(left) for left in data.left_out[:1000]]}
            _save(config, record)
            _put_videos(config, data)
            outcome = _fit(config, data, weights, places, progress, tracked)
    finally:
        progress.close()
    close_run(tracked, outcome["state"])
    return conclude(config, record, outcome)


def conclude(config: TrainSettings, record: dict[str, Any], outcome: dict[str, Any]) -> TrainResult:
    """Note in the record how the workers ended. Raises TrainingDiverged if that was because of the loss."""
    record |= {name: outcome[name] for name in ("state", "message", "epochs", "best_epoch", "failed")}
    record["metrics"] = _metrics_of_best(config)
    _save(config, record)
    if outcome["state"] == "diverged":
        raise TrainingDiverged(f"{outcome['message']}; {_what_is_kept(outcome)}")
    return _result(config, record)


# --- before the workers ---------------------------------------------------------------------------------------------


def _check_model(config: TrainSettings, labels: tuple[str, ...], weights: bytes | None) -> None:
    """Raise ConfigError or ModelError for a network that cannot be built or started, and for labels it lacks."""
    if isinstance(config, RestoreConfig):
        from vidbatch.restoring.flow import check_opencv
        from vidbatch.training import restoring

        restoring.make_network(config, weights)
        if config.kind == "interpolate":
            check_opencv("kind interpolate")
    elif isinstance(config, TrainConfig):
        from vidbatch.augment import Augmenter
        from vidbatch.training.classifying import make_network

        make_network(config, len(labels), weights)
        Augmenter(config.augment, labels)


class Places(NamedTuple):
    """Where workers run."""

    cpus: int
    """Of each, which are also its threads."""
    on_gpu: bool


def find_places(config: TrainSettings, nodes: Sequence[Mapping[str, float]]) -> Places:
    """What the cluster has for the workers. Raises ConfigError for a GPU that there is not, and for too many workers.

    Args: `nodes` are the CPU and GPU of each. Ray itself would wait for ever for a place for workers that find none.
    """
    num_gpus = sum(node.get("GPU", 0) for node in nodes)
    check_device(config.device, num_gpus=num_gpus)
    on_gpu = config.device != "cpu" and num_gpus > 0
    if config.precision == "fp16" and not on_gpu:
        raise ConfigError(f"precision: {config.precision!r} is not allowed without a GPU; allowed: fp32, bf16")
    cpus = config.cpus_per_worker or _cpus_per_worker(config.num_workers, nodes)
    room = sum(int(node.get("CPU", 0)) // cpus for node in nodes)
    if on_gpu:
        room = sum(int(min(node.get("CPU", 0) // cpus, node.get("GPU", 0))) for node in nodes)
    if room < config.fewest_workers:
        name = "num_workers" if config.min_workers is None else "min_workers"
        each = f"{cpus} CPU{'s' if cpus > 1 else ''}{' and a GPU' if on_gpu else ''}"
        raise ConfigError(f"{name}: {config.fewest_workers} workers of {each} each do not fit here; allowed: {room}")
    return Places(cpus, on_gpu)


def read_weights(config: TrainSettings) -> bytes | None:
    """The weights that the network starts from, published ones downloaded; None if it starts at random.

    Raises ConfigError for weights that cannot be read, or that nobody publishes for this network.
    """
    place: str | None = getattr(config, "start_from", None)
    if place is None:
        return None
    if isinstance(config, RestoreConfig):
        return read_enhancer(place).weights
    if isinstance(config, TrainConfig) and PUBLISHED.fullmatch(place):
        name = config.video.network.network.removeprefix("torchvision:")
        if config.video.network.is_video_network or name in OWN:
            raise ConfigError(f"start_from: {place!r} is not allowed for {name}: give a file of its weights")
        return models.load_spec(models.find_model(f"{name}@{place}"))[1]
    try:
        return storage.read_bytes(place)
    except OSError as error:
        raise ConfigError(f"start_from: {storage.redact(place)!r} cannot be read: {error}") from error


def _facts_on_ray(listed: Listed, config: TrainSettings) -> Iterator[dict[str, Any]]:
    """Length and first time of every video, read by tasks all over the cluster."""
    import ray

    task = ray.remote(read_facts).options(num_cpus=1)
    settings = ray.put(config)
    clips = listed.clips
    found = [task.remote(clips[at : at + VIDEOS_A_TASK], settings) for at in range(0, len(clips), VIDEOS_A_TASK)]
    for part in found:
        yield from ray.get(part)


# --- the workers ----------------------------------------------------------------------------------------------------


def _fit(
    config: TrainSettings,
    data: TrainingSet,
    weights: bytes | None,
    places: Places,
    progress: Progress,
    tracked: Tracked | None,
) -> dict[str, Any]:
    """Run the workers to the end; what the first one returned."""
    import ray
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.exceptions import TrainingFailedError

    from vidbatch.training.worker import Board, train_worker

    resources = {"CPU": places.cpus} | ({"GPU": 1} if places.on_gpu else {})
    place, filesystem = _storage_of(config.output)
    board = ray.remote(Board).options(num_cpus=0, max_restarts=-1).remote()  # it may be on a node that is lost
    trainer = _trainer_class()(
        train_worker,
        train_loop_config={
            "config": config,
            "data": ray.put(data),
            "weights": ray.put(weights),
            "board": board,
            "tracked": tracked,
            "num_threads": places.cpus,
        },
        scaling_config=ScalingConfig(
            num_workers=config.num_workers if config.min_workers is None else (config.min_workers, config.num_workers),
            use_gpu=places.on_gpu,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=place,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    steps_per_epoch = max(1, math.ceil(len(data.train) / config.batch_size))
    try:
        with _shown(board, progress, steps_per_epoch):
            outcome: dict[str, Any] = trainer.fit().return_value
    except TrainingFailedError as error:
        raise TrainingFailed(f"training gave up after {config.max_failures} failures: {_first_line(error)}") from error
    return outcome


def _trainer_class() -> type:
    """TorchTrainer that leaves Ctrl-C to the command: Ray's own handler would end it with exit code 0."""
    from ray.train.torch import TorchTrainer

    class Trainer(TorchTrainer):  # type: ignore[misc]
        def _register_sigint_handler(self, controller: Any) -> None:
            pass  # a KeyboardInterrupt ends `fit`, which lets go of the controller, which ends the workers

    return Trainer


def _cpus_per_worker(num_workers: int, nodes: Sequence[Mapping[str, float]]) -> int:
    """A fair share of the smallest node's CPUs, for workers that are spread evenly."""
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    cpus = [count for count in cpus if count] or [1]
    return max(1, min(cpus) // math.ceil(num_workers / len(cpus)))


def _storage_of(output: str) -> tuple[str, Any]:
    """Path and file system as Ray Train wants them: ours for S3, with its endpoint and credentials."""
    filesystem, path = storage.filesystem(output)
    if "://" not in output or output.startswith("file:"):
        return path, None
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return path, PyFileSystem(FSSpecHandler(filesystem))


@contextmanager
def _shown(board: Any, progress: Progress, steps_per_epoch: int) -> Iterator[None]:
    """Show what the board says as long as workers are at work."""
    import ray

    is_over = threading.Event()

    def look() -> None:
        last: dict[str, Any] = {}
        while not is_over.wait(_LOOK_SECONDS):
            try:
                numbers = ray.get(board.latest.remote(), timeout=10)
            except ray.exceptions.RayError:
                continue
            if numbers and numbers != last:
                progress.show(numbers, steps_per_epoch=steps_per_epoch)
                last = numbers

    thread = threading.Thread(target=look, daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(timeout=10)


def _first_line(error: Exception) -> str:
    """The sentence of the error that a worker ended with, out of Ray's report of all of them."""
    failures = getattr(error, "worker_failures", None) or {}
    cause = next(iter(failures.values()), error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return storage.redact(lines[-1] if lines else type(cause).__name__)[:500]


# --- the record -----------------------------------------------------------------------------------------------------


def _open_record(config: TrainSettings, listed: Listed) -> dict[str, Any]:
    """The record of the run that this output holds, or a new one. Raises ConfigError where it is of another run."""
    digest = f"{config.digest}-{_digest_of_videos(listed)}"
    try:
        found, _ = storage.read_with_version(storage.join(config.output, RECORD))
    except OSError as error:
        raise StorageError(f"output {storage.redact(config.output)!r} cannot be read: {error}") from error
    settings = json.loads(storage.redact(config.model_dump_json()))
    if found is None:
        return {"state": "running", "digest": digest, "config": settings, "versions": metrics.versions()}
    record: dict[str, Any] = json.loads(found)
    if record["digest"] != digest:
        changed = [name for name, value in settings.items() if record["config"].get(name) != value]
        what = f"other values of {', '.join(changed)}" if changed else "other videos or labels"
        raise ConfigError(
            f"output: {storage.redact(config.output)!r} holds a training run with {what}: give another output, or "
            "the same settings to go on with it"
        )
    return record


def _digest_of_videos(listed: Listed) -> str:
    import hashlib

    rows = sorted(
        (v.name, v.label, v.group or "", v.start_seconds or 0.0, v.end_seconds or 0.0, clip["content_version"])
        for v, clip in zip(listed.videos, listed.clips, strict=True)
    )
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def _save(config: TrainSettings, record: dict[str, Any]) -> None:
    storage.put(storage.join(config.output, RECORD), json.dumps(record, indent=1, ensure_ascii=False).encode())


def _put_videos(config: TrainSettings, data: TrainingSet) -> None:
    from vidbatch.training.worker import put_table

    put_table(config.output, "videos", videos_table(data))


def _metrics_of_best(config: TrainSettings) -> dict[str, float]:
    import io

    import pyarrow.parquet as pq

    try:
        content = storage.read_bytes(storage.join(config.output, "training", "epochs.parquet"))
    except OSError:  # not one epoch was finished
        return {}
    rows = pq.read_table(io.BytesIO(content)).to_pylist()
    best = rows[rows[-1]["best_epoch"] - 1]
    names = [f"{prefix}{name}" for prefix in ("", "validation_") for name in ("loss", config.score_name)]
    return {name: best[name] for name in names if best.get(name) is not None}


def _what_is_kept(outcome: dict[str, Any]) -> str:
    if outcome["best_epoch"] is None:
        return "no epoch was finished: try a smaller learning_rate or clip_norm"
    return f"the bundle holds epoch {outcome['best_epoch']}, the checkpoint the last good step"


def _result(config: TrainSettings, record: dict[str, Any]) -> TrainResult:
    return TrainResult(
        output=config.output,
        state=record["state"],
        epochs=record["epochs"],
        best_epoch=record["best_epoch"],
        metrics=record["metrics"],
        left_out=record["counts"]["left_out"],
        num_failed=len(record["failed"]),
    )
