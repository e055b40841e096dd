"""A video archive in, the same videos at the bit rate that each needs out, as a job of a running Ray cluster.

    make job
    ray job submit --address http://HEAD:8265 --working-dir dist/job -- \\
        python transcode.py s3://bucket/videos --output s3://bucket/smaller --codec av1

Each clip gets the largest crf that leaves it as good as TARGET_XPSNR says, found by trials on parts of it; with
`--crf 28`, or `--bitrate 2M --two-pass`, that is given instead. `--container cmaf` writes a ladder of heights that
plays as HLS and as DASH. The rate-quality curves of all videos are in the table `enhanced`, and in rate_quality.svg of
the output where matplotlib is installed. The arguments are those of `vidbatch enhance`; they win over the constants.
"""

from __future__ import annotations

import sys

from vidbatch.cli import main

INPUTS: tuple[str, ...] = ()
"""Used when the command line names no input, e.g. ("s3://bucket/videos",)."""
TARGET_XPSNR = "36"
_INSTEAD = ("--crf", "--bitrate", "--target-xpsnr", "--config")


def arguments(given: list[str]) -> list[str]:
    """The command line of `vidbatch enhance`: constants first, because the last of two equal flags counts."""
    asks = any(word.partition("=")[0] in _INSTEAD for word in given)
    target = [] if asks else ["--target-xpsnr", TARGET_XPSNR]
    return ["enhance", "--steps", "none", *target, *(given or INPUTS)]


if __name__ == "__main__":
    main(arguments(sys.argv[1:]))
