"""Local disks: plain paths and file:// URLs in, objects, bytes and atomic replacements out.

Errors are plain OSErrors: FileNotFoundError, PermissionError, anything else.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat as stat_bits
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes
from uuid import uuid4

from filelock import FileLock

from vidbatch.storage.types import PAGE_OBJECTS, NotAFile, StoredObject, pages_ahead

_LOG = logging.getLogger(__name__)
_LOCK_FILE: Final = ".vidbatch.lock"
_COPIED_BYTES: Final = 2**22


def to_path(url: str) -> str:
    """Absolute path of a plain path or file:// URL.

    URLs are written with raw characters (spaces, `#`, `%`, as fsspec does); a percent-encoded one is understood
    when no file has that very name.
    """
    if url.startswith("file://"):
        path = os.path.abspath(url.removeprefix("file://").removeprefix("localhost"))
    else:
        path = os.path.abspath(os.path.expanduser(url))
    if "%" in path and not os.path.lexists(path):
        decoded = os.fsdecode(unquote_to_bytes(path))
        if os.path.lexists(decoded):
            return decoded
    return path


def to_url(path: str) -> str:
    """file:// URL of an absolute path; percent-encoded only when the name is not UTF-8, which no table can hold."""
    try:
        path.encode()
    except UnicodeEncodeError:
        path = quote(os.fsencode(path))
    return f"file://{path}"


def head(path: str) -> StoredObject:
    """Facts of one regular file. Raises OSError, for anything but a regular file too."""
    try:
        facts = os.stat(path)
    except ValueError:  # a NUL in the name
        raise FileNotFoundError("no file can have this name") from None
    if not stat_bits.S_ISREG(facts.st_mode):
        raise NotAFile("is a folder" if stat_bits.S_ISDIR(facts.st_mode) else "is not a regular file")
    return _object(path, facts)


def _object(path: str, facts: os.stat_result | None) -> StoredObject:
    url = to_url(path)
    if facts is None:
        return StoredObject(url, url)
    return StoredObject(url, url, facts.st_size, None, facts.st_mtime)


# --- listing --------------------------------------------------------------------------------------------------------


class _Folder(NamedTuple):
    path: str
    entries: Iterator[os.DirEntry[str]]
    trail: tuple[tuple[int, int], ...]
    """(device, inode) of this folder and those above it: a link back to one of them is a loop."""


def list_pages(root: str, may_enter: Callable[[str], bool]) -> Iterator[list[StoredObject]]:
    """Pages of all files below a folder, links followed; entering only the folders that `may_enter` allows.

    A folder that may not be read is left out with a warning; a link to nothing is listed, without a size. Raises
    OSError when the root itself cannot be listed.
    """
    facts = os.stat(root)
    with os.scandir(root):  # raises here, and not as a warning, when the root is not a readable folder
        pass
    top = _Folder(root, _entries(root), ((facts.st_dev, facts.st_ino),))
    yield from pages_ahead([top], partial(_list_page, may_enter=may_enter))


def _entries(path: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            yield from entries
    except PermissionError:
        _LOG.warning("folder %s may not be read: the files below it are left out", path)
    except FileNotFoundError:
        _LOG.debug("folder %s vanished while it was listed", path)


def _list_page(folder: _Folder, *, may_enter: Callable[[str], bool]) -> tuple[list[StoredObject], list[_Folder]]:
    page = sorted(islice(folder.entries, PAGE_OBJECTS), key=lambda entry: entry.name)
    objects: list[StoredObject] = []
    below: list[_Folder] = []
    for entry in page:
        try:
            facts = entry.stat()
        except FileNotFoundError:
            if entry.is_symlink():
                objects.append(_object(entry.path, None))
            continue
        except OSError as error:
            _LOG.warning("%s is left out: %s", entry.path, error.strerror)
            continue
        if stat_bits.S_ISREG(facts.st_mode):
            objects.append(_object(entry.path, facts))
        elif stat_bits.S_ISDIR(facts.st_mode) and may_enter(entry.path):
            identity = (facts.st_dev, facts.st_ino)
            if identity in folder.trail:
                _LOG.warning("%s links back to a folder above it and is not followed", entry.path)
            else:
                below.append(_Folder(entry.path, _entries(entry.path), (*folder.trail, identity)))
    return objects, [*below, folder] if len(page) == PAGE_OBJECTS else below


# --- reading and writing --------------------------------------------------------------------------------------------


def open_descriptor(path: str) -> tuple[int, int]:
    """A descriptor open for reading, and the file's size in bytes. Raises OSError, for all but regular files too."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for a writer
    except ValueError:  # a NUL in the name
        raise FileNotFoundError("no file can have this name") from None
    facts = os.fstat(descriptor)
    if not stat_bits.S_ISREG(facts.st_mode):
        os.close(descriptor)
        raise NotAFile("is a folder" if stat_bits.S_ISDIR(facts.st_mode) else "is not a regular file")
    return descriptor, facts.st_size


def read(path: str) -> bytes:
    """The whole file."""
    with open(path, "rb") as file:
        return file.read()


def read_with_version(path: str) -> tuple[bytes, str]:
    """The whole file and its version: a hash of the content, so that equal content is an equal version."""
    data = read(path)
    return data, _version(data)


def _version(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def write(path: str, data: bytes) -> None:
    """Replace the file whole: other processes see the old content or the new one, also after a crash."""
    _replace(path, [data], temporary=_temporary(path))


def write_file(path: str, source: str) -> None:
    """The same with what another file holds, wherever it is."""
    with open(source, "rb") as file:
        _replace(path, iter(partial(file.read, _COPIED_BYTES), b""), temporary=_temporary(path))


def _temporary(path: str) -> str:
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    return os.path.join(folder, f".{name}.{uuid4().hex}.tmp")


def write_if(path: str, data: bytes, expected: str | None) -> str | None:
    """Replace the file if its version is still `expected` (None: if there is none); None when it is not."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    with FileLock(os.path.join(folder, _LOCK_FILE)):
        try:
            current = read_with_version(path)[1]
        except FileNotFoundError:
            current = None
        if current != expected:
            return None
        # One fixed name: whoever holds the lock owns it, so what a killed process left is overwritten, not collected.
        _replace(path, [data], temporary=os.path.join(folder, f".{name}.tmp"))
    return _version(data)


def _replace(path: str, parts: Iterable[bytes], *, temporary: str) -> None:
    try:
        with open(temporary, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power cut
    finally:
        os.close(folder)


def delete(path: str) -> None:
    """Remove a file; nothing happens when there is none."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def own_files(root: str) -> list[str]:
    """URLs of all files below a folder, sorted, without the hidden ones that writing leaves."""
    found = []
    for folder, _, names in os.walk(root):
        found += [to_url(os.path.join(folder, name)) for name in names if not name.startswith(".")]
    return sorted(found)
