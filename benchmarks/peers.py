"""A file and the wanted frames in; another decoder's frames as one uint8 NHWC RGB array, and its CPU seconds, out.

    .venv-peers/bin/python benchmarks/peers.py CONTENDER

It runs in .venv-peers (scripts/install.sh peers), apart from vidbatch, and answers requests, a line of JSON each:
`file`, `sampling`, `times` (seconds) and `numbers` (in presentation order) of the wanted frames, `height` and `width`,
and `out`, where to save the frames. What a contender cannot do is answered with `error`.

All decode with one thread and resize the whole picture by their own best means. Seconds are those of all threads and
child processes from opening the file to the last picture; imports and a first frame come before.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Answer = tuple[Any, "list[float] | None"]
"""Frames, and their presentation times where the decoder says them."""

TORCH_FRAMES = 4


class Request(NamedTuple):
    """The wanted frames: how they were chosen, their times in seconds, their numbers, the size of their pictures."""

    file: str
    sampling: str
    times: list[float]
    numbers: list[int]
    height: int
    width: int

    @property
    def interval_seconds(self) -> float | None:
        """Distance of the grid that the frames lie on; None where they were chosen otherwise."""
        return 1 / float(self.sampling.removeprefix("fps=")) if self.sampling.startswith("fps=") else None

    def empty(self) -> Any:
        """An array for the pictures."""
        return np.empty((len(self.numbers), self.height, self.width, 3), np.uint8)


# --- ffmpeg -------------------------------------------------------------------------------------------------------


def ffmpeg(path: str, request: Request) -> Answer:
    """All frames decoded, the wanted ones selected by number; for keyframes most decoders leave out the others."""
    filters = [f"scale={request.width}:{request.height}:flags=bilinear"]
    if request.sampling == "keyframes":
        filters.insert(0, "select=key")  # VP9's decoder and this AV1's do not know skip_frame
    elif request.sampling != "all":
        filters.insert(0, f"select='{_is_one_of(request.numbers)}'")
    skip = ("-skip_frame", "nokey") if request.sampling == "keyframes" else ()
    source = (*skip, "-threads", "1", "-i", path, "-map", "0:v:0")
    return _from_pipe(request, *source, "-vf", ",".join(filters), "-frames:v", str(len(request.numbers))), None


def ffmpeg_seek(path: str, request: Request) -> Answer:
    """One process that opens the file once for every wanted frame, each time at the keyframe before it."""
    _refuse_all(request)
    source: list[str] = []
    for seconds in request.times:
        source += ["-threads", "1", "-ss", f"{seconds:.6f}", "-i", path]
    one = f"trim=end_frame=1,scale={request.width}:{request.height}:flags=bilinear,setsar=1"
    count = len(request.times)
    graph = ";".join(f"[{n}:v:0]{one}[p{n}]" for n in range(count))
    joined = "".join(f"[p{n}]" for n in range(count)) + f"concat=n={count},setpts=N/TB"
    return _from_pipe(request, *source, "-filter_complex_threads", "1", "-filter_complex", f"{graph};{joined}"), None


def _is_one_of(numbers: list[int]) -> str:
    """An expression of ffmpeg's `select`; a search tree, since it is evaluated for every frame."""
    if len(numbers) == 1:
        return f"eq(n,{numbers[0]})"
    middle = len(numbers) // 2
    return f"if(lt(n,{numbers[middle]}),{_is_one_of(numbers[:middle])},{_is_one_of(numbers[middle:])})"


