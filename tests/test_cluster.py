"""Cluster files give nothing away: no public port, no root, no secret by value; versions are those of the lock file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = sorted((REPOSITORY / "cluster").glob("*.yaml"))
RAY_VERSION = next(
    line.partition("==")[2].split()[0]
    for line in (REPOSITORY / "requirements.lock").read_text().splitlines()
    if re.match(r"ray(\[.*\])?==", line)
)


def parts(node: Any, key: str) -> Iterator[Any]:
    """Everything below a key of that name, at any depth."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from parts(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from parts(value, key)


def pods(manifest: Any) -> list[dict[str, Any]]:
    """Pod specifications, at any depth."""
    return [spec for spec in parts(manifest, "spec") if "containers" in spec]


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def manifest(request: pytest.FixtureRequest) -> Any:
    return yaml.safe_load(request.param.read_text())


def test_nothing_is_exposed_beyond_the_cluster(manifest: Any) -> None:
    assert manifest["kind"] in ("RayJob", "RayCluster", "CronJob")
    assert set(parts(manifest, "serviceType")) <= {"ClusterIP"}
    assert not any(parts(manifest, "enableIngress"))
    for name in ("hostNetwork", "hostPort", "hostPID", "hostPath"):
        assert not any(parts(manifest, name)), name
    assert [options["mode"] for options in parts(manifest, "authOptions")] == ["token"]


def test_no_pod_runs_as_root_or_writes_to_its_image(manifest: Any) -> None:
    found = pods(manifest)
    assert len(found) == len(list(parts(manifest, "containers"))) > 0
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["automountServiceAccountToken"] is False
        writable = {volume["name"] for volume in pod["volumes"]}
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= writable
            assert {"/tmp", "/dev/shm"} <= {mount["mountPath"] for mount in container["volumeMounts"]}


def test_secrets_come_by_reference_only(manifest: Any) -> None:
    for environment in parts(manifest, "env"):
        for variable in environment:
            if re.search("KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL", variable["name"]):
                assert "value" not in variable, variable["name"]
                assert "secretKeyRef" in variable["valueFrom"]


def test_versions_are_those_of_the_lock_file(manifest: Any) -> None:
    assert set(parts(manifest, "rayVersion")) == {RAY_VERSION}
    assert f"rayproject/ray:{RAY_VERSION}-" in (REPOSITORY / "cluster" / "Dockerfile").read_text()


STRANGER = "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR'); print(ray.nodes())"


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("is_stranger", [True, False], ids=["without the token", "with it"])
def test_a_local_ray_answers_only_who_has_its_token(is_stranger: bool, tmp_path: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    other = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "HOME": str(tmp_path)} if is_stranger else {}
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, address],
        env={**os.environ, **other},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode != 0) == is_stranger, done.stderr
    assert ("NodeID" in done.stdout) != is_stranger
