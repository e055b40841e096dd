"""A ladder of heights against an ffmpeg that writes the same, and how near qualities come to those asked for.

    python benchmarks/ladder.py                     about 15 minutes

Ladders: 20 s of a trailer of 720p into 720, 540 and 360 lines, segments of 4 s, x264 at crf 20, one thread each, by
`vidbatch enhance --container cmaf` and by one ffmpeg that decodes once, splits, scales and writes HLS and DASH.
Qualities: the real recordings of enhance_clips.py whose sizes are even (whole), by x264 and SVT-AV1, at two targets;
XPSNR of luma is that of all frames of what came out, which the search has seen parts of.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import harness
from clips import clip_path
from contender_enhance import enhanced
from enhance_clips import JUDGED_BY, TUNED_ON

from vidbatch.enhancing.target import xpsnr
from vidbatch.enhancing.types import Trial, added_trials

HEIGHTS: Final = (720, 540, 360)
"""Of whole widths: of others ffmpeg makes no ladder."""
SEGMENT_SECONDS: Final = 4
TARGETS: Final = (34, 38)
CODECS: Final = {"h264": "fast", "av1": "9"}
"""With their presets."""


def ffmpeg_ladder(source: Path, folder: str) -> str:
    """The command line; its last line is a report."""
    split = "".join(f"[s{n}]" for n in range(len(HEIGHTS)))
    sizes = [f"[s{n}]scale=-2:{height}:flags=bicubic+accurate_rnd[v{n}]" for n, height in enumerate(HEIGHTS)]
    maps = " ".join(f"-map '[v{n}]'" for n in range(len(HEIGHTS)))
    return (
        f"ffmpeg -v error -nostdin -y -threads 1 -filter_complex_threads 1 -i {source} "
        f"-filter_complex '[0:v]split={len(HEIGHTS)}{split};{';'.join(sizes)}' {maps} -c:v libx264 -crf 20 -g 250 "
        f"-threads 1 -sc_threshold 0 -force_key_frames 'expr:gte(t,n_forced*{SEGMENT_SECONDS})' -f dash "
        f"-hls_playlist 1 -single_file 1 -seg_duration {SEGMENT_SECONDS} -adaptation_sets id=0,streams=v "
        f"{folder}/manifest.mpd && "
        f"echo '{{\"frames\": '$(ffprobe -v error -count_packets -show_entries stream=nb_read_packets -of csv=p=0 "
        f"{folder}/manifest-stream0.mp4)'}}'"
    )


def ladders(*, rounds: int, seconds: int) -> dict[str, Any]:
    """Time and CPU over those of ffmpeg."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.mp4"
        cut = ["ffmpeg", "-v", "error", "-nostdin", "-ss", "10", "-i", str(clip_path("sintel_trailer.mp4"))]
        size = ["-vf", "scale=1280:-2", "-t", str(seconds), "-an", "-c:v", "libx264", "-crf", "18"]
        subprocess.run([*cut, *size, str(source)], check=True)
        settings = {"container": "cmaf", "heights": HEIGHTS, "segment_seconds": SEGMENT_SECONDS}
        ours = harness.python("contender_enhance.py", source, "none", 1, json.dumps(settings))
        usages = harness.in_turn(
            {
                "vidbatch": lambda: harness.run(ours),
                "ffmpeg": lambda: harness.run(["bash", "-c", ffmpeg_ladder(source, folder)]),
            },
            rounds,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
        frames = {usage.report["frames"] for of in usages.values() for usage in of}
        if len(frames) != 1:
            raise harness.InvalidRun(f"not as many frames: {frames}")
        found = usages["vidbatch"], usages["ffmpeg"]
        return {
            "heights": HEIGHTS,
            "frames": frames.pop(),
            "time_over_ffmpeg": harness.ratio(*([usage.wall_seconds for usage in of] for of in found)),
            "cpu_over_ffmpeg": harness.ratio(*([usage.cpu_seconds for usage in of] for of in found)),
        }


def is_taken_as_it_is(clip: str) -> bool:
    """Whether encoders get the pictures as they are: others are padded or converted, and hard to compare with."""
    with av.open(str(clip_path(clip))) as file:
        frame = next(file.decode(video=0))
    return frame.format.name == "yuv420p" and frame.width % 2 == frame.height % 2 == 0


def frames_of(path: Path) -> list[Any]:
    with av.open(str(path)) as file:
        return list(file.decode(video=0))


def quality(clip: str, codec: str, target: float) -> dict[str, Any]:
    """What came of a video for which a quality was asked."""
    source = clip_path(clip)
    settings = {"codec": codec, "preset": CODECS[codec], "target_xpsnr": target, "crf": None}
    with tempfile.TemporaryDirectory() as folder:
        job, facts = enhanced(source, {}, folder, settings)
        levels = list(xpsnr(frames_of(source), frames_of(Path(job.file))))
        size_bytes = Path(job.file).stat().st_size
    found = -10 * math.log10(statistics.mean(10 ** (-level / 10) for level in levels))
    return {
        "clip": clip, "codec": codec, "target_db": target, "xpsnr_db": round(found, 2),
        "crf": round(facts.crf_of_frames / facts.num_frames, 2), "num_frames": facts.num_frames,
        "size_bytes": size_bytes,
        "curve": [[t.crf, round(8 * t.size_bytes / t.seconds), round(t.xpsnr_db, 2)]
                  for t in added_trials([Trial(*values) for values in facts.trials])],
    }  # fmt: skip


def qualities(clips: tuple[str, ...], codecs: tuple[str, ...]) -> dict[str, Any]:
    rows = []
    for clip in clips:
        for codec in codecs:
            for target in TARGETS:
                rows.append(quality(clip, codec, target))
                print({k: v for k, v in rows[-1].items() if k != "curve"}, file=sys.stderr, flush=True)
    # What a codec cannot reach for a clip, or does at its worst, says nothing of the search.
    within = [row for row in rows if 8 < row["crf"] < 46]
    errors = [row["xpsnr_db"] - row["target_db"] for row in within]
    worst = max(within, key=lambda row: abs(row["xpsnr_db"] - row["target_db"]))
    return {
        "rows": rows,
        "reachable": len(within),
        "mean_error_db": round(statistics.mean(errors), 2),
        "mean_absolute_error_db": round(statistics.mean(map(abs, errors)), 2),
        "worst": {name: worst[name] for name in ("clip", "codec", "target_db", "xpsnr_db")},
    }


def plot(rows: list[dict[str, Any]]) -> Any:
    """Quality over bits a second, of each clip; what was asked for and came out."""
    made, axes = harness.figure(width=8.5, height=4.5, columns=len(CODECS))
    for codec, at in zip(CODECS, axes.flat, strict=True):
        for row in rows:
            if row["codec"] != codec:
                continue
            if row["target_db"] == TARGETS[0]:
                at.plot([rate / 1e6 for _, rate, _ in row["curve"]], [db for *_, db in row["curve"]], ".-", alpha=0.6,
                        label=row["clip"])  # fmt: skip
            rate = 8 * row["size_bytes"] / 1e6 / float(Fraction(row["num_frames"], 25))
            at.plot(rate, row["xpsnr_db"], "kx", markersize=4)
        for target in TARGETS:
            at.axhline(target, color="grey", linestyle=":", linewidth=0.7)
        at.set_xscale("log")
        at.set_title(codec)
        at.set_xlabel("Mbit/s")
        at.set_ylabel("XPSNR, dB")
        at.legend(fontsize=6)
    return made


def main() -> None:
    options = harness.arguments(__doc__).parse_args()
    clips = tuple(clip for clip in (*JUDGED_BY, *TUNED_ON) if is_taken_as_it_is(clip))
    found = {
        "ladder": ladders(rounds=1 if options.quick else 5, seconds=2 if options.quick else 20),
        "qualities": qualities(clips[:1] if options.quick else clips, ("h264",) if options.quick else tuple(CODECS)),
    }
    print({name: value for name, value in found["qualities"].items() if name != "rows"}, found["ladder"])
    folder = harness.results_dir(options)
    harness.save(folder, "ladder", found, quick=options.quick)
    harness.save_plot(folder, "ladder", plot(found["qualities"]["rows"]))


if __name__ == "__main__":
    main()
