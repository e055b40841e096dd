"""How long a decoder process has waited for the storage: counted by the child, read by its parent, in shared memory.

A clip that takes too long because its bytes do not come is no fault of the video.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_PAIR: Final = struct.Struct("dd")


class Waits:
    """Seconds waited so far, and since when the child is waiting now (0: it is not); times are of time.monotonic().

    Args: `descriptor` of shared memory that the other side made; None makes some. It is closed by `close`.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = _make_memory() if descriptor is None else descriptor
        self._memory = mmap.mmap(self.descriptor, _PAIR.size)

    def seconds(self) -> float:
        """All waiting so far, that which goes on included."""
        waited, since = _PAIR.unpack_from(self._memory)
        return float(waited + (time.monotonic() - since if since else 0.0))

    def begin(self) -> None:
        """The child waits from now on."""
        _PAIR.pack_into(self._memory, 0, self.seconds(), time.monotonic())

    def end(self) -> None:
        """The child goes on."""
        _PAIR.pack_into(self._memory, 0, self.seconds(), 0.0)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
        os.close(self.descriptor)


def _make_memory() -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("vidbatch-waits")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, _PAIR.size)
    return descriptor


_SHARED: list[Waits] = []


def share(descriptor: int) -> None:
    """Let the parent that made this memory see what `for_storage` counts."""
    _SHARED[:] = [Waits(descriptor)]


@contextmanager
def for_storage() -> Iterator[None]:
    """What happens inside is waiting for the storage; without a parent nothing is counted."""
    for waits in _SHARED:
        waits.begin()
    try:
        yield
    finally:
        for waits in _SHARED:
            waits.end()
