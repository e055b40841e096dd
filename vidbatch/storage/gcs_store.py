"""Google Cloud Storage: gs://bucket/key in; objects, bytes and conditional writes out, by its JSON API.

Who asks comes from the environment only: GOOGLE_APPLICATION_CREDENTIALS, gcloud's login, or the machine's own account.
With STORAGE_EMULATOR_HOST set it is that server, and nobody, as for Google's own clients. Imported when the first gs://
URL is used. What stands for an etag is the generation, a number that every write of an object changes. Errors are plain
OSErrors: FileNotFoundError, PermissionError, ObjectChanged, anything else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any, BinaryIO, Final, NamedTuple
from urllib.parse import quote
from uuid import uuid4

import google.auth
import requests
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.auth.transport.requests import AuthorizedSession
from urllib3.exceptions import HTTPError as Urllib3Error

from vidbatch.storage.patience import Ailment, is_busy, patiently
from vidbatch.storage.types import (
    ANSWER_SECONDS,
    CHANGED,
    CONNECT_SECONDS,
    PAGE_OBJECTS,
    READ_SECONDS,
    Fetched,
    NoSuchBucket,
    ObjectChanged,
    StoredObject,
    content_type,
    for_each,
    split,
    split_folder,
)

_SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"
_WRITER: Final = "vidbatch-writer"
"""Object metadata that tells our own write from another's when the answer to it was lost."""


class _Refused(Exception):
    """An answer that is none of what was asked for."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(status, words)
        self.status, self.words = status, words


class _Place(NamedTuple):
    base: str
    session: requests.Session


class _Answer(NamedTuple):
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def filesystem() -> Any:
    """A gcsfs file system of the present environment; it caches no listing."""
    # Not gcsfs.GCSFileSystem: an experiment, which asks another service of Google's about each bucket first.
    from gcsfs.core import GCSFileSystem

    token = "anon" if os.environ.get("STORAGE_EMULATOR_HOST") else "google_default"
    return GCSFileSystem(token=token, skip_instance_cache=True, use_listings_cache=False)


@lru_cache(maxsize=4)
def _connected(_pid: int, emulator: str, _settings: tuple[tuple[str, str], ...]) -> _Place:
    session: requests.Session
    if emulator:
        base, session = emulator if "://" in emulator else f"http://{emulator}", requests.Session()
    else:
        base = "https://storage.googleapis.com"
        try:
            credentials, _ = google.auth.default(scopes=[_SCOPE])
        except DefaultCredentialsError:
            raise PermissionError(
                "no Google credentials were found: set GOOGLE_APPLICATION_CREDENTIALS, or log in by gcloud"
            ) from None
        session = AuthorizedSession(credentials)
    session.mount(base, requests.adapters.HTTPAdapter(pool_maxsize=50))
    return _Place(base.rstrip("/"), session)


def _request(url: str, method: str, path: str, **arguments: Any) -> _Answer:
    """The answer to a request. Raises OSError."""
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("GOOGLE_")))
    place = _connected(os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST", ""), settings)
    data = arguments.get("data")

    def call() -> _Answer:
        if data is not None and hasattr(data, "seek"):
            data.seek(0)
        return _ask(place, method, path, arguments)

    try:
        return patiently(call, (_Refused, requests.RequestException, Urllib3Error, GoogleAuthError), _ailment)
    except _Refused as refused:
        raise _plain(refused, url) from refused
    except (requests.RequestException, Urllib3Error) as error:
        raise OSError(f"the storage cannot be reached ({type(error).__name__})") from error
    except GoogleAuthError as error:
        raise PermissionError(str(error).partition("\n")[0]) from error


def _ask(place: _Place, method: str, path: str, arguments: dict[str, Any]) -> _Answer:
    seconds = CONNECT_SECONDS, ANSWER_SECONDS if method == "POST" else READ_SECONDS
    with place.session.request(method, f"{place.base}{path}", timeout=seconds, stream=True, **arguments) as answer:
        # As it is stored: of an object that was compressed on its way in, ranges are those of what is compressed.
        body: bytes = answer.raw.read(decode_content=not path.startswith("/download"))
        if answer.status_code >= 400:
            raise _Refused(answer.status_code, _words(body) or answer.reason or "")
        return _Answer(answer.headers, body)


def _ailment(error: Exception) -> Ailment | None:
    if isinstance(error, _Refused):
        return "busy" if is_busy(error.status) else None
    broken = (requests.ConnectionError, requests.Timeout, Urllib3Error)
    return "broken" if isinstance(error, broken) else None


def _words(body: bytes) -> str:
    try:
        said = json.loads(body)["error"]
        return str(said["message"] if isinstance(said, dict) else said).strip().partition("\n")[0].rstrip(".")
    except (ValueError, LookupError, TypeError):
        return ""


def _plain(refused: _Refused, url: str) -> OSError:
    """The same error as one of Python's own, in one sentence a user can act on."""
    bucket, key = split(url)
    if refused.status == 404 and (not key or "specified bucket" in refused.words):
        return NoSuchBucket(f"bucket {bucket!r} does not exist")
    if refused.status == 404:
        if not refused.words.startswith("No such object"):  # then it might be the bucket: this raises if it is
            with suppress(PermissionError):
                _request(f"gs://{bucket}", "GET", f"/storage/v1/b/{quote(bucket, safe='')}")
        return FileNotFoundError("no such object")
    if refused.status in (401, 403):
        return PermissionError(f"access refused ({refused.words})" if refused.words else "access refused")
    if refused.status == 412:
        return ObjectChanged(CHANGED)
    return OSError(f"HTTP {refused.status} {refused.words}".rstrip())


