"""Seekable streams over a part of a file or over range requests, in bounded memory.

In: something that gives bytes [start, end). Out: a binary stream with `size_bytes` and a count of `bytes_read`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any, Final, TypeAlias

from vidbatch.storage.types import BLOCK_BYTES

_SEGMENTS_KEPT: Final = 4
"""Blocks a RangeReader holds: an mp4 is read at its index, at its picture data and at its sound by turns."""

_WORTH_A_REQUEST_BYTES: Final = 2**20
"""Ranges that are less apart are fetched as one."""

Range: TypeAlias = tuple[int, int]
"""Bytes [start, end)."""


class Reader(io.RawIOBase):
    """Read-only, seekable view of `size_bytes` bytes. `read(n)` gives n bytes unless the end comes first."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__()
        self.size_bytes = size_bytes
        self.bytes_read = 0
        """Bytes fetched from the storage so far; more than was asked for where blocks are fetched ahead."""
        self._position = 0

    def expect(self, ranges: Iterator[Range]) -> None:
        """Take note of which bytes are going to be read, in ascending order; a hint, other bytes may be read too."""

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

    def read1(self, size: int, /) -> bytes:
        """Up to `size` of the next bytes, by at most one request; none only at the end."""
        return self.read(size)

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

    Args: `fetch(start, end)` gives exactly these bytes or raises, from any thread; `first` is the start of the data,
    already here. What is read on end comes in larger and larger pieces up to BLOCK_BYTES, what is read here and there
    in pieces of `block_bytes`. Where it is known what is going to be read, that alone is fetched, and while it is
    worked on, what comes next.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], *, size_bytes: int, first: bytes, block_bytes: int) -> None:
        super().__init__(size_bytes)
        self._fetch = fetch
        self._block_bytes = block_bytes
        self._segments: list[tuple[int, bytes]] = [(0, first)]
        self._piece_bytes = block_bytes
        self._expected: Iterator[Range] = iter(())
        self._next_expected: Range | None = None
        self._range: Range | None = None
        self._ahead: tuple[Range, Future[bytes]] | None = None
        self._pool: ThreadPoolExecutor | None = None
        self.bytes_read = len(first)

    def expect(self, ranges: Iterator[Range]) -> None:
        """Fetch these ranges, in ascending order, as wholes and ahead of being read."""
        self._expected = ranges
        self._next_expected = next(ranges, None)
        self._range = self._next_range()

    def read1(self, size: int, /) -> bytes:
        """Up to `size` of the next bytes, by at most one request; none only at the end."""
        if size <= 0 or self._position >= self.size_bytes:
            return b""
        begin, data = self._segment(self._position)
        piece = data[self._position - begin :][:size]
        self._position += len(piece)
        return piece

    def close(self) -> None:
        """Give up what is being fetched ahead."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

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
        begin, data = self._expected_piece(position) or self._block(position)
        self._segments.insert(0, (begin, data))
        del self._segments[_SEGMENTS_KEPT:]
        return self._segments[0]

    def _block(self, position: int) -> tuple[int, bytes]:
        latest = max((begin + len(data) for begin, data in self._segments[:1]), default=0)
        if position == latest:
            self._piece_bytes = min(2 * self._piece_bytes, max(BLOCK_BYTES, self._block_bytes))
        else:
            self._piece_bytes = self._block_bytes
        data = self._fetch(position, min(position + self._piece_bytes, self.size_bytes))
        self.bytes_read += len(data)
        return position, data

    # --- ranges that are expected -----------------------------------------------------------------------------------

    def _expected_piece(self, position: int) -> tuple[int, bytes] | None:
        """The rest of the expected range that holds the position, None if there is none."""
        ahead, coming = self._ahead or ((0, 0), None)
        if position >= ahead[1] or coming is None:
            self._ahead = None  # passed by, or nothing
            coming = None
        if coming is not None and ahead[0] <= position:
            self._ahead = None
            start, data = ahead[0], coming.result()
        else:
            while self._range is not None and self._range[1] <= position:
                self._range = self._next_range()
            if self._range is None or position < self._range[0]:
                return None
            start, data = position, self._fetch(position, self._range[1])
            self._range = self._next_range()
        self.bytes_read += len(data)
        self._piece_bytes = self._block_bytes // 2  # what is read on behind it is a surprise, hardly a long one
        self._fetch_ahead()
        return start, data

    def _next_range(self) -> Range | None:
        """The next expected ranges as one of up to BLOCK_BYTES; what lies between two that are little apart counts."""
        if self._next_expected is None:
            return None
        start, end = self._next_expected
        following = next(self._expected, None)
        while following is not None and following[0] - end < _WORTH_A_REQUEST_BYTES and end - start < BLOCK_BYTES:
            end = max(end, following[1])
            following = next(self._expected, None)
        if following is not None and following[0] - end < _WORTH_A_REQUEST_BYTES:
            following = end, max(end, following[1])
        if end - start > BLOCK_BYTES:
            self._expected = chain([] if following is None else [following], self._expected)
            end, following = start + BLOCK_BYTES, (start + BLOCK_BYTES, end)
        self._next_expected = following
        return start, min(end, self.size_bytes)

    def _fetch_ahead(self) -> None:
        if self._ahead is not None or self._range is None:
            return
        self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="vidbatch-ahead")
        self._ahead = self._range, self._pool.submit(self._fetch, *self._range)
        self._range = self._next_range()
