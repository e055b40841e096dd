"""Streams of every kind of GOP in; CPU seconds of sparse decoding over those of decoding all, and over the floor, out.

pyav:      a plain loop that decodes every frame with one thread and keeps the wanted ones
floor:     decodes what the wanted frames cannot do without, by a list made before it is timed; nothing can be faster
vidbatch:  read_frames, which has to find out by itself

All make the same pictures of 224x224 with the same code, and their frames are compared byte for byte before a time
counts. Each contender is a process of its own on one pinned core; its CPU seconds are those from opening the file to
the last picture.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import archives
import harness
from harness import InvalidRun

SECONDS, QUICK_SECONDS = 24, 6
SAMPLINGS = ("all", "fps=1", "fps=0.2", "keyframes")
CONTENDERS = ("pyav", "floor", "vidbatch")
ALLOWED_OVER_FLOOR = 1.08


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


# --- what each contender does ---------------------------------------------------------------------------------------


def child(contender: str, path: str, sampling: str) -> dict[str, Any]:
    """One contender's work: a digest of times and pictures, and the CPU seconds it took."""
    from vidbatch.decode import read_frames
    from vidbatch.schema import FrameSpec

    spec = FrameSpec(224, 224)
    read_frames(path, sampling="fps=1", size=spec, end_seconds=0.5)  # imports, and filters that are set up once
    if contender == "vidbatch":
        began = time.process_time()
        frames, times, report = read_frames(path, sampling=sampling, size=spec)
        seconds = time.process_time() - began
        facts = {"decoded": report.num_frames_decoded, "because": report.all_decoded_because, "kept": len(times)}
        return {"cpu_seconds": seconds, "digest": _digest(frames, times.tolist()), **facts}
    wanted, plan = _wanted_and_plan(path, sampling)
    began = time.process_time()
    frames, times = _decode(path, wanted, plan if contender == "floor" else None)
    return {"cpu_seconds": time.process_time() - began, "digest": _digest(frames, times), "kept": len(times)}


def _digest(frames: Any, times: list[float]) -> str:
    return hashlib.sha256(bytes(memoryview(frames).cast("B")) + repr(times).encode()).hexdigest()


def _wanted_and_plan(path: str, sampling: str) -> tuple[set[int], list[str]]:
    """The wanted presentation times, and in decoding order what to do with each packet: found out untimed."""
    import av

    from vidbatch.decode import read_frames
    from vidbatch.decoding.entries import Entries
    from vidbatch.schema import FrameSpec

    _, times, _ = read_frames(path, sampling=sampling, size=FrameSpec(8, 8))
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        codec = stream.codec_context.codec.canonical_name
        entries = Entries(codec, stream.codec_context.extradata)
        wanted = {round(time / stream.time_base) for time in times}
        packets = [packet for packet in container.demux(stream) if packet.size]
        return wanted, list(_plan(packets, wanted, entries, skips=codec in ("h264", "mpeg4")))


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


def _decode(path: str, wanted: set[int], plan: list[str] | None) -> tuple[Any, list[float]]:
    import av
    import numpy as np

    from vidbatch.decoding.pictures import PictureMaker
    from vidbatch.decoding.types import TargetSize
    from vidbatch.schema import FrameSpec

    maker = PictureMaker(TargetSize(*FrameSpec(224, 224)))
    out = np.empty((len(wanted), 224, 224, 3), np.uint8)
    times: list[float] = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        for other in container.streams:
            if other is not stream:
                other.discard = av.stream.Discard.all
        context = stream.codec_context
        context.thread_count = 1

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


def measure(stream: Stream, path: Path, sampling: str, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """CPU seconds of all contenders, in turn, after their frames were compared."""
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    facts: dict[str, Any] = {}
    for _ in range(rounds):
        digests = set()
        for contender in CONTENDERS:
            usage = harness.run(
                ["taskset", "-c", "0", *harness.python("decode.py", "--child", contender, path, sampling)]
            )
            digests.add(usage.report["digest"])
            seconds[contender].append(usage.report["cpu_seconds"])
            facts = usage.report if contender == "vidbatch" else facts
        if len(digests) > 1:
            raise InvalidRun(f"other frames of {stream.name} at {sampling}")
    row = {
        "stream": stream.name,
        "gop": stream.gop,
        "sampling": sampling,
        "kept": facts["kept"],
        "decoded": facts["decoded"],
        "all_decoded_because": facts["because"],
        "over_all": harness.ratio(seconds["vidbatch"], seconds["pyav"]),
        "over_floor": harness.ratio(seconds["vidbatch"], seconds["floor"]),
        "cpu_seconds": {name: harness.spread(values) for name, values in seconds.items()},
    }
    say(f"{stream.name:<18} {stream.gop:<10} {sampling:<10} {row['over_all']['median']:.2f} of decoding all, "
        f"{row['over_floor']['median']:.2f} of the floor")  # fmt: skip
    return row


def plot(folder: Path, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(row["stream"] for row in rows))
    samplings = list(dict.fromkeys(row["sampling"] for row in rows))
    made, axis = harness.figure(width=8.0, height=3.6)
    width = 0.8 / len(samplings)
    for number, sampling in enumerate(samplings):
        found = {row["stream"]: row["over_all"]["median"] for row in rows if row["sampling"] == sampling}
        places = [names.index(name) + (number - len(samplings) / 2 + 0.5) * width for name in found]
        axis.bar(places, list(found.values()), width, label=sampling)
    axis.axhline(1.0, color="#bc4749", linestyle="--", linewidth=1)
    axis.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=8)
    axis.set_ylabel("CPU over decoding all")
    axis.set_title("CPU of a sample over that of decoding every frame", loc="left", fontsize=10)
    axis.legend(frameon=False, fontsize=8, ncols=len(samplings))
    harness.save_plot(folder, "decode", made)


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--child", nargs=3, metavar=("CONTENDER", "FILE", "SAMPLING"), help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help="pairs of every figure")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(*options.child)))
        return
    harness.CACHE.mkdir(parents=True, exist_ok=True)
    rounds = options.rounds or (1 if options.quick else 5)
    streams = STREAMS[::4] if options.quick else STREAMS
    seconds = QUICK_SECONDS if options.quick else SECONDS
    rows = []
    for stream in streams:
        path = make(stream, seconds)
        rows += [measure(stream, path, sampling, rounds, print) for sampling in SAMPLINGS]
    if not options.quick:
        rows.append(measure(TEN_MINUTES, make(TEN_MINUTES, 0), "count=8", min(rounds, 3), print))
    sparse = [row["over_floor"]["median"] for row in rows if row["sampling"] != "all"]
    content = {
        "rows": rows,
        "sparse_over_floor_geometric_mean": round(statistics.geometric_mean(sparse), 4),
        "allowed_over_floor": ALLOWED_OVER_FLOOR,
        "reached": max(sparse) <= ALLOWED_OVER_FLOOR,
        "pinned_core_of": len(os.sched_getaffinity(0)),
    }
    folder = harness.results_dir(options)
    harness.save(folder, "decode", content, quick=options.quick)
    plot(folder, rows)
    print(
        f"{content['sparse_over_floor_geometric_mean']} of the floor (geometric mean), {ALLOWED_OVER_FLOOR} asked for"
    )


if __name__ == "__main__":
    main()
