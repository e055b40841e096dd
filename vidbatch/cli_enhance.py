"""`vidbatch enhance`: flags are made from the fields of its settings; everything else is library."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any

import click

from vidbatch.cli_shared import progress, settings_flags, show_result
from vidbatch.enhancing.config import EnhanceConfig, load_enhance_config


@click.command()
@settings_flags(EnhanceConfig)
def enhance(inputs: tuple[str, ...], config_file: str | None, as_json: bool, **settings: Any) -> None:
    """Enhance every video of INPUT... that has no row yet; write the videos, and the table `enhanced` of what changed.

    \b
    vidbatch enhance videos/ --output better/                                        denoise, H.264 in mp4
    vidbatch enhance videos/ --output better/ --steps denoise,colour --denoise nlmeans --denoise-strength 0.3
    vidbatch enhance s3://bucket/videos --output s3://bucket/better --codec av1 --container webm --crf 35
    vidbatch enhance videos/ --output twice/ --steps denoise,upscale --upscale network
    vidbatch enhance videos/ --output smooth/ --steps interpolate --fps 60
    vidbatch enhance videos/ --output small/ --steps none --bitrate 800k --two-pass

    Killed or stopped? Run the same command again: only what is missing is done.
    """
    config = load_enhance_config({"inputs": inputs or None, **settings}, config_file)
    from vidbatch.enhancing.run import enhance as run

    with redirect_stdout(sys.stderr):  # Ray prints that a node was lost: stdout is for the result
        result = run(config, progress(as_json=as_json))
    show_result(
        result, config.output, config.max_failed_share, as_json=as_json,
        places="videos in {where}/media, table in {where}/enhanced",
    )  # fmt: skip
