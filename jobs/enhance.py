"""A video archive in, better-looking videos and the table of what changed out, as a job of a running Ray cluster.

    make job
    ray job submit --address http://HEAD:8265 --working-dir dist/job -- \\
        python enhance.py s3://bucket/videos --output s3://bucket/better --steps denoise,colour

The arguments are those of `vidbatch enhance`; they win over the constants below, which win over a --config file.
The output has to be a place that all nodes reach. Everything else is as for label.py.
"""

from __future__ import annotations

import sys

from vidbatch.cli import main

INPUTS: tuple[str, ...] = ()
"""Used when the command line names no input, e.g. ("s3://bucket/videos",)."""
OUTPUT: str | None = None
STEPS: str | None = None
CODEC: str | None = None
"""None: whatever `vidbatch enhance` does by itself."""


def arguments(given: list[str]) -> list[str]:
    """The command line of `vidbatch enhance`: constants first, because the last of two equal flags counts."""
    flags = {"--output": OUTPUT, "--steps": STEPS, "--codec": CODEC}
    constants = [word for flag, value in flags.items() if value is not None for word in (flag, value)]
    return ["enhance", *constants, *(given or INPUTS)]


if __name__ == "__main__":
    main(arguments(sys.argv[1:]))