def _path(url: str) -> str:
    bucket, key = split(url)
    return f"/storage/v1/b/{quote(bucket, safe='')}/o/{quote(key, safe='')}"


# --- listing --------------------------------------------------------------------------------------------------------


def head(url: str) -> StoredObject:
    """Facts of one object. Raises OSError."""
    return _object(url, _request(url, "GET", _path(url)).json())


def _object(url: str, facts: dict[str, Any]) -> StoredObject:
    modified = facts.get("updated")
    mtime_seconds = datetime.fromisoformat(modified).timestamp() if modified else None
    return StoredObject(url, url, int(facts["size"]), str(facts["generation"]), mtime_seconds)


def list_pages(bucket: str, prefix: str) -> Iterator[list[StoredObject]]:
    """Pages of all objects whose key starts with the prefix, sorted by key; folders' markers are left out.

    Raises OSError.
    """
    url, token = f"gs://{bucket}", ""
    while True:
        asked = {"prefix": prefix, "maxResults": str(PAGE_OBJECTS), "pageToken": token}
        params = {name: value for name, value in asked.items() if value}
        page = _request(url, "GET", f"/storage/v1/b/{quote(bucket, safe='')}/o", params=params).json()
        found = [facts for facts in page.get("items") or [] if not facts["name"].endswith("/")]
        if found:
            yield [_object(f"{url}/{facts['name']}", facts) for facts in found]
        token = page.get("nextPageToken") or ""
        if not token:
            return


# --- reading --------------------------------------------------------------------------------------------------------


def fetch(url: str, start: int, end: int, etag: str | None = None) -> Fetched:
    """Bytes [start, end) of an object by one GET; fewer where it ends before.

    Args: `etag`, when given, must still be the object's generation; ObjectChanged is raised if it is not. Other errors:
    OSError.
    """
    try:
        answer = _get(url, etag, {"Range": f"bytes={start}-{end - 1}"})
    except OSError as error:
        if isinstance(error.__cause__, _Refused) and error.__cause__.status == 416:
            return Fetched(b"", None, start)  # nothing there: an empty object, or one that ends before
        raise
    total = answer.headers.get("Content-Range", "").rpartition("/")[2]
    size = int(total) if total.isdigit() else start + len(answer.body)
    return Fetched(answer.body, answer.headers.get("X-Goog-Generation"), size)


