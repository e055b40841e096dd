"""Good pictures in, a network for `vidbatch enhance --upscale` out, as a job of a running Ray cluster.

    python benchmarks/upscale_data.py               prints the folder of training data
    python jobs/train_upscale.py FOLDER --output network/

The arguments are those of `vidbatch train-enhancer`; they win over the constants below. As a job: see train.py.
"""

from __future__ import annotations

import sys

from vidbatch.cli import main

SETTINGS = {
    "--kind": "upscale",
    "--num-frames": "1",
    "--frame-size": "272x480",
    "--crop": "96",
    "--crops-per-window": "16",
    "--batch-size": "8",
    "--slice-size": "8",
    "--epochs": "60",
    "--loss": "root",
    "--learning-rate": "2e-3",
    "--warmup-epochs": "1",
    "--weight-decay": "0",
    "--clip-norm": "1.0",
    "--precision": "bf16",
    "--seed": "0",
}


def arguments(given: list[str]) -> list[str]:
    """The command line: constants first, because the last of two equal flags counts."""
    return ["train-enhancer", *(word for pair in SETTINGS.items() for word in pair), *given]


if __name__ == "__main__":
    main(arguments(sys.argv[1:]))
