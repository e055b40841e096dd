"""What all runs over an archive share: how they begin, what they tell while they work, and how they end.

    begin -> running_ray -> recorded -> report, report, ... -> the record

`label` (pipeline.py) and `enhance` (enhancing/run.py) are such runs; `train` uses running_ray only.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import date
from typing import Any

from pydantic import BaseModel

from vidbatch import blocks, publish, source, storage
from vidbatch.config import LabelConfig
from vidbatch.errors import ConfigError, Stopped, StorageError, TooManyFailures, VidbatchError
from vidbatch.exported import Exported
from vidbatch.metrics import Progress, RunRecord, Staging, at_work, new_record, new_run_id
from vidbatch.pools import blocks_not_picked_up
from vidbatch.results import LabelTables


class RunResult(LabelTables):
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


# --- how they begin -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A run over an output that has been looked at: what is done there, and the record of what is now to be done."""

    started: float
    """time.monotonic()"""
    layout: publish.Layout
    done: source.DoneVideos
    record: RunRecord
    partition_of: Callable[[str, date], str]
    """Which partition the rows of a video belong to, by its id and today's date."""

    @property
    def provenance(self) -> dict[str, str]:
        """What each row says of the run it comes from."""
        return {"config_digest": self.record.config_digest, "run_id": self.record.run_id}

    def note_start(self) -> None:
        """The work begins."""
        self.record.wall_seconds["start"] = round(time.monotonic() - self.started, 3)

    def note_work(self) -> None:
        """The work is done; what is left is to publish."""
        seconds = time.monotonic() - self.started - self.record.wall_seconds["start"]
        self.record.wall_seconds["work"] = round(seconds, 3)


def begin(
    reading: LabelConfig,
    progress: Progress,
    *,
    settings: BaseModel,
    model: str,
    digest: str,
    tables: publish.Tables = publish.LABELS,
) -> Begun:
    """Look at the output and publish what dead runs have left; `record.state` says if there is nothing to do.

    Args: `reading` says what is listed and where rows go, `settings` are those of the run as the record repeats them;
    `model` and `digest` say what makes its rows. Raises ConfigError, StorageError.
    """
    started = time.monotonic()
    layout, num_recovered = open_output(reading, progress, tables)
    published = publish.Published(reading.output, layout, tables.videos)
    done = source.DoneVideos(published.done(digest, retry_failed=reading.retry_failed))
    record = new_record(new_run_id(), settings, model=model, config_digest=digest)
    record.recovered_parts = num_recovered
    by_date = layout.partition_by == "date"
    begun = Begun(
        started=started,
        layout=layout,
        done=done,
        record=record,
        partition_of=published.first_seen().partition if by_date else (lambda _id, _today: ""),
    )
    has_work = next(source.iter_pending(reading, done), None) is not None
    progress.started(record)
    if not has_work:
        record.state = "nothing_to_do"
        record.wall_seconds = {"total": round(time.monotonic() - started, 3)}
        progress.ended(record)
    else:
        progress.count_in_background(lambda: sum(1 for _ in source.iter_pending(reading, done)))
    return begun


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


# --- Ray ------------------------------------------------------------------------------------------------------------


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
        if "RAY_BACKEND_LOG_JSON" not in os.environ:  # but for a level it says, in a line of no JSON, that it was set
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _check_reachable(address)
        ray.init(address=address, runtime_env=bring, log_to_driver=False, logging_level="ERROR", **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"RAY_ADDRESS: {address!r} {_why_not(error)}") from None
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


def _why_not(error: Exception) -> str:
    """Why a cluster takes no driver from here, in a sentence."""
    versions = re.findall(r"(Ray|Python): (\S+)", str(error))
    if str(error).startswith("Version mismatch") and len(versions) == 4:
        its, own = (" and ".join(map(" ".join, pair)) for pair in (versions[:2], versions[2:]))
        return f"runs {its}, this is {own}: they have to be the same (or send the job there by `ray job submit`)"
    return f"cannot be reached as a Ray cluster: {error}"


def _check_reachable(address: str) -> None:
    """Raise OSError or ValueError where nobody listens, or not to us: Ray itself would try for long first."""
    import ray

    if address.startswith(("http://", "https://")):
        raise ValueError("this is a dashboard's address: send the job there by `ray job submit`")
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        if not address.startswith("ray://"):
            try:
                ray._raylet.GcsClient(address=address)  # of which ray.init asks too, but it tells no reason
            except ray.exceptions.AuthenticationError:
                raise ValueError(
                    "it has another token, or none was given: "
                    "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) say which"
                ) from None
            except ray.exceptions.RayError as error:
                raise ValueError(f"something else listens there: {error}") from None


@contextmanager
def recorded(config: LabelConfig, begun: Begun, sink: Staging, progress: Progress) -> Iterator[Callable[[], None]]:
    """Keep what was finished and say how the run ended, however it ends; call what is given whenever there is more."""
    record = begun.record
    record.save(config.output)
    exported = Exported(record.run_id)
    sink.totals.tell = progress.video

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
        record.wall_seconds["total"] = round(time.monotonic() - begun.started, 3)
        with nullcontext() if record.state == "finished" else suppress(StorageError):
            record.save(config.output)
        progress.ended(record)
