"""The nightly schedule's own command, night after night, over an archive on a real S3 server that changes between."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import VIDBATCH, rows
from servers import SeaweedServer

from vidbatch import storage
from vidbatch.metrics import read_records
from vidbatch.stamp import make_stamp_bundle
from vidbatch.testing import make_video

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

JOB = Path(__file__).resolve().parents[1] / "cluster" / "rayjob.yaml"
NIGHT_SECONDS = 240


class Archive:
    """Videos on S3 under names of their own; their pixels say what is in them."""

    def __init__(self, bucket: str, folder: Path) -> None:
        self.bucket = bucket
        self._folder = folder
        (folder / "settings.yaml").write_text("sampling: fps=2\nstage_seconds: 0.2\n")
        self.use_model("first", num_classes=12)

    def use_model(self, name: str, *, num_classes: int) -> None:
        make_stamp_bundle(self._folder / name, num_classes=num_classes)
        for path in (self._folder / name).iterdir():
            storage.put(f"{self.bucket}/model/{path.name}", path.read_bytes())

    def put(self, name: int, content: int) -> None:
        path = self._folder / f"{content}.mp4"
        make_video(path, num_frames=40 + content, fps=10, video_number=content)
        storage.put(f"{self.bucket}/videos/{name}.mp4", path.read_bytes())

    def delete(self, name: int) -> None:
        storage.delete([f"{self.bucket}/videos/{name}.mp4"])

    def night(self, dies_at: tuple[str, str] | None = None) -> subprocess.Popen[str]:
        """The command that the schedule submits, on this bucket; one that dies where points.die_at says."""
        words = yaml.safe_load(JOB.read_text())["spec"]["entrypoint"].replace("BUCKET", self.bucket[5:]).split()
        assert words[0] == "vidbatch"
        own = [] if dies_at is None else [f"import points; points.die_at(*{dies_at!r}); {VIDBATCH[-1]}"]
        python = [sys.executable, "-c", *own] if own else VIDBATCH
        command = [*python, *words[1:], "--model", f"{self.bucket}/model"]
        return subprocess.Popen(
            [*command, "--config", str(self._folder / "settings.yaml")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parent,
        )  # fmt: skip

    def labels(self) -> dict[int, str]:
        videos, _ = rows(f"{self.bucket}/labels")
        found = {int(row["url"].rpartition("/")[2].partition(".")[0]): row["label"] for row in videos}
        assert len(found) == len(videos)
        assert all(row["status"] == "ok" for row in videos)
        return found

    def runs(self) -> list[dict[str, Any]]:
        return read_records(f"{self.bucket}/labels")


def ended(night: subprocess.Popen[str]) -> int:
    out, err = night.communicate(timeout=NIGHT_SECONDS)
    print(out, err)
    return night.returncode


def test_nights_label_what_is_new_whatever_happened_in_the_night_before(
    seaweed_s3: SeaweedServer, tmp_path: Path
) -> None:
    archive = Archive(seaweed_s3(), tmp_path)
    for number in range(6):
        archive.put(number, number)
    assert ended(archive.night()) == 0
    assert archive.labels() == {number: f"video_{number}" for number in range(6)}

    # The second night: two videos are new, one is replaced, one is gone; it is killed once something is staged.
    archive.put(6, 6)
    archive.put(7, 7)
    archive.put(1, 8)
    archive.delete(2)
    assert ended(archive.night(dies_at=("stage videos", "after"))) < 0
    assert archive.labels() == {number: f"video_{number}" for number in range(6)}

    # The third: another one came after the second had listed the archive; two runs overlap.
    archive.put(9, 9)
    known = len(archive.runs())
    first = archive.night()
    deadline = time.monotonic() + 100
    while len(archive.runs()) == known and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    second = archive.night()
    assert (ended(first), ended(second)) == (0, 0)
    expected = {n: f"video_{n}" for n in (0, 2, 3, 4, 5, 6, 7, 9)} | {1: "video_8"}
    assert archive.labels() == expected
    night_before, *later = archive.runs()
    assert night_before["videos"] == 6
    assert sum(record["videos"] for record in later) <= 2 * len({6, 7, 1, 9})  # nothing that was there and stayed

    # Nothing has changed: nothing is done.
    done = len(archive.runs())
    assert ended(archive.night()) == 0
    assert sum(record["videos"] for record in archive.runs()[done:]) == 0
    assert archive.labels() == expected

    # Another model: all that is there is labelled anew; the row of what is gone stays as it was.
    archive.use_model("second", num_classes=11)
    before = {row["url"]: row["config_digest"] for row in rows(f"{archive.bucket}/labels")[0]}
    assert ended(archive.night()) == 0
    assert archive.labels() == expected
    after = {row["url"]: row["config_digest"] for row in rows(f"{archive.bucket}/labels")[0]}
    assert {url for url in after if after[url] == before[url]} == {f"{archive.bucket}/videos/2.mp4"}
