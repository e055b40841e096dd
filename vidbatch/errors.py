"""Every error vidbatch raises, and the closed list of reasons a video can fail for.

    VidbatchError
    ├── ConfigError (ValueError)   a user's mistake: raised before the first task, says field, value, allowed
    ├── StorageError (OSError)     an input or output location cannot be used at all
    ├── ModelError                 weights that cannot be loaded, or do not fit their network
    ├── PublishConflict            a published file kept changing under us; nothing was lost, run again
    ├── TooManyFailures            the run was stopped because (nearly) everything fails
    ├── TrainingDiverged           the loss is no number any more; what was trained before is kept
    ├── TrainingFailed             workers of a training run were lost too often; the same command goes on
    └── VideoError                 one video cannot be (wholly) used: becomes a row, never ends a run

All arguments go to the base constructor by position, so that every class survives pickling between processes.
"""

from typing import Final, Literal

ErrorKind = Literal[
    "empty", "not_a_video", "no_video_stream", "audio_only", "truncated", "corrupt", "unsupported", "bounds",
    "unsupported_colour", "encode", "decoder_crashed", "timeout", "memory", "model", "missing", "permission", "changed",
    "storage", "worker",
]  # fmt: skip

ERROR_KINDS: Final[dict[str, str]] = {
    "empty": "the object holds no bytes",
    "not_a_video": "FFmpeg recognises no container in it",
    "no_video_stream": "a container without any stream that could be decoded to pictures",
    "audio_only": "a container with sound but no picture stream (cover art does not count)",
    "truncated": "the data ends before the container says it does",
    "corrupt": "damaged data inside the container",
    "unsupported": "a codec or pixel format this FFmpeg cannot decode",
    "bounds": "larger than the run allows: picture size, duration or number of packets",
    "unsupported_colour": "high dynamic range (PQ or HLG), which `enhance` would make dull",
    "encode": "the encoder or the container refused what was to be written",
    "decoder_crashed": "the decoder process died twice on it",
    "timeout": "decoding took longer than --decode-timeout, twice",
    "memory": "decoding needed more memory than allowed, twice",
    "model": "the model failed or hung on it, alone and twice, or gave scores that are no numbers",
    "missing": "the object does not exist (any more)",
    "permission": "the storage refused access to it",
    "changed": "the object was replaced by another after it was listed",
    "storage": "the storage failed while reading it",
    "worker": "the worker failed for a reason that is not the video's",
}
"""Closed list: `error_kind` of the `videos` table is null or one of these keys."""

TRANSIENT_KINDS: Final[frozenset[str]] = frozenset({"missing", "permission", "changed", "storage", "worker"})
"""A rerun tries these again by itself; all other kinds only with --retry-failed or when the object changes."""


class VidbatchError(Exception):
    """Base of everything vidbatch raises on purpose."""


class ConfigError(VidbatchError, ValueError):
    """A setting, flag, model name or input that cannot work; raised before the first task."""


class StorageError(VidbatchError, OSError):
    """A location that cannot be listed, read or written for a reason that concerns the whole run."""


class ModelError(VidbatchError):
    """Weights that cannot be loaded, or do not fit the network they were named for."""


class PublishConflict(VidbatchError):
    """Another run replaced the same published file again and again; staged results are kept, run again."""


class TooManyFailures(VidbatchError):
    """The first videos of a run all failed for one reason, so the run stopped and published nothing."""


class TrainingDiverged(VidbatchError):
    """The loss or the gradient of a training run is no number; says at which video. The last good epoch is kept."""


class TrainingFailed(VidbatchError):
    """Workers of a training run failed more often than allowed; the same command goes on at the last checkpoint."""


class Stopped(KeyboardInterrupt):
    """The command was sent SIGINT or SIGTERM: once what is finished is kept, the process ends."""


class VideoError(VidbatchError):
    """One video cannot be used, wholly or from some point on.

    Args: `kind`, a key of ERROR_KINDS; `message`, FFmpeg's or the storage's own words, free of credentials.
    """

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(kind, message)
        self.kind: ErrorKind = kind
        self.message = message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"
