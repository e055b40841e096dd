"""Crashes, hangs and hoarding of the decoder process: never the actor's end, never another video's."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from decoding import SMALL, SPEC, Decoded, clip_row, config, together, work
from servers import HttpServer

from vidbatch.config import LabelConfig
from vidbatch.decode import Decoder
from vidbatch.decoding.isolation import IsolatedProcess, ProcessLost
from vidbatch.decoding.types import Job
from vidbatch.errors import VideoError
from vidbatch.testing import make_video, read_stamp

MIB = 2**20


class FaultyDecoder(Decoder):
    """A Decoder whose child runs faults.decode_or_fail."""

    function = "faults:decode_or_fail"


@pytest.fixture
def process() -> Iterator[IsolatedProcess]:
    made = IsolatedProcess(timeout_seconds=20.0, memory_bytes=300 * MIB)
    yield made
    made.close()


def decode(names: list[str], folder: Path, settings: LabelConfig | None = None) -> list[Decoded]:
    """Decode one pack of the named files, each of 100 frames, by a decoder that does what their names say."""
    for number, name in enumerate(names):
        make_video(folder / name, num_frames=100, video_number=number, width=96, height=96)
    settings = settings or config(sampling="all", decode_timeout_seconds=2, decode_memory_mb=400)
    decoder = FaultyDecoder(settings, SMALL)
    try:
        return together(decoder(work([clip_row(folder / name) for name in names])), SMALL)
    finally:
        decoder.close()


def assert_good(clip: Decoded, video: int) -> None:
    assert clip.error_kind is None, clip.last["error_message"]
    assert [read_stamp(frame) for frame in clip.frames] == [(video, number) for number in range(100)]


def wait_until_gone(pid: int, seconds: float) -> float:
    """How long it took until a process was gone (or a zombie, that nobody waits for)."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return time.monotonic() - began
        except FileNotFoundError:
            return time.monotonic() - began
        time.sleep(0.02)
    return math.inf


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("segfault", "decoder_crashed", "SIGSEGV"),
        ("abort", "decoder_crashed", "SIGABRT"),
        ("killed", "decoder_crashed", "SIGKILL"),
        ("endless", "timeout", "2 s"),
        ("native", "timeout", "2 s"),
        ("allocate", "memory", "400 MiB are allowed"),
        ("huge", "memory", "memory"),
        ("exit", "worker", "exit code 3"),
        ("bug", "worker", "KeyError"),
    ],
)
def test_what_kills_the_decoder_twice_is_a_row_and_its_neighbours_are_good(
    tmp_path: Path, fault: str, kind: str, message: str
) -> None:
    before, broken, after = decode(["good-1.mp4", f"{fault}.mp4", "good-2.mp4"], tmp_path)
    assert_good(before, 0)
    assert_good(after, 2)
    assert broken.error_kind == kind
    assert message in broken.last["error_message"]
    assert "2 tries" in broken.last["error_message"]
    # The first chunk was given before the fault, once; the row of the fault has no frames and knows the header.
    assert [read_stamp(frame) for frame in broken.frames] == [(1, number) for number in range(64)]
    assert [row["num_frames"] for row in broken.rows] == [64, 0]
    assert (broken.last["codec"], broken.last["width"]) == ("h264", 96)
    assert broken.last["decode_wall_seconds"] > 0


def test_what_goes_well_the_second_time_is_good_and_given_once(tmp_path: Path) -> None:
    [clip] = decode(["once.mp4"], tmp_path)
    assert_good(clip, 0)
    assert [row["num_frames"] for row in clip.rows] == [64, 36]
    assert (tmp_path / "once.mp4.mark").exists()


def test_a_child_that_died_between_two_clips_is_replaced(tmp_path: Path) -> None:
    make_video(tmp_path / "v.mp4", num_frames=3)
    decoder = Decoder(config(sampling="all"), SPEC)
    for _ in range(3):
        [clip] = together(decoder(work([clip_row(tmp_path / "v.mp4")])), SPEC)
        assert clip.stamps == [0, 1, 2]
        pid = decoder._process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert wait_until_gone(pid, 5) < 5
    decoder.close()


def test_a_consumer_that_stops_early_does_not_mix_up_the_next_clip(tmp_path: Path) -> None:
    for number in range(2):
        make_video(tmp_path / f"{number}.mp4", num_frames=200, video_number=number)
    decoder = Decoder(config(sampling="all"), SPEC)
    first = decoder(work([clip_row(tmp_path / "0.mp4")]))
    next(first)
    first.close()
    [clip] = together(decoder(work([clip_row(tmp_path / "1.mp4")])), SPEC)
    decoder.close()
    assert [read_stamp(frame)[0] for frame in clip.frames] == [1] * 200


