"""A quality is asked for, and the crf that reaches it found."""

from __future__ import annotations

import math
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from runpy import run_path
from typing import Any

import av
import pytest
from av.filter import Graph
from clips import LazyClips
from servers import MotoServer
from test_enhance import done, ffmpeg, in_clips, job, rows

from vidbatch import storage
from vidbatch.enhancing.config import load_enhance_config
from vidbatch.enhancing.run import enhance
from vidbatch.enhancing.target import crf_for, parts_of
from vidbatch.enhancing.types import CRFS, Trial, added_trials
from vidbatch.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parent.parent
PRESETS = {"libx264": "veryfast", "libx265": "ultrafast", "libvpx-vp9": "8", "libsvtav1": "10"}
ENCODERS = [encoder if encoder == "libx264" else pytest.param(encoder, marks=pytest.mark.long) for encoder in PRESETS]
CONTAINERS = {"libvpx-vp9": "webm"}


def xpsnr_of(path: str | Path, original: str | Path) -> float:
    """XPSNR of luma over a whole video, of 8-bit YUV 4:2:0, as FFmpeg says it."""
    with av.open(str(path)) as after, av.open(str(original)) as before:
        graph = Graph()
        size = f"{before.streams.video[0].width}x{before.streams.video[0].height}"
        same = {"video_size": size, "pix_fmt": "yuv420p", "time_base": "1/1000", "pixel_aspect": "1/1"}
        sources = [graph.add("buffer", **same) for _ in range(2)]
        compared, sink = graph.add("xpsnr"), graph.add("buffersink")
        for number, source in enumerate(sources):
            source.link_to(compared, 0, number)
        compared.link_to(sink)
        graph.configure()
        distortion, num_frames = 0.0, 0
        for number, pair in enumerate(zip(before.decode(video=0), after.decode(video=0), strict=True)):
            for source, frame in zip(sources, pair, strict=True):
                frame.pts, frame.time_base = number, Fraction(1, 1000)
                source.push(frame)
            with suppress(av.BlockingIOError):
                while True:
                    distortion += 10 ** (-float(sink.pull().metadata["lavfi.xpsnr.xpsnr.y"]) / 10)
                    num_frames += 1
        return -10 * math.log10(distortion / num_frames)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_real_videos_come_out_as_good_as_asked_for(clips: LazyClips, tmp_path: Path, encoder: str) -> None:
    for name, target in (("bikes.mp4", 34.0), ("carphone.mp4", 33.0)):
        wanted = job(
            Path(clips[name]), tmp_path, encoder=encoder, preset=PRESETS[encoder], target_xpsnr_db=target,
            container=CONTAINERS.get(encoder, "mp4"),
        )  # fmt: skip
        facts = done(wanted)
        assert facts.error_kind is None, facts.error_message
        assert xpsnr_of(wanted.file, clips[name]) == pytest.approx(target, abs=1.3)
        least, greatest = CRFS[encoder].allowed
        assert least < facts.crf_of_frames / facts.num_frames < greatest
        levels = [Trial(*values).xpsnr_db for values in facts.trials]
        assert levels == sorted(levels, reverse=True)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_clips_of_a_video_have_each_a_crf_of_their_own_and_are_joined(
    clips: LazyClips, tmp_path: Path, encoder: str
) -> None:
    """What is joined plays as one, though the crf changes."""
    source = tmp_path / "a.mkv"
    ffmpeg("-i", clips["bikes.mp4"], "-g", 50, "-crf", 12, "-an", source)
    joined, facts = in_clips(
        source, tmp_path, seconds=2, encoder=encoder, preset=PRESETS[encoder],
        target_xpsnr_db=32.0, container=CONTAINERS.get(encoder, "mp4"),
    )  # fmt: skip
    assert facts.error_kind is None, facts.error_message
    assert facts.num_frames == joined.facts[0].num_frames + sum(part.num_frames for part in joined.facts[1:])
    assert len({part.crf_of_frames / part.num_frames for part in joined.facts}) > 1
    assert xpsnr_of(joined.file, source) == pytest.approx(32, abs=0.8)


