"""What `label` would do, how long it would take and what it would cost; nothing is written.

From listings and a few headers, without Ray and without loading a model; or, when asked to measure, from a few videos
that are labelled by the very chain, on the Ray that the run would have. What takes its time once (Ray, models, cold
pools) is kept apart from what grows with the archive and shrinks with the nodes.
"""

from __future__ import annotations

import math
import os
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from vidbatch import metrics, models, publish, source
from vidbatch.config import LabelConfig, PlanConfig
from vidbatch.decode import read_header
from vidbatch.errors import ConfigError
from vidbatch.sampling import Sampling, parse_sampling

NUM_SAMPLED: Final = 8
"""Headers read to estimate the rest."""
MAX_PIXELS_A_CPU_SECOND: Final = 280e6
"""Decoded pixels a CPU second: one 720p H.264 frame takes 3.3 ms on one core."""
MODEL_CPU_SECONDS_A_FRAME: Final = 0.03
"""The default model at 224 x 224 on one core; a first guess for any other."""

SECONDS_A_KEYFRAME: Final = 5
"""Encoders place one every 2 to 10 seconds."""

START_SECONDS: Final = 15.0
"""Until the first video is done, where it was not measured: Ray, the model, cold pools."""
DRIVER_SECONDS_A_VIDEO: Final = 0.0044
"""CPU of the driver (benchmarks/scaling.py): no number of nodes makes one run faster than that."""
START_SHARE: Final = 0.1
"""More nodes are not worth it when starting them takes a larger share of the time."""


@dataclass(frozen=True)
class Plan:
    """What is to be done, the CPU seconds of it, and the seconds and the price on so many nodes."""

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
    nodes: int
    cpus_per_node: int
    start_seconds: float
    predicted_seconds: float
    predicted_cost: float | None
    most_nodes: int
    """More of them are not worth it: they would mostly start, or wait for the driver."""
    runs: int
    """Side by side, each over its part of the archive; several where one driver cannot be done in time."""

    def __str__(self) -> str:
        bad = f", {self.unreadable} of them unreadable" if self.unreadable else ""
        on = f"{self.nodes:,} node{'s' * (self.nodes > 1)} of {self.cpus_per_node} CPU{'s' * (self.cpus_per_node > 1)}"
        price = "" if self.predicted_cost is None else f", at a price of {self.predicted_cost:,.2f}"
        apart = "" if self.runs == 1 else f" of {self.runs} runs, each over its part of the archive and its own output"
        return (
            f"to do    {self.videos:,} videos, {_size(self.size_bytes)}{bad}\n"
            f"done     {self.already_done:,} videos have their row already\n"
            f"how      model {self.model}, sampling {self.sampling}\n"
            f"cost     about {_time(self.estimated_video_seconds)} of video, {self.estimated_frames:,} frames to look "
            f"at, {_time(self.estimated_cpu_seconds)} of one CPU ({self.basis})\n"
            f"time     about {_time(self.predicted_seconds)} on {on}{apart}"
            f", {_time(self.start_seconds)} of it to start{price}; up to {self.most_nodes:,} are worth it"
        )


class _Archive(NamedTuple):
    """What is to be done, and a few of its clips that were taken at random."""

    videos: int
    size_bytes: int
    unreadable: int
    sample: list[dict[str, Any]]

    @property
    def readable(self) -> int:
        return self.videos - self.unreadable

    def times(self, sample: list[dict[str, Any]]) -> float:
        """How many times the sample this is: half way between the ratio of bytes and that of videos.

        What a video takes grows with its bytes, but less than they do. For 24 of 196 clips of 15 s and 0.1 to 2.3 MB
        this is up to 5% off (one standard deviation), either of the two alone up to 10%, whatever part bytes have.
        """
        by_videos = self.readable / max(1, len(sample))
        sampled_bytes = sum(clip["size_bytes"] or 0 for clip in sample)
        by_bytes = self.size_bytes / sampled_bytes if sampled_bytes and self.size_bytes else by_videos
        return math.sqrt(by_bytes * by_videos)


class _Work(NamedTuple):
    """Seconds of everything: those that every run has, and those of one CPU, which CPUs share."""

    start_seconds: float
    work_seconds: float
    cpu_seconds: float
    nodes: int
    cpus_per_node: int
    basis: str


def make_plan(config: PlanConfig) -> Plan:
    """List the archive, subtract what is done, measure if asked to, predict. Raises ConfigError as `label` would."""
    reference = models.model_for(config)
    how = config.sampling if reference.video is None else reference.video.windows.sampling
    digest = publish.config_digest(config, reference.digest)
    layout = publish.read_layout(config) or publish.Layout(config.buckets, config.partition_by)
    done = source.DoneVideos(publish.Published(config.output, layout).done(digest, retry_failed=config.retry_failed))
    archive = _look(config, done)
    seconds, frames, work = _estimate(config, parse_sampling(how), digest, archive)
    if config.measure and archive.sample:
        work = _measure(config, archive)
    cpus = config.cpus_per_node or work.cpus_per_node
    driver_seconds = archive.videos * DRIVER_SECONDS_A_VIDEO
    nodes, runs = _nodes_and_runs(config, work, cpus, driver_seconds)
    predicted = work.start_seconds + max(work.work_seconds / (nodes * cpus), driver_seconds / runs)
    useful = max(work.start_seconds * (1 / START_SHARE - 1), driver_seconds / runs, 1e-9)  # seconds of work, at least
    return Plan(
        videos=archive.videos,
        already_done=len(done),
        size_bytes=archive.size_bytes,
        unreadable=archive.unreadable,
        model=reference.name,
        sampling=how,
        estimated_video_seconds=round(seconds, 1),
        estimated_frames=round(frames),
        estimated_cpu_seconds=round(work.cpu_seconds, 1),
        basis=work.basis,
        nodes=nodes,
        cpus_per_node=cpus,
        start_seconds=round(work.start_seconds, 1),
        predicted_seconds=round(predicted, 1),
        predicted_cost=_cost(config.price_per_hour, nodes, predicted),
        most_nodes=max(1, math.floor(work.work_seconds / (cpus * useful))),
        runs=runs,
    )


