"""A running Ray in; out come spilled bytes and lost workers, neither of which a valid run has.

For drivers only: contenders call `report()` before `ray.shutdown()` and put it into their own report.
"""

from __future__ import annotations

from typing import Any

_LOST = ("SYSTEM_ERROR", "USER_ERROR", "NODE_OUT_OF_MEMORY")


def report() -> dict[str, Any]:
    """`spilled_bytes`, `lost_workers` (how each ended) and `restarted_actors`, over all nodes and jobs."""
    from ray._private import internal_api
    from ray._private.state import actors, state

    stats = internal_api.get_memory_info_reply(state).store_stats
    return {
        "spilled_bytes": int(stats.spilled_bytes_total),
        "lost_workers": _lost_workers(),
        "restarted_actors": sum(actor["NumRestarts"] > 0 for actor in actors().values()),
    }


def _lost_workers() -> list[str]:
    from ray._private.state import state
    from ray.core.generated import common_pb2, gcs_pb2

    names = common_pb2.WorkerExitType.DESCRIPTOR.values_by_number
    lost = []
    for packed in state._connect_and_get_accessor().get_worker_table():
        worker = gcs_pb2.WorkerTableData.FromString(packed)
        how = names[worker.exit_type].name
        if not worker.is_alive and how in _LOST:
            lost.append(f"{how}: {worker.exit_detail[:200]}")
    return lost


def is_healthy(health: dict[str, Any]) -> bool:
    """Whether nothing was spilled and nothing was lost."""
    return not (health["spilled_bytes"] or health["lost_workers"] or health["restarted_actors"])
