"""The chain of `enhance`, whole: list -> plan -> enhance -> [join] -> stage -> publish, on Ray Data.

`enhance(config)` runs it and returns what it did. What it is for, and why it is exactly once, stands in the package's
docstring. Clips of a video come back in any order; the driver knows when the last one is there, and has a task join
them, so that no stage has to gather anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import pyarrow as pa

from vidbatch import decode, publish, source, storage
from vidbatch import watch as watching
from vidbatch.decode import Clip
from vidbatch.enhancing import curves
from vidbatch.enhancing.config import OPENCV, EnhanceConfig, describe, enhance_digest
from vidbatch.enhancing.rows import EnhancedVideos, Join
from vidbatch.enhancing.types import Facts
from vidbatch.enhancing.worker import CLIPS, Enhancer, clip_url, join, name_of
from vidbatch.errors import TRANSIENT_KINDS, ConfigError
from vidbatch.metrics import Progress
from vidbatch.pools import PoolAlone, workers_alone
from vidbatch.results import Table
from vidbatch.runs import RunResult, begin, own_errors, recorded, running_ray, tune_context
from vidbatch.storage.globs import has_magic

_NAMING: Final = ["video_id", "url", "member", "content_version", "config_digest", "error_kind"]
"""Columns that say what the clips of a video were called, and whether they are still wanted."""


class EnhanceResult(RunResult):
    """What a run did, and the table `enhanced` it did it to."""


def enhance(config: EnhanceConfig, progress: Progress | None = None) -> EnhanceResult:
    """Enhance every video of the archive that has no row yet, and publish `enhanced`.

    Raises ConfigError before the first task for anything the user got wrong, TooManyFailures when the first videos
    all fail for one reason, KeyboardInterrupt after a clean stop. All of them, and a kill, are resumed by a rerun.
    """
    progress = progress or Progress(enabled=False)
    _check(config)
    reading, steps = config.reading, config.wanted_steps
    begun = begin(
        reading,
        progress,
        settings=config,
        model=describe(steps),
        digest=enhance_digest(config),
        tables=publish.ENHANCED,
    )
    _sweep(config)
    record = begun.record
    if record.state == "nothing_to_do":
        return EnhanceResult(reading, record)
    progress.note("starting Ray")
    weights = ",".join(step.network.digest for step in steps if step.network is not None)
    videos = EnhancedVideos(
        steps=record.model,
        provenance={**begun.provenance, "weights": weights or None},
        stage_seconds=config.stage_seconds,
        partition_of=begun.partition_of,
        stage=partial(publish.stage_rows, config.output, record.run_id, publish.ENHANCED),
        forget=partial(_forget, config),
    )
    with running_ray(), recorded(reading, begun, videos, progress) as report:
        begun.note_start()
        pool = workers_alone(config.workers, config.device, config.workers_per_gpu if config.has_networks else None)
        record.pools = {f"enhance_{name}": value for name, value in pool._asdict().items()}
        with watching.over_run(progress.warn) as watch, own_errors():
            joins = _Joins(config, videos, most=pool.workers)
            for table in chain(config, begun.done, pool, watch):
                joins.start(videos.add(table))
                joins.take()
                videos.flush_if_due()
                report()
            joins.take_all()
        videos.flush()
        begun.note_work()
        publish.publish(config.output, begun.layout, videos.parts, publish.ENHANCED)
        if config.target_xpsnr is not None:
            curves.draw(config.output, config.target_xpsnr)
    return EnhanceResult(reading, record)


def chain(config: EnhanceConfig, done: source.DoneVideos, pool: PoolAlone, watch: Any = None) -> Iterator[pa.Table]:
    """Tables of ENHANCED_CLIPS as they come."""
    import ray
    from ray.data import ActorPoolStrategy

    tune_context(pool.workers)
    reading = config.reading
    planner: source.Planner = partial(decode.plan, config=reading) if config.is_cut else decode.keep_whole
    archive = source.archive_datasource(reading, done, planner=planner, num_decoders=pool.workers)
    packs = ray.data.read_datasource(archive, num_cpus=0.01, override_num_blocks=1)
    clips = packs.map_batches(
        Enhancer,
        fn_constructor_args=[config, watch, "cuda" if pool.gpus else "cpu"],
        batch_size=1 if pool.gpus else None,  # Ray Data refuses None beside a GPU; a block has one row anyway
        batch_format="pyarrow",
        # Clips take minutes: one that waited behind another would be the last of all while other actors have nothing.
        compute=ActorPoolStrategy(size=pool.workers, max_tasks_in_flight_per_actor=1),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )
    yield from clips.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


class _Joins:
    """Tasks that join clips, at most so many at once, and what comes of them."""

    def __init__(self, config: EnhanceConfig, videos: EnhancedVideos, *, most: int) -> None:
        import ray

        # Copying packets takes hardly any CPU, so it need not wait for an actor to end.
        self._task = ray.remote(num_cpus=0)(join)
        self._config = config
        self._videos = videos
        self._most = most
        self._running: dict[Any, list[Clip]] = {}

    def start(self, joins: list[Join]) -> None:
        """Have these videos joined."""
        for clips, facts in joins:
            while len(self._running) >= self._most:
                self.take(wait=True)
            self._running[self._task.remote(self._config, clips, facts)] = clips

    def take(self, *, wait: bool = False) -> None:
        """Take what has been joined by now, or wait for one."""
        import ray

        if not self._running:
            return
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=None if wait else 0)
        for reference in ready:
            clips = self._running.pop(reference)
            self._videos.finish(clips, Facts.from_dict(json.loads(ray.get(reference))))

    def take_all(self) -> None:
        """Wait for all."""
        while self._running:
            self.take(wait=True)


def _forget(config: EnhanceConfig, clips: list[Clip]) -> None:
    """Remove what was kept of clips: facts first, which say that there are packets."""
    for kind in ("json", "arrow"):
        storage.delete([clip_url(config, clip, kind) for clip in clips])


def _sweep(config: EnhanceConfig) -> None:
    """Remove clips that a run was killed before removing: those of videos that have their row."""
    left: dict[str, list[str]] = {}
    for url in storage.list_files(storage.join(config.output, CLIPS)):
        left.setdefault(url.split("/")[-2], []).append(url)
    if not left:
        return
    table = Table(config.output, publish.ENHANCED.videos).to_dataset().to_table(columns=_NAMING)
    for row in table.to_pylist():
        if row["error_kind"] not in TRANSIENT_KINDS:
            urls = left.pop(name_of(row, row["config_digest"]), [])
            storage.delete(sorted(urls, key=lambda url: not url.endswith(".json")))


def _check(config: EnhanceConfig) -> None:
    """Raise ConfigError for what this FFmpeg cannot do, and for an output whose videos would be inputs."""
    from vidbatch.enhancing.encode import check_encoding  # it loads PyAV
    from vidbatch.restoring.flow import check_opencv, has_opencv

    check_encoding(config.encoding, config.container)
    for step in config.wanted_steps:
        if step.method in OPENCV[step.name] and not has_opencv():
            raise ConfigError(
                f"{step.name}: {step.method!r} is not allowed without OpenCV: pip install 'vidbatch[opencv]'"
            )
        if step.network is not None and step.network.kind == "interpolate":
            check_opencv(f"{step.name}: a network")
    output = f"{storage.normalise(config.output).rstrip('/')}/"
    for place in config.inputs:
        if not has_magic(place) and output.startswith(f"{storage.normalise(place).rstrip('/')}/"):
            raise ConfigError(
                f"output: {storage.redact(config.output)!r} is not allowed: it lies in input "
                f"{storage.redact(place)!r}, where enhanced videos would be found and enhanced again"
            )
