"""What a user can set for any training run: of classifiers (config.py) and of enhancers (restore_config.py).

Data, windows, optimisation and machines are the same for both, and so is all that runs them.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Final, Literal

from pydantic import Field, field_validator, model_validator

from vidbatch.config import LabelConfig, RunSettings, absolute, path_as_text
from vidbatch.schema import FrameSpec
from vidbatch.windows import Shares, WindowSpec

PUBLISHED: Final = re.compile(r"DEFAULT|IMAGENET\w+")
"""Names of published weights, as `start_from` may give them."""

NOT_IN_DIGEST: Final = frozenset(
    {
        "inputs", "output", "num_workers", "min_workers", "cpus_per_worker", "device", "decode_workers", "cache",
        "cache_gb", "checkpoint_steps", "max_failures", "decode_timeout_seconds", "decode_memory_mb", "tensorboard",
        "mlflow_uri", "mlflow_experiment",
    }
)  # fmt: skip
"""Settings that a run may be continued with other values of: they change no result, or by rounding only."""


class TrainSettings(RunSettings):
    """What all training runs have; immutable. Field descriptions are also the help texts of the flags."""

    # --- data
    inputs: tuple[str, ...] = Field(
        min_length=1,
        description="Folders of a folder per class, manifests with url and label, tar shards with .cls or .json, or "
        "the videos/*.parquet of a label run; local, s3://, gs://, az:// or http(s)://.",
    )
    output: str = Field(
        min_length=1, description="Directory or s3://, gs:// or az:// prefix of the bundle, curves and checkpoints."
    )
    train_share: float = Field(0.8, ge=0, le=1, description="Share of the videos to train with, chosen by hash.")
    validation_share: float = Field(0.1, ge=0, le=1, description="Share to choose the best epoch by; the rest: test.")

    # --- windows and frames
    num_frames: int = Field(16, ge=1, le=1024, description="Frames in a window.")
    fps: float = Field(8.0, gt=0, le=1000, description="Frames a second of a window.")
    every: int | None = Field(
        None, ge=1, le=10_000, description="Every N-th frame of the video, whatever its rate, instead of `fps`."
    )
    windows_per_video: int | None = Field(None, ge=1, description="At most so many; default: as many as fit.")
    short: Literal["pad", "drop"] = Field("pad", description="What happens to videos shorter than a window.")
    places: int = Field(1, ge=1, le=1000, description="Places in its slot that a window is looked at, by turns.")
    jitter: float = Field(0.0, ge=0, lt=0.5, description="Move each frame in time, by up to this share of a step.")
    frame_size: tuple[int, int] = Field((112, 112), description="HEIGHTxWIDTH of frames, pixels.")
    crop_share: float = Field(1.0, gt=0, le=1, description="Share of the shorter side that is kept.")
    interpolation: Literal["bilinear", "bicubic", "lanczos", "area"] = Field("area", description="How frames shrink.")

    # --- optimisation
    epochs: int = Field(20, ge=1, le=100_000, description="How often each window is seen.")
    batch_size: int = Field(32, ge=1, le=65_536, description="Windows a step, over all workers.")
    slice_size: int = Field(
        8,
        ge=1,
        le=4096,
        description="Windows that go through the network at once; workers share out slices of a batch.",
    )
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adamw", description="adam, adamw or sgd.")
    learning_rate: float = Field(1e-3, gt=0, description="Of the head; the highest of its schedule.")
    weight_decay: float = Field(0.01, ge=0, description="Not of biases and norms.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of sgd.")
    schedule: Literal["constant", "step", "cosine", "plateau"] = Field("cosine", description="Of the learning rate.")
    warmup_epochs: float = Field(0.0, ge=0, description="In which the learning rate rises to its highest.")
    step_epochs: int = Field(10, ge=1, description="After each so many the learning rate falls (schedule: step).")
    step_factor: float = Field(0.1, gt=0, lt=1, description="To this share (schedule: step, plateau).")
    plateau_epochs: int = Field(3, ge=0, description="So long without an improvement is one (schedule: plateau).")
    clip_norm: float | None = Field(None, gt=0, description="Gradients are clipped to this norm.")
    ema_decay: float | None = Field(None, gt=0, lt=1, description="Of averaged weights, which are then what is kept.")
    patience: int | None = Field(None, ge=1, description="Stop after so many epochs without an improvement.")
    stop_after: int | None = Field(
        None, ge=1, description="Stop after so many epochs, though the learning rate goes on as for all of them."
    )
    seed: int = Field(0, ge=0, description="All that is left to chance follows from it.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Of the network's sums; fp16 (with scaled losses) on GPUs only."
    )
    compile: bool = Field(False, description="Let torch compile the network: slower to start, then faster on GPUs.")

    # --- machines
    num_workers: int = Field(1, ge=1, le=4096, description="Processes that train together, one a GPU if there are.")
    min_workers: int | None = Field(
        None, ge=1, description="Start, and go on without lost nodes, with as few; with all when there is room again."
    )
    cpus_per_worker: int | None = Field(None, ge=1, description="CPUs each uses; default: its share of the cluster's.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model is trained.")
    decode_workers: int = Field(1, ge=1, le=256, description="Decoding processes of each worker.")
    cache: str | None = Field(None, description="Local folder of decoded windows; default: one of the system's.")
    cache_gb: float = Field(16.0, ge=0, description="What the cache of a machine may take; 0: none.")
    tensorboard: bool = Field(False, description="Also write the curves for TensorBoard, to training/tensorboard.")
    mlflow_uri: str | None = Field(
        None, min_length=1, description="Also tell the MLflow there (http://HOST:PORT) settings and curves, as one run."
    )
    mlflow_experiment: str = Field("vidbatch", min_length=1, description="What the run belongs to there.")
    checkpoint_steps: int | None = Field(None, ge=1, description="Also a checkpoint every N steps, not epochs only.")
    max_failures: int = Field(3, ge=0, description="Lost workers or nodes after which a run gives up.")
    decode_timeout_seconds: float = Field(300.0, gt=0, description="A video that decodes longer is left out.")
    decode_memory_mb: int = Field(2048, ge=256, description="A decoder that grows beyond this is killed (MiB).")

    @field_validator("cache", mode="before")
    @classmethod
    def _cache_is_text(cls, value: object) -> object:
        return path_as_text(value)

    @field_validator("cache", "start_from", check_fields=False)
    @classmethod
    def _places_are_absolute(cls, value: str | None) -> str | None:
        return value if value is None or PUBLISHED.fullmatch(value) else absolute(value)

    @field_validator("frame_size", mode="before")
    @classmethod
    def _size_as_text(cls, value: object) -> object:
        return tuple(value.lower().split("x")) if isinstance(value, str) else value

    @field_validator("frame_size")
    @classmethod
    def _size_is_possible(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not all(8 <= side <= 4096 for side in value):
            raise ValueError("height and width are from 8 to 4096 pixels")
        return value

    @model_validator(mode="after")
    def _shares_fit(self) -> TrainSettings:
        if self.batch_size % self.slice_size:
            raise ValueError(f"batch_size: {self.batch_size} is not a multiple of slice_size, {self.slice_size}")
        if self.every is not None and "fps" in self.model_fields_set:
            raise ValueError(f"every: {self.every} is not allowed with fps: give either")
        if self.train_share + self.validation_share > 1 + 1e-9:
            raise ValueError(f"train_share and validation_share are {self.shares.train + self.shares.validation:g}")
        if self.num_workers > self.batch_size // self.slice_size:
            raise ValueError(
                f"num_workers: {self.num_workers} workers cannot share out {self.batch_size // self.slice_size} slices "
                "of a batch: take a larger batch_size or a smaller slice_size"
            )
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers: {self.min_workers} is more than num_workers, {self.num_workers}")
        return self

    @property
    def windows(self) -> WindowSpec:
        """How videos are cut."""
        names = ("num_frames", "fps" if self.every is None else "every", "windows_per_video", "short")
        return WindowSpec.model_validate({name: getattr(self, name) for name in names})

    @property
    def frame(self) -> FrameSpec:
        """What the decoder gives."""
        return FrameSpec(*self.frame_size, self.crop_share, self.interpolation)

    @property
    def shares(self) -> Shares:
        """Of the splits; what is left is for the test."""
        return Shares.of(self.train_share, self.validation_share)

    @property
    def decoding(self) -> LabelConfig:
        """The settings that listing and decoding share with `label`."""
        names = ("inputs", "output", "decode_timeout_seconds", "decode_memory_mb")
        return LabelConfig.model_validate({name: getattr(self, name) for name in names})

    @property
    def fewest_workers(self) -> int:
        """With fewer the run waits."""
        return self.num_workers if self.min_workers is None else self.min_workers

    @property
    def digest(self) -> str:
        """16 hex digits over all settings that change the result, videos not among them."""
        settings = self.model_dump(mode="json", exclude=set(NOT_IN_DIGEST))
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def held_epochs(self) -> int:
        """So many epochs the body is not trained, if it is trained at all."""
        return 0

    @property
    def is_balanced(self) -> bool:
        """Whether an epoch shows each class as often as the most frequent one."""
        return False

    @property
    def score_name(self) -> str:
        """Of the number beside the loss."""
        raise NotImplementedError

    def score_of(self, loss: float, score: float) -> float:  # noqa: ARG002  # for those that judge by it
        """What an epoch is judged by, the higher the better."""
        return -loss if math.isfinite(loss) else -math.inf
