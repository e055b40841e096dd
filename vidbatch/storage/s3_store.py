"""S3 and what speaks its protocol: s3://bucket/key in; objects, bytes and conditional writes out.

Credentials, region and endpoint come from the AWS environment and profile only. Imported when the first s3:// URL is
used. Errors are plain OSErrors: FileNotFoundError, PermissionError, ObjectChanged, Unconditional, anything else.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, BinaryIO, Final, NamedTuple
from uuid import uuid4

import fsspec.asyn
from aiohttp import ClientError as HttpError
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from s3fs import S3FileSystem

from vidbatch.storage.patience import Ailment, is_busy, patiently
from vidbatch.storage.types import (
    ANSWER_SECONDS,
    CHANGED,
    CONNECT_SECONDS,
    READ_SECONDS,
    Fetched,
    NoSuchBucket,
    ObjectChanged,
    StoredObject,
    Unconditional,
    content_type,
    for_each,
    pages_ahead,
    seconds_for,
    split,
    split_folder,
)

MULTIPART_BYTES: Final = 256 * 2**20
"""Writes larger than this go in parts, with the condition on their completion, which fewer servers know than a
condition on a plain PUT (moto, for one, overlooks If-Match there)."""

_PART_BYTES: Final = 16 * 2**20
_MOST_PARTS: Final = 9_000
_THREADS: Final = 4
_MAX_FOLDERS: Final = 100
"""With more folders than this a listing is not split: a request for each would cost more than it saves."""

_TRIES: Final = 4
_WRITER: Final = "vidbatch-writer"
"""Object metadata that tells our own write from another's when the answer to it was lost."""

_ANY_ERROR: Final = (OSError, BotoCoreError, HttpError)
_OTHER_REGION: Final = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
"""The client itself asks again where the answer says which region it is; these are of stores that do not."""
_NO_IDENTITY: Final = (ProfileNotFound, CredentialRetrievalError, SSOError, TokenRetrievalError)


def filesystem() -> Any:
    """The s3fs file system of this process and of the present AWS environment; it caches no listing."""
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    return _filesystem(os.getpid(), settings)


@lru_cache(maxsize=4)
def _filesystem(_pid: int, settings: tuple[tuple[str, str], ...]) -> Any:
    # Not fsspec's own instance cache: it does not know that the environment is a part of what makes an instance.
    region = dict(settings).get("AWS_REGION")  # botocore itself looks at AWS_DEFAULT_REGION only
    return S3FileSystem(
        skip_instance_cache=True,
        use_listings_cache=False,
        client_kwargs={"region_name": region} if region else {},
        config_kwargs={
            "max_pool_connections": 50,
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
        },
    )


def _call(method: str, url: str, **arguments: Any) -> Any:
    bucket, key = split(url)
    fs = filesystem()
    given = {"Bucket": bucket, **({"Key": key} if key else {}), **arguments}
    # botocore and s3fs each repeat a request by themselves: where every answer is long in coming, for many minutes.
    patience = ANSWER_SECONDS + seconds_for(len(arguments.get("Body", b"")))
    return _run(url, lambda: fsspec.asyn.sync(fs.loop, fs._call_s3, method, timeout=patience, **given))


def _run(url: str, call: Callable[[], Any]) -> Any:
    try:
        return patiently(call, _ANY_ERROR, _ailment)
    except _ANY_ERROR as error:
        raise _plain(error, url) from error


