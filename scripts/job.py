"""This source tree in; the wheel and a folder for `ray job submit` out: dist/*.whl and dist/job.

The folder is the job's working directory, so Ray puts it first on the import path of the driver and of every worker:
the wheel lies there unpacked. That needs no installation on any node. Ray's own ways to ship a wheel either install
all its dependencies beside it (py_modules: torch again) or may copy the node's environment (pip: gigabytes).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
RECIPES = (
    "label.py",
    "enhance.py",
    "transcode.py",
    "train.py",
    "train_denoise.py",
    "train_artefacts.py",
    "train_colour.py",
    "train_interpolate.py",
    "train_upscale.py",
)
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "vidbatch")


def build_wheel(target: Path) -> Path:
    """Build from a copy, so that nothing an earlier build left behind ends up in the wheel."""
    with tempfile.TemporaryDirectory() as folder:
        for name in SOURCES:
            source = REPOSITORY / name
            if source.is_dir():
                shutil.copytree(source, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, folder)
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            sys.exit(f"{done.stdout}\nthe wheel could not be built; the reason is above")
        [wheel] = Path(folder).glob("*.whl")
        target.mkdir(parents=True, exist_ok=True)
        for old in target.glob("vidbatch-*.whl"):
            old.unlink()
        return Path(shutil.copy2(wheel, target))


def build_job(target: Path) -> Path:
    """Lay the folder out anew: the wheel, its content, the recipes and the runtime environment."""
    wheel = build_wheel(target)
    folder = target / "job"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    shutil.copy2(wheel, folder)
    for recipe in RECIPES:
        shutil.copy2(REPOSITORY / "jobs" / recipe, folder)
    runtime_env = (REPOSITORY / "jobs" / "runtime_env.yaml").read_text()
    (folder / "runtime_env.yaml").write_text(runtime_env.replace("@WHEEL@", wheel.name))
    return folder


def main(arguments: list[str]) -> None:
    """`job.py wheel|job [DIR]`: build into DIR, by default dist, and say where."""
    what, *rest = arguments
    target = Path(rest[0]) if rest else REPOSITORY / "dist"
    made = build_job(target) if what == "job" else build_wheel(target)
    files = [path for path in made.rglob("*") if path.is_file()] if made.is_dir() else [made]
    print(f"{made}: {sum(path.stat().st_size for path in files) / 1e6:.2f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