def test_time_in_which_the_consumer_does_not_ask_does_not_count(tmp_path: Path) -> None:
    make_video(tmp_path / "v.mp4", num_frames=300, width=96, height=96)
    decoder = Decoder(config(sampling="all", decode_timeout_seconds=2), SMALL)
    rows = []
    for table in decoder(work([clip_row(tmp_path / "v.mp4")])):
        rows.append(table)
        time.sleep(0.9)
    decoder.close()
    [clip] = together(rows, SMALL)
    assert (clip.error_kind, len(clip.rows)) == (None, 5)


@pytest.mark.long
def test_the_timeout_is_for_a_clip_s_length_of_video_not_for_all_of_a_long_one() -> None:
    process = IsolatedProcess(timeout_seconds=3, memory_bytes=300 * MIB)
    assert list(process.call("faults:keep_alive", 4, 1.0)) == [({"done": True}, None)]
    with pytest.raises(ProcessLost, match="3 s"):
        list(process.call("faults:count", 100, 1, 0.5))


@pytest.mark.parametrize(
    ("storage_seconds", "other_seconds", "kind"),
    [(30.0, 0.0, "storage"), (1.6, 30.0, "storage"), (0.5, 30.0, "timeout"), (1.6, 0.1, None)],
)
def test_what_takes_long_because_the_storage_does_is_the_storage_s_fault(
    storage_seconds: float, other_seconds: float, kind: str | None
) -> None:
    process = IsolatedProcess(timeout_seconds=2, memory_bytes=300 * MIB)
    try:
        if kind is None:
            for _ in range(2):  # the waiting of an earlier call does not count
                assert list(process.call("faults:wait", storage_seconds, other_seconds)) == [({"done": True}, None)]
            storage_seconds, other_seconds, kind = 0.0, 30.0, "timeout"
        with pytest.raises(ProcessLost, match="not finished within 2 s") as lost:
            list(process.call("faults:wait", storage_seconds, other_seconds))
        assert lost.value.kind == kind
    finally:
        process.close()


def test_a_web_server_that_keeps_a_decoder_waiting_costs_its_video_no_more_than_a_rerun(tmp_path: Path) -> None:
    make_video(tmp_path / "v.mp4", num_frames=5, width=96, height=96)
    let_go = threading.Event()
    server = HttpServer(tmp_path)
    server.gate = lambda *_: let_go.wait(30) and None
    decoder = Decoder(config(sampling="all", decode_timeout_seconds=2), SMALL)
    try:
        [clip] = together(decoder(work([clip_row(f"{server.url}/v.mp4")])), SMALL)
    finally:
        let_go.set()
        decoder.close()
        server.stop()
    assert clip.error_kind == "storage"
    assert "waiting for the storage" in clip.last["error_message"]


def test_a_long_video_that_cannot_be_cut_reports_progress(tmp_path: Path) -> None:
    make_video(tmp_path / "v.mp4", num_frames=250, gop=1000, width=96, height=96)
    from vidbatch.decoding.frames import decode_clip

    job = Job(clip_row(tmp_path / "v.mp4"), "count=1", clip_seconds=1.0)
    records = [record for record, _ in decode_clip(job)]
    assert 3 <= records.count({}) <= 10


def test_items_come_in_order_with_their_payloads(process: IsolatedProcess) -> None:
    items = list(process.call("faults:count", 20, 3 * MIB))
    assert [record for record, _ in items] == [{"index": index} for index in range(20)]
    assert all(payload == bytes([index]) * (3 * MIB) for index, (_, payload) in enumerate(items))


def test_an_error_of_the_video_is_raised_as_it_is(process: IsolatedProcess, tmp_path: Path) -> None:
    job = Job(clip_row(tmp_path / "nowhere.mp4"), "all")
    with pytest.raises(VideoError, match="missing"):
        list(process.call("vidbatch.decoding.planning:plan_clip", job))
    assert process.pid is not None


def test_a_function_that_does_not_exist_is_said(process: IsolatedProcess) -> None:
    with pytest.raises(ProcessLost, match="AttributeError"):
        list(process.call("faults:no_such_function"))


def test_the_child_sees_the_parent_s_modules_and_is_limited(process: IsolatedProcess) -> None:
    [(facts, _)] = process.call("faults:about_the_process")
    assert (facts["pid"], facts["parent"], facts["core"]) == (process.pid, os.getpid(), 0)
    assert facts["data"] == 600 * MIB
    assert [os.path.abspath(entry) for entry in sys.path][-1] in facts["path"]


