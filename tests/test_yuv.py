"""Pictures handed over as YUV planes become the frames that the CPU would have made."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import LazyClips
from decoding import clip_row, config

import vidbatch
from vidbatch.config import LabelConfig
from vidbatch.decode import job_of
from vidbatch.decoding.frames import decode_clip
from vidbatch.publish import config_digest
from vidbatch.schema import FrameSpec
from vidbatch.stamp import make_stamp_bundle
from vidbatch.testing import make_video
from vidbatch.yuv import LUMA_WEIGHTS, TOLERANCE_LEVELS, Layout, to_rgb

Array = np.ndarray[Any, Any]
MODEL = FrameSpec(224, 224)


def rows(path: Path, spec: FrameSpec, **settings: Any) -> list[dict[str, Any]]:
    """The chunks of a file as a decoder gives them, in this process."""
    job = job_of(clip_row(path), config(**settings), spec)
    return [
        record | {"frames": b"" if pixels is None else bytes(pixels)}
        for record, pixels in decode_clip(job)
        if "chunk_index" in record
    ]


def frames(found: list[dict[str, Any]], spec: FrameSpec) -> Array:
    made = []
    for row in found:
        data = np.frombuffer(row["frames"], np.uint8)
        if row["layout"] is None:
            made.append(data.reshape(-1, spec.height, spec.width, 3))
            continue
        layout = Layout(**row["layout"])
        assert len(data) == row["num_frames"] * layout.size_bytes <= 16 * 2**20
        pictures = torch.from_numpy(data.reshape(-1, layout.size_bytes).copy())
        rgb = to_rgb(pictures, layout, height=spec.height, width=spec.width, interpolation=spec.interpolation)
        made.append(rgb.numpy())
    return np.concatenate(made)


def assert_alike(path: Path, spec: FrameSpec, sampling: str, *, is_yuv: bool = True) -> None:
    planes = rows(path, spec, sampling=sampling, hand_over="yuv420")
    rgb = rows(path, spec, sampling=sampling)
    assert all((row["layout"] is not None) == is_yuv for row in planes if row["num_frames"])
    assert [t for row in planes for t in row["pts_seconds"]] == [t for row in rgb for t in row["pts_seconds"]]
    ours, theirs = frames(planes, spec), frames(rgb, spec)
    assert len(ours) == len(theirs) > 0
    apart = np.abs(ours.astype(int) - theirs).mean((1, 2, 3))
    assert apart.max() <= (TOLERANCE_LEVELS if is_yuv else 0), apart


@pytest.mark.parametrize("name", ["bikes.mp4", "city.mpg", "carphone.mp4", "concert.webm", "runners.mp4", "globe.mp4"])
def test_frames_of_real_clips_differ_by_less_than_a_level_from_the_cpu_s(clips: LazyClips, name: str) -> None:
    assert_alike(clips[name], MODEL, "count=3")


@pytest.mark.parametrize(
    "spec",
    [
        FrameSpec(112, 112, 1.0, "bilinear"),
        FrameSpec(160, 224, 0.9),
        FrameSpec(299, 299),
        FrameSpec(64, 48, 0.5),
        FrameSpec(96, 128, 1.0, fit="stretch"),
    ],
)
def test_so_it_is_for_every_size_and_crop_that_models_ask_for(clips: LazyClips, spec: FrameSpec) -> None:
    assert_alike(clips["runners.mp4"], spec, "count=3")


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_turned_pictures_come_out_upright(tmp_path: Path, rotation: int) -> None:
    make_video(tmp_path / "turned.mp4", num_frames=20, width=320, height=180, rotation=rotation)
    assert_alike(tmp_path / "turned.mp4", MODEL, "count=2")


@pytest.mark.parametrize("mirror", ["mirror_columns", "mirror_rows"])
def test_mirrored_pictures_come_out_mirrored(mirror: str) -> None:
    layout = Layout(48, 64, 1, is_full_range=False)
    pictures = torch.randint(0, 256, (2, layout.size_bytes), dtype=torch.uint8)
    plain, turned = (
        to_rgb(pictures, of, height=24, width=32, interpolation="bilinear").numpy()
        for of in (layout, layout._replace(**{mirror: True}))
    )
    assert np.array_equal(np.flip(plain, 2 if mirror == "mirror_columns" else 1), turned)


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020nc", "fcc", "smpte240m"])
@pytest.mark.parametrize("colour_range", ["tv", "pc"])
def test_matrix_and_range_are_those_of_the_stream(
    tmp_path: Path, clips: LazyClips, matrix: str, colour_range: str
) -> None:
    path = tmp_path / "tagged.mkv"
    tags = f"setparams=colorspace={matrix}:range={colour_range}"
    source = ["-i", str(clips["bikes.mp4"]), "-t", "1", "-vf", tags]
    encode = ["-c:v", "libx264", "-preset", "ultrafast", "-an", str(path)]
    subprocess.run(["ffmpeg", "-v", "error", *source, *encode], check=True)
    found = rows(path, MODEL, sampling="count=1", hand_over="yuv420")[0]["layout"]
    assert found["is_full_range"] == (colour_range == "pc")
    assert found["colour_space"] in LUMA_WEIGHTS
    assert_alike(path, MODEL, "count=1")


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("concert.gif", MODEL),
        ("bikes.mp4", FrameSpec(224, 224, 0.875, "lanczos")),
        ("bikes.mp4", FrameSpec(224, 224, 0.875, fit="scale_then_crop")),
        ("bikes.mp4", FrameSpec(224, 224, 0.875, fit="stretch")),
    ],
    ids=["rgb pictures", "a filter that torch lacks", "cropped last", "stretched, then cropped"],
)
def test_what_cannot_be_handed_over_as_planes_comes_as_rgb(clips: LazyClips, name: str, spec: FrameSpec) -> None:
    assert_alike(clips[name], spec, "count=3", is_yuv=False)


def test_ten_bit_video_comes_as_rgb(tmp_path: Path) -> None:
    make_video(tmp_path / "ten.mov", codec="prores_ks", pix_fmt="yuv422p10le", num_frames=20)
    assert_alike(tmp_path / "ten.mov", MODEL, "count=3", is_yuv=False)


def test_a_chunk_ends_where_pictures_change_their_size(tmp_path: Path) -> None:
    make_video(tmp_path / "0.ts", num_frames=20)
    make_video(tmp_path / "1.ts", num_frames=20, width=640, height=480, start_ticks=20)
    joined = tmp_path / "joined.ts"
    joined.write_bytes((tmp_path / "0.ts").read_bytes() + (tmp_path / "1.ts").read_bytes())
    found = rows(joined, MODEL, sampling="all", hand_over="yuv420")
    heights = [row["layout"]["height"] for row in found if row["num_frames"]]
    assert len(set(heights)) == 2
    assert sum(row["num_frames"] for row in found) == 40
    assert [row["chunk_index"] for row in found] == list(range(len(found)))
    assert_alike(joined, MODEL, "all")


def test_a_run_by_planes_labels_every_frame_rightly(tmp_path: Path, local_ray: None) -> None:
    (tmp_path / "archive").mkdir()
    for number in range(4):
        path = tmp_path / "archive" / f"{number}.mp4"
        make_video(path, num_frames=40, fps=10, gop=20, video_number=number)
    make_stamp_bundle(tmp_path / "model", num_classes=4)
    result = vidbatch.label(
        tmp_path / "archive", output=tmp_path / "out", model=f"file:{tmp_path / 'model'}", sampling="fps=5",
        hand_over="yuv420",
    )  # fmt: skip
    frames = result.frames.to_arrow().to_pylist()
    labels = Counter((Path(frame["url"]).stem, frame["label"]) for frame in frames)
    assert labels == {(str(number), f"video_{number}"): 20 for number in range(4)}


def test_another_way_of_handing_over_relabels() -> None:
    settings = [LabelConfig(inputs=("a",), output="b", hand_over=way) for way in ("rgb", "yuv420")]
    assert len({config_digest(each, "model") for each in settings}) == 2
