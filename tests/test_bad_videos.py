"""Every way a video can be bad ends as one row with the right reason; what is good before the damage is kept."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from decoding import SPEC, VIDEO_NAMES, VIDEOS, Decoded, clip_row, config, together, video_file, work

from vidbatch.decode import Decoder
from vidbatch.errors import ERROR_KINDS
from vidbatch.testing import make_video, read_stamp

Decode = Callable[..., Decoded]


@pytest.fixture(scope="module")
def decode() -> Iterator[Decode]:
    """Decodes one file in a process that all tests here share: what one bad file does must not hurt the next."""
    decoders: dict[str, Decoder] = {}

    def run(path: Path, sampling: str = "all", **columns: object) -> Decoded:
        decoder = decoders.get(sampling) or Decoder(config(sampling=sampling), SPEC)
        decoders[sampling] = decoder
        [clip] = together(decoder(work([clip_row(path, **columns)])), SPEC)
        assert clip.error_kind is None or clip.error_kind in ERROR_KINDS
        assert clip.error_kind is None or clip.last["error_message"]
        assert clip.error_kind is not None or len(clip.frames) > 0
        return clip

    yield run
    for decoder in decoders.values():
        decoder.close()


def ffmpeg(folder: Path, *arguments: str) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *arguments], cwd=folder, check=True)


def assert_first_frames(clip: Decoded, at_least: int, at_most: int) -> None:
    """The frames kept are the video's first ones, each the right one."""
    assert at_least <= len(clip.frames) <= at_most
    assert [read_stamp(frame)[1] for frame in clip.frames] == list(range(len(clip.frames)))


NOT_VIDEOS = {
    "random": np.random.default_rng(1).bytes(100_000),
    "few-random": np.random.default_rng(2).bytes(17),
    "zeros": bytes(100_000),
    "text": b"The quick brown fox jumps over the lazy dog.\n" * 500,
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "json": b'{"error": "no such video"}',
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(5000),
    "zip": b"PK\x03\x04" + bytes(5000),
    "gzip": gzip.compress(bytes(5000)),
    "subtitles": b"1\n00:00:01,000 --> 00:00:02,000\nhello\n\n" * 50,
    "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "session": b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nm=video 5000 RTP/AVP 96\r\n",
    "dash": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile"></MPD>',
}


@pytest.mark.parametrize("name", NOT_VIDEOS)
def test_what_is_no_video_is_called_so(tmp_path: Path, decode: Decode, name: str) -> None:
    (tmp_path / "v.mp4").write_bytes(NOT_VIDEOS[name])
    assert decode(tmp_path / "v.mp4").error_kind == "not_a_video"


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tiff"])
def test_a_still_image_is_not_a_video(tmp_path: Path, decode: Decode, suffix: str) -> None:
    ffmpeg(tmp_path, "-f", "lavfi", "-i", "testsrc=d=0.04:r=25", "-frames:v", "1", f"image.{suffix}")
    (tmp_path / f"image.{suffix}").rename(tmp_path / "v.mp4")
    assert decode(tmp_path / "v.mp4").error_kind == "not_a_video"


def test_an_animation_is_a_video(tmp_path: Path, decode: Decode) -> None:
    ffmpeg(tmp_path, "-f", "lavfi", "-i", "testsrc=d=1:r=10", "v.gif")
    clip = decode(tmp_path / "v.gif")
    assert (clip.error_kind, len(clip.frames)) == (None, 10)


def test_an_empty_object_is_called_empty(tmp_path: Path, decode: Decode) -> None:
    (tmp_path / "v.mp4").touch()
    assert decode(tmp_path / "v.mp4").error_kind == "empty"


def test_a_missing_object_is_called_missing(tmp_path: Path, decode: Decode) -> None:
    assert decode(tmp_path / "nowhere.mp4").error_kind == "missing"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_object_is_called_so(tmp_path: Path, decode: Decode) -> None:
    make_video(tmp_path / "v.mp4", num_frames=2)
    (tmp_path / "v.mp4").chmod(0)
    assert decode(tmp_path / "v.mp4").error_kind == "permission"


