"""A function by name and its arguments go in; what it yields comes out, or the reason its process was lost.

Native decoders of strangers' files crash, hang and swallow memory. They do so in a child process that this module
owns: an actor, its node and the other videos never notice. The child is a fresh interpreter (no fork: Ray's worker
has threads and a __main__ of its own), serves one call after another and dies with its parent.

    parent                                            child: python -m vidbatch.decoding.isolation
    call ------- pickled (function, args) ------>     for each item the generator yields:
    wait, watching time and memory   <----------          JSON record [, raw bytes of its payload]
    lifeline (write end, never written)  -------->    the kernel ends the child when it closes

Records come back as JSON and not pickled: a decoder taken over by a hostile file must not run code in the parent.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import pickle
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, Literal

from vidbatch.decoding import waiting
from vidbatch.decoding.waiting import Waits
from vidbatch.errors import VideoError
from vidbatch.watch import SLOW_SECONDS

Payload = bytes | bytearray | memoryview
Item = tuple[dict[str, Any], Payload | None]
"""What an isolated generator yields: a record that JSON can hold, and bytes that travel beside it unconverted.

An empty record says: alive, and so far on that the time allowed starts anew. The caller never sees it.
"""

_POLL_SECONDS: Final = 0.05
_START_SECONDS: Final = 120.0
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


_Loss = Literal["decoder_crashed", "timeout", "memory", "worker", "storage"]


class ProcessLost(Exception):
    """The child is gone before its call ended. `kind` is a key of ERROR_KINDS."""

    def __init__(self, kind: _Loss, message: str) -> None:
        super().__init__(kind, message)
        self.kind: _Loss = kind
        self.message = message


class IsolatedProcess:
    """Owns one child process, started at once and again whenever it was lost.

    Args: `timeout_seconds` is the wall time allowed for a call, or from one empty record to the next, counted only
    while the parent waits; `memory_bytes` the resident memory the child may use; `on_slow` is told how long an item
    has been waited for, first after SLOW_SECONDS and then each time that has doubled; `on_gpu` lets the child reserve
    as much memory as it likes, of which CUDA uses little: what is resident is bounded all the same.
    """

    def __init__(
        self,
        *,
        timeout_seconds: float,
        memory_bytes: int,
        on_slow: Callable[[float], None] | None = None,
        on_gpu: bool = False,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._memory_bytes = memory_bytes
        self._reserved_bytes = resource.RLIM_INFINITY if on_gpu else 2 * memory_bytes
        self._on_slow = on_slow or (lambda _seconds: None)
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: _Channel | None = None
        self._lifeline: int | None = None
        self._waits: Waits | None = None
        self._waited_before = 0.0
        self._patience_seconds = 0.0
        self._begun = False
        self._start()

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return None if self._process is None else self._process.pid

    def call(self, function: str, *args: Any) -> Iterator[tuple[dict[str, Any], bytearray | None]]:
        """Run the generator function "module:name" in the child and yield its items, empty records left out.

        Raises VideoError as the function did, ProcessLost when the child died or had to be killed. A caller that
        stops early costs the child its life: what it still sends must not be taken for the next call's answer.
        """
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start()
        assert self._channel is not None
        self._waited_before = self._waited()
        finished = False
        try:
            self._begun = False  # until the child has loaded the function and says so by a first empty record
            self._patience_seconds = _START_SECONDS
            with suppress(BrokenPipeError):  # a dead child is noticed, and explained, when its answer is awaited
                self._channel.send(pickle.dumps((function, args)))
            while True:
                record = json.loads(self._receive())
                outcome = record.pop("outcome", None)
                if outcome is not None:
                    finished = outcome["kind"] not in ("memory", "worker")  # after these, begin afresh
                    _raise_outcome(outcome)
                    return
                payload = self._receive() if record.pop("has_payload") else None
                if record:
                    yield record, payload
                else:
                    self._begun = True
                    self._patience_seconds = self._timeout_seconds
                    self._waited_before = self._waited()
        finally:
            if not finished:
                self.close()

    def close(self) -> None:
        """Kill the child, if there is one; the next call starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._channel is not None:
            self._channel.close()
        if self._lifeline is not None:
            os.close(self._lifeline)
        if self._waits is not None:
            self._waits.close()
        self._process = self._channel = self._lifeline = self._waits = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        life_read, self._lifeline = os.pipe()
        self._waits = Waits()
        with theirs:
            descriptors = (theirs.fileno(), life_read, self._waits.descriptor)
            limit_bytes = str(self._reserved_bytes)
            try:
                self._process = subprocess.Popen(
                    # -P: the working directory must not add modules to those the parent sees.
                    [sys.executable, "-P", "-m", "vidbatch.decoding.isolation", *map(str, descriptors), limit_bytes],
                    env={
                        **os.environ,
                        **_CHILD_ENVIRONMENT,
                        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=descriptors,
                )
            finally:
                os.close(life_read)
        self._channel = _Channel(ours)

    def _receive(self) -> bytearray:
        """The next message; kills the child and raises ProcessLost when it must not, or cannot, be waited for."""
        assert self._process is not None
        assert self._channel is not None
        began, slow_after = time.monotonic(), SLOW_SECONDS
        try:
            while not self._channel.wait(_POLL_SECONDS):
                waited = time.monotonic() - began
                if waited > self._patience_seconds:
                    raise self._impatience()
                if waited > slow_after:
                    slow_after *= 2
                    self._on_slow(waited)
                self._check_memory()
            self._check_memory()
            message = self._channel.receive()
        except (EOFError, ConnectionResetError):
            raise self._death() from None
        self._patience_seconds -= time.monotonic() - began
        return message

    def _check_memory(self) -> None:
        assert self._process is not None
        used = _resident_bytes(self._process.pid)
        if used > self._memory_bytes:
            allowed = self._memory_bytes // 2**20
            raise ProcessLost("memory", f"decoding took {used // 2**20} MiB, {allowed} MiB are allowed")

    def _impatience(self) -> ProcessLost:
        if not self._begun:
            return ProcessLost("worker", f"the decoder process did not start within {_START_SECONDS:g} s")
        said = f"not finished within {self._timeout_seconds:g} s"
        waited = self._waited() - self._waited_before
        if waited > self._timeout_seconds / 2:
            return ProcessLost("storage", f"{said}, {waited:.3g} of them spent waiting for the storage")
        return ProcessLost("timeout", said)

    def _waited(self) -> float:
        """Seconds that this child has waited for the storage in all."""
        return 0.0 if self._waits is None else self._waits.seconds()

    def _death(self) -> ProcessLost:
        assert self._process is not None
        code = self._process.wait()
        if code >= 0:
            return ProcessLost("worker", f"the decoder process ended with exit code {code}")
        name = signal.Signals(-code).name
        return ProcessLost("decoder_crashed", f"the decoder process died of {name}")


class _Channel:
    """Messages over a stream socket, each received straight into memory of its own: 3 GB/s, and no pickling."""

    _LENGTH: Final = struct.Struct("<Q")

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def send(self, message: Payload) -> None:
        self._socket.sendall(self._LENGTH.pack(memoryview(message).nbytes))
        self._socket.sendall(message)

    def wait(self, seconds: float) -> bool:
        """Whether a message begins to arrive, or the other side is gone, within so many seconds."""
        return _readable(self._socket.fileno(), seconds)

    def receive(self) -> bytearray:
        """The next message; EOFError when the other side is gone."""
        return self._exactly(self._LENGTH.unpack(self._exactly(self._LENGTH.size))[0])

    def _exactly(self, num_bytes: int) -> bytearray:
        message = bytearray(num_bytes)
        rest = memoryview(message)
        while rest:
            received = self._socket.recv_into(rest)
            if not received:
                raise EOFError
            rest = rest[received:]
        return message

    def close(self) -> None:
        self._socket.close()


def _readable(descriptor: int, seconds: float) -> bool:
    poll = select.poll()  # not select(): a Ray worker may have more than 1024 descriptors
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


_CHILD_ENVIRONMENT: Final = {
    # numpy's thread pool would reserve memory for threads that nothing here uses.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


def _raise_outcome(outcome: dict[str, str]) -> None:
    kind, message = outcome["kind"], outcome["message"]
    if kind == "memory":
        raise ProcessLost("memory", message)
    if kind == "worker":
        raise ProcessLost("worker", message)
    if kind != "finished":
        raise VideoError(kind, message)  # type: ignore[arg-type]  # written by _outcome from an ErrorKind


def _resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 when it is gone or the system has no /proc."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _main(socket_fd: int, lifeline_fd: int, waits_fd: int, limit_bytes: int) -> None:
    _die_with_parent(lifeline_fd)
    waiting.share(waits_fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limit_bytes != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # if the node runs out of memory, the kernel takes this process first
    channel = _Channel(socket.socket(fileno=socket_fd))
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        while True:
            function, args = pickle.loads(channel.receive())  # noqa: S301  # from our own parent
            outcome = _run(channel, function, args)
            channel.send(json.dumps({"outcome": outcome}).encode())
            gc.collect()  # a few objects that hold each other hold pictures too: Python would let hundreds of MB gather


def _die_with_parent(lifeline_fd: int) -> None:
    """Let the kernel end this process when the last write end of the pipe closes.

    Not PR_SET_PDEATHSIG: that fires when the *thread* that started us ends, and actors start us from passing
    threads. A pipe in O_ASYNC mode raises SIGIO, whose default is death, whatever native code is running.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGIO])
    fcntl.fcntl(lifeline_fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline_fd, fcntl.F_SETFL, fcntl.fcntl(lifeline_fd, fcntl.F_GETFL) | os.O_ASYNC)
    if _readable(lifeline_fd, 0):
        os._exit(0)  # it closed before we were listening


@lru_cache
def _find(function: str) -> Callable[..., Iterator[Item]]:
    module, _, name = function.partition(":")
    found: Callable[..., Iterator[Item]] = getattr(importlib.import_module(module), name)
    gc.collect()
    gc.freeze()  # what was imported stays: collecting what a call leaves behind takes no time then
    return found


def _message(record: dict[str, Any], payload: Payload | None) -> bytes:
    return json.dumps({**record, "has_payload": payload is not None}).encode()


def _run(channel: _Channel, function: str, args: tuple[Any, ...]) -> dict[str, str]:
    try:
        generator = _find(function)
        channel.send(_message({}, None))
        for record, payload in generator(*args):
            channel.send(_message(record, payload))
            if payload is not None:
                channel.send(payload)
    except VideoError as error:
        return {"kind": error.kind, "message": error.message}
    except MemoryError as error:
        return {"kind": "memory", "message": str(error) or "the decoder process may not get more memory"}
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:  # noqa: BLE001  # process boundary: the parent must learn of any failure
        return {"kind": "worker", "message": f"{type(error).__name__}: {error}"}
    return {"kind": "finished", "message": ""}


if __name__ == "__main__":
    _main(*map(int, sys.argv[1:5]))
