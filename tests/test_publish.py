"""Published tables hold each video once, whoever dies or races while they are written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from disks import small_disk
from points import POINTS
from rows import identity, video_and_frames

from vidbatch import publish, schema, storage
from vidbatch.config import LabelConfig
from vidbatch.errors import ConfigError, StorageError
from vidbatch.publish import Layout
from vidbatch.results import Table

LAYOUT = Layout(4, "none")


def stage(output: Path, numbers: range, run_id: str, **options: Any) -> None:
    partition = options.pop("partition", "")
    number = options.pop("number", 0)
    publish.stage_part(str(output), run_id, partition, number, *video_and_frames(numbers, run_id, **options))


def publish_all(output: Path, layout: Layout = LAYOUT) -> None:
    publish.publish(str(output), layout, publish.staged_parts(str(output)))


def rows(output: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Published rows, read with a plain glob as a stranger would."""
    files = {name: sorted(output.glob(f"{name}/**/*.parquet")) for name in ("videos", "frames")}
    read = {name: [row for f in fs for row in pq.ParquetFile(f).read().to_pylist()] for name, fs in files.items()}
    return (
        sorted(read["videos"], key=lambda r: r["url"]),
        sorted(read["frames"], key=lambda r: (r["url"], r["frame_index"])),
    )


