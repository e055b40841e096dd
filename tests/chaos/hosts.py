"""Runs on three real hosts in, one of which is lost, cut off or added; out, whether any row was lost, doubled or wrong.

The hosts are those of network.py. Both drivers of a scenario with two reach the disk all the time, also from a host
that is cut off: what is proved is that a zombie does no harm, not that it cannot write.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Final

import network
import psutil
import pyarrow.parquet as pq
from network import Host, Hosts
from runs import Rows, command, differences, fill, rows

NUM_VIDEOS: Final = 60
SEED: Final = 20261125
RUN_SECONDS: Final = 240.0
CUT_OFF_SECONDS: Final = 60.0
CALL_SECONDS: Final = 2.0
"""Of a decoder in a run that a host joins: Ray takes some 15 s to start on a host of this machine."""
ZOMBIES: Final = [None, ("publish frames", "before"), ("publish videos", "before")]
"""Where the first of two drivers stands still while it is cut off; None: it goes on all the time."""


class OnHosts(AbstractContextManager["OnHosts"]):
    """An archive, a model, settings, and three hosts that outlive the runs.

    Scenarios: `host`, one that works for the run is killed, in turn with and without its connections being closed;
    `cut-off`, one that works for the run is out of reach for a minute; `zombie`, the driver's is, the command is run
    anew elsewhere, then the first driver comes back; `joins`, one is added, and has to have made rows before the end.
    """

    planned: Final = {"host": 5, "cut-off": 1, "zombie": len(ZOMBIES), "joins": 1}
    forbidden: Final = staticmethod(network.forbidden)

    def __enter__(self) -> OnHosts:
        self._temporary = tempfile.TemporaryDirectory(prefix="vidbatch-hosts-")
        self.folder = Path(self._temporary.name)
        fill(self.folder, NUM_VIDEOS)
        self.hosts = Hosts(self.folder)
        try:
            self.hosts.__enter__()
            self.clean = self._undisturbed(self.folder)
            assert len(self.clean[0]) == NUM_VIDEOS + 1
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.hosts.__exit__()
        self._temporary.cleanup()

    def _undisturbed(self, folder: Path) -> Rows:
        run = Run(self, "clean", 0)
        run.end(run.start(self.hosts.head))
        assert run.exit_codes == [0], (folder / "clean-0.log").read_text()
        return rows(run.output)

    def once(self, scenario: str, number: int) -> dict[str, Any]:
        self.hosts.make_whole()
        run = Run(self, scenario, number)
        more = SCENARIOS[scenario](self.hosts, run, number)
        result = run.result()
        return result | more | {name: result[name] + more.get(name, 0) for name in ("lost", "doubled", "wrong")}


class Run:
    """The same command once or several times over one output, and how it ended."""

    def __init__(self, place: OnHosts, scenario: str, number: int) -> None:
        self.place = place
        self.seed = f"{SEED}-{scenario}-{number}"
        self.moments = random.Random(self.seed)
        self.output = place.folder / f"{scenario}-{number}"
        self.struck = False
        self.is_well = True
        self.exit_codes: list[int | None] = []
        self._log = place.folder / f"{scenario}-{number}.log"
        self._began = time.monotonic()

    def start(self, host: Host, stands_still_at: tuple[str, str] | None = None) -> subprocess.Popen[Any]:
        at = stands_still_at and (*stands_still_at, int(signal.SIGSTOP))
        return self._start(host, command(self.place.folder, self.output, at))

    def start_slowly(self, host: Host, calls: Path) -> subprocess.Popen[Any]:
        """As a run of larger videos would be; each call of a stage leaves a line in a folder, see growing.py."""
        calls.mkdir()
        script = [sys.executable, network.REPOSITORY / "tests" / "growing.py", self.place.folder / "settings.yaml"]
        return self._start(host, list(map(str, [*script, self.output, calls, "--decode-seconds", CALL_SECONDS])))

    def _start(self, host: Host, words: list[str]) -> subprocess.Popen[Any]:
        with self._log.open("ab") as log:
            return self.place.hosts.run(host, words, stdout=log, stderr=log)

    def is_at_work(self, driver: subprocess.Popen[Any]) -> bool:
        """Wait for a moment at which some is done and some is not; False if the run ended before."""
        deadline = time.monotonic() + RUN_SECONDS
        while driver.poll() is None and time.monotonic() < deadline and not staged(self.output):
            time.sleep(0.01)
        time.sleep(self.moments.random() * 1.5)
        return driver.poll() is None

    def one_of(self, hosts: Hosts) -> Host:
        """A host that is not the head, of those that have an actor of the run if there are any."""
        others = hosts.hosts[1:]
        return self.moments.choice([host for host in others if works(host)] or others)

    def end(self, driver: subprocess.Popen[Any], *, may_fail: bool = False) -> None:
        """Wait for it; None stands for one that does not end. `may_fail`: any end will do."""
        try:
            self.exit_codes.append(driver.wait(RUN_SECONDS))
        except subprocess.TimeoutExpired:
            for process in family(driver):
                process.kill()
            driver.wait()
            self.exit_codes.append(None)
        self.is_well &= self.exit_codes[-1] == 0 or (may_fail and self.exit_codes[-1] is not None)

    def damage(self) -> dict[str, int]:
        if self.is_well:
            return differences(self.place.clean, rows(self.output))
        return {"lost": len(self.place.clean[0]), "doubled": 0, "wrong": 0}

    def result(self) -> dict[str, Any]:
        seconds = round(time.monotonic() - self._began, 1)
        outcome = {"seed": self.seed, "struck": self.struck, "exit_codes": self.exit_codes, "seconds": seconds}
        return outcome | self.damage()


# --- scenarios ------------------------------------------------------------------------------------------------------


def lose(hosts: Hosts, run: Run, number: int) -> dict[str, Any]:
    """The run ends by itself, though one of its hosts is no more."""
    driver = run.start(hosts.head)
    run.struck = run.is_at_work(driver)
    (hosts.kill if number % 2 else hosts.lose)(run.one_of(hosts))
    run.end(driver)
    return {}


def cut_off(hosts: Hosts, run: Run, number: int) -> dict[str, Any]:
    """The run ends by itself, whether it is over before the host comes back or not."""
    driver = run.start(hosts.head)
    run.struck = run.is_at_work(driver)
    victim = run.one_of(hosts)
    hosts.cut_off(victim)
    time.sleep(CUT_OFF_SECONDS)
    ended_before = driver.poll() is not None
    hosts.join_again(victim)
    run.end(driver)
    before = contents(run.output)
    time.sleep(5)  # what its decoders and models held back would come now
    more = changes(before, contents(run.output)) | {"ended_before": ended_before, "kept": is_kept(hosts, victim)}
    hosts.kill(victim)
    return more


def zombie(hosts: Hosts, run: Run, number: int) -> dict[str, Any]:
    """What the second driver has published stays as it is, to the run ids, whatever the first one still does."""
    victim, stands_still_at = run.one_of(hosts), ZOMBIES[number % len(ZOMBIES)]
    first = run.start(victim, stands_still_at)
    run.struck = run.is_at_work(first) if stands_still_at is None else stands_still(first)
    hosts.cut_off(victim)
    began = time.monotonic()
    run.end(run.start(hosts.head))
    published, damage = contents(run.output), run.damage()
    time.sleep(max(0.0, CUT_OFF_SECONDS - (time.monotonic() - began)))
    survived = first.poll() is None
    hosts.join_again(victim)
    for process in family(first):
        process.send_signal(signal.SIGCONT)
    run.end(first, may_fail=True)
    left, after_zombie = staged(run.output), contents(run.output)
    run.end(run.start(hosts.head))  # finds what the zombie has staged; nothing of it is news
    hosts.kill(victim)
    for found in (after_zombie, contents(run.output)):
        for name, value in changes(published, found).items():
            damage[name] += value
    return damage | {"survived": survived, "left": left}


def join(hosts: Hosts, run: Run, number: int) -> dict[str, Any]:
    """A host more has made rows before the run ends, though none was lost; `used_after` so many seconds."""
    calls = run.output.with_name(f"{run.output.name}-calls")
    driver = run.start_slowly(hosts.head, calls)
    run.struck = run.is_at_work(driver)
    new = hosts.add_host()
    run.struck &= driver.poll() is None
    began, used_after = time.monotonic(), None
    while driver.poll() is None and used_after is None:
        if any(calls.glob(f"*-{new.address}")):
            used_after = round(time.monotonic() - began, 1)
        time.sleep(0.2)
    run.end(driver)
    return {"used_after": used_after, "wrong": int(used_after is None)}


SCENARIOS: Final[dict[str, Callable[[Hosts, Run, int], dict[str, Any]]]] = {
    "host": lose,
    "cut-off": cut_off,
    "zombie": zombie,
    "joins": join,
}


# --- what they look at ----------------------------------------------------------------------------------------------


def staged(output: Path) -> int:
    return len(list(output.glob("_runs/*/staged/*/*.videos.parquet")))


def contents(output: Path) -> Counter[str]:
    """All rows of both tables, with what names the run that gave them, and how often each is there."""
    files = [*output.glob("videos/*.parquet"), *output.glob("frames/*.parquet")]
    return Counter(repr(row) for file in files for row in pq.read_table(file).to_pylist())


def changes(before: Counter[str], after: Counter[str]) -> dict[str, int]:
    return {"lost": (before - after).total(), "wrong": (after - before).total()}


def works(host: Host) -> bool:
    """Whether one of the run's actors is there."""
    return bool(network.titles(host, lambda title: "Decoder" in title or "Classify" in title))


def is_kept(hosts: Hosts, host: Host) -> bool:
    return host.address in hosts.alive()


def family(driver: subprocess.Popen[Any]) -> list[psutil.Process]:
    """What was started to be in the host, and the driver that it started there."""
    with suppress(psutil.NoSuchProcess):
        return [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
    return []


def stands_still(driver: subprocess.Popen[Any]) -> bool:
    """Wait until a driver has stopped itself; False if it ended instead."""
    deadline = time.monotonic() + RUN_SECONDS
    while driver.poll() is None and time.monotonic() < deadline:
        with suppress(psutil.NoSuchProcess):
            if any(process.status() == psutil.STATUS_STOPPED for process in family(driver)[1:]):
                return True
        time.sleep(0.05)
    return False