def _get(url: str, generation: str | None, headers: dict[str, str]) -> _Answer:
    params = {"alt": "media"} | ({} if generation is None else {"ifGenerationMatch": generation})
    headers = {"Accept-Encoding": "gzip", **headers}
    answer = _request(url, "GET", f"/download{_path(url)}", params=params, headers=headers)
    if generation is not None and answer.headers.get("X-Goog-Generation", generation) != generation:
        raise ObjectChanged(CHANGED)
    return answer


def read_with_version(url: str) -> tuple[bytes, str]:
    """The whole object and its generation. Raises OSError."""
    answer = _get(url, None, {})
    return answer.body, answer.headers.get("X-Goog-Generation", "")


# --- writing --------------------------------------------------------------------------------------------------------


def write(url: str, data: bytes) -> None:
    """Replace the object whatever it holds. Raises OSError."""
    _put(url, data, None)


def write_file(url: str, file: BinaryIO) -> None:
    """Replace the object by what a file holds, as one stream. Raises OSError."""
    bucket, key = split(url)
    _request(
        url,
        "POST",
        f"/upload/storage/v1/b/{quote(bucket, safe='')}/o",
        params={"uploadType": "media", "name": key},
        data=file,
        headers={"Content-Type": content_type(url)},  # browsers go by it
    )


def write_if(url: str, data: bytes, expected: str | None) -> str | None:
    """Replace the object if its generation is still `expected` (None: if there is none); None when it is not.

    Raises OSError.
    """
    if expected is not None and not expected.isdigit():
        return None  # no generation: that of another store
    writer = uuid4().hex
    try:
        return _put(url, data, expected or "0", writer=writer)
    except NoSuchBucket:
        raise
    except (ObjectChanged, FileNotFoundError):
        # A request whose answer was lost was repeated; the repeat is then refused because of the first.
        return _version_of(url, writer)


def _version_of(url: str, writer: str) -> str | None:
    """Generation of the object if that writer was the last; None if it was another, or there is none."""
    try:
        facts = _request(url, "GET", _path(url)).json()
    except FileNotFoundError:
        return None
    return str(facts["generation"]) if facts.get("metadata", {}).get(_WRITER) == writer else None


def _put(url: str, data: bytes, generation: str | None, *, writer: str = "") -> str:
    """Write the object by one request, if its generation is that one (0: none; None: whatever it is); the new one."""
    bucket, key = split(url)
    facts = json.dumps({"name": key, "metadata": {_WRITER: writer}})
    border = uuid4().hex
    head_of_body = f"--{border}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{facts}\r\n--{border}\r\n"
    body = b"".join(
        [f"{head_of_body}Content-Type: {content_type(url)}\r\n\r\n".encode(), data, f"\r\n--{border}--".encode()]
    )
    params = {"uploadType": "multipart"} | ({} if generation is None else {"ifGenerationMatch": generation})
    answer = _request(
        url,
        "POST",
        f"/upload/storage/v1/b/{quote(bucket, safe='')}/o",
        params=params,
        data=body,
        headers={"Content-Type": f"multipart/related; boundary={border}"},
    )
    return str(answer.json()["generation"])


def delete(urls: list[str]) -> None:
    """Remove objects; those that are not there are no error. Raises OSError."""

    def remove(url: str) -> None:
        with suppress(FileNotFoundError):
            _request(url, "DELETE", _path(url))

    for_each(remove, urls)


def own_files(url: str) -> list[str]:
    """URLs of all objects below a prefix that stands for a folder, sorted. Raises OSError."""
    return sorted(found.url for page in list_pages(*split_folder(url)) for found in page)
