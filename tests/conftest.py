"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clips import LazyClips
from hypothesis import settings
from servers import MotoServer, S3Server, SeaweedServer

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


def _use(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One local Ray of two CPUs for the whole session, whose workers can import the test files."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=500 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}},
    )
    yield
    ray.shutdown()
