"""The chain, whole: list -> plan -> decode -> classify -> stage -> publish, on Ray Data.

`label(config)` runs it and returns what it did. `chain()` alone knows pool sizes, batch sizes and GPU shares.

Ray Data merges small blocks and fuses neighbouring operators; either would run a whole archive as one task on one
core. So blocks are never merged (target_max_block_size = 1: a row is a block, see blocks.py) and each stage is its own
actor pool.
Ray and torch are imported only once there is something to do: finding out that there is nothing takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from vidbatch import blocks, decode, growth, models, publish, source
from vidbatch import watch as watching
from vidbatch.config import LabelConfig
from vidbatch.errors import ConfigError
from vidbatch.metrics import Progress
from vidbatch.pools import Pools, pool_sizes, sizes_now
from vidbatch.runs import RunResult, begin, own_errors, recorded, running_ray, tune_context
from vidbatch.shards import Clip
from vidbatch.sink import Sink


class LabelResult(RunResult):
    """What a run did, and the tables `videos` and `frames` it did it to."""


class Stages(NamedTuple):
    """Classes of the two actor pools: what benchmarks replace by classes with the same interface."""

    decoder: type
    classifier: type


def label(
    config: LabelConfig,
    progress: Progress | None = None,
    *,
    pools: Pools | None = None,
    stages: Stages | None = None,
    clips: list[Clip] | None = None,
) -> LabelResult:
    """Label every video of the archive that has no row yet, and publish `videos` and `frames`.

    Args: `pools` and `stages` are chosen from the cluster's resources and the real ones where not given; `clips` of
    the archive are worked on in place of all that have no row.
    Raises ConfigError before the first task for anything the user got wrong, TooManyFailures when the first videos
    all fail for one reason, KeyboardInterrupt after a clean stop. All of them, and a kill, are resumed by a rerun.
    """
    progress = progress or Progress(enabled=False)
    reference = models.model_for(config)
    begun = begin(
        config, progress, settings=config, model=config.model, digest=publish.config_digest(config, reference.digest)
    )
    record = begun.record
    if record.state == "nothing_to_do":
        return LabelResult(config, record)
    progress.note("loading the model and starting Ray")
    spec, weights = models.load_spec(reference)
    if config.embedding and not spec.embedding_size:
        raise ConfigError(f"embedding: True is not allowed: {spec.name!r} gives scores alone, no second output")
    sink = Sink(
        labels=spec.labels,
        top_k=config.top_k,
        embedding_size=spec.embedding_size if config.embedding else None,
        provenance=begun.provenance,
        model=spec.name,
        stage_seconds=config.stage_seconds,
        partition_of=begun.partition_of,
        stage=partial(publish.stage_part, config.output, record.run_id),
    )
    with running_ray(), recorded(config, begun, sink, progress) as report:
        begun.note_start()
        is_followed, pools = pools is None, pools or pool_sizes(config)
        record.pools = pools._asdict()
        with watching.over_run(progress.warn) as watch:
            given = _predictions(
                config, begun.done, spec, weights, pools, stages, watch, clips=clips, is_followed=is_followed
            )
            for table in given:
                sink.add(table)
                report()
        sink.flush()
        begun.note_work()
        publish.publish(config.output, begun.layout, sink.parts)
    return LabelResult(config, record)


# --- the chain ------------------------------------------------------------------------------------------------------


def chain(
    config: LabelConfig,
    done: source.DoneVideos,
    spec: Any,
    weights: Any,
    pools: Pools,
    stages: Stages | None = None,
    watch: Any = None,
    clips: list[Clip] | None = None,
) -> Any:
    """The Ray Data dataset of blocks of PREDICTIONS: nothing runs until it is iterated.

    Args: `weights` is an ObjectRef of the weights' bytes, so that they cross the network once per node and no node
    needs the file they came from; `watch` is told what actors are busy with; `clips` stand for the archive.
    """
    import ray
    from ray.data import ActorPoolStrategy

    stages = stages or Stages(decode.Decoder, _classifier())
    planner: source.Planner = partial(decode.plan, config=config)
    decoder_arguments: list[Any] = [config, spec.frame, watch]
    if spec.video is not None:
        planner = decode.keep_whole
        decoder_arguments.append(spec.video.windows)
    archive = source.archive_datasource(config, done, planner=planner, num_decoders=pools.decode_workers, clips=clips)
    packs = ray.data.read_datasource(archive, num_cpus=0.01, override_num_blocks=1)
    pixels = packs.map_batches(
        blocks.giving_blocks(stages.decoder),
        fn_constructor_args=decoder_arguments,
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=pools.decode_workers, max_tasks_in_flight_per_actor=2),
        num_cpus=pools.decode_cpus,
    )
    return pixels.map_batches(
        blocks.taking_blocks(stages.classifier),
        fn_constructor_args=(spec, config, weights, pools.model_threads, watch),
        batch_size=1 if pools.model_gpus else None,  # Ray Data refuses None beside a GPU; a block has one row anyway
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=pools.model_workers, max_tasks_in_flight_per_actor=2),
        num_cpus=pools.model_cpus,
        num_gpus=pools.model_gpus or None,
    )


def _classifier() -> type:
    """Classifier with its weights fetched from Ray's object store; torch is imported only where it runs."""
    import ray

    class Classify:
        def __init__(self, spec: Any, config: LabelConfig, weights: Any, num_threads: int, watch: Any) -> None:
            from vidbatch.classify import Classifier

            self._classifier = Classifier(spec, config, ray.get(weights), num_threads=num_threads, watch=watch)

        def __call__(self, table: pa.Table) -> pa.Table:
            return self._classifier(table)

    return Classify


def _predictions(
    config: LabelConfig,
    done: source.DoneVideos,
    spec: Any,
    weights: bytes | None,
    pools: Pools,
    stages: Stages | None,
    watch: Any,
    *,
    clips: list[Clip] | None,
    is_followed: bool,
) -> Iterator[pa.Table]:
    import ray

    tune_context(pools.decode_workers)
    dataset = chain(config, done, spec, ray.put(weights), pools, stages, watch, clips)
    if is_followed:
        growth.follow_cluster(dataset, partial(sizes_now, config, pools), partial(_tell_sizes, watch))
    with own_errors():
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield blocks.from_block(block)


def _tell_sizes(watch: Any, sizes: Sequence[int]) -> None:
    watch.say.remote(f"the cluster has changed: decoders {sizes[0]}, models {sizes[1]}")
