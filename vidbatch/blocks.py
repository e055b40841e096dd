"""Tables of many rows in, Ray Data blocks of one row out, and back: how chunks travel between the stages.

A block is what Ray Data hands on, and each costs its driver about 10 ms. Under the chain's target_max_block_size of 1
it cuts what a stage yields into blocks of one row, so small chunks go together inside one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import pyarrow as pa

BLOCK_FRAMES: Final = 64
BLOCK_BYTES: Final = 16 * 2**20
_COLUMN: Final = "rows"


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
