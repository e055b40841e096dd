"""Slices of a batch in; what a network says of each, out: side by side on the CPU cores that are free just then.

Each slice runs on one core. torch's own threads would share out every layer of one slice instead, wait for each other
after each, and take 19 ms of CPU a frame where one thread takes 15.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

import torch

Answer = TypeVar("Answer")

NARROW_CALLS: Final = 40
"""Calls with one thread before all threads are tried again."""
WIDE_CALLS: Final = 4
"""Calls with all threads that are judged together: a tenth of a second of one is taken by whatever else there is."""
_CORE_SHARE: Final = 0.75
"""Threads that got a smaller share of a core each were not alone on their cores."""


class Cores:
    """Threads that share the cores with decoders. Where those want them, one thread is left: two of them beside two
    decoders on two cores take 17 ms of CPU a frame where one takes 14.

    Args: `num_threads`, at most so many slices at once.
    """

    def __init__(self, num_threads: int) -> None:
        self._threads: ThreadPoolExecutor | None = None
        if num_threads > 1:
            self._threads = ThreadPoolExecutor(num_threads, "model", torch.set_num_threads, (1,))
        self._narrow_calls_left = 0
        self._seconds: deque[tuple[float, float]] = deque(maxlen=WIDE_CALLS)  # CPU and wall, of the slices of a call

    @property
    def is_wide(self) -> bool:
        """Whether the next call takes all threads."""
        return self._threads is not None and not self._narrow_calls_left

    def map(self, call: Callable[[Any], Answer], slices: Sequence[Any]) -> list[Answer]:
        """What the call gives for each slice, in order."""
        if self._threads is None or len(slices) < 2 or self._narrow_calls_left:
            self._narrow_calls_left = max(0, self._narrow_calls_left - 1)
            return list(map(call, slices))
        answers, cpu_seconds, wall_seconds = zip(*self._threads.map(partial(_timed, call), slices), strict=True)
        # Not of the whole call: it is over when its last slice is, and what is done before and after takes one core.
        self._seconds.append((sum(cpu_seconds), sum(wall_seconds)))
        cpu, wall = map(sum, zip(*self._seconds, strict=True))
        if len(self._seconds) == WIDE_CALLS and cpu < _CORE_SHARE * wall:
            self._narrow_calls_left = NARROW_CALLS
            self._seconds.clear()
        return list(answers)


def _timed(call: Callable[[Any], Answer], given: Any) -> tuple[Answer, float, float]:
    """The call's answer, and what it took of this thread's time and of everybody's, in seconds."""
    wall_began, cpu_began = time.perf_counter(), time.thread_time()
    answer = call(given)
    return answer, time.thread_time() - cpu_began, time.perf_counter() - wall_began
