"""Predictions arrive shuffled and in pieces; whole videos with the right rows come out."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rows import LABELS, chunk, identity, predictions, scores

from vidbatch import schema
from vidbatch.errors import TooManyFailures
from vidbatch.sink import HOPELESS_AFTER, Sink


class Parts:
    """Collects what a sink stages."""

    def __init__(self, *, embedding_size: int | None = None, top_k: int = 2) -> None:
        self.tables: list[tuple[str, pa.Table, pa.Table]] = []
        self.sink = Sink(
            labels=LABELS,
            top_k=top_k,
            embedding_size=embedding_size,
            provenance={"config_digest": "digest", "run_id": "run"},
            model="resnet18",
            stage_seconds=3600,
            partition_of=lambda _id, _today: "",
            stage=self._stage,
        )

    def _stage(self, partition: str, number: int, videos: pa.Table, frames: pa.Table) -> str:
        self.tables.append((partition, videos, frames))
        return str(number)

    def rows(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        self.sink.flush()
        videos = [row for _, table, _ in self.tables for row in table.to_pylist()]
        frames = [row for _, _, table in self.tables for row in table.to_pylist()]
        return videos, frames


def test_chunks_of_many_videos_in_any_order_give_each_video_its_own_frames() -> None:
    chunks = [
        chunk(video, range(10 * c + 5 * i, 10 * c + 5 * i + 5), clip=(c, 3), index=i, last=i == 1)
        for video in range(20)
        for c in range(3)
        for i in range(2)
    ]
    random.Random(7).shuffle(chunks)
    parts = Parts()
    for start in range(0, len(chunks), 7):
        parts.sink.add(predictions(*chunks[start : start + 7]))
    videos, frames = parts.rows()
    assert sorted(v["url"] for v in videos) == [identity(n)["url"] for n in range(20)]
    for number in range(20):
        mine = [f for f in frames if f["url"] == identity(number)["url"]]
        assert [f["frame_index"] for f in mine] == list(range(30))
        assert [f["pts_seconds"] for f in mine] == [float(n) for n in range(30)]
        for at, frame in enumerate(mine):
            best = int(np.argmax(scores(number, at)))
            assert frame["label"] == LABELS[best]
            assert frame["score"] == pytest.approx(scores(number, at)[best])


def test_cutting_a_video_into_clips_changes_its_mean_by_less_than_1e_5() -> None:
    whole, cut = Parts(), Parts()
    whole.sink.add(predictions(chunk(3, range(300))))
    for c in range(10):
        cut.sink.add(predictions(chunk(3, range(30 * c, 30 * c + 30), clip=(c, 10))))
    (one,), _ = whole.rows()
    (ten,), _ = cut.rows()
    assert one["label"] == ten["label"]
    assert [t["label"] for t in one["top_k"]] == [t["label"] for t in ten["top_k"]]
    mean = np.mean([scores(3, f) for f in range(300)], axis=0)
    assert one["score"] == pytest.approx(float(mean.max()), abs=1e-5)
    assert ten["score"] == pytest.approx(one["score"], abs=1e-5)


def test_a_chunk_delivered_twice_counts_once() -> None:
    parts = Parts()
    first = chunk(1, range(4), index=0, last=False)
    parts.sink.add(predictions(first))
    parts.sink.add(predictions(first, chunk(1, range(4, 6), index=1)))
    (video,), frames = parts.rows()
    assert video["num_frames_sampled"] == len(frames) == 6
    assert parts.sink.totals.frames == 6


def test_finished_videos_are_staged_when_many_wait_however_short_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidbatch.sink.STAGE_VIDEOS", 3)
    parts = Parts()
    for video in range(7):
        parts.sink.add(predictions(chunk(video, range(2))))
    assert [videos.num_rows for _, videos, _ in parts.tables] == [3, 3]
    assert len(parts.rows()[0]) == 7


def test_a_video_whose_last_chunk_is_missing_is_not_staged() -> None:
    parts = Parts()
    parts.sink.add(predictions(chunk(1, range(4), index=1)))
    parts.sink.add(predictions(chunk(2, range(4), clip=(1, 2))))
    assert parts.rows() == ([], [])


@pytest.mark.parametrize(("frames", "status"), [(range(0), "failed"), (range(3), "partial")])
def test_damage_makes_a_video_failed_or_partial_by_what_was_decoded(frames: range, status: str) -> None:
    parts = Parts()
    parts.sink.add(predictions(chunk(1, frames, error="corrupt")))
    (video,), rows = parts.rows()
    assert (video["status"], video["error_kind"], video["error_message"]) == (
        status,
        "corrupt",
        "it is corrupt",
    )
    assert len(rows) == video["num_frames_sampled"] == len(frames)
    assert (video["label"] is None) == (status == "failed")


def test_one_bad_clip_of_many_makes_the_video_partial() -> None:
    parts = Parts()
    parts.sink.add(predictions(chunk(1, range(3), clip=(0, 2)), chunk(1, range(0), clip=(1, 2), error="timeout")))
    (video,), frames = parts.rows()
    assert (video["status"], video["error_kind"], len(frames)) == ("partial", "timeout", 3)


def test_a_model_that_failed_on_a_chunk_fails_its_video_whichever_chunk_it_was() -> None:
    for failed in range(3):
        parts = Parts()
        for index in range(3):
            frames = range(0) if index == failed else range(4 * index, 4 * index + 4)
            error = "model" if index == failed else None
            parts.sink.add(predictions(chunk(1, frames, index=index, last=index == 2, error=error)))
        (video,), rows = parts.rows()
        assert (video["status"], video["error_kind"], video["error_message"]) == ("failed", "model", "it is model")
        assert (video["codec"], video["label"], rows) == ("h264", None, [])


def test_embeddings_stay_with_their_frames() -> None:
    parts = Parts(embedding_size=4)
    parts.sink.add(predictions(chunk(2, range(3), embedding_size=4), chunk(1, range(2), embedding_size=4)))
    _, frames = parts.rows()
    for frame in frames:
        assert frame["embedding"] == [int(frame["url"][-9:-4])] * 4
    assert parts.tables[0][2].schema.field("embedding").type == pa.list_(pa.float16(), 4)


def test_tables_have_exactly_the_published_schemas_even_when_all_failed() -> None:
    parts = Parts()
    parts.sink.add(predictions(chunk(1, range(0), error="empty")))
    parts.sink.flush()
    _, videos, frames = parts.tables[0]
    assert videos.schema.equals(schema.VIDEOS, check_metadata=True)
    assert frames.schema.equals(schema.frames_schema(), check_metadata=True)
    assert len(frames) == 0


def test_top_k_larger_than_the_number_of_labels_gives_all_labels() -> None:
    parts = Parts(top_k=50)
    parts.sink.add(predictions(chunk(1, range(2), k=4)))
    (video,), frames = parts.rows()
    assert len(video["top_k"]) == len(frames[0]["top_k"]) == len(LABELS)


def test_a_hundred_failures_of_one_kind_stop_the_run() -> None:
    parts = Parts()
    for number in range(HOPELESS_AFTER - 1):
        parts.sink.add(predictions(chunk(number, range(0), error="permission")))
    with pytest.raises(TooManyFailures, match="permission"):
        parts.sink.add(predictions(chunk(HOPELESS_AFTER, range(0), error="permission")))


@pytest.mark.parametrize("odd_one", [chunk(0, range(2)), chunk(0, range(0), error="empty")])
def test_failures_of_mixed_kinds_do_not_stop_the_run(odd_one: dict[str, Any]) -> None:
    parts = Parts()
    parts.sink.add(predictions(odd_one))
    for number in range(1, 2 * HOPELESS_AFTER):
        parts.sink.add(predictions(chunk(number, range(0), error="permission")))
    assert parts.sink.totals.failed >= 2 * HOPELESS_AFTER - 1


def test_totals_add_up_what_the_stages_report() -> None:
    parts = Parts()
    parts.sink.add(predictions(chunk(1, range(4), index=0, last=False), chunk(1, range(4, 6), index=1)))
    totals = parts.sink.totals
    assert (totals.videos, totals.frames, totals.read_bytes, totals.frames_decoded) == (1, 6, 10, 100)
    assert (totals.decode_cpu_seconds, totals.model_cpu_seconds) == (1.0, 1.0)
