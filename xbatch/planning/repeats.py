"""Finding repeats among the keys of any number of rows, in bounded memory."""

import struct
from collections.abc import Iterator
from hashlib import blake2b
from itertools import tee
from operator import eq
from pathlib import Path

from xbatch.planning.external_sort import ExternalSorter

# Big-endian, so that the order of the bytes is the order of the numbers.
_DIGEST_BYTES = 16
_SEEN = struct.Struct(">16sQIQ")
_SEEN_SHORT = struct.Struct(">16pQIQ")  # "p" is the key's length, the key, and zeros
_SHORT_BYTES = _DIGEST_BYTES - 1
_REPEAT = struct.Struct(">QIQ")

LinePlace = tuple[int, int]
"""File of the job, line in it."""


class RepeatCounter:
    """Counts the keys that came before; otherwise as RepeatFinder."""

    def __init__(self, spool_folder: Path | None = None) -> None:
        self._digest = blake2b(digest_size=_DIGEST_BYTES).copy
        self._seen = ExternalSorter(_DIGEST_BYTES, spool_folder)

    def add(self, key: bytes) -> None:
        """Take in one more."""
        digest = self._digest()
        digest.update(key)
        self._seen.add(digest.digest())

    def count(self) -> int:
        """So many came that had come before."""
        one, other = tee(self._seen)
        next(other, None)
        return sum(map(eq, one, other))

    def close(self) -> None:
        """Give the spool file back."""
        self._seen.close()


class RepeatFinder:
    """Finds every row whose key an earlier row has.

    Keys are told apart by 128-bit digests: among 10^8 rows a false alarm has a chance of 10^-23. Short ones stand for
    themselves, after their length: most of them are numbered, so they come sorted.
    """

    def __init__(self, spool_folder: Path | None = None) -> None:
        self._digest = blake2b(digest_size=_DIGEST_BYTES).copy
        self._seen = ExternalSorter(_SEEN.size, spool_folder)
        self._found = ExternalSorter(_REPEAT.size, spool_folder)

    def add(self, key: bytes, index: int, file: int, line: int) -> None:
        """Take in the row with this `index`, which stands in this line of this file."""
        if len(key) <= _SHORT_BYTES:
            self._seen.add(_SEEN_SHORT.pack(key, index, file, line))
            return
        digest = self._digest()
        digest.update(key)
        self._seen.add(_SEEN.pack(digest.digest(), index, file, line))

    def repeats(self) -> Iterator[tuple[int, LinePlace]]:
        """The later rows in order of their index, each with the place where its key stands first."""
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
