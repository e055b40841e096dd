"""What `make demo` shows: a table and a page of what was really labelled."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clips import LazyClips
from PIL import Image

import vidbatch

REPOSITORY = Path(__file__).resolve().parent.parent


def show(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "jobs" / "demo.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, clips: LazyClips, local_ray: None) -> Path:
    """The output of a run over two real clips and a file that is none."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "videos").mkdir()
    for name in ("carphone.mp4", "concert.webm"):
        shutil.copy(clips[name], folder / "videos" / name)
    (folder / "videos" / "broken <b>.mp4").write_bytes(b"not a video at all" * 100)
    vidbatch.label(folder / "videos", output=folder / "labels", sampling="count=6")
    return folder / "labels"


@pytest.mark.parametrize("time", ["first", "second"])
def test_the_demo_shows_each_video_with_its_label_and_a_picture(labelled: Path, time: str) -> None:
    done = show(str(labelled))
    assert done.returncode == 0, done.stderr
    carphone, concert, broken = (
        next(line for line in done.stdout.splitlines() if name in line)
        for name in ("carphone.mp4", "concert.webm", "broken <b>.mp4")
    )
    assert re.search(r"Windsor tie|bow tie|suit", carphone)
    assert re.search(r"stage|theater curtain|electric guitar", concert)
    assert "failed: not_a_video" in broken
    assert f"page with pictures: {labelled}/index.html" in done.stdout.replace("\n", "")


def test_the_page_has_a_picture_of_the_video_itself(labelled: Path, clips: LazyClips) -> None:
    from vidbatch.decode import read_frames
    from vidbatch.schema import FrameSpec

    assert show(str(labelled)).returncode == 0
    page = (labelled / "index.html").read_text()
    pictures = re.findall(r'<img src="(thumbnails/[^"]+)"', page)
    assert len(pictures) == 2
    assert "broken &lt;b&gt;.mp4" in page
    assert "broken <b>" not in page
    carphone = next(name for name in pictures if "carphone" in name)
    with Image.open(labelled / carphone) as picture:
        assert picture.size == (320, 180)
        shown = np.asarray(picture, dtype=float)
    size = FrameSpec(height=180, width=320, crop_share=1.0)
    frames, _, _ = read_frames(clips["carphone.mp4"], sampling="count=6", size=size)
    assert min(float(np.abs(frame - shown).mean()) for frame in frames) < 4  # the JPEG's own loss


def test_an_output_without_tables_is_a_sentence(tmp_path: Path) -> None:
    done = show(str(tmp_path))
    assert done.returncode == 2
    assert "holds no tables" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_argument_is_a_usage_line() -> None:
    assert show().returncode == 2
