"""Pairs before and behind a codec in, a network for `vidbatch enhance --denoise` out, as a job of a Ray cluster.

    python benchmarks/artefact_data.py              prints the folder of training data
    python jobs/train_artefacts.py FOLDER --output network/

That which comes along (`make weights NAME=artefacts`) began with a network that sees one frame, which learns faster.
The arguments are those of `vidbatch train-enhancer`; they win over the constants below. As a job: see train.py.
"""

from __future__ import annotations

import sys

from train_denoise import arguments

from vidbatch.cli import main

SETTINGS = {
    "--kind": "artefacts",
    "--frame-size": "544x480",
    "--crop": "96",
    "--crops-per-window": "4",
    "--batch-size": "4",
    "--slice-size": "4",
    "--num-frames": "3",
    "--windows-per-video": "3",
    "--epochs": "6",
    "--loss": "rms",
    "--learning-rate": "1e-3",
    "--warmup-epochs": "0.2",
    "--weight-decay": "0",
    "--clip-norm": "1.0",
    "--ema-decay": "0.995",
    "--precision": "bf16",
    "--seed": "0",
}


if __name__ == "__main__":
    main(arguments(sys.argv[1:], SETTINGS))
