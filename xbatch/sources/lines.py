"""Lines of a stream of bytes."""

from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from xbatch import storage
from xbatch.rows.request import EXCERPT_BYTES

BOM = b"\xef\xbb\xbf"
_LINE_END_BYTES = len(b"\r\n")
_BLANKS = b" \t\r\n"


class Line(msgspec.Struct, gc=False):
    """One line."""

    offset: int
    number: int
    data: bytes
    num_bytes: int
    too_long: bool
    blank: bool
    """It holds no row."""


class Lines:
    """The lines of a stream, none of them held if it has more than `max_bytes`.

    Lines end at a line feed and nowhere else. A byte order mark at the start of a line, a carriage return at its end
    and blanks around it are not part of it.
    """

    def __init__(self, stream: BinaryIO, max_bytes: int) -> None:
        self.offset = 0
        """Byte at which the next line begins."""
        self._number = 1
        self._stream = stream
        self._max_bytes = max_bytes

    def __iter__(self) -> Iterator[Line]:
        """The lines from here on."""
        readline, most, max_bytes = self._stream.readline, self._max_bytes + _LINE_END_BYTES + 1, self._max_bytes
        while data := readline(most):
            offset, number, num_bytes = self.offset, self._number, len(data)
            too_long = num_bytes > max_bytes and len(data.rstrip(b"\r\n")) > max_bytes
            if too_long:
                num_bytes += 0 if data.endswith(b"\n") else self._skip_line()
                data = data[: EXCERPT_BYTES + 1]
            self.offset, self._number = offset + num_bytes, number + 1
            # Concatenated files bring byte order marks into the middle, and so at the start of lines.
            text = data.removeprefix(BOM).strip(_BLANKS)
            yield Line(offset, number, text, num_bytes, too_long, not text and not too_long)

    def go_to(self, offset: int, number: int) -> bool:
        """Stand before the line with this number, which begins at `offset`; False if the stream can't go back there.

        Beyond the end there are no lines.
        """
        if self._stream.seekable():
            self._stream.seek(offset)
        elif offset < self.offset:
            return False
        else:
            left = offset - self.offset
            while left and (data := self._stream.read(min(left, storage.READ_BUFFER_BYTES))):
                left -= len(data)
        self.offset, self._number = offset, number
        return True

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()

    def _skip_line(self) -> int:
        """Pass over the rest of a line without holding it; return how long it was."""
        skipped = 0
        while data := self._stream.readline(storage.READ_BUFFER_BYTES):
            skipped += len(data)
            if data.endswith(b"\n"):
                break
        return skipped
