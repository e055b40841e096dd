"""Where bytes are: a URL or path in; listings, seekable streams and atomic conditional writes out.

Knows local disks, s3:// (credentials, region and endpoint from the AWS environment and profile only), gs:// and az://
(from their environments only) and, for reading, http(s)://. Of one video it raises VideoError, of an input that cannot
work ConfigError, of everything else StorageError; no message holds a query string or a password.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, cast
from uuid import uuid4

from vidbatch.errors import ConfigError, StorageError, VideoError
from vidbatch.storage import local
from vidbatch.storage.globs import Glob, has_magic
from vidbatch.storage.opening import open_clip, open_member, open_read
from vidbatch.storage.reader import Reader
from vidbatch.storage.types import NoSuchBucket, StoredObject, split, split_folder
from vidbatch.storage.urls import (
    STORES,
    errors_of_a_video,
    errors_of_ours,
    http,
    normalise,
    redact,
    scheme_of,
    store_of,
    words,
)

__all__ = [
    "Reader",
    "StoredObject",
    "delete",
    "exists",
    "filesystem",
    "join",
    "list_files",
    "list_objects",
    "normalise",
    "open_clip",
    "open_member",
    "open_read",
    "probe_output",
    "put",
    "put_file",
    "put_if",
    "read_bytes",
    "read_with_version",
    "redact",
    "stat",
]


def join(base: str, *parts: str) -> str:
    """`base/part/part`, for URLs and paths alike."""
    return "/".join([base.rstrip("/"), *parts])


# --- listing --------------------------------------------------------------------------------------------------------


def list_objects(source: str) -> Iterator[list[StoredObject]]:
    """All objects of a folder or prefix (recursive), a glob, or one file: lazily, in pages of at most 1000.

    The order depends on the listed place only. A link to nothing is listed without size and mtime. Raises ConfigError
    when there is no such input, when a glob matches nothing or when access is refused; StorageError otherwise.
    """
    try:
        scheme = scheme_of(source)
        if scheme in STORES:
            yield from _list_store(source, scheme)
        else:
            yield from _list_local(source) if scheme == "file" else _list_http(source)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"input {redact(source)!r} does not exist ({words(error)})") from error
    except PermissionError as error:
        raise ConfigError(f"input {redact(source)!r} cannot be read: {words(error)}") from error
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"input {redact(source)!r} cannot be listed: {words(error)}") from error


def _list_local(source: str) -> Iterator[list[StoredObject]]:
    path = local.to_path(source)
    if has_magic(path) and not os.path.lexists(path):
        glob = _glob(path)

        def may_enter(folder: str) -> bool:
            return glob.may_hold_matches(folder)

        if os.path.isdir(glob.folder or "/"):
            yield from _matching(local.list_pages(glob.folder or "/", may_enter), glob, skip="file://")
            return
        raise FileNotFoundError(f"no folder {glob.folder}")
    if os.path.isdir(path):
        yield from local.list_pages(path, lambda _: True)
    else:
        yield [local.head(path)]


def _list_store(source: str, scheme: str) -> Iterator[list[StoredObject]]:
    side = store_of(scheme)
    url = normalise(source)
    bucket, key = split(url)
    refused: PermissionError | None = None
    if key and not key.endswith("/"):
        try:
            yield [side.head(url)]
            return
        except PermissionError as error:
            refused = error  # the answer to a HEAD has no words: listing will say more
        except FileNotFoundError:
            pass
    if has_magic(key):
        glob = _glob(key)
        yield from _matching(side.list_pages(bucket, glob.prefix), glob, skip=f"{scheme}://{bucket}/")
        return
    empty = True
    for page in side.list_pages(*split_folder(url)):
        empty = False
        yield page
    if empty and key:
        raise refused or FileNotFoundError(f"no object, and none below it; {scheme}://{bucket}/{key}* is a glob")


def _list_http(source: str) -> Iterator[list[StoredObject]]:
    yield [http().head(source)]


def _glob(pattern: str) -> Glob:
    try:
        return Glob(pattern)
    except ValueError as error:
        raise ConfigError(f"{pattern!r} is not a glob: {error}") from None


def _matching(pages: Iterator[list[StoredObject]], glob: Glob, *, skip: str) -> Iterator[list[StoredObject]]:
    empty = True
    for page in pages:
        found = [item for item in page if glob.matches(item.url.removeprefix(skip))]
        if found:
            empty = False
            yield found
    if empty:
        raise FileNotFoundError("nothing matches")


def stat(source: str) -> StoredObject:
    """Facts of one object, by one request. Raises VideoError (missing, permission, storage, not_a_video)."""
    with errors_of_a_video():
        return _head(source)


def _head(source: str) -> StoredObject:
    scheme = scheme_of(source)
    if scheme == "file":
        return local.head(local.to_path(source))
    return cast(StoredObject, store_of(scheme).head(normalise(source)) if scheme in STORES else http().head(source))


# --- reading --------------------------------------------------------------------------------------------------------


def read_bytes(url: str) -> bytes:
    """The whole object. Raises StorageError, when there is none too."""
    with errors_of_ours(url):
        scheme = scheme_of(url)
        if scheme == "file":
            return local.read(local.to_path(url))
        if scheme in STORES:
            return cast(bytes, store_of(scheme).read_with_version(normalise(url))[0])
    try:
        with open_read(url) as stream:
            return stream.read()
    except VideoError as error:
        raise StorageError(f"{redact(url)}: {error.message}") from error


def read_with_version(url: str) -> tuple[bytes | None, str | None]:
    """The whole object and the version to give to `put_if`; (None, None) when there is none. Raises StorageError."""
    try:
        with errors_of_ours(url):
            if store := _store(url):
                return cast(tuple[bytes, str], store.read_with_version(normalise(url)))
            return local.read_with_version(local.to_path(url))
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError) and not isinstance(error.__cause__, NoSuchBucket):
            return None, None
        raise


def exists(url: str) -> bool:
    """Whether there is such an object. Raises StorageError when that cannot be found out."""
    try:
        stat(url)
    except VideoError as error:
        if error.kind == "missing":
            return False
        if error.kind == "not_a_video":
            return True
        raise StorageError(f"{redact(url)}: {error.message}") from error
    return True


def list_files(url: str) -> list[str]:
    """URLs of all files below a folder, sorted; none when there is no such folder. For our own few files only."""
    with errors_of_ours(url):
        if store := _store(url):
            return cast(list[str], store.own_files(normalise(url)))
        return local.own_files(local.to_path(url))


def filesystem(url: str) -> tuple[Any, str]:
    """An fsspec file system and the path in it, for libraries that want one."""
    if store := _store(url):
        return store.filesystem(), normalise(url).partition("://")[2]
    from fsspec.implementations.local import LocalFileSystem

    return LocalFileSystem(), local.to_path(url)


# --- writing --------------------------------------------------------------------------------------------------------


def _store(url: str) -> ModuleType | None:
    """The module of the store that a URL is of; None: a local disk."""
    scheme = scheme_of(url)
    if scheme in ("http", "https"):
        raise ConfigError(f"{redact(url)!r} cannot be written: allowed: a path, file://, s3://, gs:// or az://")
    return None if scheme == "file" else store_of(scheme)


def put(url: str, data: bytes) -> None:
    """Write the object whole, whatever it held; readers see the old content or the new. Raises StorageError."""
    with errors_of_ours(url):
        if store := _store(url):
            store.write(normalise(url), data)
        else:
            local.write(local.to_path(url), data)


def put_file(url: str, path: str) -> None:
    """Write the object whole from a local file of any size, in bounded memory; otherwise as `put`."""
    with errors_of_ours(url):
        if store := _store(url):
            with open(path, "rb") as file:
                store.write_file(normalise(url), file)
        else:
            local.write_file(local.to_path(url), path)


def put_if(url: str, data: bytes, *, expected: str | None) -> str | None:
    """Write the object only if its version is still `expected` (None: only if there is none).

    Returns the version written, or None when somebody else was there first. Of any number of writers that expect the
    same version exactly one succeeds, on a disk and on every store of which `probe_output` says so. Raises
    StorageError.
    """
    with errors_of_ours(url):
        if store := _store(url):
            return cast(str | None, store.write_if(normalise(url), data, expected))
        return local.write_if(local.to_path(url), data, expected)


def delete(urls: Iterable[str]) -> None:
    """Remove objects; those that are not there are no error. Raises StorageError."""
    of_store: dict[ModuleType, list[str]] = {}
    for url in urls:
        if store := _store(url):
            of_store.setdefault(store, []).append(normalise(url))
            continue
        with errors_of_ours(url):
            local.delete(local.to_path(url))
    for store, remote in of_store.items():
        with errors_of_ours(remote[0]):
            store.delete(remote)


def probe_output(url: str) -> bool:
    """Prove that a place can be written, making folders where needed; whether it refuses a second create.

    Where it does not, only one run at a time may publish there. Raises ConfigError in one sentence.
    """
    probe = join(url, f"_probe-{uuid4().hex}")
    try:
        first = put_if(probe, b"first", expected=None)
        second = put_if(probe, b"second", expected=None)
        delete([probe])
    except StorageError as error:
        reason = words(cast(OSError, error.__cause__))
        raise ConfigError(f"output: {redact(url)!r} cannot be written: {reason}") from error
    return first is not None and second is None
