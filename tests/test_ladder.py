"""A video in, its pictures in several heights out, which play as HLS and as DASH: in this process, then on Ray."""

from __future__ import annotations

import json
import re
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import av
import numpy as np
import pytest
from browser import play
from clips import LazyClips
from servers import MotoServer
from test_enhance import done, ffmpeg, job, rows

import vidbatch
from vidbatch import storage
from vidbatch.decoding.planning import plan_clip
from vidbatch.decoding.types import Job
from vidbatch.enhancing.config import enhance_digest, load_enhance_config
from vidbatch.enhancing.ladder import rungs_of
from vidbatch.enhancing.run import enhance
from vidbatch.enhancing.types import Facts, JoinJob, Ladder, Picture
from vidbatch.errors import ConfigError
from vidbatch.testing import make_video, read_stamp

PRESETS = {"libx264": "veryfast", "libx265": "ultrafast", "libsvtav1": "8"}
TURNS = {
    90: (0, 65536, 0, -65536, 0, 0, 0, 0, 2**30),
    180: (-65536, 0, 0, 0, -65536, 0, 0, 0, 2**30),
    270: (0, -65536, 0, 65536, 0, 0, 0, 0, 2**30),
}


def ladder_of(
    path: Path, folder: Path, heights: tuple[int, ...], *, segment_seconds: float = 1.0, in_clips: float | None = None,
    encoder: str = "libx264", **options: Any,
) -> tuple[Path, Facts]:  # fmt: skip
    """The folder of a video's ladder, and what there is to say of it; made of clips where they have a length."""
    given: dict[str, Any] = {
        "container": "cmaf", "encoder": encoder, "preset": PRESETS[encoder], "pixel_format": "yuv420p",
        "is_segmented": True, "gop": 250, **options,
    }  # fmt: skip
    ladder = Ladder(heights, segment_seconds)
    whole = job(path, folder, more={"ladder": ladder}, **given)
    if in_clips is None:
        facts = done(whole)
        return Path(whole.media_folder), facts
    *_, (plan, _) = plan_clip(Job(whole.clip, "all", clip_seconds=in_clips))
    clips = plan["clips"]
    assert len(clips) >= 3
    jobs = [
        job(path, folder, clip=(n, len(clips)), bounds=clip, more={"ladder": ladder}, **given)
        for n, clip in enumerate(clips)
    ]
    facts_of_clips = tuple(map(done, jobs))
    more = {"ladder": ladder, "urls": tuple(part.packets for part in jobs), "facts": facts_of_clips}
    joined = job(path, folder, kind=JoinJob, more=more, **given)
    return Path(joined.media_folder), done(joined)


def streams_of(place: Path) -> list[Path]:
    return sorted(place.glob("stream_*.mp4"))


def stamps(path: Path) -> list[tuple[float, int]]:
    """(seconds, number) of every frame."""
    with av.open(str(path)) as file:
        return [
            (float(frame.pts * frame.time_base), read_stamp(frame.to_ndarray(format="rgb24"), crop_share=1)[1])
            for frame in file.decode(video=0)
        ]


def keyframes(path: Path) -> list[float]:
    with av.open(str(path)) as file:
        return [float(p.pts * p.time_base) for p in file.demux(video=0) if p.size and p.is_keyframe]


def segments(playlist: Path) -> list[tuple[float, int, int]]:
    """(seconds, first byte, bytes) of every segment that a playlist names."""
    text = playlist.read_text()
    lengths = [float(found) for found in re.findall(r"#EXTINF:([\d.]+),", text)]
    ranges = [(int(begin), int(size)) for size, begin in re.findall(r"#EXT-X-BYTERANGE:(\d+)@(\d+)", text)]
    return [(seconds, *place) for seconds, place in zip(lengths, ranges, strict=True)]