@pytest.mark.parametrize("buckets", [1, 3, 4, 16, 1000])
def test_the_filter_of_a_bucket_finds_what_belongs_to_it(buckets: int) -> None:
    layout = Layout(buckets, "none")
    numbers = np.random.default_rng(buckets).integers(0, 2**32, 300).tolist()
    edges = [edge + off for b in range(buckets) for edge in [(b << 32) // buckets] for off in (-1, 0, 1)]
    ids = [f"{n:08x}{'7' * 24}" for n in [*numbers, *edges[:300], 0, 2**32 - 1] if 0 <= n < 2**32]
    table = pa.table({"video_id": ids})
    for bucket in range(0, buckets, max(1, buckets // 7)):
        found = table.filter(layout.is_in(bucket))["video_id"].to_pylist()
        assert found == [video_id for video_id in ids if layout.bucket_of(video_id) == bucket]


def test_published_rows_are_the_staged_rows_and_the_parts_are_gone(tmp_path: Path) -> None:
    stage(tmp_path, range(50), "run-a")
    publish_all(tmp_path)
    videos, frames = rows(tmp_path)
    expected_videos, expected_frames = video_and_frames(range(50), "run-a")
    assert videos == expected_videos.to_pylist()
    assert frames == expected_frames.to_pylist()
    assert publish.staged_parts(str(tmp_path)) == []
    assert len(list(tmp_path.glob("videos/*.parquet"))) == LAYOUT.buckets


def test_later_parts_join_what_is_published(tmp_path: Path) -> None:
    for start in range(0, 40, 10):
        stage(tmp_path, range(start, start + 10), f"run-{start}")
        publish_all(tmp_path)
    videos, frames = rows(tmp_path)
    assert [v["url"] for v in videos] == [identity(n)["url"] for n in range(40)]
    assert len(frames) == 120


def test_publishing_the_same_part_twice_changes_nothing(tmp_path: Path) -> None:
    stage(tmp_path, range(20), "run-a")
    publish_all(tmp_path)
    before = {f: f.read_bytes() for f in tmp_path.glob("*/*.parquet")}
    stage(tmp_path, range(20), "run-a")
    publish_all(tmp_path)
    assert {f: f.read_bytes() for f in tmp_path.glob("*/*.parquet")} == before


def test_a_new_version_replaces_the_rows_of_its_video_only(tmp_path: Path) -> None:
    stage(tmp_path, range(20), "run-a")
    publish_all(tmp_path)
    stage(tmp_path, range(5, 8), "run-b", version="v2", num_frames=5)
    publish_all(tmp_path)
    videos, frames = rows(tmp_path)
    assert len(videos) == 20
    assert [v["run_id"] for v in videos] == ["run-a"] * 5 + ["run-b"] * 3 + ["run-a"] * 12
    assert len(frames) == 17 * 3 + 3 * 5


def shard_rows(run_id: str, members: list[str | None], kind: str | None = None) -> tuple[pa.Table, pa.Table]:
    """Rows of a shard's members, or (None) of the shard itself."""
    videos, frames = video_and_frames(range(len(members)), run_id, num_frames=1 if kind is None else 0)
    url = "s3://archive/shard.tar"
    ids = pa.array([schema.video_id(url, member) for member in members])
    for name, column in (("video_id", ids), ("url", [url] * len(members)), ("member", members)):
        at = videos.schema.get_field_index(name)
        videos = videos.set_column(at, videos.field(at), pa.array(column, pa.string()))
        if kind is None:
            frames = frames.set_column(frames.schema.get_field_index(name), frames.field(name), pa.array(column))
    at = videos.schema.get_field_index("error_kind")
    return videos.set_column(at, videos.field(at), pa.array([kind] * len(members), pa.string())), frames


@pytest.mark.parametrize(("kind", "stays"), [("permission", False), ("storage", False), ("truncated", True)])
def test_a_shard_s_own_failure_gives_way_to_its_members_when_it_can_be_read(
    tmp_path: Path, kind: str, stays: bool
) -> None:
    layout = Layout(16, "none")
    members = [f"{n}.mp4" for n in range(5)]
    publish.stage_part(str(tmp_path), "run-1", "", 0, *shard_rows("run-1", [None], kind))
    publish.stage_part(str(tmp_path), "run-1", "", 1, *shard_rows("run-1", [members[0]]))
    publish_all(tmp_path, layout)
    assert sorted(str(v["member"]) for v in rows(tmp_path)[0]) == ["0.mp4", "None"]  # of one run both are right
    publish.stage_part(str(tmp_path), "run-2", "", 0, *shard_rows("run-2", list(members)))
    publish_all(tmp_path, layout)
    videos, frames = rows(tmp_path)
    assert sorted(str(v["member"]) for v in videos) == [*members, "None"][: 6 if stays else 5]
    assert sorted(f["member"] for f in frames) == members
    publish.stage_part(str(tmp_path), "run-3", "", 0, *shard_rows("run-3", [None], kind))
    publish_all(tmp_path, layout)
    assert len(rows(tmp_path)[0]) == 6  # it cannot be read again: a newer fact than its members


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk")
def test_wherever_a_disk_becomes_full_every_file_is_whole_and_with_room_the_tables_are(tmp_path: Path) -> None:
    stages = []
    for kib in range(24, 300, 20):
        output = tmp_path / f"disk-{kib}"
        with small_disk(output, kib) as grow:
            problem = ""
            try:
                for number in range(4):
                    stage(output, range(number * 5, number * 5 + 5), "run-a", number=number)
                publish_all(output)
            except StorageError as error:
                problem = str(error)
            if problem:
                assert "No space left on device" in problem
            stages.append(("published" if (output / "frames").exists() else "staged") if problem else "done")
            assert list(output.rglob("*.tmp")) == []
            videos, frames = rows(output)
            assert {v["video_id"] for v in videos} <= {f["video_id"] for f in frames}
            grow(64_000)
            for number in range(4):  # the rerun's
                stage(output, range(number * 5, number * 5 + 5), "run-b", number=number)
            publish_all(output)
            videos, frames = rows(output)
            assert [v["url"] for v in videos] == [identity(n)["url"] for n in range(20)]
            assert len(frames) == 60
            assert publish.staged_parts(str(output)) == []
    assert set(stages) == {"staged", "published", "done"}


def test_an_older_result_never_replaces_a_newer_one(tmp_path: Path) -> None:
    stage(tmp_path, range(10), "run-2")
    publish_all(tmp_path)
    stage(tmp_path, range(10), "run-1", num_frames=1)
    publish_all(tmp_path)
    videos, frames = rows(tmp_path)
    assert {v["run_id"] for v in videos} == {f["run_id"] for f in frames} == {"run-2"}
    assert len(frames) == 30


def test_of_two_parts_with_the_same_video_the_newest_wins_once(tmp_path: Path) -> None:
    stage(tmp_path, range(10), "run-a")
    stage(tmp_path, range(10), "run-b")
    publish_all(tmp_path)
    videos, frames = rows(tmp_path)
    assert len(videos) == 10
    assert len(frames) == 30
    assert {r["run_id"] for r in videos + frames} == {"run-b"}


def test_racing_publishers_lose_and_double_nothing(tmp_path: Path) -> None:
    starts = range(0, 160, 10)
    for start in starts:
        stage(tmp_path, range(start, start + 15), f"run-{start:03d}")  # neighbours overlap by five videos
    parts = publish.staged_parts(str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda part: publish.publish(str(tmp_path), LAYOUT, [part]), parts))
    videos, frames = rows(tmp_path)
    assert [v["url"] for v in videos] == [identity(n)["url"] for n in range(165)]
    assert [(f["url"], f["frame_index"]) for f in frames] == [
        (identity(n)["url"], i) for n in range(165) for i in range(3)
    ]
    run_of = {v["video_id"]: v["run_id"] for v in videos}
    assert all(f["run_id"] == run_of[f["video_id"]] for f in frames)


KILLED_EVERYWHERE = """
import json, os, shutil, sys
from pathlib import Path
import points, test_publish
template, place = map(Path, sys.argv[1:])
for step in range(200):
    output = place / str(step)
    shutil.copytree(template, output)
    pid = os.fork()  # nothing runs beside this thread yet
    if not pid:
        reached = points.die_at_step(step)
        test_publish.stage_two_parts(output)
        test_publish.publish_all(output)
        (place / "reached.json").write_text(json.dumps(reached))
        os._exit(0)
    if os.waitpid(pid, 0)[1] == 0:
        break
"""


def stage_two_parts(output: Path) -> None:
    stage(output, range(5, 15), "run-b", num_frames=2)
    stage(output, range(12, 18), "run-b", num_frames=1, number=1)


def test_killed_before_and_after_every_write_the_tables_stay_whole_and_a_rerun_completes_them(tmp_path: Path) -> None:
    """Real processes, real SIGKILLs, at each moment of the protocol; a glob never shows a video twice."""
    template, clean, place = (tmp_path / name for name in ("template", "clean", "killed"))
    stage(template, range(10), "run-a")
    publish_all(template)
    shutil.copytree(template, clean)
    stage_two_parts(clean)
    publish_all(clean)
    subprocess.run(
        [sys.executable, "-c", KILLED_EVERYWHERE, str(template), str(place)], cwd=Path(__file__).parent, check=True
    )
    reached = [tuple(moment) for moment in json.loads((place / "reached.json").read_text())]
    publishing = [name for name in POINTS if name.startswith(("stage", "publish", "discard"))]
    assert len(publishing) == 6
    assert sum(moment == "before" for _, moment in reached) >= 2 + 2 * LAYOUT.buckets
    assert {name for name, _ in reached} == set(publishing)
    assert all((name, moment) in reached for name in publishing for moment in ("before", "after"))
    assert {name for name, moment in reached if moment == "midway"} == {"discard videos", "discard frames"}
    for step, moment in enumerate(reached):
        output = place / str(step)
        ids = [v["video_id"] for v in rows(output)[0]]
        assert len(ids) == len(set(ids)), moment
        if reached[: step + 1].count(("stage videos", "after")) < 2:
            stage_two_parts(output)  # died before both parts existed: their videos are worked on again
        publish_all(output)
        assert rows(output) == rows(clean), f"killed at moment {step}, {moment}"
        left = {url for url in output.rglob("*.parquet") if "staged" in url.parts}
        assert all(url.name.endswith(".frames.parquet") for url in left)  # of parts that do not exist any more


def test_the_page_on_the_protocol_has_a_word_on_each_of_its_writes() -> None:
    assert all(f"\n    {name} " in str(publish.__doc__) for name in POINTS)


def test_done_videos_are_those_of_this_digest_that_need_no_retry(tmp_path: Path) -> None:
    videos, frames = video_and_frames(range(6), "run-a")
    kinds = pa.array([None, "corrupt", "missing", None, "worker", "empty"])
    videos = videos.set_column(videos.schema.get_field_index("error_kind"), schema.VIDEOS.field("error_kind"), kinds)
    publish.stage_part(str(tmp_path), "run-a", "", 0, videos, frames)
    stage(tmp_path, range(6, 9), "run-b", digest="another", number=1)
    publish_all(tmp_path)

    def done(**options: bool) -> list[str]:
        published = publish.Published(str(tmp_path), LAYOUT)
        return sorted(i for ids, _ in published.done("d1", **options) for i in ids.to_pylist())

    ids = [identity(n)["video_id"] for n in range(6)]
    assert done(retry_failed=False) == sorted(ids[n] for n in (0, 1, 3, 5))
    assert done(retry_failed=True) == sorted(ids[n] for n in (0, 3))


def test_a_replaced_video_stays_in_the_partition_that_first_saw_it(tmp_path: Path) -> None:
    layout = Layout(2, "date")
    stage(tmp_path, range(10), "run-a", partition="date=2026-11-01")
    publish_all(tmp_path, layout)
    first_seen = publish.Published(str(tmp_path), layout).first_seen()
    today = np.datetime64("2026-11-02").astype(object)
    partitions = {n: first_seen.partition(identity(n)["video_id"], today) for n in range(12)}
    assert partitions == {n: "date=2026-11-01" if n < 10 else "date=2026-11-02" for n in range(12)}
    assert sorted(p.parent.name for p in tmp_path.glob("videos/*/*.parquet"))[0] == "date=2026-11-01"


def test_the_first_run_fixes_the_layout_and_another_wish_is_refused(tmp_path: Path) -> None:
    first = publish.open_layout(LabelConfig(inputs=("x",), output=str(tmp_path), buckets=8))
    assert publish.open_layout(LabelConfig(inputs=("x",), output=str(tmp_path))) == first == Layout(8, "none")
    with pytest.raises(ConfigError, match=r"buckets: 4 is not allowed.*laid out with 8"):
        publish.open_layout(LabelConfig(inputs=("x",), output=str(tmp_path), buckets=4))


def test_files_are_zstd_with_statistics_and_a_page_index(tmp_path: Path) -> None:
    stage(tmp_path, range(50), "run-a")
    publish_all(tmp_path)
    meta = pq.ParquetFile(next(tmp_path.glob("frames/*.parquet"))).metadata
    column = meta.row_group(0).column(1)
    assert column.compression == "ZSTD"
    assert column.path_in_schema == "url"
    assert column.statistics.has_min_max
    assert column.has_column_index
    assert column.statistics.min <= column.statistics.max
    assert b"vidbatch.schema_version" in meta.metadata


@pytest.mark.parametrize("opener", ["pandas", "polars", "duckdb"])
def test_strangers_open_the_tables_without_our_help(tmp_path: Path, opener: str) -> None:
    stage(tmp_path, range(30), "run-a")
    publish_all(tmp_path)
    if opener == "pandas":
        import pandas

        videos, frames = (len(pandas.read_parquet(tmp_path / t)) for t in ("videos", "frames"))
    elif opener == "polars":
        import polars

        videos, frames = (polars.read_parquet(f"{tmp_path}/{t}/*.parquet").height for t in ("videos", "frames"))
    else:
        import duckdb

        counts = [duckdb.sql(f"select count(*), min(top_k[1].label) from '{tmp_path}/{t}/*.parquet'").fetchall()[0]
                  for t in ("videos", "frames")]  # fmt: skip
        assert all(count[1] == "cat" for count in counts)
        videos, frames = (count[0] for count in counts)
    assert (videos, frames) == (30, 90)


def test_our_own_handle_opens_them_as_everything_also_when_empty(tmp_path: Path) -> None:
    assert len(Table(str(tmp_path), "videos").to_arrow()) == 0
    stage(tmp_path, range(5), "run-a", partition="date=2026-11-01")
    publish_all(tmp_path, Layout(2, "date"))
    table = Table(str(tmp_path), "frames")
    assert table.to_arrow().num_rows == len(table.to_pandas()) == table.to_polars().height == 15
    assert table.to_duckdb().count("*").fetchall() == [(15,)]
    assert set(table.to_pandas()["date"].astype(str)) == {"2026-11-01"}


class Publisher(threading.Thread):
    """Publishes parts one storage call at a time, each when it is told to; may be left hanging anywhere, as if dead."""

    def __init__(self, output: Path, parts: list[str]) -> None:
        super().__init__(daemon=True)
        self._work = (str(output), LAYOUT_OF_ONE, parts)
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.is_done = False
        self.failure: BaseException | None = None
        self.start()
        self._stopped.acquire()

    def run(self) -> None:
        try:
            self.wait_for_turn()
            publish.publish(*self._work)
        except BaseException as error:  # noqa: BLE001  # raised where it is waited for
            self.failure = error
        self.is_done = True
        self._stopped.release()

    def wait_for_turn(self) -> None:
        """Called by the thread itself before each of its steps."""
        self._stopped.release()
        self._go.acquire()

    def step(self) -> None:
        """Let it make one more step."""
        self._go.release()
        self._stopped.acquire()

    def finish(self) -> None:
        while not self.is_done:
            self.step()
        if self.failure is not None:
            raise self.failure


LAYOUT_OF_ONE = Layout(1, "none")


@pytest.fixture
def step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_turn(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            thread = threading.current_thread()
            if isinstance(thread, Publisher):
                thread.wait_for_turn()
            return real(*args, **kwargs)

        return call

    for name in ("read_with_version", "put_if", "delete"):
        monkeypatch.setattr(storage, name, in_turn(getattr(storage, name)))


@pytest.mark.usefixtures("step_by_step")
@pytest.mark.parametrize("survives", [True, False], ids=["both live", "the first dies"])
@pytest.mark.parametrize("parts", ["own", "all"])
def test_two_publishers_in_every_order_of_their_steps_with_two_changes_of_turn_end_the_same(
    tmp_path: Path, parts: str, survives: bool
) -> None:
    """All schedules: the first makes i steps, the second j, then the first ends (or never), then the second, then
    whoever comes next. At no moment is a video there twice; at the end every video has the rows of its later run."""
    template = tmp_path / "template"
    stage(template, range(2), "run-0")
    publish.publish(str(template), LAYOUT_OF_ONE, publish.staged_parts(str(template)))
    stage(template, range(1, 4), "run-1", num_frames=2)
    stage(template, range(2, 5), "run-2", num_frames=1)

    def expected() -> list[tuple[str, str, int]]:
        run_of = {0: ("run-0", 3), 1: ("run-1", 2), 2: ("run-2", 1), 3: ("run-2", 1), 4: ("run-2", 1)}
        return [(identity(n)["url"], *run_of[n]) for n in range(5)]

    def found(output: Path) -> list[tuple[str, str, int]]:
        videos, frames = rows(output)
        assert len({v["url"] for v in videos}) == len(videos)
        counts = Counter((f["url"], f["run_id"]) for f in frames)
        return [(v["url"], v["run_id"], counts[v["url"], v["run_id"]]) for v in videos]

    num_schedules = 0
    for first_steps in range(40):
        has_ended_early = False
        for second_steps in range(40):
            output = tmp_path / f"{first_steps}-{second_steps}"
            shutil.copytree(template, output)
            staged = publish.staged_parts(str(output))
            shares = ([staged[0]], [staged[1]]) if parts == "own" else (staged, staged)
            first, second = (Publisher(output, share) for share in shares)
            for publisher, steps in ((first, first_steps), (second, second_steps)):
                for _ in range(steps):
                    if not publisher.is_done:
                        publisher.step()
                        found(output)
            has_ended_early = first.is_done
            second_is_done = second.is_done
            for publisher in (first, second) if survives else (second,):
                publisher.finish()
                found(output)
            publish.publish(str(output), LAYOUT_OF_ONE, publish.staged_parts(str(output)))
            assert found(output) == expected(), (first_steps, second_steps)
            assert len(rows(output)[1]) == sum(frames for _, _, frames in expected())
            assert publish.staged_parts(str(output)) == []
            shutil.rmtree(output)
            num_schedules += 1
            if second_is_done:
                break
        if has_ended_early:
            break
    assert num_schedules > 40
