"""Slices of a batch on the cores that are free: all of them, or one where others want them."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from vidbatch import cores
from vidbatch.cores import NARROW_SECONDS, WIDE_CALLS, Cores

PICTURE = bytes(2**20)


def work(milliseconds: int) -> int:
    """Take that much of a core, as networks do: without holding the interpreter's lock."""
    until = time.thread_time() + milliseconds / 1000
    while time.thread_time() < until:
        hashlib.sha256(PICTURE)
    return milliseconds


@contextmanager
def one_core() -> Iterator[None]:
    """All threads of this process share a core."""
    allowed = os.sched_getaffinity(0)

    def pin(to: set[int]) -> None:
        for thread in os.listdir("/proc/self/task"):
            with suppress(ProcessLookupError):  # threads of a pool that is gone
                os.sched_setaffinity(int(thread), to)

    pin({min(allowed)})
    try:
        yield
    finally:
        pin(allowed)


class SharedCore:
    """A clock by which each of so many threads gets a part of its core, whatever the system's scheduler does."""

    def __init__(self, num_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_threads, self.passed_seconds = num_threads, 0.0
        monkeypatch.setattr(cores.time, "perf_counter", self)

    def __call__(self) -> float:
        return self.num_threads * time.thread_time() + self.passed_seconds

    def make_narrow(self, shared: Cores) -> None:
        """Calls that leave one thread when they are over."""
        for _ in range(WIDE_CALLS):
            assert shared.is_wide
            shared.map(work, [3] * 4)

    def stay_narrow(self, shared: Cores) -> None:
        """Calls of one thread, until it is looked again whether cores are free."""
        for _ in range(4):
            assert not shared.is_wide
            self.passed_seconds += 0.3 * NARROW_SECONDS
            shared.map(work, [0] * 2)


def test_answers_are_in_the_order_of_the_slices_whatever_they_take() -> None:
    for num_threads in (1, 2, 3):
        assert Cores(num_threads).map(work, [9, 1, 5, 0, 2]) == [9, 1, 5, 0, 2]
        assert Cores(num_threads).map(work, []) == []


def test_threads_that_get_no_core_of_their_own_leave_one_until_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    core = SharedCore(2, monkeypatch)
    shared = Cores(2)
    monkeypatch.setattr(cores, "_idle_cores", lambda _since, **_otherwise: 0.0)
    core.make_narrow(shared)
    core.stay_narrow(shared)
    assert not shared.is_wide
    monkeypatch.setattr(cores, "_idle_cores", lambda _since, **_otherwise: 1.0)
    core.stay_narrow(shared)
    assert shared.is_wide


def test_threads_that_the_system_has_put_on_one_core_while_another_is_idle_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    SharedCore(2, monkeypatch)
    monkeypatch.setattr(cores, "_idle_cores", lambda _since, **_otherwise: 1.0)
    misplaced = Cores(2)
    for _ in range(2 * WIDE_CALLS):
        misplaced.map(work, [10] * 2)
    assert misplaced.is_wide


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="cores are looked at where Linux tells of them")
def test_cores_that_nobody_uses_are_seen_and_those_in_use_are_not() -> None:
    with one_core():
        began = cores._now()
        work(300)
        assert cores._idle_cores(began, otherwise=9.0) < 0.2
    began = cores._now()
    time.sleep(0.3)
    assert 0 <= cores._idle_cores(began, otherwise=9.0) <= len(os.sched_getaffinity(0)) + 0.1


def test_a_container_with_a_limit_has_no_more_idle_cores_than_that(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """However many the machine has."""
    for name in ("cpu.max", "cpu.stat"):
        monkeypatch.setattr(cores, {"cpu.max": "_CONTAINER_MAX", "cpu.stat": "_CONTAINER_STAT"}[name], tmp_path / name)
    (tmp_path / "cpu.stat").write_text("usage_usec 5000000\nuser_usec 1\n")
    began = cores._now()
    time.sleep(0.2)
    machine = cores._idle_cores(began, otherwise=9.0)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cores._idle_cores(began, otherwise=9.0) == pytest.approx(machine, abs=0.3)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert cores._idle_cores(began, otherwise=9.0) <= 0.5
    (tmp_path / "cpu.stat").write_text("usage_usec 5150000\nuser_usec 1\n")  # 0.15 s more, of half of 0.2 s
    assert cores._idle_cores(began, otherwise=9.0) < 0


def test_where_the_system_does_not_tell_one_thread_is_followed_by_all_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No file, as on another system, or one of zeros, as in a sandbox: both would be taken for cores in use."""
    core = SharedCore(2, monkeypatch)
    for number, told in enumerate((None, "cpu  0 0 0 0 0\ncpu0 0 0 0 0 0\ncpu1 0 0 0 0 0\n")):
        stat = tmp_path / f"stat-{number}"
        if told is not None:
            stat.write_text(told)
        monkeypatch.setattr(cores, "_STAT", stat)
        shared = Cores(2)
        for _ in range(2):
            core.make_narrow(shared)
            core.stay_narrow(shared)
        assert shared.is_wide


def test_one_call_that_something_else_held_up_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_idle_cores", lambda _since, **_otherwise: 0.0)
    alone = Cores(2)
    for factor in (*[1.0] * WIDE_CALLS, 4.0, *[1.0] * WIDE_CALLS):  # the wall's time over the core's
        monkeypatch.setattr(cores.time, "perf_counter", lambda factor=factor: factor * time.thread_time())
        alone.map(work, [10, 10])
    assert alone.is_wide


def test_threads_that_wait_for_the_last_slice_are_not_taken_for_ones_that_lack_a_core(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once they were: on a node of its own the model of an archive that is easy to decode then used one core of two."""
    monkeypatch.setattr(cores.time, "perf_counter", time.thread_time)  # each thread has a core for itself
    monkeypatch.setattr(cores, "_idle_cores", lambda _since, **_otherwise: 0.0)
    alone = Cores(2)
    for _ in range(WIDE_CALLS):
        alone.map(work, [1, 1, 50])
    assert alone.is_wide


def test_one_thread_is_never_wide() -> None:
    assert not Cores(1).is_wide