def _look(config: PlanConfig, done: source.DoneVideos) -> _Archive:
    """Count what is to be done, and keep some of it, each video with the same chance."""
    videos = size_bytes = unreadable = 0
    sample: list[dict[str, Any]] = []
    most = max(NUM_SAMPLED, config.measure or 0)
    chance = random.Random(0)  # noqa: S311  # the same archive gives the same plan
    for clip in source.iter_pending(config, done):
        videos += 1
        size_bytes += clip["size_bytes"] or 0
        if clip["error_kind"] is not None:
            unreadable += 1
        elif len(sample) < most:
            sample.append(clip)
        elif (place := chance.randrange(videos - unreadable)) < most:
            sample[place] = clip
    chance.shuffle(sample)
    return _Archive(videos, size_bytes, unreadable, sample)


def _nodes_and_runs(config: PlanConfig, work: _Work, cpus: int, driver_seconds: float) -> tuple[int, int]:
    """Nodes that were asked for, or are there, and one run; or as many of both as are done in the hours given."""
    if config.hours is None:
        return config.nodes or work.nodes, 1
    left = 3600 * config.hours - work.start_seconds
    if left <= 0:
        raise ConfigError(
            f"hours: {config.hours:g} is not allowed: starting takes {_time(work.start_seconds)} on any number of nodes"
        )
    return max(1, math.ceil(work.work_seconds / cpus / left)), max(1, math.ceil(driver_seconds / left))


def _cost(price_per_hour: float | None, nodes: int, seconds: float) -> float | None:
    return None if price_per_hour is None else round(price_per_hour * nodes * seconds / 3600, 4)


# --- measuring ------------------------------------------------------------------------------------------------------


class _Arrivals(metrics.Progress):
    """When how many videos of a run were done."""

    def __init__(self) -> None:
        super().__init__(enabled=False)
        self.points: list[tuple[float, int]] = []  # time.monotonic(), videos

    def update(self, totals: metrics.Counts) -> None:
        """Called whenever there is more."""
        if totals.videos and (not self.points or totals.videos > self.points[-1][1]):
            self.points.append((time.monotonic(), totals.videos))


def _measure(config: PlanConfig, archive: _Archive) -> _Work:
    """Label some of the archive, into a place that is thrown away, and scale up what it took."""
    from vidbatch import pipeline
    from vidbatch.pools import nodes_alive
    from vidbatch.runs import running_ray

    clips = archive.sample[: config.measure]
    began, arrivals = time.monotonic(), _Arrivals()
    with tempfile.TemporaryDirectory(prefix="vidbatch-plan-") as output:
        settings = LabelConfig.model_validate(config.model_dump(include=set(LabelConfig.model_fields)))
        sampled = settings.model_copy(update={"output": output, "limit": None, "partition_by": "none"})
        with running_ray():
            nodes = [cpus for node in nodes_alive() if (cpus := int(node.get("CPU", 0.0)))]
            record = pipeline.label(sampled, arrivals, clips=clips).record
            ended = time.monotonic()
    (first, num_first), (last, num_last) = arrivals.points[0], arrivals.points[-1]
    cpu_seconds = sum(record.stages[stage]["cpu_seconds"] for stage in ("decode", "classify"))
    times, cpus = archive.times(clips), max(1, sum(nodes))
    # Until the first videos are done all is start-up, also of the pipeline; from then on all actors are at work.
    seconds = (last - first) * num_last / (num_last - num_first) if num_last > num_first else cpu_seconds / cpus
    return _Work(
        start_seconds=first - began + ended - last,
        work_seconds=seconds * cpus * times,
        cpu_seconds=cpu_seconds * times,
        nodes=max(1, len(nodes)),
        cpus_per_node=max(1, round(cpus / max(1, len(nodes)))),
        basis=f"measured on {len(clips)} videos, {cpus} CPUs, in {ended - began:.0f} s",
    )


# --- estimating -----------------------------------------------------------------------------------------------------


def _estimate(config: PlanConfig, sampling: Sampling, digest: str, archive: _Archive) -> tuple[float, float, _Work]:
    """(video seconds, frames, work) of everything, scaled up from some headers."""
    seconds = frames = decode = 0.0
    sample = archive.sample[:NUM_SAMPLED]
    with ThreadPoolExecutor(NUM_SAMPLED, thread_name_prefix="vidbatch-header") as pool:
        headers = list(pool.map(lambda clip: read_header(clip, config), sample))
    for clip, header in zip(sample, headers, strict=True):
        duration, rate = header.get("duration_seconds") or 0.0, header.get("frame_rate") or 25.0
        pixels = (header.get("width") or 0) * (header.get("height") or 0)
        seconds += duration
        frames += _num_frames(sampling, clip, duration, rate)
        decode += duration * rate * pixels / MAX_PIXELS_A_CPU_SECOND
    times = archive.times(sample)
    seconds, frames, decode = seconds * times, frames * times, decode * times
    cost, basis = decode + frames * MODEL_CPU_SECONDS_A_FRAME, f"estimated from {len(sample)} headers"
    measured = _measured(config, digest)
    if measured is not None and archive.readable:
        cost, basis = frames * measured[0], f"measured by run {measured[1]}"
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return seconds, frames, _Work(START_SECONDS if archive.videos else 0.0, cost, cost, 1, cpus, basis)


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
