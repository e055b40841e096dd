"""`vidbatch enhance`: flags are made from the fields of its settings; everything else is library."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import Any

import click

from vidbatch import metrics, storage
from vidbatch.cli_train import settings_flags
from vidbatch.enhancing.config import EnhanceConfig, load_enhance_config


@click.command()
@settings_flags(EnhanceConfig)
def enhance(inputs: tuple[str, ...], config_file: str | None, as_json: bool, **settings: Any) -> None:
    """Enhance every video of INPUT... that has no row yet; write the videos, and the table `enhanced` of what changed.

    \b
    vidbatch enhance videos/ --output better/                                        denoise, H.264 in mp4
    vidbatch enhance videos/ --output better/ --steps denoise,colour --denoise nlmeans --denoise-strength 0.3
    vidbatch enhance s3://bucket/videos --output s3://bucket/better --codec av1 --container webm --crf 35
    vidbatch enhance videos/ --output small/ --steps none --bitrate 800k --two-pass

    Killed or stopped? Run the same command again: only what is missing is done.
    """
    config = load_enhance_config({"inputs": inputs or None, **settings}, config_file)
    from vidbatch.enhancing.run import enhance as run

    with redirect_stdout(sys.stderr):  # Ray prints that a node was lost: stdout is for the result
        result = run(config, metrics.Progress(enabled=not as_json))
    record = result.record
    if as_json:
        values = {name: value for name, value in asdict(record).items() if not name.startswith("_")}
        click.echo(json.dumps(values, indent=1))
    else:
        click.echo(_sentence(record, config.output))
    if not result.is_acceptable:
        share = result.num_failed / record.videos
        click.echo(f"vidbatch: {share:.1%} of the videos failed, more than max_failed_share allows "
                   f"({config.max_failed_share:.1%})", err=True)  # fmt: skip
        sys.exit(1)


def _sentence(record: metrics.RunRecord, output: str) -> str:
    where, seconds = storage.redact(output), record.wall_seconds["total"]
    if record.state == "nothing_to_do":
        return f"vidbatch: nothing to do: every video has its row in {where} ({seconds:.1f} s)"
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(record.by_error_kind.items()))
    counts = ", ".join(f"{n} {name}" for name, n in sorted(record.by_status.items(), reverse=True))
    return (
        f"vidbatch: {record.videos} videos ({counts}{'; ' + kinds if kinds else ''}), {record.frames} frames "
        f"in {seconds:.1f} s\n"
        f"vidbatch: videos in {where}/media, table in {where}/enhanced, run {record.run_id}"
    )
