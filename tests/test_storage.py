"""Storage on real disks and real servers: the same promises wherever the bytes are."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_s3 import refuse
from hypothesis import given
from hypothesis import strategies as st
from servers import Environ, HttpServer, MotoServer, PlainHttpServer, SeaweedServer, StartResponse, free_port
from tars import make_tar

from vidbatch import storage
from vidbatch.errors import ConfigError, StorageError, VideoError
from vidbatch.storage import opening as storage_open
from vidbatch.storage import patience
from vidbatch.storage import tar as storage_tar

MIB = 2**20
Place = Callable[[], str]


STORES = {"moto": "moto_s3", "seaweed": "seaweed_s3", "azurite": "azurite", "fake_gcs": "fake_gcs"}
"""Servers, and the fixture of each that makes buckets."""


@pytest.fixture(params=["disk", *STORES])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh folder or bucket of each kind that can be written."""
    if request.param == "disk":
        return str(tmp_path / "a folder")
    return str(request.getfixturevalue(STORES[request.param])())


@pytest.fixture
def http(tmp_path: Path) -> Iterator[HttpServer]:
    (tmp_path / "www").mkdir()
    server = HttpServer(tmp_path / "www")
    yield server
    server.stop()


def noise(num_bytes: int, seed: int = 0) -> bytes:
    return hashlib.shake_128(seed.to_bytes(4, "big")).digest(num_bytes)


def urls(source: str) -> list[str]:
    return [item.url for page in storage.list_objects(source) for item in page]


def names(source: str, below: str) -> list[str]:
    return sorted(url.removeprefix(storage.normalise(below)).lstrip("/") for url in urls(source))


# --- writing: the same on a disk and on every store -----------------------------------------------------------------


def test_what_was_put_is_read_listed_and_deleted(place: str) -> None:
    url = storage.join(place, "videos", "ü b#1%20?.bin")
    assert not storage.exists(url)
    storage.put(url, b"one")
    storage.put(url, b"two")
    assert storage.read_bytes(url) == b"two"
    assert storage.exists(url)
    assert storage.list_files(place) == [storage.normalise(url)]
    assert storage.list_files(storage.join(place, "other")) == []
    storage.delete([url, url])
    assert not storage.exists(url)
    storage.delete([])


def test_a_second_create_is_refused_and_changes_nothing(place: str) -> None:
    url = storage.join(place, "new")
    version = storage.put_if(url, b"first", expected=None)
    assert version
    assert storage.put_if(url, b"second", expected=None) is None
    assert storage.read_with_version(url) == (b"first", version)


def test_a_replacement_needs_the_version_that_is_there(place: str) -> None:
    url = storage.join(place, "replaced")
    assert storage.put_if(url, b"early", expected="0123456789abcdef0123456789abcdef") is None
    assert storage.read_with_version(url) == (None, None)
    first = storage.put_if(url, b"first", expected=None)
    second = storage.put_if(url, b"second", expected=first)
    assert second not in (None, first)
    assert storage.put_if(url, b"third", expected=first) is None
    assert storage.read_with_version(url) == (b"second", second)


def test_a_large_object_is_written_in_parts_under_the_same_conditions(
    place: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr("vidbatch.storage.s3_store.MULTIPART_BYTES", 20 * MIB)
    if "azurite" in request.node.name:
        monkeypatch.setattr("vidbatch.storage.azure_store.SINGLE_BYTES", 20 * MIB)
    url = storage.join(place, "large")
    data = noise(65 * MIB)
    version = storage.put_if(url, data, expected=None)
    assert storage.put_if(url, data[::-1], expected=None) is None
    if "moto" not in request.node.name:  # moto overlooks If-Match when parts are put together
        assert storage.put_if(url, data[::-1], expected="0" * 32) is None
    assert storage.read_with_version(url) == (data, version)
    assert storage.put_if(url, data[::-1], expected=version)
    assert storage.read_bytes(url) == data[::-1]


RACER = """
import sys, threading
from vidbatch import storage
url, expected, *numbers = sys.argv[1:]
start = threading.Barrier(len(numbers) + 1)
won = []
def race(number):
    start.wait()
    if storage.put_if(url, number.encode(), expected=expected or None):
        won.append(number)
storage.exists(url)  # whatever is slow about a first request is done before the start
threads = [threading.Thread(target=race, args=[number]) for number in numbers]
for thread in threads:
    thread.start()
print("ready", flush=True)
sys.stdin.readline()
start.wait()
for thread in threads:
    thread.join()
print(*won, flush=True)
"""


@pytest.mark.parametrize(
    ("place", "replacing"),
    [
        pytest.param(kind, replacing, marks=[pytest.mark.long] * (replacing or kind == "seaweed"), id=f"{kind}-{what}")
        for kind in ("disk", *STORES)
        for what, replacing in (("creating", False), ("replacing", True))
    ],
    indirect=["place"],
)
def test_exactly_one_of_sixteen_racing_writers_wins(place: str, replacing: bool) -> None:
    url = storage.join(place, "race")
    before = storage.put_if(url, b"before", expected=None) if replacing else None
    num_processes = 2 if "://" in place else 16  # a server sees connections, a disk processes
    numbers = [str(number) for number in range(16)]
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, url, before or "", *numbers[process::num_processes]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in range(num_processes)
    ]
    assert all(racer.stdout and racer.stdout.readline() == "ready\n" for racer in racers)
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = " ".join(racer.communicate()[0] for racer in racers).split()
    assert len(won) == 1
    assert storage.read_bytes(url) == won[0].encode()


def test_an_output_is_probed_and_left_clean(place: str) -> None:
    assert storage.probe_output(storage.join(place, "deep", "output")) is True
    assert storage.list_files(place) == []


def test_a_killed_writer_leaves_neither_a_half_file_nor_a_lock(tmp_path: Path) -> None:
    url = str(tmp_path / "file")
    storage.put_if(url, b"whole", expected=None)
    program = (
        "import os, sys; from vidbatch.storage import local as storage_local\n"
        "os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "storage_local.write_if(sys.argv[1], b'half' * 9, storage_local.read_with_version(sys.argv[1])[1])\n"
    )
    assert subprocess.run([sys.executable, "-c", program, url], check=False).returncode == -9
    data, version = storage.read_with_version(url)
    assert data == b"whole"
    assert storage.put_if(url, b"next", expected=version)
    assert storage.read_bytes(url) == b"next"
    assert storage.list_files(str(tmp_path)) == [f"file://{url}"]
    assert sorted(os.listdir(tmp_path)) == [".vidbatch.lock", "file"]


