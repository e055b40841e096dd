"""Cluster files are what Kubernetes, KubeRay and Ray take and give nothing away: no public port, no root, no secret."""

from __future__ import annotations

import copy
import ipaddress
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kuberay
import kubernetes_validate
import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = sorted((REPOSITORY / "cluster").glob("*.yaml"))
KUBERNETES = "1.34"
"""The schemas that manifests are checked against."""
LAUNCHER = REPOSITORY / "cluster" / "launcher.yaml"
RAY_VERSION = next(
    line.partition("==")[2].split()[0]
    for line in (REPOSITORY / "requirements.lock").read_text().splitlines()
    if re.match(r"ray(\[.*\])?==", line)
)


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


MANIFESTS = [
    pytest.param(document, id=f"{path.stem}-{document['kind']}")
    for path in FILES
    if path != LAUNCHER
    for document in documents(path)
]
RAY_KINDS = kuberay.KINDS
FIELDS = json.loads(kuberay.FIELDS.read_text())


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


# --- schemas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_manifests_and_their_pods_are_what_kubernetes_knows(manifest: Any) -> None:
    if manifest["kind"] not in RAY_KINDS:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    for spec in pods(manifest):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    [job] = [d for d in documents(REPOSITORY / "cluster" / "nightly.yaml") if d["kind"] == "CronJob"]
    job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
        kubernetes_validate.validate(job, KUBERNETES, strict=True)


@pytest.mark.parametrize("manifest", [m for m in MANIFESTS if m.values[0]["kind"] in RAY_KINDS])
def test_ray_manifests_are_what_kuberay_knows(manifest: Any) -> None:
    jsonschema.validate(manifest, FIELDS[manifest["kind"]])


@pytest.mark.parametrize(
    ("kind", "where", "name"),
    [
        ("RayJob", ("spec",), "ttlSecondsAfterFinish"),
        ("RayJob", ("spec", "rayClusterSpec"), "workerGroupsSpecs"),
        ("RayCluster", ("spec", "headGroupSpec"), "rayStartParameters"),
    ],
)
def test_a_field_that_kuberay_does_not_know_is_found(kind: str, where: tuple[str, ...], name: str) -> None:
    [manifest, *_] = [copy.deepcopy(m.values[0]) for m in MANIFESTS if m.values[0]["kind"] == kind]
    place = manifest
    for part in where:
        place = place[part]
    place[name] = 1
    with pytest.raises(jsonschema.ValidationError, match=name):
        jsonschema.validate(manifest, FIELDS[kind])


@pytest.mark.skipif("VIDBATCH_KUBERAY_CRDS" not in os.environ, reason="KubeRay's schemas come by no package registry")
def test_the_fields_are_those_of_a_release_of_kuberay() -> None:
    """VIDBATCH_KUBERAY_CRDS: the folder helm-chart/kuberay-operator/crds of KubeRay 1.6.2."""
    whole = kuberay.definitions(Path(os.environ["VIDBATCH_KUBERAY_CRDS"]))
    assert kuberay.allowed(whole) == FIELDS
    for manifest in (m.values[0] for m in MANIFESTS if m.values[0]["kind"] in RAY_KINDS):
        jsonschema.validate(manifest, whole[manifest["kind"]])


def test_the_launcher_file_is_what_ray_up_takes() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(LAUNCHER.read_text()))
    validate_config(config)
    head, *workers = (config["available_node_types"][name] for name in ("head", "decode", "gpu"))
    assert head["resources"] == {"CPU": 0}
    assert all(0 < worker["min_workers"] <= worker["max_workers"] for worker in workers)  # a run asks for no more
    assert sum(worker["max_workers"] for worker in workers) == config["max_workers"]
    assert config["available_node_types"]["gpu"]["resources"]["GPU"] > 0


@pytest.mark.parametrize("manifest", [m for m in MANIFESTS if m.values[0]["kind"] in RAY_KINDS])
def test_a_cluster_begins_with_the_workers_that_a_run_needs(manifest: Any) -> None:
    """What is there and what joins is used; nothing asks Kubernetes for more."""
    for group in [group for groups in parts(manifest, "workerGroupSpecs") for group in groups]:
        assert 0 < group["replicas"] <= group["maxReplicas"]
        if any(parts(manifest, "enableInTreeAutoscaling")):  # else idle workers above it are taken away
            assert group["minReplicas"] == group["replicas"]


