"""Evaluation: numbers that can be worked out by hand, and a whole run over labelled videos."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import vidbatch
from vidbatch.errors import ConfigError
from vidbatch.evaluation.config import load_evaluate_config
from vidbatch.evaluation.run import with_split_of_training
from vidbatch.schema import FrameSpec
from vidbatch.stamp import make_stamp_bundle
from vidbatch.testing import make_video

LABELS = ("a", "b", "c")


def test_the_numbers_are_those_worked_out_by_hand() -> None:
    pytest.importorskip("sklearn", reason="vidbatch[evaluate] is not installed")
    from vidbatch.evaluation.scores import scores_of

    truth = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.8, 0.2, 0.0], [0.4, 0.6, 0.0], [0.3, 0.7, 0.0], [0.1, 0.9, 0.0]])
    found = scores_of(truth, probabilities, LABELS)
    assert found["count"] == 4
    assert found["accuracy"] == 0.75
    assert found["top_5"] == 1.0
    assert found["confusion"] == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert found["by_class"]["a"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "count": 2}
    assert found["by_class"]["b"] == {"precision": pytest.approx(2 / 3), "recall": 1.0, "f1": 0.8, "count": 2}
    assert found["by_class"]["c"]["count"] == 0
    assert found["recall"] == 0.75, "a class that no video has is in no average"
    assert found["calibration_error"] == pytest.approx((0.2 + 0.6 + 0.3 + 0.1) / 4), "each in a bin of its own"


def test_errors_of_numbers_are_those_worked_out_by_hand() -> None:
    pytest.importorskip("sklearn", reason="vidbatch[evaluate] is not installed")
    from vidbatch.evaluation.scores import errors_of

    found = errors_of(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 6.0]))
    assert found == {
        "count": 3,
        "mean_absolute_error": 1.0,
        "root_mean_squared_error": pytest.approx(3**0.5),
        "r2": pytest.approx(1 - 9 / 2),
    }


def test_certainty_that_is_right_as_often_as_it_says_is_no_error() -> None:
    pytest.importorskip("sklearn", reason="vidbatch[evaluate] is not installed")
    from vidbatch.evaluation.scores import calibration_error

    assert calibration_error(np.array([True, True, True, False]), np.full(4, 0.75)) == pytest.approx(0)
    assert calibration_error(np.array([False, False]), np.array([1.0, 1.0])) == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"split": "tset"}, "split: 'tset' is not allowed"),
        ({"model": ""}, "model: '' is not allowed"),
        ({"modle": "x"}, "modle: no such setting; allowed: inputs, output, model"),
    ],
)
def test_settings_that_cannot_work_are_one_sentence(changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_evaluate_config({"inputs": "x", "output": "y", "model": "file:m"} | changes)
    assert sentence in str(caught.value)


def test_the_split_is_that_of_the_training_unless_another_is_given(tmp_path: Path) -> None:
    of_training = {"seed": 7, "train_share": 0.5, "validation_share": 0.2}
    (tmp_path / "train.json").write_text(json.dumps({"config": {**of_training, "epochs": 3}}))
    given = {"inputs": "x", "output": "y", "model": f"file:{tmp_path}"}
    found = with_split_of_training(load_evaluate_config(given))
    assert {name: getattr(found, name) for name in of_training} == of_training
    assert with_split_of_training(load_evaluate_config(given | {"seed": 1})).train_share == 0.8
    assert with_split_of_training(load_evaluate_config(given | {"model": "resnet50"})).seed == 0


@pytest.mark.usefixtures("local_ray")
def test_every_video_of_the_split_counts_once(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="vidbatch[evaluate] is not installed")
    model = tmp_path / "model"
    make_stamp_bundle(model, num_classes=3, frame=FrameSpec(64, 64))
    lines = ["url,label,split"]
    for number, truth in enumerate([0, 1, 2, 2, 0]):
        make_video(tmp_path / f"{number}.mp4", num_frames=20, fps=10, video_number=number)
        lines.append(f"{number}.mp4,video_{truth},{'train' if number == 4 else 'test'}")
    (tmp_path / "bad.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(1000))
    (tmp_path / "list.csv").write_text("\n".join([*lines, "bad.mp4,video_1,test"]) + "\n")
    given = {"output": tmp_path / "out", "model": f"file:{model}", "sampling": "fps=2"}
    found = vidbatch.evaluate(tmp_path / "list.csv", **given)
    assert found.videos["count"] == 4
    assert found.videos["accuracy"] == 0.75, "video 3 is said to be video_0"
    assert found.videos["confusion"] == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    assert found.windows["count"] == 16
    assert [Path(url).name for url in found.failed] == ["bad.mp4"]
    assert json.loads((tmp_path / "out" / "evaluate.json").read_text())["videos"] == found.videos
    rows = pq.read_table(tmp_path / "out" / "evaluate.parquet").to_pylist()
    assert [row["truth"] for row in rows] == ["video_0", "video_1", "video_2", "video_2", "video_1"]
    assert (tmp_path / "out" / "confusion.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "out" / "mistakes.png").stat().st_size > 1000
    with pytest.raises(ConfigError, match="split: 'validation' holds none of the 6 labelled videos"):
        vidbatch.evaluate(tmp_path / "list.csv", **given, split="validation")


@pytest.mark.usefixtures("local_ray")
def test_parts_of_videos_are_judged_by_the_windows_that_lie_in_them(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="vidbatch[evaluate] is not installed")
    make_stamp_bundle(tmp_path / "model", num_classes=3, frame=FrameSpec(64, 64))
    for number in range(3):
        make_video(tmp_path / f"{number}.mp4", num_frames=20, fps=10, video_number=number)
    (tmp_path / "all.txt").write_text("".join(f"file '{tmp_path}/{number}.mp4'\n" for number in range(3)))
    joining = ["ffmpeg", "-v", "error", "-f", "concat", "-safe", "0", "-i", tmp_path / "all.txt", "-c", "copy"]
    subprocess.run([*joining, tmp_path / "joined.mp4"], check=True)
    lines = ["url,start,end,label", "joined.mp4,0,2,video_0", "joined.mp4,2,4,video_1", "joined.mp4,4.5,,video_1"]
    lines += ["joined.mp4,60,70,video_1", "2.mp4,,,video_2"]
    (tmp_path / "parts.csv").write_text("\n".join(lines) + "\n")
    given = {"output": tmp_path / "out", "model": f"file:{tmp_path / 'model'}", "sampling": "fps=2", "split": "all"}
    found = vidbatch.evaluate(tmp_path / "parts.csv", **given)
    assert found.videos["count"] == 4
    assert found.videos["confusion"] == [[1, 0, 0], [0, 1, 1], [0, 0, 1]], "the third part shows video 2"
    assert found.windows["confusion"] == [[4, 0, 0], [0, 4, 3], [0, 0, 4]]
    assert [name.rpartition("/")[2] for name in found.failed] == ["joined.mp4 (60.0 to 70.0 s)"]
    rows = pq.read_table(tmp_path / "out" / "evaluate.parquet").to_pylist()
    assert [(row["start"], row["end"], row["label"]) for row in rows] == [
        (None, None, "video_2"),
        (0, 2, "video_0"),
        (2, 4, "video_1"),
        (4.5, None, "video_2"),
        (60, 70, None),
    ]
    assert pq.read_table(tmp_path / "out" / "videos.parquet").num_rows == 2, "each video is labelled once"