def test_a_write_whose_answer_was_lost_counts_as_ours(moto_s3: MotoServer) -> None:
    url = storage.join(moto_s3(), "key")
    answers: list[str] = []

    def lose_the_first_answer(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["REQUEST_METHOD"] == "PUT" and not answers:
            answers.append("lost")
            list(moto_s3._app(environ, lambda *_: None))  # the server has done it
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        return None

    moto_s3.forget()
    moto_s3.gate = lose_the_first_answer
    version = storage.put_if(url, b"ours", expected=None)
    assert answers == ["lost"]
    assert moto_s3.count("PUT") == 2
    assert storage.read_with_version(url) == (b"ours", version)


def test_equal_bytes_of_another_writer_do_not_count_as_ours(place: str) -> None:
    url = storage.join(place, "key")
    assert storage.put_if(url, b"same", expected=None)
    assert storage.put_if(url, b"same", expected=None) is None


def test_a_store_that_ignores_conditions_is_found_out(moto_s3: MotoServer) -> None:
    def ignore(environ: dict[str, Any], _: Any) -> None:
        environ.pop("HTTP_IF_NONE_MATCH", None)

    bucket = moto_s3()
    moto_s3.gate = ignore
    assert storage.probe_output(bucket) is False


def test_a_store_without_conditional_writes_still_works_for_one_writer(moto_s3: MotoServer) -> None:
    def refuse(environ: dict[str, Any], start_response: Any) -> Any:
        if "HTTP_IF_NONE_MATCH" in environ or "HTTP_IF_MATCH" in environ:
            body = b"<Error><Code>NotImplemented</Code><Message>A header is not implemented</Message></Error>"
            start_response("501 Not Implemented", [("Content-Length", str(len(body)))])
            return [body]
        return None

    bucket = moto_s3()
    moto_s3.gate = refuse
    url = storage.join(bucket, "key")
    first = storage.put_if(url, b"1", expected=None)
    assert first
    assert storage.put_if(url, b"2", expected=None) is None
    assert storage.put_if(url, b"2", expected="0" * 32) is None
    assert storage.put_if(url, b"2", expected=first)
    assert storage.read_bytes(url) == b"2"


def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path: Path, moto_s3: MotoServer) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"output: '.*file/out' cannot be written: (Not a directory|File exists)"):
        storage.probe_output(str(tmp_path / "file" / "out"))
    with pytest.raises(ConfigError, match="cannot be written: bucket 'never-made' does not exist"):
        storage.probe_output("s3://never-made/out")
    with pytest.raises(ConfigError, match="cannot be written: allowed: a path, file://, s3://, gs:// or az://"):
        storage.probe_output("https://user:pw@host/out?X-Amz-Signature=abc")


# --- listing --------------------------------------------------------------------------------------------------------

TREE = [
    "a.mp4",
    "b/c.mkv",
    "b/d/e.mp4",
    "b/d/ü f#2%41+&=?.mp4",
    "b/d/[x].mp4",
    "z/2024-01/1.mp4",
    "z/2024-02/2.mp4",
    "z/2025-01/3.mp4",
]


@pytest.fixture
def tree(place: str) -> str:
    for name in TREE:
        storage.put(storage.join(place, name), name.encode())
    return place


def test_a_folder_is_listed_whole_with_facts_that_stat_confirms(tree: str) -> None:
    assert names(tree, tree) == sorted(TREE)
    assert names(tree + "/", tree) == sorted(TREE)
    for page in storage.list_objects(tree):
        for item in page:
            again = storage.stat(item.source)
            assert (again.url, again.size_bytes, again.etag) == (item.url, item.size_bytes, item.etag)
            assert again.content_version == item.content_version
            assert storage.read_bytes(item.source) == storage.read_bytes(item.url)
            assert item.url.endswith(storage.read_bytes(item.url).decode())


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.mp4", ["a.mp4"]),
        ("b/*", ["b/c.mkv", "b/d/[x].mp4", "b/d/e.mp4", "b/d/ü f#2%41+&=?.mp4"]),
        ("**/*.mp4", [name for name in TREE if name.endswith(".mp4")]),
        ("z/2024-*", ["z/2024-01/1.mp4", "z/2024-02/2.mp4"]),
        ("z/202[5-9]-01/?.mp4", ["z/2025-01/3.mp4"]),
        ("b/d/[x].mp4", ["b/d/[x].mp4"]),
        ("b/d/ü f#2%41+&=?.mp4", ["b/d/ü f#2%41+&=?.mp4"]),
    ],
)
def test_a_glob_gives_what_a_shell_would(tree: str, pattern: str, expected: list[str]) -> None:
    assert names(storage.join(tree, pattern), tree) == sorted(expected)


def test_a_single_file_is_a_listing_of_one(tree: str) -> None:
    assert names(storage.join(tree, "b/c.mkv"), tree) == ["b/c.mkv"]


def test_a_listing_never_shows_yesterday(tree: str) -> None:
    assert len(urls(tree)) == len(TREE)
    assert not storage.exists(storage.join(tree, "late.mp4"))
    storage.put(storage.join(tree, "late.mp4"), b"")
    storage.delete([storage.join(tree, "a.mp4")])
    assert names(tree, tree) == sorted(set(TREE) - {"a.mp4"} | {"late.mp4"})
    assert storage.exists(storage.join(tree, "late.mp4"))


