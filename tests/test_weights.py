"""The weights that come along, and the command that trains them anew."""

from __future__ import annotations

import json
import re
from inspect import signature
from pathlib import Path
from runpy import run_path

import click
import pytest

from vidbatch.cli_train import train_enhancer
from vidbatch.training.restore_config import load_restore_config

REPOSITORY = Path(__file__).resolve().parent.parent
WEIGHTS = REPOSITORY / "vidbatch" / "restoring" / "weights"
SCRIPT = run_path(str(REPOSITORY / "scripts" / "weights.py"))


@pytest.mark.parametrize("name", sorted(path.parent.name for path in WEIGHTS.glob("*/config.json")))
def test_the_command_of_each_network_has_the_settings_that_the_network_says_it_was_trained_with(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "jobs"))
    *_, last = SCRIPT["stages_of"](name, Path("out"), "data", [])
    job = run_path(last[1])
    shared = "settings" in signature(job["arguments"]).parameters
    _, *words = job["arguments"](last[2:], *([job["SETTINGS"]] if shared else []))
    with click.Context(train_enhancer) as context:
        train_enhancer.parse_args(context, list(words))
        given = {key: value for key, value in context.params.items() if value is not None}
    inputs = given.pop("inputs")
    config = load_restore_config({"inputs": inputs, **{k: v for k, v in given.items() if k in _fields()}})
    trained = json.loads((WEIGHTS / name / "config.json").read_text())["trained"]["settings"]
    trained = {key: value for key, value in trained.items() if key != "start_from"}
    said = json.loads(config.model_dump_json())
    assert {key: said[key] for key in trained} == trained


def _fields() -> set[str]:
    from vidbatch.training.restore_config import RestoreConfig

    return set(RestoreConfig.model_fields)


def test_every_network_that_comes_along_has_its_command_in_the_readme_of_the_weights() -> None:
    names = {path.parent.name for path in WEIGHTS.glob("*/config.json")}
    assert set(re.findall(r"make weights NAME=(\w+)$", (WEIGHTS / "README.md").read_text(), re.MULTILINE)) == names
    assert names == set(SCRIPT["RECIPES"])
