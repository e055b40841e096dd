"""http(s):// objects: a URL in, facts and byte ranges out; reading only.

Imported when the first http URL is used. Errors are plain OSErrors: FileNotFoundError, PermissionError,
RangesNotSupported, ObjectChanged, anything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, Final
from urllib.parse import quote, urlsplit, urlunsplit

import aiohttp
import fsspec.asyn
from fsspec.implementations.http import HTTPFileSystem
from yarl import URL

from vidbatch.storage.patience import Ailment, is_busy, patiently
from vidbatch.storage.types import (
    CHANGED,
    CONNECT_SECONDS,
    READ_SECONDS,
    Fetched,
    ObjectChanged,
    RangesNotSupported,
    StoredObject,
    seconds_for,
)

_ANY_ERROR: Final = (aiohttp.ClientError, TimeoutError, ValueError)
_REFUSED: Final = frozenset({401, 402, 403, 407, 451})


def to_url(source: str) -> str:
    """The URL without user, password, query string and fragment: what may be published."""
    parts = urlsplit(source)
    host = parts.netloc.rpartition("@")[2].lower()
    return urlunsplit((parts.scheme.lower(), host, parts.path, "", ""))


def head(source: str) -> StoredObject:
    """Facts of one object by a GET of its first byte: a signed URL allows GET only, not HEAD. Raises OSError."""
    headers, total, _ = _request(source, {"Range": "bytes=0-0"}, _no_body)
    modified = headers.get("Last-Modified")
    try:
        mtime_seconds = parsedate_to_datetime(modified).timestamp() if modified else None
    except ValueError:
        mtime_seconds = None
    return StoredObject(to_url(source), source, total, _etag(headers), mtime_seconds)


def fetch(source: str, start: int, end: int, etag: str | None = None) -> Fetched:
    """Bytes [start, end) by one GET; fewer where the object ends before.

    Raises RangesNotSupported when the server sends everything and that is more than was asked for, ObjectChanged when
    the etag is not the one given, OSError otherwise.
    """

    async def take(response: aiohttp.ClientResponse) -> bytes:
        if response.status == 416:
            return b""
        if response.status == 200 and (start > 0 or (response.content_length or 0) > end):
            raise RangesNotSupported("the server does not support range requests")
        async with asyncio.timeout(seconds_for(min(end - start, response.content_length or end - start))):
            data = await _up_to(response, end - start + 1)
        if len(data) > end - start:
            raise RangesNotSupported("the server sent more than the range it was asked for")
        return data

    headers, total, data = _request(source, {"Range": f"bytes={start}-{end - 1}"}, take)
    found = _etag(headers)
    if etag is not None and found is not None and found != etag:
        raise ObjectChanged(CHANGED)
    return Fetched(data, found, start + len(data) if total is None else total)


def copy(source: str, file: BinaryIO, limit_bytes: int) -> None:
    """Write the whole object to a file, for a server without ranges. Raises OSError, past the limit too."""

    async def take(response: aiohttp.ClientResponse) -> None:
        file.seek(0)
        file.truncate()
        async for chunk in response.content.iter_chunked(2**20):
            if file.tell() + len(chunk) > limit_bytes:
                raise OSError(f"larger than {limit_bytes} bytes, and the server does not support range requests")
            file.write(chunk)

    _request(source, {}, take)


# --- requests -------------------------------------------------------------------------------------------------------


def _request(source: str, headers: dict[str, str], take: Callable[[aiohttp.ClientResponse], Any]) -> Any:
    """(headers, size of the whole object or None, what `take` made of the body); tried again while that may help."""
    fs = HTTPFileSystem(
        encoded=True,
        client_kwargs={
            "trust_env": True,  # proxies
            "timeout": aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS),
            "auto_decompress": False,
        },
    )
    try:
        return patiently(lambda: fsspec.asyn.sync(fs.loop, _answer, fs, source, headers, take), _ANY_ERROR, _ailment)
    except _ANY_ERROR as error:
        raise _plain(error) from None


def _ailment(error: Exception) -> Ailment | None:
    if isinstance(error, aiohttp.ClientResponseError):
        return "busy" if is_busy(error.status) else None
    is_broken = isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | TimeoutError)
    return "broken" if is_broken else None  # else it is not a URL at all


async def _answer(fs: Any, source: str, headers: dict[str, str], take: Callable[..., Any]) -> Any:
    session = await fs.set_session()
    # Quoted only where it must be: a signed URL is signed as it is written.
    url = URL(quote(source, safe="!#$%&'()*+,/:;=?@[]~"), encoded=True)
    async with session.get(url, headers={"Accept-Encoding": "identity", **headers}) as response:
        if response.status >= 400 and response.status != 416:
            raise aiohttp.ClientResponseError(
                response.request_info, (), status=response.status, message=response.reason or ""
            )
        return response.headers, _total(response), await take(response)


def _total(response: aiohttp.ClientResponse) -> int | None:
    if response.status in (206, 416):
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        return int(total) if total.isdigit() else None
    return response.content_length


async def _no_body(_response: aiohttp.ClientResponse) -> None:
    return None


async def _up_to(response: aiohttp.ClientResponse, num_bytes: int) -> bytes:
    chunks, left = [], num_bytes
    while left > 0 and (chunk := await response.content.read(left)):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def _etag(headers: Any) -> str | None:
    etag = headers.get("ETag")
    return etag.removeprefix("W/").strip('"') if etag else None


def _plain(error: Exception) -> OSError:
    if isinstance(error, aiohttp.ClientResponseError):
        words = f"HTTP {error.status} {error.message}".rstrip()
        if error.status in (404, 410):
            return FileNotFoundError(words)
        return PermissionError(f"access refused ({words})") if error.status in _REFUSED else OSError(words)
    if isinstance(error, TimeoutError) and not str(error):
        return OSError("the server did not answer in time")
    return OSError(f"{type(error).__name__}: {error}".rstrip(": "))