def _ailment(error: BaseException) -> Ailment | None:
    if isinstance(error, _BodyBroken):  # s3fs and botocore repeat a request themselves, but not the reading of its body
        return "broken"
    return "busy" if is_busy(_answer_of(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) else None


def _answer_of(error: BaseException) -> dict[str, Any]:
    return dict(getattr(error.__cause__, "response", None) or {})


def _plain(error: BaseException, url: str) -> OSError:
    """The same error as one of Python's own, in one sentence a user can act on."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return PermissionError(
            "no AWS credentials were found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if isinstance(error, _NO_IDENTITY):
        return PermissionError(str(error).rstrip("."))
    if isinstance(error, ParamValidationError):
        return NoSuchBucket(f"{split(url)[0]!r} is not a valid bucket name")
    if isinstance(error, TimeoutError) and not str(error):
        return OSError("the storage did not answer in time")
    cause = error.__cause__
    if not isinstance(cause, ClientError):
        return OSError(str(error) or type(error).__name__)
    answer: dict[str, Any] = dict(cause.response)
    code = str(answer.get("Error", {}).get("Code", ""))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    words = str(answer.get("Error", {}).get("Message", "")).rstrip(".")
    if code == "NoSuchBucket" or (status == 404 and not split(url)[1]):
        return NoSuchBucket(f"bucket {split(url)[0]!r} does not exist")
    if status == 404:
        return FileNotFoundError("no such object")
    if code in _OTHER_REGION:
        return PermissionError(f"bucket {split(url)[0]!r} is in another region: set AWS_REGION to its own ({code})")
    if status in (401, 403) or isinstance(error, PermissionError):
        return PermissionError(f"access refused ({code}: {words})" if words else f"access refused ({code})")
    if status == 412:
        return ObjectChanged(CHANGED)
    if status == 501 or code == "NotImplemented":
        return Unconditional(words or code)
    return OSError(f"{code}: {words}" if words else f"HTTP {status} {code}")


# --- listing --------------------------------------------------------------------------------------------------------


class _Prefix(NamedTuple):
    bucket: str
    prefix: str
    token: str | None = None


def head(url: str) -> StoredObject:
    """Facts of one object. Raises OSError."""
    answer = _call("head_object", url)
    return _object(url, answer["ContentLength"], answer.get("ETag"), answer.get("LastModified"))


def _object(url: str, size_bytes: int, etag: str | None, modified: Any) -> StoredObject:
    return StoredObject(
        url, url, size_bytes, etag.strip('"') if etag else None, modified.timestamp() if modified else None
    )


def list_pages(bucket: str, prefix: str) -> Iterator[list[StoredObject]]:
    """Pages of all objects whose key starts with the prefix; folders below it are listed in parallel if they are few.

    Folder markers (empty objects whose key ends in `/`) are left out. Raises OSError.
    """
    whole = _Prefix(bucket, prefix)
    objects, more = _list_page(whole)
    if not more:  # most archives: one request
        if objects:
            yield objects
        return
    answer = _look(whole)
    while len(_folders(answer)) == 1 and not answer.get("Contents"):
        whole = _Prefix(bucket, _folders(answer)[0])
        answer = _look(whole)
    folders = [_Prefix(bucket, folder) for folder in _folders(answer)]
    if answer.get("IsTruncated") or not 2 <= len(folders) <= _MAX_FOLDERS:
        yield objects
        yield from pages_ahead(more, _list_page)
        return
    beside = _objects(bucket, answer)
    if beside:
        yield beside
    yield from pages_ahead(folders, _list_page)


def _look(place: _Prefix) -> Any:
    return _request_page(place, Delimiter="/")


def _folders(answer: Any) -> list[str]:
    return [found["Prefix"] for found in answer.get("CommonPrefixes", [])]


def _list_page(place: _Prefix) -> tuple[list[StoredObject], list[_Prefix]]:
    answer = _request_page(place)
    token = answer.get("NextContinuationToken") if answer.get("IsTruncated") else None
    return _objects(place.bucket, answer), [place._replace(token=token)] if token else []


def _request_page(place: _Prefix, **arguments: Any) -> Any:
    if place.token:
        arguments["ContinuationToken"] = place.token
    return _call("list_objects_v2", f"s3://{place.bucket}", Prefix=place.prefix, **arguments)


def _objects(bucket: str, answer: Any) -> list[StoredObject]:
    return [
        _object(f"s3://{bucket}/{found['Key']}", found["Size"], found.get("ETag"), found.get("LastModified"))
        for found in answer.get("Contents", [])
        if not found["Key"].endswith("/")
    ]


# --- reading --------------------------------------------------------------------------------------------------------


def fetch(url: str, start: int, end: int, etag: str | None = None) -> Fetched:
    """Bytes [start, end) of an object by one GET; fewer where it ends before.

    Args: `etag`, when given, must still be the object's; ObjectChanged is raised if it is not. Other errors: OSError.
    """
    bucket, key = split(url)
    arguments = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{end - 1}"}
    if etag is not None:
        arguments["IfMatch"] = f'"{etag}"'
    return _get(url, arguments, start)


def read_with_version(url: str) -> tuple[bytes, str]:
    """The whole object and its etag. Raises OSError."""
    bucket, key = split(url)
    answer = _get(url, {"Bucket": bucket, "Key": key}, 0)
    return answer.data, answer.etag or ""


def _get(url: str, arguments: dict[str, Any], start: int) -> Fetched:
    fs = filesystem()
    got: Fetched = _run(url, lambda: fsspec.asyn.sync(fs.loop, _get_body, fs, arguments, start))
    return got


class _BodyBroken(OSError):
    def __init__(self, error: Exception, otherwise: str) -> None:
        super().__init__(f"the connection broke again and again ({str(error) or otherwise})")


async def _get_body(fs: Any, arguments: dict[str, Any], start: int) -> Fetched:
    try:
        answer = await asyncio.wait_for(fs._call_s3("get_object", **arguments), ANSWER_SECONDS)
    except _ANY_ERROR as error:
        if _answer_of(error).get("Error", {}).get("Code") in ("InvalidRange", "416"):
            return Fetched(b"", None, start)  # nothing there: an empty object, or one that ends before
        raise
    try:
        async with answer["Body"] as body, asyncio.timeout(seconds_for(answer["ContentLength"])):
            data = await body.read()
    except TimeoutError as error:
        raise _BodyBroken(error, "it was too slow") from error
    except _ANY_ERROR as error:
        raise _BodyBroken(error, type(error).__name__) from error
    total = str(answer.get("ContentRange") or "").rpartition("/")[2]
    etag = answer.get("ETag")
    return Fetched(data, etag.strip('"') if etag else None, int(total) if total.isdigit() else start + len(data))


# --- writing --------------------------------------------------------------------------------------------------------


def write(url: str, data: bytes) -> None:
    """Replace the object whatever it holds. Raises OSError."""
    writer = uuid4().hex
    try:
        _put(url, data, {}, writer=writer)
    except FileNotFoundError:  # an upload that is no longer known because its completion, repeated, had succeeded
        if _etag(url, writer=writer) is None:
            raise


def write_file(url: str, file: BinaryIO) -> None:
    """Replace the object by what a file holds, in parts that go up side by side. Raises OSError."""
    num_bytes, writer = os.fstat(file.fileno()).st_size, uuid4().hex
    kind = {"ContentType": content_type(url)}  # browsers go by it
    if num_bytes <= _PART_BYTES:
        _put(url, file.read(), kind, writer=writer)
        return

    def part(start: int) -> bytes:  # by offset: parts are read by several threads
        return os.pread(file.fileno(), min(_part_bytes(num_bytes), num_bytes - start), start)

    try:
        _put_parts(url, range(0, num_bytes, _part_bytes(num_bytes)), part, {}, writer=writer, **kind)
    except FileNotFoundError:  # as in `write`
        if _etag(url, writer=writer) is None:
            raise


def write_if(url: str, data: bytes, expected: str | None) -> str | None:
    """Replace the object if its etag is still `expected` (None: if there is none); None when it is not.

    A storage without conditional writes gets a look before the write: right for one writer at a time. Raises OSError.
    """
    condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": f'"{expected}"'}
    writer = uuid4().hex
    for retry in range(_TRIES):
        try:
            return _put(url, data, condition, writer=writer)
        except Unconditional:
            return _put(url, data, {}, writer=writer) if _etag(url) == expected else None
        except (ObjectChanged, FileNotFoundError):
            # The client repeats a PUT whose answer was lost; the repeat is then refused because of the first.
            return _etag(url, writer=writer)
        except OSError as error:
            if "ConditionalRequestConflict" not in str(error):
                raise
            time.sleep(0.1 * 4**retry)  # two writers at the very same moment: one of them may go on
    return None


def _etag(url: str, writer: str | None = None) -> str | None:
    """Etag of the object, None if there is none; or, given a writer, None if another one wrote it last."""
    try:
        answer = _call("head_object", url)
    except FileNotFoundError:
        _call("head_bucket", f"s3://{split(url)[0]}")  # raises when it is the bucket that is missing
        return None
    if writer is not None and answer.get("Metadata", {}).get(_WRITER) != writer:
        return None
    return str(answer["ETag"]).strip('"')


def _put(url: str, data: bytes, condition: dict[str, str], *, writer: str) -> str:
    metadata = {_WRITER: writer}
    if len(data) <= MULTIPART_BYTES:
        answer = _call("put_object", url, Body=data, Metadata=metadata, **condition)
        return str(answer["ETag"]).strip('"')
    starts = range(0, len(data), _PART_BYTES)
    return _put_parts(url, starts, lambda start: data[start : start + _PART_BYTES], condition, writer=writer)


def _put_parts(
    url: str, starts: range, part: Callable[[int], bytes], condition: dict[str, str], *, writer: str, **of_object: str
) -> str:
    upload_id = _call("create_multipart_upload", url, Metadata={_WRITER: writer}, **of_object)["UploadId"]
    try:
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="vidbatch-put") as pool:
            parts = list(pool.map(partial(_put_part, url, upload_id, starts, part), starts))
        answer = _call(
            "complete_multipart_upload", url, UploadId=upload_id, MultipartUpload={"Parts": parts}, **condition
        )
    except OSError:
        with suppress(OSError):
            _call("abort_multipart_upload", url, UploadId=upload_id)
        raise
    return str(answer["ETag"]).strip('"')


def _put_part(url: str, upload_id: str, starts: range, part: Callable[[int], bytes], start: int) -> dict[str, Any]:
    number = starts.index(start) + 1
    answer = _call("upload_part", url, UploadId=upload_id, PartNumber=number, Body=part(start))
    return {"PartNumber": number, "ETag": answer["ETag"]}


def _part_bytes(num_bytes: int) -> int:
    """How large the parts of a file are: S3 takes 10,000 of them."""
    return max(_PART_BYTES, -(-num_bytes // _MOST_PARTS))


def delete(urls: list[str]) -> None:
    """Remove objects; those that are not there are no error. Raises OSError."""
    for_each(partial(_call, "delete_object"), urls)


def own_files(url: str) -> list[str]:
    """URLs of all objects below a prefix that stands for a folder, sorted. Raises OSError."""
    return sorted(found.url for page in pages_ahead([_Prefix(*split_folder(url))], _list_page) for found in page)
