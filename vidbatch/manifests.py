"""Manifests: a Parquet, CSV or JSON-lines file with a `url` column in; rows out, in batches, with urls resolved.

A relative url stands next to its manifest. `member` names a member of a shard; the column of `times=COLUMN` holds
seconds; all other columns travel with the video as they are. What the user got wrong raises ConfigError with the row.
"""

from __future__ import annotations

import csv
import io
import json
import math
import posixpath
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, BinaryIO, Final, NamedTuple, cast
from urllib.parse import urljoin

import pyarrow as pa
import pyarrow.parquet as pq

from vidbatch import storage
from vidbatch.errors import ConfigError, StorageError, VideoError

BATCH_ROWS: Final = 1000
MANIFEST_SUFFIXES: Final = (".parquet", ".csv", ".jsonl", ".ndjson")


class Row(NamedTuple):
    """One row of a manifest."""

    url: str
    member: str | None
    times: list[float] | None
    """Seconds, ascending; None when the run does not sample at given times."""
    metadata: dict[str, Any]


def is_manifest(source: str) -> bool:
    """Whether an input is a manifest, by its name; a glob is one when what it matches would be."""
    name = source.partition("?")[0] if source.lower().startswith(("http://", "https://")) else source
    return name.lower().endswith(MANIFEST_SUFFIXES)


def check(source: str, times_column: str | None) -> None:
    """Raise ConfigError unless the manifest can be opened, has the columns that are needed and a first row in order."""
    next(batches(source, times_column), None)


def batches(source: str, times_column: str | None) -> Iterator[list[Row]]:
    """Rows in batches of at most BATCH_ROWS, read as they are asked for; raises ConfigError, StorageError.

    A glob, or a folder whose name ends like a manifest's, stands for all manifests in it.
    """
    for page in storage.list_objects(source):
        for found in page:
            if is_manifest(found.url):
                yield from _batches(found.source, times_column)


def _batches(source: str, times_column: str | None) -> Iterator[list[Row]]:
    name = f"manifest {storage.redact(source)!r}"
    number = 0
    with _mistakes_of(name), storage.open_read(source) as stream:
        records = _records(storage.normalise(source), cast(BinaryIO, stream), name, times_column)
        while records_ahead := list(islice(records, BATCH_ROWS)):
            rows = []
            for record in records_ahead:
                number += 1
                try:
                    rows.append(_row(record, source, times_column))
                except ValueError as error:
                    raise ConfigError(f"{name}, row {number}: {error}") from None
            yield rows


@contextmanager
def _mistakes_of(name: str) -> Iterator[None]:
    try:
        yield
    except VideoError as error:
        kind = ConfigError if error.kind in ("missing", "permission") else StorageError
        raise kind(f"{name} cannot be read: {error.message}") from error
    except (pa.ArrowException, csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} cannot be read: {error}") from error


def _records(url: str, stream: BinaryIO, name: str, times_column: str | None) -> Iterator[dict[str, Any]]:
    """Every row as a dict; the first one tells whether the columns are there."""
    reader = {"parquet": _parquet_records, "csv": _csv_records}.get(url.lower().rpartition(".")[2], _json_records)
    columns, records = reader(stream, name)
    if columns is None:
        return  # no row at all
    for needed in ("url", times_column):
        if needed is not None and needed not in columns:
            raise ConfigError(f"{name} has no column {needed!r}; it has: {', '.join(columns)}")
    yield from records


_Records = tuple[list[str] | None, Iterable[dict[str, Any]]]


def _parquet_records(stream: BinaryIO, _name: str) -> _Records:
    file = pq.ParquetFile(stream)
    rows = (row for batch in file.iter_batches(batch_size=BATCH_ROWS) for row in batch.to_pylist())
    return list(file.schema_arrow.names), rows


def _csv_records(stream: BinaryIO, name: str) -> _Records:
    lines = csv.reader(io.TextIOWrapper(io.BufferedReader(cast(io.RawIOBase, stream)), "utf-8-sig", newline=""))
    header = [column.strip() for column in next(lines, [])]
    if not header:
        raise ConfigError(f"{name} is empty: it needs a header line with a column 'url'")

    def rows() -> Iterator[dict[str, Any]]:
        for number, fields in enumerate(filter(None, lines), start=1):
            if len(fields) > len(header):
                raise ConfigError(f"{name}, row {number}: {len(fields)} fields under {len(header)} columns")
            yield dict(zip(header, fields, strict=False))

    return header, rows()


def _json_records(stream: BinaryIO, name: str) -> _Records:
    lines = io.TextIOWrapper(io.BufferedReader(cast(io.RawIOBase, stream)), "utf-8-sig")

    def rows() -> Iterator[dict[str, Any]]:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{name}, line {number} is not JSON: {error}") from None
            if not isinstance(record, dict):
                raise ConfigError(f"{name}, line {number} is not a JSON object")
            yield record

    records = rows()
    first = next(records, None)
    if first is None:
        return None, ()
    return list(first), _chained(first, records)


def _chained(first: dict[str, Any], rest: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield first
    yield from rest


# --- one row --------------------------------------------------------------------------------------------------------


def _row(record: dict[str, Any], manifest: str, times_column: str | None) -> Row:
    url = record.get("url")
    if not isinstance(url, str) or not url.strip():
        raise ValueError(f"url: {url!r} is not a URL or path")
    member = record.get("member") or None
    if member is not None and not isinstance(member, str):
        raise ValueError(f"member: {member!r} is not a name")
    try:
        f"{url}{member}".encode()
    except UnicodeEncodeError:
        raise ValueError(f"{url!r} is not valid Unicode") from None
    times = None if times_column is None else _times(record.get(times_column), times_column)
    taken = {"url", "member", times_column}
    metadata = {str(column): value for column, value in record.items() if column not in taken}
    return Row(_resolve(url.strip(), manifest), member, times, metadata)


def _resolve(url: str, manifest: str) -> str:
    """The url itself when it is absolute, else next to the manifest."""
    if "://" in url or url.startswith(("/", "~")):
        return url
    base = storage.normalise(manifest)
    if base.startswith(("http://", "https://")):
        return urljoin(base, url)
    scheme, _, path = base.partition("://")
    folder = path.rpartition("/")[0]
    top = "" if scheme == "file" else folder.partition("/")[0]  # `..` does not lead out of a bucket
    return f"{scheme}://{top}" + posixpath.normpath(f"{folder.removeprefix(top)}/{url}")


def _times(value: Any, column: str) -> list[float]:
    """Seconds from a list, a number, or text such as `[0.5, 2]` or `0.5;2`; nothing gives no times."""
    given: Any = value
    try:
        if isinstance(value, str):
            text = value.strip()
            parts: Any = json.loads(text) if text.startswith("[") else text.replace(";", ",").split(",")
            given = [part for part in parts if part != ""]
        elif value is None:
            given = []
        elif isinstance(value, int | float):
            given = [value]
        times = sorted({float(each) for each in given})
        if not all(map(math.isfinite, times)):
            raise ValueError
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"{column}: {value!r} is not a list of seconds") from None
    return times