@pytest.mark.parametrize("name", ["a.mp3", "a.wav", "a.flac", "a.ogg", "a.m4a", "a.mka", "a.aac", "a.ts", "a.wma"])
def test_sound_without_pictures_is_called_audio_only(tmp_path: Path, decode: Decode, name: str) -> None:
    ffmpeg(tmp_path, "-f", "lavfi", "-i", "sine=d=2", *(["-c:a", "mp2"] if name == "a.ts" else []), name)
    assert decode(tmp_path / name).error_kind == "audio_only"


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a"])
def test_cover_art_does_not_make_music_a_video(tmp_path: Path, decode: Decode, name: str) -> None:
    sources = ["-f", "lavfi", "-i", "sine=d=2", "-f", "lavfi", "-i", "testsrc=d=0.04:r=25"]
    ffmpeg(tmp_path, *sources, "-map", "0", "-map", "1", "-c:v", "mjpeg", "-disposition:v", "attached_pic", name)
    assert decode(tmp_path / name).error_kind == "audio_only"


def test_a_container_of_subtitles_has_no_video_stream(tmp_path: Path, decode: Decode) -> None:
    (tmp_path / "s.srt").write_bytes(NOT_VIDEOS["subtitles"])
    ffmpeg(tmp_path, "-i", "s.srt", "-c:s", "srt", "v.mkv")
    assert decode(tmp_path / "v.mkv").error_kind == "no_video_stream"


def test_an_unknown_codec_is_called_unsupported(tmp_path: Path, decode: Decode) -> None:
    make_video(tmp_path / "v.mp4", num_frames=5)
    data = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "v.mp4").write_bytes(data.replace(b"avc1", b"zzz1").replace(b"avcC", b"zzzC"))
    assert decode(tmp_path / "v.mp4").error_kind == "unsupported"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_pixels": 320 * 240 - 1}, "320x240"),
        ({"max_duration_seconds": 1.9}, "2 s long"),
        ({"max_packets": 49}, "49 packets"),
    ],
)
def test_bounds_are_kept_before_decoding(tmp_path: Path, settings: dict[str, float], message: str) -> None:
    make_video(tmp_path / "v.mp4", num_frames=50)
    decoder = Decoder(config(sampling="all", **settings), SPEC)
    [clip] = together(decoder(work([clip_row(tmp_path / "v.mp4")])), SPEC)
    decoder.close()
    assert (clip.error_kind, clip.last["num_frames_decoded"]) == ("bounds", 0)
    assert message in clip.last["error_message"]


def test_bounds_are_kept_when_pictures_grow_midway(tmp_path: Path) -> None:
    make_video(tmp_path / "0.ts", num_frames=20)
    make_video(tmp_path / "1.ts", num_frames=20, width=640, height=480, start_ticks=20)
    (tmp_path / "v.ts").write_bytes((tmp_path / "0.ts").read_bytes() + (tmp_path / "1.ts").read_bytes())
    decoder = Decoder(config(sampling="all", max_pixels=320 * 240), SPEC)
    [clip] = together(decoder(work([clip_row(tmp_path / "v.ts")])), SPEC)
    decoder.close()
    assert clip.error_kind == "bounds"
    assert_first_frames(clip, 18, 20)


def test_bounds_hold_where_the_container_counts_no_packets_and_tells_no_duration(tmp_path: Path) -> None:
    make_video(tmp_path / "v.ts", num_frames=100)
    for settings in ({"max_packets": 60}, {"max_duration_seconds": 2.0}):
        decoder = Decoder(config(sampling="all", **settings), SPEC)
        [clip] = together(decoder(work([clip_row(tmp_path / "v.ts")])), SPEC)
        decoder.close()
        assert clip.error_kind == "bounds"
        assert_first_frames(clip, 45, 60)


@pytest.fixture(scope="module", params=VIDEOS, ids=VIDEO_NAMES)
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    codec, suffix, options = request.param
    if codec == "libx264":  # or it gives other bytes each time, and damage is where it may not be noticed
        options = {**options, "options": {"threads": "1", "x264-params": "mbtree=0"}}
    path = video_file(tmp_path_factory.mktemp("video"), codec, suffix, options, num_frames=100, gop=20)
    return f"{codec}.{suffix}", path.read_bytes()


