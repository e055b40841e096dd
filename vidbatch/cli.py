"""The `vidbatch` command: label, plan, status, enhance, train, train-enhancer, evaluate. Flags are fields of settings.

Exit codes: 0 done (also with failed videos, up to --max-failed-share), 1 too many failed or the run broke,
2 a mistake in what was asked, 130 stopped by Ctrl-C or SIGTERM (run the same command again to go on).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import redirect_stdout, suppress
from dataclasses import asdict
from typing import Any, NoReturn

import click

from vidbatch import __version__, metrics, storage
from vidbatch.cli_enhance import enhance
from vidbatch.cli_shared import progress, say_error, settings_flags, show_result
from vidbatch.cli_train import evaluate, train, train_enhancer
from vidbatch.config import LabelConfig, PlanConfig, load_config, load_settings
from vidbatch.errors import ConfigError, Stopped, VidbatchError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="vidbatch")
def cli() -> None:
    """Label and enhance video archives on Ray: object storage in, Parquet tables and better-looking videos out.

    \b
    vidbatch label videos/ --output labels/                         a local folder
    vidbatch label s3://bucket/videos --output s3://bucket/labels   an S3 archive (AWS_* environment or profile)
    vidbatch plan  s3://bucket/videos --output s3://bucket/labels   what would be done, and its cost
    vidbatch status s3://bucket/labels                              what the runs did
    vidbatch enhance videos/ --output better/ --steps denoise,colour  better-looking videos, and what changed
    vidbatch train labelled/ --output model/                        a model of one's own
    vidbatch evaluate labelled/ --output eval/ --model file:model   how right it is

    With RAY_ADDRESS set the work runs on that cluster, else on a local Ray.
    """


@cli.command()
@settings_flags(LabelConfig)
@click.option("--dry-run", is_flag=True, help="Say what would be done and its estimated cost; the same as `plan`.")
def label(inputs: tuple[str, ...], config_file: str | None, dry_run: bool, as_json: bool, **settings: Any) -> None:
    """Label every video of INPUT... that has no row yet, and publish the tables `videos` and `frames`.

    \b
    vidbatch label videos/ --output labels/ --sampling count=8 --embedding
    vidbatch label shards-{000..099}.tar --output labels/ --model resnet50@IMAGENET1K_V2
    vidbatch label clips.csv --output s3://bucket/labels --sampling times=seconds

    Killed or stopped? Run the same command again: only what is missing is done.
    """
    config = load_config({"inputs": inputs or None, **settings}, config_file)
    if dry_run:
        _print_plan(PlanConfig.model_validate(config.model_dump()), as_json=as_json)
        return
    from vidbatch.pipeline import label as run

    with redirect_stdout(sys.stderr):  # Ray prints that a node was lost: stdout is for the result
        result = run(config, progress(as_json=as_json))
    show_result(
        result, config.output, config.max_failed_share, as_json=as_json,
        places="tables in {where}/videos and {where}/frames",
    )  # fmt: skip


@cli.command()
@settings_flags(PlanConfig)
def plan(inputs: tuple[str, ...], config_file: str | None, as_json: bool, **settings: Any) -> None:
    """Say what `label` would do with the same arguments, and what it would cost.

    \b
    vidbatch plan s3://bucket/videos --output s3://bucket/labels                from headers, in seconds
    vidbatch plan s3://bucket/videos --output s3://bucket/labels --measure 24 --hours 8 --price-per-hour 0.40

    Starts nothing without --measure, and writes nothing in either case.
    """
    asked = load_settings(PlanConfig, {"inputs": inputs or None, **settings}, config_file)
    _print_plan(asked, as_json=as_json)


@cli.command()
@click.argument("output")
@click.option("--run", "run_id", metavar="ID", help="One run; default: the latest.")
@click.option("--all", "show_all", is_flag=True, help="A line for every run.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
def status(output: str, run_id: str | None, show_all: bool, as_json: bool) -> None:
    """What the runs over OUTPUT did: progress, failures by kind, throughput and cost by stage."""
    records = metrics.read_records(output)
    if not records:
        raise ConfigError(f"output: {storage.redact(output)!r} holds no run record; has `vidbatch label` run there?")
    if run_id is not None:
        known = [r["run_id"] for r in records]
        records = [r for r in records if r["run_id"] == run_id]
        if not records:
            raise ConfigError(f"run: {run_id!r} is not known; known: {', '.join(known)}")
    shown = records if show_all else records[-1:]
    if as_json:
        click.echo(json.dumps(shown, indent=1))
        return
    for record in shown:
        click.echo(_status_line(record) if show_all else _status_page(record))


cli.add_command(enhance)
cli.add_command(train)
cli.add_command(train_enhancer)
cli.add_command(evaluate)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command; every expected error is one sentence on stderr and an exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell has it for what it runs in the background
            signal.signal(number, _stop)
    try:
        cli.main(arguments, prog_name="vidbatch", standalone_mode=False)
    except ConfigError as error:
        _fail(str(error), 2)
    except VidbatchError as error:
        _fail(str(error), 1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        say_error("stopped; run the same command again to go on")
        sys.stdout.flush()
        _end_local_ray()
        os._exit(130)  # at once: Ray, shut down on the way out, may end the process with exit code 1
    sys.exit(0)


def _end_local_ray() -> None:
    """Kill all that a local Ray has started but what the kernel kills with its driver; the rest would stay a minute."""
    if "ray" in sys.modules:
        import psutil  # Ray brings it along

        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if process.name() not in ("raylet", "gcs_server"):
                    process.kill()


def _stop(_signal: int, _frame: object) -> None:
    raise Stopped


def _fail(sentence: str, code: int) -> NoReturn:
    say_error(sentence)
    sys.exit(code)


def _print_plan(config: PlanConfig, *, as_json: bool) -> None:
    from vidbatch.plan import make_plan

    with redirect_stdout(sys.stderr):  # what is measured runs on Ray
        made = make_plan(config)
    click.echo(json.dumps(asdict(made), indent=1) if as_json else str(made))


def _status_line(r: dict[str, Any]) -> str:
    return f"{r['run_id']}  {r['state']:<13}  {r['videos']:>8} videos  {r['by_status'].get('failed', 0):>6} failed"


def _how(r: dict[str, Any]) -> str:
    """What was done: by a model to a sample, or in steps to every frame."""
    if "sampling" in r["config"]:
        return f"model    {r['model']}, sampling {r['config']['sampling']}"
    return f"steps    {r['model']}"


def _status_page(r: dict[str, Any]) -> str:
    work = max(r["wall_seconds"].get("work") or r["wall_seconds"].get("total", 0.0), 1e-9)
    lines = [
        f"run      {r['run_id']}  {r['state']}  {r['message']}".rstrip(),
        f"started  {r['started_at']}, updated {r['updated_at']}",
        f"{_how(r)}, config {r['config_digest']}",
        f"videos   {r['videos']}: " + ", ".join(f"{n} {s}" for s, n in sorted(r["by_status"].items())),
        f"frames   {r['frames']} ({r['frames'] / work:.1f}/s)",
    ]
    lines += [f"failed   {n} {kind}" for kind, n in sorted(r["by_error_kind"].items(), key=lambda item: -item[1])]
    workers = {"decode": r["pools"].get("decode_workers", 0), "classify": r["pools"].get("model_workers", 0)}
    for stage, figures in r["stages"].items():
        busy = figures.get("busy_seconds")
        share = (
            f", busy {busy / (work * workers[stage]):.0%} of {workers[stage]} workers"
            if busy and workers.get(stage)
            else ""
        )
        rest = ", ".join(f"{n} {name}" for name, n in figures.items() if name not in ("cpu_seconds", "busy_seconds"))
        used = f"{figures['cpu_seconds']:.1f} CPU s" if "cpu_seconds" in figures else f"{busy:.1f} s"
        lines.append(f"stage    {stage}: {used}{share}; {rest}")
    lines.append("seconds  " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in r["wall_seconds"].items()))
    return "\n".join(lines)