# --- safety ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_nothing_is_exposed_beyond_the_cluster(manifest: Any) -> None:
    assert set(parts(manifest, "serviceType")) <= {"ClusterIP"}
    assert not any(parts(manifest, "enableIngress"))
    for name in ("hostNetwork", "hostPort", "hostPID", "hostPath"):
        assert not any(parts(manifest, name)), name
    if manifest["kind"] in RAY_KINDS:
        assert [options["mode"] for options in parts(manifest, "authOptions")] == ["token"]


def test_machines_of_the_launcher_have_no_public_address_and_no_key() -> None:
    config = yaml.safe_load(LAUNCHER.read_text())
    assert config["provider"]["use_internal_ips"] is True
    [rule] = config["provider"]["security_group"]["IpPermissions"]
    assert rule["FromPort"] == rule["ToPort"] == 22
    assert all(ipaddress.ip_network(ranges["CidrIp"]).is_private for ranges in rule["IpRanges"])
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    for kind in config["available_node_types"].values():
        assert kind["node_config"]["IamInstanceProfile"]
        assert kind["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}
    assert not re.search("AKIA|SECRET|PASSWORD", LAUNCHER.read_text())


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_no_pod_runs_as_root_or_writes_to_its_image(manifest: Any) -> None:
    found = pods(manifest)
    assert len(found) == len(list(parts(manifest, "containers")))
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod.get("automountServiceAccountToken") is False or _asks_kubernetes(manifest, pod)
        writable = {volume["name"] for volume in pod["volumes"]}
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= writable
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
            assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
            if container["name"].startswith("ray-") and container["name"] != "ray-job-submitter":
                assert "/dev/shm" in {mount["mountPath"] for mount in container["volumeMounts"]}


def _asks_kubernetes(manifest: Any, pod: Any) -> bool:
    """Whether it is the head, beside which KubeRay's autoscaler runs, or creates the nightly job."""
    if manifest["kind"] == "RayCluster":
        return manifest["spec"]["enableInTreeAutoscaling"] and pod["containers"][0]["name"] == "ray-head"
    return manifest["kind"] == "CronJob" and pod["serviceAccountName"] == "vidbatch-nightly"


def test_who_creates_the_nightly_job_may_do_nothing_else() -> None:
    found = {document["kind"]: document for document in documents(REPOSITORY / "cluster" / "nightly.yaml")}
    assert found["Role"]["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}]
    account = found["ServiceAccount"]["metadata"]["name"]
    assert found["RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    pod = pods(found["CronJob"])[0]
    assert pod["serviceAccountName"] == account
    [mount] = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "job"]
    assert f"{mount['mountPath']}/rayjob.yaml" in pod["containers"][0]["args"]  # as `--from-file` names it


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_secrets_come_by_reference_only(manifest: Any) -> None:
    for environment in parts(manifest, "env"):
        for variable in environment:
            if re.search("KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL", variable["name"]):
                assert "value" not in variable, variable["name"]
                assert "secretKeyRef" in variable["valueFrom"]


def test_versions_are_those_of_the_lock_file() -> None:
    found = {version for manifest in MANIFESTS for version in parts(manifest.values[0], "rayVersion")}
    assert found == {RAY_VERSION}
    assert f"rayproject/ray:{RAY_VERSION}-" in (REPOSITORY / "cluster" / "Dockerfile").read_text()
    images = {image for path in FILES for image in parts(documents(path), "image")}
    assert all(re.fullmatch(r"[\w./-]+:v?\d+\.\d+(\.\d+)?", image) for image in images), images


# --- tokens ---------------------------------------------------------------------------------------------------------


STRANGER = "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR'); print(ray.nodes())"


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("is_stranger", [True, False], ids=["without the token", "with it"])
def test_a_local_ray_answers_only_who_has_its_token(is_stranger: bool, tmp_path: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    guess = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "HOME": str(tmp_path)}
    other = {**guess, "RAY_NUM_REDIS_GET_RETRIES": "1"} if is_stranger else {}  # Ray itself tries for 20 s
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, address],
        env={**os.environ, **other},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode != 0) == is_stranger, done.stderr
    assert ("NodeID" in done.stdout) != is_stranger
