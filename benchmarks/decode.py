"""Streams of every kind of GOP in; ratios of CPU seconds to decoding all, the floor and peers out.

pyav:      a plain loop that decodes every frame with one thread and keeps the wanted ones
floor:     decodes what the wanted frames cannot do without, by a list made before it is timed
vidbatch:  read_frames, which has to find out by itself
peers:     other decoders, in an environment of their own (peers.py); not in a quick run

All make pictures of 256x144, the whole frame, bilinearly: some peers can do no other. Frames are compared before a time
counts: the first three must agree byte for byte; peers scale otherwise, so theirs must have the right times and come
near, or are reported and left out. Every contender is one process on one pinned core that is asked for a sample at a
time, in turn; its CPU seconds are those from opening the file to the last picture.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

import archives
import harness
import numpy as np
from harness import InvalidRun

SECONDS, QUICK_SECONDS = 20, 6
SAMPLINGS = ("all", "fps=1", "fps=0.2", "keyframes")
OURS = ("pyav", "floor", "vidbatch")
PEERS = (
    "ffmpeg",
    "torchcodec_exact",
    "torchcodec_approximate",
    "torchcodec_mappings",
    "torchcodec_mappings_counted",
    "decord",
    "ray",
    "opencv",
    "daft",
)
SEEKING_PEERS = ("ffmpeg_seek", "opencv_seek", "daft_seek")
"""Worth their time only where frames are far apart."""
HEIGHT, WIDTH = 144, 256
ALLOWED_OVER_FLOOR = 1.08
ROUNDS, ROUNDS_OF_OURS = 5, 15
"""Pairs of every figure. Single pairs are up to 0.2 off here: of five the median does not tell 1.04 from 1.08."""
NEAR_LEVELS = 6.0
"""Largest mean difference of a picture's levels that other scalers and rounding make; the frame beside differs more."""
TIMEOUT_SECONDS = 600.0
LONGEST = {"VP9", "H.264 fast", "H.264, 10 minutes"}
"""Measured first, so that no lane is left alone with them."""


class Stream(NamedTuple):
    """How a stream is made: a real clip, its height, and ffmpeg's encoder options."""

    name: str
    gop: str
    source: str
    height: int
    options: str
    suffix: str = "mp4"


STREAMS = (
    Stream("H.264 medium", "B-pyramid", "sintel_trailer.mp4", 720, "-c:v libx264 -preset medium -g 250"),
    Stream("H.264 fast", "B-pyramid", "sintel_trailer.mp4", 1080, "-c:v libx264 -preset fast -g 250"),
    Stream("H.264 flat", "flat B", "bunny_trailer.mp4", 720, "-c:v libx264 -x264-params b-pyramid=none -g 250"),
    Stream("H.264 camera", "P only", "bunny_trailer.mp4", 720, "-c:v libx264 -preset fast -tune zerolatency -g 250"),
    Stream("H.264 intra", "intra", "sintel_trailer.mp4", 720, "-c:v libx264 -preset fast -g 1 -crf 26"),
    Stream("HEVC", "B-pyramid", "sintel_trailer.mp4", 720, "-c:v libx265 -preset fast -x265-params log-level=0 -g 250"),
    Stream("MPEG-4", "flat B", "bunny_trailer.mp4", 720, "-c:v mpeg4 -q:v 4 -bf 2 -g 250"),
    Stream("VP9", "hidden", "sintel_trailer.mp4", 720, "-c:v libvpx-vp9 -b:v 2M -cpu-used 5 -row-mt 1 -g 250", "webm"),
    Stream("AV1", "hidden", "bunny_trailer.mp4", 720, "-c:v libsvtav1 -preset 10 -g 250"),
)
TEN_MINUTES = Stream("H.264, 10 minutes", "B-pyramid", "bunny_whole.mp4", 0, "")


