"""Finding repeated `custom_id`s among any number of rows, in bounded memory."""

import struct
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from xbatch.planning.external_sort import ExternalSorter

# Big-endian, so that the order of the bytes is the order of the numbers.
_DIGEST_BYTES = 16
_SEEN = struct.Struct(">16sQIQ")
_REPEAT = struct.Struct(">QIQ")

LinePlace = tuple[int, int]
"""File of the job, line in it."""


class RepeatFinder:
    """Finds every row whose `custom_id` an earlier row has.

    Ids are told apart by 128-bit digests: among 10^8 rows a false alarm has a chance of 10^-23.
    """

    def __init__(self, spool_folder: Path | None = None) -> None:
        self._seen = ExternalSorter(_SEEN.size, spool_folder)
        self._found = ExternalSorter(_REPEAT.size, spool_folder)

    def add(self, custom_id: str, index: int, place: LinePlace) -> None:
        """Take in the row with this `index`, which stands at `place`."""
        digest = blake2b(custom_id.encode(), digest_size=_DIGEST_BYTES).digest()
        self._seen.add(_SEEN.pack(digest, index, *place))

    def repeats(self) -> Iterator[tuple[int, LinePlace]]:
        """The later rows in order of their index, each with the place where its id stands first."""
        first, first_digest = b"", bytes(_SEEN.size + 1)  # longer than any record, so nothing begins with it
        for record in self._seen:
            if record.startswith(first_digest):
                self._found.add(_REPEAT.pack(_SEEN.unpack(record)[1], *_SEEN.unpack(first)[2:]))
            else:
                first, first_digest = record, record[:_DIGEST_BYTES]
        for record in self._found:
            index, file, line = _REPEAT.unpack(record)
            yield index, (file, line)

    def close(self) -> None:
        """Give the spool files back."""
        self._seen.close()
        self._found.close()
