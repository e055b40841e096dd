"""Slices of a batch in; what a network says of each, out: side by side on the CPU cores that are free just then.

Each slice runs on one core. torch's own threads would share out every layer of one slice instead, wait for each other
after each, and take 19 ms of CPU a frame where one thread takes 15.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import torch

Answer = TypeVar("Answer")

NARROW_SECONDS: Final = 3.0
"""With one thread, before it is looked whether cores are free: a decoder that waits for a file is not done."""
WIDE_CALLS: Final = 8
"""Calls with all threads that are judged together, about a second: some of it is taken by whatever else there is."""
_CORE_SHARE: Final = 0.6
"""Threads that got a smaller share of a core each were not alone on their cores,"""
_TAKEN_CORES: Final = 0.25
"""if no more cores than this were idle: the system may take a while to give each of them its own."""
_FREE_CORES: Final = 0.5
"""Beside one thread: enough for another."""
_STAT: Final = Path("/proc/stat")
_CONTAINER_MAX: Final = Path("/sys/fs/cgroup/cpu.max")
"""Of a container with a limit of CPUs: microseconds that it may use in each period of so many."""
_CONTAINER_STAT: Final = _CONTAINER_MAX.with_name("cpu.stat")


class Cores:
    """Threads that share the cores with decoders. Where those want them, one thread is left: two of them beside two
    decoders on two cores take 17 ms of CPU a frame where one takes 14.

    Args: `num_threads`, at most so many slices at once.
    """

    def __init__(self, num_threads: int) -> None:
        self._threads: ThreadPoolExecutor | None = None
        if num_threads > 1:
            self._threads = ThreadPoolExecutor(num_threads, "model", torch.set_num_threads, (1,))
        self._narrow_since: _Now | None = None
        self._wide: deque[_Call] = deque(maxlen=WIDE_CALLS)

    @property
    def is_wide(self) -> bool:
        """Whether the next call takes all threads."""
        return self._threads is not None and self._narrow_since is None

    def map(self, call: Callable[[Any], Answer], slices: Sequence[Any]) -> list[Answer]:
        """What the call gives for each slice, in order."""
        if self._threads is None:
            return list(map(call, slices))
        if self._narrow_since is not None:
            answers = list(map(call, slices))
            if time.perf_counter() - self._narrow_since.seconds >= NARROW_SECONDS:
                is_free = _idle_cores(self._narrow_since, otherwise=_FREE_CORES) >= _FREE_CORES
                self._narrow_since = None if is_free else _now()
            return answers
        began = _now()
        timed = list(self._threads.map(partial(_timed, call), slices))
        # Not of the whole call: it is over when its last slice is, and what is done before and after takes one core.
        self._wide.append(_Call(began, sum(of.cpu_seconds for of in timed), sum(of.wall_seconds for of in timed)))
        share = sum(of.cpu_seconds for of in self._wide) / max(sum(of.wall_seconds for of in self._wide), 1e-9)
        is_crowded = len(self._wide) == WIDE_CALLS and share < _CORE_SHARE
        if is_crowded and _idle_cores(self._wide[0].began, otherwise=0.0) < _TAKEN_CORES:
            self._narrow_since = _now()
            self._wide.clear()
        return [of.answer for of in timed]


class _Now(NamedTuple):
    """Seconds of a clock, those that this process' cores have been idle, and those that its container has used.

    Nothing of idle cores where the system does not tell: it is no Linux, or a sandbox (gVisor's file is all zeros).
    """

    seconds: float
    idle_seconds: float | None
    used_seconds: float


class _Call(NamedTuple):
    began: _Now
    cpu_seconds: float
    wall_seconds: float


class _Timed(NamedTuple):
    """What a slice gave, and what it took of its thread's time and of everybody's."""

    answer: Any
    cpu_seconds: float
    wall_seconds: float


def _timed(call: Callable[[Any], Any], given: Any) -> _Timed:
    wall_began, cpu_began = time.perf_counter(), time.thread_time()
    answer = call(given)
    return _Timed(answer, time.thread_time() - cpu_began, time.perf_counter() - wall_began)


def _now() -> _Now:
    ticks = 0
    if _STAT.exists():
        allowed = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        lines = (line.split() for line in _STAT.read_text().splitlines())
        # The fifth word is of idling, the sixth of waiting for disks.
        ticks = sum(int(words[4]) + int(words[5]) for words in lines if words and words[0] in allowed)
    used = _CONTAINER_STAT.read_text().split() if _CONTAINER_STAT.exists() else ["usage_usec", "0"]
    return _Now(
        time.perf_counter(),
        ticks / os.sysconf("SC_CLK_TCK") if ticks else None,
        int(used[used.index("usage_usec") + 1]) / 1e6,
    )


def _idle_cores(since: _Now, *, otherwise: float) -> float:
    """Cores that nobody has used since then, on average, of those that a container may use."""
    now = _now()
    if now.idle_seconds is None or since.idle_seconds is None:
        return otherwise
    seconds = max(now.seconds - since.seconds, 1e-3)
    idle = (now.idle_seconds - since.idle_seconds) / seconds
    quota, _, period = _CONTAINER_MAX.read_text().partition(" ") if _CONTAINER_MAX.exists() else ("max", "", "")
    if quota == "max":
        return idle
    return min(idle, int(quota) / int(period) - (now.used_seconds - since.used_seconds) / seconds)