def _from_pipe(request: Request, *arguments: str) -> Any:
    out = request.empty()
    command = ["ffmpeg", "-nostdin", "-v", "error", *arguments, "-filter_threads", "1", "-fps_mode", "passthrough"]
    command += ["-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, pipesize=2**20) as process:
        assert process.stdout is not None
        size = process.stdout.readinto(memoryview(out).cast("B"))
    if process.returncode:
        raise RuntimeError(f"ffmpeg ended with {process.returncode}")
    return out[: size // out[0].nbytes]


# --- torchcodec ---------------------------------------------------------------------------------------------------


def torchcodec(path: str, request: Request, *, seek_mode: str) -> Answer:
    """Frames by number, a few at a time, resized by torch.

    By number, because approximate seeking by time takes the frame before where a container rounds its times. Not by
    its own `Resize`, which gives the same pictures for twice the CPU; a few, because 16 at once fall out of the cache.
    """
    import torch
    from torch.nn.functional import interpolate
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)
    options: dict[str, Any] = {"seek_mode": seek_mode}
    if seek_mode == "mappings":
        options = {"custom_frame_mappings": _mappings(path)}
    elif seek_mode == "mappings_counted":
        options = {"custom_frame_mappings": _mappings.__wrapped__(path)}
    decoder = VideoDecoder(path, num_ffmpeg_threads=1, **options)
    size = request.height, request.width
    out = torch.empty((len(request.numbers), *size, 3), dtype=torch.uint8)
    times: list[float] = []
    for start in range(0, len(out), TORCH_FRAMES):
        chunk = slice(start, start + TORCH_FRAMES)
        frames = decoder.get_frames_at(request.numbers[chunk])
        out[chunk] = interpolate(frames.data, size, mode="bilinear", antialias=True).permute(0, 2, 3, 1)
        times += frames.pts_seconds.tolist()
    return out.numpy(), times


@functools.cache  # the first frame, decoded before anything is timed, leaves it ready
def _mappings(path: str) -> str:
    """What torchcodec's guide has ffprobe list of the frames, here of packets: that needs no decoding."""
    wanted = ("-select_streams", "v:0", "-show_entries", "packet=pts,duration,flags", "-of", "json")
    done = subprocess.run(["ffprobe", "-v", "error", *wanted, path], stdout=subprocess.PIPE, check=True)
    packets = sorted(json.loads(done.stdout)["packets"], key=lambda packet: packet["pts"])
    frames = [{"pts": p["pts"], "duration": p["duration"], "key_frame": int("K" in p["flags"])} for p in packets]
    return json.dumps({"frames": frames})


# --- decord, and Ray Data, which reads with it ----------------------------------------------------------------------


def decord(path: str, request: Request) -> Answer:
    """One batch of frames by number; seeking, skipping and taking the next one by one cost the same or more."""
    from decord import VideoReader

    reader = VideoReader(path, width=request.width, height=request.height, num_threads=1)
    frames = reader.get_batch(request.numbers).asnumpy()
    return frames, reader.get_frame_timestamp(request.numbers)[:, 0].tolist()


def ray(path: str, request: Request) -> Answer:
    """What a worker runs for `ray.data.read_videos` of one file, to the last wanted frame."""
    from ray.data.block import BlockAccessor

    out, times = request.empty(), []
    wanted = iter(request.numbers)
    number = next(wanted)
    for block in _ray_blocks(path, request):
        row = BlockAccessor.for_block(block).to_batch_format("numpy")
        if row["frame_index"][0] == number:
            out[len(times)] = row["frame"][0]
            times.append(float(row["frame_timestamp"][0][0]))
            if (number := next(wanted, -1)) < 0:
                break
    return out[: len(times)], times


def _ray_blocks(path: str, request: Request) -> Iterator[Any]:
    from pyarrow.fs import LocalFileSystem
    from ray.data._internal import size_estimator
    from ray.data._internal.datasource.video_datasource import VideoDatasource

    # Without a cluster: VideoDatasource's __init__ starts one to keep the paths in, and so does the size estimator,
    # which needs none, unless it believes that it did.
    size_estimator._ray_initialized = True
    source = VideoDatasource.__new__(VideoDatasource)
    source.include_timestamps = True
    # Only whole rates can be asked for; one frame in several seconds is then chosen from one a second.
    source.fps = 1 if request.interval_seconds and request.interval_seconds.is_integer() else None
    source.resize = (request.height, request.width)
    source.decord_load_args = {"num_threads": 1}
    with LocalFileSystem().open_input_stream(path) as stream:
        yield from source._read_stream(stream, path)


# --- OpenCV -------------------------------------------------------------------------------------------------------


def opencv(path: str, request: Request, *, seek: bool) -> Answer:
    """Grabs every frame up to the last wanted one, or seeks to each; only wanted ones are converted and resized."""
    import cv2

    if seek:
        _refuse_all(request)
    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    out, times = request.empty(), []
    small = np.empty((request.height, request.width, 3), np.uint8)
    position = 0
    for number in request.numbers:
        if seek:
            capture.set(cv2.CAP_PROP_POS_FRAMES, number)
            position = number
        for _ in range(position, number + 1):
            if not capture.grab():
                raise RuntimeError(f"OpenCV grabs no frame {number}")
        position = number + 1
        # Only averaging of areas is as good as the others' scaling: INTER_LINEAR is faster and aliases.
        cv2.resize(capture.retrieve()[1], (request.width, request.height), small, interpolation=cv2.INTER_AREA)
        cv2.cvtColor(small, cv2.COLOR_BGR2RGB, out[len(times)])
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    return out, times


# --- Daft -----------------------------------------------------------------------------------------------------------


def daft(path: str, request: Request) -> Answer:
    """One table of the frames, sampled by Daft itself where it can; it reads every file to its end."""
    import daft

    options: dict[str, Any] = {"image_height": request.height, "image_width": request.width}
    if request.sampling == "keyframes":
        options["is_key_frame"] = True
    table = daft.read_video_frames(path, **options, sample_interval_seconds=request.interval_seconds)
    if request.sampling == "keyframes":
        # VP9's decoder does not leave out the others, and HEVC's gives them in disorder.
        table = table.where(daft.col("is_key_frame")).sort("frame_time")
    elif request.sampling.startswith("count="):
        table = table.where(daft.col("frame_index").is_in(request.numbers))
    columns = table.select("frame_time", "data").to_arrow()
    pixels = columns.column("data").combine_chunks().storage.flatten().to_numpy()
    return pixels.reshape(-1, request.height, request.width, 3), columns.column("frame_time").to_pylist()


def daft_seek(path: str, request: Request) -> Answer:
    """A `daft.VideoFile` asked for the time around each wanted frame, which it seeks to."""
    import daft

    _refuse_all(request)
    out, times = request.empty(), []
    video = daft.VideoFile(path)
    for seconds in request.times:
        for frame in video.frames(seconds, seconds, width=request.width, height=request.height):
            out[len(times)] = frame["data"]
            times.append(frame["frame_time"])
    return out[: len(times)], times


# --------------------------------------------------------------------------------------------------------------------


def _refuse_all(request: Request) -> None:
    if request.sampling == "all":
        raise RuntimeError("seeking to every frame decodes most of them again and again: not for `all`")


CONTENDERS: dict[str, Callable[[str, Request], Answer]] = {
    "ffmpeg": ffmpeg,
    "ffmpeg_seek": ffmpeg_seek,
    "torchcodec_exact": functools.partial(torchcodec, seek_mode="exact"),
    "torchcodec_approximate": functools.partial(torchcodec, seek_mode="approximate"),
    "torchcodec_mappings": functools.partial(torchcodec, seek_mode="mappings"),
    "torchcodec_mappings_counted": functools.partial(torchcodec, seek_mode="mappings_counted"),
    "decord": decord,
    "ray": ray,
    "opencv": functools.partial(opencv, seek=False),
    "opencv_seek": functools.partial(opencv, seek=True),
    "daft": daft,
    "daft_seek": daft_seek,
}


def version_of(contender: str) -> str:
    name = contender.split("_")[0]
    if name == "ffmpeg":
        return subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True).stdout.split()[2]
    return version({"opencv": "opencv-python-headless"}.get(name, name))


def cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def warm_up(contender: str, path: str, request: Request) -> None:
    """Import and decode a first frame, so that neither is timed."""
    cores = os.sched_getaffinity(0)
    if contender.startswith("daft"):  # waits for itself forever if it sees a single core when its threads start
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    CONTENDERS[contender](path, request._replace(sampling="keyframes", times=[0.0], numbers=[0]))
    if contender.startswith("daft"):
        for thread in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), cores)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("contender", choices=CONTENDERS)
    contender = parser.parse_args().contender
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    ready = None
    for line in sys.stdin:
        asked = json.loads(line)
        out, request = asked.pop("out"), Request(**asked)
        try:
            if ready != request.file:
                warm_up(contender, request.file, request)
                ready = request.file
            began = cpu_seconds()
            frames, times = CONTENDERS[contender](request.file, request)
            seconds = cpu_seconds() - began
        except Exception as error:  # noqa: BLE001  # whatever a decoder raises, it is its answer
            answer: dict[str, Any] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        else:
            answer = {"cpu_seconds": seconds, "pts_seconds": times, "version": version_of(contender)}
            if out is not None:
                np.save(out, frames)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
