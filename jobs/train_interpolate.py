"""Good videos in, a network for `vidbatch enhance --interpolate` out, as a job of a running Ray cluster.

    python benchmarks/interpolate_data.py       prints the folder of training data
    python jobs/train_interpolate.py FOLDER --output network/

The arguments are those of `vidbatch train-enhancer`; they win over the constants below. As a job: see train.py.
"""

from __future__ import annotations

import sys

from vidbatch.cli import main

SETTINGS = {
    "--kind": "interpolate",
    "--frame-size": "272x480",
    "--crop": "224",
    "--crops-per-window": "2",
    "--batch-size": "16",
    "--slice-size": "16",
    "--num-frames": "7",
    "--places": "4",
    "--epochs": "270",
    "--loss": "psnr",
    "--learning-rate": "1e-3",
    "--warmup-epochs": "2",
    "--weight-decay": "1e-4",
    "--clip-norm": "3.0",
    "--precision": "bf16",
    "--decode-workers": "8",
    "--seed": "0",
}


def arguments(given: list[str], settings: dict[str, str] = SETTINGS) -> list[str]:
    """The command line: constants first, because the last of two equal flags counts."""
    return ["train-enhancer", *(word for pair in settings.items() for word in pair), *given]


if __name__ == "__main__":
    main(arguments(sys.argv[1:]))
