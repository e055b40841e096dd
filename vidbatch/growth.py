"""Nodes that join or leave a cluster while a run works in, pools of another size out.

Ray Data's own autoscaling of actor pools would fill every free CPU with whichever stage is busier, and CPUs are left
free on purpose: actors of a lost node need places (pools.pool_sizes). A limit of resources would keep them free, but
Ray Data deals it out to stages by their order, not their need. So a pool of a fixed size gets another fixed size,
worked out anew from the nodes that are there, and Ray Data, which keeps a pool at its size, starts or ends actors.

Ray has no public way to give a pool of a running dataset another size, so this uses names of its own. Where a Ray lacks
one of them, pools keep the size that they began with.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

Nodes: TypeAlias = Sequence[Mapping[str, Any]]
"""Of each node that is alive, as ray.nodes() says it."""
Sizes: TypeAlias = Callable[[Sequence[Mapping[str, float]]], Sequence[int]]
"""Resources of each node in; out, how many actors each pool should have, in the order of the stages."""

Tell: TypeAlias = Callable[[Sequence[int]], object]

LOOK_SECONDS: Final = 2.0
_LOG = logging.getLogger(__name__)


class Joined:
    """Nodes that were not there in the beginning, and what room actors that were meant for them leave there.

    Ray spreads actors over all nodes in turn; those that are added for a node belong there, where nothing runs yet.
    """

    def __init__(self, nodes: Nodes) -> None:
        self._first = {node["NodeID"] for node in nodes}
        self._room: dict[str, dict[str, float]] = {}

    def see(self, nodes: Nodes) -> None:
        """These nodes are there now."""
        there = {node["NodeID"]: dict(node["Resources"]) for node in nodes if node["NodeID"] not in self._first}
        self._room = {name: self._room.get(name, resources) for name, resources in there.items()}

    def place(self, needs: Mapping[str, float]) -> str | None:
        """Take room for an actor that needs so much of CPU and GPU; None where no node that joined has it."""

        def left(name: str) -> float:
            return min(self._room[name].get(what, 0.0) - much for what, much in needs.items())

        best = max(self._room, key=left, default=None) if needs else None
        if best is None or left(best) < 0:
            return None
        for what, much in needs.items():
            self._room[best][what] -= much
        return best


def follow_cluster(dataset: Any, sizes: Sizes, tell: Tell) -> None:
    """Let the pools of a dataset that is about to run have the sizes that its cluster asks for.

    Args: `sizes` and `tell`, which is given new sizes, travel to the actors with the dataset's context: they pickle.
    """
    import ray
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class FollowCluster(ExecutionCallback):  # type: ignore[misc]
        def before_execution_starts(self, executor: Any) -> None:  # noqa: ARG002
            self._joined = Joined(_alive(ray))
            self._looked_at = time.monotonic()

        def on_execution_step(self, executor: Any) -> None:
            if time.monotonic() - self._looked_at < LOOK_SECONDS:
                return
            self._looked_at = time.monotonic()
            nodes = _alive(ray)
            self._joined.see(nodes)
            try:
                resize(executor, sizes([node["Resources"] for node in nodes]), self._joined, tell)
            except (AttributeError, TypeError, ValueError) as error:
                _LOG.warning("pools keep their size, this Ray does not let it be changed: %s", error)
                self._looked_at = float("inf")

    dataset.context.custom_execution_callback_classes.append(FollowCluster)


def _alive(ray: Any) -> Nodes:
    return [node for node in ray.nodes() if node["Alive"]]


def resize(executor: Any, sizes: Sequence[int], joined: Joined, tell: Tell) -> None:
    """Give the pools of a running executor, in the order of their stages, these sizes."""
    pools = [(operator, pool) for operator in executor._topology for pool in operator.get_autoscaling_actor_pools()]
    changes = list(zip(pools, sizes, strict=True))
    if all(pool.max_size() == size for (_, pool), size in changes):
        return
    for (operator, pool), size in changes:
        operator._ray_remote_args_fn = _placing(operator._ray_remote_args, joined)
        pool._config = dataclasses.replace(pool._config, min_size=size, max_size=size, initial_size=size)
    tell(sizes)


def _placing(arguments: Mapping[str, Any], joined: Joined) -> Callable[[], dict[str, Any]]:
    """What Ray Data asks for before each actor that it starts."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {"CPU": arguments.get("num_cpus"), "GPU": arguments.get("num_gpus")}
    needs = {what: float(much) for what, much in asked.items() if much}

    def place() -> dict[str, Any]:
        node = joined.place(needs)
        return {} if node is None else {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}

    return place