@pytest.mark.parametrize("share", [0.5, 0.93])
def test_a_truncated_video_keeps_the_frames_before_its_end(
    tmp_path: Path, decode: Decode, good: tuple[str, bytes], share: float
) -> None:
    name, data = good
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * share) // 188 * 188 + 100])  # inside a packet of a transport stream
    clip = decode(path)
    assert clip.error_kind == "truncated", clip.last["error_message"]
    if name.endswith((".mp4", ".mov")):
        assert len(clip.frames) == 0  # the index is at the end, and gone
    else:
        assert_first_frames(clip, int(100 * share) - 35, int(100 * share) + 12)


@pytest.mark.parametrize("layout", ["faststart", "frag_keyframe+empty_moov"])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "mpeg4"])
def test_a_truncated_mp4_whose_index_comes_first_keeps_its_frames(
    tmp_path: Path, decode: Decode, codec: str, layout: str
) -> None:
    path = tmp_path / "v.mp4"
    make_video(path, codec=codec, num_frames=100, gop=10, container_options={"movflags": layout})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    clip = decode(path)
    assert clip.error_kind == "truncated"
    assert_first_frames(clip, 30, 75)


def test_a_few_first_bytes_of_a_video_are_a_truncated_video(
    tmp_path: Path, decode: Decode, good: tuple[str, bytes]
) -> None:
    name, data = good
    for size in (60, 1000):
        path = tmp_path / f"{size}-{name}"
        path.write_bytes(data[:size])
        clip = decode(path)
        few_to_tell = size == 60 and name.endswith(".ts")
        assert clip.error_kind == ("not_a_video" if few_to_tell else "truncated"), (size, clip.last["error_message"])
        assert len(clip.frames) <= 1


# Entropy coding that takes any bits for good ones, and no checksum: nothing tells a changed byte from a right one.
BLIND = ("libvpx", "libx265", "libvpx-vp9", "mjpeg", "prores", "flv", "mpeg4", "libsvtav1")


def test_damage_in_the_middle_keeps_the_frames_before_it(
    tmp_path: Path, decode: Decode, good: tuple[str, bytes]
) -> None:
    name, data = good
    # Not 16 packets of a transport stream: their numbers have four bits, so that exactly 16 lost ones are not missed.
    middle, noise = int(len(data) * 0.55), np.random.default_rng(3).bytes(2000)
    damaged = {
        "noise": data[:middle] + noise + data[middle + len(noise) :],
        "zeros": data[:middle] + bytes(4096) + data[middle + 4096 :],
    }
    if not name.endswith((".mp4", ".mov")):  # there the index would be torn from what it points to
        damaged["hole"] = data[:middle] + data[middle + 1500 :]
    kinds = set()
    for damage, content in damaged.items():
        path = tmp_path / f"{damage}-{name}"
        path.write_bytes(content)
        clip = decode(path)
        kinds.add(clip.error_kind)
        assert [read_stamp(frame)[1] for frame in clip.frames[:40]] == list(range(40)), damage
        if clip.error_kind is not None:
            assert clip.error_kind == "corrupt", damage
            assert len(clip.frames) <= 70, damage
        if not name.startswith(BLIND) and name != "libx264.avi":  # its frames carry no times to put them in order by
            assert_first_frames(clip, 40, 70)
    assert name.startswith(BLIND) or kinds == {"corrupt"}


def test_damage_that_opening_a_container_has_read_across_is_noticed_where_it_lies(
    tmp_path: Path, decode: Decode
) -> None:
    path = tmp_path / "v.flv"
    make_video(path, num_frames=100, gop=20, options={"preset": "ultrafast", "threads": "1"})
    data = bytearray(path.read_bytes())
    middle = int(len(data) * 0.55)
    data[middle : middle + 2000] = np.random.default_rng(3).bytes(2000)
    path.write_bytes(data)
    clip = decode(path)
    assert clip.error_kind == "corrupt"
    assert_first_frames(clip, 40, 70)


