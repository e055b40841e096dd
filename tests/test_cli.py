"""The command as people and machines use it: real processes, exit codes, words on stdout and stderr."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from runs import VIDBATCH, heed_ctrl_c

from vidbatch.stamp import make_stamp_bundle
from vidbatch.testing import make_video


def run(*arguments: object, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [VIDBATCH[0], *python, *VIDBATCH[1:], *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive of three good videos and two bad files, and a model."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "archive").mkdir()
    for number in (1, 2, 3):
        make_video(folder / "archive" / f"video-{number:02d}.mp4", num_frames=30, fps=10, video_number=number)
    (folder / "archive" / "empty.mp4").touch()
    (folder / "archive" / "words.mp4").write_text("this is not a video\n" * 1000)
    make_stamp_bundle(folder / "model", num_classes=8)
    return folder


@pytest.fixture(scope="module")
def labelled(place: Path) -> tuple[subprocess.CompletedProcess[str], list[object]]:
    arguments = ["label", place / "archive", "--output", place / "out", "--model", f"file:{place / 'model'}",
                 "--max-failed-share", 0.5]  # fmt: skip
    return run(*arguments), arguments


def test_a_run_says_what_it_did_and_exits_with_0_though_some_videos_are_bad(labelled: Any, place: Path) -> None:
    done, _ = labelled
    assert done.returncode == 0, done.stderr
    assert "5 videos" in done.stdout
    assert "1 empty" in done.stdout
    assert "1 not_a_video" in done.stdout
    assert f"{place}/out/videos" in done.stdout
    assert "videos" in done.stderr  # progress: a line every few seconds, on stderr
    assert "Traceback" not in done.stderr
    rows = pq.read_table(place / "out" / "videos").to_pylist()
    assert sorted(r["status"] for r in rows) == ["failed"] * 2 + ["ok"] * 3


def test_the_same_command_again_does_nothing_in_seconds_without_ray_and_torch(labelled: Any) -> None:
    started = time.monotonic()
    again = run(*labelled[1], python=("-X", "importtime"))
    assert time.monotonic() - started < 10
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    imported = {line.split("|")[-1].strip() for line in again.stderr.splitlines() if line.startswith("import time:")}
    assert "vidbatch.pipeline" in imported
    assert not {"ray", "torch", "av"} & imported


def test_more_failures_than_allowed_exit_with_1_and_still_publish(
    place: Path, local_ray: None, vidbatch_command: Callable[..., tuple[int, str]]
) -> None:
    arguments = [place / "archive", "--output", place / "strict", "--model", f"file:{place / 'model'}"]
    code, words = vidbatch_command("label", *arguments)
    assert code == 1
    assert "40.0% of the videos failed" in words
    assert pq.read_table(place / "strict" / "videos").num_rows == 5


def test_json_output_is_one_document_for_machines(labelled: Any, place: Path) -> None:
    done = run(*labelled[1], "--json")
    assert json.loads(done.stdout)["state"] == "nothing_to_do"
    status = run("status", place / "out", "--json")
    (record,) = json.loads(status.stdout)
    assert record["by_status"] == {"failed": 2, "ok": 3}
    assert record["by_error_kind"] == {"empty": 1, "not_a_video": 1}
    assert record["stages"]["decode"]["cpu_seconds"] > 0
    assert record["versions"]["ray"].startswith("2.")


def test_status_shows_failures_by_kind_throughput_and_stages(labelled: Any, place: Path) -> None:
    page = run("status", place / "out").stdout
    for words in ("finished", "1 empty", "1 not_a_video", "stage    decode", "stage    classify", "frames   9"):
        assert words in page
    assert labelled[0].stdout.split("run ")[1].split()[0] in run("status", place / "out", "--all").stdout


def test_a_plan_is_estimated_from_what_can_be_read(place: Path) -> None:
    names = sorted(path.name for path in (place / "archive").iterdir())
    manifest = place / "archive" / "with-missing.csv"
    manifest.write_text("url\n" + "".join(f"{name}\n" for name in names))
    try:
        only = json.loads(run("plan", manifest, "--output", place / "planned", "--json").stdout)
        gone = "".join(f"gone-{number}.mp4\n" for number in range(50))
        manifest.write_text(manifest.read_text() + gone)
        mixed = json.loads(run("plan", manifest, "--output", place / "planned", "--json").stdout)
    finally:
        manifest.unlink()
    assert mixed["unreadable"] == only["unreadable"] + 50
    assert mixed["estimated_frames"] == only["estimated_frames"] > 0


def test_plan_and_dry_run_say_what_would_be_done_and_write_nothing(place: Path) -> None:
    arguments = [place / "archive", "--output", place / "planned", "--model", f"file:{place / 'model'}"]
    plan, dry = run("plan", *arguments), run("label", *arguments, "--dry-run")
    assert plan.returncode == dry.returncode == 0, plan.stderr + dry.stderr
    assert "5 videos" in plan.stdout
    assert plan.stdout.split("cost")[0] == dry.stdout.split("cost")[0]
    assert not (place / "planned").exists()
    planned = json.loads(run("plan", *arguments, "--json").stdout)
    assert (planned["videos"], planned["already_done"]) == (5, 0)
    assert planned["estimated_frames"] > 0
    assert planned["estimated_cpu_seconds"] > 0


def test_plan_counts_only_what_is_left_to_do(labelled: Any, place: Path) -> None:
    planned = json.loads(run("plan", *labelled[1][1:], "--json").stdout)
    assert (planned["videos"], planned["already_done"]) == (0, 5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["label", "/nowhere", "--output", "out"], "/nowhere"),
        (["label", ".", "--output", "out", "--sampling", "fps=0"], "sampling: 'fps=0' is not allowed"),
        (["label", ".", "--output", "out", "--model", "resnet81"], "resnet81"),
        (["label", ".", "--output", "out", "--device", "tpu"], "'auto', 'cpu' or 'cuda'"),
        (
            ["label", ".", "--output", "out", "--top-k", "many"],
            "top_k: 'many' is not allowed: input should be a valid integer",
        ),
        (["label", "."], "output: not given"),
        (["label", "--output", "out"], "inputs: not given"),
        (["label", ".", "--output", "out", "--config", "/nowhere.yaml"], "/nowhere.yaml"),
        (["status", "/nowhere"], "holds no run record"),
        (["label", ".", "--output", "out", "--frames", "3"], "No such option"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = subprocess.run([*VIDBATCH, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def label_with(place: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A run that finds this in its environment as well."""
    arguments = ["label", place / "archive", "--output", place / "nowhere", "--model", f"file:{place / 'model'}"]
    return subprocess.run(
        [*VIDBATCH, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=200,
    )


def test_an_unreachable_cluster_is_one_sentence(place: Path) -> None:
    done = label_with(place, {"RAY_ADDRESS": "127.0.0.1:1"})
    assert done.returncode == 2, done.stderr
    assert "RAY_ADDRESS: '127.0.0.1:1' cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


def events(stderr: str) -> list[dict[str, Any]]:
    """Lines of --log-format json; in between may stand what Ray says, which is JSON too."""
    return [line for line in map(json.loads, stderr.splitlines()) if "event" in line]


def test_json_logs_tell_each_video_and_how_the_run_ended_with_their_ids(place: Path) -> None:
    arguments = ["label", place / "archive", "--output", place / "logged", "--model", f"file:{place / 'model'}",
                 "--max-failed-share", 0.5, "--log-format", "json"]  # fmt: skip
    done = run(*arguments, "--log-level", "debug")
    assert done.returncode == 0, done.stderr
    lines = events(done.stderr)
    rows = {row["video_id"]: row for row in pq.read_table(place / "logged" / "videos").to_pylist()}
    assert {(line["run_id"], line["event"]) for line in lines} >= {
        (next(iter(rows.values()))["run_id"], event) for event in ("started", "note", "progress", "video", "ended")
    }
    told = {line["video_id"]: line for line in lines if line["event"] == "video"}
    assert told.keys() == rows.keys()
    assert len(told) == sum(line["event"] == "video" for line in lines) == 5
    for video_id, row in rows.items():
        line = told[video_id]
        assert line["level"] == ("debug" if row["status"] == "ok" else "warning")
        assert [line["url"], line["status"]] == [row["url"], row["status"]]
        assert [line.get("error_kind"), line.get("error_message")] == [row["error_kind"], row["error_message"]]
    assert [(lines[-1][name]) for name in ("event", "level", "state", "videos")] == ["ended", "info", "finished", 5]
    assert lines[-1]["by_error_kind"] == {"empty": 1, "not_a_video": 1}
    again = run(*arguments)
    assert [line["event"] for line in events(again.stderr)] == ["started", "ended"]
    assert events(again.stderr)[-1]["state"] == "nothing_to_do"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--log-format", "xml"], "'xml' is not one of 'text', 'json'"),
        (["--log-format", "json", "--log-level", "all"], "'all' is not one of 'debug', 'info', 'warning', 'error'"),
        (["--log-level", "debug"], "log_level: 'debug' is not allowed without --log-format json"),
    ],
)
def test_a_way_to_log_that_there_is_not_is_one_sentence(place: Path, flags: list[str], words: str) -> None:
    done = run("label", place / "archive", "--output", place / "out", *flags)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_mistake_is_a_line_of_json_too(place: Path) -> None:
    done = run("label", place / "nothing", "--output", place / "out", "--log-format", "json")
    assert done.returncode == 2
    (line,) = events(done.stderr)
    assert [line["event"], line["level"]] == ["error", "error"]
    assert "nothing" in line["message"]