def test_the_child_starts_light_and_never_loads_torch_ray_pandas_or_pyarrow(tmp_path: Path) -> None:
    make_video(tmp_path / "v.mp4", num_frames=1, width=96, height=96)
    process = IsolatedProcess(timeout_seconds=30, memory_bytes=1000 * MIB)
    [(facts, _)] = process.call("faults:loaded_after_decoding", Job(clip_row(tmp_path / "v.mp4"), "all"))
    process.close()
    assert {"av", "numpy"} <= set(facts["modules"])
    assert not {"torch", "ray", "pandas", "pyarrow", "pydantic", "s3fs", "aiohttp"} & set(facts["modules"])
    assert facts["cpu_seconds"] < 1.5  # 0.3 on a quiet machine


def test_messages_do_not_cost_much() -> None:
    """2.5 to 3 GB/s were measured; even at a tenth of it a frame of 224x224 costs 0.5 ms."""
    process = IsolatedProcess(timeout_seconds=30, memory_bytes=1000 * MIB)
    list(process.call("faults:count", 1, 1))
    began = time.perf_counter()
    total = sum(len(payload or b"") for _, payload in process.call("faults:count", 30, 16 * MIB))
    assert total / (time.perf_counter() - began) > 300e6
    process.close()


PARENT = """
import os, sys, threading, time
from vidbatch.decoding.isolation import IsolatedProcess
made = []
def start():
    made.append(IsolatedProcess(timeout_seconds=1000, memory_bytes=2**30))
thread = threading.Thread(target=start)  # the thread that starts the child ends at once, the child must not
thread.start()
thread.join()
time.sleep(0.3)
{work}
"""
WORK = {
    "sleeping": 'call = made[0].call("faults:sleep_forever"); print(next(call)[0]["pid"], flush=True); next(call)',
    "waiting": "print(made[0].pid, flush=True); time.sleep(1000)",
    "in native code": (
        "from faults import *; from decoding import *\n"
        "for item in made[0].call('faults:decode_or_fail', Job(clip_row(sys.argv[1]), 'all')):\n"
        "    if 'chunk_index' in item[0]: print(made[0].pid, flush=True)"
    ),
}


@pytest.mark.parametrize("doing", WORK)
def test_the_child_dies_with_its_parent(tmp_path: Path, doing: str) -> None:
    make_video(tmp_path / "native.mp4", num_frames=100, width=96, height=96)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(work=WORK[doing]), str(tmp_path / "native.mp4")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.2)
    os.kill(child, 0)  # alive, though the thread that started it is not
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert wait_until_gone(child, 10) <= 2


def test_closing_ends_the_child(process: IsolatedProcess) -> None:
    list(process.call("faults:count", 1, 1))
    pid = process.pid
    assert pid is not None
    process.close()
    process.close()
    assert wait_until_gone(pid, 5) <= 2
    assert process.pid is None


def test_decoders_in_several_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    for number in range(3):
        make_video(tmp_path / f"{number}.mp4", num_frames=70, video_number=number)
    found: dict[int, list[tuple[int, int]]] = {}

    def run(number: int) -> None:
        decoder = Decoder(config(sampling="all"), SPEC)
        [clip] = together(decoder(work([clip_row(tmp_path / f"{number}.mp4")])), SPEC)
        found[number] = [read_stamp(frame) for frame in clip.frames]
        decoder.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [(number, frame) for frame in range(70)] for number in range(3)}


@pytest.mark.long
def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path: Path) -> None:
    """Many times the frames, the same memory: chunks leave as they are made, pictures as they are decoded."""
    peaks = {}
    for num_frames, width, height in ((200, 160, 120), (2000, 160, 120), (50, 1280, 720), (250, 1280, 720)):
        make_video(tmp_path / f"{num_frames}.mp4", num_frames=num_frames, width=width, height=height, gop=50)
        decoder = Decoder(config(sampling="all"), SPEC)
        peak = 0
        for table in decoder(work([clip_row(tmp_path / f"{num_frames}.mp4")])):
            status = Path(f"/proc/{decoder._process.pid}/status").read_text()
            peak = max(peak, int(status.partition("VmHWM:")[2].split()[0]) // 1024)
            assert table.nbytes <= 16 * MIB + 4096
        peaks[num_frames] = peak
        decoder.close()
    assert max(peaks.values()) < 200, peaks
    assert peaks[2000] - peaks[200] < 20
    assert peaks[250] - peaks[50] < 20


def test_memory_does_not_grow_from_clip_to_clip(tmp_path: Path) -> None:
    """Pictures that objects in a circle hold on to are freed with the clip, not some hundred MB later."""
    make_video(tmp_path / "v.mp4", num_frames=30, width=1920, height=1080)
    decoder = Decoder(config(sampling="fps=5"), SPEC)
    used = []
    for _ in range(16):
        [_clip] = together(decoder(work([clip_row(tmp_path / "v.mp4")])), SPEC)
        used.append(_unique_mb(decoder._process.pid))
    decoder.close()
    assert max(used[8:]) - min(used[4:8]) < 15, used


def _unique_mb(pid: int | None) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024