def seen_by_ffprobe(path: Path) -> list[tuple[str, int]]:
    """(codec, frames) of every stream."""
    asked = ["ffprobe", "-v", "error", "-count_packets", "-show_entries", "stream=codec_name,nb_read_packets",
             "-of", "json", str(path)]  # fmt: skip
    said = subprocess.run(asked, capture_output=True, check=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    return [(found["codec_name"], int(found["nb_read_packets"])) for found in json.loads(said.stdout)["streams"]]


# --- heights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "aspect", "turn", "heights", "wanted"),
    [
        ((1920, 1080), (1, 1), 0, (360, 1080, 720), [(1920, 1080), (1280, 720), (640, 360)]),
        ((1280, 544), (1, 1), 0, (1080, 360), [(848, 360)]),
        ((640, 272), (0, 1), 0, (1080, 720), [(640, 272)]),
        ((720, 576), (16, 15), 0, (576, 288), [(768, 576), (384, 288)]),
        ((1920, 1080), (1, 1), 90, (1080, 2160), [(608, 1080)]),
        ((640, 480), (4, 3), 270, (853, 240), [(480, 852), (136, 240)]),
        ((640, 480), (1, 1), 180, (240,), [(320, 240)]),
    ],
)
def test_rungs_are_upright_of_square_pixels_and_never_higher_than_the_video(
    size: tuple[int, int], aspect: tuple[int, int], turn: int, heights: tuple[int, ...], wanted: list[tuple[int, int]]
) -> None:
    picture = Picture(*size, "yuv420p", (1, 25), (25, 1), aspect, (2, 2, 2, 2), TURNS.get(turn))
    rungs = rungs_of(picture, Ladder(heights, 4))
    assert [(rung.width, rung.height) for rung in rungs] == wanted
    assert all(rung.display_matrix is None and rung.pixel_aspect == (1, 1) for rung in rungs)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_turned_pictures_stand_upright_in_every_height(tmp_path: Path, rotation: int) -> None:
    make_video(tmp_path / "turned.mp4", num_frames=5, rotation=rotation, pixel_aspect=Fraction(4, 3), video_number=3)
    place, facts = ladder_of(tmp_path / "turned.mp4", tmp_path, (320, 160))
    assert facts.changes == ["turned upright"]
    for path in streams_of(place):
        assert [number for _, number in stamps(path)] == [0, 1, 2, 3, 4]
        with av.open(str(path)) as file:
            assert next(file.decode(video=0)).rotation == 0


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", PRESETS)
@pytest.mark.parametrize("in_clips", [None, 1.5])
def test_segments_of_every_height_begin_with_the_same_frames(
    tmp_path: Path, encoder: str, in_clips: float | None
) -> None:
    path = tmp_path / "a.mp4"
    make_video(path, num_frames=100, gop=10, b_frames=2, with_sound=True)
    place, facts = ladder_of(path, tmp_path, (240, 120), encoder=encoder, in_clips=in_clips, crf=20.0)
    assert (facts.error_kind, facts.error_message, facts.num_frames) == (None, None, 100)
    starts = {0.0, 1.0, 2.0, 3.0}
    for stream in streams_of(place)[:2]:
        assert stamps(stream) == [(pytest.approx(n / 25, abs=1e-6), n) for n in range(100)]
        assert starts <= {round(at, 3) for at in keyframes(stream)}
        assert in_clips is not None or len(keyframes(stream)) == 4
    assert keyframes(place / "stream_0.mp4") == keyframes(place / "stream_1.mp4")
    lengths = [[seconds for seconds, *_ in segments(place / f"media_{n}.m3u8")] for n in (0, 1)]
    assert lengths[0] == lengths[1]
    assert sum(lengths[0]) == pytest.approx(4)


