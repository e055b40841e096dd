"""Good videos in, a network for `vidbatch enhance --colour` out, as a job of a running Ray cluster.

    python benchmarks/enhance_data.py               prints two folders of training data
    python jobs/train_colour.py COLOUR --output network/

The arguments are those of `vidbatch train-enhancer`; they win over the constants below. As a job: see train.py.
"""

from __future__ import annotations

import sys

from vidbatch.cli import main

SETTINGS = {
    "--kind": "colour",
    "--num-frames": "1",
    "--frame-size": "144x256",
    "--crop": "64",
    "--crops-per-window": "2",
    "--batch-size": "32",
    "--slice-size": "32",
    "--epochs": "25",
    "--loss": "root",
    "--learning-rate": "2e-3",
    "--warmup-epochs": "1",
    "--weight-decay": "0.02",
    "--clip-norm": "1.0",
    "--seed": "0",
}


def arguments(given: list[str]) -> list[str]:
    """The command line: constants first, because the last of two equal flags counts."""
    return ["train-enhancer", *(word for pair in SETTINGS.items() for word in pair), *given]


if __name__ == "__main__":
    main(arguments(sys.argv[1:]))
