"""Azure's and Google's stores beyond what test_storage.py asks of every store: refusals in one sentence, whole runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vidbatch
from vidbatch import storage
from vidbatch.errors import ConfigError, StorageError, VideoError
from vidbatch.stamp import make_stamp_bundle
from vidbatch.storage import urls
from vidbatch.testing import make_video

MIB = 2**20


@pytest.fixture(params=["azurite", "fake_gcs"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def listed(source: str) -> list[str]:
    return [found.url for page in storage.list_objects(source) for found in page]


def test_a_missing_bucket_is_named(server: Any) -> None:
    scheme = server().partition("://")[0]
    said = f"{'container' if scheme == 'az' else 'bucket'} 'never-made' does not exist"
    for source in (f"{scheme}://never-made", f"{scheme}://never-made/a.mp4", f"{scheme}://never-made/*.mp4"):
        with pytest.raises(ConfigError, match=said):
            listed(source)
    with pytest.raises(VideoError, match=f"missing: {said}"):
        storage.open_read(f"{scheme}://never-made/a.mp4")
    with pytest.raises(StorageError, match=said):
        storage.read_with_version(f"{scheme}://never-made/layout.json")
    with pytest.raises(ConfigError, match=f"output: '.*' cannot be written: {said}"):
        storage.probe_output(f"{scheme}://never-made/out")


def test_an_object_that_changes_while_it_is_read_is_not_mixed_up(server: Any) -> None:
    url = storage.join(server(), "changing.mp4")
    storage.put(url, b"a" * 20 * MIB)
    with storage.open_read(url) as stream:
        storage.put(url, b"b" * 20 * MIB)
        with pytest.raises(VideoError, match="changed: the object is not the one that was listed"):
            stream.read()


@pytest.mark.parametrize("num_bytes", [0, 1, 8 * MIB])
def test_a_small_object_is_whole_whatever_its_size(server: Any, num_bytes: int) -> None:
    url = storage.join(server(), "small.mp4")
    storage.put(url, b"x" * num_bytes)
    with storage.open_read(url) as stream:
        assert stream.read() == b"x" * num_bytes
        assert stream.bytes_read == num_bytes


def test_a_file_system_for_libraries_reads_what_was_put(server: Any) -> None:
    place = storage.join(server(), "tables")
    storage.put(storage.join(place, "a.parquet"), b"rows")
    files, path = storage.filesystem(place)
    assert files.cat_file(f"{path}/a.parquet") == b"rows"
    assert files.find(path) == [f"{path}/a.parquet"]


@pytest.mark.parametrize(("scheme", "package", "extra"), [("az", "adlfs", "azure"), ("gs", "gcsfs", "gcs")])
def test_a_store_whose_package_is_missing_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, scheme: str, package: str, extra: str
) -> None:
    monkeypatch.setattr(urls, "find_spec", lambda name: None)
    urls.store_of.cache_clear()
    said = re.escape(f"{scheme}:// needs the package {package}: pip install 'vidbatch[{extra}]'")
    with pytest.raises(ConfigError, match=said):
        listed(f"{scheme}://bucket/videos")
    with pytest.raises(ConfigError, match=said):
        storage.probe_output(f"{scheme}://bucket/labels")


def test_nobody_to_ask_as_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("adlfs", reason="vidbatch[azure] is not installed")
    pytest.importorskip("gcsfs", reason="vidbatch[gcs] is not installed")
    for name in [name for name in os.environ if name.startswith(("AZURE_", "GOOGLE_", "STORAGE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    with pytest.raises(
        ConfigError, match="input 'az://container/videos' cannot be read: no Azure account was named: set"
    ):
        listed("az://container/videos")
    with pytest.raises(
        ConfigError, match="input 'gs://bucket/videos' cannot be read: no Google credentials were found"
    ):
        listed("gs://bucket/videos")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountKey=c2VjcmV0;nonsense")
    with pytest.raises(ConfigError, match=r"the AZURE_STORAGE_\* variables are not what") as caught:
        listed("az://container/videos")
    assert "c2VjcmV0" not in str(caught.value)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_run_reads_and_writes_there_and_does_each_video_once(server: Any, tmp_path: Path) -> None:
    bucket = server()
    for number in (1, 2, 3):
        make_video(tmp_path / f"{number}.mp4", num_frames=20, video_number=number)
        storage.put_file(f"{bucket}/videos/{number}.mp4", str(tmp_path / f"{number}.mp4"))
    make_stamp_bundle(f"{bucket}/bundle", num_classes=8)
    start = [sys.executable, "-c", "from vidbatch.cli import main; main()", "label", f"{bucket}/videos", "--json"]
    command = [*start, "--output", f"{bucket}/labels", "--model", f"{bucket}/bundle", "--sampling", "count=2"]
    states = []
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        states.append(json.loads(done.stdout)["state"])
    assert states == ["finished", "nothing_to_do"]
    rows = vidbatch.tables(f"{bucket}/labels").videos.to_arrow().to_pylist()
    assert sorted((row["url"], row["status"], row["label"]) for row in rows) == [
        (f"{bucket}/videos/{number}.mp4", "ok", f"video_{number}") for number in (1, 2, 3)
    ]