def test_both_manifests_name_all_of_every_file_and_how_fast_it_has_to_be_read(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", num_frames=100, gop=10, with_sound=True)
    place, facts = ladder_of(tmp_path / "a.mp4", tmp_path, (240, 120))
    assert facts.file == {"codec": "h264", "heights": [240, 120]}
    master = (place / "master.m3u8").read_text()
    rates = [int(rate) for rate in re.findall(r"#EXT-X-STREAM-INF:BANDWIDTH=(\d+)", master)]
    sound = segments(place / "media_2.m3u8")
    for number, rate in enumerate(rates):
        parts = segments(place / f"media_{number}.m3u8")
        size = (place / f"stream_{number}.mp4").stat().st_size
        ends = [begin + num_bytes for _, begin, num_bytes in parts]
        assert [begin for _, begin, _ in parts[1:]] == ends[:-1]
        assert ends[-1] == size
        peak = max(8 * num_bytes / seconds for seconds, _, num_bytes in parts)
        of_sound = max(8 * num_bytes / seconds for seconds, _, num_bytes in sound if seconds > 0.5)
        assert rate == pytest.approx(peak + of_sound, abs=2)
        assert f'bandwidth="{round(peak)}"' in (place / "manifest.mpd").read_text()
    assert "PROGRAM-DATE-TIME" not in "".join(path.read_text() for path in place.glob("*.m3u8"))
    assert [name for name, _ in seen_by_ffprobe(place / "master.m3u8")].count("h264") >= 2
    found = dict.fromkeys(["h264", "aac"], 0)
    for name, packets in seen_by_ffprobe(place / "manifest.mpd"):
        found[name] = max(found[name], packets)
    assert found["h264"] == 100
    assert found["aac"] == pytest.approx(4 * 48_000 / 1024, abs=4)
    for base in ElementTree.parse(place / "manifest.mpd").iter("{urn:mpeg:dash:schema:mpd:2011}Representation"):
        name = base.find("{*}BaseURL")
        index = base.find("{*}SegmentBase")
        assert name is not None
        assert index is not None
        begin, end = map(int, index.attrib["indexRange"].split("-"))
        assert (place / str(name.text)).read_bytes()[begin:][:8] == (end + 1 - begin).to_bytes(4, "big") + b"sidx"


def test_frames_of_a_variable_rate_keep_their_times_and_segments_stay_aligned(tmp_path: Path) -> None:
    ticks = np.cumsum([0, *(1 + n * 7 % 9 for n in range(59))]).tolist()
    make_video(tmp_path / "a.mp4", num_frames=60, gop=10, b_frames=2, pts=ticks, time_base=Fraction(1, 30))
    place, facts = ladder_of(tmp_path / "a.mp4", tmp_path, (240, 120))
    assert facts.error_kind is None
    for stream in streams_of(place):
        assert stamps(stream) == [(pytest.approx(tick / 30, abs=1e-4), n) for n, tick in enumerate(ticks)]
    assert keyframes(place / "stream_0.mp4") == keyframes(place / "stream_1.mp4")
    lengths = [[seconds for seconds, *_ in segments(place / f"media_{n}.m3u8")] for n in (0, 1)]
    assert lengths[0] == pytest.approx(lengths[1], abs=0.3)  # how long the last frame lasts is not said alike
    assert sum(lengths[0]) == pytest.approx(ticks[-1] / 30, abs=0.5)
    assert len(lengths[0]) == len(lengths[1]) >= 7


def test_sound_that_players_do_not_take_is_encoded_anew_and_in_time(clips: LazyClips, tmp_path: Path) -> None:
    """A beep and a white picture at the same time, before and after."""
    ffmpeg(
        *("-f", "lavfi", "-i", "color=black:s=160x120:r=25:d=4,drawbox=c=white:t=fill:enable='between(t,2,2.2)'"),
        *("-f", "lavfi", "-i", "aevalsrc='sin(2*PI*800*t)*between(t,2,2.2)':s=44100:d=4", "-c:a", "flac", "-ac", 2),
        *("-metadata:s:a:0", "language=fra", tmp_path / "a.mkv"),
    )
    place, facts = ladder_of(tmp_path / "a.mkv", tmp_path, (120,))
    assert facts.changes == ["sound of stream 1 (flac) encoded anew (aac): cmaf cannot hold it"]
    with av.open(str(place / "master.m3u8")) as file:
        shown = [float(f.pts * f.time_base) for f in file.decode(video=0) if f.to_ndarray(format="gray").mean() > 128]
    with av.open(str(place / "master.m3u8")) as file:
        heard = [
            float(f.pts * f.time_base) + f.samples / f.sample_rate / 2
            for f in file.decode(audio=0)
            if np.abs(f.to_ndarray()).max() > 0.3
        ]
    assert shown[0] == pytest.approx(2.0, abs=0.001)
    assert heard[0] == pytest.approx(2.0, abs=0.05)
    assert heard[-1] == pytest.approx(2.2, abs=0.05)
    assert 'LANGUAGE="fra"' in (place / "master.m3u8").read_text()


def test_two_passes_hit_the_bitrate_and_lower_rungs_get_less(clips: LazyClips, tmp_path: Path) -> None:
    place, facts = ladder_of(
        Path(clips["carphone.mp4"]), tmp_path, (144, 72), bit_rate=100_000, two_pass=True, segment_seconds=2
    )
    assert facts.error_kind is None
    rates = [8 * path.stat().st_size / 4.004 for path in streams_of(place)[:2]]
    assert rates[0] == pytest.approx(100_000, rel=0.15)
    assert rates[1] == pytest.approx(100_000 * 0.25**0.75, rel=0.3)  # what the file itself takes is a tenth


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"heights": "720"}, "heights: 720 is not allowed in mp4: only with --container cmaf"),
        ({"segment_seconds": 2}, "segment_seconds: 2 is not allowed in mp4"),
        ({"container": "cmaf", "heights": "720,7"}, "heights: 7 is not allowed: input should be greater"),
        ({"container": "cmaf", "heights": "full"}, "heights: 'full' is not allowed: pixels, as 1080,720,360, are"),
        ({"container": "cmaf", "codec": "vp9"}, "codec: 'libvpx-vp9' is not allowed in cmaf; allowed: h264, hevc, av1"),
    ],
)
def test_a_wrong_ladder_is_one_sentence(tmp_path: Path, settings: dict[str, Any], sentence: str) -> None:
    (tmp_path / "in").mkdir()
    make_video(tmp_path / "in" / "a.mp4", num_frames=2)
    with pytest.raises(ConfigError, match="^" + re.escape(sentence)):
        enhance(load_enhance_config({"inputs": [str(tmp_path / "in")], "output": str(tmp_path / "out"), **settings}))


