"""Many videos and one long one in; out, how two cores get through them soonest: two decoders, or one with two threads.

Both ways decode the same clips by vidbatch's own decoder, each in processes that are up before the clock starts; the
long video is cut into clips by `plan`, whose time counts. Frames are compared byte for byte before a time does. Wall
seconds are what is compared: threads buy time, not CPU; CPU seconds stand beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

import archives
import harness
from harness import InvalidRun

ROUNDS, QUICK_ROUNDS = 5, 1
SAMPLINGS = ("fps=1", "all")
HEIGHT, WIDTH = 224, 224


class Way(NamedTuple):
    """How many decoders, and how many threads each has."""

    decoders: int
    threads: int


WAYS = {"two decoders": Way(2, 1), "one decoder, two threads": Way(1, 2)}


class Worker:
    """A process that decodes clips; it is asked for one at a time."""

    def __init__(self, threads: int) -> None:
        command = harness.python("threads.py", "--serve", threads)
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask({})  # until everything is imported

    def ask(self, clip: dict[str, Any]) -> dict[str, Any]:
        """What `serve` answers to a clip."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(clip), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def serve(threads: int) -> None:
    """Answer for every clip of a line of stdin the digest of its frames and the CPU seconds they took."""
    from vidbatch.decode import read_frames
    from vidbatch.decoding import container
    from vidbatch.schema import FrameSpec

    container.DECODER_THREADS = threads  # type: ignore[misc]
    for line in sys.stdin:
        clip = json.loads(line)
        began = time.process_time()
        if clip:
            frames, seconds, _ = read_frames(clip.pop("url"), size=FrameSpec(HEIGHT, WIDTH), **clip)
            digest = hashlib.blake2b(frames.data, digest_size=16).hexdigest()
            answer = {"digest": digest, "times": seconds.tolist()}
        else:
            answer = {}
        print(json.dumps({**answer, "cpu_seconds": time.process_time() - began}), flush=True)


def decode(workers: list[Worker], clips: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers to all clips, in order; whoever is free takes the next."""
    todo: SimpleQueue[int] = SimpleQueue()
    for number in range(len(clips)):
        todo.put(number)
    answers: dict[int, dict[str, Any]] = {}

    def work(worker: Worker) -> None:
        while True:
            try:
                number = todo.get_nowait()
            except Empty:
                return
            answers[number] = worker.ask(clips[number])

    threads = [Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[number] for number in range(len(clips))]


def loads(*, quick: bool) -> Iterator[tuple[str, list[Path]]]:
    """(what, videos): several, or one long one."""
    folder = archives.long_gops(seconds=20, copies=1, max_pieces=1 if quick else 4)
    yield "12 videos of 20 s", sorted(folder.glob("*.mp4"))
    yield "one video of 10 minutes", [archives.clip_path("bunny_trailer.mp4" if quick else "bunny_whole.mp4")]


def clips_of(videos: list[Path], sampling: str) -> list[dict[str, Any]]:
    """The clips that `label` would make of the videos."""
    from vidbatch import schema
    from vidbatch.config import LabelConfig
    from vidbatch.decode import plan

    config = LabelConfig(inputs=("-",), output="-", sampling=sampling)
    found = []
    for video in videos:
        row = dict.fromkeys(field.name for field in schema.CLIP)
        row |= {"source": str(video), "url": str(video), "num_clips": 1, "size_bytes": video.stat().st_size,
                "content_version": ""}  # fmt: skip
        clips = plan(row, config) if video.stat().st_size > config.long_video_mb * 2**20 else [row]
        found += [{"url": clip["source"], "sampling": sampling, "start_seconds": clip["start_seconds"],
                   "end_seconds": clip["end_seconds"]} for clip in clips]  # fmt: skip
    return found


def measure(what: str, videos: list[Path], sampling: str, rounds: int) -> dict[str, Any]:
    """One load in both ways, in turn."""
    walls: dict[str, list[float]] = {name: [] for name in WAYS}
    cpus: dict[str, list[float]] = {name: [] for name in WAYS}
    workers = {name: [Worker(way.threads) for _ in range(way.decoders)] for name, way in WAYS.items()}
    try:
        for _ in range(rounds):
            given = {}
            for name in WAYS:
                began = time.perf_counter()
                clips = clips_of(videos, sampling)
                answers = decode(workers[name], clips)
                walls[name].append(time.perf_counter() - began)
                cpus[name].append(sum(answer.pop("cpu_seconds") for answer in answers))
                given[name] = answers
            first, second = given.values()
            if first != second:
                raise InvalidRun(f"{what}, {sampling}: the two ways gave different frames")
    finally:
        for worker in (worker for some in workers.values() for worker in some):
            worker.close()
    one, other = WAYS
    return {
        "what": what,
        "sampling": sampling,
        "clips": len(clips),
        "wall_over_threads": harness.ratio(walls[one], walls[other]),
        "cpu_over_threads": harness.ratio(cpus[one], cpus[other]),
        "wall_seconds": {name: harness.spread(values, 2) for name, values in walls.items()},
    }


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve)
        return
    rows = []
    for what, videos in loads(quick=options.quick):
        for sampling in SAMPLINGS:
            rows.append(measure(what, videos, sampling, QUICK_ROUNDS if options.quick else ROUNDS))
            print(f"{what}, {sampling}: two decoders take {rows[-1]['wall_over_threads']['median']:.2f} of the time")
    harness.save(harness.results_dir(options), "threads", {"ways": list(WAYS), "rows": rows}, quick=options.quick)


if __name__ == "__main__":
    main()
