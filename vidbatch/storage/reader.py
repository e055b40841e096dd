"""Seekable streams over a part of a file or over range requests, in bounded memory.

In: something that gives bytes [start, end). Out: a binary stream with `size_bytes` and a count of `bytes_read`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any, Final

from vidbatch.storage.types import BLOCK_BYTES

_SEGMENTS_KEPT: Final = 4
"""Blocks a RangeReader holds: an mp4 is read at its index, at its picture data and at its sound by turns."""


class Reader(io.RawIOBase):
    """Read-only, seekable view of `size_bytes` bytes. `read(n)` gives n bytes unless the end comes first."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__()
        self.size_bytes = size_bytes
        self.bytes_read = 0
        """Bytes fetched from the storage so far; more than was asked for where blocks are fetched ahead."""
        self._position = 0

    def _at(self, start: int, end: int) -> bytes:
        """Bytes [start, end), 0 <= start < end <= size_bytes."""
        raise NotImplementedError

    def read(self, size: int | None = -1, /) -> bytes:
        """The next `size` bytes, or all that are left; fewer only at the end."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        left = max(0, self.size_bytes - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        data = self._at(self._position, self._position + wanted)
        self._position += len(data)
        return data

    def readall(self) -> bytes:
        """All bytes that are left."""
        return self.read()

    def readinto(self, buffer: Any, /) -> int:
        """Fill a writable buffer; the number of bytes written into it."""
        data = self.read(len(memoryview(buffer).cast("B")))
        memoryview(buffer).cast("B")[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to any place from 0 on; beyond the end there is nothing to read."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}, before the start")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """The present place, in bytes."""
        return self._position

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True


class FileReader(Reader):
    """Bytes [offset, offset + size_bytes) of an open local file, whose descriptor it owns and closes."""

    def __init__(self, descriptor: int, offset: int, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self._descriptor = descriptor
        self._offset = offset

    def _at(self, start: int, end: int) -> bytes:
        # pread: no shared position, so that a forked child may go on with a descriptor of its parent's.
        data = os.pread(self._descriptor, end - start, self._offset + start)
        while data and len(data) < end - start:  # one pread gives at most 2 GiB
            more = os.pread(self._descriptor, end - start - len(data), self._offset + start + len(data))
            if not more:
                break
            data += more
        self.bytes_read += len(data)
        return data

    def close(self) -> None:
        """Close the descriptor."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()


class RangeReader(Reader):
    """Bytes fetched block by block, the last few blocks kept.

    Args: `fetch(start, end)` gives exactly these bytes or raises; `first` is the start of the data, already here.
    A block begins at a multiple of `block_bytes`; what is read on end comes in larger and larger pieces up to
    BLOCK_BYTES, what is read here and there in blocks.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], *, size_bytes: int, first: bytes, block_bytes: int) -> None:
        super().__init__(size_bytes)
        self._fetch = fetch
        self._block_bytes = block_bytes
        self._segments: list[tuple[int, bytes]] = [(0, first)]
        self._piece_bytes = block_bytes
        self.bytes_read = len(first)

    def _at(self, start: int, end: int) -> bytes:
        pieces = []
        while start < end:
            begin, data = self._segment(start)
            piece = data[start - begin : end - begin]
            pieces.append(piece)
            start += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _segment(self, position: int) -> tuple[int, bytes]:
        for index, (begin, data) in enumerate(self._segments):
            if begin <= position < begin + len(data):
                if index:
                    self._segments.insert(0, self._segments.pop(index))
                return self._segments[0]
        latest = max((begin + len(data) for begin, data in self._segments[:1]), default=0)
        if position == latest:
            self._piece_bytes = min(2 * self._piece_bytes, max(BLOCK_BYTES, self._block_bytes))
            begin = position
        else:
            self._piece_bytes = self._block_bytes
            begin = position - position % self._block_bytes
        data = self._fetch(begin, min(begin + self._piece_bytes, self.size_bytes))
        self.bytes_read += len(data)
        self._segments.insert(0, (begin, data))
        del self._segments[_SEGMENTS_KEPT:]
        return self._segments[0]
