"""Azure Blob Storage: az://container/key in; objects, bytes and conditional writes out.

The account and who asks come from the environment only, from the variables that adlfs reads:
AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and _ACCOUNT_KEY, _SAS_TOKEN, _CLIENT_ID with
_CLIENT_SECRET and _TENANT_ID, _ANON, or none of them: whatever identity the machine or its user has. Imported when
the first az:// URL is used. Errors are plain OSErrors: FileNotFoundError, PermissionError, ObjectChanged, anything
else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, BinaryIO, Final, TypeVar
from uuid import uuid4

from azure.core import MatchConditions
from azure.core.exceptions import AzureError, HttpResponseError, ServiceRequestError, ServiceResponseError
from azure.storage.blob import BlobBlock, BlobClient, BlobServiceClient, ContentSettings

from vidbatch.storage.patience import Ailment, is_busy, patiently
from vidbatch.storage.types import (
    CHANGED,
    CONNECT_SECONDS,
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

SINGLE_BYTES: Final = 64 * 2**20
"""Writes larger than this go in parts, with the condition on their completion."""

_PART_BYTES: Final = 16 * 2**20
_MOST_PARTS: Final = 45_000
_THREADS: Final = 4
_WRITER: Final = "vidbatch_writer"
"""Blob metadata that tells our own write from another's when the answer to it was lost."""

Answer = TypeVar("Answer")


def filesystem() -> Any:
    """An adlfs file system of the present environment; it caches no listing."""
    from adlfs import AzureBlobFileSystem

    return AzureBlobFileSystem(skip_instance_cache=True, use_listings_cache=False)


def _service() -> BlobServiceClient:
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AZURE_")))
    return _connected(os.getpid(), settings)


@lru_cache(maxsize=4)
def _connected(_pid: int, settings: tuple[tuple[str, str], ...]) -> BlobServiceClient:
    told = {name.removeprefix("AZURE_STORAGE_"): value for name, value in settings if value}
    options: dict[str, Any] = {
        "retry_total": 0,  # patience.py
        "connection_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "max_single_get_size": SINGLE_BYTES,
        "max_single_put_size": SINGLE_BYTES,
    }
    try:
        if "CONNECTION_STRING" in told:
            return BlobServiceClient.from_connection_string(told["CONNECTION_STRING"], **options)
        if "ACCOUNT_NAME" in told:
            url = f"https://{told['ACCOUNT_NAME']}.blob.core.windows.net"
            return BlobServiceClient(url, credential=_credential(told), **options)
    except ValueError:  # whose words may repeat what is secret
        raise PermissionError("the AZURE_STORAGE_* variables are not what Azure's client expects") from None
    raise PermissionError(
        "no Azure account was named: set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME"
    )


def _credential(told: Mapping[str, str]) -> Any:
    if secret := told.get("ACCOUNT_KEY") or told.get("SAS_TOKEN"):
        return secret
    from azure.identity import ClientSecretCredential, DefaultAzureCredential

    if "CLIENT_ID" in told:
        return ClientSecretCredential(told.get("TENANT_ID", ""), told["CLIENT_ID"], told.get("CLIENT_SECRET", ""))
    is_anonymous = told.get("ANON", "false").lower() not in ("false", "0", "f")
    return None if is_anonymous else DefaultAzureCredential()


def _blob(url: str) -> BlobClient:
    container, key = split(url)
    try:
        return _service().get_blob_client(container, key)
    except ValueError:
        raise NoSuchBucket(f"{container!r} is not a valid container name") from None


def _run(url: str, call: Callable[[], Answer]) -> Answer:
    try:
        return patiently(call, AzureError, _ailment)
    except AzureError as error:
        raise _plain(error, url) from error


def _ailment(error: Exception) -> Ailment | None:
    status = getattr(error, "status_code", None)
    if status is not None:
        return "busy" if is_busy(status) else None
    return "broken" if isinstance(error, ServiceRequestError | ServiceResponseError) else None


def _plain(error: AzureError, url: str) -> OSError:
    """The same error as one of Python's own, in one sentence a user can act on."""
    status, code = getattr(error, "status_code", None), str(getattr(error, "error_code", None) or "")
    words = str(error.message).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    if code == "ContainerNotFound" or (status == 404 and not split(url)[1]):
        return NoSuchBucket(f"container {split(url)[0]!r} does not exist")
    if code in ("InvalidResourceName", "OutOfRangeInput") and status == 400:
        return NoSuchBucket(f"{split(url)[0]!r} is not a valid container name")
    if status == 404:
        return FileNotFoundError("no such object")
    if status in (401, 403):
        return PermissionError(f"access refused ({f'{code}: ' if code else ''}{words})")
    if status == 412 or code in ("BlobAlreadyExists", "InvalidBlockList"):
        return ObjectChanged(CHANGED)
    if status is None and not isinstance(error, ServiceRequestError | ServiceResponseError):
        return PermissionError(words)  # there is nobody to ask as
    return OSError(f"{code}: {words}" if code else words)


# --- listing --------------------------------------------------------------------------------------------------------


def head(url: str) -> StoredObject:
    """Facts of one object. Raises OSError."""
    return _object(url, _run(url, _blob(url).get_blob_properties))


def _object(url: str, facts: Any) -> StoredObject:
    modified = facts.last_modified
    return StoredObject(url, url, facts.size, _bare(facts.etag), modified.timestamp() if modified else None)


def _bare(etag: str | None) -> str | None:
    return etag.strip('"') if etag else None


