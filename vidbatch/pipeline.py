"""The chain, whole: list -> plan -> decode -> classify -> stage -> publish, on Ray Data.

`label(config)` runs it and returns what it did. `chain()` alone knows pool sizes, batch sizes and GPU shares.

Ray Data merges small blocks and fuses neighbouring operators; either would run a whole archive as one task on one
core. So blocks are never merged (target_max_block_size = 1: a row is a block, see blocks.py) and each stage is its own
actor pool.
Ray and torch are imported only once there is something to do: finding out that there is nothing takes seconds.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from vidbatch import blocks, decode, growth, models, publish, source, storage
from vidbatch import watch as watching
from vidbatch.config import LabelConfig
from vidbatch.errors import ConfigError, Stopped, StorageError, TooManyFailures, VidbatchError
from vidbatch.exported import Exported
from vidbatch.metrics import Progress, RunRecord, Staging, at_work, new_record, new_run_id
from vidbatch.pools import Pools, blocks_not_picked_up, pool_sizes, sizes_now
from vidbatch.results import LabelTables
from vidbatch.sink import Sink


class LabelResult(LabelTables):
    """What a run did, and the tables it did it to."""

    def __init__(self, config: LabelConfig, record: RunRecord) -> None:
        super().__init__(config.output)
        self.output = config.output
        self.run_id = record.run_id
        self.record = record
        self.max_failed_share = config.max_failed_share

    @property
    def num_failed(self) -> int:
        """Videos of this run that gave no result."""
        return self.record.by_status.get("failed", 0)

    @property
    def is_acceptable(self) -> bool:
        """Whether no larger share of the run's videos failed than was allowed."""
        return self.num_failed <= self.max_failed_share * self.record.videos


class Stages(NamedTuple):
    """Classes of the two actor pools: what benchmarks replace by classes with the same interface."""

    decoder: type
    classifier: type


def label(
    config: LabelConfig,
    progress: Progress | None = None,
    *,
    pools: Pools | None = None,
    stages: Stages | None = None,
) -> LabelResult:
    """Label every video of the archive that has no row yet, and publish `videos` and `frames`.

    Args: `pools` and `stages` are chosen from the cluster's resources and the real ones where not given.
    Raises ConfigError before the first task for anything the user got wrong, TooManyFailures when the first videos
    all fail for one reason, KeyboardInterrupt after a clean stop. All of them, and a kill, are resumed by a rerun.
    """
    started = time.monotonic()
    progress = progress or Progress(enabled=False)
    layout, num_recovered = open_output(config, progress)
    reference = models.model_for(config)
    digest = publish.config_digest(config, reference.digest)
    published = publish.Published(config.output, layout)
    done = source.DoneVideos(published.done(digest, retry_failed=config.retry_failed))
    record = new_record(new_run_id(), config, model=config.model, config_digest=digest)
    record.recovered_parts = num_recovered
    if next(source.iter_pending(config, done), None) is None:
        record.state = "nothing_to_do"
        record.wall_seconds = {"total": round(time.monotonic() - started, 3)}
        return LabelResult(config, record)
    progress.count_in_background(lambda: sum(1 for _ in source.iter_pending(config, done)))
    progress.note("loading the model and starting Ray")
    spec, weights = models.load_spec(reference)
    first_seen = published.first_seen()
    sink = Sink(
        labels=spec.labels,
        top_k=config.top_k,
        embedding_size=spec.embedding_size if config.embedding else None,
        provenance={"config_digest": digest, "run_id": record.run_id},
        model=spec.name,
        stage_seconds=config.stage_seconds,
        partition_of=first_seen.partition if layout.partition_by == "date" else (lambda _id, _today: ""),
        stage=partial(publish.stage_part, config.output, record.run_id),
    )
    with running_ray(), recorded(config, record, sink, progress, started) as report:
        record.wall_seconds["start"] = round(time.monotonic() - started, 3)
        is_followed, pools = pools is None, pools or pool_sizes(config)
        record.pools = pools._asdict()
        with watching.over_run(progress.warn) as watch:
            for table in _predictions(config, done, spec, weights, pools, stages, watch, is_followed=is_followed):
                sink.add(table)
                report()
        sink.flush()
        record.wall_seconds["work"] = round(time.monotonic() - started - record.wall_seconds["start"], 3)
        publish.publish(config.output, layout, sink.parts)
    return LabelResult(config, record)


