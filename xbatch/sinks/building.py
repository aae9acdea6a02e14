"""An output while it is built in the spool: one file, or several of a bounded size."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from xbatch import storage
from xbatch.sinks import Published
from xbatch.sinks.blocks import Block

_BUFFER_BYTES = 1 << 20
_PART = re.compile(r"(.+)-\d{5,}-of-\d{5,}", re.DOTALL)


class FileWriter(Protocol):
    """One file that is being written."""

    rows: int

    def fits(self, piece: Any, max_bytes: int) -> bool:
        """With this piece the finished file would still have at most so many bytes."""

    def add(self, piece: Any) -> None:
        """Write a piece."""

    def close(self) -> None:
        """Finish the file, bring it to the disk, and make sure that it holds all its rows.

        Raises StorageError.
        """

    def abandon(self) -> None:
        """Close it unfinished."""


class Format(Protocol):
    """How responses are written."""

    def check(self) -> list[str]:
        """Find out whether the inputs can be written so; return sentences that the user should see.

        Raises UsageError.
        """

    def pieces(self, block: Block) -> Iterator[tuple[int, Any]]:
        """Cut a block into what can't be divided between two files: number of rows, and a piece for the writer."""

    def open(self, path: Path) -> FileWriter:
        """Begin a file."""


@dataclass(frozen=True, slots=True)
class Built:
    """A finished file in the spool."""

    path: Path
    rows: int

    def publish(self, uri: str) -> Published:
        """Give it its name."""
        size = self.path.stat().st_size
        with open(self.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        storage.publish_to(uri, self.path)
        return Published(uri, self.rows, size, digest)


class Building:
    """One output; with `max_bytes` it goes on in a further file before it grows larger."""

    def __init__(self, spooled: Path, form: Format, max_bytes: int | None) -> None:
        self._spooled = spooled
        self._format = form
        self._max_bytes = max_bytes
        self._built: list[Built] = []
        self._writer: FileWriter | None = None

    def write(self, block: Block) -> None:
        """Add responses."""
        for rows, piece in self._format.pieces(block):
            writer = self._writer or self._next()
            if self._max_bytes is not None and writer.rows and not writer.fits(piece, self._max_bytes):
                self._end()
                writer = self._next()
            writer.add(piece)
            writer.rows += rows

    def close(self) -> list[Built]:
        """Finish it and return its files, at least one."""
        if self._writer is not None:
            self._end()
        elif not self._built:
            self._next()
            self._end()
        return self._built

    def clear(self) -> None:
        """Remove what of it lies in the spool."""
        if self._writer is not None:
            self._writer.abandon()
            self._path.unlink(missing_ok=True)
        for built in self._built:
            built.path.unlink(missing_ok=True)

    @property
    def _path(self) -> Path:
        return self._spooled.with_name(f"{self._spooled.name}-{len(self._built)}")

    def _next(self) -> FileWriter:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = self._format.open(self._path)
        return self._writer

    def _end(self) -> None:
        assert self._writer is not None
        self._writer.close()
        built = Built(self._path, self._writer.rows)
        self._writer = None
        self._built.append(built)


def open_spooled(path: Path) -> BinaryIO:
    """Begin a file in the spool."""
    return open(path, "wb", buffering=_BUFFER_BYTES)


def part_uri(target: str, number: int, parts: int) -> str:
    """The name of one of several files of an output: `out-00000-of-00012.jsonl` of `out.jsonl`."""
    stem, extension = split_name(target)
    return f"{stem}-{number:05d}-of-{parts:05d}{extension}"


def whole_name(part: str) -> str | None:
    """Return the output of which a name that `part_uri` gives is a part; None if it is no such name."""
    stem, extension = split_name(part)
    found = _PART.fullmatch(stem)
    return found[1] + extension if found else None


def part_pattern(target: str) -> re.Pattern[str]:
    """Matches the names that `part_uri` gives; its only group is the number of parts."""
    stem, extension = split_name(target)
    return re.compile(rf"{re.escape(stem)}-\d{{5,}}-of-(\d{{5,}}){re.escape(extension)}")


def split_name(uri: str) -> tuple[str, str]:
    """Cut a URI before its extension, which may have two parts."""
    folder, slash, name = uri.rpartition("/")
    found = re.search(r"(\.(jsonl|ndjson|json))?(\.(gz|zst|bz2|xz))?$|\.\w+$", name, re.IGNORECASE)
    at = found.start() if found and found.group() and found.start() > 0 else _last_dot(name)
    return folder + slash + name[:at], name[at:]


def _last_dot(name: str) -> int:
    at = name.rfind(".")
    return at if at > 0 else len(name)
