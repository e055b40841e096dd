"""What a run has done so far in; Ray's metrics out, which every node of a cluster offers to Prometheus.

    ray_vidbatch_videos_total{status}          ok, partial, failed
    ray_vidbatch_failures_total{kind}          by error kind
    ray_vidbatch_frames_total{what}            decoded, and kept (labelled, or enhanced)
    ray_vidbatch_read_bytes_total
    ray_vidbatch_stage_seconds_total{stage, kind}    cpu and busy seconds of all actors of a stage

All of them carry `run_id`. They come from the driver, as the run record does, and start at 0 with each run; how much
waits between stages Ray Data says itself (ray_data_*). cluster/grafana.json draws both.
"""

from __future__ import annotations

import time
from typing import Any, Final

from vidbatch.metrics import Counts

_EVERY_SECONDS: Final = 2.0


class Exported:
    """The counters of one run. Ray must be running."""

    def __init__(self, run_id: str) -> None:
        from ray.util.metrics import Counter

        def counter(name: str, about: str, *tags: str) -> Any:
            made = Counter(f"vidbatch_{name}", description=about, tag_keys=("run_id", *tags))
            made.set_default_tags({"run_id": run_id})
            return made

        self._counters = {
            "videos": counter("videos", "Finished videos.", "status"),
            "failures": counter("failures", "Videos that failed, whole or in part.", "kind"),
            "frames": counter("frames", "Frames that were decoded, and that were kept.", "what"),
            "read_bytes": counter("read_bytes", "Bytes read from storage."),
            "stage_seconds": counter("stage_seconds", "Seconds of all actors of a stage.", "stage", "kind"),
        }
        self._told: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._at = 0.0

    def update(self, totals: Counts, *, at_once: bool = False) -> None:
        """Count what has come since the last time, if it is time to."""
        now = time.monotonic()
        if not at_once and now - self._at < _EVERY_SECONDS:
            return
        self._at = now
        for status, count in totals.by_status.items():
            self._tell("videos", count, status=status)
        for kind, count in totals.by_error_kind.items():
            self._tell("failures", count, kind=kind)
        self._tell("frames", totals.frames_decoded, what="decoded")
        self._tell("frames", totals.frames, what="kept")
        self._tell("read_bytes", totals.read_bytes)
        for stage, values in totals.stages().items():
            for kind in ("cpu", "busy"):
                if f"{kind}_seconds" in values:
                    self._tell("stage_seconds", values[f"{kind}_seconds"], stage=stage, kind=kind)

    def _tell(self, name: str, value: float, **tags: str) -> None:
        key = name, tuple(sorted(tags.items()))
        more = value - self._told.get(key, 0.0)
        if more > 0:
            self._counters[name].inc(more, tags=tags)
            self._told[key] = value
