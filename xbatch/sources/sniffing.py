"""What a file is that is no JSONL, told from its beginning, and how to make JSONL or Parquet of it."""

import codecs
import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from xbatch.sources.converting import Conversion, Way

HEAD_BYTES = 256 << 10
"""How much of a file is looked at, after decompression."""

_decode: Callable[[bytes], object] = msgspec.json.Decoder().decode

_BOM = b"\xef\xbb\xbf"
_TOKENS = 50_000
"""Tokens of a document over several lines that are looked at."""
_BINARY_SHARE = 0.05
_FEW_LINES = 50
_LISTED = 3
"""So many objects with commas behind them are no rows of which some are broken."""
_UNPACK = "unpack it, and give the files that it holds"
_MAGICS: tuple[tuple[int, bytes, str, Way | str], ...] = (
    (0, b"PAR1", "Parquet inside a compressed file", "unpack it"),
    (0, b"PK\x03\x04", "a zip archive", _UNPACK),
    (0, b"\x04\x22\x4d\x18", "lz4-compressed", "unpack it by lz4 -d"),
    (0, b"\xff\x06\x00\x00sNaPpY", "snappy-compressed", "unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a rar archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"Obj\x01", "Avro", ""),
    (0, b"ORC", "ORC", Way.ORC),
    (0, b"ARROW1", "an Arrow file", Way.ARROW),
    (0, b"FEA1", "a Feather file", Way.ARROW),
    (0, b"\xff\xff\xff\xff", "an Arrow stream", Way.ARROW_STREAM),
    (0, b"SQLite format 3\0", "an SQLite database", ""),
    (0, b"\x93NUMPY", "a numpy array", ""),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5", ""),
    (0, b"GGUF", "the weights of a model (GGUF)", ""),
    (0, b"\x7fELF", "a program (ELF)", ""),
    (0, b"\x89PNG\r\n\x1a\n", "an image (PNG)", ""),
    (0, b"\xff\xd8\xff", "an image (JPEG)", ""),
    (0, b"GIF8", "an image (GIF)", ""),
    (0, b"%PDF-", "a PDF", ""),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document", ""),
    (0, b"version https://git-lfs.github.com/spec/", "a pointer of Git LFS", "git lfs pull gets the file itself"),
    (0, b"-----BEGIN PGP", "encrypted (PGP)", ""),
)
_ENCODINGS = (
    (b"\xff\xfe\x00\x00", "UTF-32LE"),
    (b"\x00\x00\xfe\xff", "UTF-32BE"),
    (b"\xff\xfe", "UTF-16LE"),
    (b"\xfe\xff", "UTF-16BE"),
)
"""Byte order marks."""
_UNMARKED = ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE")
_UNMARKED_BYTES = 64
_MARKUP = re.compile(rb"<[a-z!?]", re.IGNORECASE)
_TOKEN = re.compile(
    rb'[ \t\r\n]*(?:("(?:[^"\\\x00-\x1f]|\\.)*")|(-?[0-9][-+.0-9eE]*|true|false|null|NaN|-?Infinity)|([{}\[\],:]))'
)
_OBJECT = re.compile(rb'\{[ \t]*"')
"""How a row begins, even one that is broken further on."""
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_YAML = re.compile(rb"(?:---\s*|- .*|[A-Za-z_][\w .-]*:(?: .*)?|\s+\S.*|#.*)")


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a file, decompressed."""

    data: bytes
    whole: bool
    """It is all of the file."""


def foreign(head: Head, conversion: Conversion) -> str | None:
    """Say what a file is and how to convert it, as the rest of a sentence; None if it may be JSONL.

    A file in which any of the first lines is a JSON object, or begins as one, may be: its other lines are rows that
    fail.
    """
    text = head.data.removeprefix(_BOM).strip()
    if (known := _known_format(head.data, conversion)) is not None or not text:
        return known
    if _MARKUP.match(text):
        return _not_jsonl("HTML or XML", "servers send such pages in place of a file that they can't give")
    lines = _lines(head, text)
    kind = _document(text, lines, whole=head.whole)
    return kind.sentence(conversion) if kind is not None else _lines_of_what(head, lines, conversion)


def _lines_of_what(head: Head, lines: Sequence[bytes], conversion: Conversion) -> str | None:
    """Say what the lines of a text are; None if any of them may be a row."""
    objects = [line for line in lines if line.startswith(b"{")]
    if any(_OBJECT.match(line) or _decoded(line) is not None for line in objects):
        return _without_brackets(lines, conversion)
    if _is_binary(head.data):
        return _not_jsonl("a binary file")
    if objects:
        return _without_brackets(lines, conversion)
    return None if any(_decoded(line) is not None for line in lines) else _text(lines, conversion)


@dataclass(frozen=True, slots=True)
class _Document:
    """One JSON value that is not one row: an array, or an object over several lines."""

    array: bool
    pretty: bool

    def sentence(self, conversion: Conversion) -> str:
        pretty = "pretty-printed JSON" if self.pretty else "JSON"
        what = f"a {pretty} array" if self.array else pretty
        way = conversion.by(Way.JQ_ARRAY if self.array else Way.JQ)
        return f"is {what}, not JSONL, which has one object a line: {way}"


def _known_format(data: bytes, conversion: Conversion) -> str | None:
    for offset, magic, what, way in _MAGICS:
        if data.startswith(magic, offset):
            return _not_jsonl(what, conversion.by(way) if isinstance(way, Way) else way)
    # Pickles begin with their protocol, safetensors with the size of the JSON that follows.
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _not_jsonl("a Python pickle")
    if data[4:10] == b'\0\0\0\0{"':
        return _not_jsonl("the weights of a model (safetensors)")
    encoding = next((name for mark, name in _ENCODINGS if data.startswith(mark)), None) or _unmarked(data)
    if encoding is not None:
        return _not_jsonl(f"{encoding[:6]} text", conversion.by(Way.ICONV, encoding))
    return None


def _unmarked(data: bytes) -> str | None:
    """Tell an encoding of two or four bytes a character without a byte order mark by what it makes of the beginning."""
    sample = data[:_UNMARKED_BYTES]
    for name in _UNMARKED if b"\0" in sample else ():
        try:
            text = codecs.getincrementaldecoder(name)().decode(sample)
        except UnicodeDecodeError:
            continue
        if text and text[0].isascii() and all(c.isprintable() or c in "\t\r\n" for c in text):
            return name
    return None


def _lines(head: Head, text: bytes) -> list[bytes]:
    """Return the lines that are there from beginning to end and not blank; a single one even if it is cut off."""
    lines = [line.removeprefix(_BOM).strip() for line in text.split(b"\n")]
    if not head.whole and len(lines) > 1 and not head.data.endswith(b"\n"):
        lines.pop()
    return [line for line in lines if line]


def _document(text: bytes, lines: Sequence[bytes], *, whole: bool) -> _Document | None:
    """Return the one JSON value that the text is or begins; None if its first line can be a row of its own."""
    array = text.startswith(b"[")
    if not array and not text.startswith(b"{"):
        return None
    first = _decoded(lines[0])
    if first is not None:
        return _Document(array, pretty=False) if array and len(lines) == 1 else None
    if len(lines) == 1 and not (array and whole):
        return _Document(array, pretty=False) if array else None  # an object in one line is a row that is broken
    if not _spans_lines(text, whole=whole) and not (array and _mostly_objects(lines, b"},")):
        return None
    return _Document(array, pretty=not (array and _mostly_objects(lines, b"},", b"}")))


def _mostly_objects(lines: Sequence[bytes], *ends: bytes) -> bool:
    """Tell whether most lines behind the first are objects with such ends."""
    body = lines[1 : _FEW_LINES + 1]
    return sum(line.startswith(b"{") and line.endswith(ends) for line in body) * 2 > len(body)


def _spans_lines(text: bytes, *, whole: bool) -> bool:
    """Tell whether the text begins with one valid JSON value that goes on over the end of the first line."""
    depth, at, expected = b"", 0, "value"
    for _ in range(_TOKENS):
        if (found := _TOKEN.match(text, at)) is None:
            rest = text[at:].strip()
            if whole:  # The value lacks its end, or is none; if any line could be a row, it is to be read as one.
                return not rest and not any(isinstance(_decoded(line), dict) for line in text.split(b"\n"))
            return b"\n" not in rest
        at = found.end()
        step = _step(found, depth, expected)
        if step is None:
            return False
        depth, expected = step
        if not depth:
            return b"\n" in text[:at]
    return True


def _step(token: "re.Match[bytes]", depth: bytes, expected: str) -> tuple[bytes, str] | None:
    """Go on by one token; return the open brackets and what may come next, None if the token may not."""
    mark = token[3]
    if mark in (b"{", b"["):
        return (depth + mark, "key" if mark == b"{" else "value") if expected == "value" else None
    if mark in (b"}", b"]"):
        fits = depth[-1:] == (b"{" if mark == b"}" else b"[") and expected != "colon"
        return (depth[:-1], "comma") if fits else None
    if mark == b",":
        return (depth, "key" if depth[-1:] == b"{" else "value") if expected == "comma" and depth else None
    if mark == b":":
        return (depth, "value") if expected == "colon" else None
    if expected == "key":
        return (depth, "colon") if token[1] is not None else None
    return (depth, "comma") if expected == "value" else None


def _without_brackets(lines: Sequence[bytes], conversion: Conversion) -> str | None:
    """Tell the inside of an array: objects of which all but the last are followed by a comma."""
    if len(lines) > _LISTED and all(line.startswith(b"{") and line.endswith(b"},") for line in lines[:-1]):
        return f"has a comma behind every object, as JSON arrays do and JSONL does not: {conversion.by(Way.SED)}"
    return None


def _is_binary(data: bytes) -> bool:
    sample = data[: 8 << 10]
    return b"\0" in sample or len(_CONTROL.findall(sample)) > len(sample) * _BINARY_SHARE


def _text(lines: Sequence[bytes], conversion: Conversion) -> str | None:
    """Say which sort of text the lines are, none of which is JSON; None for single words, which may be anything."""
    sample = lines[:_FEW_LINES]
    for delimiter in ",\t;|":
        if _is_table(sample, delimiter):
            name = "TSV" if delimiter == "\t" else "CSV"
            return _not_jsonl(name, conversion.by(Way.CSV, delimiter))
    if len(sample) > 1 and all(_YAML.fullmatch(line) for line in sample) and any(b":" in line for line in sample):
        return _not_jsonl("YAML")
    if any(b" " in line for line in sample):
        return _not_jsonl("plain text", f"if each line is a prompt, {conversion.by(Way.JQ_TEXT)}")
    return None


def _is_table(lines: Sequence[bytes], delimiter: str) -> bool:
    """Tell whether the lines have the same number of fields, more than one; quoted fields may hold line ends."""
    text = [line.decode("utf-8", "replace") for line in lines]
    try:
        rows = [row for row in csv.reader(text, delimiter=delimiter) if row]
    except csv.Error:
        return False
    sizes = [len(row) for row in rows[: len(rows) - (len(lines) == _FEW_LINES)]]
    # Prose has commas too, but not the same number in each line, nor right before the next word.
    compact = sum(f"{delimiter} " in line for line in text) * 2 < len(text)
    return len(sizes) > 1 and sizes[0] > 1 and compact and all(one == other for one, other in pairwise(sizes))


def _decoded(line: bytes) -> object | None:
    """Return the JSON value of a line, None if it is none."""
    try:
        return _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _not_jsonl(what: str, more: str = "") -> str:
    return f"is {what}, not JSONL in UTF-8{f': {more}' if more else ''}"
