"""Killed at any moment and run again, the tables are those of one clean run, row for row."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from runs import command, fill, rows
from servers import MotoServer

import vidbatch
from vidbatch.metrics import read_records
from vidbatch.publish import staged_parts

NUM_VIDEOS = 24


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short and long videos (the long ones are cut into clips), a bad one, a model, settings that stage at once."""
    folder = tmp_path_factory.mktemp("resume")
    fill(folder, NUM_VIDEOS)
    return folder


@pytest.fixture(scope="module")
def clean(place: Path, local_ray: None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The tables of one run that nobody disturbed."""
    settings = place / "settings.yaml"
    from vidbatch.config import load_config
    from vidbatch.pipeline import label

    label(load_config({"output": place / "clean"}, settings))
    videos, frames = rows(place / "clean")
    assert len(videos) == NUM_VIDEOS + 1
    assert len(frames) == sum((240 if n % 6 == 0 else 60) // 2 for n in range(NUM_VIDEOS))
    return videos, frames


@pytest.mark.parametrize("num_kills", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_driver_killed_again_and_again_loses_and_doubles_nothing_and_no_finished_video_is_done_again(
    place: Path, clean: Any, num_kills: int
) -> None:
    output, moments = place / f"driver-{num_kills}", random.Random(3)
    for attempt in range(num_kills):
        before, deadline = staged(output), time.monotonic() + 100
        process = subprocess.Popen(command(place, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(staged(output) - before) <= attempt and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(moments.random() / 2)
        assert process.poll() is None
        process.kill()
        process.wait()
        videos, _ = rows(output)
        assert len({v["video_id"] for v in videos}) == len(videos)
    finished = {v["video_id"] for v in videos} | {
        name for file in staged(output) for name in pq.read_table(file)["video_id"].to_pylist()
    }
    assert 0 < len(finished) <= NUM_VIDEOS + 1
    from vidbatch.config import load_config
    from vidbatch.pipeline import label

    result = label(load_config({"output": output}, place / "settings.yaml"))
    assert result.record.recovered_parts >= 1
    assert result.record.videos == NUM_VIDEOS + 1 - len(finished)
    assert rows(output) == clean
    assert not list(output.glob("_runs/*/staged/*/*.parquet"))
    assert vidbatch.tables(output).videos.to_arrow().num_rows == NUM_VIDEOS + 1


def staged(output: Path) -> set[Path]:
    return set(output.glob("_runs/*/staged/*/*.videos.parquet"))


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize("victim", [pytest.param("actor", marks=pytest.mark.long), "child"])
def test_a_killed_decode_worker_costs_nothing_but_time(place: Path, clean: Any, victim: str) -> None:
    """The run is a process of its own; its decode workers are killed while it works."""
    output = place / f"worker-{victim}"
    process = subprocess.Popen(command(place, output), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    struck: set[int] = set()  # actors: one clip is tried twice only, and may be hit by two kills of one actor's child
    deadline = time.monotonic() + 150
    while process.poll() is None and len(struck) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
        children = [c for c in psutil.Process(process.pid).children(recursive=True)
                    if "vidbatch.decoding.isolation" in " ".join(_words(c))]  # fmt: skip
        if not list(output.glob("_runs/*/staged/*/*.videos.parquet")):
            continue
        for child in children:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                parent = child.parent()
                if parent is None or parent.pid in {process.pid, *struck}:
                    continue
                os.kill(parent.pid if victim == "actor" else child.pid, signal.SIGKILL)
                struck.add(parent.pid)
                time.sleep(1.5)
                break
    _, words = process.communicate(timeout=200)
    assert process.returncode == 0, words
    assert struck
    assert rows(output) == clean


@pytest.mark.long
@pytest.mark.parametrize("where", ["folder", "s3"])
def test_the_same_command_twice_at_once_gives_each_video_one_row(
    place: Path, clean: Any, moto_s3: MotoServer, where: str
) -> None:
    output = str(place / "twice") if where == "folder" else f"{moto_s3()}/twice"
    began = time.monotonic()
    runs = []
    for _ in range(2):
        command_line = [*command(place, Path("unused"))[:-1], output]
        runs.append(subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        while not read_records(output) and time.monotonic() < began + 60:
            time.sleep(0.05)
    said = [run.communicate(timeout=200) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert f"{NUM_VIDEOS + 1} videos" in said[0][0], said
    assert "videos" in said[1][0], said
    records = read_records(output)
    assert ["is at work over this output" in shown for _, shown in said] == [False, True], said
    assert f"run {records[0]['run_id']} is at work" in said[1][1]
    assert rows(output) == clean
    assert staged_parts(output) == []
    assert {record["state"] for record in records} == {"finished"}
    assert records[0]["frames"] == len(clean[1])
    # The second did all that the first had not staged yet when it began.
    assert sum(record["frames"] for record in records[1:]) <= len(clean[1])