def test_pictures_that_players_turn_are_tried_as_they_are_encoded(clips: LazyClips, tmp_path: Path) -> None:
    """The same pictures need the same crf, whichever way up they are shown."""
    turned = tmp_path / "turned.mp4"
    ffmpeg("-i", clips["bikes.mp4"], "-c", "copy", "-metadata:s:v", "rotate=90", turned)
    with av.open(str(turned)) as file:
        assert next(file.decode(video=0)).rotation != 0
    options = {"preset": "veryfast", "target_xpsnr_db": 34.0}
    facts = [done(job(path, tmp_path, **options)) for path in (Path(clips["bikes.mp4"]), turned)]
    assert facts[0].crf_of_frames == facts[1].crf_of_frames


@pytest.mark.usefixtures("local_ray")
def test_the_job_that_transcodes_makes_each_video_as_large_as_it_needs_and_draws_why(
    clips: LazyClips, tmp_path: Path, moto_s3: MotoServer
) -> None:
    bucket = moto_s3()
    for name in ("bikes.mp4", "carphone.mp4"):
        storage.put(f"{bucket}/in/{name}", Path(clips[name]).read_bytes())
    transcode = run_path(str(REPOSITORY / "jobs" / "transcode.py"))
    given = transcode["arguments"]([f"{bucket}/in", "--output", f"{bucket}/out", "--preset", "veryfast"])
    with pytest.raises(SystemExit, match="0"):
        transcode["main"](given)
    found = rows(f"{bucket}/out")
    assert [(row["status"], row["steps"]) for row in found] == [("ok", "none")] * 2
    for row in found:
        assert [point["crf"] for point in row["rate_quality"]] == list(CRFS["libx264"].tried)
        rates = [point["bit_rate"] for point in row["rate_quality"]]
        assert rates == sorted(rates, reverse=True)
        assert row["rate_quality"][0]["crf"] - 10 <= row["output_crf"] <= row["rate_quality"][-1]["crf"]
    assert found[0]["output_crf"] != found[1]["output_crf"]
    picture = storage.read_bytes(f"{bucket}/out/rate_quality.svg")
    assert b"<svg" in picture
    assert transcode["arguments"](["a", "--crf=20"]) == ["enhance", "--steps", "none", "a", "--crf=20"]


def test_the_crf_lies_on_the_lines_between_trials() -> None:
    trials = [Trial(crf, 1000, 1, 10 * 10 ** (-level / 10), 10) for crf, level in ((18, 44), (25, 40), (32, 36))]
    assert crf_for(40, trials, "libx264") == 25
    assert crf_for(38, trials, "libx264") == 28.5
    assert crf_for(37.99, trials, "libx264") == 28.5
    assert crf_for(46, trials, "libx264") == 14.5
    assert crf_for(30, trials, "libx264") == 42.5
    assert crf_for(60, trials, "libx264") == CRFS["libx264"].allowed[0]
    assert crf_for(20, trials, "libx264") == CRFS["libx264"].allowed[1]
    both = added_trials([*trials, *(trial._replace(distortion=0.0) for trial in trials)])
    assert [trial.xpsnr_db for trial in both] == pytest.approx([44 + 3.0103, 40 + 3.0103, 36 + 3.0103], abs=1e-4)


def test_parts_that_are_tried_lie_in_the_clip() -> None:
    assert parts_of(10, 40) == [(14, 16), (24, 26), (34, 36)]
    assert parts_of(0, 3) == [(0, 1), (1, 2), (2, 3)]
    assert parts_of(7, None) == [(7, 9), (9, 11), (11, 13)]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"target_xpsnr": 36, "crf": 20}, "target_xpsnr: 36 is not allowed together with crf 20"),
        ({"target_xpsnr": 36, "bitrate": "1M"}, "target_xpsnr: 36 is not allowed together with bitrate 1M"),
        ({"target_xpsnr": 95}, "target_xpsnr: 95 is not allowed: input should be less than or equal to 60"),
        ({"target_xpsnr": 36, "codec": "mpeg4"}, "target_xpsnr: 36 is not allowed with mpeg4; allowed: libx264"),
    ],
)
def test_a_wrong_target_is_one_sentence(tmp_path: Path, settings: dict[str, Any], sentence: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ConfigError, match="^" + sentence):
        enhance(load_enhance_config({"inputs": [str(tmp_path / "in")], "output": str(tmp_path / "out"), **settings}))
