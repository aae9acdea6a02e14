"""Finding repeats among the keys of any number of rows, in bounded memory."""

import re
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
_GENERATED = b"row-"
_IS_GENERATED = 1 << 63
"""Added to the number of a line."""
_LIKE_REPLACED = re.compile(rb"row-\d+\.(\d+)")

_RENAMED = 0xFFFFFFFF
"""Stands in the place of a file for a row that gives no key and needs another one."""

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
    """Finds every row whose key an earlier row of the same file gives, and rows whose generated key another row gives.

    A row that gives no key comes with one that no other such row has, `row-<number>`. Keys are told apart by 128-bit
    digests: among 10^8 rows a false alarm has a chance of 10^-23. Short ones stand for themselves, after their length:
    most of them are numbered, so they come sorted.
    """

    def __init__(self, spool_folder: Path | None = None) -> None:
        self.shared = 0
        """Rows whose key a row of an earlier file gives; known when `repeats` is at its end."""
        self.first_shared: tuple[LinePlace, LinePlace] | None = None
        """Where the first of them stands, and the first row that gives the same key, in this order."""
        self._first_shared_index = 0
        self._longest_suffix = 0
        self._digest = blake2b(digest_size=_DIGEST_BYTES).copy
        self._seen = ExternalSorter(_SEEN.size, spool_folder)
        self._found = ExternalSorter(_REPEAT.size, spool_folder)

    def add(self, key: bytes, index: int, file: int, line: int, *, generated: bool = False) -> None:
        """Take in the row with this `index`, which stands in this line of this file; files come one after another."""
        if generated:
            line |= _IS_GENERATED
        elif key[:4] == _GENERATED and (like := _LIKE_REPLACED.fullmatch(key)):
            self._longest_suffix = max(self._longest_suffix, len(like[1]))
        if len(key) <= _SHORT_BYTES:
            self._seen.add(_SEEN_SHORT.pack(key, index, file, line))
            return
        digest = self._digest()
        digest.update(key)
        self._seen.add(_SEEN.pack(digest.digest(), index, file, line))

    def repeats(self) -> Iterator[tuple[int, LinePlace | None]]:
        """Yield the rows whose key is not theirs alone, in order of their index; called once, when all were added.

        A row that gives a key comes with the place where its file has that key first, one that gives none with None:
        it is to be called `replaced_key`.
        """
        first, first_digest = b"", bytes(_SEEN.size + 1)  # longer than any record, so nothing begins with it
        group: _SameKey | None = None
        for record in self._seen:
            if record.startswith(first_digest):
                if group is None:
                    group = _SameKey(self)
                    group.add(first)
                if (found := group.add(record)) is not None:
                    self._found.add(found)
            else:
                first, first_digest = record, record[:_DIGEST_BYTES]
                group = None
        for record in self._found:
            index, file, line = _REPEAT.unpack(record)
            yield index, None if file == _RENAMED else (file, line)

    def replaced_key(self, number: int) -> str:
        """Return the key for a row without one, if another row gives `row-<number>`.

        Its suffix is longer than that of any key of this form that a row gives, so no row gives it.
        """
        return f"row-{number}.{'1'.ljust(self._longest_suffix + 1, '0')}"

    def share(self, index: int, place: LinePlace, first: LinePlace) -> None:
        """Note a row whose key a row of an earlier file gives."""
        if not self.shared or index < self._first_shared_index:
            self._first_shared_index, self.first_shared = index, (place, first)
        self.shared += 1

    def close(self) -> None:
        """Give the spool files back."""
        self._seen.close()
        self._found.close()


class _SameKey:
    """The records of one key, which come in order of their index; of any number of them this holds one of each sort."""

    def __init__(self, finder: RepeatFinder) -> None:
        self._finder = finder
        self._first: LinePlace | None = None
        """Of the rows that give the key."""
        self._first_in_file: LinePlace | None = None
        self._nameless: int | None = None
        """The row that gives no key; there is one of each number."""

    def add(self, record: bytes) -> bytes | None:
        """Take in a record; return what is found by that, for a row that may be an earlier one."""
        _, index, file, line = _SEEN.unpack(record)
        place = (file, line & ~_IS_GENERATED)
        if line & _IS_GENERATED:
            self._nameless = index
            return self._renamed() if self._first is not None else None
        if self._first is None or self._first_in_file is None:
            self._first = self._first_in_file = place
            return self._renamed() if self._nameless is not None else None
        if self._first_in_file[0] == file:
            return _REPEAT.pack(index, *self._first_in_file)
        self._first_in_file = place
        self._finder.share(index, place, self._first)
        return None

    def _renamed(self) -> bytes:
        return _REPEAT.pack(self._nameless, _RENAMED, 0)
