"""What the commands that work on an archive share: flags made of settings, what is said meanwhile and at the end."""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vidbatch import storage
from vidbatch.errors import ConfigError
from vidbatch.logs import JsonLog, Level
from vidbatch.metrics import Progress, RunRecord

if TYPE_CHECKING:
    from vidbatch.runs import RunResult

_SHORT = {
    "model_timeout_seconds": "model-timeout",
    "decode_timeout_seconds": "decode-timeout",
    "decode_memory_mb": "decode-memory",
    "max_duration_seconds": "max-duration",
}
"""Flags that are not called as their setting."""
_UNITS = {"_seconds": "SECONDS", "_mb": "MIB", "output": "URL"}
"""What stands for the value of a flag whose setting ends like this."""

F = TypeVar("F", bound=Callable[..., Any])


def settings_flags(settings: type[BaseModel]) -> Callable[[F], F]:
    """Add INPUT..., one option a setting with its description and default as help, --config, --json and how to log."""

    def add(command: F) -> F:
        command = click.option(
            "--log-level", type=click.Choice(get_args(Level)), expose_value=False, callback=_set_log_level,
            help="With --log-format json: the least that is written; debug has a line for each video.  [default: info]",
        )(command)  # fmt: skip
        command = click.option(
            "--log-format", type=click.Choice(["text", "json"]), expose_value=False, is_eager=True,
            callback=_set_log_format,
            help="What is said while the run works, on stderr: lines for people, or JSON with run and video ids.  "
            "[default: text]",
        )(command)  # fmt: skip
        command = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)
        for name, field in reversed(settings.model_fields.items()):
            if name != "inputs":
                command = click.option(*_names(name, field), help=_help(field), default=None, **_kind(name, field))(
                    command
                )
        command = click.option("--config", "config_file", metavar="FILE", help="YAML file of settings; flags win.")(
            command
        )
        return click.argument("inputs", nargs=-1, metavar="INPUT...")(command)

    return add


class _Log:
    """How this command says what it does: set by its flags, before all else."""

    json: JsonLog | None = None


_LOG: Final = _Log()


def _set_log_format(_context: click.Context, _option: click.Parameter, value: str | None) -> None:
    _LOG.json = JsonLog() if value == "json" else None
    if _LOG.json is not None:
        os.environ.setdefault("RAY_BACKEND_LOG_JSON", "1")  # what Ray's own side says stands in between


def _set_log_level(_context: click.Context, _option: click.Parameter, value: Level | None) -> None:
    if value is None:
        return
    if _LOG.json is None:
        raise ConfigError(f"log_level: {value!r} is not allowed without --log-format json: there are no levels in text")
    _LOG.json = JsonLog(level=value)


def progress(*, as_json: bool) -> Progress:
    """What a run is to tell while it works. Lines for people are left out where the result is wanted as JSON."""
    return _LOG.json or Progress(enabled=not as_json)


def say_error(sentence: str) -> None:
    """Say on stderr why the command ends without having done what was asked."""
    if _LOG.json is not None:
        _LOG.json.say("error", "error", sentence)
    else:
        click.echo(f"vidbatch: {storage.redact(sentence)}", err=True)


def _names(name: str, field: FieldInfo) -> tuple[str, str]:
    flag = "--" + _SHORT.get(name, name.replace("_", "-"))
    if field.annotation is bool:
        return (f"{flag}/--no-{flag[2:]}" if field.default else flag), name
    return flag, name


def _kind(name: str, field: FieldInfo) -> dict[str, Any]:
    """What click has to know of a flag; the settings themselves read what is given as text."""
    plain = field.annotation
    for ending, unit in _UNITS.items():
        if name.endswith(ending):
            return {"metavar": unit}
    if get_origin(plain) in (Union, types.UnionType):
        plain = next(part for part in get_args(plain) if part is not type(None))
    if plain is bool:
        return {"is_flag": True}
    if get_origin(plain) is Literal:
        return {"metavar": "|".join(map(str, get_args(plain)))}
    if get_origin(plain) is tuple:
        return {"metavar": "LIST"}
    names: dict[Any, str] = {int: "N", float: "X", str: "TEXT"}
    return {"metavar": names.get(plain, "JSON")}


def _help(field: FieldInfo) -> str:
    default = field.default
    if (
        field.is_required()
        or default is None
        or default is False
        or default in ((), {})
        or hasattr(default, "model_dump")
    ):
        return str(field.description)
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    return f"{field.description}  [default: {shown}]"


def _summary(record: RunRecord) -> dict[str, Any]:
    """A record as JSON can hold it."""
    return {name: value for name, value in asdict(record).items() if not name.startswith("_")}


def show_result(result: RunResult, output: str, max_failed_share: float, *, places: str, as_json: bool) -> None:
    """Say what a run did; exit with 1 if too many of its videos failed.

    Args: `places` says where its results are, with {where} for the output.
    """
    record, where = result.record, storage.redact(output)
    if as_json:
        click.echo(json.dumps(_summary(record), indent=1))
    elif record.state == "nothing_to_do":
        seconds = record.wall_seconds["total"]
        click.echo(f"vidbatch: nothing to do: every video has its row in {where} ({seconds:.1f} s)")
    else:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(record.by_error_kind.items()))
        counts = ", ".join(f"{n} {name}" for name, n in sorted(record.by_status.items(), reverse=True))
        click.echo(
            f"vidbatch: {record.videos} videos ({counts}{'; ' + kinds if kinds else ''}), {record.frames} frames "
            f"in {record.wall_seconds['total']:.1f} s\n"
            f"vidbatch: {places.format(where=where)}, run {record.run_id}"
        )
    if not result.is_acceptable:
        share = result.num_failed / record.videos
        say_error(f"{share:.1%} of the videos failed, more than max_failed_share allows ({max_failed_share:.1%})")
        sys.exit(1)