def test_what_was_predicted_from_a_damaged_picture_is_not_given(tmp_path: Path, decode: Decode) -> None:
    """A P picture's damage shows when it is shown, after the B pictures that were predicted from it."""
    path = tmp_path / "v.mkv"
    make_video(path, num_frames=120, gop=120, b_frames=3, width=640, height=480, options={"b-pyramid": "strict"})
    data = path.read_bytes()
    rng = np.random.default_rng(6)
    for place in np.linspace(0.3, 0.9, 13):
        middle = int(len(data) * place)
        path.write_bytes(data[:middle] + rng.bytes(60) + data[middle + 60 :])
        clip = decode(path)
        assert clip.error_kind == "corrupt"
        assert_first_frames(clip, 10, 119)


def test_the_process_is_none_the_worse_for_all_of_these(tmp_path: Path, decode: Decode) -> None:
    make_video(tmp_path / "v.mp4", num_frames=10)
    clip = decode(tmp_path / "v.mp4")
    assert (clip.error_kind, clip.stamps) == (None, list(range(10)))


def test_a_recording_that_begins_between_keyframes_is_good_from_the_first_keyframe_on(
    tmp_path: Path, decode: Decode
) -> None:
    for codec in ("libx264", "libx265", "mpeg2video"):
        path = tmp_path / f"{codec}.ts"
        make_video(path, codec=codec, num_frames=100, gop=25, b_frames=2, container_options={"pat_period": "0.1"})
        data = path.read_bytes()
        path.write_bytes(data[int(len(data) * 0.4) // 188 * 188 :])
        clip = decode(path)
        assert clip.error_kind is None, codec
        stamps = clip.stamps
        assert stamps == list(range(stamps[0], 100)), codec
        assert 25 <= stamps[0] <= 75, codec


def test_damage_to_the_first_keyframe_is_not_taken_for_such_a_beginning(tmp_path: Path, decode: Decode) -> None:
    for codec in ("libx264", "mpeg2video"):
        path = tmp_path / f"{codec}.ts"
        make_video(path, codec=codec, num_frames=60, gop=20)
        data = path.read_bytes()
        path.write_bytes(data[: 188 * 8] + np.random.default_rng(4).bytes(188 * 4) + data[188 * 12 :])
        clip = decode(path)
        assert (clip.error_kind, len(clip.frames)) == ("corrupt", 0), codec


def test_messages_hold_neither_paths_nor_queries(tmp_path: Path, decode: Decode) -> None:
    (tmp_path / "secret-name.mp4").write_bytes(b"x" * 1000)
    message = decode(tmp_path / "secret-name.mp4").last["error_message"]
    assert "secret" not in message
    assert str(tmp_path) not in message


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize("sampling", ["all", "fps=5", "keyframes"])
def test_a_keyframe_of_which_nothing_is_left_but_its_packet_is_no_endless_search(
    tmp_path: Path, suffix: str, sampling: str
) -> None:
    """Its slice header is damaged, and no picture comes of it: the first frame is not the one that packets tell of."""
    path = tmp_path / f"v.{suffix}"
    make_video(path, num_frames=20, gop=20, b_frames=2, options={"threads": "1"})
    data = bytearray(path.read_bytes())
    data[data.index(b"\x65\x88") + 3] ^= 0x80
    path.write_bytes(data)
    decoder = Decoder(config(sampling=sampling, decode_timeout_seconds=20), SPEC)
    [clip] = together(decoder(work([clip_row(path, num_clips=1)])), SPEC)
    decoder.close()
    assert clip.error_kind in (None, "corrupt"), clip.last["error_message"]


@pytest.mark.parametrize("sampling", ["all", "fps=5", "keyframes"])
def test_fuzzed_videos_never_escape_as_exceptions(
    tmp_path: Path, decode: Decode, good: tuple[str, bytes], sampling: str
) -> None:
    """Twenty random mutations of each format; whatever they do is a row, and the process lives."""
    name, data = good
    rng = np.random.default_rng([ord(letter) for letter in name])
    for number in range(20):
        mutated = bytearray(data)
        for place in rng.integers(0, len(data) if number % 2 else 2000, 30):
            mutated[place] = rng.integers(256)
        path = tmp_path / f"{number}-{name}"
        path.write_bytes(mutated)
        clip = decode(path, sampling, num_clips=1)
        assert clip.error_kind not in ("worker", "decoder_crashed", "timeout"), clip.last["error_message"]
        path.unlink()
