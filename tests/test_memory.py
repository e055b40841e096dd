"""Memory that runs short costs time and no row: frames wait outside a full object store, lost workers are replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from runs import fill, rows

from vidbatch.stamp import make_stamp_bundle
from vidbatch.testing import make_video

OWN_RAY = [sys.executable, str(Path(__file__).parent / "own_ray.py")]
MIB, GIB = 2**20, 2**30
STORE_MB = 100


def start(settings: Path, output: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    command = [*OWN_RAY, str(settings), str(output), *options]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, **environment}, **pipes)


def report_of(process: subprocess.Popen[str], output: Path, timeout: float) -> dict[str, Any]:
    """What the run said at its end."""
    try:
        _, words = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0, words
    found: dict[str, Any] = json.loads(Path(f"{output}.json").read_text())
    return found


@pytest.mark.long
def test_frames_of_several_object_stores_wait_for_a_slow_model_without_being_spilled(tmp_path: Path) -> None:
    num_videos, num_frames = 8, 300
    (tmp_path / "archive").mkdir()
    for number in range(num_videos):
        path = tmp_path / "archive" / f"video-{number:02d}.mp4"
        make_video(path, num_frames=num_frames, width=96, height=96, gop=100, video_number=number)
    make_stamp_bundle(tmp_path / "model", num_classes=num_videos)
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"inputs: [{tmp_path / 'archive'}]\nmodel: file:{tmp_path / 'model'}\nsampling: all\n")
    options = ("--store-mb", str(STORE_MB), "--seconds-a-call", "0.2")
    report = report_of(start(settings, tmp_path / "out", *options), tmp_path / "out", timeout=200)
    assert num_videos * num_frames * 224 * 224 * 3 > 3 * STORE_MB * MIB
    assert report["spilled_bytes"] == 0
    assert report["lost_workers"] == []
    assert report["restarted_actors"] == 0
    videos, frames = rows(tmp_path / "out")
    assert (report["videos"], report["frames"]) == (len(videos), len(frames)) == (num_videos, num_videos * num_frames)
    assert all(row["label"] == f"video_{int(row['url'][-6:-4])}" for row in videos + frames)


def used_and_total_bytes() -> tuple[int, int]:
    """Memory of this node as Ray counts it; of its two ways to count, the one that finds more in use."""
    from ray._common.utils import get_system_memory
    from ray._private.utils import get_used_memory

    memory = psutil.virtual_memory()
    return max(get_used_memory(), memory.total - memory.available), get_system_memory()


BALLOON = """
import sys, time
step, most, seconds_between = 128 * 2**20, int(sys.argv[1]), 0.05
held = []
while len(held) * step < most:
    held.append(bytearray(b"x") * step)
    time.sleep(seconds_between)
time.sleep(1000)
"""


@contextmanager
def balloon(most_bytes: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that takes memory until it is told to stop, or has so much."""
    process = subprocess.Popen([sys.executable, "-c", BALLOON, str(most_bytes)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(condition: Any, process: subprocess.Popen[str], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


@pytest.mark.long
@pytest.mark.timeout(600)
def test_workers_that_ray_kills_for_want_of_memory_cost_no_row(tmp_path: Path) -> None:
    fill(tmp_path, 36)
    settings = tmp_path / "settings.yaml"
    clean = report_of(start(settings, tmp_path / "clean"), tmp_path / "clean", timeout=200)
    assert clean["killed_for_memory"] == 0
    used, total = used_and_total_bytes()
    if total - used < 7 * GIB:
        pytest.skip("there is too little memory to take some away")
    threshold = (used + 3 * GIB) / total
    output, killed = tmp_path / "struck", tmp_path / "killed"
    process = start(
        settings, output, "--seconds-a-call", "0.5", "--killed", str(killed),
        RAY_memory_usage_threshold=f"{threshold:.4f}", RAY_memory_monitor_refresh_ms="100",
    )  # fmt: skip
    try:
        assert wait_for(lambda: list(output.glob("_runs/*/staged/*/*.videos.parquet")), process, 100)
        with balloon(4 * GIB):
            assert wait_for(killed.exists, process, 60)
    finally:
        report = report_of(process, output, timeout=300)
    assert report["killed_for_memory"] > 0
    assert rows(output) == rows(tmp_path / "clean")
