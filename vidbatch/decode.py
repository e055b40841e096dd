"""Packs of clips go in; chunks of uint8 frames come out, one row each. Also: cut long videos, read one video.

`Decoder` and `plan` let a child process decode (isolation.py), so that no file can harm the actor that owns it;
this module itself loads neither PyAV nor torch. What happens to a clip that cannot be decoded is a row.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vidbatch import schema, storage
from vidbatch.config import LabelConfig
from vidbatch.decoding.isolation import IsolatedProcess, ProcessLost
from vidbatch.decoding.types import Bounds, Job, TargetSize, WindowJob
from vidbatch.errors import VidbatchError, VideoError
from vidbatch.schema import FrameSpec

if TYPE_CHECKING:
    from vidbatch.windows import WindowSpec

Clip = dict[str, Any]

WINDOWS_FUNCTION: Final = "vidbatch.decoding.window_clips:decode_windows"
"""What a child process runs to decode windows; takes a WindowJob."""

_TRIES: Final = 2
_MIB: Final = 2**20
_HEADER_NAMES: Final = tuple(column.name for column in schema.HEADER)
_REPORTED: Final = (
    "num_frames_decoded", "num_packets_read", "read_bytes", "all_decoded_because", "error_kind", "error_message",
)  # fmt: skip
_NO_COST: Final = {
    "decode_cpu_seconds": 0.0, "decode_wall_seconds": 0.0, "read_bytes": 0, "num_frames_decoded": 0,
}  # fmt: skip
_DECIDED_BY_DECODING: Final = frozenset(field.name for field in (*schema.HEADER, *schema.ERROR))
_PLANNER_LOCK: Final = threading.Lock()
_PLANNERS: Final[dict[tuple[float, int], IsolatedProcess]] = {}
_EMPTY_CHUNK: Final[dict[str, Any]] = {"num_frames": 0, "pts_seconds": [], "is_keyframe": [], "is_last_chunk": True}


class Limits(Protocol):
    """Settings that bound what a video may cost, of whatever kind of run."""

    decode_timeout_seconds: float
    decode_memory_mb: int
    max_pixels: int
    max_duration_seconds: float
    max_packets: int


class Decoder:
    """Decodes packs of clips, one clip after the other; the callable class of the decode stage.

    Args: `frame_spec` is the size of the frames that come out; `watch`, an actor's handle, is told of slow clips. With
    `windows`, rows are windows of frames (windows.window_dtype) and not single ones.
    """

    function = "vidbatch.decoding.frames:decode_clip"

    def __init__(
        self, config: LabelConfig, frame_spec: FrameSpec, watch: Any = None, windows: WindowSpec | None = None
    ) -> None:
        self._config = config
        self._frame_spec = frame_spec
        self._windows = windows
        if windows is not None:
            self.function = WINDOWS_FUNCTION
        self._watch = watch
        self._url = ""
        self._process = isolated(config, self._say_slow)

    def __call__(self, work: pa.Table) -> Iterator[pa.Table]:
        """Take a WORK table, yield a PIXELS table of one row for every chunk. Never raises for a bad video."""
        for pack in work.column("clips").to_pylist():
            for clip in pack:
                yield from self._decode(clip)

    def close(self) -> None:
        """End the child process."""
        self._process.close()

    def _say_slow(self, seconds: float) -> None:
        if self._watch is not None:
            allowed = self._config.decode_timeout_seconds
            self._watch.say.remote(f"decoding gave nothing for {seconds:.0f} s (of {allowed:g}) of {self._url}")

    def _decode(self, clip: Clip) -> Iterator[pa.Table]:
        if clip["error_kind"] is not None:
            yield _failure(clip, 0, {}, kind=clip["error_kind"], message=clip["error_message"], wall_seconds=0.0)
            return
        num_given = 0
        began = time.perf_counter()
        self._url = clip["url"]
        header: dict[str, Any] = {}
        job = job_of(clip, self._config, self._frame_spec)
        if self._windows is not None:
            job = window_job(clip, self._config, self._frame_spec, self._windows)
        for attempt in range(1, _TRIES + 1):
            try:
                for record, pixels in self._process.call(self.function, job):
                    if "chunk_index" not in record:
                        header = record
                    elif record["chunk_index"] >= num_given:  # a second try begins with what is already given
                        num_given += 1
                        yield _chunk(clip, record | (header if record["is_last_chunk"] else {}), pixels)
                return
            except (ProcessLost, VideoError) as lost:
                if attempt == _TRIES:
                    wall = time.perf_counter() - began
                    said = f"{lost.message}, in {_TRIES} tries"
                    yield _failure(clip, num_given, header, kind=lost.kind, message=said, wall_seconds=wall)


def plan(clip: Clip, config: LabelConfig) -> list[Clip]:
    """Cut a video into clips of about `config.clip_seconds` at keyframes; takes and gives rows of schema.CLIP.

    The samples of the clips together are exactly the sample of the whole. A video that is short, cannot be cut or
    cannot be read comes back as it is: decoding says what is wrong with it.
    """
    if clip["error_kind"] is not None or clip["num_clips"] != 1:
        return [clip]
    with _PLANNER_LOCK:
        try:
            records = list(_planner(config).call("vidbatch.decoding.planning:plan_clip", job_of(clip, config, None)))
        except (ProcessLost, VideoError):
            return [clip]
    cut: list[Clip] = records[-1][0]["clips"]
    if len(cut) < 2:
        return [clip]
    return [clip | part | {"clip_index": index, "num_clips": len(cut)} for index, part in enumerate(cut)]


@dataclass(frozen=True)
class ReadReport:
    """What `read_frames` learnt about a video; header facts as the container says them, None where it does not.

    `num_packets_read` counts packets, one a frame, that were read from the container; `all_decoded_because` says why
    every frame up to the last wanted one was decoded, None if only those that the sample needs were.
    """

    container: str | None
    codec: str | None
    width: int | None
    height: int | None
    duration_seconds: float | None
    frame_rate: float | None
    num_frames_from_header: int | None
    is_keyframe: npt.NDArray[np.bool_]
    num_frames_decoded: int
    num_packets_read: int
    read_bytes: int
    all_decoded_because: str | None
    error_kind: str | None
    error_message: str | None


def read_frames(
    source: str | os.PathLike[str],
    *,
    sampling: str = "fps=1",
    size: FrameSpec | None = None,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    times: Iterable[float] | None = None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64], ReadReport]:
    """Read the sampled frames of one video in this process: (frames, pts_seconds, report).

    Args: `source` is a path or URL; `size` the frames' size, None for whole upright pictures; `times` are seconds on
    the stream's clock and replace `sampling`. With a start or end, the part of the whole video's sample between.
    Returns frames uint8 (N, height, width, 3) RGB and N presentation times. What is wrong with the video stands in
    the report; the frames before the damage are given.
    """
    from vidbatch.decoding.frames import decode_clip  # here, because it loads PyAV into this process

    wanted = None if times is None else [float(t) for t in times]
    clip = dict.fromkeys(field.name for field in schema.CLIP) | {
        "source": os.fspath(source),
        "size_bytes": _size_of(os.fspath(source)),
        "content_version": "",
        "start_seconds": start_seconds,
        "end_seconds": end_seconds,
        "times": wanted,
    }
    target = None if size is None else TargetSize(*size)
    job = Job(clip, sampling if wanted is None else "times=times", target, in_one_chunk=True)
    header: dict[str, Any] = dict.fromkeys(_HEADER_NAMES)
    parts: list[npt.NDArray[np.uint8]] = []
    chunks: list[dict[str, Any]] = []
    for record, pixels in decode_clip(job):
        if "chunk_index" in record:
            chunks.append(record)
            if pixels is not None:
                parts.append(np.asarray(pixels))
        else:
            header |= record
    height, width = (0, 0) if size is None else (size.height, size.width)
    if len(parts) == 1:
        frames = parts[0]
    else:
        frames = np.concatenate(parts) if parts else np.empty((0, height, width, 3), np.uint8)
    last = chunks[-1]
    report = ReadReport(
        **header,
        is_keyframe=np.array([key for chunk in chunks for key in chunk["is_keyframe"]], bool),
        **{name: last[name] for name in _REPORTED},
    )
    return frames, np.array([t for chunk in chunks for t in chunk["pts_seconds"]], np.float64), report


def _size_of(source: str) -> int | None:
    """Size of an object, if its storage says; why it does not, reading it will say."""
    try:
        return storage.stat(source).size_bytes
    except (VideoError, VidbatchError):
        return None


def job_of(clip: Clip, config: LabelConfig, frame_spec: FrameSpec | None) -> Job:
    """What the child process needs to know to decode or to plan a clip."""
    target = None if frame_spec is None else TargetSize(*frame_spec)
    return Job(
        clip, config.sampling, target, bounds_of(config), config.clip_seconds, as_yuv=config.hand_over == "yuv420"
    )


def window_job(clip: Clip, config: LabelConfig, frame_spec: FrameSpec, windows: WindowSpec) -> WindowJob:
    """What the child process needs to know to decode a video as windows."""
    return WindowJob(clip, "all", TargetSize(*frame_spec), bounds_of(config), config.clip_seconds, windows=windows)


def bounds_of(config: Limits) -> Bounds:
    """What a video may claim of itself."""
    return Bounds(config.max_pixels, config.max_duration_seconds, config.max_packets)


def keep_whole(clip: Clip) -> list[Clip]:
    """The plan of a video for a model of windows: a cut could go through one."""
    return [clip]


def isolated(
    config: Limits, on_slow: Callable[[float], None] | None = None, *, on_gpu: bool = False
) -> IsolatedProcess:
    """A child process within the bounds of time and memory; not started yet."""
    return IsolatedProcess(
        timeout_seconds=config.decode_timeout_seconds,
        memory_bytes=config.decode_memory_mb * _MIB,
        on_slow=on_slow,
        on_gpu=on_gpu,
    )


def _planner(config: LabelConfig) -> IsolatedProcess:
    """This process's child for planning, started when the first long video is met and kept for the next."""
    key = (config.decode_timeout_seconds, config.decode_memory_mb)
    if key not in _PLANNERS:
        _PLANNERS[key] = isolated(config)
    return _PLANNERS[key]


