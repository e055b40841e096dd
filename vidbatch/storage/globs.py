"""Glob patterns over paths with `/`: which names match, which folders need not be entered.

In: a pattern such as `videos/2024-*/**/*.mp4`. Out: its literal start, and two tests on paths.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from fsspec.utils import glob_translate

_MAGIC = re.compile(r"[*?\[]")


def has_magic(path: str) -> bool:
    """Whether a path holds any of `*`, `?` and `[`."""
    return _MAGIC.search(path) is not None


class Glob:
    """One pattern; a folder that matches stands for everything below it, as it does when a shell expands it.

    `*` and `?` stay inside one path segment; `**` crosses them; `[ab]`, `[!ab]` are sets. Raises ValueError for a `**`
    that is only a part of a segment.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern.rstrip("/")
        literal = _MAGIC.split(self.pattern, maxsplit=1)[0]
        self.prefix = literal
        """Every match starts with these characters."""
        self.folder = literal.rpartition("/")[0]
        """The deepest folder that holds every match; '' for the top."""
        head = self.pattern.partition("**")[0]
        self._segments = self.pattern.split("/") if head == self.pattern else head.split("/")[:-1]
        self._match = re.compile(glob_translate(self.pattern)).match
        self._match_below = re.compile(glob_translate(self.pattern + "/**")).match

    def matches(self, path: str) -> bool:
        """Whether this file is meant: it matches, or a folder above it does."""
        return self._match(path) is not None or self._match_below(path) is not None

    def may_hold_matches(self, folder: str) -> bool:
        """False when nothing below this folder can match, so that listing need not enter it."""
        pairs = zip(folder.split("/"), self._segments, strict=False)
        return all(_segment(wanted)(name) is not None for name, wanted in pairs)


@lru_cache(maxsize=256)
def _segment(pattern: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(glob_translate(pattern)).match
