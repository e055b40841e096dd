"""An S3 endpoint over HTTP (moto, in memory) that keeps a list of every request it answered.

Used in the benchmark's own process; the programs that are measured talk to it from theirs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import unquote

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "archive"


class Request(NamedTuple):
    """One request the server answered."""

    method: str
    key: str  # without the bucket; "" for requests about the bucket itself
    query: str
    sent_bytes: int


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002
        pass


class Server:
    """A running endpoint with one bucket."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._counted, threaded=True, request_handler=_Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        host, port = self._server.server_address[:2]
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://{host!s}:{port}",
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "benchmark",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self._backend().create_bucket(BUCKET, "us-east-1")

    def put(self, key: str, content: bytes) -> None:
        """Store an object without a request: a hundred thousand of them take seconds."""
        self._backend().put_object(BUCKET, key, content)

    def close(self) -> None:
        """Stop answering and forget every object."""
        self._server.shutdown()
        self._thread.join()
        self._backend().reset()

    def _backend(self) -> Any:
        from moto.core import DEFAULT_ACCOUNT_ID
        from moto.s3.models import s3_backends

        return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]

    def _counted(self, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        method, path = environ["REQUEST_METHOD"], unquote(environ["PATH_INFO"])
        sent = 0
        try:
            for chunk in self._app(environ, start_response):
                sent += len(chunk)
                yield chunk
        finally:
            key = path.lstrip("/").partition("/")[2]
            self.requests.append(Request(method, key, environ.get("QUERY_STRING", ""), sent))


@contextmanager
def running() -> Iterator[Server]:
    """A server for the length of a `with`; this process's own AWS settings point at it meanwhile."""
    server = Server()
    before = {name: os.environ.get(name) for name in server.environment}
    os.environ.update(server.environment)
    try:
        yield server
    finally:
        server.close()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
