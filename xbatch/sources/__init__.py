"""Where rows come from."""

from collections.abc import Iterator
from typing import Protocol

from xbatch.rows.row import Row
from xbatch.rows.shard import Shard

DIGEST_BYTES = 32


class Source(Protocol):
    """One input of a job."""

    uri: str
    """The file to read."""
    shown_as: str
    """What the user called it."""
    blank_lines: int
    """Lines without a row that the last whole scan passed over."""
    digest: str
    """BLAKE2b of all bytes that the last whole scan read, in hex."""

    def check(self) -> None:
        """Find out by a look at its first bytes whether it can be read at all.

        Raises UsageError.
        """

    def scan(self, first_row: int) -> Iterator[Row]:
        """Every row from the beginning, the first with index `first_row`.

        Raises StorageError.
        """

    def read(self, shard: Shard) -> Iterator[Row]:
        """The rows of a shard, which is one of this input.

        Raises StorageError, also if the input is not what it was when the shard was cut.
        """
