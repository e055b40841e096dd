"""Windows and their times in; what the decoder makes of them out, in the order asked for, a few slices ahead.

Decoded by the same function, in the same kind of child process, as videos that are labelled. What was decoded once
is kept in a folder of a local disk, up to a bound: a file a window, named by all that its pixels depend on.

Ray Data does not feed the workers: what Ray Train splits among them is one Dataset, run from its beginning in every
epoch, whose blocks go to the worker that has the fewest rows (or, split equally, lose rows). An order of its own for
each epoch, a fixed part of each batch for each rank, and going on at batch k after a kill cannot be had that way.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from vidbatch.decode import WINDOWS_FUNCTION, Clip, window_job
from vidbatch.decoding.isolation import IsolatedProcess, ProcessLost
from vidbatch.errors import VideoError
from vidbatch.training.settings import TrainSettings
from vidbatch.windows import Floats, window_dtype

SLICES_AHEAD: Final = 4
"""Slices that are decoded before they are asked for."""

Array = npt.NDArray[Any]
Key = TypeVar("Key")


class Wanted(NamedTuple):
    """One window to decode."""

    clip: Clip
    positions: Floats
    """Seconds, or numbers, of its T frames, float64 (T,)."""
    num_real: int


class Slice(NamedTuple, Generic[Key]):
    """Windows that were asked for together."""

    key: Key
    """What the caller gave them."""
    windows: Array
    """Of windows.window_dtype, (n,); those that failed are zeros."""
    failures: dict[int, str]
    """Place in the slice of each window that cannot be decoded, and why."""

    def of(self, places: Sequence[int]) -> Array:
        """The windows in some places; no copy of them where these are all."""
        return self.windows if len(places) == len(self.windows) else self.windows[places]


class Loader:
    """Decodes windows with a few child processes. Not for several threads at once; `close` it.

    Args: `share` is the part of the cache's bound that is this process's own: other workers write there too.
    """

    def __init__(self, config: TrainSettings, *, share: float = 1.0) -> None:
        self._config = config
        self._limits = config.decoding
        self._dtype = window_dtype(config.num_frames, *config.frame_size)
        self._threads = ThreadPoolExecutor(config.decode_workers, "decode")
        self._of_thread = threading.local()
        self._processes: list[IsolatedProcess] = []
        self._cache = Cache(config, self._dtype, share=share) if config.cache_gb else None

    def slices(self, wanted: Iterable[tuple[Key, Sequence[Wanted]]]) -> Generator[Slice[Key], None, None]:
        """The slices in order, each with its key."""
        asked = iter(wanted)
        ahead: deque[tuple[Key, Array, list[Future[str | None]]]] = deque()
        try:
            while True:
                for key, windows in islice(asked, SLICES_AHEAD - len(ahead)):
                    room = np.zeros(len(windows), self._dtype)
                    places = enumerate(windows)
                    ahead.append((key, room, [self._threads.submit(self._load, w, room[k : k + 1]) for k, w in places]))
                if not ahead:
                    return
                key, room, futures = ahead.popleft()
                problems = [future.result() for future in futures]
                yield Slice(key, room, {place: why for place, why in enumerate(problems) if why is not None})
        finally:
            for _, _, futures in ahead:
                for future in futures:
                    future.cancel()

    def close(self) -> None:
        """End the child processes."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._processes:
            process.close()

    def _load(self, wanted: Wanted, room: Array) -> str | None:
        """Put one window where there is room (1,) for it; says why if there is none."""
        if self._cache is not None and self._cache.read(wanted, room):
            return None
        job = window_job(wanted.clip, self._limits, self._config.frame, self._config.windows)
        job = replace(job, positions=[wanted.positions.tolist()], num_real=[wanted.num_real])
        window, problem = None, "no frame there"
        try:
            for record, pixels in self._process().call(WINDOWS_FUNCTION, job):  # to its end, or the child is lost
                if record.get("error_kind") is not None:
                    problem = f"{record['error_kind']}: {record['error_message']}"
                if record.get("num_frames") and pixels is not None:
                    window = np.frombuffer(pixels, self._dtype)
        except (VideoError, ProcessLost) as error:
            problem = f"{error.kind}: {error.message}"
        if window is None:
            return problem
        room[:] = window
        if self._cache is not None:
            self._cache.write(wanted, window)
        return None

    def _process(self) -> IsolatedProcess:
        if not hasattr(self._of_thread, "process"):
            self._of_thread.process = IsolatedProcess(
                timeout_seconds=self._limits.decode_timeout_seconds,
                memory_bytes=self._limits.decode_memory_mb * 2**20,
            )
            self._processes.append(self._of_thread.process)
        process: IsolatedProcess = self._of_thread.process
        return process


class Cache:
    """Decoded windows as files, several processes of a machine together; what it cannot do it leaves undone."""

    def __init__(self, config: TrainSettings, dtype: np.dtype[np.void], *, share: float) -> None:
        self._folder = Path(config.cache or os.path.join(tempfile.gettempdir(), "vidbatch-windows"))
        self._dtype = dtype
        self._frame = repr(config.frame)
        self._unit = () if config.every is None else ("frames",)
        self._left_bytes = int(config.cache_gb * 1e9 * share) - int(_size_of(self._folder) * share)
        self._lock = threading.Lock()

    def read(self, wanted: Wanted, room: Array) -> bool:
        """Put the window where there is room (1,) for it, if it is there and whole; no byte is copied twice."""
        try:
            with self._place(wanted).open("rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size != room.nbytes:
                    return False
                return file.readinto(room.view(np.uint8).data) == room.nbytes
        except OSError:
            return False

    def write(self, wanted: Wanted, window: Array) -> None:
        """Keep a window, if there is room."""
        with self._lock:
            if self._left_bytes < window.nbytes:
                return
            self._left_bytes -= window.nbytes
        place = self._place(wanted)
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
            window.tofile(part)
            part.replace(place)

    def _place(self, wanted: Wanted) -> Path:
        clip = wanted.clip
        parts = (clip["url"], clip["member"], clip["content_version"], self._frame, wanted.num_real, *self._unit)
        digest = hashlib.blake2b(repr(parts).encode() + wanted.positions.tobytes(), digest_size=16).hexdigest()
        return self._folder / digest[:2] / f"{digest}.window"


def _size_of(folder: Path) -> int:
    total = 0
    for place in folder.glob("*/*.window"):
        with suppress(OSError):
            total += place.stat().st_size
    return total
