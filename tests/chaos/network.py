"""One machine in; out, a Ray cluster of several hosts that can be lost, cut off, brought back and added.

A host is a network namespace on a bridge, with processes, shared memory and a Ray folder of its own: hosts share
nothing but the network and the disk. Ray asks for a token, as it would on a real network. For root on Linux only.
Nothing is left behind: all that runs in a host ends with the process that made it, however that ends, and what a
killed one left of namespaces and bridges is removed by the next.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from types import FrameType
from typing import Any, Final

import psutil

REPOSITORY: Final = Path(__file__).resolve().parents[2]
START_SECONDS: Final = 200.0
OBJECT_STORE_BYTES: Final = 150 * 2**20
PORT: Final = 6379
PREFIX: Final = "vb"
"""Of all names given here; a process id follows, so that what a killed process left can be told and removed."""

NOTICE: Final = {
    "RAY_health_check_initial_delay_ms": "3000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1500",
    "RAY_health_check_failure_threshold": "5",
}
"""A host that answers nothing is given up after some 12 seconds; by Ray's defaults it takes three times as long."""

FIRST_PROCESS: Final = f"""
ip link set lo up
mkdir -p /tmp/ray
mount -t tmpfs -o size=2g ray /tmp/ray
mount -t tmpfs -o size={2 * OBJECT_STORE_BYTES} shm /dev/shm
sleep infinity &
echo ready
wait
"""
"""What a host starts with; it waits for the orphans of its process namespace, too."""

ALIVE: Final = """
import json, sys, ray
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
for _ in sys.stdin:
    print("alive", json.dumps([node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]), flush=True)
"""
"""Asked by a line, as often as one likes: to be connected costs seconds of a CPU."""


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def forbidden() -> str | None:
    """Why hosts cannot be made here, None if they can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces are made by root on Linux only"
    for program in ("ip", "unshare", "nsenter", "setpriv"):
        if shutil.which(program) is None:
            return f"there is no program {program!r}"
    name = f"{PREFIX}{os.getpid()}try"
    try:
        ip("netns", "add", name)
        try:
            ip("-n", name, "link", "add", "bridge", "type", "bridge")
            ip("-n", name, "link", "add", "plug", "type", "veth", "peer", "name", "socket")
            subprocess.run(
                ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", "mount -t tmpfs try /dev/shm"],
                check=True,
                capture_output=True,
                text=True,
            )
        finally:
            ip("netns", "del", name)
    except subprocess.CalledProcessError as error:
        return f"the kernel forbids it: {error.stderr.strip()}"
    return None


@dataclass
class Host:
    """A host by the name of its network namespace; `plug` is the end of its cable that is in the bridge."""

    name: str
    address: str
    plug: str
    first: int
    """The host's process 1, by its id out here."""
    ray: subprocess.Popen[Any] | None = None