def _failure(
    clip: Clip, chunk_index: int, header: dict[str, Any], *, kind: str, message: str, wall_seconds: float
) -> pa.Table:
    cost = _NO_COST | {"decode_wall_seconds": wall_seconds}
    error = {"error_kind": kind, "error_message": message}
    return _chunk(clip, _EMPTY_CHUNK | header | cost | error | {"chunk_index": chunk_index}, None)


def _chunk(clip: Clip, record: dict[str, Any], pixels: bytearray | None) -> pa.Table:
    """One row of schema.PIXELS; the pixels are not copied. What the record lacks comes from the clip, or is null."""
    columns = [
        _binary(pixels)
        if field.name == "frames"
        else pa.array([record[field.name] if field.name in record else _of_clip(clip, field.name)], field.type)
        for field in schema.PIXELS
    ]
    return pa.Table.from_arrays(columns, schema=schema.PIXELS)


def _of_clip(clip: Clip, name: str) -> Any:
    return None if name in _DECIDED_BY_DECODING else clip.get(name)


def _binary(pixels: bytearray | None) -> pa.Array:
    data = pa.py_buffer(b"" if pixels is None else pixels)
    offsets = pa.py_buffer(np.array([0, data.size], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data])


def read_header(clip: Clip, config: LabelConfig) -> dict[str, Any]:
    """The fields of schema.HEADER of a video, read in a child process; empty for one that cannot be opened."""
    if clip["error_kind"] is not None:
        return {}
    process = isolated(config)
    try:
        for record, _pixels in process.call("vidbatch.decoding.frames:decode_clip", job_of(clip, config, None)):
            return record if "chunk_index" not in record else {}
    except (ProcessLost, VideoError):
        pass
    finally:
        process.close()
    return {}
