"""Archives of every kind in, clips still to do out: on real files, real shards and a real S3."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from servers import HttpServer, MotoServer
from tars import make_tar

from vidbatch import blocks, publish, schema, source, storage
from vidbatch.config import LabelConfig
from vidbatch.errors import ERROR_KINDS, ConfigError
from vidbatch.schema import CLIP, WORK

MIB = 2**20
NOTHING = source.DoneVideos()


def config(*inputs: object, **settings: Any) -> LabelConfig:
    return LabelConfig(inputs=tuple(map(str, inputs)), output="unused", **settings)


def pending(*inputs: object, done: source.DoneVideos = NOTHING, **settings: Any) -> list[source.Clip]:
    """All clips, each of them proved to fit the table it will travel in."""
    clips = list(source.iter_pending(config(*inputs, **settings), done))
    table = pa.Table.from_pylist(clips, schema=pa.schema(CLIP))
    assert table.to_pylist() == clips
    for clip in clips:
        assert clip["video_id"] == source.video_id(clip["url"], clip["member"])
        assert (clip["clip_index"], clip["num_clips"]) == (0, 1)
        assert clip["error_kind"] is None or clip["error_kind"] in ERROR_KINDS
    assert len({clip["video_id"] for clip in clips}) == len(clips)
    return clips


def names(clips: list[source.Clip], root: object) -> list[str]:
    below = storage.normalise(str(root))
    return [
        clip["url"].removeprefix(below).lstrip("/") + (f"|{clip['member']}" if clip["member"] else "") for clip in clips
    ]


def content(clip: source.Clip) -> bytes:
    with storage.open_clip(clip) as stream:
        return stream.read()


@pytest.fixture(params=["disk", "moto", "seaweed"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "archive")
    return f"{request.getfixturevalue(f'{request.param}_s3')()}/archive"


# --- listings -------------------------------------------------------------------------------------------------------

VIDEOS = ["a.mp4", "b/UPPER.MP4", "b/c.unknown", "b/no_extension", "ü #1 %41.mkv", "film.gif", "x.ts"]
OTHERS = ["a.json", "a.txt", "b/photo.JPG", "part-0.parquet", ".hidden.mp4", ".git/x.mp4", "b/sound.mp3", "x.tar.xz"]


def test_a_folder_gives_its_videos_and_nothing_else(place: str) -> None:
    for name in [*VIDEOS, *OTHERS]:
        storage.put(storage.join(place, name), name.encode())
    clips = pending(place)
    assert sorted(names(clips, place)) == sorted(VIDEOS)
    for clip, name in zip(clips, names(clips, place), strict=True):
        assert content(clip) == name.encode()
        assert clip["size_bytes"] == len(name.encode())
        assert clip["content_version"] == storage.stat(clip["url"]).content_version
        assert clip["times"] is clip["metadata"] is clip["error_kind"] is None


def test_what_is_named_is_always_tried(tmp_path: Path) -> None:
    (tmp_path / ".secret").mkdir()
    for name in ("a.txt", ".b.mp4", ".secret/c.json"):
        (tmp_path / name).write_bytes(b"1")
    assert len(pending(tmp_path / "a.txt", tmp_path / ".b.mp4", tmp_path / ".secret" / "c.json")) == 3
    assert pending(tmp_path) == []
    assert names(pending(f"{tmp_path}/*"), tmp_path) == []


def test_an_archive_inside_a_hidden_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / ".cache" / "clips").mkdir(parents=True)
    (tmp_path / ".cache" / "clips" / "a.mp4").write_bytes(b"1")
    for given in (".cache", ".cache/clips", ".cache/*", ".cache/clips/*.mp4"):
        assert names(pending(tmp_path / given), tmp_path) == [".cache/clips/a.mp4"]


def test_the_same_video_given_twice_is_worked_on_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        (tmp_path / f"{number}.mp4").write_bytes(b"1")
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"url\n0.mp4\n{tmp_path}/1.mp4\nfile://{tmp_path}/1.mp4\n./x/../2.mp4\n")
    with caplog.at_level(logging.WARNING):
        clips = pending(tmp_path, tmp_path / "0.mp4", f"{tmp_path}/*.mp4", manifest)
    assert sorted(names(clips, tmp_path)) == ["0.mp4", "1.mp4", "2.mp4"]
    assert "8 videos were given more than once" in caplog.text


def test_a_video_has_one_identity_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    spellings = ("a.mp4", "./a.mp4", ".", "~", "~/a.mp4", f"file://{tmp_path}", f"{tmp_path}/*.mp4")
    ids = {pending(each)[0]["video_id"] for each in spellings}
    assert ids == {source.video_id(f"file://{tmp_path}/a.mp4", None)}


def test_identities_do_not_collide_and_never_change() -> None:
    assert source.video_id("s3://b/k", None) == "9a391bd2fb590db497c5398fe6e07850"
    assert source.video_id("s3://b/k", "m") != source.video_id("s3://b/km", None)
    assert source.video_id("s3://b/k", "") == source.video_id("s3://b/k", None)
    assert len(source.done_key("a", "b")) == 16
    assert source.done_key("a", "b") != source.done_key("ab", "")


def test_a_limit_ends_the_search(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number:02}.mp4").write_bytes(b"1")
    assert names(pending(tmp_path, limit=3), tmp_path) == ["00.mp4", "01.mp4", "02.mp4"]
    done = done_with(pending(tmp_path, limit=3))
    assert names(pending(tmp_path, limit=2, done=done), tmp_path) == ["03.mp4", "04.mp4"]
    assert len(pending(tmp_path, limit=100)) == 30


@pytest.mark.parametrize("kind", ["missing", "glob", "bucket", "shard", "manifest"])
def test_an_input_that_does_not_exist_is_named_before_anything_is_found(
    tmp_path: Path, moto_s3: MotoServer, kind: str
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    wrong = {
        "missing": f"{tmp_path}/nothing",
        "glob": f"{tmp_path}/*.mkv",
        "bucket": "s3://never-made/x",
        "shard": f"{tmp_path}/no.tar",
        "manifest": f"{moto_s3()}/no.csv",
    }[kind]
    with pytest.raises(ConfigError, match="does not exist") as caught:
        next(source.iter_pending(config(tmp_path, wrong), NOTHING))
    assert wrong in str(caught.value)


# --- shards ---------------------------------------------------------------------------------------------------------

SHARD = {
    "0001.json": b'{"caption": "caf\xc3\xa9", "nan": NaN}',
    "0001.mp4": b"one",
    "0001.txt": b" one caption \n",
    "0002.mp4": b"two",
    "0002.cls": b"7\n",
    "deep/er/0003.left.mkv": b"left",
    "deep/er/0003.right.mkv": b"right",
    "deep/er/0003.json": b'"both"',
    "deep/er/0003.left.txt": b"only left",
    "./0004.webm": b"four",
    "../evil.mp4": b"evil",
    "/etc/passwd.mp4": b"absolute",
    "2024.01.05-a.mp4": b"a",
    "2024.01.05-a.json": b"1",
    "2024.01.05-b.mp4": b"b",
    "2024.01.05-b.json": b"not json {",
    "._0001.mp4": b"apple",
    "cover.jpg": b"picture",
    f"{'long/' * 60}ü name.mp4": b"long",
}
SHARD_VIDEOS = {
    "0001.mp4": {"json": {"caption": "café", "nan": None}, "txt": "one caption"},
    "0002.mp4": {"cls": 7},
    "deep/er/0003.left.mkv": {"json": "both", "txt": "only left"},
    "deep/er/0003.right.mkv": {"json": "both"},
    "./0004.webm": None,
    "../evil.mp4": None,
    "/etc/passwd.mp4": None,
    "2024.01.05-a.mp4": {"json": 1},
    "2024.01.05-b.mp4": {"json": "not json {"},
    f"{'long/' * 60}ü name.mp4": None,
}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".TAR"])
def test_a_shard_gives_its_members_with_what_their_sidecars_say(place: str, tmp_path: Path, suffix: str) -> None:
    make_tar(tmp_path / "shard", SHARD, "w:gz" if suffix.endswith("gz") else "w")
    url = storage.join(place, f"shard{suffix}")
    storage.put(url, (tmp_path / "shard").read_bytes())
    before = sorted(path for path in tmp_path.rglob("*"))
    for given in (url, place):
        clips = pending(given)
        assert [clip["member"] for clip in clips] == list(SHARD_VIDEOS)
        for clip in clips:
            assert clip["url"] == storage.normalise(url)
            assert clip["etag"] == storage.stat(url).etag
            assert clip["content_version"] == storage.stat(url).content_version
            expected = SHARD_VIDEOS[clip["member"]]
            assert (json.loads(clip["metadata"]) if clip["metadata"] else None) == expected
            assert content(clip) == SHARD[clip["member"]]
            assert clip["size_bytes"] == len(SHARD[clip["member"]])
            assert (clip["member_offset"] is None) == suffix.endswith("gz")
    assert sorted(path for path in tmp_path.rglob("*")) == before  # nothing was written anywhere


def test_a_gzipped_shard_under_a_plain_name_is_recognised(tmp_path: Path) -> None:
    make_tar(tmp_path / "shard.tar", {"a.mp4": b"1"}, "w:gz")
    [clip] = pending(tmp_path)
    assert clip["member_offset"] is None
    assert content(clip) == b"1"


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_is_read(tmp_path: Path, format_: int) -> None:
    with tarfile.open(tmp_path / "s.tar", "w", format=format_) as tar:
        for name in ("a.mp4", "b/" * 40 + "c.mp4"):
            entry = tarfile.TarInfo(name)
            entry.size = 700
            tar.addfile(entry, io.BytesIO(name[:1].encode() * 700))
        folder = tarfile.TarInfo("folder.mp4")
        folder.type = tarfile.DIRTYPE
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        hard = tarfile.TarInfo("hard.mp4")
        hard.type, hard.linkname = tarfile.LNKTYPE, "a.mp4"
        for special in (folder, link, hard):
            tar.addfile(special)
        for kind in (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, b"Z"):
            special = tarfile.TarInfo(f"special-{kind[0]}.mp4")
            special.type = kind
            tar.addfile(special)
    clips = pending(tmp_path)
    assert [clip["member"] for clip in clips] == ["a.mp4", "b/" * 40 + "c.mp4"]
    assert [content(clip) for clip in clips] == [b"a" * 700, b"b" * 700]


STRANGE_NAMES = {
    "../../up.mp4": "../../up.mp4",
    "/etc/absolute.mp4": "/etc/absolute.mp4",
    "new\nline.mp4": "new\nline.mp4",
    "nul\0.mp4": "nul\0.mp4",
    "\x1b[31mred.mp4": "\x1b[31mred.mp4",
    "\udcff.mp4": "\\xff.mp4",
    "é" * 2000 + ".mp4": "é" * 2000 + ".mp4",
    "s.tar": "s.tar",
    "'; drop table videos; --.mp4": "'; drop table videos; --.mp4",
}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_strange_names_of_members_are_names_and_nothing_else(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "deep" / "er" / ("s.tar.gz" if mode == "w:gz" else "s.tar")
    path.parent.mkdir(parents=True)
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as tar:
        for number, name in enumerate(STRANGE_NAMES):
            entry = tarfile.TarInfo("in the old header")
            entry.pax_headers = {"path": name}
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"%d" % number))
    before = sorted(tmp_path.rglob("*"))
    clips = pending(path)
    assert [clip["member"] for clip in clips] == list(STRANGE_NAMES.values())
    assert [content(clip) for clip in clips] == [b"%d" % number for number in range(len(STRANGE_NAMES))]
    assert sorted(tmp_path.rglob("*")) == before


def test_names_that_are_not_unicode_and_names_given_twice(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in [("\udcff.mp4", b"1"), ("same.mp4", b"2"), ("same.mp4", b"3")]:
            entry = tarfile.TarInfo(name)
            entry.size = 1
            tar.addfile(entry, io.BytesIO(data))
    clips = pending(tmp_path)
    assert [clip["member"] for clip in clips] == ["\\xff.mp4", "same.mp4"]
    assert [content(clip) for clip in clips] == [b"1", b"2"]


BIG = {f"{number}.mp4": bytes([number]) * 100_000 for number in range(10)}


def damaged(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / ("s.tar.gz" if "gz" in kind else "s.tar")
    make_tar(path, BIG, "w:gz" if "gz" in kind else "w")
    data = bytearray(path.read_bytes())
    header = 5 * (512 + 100_352)
    match kind:
        case "empty" | "empty gz":
            data = bytearray()
        case "not a tar":
            data = bytearray(b"\1not a tar at all" * 1000)
        case "cut in a member":
            data = data[: header + 50_000]
        case "cut in a header":
            data = data[: header + 100]
        case "cut between members":
            data = data[:header]
        case "damaged header":
            data[header : header + 512] = b"\xff" * 512
        case "damaged size":
            data[header + 124 : header + 136] = b"\xff" * 12  # a negative number of bytes
        case "absurd size":
            entry = tarfile.TarInfo("x.mp4")
            entry.size = 2**80
            data[header : header + 512] = entry.tobuf(tarfile.GNU_FORMAT)
        case "absurd pax size":
            entry = tarfile.TarInfo("x.mp4")
            entry.pax_headers = {"size": str(2**80)}
            data[header:] = entry.tobuf(tarfile.PAX_FORMAT)
        case "negative metadata":
            entry = tarfile.TarInfo("x")
            entry.type, entry.size = tarfile.XHDTYPE, -(2**20)
            data[header : header + 512] = entry.tobuf(tarfile.GNU_FORMAT)
        case "map of holes without end":
            entry = tarfile.TarInfo("x.mp4")
            entry.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x.mp4"}
            entry.size = 5 * MIB
            data[header:] = entry.tobuf(tarfile.PAX_FORMAT) + b"1000000000\n" + b"10\n" * (5 * MIB // 3)
        case "huge metadata for all":
            for number in range(3):  # none alone is too much
                pax = tarfile.TarInfo.create_pax_global_header({f"key-{number}": "x" * (MIB // 2)})  # type: ignore[attr-defined]
                data[header + number * len(pax) :] = pax
            data += tarfile.TarInfo("x.mp4").tobuf()
        case "huge metadata":
            entry = tarfile.TarInfo("x")
            entry.type, entry.size = tarfile.XHDTYPE, 2**32
            data[header : header + 512] = entry.tobuf(tarfile.USTAR_FORMAT)[:512]
        case "metadata without end":
            entry = tarfile.TarInfo("x")
            entry.type = tarfile.XHDTYPE
            data[header:] = entry.tobuf(tarfile.USTAR_FORMAT) * 5000
        case "cut gz":
            data = data[: len(data) * 2 // 3]
        case "damaged gz":
            data[len(data) // 2 :] = bytes(len(data) // 2)
        case "no videos":
            make_tar(path, {"a.json": b"1", "readme.txt": b"2"})
            data = bytearray(path.read_bytes())
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("kind", "num_members", "error_kind"),
    [
        ("empty", 0, "empty"),
        ("empty gz", 0, "empty"),
        ("not a tar", 0, "corrupt"),
        ("no videos", 0, "empty"),
        ("cut in a member", 6, "truncated"),
        ("cut in a header", 5, "truncated"),
        ("cut between members", 5, "truncated"),
        ("damaged header", 5, "corrupt"),
        ("damaged size", 5, "corrupt"),
        ("absurd size", 5, "corrupt"),
        ("absurd pax size", 5, "corrupt"),
        ("negative metadata", 5, "corrupt"),
        ("map of holes without end", 5, "corrupt"),
        ("huge metadata for all", 5, "corrupt"),
        ("huge metadata", 5, "corrupt"),
        ("metadata without end", 5, "corrupt"),
        ("cut gz", None, "truncated"),
        ("damaged gz", None, "corrupt"),
    ],
)
def test_a_damaged_shard_is_one_failed_row_after_the_members_before_the_damage(
    tmp_path: Path, kind: str, num_members: int | None, error_kind: str
) -> None:
    path = damaged(tmp_path, kind)
    *members, broken = pending(path)
    assert broken["member"] is None
    assert broken["url"] == f"file://{path}"
    assert (broken["error_kind"], broken["size_bytes"]) == (error_kind, path.stat().st_size)
    assert broken["error_message"]
    assert [clip["member"] for clip in members] == [f"{number}.mp4" for number in range(len(members))]
    if num_members is None:
        assert len(members) < 10
    else:
        assert len(members) == num_members
        for clip in members[:5]:
            assert content(clip) == BIG[clip["member"]]
    if kind == "cut in a member":
        assert len(content(members[5])) < 100_000


NESTED = {"[": "]", '{"a":': "}"}


@pytest.mark.parametrize("opening", NESTED)
@pytest.mark.parametrize("levels", [50, 400, 600, 900, 980, 100_000])
@pytest.mark.parametrize("inmost", ["1", "NaN", '"\\ud800"'])
def test_however_deep_a_sidecar_is_its_video_is_found(tmp_path: Path, opening: str, levels: int, inmost: str) -> None:
    sidecar = opening * levels + inmost + NESTED[opening] * levels
    make_tar(tmp_path / "s.tar", {"a.mp4": b"1", "a.json": sidecar.encode()})
    wanted = config(tmp_path / "s.tar").model_copy(update={"output": str(tmp_path / "output")})
    for _ in range(2):  # walked, then by what the first walk kept
        [table] = source.read_work(wanted, NOTHING, never, part=0, num_parts=1)
        [clip] = table["clips"][0].as_py()
        assert (clip["member"], clip["error_kind"]) == ("a.mp4", None)
        assert clip["metadata"].startswith('{"json": ')
        if levels == 50:
            expected = sidecar.replace("NaN", "null")
            assert json.loads(clip["metadata"])["json"] == json.loads(expected)


def gigabytes_of_sidecars(path: Path, kind: str) -> int:
    """A small gzipped shard that says much; how many videos it holds."""
    sidecar = b'["' + bytes(MIB - 10).replace(b"\0", b"a") + b'"]'
    if kind == "each its own":
        members = {f"{number}.{end}": d for number in range(300) for end, d in (("json", sidecar), ("mp4", b"1"))}
    elif kind == "all of one":
        members = {"a.json": sidecar, **{f"a.{number}.mp4": b"1" for number in range(300)}}
    else:
        members = {f"a.{number}.json": sidecar for number in range(300)} | {f"a.{n}.mp4": b"1" for n in range(300)}
    make_tar(path, members, "w:gz")
    assert path.stat().st_size < MIB
    return 300


@pytest.mark.parametrize("kind", ["each its own", "all of one", "all in one group"])
def test_a_small_shard_that_unpacks_to_much_text_is_walked_in_bounded_memory(tmp_path: Path, kind: str) -> None:
    num_videos = gigabytes_of_sidecars(tmp_path / "s.tar.gz", kind)
    wanted = config(tmp_path / "s.tar.gz").model_copy(update={"output": str(tmp_path / "output")})
    text_bytes = 0
    tracemalloc.start()
    for table in source.read_work(wanted, NOTHING, never, part=0, num_parts=1):
        clips = table["clips"][0].as_py()
        num_videos -= len(clips)
        text_bytes += sum(len(clip["metadata"] or "") for clip in clips)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_videos == 0
    assert peak < 200 * MIB
    if kind != "each its own":  # a megabyte that is there once is not written three hundred times
        assert text_bytes <= 20 * MIB


def test_a_sparse_member_is_said_to_be_unsupported(tmp_path: Path) -> None:
    with (tmp_path / "a.mp4").open("wb") as file:
        file.seek(10 * MIB)
        file.write(b"end")
    subprocess.run(["tar", "-S", "-cf", "s.tar", "a.mp4"], cwd=tmp_path, check=True)
    [clip] = pending(tmp_path / "s.tar")
    assert (clip["member"], clip["error_kind"]) == ("a.mp4", "unsupported")


def test_only_the_headers_of_a_plain_shard_are_read(moto_s3: MotoServer, tmp_path: Path) -> None:
    url = f"{moto_s3()}/s.tar"
    make_tar(tmp_path / "s.tar", {f"{number}.mp4": bytes(4 * MIB) for number in range(16)})
    storage.put(url, (tmp_path / "s.tar").read_bytes())
    moto_s3.forget()
    bytes_sent = 0

    def measure(environ: dict[str, Any], _: Any) -> None:
        nonlocal bytes_sent
        start, _, end = environ.get("HTTP_RANGE", "bytes=0-0").removeprefix("bytes=").partition("-")
        bytes_sent += int(end) + 1 - int(start)

    moto_s3.gate = measure
    assert len(pending(url)) == 16
    assert bytes_sent < 12 * MIB  # of 64
    # A member is then read by one request of its own.
    clip = pending(url)[7]
    moto_s3.forget()
    assert len(content(clip)) == 4 * MIB
    assert (moto_s3.count("GET"), moto_s3.count("HEAD")) == (1, 0)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_shard_is_walked_by_the_first_run_only(moto_s3: MotoServer, tmp_path: Path, mode: str) -> None:
    url, output = f"{moto_s3()}/s.tar", str(tmp_path / "output")
    members = {f"{number}.{kind}": bytes([number]) * MIB for number in range(8) for kind in ("mp4", "txt")}
    members |= {"0.json": b'{"a": [1, "b"]}', "1.cls": b"7"}

    def upload() -> None:
        make_tar(tmp_path / "s.tar", members, mode)
        storage.put(url, (tmp_path / "s.tar").read_bytes())

    def clips(*, keeps: bool) -> tuple[list[source.Clip], int]:
        wanted = config(url).model_copy(update={"output": output})
        moto_s3.forget()
        if keeps:
            tables = source.read_work(wanted, NOTHING, never, part=0, num_parts=1)
            return [clip for table in tables for clip in table["clips"][0].as_py()], moto_s3.count("GET", "s.tar")
        return list(source.iter_pending(wanted, NOTHING)), moto_s3.count("GET", "s.tar")

    upload()
    walked, gets = clips(keeps=False)
    assert len(walked) == 8
    assert gets > 0
    assert not (tmp_path / "output").exists()  # a plan writes nothing
    assert clips(keeps=True) == (walked, gets)
    assert clips(keeps=True) == clips(keeps=False) == (walked, 0)
    [kept] = (tmp_path / "output" / source.SHARDS).iterdir()
    kept.write_bytes(b"damaged")
    assert clips(keeps=True) == (walked, gets)
    assert clips(keeps=False) == (walked, 0)
    members["8.mp4"] = b"new"
    upload()
    changed, gets = clips(keeps=True)
    assert len(changed) == 9
    assert gets > 0
    assert [content(clip) for clip in clips(keeps=False)[0]][-1] == b"new"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_named_members_of_a_shard_that_was_walked_need_no_request(
    moto_s3: MotoServer, tmp_path: Path, mode: str
) -> None:
    place, output = moto_s3(), str(tmp_path / "output")
    members = {f"{number}.{kind}": bytes([number]) * MIB for number in range(6) for kind in ("mp4", "txt")}
    make_tar(tmp_path / "s.tar", members, mode)
    storage.put(f"{place}/s.tar", (tmp_path / "s.tar").read_bytes())
    storage.put(f"{place}/m.csv", b"url,member,note\ns.tar,4.mp4,x\ns.tar,1.mp4,y\n")
    storage.put(f"{place}/sidecar.csv", b"url,member\ns.tar,4.mp4\ns.tar,4.txt\n")

    def clips(manifest: str) -> tuple[list[source.Clip], int]:
        moto_s3.forget()
        wanted = config(f"{place}/{manifest}").model_copy(update={"output": output})
        return list(source.iter_pending(wanted, NOTHING)), moto_s3.count("GET", "s.tar")

    walked, gets = clips("m.csv")
    assert gets > 0
    whole = config(f"{place}/s.tar").model_copy(update={"output": output})
    assert sum(len(table) for table in source.read_work(whole, NOTHING, never, part=0, num_parts=1))
    assert clips("m.csv") == (walked, 0)
    assert [json.loads(clip["metadata"]) for clip in walked] == [{"note": "y"}, {"note": "x"}]
    assert [content(clip) for clip in walked] == [members["1.mp4"], members["4.mp4"]]
    assert clips("sidecar.csv")[1] > 0  # an index tells of videos only


def test_a_damaged_shard_is_walked_by_every_run(tmp_path: Path) -> None:
    make_tar(tmp_path / "s.tar", {"a.mp4": b"1"})
    (tmp_path / "s.tar").write_bytes((tmp_path / "s.tar").read_bytes()[:600])
    wanted = config(tmp_path / "s.tar").model_copy(update={"output": str(tmp_path / "output")})
    for _ in range(2):
        tables = list(source.read_work(wanted, NOTHING, never, part=0, num_parts=1))
        kinds = [clip["error_kind"] for table in tables for clip in table["clips"][0].as_py()]
        assert "truncated" in kinds
    assert not (tmp_path / "output").exists()


def test_shards_are_walked_in_parallel_and_always_in_one_order(tmp_path: Path) -> None:
    for number in range(12):
        make_tar(tmp_path / f"{number:02}.tar", {f"{m:04}.mp4": b"x" for m in range(600)})
        (tmp_path / f"{number:02}.mp4").write_bytes(b"1")
    once = names(pending(tmp_path), tmp_path)
    assert len(once) == 12 * 601
    assert names(pending(tmp_path), tmp_path) == once


def test_a_member_changes_its_version_with_its_shard(tmp_path: Path) -> None:
    make_tar(tmp_path / "s.tar", {"a.mp4": b"1"})
    [before] = pending(tmp_path)
    os.utime(tmp_path / "s.tar", (1, 1))
    [after] = pending(tmp_path)
    assert before["video_id"] == after["video_id"]
    assert before["content_version"] != after["content_version"]


# --- manifests ------------------------------------------------------------------------------------------------------

RECORDS: list[dict[str, Any]] = [
    {"url": "a.mp4", "caption": "café, with comma", "rank": 1, "at": [0.5, 2.0]},
    {"url": "deep/b.mp4", "caption": None, "rank": 2, "at": [3.0, 1.0, 1.0]},
    {"url": "c d#1%41.mp4", "caption": 'a "quote"\nand a line', "rank": 3, "at": []},
]


def write_manifest(folder: str, name: str) -> str:
    """The same rows in each format; in CSV all is text, and a list is JSON or separated by semicolons."""
    url = storage.join(folder, name)
    if name.endswith(".parquet"):
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(RECORDS), buffer)
        storage.put(url, buffer.getvalue())
    elif name.endswith(".csv"):
        rows = [
            '"caf\u00e9, with comma",1,a.mp4,0.5;2',
            ',2,deep/b.mp4,"[3, 1.0, 1]"',
            '"a ""quote""\nand a line",3,c d#1%41.mp4,',
        ]
        storage.put(url, ("\ufeffcaption, rank ,url,at\r\n" + "\r\n".join(rows) + "\r\n").encode())
    else:
        storage.put(url, "\n\n".join(map(json.dumps, RECORDS)).encode())
    return url


@pytest.mark.parametrize("name", ["m.parquet", "m.csv", "m.jsonl", "m.NDJSON"])
def test_a_manifest_names_videos_and_says_more_of_them(place: str, name: str) -> None:
    for record in RECORDS:
        storage.put(storage.join(place, record["url"]), record["url"].encode())
    url = write_manifest(place, name)
    clips = pending(url)
    assert names(clips, place) == [record["url"] for record in RECORDS]
    for clip, record in zip(clips, RECORDS, strict=True):
        assert content(clip) == record["url"].encode()
        assert clip["content_version"] == storage.stat(storage.join(place, record["url"])).content_version
        metadata = json.loads(clip["metadata"])
        if name == "m.csv":
            assert metadata["rank"] == str(record["rank"])
            assert metadata["caption"] == (record["caption"] or "")
        else:
            assert metadata == {key: record[key] for key in ("caption", "rank", "at")}
        assert clip["times"] is None
    assert sorted(names(pending(place), place)) == sorted(record["url"] for record in RECORDS)


@pytest.mark.parametrize("name", ["m.parquet", "m.csv", "m.jsonl"])
def test_times_come_from_the_column_that_is_named(place: str, name: str) -> None:
    for record in RECORDS:
        storage.put(storage.join(place, record["url"]), b"1")
    url = write_manifest(place, name)
    clips = pending(url, sampling="times=at")
    assert [clip["times"] for clip in clips] == [[0.5, 2.0], [1.0, 3.0], []]
    assert all("at" not in json.loads(clip["metadata"]) for clip in clips)
    plain = pending(url)
    assert all(a["video_id"] == b["video_id"] for a, b in zip(plain, clips, strict=True))
    versions = {clip["content_version"] for clip in [*plain, *clips]}
    assert len(versions) == (6 if not place.startswith("s3") else len(versions))
    # Asking for other times asks for the video again.
    done = done_with(clips)
    assert pending(url, sampling="times=at", done=done) == []
    record = json.dumps({**RECORDS[0], "at": [0.5, 2.5]})
    storage.put(storage.join(place, "other.jsonl"), record.encode())
    assert len(pending(storage.join(place, "other.jsonl"), sampling="times=at", done=done)) == 1


def test_rows_that_cannot_be_read_are_failed_clips(tmp_path: Path, moto_s3: MotoServer) -> None:
    (tmp_path / "good.mp4").write_bytes(b"1")
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    urls = [
        "good.mp4",
        "gone.mp4",
        "folder.mp4",
        "pipe.mp4",
        "nul\0.mp4",
        f"{moto_s3()}/gone.mp4",
        "s3://never-made/a.mp4",
        "ftp://host/a.mp4",
        "http://127.0.0.1:9/a.mp4?X-Amz-Signature=secret",
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps({"url": url}) for url in urls))
    clips = pending(tmp_path / "m.jsonl")
    assert [clip["error_kind"] for clip in clips] == [
        None, "missing", "not_a_video", "not_a_video", "missing", "missing", "missing", "storage", "storage",
    ]  # fmt: skip
    assert clips[1]["content_version"] == "unknown-unknown"
    assert "secret" not in json.dumps([{**clip, "source": ""} for clip in clips])


def test_signed_urls_of_a_manifest_never_reach_a_table(tmp_path: Path) -> None:
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "a b.mp4").write_bytes(b"video")
    server = HttpServer(tmp_path / "www")
    try:
        url = f"{server.url.replace('//', '//user:pw@')}/a%20b.mp4?X-Amz-Signature=first"
        (tmp_path / "m.csv").write_text(f"url\n{url}\n{url.replace('first', 'second')}\n")
        (tmp_path / "www" / "m.csv").write_text("url,x\na%20b.mp4,1\n")
        [clip] = pending(tmp_path / "m.csv")
        assert clip["url"] == f"{server.url}/a%20b.mp4"
        assert clip["source"] == url
        assert content(clip) == b"video"
        [again] = pending(f"{server.url}/m.csv?token=1")
        assert again["video_id"] == clip["video_id"]
        assert again["content_version"] == clip["content_version"]
        assert json.loads(again["metadata"]) == {"x": "1"}
    finally:
        server.stop()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_manifest_may_name_shards_and_members(place: str, tmp_path: Path, mode: str) -> None:
    name = "s.tar" if mode == "w" else "s.tar.gz"
    members = {f"{number}.mp4": bytes([number]) * 9 for number in range(5)}
    make_tar(tmp_path / "s", {**members, "4.json": b'"four"'}, mode)
    for folder in ("one", "two"):
        storage.put(storage.join(place, folder, name), (tmp_path / "s").read_bytes())
    rows = [
        {"url": f"one/{name}", "member": "3.mp4", "note": "x"},
        {"url": f"two/{name}", "member": None, "note": "whole"},
        {"url": f"one/{name}", "member": "1.mp4", "note": "y"},
        {"url": f"one/{name}", "member": "4.json", "note": "named"},
    ]
    storage.put(storage.join(place, "m.jsonl"), "\n".join(map(json.dumps, rows)).encode())
    clips = pending(storage.join(place, "m.jsonl"))
    got = {
        name: (content(clip), json.loads(clip["metadata"]))
        for clip, name in zip(clips, names(clips, place), strict=True)
    }
    assert got == {
        f"one/{name}|3.mp4": (members["3.mp4"], {"note": "x"}),
        f"one/{name}|1.mp4": (members["1.mp4"], {"note": "y"}),
        f"one/{name}|4.json": (b'"four"', {"note": "named"}),
        **{f"two/{name}|{number}.mp4": (members[f"{number}.mp4"], {"note": "whole"}) for number in range(4)},
        f"two/{name}|4.mp4": (members["4.mp4"], {"note": "whole", "json": "four"}),
    }


def test_a_member_that_is_not_in_its_shard_is_missing(tmp_path: Path) -> None:
    make_tar(tmp_path / "s.tar", {"a.mp4": b"1"})
    (tmp_path / "m.csv").write_text("url,member\ns.tar,a.mp4\ns.tar,b.mp4\ngone.tar,a.mp4\n")
    clips = pending(tmp_path / "m.csv")
    assert sorted((*names([clip], tmp_path), clip["error_kind"] or "") for clip in clips) == [
        ("gone.tar|a.mp4", "missing"),
        ("s.tar|a.mp4", ""),
        ("s.tar|b.mp4", "missing"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "sampling", "sentence"),
    [
        ("m.csv", "path,x\na.mp4,1\n", "fps=1", "has no column 'url'; it has: path, x"),
        ("m.csv", "url,x\na.mp4,1\n", "times=at", "has no column 'at'; it has: url, x"),
        ("m.csv", "", "fps=1", "is empty: it needs a header line with a column 'url'"),
        ("m.csv", "url\na.mp4,1\n", "fps=1", "row 1: 2 fields under 1 columns"),
        ("m.csv", "url,x\n,1\n", "fps=1", "row 1: url: '' is not a URL or path"),
        ("m.csv", "url,at\na.mp4,soon\n", "times=at", "row 1: at: 'soon' is not a list of seconds"),
        ("m.csv", "url,at\na.mp4,1;inf\n", "times=at", "row 1: at: '1;inf' is not a list of seconds"),
        ("m.csv", b"url\n\xff.mp4\n", "fps=1", "cannot be read: 'utf-8' codec"),
        ("m.jsonl", '{"path": "a.mp4"}\n', "fps=1", "has no column 'url'; it has: path"),
        ("m.jsonl", '{"url": "a.mp4"}\n{"url": \n', "fps=1", "line 2 is not JSON"),
        ("m.jsonl", "[1]\n", "fps=1", "line 1 is not a JSON object"),
        ("m.jsonl", '{"url": 7}\n', "fps=1", "row 1: url: 7 is not a URL or path"),
        ("m.jsonl", '{"url": "\\ud800.mp4"}\n', "fps=1", r"row 1: '\ud800.mp4' is not valid Unicode"),
        ("m.jsonl", '{"url": "a.tar", "member": 1}\n', "fps=1", "row 1: member: 1 is not a name"),
        ("m.jsonl", '{"url": "a.mp4", "at": {"x": 1}}\n', "times=at", "row 1: at: {'x': 1} is not a list of seconds"),
        ("m.parquet", "PAR1 not really PAR1", "fps=1", "cannot be read:"),
    ],
)
def test_a_mistake_in_a_manifest_is_one_sentence(
    tmp_path: Path, name: str, text: str | bytes, sampling: str, sentence: str
) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        pending(tmp_path / name, sampling=sampling)
    assert str(caught.value).startswith(f"manifest 'file://{tmp_path}/{name}'")
    assert sentence in str(caught.value)


def test_times_without_a_manifest_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    with pytest.raises(ConfigError, match=r"sampling: 'times=at' is not allowed: input '.*' is no manifest"):
        pending(tmp_path, sampling="times=at")


def test_a_manifest_without_rows_is_an_empty_archive(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("url\n")
    (tmp_path / "m.jsonl").write_text("\n")
    pq.write_table(pa.table({"url": pa.array([], pa.string())}), tmp_path / "m.parquet")
    assert pending(tmp_path / "m.csv", tmp_path / "m.jsonl", tmp_path / "m.parquet") == []


def test_values_without_a_json_type_are_kept_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    table = pa.table(
        {
            "url": ["a.mp4"],
            "when": pa.array([0], pa.timestamp("s", "UTC")),
            "raw": [b"\xff\x00"],
            "nan": [float("nan")],
            "nested": [{"a": [1.5, None]}],
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    [clip] = pending(tmp_path / "m.parquet")
    assert json.loads(clip["metadata"]) == {
        "when": "1970-01-01 00:00:00+00:00",
        "raw": "\\xff\x00",
        "nan": None,
        "nested": {"a": [1.5, None]},
    }


def test_however_deep_a_manifest_s_values_are_their_video_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    for levels in (600, 900):
        (tmp_path / "m.jsonl").write_text('{"url": "a.mp4", "x": ' + "[" * levels + "NaN" + "]" * levels + "}")
        [clip] = pending(tmp_path / "m.jsonl")
        assert clip["metadata"].startswith('{"x": [[[')


def test_a_folder_or_glob_of_manifests_is_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "all.parquet").mkdir()
    for number in range(3):
        (tmp_path / f"{number}.mp4").write_bytes(b"1")
        pq.write_table(pa.table({"url": [f"../{number}.mp4"]}), tmp_path / "all.parquet" / f"part-{number}.parquet")
    (tmp_path / "all.parquet" / "_SUCCESS").touch()
    for given in ("all.parquet", "all.parquet/*.parquet"):
        assert names(pending(tmp_path / given), tmp_path) == ["0.mp4", "1.mp4", "2.mp4"]


def test_rows_are_looked_up_by_many_threads_and_keep_their_order(moto_s3: MotoServer) -> None:
    bucket = moto_s3()
    for number in range(64):
        storage.put(f"{bucket}/{number}.mp4", b"1")
    storage.put(f"{bucket}/m.csv", ("url\n" + "\n".join(f"{number}.mp4" for number in range(64))).encode())
    running, peak, lock = [0], [0], threading.Lock()

    def watch(environ: dict[str, Any], start_response: Any) -> Any:
        with lock:
            running[0] += 1
            peak[0] = max(peak[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1

    moto_s3.gate = watch
    assert names(pending(f"{bucket}/m.csv"), bucket) == [f"{number}.mp4" for number in range(64)]
    assert peak[0] >= 8
    assert moto_s3.count("HEAD", ".mp4") == 64


# --- what is done ---------------------------------------------------------------------------------------------------


def done_with(clips: list[source.Clip]) -> source.DoneVideos:
    return source.DoneVideos((clip["video_id"], clip["content_version"]) for clip in clips)


def test_only_what_is_not_done_is_given(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.mp4").write_bytes(b"1")
    clips = pending(tmp_path)
    done = done_with(clips[:7])
    assert len(done) == 7
    assert names(pending(tmp_path, done=done), tmp_path) == ["7.mp4", "8.mp4", "9.mp4"]
    (tmp_path / "3.mp4").write_bytes(b"changed")
    (tmp_path / "new.mp4").write_bytes(b"1")
    assert names(pending(tmp_path, done=done), tmp_path) == ["3.mp4", "7.mp4", "8.mp4", "9.mp4", "new.mp4"]
    assert pending(tmp_path, done=done_with(pending(tmp_path))) == []


def test_a_hundred_thousand_done_videos_are_small_and_fast() -> None:
    ids = [source.video_id(f"s3://bucket/videos/{number}.mp4", None) for number in range(100_000)]
    batches = [
        (pa.array(ids[start : start + 1000]), pa.array([f"etag-{start}"] * 1000)) for start in range(0, 100_000, 1000)
    ]
    tracemalloc.start()
    done = source.DoneVideos(batches)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept < 20 * 100_000
    assert len(pickle.dumps(done)) < 20 * 100_000
    done = pickle.loads(pickle.dumps(done))
    assert done.contains(ids[54_321], "etag-54000")
    assert not done.contains(ids[54_321], "etag-55000")
    assert not done.contains(source.video_id("s3://bucket/other.mp4", None), "etag-0")
    clips = [{"video_id": each, "content_version": f"etag-{number // 1000 * 1000}"} for number, each in enumerate(ids)]
    started = time.perf_counter()
    assert done.without(clips) == []
    assert time.perf_counter() - started < 5
    assert done.without([{**clips[0], "content_version": "2"}, clips[1]]) == [{**clips[0], "content_version": "2"}]
    assert len(source.DoneVideos()) == 0
    assert source.DoneVideos().without(clips[:2]) == clips[:2]


def test_memory_stays_flat_while_many_videos_are_found(tmp_path: Path) -> None:
    def peak_bytes(num_videos: int) -> int:
        folder = tmp_path / str(num_videos)
        for number in range(num_videos):
            (folder / str(number % 7)).mkdir(parents=True, exist_ok=True)
            (folder / str(number % 7) / f"{number}.mp4").touch()
        done = done_with(list(source.iter_pending(config(folder), NOTHING))[::2])
        tracemalloc.start()
        try:
            assert sum(1 for _ in source.iter_pending(config(folder), done)) == num_videos // 2
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak_bytes(12_000) < peak_bytes(4_000) + 5 * MIB


MILLION = """
import json, sys
from vidbatch import publish, source
from vidbatch.config import LabelConfig

