"""Pairs before and behind a codec in, a network for `vidbatch enhance --denoise` out, as a job of Ray.

    python benchmarks/enhance_data.py               prints two folders of training data
    python jobs/train_artefacts.py FOLDER/codec --output network/

The arguments are those of `vidbatch train-enhancer`; they win over the constants of train_denoise.py. As a job: see
train.py.
"""

from __future__ import annotations

import sys

from train_denoise import SETTINGS, arguments

from vidbatch.cli import main

OF_ARTEFACTS = SETTINGS | {"--kind": "artefacts"}
"""As against noise: the network and its squares are the same."""


if __name__ == "__main__":
    main(arguments(sys.argv[1:], OF_ARTEFACTS))