def open_output(
    config: LabelConfig, progress: Progress, tables: publish.Tables = publish.LABELS
) -> tuple[publish.Layout, int]:
    """The output's layout, and how many parts of dead runs have now been published."""
    if not storage.probe_output(config.output):
        progress.note("this store cannot refuse conflicting writes: one run at a time over this output, please")
    layout = publish.open_layout(config)
    for other in at_work(config.output):
        progress.note(f"run {other} is at work over this output, or was killed just now: what both do is done twice")
    recovered = publish.staged_parts(config.output, tables)
    if recovered:
        progress.note(f"publishing {len(recovered)} part(s) that an earlier run had finished")
        publish.publish(config.output, layout, recovered, tables)
    return layout, len(recovered)


# --- the chain ------------------------------------------------------------------------------------------------------


def chain(
    config: LabelConfig,
    done: source.DoneVideos,
    spec: Any,
    weights: Any,
    pools: Pools,
    stages: Stages | None = None,
    watch: Any = None,
) -> Any:
    """The Ray Data dataset of blocks of PREDICTIONS: nothing runs until it is iterated.

    Args: `weights` is an ObjectRef of the weights' bytes, so that they cross the network once per node and no node
    needs the file they came from; `watch` is told what actors are busy with.
    """
    import ray
    from ray.data import ActorPoolStrategy

    stages = stages or Stages(decode.Decoder, _classifier())
    planner: source.Planner = partial(decode.plan, config=config)
    decoder_arguments: list[Any] = [config, spec.frame, watch]
    if spec.video is not None:
        planner = decode.keep_whole
        decoder_arguments.append(spec.video.windows)
    archive = source.archive_datasource(config, done, planner=planner, num_decoders=pools.decode_workers)
    packs = ray.data.read_datasource(archive, num_cpus=0.01, override_num_blocks=1)
    pixels = packs.map_batches(
        blocks.giving_blocks(stages.decoder),
        fn_constructor_args=decoder_arguments,
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=pools.decode_workers, max_tasks_in_flight_per_actor=2),
        num_cpus=pools.decode_cpus,
    )
    return pixels.map_batches(
        blocks.taking_blocks(stages.classifier),
        fn_constructor_args=(spec, config, weights, pools.model_threads, watch),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=pools.model_workers, max_tasks_in_flight_per_actor=2),
        num_cpus=pools.model_cpus,
        num_gpus=pools.model_gpus or None,
    )


def _classifier() -> type:
    """Classifier with its weights fetched from Ray's object store; torch is imported only where it runs."""
    import ray

    class Classify:
        def __init__(self, spec: Any, config: LabelConfig, weights: Any, num_threads: int, watch: Any) -> None:
            from vidbatch.classify import Classifier

            self._classifier = Classifier(spec, config, ray.get(weights), num_threads=num_threads, watch=watch)

        def __call__(self, table: pa.Table) -> pa.Table:
            return self._classifier(table)

    return Classify


def _predictions(
    config: LabelConfig,
    done: source.DoneVideos,
    spec: Any,
    weights: bytes | None,
    pools: Pools,
    stages: Stages | None,
    watch: Any,
    *,
    is_followed: bool,
) -> Iterator[pa.Table]:
    import ray

    tune_context(pools.decode_workers)
    dataset = chain(config, done, spec, ray.put(weights), pools, stages, watch)
    if is_followed:
        growth.follow_cluster(dataset, partial(sizes_now, config, pools), partial(_tell_sizes, watch))
    with own_errors():
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield blocks.from_block(block)


