"""What a source is called and what went wrong with it: schemes, normalised URLs, secrets kept out of messages.

In: a path or URL as a user or manifest wrote it. Out: the URL that tables hold, and errors of our own kinds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from vidbatch.errors import ConfigError, ErrorKind, StorageError, VideoError
from vidbatch.storage import local
from vidbatch.storage.types import NotAFile, ObjectChanged


class Store(NamedTuple):
    """A kind of object storage that can be written, and what it calls its things."""

    module: str
    bucket: str
    environment: str
    packages: tuple[str, ...] = ()
    extra: str = ""


STORES: Final = {
    "s3": Store("s3_store", "bucket", "AWS"),
    "gs": Store("gcs_store", "bucket", "Google", ("gcsfs",), "gcs"),
    "az": Store("azure_store", "container", "Azure", ("adlfs",), "azure"),
}


def normalise(source: str) -> str:
    """The URL that names this object in tables: file:///abs, s3://bucket/key, http(s)://host/path, without query.

    Keys of stores and local paths are written as they are, not percent-encoded. Raises ConfigError for other schemes.
    """
    scheme = scheme_of(source)
    if scheme == "file":
        return local.to_url(local.to_path(source))
    if scheme in STORES:
        return f"{scheme}://" + source.partition("://")[2]
    return str(http().to_url(source))


def redact(text: str) -> str:
    """The text with query strings, users and passwords taken out of every URL in it."""
    text = _USER.sub(r"\1", text)
    text = _QUERY.sub(r"\1", text)
    return _SIGNATURE.sub(r"\1=…", text)


_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s'\"]*@")
_QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s?'\"<>]*)\?[^\s'\"<>]*")
_SIGNATURE = re.compile(
    r"(?i)\b(X-Amz-[A-Za-z-]+|sig|(?:[\w-]*[_-])?(?:signature|token|secret|password|secret_?key|api_?key|account_?key|key_?id)"
    r"|AWSAccessKeyId)=[^&\s'\"<>]+"
)


def scheme_of(source: str) -> str:
    """file, s3, gs, az, http or https; a plain path is `file`. Raises ConfigError for anything else."""
    scheme, separator, rest = source.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return "file"
    scheme = scheme.lower()
    if scheme not in ("file", *STORES, "http", "https"):
        allowed = f"a path, file, {', '.join(STORES)}, http, https"
        raise ConfigError(f"{redact(source)!r}: {scheme}:// is not supported; allowed: {allowed}")
    if scheme in ("http", "https"):
        try:
            urlsplit(source)
        except ValueError:  # whose words repeat what may hold a password
            raise ConfigError(f"{redact(source)!r} is not a URL") from None
    host = rest.partition("/")[0]
    if scheme != "file" and not host:
        raise ConfigError(f"{redact(source)!r} names no {STORES[scheme].bucket if scheme in STORES else 'host'}")
    if scheme in STORES and "@" in host:
        said = f"{redact(source)!r} was given with a key"
        raise ConfigError(f"{said}: credentials come from the {STORES[scheme].environment} environment only")
    return scheme


@cache
def store_of(scheme: str) -> ModuleType:
    """The module of a store that can be written, imported when it is first used: it takes a second.

    Raises ConfigError where the packages that it needs are not installed.
    """
    store = STORES[scheme]
    for package in store.packages:
        if find_spec(package) is None:
            raise ConfigError(f"{scheme}:// needs the package {package}: pip install 'vidbatch[{store.extra}]'")
    return import_module(f"vidbatch.storage.{store.module}")


def http() -> ModuleType:
    """The http side, imported when it is first used."""
    from vidbatch.storage import http_store

    return http_store


def words(error: OSError) -> str:
    """What the error says, without its number and without secrets."""
    return redact(error.strerror or str(error) or type(error).__name__)


def kind_of(error: OSError) -> ErrorKind:
    """The key of ERROR_KINDS that a storage's error is."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "missing"
    if isinstance(error, NotAFile):
        return "not_a_video"
    if isinstance(error, ObjectChanged):
        return "changed"
    return "permission" if isinstance(error, PermissionError) else "storage"


@contextmanager
def errors_of_a_video() -> Iterator[None]:
    """What goes wrong inside concerns one video: a VideoError."""
    try:
        yield
    except OSError as error:
        raise VideoError(kind_of(error), words(error)) from error
    except ConfigError as error:
        raise VideoError("storage", str(error)) from None


@contextmanager
def errors_of_ours(url: str) -> Iterator[None]:
    """What goes wrong inside concerns the whole run: a StorageError that names the place."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{redact(url)}: {words(error)}") from error
