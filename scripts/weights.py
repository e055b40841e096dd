"""A name in, the network of that name that comes with vidbatch trained anew: its data, then its stages one by one.

    python scripts/weights.py denoise --output weights/        denoise, artefacts, colour, ...

Weights are in the last folder that is printed. Killed or stopped? The same command goes on. On a GPU where there is
one; without, the same steps take some hours of a CPU core. Rounding differs from machine to machine, so that weights
are alike, and as good, but not equal.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
FROM_ONE_TO_THE_NEXT: Final = "--cpus-per-worker 1 --ema-decay 0.99"


class Recipe(NamedTuple):
    """What makes the data, which of the folders that it prints is meant, and what is trained, stage upon stage."""

    data: str
    folder: int
    below: str
    job: str
    stages: tuple[str, ...]


RECIPES: Final = {
    "denoise": Recipe(
        "enhance_data.py", 0, "noise", "train_denoise.py",
        (
            "--batch-size 4 --slice-size 4 --crops-per-window 16 --epochs 60 --stop-after 31",
            f"{FROM_ONE_TO_THE_NEXT} --epochs 16 --learning-rate 1e-3 --warmup-epochs 0.2",
            f"{FROM_ONE_TO_THE_NEXT} --epochs 56 --learning-rate 2e-3 --warmup-epochs 0.5",
            f"{FROM_ONE_TO_THE_NEXT} --epochs 50 --learning-rate 1.5e-3 --warmup-epochs 0.5 --loss psnr",
        ),
    ),
    "artefacts": Recipe(
        "artefact_data.py", 0, "", "train_artefacts.py",
        (
            "--cpus-per-worker 1 --num-frames 1 --windows-per-video 5 --epochs 8 --loss root --learning-rate 2e-3 "
            "--warmup-epochs 0.1 --stop-after 6",
            "--cpus-per-worker 1",
        ),
    ),
    "colour": Recipe("enhance_data.py", 1, "", "train_colour.py", ("--cpus-per-worker 1",)),
    "upscale": Recipe("upscale_data.py", 0, "", "train_upscale.py", ("",)),
    "interpolate": Recipe("interpolate_data.py", 0, "", "train_interpolate.py", ("--epochs 60 --stop-after 43",)),
}  # fmt: skip


def stages_of(name: str, output: Path, folder: str, given: list[str]) -> list[list[str]]:
    """The command line of each stage. Args: `folder` holds the data; `given` is added to all of them."""
    recipe = RECIPES[name]
    commands: list[list[str]] = []
    for number, flags in enumerate(recipe.stages):
        begin = ["--start-from", str(output / f"{number}")] if number else []
        place = str(output / f"{number + 1}")
        data = str(Path(folder) / recipe.below)
        job = str(REPOSITORY / "jobs" / recipe.job)
        commands.append([sys.executable, job, data, "--output", place, *begin, *flags.split(), *given])
    return commands


def main() -> None:
    """Make the data, then train stage upon stage."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--output", type=Path, required=True, help="folder of the stages, 1, 2, ...")
    arguments, given = parser.parse_known_args()  # the rest is for train-enhancer, as --num-workers 2
    recipe = RECIPES[arguments.name]
    data = [sys.executable, str(REPOSITORY / "benchmarks" / recipe.data)]
    made = subprocess.run(data, check=True, stdout=subprocess.PIPE, text=True)
    folder = made.stdout.splitlines()[recipe.folder]
    for command in stages_of(arguments.name, arguments.output / arguments.name, folder, given):
        print(" ".join(command[1:]), flush=True)
        subprocess.run(command, check=True)
    print(arguments.output / arguments.name / str(len(recipe.stages)))


if __name__ == "__main__":
    main()
