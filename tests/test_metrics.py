"""Run records and progress: what they show, and what they never do."""

from __future__ import annotations

import io
import json
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from vidbatch.config import load_config
from vidbatch.errors import StorageError
from vidbatch.metrics import Progress, at_work, new_record, read_records


def test_a_record_holds_no_password_and_no_signature_wherever_a_url_may_stand() -> None:
    url = "https://user:canary-1@host/w.pth?X-Amz-Signature=canary-2"
    config = load_config({"inputs": [url, "videos"], "output": "out", "model": f"resnet50@{url}"})
    record = json.dumps(asdict(new_record("run", config, model=config.model, config_digest="0")))
    assert "canary" not in record
    assert record.count("https://host/w.pth") == 3


def test_runs_at_work_are_those_whose_record_was_refreshed_lately(tmp_path: Path) -> None:
    config = load_config({"inputs": "videos", "output": tmp_path})
    for name, state in (("a", "running"), ("b", "running"), ("c", "finished"), ("d", "running")):
        record = new_record(name, config, model=config.model, config_digest="0")
        record.state = state
        record.save(str(tmp_path))
    assert at_work(str(tmp_path)) == ["a", "b", "d"]
    file = tmp_path / "_runs" / "b.json"
    content = json.loads(file.read_text())
    content["updated_at"] = "2026-01-01T00:00:00+00:00"
    file.write_text(json.dumps(content))
    assert at_work(str(tmp_path)) == ["a", "d"]
    assert [found["run_id"] for found in read_records(str(tmp_path), newest=2)] == ["c", "d"]
    assert [found["run_id"] for found in read_records(str(tmp_path))] == ["a", "b", "c", "d"]


def test_a_count_that_fails_leaves_the_total_unknown_and_the_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run itself will meet the same failure, and say it in a sentence."""
    shown: list[object] = []
    monkeypatch.setattr(threading, "excepthook", shown.append)

    def fail() -> int:
        raise StorageError("input 's3://bucket/videos' cannot be listed: SlowDown")

    progress = Progress(io.StringIO(), enabled=True)
    before = set(threading.enumerate())
    progress.count_in_background(fail)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert shown == []
    assert progress._total is None
