"""An output location in, its published tables out: as Arrow, pandas, Polars or DuckDB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from vidbatch import schema, storage


@dataclass(frozen=True)
class Table:
    """One published table of an output; opened anew at each call, so always what is published now."""

    output: str
    name: str  # videos | frames | enhanced

    @property
    def url(self) -> str:
        """The folder any Parquet reader can be pointed at."""
        return storage.join(self.output, self.name)

    def to_dataset(self) -> Any:
        """A pyarrow.dataset.Dataset: lazy, prunes by statistics and by date partition."""
        fs, path = storage.filesystem(self.url)
        files = sorted(f for f in fs.find(path) if f.endswith(".parquet"))
        if not files:
            schemas = {"videos": schema.VIDEOS, "enhanced": schema.ENHANCED}
            return ds.dataset(schemas.get(self.name, schema.frames_schema()).empty_table())
        partitioning = ds.partitioning(flavor="hive") if any("/date=" in f for f in files) else None
        return ds.dataset(files, filesystem=fs, format="parquet", partitioning=partitioning)

    def to_arrow(self) -> pa.Table:
        """The whole table in memory."""
        return self.to_dataset().to_table()

    def to_pandas(self) -> Any:
        """A pandas.DataFrame."""
        return self.to_arrow().to_pandas()

    def to_polars(self) -> Any:
        """A polars.DataFrame; needs polars installed."""
        import polars

        return polars.from_arrow(self.to_arrow())

    def to_duckdb(self) -> Any:
        """A DuckDB relation over the table; needs duckdb installed."""
        import duckdb

        return duckdb.from_arrow(self.to_arrow())


class LabelTables:
    """The tables of one output: `videos`, one row a video, `frames`, one row a sampled frame, and `enhanced`."""

    def __init__(self, output: str) -> None:
        self.videos = Table(output, "videos")
        self.frames = Table(output, "frames")
        self.enhanced = Table(output, "enhanced")
