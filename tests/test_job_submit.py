"""The recipes of jobs/, sent by `ray job submit` to a real Ray head that has the packages but no vidbatch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from fading import make_archive
from fading import settings as settings_of_training
from servers import MotoServer, free_port

import vidbatch
from vidbatch.metrics import read_records
from vidbatch.schema import FrameSpec
from vidbatch.stamp import make_stamp_bundle
from vidbatch.testing import make_shard, make_video

REPOSITORY = Path(__file__).resolve().parent.parent
NUM_VIDEOS = 12
FRAMES_PER_VIDEO = 200
RAY = ("-m", "ray.scripts.scripts")  # what the `ray` command runs


@dataclass(frozen=True)
class Cluster:
    """A head of its own on this machine; `env` is what a person's shell on it would have."""

    address: str
    python: Path
    env: dict[str, str]
    session: Path  # Ray's folder, with logs and unpacked uploads

    def ray(self, *arguments: str, timeout: float = 150, **env: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.python), *RAY, *arguments]
        environment = {**self.env, "RAY_API_SERVER_ADDRESS": self.address, **env}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.run(command, env=environment, cwd=self.env["HOME"], timeout=timeout, **pipes)

    def submit(
        self, job: Path, *arguments: str, recipe: str = "label.py", options: tuple[str, ...] = (), timeout: float = 150
    ) -> subprocess.CompletedProcess[str]:
        """The documented command."""
        return self.ray(*submission(job, *arguments, recipe=recipe, options=options), timeout=timeout)


def submission(job: Path, *arguments: str, recipe: str = "label.py", options: tuple[str, ...] = ()) -> tuple[str, ...]:
    return ("job", "submit", "--working-dir", str(job), *options, "--", "python", recipe, *arguments)


def environment_without_vidbatch(folder: Path) -> Path:
    """A virtual environment of links to every installed package except vidbatch; gives its python."""
    venv.create(folder, symlinks=True, with_pip=False)
    target = next((folder / "lib").glob("python3*")) / "site-packages"
    for package in Path(psutil.__file__).parent.parent.iterdir():
        if "vidbatch" not in package.name:
            (target / package.name).symlink_to(package)
    return folder / "bin" / "python"