def resident_mb(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

config = LabelConfig(inputs=(sys.argv[1],), output=sys.argv[2])
before = resident_mb("VmRSS")
layout = publish.read_layout(config)
published = publish.Published(config.output, layout)
done = source.DoneVideos(published.done(sys.argv[3], retry_failed=False))
urls = [clip["url"] for clip in source.iter_pending(config, done)]
print(json.dumps({"done": len(done), "urls": urls, "grown_mb": resident_mb("VmHWM") - before}))
"""


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_ten_of_a_million_videos_without_a_row_are_found_in_bounded_memory(tmp_path: Path) -> None:
    """The same thousand files by a thousand names each: links are followed, and each name is a video."""
    (tmp_path / "files").mkdir()
    for number in range(1000):
        (tmp_path / "files" / f"{number:03}.mp4").touch()
        os.utime(tmp_path / "files" / f"{number:03}.mp4", (1, 1))
    archive, output = tmp_path / "archive", str(tmp_path / "output")
    archive.mkdir()
    for number in range(1000):
        (archive / f"{number:03}").symlink_to(tmp_path / "files")
    folder = storage.normalise(str(archive))
    missing = {f"{folder}/{number:03}/{7 * number % 1000:03}.mp4" for number in range(0, 1000, 100)}
    urls = (f"{folder}/{a:03}/{b:03}.mp4" for a in range(1000) for b in range(1000))
    layout = publish.open_layout(config(archive).model_copy(update={"output": output}))
    publish_rows(output, layout, [url for url in urls if url not in missing])
    command = [sys.executable, "-c", MILLION, str(archive), output, "digest"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["done"] == 999_990
    assert sorted(found["urls"]) == sorted(missing)
    print(found["grown_mb"])
    assert found["grown_mb"] < 300


def publish_rows(output: str, layout: publish.Layout, urls: list[str]) -> None:
    """The `videos` table of a run that labelled these empty files, written bucket by bucket as publishing would."""
    buckets: list[list[tuple[str, str]]] = [[] for _ in range(layout.buckets)]
    for url in urls:
        name = source.video_id(url, None)
        buckets[layout.bucket_of(name)].append((name, url))
    version = storage.stat(urls[0]).content_version
    top_k = [{"label": f"label {number}", "score": 0.1} for number in range(5)]
    every: dict[str, Any] = {"content_version": version, "status": "ok", "num_frames_sampled": 1, "label": "label 0"}
    every |= {
        "model": "m",
        "config_digest": "digest",
        "run_id": "run",
        "finished_at": datetime.now(UTC),
        "top_k": top_k,
    }
    for number, rows in enumerate(buckets):
        columns = [
            pa.array([row[0 if field.name == "video_id" else 1] for row in rows], field.type)
            if field.name in ("video_id", "url")
            else pa.repeat(pa.scalar(every.get(field.name), field.type), len(rows))
            for field in schema.VIDEOS
        ]
        table = pa.table(columns, schema=schema.VIDEOS)
        storage.put(storage.join(output, "videos", layout.file_name(number)), publish.encode_parquet(table))


def test_finding_needs_neither_ray_nor_torch_nor_s3(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    program = (
        "import sys\n"
        "from vidbatch import source\n"
        "from vidbatch.config import LabelConfig\n"
        "done = source.DoneVideos()\n"
        "assert len(list(source.iter_pending(LabelConfig(inputs=(sys.argv[1],), output='x'), done))) == 1\n"
        "print(*[name for name in ('ray', 'torch', 's3fs', 'botocore', 'aiohttp', 'av') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# --- packs and Ray --------------------------------------------------------------------------------------------------


def clip_of(number: int, size_bytes: int | None, error_kind: str | None = None) -> source.Clip:
    return {"video_id": f"{number:032x}", "size_bytes": size_bytes, "error_kind": error_kind}


def never(clip: source.Clip) -> list[source.Clip]:
    raise AssertionError(f"{clip} needs no plan")


def test_packs_begin_with_single_videos_and_grow() -> None:
    def sizes(number: int, size_bytes: int | None, num_decoders: int) -> list[int]:
        clips = [clip_of(n, size_bytes) for n in range(number)]
        packs = list(source.iter_packs(clips, never, num_decoders=num_decoders))
        assert [clip for pack in packs for clip in pack] == clips
        return [len(pack) for pack in packs]

    assert sizes(100, MIB, 1) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, *[8] * 5, 4]
    assert sizes(50, MIB, 4) == [*[1] * 8, *[2] * 8, *[3] * 8, 2]
    assert sizes(30, 3 * MIB, 1) == [1, 1, *[2] * 14]
    assert sizes(30, None, 1) == [1, 1, *[2] * 14]
    assert max(sizes(2000, 1, 1)) == 32
    assert sizes(0, None, 1) == []


def test_a_long_video_is_planned_and_its_clips_travel_alone() -> None:
    def plan(clip: source.Clip) -> list[source.Clip]:
        return [{**clip, "clip_index": index, "num_clips": 3} for index in range(3)]

    clips = [clip_of(0, 17 * MIB), *(clip_of(number, 1) for number in range(1, 90)), clip_of(90, 2**33)]
    clips.append(clip_of(91, 2**33, "missing"))
    packs = list(source.iter_packs(clips, plan))
    assert [[clip.get("clip_index") for clip in pack] for pack in packs[:3]] == [[0], [1], [2]]
    planned = [pack for pack in packs if "clip_index" in pack[0]]
    assert len(planned) == 6
    assert all(len(pack) == 1 for pack in planned)
    assert sorted({clip["video_id"] for pack in packs for clip in pack}) == sorted(clip["video_id"] for clip in clips)
    assert packs[-1][-1]["error_kind"] == "missing"


def test_parts_of_an_archive_are_disjoint_and_together_whole(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number}.mp4").write_bytes(b"1")
    for number in range(5):
        make_tar(tmp_path / f"{number}.tar", {f"{m}.mp4": b"1" for m in range(20)})
    (tmp_path / "m.csv").write_text("url\n" + "".join(f"{number}.mp4\n" for number in range(0, 50, 2)))
    wanted = config(tmp_path, tmp_path / "m.csv").model_copy(update={"output": str(tmp_path / "output")})
    parts = []
    for part in range(3):
        tables = source.read_work(wanted, NOTHING, never, part=part, num_parts=3)
        parts.append([clip for table in tables for clip in table["clips"][0].as_py()])
    assert all(parts)
    everything = [clip["video_id"] for part in parts for clip in part]
    assert len(everything) == len(set(everything)) == 150
    for part in parts:
        shards = {clip["url"] for clip in part if clip["member"]}
        assert sum(clip["member"] is not None for clip in part) == 20 * len(shards)


@pytest.fixture
def one_row_a_block(local_ray: None) -> Iterator[Any]:
    from ray.data import DataContext

    before = DataContext.get_current()
    context = before.copy()
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    with DataContext.current(context):
        yield context


def test_each_pack_arrives_at_ray_as_a_block_of_its_own(tmp_path: Path, one_row_a_block: Any) -> None:
    import ray

    for number in range(100):
        (tmp_path / f"{number:03}.mp4").write_bytes(b"1")
    done = done_with(pending(tmp_path, limit=10))
    archive = source.archive_datasource(config(tmp_path), done, planner=never)
    dataset = ray.data.read_datasource(archive, override_num_blocks=1, num_cpus=0.01)
    blocks = list(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
    assert [block.num_rows for block in blocks] == [1] * len(blocks)
    assert all(block.schema.equals(WORK) for block in blocks)
    sizes = [len(block["clips"][0]) for block in blocks]
    assert sizes == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9]
    clips = [clip for block in blocks for clip in block["clips"][0].as_py()]
    assert sorted(names(clips, tmp_path)) == [f"{number:03}.mp4" for number in range(10, 100)]


def test_several_read_tasks_share_an_archive(tmp_path: Path, one_row_a_block: Any) -> None:
    import ray

    for number in range(60):
        (tmp_path / f"{number}.mp4").write_bytes(b"1")

    def rows(**settings: Any) -> list[str]:
        archive = source.archive_datasource(config(tmp_path, **settings), NOTHING, planner=never, num_read_tasks=3)
        dataset = ray.data.read_datasource(archive, override_num_blocks=3)
        return [clip["url"] for row in dataset.iter_rows() for clip in row["clips"]]

    assert len(rows()) == len(set(rows())) == 60
    assert len(rows(limit=7)) == 7


def test_planning_happens_in_the_read_task(tmp_path: Path, one_row_a_block: Any) -> None:
    import ray

    with (tmp_path / "long.mp4").open("wb") as file:
        file.truncate(20 * MIB)
    driver = os.getpid()

    def plan(clip: source.Clip) -> list[source.Clip]:
        return [
            {**clip, "clip_index": index, "num_clips": 2, "metadata": json.dumps(os.getpid())} for index in range(2)
        ]

    archive = source.archive_datasource(config(tmp_path), NOTHING, planner=plan)
    rows = list(ray.data.read_datasource(archive, override_num_blocks=1).iter_rows())
    assert [[clip["clip_index"] for clip in row["clips"]] for row in rows] == [[0], [1]]
    assert all(json.loads(row["clips"][0]["metadata"]) != driver for row in rows)


@pytest.mark.parametrize(
    "in_between", [False, pytest.param(True, marks=pytest.mark.long)], ids=["next", "after the next"]
)
def test_reading_waits_for_a_slow_consumer(tmp_path: Path, one_row_a_block: Any, in_between: bool) -> None:
    import ray

    archive, log = tmp_path / "archive", tmp_path / "log"
    for folder in range(20):
        (archive / f"{folder:02}").mkdir(parents=True)
        for number in range(1000):
            with (archive / f"{folder:02}" / f"{number:03}.mp4").open("wb") as file:
                file.truncate(17 * MIB)  # sparse: long enough to be planned, so that each row is counted

    def plan(clip: source.Clip) -> list[source.Clip]:
        with log.open("ab") as file:
            file.write(b".")
        return [clip]

    class Slow:
        def __call__(self, table: pa.Table) -> pa.Table:
            time.sleep(0.1)
            return table

    class Quick:
        def __call__(self, table: pa.Table) -> pa.Table:
            return table

    blocks.bound_waiting(one_row_a_block, 40)
    work = source.archive_datasource(config(archive), NOTHING, planner=plan)
    dataset = ray.data.read_datasource(work, override_num_blocks=1, num_cpus=0.01)
    for stage in [Quick, Slow] if in_between else [Slow]:
        dataset = dataset.map_batches(
            stage,
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=2),
            num_cpus=0.5,
        )
    rows = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    for _ in range(10):
        next(rows)
    time.sleep(3)
    read_by_then = log.stat().st_size
    assert 10 <= read_by_then < 200  # of 20,000
