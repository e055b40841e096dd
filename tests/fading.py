"""Small labelled videos for tests of training: pictures that become darker, or brighter; one frame does not tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidbatch.training.config import TrainConfig, load_train_config

LABELS = ("brighter", "darker")
MANIFEST = "labels.csv"


def make_fading(path: Path, label: str, *, seed: int, num_frames: int = 12, fps: int = 8, levels: float = 6) -> None:
    """A video of 64 x 48 pixels that fades by so many levels a frame: only the order of frames says the label."""
    chance = np.random.default_rng(seed)
    texture = np.kron(chance.integers(40, 200, (6, 8)), np.ones((8, 8)))
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "20"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(num_frames):
            change = levels * (number - num_frames / 2)
            picture = (texture + (change if label == "brighter" else -change)).clip(0, 255).astype(np.uint8)
            out.mux(stream.encode(VideoFrame.from_ndarray(np.stack([picture] * 3, 2), format="rgb24")))
        out.mux(stream.encode(None))


def make_archive(folder: Path, *, per_class: int = 12, labels: Sequence[str] = LABELS, split: bool = False) -> Path:
    """A folder per class; with `split` a manifest too, whose splits do not change with the path as hashes do."""
    lines = ["url,label,split"]
    for number in range(per_class):
        for at, label in enumerate(labels):
            make_fading(folder / label / f"{number:02d}.mp4", label, seed=100 * at + number)
            lines.append(f"{label}/{number:02d}.mp4,{label},{'validation' if number % 10 in (2, 5, 8) else 'train'}")
    if split:
        (folder / MANIFEST).write_text("\n".join(lines) + "\n")
    return folder


def make_speeds(folder: Path, *, num_videos: int = 24) -> Path:
    """A manifest whose labels are numbers: the levels by which a video becomes brighter from frame to frame."""
    lines = ["url,levels,split"]
    for number in range(num_videos):
        levels = 16 * number / (num_videos - 1) - 8
        make_fading(folder / f"{number:02d}.mp4", LABELS[0], seed=number, levels=levels)
        lines.append(f"{number:02d}.mp4,{levels:.3f},{'validation' if number % 4 == 1 else 'train'}")
    (folder / "speeds.csv").write_text("\n".join(lines) + "\n")
    return folder / "speeds.csv"


def settings(folder: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """A run of a few small steps; where the archive has a manifest, without chance in the sizes of its splits."""
    manifest = folder / MANIFEST
    return {
        "inputs": (str(manifest if manifest.exists() else folder),), "output": str(output),
        "cache": str(output.parent / "cache"), "num_frames": 6,
        "frame_size": (48, 64), "head_width": 16, "grid": 3, "dropout": 0.1, "epochs": 2, "batch_size": 8,
        "slice_size": 2, "learning_rate": 3e-3, "train_share": 0.7, "validation_share": 0.3, "device": "cpu",
        "channels": ("signed_difference",),
    } | changes  # fmt: skip


def config(folder: Path, output: Path, **changes: Any) -> TrainConfig:
    """The same, checked."""
    return load_train_config(settings(folder, output, **changes))
