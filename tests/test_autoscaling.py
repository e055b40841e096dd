"""A cluster that grows because a run asks for more: Ray's own autoscaler, nodes that are processes of this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from runs import differences, fill, rows

STORE_BYTES = 150 * 2**20
HEAD = "f" * 51 + "0" * 5
"""The name that Ray's provider of such nodes has for the head."""
JOINED_SECONDS = 90.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def autoscaling(tmp_path: Path) -> Iterator[str]:
    """The address of a head with one CPU, whose autoscaler may add two nodes of two."""
    from ray.util import get_node_ip_address

    address = f"{get_node_ip_address()}:{free_port()}"
    types = {
        "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
        "more": {
            "resources": {"CPU": 2, "object_store_memory": STORE_BYTES}, "node_config": {}, "min_workers": 0,
            "max_workers": 2,
        },
    }  # fmt: skip
    config = {
        "cluster_name": "vidbatch-test", "max_workers": 2, "upscaling_speed": 10.0, "idle_timeout_minutes": 0.1,
        "provider": {"type": "fake_multinode", "gcs_address": address, "head_node_id": HEAD},
        "auth": {"ssh_user": "nobody"}, "docker": {}, "available_node_types": types,
        "head_node_type": "ray.head.default", "head_start_ray_commands": [], "worker_start_ray_commands": [],
        "initialization_commands": [], "setup_commands": [], "head_setup_commands": [], "worker_setup_commands": [],
        "file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False, "rsync_exclude": [],
        "rsync_filter": [],
    }  # fmt: skip
    file = tmp_path / "autoscaling.json"
    file.write_text(json.dumps(config))
    host, _, port = address.rpartition(":")
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}",
        f"--node-ip-address={host}", "--num-cpus=1", f"--object-store-memory={STORE_BYTES}",
        f"--autoscaling-config={file}", "--include-dashboard=false", "--disable-usage-stats",
    ]  # fmt: skip
    environment = {**os.environ, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with (tmp_path / "head.log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while True:
            assert head.poll() is None, (tmp_path / "head.log").read_text()
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.5)
        yield address
    finally:
        family = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, timeout=20)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_run_that_asks_for_more_gets_nodes_uses_them_and_lets_them_go(autoscaling: str, tmp_path: Path) -> None:
    fill(tmp_path, 40)
    asked = (tmp_path / "settings.yaml").read_text() + "scale_to_cpus: 5\n"
    (tmp_path / "asked.yaml").write_text(asked)
    calls = tmp_path / "calls"
    calls.mkdir()
    script = [sys.executable, str(Path(__file__).parent / "growing.py"), str(tmp_path / "asked.yaml")]
    with (tmp_path / "run.log").open("wb") as log:
        run = subprocess.Popen(
            [*script, str(tmp_path / "grown"), str(calls), "--decode-seconds", "2"],
            env={**os.environ, "RAY_ADDRESS": autoscaling}, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
    try:
        said, _ = run.communicate(timeout=300)
    finally:
        run.kill()
    assert run.returncode == 0, (tmp_path / "run.log").read_text()
    answer: dict[str, Any] = json.loads(said.splitlines()[-1])
    assert any("the cluster has changed" in line for line in answer["said"]), answer
    nodes = {file.name.split("-")[1] for file in calls.glob("decode-*")}
    assert len(nodes) >= 2, "the head has done it all"
    plain = [sys.executable, "-c", PLAIN, str(tmp_path / "settings.yaml"), str(tmp_path / "clean")]
    subprocess.run(plain, check=True, timeout=200, capture_output=True)
    assert differences(rows(tmp_path / "clean"), rows(tmp_path / "grown")) == {"lost": 0, "doubled": 0, "wrong": 0}
    assert wait_for_nodes(autoscaling, most=1), "nodes that nobody asks for any more are still there"


PLAIN = """
import sys
from vidbatch.config import load_config
from vidbatch.pipeline import label
label(load_config({"output": sys.argv[2]}, sys.argv[1]))
"""

ALIVE = """
import ray, sys
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(sum(node["Alive"] for node in ray.nodes()))
"""


def wait_for_nodes(address: str, *, most: int) -> bool:
    deadline = time.monotonic() + JOINED_SECONDS
    while time.monotonic() < deadline:
        found = subprocess.run([sys.executable, "-c", ALIVE, address], capture_output=True, text=True, timeout=60)
        if found.returncode == 0 and int(found.stdout.split()[-1]) <= most:
            return True
        time.sleep(2)
    return False
