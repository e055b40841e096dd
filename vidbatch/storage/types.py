"""What any storage says of one object, and the engine that lists many of them a few pages ahead of the reader.

In: places still to list and a function that lists one page of one place. Out: pages of StoredObject, in a fixed order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from mimetypes import guess_type
from typing import Final, NamedTuple, TypeVar

PAGE_OBJECTS: Final = 1000
"""Objects a page holds at most: what one S3 listing request returns."""

BLOCK_BYTES: Final = 8 * 2**20
"""Bytes one request asks for: large enough to fill a network card, small enough to hold a few."""

CHANGED: Final = "the object is not the one that was listed, or changed while it was read"

PAGES_AHEAD: Final = 16
LISTING_THREADS: Final = 8

CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 20.0
"""A connection that gives nothing for so long is given up, and the request repeated."""
ANSWER_SECONDS: Final = 100.0
"""How long a request is repeated before it has failed: with the slowest body less than a decoder is waited for, so that
a store that hangs is an error of the store and not of the video."""
BUSY_SECONDS: Final = 60.0
"""How long a store is waited for that answers, but says that it cannot: some seconds of overload must not end a run of
hours."""
SLOWEST_BYTES_A_SECOND: Final = 2**16
"""A body that comes slower than this on the whole counts as one that stands still."""

_MORE_TYPES: Final = {".mpd": "application/dash+xml"}

Place = TypeVar("Place")
Item = TypeVar("Item")


class StoredObject(NamedTuple):
    """One object as its storage describes it; absent facts are None."""

    url: str
    """Normalised: file:///abs/path, s3://bucket/key (or gs, az), or http(s)://host/path with neither query nor user."""
    source: str
    """What `open_read` takes; may hold a query string, so it is never published."""
    size_bytes: int | None = None
    etag: str | None = None
    mtime_seconds: float | None = None

    @property
    def content_version(self) -> str:
        """Changes when the content does: etag and size where there is an etag, else size and mtime."""
        size = "unknown" if self.size_bytes is None else str(self.size_bytes)
        if self.etag is not None:
            return f"{self.etag}-{size}"
        mtime = "unknown" if self.mtime_seconds is None else f"{self.mtime_seconds:.6f}"
        return f"{size}-{mtime}"


class Fetched(NamedTuple):
    """The answer to one range request."""

    data: bytes
    etag: str | None
    total_bytes: int
    """Size of the whole object, not of the range."""


class NoSuchBucket(FileNotFoundError):
    """There is no place where the object could be, so nothing can be written there either."""


class NotAFile(OSError):
    """A folder, a pipe or a device where a file was meant."""


class RangesNotSupported(OSError):
    """An http server that sends the whole object whatever range is asked for."""


class ObjectChanged(OSError):
    """The object is not the one that was listed, or was replaced while it was being read."""


class Unconditional(OSError):
    """A storage that answers conditional writes with 'not implemented'."""


def split(url: str) -> tuple[str, str]:
    """Bucket (or container) and key of a store's URL; the key may hold any character, `?` and `#` too."""
    bucket, _, key = url.partition("://")[2].partition("/")
    return bucket, key


def split_folder(url: str) -> tuple[str, str]:
    """The bucket of a URL that stands for a folder, and what the keys of all that is below it begin with."""
    bucket, key = split(url)
    return bucket, key.rstrip("/") + "/" if key else ""


def for_each(remove: Callable[[str], object], urls: list[str]) -> None:
    """Call a store's own way to remove one object for all of them, some at a time. Raises the first error."""
    with ThreadPoolExecutor(16, thread_name_prefix="vidbatch-delete") as pool:
        for _ in pool.map(remove, urls):
            pass


def content_type(url: str) -> str:
    """What a browser is told that the object is, by its name."""
    return guess_type(split(url)[1])[0] or _MORE_TYPES.get(url[-4:], "application/octet-stream")


def seconds_for(num_bytes: int) -> float:
    """How long a body of this size may take."""
    return READ_SECONDS + num_bytes / SLOWEST_BYTES_A_SECOND


def pages_ahead(
    places: Sequence[Place], list_page: Callable[[Place], tuple[list[Item], list[Place]]]
) -> Iterator[list[Item]]:
    """List places by threads, at most PAGES_AHEAD pages ahead of the consumer, in an order that does not vary.

    Args: `list_page` gives one page of a place and the places to go on with: those found in it, and the place itself
    when it has more. They are listed depth first, so memory grows with depth and not with the number of places.

    The order depends only on what is listed, never on which thread was fastest: Ray re-executes a generator whose
    worker died and skips as many outputs as it had delivered, which is only right when they come in the same order.
    """
    waiting = list(reversed(places))
    ahead: deque[Future[tuple[list[Item], list[Place]]]] = deque()
    pool = ThreadPoolExecutor(LISTING_THREADS, thread_name_prefix="vidbatch-list")
    try:
        while waiting or ahead:
            while waiting and len(ahead) < PAGES_AHEAD:
                ahead.append(pool.submit(list_page, waiting.pop()))
            items, more = ahead.popleft().result()
            waiting.extend(reversed(more))
            if items:
                yield items
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