def tune_context(num_workers: int) -> None:
    """Set Ray Data up for rows that are blocks, given by so many workers."""
    import ray

    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1
    store_bytes = ray.cluster_resources().get("object_store_memory", 0.0)
    context._max_num_blocks_in_streaming_gen_buffer = blocks_not_picked_up(store_bytes, num_workers)
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    blocks.bound_waiting(context)
    context.issue_detectors_config.detectors = []  # they advise on memory settings that chain() has decided
    _quieten_ray()


@contextmanager
def own_errors() -> Iterator[None]:
    """Let errors of ours that end a run come out of Ray's tasks as they are."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, VidbatchError):  # already one clear sentence; Ray's traceback adds nothing
            raise error.cause from None
        raise


def _tell_sizes(watch: Any, sizes: Sequence[int]) -> None:
    watch.say.remote(f"the cluster has changed: decoders {sizes[0]}, models {sizes[1]}")


def _quieten_ray() -> None:
    """Our own progress says what Ray Data would say at every start and end; its warnings stay."""
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    logging.getLogger("ray.data._internal.execution.streaming_executor").setLevel(logging.WARNING)


@contextmanager
def running_ray() -> Iterator[None]:
    """Ray for the length of a run: the caller's own, the cluster RAY_ADDRESS names, or a local one.

    After Stopped it is not shut down: that can end the process with an exit code of Ray's own before its caller's.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    # A driver beside a cluster brings its own vidbatch along; a submitted job has it from its runtime_env.
    bring = {"py_modules": [os.path.dirname(__file__)]} if address != "local" and not in_job else {}
    options: dict[str, Any] = {}
    if address == "local":
        options = {"include_dashboard": False}
        # Ray's C++ side would print, in a user's terminal, that actors are restarted by arguments the driver holds.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _check_reachable(address)
        ray.init(address=address, runtime_env=bring, log_to_driver=False, logging_level="ERROR", **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"RAY_ADDRESS: {address!r} cannot be reached as a Ray cluster: {error}") from None
    if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # ray.init put its own there: a stopped job would count as crashed
    try:
        yield
    except Stopped:
        raise  # Ray is left to the end of the process
    except BaseException:
        ray.shutdown()
        raise
    ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise OSError or ValueError where nobody listens: Ray itself would try for minutes before it says so."""
    if address.startswith(("http://", "https://")):
        raise ValueError("this is a dashboard's address: send the job there by `ray job submit`")
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextmanager
def recorded(
    config: LabelConfig, record: RunRecord, sink: Staging, progress: Progress, started: float
) -> Iterator[Callable[[], None]]:
    """Keep what was finished and say how the run ended, however it ends; call what is given whenever there is more."""
    record.save(config.output)
    exported = Exported(record.run_id)

    def report() -> None:
        progress.update(sink.totals)
        record.save_if_due(config.output, sink.totals)
        exported.update(sink.totals)

    try:
        yield report
        record.state = "finished"
    except TooManyFailures as error:
        publish.discard(sink.parts)
        record.state, record.message = "stopped", str(error)
        raise
    except BaseException as error:
        record.state = "interrupted" if isinstance(error, KeyboardInterrupt) else "crashed"
        if record.state == "crashed":
            record.message = storage.redact(f"{type(error).__name__}: {error}")[:2000]
        with suppress(StorageError):  # it may be what ends the run: then that is what there is to say
            sink.flush()
        raise
    finally:
        exported.update(sink.totals, at_once=True)
        progress.close(sink.totals)
        record.count(sink.totals)
        record.wall_seconds["total"] = round(time.monotonic() - started, 3)
        with nullcontext() if record.state == "finished" else suppress(StorageError):
            record.save(config.output)
