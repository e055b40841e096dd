"""A job of batches in; seconds and losses of a plain PyTorch training loop over them, without vidbatch's, out as JSON.

    python benchmarks/contender_torch.py JOB.json memory                               windows decoded before
    .venv-peers/bin/python benchmarks/contender_torch.py JOB.json torchcodec --workers 2    from disk, by a DataLoader

Network, optimizer and schedule are built by vidbatch, so that all contenders train the same; all else is what one would
write by hand. In .venv-peers what vidbatch itself needs is taken from the environment beside it; torch is its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path += [str(REPOSITORY), *map(str, (REPOSITORY / ".venv").glob("lib/python3*/site-packages"))]
import harness  # noqa: E402  # reads psutil from there

Batch = tuple[torch.Tensor, torch.Tensor]


class Videos(Dataset[Any]):
    """Sample number -> its frames, uint8 (T, 3, H, W), decoded by torchcodec from disk, and its class."""

    def __init__(self, job: dict[str, Any], seek_mode: str) -> None:
        self._samples = job["samples"]
        self._size = job["size"]
        self._seek_mode = seek_mode

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        from torchcodec.decoders import VideoDecoder

        sample = self._samples[row]
        decoder = VideoDecoder(sample["file"], num_ffmpeg_threads=1, seek_mode=self._seek_mode)
        frames = decoder.get_frames_played_at(sample["seconds"]).data
        return cut_out(frames, *self._size), sample["class"]


class Batches(Sampler[list[int]]):
    """The batches of an epoch, as the job lists them."""

    def __init__(self, epochs: list[list[list[int]]]) -> None:
        self.epochs = epochs
        self.epoch = 0

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.epochs[self.epoch])


def cut_out(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The largest middle part of frames (T, 3, H, W) that has the shape of the result, scaled to its size.

    By torch, a few at a time: torchcodec's own `Resize` costs twice the CPU, and many at once fall out of the cache.
    """
    rows, columns = frames.shape[-2:]
    scale = max(height / rows, width / columns)
    kept = round(height / scale), round(width / scale)
    top, left = (rows - kept[0]) // 2, (columns - kept[1]) // 2
    middle = frames[..., top : top + kept[0], left : left + kept[1]]
    parts = [functional.interpolate(p, (height, width), mode="bilinear", antialias=True) for p in middle.split(4)]
    return torch.cat(parts)


def from_memory(job: dict[str, Any]) -> Iterator[Iterator[Batch]]:
    """Epochs of batches of windows that lie decoded in memory."""
    windows = torch.from_numpy(np.load(job["windows"])).movedim(-1, -3).contiguous()
    classes = torch.tensor([sample["class"] for sample in job["samples"]])
    for epoch in job["epochs"]:
        yield ((windows[rows], classes[rows]) for rows in epoch)


def from_disk(job: dict[str, Any], workers: int, seek_mode: str) -> Iterator[Iterator[Batch]]:
    """Epochs of batches that a DataLoader decodes, two ahead for each of its processes, which stay."""
    batches = Batches(job["epochs"])
    loader = DataLoader(
        Videos(job, seek_mode), batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0
    )
    for number in range(len(batches.epochs)):
        batches.epoch = number
        yield iter(loader)


def train(job: dict[str, Any], epochs: Iterator[Iterator[Batch]], save_first: Path | None) -> dict[str, Any]:
    """What a training loop in a tutorial does."""
    from vidbatch.training.classifying import make_network
    from vidbatch.training.config import load_train_config
    from vidbatch.training.optimise import Schedule, make_optimizer
    from vidbatch.transforms import InputTransform
    from vidbatch.video_weights import parameter_groups

    config = load_train_config(job["settings"])
    network = make_network(config, job["num_classes"]).train()
    groups = parameter_groups(network, learning_rate=config.learning_rate, weight_decay=config.weight_decay)
    optimizer = make_optimizer(groups, config)
    schedule = Schedule(optimizer, config, steps_per_epoch=len(job["epochs"][0]))
    prepare = InputTransform(config.video.inputs, config.mean, config.std)
    is_real = torch.ones(config.batch_size, config.num_frames, dtype=torch.bool)
    watch = harness.Stopwatch(job["warm_epochs"])
    losses: list[float] = []
    for epoch in epochs:
        for frames, classes in epoch:
            if save_first and not losses:
                np.save(save_first, frames.movedim(-3, -1).numpy())
            inputs = prepare(frames.to(torch.float32).div(255))
            loss = functional.cross_entropy(network(inputs.images, is_real[: len(frames)], inputs.features), classes)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.after_step()
            losses.append(loss.item())
            watch.after_step(len(frames))
        watch.after_epoch()
    return {**watch.report(), "losses": losses}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("job", type=Path)
    parser.add_argument("source", choices=("memory", "torchcodec"))
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seek-mode", choices=("exact", "approximate"), default="exact")
    parser.add_argument("--save-first", type=Path, metavar="NPY", help="where the first batch's frames go")
    options = parser.parse_args()
    job = json.loads(options.job.read_text())
    torch.set_num_threads(1)
    epochs = from_memory(job) if options.source == "memory" else from_disk(job, options.workers, options.seek_mode)
    print(json.dumps(train(job, epochs, options.save_first)))


if __name__ == "__main__":
    main()