def list_pages(container: str, prefix: str) -> Iterator[list[StoredObject]]:
    """Pages of all objects whose key starts with the prefix, sorted by key; folders' markers are left out.

    Raises OSError.
    """
    url = f"az://{container}"
    client = _service().get_container_client(container)
    found = client.list_blobs(name_starts_with=prefix or None, include=["metadata"])
    pages = found.by_page()
    while (page := _run(url, partial(_next_page, pages))) is not None:
        objects = [_object(f"{url}/{blob.name}", blob) for blob in page if not _is_folder(blob)]
        if objects:
            yield objects


def _next_page(pages: Iterator[Any]) -> list[Any] | None:
    page = next(pages, None)
    return None if page is None else list(page)


def _is_folder(blob: Any) -> bool:
    return blob.name.endswith("/") or (blob.metadata or {}).get("hdi_isfolder") == "true"


# --- reading --------------------------------------------------------------------------------------------------------


def fetch(url: str, start: int, end: int, etag: str | None = None) -> Fetched:
    """Bytes [start, end) of an object by one GET; fewer where it ends before.

    Args: `etag`, when given, must still be the object's; ObjectChanged is raised if it is not. Other errors: OSError.
    """
    blob = _blob(url)

    def get() -> Fetched:
        try:
            stream = blob.download_blob(offset=start, length=end - start, **_still(etag))
            data = stream.readall()
        except HttpResponseError as error:
            if error.status_code == 416:  # nothing there: an empty object, or one that ends before
                return Fetched(b"", None, start)
            raise
        total = str(stream.properties.content_range or "").rpartition("/")[2]
        return Fetched(data, _bare(stream.properties.etag), int(total) if total.isdigit() else start + len(data))

    return _run(url, get)


def _still(etag: str | None) -> dict[str, Any]:
    return {} if etag is None else {"etag": f'"{etag}"', "match_condition": MatchConditions.IfNotModified}


def read_with_version(url: str) -> tuple[bytes, str]:
    """The whole object and its etag. Raises OSError."""
    blob = _blob(url)

    def get() -> tuple[bytes, str]:
        stream = blob.download_blob()
        return stream.readall(), _bare(stream.properties.etag) or ""

    return _run(url, get)


# --- writing --------------------------------------------------------------------------------------------------------


def write(url: str, data: bytes) -> None:
    """Replace the object whatever it holds. Raises OSError."""
    _put(url, len(data), lambda start, end: data[start:end], {}, writer=uuid4().hex)


def write_file(url: str, file: BinaryIO) -> None:
    """Replace the object by what a file holds, in parts that go up side by side. Raises OSError."""

    def part(start: int, end: int) -> bytes:  # by offset: parts are read by several threads
        return os.pread(file.fileno(), end - start, start)

    kind = {"content_settings": ContentSettings(content_type=content_type(url))}  # browsers go by it
    _put(url, os.fstat(file.fileno()).st_size, part, {}, writer=uuid4().hex, **kind)


def write_if(url: str, data: bytes, expected: str | None) -> str | None:
    """Replace the object if its etag is still `expected` (None: if there is none); None when it is not.

    Raises OSError.
    """
    condition = {"match_condition": MatchConditions.IfMissing} if expected is None else _still(expected)
    writer = uuid4().hex
    try:
        return _put(url, len(data), lambda start, end: data[start:end], condition, writer=writer)
    except NoSuchBucket:
        raise
    except (ObjectChanged, FileNotFoundError):
        # A request whose answer was lost was repeated; the repeat is then refused because of the first.
        return _etag_of(url, writer)


def _etag_of(url: str, writer: str) -> str | None:
    """Etag of the object if that writer was the last; None if it was another, or there is none."""
    try:
        facts = _run(url, _blob(url).get_blob_properties)
    except FileNotFoundError:
        return None
    return _bare(facts.etag) if facts.metadata.get(_WRITER) == writer else None


def _put(
    url: str,
    num_bytes: int,
    part: Callable[[int, int], bytes],
    condition: dict[str, Any],
    *,
    writer: str,
    **of_object: Any,
) -> str:
    blob, of_object = _blob(url), {**of_object, **condition, "metadata": {_WRITER: writer}}
    if num_bytes <= SINGLE_BYTES:
        data = part(0, num_bytes)
        answer = _run(url, lambda: blob.upload_blob(data, overwrite=True, **of_object))
        return str(answer["etag"]).strip('"')
    size = max(_PART_BYTES, -(-num_bytes // _MOST_PARTS))
    # Names of their own: writers that are at work at once must not put parts of each other together.
    parts = {f"{writer}{start:015d}": start for start in range(0, num_bytes, size)}

    def put_part(name: str) -> None:
        data = part(parts[name], min(parts[name] + size, num_bytes))
        _run(url, lambda: blob.stage_block(name, data))

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="vidbatch-put") as pool:
        for _ in pool.map(put_part, parts):
            pass
    answer = _run(url, lambda: blob.commit_block_list([BlobBlock(name) for name in parts], **of_object))
    return str(answer["etag"]).strip('"')


def delete(urls: list[str]) -> None:
    """Remove objects; those that are not there are no error. Raises OSError."""

    def remove(url: str) -> None:
        with suppress(FileNotFoundError):
            _run(url, _blob(url).delete_blob)

    for_each(remove, urls)


def own_files(url: str) -> list[str]:
    """URLs of all objects below a prefix that stands for a folder, sorted. Raises OSError."""
    return sorted(found.url for page in list_pages(*split_folder(url)) for found in page)
