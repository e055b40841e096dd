"""What a run has to say in; lines of JSON out, for whatever gathers the logs of many runs.

Every line has `time` (UTC), `level`, `event`, `run_id` and `message`; one about a video its `video_id` and `url`, too.

    event     level             and
    started   info
    note      info              what is going on before the first video is done
    progress  info              videos, total (once it is known), frames, read_bytes, failed, seconds: every few seconds
    video     debug             video_id, url, member, status ("ok")
              warning           of one that failed, whole or in part: error_kind, error_message as well
    warning   warning           what the user should know of: a busy model, a changed cluster
    ended     info or error     state, videos, frames, by_status, by_error_kind, wall_seconds
    error     error             why the command did not do what was asked
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO, get_args

from vidbatch import storage
from vidbatch.metrics import LINE_SECONDS, Counts, Progress, RunRecord

Level = Literal["debug", "info", "warning", "error"]
_LEVELS: Final = get_args(Level)


class JsonLog(Progress):
    """Progress as lines of JSON. Text in them is redacted: no password and no signature of a URL.

    Args: lines below `level` are left out.
    """

    def __init__(self, stream: TextIO | None = None, *, level: Level = "info") -> None:
        super().__init__(stream, enabled=False)
        self._enabled = True  # but without a live line, also on a terminal
        self._least = _LEVELS.index(level)
        self._run_id: str | None = None

    def say(self, level: Level, event: str, message: str, **fields: Any) -> None:
        """Write a line, if its level is to be seen."""
        if _LEVELS.index(level) < self._least:
            return
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "level": level,
            "event": event,
            "run_id": self._run_id,
            **fields,
            "message": message,
        }
        shown = {name: storage.redact(value) if isinstance(value, str) else value for name, value in line.items()}
        self._stream.write(json.dumps(shown) + "\n")
        self._stream.flush()

    def started(self, record: RunRecord) -> None:
        """A run has begun: its id is on all lines from here on."""
        self._run_id = record.run_id
        self.say("info", "started", f"run {record.run_id} with {record.model}", config_digest=record.config_digest)

    def note(self, text: str) -> None:
        """Say what is going on before the first video is done."""
        self.say("info", "note", text)

    def warn(self, text: str) -> None:
        """Say what the user should know of."""
        self.say("warning", "warning", text)

    def result(self, text: str) -> None:
        """Say what has come out so far."""
        self.say("info", "progress", text)

    def tell(self, text: str) -> None:
        """Say how far it is, if it is time to."""
        if self._is_due():
            self.say("info", "progress", text)

    def update(self, totals: Counts) -> None:
        """Say the totals, if it is time to."""
        if self._is_due():
            self._totals(totals)

    def video(self, identity: dict[str, Any], status: str, kind: str | None, message: str | None) -> None:
        """A video is finished."""
        named = {name: identity[name] for name in ("video_id", "url", "member")}
        where = identity["url"] + (f" {identity['member']}" if identity["member"] else "")
        if kind is None:
            self.say("debug", "video", f"{where}: {status}", **named, status=status)
        else:
            self.say("warning", "video", f"{where}: {status}, {kind}: {message}", **named, status=status,
                     error_kind=kind, error_message=message)  # fmt: skip

    def close(self, totals: Counts | None = None) -> None:
        """Say the last totals."""
        if totals is not None:
            self._totals(totals)

    def ended(self, record: RunRecord) -> None:
        """The run is over, however it ended."""
        names = ("state", "videos", "frames", "by_status", "by_error_kind", "wall_seconds")
        level: Level = "info" if record.state in ("finished", "nothing_to_do") else "error"
        text = f"{record.state}: {record.message}" if record.message else record.state
        self.say(level, "ended", text, **{name: getattr(record, name) for name in names})

    def _is_due(self) -> bool:
        now = time.monotonic()
        is_due = now - self._last_line >= LINE_SECONDS
        if is_due:
            self._last_line = now
        return is_due

    def _totals(self, totals: Counts) -> None:
        self.say("info", "progress", self._line(totals), videos=totals.videos, total=self._total, frames=totals.frames,
                 read_bytes=totals.read_bytes, failed=totals.by_status["failed"],
                 seconds=round(time.monotonic() - self._started, 1))  # fmt: skip