class Hosts(AbstractContextManager["Hosts"]):
    """A cluster of Ray; hosts[0] is its head, and `env` what a program needs to know to work on it.

    `with Hosts(folder) as hosts:`; logs go to the folder.
    """

    def __init__(self, folder: Path, num_hosts: int = 3) -> None:
        self._folder = folder
        self._num_hosts = num_hosts
        self._bridge = f"{PREFIX}{os.getpid()}"
        self._made = 0
        self._asked: subprocess.Popen[Any] | None = None
        """The process that answers `alive`."""
        self._processes: list[subprocess.Popen[Any]] = []
        """What holds the hosts' namespaces (when it ends, the kernel kills all that runs in them), and Ray."""
        self.hosts: list[Host] = []
        self._on_sigterm: Any = None

    # --- a life ------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Hosts:
        self._on_sigterm = signal.signal(signal.SIGTERM, _leave)
        try:
            remove_leftovers()
            self._network = _free_network()
            tests = str(REPOSITORY / "tests")
            self.env = {
                "RAY_ADDRESS": f"{self._network}.1:{PORT}",
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": secrets.token_hex(32),
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_raylet_start_wait_time_s": "60",  # twice Ray's own: a busy machine is no bug
                "PYTHONPATH": os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")])),
                **NOTICE,
            }
            ip("link", "add", self._bridge, "type", "bridge")
            ip("addr", "add", f"{self._network}.254/24", "dev", self._bridge)
            ip("link", "set", self._bridge, "up")
            self._start_host()
            self._wait_for_head()
            self.make_whole()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the hosts' processes, and only those; remove their namespaces and the bridge."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it would break this off
        _remove(self._bridge)
        for process in self._processes:
            process.kill()
            process.wait()
        self.hosts.clear()
        self._processes.clear()
        signal.signal(signal.SIGTERM, self._on_sigterm or signal.SIG_DFL)

    # --- what it is used for -----------------------------------------------------------------------------------------

    @property
    def head(self) -> Host:
        return self.hosts[0]

    def run(
        self, host: Host, words: Sequence[str], env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """A process of that host; it can be waited for, and ends with its host."""
        into = ["nsenter", f"--target={host.first}", "--net", "--mount", "--pid", f"--wd={REPOSITORY}", "--"]
        return subprocess.Popen([*into, *words], env={**os.environ, **self.env, **(env or {})}, **options)

    def kill(self, host: Host) -> None:
        """All of its processes at once; whoever is connected to them is told by the kernel."""
        _kill_all(host.name)
        self._forget(host)

    def lose(self, host: Host) -> None:
        """As when its power fails: nobody is told, its connections stay open."""
        self.cut_off(host)
        self.kill(host)

    def cut_off(self, host: Host) -> None:
        """Pull its cable: all of the host goes on, and reaches nobody."""
        ip("link", "set", host.plug, "down")

    def join_again(self, host: Host) -> None:
        ip("link", "set", host.plug, "up")

    def add_host(self) -> Host:
        host = self._start_host()
        self._wait_for([host])
        return host

    def make_whole(self) -> None:
        """As many hosts as in the beginning, and Ray believes in none but these."""
        while len(self.hosts) < self._num_hosts:
            self._start_host()
        while len(self.hosts) > self._num_hosts:
            self.kill(self.hosts[-1])
        self._wait_for(self.hosts, and_no_other=True)

    def alive(self) -> set[str]:
        """Addresses of the hosts that Ray's head believes to be alive."""
        if self._asked is None or self._asked.poll() is not None:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._asked = self.run(self.head, [sys.executable, "-c", ALIVE], bufsize=0, **pipes)
            self._processes.append(self._asked)
        assert self._asked.stdin is not None
        assert self._asked.stdout is not None
        with suppress(BrokenPipeError):
            self._asked.stdin.write(b"\n")
            while select.select([self._asked.stdout], [], [], START_SECONDS)[0]:
                if not (line := self._asked.stdout.readline()):
                    break
                if line.startswith(b"alive "):  # Ray may have had something to say, too
                    return set(json.loads(line.removeprefix(b"alive ")))
        self._asked.kill()  # there is no head yet
        self._asked.wait()
        return set()

    # --- how ---------------------------------------------------------------------------------------------------------

    def _start_host(self) -> Host:
        self._made += 1
        name = f"{self._bridge}n{self._made}"
        plug, address = f"{self._bridge}p{self._made}", f"{self._network}.{self._made}"
        ip("netns", "add", name)
        ip("link", "add", plug, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", plug, "master", self._bridge, "up")
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "route", "add", "default", "via", f"{self._network}.254")
        # --pdeathsig and --kill-child: whatever becomes of this process, none of the host's outlives it.
        into = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", name]
        apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with self._log_of(name).open("wb") as log:
            outer = subprocess.Popen([*into, *apart, "sh", "-ec", FIRST_PROCESS], stdout=subprocess.PIPE, stderr=log)
        self._processes.append(outer)
        assert outer.stdout is not None
        if outer.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{name} did not start: {self._log_of(name).read_text()}")
        host = Host(name, address, plug, first=psutil.Process(outer.pid).children()[0].pid)
        self.hosts.append(host)
        self._start_ray(host)
        return host

    def _start_ray(self, host: Host) -> None:
        place = (
            ["--head", f"--port={PORT}", "--include-dashboard=false"]
            if host.address.endswith(".1")
            else [f"--address={self._network}.1:{PORT}"]
        )
        size = ["--num-cpus=1", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        ray = [str(Path(sys.executable).parent / "ray"), "start", *place, *size, f"--node-ip-address={host.address}"]
        with self._log_of(host.name).open("ab") as log:
            host.ray = self.run(host, [*ray, "--disable-usage-stats", "--block"], stdout=log, stderr=log)
        self._processes.append(host.ray)

    def _log_of(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _wait_for_head(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection((self.head.address, PORT), timeout=1):
                return
            time.sleep(0.1)

    def _wait_for(self, hosts: list[Host], *, and_no_other: bool = False) -> None:
        wanted, deadline = {host.address for host in hosts}, time.monotonic() + START_SECONDS
        while not (wanted <= (alive := self.alive())) or (and_no_other and wanted != alive):
            for host in hosts:
                if host.ray is None or host.ray.poll() is not None:  # seen at 15 processes a CPU: Ray gives up
                    self._start_ray(host)
            time.sleep(0.5)  # each look costs seconds of a CPU that those who start need themselves
            if time.monotonic() > deadline:
                logs = "".join(self._log_of(host.name).read_text() for host in hosts)
                raise TimeoutError(f"Ray knows {alive}, not {wanted}, after {START_SECONDS:.0f} s:\n{logs}")

    def _forget(self, host: Host) -> None:
        subprocess.run(["ip", "netns", "del", host.name], capture_output=True)
        subprocess.run(["ip", "link", "del", host.plug], capture_output=True)  # the kernel may have been faster
        self.hosts.remove(host)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _kill_all(namespace: str) -> None:
    """SIGKILL until the namespace is empty: a process may start another one while the list is read."""
    deadline = time.monotonic() + 30
    while (pids := pids_of(namespace)) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def pids_of(namespace: str) -> list[int]:
    found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def titles(host: Host, wanted: Callable[[str], bool]) -> list[str]:
    """Command lines of processes of a host; Ray gives its workers speaking ones."""
    found = []
    for pid in pids_of(host.name):
        with suppress(psutil.Error):
            found.append(" ".join(psutil.Process(pid).cmdline()))
    return [title for title in found if wanted(title)]


def namespaces(bridge: str) -> list[str]:
    names = [line.split()[0] for line in ip("netns", "list").splitlines()]
    return [name for name in names if re.fullmatch(rf"{bridge}(n\d+|try)", name)]


def _remove(bridge: str) -> None:
    """All namespaces of a bridge, with what runs in them, and the bridge; what is gone already is no mistake."""
    for name in namespaces(bridge):
        _kill_all(name)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    links = [link["ifname"] for link in json.loads(ip("-j", "link"))]
    for name in [*(link for link in links if re.fullmatch(rf"{bridge}p\d+", link)), bridge]:
        subprocess.run(["ip", "link", "del", name], capture_output=True)  # the kernel takes its time by itself


def remove_leftovers() -> None:
    """Of processes that were killed before they could tidy up."""
    names = " ".join([*(link["ifname"] for link in json.loads(ip("-j", "link"))), ip("netns", "list")])
    for pid in set(re.findall(rf"\b{PREFIX}(\d+)(?:[np]\d+|try)?\b", names)):
        if not psutil.pid_exists(int(pid)):
            _remove(f"{PREFIX}{pid}")


def _free_network() -> str:
    """The first three numbers of 256 addresses that nobody uses here."""
    routes = [route["dst"] for route in json.loads(ip("-j", "-4", "route")) if route["dst"] != "default"]
    for at in range(os.getpid() % 4096, 56 * 256):
        network = IPv4Network(f"10.{200 + at // 256}.{at % 256}.0/24")
        if not any(IPv4Network(used).overlaps(network) for used in routes):
            return str(network.network_address).removesuffix(".0")
    raise RuntimeError("all of 10.200.0.0/13 is in use")
