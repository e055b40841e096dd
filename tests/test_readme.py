"""What README says to type is typed here, in the order it stands there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from clips import LazyClips
from servers import MotoServer

import vidbatch
from vidbatch import storage
from vidbatch.config import LabelConfig
from vidbatch.errors import ERROR_KINDS, TRANSIENT_KINDS
from vidbatch.testing import make_video

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = [(m[1], m[2]) for m in re.finditer(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)]

TRAINING = next(body for language, body in BLOCKS if language == "sh" and "vidbatch train" in body)
ELSEWHERE = {
    "make demo": "test_demo.py",
    "make test": "this very run",
    "make job": "test_job_submit.py",
    "ray job submit": "test_job_submit.py",
}
"""Commands of the README that another test runs."""


def _commands() -> list[str]:
    bodies = (body for language, body in BLOCKS if language == "sh" and body != TRAINING)
    text = "\n".join(bodies).replace("\\\n", " ")
    lines = (line.split("  #")[0].strip() for line in text.splitlines())
    return [re.sub(r"\s+", " ", line) for line in lines if line]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, clips: LazyClips) -> Path:
    place = tmp_path_factory.mktemp("readme")
    (place / "videos").mkdir()
    for name in ("carphone.mp4", "bikes.mp4"):
        shutil.copy(clips[name], place / "videos" / name)
    return place


@pytest.mark.usefixtures("local_ray")
def test_every_command_of_the_readme_works(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = _commands()
    assert len(commands) >= 5
    monkeypatch.chdir(workspace)
    for command in commands:
        if any(command.startswith(known) for known in ELSEWHERE):
            continue
        program, *arguments = shlex.split(command)
        assert program == "vidbatch", f"no test runs {command!r}"
        done = subprocess.run(
            [sys.executable, "-c", "from vidbatch.cli import main; main()", *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
    for language, body in BLOCKS:
        if language == "python":
            exec(compile(body, "README.md", "exec"), {})
        if language == "sql":
            import duckdb

            assert duckdb.sql(body).fetchall()


@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
def test_every_command_that_enhances_goes_from_s3_to_s3(moto_s3: MotoServer, tmp_path: Path) -> None:
    section = README.partition("## Make videos look better")[2].partition("## ")[0].replace("\\\n", " ")
    commands = re.findall(r"^    vidbatch enhance (s3://.*)$", section, re.MULTILINE)
    assert len(commands) >= 5
    bucket = moto_s3()
    make_video(tmp_path / "a.mp4", num_frames=30, width=160, height=120, with_sound=True)
    storage.put(f"{bucket}/videos/a.mp4", (tmp_path / "a.mp4").read_bytes())
    for command in commands:
        arguments = shlex.split(command.replace("s3://bucket", bucket))
        start = [sys.executable, "-c", "from vidbatch.cli import main; main()", "enhance", *arguments]
        done = subprocess.run(start, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        (row,) = vidbatch.tables(arguments[arguments.index("--output") + 1]).enhanced.to_arrow().to_pylist()
        assert (row["status"], storage.exists(row["output_url"])) == ("ok", True)


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_model_is_trained_evaluated_and_used_as_the_readme_says(workspace: Path) -> None:
    """In one shell: what `train` writes is what `evaluate` and `label` take, and it has begun to learn."""
    pytest.importorskip("sklearn", reason="vidbatch[evaluate] is not installed")
    (workspace / "benchmarks").symlink_to(ROOT / "benchmarks")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    shell = ["bash", "-euo", "pipefail", "-c", TRAINING]
    done = subprocess.run(shell, cwd=workspace, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    numbers = json.loads((workspace / "motion-evaluated" / "evaluate.json").read_text())
    assert numbers["videos"]["count"] == 9 * 20
    losses = pq.read_table(workspace / "motion" / "training" / "epochs.parquet")["loss"].to_pylist()
    assert losses[-1] < 0.85 * losses[0]
    assert (workspace / "motion-evaluated" / "curves.png").stat().st_size > 1000
    rows = vidbatch.tables(workspace / "motion-labels").videos.to_arrow().to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["label"] for row in rows} <= set(numbers["labels"])


def test_the_readme_names_every_error_kind_and_its_retry() -> None:
    for kind in ERROR_KINDS:
        assert f"`{kind}`" in README
    for kind in TRANSIENT_KINDS:
        assert f"`{kind}`" in README.split("Permanent kinds are not tried again")[1]


def test_every_flag_the_readme_names_exists() -> None:
    help_text = ""
    for command in ("label", "plan", "enhance", "train", "train-enhancer", "evaluate"):
        program = [sys.executable, "-c", "from vidbatch.cli import main; main()", command, "--help"]
        help_text += subprocess.run(program, capture_output=True, text=True, check=True).stdout
    text = re.sub(r"python benchmarks/[^)\n]*", "", README.split("## Submit")[0])
    flags = set(re.findall(r"--[a-z][a-z-]+", text)) - {"--help"}
    assert flags <= set(re.findall(r"--[a-z][a-z-]+", help_text))


def test_the_file_map_names_every_module() -> None:
    for module in [p for p in (ROOT / "vidbatch").glob("[a-z]*") if p.suffix == ".py" or (p / "__init__.py").exists()]:
        assert module.name in README, f"README's file map lacks {module.name}"


def test_defaults_in_the_readme_are_the_defaults() -> None:
    settings = README.split("| flag | default |")[1].split("\n\n")[0]
    for flag, default in re.findall(r"^\| `--([a-z-]+)`[^|]*\| `?([^|`]+?)`? \|", settings, re.MULTILINE):
        field = LabelConfig.model_fields.get(flag.replace("-", "_"))
        if field is not None and default not in ("off", " ", ""):
            assert str(field.default) == default, f"--{flag}"


def test_there_are_no_figures_without_a_result_file() -> None:
    """Every ratio quoted under Measured stands in a committed result of a benchmark."""
    for name in re.findall(r"benchmarks/results/([\w-]+\.json)", README):
        assert (ROOT / "benchmarks" / "results" / name).exists()
