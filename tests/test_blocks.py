"""Tables travel between stages as blocks of one row: nothing is lost, mixed up or grows too large on the way."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from vidbatch import blocks, schema


def table_of(*num_frames: int, frame_bytes: int = 10) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            **{field.name: None for field in schema.PIXELS},
            "video_id": f"{at}",
            "url": "u",
            "content_version": "1",
            "clip_index": at,
            "num_clips": 9,
            "chunk_index": 0,
            "is_last_chunk": True,
            "num_frames": n,
            "pts_seconds": [0.5] * n,
            "is_keyframe": [True] * n,
            "frames": bytes([at]) * n * frame_bytes,
        }
        for at, n in enumerate(num_frames)
    ]
    return pa.Table.from_pylist(rows, schema=schema.PIXELS)


def test_what_goes_into_a_block_comes_out_of_it() -> None:
    tables = [table_of(3, 0, 5), table_of(1)]
    block = blocks.to_block(tables)
    assert block.num_rows == 1
    assert blocks.from_block(block).equals(pa.concat_tables(tables))
    assert blocks.from_block(block).schema.equals(schema.PIXELS)


def test_a_slice_of_a_table_is_all_that_enters_a_block() -> None:
    table = table_of(1, 2, 3, 4).slice(1, 2)
    assert blocks.from_block(blocks.to_block([table])).equals(table)


def test_small_tables_share_a_block_up_to_its_number_of_frames() -> None:
    tables = [table_of(n) for n in (64, 15, 15, 15, 15, 15, 0, 64, 1, 0)]
    made = [blocks.from_block(block) for block in blocks.to_blocks(iter(tables))]
    assert [table["num_frames"].to_pylist() for table in made] == [[64], [15] * 4, [15, 0], [64], [1, 0]]
    assert pa.concat_tables(made).equals(pa.concat_tables(tables))
    assert list(blocks.to_blocks(iter([]))) == []


def test_large_frames_share_a_block_up_to_its_bytes() -> None:
    tables = [table_of(2, frame_bytes=3 * 2**20) for _ in range(4)]
    assert [blocks.from_block(block).num_rows for block in blocks.to_blocks(iter(tables))] == [2, 2]


def test_stages_that_know_nothing_of_blocks_give_and_take_them() -> None:
    class Decode:
        def __init__(self, size: int) -> None:
            self.size = size

        def __call__(self, _work: pa.Table) -> Any:
            for _ in range(3):
                yield table_of(self.size)

    class Count:
        def __call__(self, table: pa.Table) -> pa.Table:
            return pa.table({"n": [table.num_rows]})

    decode, count = blocks.giving_blocks(Decode), blocks.taking_blocks(Count)
    assert (decode.__name__, count.__name__) == ("Decode", "Count")
    assert [blocks.from_block(count()(block))["n"].to_pylist() for block in decode(40)(None)] == [[1]] * 3
    assert [blocks.from_block(count()(block))["n"].to_pylist() for block in decode(20)(None)] == [[3]]
