"""Labelled videos in, a video classifier out, as a job of a running Ray cluster.

`make job` builds dist/job, a folder of this file and vidbatch itself. One command sends it:

    ray job submit --address http://HEAD:8265 --working-dir dist/job -- \\
        python train.py s3://bucket/labelled.csv --output s3://bucket/model --num-workers 8

The arguments are those of `vidbatch train`; they win over the constants below, which win over a --config file.
Checkpoints lie below the output, which all nodes have to reach: an s3:// prefix or a shared disk. Stopped or
killed? Submit the same again: it goes on at the last checkpoint. Packages and tokens: see label.py.
"""

from __future__ import annotations

import sys

from vidbatch.cli import main

INPUTS: tuple[str, ...] = ()
"""Used when the command line names no input, e.g. ("s3://bucket/labelled.csv",)."""
OUTPUT: str | None = None
MODEL: str | None = None
NUM_WORKERS: int | None = None
"""None: whatever `vidbatch train` does by itself."""


def arguments(given: list[str]) -> list[str]:
    """The command line of `vidbatch train`: constants first, because the last of two equal flags counts."""
    flags = {"--output": OUTPUT, "--model": MODEL, "--num-workers": NUM_WORKERS}
    constants = [str(word) for flag, value in flags.items() if value is not None for word in (flag, value)]
    return ["train", *constants, *(given or INPUTS)]


if __name__ == "__main__":
    main(arguments(sys.argv[1:]))
