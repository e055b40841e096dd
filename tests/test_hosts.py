"""On a real cluster of three hosts, one lost, cut off or added while a run works costs no row."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runs import command, fill

sys.path.insert(0, str(Path(__file__).parent / "chaos"))
import network  # the tests are no package
from hosts import OnHosts
from network import Hosts

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def _allowed() -> None:
    reason = network.forbidden()
    if reason is None:
        return
    if os.environ.get("VIDBATCH_REQUIRE_NETNS") == "1":
        pytest.fail(f"VIDBATCH_REQUIRE_NETNS=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def place(_allowed: None) -> Iterator[OnHosts]:
    """Three hosts, and the tables of a run on them that nothing disturbed."""
    with OnHosts() as place:
        yield place


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", ["host", "cut-off", "zombie", "joins"])
def test_hosts_lost_cut_off_or_added_change_no_row(place: OnHosts, scenario: str) -> None:
    result = place.once(scenario, 1)
    assert result["struck"], result
    assert (result["lost"], result["doubled"], result["wrong"]) == (0, 0, 0), result


def test_without_the_token_a_cluster_lets_no_run_in_and_the_run_says_so(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    with Hosts(tmp_path, 1) as hosts:
        words = command(tmp_path, tmp_path / "refused")
        process = hosts.run(hosts.head, words, {"RAY_AUTH_TOKEN": "guessed"}, stderr=subprocess.PIPE, text=True)
        _, said = process.communicate(timeout=200)
    assert process.returncode == 2, said
    assert said.splitlines()[-1].startswith("vidbatch: RAY_ADDRESS: "), said
    assert "Traceback" not in said


BROKEN_OFF = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from network import Hosts
with Hosts(Path(sys.argv[2]), 2) as hosts:
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("moment", ["starting", "ready"])
def test_of_hosts_that_were_broken_off_nothing_is_left(tmp_path: Path, end: signal.Signals, moment: str) -> None:
    words = [sys.executable, "-c", BROKEN_OFF, str(Path(network.__file__).parent), str(tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    bridge = f"{network.PREFIX}{process.pid}"
    wait_until(lambda: bool(network.namespaces(bridge)))
    if moment == "ready":
        assert process.stdout.readline() == b"ready\n"
    names = network.namespaces(bridge)
    assert names
    process.send_signal(end)
    process.wait(60)
    wait_until(lambda: not any(network.pids_of(name) for name in names))  # the kernel takes its time
    assert not any(network.pids_of(name) for name in names)
    if end == signal.SIGKILL:
        network.remove_leftovers()  # as whoever makes hosts next does
    assert not network.namespaces(bridge)
    assert bridge not in network.ip("link")


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.05)
