"""A video archive in, its label tables out, as a job of a running Ray cluster.

`make job` builds dist/job, a folder of this file and vidbatch itself (well below 1 MB). One command sends it:

    ray job submit --address http://HEAD:8265 --working-dir dist/job -- \\
        python label.py s3://bucket/videos --output s3://bucket/labels

The arguments are those of `vidbatch label`; they win over the constants below, which win over a --config file.
Exit codes are the command's too. Stopped by `ray job stop`, or killed? Submit the same again: it goes on.

The cluster's image holds the packages vidbatch needs, and its nodes hold the storage credentials (AWS_* variables,
a profile or an instance role). Where packages are missing, add `--runtime-env dist/job/runtime_env.yaml`.
With token authentication on, `ray job submit` needs RAY_AUTH_TOKEN: what `ray get-auth-token` prints on the head.
"""

from __future__ import annotations

import sys

from vidbatch.cli import main

INPUTS: tuple[str, ...] = ()
"""Used when the command line names no input, e.g. ("s3://bucket/videos",)."""
OUTPUT: str | None = None
MODEL: str | None = None
SAMPLING: str | None = None
PARTITION_BY: str | None = None
"""None: whatever `vidbatch label` does by itself."""


def arguments(given: list[str]) -> list[str]:
    """The command line of `vidbatch label`: constants first, because the last of two equal flags counts."""
    flags = {"--output": OUTPUT, "--model": MODEL, "--sampling": SAMPLING, "--partition-by": PARTITION_BY}
    constants = [word for flag, value in flags.items() if value is not None for word in (flag, value)]
    return ["label", *constants, *(given or INPUTS)]


if __name__ == "__main__":
    main(arguments(sys.argv[1:]))
