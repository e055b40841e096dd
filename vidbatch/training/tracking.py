"""A training run's settings and curves in; one run in MLflow out, which goes on when the training goes on.

The driver opens it and says how it ended, the first worker tells it the curves. Tables below <output>/training hold the
same: an MLflow that is away in the meantime is told later and stops nothing. MLflow's own variables count
(MLFLOW_TRACKING_USERNAME and so on), on the workers' machines too.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

from vidbatch import storage
from vidbatch.errors import ConfigError
from vidbatch.training.settings import TrainSettings

MOST_METRICS: Final = 1000
"""MLflow takes no more at once."""
_DEFAULTS: Final = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds; MLflow's own come to minutes, in which a training stands still
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nobody is told but who was asked for
}
"""Variables of MLflow that count unless they are set."""
_LONGEST_VALUE: Final = 500
_ENDS: Final = {"finished": "FINISHED", "stopped_early": "FINISHED", "diverged": "FAILED"}


class Tracked(NamedTuple):
    """A run in MLflow."""

    uri: str
    """Of the server, with credentials if they were given so."""
    run_id: str


def open_run(config: TrainSettings, record: dict[str, Any]) -> Tracked | None:
    """The run that the training's record names, else a new one, which it names from now on; None if none is wanted.

    Raises ConfigError where MLflow is not installed, cannot be reached or does not take runs.
    """
    uri = config.mlflow_uri
    if uri is None:
        return None
    if find_spec("mlflow") is None:
        raise ConfigError("mlflow_uri needs mlflow: pip install 'vidbatch[mlflow]'")
    known = record.get("mlflow") or {}
    try:
        client = _client(uri)
        if known.get("uri") == storage.redact(uri):
            client.update_run(known["run_id"], status="RUNNING")
            return Tracked(uri, known["run_id"])
        run_id = _new_run(client, config, record)
    except Exception as error:  # what kind it is, its stores do not agree on
        raise ConfigError(f"mlflow_uri: {storage.redact(uri)!r} cannot be used: {_said(error)}") from error
    record["mlflow"] = {"uri": storage.redact(uri), "run_id": run_id}
    return Tracked(uri, run_id)


def close_run(tracked: Tracked | None, state: str) -> None:
    """Say how the training ended."""
    if tracked is None:
        return
    try:
        _client(tracked.uri).set_terminated(tracked.run_id, _ENDS[state])
    except Exception as error:  # noqa: BLE001  # no training ends because of it
        _warn(error)


class Tracker:
    """Tells the curves, each row once; not for several workers at once."""

    def __init__(self, tracked: Tracked) -> None:
        self._tracked = tracked
        self._told: dict[str, int] | None = None
        """Last step of each curve that MLflow has; None before it was asked."""

    def tell(self, steps: Sequence[dict[str, Any]], epochs: Sequence[dict[str, Any]]) -> None:
        """Tell what is new in the curves, all rows of which are given."""
        try:
            client = _client(self._tracked.uri)
            told = self._told = self._told or {kind: self._last(client, kind) for kind in ("steps", "epochs")}
            for kind, rows in (("steps", steps), ("epochs", epochs)):
                new = [row for row in rows if row["step"] > told[kind]]
                metrics = [metric for row in new for metric in _metrics(kind, row)]
                for at in range(0, len(metrics), MOST_METRICS):
                    client.log_batch(self._tracked.run_id, metrics=metrics[at : at + MOST_METRICS])
                told[kind] = max((row["step"] for row in new), default=told[kind])
        except Exception as error:  # noqa: BLE001  # no training ends because of it
            _warn(error)
            self._told = None

    def _last(self, client: Any, kind: str) -> int:
        found = client.get_metric_history(self._tracked.run_id, f"{kind}/loss")
        return max((metric.step for metric in found), default=-1)


def _client(uri: str) -> Any:
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _new_run(client: Any, config: TrainSettings, record: dict[str, Any]) -> str:
    from mlflow.entities import Param

    found = client.get_experiment_by_name(config.mlflow_experiment)
    experiment = client.create_experiment(config.mlflow_experiment) if found is None else found.experiment_id
    output = storage.redact(config.output)
    tags = {"vidbatch.output": output, "vidbatch.version": record["versions"]["vidbatch"]}
    run_id: str = client.create_run(experiment, tags=tags, run_name=output.rstrip("/").rpartition("/")[2]).info.run_id
    values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in record["config"].items()}
    client.log_batch(run_id, params=[Param(name, value[:_LONGEST_VALUE]) for name, value in values.items()])
    return run_id


def _metrics(kind: str, row: dict[str, Any]) -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [
        Metric(f"{kind}/{name}", float(value), now, row["step"])
        for name, value in row.items()
        if name not in ("step", "epoch") and isinstance(value, int | float)
    ]


def _warn(error: Exception) -> None:
    logging.getLogger(__name__).warning("MLflow was not told: %s", _said(error))


def _said(error: Exception) -> str:
    lines = str(error).splitlines()
    return storage.redact(lines[0] if lines else type(error).__name__)[:300]
