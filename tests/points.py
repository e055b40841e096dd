"""The crash points of the publish protocol: a name in; out, a process that dies (or stands still) just there.

    python -c "import points; points.die_at('publish frames', 'after'); from vidbatch.cli import main; main()" label ...

Every write of a run has one of these names; they are those of the docstrings of vidbatch/publish.py and enhancing.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from typing import Any, Literal

from vidbatch import storage

Moment = Literal["before", "midway", "after"]
"""`midway`: of a write of several files, half of them."""

_PLACES = {
    "probe": r"(put_if|delete) .*/_probe-\w+",
    "layout": r"put_if .*/_runs/layout\.json",
    "record": r"put .*/_runs/[^/]+\.json",
    "shard index": r"put .*/_shards/[^/]+\.parquet",
    "stage frames": r"put .*/staged/[^/]+/[^/]+\.frames\.parquet",
    "stage videos": r"put .*/staged/[^/]+/[^/]+\.videos\.parquet",
    "publish frames": r"put_if .*/frames/.*bucket=\d+\.parquet",
    "publish videos": r"put_if .*/videos/.*bucket=\d+\.parquet",
    "discard videos": r"delete .*/staged/[^/]+/[^/]+\.videos\.parquet",
    "discard frames": r"delete .*/staged/[^/]+/[^/]+\.frames\.parquet",
}
POINTS = tuple(_PLACES)
"""Those of `label`."""
_PLACES_OF_ENHANCE = {
    "stage enhanced": r"put .*/staged/[^/]+/[^/]+\.enhanced\.parquet",
    "publish enhanced": r"put_if .*/enhanced/.*bucket=\d+\.parquet",
    "discard enhanced": r"delete .*/staged/[^/]+/[^/]+\.enhanced\.parquet",
    "discard clips": r"delete .*/_clips/.*",
}
"""Those of `enhance` that its driver comes to, beside probe, layout and record (see vidbatch/enhancing/__init__.py)."""
POINTS_OF_ENHANCE = tuple(_PLACES_OF_ENHANCE)


def name_of(write: str, url: str) -> str:
    """The name of a write: `write` is put, put_if or delete."""
    for name, pattern in (_PLACES | _PLACES_OF_ENHANCE).items():
        if re.fullmatch(pattern, f"{write} {url}"):
            return name
    raise AssertionError(f"{write} {url} has no name in points.py")


def watch_writes(at: Callable[[str, Moment], None]) -> None:
    """Let `at(name, moment)` be called around every write of this process."""
    for write in ("put", "put_if", "delete"):
        setattr(storage, write, _watched(write, getattr(storage, write), at))


def _watched(write: str, real: Callable[..., Any], at: Callable[[str, Moment], None]) -> Callable[..., Any]:
    def call(target: Any, *arguments: Any, **options: Any) -> Any:
        urls = target if isinstance(target, list) else [target]
        if not urls:
            return real(target, *arguments, **options)
        name = name_of(write, urls[0])
        at(name, "before")
        if len(urls) > 1:
            real(urls[: len(urls) // 2])
            at(name, "midway")
            urls = urls[len(urls) // 2 :]
        answer = real(urls if isinstance(target, list) else target, *arguments, **options)
        at(name, "after")
        return answer

    return call


def die_at(name: str, moment: Moment, by: int = signal.SIGKILL) -> None:
    """Let this process die at the first write of that name, by a real signal; by SIGSTOP it stands still there."""
    struck = False

    def at(reached: str, when: Moment) -> None:
        nonlocal struck
        if (reached, when) == (name, moment) and not struck:
            struck = True
            os.kill(os.getpid(), by)

    watch_writes(at)


def die_at_step(number: int) -> list[tuple[str, Moment]]:
    """Let this process die at the so manieth moment, whatever its name; gives the list of moments that it fills."""
    reached: list[tuple[str, Moment]] = []

    def at(name: str, moment: Moment) -> None:
        if len(reached) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        reached.append((name, moment))

    watch_writes(at)
    return reached