@pytest.mark.parametrize("name", ["nothing.mp4", "nothing/", "nothing-*.mp4", "b/d/[y].mp4"])
def test_a_missing_input_is_named(tree: str, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        urls(storage.join(tree, name))
    assert f"{storage.join(tree, name)!r} does not exist" in str(caught.value)


def test_a_missing_bucket_is_named(moto_s3: MotoServer) -> None:
    for source in ("s3://never-made", "s3://never-made/a.mp4", "s3://never-made/*.mp4"):
        with pytest.raises(ConfigError, match=f"'{source[:15]}.*bucket 'never-made' does not exist"):
            urls(source)
    with pytest.raises(VideoError, match="missing: bucket 'never-made' does not exist"):
        storage.open_read("s3://never-made/a.mp4")
    with pytest.raises(StorageError, match="bucket 'never-made' does not exist"):
        storage.read_with_version("s3://never-made/layout.json")


@pytest.mark.parametrize(
    "source",
    [
        *("hdfs://host/a.mp4", "s3://", "az://", "gs://key@bucket/a.mp4", "http:///x", "s3://key:secret@bucket/a.mp4"),
        *("http://user:secret@[bad/a.mp4", "http://user:secret@ho\u2100st/a.mp4"),
    ],
)
def test_an_address_that_cannot_work_is_refused(source: str) -> None:
    with pytest.raises(ConfigError) as caught:
        urls(source)
    assert "secret" not in str(caught.value)
    with pytest.raises(VideoError):
        storage.stat(source)


def test_paths_may_be_relative_or_start_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"1")
    expected = [f"file://{tmp_path}/in/a.mp4"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in ("in", "./in/", "in/../in", "~/in", "in/*.mp4", f"file://{tmp_path}/in", "~/in/a.mp4"):
        assert urls(source) == expected


def test_names_of_any_bytes_can_be_written_to_a_table_and_opened_again(tmp_path: Path) -> None:
    wanted = {b"\xff\xfe broken.mp4": b"1", "été %41 #1?.mp4".encode(): b"2", b"new\nline.mp4": b"3"}
    for name, data in wanted.items():
        (tmp_path / os.fsdecode(name)).write_bytes(data)
    found = {}
    for url in urls(str(tmp_path)):
        assert url.encode().decode() == url  # valid UTF-8
        assert urls(url) == [url]
        found[url] = storage.read_bytes(url)
    assert sorted(found.values()) == sorted(wanted.values())
    encoded = (tmp_path / "été %41 #1?.mp4").as_uri()
    assert storage.read_bytes(encoded) == b"2"


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "real" / "deep" / "a.mp4").write_bytes(b"1")
    (tmp_path / "real" / "deep" / "up").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "itself.mp4").symlink_to("itself.mp4")
    (tmp_path / "real" / "gone.mp4").symlink_to("nothing-here")
    (tmp_path / "link").symlink_to("real")
    os.mkfifo(tmp_path / "real" / "pipe.mp4")
    found = {
        item.url.removeprefix(f"file://{tmp_path}/"): item
        for page in storage.list_objects(str(tmp_path))
        for item in page
    }
    assert sorted(found) == ["link/deep/a.mp4", "link/gone.mp4", "real/deep/a.mp4", "real/gone.mp4"]
    assert found["real/gone.mp4"].content_version == "unknown-unknown"
    with pytest.raises(VideoError, match="missing"):
        storage.open_read(found["real/gone.mp4"].source)


@pytest.fixture
def nobody() -> Iterator[None]:
    """This process without the rights of root, which may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_what_may_not_be_read_is_said_or_left_out(tmp_path_factory: pytest.TempPathFactory, request: Any) -> None:
    root = Path("/tmp") / f"vidbatch-test-{os.getpid()}"  # pytest's own folders are closed to others
    (root / "locked").mkdir(parents=True)
    try:
        (root / "open.mp4").write_bytes(b"1")
        (root / "closed.mp4").write_bytes(b"2")
        (root / "locked" / "b.mp4").write_bytes(b"3")
        root.chmod(0o755)
        (root / "closed.mp4").chmod(0)
        (root / "locked").chmod(0)
        request.getfixturevalue("nobody")
        assert names(str(root), str(root)) == ["closed.mp4", "open.mp4"]
        with pytest.raises(VideoError, match="permission: Permission denied"):
            storage.open_read(str(root / "closed.mp4"))
        with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
            urls(str(root / "locked"))
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        (root / "locked").chmod(0o755)
        subprocess.run(["rm", "-r", str(root)], check=True)


def test_ten_thousand_objects_stream_in_pages(moto_s3: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = moto_s3()
    fill(moto_s3, bucket, [f"flat/{number:05d}.mp4" for number in range(10_500)])
    moto_s3.forget()
    pages = storage.list_objects(f"{bucket}/flat")
    first = next(pages)
    assert len(first) == 1000
    assert moto_s3.count("GET", "list-type=2") <= 3
    rest = [len(page) for page in pages]
    assert sum(rest) == 9_500
    assert max(rest) == 1000
    assert moto_s3.count("GET", "list-type=2") == 12  # one looked for folders


def test_folders_of_a_bucket_are_listed_in_parallel_and_in_one_order(moto_s3: MotoServer) -> None:
    bucket = moto_s3()
    keys = [f"archive/day{day}/{number:04d}.mp4" for day in range(5) for number in range(1200)]
    fill(moto_s3, bucket, [*keys, "archive/", "archive/top.mp4"])
    running, peak, lock = [0], [0], threading.Lock()
    listed = moto_s3._app

    def watch(environ: dict[str, Any], start_response: Any) -> Any:
        with lock:
            running[0] += 1
            peak[0] = max(peak[0], running[0])
        try:
            time.sleep(0.05)
            return listed(environ, start_response)
        finally:
            with lock:
                running[0] -= 1

    moto_s3.gate = watch
    once = urls(bucket)
    assert sorted(once) == sorted(f"{bucket}/{key}" for key in [*keys, "archive/top.mp4"])
    assert urls(f"{bucket}/archive/") == once
    assert peak[0] > 1


def fill(server: MotoServer, bucket: str, keys: list[str]) -> None:
    """Objects of one byte, put into the server's own memory: ten thousand requests would take a minute."""
    from moto.backends import get_backend

    backend = get_backend("s3")["123456789012"]["aws"]
    for key in keys:
        backend.put_object(bucket.removeprefix("s3://"), key, b"1")


