"""Compressed files as a stream of the bytes they hold, known by their first bytes and never by their name.

Formats: gzip (RFC 1952), bzip2, xz, Zstandard (RFC 8878), each as any number of members one after another, as
`cat a.gz b.gz` makes them. Zero bytes between members and after the last are padding. Anything else that follows, a
member that ends early and a checksum that does not fit are damage: the stream raises instead of ending.
"""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

import zstandard

from xbatch import storage

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAGIC_BYTES = 6
"""So many first bytes tell the format."""

_OUT_BYTES = 1 << 20
_PIECE_BYTES = 64 << 10
# zstandard has no limit on its output, and four bytes of input can become 128 KiB: this makes 16 MiB at most.
_ZSTD_PIECE_BYTES = 512
_XZ_MEMORY_BYTES = 256 << 20


class Damaged(Exception):
    """A file does not hold what its format promises; the text says what is wrong."""


class Decompressor(Protocol):
    """What `bz2` and `lzma` call a decompressor: it decompresses one member."""

    @property
    def eof(self) -> bool:
        """The member is complete and its checksum was right."""
        ...

    @property
    def needs_input(self) -> bool:
        """It gives no more without further input."""
        ...

    @property
    def unused_data(self) -> bytes:
        """What followed the member in the last input."""
        ...

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Take in `data`, give at most `max_length` bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Codec:
    """A way to compress."""

    name: str
    begin: Callable[[], Decompressor]
    errors: type[Exception]
    piece_bytes: int = _PIECE_BYTES


class _Zlib:
    """zlib's decompressor, which hands input back where the others keep it."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self._tail = b""
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._inner.decompress(self._tail + data, max_length)
        self._tail = self._inner.unconsumed_tail
        self.needs_input = len(out) < max_length
        return out


class _Zstd:
    """zstandard's decompressor, which gives all that the input holds."""

    needs_input = True

    def __init__(self) -> None:
        self._inner = zstandard.ZstdDecompressor().decompressobj()

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(data)


_GZIP = Codec("gzip", _Zlib, zlib.error)
_BZIP2 = Codec("bzip2", bz2.BZ2Decompressor, OSError)
_XZ = Codec("xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY_BYTES), lzma.LZMAError)
_ZSTD = Codec("zstd", _Zstd, zstandard.ZstdError, _ZSTD_PIECE_BYTES)
_CODECS = (
    (b"\x1f\x8b", _GZIP),
    (b"BZh", _BZIP2),
    (b"\xfd7zXZ\x00", _XZ),
    (b"\x28\xb5\x2f\xfd", _ZSTD),
    # A skippable frame, with which parallel compressors begin.
    *((bytes((0x50 + i,)) + b"\x2a\x4d\x18", _ZSTD) for i in range(16)),
)


def codec_of(head: bytes) -> Codec | None:
    """Tell from a file's first bytes how it is compressed, None if it is not."""
    return next((codec for magic, codec in _CODECS if head.startswith(magic)), None)


def decompressed(file: BinaryIO, seen: Callable[[bytes], object] | None = None) -> BinaryIO:
    """The bytes that a file holds, from its beginning; closing it closes the file.

    `seen` is called with every piece that is read of the file itself. Reading raises Damaged. Only where the file is
    not compressed and nobody wants to see it, the stream can be sought in.
    """
    try:
        codec = codec_of(file.read(MAGIC_BYTES))
        file.seek(0)
    except BaseException:
        file.close()
        raise
    if codec is None and seen is None:
        return file
    tapped = _Tapped(file, seen) if seen is not None else file
    raw = _Decompressed(tapped, codec) if codec is not None else tapped
    return cast("BinaryIO", io.BufferedReader(cast("io.RawIOBase", raw), storage.READ_BUFFER_BYTES))


class _Tapped(io.RawIOBase):
    """A file whose reader is watched."""

    def __init__(self, file: BinaryIO, seen: Callable[[bytes], object]) -> None:
        self._file = file
        self._seen = seen

    def readable(self) -> bool:
        return True

    def readinto(self, target: "WriteableBuffer") -> int:
        with memoryview(target).cast("B") as view:
            data = self._file.read(len(view))
            view[: len(data)] = data
        self._seen(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Decompressed(io.RawIOBase):
    """What a compressed file holds."""

    def __init__(self, file: "BinaryIO | io.RawIOBase", codec: Codec) -> None:
        self._file = file
        self._codec = codec
        self._member: Decompressor | None = None
        self._input = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: "WriteableBuffer") -> int:
        while not self._ready:
            if self._member is None and not self._begin_member():
                return 0
            self._ready = memoryview(self._decompress())
        with memoryview(target).cast("B") as view:
            size = min(len(view), len(self._ready))
            view[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()

    def _begin_member(self) -> bool:
        """Go on to the next member; False if only padding is left."""
        while not (rest := self._input.lstrip(b"\0")):
            if not (rest := self._read()):
                return False
            self._input = rest
        self._input, self._member = rest, self._codec.begin()
        return True

    def _decompress(self) -> bytes:
        """What the member gives next; it may be nothing."""
        member, data = self._member, b""
        assert member is not None
        if member.needs_input:
            data, self._input = self._input or self._read(), b""
            if not data:
                raise Damaged(f"the {self._codec.name} data end too early")
        try:
            out = member.decompress(data, _OUT_BYTES)
        except self._codec.errors as e:
            raise Damaged(f"the {self._codec.name} data are corrupt or followed by something else ({e})") from e
        if member.eof:
            self._input, self._member = member.unused_data, None
        return out

    def _read(self) -> bytes:
        return self._file.read(self._codec.piece_bytes) or b""