def make(stream: Stream, seconds: int) -> Path:
    """The stream's file, encoded once."""
    if not stream.height:
        return archives.clip_path(stream.source)

    def encode(folder: Path) -> None:
        size = ("-vf", f"scale=-2:{stream.height}:flags=bicubic", "-pix_fmt", "yuv420p", "-an")
        cut = ("-ss", 10, "-t", seconds, "-i", archives.clip_path(stream.source))
        archives.ffmpeg(*cut, *size, *stream.options.split(), folder / f"video.{stream.suffix}")

    name = stream.name.lower().replace(" ", "_").replace(".", "")
    return next(archives.built(f"decode_{name}_{seconds}s", encode).iterdir())


# --- the contenders -------------------------------------------------------------------------------------------------


class Request(NamedTuple):
    """A sample to make: the file, how its frames are chosen, their times in seconds and their numbers."""

    file: str
    sampling: str
    times: list[float]
    numbers: list[int]
    height: int = HEIGHT
    width: int = WIDTH


class Contender:
    """A process on the pinned core that answers one request at a time."""

    def __init__(self, name: str, core: int) -> None:
        own = [*harness.python("decode.py"), "--serve"]
        program = own if name in OURS else [str(harness.PEERS_PYTHON), str(harness.HERE / "peers.py")]
        command = ["taskset", "-c", str(core), *program, name]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, request: Request, out: Path | None) -> dict[str, Any]:
        """The report, with `error` if the contender cannot do it; its frames are saved to `out`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.poll() is not None:
            return {"error": "it ended before"}
        print(json.dumps(request._asdict() | {"out": out and str(out)}), file=self._process.stdin, flush=True)
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._process.stdout, selectors.EVENT_READ)
            if not waiting.select(TIMEOUT_SECONDS):
                self.close()
                return {"error": f"no answer within {TIMEOUT_SECONDS:.0f} s"}
        line = self._process.stdout.readline()
        return dict(json.loads(line)) if line else {"error": "it ended without an answer"}

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def serve(name: str) -> None:
    """One of our contenders: requests in on stdin, reports out on stdout."""
    ready = None
    for line in sys.stdin:
        asked = json.loads(line)
        out, request = asked.pop("out"), Request(**asked)
        if ready != request.file:
            _read(request._replace(sampling="fps=1"), end_seconds=0.5)  # imports, filters that are set up once
            ready = request.file
        plan = _plan_of(request) if name == "floor" else None
        began = time.process_time()
        facts: dict[str, Any] = {}
        if name == "vidbatch":
            frames, times, report = _read(request)
            facts = {"decoded": report.num_frames_decoded, "because": report.all_decoded_because}
        else:
            frames, times = _decode(request, plan)
        seconds = time.process_time() - began
        if out is not None:
            np.save(out, frames)
        print(json.dumps({"cpu_seconds": seconds, "pts_seconds": list(times), **facts}), flush=True)


def _read(request: Request, **options: Any) -> Any:
    from vidbatch.decode import read_frames
    from vidbatch.schema import FrameSpec

    size = FrameSpec(request.height, request.width, 1.0, "bilinear")
    return read_frames(request.file, sampling=request.sampling, size=size, **options)


def request_of(path: Path, sampling: str) -> Request:
    """The request whose times are those of vidbatch: other contenders are told which frames, not left to guess."""
    import av

    _, times, _ = _read(Request(str(path), sampling, [], [], 8, 8))
    with av.open(str(path)) as container:
        base = container.streams.video[0].time_base
        assert base is not None
        shown = sorted(p.pts for p in container.demux(video=0) if p.size and p.pts is not None and not p.is_discard)
    numbers = {tick: number for number, tick in enumerate(shown)}
    return Request(str(path), sampling, list(times), [numbers[round(seconds / base)] for seconds in times])


def _plan_of(request: Request) -> list[str]:
    """In decoding order what the floor does with each packet."""
    import av

    from vidbatch.decoding.entries import Entries

    with av.open(request.file) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        codec = stream.codec_context.codec.canonical_name
        entries = Entries(codec, stream.codec_context.extradata)
        wanted = {round(seconds / stream.time_base) for seconds in request.times}
        packets = [packet for packet in container.demux(stream) if packet.size]
        return list(_plan(packets, wanted, entries, skips=codec in ("h264", "mpeg4")))


def _plan(packets: list[Any], wanted: set[int], entries: Any, *, skips: bool) -> Iterator[str]:
    """`decode`, `skip` (the decoder leaves it out if nothing refers to it), `drop`, or `enter`, for each packet."""
    entered = [n for n, packet in enumerate(packets) if packet.is_keyframe and (not n or entries.include(packet))]
    ends = [*entered[1:], len(packets)]
    # Not where a wanted picture is shown before the keyframe it is stored behind: it needs the group before.
    leads = {start for start, end in zip(entered, ends, strict=True)
             if any(p.pts in wanted and p.pts < packets[start].pts for p in packets[start:end])}  # fmt: skip
    starts = [start for start in entered if not start or start not in leads]
    for start, end in zip(starts, [*starts[1:], len(packets)], strict=True):
        inside = [n for n in range(start, end) if packets[n].pts in wanted]
        last = max(inside, default=-1)
        for number in range(start, end):
            if number > last:
                yield "drop"
            elif number == start:
                yield "enter"
            elif packets[number].pts in wanted:
                yield "decode"
            elif skips:
                yield "skip"
            else:
                yield "decode" if entries.is_needed_by_others(packets[number]) else "drop"


def _decode(request: Request, plan: list[str] | None) -> tuple[Any, list[float]]:
    import av

    from vidbatch.decoding.pictures import PictureMaker
    from vidbatch.decoding.types import TargetSize

    maker = PictureMaker(TargetSize(request.height, request.width, 1.0, "bilinear"))
    out = np.empty((len(request.times), request.height, request.width, 3), np.uint8)
    times: list[float] = []
    with av.open(request.file) as container:
        stream = container.streams.video[0]
        for other in container.streams:
            if other is not stream:
                other.discard = av.stream.Discard.all
        context = stream.codec_context
        context.thread_count = 1
        assert stream.time_base is not None
        wanted = {round(seconds / stream.time_base) for seconds in request.times}

        def keep(frames: list[Any]) -> None:
            for frame in frames:
                if frame.pts in wanted:
                    maker.make(frame, stream.sample_aspect_ratio, out[len(times)])
                    times.append(float(frame.pts * stream.time_base))

        packets = (packet for packet in container.demux(stream) if packet.size)
        if plan is None:
            for packet in packets:
                keep(context.decode(packet))
        else:
            for packet, what in zip(packets, plan, strict=True):
                if what == "drop":
                    continue
                if what == "enter":
                    keep(context.decode(None))
                    context.flush_buffers()
                context.skip_frame = "NONREF" if what == "skip" else "DEFAULT"
                keep(context.decode(packet))
        keep(context.decode(None))
    return out, times


# --- measuring ------------------------------------------------------------------------------------------------------


class Bench:
    """All contenders and what is measured of them."""

    def __init__(self, contenders: dict[str, Contender], rounds: int, folder: Path) -> None:
        self._contenders = contenders
        self._rounds = rounds
        self._folder = folder

    def measure(self, stream: Stream, path: Path, sampling: str) -> dict[str, Any]:
        """CPU seconds of all contenders for one sample, in turn, after their frames were compared."""
        request = request_of(path, sampling)
        seconds: dict[str, list[float]] = {}
        unfit: dict[str, str] = {}
        facts: dict[str, Any] = {}
        truth = self._folder / "vidbatch.npy"
        for number in range(self._rounds):
            for name in sorted(self._contenders, key=lambda name: name != "vidbatch"):
                seeks_in_vain = name in SEEKING_PEERS and not sampling.startswith("count=")
                if name in unfit or seeks_in_vain:
                    continue
                out = self._folder / f"{name}.npy" if number == 0 else None
                report = self._contenders[name].ask(request, out)
                why = report.get("error")
                if why is None and out is not None:
                    why = _difference(request, report, np.load(out), np.load(truth), exact=name in OURS)
                if why is not None and name in OURS:
                    raise InvalidRun(f"{name}, {stream.name}, {sampling}: {why}")
                if why is not None:
                    unfit[name] = why
                    continue
                seconds.setdefault(name, []).append(report["cpu_seconds"])
                facts |= {key: report[key] for key in ("decoded", "because") if key in report}
        return _row(stream, request, seconds, unfit, facts)


def _row(
    stream: Stream,
    request: Request,
    seconds: dict[str, list[float]],
    unfit: dict[str, str],
    facts: dict[str, Any],
) -> dict[str, Any]:
    ours = seconds["vidbatch"]
    over = {name: harness.ratio(ours, values) for name, values in seconds.items() if name != "vidbatch"}
    peers = {name: found for name, found in over.items() if name not in OURS}
    best = max(peers, key=lambda name: peers[name]["median"], default=None)
    row = {
        "stream": stream.name,
        "gop": stream.gop,
        "sampling": request.sampling,
        "kept": len(request.times),
        "decoded": facts["decoded"],
        "all_decoded_because": facts["because"],
        "over_all": over["pyav"],
        "over_floor": over["floor"],
        "over_peers": peers,
        "best_peer": best,
        "unfit_peers": unfit,
        "cpu_seconds": {name: harness.spread(values) for name, values in seconds.items()},
    }
    said = f"; {peers[best]['median']:.2f} of {best}" if best else ""
    shares = f"{over['pyav']['median']:.2f} of decoding all, {over['floor']['median']:.2f} of the floor{said}"
    print(f"{stream.name:<18} {stream.gop:<10} {request.sampling:<10} {shares}", flush=True)
    return row


def with_peers_of(row: dict[str, Any], before: list[dict[str, Any]]) -> dict[str, Any]:
    """A row with what an earlier run found of the other decoders for the same sample."""
    same = next(old for old in before if (old["stream"], old["sampling"]) == (row["stream"], row["sampling"]))
    peers = {name: of for name, of in same["cpu_seconds"].items() if name not in OURS}
    kept = {name: same[name] for name in ("over_peers", "best_peer", "unfit_peers")}
    return row | kept | {"cpu_seconds": row["cpu_seconds"] | peers}


def _difference(request: Request, report: dict[str, Any], frames: Any, truth: Any, *, exact: bool) -> str | None:
    """What tells a contender's frames from those asked for; None if nothing does."""
    if frames.shape != truth.shape:
        return f"{len(frames)} frames, {len(truth)} were asked for"
    times = report["pts_seconds"]
    if exact:
        same = times == request.times and np.array_equal(frames, truth)
        return None if same else "other frames"
    apart = min((b - a for a, b in itertools.pairwise(request.times)), default=1.0)
    late = max((abs(a - b) for a, b in zip(times or (), request.times, strict=bool(times))), default=0.0)
    if late > min(apart / 2, 0.02):
        return f"a frame {late:.3f} s from the time asked for"
    levels = max(float(np.abs(a.astype(np.int16) - b).mean()) for a, b in zip(frames, truth, strict=True))
    return None if levels <= NEAR_LEVELS else f"a picture that differs by {levels:.1f} levels on average"


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Geometric means by sampling: over decoding all, over the floor and over the best peer of each stream."""
    found: dict[str, Any] = {}
    for sampling in dict.fromkeys(row["sampling"] for row in rows):
        of = [row for row in rows if row["sampling"] == sampling]
        ratios = {
            "over_all": [row["over_all"]["median"] for row in of],
            "over_floor": [row["over_floor"]["median"] for row in of],
            "over_best_peer": [row["over_peers"][row["best_peer"]]["median"] for row in of if row["best_peer"]],
        }
        found[sampling] = {
            key: round(statistics.geometric_mean(values), 4) if values else None for key, values in ratios.items()
        }
    return found


def plot(folder: Path, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(row["stream"] for row in rows))
    samplings = list(dict.fromkeys(row["sampling"] for row in rows))
    made, axes = harness.figure(width=8.0, height=6.4, rows=2)
    width = 0.8 / len(samplings)
    what: tuple[tuple[str, Callable[[dict[str, Any]], Any]], ...] = (
        ("decoding every frame", lambda row: row["over_all"]["median"]),
        ("the best other decoder", lambda row: row["best_peer"] and row["over_peers"][row["best_peer"]]["median"]),
    )
    for axis, (label, value) in zip(np.ravel(axes), what, strict=True):
        for number, sampling in enumerate(samplings):
            found = {row["stream"]: value(row) or 0.0 for row in rows if row["sampling"] == sampling}
            places = [names.index(name) + (number - len(samplings) / 2 + 0.5) * width for name in found]
            axis.bar(places, list(found.values()), width, label=sampling)
        axis.axhline(1.0, color="#bc4749", linestyle="--", linewidth=1)
        axis.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=8)
        axis.set_ylabel("ratio of CPU seconds")
        axis.set_title(f"CPU of a sample over that of {label}", loc="left", fontsize=10)
    axes[0, 0].legend(frameon=False, fontsize=8, ncols=len(samplings))
    harness.save_plot(folder, "decode", made)


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--serve", choices=OURS, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help="pairs of every figure")
    parser.add_argument("--only", choices=("ours",), help="measure these anew; the others' figures stay as they are")
    parser.add_argument("--lanes", type=int, default=1, help="cores on which streams are measured side by side")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    harness.CACHE.mkdir(parents=True, exist_ok=True)
    with_peers = not options.quick and not options.only and harness.PEERS_PYTHON.exists()
    streams, seconds = (STREAMS[::4], QUICK_SECONDS) if options.quick else (STREAMS, SECONDS)
    paths = {stream: make(stream, seconds) for stream in streams}
    cores = sorted(os.sched_getaffinity(0))[: options.lanes]
    names = OURS + (PEERS + SEEKING_PEERS if with_peers else ())
    work: list[tuple[Stream, Path, tuple[str, ...]]] = [(stream, path, SAMPLINGS) for stream, path in paths.items()]
    if not options.quick:
        work.append((TEN_MINUTES, make(TEN_MINUTES, 0), ("count=8",)))
    work.sort(key=lambda item: item[0].name not in LONGEST)
    rounds = options.rounds or (1 if options.quick else ROUNDS_OF_OURS if options.only else ROUNDS)
    with ExitStack() as stack, ThreadPoolExecutor(len(cores)) as pool:
        benches: Queue[Bench] = Queue()
        for core in cores:
            contenders = {name: stack.enter_context(closing(Contender(name, core))) for name in names}
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            benches.put(Bench(contenders, rounds, folder))

        def measure(stream: Stream, path: Path, samplings: tuple[str, ...]) -> list[dict[str, Any]]:
            bench = benches.get()
            try:
                return [bench.measure(stream, path, sampling) for sampling in samplings]
            finally:
                benches.put(bench)

        found = list(pool.map(measure, *zip(*work, strict=True)))
    order = [stream.name for stream in (*STREAMS, TEN_MINUTES)]
    rows = sorted(itertools.chain.from_iterable(found), key=lambda row: order.index(row["stream"]))
    folder = harness.results_dir(options)
    peers_measured = harness.machine()
    if options.only:
        before = json.loads((folder / "decode.json").read_text())
        peers_measured = before.get("peers_measured", before["machine"])
        rows = [with_peers_of(row, before["rows"]) for row in rows]
    sparse = [row["over_floor"]["median"] for row in rows if row["sampling"] != "all"]
    content = {
        "rows": rows,
        "geometric_means": summary(rows),
        "sparse_over_floor_geometric_mean": round(statistics.geometric_mean(sparse), 4),
        "allowed_over_floor": ALLOWED_OVER_FLOOR,
        "reached": max(sparse) <= ALLOWED_OVER_FLOOR,
        "cores_used": len(cores),
        "rounds": rounds,
        "peers_measured": peers_measured,
    }
    harness.save(folder, "decode", content, quick=options.quick)
    plot(folder, rows)
    print(json.dumps(content["geometric_means"], indent=1))


if __name__ == "__main__":
    main()
