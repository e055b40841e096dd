"""Wrong settings stop before anything starts, with one sentence: the field, its value, what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vidbatch.config import LabelConfig, load_config
from vidbatch.errors import ConfigError

GOOD = {"inputs": ("videos",), "output": "labels"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sampling": "fsp=1"}, ["sampling", "'fsp=1'", "fps=F | nearest_keyframe=F | every=N"]),
        ({"max_failed_share": 1.5}, ["max_failed_share", "1.5", "less than or equal to 1"]),
        ({"device": "tpu"}, ["device", "'tpu'", "'auto', 'cpu' or 'cuda'"]),
        ({"top_k": 0}, ["top_k", "0", "greater than or equal to 1"]),
        ({"limit": -3}, ["limit", "-3", "greater than or equal to 1"]),
        ({"partition_by": "week"}, ["partition_by", "'week'", "'none' or 'date'"]),
        ({"decode_timeout_seconds": 0}, ["decode_timeout_seconds", "0", "greater than 0"]),
        ({"batch_size": "many"}, ["batch_size", "'many'", "integer"]),
        ({"modell": "x"}, ["modell", "no such setting", "model,"]),
        ({"output": None}, ["output", "not given"]),
        ({"inputs": ()}, ["inputs", "at least 1"]),
    ],
)
def test_a_wrong_setting_is_one_clear_sentence(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({**GOOD, **settings})
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in words:
        assert word in sentence


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "label.yaml"
    file.write_text("inputs: [a, b]\noutput: out\nsampling: count=4\ntop_k: 3\n")
    config = load_config({"top_k": 7, "limit": None}, file)
    assert (config.sampling, config.top_k, config.limit) == ("count=4", 7, None)
    assert [Path(i).name for i in config.inputs] == ["a", "b"]
    assert config.model == LabelConfig.model_fields["model"].default


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- a\n- b\n", "must hold"),
        ("a: [", "not valid YAML"),
        ("sampling: nope\n", "sampling"),
        (None, "cannot be read"),
    ],
)
def test_a_broken_config_file_is_named(tmp_path: Path, content: str | None, words: str) -> None:
    file = tmp_path / "label.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=words):
        load_config(dict(GOOD), file)


def test_one_input_may_be_given_as_text_or_path(tmp_path: Path) -> None:
    assert load_config({**GOOD, "inputs": "s3://bucket/videos"}).inputs == ("s3://bucket/videos",)
    assert load_config({**GOOD, "inputs": tmp_path, "output": tmp_path}).inputs == (str(tmp_path),)


def test_relative_paths_are_those_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config({"inputs": ("videos/", "~/more/*.mp4"), "output": "labels"})
    assert config.inputs == (str(tmp_path / "videos"), str(Path.home() / "more/*.mp4"))
    assert config.output == str(tmp_path / "labels")


def test_a_config_cannot_be_changed_after_it_was_checked() -> None:
    config = load_config(dict(GOOD))
    with pytest.raises(Exception, match="frozen"):
        config.top_k = 3  # type: ignore[misc]
