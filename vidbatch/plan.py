"""What `label` would do and cost, from listings and a few headers: nothing is written, no Ray, no model is loaded."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final

from vidbatch import metrics, models, publish, source
from vidbatch.config import LabelConfig
from vidbatch.decode import read_header
from vidbatch.sampling import Sampling, parse_sampling

NUM_SAMPLED: Final = 8
"""Headers read to estimate the rest."""
MAX_PIXELS_A_CPU_SECOND: Final = 280e6
"""Decoded pixels a CPU second: one 720p H.264 frame takes 3.3 ms on one core."""
MODEL_CPU_SECONDS_A_FRAME: Final = 0.03
"""The default model at 224 x 224 on one core; a first guess for any other."""

SECONDS_A_KEYFRAME: Final = 5
"""Encoders place one every 2 to 10 seconds."""


@dataclass(frozen=True)
class Plan:
    """What is to be done; times are CPU seconds, to be divided by the CPUs that work on it."""

    videos: int
    already_done: int
    size_bytes: int
    unreadable: int
    model: str
    sampling: str
    estimated_video_seconds: float
    estimated_frames: int
    estimated_cpu_seconds: float
    basis: str

    def __str__(self) -> str:
        bad = f", {self.unreadable} of them unreadable" if self.unreadable else ""
        return (
            f"to do    {self.videos:,} videos, {_size(self.size_bytes)}{bad}\n"
            f"done     {self.already_done:,} videos have their row already\n"
            f"how      model {self.model}, sampling {self.sampling}\n"
            f"cost     about {_time(self.estimated_video_seconds)} of video, {self.estimated_frames:,} frames to look "
            f"at, {_time(self.estimated_cpu_seconds)} of one CPU ({self.basis})"
        )


def make_plan(config: LabelConfig) -> Plan:
    """List the archive, subtract what is done, estimate the rest. Raises ConfigError as `label` would."""
    reference = models.model_for(config)
    how = config.sampling if reference.video is None else reference.video.windows.sampling
    digest = publish.config_digest(config, reference.digest)
    layout = publish.read_layout(config) or publish.Layout(config.buckets, config.partition_by)
    done = source.DoneVideos(publish.Published(config.output, layout).done(digest, retry_failed=config.retry_failed))
    videos = size_bytes = unreadable = 0
    sample: list[dict[str, Any]] = []
    chance = random.Random(0)  # noqa: S311  # the same archive gives the same plan
    for clip in source.iter_pending(config, done):
        videos += 1
        size_bytes += clip["size_bytes"] or 0
        if clip["error_kind"] is not None:
            unreadable += 1
        elif len(sample) < NUM_SAMPLED:
            sample.append(clip)
        elif (place := chance.randrange(videos - unreadable)) < NUM_SAMPLED:
            sample[place] = clip
    seconds, frames, cpu_seconds, basis = _estimate(
        config, parse_sampling(how), digest, sample, videos - unreadable, size_bytes
    )
    return Plan(
        videos=videos,
        already_done=len(done),
        size_bytes=size_bytes,
        unreadable=unreadable,
        model=reference.name,
        sampling=how,
        estimated_video_seconds=round(seconds, 1),
        estimated_frames=round(frames),
        estimated_cpu_seconds=round(cpu_seconds, 1),
        basis=basis,
    )


def _estimate(
    config: LabelConfig, sampling: Sampling, digest: str, sample: list[dict[str, Any]], videos: int, size_bytes: int
) -> tuple[float, float, float, str]:
    """(video seconds, frames, CPU seconds, where that is from) of everything, scaled up from the sample by bytes."""
    seconds = frames = decode = sampled_bytes = 0.0
    for clip in sample:
        header = read_header(clip, config)
        duration, rate = header.get("duration_seconds") or 0.0, header.get("frame_rate") or 25.0
        pixels = (header.get("width") or 0) * (header.get("height") or 0)
        seconds += duration
        frames += _num_frames(sampling, clip, duration, rate)
        decode += duration * rate * pixels / MAX_PIXELS_A_CPU_SECOND
        sampled_bytes += clip["size_bytes"] or 0
    scale = size_bytes / sampled_bytes if sampled_bytes and size_bytes else videos / max(1, len(sample))
    seconds, frames, decode = seconds * scale, frames * scale, decode * scale
    measured = _measured(config, digest)
    if measured is not None and videos:
        return seconds, frames, frames * measured[0], f"measured by run {measured[1]}"
    cost = decode + frames * MODEL_CPU_SECONDS_A_FRAME
    return seconds, frames, cost, f"estimated from {len(sample)} headers"


def _num_frames(sampling: Sampling, clip: dict[str, Any], duration: float, rate: float) -> float:
    if clip["times"] is not None:
        return len(clip["times"])
    in_video = max(1.0, duration * rate)
    if sampling.kind == "fps":
        wanted = max(1.0, duration * float(sampling.frames_per_second))
    elif sampling.kind == "nearest_keyframe":
        wanted = max(1.0, duration * min(float(sampling.frames_per_second), 1 / SECONDS_A_KEYFRAME))
    elif sampling.kind == "every":
        wanted = in_video / sampling.number
    elif sampling.kind == "count":
        wanted = sampling.number
    elif sampling.kind == "keyframes":
        wanted = max(1.0, duration / SECONDS_A_KEYFRAME)
    else:
        wanted = in_video
    return min(in_video, wanted) if duration else 0.0


def _measured(config: LabelConfig, digest: str) -> tuple[float, str] | None:
    """CPU seconds a frame of the last finished run with these settings, and that run's id."""
    for record in reversed(metrics.read_records(config.output)):
        if record["config_digest"] == digest and record["state"] == "finished" and record["frames"]:
            stages = record["stages"]
            total = stages["decode"]["cpu_seconds"] + stages["classify"]["cpu_seconds"]
            return total / record["frames"], str(record["run_id"])
    return None


def _size(size_bytes: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:,.1f} {unit}"
    return f"{size_bytes / 1e3:,.1f} kB"


def _time(seconds: float) -> str:
    for unit, factor in (("hours", 3600), ("minutes", 60)):
        if seconds >= factor:
            return f"{seconds / factor:,.1f} {unit}"
    return f"{seconds:,.1f} seconds"
