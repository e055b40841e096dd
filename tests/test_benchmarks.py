"""Benchmarks start and finish, their checks catch wrong results, and the README's table is that of the results."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import a benchmark script by name, as its siblings do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "script",
    [
        "chain",
        "decode",
        "threads",
        "cpu_models",
        "train",
        "listing",
        "decode_memory",
        "s3_gets",
        "scaling",
        "autoscaling",
        "balance",
        "camera_accuracy",
        "enhance",
        "upscale",
        "interpolate",
        "ladder",
    ],
)
def test_a_benchmark_runs_to_its_end_and_says_what_it_measured(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), "--quick", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads((tmp_path / f"{script}.json").read_text())
    assert (result["benchmark"], result["quick"]) == (script, True)
    assert result["machine"]["cores"] >= 1
    if script not in ("s3_gets", "threads", "cpu_models"):
        assert (tmp_path / f"{script}.svg").read_text().startswith("<?xml")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_what_a_gpu_is_asked_can_be_rehearsed_without_one(load: Any, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--quick", "--device", "cpu", "--results", str(tmp_path)]
    done = subprocess.run([*command, "--compile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["failures"] == []
    assert {"classify", "train", "denoise", "label", "enhance"} <= result.keys()
    questions = [question for question, _, _ in load("report").gpu(result)]
    assert sum("efficientnet-lite0" in question for question in questions) == 4
    for part in ("training", "against noise", "`label`", "`enhance`"):
        assert any(part in question for question in questions), part


def test_without_a_gpu_there_is_one_sentence(tmp_path: Path) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--results", str(tmp_path)]
    for words, code in (([], 0), (["--device", "cuda"], 1)):
        done = subprocess.run([*command, *words], capture_output=True, text=True, env=environment)
        assert (done.returncode, len(done.stdout.splitlines())) == (code, 1), done.stderr
        assert "there is no GPU here" in done.stdout
        assert not (tmp_path / "gpu.json").exists()


def test_a_part_that_fails_leaves_the_others_and_says_why(load: Any) -> None:
    gpu, failures = load("gpu"), []

    def broken() -> dict[str, Any]:
        raise RuntimeError("no kernel for this card")

    assert gpu.part_of(lambda: {"speed": 1}, failures, "a") == {"speed": 1}
    assert gpu.part_of(broken, failures, "b")["failed"] == "b: RuntimeError: no kernel for this card"
    assert failures == ["b: RuntimeError: no kernel for this card"]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_scaling_confines_its_runs_to_nodes_of_the_cluster_it_is_connected_to(load: Any, tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    archive = load("archives").mixed(seconds=5, copies=2, max_pieces=1)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=2, object_store_memory=300 * 2**20)
        cluster.wait_for_nodes()
        command = [sys.executable, str(BENCHMARKS / "scaling.py"), "--cluster", "--results", str(tmp_path)]
        places = ["--archive", str(archive), "--output", str(tmp_path / "tables"), "--videos-a-node", "4"]
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        done = subprocess.run([*command, *places], capture_output=True, text=True, env=environment)
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads((tmp_path / "scaling_cluster.json").read_text())
    assert [(row["nodes"], row["CPU"], row["videos"]) for row in result["strong"]] == [(1, 2, 8), (2, 4, 8)]
    assert [(row["nodes"], row["CPU"], row["videos"]) for row in result["weak"]] == [(1, 2, 4), (2, 4, 8)]


def test_the_table_in_the_readmes_is_that_of_the_results(load: Any) -> None:
    report = load("report")
    for readme in report.READMES:
        assert f"{report.BEGIN}\n{report.render()}{report.END}" in readme.read_text(), "run benchmarks/report.py"


def test_committed_results_are_of_full_runs(load: Any) -> None:
    for path in load("harness").RESULTS.glob("*.json"):
        assert json.loads(path.read_text())["quick"] is False, path.name


def test_cpu_seconds_are_those_of_the_whole_process_tree(load: Any) -> None:
    burn = f"{sys.executable} -c 'import time\nwhile time.process_time() < 0.6: pass'"
    script = f"({burn}) & ({burn}) & {burn}; wait; echo '{{\"done\": 1}}'"
    usage = load("harness").run(["bash", "-c", script])
    assert usage.report == {"done": 1}
    assert 1.8 <= usage.cpu_seconds < 3.5
    assert usage.wall_seconds > 0.6


def test_peak_memory_is_that_of_the_watched_process(load: Any) -> None:
    script = "import time; x = bytearray(200_000_000); x[::4096] = b'1' * len(x[::4096]); time.sleep(1); print('{}')"
    usage = load("harness").run([sys.executable, "-c", script], watch=lambda process: "one")
    assert 195 < usage.peak_uss_mb["one"] < 260


@pytest.mark.parametrize(
    ("command", "complaint"),
    [("echo {}; exit 3", "ended with 3"), ("echo no report", "no JSON report"), ("sleep 60", "took longer than")],
)
def test_a_run_that_fails_is_invalid(command: str, complaint: str, load: Any) -> None:
    harness = load("harness")
    with pytest.raises(harness.InvalidRun, match=complaint):
        harness.run(["bash", "-c", command], timeout_seconds=2)


def test_a_run_that_leaves_processes_behind_is_invalid(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    harness = load("harness")
    monkeypatch.setattr(harness, "AFTERMATH_SECONDS", 0.5)
    with pytest.raises(harness.InvalidRun, match="sleep"):
        harness.run(["bash", "-c", "(setsid sleep 60 &); echo {}"])


def test_ratios_are_taken_pair_by_pair(load: Any) -> None:
    found = load("harness").ratio([2.0, 30.0, 3.0], [1.0, 10.0, 1.0])
    assert found == {"median": 3.0, "min": 2.0, "max": 3.0, "values": [2.0, 3.0, 3.0]}


def test_other_videos_frames_times_or_labels_are_not_the_same_work(load: Any) -> None:
    chain = load("chain")
    frames = [chain.Frame(float(n), {"cat": 0.7, "dog": 0.2}) for n in range(10)]
    same = chain.compare({"a": frames}, {"a": frames})
    assert same == {"frames": 10, "same_label": 1.0, "confident_frames": 10, "confident_same_label": 1.0}
    other = chain.Frame(3.0, {"dog": 0.7, "cat": 0.2})
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "other videos"),
        ({"a": frames, "b": frames}, "other videos"),
        ({"a": frames[:9]}, "10 and 9 frames"),
        ({"a": [*frames[:3], chain.Frame(3.04, {"cat": 0.7}), *frames[4:]]}, "frames at 3.0 s and 3.04 s"),
        ({"a": [*frames[:3], other, other._replace(pts_seconds=4.0), *frames[5:]]}, "only 8 of 10 confident"),
    ]
    for found, complaint in wrong:
        with pytest.raises(chain.InvalidRun, match=complaint):
            chain.compare({"a": frames}, found)


def test_the_hand_written_loop_takes_the_frames_shown_at_whole_seconds(load: Any, clips: Any) -> None:
    sample = load("contender_two_process").decode(str(clips["globe_5s.mp4"]))
    assert sample.frames_nhwc.shape == (5, 224, 224, 3)
    assert [round(pts - sample.pts_seconds[0], 3) for pts in sample.pts_seconds] == [0, 1, 2, 3, 4]


def test_efficiency_is_throughput_over_that_of_as_many_single_nodes(load: Any) -> None:
    rows = [
        {"nodes": 1, "videos_per_second": 2.0, "steady_videos_per_second": 4.0},
        {"nodes": 4, "videos_per_second": 6.0, "steady_videos_per_second": 16.0},
    ]
    found = load("scaling").with_efficiency(rows, "nodes")
    assert [row["efficiency"] for row in found] == [1.0, 0.75]
    assert [row["steady_efficiency"] for row in found] == [1.0, 1.0]


def test_nodes_that_memory_will_not_hold_are_known_before_they_are_started(load: Any) -> None:
    rows = [{"nodes": 1, "memory_gib": 1.5}, {"nodes": 4, "memory_gib": 2.0}, {"nodes": 16, "memory_gib": 6.0}]
    memory_of = load("scaling").memory_of
    assert memory_of(64, rows[:1]) == 0.0
    assert memory_of(64, rows) == pytest.approx(6.0 + 48 * 0.3)


def test_the_number_of_nodes_that_was_asked_about_has_a_line_with_its_target(load: Any) -> None:
    def row(nodes: int, efficiency: float) -> dict[str, Any]:
        return {"nodes": nodes, "efficiency": efficiency, "videos_per_second": 0.8 * nodes * efficiency}

    rows = [row(1, 1.0), row(32, 0.91), row(48, 0.8)]
    content = {"simulated": {"strong": rows, "weak": rows, "cpus_at_which_one_driver_is_full": 200}}
    first, second, third = load("report").scaling(content)
    assert first == (
        "scaling efficiency, 1 → 32 nodes",
        "SIMULATED: strong **0.91**, weak **0.91** (23.3 videos/s)",
        "≥ 0.9",
    )
    assert (second[0], second[2]) == ("scaling efficiency, 1 → 48 nodes", "")
    assert third[1] == "200 CPUs of decoders and models"


def test_the_cpus_that_fill_a_driver_are_on_the_line_of_what_it_was_measured_to_use(load: Any) -> None:
    rows = [{"nodes": 1, "driver_cpu_share": 0.05}, {"nodes": 11, "driver_cpu_share": 0.1}]
    assert load("scaling").cpus_of_one_driver(rows) == 2 * 191
    assert load("scaling").cpus_of_one_driver(rows[:1]) is None


def call(when: float, stage: str, node: str = "a") -> list[Any]:
    return [when, stage, node]


def test_full_use_is_when_the_last_model_begins_and_a_model_that_never_does_is_no_result(load: Any) -> None:
    autoscaling = load("autoscaling")
    row = {"pools_at_first": {"model_workers": 2}, "first_calls": [call(3, "decode"), call(5, "model")]}
    with pytest.raises(autoscaling.InvalidRun, match="only 1 of 2 models"):
        autoscaling.seconds_to_full_use(row)
    row["first_calls"] += [call(9, "model"), call(20, "model")]  # the third is one that was restarted or joined
    assert autoscaling.seconds_to_full_use(row) == 9


def test_what_joins_takes_part_when_its_own_actors_do(load: Any) -> None:
    autoscaling = load("autoscaling")
    calls = [call(30 + n, "decode", node) for node in "bc" for n in range(4)]
    row = {"joined": [["b", 20, 22], ["c", 25, 26]], "first_calls": [call(1, "model"), call(35, "model", "b"), *calls]}
    with pytest.raises(autoscaling.InvalidRun, match="node 3 has used 4 decoders and 0 models"):
        autoscaling.seconds_to_take_part(row)
    row["first_calls"].append(call(50, "model", "c"))
    first, second = autoscaling.seconds_to_take_part(row)
    assert (first["first_decoder_seconds"], first["all_decoders_seconds"], first["model_seconds"]) == (8, 11, 13)
    assert (second["model_seconds"], second["starting_the_node_seconds"]) == (24, 1)
    row["joined"].pop()
    with pytest.raises(autoscaling.InvalidRun, match="1 nodes had joined"):
        autoscaling.seconds_to_take_part(row)


def test_cores_in_use_are_told_of_each_half_and_of_the_change_between_them(load: Any) -> None:
    balance = load("balance")
    points, used = [], {"decode": 0.0, "model": 0.0, "rest": 0.0}
    for half_second in range(161):
        points.append({"at": half_second / 2, **used})
        is_first, idles = half_second < 80, 80 <= half_second < 90
        used["decode"] += 0.0 if idles else 0.75 if is_first else 0.1
        used["model"] += 0.0 if idles else 0.25 if is_first else 0.8
    row = balance.judged({"finished_at": list(range(1, 81)), "core_use": points}, {"decode": 40, "model": 40})
    assert row["halves"]["decode"] == {"decode": 0.75, "model": 0.25, "rest": 0.0, "all": 1.0}
    assert row["halves"]["model"]["model"] == 0.8
    assert row["halves"]["model"]["all"] == 0.9
    assert row["least_share_in_5_seconds"] == 0.0


def test_waiting_stages_speak_the_schema_of_the_real_ones(load: Any) -> None:
    import pyarrow as pa

    from vidbatch import schema

    waiting = load("waiting_stages")
    waits = waiting.Waits(0.0, 0.0, 15, 1000, "", 1)
    clip = {field.name: None for field in schema.CLIP} | {
        "video_id": "0" * 32, "url": "file:///a.mp4", "content_version": "1-1", "clip_index": 0, "num_clips": 1,
    }  # fmt: skip
    pixels = pa.concat_tables([waiting.pixels(clip, waits)] * 2)
    assert pixels.schema == schema.PIXELS
    predictions = waiting.predictions(pixels, waits)
    assert predictions.schema == schema.PREDICTIONS
    assert [len(scores) for scores in predictions["score_sum"].to_pylist()] == [1000, 1000]


def test_the_s3_endpoint_counts_every_request(load: Any) -> None:
    from vidbatch import storage

    with load("s3_server").running() as server:
        server.put("videos/a.mp4", b"0123456789")
        assert storage.read_bytes("s3://archive/videos/a.mp4") == b"0123456789"
        # A request is counted when its answer has been sent, perhaps after it has been read; `close` waits for it.
    gets = [r for r in server.requests if r.method == "GET" and r.key == "videos/a.mp4"]
    assert len(gets) == 1
    assert gets[0].sent_bytes == 10


def test_a_share_has_an_interval_that_stays_within_0_and_1(load: Any) -> None:
    wilson = load("camera_accuracy").wilson
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=2e-4), "as statsmodels' proportion_confint says"
    assert wilson(43, 43)[1] == 1.0
    assert 0.91 < wilson(43, 43)[0] < 0.92
    assert wilson(0, 10)[0] == 0.0


def test_windows_are_reordered_each_in_its_own_way_and_whole(load: Any) -> None:
    from vidbatch.windows import window_dtype

    accuracy = load("camera_accuracy")
    windows = np.zeros(20, window_dtype(8, 4, 4))
    windows["frames"] += np.arange(8, dtype=np.uint8)[None, :, None, None, None]
    orders = accuracy.orders(20, 8)
    turned = accuracy.reordered(windows, orders["reversed"])["frames"][:, :, 0, 0, 0]
    assert (turned == np.arange(8)[::-1]).all()
    shuffled = accuracy.reordered(windows, orders["shuffled"])["frames"][:, :, 0, 0, 0]
    assert (np.sort(shuffled, axis=1) == np.arange(8)).all()
    assert len(np.unique(shuffled, axis=0)) == 20


def test_answers_are_scored_by_class_direction_quality_and_order(load: Any) -> None:
    accuracy = load("camera_accuracy")
    opposite = accuracy.OPPOSITE
    clips = [
        {"url": f"{label}_{number}", "label": label, "quality": quality, "reversed_of": ""}
        for label in accuracy.LABELS
        for number, quality in enumerate(("high", "medium", "low"))
    ]
    clips += [
        {**clip, "url": f"{clip['url']}_back", "label": opposite[clip["label"]], "reversed_of": clip["url"]}
        for clip in clips
        if clip["label"] in opposite
    ]
    truth = [clip["label"] for clip in clips]
    turned = [opposite.get(label, label) for label in truth]
    good = accuracy.scores_of({"said": truth, "reversed": turned, "shuffled": ["static"] * len(truth)}, clips)
    assert (good["accuracy"], good["reversed"], good["twins"]["opposite"], good["twins"]["direction"]) == (1, 1, 1, 1)
    assert good["shuffled"] == round(3 / len(truth), 4)
    blind = ["pan_left" if label.startswith("pan") else label for label in truth]
    found = accuracy.scores_of({"said": blind, "reversed": blind, "shuffled": blind}, clips)
    assert found["recall"]["pan_left"] == 1
    assert found["recall"]["pan_right"] == 0
    assert {axis: of["right"] for axis, of in found["direction"].items()} == {"pan": 0.5, "tilt": 1.0, "zoom": 1.0}
    assert found["reversed"] == 0.0
    assert found["reversed_same"] == 1.0
    assert found["twins"]["opposite"] == round(12 / 18, 4)
    assert found["quality"] == {"high": 0.8667, "medium": 0.8667, "low": 0.8667}


def test_real_windows_are_of_clips_that_nothing_is_trained_on_and_overlap_by_half_at_most(load: Any) -> None:
    films = load("camera_motion").FILMS
    real = load("camera_real")
    tables = [real.labelled(table) for table in (real.LABELLED, real.BLIND)]
    for rows in tables:
        assert not {row["clip"] for row in rows} & {film.clip for film in films if film.split != "test"}
        assert len({row["clip"] for row in rows}) >= 6
        assert len(rows) >= 60
        for before, after in itertools.pairwise(rows):
            start, end = float(before["start_seconds"]), float(before["end_seconds"])
            assert end - start <= 2.0 + 1e-6
            assert after["clip"] != before["clip"] or float(after["start_seconds"]) >= (start + end) / 2 - 0.21, after
    for old, new in itertools.product(*tables):
        if old["clip"] == new["clip"]:
            apart = float(new["start_seconds"]) >= float(old["end_seconds"])
            assert apart or float(new["end_seconds"]) <= float(old["start_seconds"]), (old, new)


def test_what_is_tuned_on_shares_no_clip_with_what_judges(load: Any) -> None:
    real = load("camera_real")
    development = {row["clip"] for row in real.labelled(real.DEVELOPMENT)}
    assert not development & {row["clip"] for table in (real.LABELLED, real.BLIND) for row in real.labelled(table)}
    known = real.CLIPS | real.MORE
    assert development <= known.keys()


def test_windows_to_interpolate_in_hold_no_cut_and_nothing_repeated_and_are_of_a_bin(load: Any, clips: Any) -> None:
    benchmark = load("interpolate")
    assert clips["bikes.mp4"]
    found = benchmark.windows_of("bikes.mp4", 1)
    assert found
    for window in found:
        low, high = benchmark.BINS[window.bin]
        assert low <= benchmark.motion_of(window.frames[4], window.frames[6]) < high
        assert len(window.frames) == benchmark.WINDOW
    still = [found[0].frames[0]] * benchmark.WINDOW
    assert benchmark.is_one_movement(found[0].frames)
    assert not benchmark.is_one_movement(still)


def test_a_frame_that_was_there_scores_as_itself_and_the_report_says_what_was_found(load: Any, clips: Any) -> None:
    benchmark, report = load("interpolate"), load("report")
    assert clips["carphone.mp4"]
    windows = {"carphone.mp4": benchmark.windows_of("carphone.mp4", 1)}

    class Truth(benchmark.Repeat):  # type: ignore[misc, name-defined]
        def make(self, before: Any, first: Any, last: Any, after: Any, phases: Any) -> Any:
            gap, place = next(pair for pair in benchmark.TIMES.values() if pair[1] / pair[0] == phases[0])
            (window,) = (w for w in windows["carphone.mp4"] if w.frames[4] is first and w.frames[4 + gap] is last)
            return [window.frames[4 + place]]

    ways = {"repeat": benchmark.Repeat(), "blend": benchmark.method_of(benchmark.step_of("blend"), benchmark.Machine()),
            "network": Truth()}  # fmt: skip
    rows = [benchmark.compare(at, ways, windows) for at in benchmark.TIMES]
    assert all(row["ssim"]["network"] == 1 and row["best_other"] == "blend" for row in rows)
    cpu = {"network": 0.8, "minterpolate": 0.3}
    lines = list(report.interpolate({"rows": rows, "cpu_seconds_a_720p_frame": cpu}))
    assert len(lines) == 3 + len(rows[0]["bins"]) + 1
    assert "SSIM 1.0000" in lines[0][1]
