"""Tables of many rows in, Ray Data blocks of one row out, and back: how chunks travel between the stages.

A block is what Ray Data hands on, and each costs its driver about 10 ms. Under the chain's target_max_block_size of 1
it cuts what a stage yields into blocks of one row, so small chunks go together inside one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Final

import pyarrow as pa

BLOCK_FRAMES: Final = 64
BLOCK_BYTES: Final = 16 * 2**20
BLOCKS_WAITING: Final = 128
"""Blocks that wait for a stage before the one that gives them pauses; more than any pool takes at once."""

_COLUMN: Final = "rows"
_MAX_WAITING_KEY: Final = "vidbatch.max_blocks_waiting"


def to_block(tables: list[pa.Table]) -> pa.Table:
    """The rows of these tables as one row."""
    rows = pa.concat_tables(tables).combine_chunks().to_struct_array()
    rows = rows.combine_chunks() if isinstance(rows, pa.ChunkedArray) else rows
    return pa.table({_COLUMN: pa.ListArray.from_arrays(pa.array([0, len(rows)], pa.int32()), rows)})


def from_block(block: pa.Table) -> pa.Table:
    """The rows that to_block put together; nothing is copied."""
    return pa.Table.from_struct_array(block.column(_COLUMN).combine_chunks().flatten())


def to_blocks(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Blocks of tables with a column `num_frames`, in their order: small tables together up to BLOCK_FRAMES frames."""
    waiting: list[pa.Table] = []
    num_frames = num_bytes = 0
    for table in tables:
        frames = sum(table.column("num_frames").to_pylist())
        if waiting and (num_frames + frames > BLOCK_FRAMES or num_bytes + table.nbytes > BLOCK_BYTES):
            yield to_block(waiting)
            waiting, num_frames, num_bytes = [], 0, 0
        waiting.append(table)
        num_frames += frames
        num_bytes += table.nbytes
    if waiting:
        yield to_block(waiting)


def giving_blocks(stage: type) -> type:
    """The same class of a stage, whose calls give blocks where they gave tables."""

    class Stage(stage):  # type: ignore[misc]
        def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
            yield from to_blocks(super().__call__(table))

    Stage.__name__ = Stage.__qualname__ = stage.__name__  # Ray Data shows it
    return Stage


def taking_blocks(stage: type) -> type:
    """The same class of a stage, whose calls take and give one block where they took and gave a table."""

    class Stage(stage):  # type: ignore[misc]
        def __call__(self, block: pa.Table) -> pa.Table:
            answer: Any = super().__call__(from_block(block))
            return to_block([answer])

    Stage.__name__ = Stage.__qualname__ = stage.__name__
    return Stage


def bound_waiting(context: Any, max_blocks: int = BLOCKS_WAITING) -> None:
    """Let stages of datasets of a ray.data.DataContext pause while `max_blocks` of their blocks wait for the next one.

    Ray's own backpressure counts bytes, and a pack, or a video that failed, is a few hundred of them: without a bound
    they fill the driver, 25 kB each (measured: 1,500 while 50,000 broken videos were read), until the archive ends.
    """
    from ray.data._internal.execution.backpressure_policy import (
        ENABLED_BACKPRESSURE_POLICIES,
        ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    )

    context.set_config(_MAX_WAITING_KEY, max_blocks)
    context.set_config(
        ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*ENABLED_BACKPRESSURE_POLICIES, _backpressure_class()]
    )


@lru_cache(maxsize=1)
def _backpressure_class() -> type:
    from ray.data._internal.execution.backpressure_policy import BackpressurePolicy
    from ray.data._internal.execution.operators.base_physical_operator import InternalQueueOperatorMixin

    class WaitingBlocks(BackpressurePolicy):  # type: ignore[misc]
        def max_task_output_bytes_to_read(self, op: Any) -> int | None:
            waiting = self._topology[op].total_enqueued_output_blocks()
            for consumer in op.output_dependencies:
                if isinstance(consumer, InternalQueueOperatorMixin):
                    waiting += consumer.internal_input_queue_num_blocks()
            return 0 if waiting >= self._data_context.get_config(_MAX_WAITING_KEY) else None

    return WaitingBlocks