def test_the_digest_follows_the_ladder() -> None:
    def digest(**settings: Any) -> str:
        return enhance_digest(load_enhance_config({"inputs": ["a"], "output": "b", "container": "cmaf", **settings}))

    assert digest() == digest(heights="360,480,720,1080") == digest(segment_seconds=4)
    assert len({digest(), digest(heights="720"), digest(segment_seconds=2)}) == 3


# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("local_ray")
def test_an_archive_on_s3_becomes_ladders_that_play_in_a_browser(
    moto_s3: MotoServer, clips: LazyClips, tmp_path: Path
) -> None:
    bucket = moto_s3()
    make_video(tmp_path / "long.mp4", num_frames=150, gop=25, with_sound=True)
    storage.put(f"{bucket}/in/long.mp4", (tmp_path / "long.mp4").read_bytes())
    storage.put(f"{bucket}/in/bad.mp4", b"\x00\x00\x00\x18ftypmp42" + bytes(1000))
    settings: dict[str, Any] = {
        "steps": "none", "container": "cmaf", "heights": (240, 120), "segment_seconds": 1, "preset": "veryfast",
        "clip_seconds": 2, "long_video_mb": 0, "max_failed_share": 0.5,
    }  # fmt: skip
    moto_s3.forget()
    result = vidbatch.enhance(f"{bucket}/in", output=f"{bucket}/out", **settings)
    assert dict(result.record.by_status) == {"ok": 1, "failed": 1}
    _, row = rows(f"{bucket}/out")
    assert (row["num_frames"], row["output_heights"], row["changes"]) == (150, [240, 120], [])
    place = row["output_url"].rpartition("/")[0]
    written = [url.rpartition("/")[2] for url in storage.list_files(place)]
    assert sorted(written) == ["manifest.mpd", "master.m3u8", "media_0.m3u8", "media_1.m3u8", "media_2.m3u8",
                               "stream_0.mp4", "stream_1.mp4", "stream_2.mp4"]  # fmt: skip
    assert row["output_size_bytes"] == sum(len(storage.read_bytes(f"{place}/{name}")) for name in written)
    assert moto_s3.paths("PUT", "/media/")[-1].endswith("/master.m3u8"), "what names the others is written last"
    head = moto_s3.client().head_object(
        Bucket=bucket.removeprefix("s3://"), Key=row["output_url"].removeprefix(f"{bucket}/")
    )
    assert head["ContentType"] == "application/vnd.apple.mpegurl"

    def publish(page: bytes) -> str:
        client, name = moto_s3.client(), bucket.removeprefix("s3://")
        client.put_object(Bucket=name, Key="out/page.html", Body=page, ContentType="text/html")
        for url in storage.list_files(f"{bucket}/out"):
            client.put_object_acl(Bucket=name, Key=url.removeprefix(f"{bucket}/"), ACL="public-read")
        return f"{bucket}/out/page.html".replace("s3:/", moto_s3.endpoint)

    played = play(row["output_url"].replace("s3:/", moto_s3.endpoint), tmp_path, publish)
    assert "error" not in played, played
    assert played["seconds"] == pytest.approx(6, abs=0.1)
    assert played["frames"] == pytest.approx(150, abs=8)
    assert played["sound_bytes"] > 0
    sizes = {(width, height) for _, width, height in played["seen"]}
    assert sizes <= {(320, 240), (160, 120)}
    assert vidbatch.enhance(f"{bucket}/in", output=f"{bucket}/out", **settings).record.state == "nothing_to_do"
