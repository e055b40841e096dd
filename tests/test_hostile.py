"""Whatever a stranger's file holds, it is a row: no crash of a run, bounded time and memory, nothing else opened."""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from bombs import BOMBS
from clips import LazyClips
from decoding import SMALL, clip_row, config, together, work
from hostile import hostile_file, hostile_shard

from vidbatch import storage
from vidbatch.config import LabelConfig
from vidbatch.decode import Decoder, plan
from vidbatch.errors import ERROR_KINDS, VideoError
from vidbatch.source import DoneVideos, read_work
from vidbatch.testing import make_video

NUM_QUICK, NUM_ALL = 50, 2000
TIMEOUT_SECONDS, MEMORY_MB = 20.0, 1024


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    made = Decoder(
        config(
            sampling="all",
            decode_timeout_seconds=TIMEOUT_SECONDS,
            decode_memory_mb=MEMORY_MB,
            max_pixels=4096 * 2304,
            max_duration_seconds=600,
        ),
        SMALL,
    )
    yield made
    made.close()


def assert_all_are_rows(decoder: Decoder, numbers: range, clips: LazyClips, folder: Path) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for number in numbers:
        path = hostile_file(number, clips, folder)
        began = time.monotonic()
        [clip] = together(decoder(work([clip_row(path)])), SMALL)
        took_seconds = time.monotonic() - began
        assert clip.error_kind is None or clip.error_kind in ERROR_KINDS, path.name
        assert clip.error_kind != "worker", (path.name, clip.last["error_message"])
        assert clip.error_kind is not None or len(clip.frames) > 0, path.name
        assert str(folder) not in (clip.last["error_message"] or "")
        assert took_seconds < 2 * TIMEOUT_SECONDS + 20, path.name
        kinds[clip.error_kind or "ok"] += 1
        path.unlink()
        assert peak_mb(decoder) < MEMORY_MB + 500, path.name
    return kinds


def peak_mb(decoder: Decoder) -> float:
    """Most memory that the present child process has taken since it began."""
    status = Path(f"/proc/{decoder._process.pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def test_fifty_hostile_files_are_fifty_rows(decoder: Decoder, clips: LazyClips, tmp_path: Path) -> None:
    kinds = assert_all_are_rows(decoder, range(NUM_QUICK), clips, tmp_path)
    assert kinds.total() == NUM_QUICK
    assert len(kinds) >= 3  # they do differ


@pytest.mark.long
def test_two_thousand_hostile_files_are_as_many_rows(decoder: Decoder, clips: LazyClips, tmp_path: Path) -> None:
    kinds = assert_all_are_rows(decoder, range(NUM_QUICK, NUM_ALL), clips, tmp_path)
    print(dict(kinds))
    assert kinds.total() == NUM_ALL - NUM_QUICK


def test_five_hundred_hostile_shards_are_clips_or_say_what_is_wrong(tmp_path: Path) -> None:
    kinds: Counter[str] = Counter()
    for number in range(500):
        path = hostile_shard(number, tmp_path)
        wanted = LabelConfig(inputs=(str(path),), output=str(tmp_path / "output"))
        began = time.monotonic()
        walked, kept = (list(read_work(wanted, DoneVideos(), lambda clip: [clip], part=0, num_parts=1)) for _ in "12")
        assert walked == kept  # whether it is walked, or what the first walk kept is read
        assert time.monotonic() - began < 10, path.name
        clips = [clip for table in walked for clip in table["clips"][0].as_py()]
        assert clips, path.name
        for clip in clips:
            kinds[clip["error_kind"] or "ok"] += 1
            assert clip["error_kind"] is None or clip["error_message"]
            if clip["error_kind"] is None:
                with suppress(VideoError), storage.open_clip(clip) as stream:
                    assert len(stream.read(2000)) <= max(0, clip["size_bytes"])
        path.unlink()
    assert {"ok", "corrupt", "truncated", "unsupported"} <= kinds.keys()
    assert {path.name for path in tmp_path.iterdir()} <= {"output"}  # nothing was unpacked


# --- files that are more than they seem -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bombs")
    made = {}
    for maker in BOMBS:
        data = maker(folder)
        assert len(data) < 100_000, maker.__name__
        made[maker.__name__] = folder / maker.__name__
        made[maker.__name__].write_bytes(data)
    return made


@pytest.mark.parametrize("sampling", ["all", "fps=1", "count=8"])
def test_a_bomb_is_a_row_in_little_time_and_memory(bombs: dict[str, Path], sampling: str) -> None:
    settings = config(sampling=sampling, decode_timeout_seconds=TIMEOUT_SECONDS, decode_memory_mb=512)
    decoder = Decoder(settings, SMALL)
    for maker, kinds in BOMBS.items():
        path = bombs[maker.__name__]
        row = clip_row(path, size_bytes=path.stat().st_size)
        began = time.monotonic()
        [clip] = together(decoder(work([row])), SMALL)
        assert (clip.error_kind or "ok") in kinds, (maker.__name__, clip.last["error_message"])
        assert (clip.error_kind is None) == (len(clip.frames) > 0 and not clip.last["error_message"])
        assert len(plan(row, settings)) == 1, maker.__name__
        assert time.monotonic() - began < TIMEOUT_SECONDS, maker.__name__
        assert peak_mb(decoder) < (600 if "memory" in kinds else 250), maker.__name__
    decoder.close()


def test_a_day_of_black_is_as_long_as_is_allowed(bombs: dict[str, Path]) -> None:
    """The bound is what refused it: with a wider one it is a video like any other."""
    for seconds, kind in ((99_000, "bounds"), (200_000, None)):
        decoder = Decoder(config(sampling="all", max_duration_seconds=seconds), SMALL)
        [clip] = together(decoder(work([clip_row(bombs["a_day_of_black"])])), SMALL)
        decoder.close()
        assert clip.error_kind == kind
    assert len(clip.frames) == 100


# --- files that ask for others ----------------------------------------------------------------------------------------

REFERRING = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2,\n{path}\n#EXT-X-ENDLIST\n",
    "hls-by-url": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2,\nfile://{path}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{path}'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT2S">'
    '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>file://{path}</BaseURL>'
    "<SegmentBase/></Representation></AdaptationSet></Period></MPD>",
    "session": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\na=control:file://{path}\nm=video 0 RTP/AVP 96\n",
    "smil": '<smil><body><video src="file://{path}"/></body></smil>',
    "reference-movie": "rtsptextfile://{path}\n",
    "image-sequence": "{path}\n" * 10,
}
_IN_OPEN, _IN_NONBLOCK = 0x20, 0o4000


