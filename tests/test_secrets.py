"""No secret of a run is found again: not in what it prints, writes or publishes, nor in any file that Ray keeps."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
from runs import VIDBATCH
from servers import HttpServer, MotoServer, free_port

from vidbatch.stamp import make_stamp_bundle
from vidbatch.testing import make_video

CANARIES = {
    "secret key": "canaryOfTheSecretKey0123456789abcdefghij",
    "session token": "canaryOfTheSessionToken/+0123456789==",
    "password": "canaryOfThePassword",
    "password with an @": "canary@OfAnotherPassword",
    "signature": "canaryOfTheSignature",
    "token": "canaryOfTheToken",
}
QUERY = f"X-Amz-Signature={CANARIES['signature']}&token={CANARIES['token']}"
FORMS = {
    form
    for canary in CANARIES.values()
    for form in (canary, quote(canary, safe=""), canary.rpartition("@")[2])
} | {base64.b64encode(f"user:{CANARIES['password']}".encode()).decode()}  # fmt: skip
"""Every way in which a canary may be written."""


def found_in(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return sorted(form for form in FORMS if form.encode() in data)


def contents(file: Path) -> bytes:
    """What a file says; of a Parquet file its values and its metadata, which are compressed."""
    data = file.read_bytes()
    if file.suffix != ".parquet":
        return data
    table = pq.read_table(io.BytesIO(data))
    return data + repr((table.to_pylist(), table.schema.metadata)).encode()


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="vb-", dir="/tmp"))  # Ray's sockets bear no long path
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def http(tmp_path: Path) -> Iterator[HttpServer]:
    (tmp_path / "www").mkdir()
    server = HttpServer(tmp_path / "www")

    def refuse(environ: dict[str, Any], start_response: Any) -> list[bytes] | None:
        if "forbidden" not in environ["PATH_INFO"]:
            return None
        body = f"<Error>not with {environ['QUERY_STRING']}</Error>".encode()  # some stores repeat what they were sent
        start_response("403 Forbidden", [("Content-Length", str(len(body)))])
        return [body]

    server.gate = refuse
    yield server
    server.stop()


def watched(command: list[str], env: dict[str, str], output: Path) -> tuple[int, str, dict[str, bytes]]:
    """Exit code, all that was printed, and what was staged meanwhile."""
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(command, env=env, stdout=printed, stderr=subprocess.STDOUT)
        staged: dict[str, bytes] = {}
        deadline = time.monotonic() + 200
        while process.poll() is None and time.monotonic() < deadline:
            for file in output.glob("_runs/*/staged/*/*.parquet"):
                if file.name not in staged:
                    try:
                        staged[file.name] = contents(file)
                    except FileNotFoundError:
                        continue
            time.sleep(0.02)
        process.kill()
        printed.seek(0)
        return process.wait(), printed.read().decode(), staged


@pytest.mark.long
def test_no_secret_is_found_again_anywhere(
    moto_s3: MotoServer,
    http: HttpServer,
    tmp_path: Path,
    ray_folder: Path,
    vidbatch_command: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_stamp_bundle(tmp_path / "model", num_classes=8)
    make_video(tmp_path / "www" / "good.mp4", num_frames=20, video_number=3)
    good = (tmp_path / "www" / "good.mp4").read_bytes()
    (tmp_path / "www" / "forbidden.mp4").write_bytes(good)
    (tmp_path / "www" / "broken.mp4").write_bytes(good[: len(good) // 2])
    bucket, client = moto_s3(), moto_s3.client()
    for name in ("good.mp4", "forbidden.mp4"):
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=name, Body=good)

    def refuse(environ: dict[str, Any], start_response: Any) -> list[bytes] | None:
        if "forbidden" not in environ["PATH_INFO"]:
            return None
        token = environ.get("HTTP_X_AMZ_SECURITY_TOKEN", "")
        body = f"<Error><Code>AccessDenied</Code><Message>no: X-Amz-Security-Token={token}</Message></Error>".encode()
        start_response("403 Forbidden", [("Content-Length", str(len(body)))])
        return [body]

    moto_s3.gate = refuse
    site = http.url.replace("http://", f"http://user:{CANARIES['password']}@")
    other = f"http://user:{CANARIES['password with an @']}@127.0.0.1:{free_port()}"
    urls = [f"{site}/{name}.mp4?{QUERY}" for name in ("good", "forbidden", "broken", "gone")]
    urls += [f"{other}/{name}.mp4?{QUERY}" for name in ("a", "b")]
    urls += [f"{bucket}/{name}.mp4" for name in ("good", "forbidden", "gone")]
    urls += [f"s3://user:{CANARIES['password']}@bucket/a.mp4", f"ftp://user:{CANARIES['password']}@h/a.mp4?{QUERY}"]
    urls += [f"{site}/a b'c\".mp4?{QUERY}", f"http://user:{CANARIES['password']}@[bad/a.mp4?{QUERY}"]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps({"url": url}) + "\n" for url in urls))
    output, settings = tmp_path / "out", tmp_path / "settings.yaml"
    settings.write_text(
        f"model: file:{tmp_path / 'model'}\nsampling: fps=5\nstage_seconds: 0\nmax_failed_share: 1\n"
        f"output: {output}\ndecode_workers: 1\n"
    )
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARIES["secret key"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", CANARIES["session token"])
    ray_logs_all = {**os.environ, "RAY_TMPDIR": str(ray_folder), "RAY_BACKEND_LOG_LEVEL": "info"}
    inputs = [str(tmp_path / "list.jsonl"), f"{site}/broken.mp4?{QUERY}"]
    wrong = f"{site}/nothing.mp4?{QUERY}"
    commands = {
        "plan": ["plan", *inputs, "--config", settings],
        "dry run": ["label", *inputs, "--config", settings, "--dry-run", "--json"],
        "label": ["label", *inputs, "--config", settings, "--log-format", "json", "--log-level", "debug"],
        "status": ["status", output],
        "status as JSON": ["status", output, "--all", "--json"],
        "a wrong input": ["label", wrong, "--config", settings],
        "a wrong host": ["label", f"{other}/a.mp4?{QUERY}", "--config", settings],
        "a wrong manifest": ["label", f"{site}/nothing.csv?{QUERY}", "--config", settings],
        "a wrong model": ["label", *inputs, "--config", settings, "--model", f"resnet18@{site}/w.pth?{QUERY}"],
        "a wrong bundle": ["label", *inputs, "--config", settings, "--model", f"{site}/bundle?{QUERY}"],
        "a wrong output": ["label", *inputs, "--config", settings, "--output", f"{site}/out?{QUERY}"],
        "a wrong setting": ["label", *inputs, "--config", settings, "--sampling", f"{site}/out?{QUERY}"],
        "a wrong status": ["status", f"{site}/out?{QUERY}"],
    }
    printed, staged = {}, {}
    for name, arguments in commands.items():
        if name == "label":  # with a Ray of its own, whose folder is looked at
            code, printed[name], staged = watched([*VIDBATCH, *map(str, arguments)], ray_logs_all, output)
        else:
            code, printed[name] = vidbatch_command(*arguments)
        assert code == (1 if "host" in name else 2 if "wrong" in name else 0), (name, printed[name])
        assert "Traceback" not in printed[name], (name, printed[name])
    assert {name: found_in(text) for name, text in printed.items() if found_in(text)} == {}
    assert staged
    assert {name: found_in(data) for name, data in staged.items() if found_in(data)} == {}
    videos = [row for file in output.glob("videos/*.parquet") for row in pq.read_table(file).to_pylist()]
    assert {row["error_kind"] for row in videos} >= {None, "permission", "missing", "storage", "truncated"}
    written = [file for file in output.rglob("*") if file.is_file()]
    assert len([file for file in written if file.parent.name == "_runs"]) >= 2
    assert {str(file): found for file in written if (found := found_in(contents(file)))} == {}
    kept = [file for file in ray_folder.rglob("*") if file.is_file() and not file.is_symlink()]
    assert len([file for file in kept if "logs" in file.parts]) > 10
    assert {str(file): found for file in kept if (found := found_in(file.read_bytes()))} == {}


def test_a_canary_is_found_where_there_is_one(tmp_path: Path) -> None:
    """The test above would pass without looking, if this did not."""
    import pyarrow as pa

    pq.write_table(pa.table({"url": [f"http://h/a?{QUERY}"] * 3}), tmp_path / "a.parquet", compression="zstd")
    (tmp_path / "a.log").write_text(f"Authorization: {CANARIES['session token']}")
    assert found_in(contents(tmp_path / "a.parquet")) == sorted([CANARIES["signature"], CANARIES["token"]])
    assert found_in(contents(tmp_path / "a.log")) == [CANARIES["session token"]]
    assert found_in(quote(CANARIES["session token"], safe="")) != []
