"""What came of clips goes in, in any order; rows of whole videos come out, as staged parts of `enhanced`.

A video of one clip is complete with it. Of one of several the clips are held until the last one is there; then they
are joined, elsewhere, and come back as one.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Final

import pyarrow as pa

from vidbatch import schema, storage
from vidbatch.decode import Clip
from vidbatch.enhancing.types import Facts, Trial, added_trials
from vidbatch.errors import TRANSIENT_KINDS
from vidbatch.sink import Done

_KEEPS_THE_REST: Final = frozenset({"corrupt", "truncated", "bounds"})
"""Damage of one clip that leaves the others as they are; any other failure of a clip is one of its video."""
_IDENTITY: Final = tuple(column.name for column in schema.IDENTITY)
_HEADER: Final = tuple(column.name for column in schema.HEADER)

Row = dict[str, Any]
Join = tuple[list[Clip], list[str]]
"""The clips of one video and their facts as JSON, in order: what `worker.join` takes."""


@dataclass(slots=True)
class Totals(Done):
    """What a run has enhanced so far; seconds are summed over workers."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    written_bytes: int = 0

    def stages(self) -> dict[str, dict[str, float]]:
        """Busy seconds, frames and bytes of every stage, for the run record."""
        busy = {name: round(seconds, 3) for name, seconds in self.seconds.items()}
        return {
            "decode": {"busy_seconds": busy.get("decode", 0.0), "frames": self.frames_decoded,
                       "read_bytes": self.read_bytes},
            "enhance": {"busy_seconds": busy.get("enhance", 0.0), "frames": self.frames},
            "encode": {"busy_seconds": busy.get("encode", 0.0), "frames": self.frames},
            "write": {"busy_seconds": busy.get("write", 0.0), "written_bytes": self.written_bytes},
        }  # fmt: skip


