"""What goes wrong in a decoder process, on purpose: generators that isolation runs in place of decoding.

Each decodes as usual, but does harm when it comes to a video whose path says so ("segfault.mp4").
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vidbatch.decoding import waiting
from vidbatch.decoding.frames import decode_clip
from vidbatch.decoding.types import Job

Items = Iterator[tuple[dict[str, Any], Any]]


def decode_or_fail(job: Job) -> Items:
    """Give the first chunk, then do what the file's name says."""
    fault = Path(job.clip["source"]).stem.partition("-")[0]
    for record, pixels in decode_clip(job):
        yield record, pixels
        if "chunk_index" in record:
            FAULTS.get(fault, lambda _: None)(job)


def _segfault(_: Job) -> None:
    ctypes.string_at(0)


def _segfault_once(job: Job) -> None:
    """Die the first time, be good the second."""
    mark = Path(job.clip["source"] + ".mark")
    if not mark.exists():
        mark.touch()
        ctypes.string_at(0)


def _abort(_: Job) -> None:
    os.abort()


def _killed(_: Job) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _endless(_: Job) -> None:
    while True:
        pass


def _hang_in_native_code(_: Job) -> None:
    """Holds the interpreter's lock for ever, as a C extension that never returns."""
    libc = ctypes.PyDLL(None)
    libc.pause()


def _allocate(_: Job) -> None:
    hoard = []
    while True:
        hoard.append(bytearray(os.urandom(1 << 20)) * 16)


def _allocate_at_once(_: Job) -> None:
    bytearray(1 << 40)


def _exit(_: Job) -> None:
    os._exit(3)


def _bug(_: Job) -> None:
    raise KeyError("a mistake of ours")


FAULTS = {
    "segfault": _segfault,
    "once": _segfault_once,
    "abort": _abort,
    "killed": _killed,
    "endless": _endless,
    "native": _hang_in_native_code,
    "allocate": _allocate,
    "huge": _allocate_at_once,
    "exit": _exit,
    "bug": _bug,
}


def count(number: int, payload_bytes: int, pause_seconds: float = 0.0) -> Items:
    """Numbered records with payloads of that many bytes."""
    for index in range(number):
        time.sleep(pause_seconds)
        yield {"index": index}, bytes([index % 256]) * payload_bytes


def keep_alive(number: int, pause_seconds: float) -> Items:
    """Nothing but signs of progress, then one record."""
    for _ in range(number):
        time.sleep(pause_seconds)
        yield {}, None
    yield {"done": True}, None


def wait(storage_seconds: float, other_seconds: float) -> Items:
    """Wait for a storage that does not answer, and for something else."""
    with waiting.for_storage():
        time.sleep(storage_seconds)
    time.sleep(other_seconds)
    yield {"done": True}, None


def about_the_process() -> Items:
    """What was loaded, and how the process is set up."""
    import resource

    limits = {"core": resource.getrlimit(resource.RLIMIT_CORE)[0], "data": resource.getrlimit(resource.RLIMIT_DATA)[0]}
    modules = sorted(name for name in sys.modules if "." not in name)
    yield {"pid": os.getpid(), "parent": os.getppid(), "modules": modules, "path": sys.path, **limits}, None


def loaded_after_decoding(job: Job) -> Items:
    """Decode, then say which modules that took, and what the process has cost so far."""
    for _ in decode_clip(job):
        pass
    yield {"modules": sorted(name for name in sys.modules if "." not in name), "cpu_seconds": time.process_time()}, None


def sleep_forever() -> Items:
    """Say the process id, then never return."""
    yield {"pid": os.getpid()}, None
    time.sleep(10_000)
