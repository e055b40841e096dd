"""What Prometheus is told of a run, by a real Ray, and that the dashboard asks for what there is."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

import vidbatch
from vidbatch.stamp import make_stamp_bundle
from vidbatch.testing import make_video

DASHBOARD = Path(__file__).resolve().parent.parent / "cluster" / "grafana.json"
PATIENCE_SECONDS = 60
"""Ray tells its agent every few seconds."""

pytestmark = pytest.mark.usefixtures("local_ray")


def scraped(is_enough: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """Samples by name and labels, as the node's endpoint has them, once they are enough or time is over."""
    port = ray.nodes()[0]["MetricsExportPort"]
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
        samples = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
        if is_enough(samples) or time.monotonic() > until:
            return samples
        time.sleep(1)


def value(samples: dict[str, float], name: str, **labels: str) -> float:
    """The sum of all samples of a name that have these labels."""
    wanted = [f'{key}="{text}"' for key, text in labels.items()]
    found = [number for sample, number in samples.items()
             if sample.partition("{")[0] == name and all(label in sample for label in wanted)]  # fmt: skip
    return sum(found)


def test_prometheus_is_told_what_a_run_did_and_the_dashboard_asks_for_no_more(tmp_path: Path) -> None:
    make_stamp_bundle(tmp_path / "model", num_classes=8)
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(1, 4):
        make_video(videos / f"{number}.mp4", num_frames=20, fps=10, video_number=number)
    (videos / "4.mp4").write_bytes(b"no video")
    result = vidbatch.label(
        videos, output=tmp_path / "tables", model=f"file:{tmp_path / 'model'}", sampling="all", max_failed_share=1.0
    )
    run = result.record.run_id
    samples = scraped(lambda found: value(found, "ray_vidbatch_frames_total", run_id=run, what="kept") == 60)
    assert value(samples, "ray_vidbatch_videos_total", run_id=run, status="ok") == 3
    assert value(samples, "ray_vidbatch_videos_total", run_id=run, status="failed") == 1
    assert value(samples, "ray_vidbatch_failures_total", run_id=run, kind="not_a_video") == 1
    assert value(samples, "ray_vidbatch_frames_total", run_id=run, what="kept") == 60
    assert value(samples, "ray_vidbatch_frames_total", run_id=run, what="decoded") >= 60
    assert value(samples, "ray_vidbatch_read_bytes_total", run_id=run) > 1000
    stages = result.record.stages
    for stage in ("decode", "classify"):
        told = value(samples, "ray_vidbatch_stage_seconds_total", run_id=run, stage=stage, kind="cpu")
        assert told == pytest.approx(stages[stage]["cpu_seconds"], rel=1e-3)
    names = {sample.partition("{")[0] for sample in samples}
    asked = set(re.findall(r"ray_\w+", json.dumps(json.loads(DASHBOARD.read_text())["panels"])))
    assert len(asked) >= 10
    assert asked <= names