class EnhancedVideos:
    """Gathers clips to videos, and stages the rows of those that are finished.

    Args: `stage(partition, number, rows)` makes one part durable, at least every `stage_seconds`; `forget(clips)`
    removes what was kept of clips whose videos' rows are staged.
    """

    def __init__(
        self, *, steps: str, provenance: dict[str, str | None], stage_seconds: float,
        partition_of: Callable[[str, date], str], stage: Callable[[str, int, pa.Table], str],
        forget: Callable[[list[Clip]], None],
    ) -> None:  # fmt: skip
        self._steps = steps
        self._provenance = provenance
        self._stage_seconds = stage_seconds
        self._partition_of = partition_of
        self._stage = stage
        self._forget = forget
        self._open: dict[str, dict[int, tuple[Clip, str]]] = {}
        self._rows: list[Row] = []
        self._joined: list[Clip] = []
        self._staged_at = time.monotonic()
        self.totals = Totals()
        self.parts: list[str] = []

    def add(self, table: pa.Table) -> list[Join]:
        """Take an ENHANCED_CLIPS table; what is now to be joined is given back."""
        joins: list[Join] = []
        for row in table.to_pylist():
            clip = row["clip"]
            if clip["num_clips"] == 1:
                self.finish([clip], Facts.from_dict(json.loads(row["facts"])))
                continue
            clips = self._open.setdefault(clip["video_id"], {})
            if clip["clip_index"] not in clips:
                self._count(Facts.from_dict(json.loads(row["facts"])))
            clips[clip["clip_index"]] = (clip, row["facts"])  # a task that is repeated gives the same again
            if len(clips) == clip["num_clips"]:
                ordered = [clips[index] for index in sorted(clips)]
                del self._open[clip["video_id"]]
                joins += self._joinable([clip for clip, _ in ordered], [facts for _, facts in ordered])
        return joins

    def _joinable(self, clips: list[Clip], facts: list[str]) -> list[Join]:
        """The video, if it can be joined; if not, it is finished."""
        parts = [Facts.from_dict(json.loads(text)) for text in facts]
        fatal = next((p for p in parts if p.error_kind is not None and p.error_kind not in _KEEPS_THE_REST), None)
        if fatal is None and any(part.num_frames for part in parts):
            return [(clips, facts)]
        whole = Facts()
        for part in parts:
            whole.add(part)
        if fatal is not None:
            whole.error_kind, whole.error_message = fatal.error_kind, fatal.error_message
        if whole.error_kind is None:
            whole.error_kind, whole.error_message = "no_video_stream", "no frame to encode"
        whole.num_frames = 0
        self.finish(clips, whole)
        return []

    def finish(self, clips: list[Clip], facts: Facts) -> None:
        """Take what there is to say of a whole video."""
        row = self._row(clips[0], facts)
        self._rows.append(row)
        if len(clips) > 1 and facts.error_kind not in TRANSIENT_KINDS:  # else a rerun need not enhance them again
            self._joined += clips
        totals = self.totals
        if len(clips) == 1:
            self._count(facts)
        totals.seconds["write"] += facts.write_seconds
        totals.written_bytes += row["output_size_bytes"] or 0
        totals.add_video(clips[0], row["status"], facts.error_kind, facts.error_message)

    def _count(self, facts: Facts) -> None:
        """Count what was done for a clip; a long video shall not look like one that stands still."""
        totals = self.totals
        totals.frames += facts.num_frames
        totals.frames_decoded += facts.num_frames_decoded
        totals.read_bytes += facts.read_bytes
        for name in ("decode", "enhance", "encode"):
            totals.seconds[name] += getattr(facts, f"{name}_seconds")

    def flush_if_due(self) -> None:
        """Stage what is finished when it is time."""
        if self._rows and time.monotonic() - self._staged_at >= self._stage_seconds:
            self.flush()

    def flush(self) -> None:
        """Stage every finished video; the others are left for the next run."""
        today = datetime.now(UTC).date()
        groups: dict[str, list[Row]] = {}
        for row in self._rows:
            groups.setdefault(self._partition_of(row["video_id"], today), []).append(row)
        for partition, rows in groups.items():
            table = pa.Table.from_pylist(rows, schema=schema.ENHANCED)
            self.parts.append(self._stage(partition, len(self.parts), table))
        joined, self._rows, self._joined = self._joined, [], []
        self._staged_at = time.monotonic()
        self._forget(joined)

    def _row(self, clip: Clip, facts: Facts) -> Row:
        status = "ok" if facts.error_kind is None else "partial" if facts.num_frames else "failed"
        row: Row = {
            **{name: clip[name] for name in _IDENTITY},
            **{name: facts.header.get(name) for name in _HEADER},
            **self._provenance,
            **{name: getattr(facts, name) for name in (
                "error_kind", "error_message", "num_frames_decoded", "num_frames", "decode_seconds", "enhance_seconds",
                "encode_seconds", "write_seconds", "changes",
            )},
            "status": status,
            "steps": self._steps,
            "num_frames_interpolated": facts.num_interpolated,
            "num_frames_measured": facts.num_measured,
            "finished_at": datetime.now(UTC),
        }  # fmt: skip
        if not facts.num_frames:
            return row | {"num_frames": 0, "num_frames_interpolated": 0, "output_size_bytes": None}
        assert facts.picture is not None
        seconds = (facts.end_seconds or 0.0) - (facts.first_seconds or 0.0)
        row |= {
            "output_url": storage.redact(facts.file["url"]),
            "output_codec": facts.file["codec"],
            "output_width": facts.picture.width,
            "output_height": facts.picture.height,
            "output_pixel_format": facts.picture.pixel_format,
            "output_heights": facts.file.get("heights"),
            "output_size_bytes": facts.file["size_bytes"],
            "output_crf": facts.crf_of_frames / facts.num_frames if facts.trials else None,
            "rate_quality": _curve(facts.trials) if facts.trials else None,
            "output_duration_seconds": seconds,
            "output_frame_rate": facts.num_frames / seconds if seconds > 0 else None,
            "output_bit_rate": 8 * facts.file["size_bytes"] / seconds if seconds > 0 else None,
            "contact_sheet_url": facts.file.get("sheet_url"),
        }
        if number := facts.num_measured:
            power = facts.error_power / number
            row |= {"psnr_db": -10 * math.log10(power) if power > 0 else math.inf, "ssim": facts.ssim / number}
            for name in ("sharpness_before", "sharpness_after", "noise_before", "noise_after"):
                row[name] = getattr(facts, name) / number
        return row


def _curve(trials: list[list[float]]) -> list[dict[str, float]]:
    """Points of schema.RATE_QUALITY, of trials of all clips."""
    return [
        {"crf": trial.crf, "bit_rate": 8 * trial.size_bytes / trial.seconds, "xpsnr_db": trial.xpsnr_db}
        for trial in added_trials([Trial(*values) for values in trials])
        if trial.seconds > 0
    ]
