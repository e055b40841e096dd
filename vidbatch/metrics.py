"""What a run did and how it shows: the run record (`_runs/<run_id>.json`) and the live progress display."""

from __future__ import annotations

import json
import platform
import secrets
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol, TextIO

from pydantic import BaseModel

from vidbatch import storage
from vidbatch.errors import VidbatchError

RUNS = "_runs"
RECORD_SECONDS = 15.0
"""How often a running job refreshes its record, for `vidbatch status` from another machine."""
LINE_SECONDS = 5.0
"""How often progress prints a line where there is no terminal."""


class Counts(Protocol):
    """What progress and record show of a run (see sink.Totals)."""

    videos: int
    frames: int
    by_status: Any
    by_error_kind: Any
    read_bytes: int
    frames_decoded: int

    def stages(self) -> dict[str, dict[str, float]]:
        """CPU and busy seconds, rows and bytes of every stage."""


class Staging(Protocol):
    """What gathers a run's rows and stages them: sink.Sink, and others like it."""

    totals: Any
    parts: list[str]

    def flush(self) -> None:
        """Stage what is finished."""


@dataclass
class RunRecord:
    """One run: what was asked, with which versions, what came out and where the time went. Plain JSON."""

    run_id: str
    config: dict[str, Any]
    config_digest: str
    model: str
    state: str = "running"  # running | finished | nothing_to_do | interrupted | stopped | crashed
    started_at: str = field(default_factory=lambda: _now())
    updated_at: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    pools: dict[str, Any] = field(default_factory=dict)
    videos: int = 0
    frames: int = 0
    by_status: dict[str, int] = field(default_factory=dict)
    by_error_kind: dict[str, int] = field(default_factory=dict)
    recovered_parts: int = 0
    message: str = ""
    wall_seconds: dict[str, float] = field(default_factory=dict)  # start, work, publish, total
    stages: dict[str, dict[str, float]] = field(default_factory=dict)  # by stage; decode, classify, sink of `label`
    _saved: float = 0.0  # monotonic

    def count(self, totals: Counts) -> None:
        """Take over a sink's totals, with CPU and busy seconds, rows and bytes of every stage."""
        self.videos, self.frames = totals.videos, totals.frames
        self.by_status, self.by_error_kind = dict(totals.by_status), dict(totals.by_error_kind)
        self.stages = totals.stages()

    def save(self, output: str) -> None:
        """Write the record beside the tables."""
        self.updated_at, self._saved = _now(), time.monotonic()
        content = {name: value for name, value in asdict(self).items() if not name.startswith("_")}
        storage.put(storage.join(output, RUNS, f"{self.run_id}.json"), json.dumps(content, indent=1).encode())

    def save_if_due(self, output: str, totals: Counts) -> None:
        """Keep the record of a long run current for whoever asks from another machine."""
        if time.monotonic() - self._saved >= RECORD_SECONDS:
            self.count(totals)
            self.save(output)


def new_run_id() -> str:
    """Sorts by time, never repeats: 20261124T053000Z-1f2e3d4c."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def new_record(run_id: str, config: BaseModel, *, model: str, config_digest: str) -> RunRecord:
    """A record that repeats the run: resolved settings (no credentials, no query strings), versions, machine."""
    settings = json.loads(storage.redact(config.model_dump_json()))
    return RunRecord(
        run_id=run_id,
        config=settings,
        config_digest=config_digest,
        model=storage.redact(model),
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """Of Python and of all packages that a result depends on."""
    packages = ("vidbatch", "ray", "torch", "torchvision", "av", "pyarrow", "numpy")
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


def read_records(output: str, *, newest: int = 0) -> list[dict[str, Any]]:
    """All run records of an output, or the newest few, oldest first."""
    places = [url.split("/") for url in storage.list_files(storage.join(output, RUNS)) if url.endswith(".json")]
    records = ["/".join(place) for place in places if place[-2] == RUNS and place[-1] != "layout.json"]
    return [json.loads(storage.read_bytes(url)) for url in sorted(records)[-newest:]]


def at_work(output: str) -> list[str]:
    """Ids of other runs over an output that have refreshed their record lately, of the newest few."""
    since = datetime.now(UTC) - timedelta(seconds=4 * RECORD_SECONDS)
    newest = read_records(output, newest=4)
    return [
        record["run_id"]
        for record in newest
        if record["state"] == "running" and datetime.fromisoformat(record["updated_at"]) > since
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Progress:
    """Videos, frames/s, MB/s, failures and ETA: a live line on a terminal, else one line every few seconds.

    The total is counted while the run goes on; until it is known no ETA is shown.
    """

    def __init__(self, stream: TextIO | None = None, *, enabled: bool = True) -> None:
        self._stream = stream or sys.stderr
        self._enabled = enabled
        self._started = time.monotonic()
        self._last_line = self._started
        self._total: int | None = None
        self._live: Any = None
        if enabled and self._stream.isatty():
            from rich.console import Console  # only a terminal pays for the import
            from rich.live import Live

            self._live = Live(console=Console(file=self._stream), refresh_per_second=4, transient=False)
            self._live.start()

    def count_in_background(self, count: Callable[[], int]) -> None:
        """Learn the number of pending videos without holding up the work."""

        def run() -> None:
            with suppress(VidbatchError):  # the work will meet the same, and say it
                self._total = count()

        if self._enabled:
            threading.Thread(target=run, daemon=True, name="count-pending").start()

    def started(self, record: RunRecord) -> None:
        """A run has begun."""

    def video(self, identity: dict[str, Any], status: str, kind: str | None, message: str | None) -> None:
        """A video is finished. Here only their number is shown; logs.py has a line for each."""

    def ended(self, record: RunRecord) -> None:
        """The run is over, however it ended."""

    def note(self, text: str) -> None:
        """Say what is going on before the first video is done."""
        if self._enabled:
            self._show(text, always=True)

    def warn(self, text: str) -> None:
        """Say what the user should know of, and let it stand."""
        self.result(text)

    def result(self, text: str) -> None:
        """Say what has come out so far, and let it stand."""
        if self._live is not None:
            self._live.console.print(f"vidbatch: {text}", markup=False, highlight=False)
        else:
            self.note(text)

    def update(self, totals: Counts) -> None:
        """Show the totals, if it is time to."""
        if self._enabled:
            self._show(self._line(totals), always=False)

    def tell(self, text: str) -> None:
        """Show a line, if it is time to."""
        if self._enabled:
            self._show(text, always=False)

    def close(self, totals: Counts | None = None) -> None:
        """Show the last state and leave the terminal as it was."""
        if self._enabled and totals is not None:
            self._show(self._line(totals), always=True)
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _line(self, totals: Counts) -> str:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        of = "" if self._total is None else f"/{self._total:,}"
        left = "" if not self._total or not totals.videos else f"  ETA {clock(self._eta(totals, elapsed))}"
        return (
            f"{clock(elapsed)}  {totals.videos:,}{of} videos  {totals.frames / elapsed:,.1f} frames/s  "
            f"{totals.read_bytes / elapsed / 1e6:,.1f} MB/s  {totals.by_status['failed']:,} failed{left}"
        )

    def _eta(self, totals: Counts, elapsed: float) -> float:
        return max(0, (self._total or 0) - totals.videos) * elapsed / totals.videos

    def _show(self, text: str, *, always: bool) -> None:
        if self._live is not None:
            self._live.update(text)
            return
        now = time.monotonic()
        if always or now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            self._stream.write(f"vidbatch: {text}\n")
            self._stream.flush()


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
