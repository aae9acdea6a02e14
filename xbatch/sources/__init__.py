"""Where rows come from."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from xbatch.rows.row import Row
from xbatch.rows.shard import Shard

if TYPE_CHECKING:
    import pyarrow as pa

DIGEST_BYTES = 32


class Source(Protocol):
    """One input of a job.

    `scan`, `read` and `carried` may be used from different threads, each by one at a time.
    """

    uri: str
    """The file to read."""
    shown_as: str
    """What the user called it."""
    blank_lines: int
    """Lines without a row that the last whole scan passed over."""
    digest: str
    """Changes when the content does, known after a whole scan: BLAKE2b of the file's bytes, in hex.

    For Parquet in a store, of whose bytes a scan reads some only: BLAKE2b of size, version and footer.
    """

    @property
    def notes(self) -> Sequence[str]:
        """Sentences that the user should see; known after `check`."""

    @property
    def carried_schema(self) -> "pa.Schema | None":
        """The columns that are not part of the requests; None if there are none. Known after `check`."""

    def place(self, line: int) -> str:
        """Where a user finds the row that stands in this line, or is this one of a table; from 1."""

    def check(self) -> None:
        """Find out by a look at its first bytes, or its footer, whether it can be read at all.

        Raises UsageError.
        """

    def scan(self, first_row: int) -> Iterator[Row]:
        """Every row from the beginning, the first with index `first_row`.

        Raises StorageError, and UsageError at the place where the file is damaged.
        """

    def read(self, shard: Shard) -> Iterator[Row]:
        """The rows of a shard, which is one of this input; costs least if it follows the last one read.

        Raises StorageError, also if the input is not what it was when the shard was cut.
        """

    def carried(self, first: int, rows: int) -> "Iterator[pa.RecordBatch]":
        """The columns of `carried_schema` for `rows` rows from row `first` of this input on, from 0, in order.

        Raises StorageError.
        """

    def close(self) -> None:
        """Give back the files that are kept open for the next `read`."""
