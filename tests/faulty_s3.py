"""An S3 that misbehaves: rules or a seed in; out, a gate for MotoServer that fails, breaks, delays or refuses answers.

What is done to a connection is done to the real one: a reset is a TCP reset, a truncated body ends before the length
that its header promised.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from servers import Environ, MotoServer, StartResponse

REFUSALS = {
    "internal": ("500 Internal Server Error", "InternalError"),
    "unavailable": ("503 Service Unavailable", "ServiceUnavailable"),
    "slow_down": ("503 Slow Down", "SlowDown"),
    "forbidden": ("403 Forbidden", "AccessDenied"),
    "missing": ("404 Not Found", "NoSuchKey"),
}
"""Faults that are an answer of their own."""

PASSING = ("internal", "unavailable", "slow_down", "reset", "truncated")
"""What a store does on a bad day, and not the next moment."""


@dataclass
class Rule:
    """Requests of one method for a key are answered by a fault, so many times."""

    key: str
    fault: str
    times: int
    method: str = "GET"
    then: Callable[[], None] | None = None
    """Called after the first request that the rule fits has been answered."""


class FaultyS3:
    """A gate; `server.gate = FaultyS3(server, seed)`. With neither rules nor a storm it changes nothing."""

    def __init__(self, server: MotoServer, seed: int = 0) -> None:
        self.struck: Counter[str] = Counter()
        """How often each fault was met."""
        self.stall_seconds = 30.0
        self.slow_seconds = 1.0
        """How long a `slow` body takes."""
        self._server = server
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._storm: tuple[tuple[str, ...], float, int] | None = None
        self._burst = ("", 0)
        self._outage: tuple[str, int, float] | None = None
        self._outage_ends = 0.0
        self._num_requests = 0

    def on(self, key: str, fault: str, times: int = 1, *, then: Callable[[], None] | None = None) -> None:
        """Strike reads of one object; `then` is called once, after the first of them was answered."""
        self._rules.append(Rule(key, fault, times, then=then))

    def storm(self, faults: tuple[str, ...], share: float, burst: int = 1) -> None:
        """Strike a share of all requests, whatever they are for, and up to `burst` that follow each."""
        self._storm = (faults, share, burst)

    def outage(self, fault: str, *, after_requests: int, seconds: float) -> None:
        """Strike every request that comes after so many, for some time."""
        self._outage = (fault, after_requests, seconds)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes] | None:
        with self._lock:
            fault, then = self._choose(environ["REQUEST_METHOD"], environ["PATH_INFO"])
            if fault:
                self.struck[fault] += 1
        if then is not None:
            return self._followed(environ, start_response, then)
        if not fault:
            return None
        if fault in REFUSALS:
            return refuse(environ, start_response, *REFUSALS[fault])
        if fault == "stall":
            time.sleep(self.stall_seconds)
            return None
        return self._spoiled(environ, start_response, fault)

    def _choose(self, method: str, path: str) -> tuple[str, Callable[[], None] | None]:
        self._num_requests += 1
        for rule in self._rules:
            if rule.method == method and path.endswith(rule.key):
                if rule.then is not None:
                    then, rule.then = rule.then, None
                    return rule.fault, then
                if rule.times > 0:
                    rule.times -= 1
                    return rule.fault, None
        if self._outage is not None:
            fault, after, seconds = self._outage
            if self._num_requests == after + 1:
                self._outage_ends = time.monotonic() + seconds
            if self._num_requests > after and time.monotonic() < self._outage_ends:
                return fault, None
        if self._storm is None:
            return "", None
        faults, share, most = self._storm
        if self._burst[1] == 0 and self._chance.random() < share:
            self._burst = (self._chance.choice(faults), self._chance.randint(1, most))
        if self._burst[1] == 0:
            return "", None
        self._burst = (self._burst[0], self._burst[1] - 1)
        return self._burst[0], None

    def _real(self, environ: Environ) -> tuple[str, list[tuple[str, str]], bytes]:
        """What the server would have answered, and has done."""
        head: list[Any] = []
        body = b"".join(self._server._app(environ, lambda *given: head.append(given)))
        return head[0][0], head[0][1], body

    def _followed(self, environ: Environ, start_response: StartResponse, then: Callable[[], None]) -> Iterable[bytes]:
        status, headers, body = self._real(environ)
        then()
        start_response(status, headers)
        return [body]

    def _spoiled(self, environ: Environ, start_response: StartResponse, fault: str) -> Iterable[bytes]:
        status, headers, body = self._real(environ)
        start_response(status, headers)
        half = body[: len(body) // 2]
        if fault == "reset":
            return _reset_after(environ["werkzeug.socket"], half)
        if fault == "truncated":
            return [half]
        if fault == "stall_in_body":
            return _paused([half, body[len(half) :]], self.stall_seconds)
        if fault == "slow":
            size = max(1, len(body) // 10)
            return _paused([body[at : at + size] for at in range(0, len(body), size)], self.slow_seconds / 10)
        raise ValueError(f"no fault {fault!r}")


def refuse(
    environ: Environ, start_response: StartResponse, status: str, code: str, headers: Sequence[tuple[str, str]] = ()
) -> Iterable[bytes]:
    """Answer as S3 does what it will not do."""
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))  # unread, it would be a reset
    body = f"<Error><Code>{code}</Code><Message>a fault that a test wants</Message></Error>".encode()
    if environ["REQUEST_METHOD"] == "HEAD":
        body = b""
    start_response(status, [("Content-Length", str(len(body))), ("Content-Type", "application/xml"), *headers])
    return [body]


def _paused(pieces: list[bytes], seconds: float) -> Iterator[bytes]:
    for number, piece in enumerate(pieces):
        if number:
            time.sleep(seconds)
        yield piece


def _reset_after(connection: socket.socket, data: bytes) -> Iterator[bytes]:
    yield data
    time.sleep(0.01)  # a reset overtakes what was not yet read
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ended, other = socket.socketpair()
    with ended, other:
        os.dup2(ended.fileno(), connection.fileno())  # closes the connection and leaves the server one that has ended


class Wire:
    """A TCP proxy before a server that resets shares of the connections, or keeps them waiting, as its seed says."""

    def __init__(self, host: str, port: int, *, seed: int = 0, reset_share: float = 0.0, wait_share: float = 0.0,
                 wait_seconds: float = 30.0) -> None:  # fmt: skip
        self.struck: Counter[str] = Counter()
        self._target = (host, port)
        self._chance = random.Random(seed)
        self._shares = reset_share, wait_share
        self._wait_seconds = wait_seconds
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # stopped
            reset, wait = (self._chance.random() < share for share in self._shares)
            after = self._chance.randrange(1, 200_000)
            fault = "reset" if reset else "wait" if wait else ""
            threading.Thread(target=self._serve, args=(client, fault, after), daemon=True).start()

    def _serve(self, client: socket.socket, fault: str, after: int) -> None:
        try:
            server = socket.create_connection(self._target, timeout=60)
        except OSError:
            client.close()
            return
        threading.Thread(target=_pump, args=(client, server), daemon=True).start()
        passed = 0
        try:
            while data := server.recv(65_536):
                if fault and passed + len(data) >= after:
                    self.struck[fault] += 1
                    if fault == "reset":
                        client.sendall(data[: after - passed])
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        client.shutdown(socket.SHUT_RD)
                        break
                    time.sleep(self._wait_seconds)
                    fault = ""
                client.sendall(data)
                passed += len(data)
        except OSError:
            pass
        finally:
            for side in (client, server):
                side.close()

    def stop(self) -> None:
        self._listener.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass
