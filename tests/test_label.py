"""The whole chain on real input: files in, tables out, by the public API and a real local Ray."""

from __future__ import annotations

import ctypes
import io
import json
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clips import LazyClips
from servers import HttpServer, MotoServer, SeaweedServer

import vidbatch
from vidbatch import pipeline, schema
from vidbatch.config import load_config
from vidbatch.decode import Decoder
from vidbatch.errors import ConfigError
from vidbatch.metrics import Progress
from vidbatch.stamp import make_stamp_bundle
from vidbatch.testing import make_shard, make_video

pytestmark = pytest.mark.usefixtures("local_ray")

NUM_CLASSES = 64


@pytest.fixture(scope="session")
def stamp_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose label is the video number that testing.make_video painted into the pixels."""
    folder = tmp_path_factory.mktemp("stamp-model")
    make_stamp_bundle(folder, num_classes=NUM_CLASSES)
    return f"file:{folder}"


@pytest.fixture(scope="session")
def stamped(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Videos 1..12, of different lengths, codecs and containers; the pixels say which video and frame they are."""
    folder = tmp_path_factory.mktemp("stamped")
    kinds = [("libx264", "mp4"), ("mpeg4", "avi"), ("libvpx-vp9", "webm"), ("mpeg2video", "ts"), ("libx264", "mkv")]
    made = {}
    for number in range(1, 13):
        codec, ending = kinds[number % len(kinds)]
        made[number] = folder / f"video-{number:02d}.{ending}"
        make_video(made[number], codec=codec, num_frames=20 + 7 * number, fps=10, video_number=number)
    return made


def copy_into(folder: Path, videos: dict[int, Path]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for path in videos.values():
        shutil.copy(path, folder / path.name)
    return folder


def number_of(row: dict[str, Any]) -> int:
    return int((row["member"] or row["url"]).rsplit("video-", 1)[1][:2])


def comparable(result: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of both tables in a fixed order, without what differs from run to run."""
    tables = []
    for table in (result.videos, result.frames):
        rows = table.to_arrow().to_pylist()
        for row in rows:
            for name in ("run_id", "finished_at"):
                row.pop(name, None)
        tables.append(sorted(rows, key=lambda r: (r["url"], r["member"] or "", r.get("frame_index", 0))))
    return tables[0], tables[1]


def assert_each_row_is_of_its_video(result: Any, numbers: set[int]) -> None:
    """Row and content belong together: the label the pixels gave is the number in the file's name."""
    videos, frames = comparable(result)
    assert {number_of(v) for v in videos} == numbers
    assert len(videos) == len(numbers)
    for row in videos + frames:
        assert row["label"] == f"video_{number_of(row)}"
        assert row["score"] > 0.99
    for video in videos:
        own = [f for f in frames if f["video_id"] == video["video_id"]]
        assert [f["frame_index"] for f in own] == list(range(video["num_frames_sampled"]))
        assert [f["pts_seconds"] for f in own] == sorted({f["pts_seconds"] for f in own})


def test_every_row_carries_the_content_of_its_own_video(
    tmp_path: Path, stamped: dict[int, Path], stamp_model: str
) -> None:
    archive = copy_into(tmp_path / "archive", stamped)
    result = vidbatch.label(
        archive, output=tmp_path / "out", model=stamp_model, sampling="fps=2", embedding=True, decode_workers=2
    )
    assert_each_row_is_of_its_video(result, set(stamped))
    videos, frames = comparable(result)
    start = {f["video_id"]: f["pts_seconds"] for f in frames if f["frame_index"] == 0}
    for frame in frames:  # the pixels say which frame it is, too
        number = round((frame["pts_seconds"] - start[frame["video_id"]]) * 10)
        assert frame["embedding"][-2:] == [number_of(frame), number]
    assert result.record.state == "finished"
    for video in videos:
        seconds = (20 + 7 * number_of(video)) / 10
        assert video["num_frames_sampled"] == -(-seconds * 2 // 1)
        assert (video["status"], video["error_kind"]) == ("ok", None)


def test_a_second_run_does_nothing_and_new_or_replaced_videos_are_the_only_ones_worked_on(
    tmp_path: Path, stamped: dict[int, Path], stamp_model: str
) -> None:
    few = {n: stamped[n] for n in (1, 2, 3)}
    archive, output = copy_into(tmp_path / "archive", few), tmp_path / "out"
    settings: dict[str, Any] = {"output": output, "model": stamp_model}
    before = comparable(vidbatch.label(archive, **settings))[0]
    again = vidbatch.label(archive, **settings)
    assert (again.record.state, again.record.videos) == ("nothing_to_do", 0)
    copy_into(archive, {4: stamped[4]})
    third = vidbatch.label(archive, **settings)
    assert third.record.videos == 1
    after = comparable(third)[0]
    assert after[:3] == before
    assert [number_of(v) for v in after] == [1, 2, 3, 4]
    shutil.copy(stamped[5], archive / stamped[2].name)  # another video under an old name
    fourth = vidbatch.label(archive, **settings)
    assert fourth.record.videos == 1
    replaced = next(v for v in comparable(fourth)[0] if number_of(v) == 2)
    assert replaced["label"] == "video_5"
    assert len(comparable(fourth)[0]) == 4


@pytest.mark.long
def test_a_changed_setting_that_changes_results_relabels(
    tmp_path: Path, stamped: dict[int, Path], stamp_model: str
) -> None:
    archive = copy_into(tmp_path / "archive", {n: stamped[n] for n in (1, 2)})
    settings: dict[str, Any] = {"output": tmp_path / "out", "model": stamp_model, "sampling": "fps=1", "top_k": 3}
    vidbatch.label(archive, **settings)
    for change in ({"sampling": "count=2"}, {"top_k": 2}, {"embedding": True}):
        settings |= change
        changed = vidbatch.label(archive, **settings)
        assert changed.record.videos == 2, change
        assert_each_row_is_of_its_video(changed, {1, 2})
        digests = {r["config_digest"] for rows in comparable(changed) for r in rows}
        assert len(digests) == 1
        assert vidbatch.label(archive, **settings, batch_size=3).record.state == "nothing_to_do"


@pytest.mark.long
def test_weights_changed_in_place_relabel(tmp_path: Path, stamped: dict[int, Path]) -> None:
    archive = copy_into(tmp_path / "archive", {1: stamped[1]})
    make_stamp_bundle(tmp_path / "model", num_classes=8)
    settings: dict[str, Any] = {"output": tmp_path / "out", "model": f"file:{tmp_path / 'model'}"}
    vidbatch.label(archive, **settings)
    shutil.rmtree(tmp_path / "model")
    make_stamp_bundle(tmp_path / "model", num_classes=9)
    assert vidbatch.label(archive, **settings).record.videos == 1


def test_a_long_video_cut_into_clips_gives_the_rows_of_one_clip(tmp_path: Path, stamp_model: str) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    make_video(archive / "video-07.mp4", num_frames=900, fps=30, gop=30, width=640, height=360, video_number=7)
    settings: dict[str, Any] = {"model": stamp_model, "sampling": "fps=3"}
    whole = vidbatch.label(archive, output=tmp_path / "whole", clip_seconds=1000, **settings)
    cut = vidbatch.label(archive, output=tmp_path / "cut", clip_seconds=4, long_video_mb=0, **settings)
    assert_each_row_is_of_its_video(cut, {7})
    one, many = comparable(whole), comparable(cut)
    assert [f["pts_seconds"] for f in many[1]] == [f["pts_seconds"] for f in one[1]]
    assert many[1] == one[1]
    assert many[0][0].pop("score") == pytest.approx(one[0][0].pop("score"), abs=1e-5)
    many[0][0].pop("top_k"), one[0][0].pop("top_k")
    assert many[0] == one[0]


@pytest.mark.long
def test_embeddings_are_fixed_size_float16_and_open_everywhere(
    tmp_path: Path, stamped: dict[int, Path], stamp_model: str
) -> None:
    archive = copy_into(tmp_path / "archive", {n: stamped[n] for n in (1, 2)})
    result = vidbatch.label(archive, output=tmp_path / "out", model=stamp_model, embedding=True)
    table = result.frames.to_arrow()
    kind = table.schema.field("embedding").type
    assert pa.types.is_fixed_size_list(kind)
    assert kind.value_type == pa.float16()
    assert len(table["embedding"][0].as_py()) == kind.list_size
    import duckdb
    import pandas
    import polars

    pattern = f"{tmp_path}/out/frames/*.parquet"
    assert polars.read_parquet(pattern).height == len(table)
    assert len(pandas.read_parquet(f"{tmp_path}/out/frames")) == len(table)
    counted = duckdb.sql(f"select count(embedding), len(any_value(embedding)) from '{pattern}'").fetchall()[0]
    assert counted == (len(table), kind.list_size)


def test_a_manifest_brings_times_and_columns_along(tmp_path: Path, stamped: dict[int, Path], stamp_model: str) -> None:
    archive = copy_into(tmp_path / "archive", {n: stamped[n] for n in (4, 5)})
    manifest = tmp_path / "list.parquet"
    rows = [
        {"url": f"archive/{stamped[4].name}", "camera": "north", "day": 3, "when": [0.0, 1.5, 2.05]},
        {"url": str(archive / stamped[5].name), "camera": "south", "day": 5, "when": [0.5]},
        {"url": "archive/gone.mp4", "camera": "west", "day": 5, "when": [0.5]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), manifest)
    result = vidbatch.label(
        manifest, output=tmp_path / "out", model=stamp_model, sampling="times=when", max_failed_share=0.5
    )
    videos = {v["url"].rsplit("/", 1)[1]: v for v in comparable(result)[0]}
    assert json.loads(videos[stamped[4].name]["metadata"])["camera"] == "north"
    assert json.loads(videos[stamped[5].name]["metadata"])["day"] == 5
    assert (videos["gone.mp4"]["status"], videos["gone.mp4"]["error_kind"]) == ("failed", "missing")
    frames = comparable(result)[1]
    assert [f["pts_seconds"] for f in frames if number_of(f) == 4] == pytest.approx([0.0, 1.5, 2.0], abs=0.02)
    assert result.is_acceptable


def label_in_a_process_of_its_own(*arguments: object) -> None:
    """Its local Ray inherits the environment that says where S3 is; the session's Ray was started before."""
    command = [sys.executable, "-c", "from vidbatch.cli import main; main()", "label", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_shards_on_s3_to_tables_on_s3_over_http(
    seaweed_s3: SeaweedServer, tmp_path: Path, stamped: dict[int, Path], stamp_model: str
) -> None:
    """A real S3 server that checks signatures: tar shards in, tables out, a model bundle from there too."""
    bucket, client = seaweed_s3(), seaweed_s3.client()
    name = bucket.removeprefix("s3://")
    for shard, numbers in (("a.tar", (1, 2, 3)), ("deep/b.tar", (4, 5)), ("c.tar.gz", (6,))):
        files: dict[str, bytes] = {}
        for n in numbers:
            files[stamped[n].name] = stamped[n].read_bytes()
            files[f"{stamped[n].stem}.json"] = json.dumps({"take": n}).encode()
        made = tmp_path / Path(shard).name
        make_shard(made, files)
        client.put_object(Bucket=name, Key=f"shards/{shard}", Body=made.read_bytes())
    for file in Path(stamp_model.removeprefix("file:")).iterdir():
        client.put_object(Bucket=name, Key=f"model/{file.name}", Body=file.read_bytes())
    arguments = [f"{bucket}/shards", "--output", f"{bucket}/labels", "--model", f"{bucket}/model"]
    label_in_a_process_of_its_own(*arguments)
    tables = vidbatch.tables(f"{bucket}/labels")
    assert_each_row_is_of_its_video(tables, {1, 2, 3, 4, 5, 6})
    for video in comparable(tables)[0]:
        assert json.loads(video["metadata"])["json"] == {"take": number_of(video)}
        assert video["url"].startswith(f"{bucket}/shards/")
    again = vidbatch.label(f"{bucket}/shards", output=f"{bucket}/labels", model=f"{bucket}/model")
    assert again.record.state == "nothing_to_do"
    keys = [o["Key"] for o in client.list_objects_v2(Bucket=name, Prefix="labels/")["Contents"]]
    assert not [k for k in keys if "/staged/" in k]


def test_small_objects_cost_at_most_two_gets_each(
    moto_s3: MotoServer, stamped: dict[int, Path], stamp_model: str
) -> None:
    bucket, client = moto_s3(), moto_s3.client()
    for path in stamped.values():
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=f"in/{path.name}", Body=path.read_bytes())
    moto_s3.forget()
    assert_each_row_is_of_its_video(
        vidbatch.label(f"{bucket}/in/*", output=f"{bucket}/out", model=stamp_model), set(stamped)
    )
    for path in stamped.values():
        assert 1 <= moto_s3.count("GET", path.name) <= 2


@pytest.mark.long
def test_a_nightly_output_is_partitioned_by_the_day_a_video_was_first_seen(
    tmp_path: Path, stamped: dict[int, Path], stamp_model: str
) -> None:
    archive, output = copy_into(tmp_path / "archive", {n: stamped[n] for n in (1, 2)}), tmp_path / "out"
    vidbatch.label(archive, output=output, model=stamp_model, partition_by="date")
    day = next((output / "videos").iterdir()).name
    (output / "videos" / day).rename(output / "videos" / "date=2026-01-01")  # as if the first night had been then
    (output / "frames" / day).rename(output / "frames" / "date=2026-01-01")
    shutil.copy(stamped[3], archive / stamped[1].name)
    copy_into(archive, {4: stamped[4]})
    result = vidbatch.label(archive, output=output, model=stamp_model)
    days = {number_of(v): str(v["date"]) for v in result.videos.to_arrow().to_pylist()}
    assert days == {1: "2026-01-01", 2: "2026-01-01", 4: day.removeprefix("date=")}
    import duckdb

    counted = duckdb.sql(f"select count(distinct date) from read_parquet('{output}/videos/**/*.parquet')").fetchall()[0]
    assert counted == (2,)


@pytest.mark.long
def test_limit_bounds_the_work_of_one_run_and_the_next_goes_on(
    tmp_path: Path, stamped: dict[int, Path], stamp_model: str
) -> None:
    archive = copy_into(tmp_path / "archive", {n: stamped[n] for n in (1, 2, 3)})
    done = [
        vidbatch.label(archive, output=tmp_path / "out", model=stamp_model, limit=2).record.videos for _ in range(3)
    ]
    assert done == [2, 1, 0]


def test_a_run_in_a_ray_that_stays_leaves_no_actor_there(
    tmp_path: Path, stamped: dict[int, Path], stamp_model: str
) -> None:
    from ray._private import state

    def of_ours() -> list[str]:
        found = [actor for actor in state.actors().values() if actor["State"] != "DEAD"]
        return [actor["ActorClassName"] for actor in found if "Watch" in actor["ActorClassName"]]

    copy_into(tmp_path / "archive", {1: stamped[1]})
    vidbatch.label(tmp_path / "archive", output=tmp_path / "out", model=stamp_model)
    deadline = time.monotonic() + 30
    while of_ours() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert of_ours() == []


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("fails", "three is too much"),
        pytest.param("hangs", "no answer within 3 s, in 2 tries", marks=pytest.mark.long),
    ],
)
def test_a_model_that_fails_or_hangs_on_one_video_fails_that_one_and_ends_no_run(
    tmp_path: Path, stamped: dict[int, Path], stamp_model: str, what: str, words: str
) -> None:
    archive = copy_into(tmp_path / "archive", {n: stamped[n] for n in (1, 2, 3, 4, 5)})
    settings = load_config(
        {"inputs": archive, "output": tmp_path / "out", "model": stamp_model, "sampling": "all",
         "model_timeout_seconds": 3}
    )  # fmt: skip
    said = io.StringIO()
    stages = pipeline.Stages(Decoder, FailsOnThree if what == "fails" else HangsOnThree)
    result = pipeline.label(settings, Progress(said), stages=stages)
    assert ("the model gave no answer within" in said.getvalue()) == (what == "hangs")
    videos, frames = comparable(result)
    found = {number_of(video): (video["status"], video["error_kind"]) for video in videos}
    assert found == {n: ("failed", "model") if n == 3 else ("ok", None) for n in (1, 2, 3, 4, 5)}
    message = next(video["error_message"] for video in videos if number_of(video) == 3)
    assert words in message
    assert {number_of(frame) for frame in frames} == {1, 2, 4, 5}
    if what == "hangs":
        return  # what a rerun does is the same
    again = vidbatch.label(archive, output=tmp_path / "out", model=stamp_model, sampling="all", retry_failed=True)
    assert again.record.videos == 1
    assert {video["status"] for video in comparable(again)[0]} == {"ok"}


class FailsOnThree:
    """The model stage with a network that raises when it sees video 3."""

    def __init__(self, spec: Any, config: Any, weights: Any, num_threads: int, watch: Any) -> None:
        import ray

        from vidbatch.classify import Classifier

        self._classifier = Classifier(spec, config, ray.get(weights), num_threads=num_threads, watch=watch)
        network = self._classifier._network
        run = network._run

        def moody(frames_nhwc: Any) -> Any:
            from vidbatch.testing import read_stamp

            if any(read_stamp(frame)[0] == 3 for frame in frames_nhwc.numpy()):
                self.refuse()
            return run(frames_nhwc)

        network._run = moody

    def refuse(self) -> None:
        raise RuntimeError("three is too much")

    def __call__(self, table: Any) -> Any:
        return self._classifier(table)


class HangsOnThree(FailsOnThree):
    """The model stage with a network that never returns from native code, and keeps the interpreter's lock."""

    def refuse(self) -> None:
        ctypes.PyDLL(None).pause()


def test_bad_videos_become_rows_with_their_reason_and_harm_nobody(
    tmp_path: Path, stamped: dict[int, Path], stamp_model: str
) -> None:
    """Good ones between bad ones, over http, where a manifest also names what is missing and what is forbidden."""
    good, served = stamped[5].read_bytes(), tmp_path / "served"
    served.mkdir()
    half = len(good) // 2
    bad = {
        "empty": b"",
        "not_a_video": b"<html>404 Not Found</html>" * 100,
        "truncated": good[:half],
        "corrupt": good[:half] + bytes(half // 8) + good[half + half // 8 :],
        "unsupported": good.replace(b"avc1", b"zzz1").replace(b"avcC", b"zzzC"),
    }
    for kind, content in bad.items():
        (served / f"{kind}.mp4").write_bytes(content)
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=d=1", served / "audio_only.mp4"], check=True)
    (served / "forbidden.mp4").write_bytes(good)
    for number in (4, 5):
        shutil.copy(stamped[number], served)

    def gate(environ: dict[str, Any], start_response: Any) -> list[bytes] | None:
        if "forbidden" not in environ["PATH_INFO"]:
            return None
        start_response("403 Forbidden", [("Content-Length", "0")])
        return [b""]

    server = HttpServer(served)
    server.gate = gate
    names = [path.name for path in served.iterdir()] + ["missing.mp4"]
    manifest = tmp_path / "list.csv"
    manifest.write_text("url\n" + "".join(f"{server.url}/{name}?signature=secret\n" for name in names))
    try:
        result = vidbatch.label(
            manifest, output=tmp_path / "out", model=stamp_model, sampling="all", max_failed_share=0.9
        )
        again = vidbatch.label(
            manifest, output=tmp_path / "out", model=stamp_model, sampling="all", max_failed_share=0.9
        )
    finally:
        server.stop()
    videos = {v["url"].rsplit("/", 1)[1]: v for v in comparable(result)[0]}
    assert len(videos) == len(names)
    for kind in (*bad, "audio_only", "missing"):
        assert videos[f"{kind}.mp4"]["error_kind"] == kind
        assert videos[f"{kind}.mp4"]["error_message"]
    assert videos["forbidden.mp4"]["error_kind"] == "permission"
    for name, video in videos.items():
        kept = [f for f in comparable(result)[1] if f["video_id"] == video["video_id"]]
        assert len(kept) == video["num_frames_sampled"]
        assert video["status"] == ("ok" if video["error_kind"] is None else "partial" if kept else "failed")
        expected = f"video_{number_of(video)}" if name.startswith("video-") else "video_5"
        assert video["label"] == (expected if kept else None)
    assert videos["corrupt.mp4"]["status"] == "partial"
    assert result.is_acceptable
    assert again.record.videos == 2  # a rerun tries the missing and the forbidden one again, the broken ones not
    assert "secret" not in json.dumps([comparable(result), result.record.message], default=str)


STRANGE = ["new\nline ", "\x1b[31mred ", "*[a]?#%41 ", "'; drop table videos; -- ", "{long}", "\udcff\udcfe "]
STRANGE_MEMBERS = ["../../../", "/etc/", "nul\0", "{4 KB}", "\udcff\udcfe ", "tab\t\r\n"]


def test_strange_names_are_rows_that_any_reader_opens_and_name_no_other_file(
    tmp_path: Path, stamped: dict[int, Path], stamp_model: str
) -> None:
    import duckdb
    import pandas as pd
    import polars

    archive = tmp_path / "deep" / "er" / "archive"
    archive.mkdir(parents=True)
    for number, name in enumerate(STRANGE, start=1):
        own = stamped[number].name
        name = name.replace("{long}", "é" * ((255 - len(own)) // 2))
        shutil.copy(stamped[number], archive / (name + own))
    with tarfile.open(archive / "shard.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for number, name in enumerate(STRANGE_MEMBERS, start=1 + len(STRANGE)):
            own, data = stamped[number].name, stamped[number].read_bytes()
            for _ in range(2):  # the second of a name is none
                entry = tarfile.TarInfo("in the old header")
                entry.pax_headers = {"path": name.replace("{4 KB}", "é" * 2000) + own}
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo("special-video-99.mp4")
            entry.type, entry.linkname = kind, str(stamped[1])
            tar.addfile(entry)
    before = set(tmp_path.rglob("*"))
    output = tmp_path / "out"
    result = vidbatch.label(archive, output=output, model=stamp_model)
    assert_each_row_is_of_its_video(result, set(range(1, 13)))
    assert {path for path in tmp_path.rglob("*") if output not in (path, *path.parents)} == before
    names = sorted((row["url"], row["member"] or "") for row in comparable(result)[0])
    files = f"{output}/videos/*.parquet"
    with_duckdb = duckdb.sql(f"select url, coalesce(member, '') from '{files}'").fetchall()
    with_pandas = pd.read_parquet(output / "videos").fillna({"member": ""})
    with_polars = polars.read_parquet(files).with_columns(polars.col("member").fill_null("")).select("url", "member")
    assert sorted(with_duckdb) == names
    assert sorted(zip(with_pandas["url"], with_pandas["member"], strict=True)) == names
    assert sorted(with_polars.rows()) == names
    assert vidbatch.label(archive, output=output, model=stamp_model).record.state == "nothing_to_do"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "resnet81"}, "resnet81"),
        ({"model": "resnet18@/nowhere/weights.pth"}, "/nowhere/weights.pth"),
        ({"model": "file:/nowhere"}, "/nowhere"),
        ({"inputs": "/nowhere/videos"}, "/nowhere/videos"),
        ({"sampling": "times=when"}, "times"),
        ({"device": "cuda"}, "cuda"),
        ({"output": "ftp://host/labels"}, "ftp"),
    ],
)
def test_a_mistake_stops_the_run_before_it_starts(
    tmp_path: Path, stamped: dict[int, Path], stamp_model: str, settings: dict[str, Any], words: str
) -> None:
    archive = copy_into(tmp_path / "archive", {1: stamped[1]})
    given = {"inputs": str(archive), "output": tmp_path / "out", "model": stamp_model, **settings}
    inputs = given.pop("inputs")
    with pytest.raises(ConfigError, match=words):
        vidbatch.label(inputs, **given)
    assert not (tmp_path / "out" / "videos").exists()


def test_the_default_model_says_what_real_clips_show(tmp_path: Path, clips: LazyClips) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    expected = {
        "carphone.mp4": {"Windsor tie", "suit", "bow tie", "seat belt"},
        "concert.mp4": {"theater curtain", "stage", "electric guitar"},
        "bikes.mp4": {"jinrikisha", "unicycle", "bicycle-built-for-two", "mountain bike"},
        "globe.mp4": {"bubble", "balloon"},
    }
    for name in expected:
        shutil.copy(clips[name], archive / name)
    result = vidbatch.label(archive, output=tmp_path / "out")
    for row in comparable(result)[0]:
        shown = {entry["label"] for entry in row["top_k"]}
        assert shown & expected[row["url"].rsplit("/", 1)[1]], (row["url"], shown)
    assert result.videos.to_arrow().schema.remove_metadata().equals(schema.VIDEOS.remove_metadata())
    stages = result.record.stages
    assert stages["decode"]["cpu_seconds"] > 0
    assert stages["classify"]["cpu_seconds"] > 0
    assert stages["decode"]["read_bytes"] >= sum((archive / name).stat().st_size for name in expected)