class OpensOf:
    """Counts how often anybody opens a file, by the kernel's word (inotify)."""

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(_IN_NONBLOCK)
        assert libc.inotify_add_watch(self._descriptor, os.fsencode(path), _IN_OPEN) > 0

    def count(self) -> int:
        """Opens since the last time of asking."""
        try:
            return len(os.read(self._descriptor, 2**16)) // 16  # an event of a watched file has no name: 16 bytes
        except BlockingIOError:
            return 0

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "mov"])
@pytest.mark.parametrize("kind", REFERRING)
def test_a_file_that_asks_for_another_gets_nothing(decoder: Decoder, tmp_path: Path, kind: str, suffix: str) -> None:
    secret, path = tmp_path / "secret.mp4", tmp_path / f"innocent.{suffix}"
    make_video(secret, num_frames=20)
    path.write_text(REFERRING[kind].format(path=secret))
    opens = OpensOf(secret)
    secret.read_bytes()
    assert opens.count() == 1  # the watch works
    [clip] = together(decoder(work([clip_row(path)])), SMALL)
    found = opens.count()
    opens.close()
    assert found == 0
    assert clip.error_kind is not None
    assert len(clip.frames) == 0


def test_a_movie_whose_pictures_lie_in_another_file_gets_nothing(decoder: Decoder, tmp_path: Path) -> None:
    """A QuickTime data reference: the index of a good movie says that its data are elsewhere."""
    secret, path = tmp_path / "secret.mov", tmp_path / "innocent.mov"
    make_video(secret, num_frames=20)
    data = secret.read_bytes()
    name = str(secret).encode()
    volume = b"\0" * 6 + struct.pack(">I", 0)
    alias = struct.pack(">4sI", b"\0\0\0\0", 0)[:8] + struct.pack(">HH", 150, 2) + volume + bytes(130)
    record = alias + struct.pack(">HH", 2, len(name)) + name + bytes(len(name) % 2) + struct.pack(">hH", -1, 0)
    at = data.index(b"dref")
    old_size = struct.unpack(">I", data[at - 4 : at])[0]
    entry = struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record
    new = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    data = data[: at - 4] + new + data[at - 4 + old_size :]
    grown = len(new) - old_size
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        place = data.index(kind) - 4
        size = struct.unpack(">I", data[place : place + 4])[0]
        data = data[:place] + struct.pack(">I", size + grown) + data[place + 4 :]
    path.write_bytes(data)
    opens = OpensOf(secret)
    [clip] = together(decoder(work([clip_row(path)])), SMALL)
    found = opens.count()
    opens.close()
    assert found == 0
    assert clip.error_kind is not None or len(clip.frames) == 20  # its own data, or none
