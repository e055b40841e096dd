"""A cluster's nodes and the settings in; how many actors each stage has, and what each of them asks of Ray, out.

Sizes are fixed for the nodes that are there; growth.py asks again when there are others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from vidbatch import blocks, computing
from vidbatch.classify import check_device
from vidbatch.config import LabelConfig

BLOCKS_NOT_PICKED_UP: Final = 8
"""A task waits when so many of its blocks are not picked up yet, and Ray Data picks up ten times a second: with its
default of 2, videos that take no time to decode ran at 19 a second (a block each), with 8 at 90."""
LEAST_BLOCKS_NOT_PICKED_UP: Final = 2
STORE_SHARE_NOT_PICKED_UP: Final = 1 / 4
"""Ray Data's backpressure does not hold these blocks back: of two decoders and a store of 100 or 200 MB, 8 each were
spilled in 7 of 11 runs, 2 each in none of 10."""


Device = Literal["auto", "cpu", "cuda"]


class Pools(NamedTuple):
    """Actors of each stage and what each asks of Ray."""

    decode_workers: int
    model_workers: int
    decode_cpus: float
    model_cpus: float
    model_gpus: float
    model_threads: int


def pool_sizes(config: LabelConfig, nodes: Sequence[Mapping[str, float]] | None = None) -> Pools:
    """Actors a stage, from the cluster's resources: one decoder a CPU; one model a GPU, else one in four CPUs.

    On CPUs each node has a model at least: decoders alone can then use every CPU, and so can models with their threads.
    What one pool leaves, the other takes, by the system's own scheduling, and nothing has to be moved between them.
    Decoders and models ask for equal shares of the CPUs, the largest with which all of them find a place, also when a
    node is lost: one too many would wait for a decoder to end, which may itself wait for the model to take its frames.
    Beside a GPU a model asks for no CPU, so that decoders cannot take its place. A single node has room for twice as
    many: when a second one joins, its actors must find a place on the first (see sizes_now).
    Args: `nodes` that may be used, CPU and GPU of each; all of the cluster's where not given.
    """
    nodes = nodes_alive() if nodes is None else nodes
    cpus = max(1, int(sum(node.get("CPU", 0.0) for node in nodes)))
    gpus = int(sum(node.get("GPU", 0.0) for node in nodes))
    on_gpu = gpus > 0 and config.device != "cpu"
    check_device(config.device, num_gpus=gpus)
    computing.check(computing.How(config.precision, config.compile), on_gpu=on_gpu)
    num_with_cpus = sum(node.get("CPU", 0.0) >= 1 for node in nodes)
    model_workers = config.model_workers or (gpus if on_gpu else max(1, num_with_cpus, cpus // 4))
    decode_workers = config.decode_workers or cpus
    num_sharing = decode_workers if on_gpu else decode_workers + model_workers
    is_alone = sum(node.get("CPU", 0.0) > 0 for node in nodes) == 1
    share = _cpu_share(_survivors(nodes), 2 * num_sharing if is_alone else num_sharing)
    return Pools(
        decode_workers=decode_workers,
        model_workers=model_workers,
        decode_cpus=share,
        model_cpus=0.0 if on_gpu else share,
        model_gpus=min(1.0, gpus / model_workers) if on_gpu else 0.0,
        model_threads=max(1, cpus // model_workers),
    )


def sizes_now(config: LabelConfig, begun: Pools, nodes: Sequence[Mapping[str, float]]) -> tuple[int, int]:
    """Decoders and models of a run that began with other nodes: those of one that begins now, if there is room.

    All ask for as much as those that it began with, and find a place when a node is lost; a number that the settings
    name stays. A run that began on CPUs leaves GPUs that join alone.
    """
    is_on_gpu = begun.model_gpus > 0
    if is_on_gpu and not any(node.get("GPU", 0.0) for node in nodes):
        return begun.decode_workers, begun.model_workers  # the model waits for another GPU
    now = pool_sizes(config if is_on_gpu else config.model_copy(update={"device": "cpu"}), nodes)
    room = _num_places(_survivors(nodes), round(100 * begun.decode_cpus)) - (0 if is_on_gpu else now.model_workers)
    return config.decode_workers or max(1, min(now.decode_workers, room)), now.model_workers


class PoolAlone(NamedTuple):
    """Actors of a stage that is the only one, and what each asks of Ray."""

    workers: int
    cpus: float
    gpus: float = 0.0


def workers_alone(workers: int | None, device: Device = "cpu", workers_per_gpu: int | None = None) -> PoolAlone:
    """The actors of a stage that is the only one: one a CPU if nothing is said.

    Args: `workers_per_gpu`, where there is work for GPUs: so many share each, if there are GPUs and `device` allows.
    Raises ConfigError for a device that there is not.
    """
    nodes = nodes_alive()
    gpus = int(sum(node.get("GPU", 0.0) for node in nodes))
    cpus = max(1, int(sum(node.get("CPU", 0.0) for node in nodes)))
    if workers_per_gpu is not None:
        check_device(device, num_gpus=gpus)
        if gpus and device != "cpu":
            num_workers = workers or min(cpus, gpus * workers_per_gpu)
            return PoolAlone(num_workers, _cpu_share(_survivors(nodes), num_workers), min(1.0, gpus / num_workers))
    num_workers = workers or cpus
    return PoolAlone(num_workers, _cpu_share(_survivors(nodes), num_workers))


def nodes_alive() -> list[Mapping[str, float]]:
    """CPU, GPU and other resources of each node of the cluster that this process is connected to."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def blocks_not_picked_up(store_bytes: float, decode_workers: int) -> int:
    """How many blocks each decoder may have waiting to be picked up, so that all of them have room in the store."""
    room = int(STORE_SHARE_NOT_PICKED_UP * store_bytes / (decode_workers * blocks.BLOCK_BYTES))
    return min(BLOCKS_NOT_PICKED_UP, max(LEAST_BLOCKS_NOT_PICKED_UP, room))


def _survivors(nodes: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """The nodes that are left when the largest tenth of them, at least one of several, is lost.

    Actors of a lost node are restarted where they find a place, and until then their videos wait.
    """
    with_cpus = sorted((node for node in nodes if node.get("CPU", 0.0) > 0), key=lambda node: node["CPU"])
    num_lost = 0 if len(with_cpus) < 2 else max(1, len(with_cpus) // 10)
    return with_cpus[: len(with_cpus) - num_lost]


def _cpu_share(nodes: Sequence[Mapping[str, float]], num_actors: int) -> float:
    """The most CPUs, up to 1 in hundredths, that so many actors can ask for and all be placed, beside the listing."""
    return next((share for share in range(100, 1, -1) if _num_places(nodes, share) >= num_actors), 1) / 100


def _num_places(nodes: Sequence[Mapping[str, float]], hundredths: int) -> int:
    """How many actors that ask for so many hundredths of a CPU fit, beside the listing."""
    return sum(max(0, int(100 * node.get("CPU", 0.0)) - 2) // hundredths for node in nodes)
