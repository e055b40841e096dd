"""What libav says about a video in; the line that tells what is wrong with it out."""

from __future__ import annotations

from typing import Any

import av
import av.logging


class Log:
    """The tail of what libav had to say about one video; a context manager that listens."""

    def __init__(self) -> None:
        self._capture = av.logging.Capture()
        self._level_before: int | None = None
        self._lines: list[tuple[int, str, str]] = []
        self._num_asked_for = 0

    def __enter__(self) -> Log:
        self._level_before = av.logging.get_level()
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)
        self._lines = self._capture.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._capture.__exit__(*error)
        av.logging.set_level(self._level_before)

    def latest(self) -> str | None:
        """The first line of the latest trouble, as "h264: error while decoding MB 3 4"; what follows is its echo."""
        if not self._lines:
            return None
        _, component, text = self._lines[min(self._num_asked_for, len(self._lines) - 1)]
        return f"{component}: {text.strip()}" if component else text.strip()

    def new_errors_of(self, name: str) -> list[str]:
        """Error lines since the last time of asking that came from the component of this name."""
        if len(self._lines) == self._num_asked_for:
            return []
        new = self._lines[self._num_asked_for :]
        self._lines[:] = new[:1]  # a broken file can log without end
        self._num_asked_for = 1
        return [text.strip() for _, component, text in new if component == name]