def test_memory_stays_flat_while_many_files_are_listed(tmp_path: Path) -> None:
    def peak_bytes(num_files: int) -> int:
        folder = tmp_path / str(num_files)
        for number in range(0, num_files, 500):
            (folder / f"{number}").mkdir(parents=True)
            for other in range(number, number + 500):
                (folder / f"{number}" / f"{other}.mp4").touch()
        for number in range(num_files // 2):
            (folder / f"flat{number}.mp4").touch()
        tracemalloc.start()
        try:
            assert sum(len(page) for page in storage.list_objects(str(folder))) == num_files * 3 // 2
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak_bytes(16_000) < peak_bytes(8_000) + 2 * MIB


def test_a_listing_that_is_given_up_stops_its_threads(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "a.mp4").touch()
    pages = storage.list_objects(str(tmp_path))
    next(pages)
    pages.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5
    while any("vidbatch-list" in thread.name for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_bytes", [0, 1, 8 * MIB - 1, 8 * MIB])
def test_a_small_object_is_read_by_one_get(moto_s3: MotoServer, num_bytes: int) -> None:
    url = storage.join(moto_s3(), "small.mp4")
    data = noise(num_bytes)
    storage.put(url, data)
    moto_s3.forget()
    with storage.open_read(url) as stream:
        assert stream.read(10) == data[:10]
        assert stream.seek(-5, os.SEEK_END) == num_bytes - 5 if num_bytes > 5 else True
        stream.seek(0)
        assert stream.read() == data
        assert stream.bytes_read == num_bytes
    assert (moto_s3.count("GET"), moto_s3.count("HEAD")) == (1, 0)


@pytest.fixture(params=["disk", *STORES, "http"])
def large(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, bytes]:
    """An object of 50 MiB on each kind of storage, and its bytes."""
    data = noise(50 * MIB)
    if request.param == "http":
        server = request.getfixturevalue("http")
        (server.folder / "large.mp4").write_bytes(data)
        return f"{server.url}/large.mp4?token=secret", data
    base = str(tmp_path) if request.param == "disk" else str(request.getfixturevalue(STORES[request.param])())
    storage.put(storage.join(base, "large.mp4"), data)
    return storage.join(base, "large.mp4"), data


def test_a_large_object_reads_like_a_file(large: tuple[str, bytes]) -> None:
    url, data = large
    file = io.BytesIO(data)
    with storage.open_read(url) as stream:
        assert (stream.readable(), stream.seekable(), stream.writable()) == (True, True, False)
        for offset, whence, size in [
            (0, 0, 100),
            (-1000, 2, -1),
            (20 * MIB - 7, 0, 3 * MIB),
            (0, 1, 9 * MIB),
            (-4 * MIB, 1, 1),
            (8 * MIB - 1, 0, 2),
            (60 * MIB, 0, 10),
            (50 * MIB, 0, -1),
            (0, 0, 0),
        ]:
            assert stream.seek(offset, whence) == file.seek(offset, whence)
            assert stream.read(size) == file.read(size)
            assert stream.tell() == file.tell()
        buffer = bytearray(100)
        stream.seek(17 * MIB)
        assert stream.readinto(buffer) == 100
        assert buffer == data[17 * MIB :][:100]
        with pytest.raises(ValueError, match="before the start"):
            stream.seek(-1)
    with pytest.raises(ValueError, match="closed"):
        stream.read(1)


def test_a_range_of_an_object_is_a_stream_of_its_own(large: tuple[str, bytes]) -> None:
    url, data = large
    for offset, size in [
        (3 * MIB, 1000),
        (MIB, 20 * MIB),
        (49 * MIB, None),
        (49 * MIB, 5 * MIB),
        (5, 0),
        (70 * MIB, 9),
    ]:
        with storage.open_read(url, offset=offset, size=size) as stream:
            expected = data[offset:] if size is None else data[offset : offset + size]
            assert stream.size_bytes == len(expected)
            stream.seek(len(expected) // 2)
            assert stream.read() == expected[len(expected) // 2 :]
            stream.seek(0)
            assert stream.read(10) == expected[:10]


def test_a_large_object_is_read_in_bounded_memory_and_few_requests(moto_s3: MotoServer) -> None:
    url = storage.join(moto_s3(), "large.mp4")
    storage.put(url, noise(128 * MIB))
    moto_s3.forget()
    from vidbatch.storage import reader as storage_read

    with storage.open_read(url) as stream:
        while stream.read(MIB):
            assert isinstance(stream, storage_read.RangeReader)
            assert sum(len(data) for _, data in stream._segments) <= 32 * MIB
        assert stream.bytes_read == 128 * MIB
    assert moto_s3.count("GET") == 16


def test_headers_far_apart_cost_small_requests_and_neighbours_large_ones(moto_s3: MotoServer) -> None:
    url = storage.join(moto_s3(), "shard.tar")
    storage.put(url, noise(100 * MIB))
    with storage.open_read(url, block_bytes=MIB // 4) as stream:
        for place in range(0, 100, 10):
            stream.seek(place * MIB)
            stream.read(512)
        assert stream.bytes_read == 10 * MIB // 4
        moto_s3.forget()
        stream.seek(50 * MIB)
        while stream.read(512 * 1024):
            pass
    assert moto_s3.count("GET") <= 14  # 50 MiB: grows to 8 MiB a request


def test_what_is_expected_is_fetched_alone_and_ahead_of_being_read(moto_s3: MotoServer) -> None:
    url = storage.join(moto_s3(), "large.mp4")
    data = noise(40 * MIB)
    storage.put(url, data)
    moto_s3.forget()
    near = [(3 * MIB, 3 * MIB + 1000), (3 * MIB + MIB // 2, 3 * MIB + MIB // 2 + 10)]
    far = [(20 * MIB, 20 * MIB + 5000), (30 * MIB, 39 * MIB)]
    with storage.open_read(url, block_bytes=MIB) as stream:
        stream.expect(iter(near + far))
        for start, end in near + far[:1]:
            stream.seek(start)
            assert stream.read(end - start) == data[start:end]
        assert moto_s3.count("GET") <= 4  # the head, the near ones as one, the far one, and what comes after it
        stream.seek(30 * MIB)
        assert stream.read(9 * MIB) == data[30 * MIB : 39 * MIB]
    assert stream.bytes_read == MIB + MIB // 2 + 10 + 5000 + 9 * MIB
    assert moto_s3.count("GET") == 5


@given(
    ranges=st.lists(st.tuples(st.integers(0, 9_000), st.integers(1, 3_000)), max_size=8),
    reads=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 4_000), st.booleans()), max_size=20),
)
def test_whatever_is_expected_what_is_read_is_what_is_there(
    ranges: list[tuple[int, int]], reads: list[tuple[int, int, bool]]
) -> None:
    from vidbatch.storage import reader

    data = noise(10_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "BLOCK_BYTES", 2_000)
        patch.setattr(reader, "_WORTH_A_REQUEST_BYTES", 300)
        stream = reader.RangeReader(
            lambda start, end: data[start:end], size_bytes=len(data), first=data[:500], block_bytes=500
        )
        stream.expect((start, min(start + size, len(data))) for start, size in sorted(ranges))
        for start, size, once in reads:
            stream.seek(start)
            found = stream.read1(size) if once else stream.read(size)
            assert found == data[start : start + (len(found) if once else size)]
            assert found or not size or start >= len(data)
        stream.close()


def test_a_reader_works_in_a_forked_child_and_in_threads(large: tuple[str, bytes]) -> None:
    url, data = large
    stream = storage.open_read(url)
    stream.seek(30 * MIB)
    results: list[bool] = []

    def read_in_a_thread() -> None:
        with storage.open_read(url, offset=40 * MIB) as other:
            results.append(other.read() == data[40 * MIB :])

    threads = [threading.Thread(target=read_in_a_thread) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4
    program = (
        "import os, sys, hashlib\n"
        "from vidbatch import storage\n"
        "stream = storage.open_read(sys.argv[1])\n"
        "if os.fork() == 0:\n"
        "    stream.seek(30 * 2**20)\n"
        "    print(hashlib.sha256(stream.read()).hexdigest(), flush=True)\n"
        "    print(storage.stat(sys.argv[1]).size_bytes, flush=True)\n"
        "    os._exit(0)\n"
        "assert os.wait()[1] == 0\n"
        "print(hashlib.sha256(stream.read(2**20)).hexdigest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, url], capture_output=True, text=True, timeout=60, check=True
    )
    expected = [hashlib.sha256(part).hexdigest() for part in (data[30 * MIB :], data[:MIB])]
    assert done.stdout.split() == [expected[0], str(50 * MIB), expected[1]]


def test_an_object_that_changes_while_it_is_read_is_not_mixed_up(moto_s3: MotoServer) -> None:
    url = storage.join(moto_s3(), "changing.mp4")
    storage.put(url, noise(20 * MIB))
    with storage.open_read(url) as stream:
        storage.put(url, noise(20 * MIB, seed=1))
        with pytest.raises(VideoError, match="changed: the object is not the one that was listed"):
            stream.read()


@pytest.mark.parametrize("kind", ["object", "member", "gzipped member", "http"])
def test_what_was_replaced_after_it_was_listed_is_not_taken_for_what_was_listed(
    moto_s3: MotoServer, http: HttpServer, tmp_path: Path, kind: str
) -> None:
    """Its row would say that the new content is the old version's."""
    for name, data in (("old", noise(1000)), ("new", noise(1000, seed=1))):
        make_tar(tmp_path / name, {"a.mp4": data}, "w:gz" if kind == "gzipped member" else "w")
    url = f"{http.url}/shard" if kind == "http" else f"{moto_s3()}/shard.tar{'.gz' if 'gz' in kind else ''}"

    def write(name: str) -> None:
        data = (tmp_path / name).read_bytes()
        (http.folder / "shard").write_bytes(data) if kind == "http" else storage.put(url, data)

    write("old")
    listed = storage.stat(url)
    [member] = storage_tar.members(storage.open_read(url))
    clip = clip_of(url, member if "member" in kind else None, gzipped=kind == "gzipped member") | {
        "etag": listed.etag,
        "content_version": f"{kind}-{listed.content_version}",
    }
    if kind != "gzipped member":  # which would be kept
        assert storage.open_clip(clip).read()
    write("new")
    with pytest.raises(VideoError, match="changed: the object is not the one that was listed"):
        storage.open_clip(clip)
    clip["etag"] = storage.stat(url).etag
    assert storage.open_clip(clip).read()


def test_an_object_that_goes_away_while_it_is_read_is_missing(moto_s3: MotoServer) -> None:
    url = storage.join(moto_s3(), "going.mp4")
    storage.put(url, noise(20 * MIB))
    with storage.open_read(url) as stream:
        storage.delete([url])
        with pytest.raises(VideoError, match="missing: no such object"):
            stream.read()


def test_a_body_that_breaks_off_is_asked_for_again(moto_s3: MotoServer) -> None:
    url = storage.join(moto_s3(), "broken.mp4")
    data = noise(2 * MIB)
    storage.put(url, data)
    moto_s3.forget()
    broken: list[int] = []

    def break_off(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["REQUEST_METHOD"] != "GET" or len(broken) >= limit:
            return None
        broken.append(1)
        headers = [("Content-Length", str(len(data))), ("Content-Range", f"bytes 0-{len(data) - 1}/{len(data)}")]
        start_response("206 Partial Content", headers)
        return [data[:MIB]]

    limit = 2
    moto_s3.gate = break_off
    assert storage.open_read(url).read() == data
    assert len(broken) == 2
    limit = 99
    with pytest.raises(VideoError, match="storage: the connection broke again and again"):
        storage.open_read(url)


@pytest.mark.parametrize("status", ["500 Internal Server Error", "503 Service Unavailable"])
def test_a_server_that_recovers_is_asked_again(moto_s3: MotoServer, status: str) -> None:
    url = storage.join(moto_s3(), "key")
    storage.put(url, b"data")
    moto_s3.forget()
    failures = iter(range(2))

    def fail_twice(environ: dict[str, Any], start_response: Any) -> Any:
        if next(failures, None) is None:
            return None
        start_response(status, [("Content-Length", "0")])
        return [b""]

    moto_s3.gate = fail_twice
    assert storage.open_read(url).read() == b"data"
    assert moto_s3.count("GET") == 3


def test_a_store_that_is_busy_for_some_time_is_waited_for(moto_s3: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few attempts botocore has been told to make."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(patience, "_PAUSE_SECONDS", 0.01)
    url = storage.join(moto_s3(), "key")
    left = [0]

    def busy(environ: dict[str, Any], start_response: Any) -> Any:
        if left[0] == 0:
            return None
        left[0] -= 1
        start_response("500 Internal Server Error", [("Content-Length", "0")])
        return [b""]

    moto_s3.gate = busy
    for call in (
        lambda: storage.put_if(url, b"data", expected=None),
        lambda: storage.open_read(url).read() == b"data",
        lambda: storage.list_files(url.removesuffix("/key")) == [url],
    ):
        left[0] = 7
        assert call()
    monkeypatch.setattr(patience, "BUSY_SECONDS", 0.1)
    left[0] = 999
    with pytest.raises(VideoError, match="storage: 500: Internal"):
        storage.open_read(url)
    with pytest.raises(StorageError, match="500: Internal"):
        storage.put(url, b"data")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A tenth of the patience, so that tests need not wait for minutes."""
    from vidbatch.storage import http_store, s3_store, types

    for module in (types, s3_store, http_store):
        monkeypatch.setattr(module, "READ_SECONDS", 0.3)
    for module in (types, s3_store, patience):
        monkeypatch.setattr(module, "ANSWER_SECONDS", 1.5)
    monkeypatch.setattr(types, "SLOWEST_BYTES_A_SECOND", 1000)
    s3_store._filesystem.cache_clear()
    yield
    s3_store._filesystem.cache_clear()


def stalling(data: bytes, kind: str, times: int, let_go: threading.Event) -> Callable[..., Any]:
    """A gate that keeps the first GETs waiting: before the answer, in its middle, or after every byte of it."""
    turns = iter(range(times))

    def gate(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["REQUEST_METHOD"] != "GET" or next(turns, None) is None:
            return None
        if kind == "silent":
            let_go.wait(20)

        def body() -> Iterator[bytes]:
            if kind == "slow":
                for at in range(len(data)):
                    yield data[at : at + 1]
                    if let_go.wait(0.05):
                        return
            yield data[:1]
            let_go.wait(20)

        headers = [("Content-Length", str(len(data))), ("Content-Range", f"bytes 0-{len(data) - 1}/{len(data)}")]
        start_response("206 Partial Content", headers)
        return body()

    return gate


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("server", ["s3", "http"])
@pytest.mark.parametrize("kind", ["silent", "stuck", "slow"])
def test_a_store_that_stands_still_is_asked_again_and_given_up_in_time(
    moto_s3: MotoServer, http: HttpServer, server: str, kind: str
) -> None:
    data = noise(500)
    if server == "s3":
        url = storage.join(moto_s3(), "a.mp4")
        storage.put(url, data)
    else:
        url = f"{http.url}/a.mp4"
        (http.folder / "a.mp4").write_bytes(data)
    faulty: MotoServer | HttpServer = moto_s3 if server == "s3" else http
    let_go = threading.Event()
    try:
        faulty.gate = stalling(data, kind, 1, let_go)
        assert storage.open_read(url).read() == data
        faulty.gate = stalling(data, kind, 99, let_go)
        began = time.monotonic()
        with pytest.raises(VideoError, match=r"storage: .*(in time|[Tt]imeout|the connection broke|too slow)"):
            storage.open_read(url)
        assert time.monotonic() - began < 12
    finally:
        let_go.set()
        faulty.gate = None


@pytest.mark.usefixtures("impatient")
def test_a_write_that_gets_no_answer_ends_in_time(moto_s3: MotoServer) -> None:
    url = storage.join(moto_s3(), "key")
    let_go = threading.Event()

    def silent(environ: dict[str, Any], start_response: Any) -> None:
        let_go.wait(20)

    moto_s3.gate = silent
    began = time.monotonic()
    try:
        with pytest.raises(StorageError, match="did not answer in time"):
            storage.put(url, b"data")
        assert time.monotonic() - began < 6
    finally:
        let_go.set()
        moto_s3.forget()


def test_a_request_is_given_up_before_a_decoder_is() -> None:
    """Else a store that hangs would be taken for a video that does, which no rerun tries again."""
    from vidbatch.config import LabelConfig
    from vidbatch.storage.types import ANSWER_SECONDS, BLOCK_BYTES, seconds_for

    allowed_seconds = LabelConfig.model_fields["decode_timeout_seconds"].default
    assert ANSWER_SECONDS + seconds_for(BLOCK_BYTES) < allowed_seconds


def test_a_wrong_secret_is_one_clear_sentence(seaweed_s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = seaweed_s3()
    storage.put(storage.join(bucket, "a.mp4"), b"1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    for source in (bucket, f"{bucket}/a.mp4", f"{bucket}/*.mp4"):
        with pytest.raises(ConfigError, match=r"^input 's3://.*cannot be read: access refused \(SignatureDoesNotMatch"):
            urls(source)
    with pytest.raises(VideoError, match="permission: access refused"):
        storage.open_read(f"{bucket}/a.mp4")
    with pytest.raises(VideoError, match="permission: access refused"):
        storage.stat(f"{bucket}/a.mp4")
    with pytest.raises(ConfigError, match=r"^output: .* cannot be written: access refused \(SignatureDoesNotMatch"):
        storage.probe_output(bucket)


def test_no_credentials_and_no_server_are_said(moto_s3: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ConfigError, match="no AWS credentials were found: set AWS_PROFILE"):
        urls("s3://some-bucket")
    with pytest.raises(VideoError, match="permission: no AWS credentials were found"):
        storage.stat("s3://some-bucket/a.mp4")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match=r"cannot be read: The config profile \(nobody\) could not be found"):
        urls("s3://some-bucket")
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match="Could not connect to the endpoint"):
        urls("s3://some-bucket")


def test_credentials_may_come_from_a_profile(
    seaweed_s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = seaweed_s3()
    (tmp_path / "config").write_text(f"[profile lab]\nregion = us-east-1\nendpoint_url = {seaweed_s3.endpoint}\n")
    (tmp_path / "credentials").write_text(
        f"[lab]\naws_access_key_id = {seaweed_s3.key_id}\naws_secret_access_key = {seaweed_s3.secret}\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    storage.put(storage.join(bucket, "a.mp4"), b"1")
    assert urls(bucket) == [f"{bucket}/a.mp4"]


class InEurope:
    """A gate that refuses who signs for another region than the bucket has: as S3 does, naming it, or as others do."""

    def __init__(self, *, is_named: bool) -> None:
        self.num_refused = 0
        self._status, self._code = (
            ("301 Moved Permanently", "PermanentRedirect")
            if is_named
            else ("400 Bad Request", "AuthorizationHeaderMalformed")
        )
        self._headers = [("x-amz-bucket-region", "eu-west-1")] if is_named else []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes] | None:
        if "/eu-west-1/s3/" in environ.get("HTTP_AUTHORIZATION", ""):
            return None
        self.num_refused += 1
        return refuse(environ, start_response, self._status, self._code, self._headers)


def test_a_bucket_in_another_region_is_asked_there(moto_s3: MotoServer) -> None:
    bucket = moto_s3()
    moto_s3.gate = gate = InEurope(is_named=True)
    storage.put(storage.join(bucket, "a.mp4"), b"12345")
    assert urls(bucket) == [f"{bucket}/a.mp4"]
    assert storage.read_bytes(storage.join(bucket, "a.mp4")) == b"12345"
    assert storage.probe_output(storage.join(bucket, "labels"))
    assert gate.num_refused > 0


def test_a_bucket_in_a_region_that_the_store_does_not_name_is_one_sentence(moto_s3: MotoServer) -> None:
    bucket = moto_s3()
    moto_s3.gate = InEurope(is_named=False)
    with pytest.raises(ConfigError, match=r"bucket '.*' is in another region: set AWS_REGION to its own"):
        urls(bucket)
    with pytest.raises(ConfigError, match=r"bucket '.*' is in another region: set AWS_REGION to its own"):
        storage.probe_output(storage.join(bucket, "labels"))


# --- http -----------------------------------------------------------------------------------------------------------

SIGNED = "X-Amz-Credential=AKIA%2F20240101&X-Amz-Signature=abc%2Fdef%3D&v=ü%20x"


def test_a_signed_url_is_sent_as_written_and_never_shown(http: HttpServer) -> None:
    (http.folder / "a clip.mp4").write_bytes(noise(1000))
    source = f"{http.url.replace('http://', 'HTTP://user:pw@')}/a%20clip.mp4?{SIGNED}"
    [[item]] = storage.list_objects(source)
    assert item.url == f"{http.url}/a%20clip.mp4"
    assert item.source == source
    assert item.size_bytes == 1000
    assert item.etag
    assert storage.open_read(item.source).read() == noise(1000)
    for request in http.requests:
        assert request["REQUEST_METHOD"] == "GET"  # what is signed for GET may not be asked for by HEAD
        assert request["QUERY_STRING"].startswith(SIGNED.partition("v=")[0])
        assert request["HTTP_AUTHORIZATION"].startswith("Basic ")
    with pytest.raises(ConfigError) as caught:
        urls(source.replace("a%20clip", "gone"))
    shown = f"{http.url.replace('http', 'HTTP', 1)}/gone.mp4"
    assert str(caught.value) == f"input {shown!r} does not exist (HTTP 404 NOT FOUND)"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("401 No", "permission"),
        ("403 No", "permission"),
        ("404 No", "missing"),
        ("410 No", "missing"),
        ("418 No", "storage"),
    ],
)
def test_what_a_web_server_refuses_has_a_kind(http: HttpServer, status: str, kind: str) -> None:
    def refuse(_: Any, start_response: Any) -> list[bytes]:
        start_response(status, [("Content-Length", "0")])
        return [b""]

    http.gate = refuse
    for call in (storage.stat, storage.open_read):
        with pytest.raises(VideoError) as caught:
            call(f"{http.url}/a.mp4?sig=secret")
        assert caught.value.kind == kind
        assert "secret" not in caught.value.message


def refusing(left: list[int], status: str) -> Callable[[Any, Any], list[bytes] | None]:
    """A gate that answers with this status as often as is left."""

    def gate(_: Any, start_response: Any) -> list[bytes] | None:
        left[0] -= 1
        if left[0] < 0:
            return None
        start_response(status, [("Content-Length", "0")])
        return [b""]

    return gate


def test_a_web_server_that_recovers_is_asked_again(http: HttpServer) -> None:
    (http.folder / "a.mp4").write_bytes(b"data")
    http.gate = refusing([2], "503 Busy")
    assert storage.open_read(f"{http.url}/a.mp4").read() == b"data"
    assert len(http.requests) == 3


def test_a_busy_web_server_is_waited_for(http: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_PAUSE_SECONDS", 0.001)
    (http.folder / "a.mp4").write_bytes(b"data")
    left = [9]
    http.gate = refusing(left, "429 Too Many Requests")
    assert storage.open_read(f"{http.url}/a.mp4").read() == b"data"
    assert len(http.requests) == 10
    monkeypatch.setattr(patience, "BUSY_SECONDS", 0.1)
    left[0] = 999
    with pytest.raises(VideoError, match="storage: HTTP 429"):
        storage.open_read(f"{http.url}/a.mp4")


def test_an_empty_web_object_is_empty(http: HttpServer) -> None:
    (http.folder / "empty.mp4").write_bytes(b"")
    assert storage.stat(f"{http.url}/empty.mp4").size_bytes == 0
    assert storage.open_read(f"{http.url}/empty.mp4").read() == b""


def test_a_web_server_without_ranges_is_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = noise(20 * MIB)
    (tmp_path / "large.mp4").write_bytes(data)
    (tmp_path / "small.mp4").write_bytes(data[:1000])
    server = PlainHttpServer(tmp_path)
    try:
        assert storage.stat(f"{server.url}/large.mp4").content_version.startswith(f"{20 * MIB}-")
        assert storage.open_read(f"{server.url}/small.mp4").read() == data[:1000]
        with storage.open_read(f"{server.url}/large.mp4", offset=5, size=9 * MIB) as stream:
            stream.seek(8 * MIB)
            assert stream.read() == data[5 + 8 * MIB : 5 + 9 * MIB]
        monkeypatch.setattr(storage_open, "SPOOL_LIMIT_BYTES", 10 * MIB)
        with pytest.raises(VideoError, match="storage: larger than"):
            storage.open_read(f"{server.url}/large.mp4")
        with pytest.raises(ConfigError, match="does not exist"):
            urls(f"{server.url}/nothing.mp4")
    finally:
        server.stop()
    monkeypatch.setattr("vidbatch.storage.patience.TRIES", 1)
    with pytest.raises(VideoError, match="storage: "):
        storage.stat(f"{server.url}/large.mp4")


# --- members of shards ----------------------------------------------------------------------------------------------


def clip_of(source: str, member: storage_tar.Member | None, *, gzipped: bool = False) -> dict[str, Any]:
    return {
        "source": source,
        "member": member.name if member else None,
        "member_offset": None if member is None or gzipped else member.offset,
        "size_bytes": member.size_bytes if member else None,
        "content_version": "1",
    }


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_every_member_opens_as_itself(place: str, tmp_path: Path, mode: str) -> None:
    files = {f"dir/{number}.mp4": noise(300_000 + number, seed=number) for number in range(20)}
    make_tar(tmp_path / "shard", files, mode)
    url = storage.join(place, "shard.tar.gz" if mode == "w:gz" else "shard.tar")
    storage.put(url, (tmp_path / "shard").read_bytes())
    found = list(storage_tar.members(storage.open_read(url, block_bytes=MIB // 4)))
    assert [member.name for member in found] == list(files)
    for member in reversed(found):
        with storage.open_clip(clip_of(url, member, gzipped=mode == "w:gz")) as stream:
            assert stream.read() == files[member.name]
    whole = storage.open_clip(clip_of(url, None))
    assert whole.read() == (tmp_path / "shard").read_bytes()


def test_a_gzipped_shard_is_unpacked_once_and_streams_outlive_it(moto_s3: MotoServer, tmp_path: Path) -> None:
    bucket = moto_s3()
    for name in ("one", "two"):
        make_tar(tmp_path / name, {"a.mp4": name.encode() * 9, "b.mp4": noise(MIB)}, "w:gz")
        storage.put(f"{bucket}/{name}.tar.gz", (tmp_path / name).read_bytes())
    moto_s3.forget()
    first = storage.open_member(f"{bucket}/one.tar.gz", "a.mp4", offset=None, size=None)
    for _ in range(5):
        assert storage.open_member(f"{bucket}/one.tar.gz", "b.mp4", offset=None, size=None).size_bytes == MIB
    assert moto_s3.count("GET") == 1
    assert storage.open_member(f"{bucket}/two.tar.gz", "a.mp4", offset=None, size=None).read() == b"two" * 9
    assert first.read() == b"one" * 9
    with pytest.raises(VideoError, match=r"missing: the shard has no member 'c.mp4'"):
        storage.open_member(f"{bucket}/two.tar.gz", "c.mp4", offset=None, size=None)


def test_a_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tar(tmp_path / "bomb.tar.gz", {"a.mp4": bytes(30 * MIB), "b.mp4": b"1"}, "w:gz")
    assert (tmp_path / "bomb.tar.gz").stat().st_size < MIB
    monkeypatch.setattr(storage_tar, "UNPACKED_LIMIT_BYTES", 20 * MIB)
    url = str(tmp_path / "bomb.tar.gz")
    with pytest.raises(VideoError, match="bounds: the shard unpacks to more than"):
        storage.open_member(url, "a.mp4", offset=None, size=None)
    with pytest.raises(VideoError, match="bounds: the shard unpacks to more than"):
        list(storage_tar.members(storage.open_read(url)))


def test_members_before_the_cut_of_a_gzipped_shard_are_whole(tmp_path: Path) -> None:
    files = {f"{number}.mp4": noise(200_000, seed=number) for number in range(10)}
    make_tar(tmp_path / "cut.tar.gz", files, "w:gz")
    data = (tmp_path / "cut.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(data[: len(data) // 2])
    url = str(tmp_path / "cut.tar.gz")
    found: list[storage_tar.Member] = []
    with pytest.raises(VideoError, match="truncated"):
        found.extend(storage_tar.members(storage.open_read(url)))
    found = []
    try:
        for member in storage_tar.members(storage.open_read(url)):
            found.append(member)
    except VideoError:
        pass
    assert 4 <= len(found) <= 5
    for member in found[:4]:
        assert storage.open_clip(clip_of(url, member, gzipped=True)).read() == files[member.name]


# --- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see https://u:p@h/a.mp4?X-Amz-Signature=1&b=2 now", "see https://h/a.mp4 now"),
        ("'http://h/a?b' and \"s3://b/k?versionId=1\"", "'http://h/a' and \"s3://b/k\""),
        ("GET /a.mp4?X-Amz-Security-Token=abc&x=1 failed", "GET /a.mp4?X-Amz-Security-Token=…&x=1 failed"),
        ("https://u:p@ss@h/a.mp4", "https://h/a.mp4"),
        ("GET /a.mp4?access_token=abc&n=1 and a-signature=b", "GET /a.mp4?access_token=…&n=1 and a-signature=…"),
        ("PASSWORD=abc&secret_key=b", "PASSWORD=…&secret_key=…"),
        ("AccountName=a;AccountKey=c2Vj+r==;x", "AccountName=a;AccountKey=…"),
        ("design=flat, assign=1, tokens are 5, monkey=ape", "design=flat, assign=1, tokens are 5, monkey=ape"),
        ("nothing: to / hide?", "nothing: to / hide?"),
    ],
)
def test_secrets_are_taken_out_of_any_text(text: str, expected: str) -> None:
    assert storage.redact(text) == expected


def test_an_object_s_version_follows_its_etag_or_its_date() -> None:
    item = storage.StoredObject("s3://b/k", "s3://b/k", 5, "abc", 1.0)
    assert item.content_version == "abc-5"
    assert item._replace(etag=None).content_version == "5-1.000000"
    assert pickle.loads(pickle.dumps(item)) == item


def test_storage_is_cheap_to_import() -> None:
    program = (
        "import sys, vidbatch.storage; print(*[m for m in ('s3fs', 'aiohttp', 'ray', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
