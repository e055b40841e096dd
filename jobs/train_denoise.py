"""Good videos in, a network for `vidbatch enhance --denoise` out, as a job of a running Ray cluster.

    python benchmarks/enhance_data.py               prints two folders of training data
    python jobs/train_denoise.py FOLDER/noise --output network/

The arguments are those of `vidbatch train-enhancer`; they win over the constants below. As a job: see train.py.
"""

from __future__ import annotations

import sys

from vidbatch.cli import main

SETTINGS = {
    "--kind": "denoise",
    "--frame-size": "544x480",
    "--crop": "96",
    "--crops-per-window": "4",
    "--batch-size": "8",
    "--slice-size": "8",
    "--places": "2",
    "--num-frames": "7",
    "--epochs": "76",
    "--loss": "root",
    "--learning-rate": "3e-3",
    "--warmup-epochs": "1",
    "--weight-decay": "0",
    "--clip-norm": "1.0",
    "--precision": "bf16",
    "--seed": "0",
}


def arguments(given: list[str], settings: dict[str, str] = SETTINGS) -> list[str]:
    """The command line: constants first, because the last of two equal flags counts."""
    return ["train-enhancer", "--pairs", *(word for pair in settings.items() for word in pair), *given]


if __name__ == "__main__":
    main(arguments(sys.argv[1:]))