def stop(head: subprocess.Popen[bytes]) -> None:
    """End the head and what it started, by their ids; nothing else."""
    processes = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
    head.terminate()
    _, alive = psutil.wait_procs(processes, timeout=2)
    for process in alive:
        process.kill()
    head.wait()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="vb-"))  # short: it holds sockets
    python = environment_without_vidbatch(folder / "env")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHON", "VIRTUAL_ENV", "AWS_"))}
    env = {**kept, "HOME": str(folder / "home"), "PATH": f"{python.parent}:{os.environ['PATH']}"}
    env |= {"RAY_JOB_STOP_WAIT_TIME_S": "30"}  # before Ray kills what it stopped: this machine may be busy
    env |= {"RAY_AUTH_MODE": "token", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}  # nothing can be downloaded
    (folder / "home").mkdir()
    subprocess.run([str(python), *RAY, "get-auth-token", "--generate"], env=env, check=True, capture_output=True)
    dashboard_port = free_port()
    options = {
        "port": free_port(),
        "dashboard-port": dashboard_port,
        "dashboard-agent-listen-port": free_port(),
        "ray-client-server-port": free_port(),
        "num-cpus": 2,
        "object-store-memory": 400_000_000,
        "temp-dir": folder / "ray",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    command = [str(python), *RAY, "start", "--head", "--block", "--disable-usage-stats", *flags]
    log = folder / "head.log"
    with log.open("wb") as output:
        head = subprocess.Popen(command, env=env, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 90
        while "Ray runtime started" not in log.read_text():
            if head.poll() is not None or time.monotonic() > deadline:
                pytest.fail(log.read_text())
            time.sleep(0.2)
        yield Cluster(f"http://127.0.0.1:{dashboard_port}", python, env, folder / "ray" / "session_latest")
    finally:
        stop(head)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make job` builds."""
    target = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, str(REPOSITORY / "scripts" / "job.py"), "job", str(target)], check=True)
    return target / "job"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos whose pixels carry their number, and a model that reads it."""
    folder = tmp_path_factory.mktemp("archive")
    (folder / "videos").mkdir()
    for number in range(NUM_VIDEOS):
        make_video(
            folder / "videos" / f"{number:02d}.mp4", num_frames=FRAMES_PER_VIDEO, fps=10, gop=20, video_number=number
        )
    make_stamp_bundle(folder / "model", num_classes=NUM_VIDEOS, frame=FrameSpec(112, 112))
    return folder


def labels_by_number(output: str) -> dict[str, str]:
    """Labels by file name; each video must be there exactly once."""
    rows = vidbatch.tables(output).videos.to_arrow().to_pylist()
    assert len({row["video_id"] for row in rows}) == len(rows)
    assert {row["status"] for row in rows} == {"ok"}
    return {Path(row["member"] or row["url"]).stem: row["label"] for row in rows}


def expected_labels(numbers: range) -> dict[str, str]:
    return {f"{number:02d}": f"video_{number}" for number in numbers}


def test_the_head_has_the_packages_but_no_vidbatch(cluster: Cluster) -> None:
    for module, is_there in (("torch", True), ("av", True), ("s3fs", True), ("vidbatch", False)):
        command = [str(cluster.python), "-c", f"import {module}"]
        done = subprocess.run(command, env=cluster.env, cwd=cluster.session, capture_output=True, text=True)
        assert (done.returncode == 0) is is_there, done.stderr


def test_what_is_sent_is_the_wheel_and_small(job: Path) -> None:
    files = [path for path in job.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 9_000_000
    [wheel] = job.glob("vidbatch-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if (job / name).read_bytes() == archive.read(name)} == {
            *archive.namelist()
        }
        packed = {name for name in archive.namelist() if name.startswith("vidbatch/")}
    files = [path for path in (REPOSITORY / "vidbatch").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert packed == {str(path.relative_to(REPOSITORY)) for path in files}
    assert wheel.name in (job / "runtime_env.yaml").read_text()


def test_a_submitted_job_labels_shards_on_s3(cluster: Cluster, job: Path, archive: Path, moto_s3: MotoServer) -> None:
    bucket = moto_s3()
    files = {path.name: path for path in sorted((archive / "videos").iterdir())}
    for shard, names in (("a.tar", sorted(files)[:3]), ("b.tar", sorted(files)[3:6])):
        make_shard(archive / shard, {name: files[name] for name in names})
        moto_s3.client().put_object(
            Bucket=bucket.removeprefix("s3://"), Key=f"shards/{shard}", Body=(archive / shard).read_bytes()
        )
    make_stamp_bundle(f"{bucket}/model", num_classes=NUM_VIDEOS, frame=FrameSpec(112, 112))
    done = cluster.submit(
        job,
        *(f"{bucket}/shards/", "--output", f"{bucket}/labels", "--model", f"{bucket}/model", "--sampling", "count=4"),
        options=("--runtime-env-json", json.dumps({"env_vars": moto_s3.env})),
    )
    assert done.returncode == 0, done.stdout
    assert "vidbatch: 6 videos (6 ok), 24 frames" in done.stdout
    assert labels_by_number(f"{bucket}/labels") == expected_labels(range(6))
    uploads = cluster.session / "runtime_resources" / "working_dir_files"
    assert sum(path.stat().st_size for path in uploads.rglob("*") if path.is_file()) < 9_000_000


def test_a_config_mistake_fails_the_job_with_one_sentence(cluster: Cluster, job: Path, archive: Path) -> None:
    done = cluster.submit(job, str(archive / "videos"), "--output", str(archive / "never"), "--top-k", "0")
    assert done.returncode == 1
    assert "vidbatch: top_k: 0 is not allowed" in done.stdout
    assert "exit code 2" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (archive / "never").exists()


def test_a_wrong_token_is_refused(cluster: Cluster, job: Path) -> None:
    done = cluster.ray(*submission(job, "--help"), RAY_AUTH_TOKEN="0" * 64)
    assert done.returncode != 0
    assert "submitted successfully" not in done.stdout


@pytest.mark.long
def test_a_cluster_that_lacks_packages_installs_the_wheel_and_nothing_it_has(cluster: Cluster, job: Path) -> None:
    """No index can be reached here: torch and all others are taken from the environment below."""
    done = cluster.submit(job, "--help", options=("--runtime-env", str(job / "runtime_env.yaml")))
    assert done.returncode == 0, done.stdout
    assert "Label every video of INPUT..." in done.stdout
    installed = list((cluster.session / "runtime_resources" / "pip").rglob("site-packages"))
    assert installed


@pytest.mark.long
def test_a_stopped_job_goes_on_when_submitted_again(cluster: Cluster, job: Path, archive: Path) -> None:
    output = archive / "labels"
    settings = archive / "settings.yaml"
    settings.write_text(f"model: file:{archive / 'model'}\nsampling: all\nstage_seconds: 0.2\nbatch_size: 8\n")
    arguments = (str(archive / "videos"), "--output", str(output), "--config", str(settings))
    options = ("--submission-id", "to-be-stopped", "--no-wait")
    assert cluster.submit(job, *arguments, options=options).returncode == 0
    deadline = time.monotonic() + 120
    while not list(output.glob("_runs/*/staged/*/*.videos.parquet")):
        assert time.monotonic() < deadline, cluster.ray("job", "logs", "to-be-stopped").stdout
        time.sleep(0.1)
    stopped = cluster.ray("job", "stop", "to-be-stopped")
    assert stopped.returncode == 0, stopped.stdout
    assert "was stopped" in cluster.ray("job", "status", "to-be-stopped").stdout
    assert "stopped; run the same command again to go on" in cluster.ray("job", "logs", "to-be-stopped").stdout
    again = cluster.submit(job, *arguments)
    assert again.returncode == 0, again.stdout
    assert labels_by_number(str(output)) == expected_labels(range(NUM_VIDEOS))
    frames = vidbatch.tables(output).frames.to_arrow()
    assert frames.num_rows == NUM_VIDEOS * FRAMES_PER_VIDEO
    first, second = read_records(str(output))
    assert first["state"] == "interrupted"
    assert second["state"] == "finished"
    assert second["recovered_parts"] > 0
    assert 0 < second["videos"] < NUM_VIDEOS, "what the stopped job had finished was not done again"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_submitted_job_trains_a_model_and_another_labels_with_it(
    cluster: Cluster, job: Path, tmp_path: Path, moto_s3: MotoServer
) -> None:
    """Two workers and what they write on S3; submitted again, there is nothing left to do."""
    bucket = moto_s3()
    archive = make_archive(tmp_path / "archive", split=True)
    given = settings_of_training(archive, tmp_path / "output", num_workers=2, cpus_per_worker=1, epochs=6)
    (tmp_path / "train.yaml").write_text(json.dumps(given))  # JSON is YAML, too
    options = ("--runtime-env-json", json.dumps({"env_vars": moto_s3.env}))
    train = ("--config", str(tmp_path / "train.yaml"), "--output", f"{bucket}/model")
    done = cluster.submit(job, *train, recipe="train.py", options=options, timeout=500)
    assert done.returncode == 0, done.stdout
    assert "vidbatch: finished, 6 epochs" in done.stdout
    again = cluster.submit(job, *train, recipe="train.py", options=options)
    assert "vidbatch: nothing to do: trained before, 6 epochs" in again.stdout
    label = (str(archive), "--output", f"{bucket}/labels", "--model", f"{bucket}/model")
    done = cluster.submit(job, *label, options=options)
    assert done.returncode == 0, done.stdout
    rows = vidbatch.tables(f"{bucket}/labels").videos.to_arrow().to_pylist()
    right = [row["label"] == Path(row["url"]).parent.name for row in rows]
    assert len(right) == 24
    assert sum(right) > 0.8 * 24


@pytest.mark.long
def test_scaling_is_measured_by_a_submitted_job(cluster: Cluster, archive: Path) -> None:
    """The command of benchmarks/README.md."""
    done = cluster.ray(
        *("job", "submit", "--working-dir", str(REPOSITORY / "benchmarks")),
        *("--runtime-env-json", json.dumps({"py_modules": [str(REPOSITORY / "vidbatch")]})),
        *("--", "python", "scaling.py", "--cluster", "--archive", str(archive / "videos")),
        *("--output", str(archive / "scaling"), "--videos-a-node", "4"),
        timeout=280,
    )
    assert done.returncode == 0, done.stdout
    [line] = [line for line in done.stdout.splitlines() if line.startswith("{")]
    measured = json.loads(line)
    for kind in ("strong", "weak"):
        [row] = measured[kind]
        assert (row["nodes"], row["videos"], row["efficiency"]) == (1, 4, 1.0)
        assert row["frames"] == 4 * FRAMES_PER_VIDEO // 10
        assert 0 < row["busy_share"]["decode"] <= 1.05
