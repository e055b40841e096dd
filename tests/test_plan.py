"""Plans: what is predicted for nodes, hours and prices, and what a sample that is labelled first says of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vidbatch.config import PlanConfig, load_settings
from vidbatch.errors import ConfigError
from vidbatch.plan import DRIVER_SECONDS_A_VIDEO, START_SECONDS, Plan, _Archive, make_plan
from vidbatch.stamp import make_stamp_bundle
from vidbatch.testing import make_video

NUM_VIDEOS = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "archive").mkdir()
    for number in range(NUM_VIDEOS):
        make_video(folder / "archive" / f"{number:02d}.mp4", num_frames=40, fps=10, video_number=number)
    (folder / "archive" / "bad.mp4").write_bytes(b"this is not a video\n")
    make_stamp_bundle(folder / "model", num_classes=NUM_VIDEOS)
    return folder


def planned(place: Path, **asked: Any) -> Plan:
    settings = {"inputs": place / "archive", "output": place / "labels", "model": f"file:{place / 'model'}", **asked}
    return make_plan(load_settings(PlanConfig, settings))


def test_twice_the_nodes_share_the_work_but_not_the_start_and_cost_what_they_cost(place: Path) -> None:
    one, two, bare = (
        planned(place, nodes=n, cpus_per_node=4, price_per_hour=p) for n, p in ((1, 3), (2, 3), (1, None))
    )
    assert (one.nodes, two.nodes, bare.predicted_cost) == (1, 2, None)
    work = one.predicted_seconds - one.start_seconds
    assert work == pytest.approx(one.estimated_cpu_seconds / 4, abs=0.1)
    assert two.predicted_seconds == pytest.approx(two.start_seconds + work / 2, abs=0.1)
    assert two.predicted_cost == pytest.approx(2 * 3 * two.predicted_seconds / 3600, rel=0.05)


def large(place: Path, name: str, count: int) -> Path:
    """A folder of so many videos, so that there is something to share out."""
    for number in range(count):
        (place / name).mkdir(exist_ok=True)
        target = place / name / f"{number:04d}.mp4"
        if not target.exists():
            target.hardlink_to(place / "archive" / "00.mp4")
    return place / name


def test_nodes_are_recommended_that_are_done_in_time_and_one_less_is_not(place: Path) -> None:
    inputs = large(place, "many", 300)
    work = planned(place, inputs=inputs, sampling="all", nodes=1, cpus_per_node=1).estimated_cpu_seconds
    hours = (START_SECONDS + work / 5.5) / 3600
    found = planned(place, inputs=inputs, sampling="all", hours=hours, cpus_per_node=1)
    assert (found.nodes, found.runs) == (6, 1)
    assert found.predicted_seconds <= 3600 * hours
    fewer = planned(place, inputs=inputs, sampling="all", nodes=5, cpus_per_node=1)
    assert fewer.predicted_seconds > 3600 * hours


def test_what_one_driver_cannot_do_in_time_is_several_runs_and_no_number_of_nodes_is_faster(place: Path) -> None:
    inputs = large(place, "many", 300)
    driver = 300 * DRIVER_SECONDS_A_VIDEO
    assert planned(place, inputs=inputs, nodes=10_000).predicted_seconds == pytest.approx(
        START_SECONDS + driver, abs=0.1
    )
    found = planned(place, inputs=inputs, hours=(START_SECONDS + driver / 2.5) / 3600)
    assert found.runs == 3
    assert "of 3 runs, each over its part of the archive" in str(found)


def test_a_prediction_is_a_line_for_people(place: Path) -> None:
    words = str(planned(place, nodes=2, cpus_per_node=1, price_per_hour=0.5))
    assert "time     about 15" in words
    assert "seconds on 2 nodes of 1 CPU, 15.0 seconds of it to start, at a price of 0.00" in words


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"hours": 0.001}, ["hours: 0.001 is not allowed", "starting takes 15.0 seconds"]),
        ({"hours": 2, "nodes": 2}, ["hours: 2 is not allowed beside nodes"]),
        ({"measure": 0}, ["measure", "0", "greater than or equal to 1"]),
        ({"price_per_hour": -1}, ["price_per_hour", "-1", "greater than or equal to 0"]),
    ],
)
def test_a_question_that_makes_no_sense_is_one_sentence(place: Path, asked: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(place, **asked)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.usefixtures("local_ray")
def test_a_sample_is_labelled_by_the_chain_and_its_rows_are_thrown_away(place: Path) -> None:
    found = planned(place, measure=6)
    assert not (place / "labels").exists()
    assert found.basis.startswith("measured on 6 videos, 2 CPUs, in ")
    assert (found.nodes, found.cpus_per_node) == (1, 2)
    assert 0 < found.start_seconds < found.predicted_seconds
    assert 0 < found.estimated_cpu_seconds < 60
    assert found.videos == NUM_VIDEOS + 1


def test_an_archive_is_as_many_times_its_sample_as_lies_between_its_videos_and_its_bytes() -> None:
    archive = _Archive(videos=110, size_bytes=400, unreadable=10, sample=[])
    assert archive.times([{"size_bytes": 1}] * 10) == pytest.approx(20), "10 by videos, 40 by bytes"
    assert archive.times([{"size_bytes": None}] * 10) == pytest.approx(10)