@contextmanager
def another_version(metadata: dict[str, str]) -> Iterator[None]:
    """This session's Ray says that it is one of other versions."""
    import ray
    from ray._common.usage import usage_constants, usage_lib

    gcs = ray._private.worker.global_worker.gcs_client
    said = usage_lib.get_cluster_metadata(gcs)

    def say(what: dict[str, str]) -> None:
        key, place = usage_constants.CLUSTER_METADATA_KEY, ray._private.ray_constants.KV_NAMESPACE_CLUSTER
        gcs.internal_kv_put(key, json.dumps(what).encode(), overwrite=True, namespace=place)

    say({**said, **metadata})
    try:
        yield
    finally:
        say(said)


@pytest.mark.usefixtures("local_ray")
def test_a_cluster_of_other_versions_is_one_sentence(place: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    with another_version({"ray_version": "2.9.1", "python_version": "3.10.4"}):
        done = label_with(place, {"RAY_ADDRESS": address})
    assert done.returncode == 2, done.stderr
    assert f"RAY_ADDRESS: '{address}' runs Ray 2.9.1 and Python 3.10.4, this is Ray {ray.__version__}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("local_ray")
def test_a_cluster_that_does_not_know_the_token_is_one_sentence(place: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    stranger = {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    done = label_with(place, stranger)
    assert done.returncode == 2, done.stderr
    assert f"RAY_ADDRESS: '{address}' cannot be reached as a Ray cluster: it has another token" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def long(place: Path) -> Path:
    """A folder with sixteen videos whose frames take a while."""
    (place / "long").mkdir()
    for n in range(16):
        make_video(place / "long" / f"video-{n:02d}.mp4", num_frames=100, fps=10, video_number=n % 8)
    return place / "long"


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_stopped_run_exits_with_130_and_a_rerun_completes_it(
    place: Path, long: Path, number: int, local_ray: None, vidbatch_command: Callable[..., tuple[int, str]]
) -> None:
    output, settings = place / f"stopped-{number}", place / "settings.yaml"
    settings.write_text("stage_seconds: 0\n")
    arguments = ["label", str(long), "--output", str(output), "--model", f"file:{place / 'model'}",
                 "--sampling", "all", "--config", str(settings)]  # fmt: skip
    command = [*VIDBATCH, *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, preexec_fn=heed_ctrl_c, **pipes)
    deadline = time.monotonic() + 120
    while not list(output.glob("_runs/*/staged/*/*.videos.parquet")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    of_ray = psutil.Process(process.pid).children(recursive=True)
    assert any("raylet" in one.name() for one in of_ray)
    process.send_signal(number)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130, words
    assert "run the same command again" in words
    assert psutil.wait_procs(of_ray, timeout=20)[1] == []
    code, words = vidbatch_command(*arguments)
    assert code == 0, words
    assert pq.read_table(output / "videos").num_rows == 16
    assert pq.read_table(output / "frames").num_rows == 16 * 100
    records = json.loads(run("status", output, "--all", "--json").stdout)
    assert [r["state"] for r in records] == ["interrupted", "finished"]
    assert records[1]["videos"] < 16


def test_help_has_examples_and_every_setting(place: Path) -> None:
    overview, details = run("--help").stdout, run("label", "--help").stdout
    assert "vidbatch label s3://" in overview
    for word in ("--sampling", "--max-failed-share", "[default: fps=1]", "Killed or stopped?"):
        assert word in details
    assert run("--version").stdout.startswith("vidbatch, version 0.")
