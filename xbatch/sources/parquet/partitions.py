"""Columns that a table's path holds: of `lang=en/day=2024-01-01/part.parquet` these are `lang` and `day`."""

from collections.abc import Iterator
from urllib.parse import unquote

import pyarrow as pa

from xbatch import storage
from xbatch.sources.parquet.columns import CUSTOM_ID
from xbatch.sources.parquet.table import Table

_NULL = "__HIVE_DEFAULT_PARTITION__"


def partitions_of(uri: str) -> dict[str, str | None]:
    """Return the columns that the folders of a path hold, as Hive and Spark write them; the innermost of a name wins.

    The whole path counts, also what of it is above the working directory, so that a job does not depend on that.
    """
    found: dict[str, str | None] = {}
    for folder in _folders(uri):
        name, equals, value = folder.partition("=")
        if name and equals and (name := unquote(name)) != CUSTOM_ID:
            found[name] = None if value == _NULL else unquote(value)
    return found


def _folders(uri: str) -> list[str]:
    """Return the folders that lead to a file; a login, the name of a host and a signature are none."""
    if storage.is_local(uri):
        return storage.as_text(str(storage.local_path(uri).absolute())).split("/")[:-1]
    scheme, _, place = uri.partition("://")
    if scheme in ("http", "https"):
        place = place.partition("?")[0]
    return place.split("/")[1:-1]


class PartitionedTable(Table):
    """A Parquet file with the columns that its path holds, behind its own; a column of its own goes before one of them.

    Raises as Table does.
    """

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.own_schema = self.schema
        """The columns that stand in the file."""
        self.partitions = {n: value for n, value in partitions_of(uri).items() if n not in self.own_schema.names}
        """Those that its path holds, each with its one value."""
        for name in self.partitions:
            self.schema = self.schema.append(pa.field(name, pa.string()))

    def batches(self, names: list[str], first: int, rows: int) -> Iterator[pa.RecordBatch]:
        """Some columns of `rows` rows from row `first` on, as `Table.batches` gives them."""
        if self.partitions.keys().isdisjoint(names):
            yield from super().batches(names, first, rows)
            return
        # Without any column of the file, the number of rows would not be known.
        own = [name for name in names if name not in self.partitions] or self.own_schema.names[:1]
        schema = pa.schema([self.schema.field(name) for name in names])
        for batch in super().batches(own, first, rows):
            columns = [
                pa.array([self.partitions[name]] * batch.num_rows, pa.string())
                if name in self.partitions
                else batch.column(name)
                for name in names
            ]
            yield pa.record_batch(columns, schema=schema)
