"""From a batch of rows to JSON objects, one a row."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow as pa
from pyarrow import types

from xbatch.rows import strict_json
from xbatch.rows.given_id import id_text
from xbatch.rows.not_text import column_name
from xbatch.rows.row import BadCell
from xbatch.sources.lines import BOM
from xbatch.sources.parquet.columns import CUSTOM_ID, PROMPTS, Columns, plain
from xbatch.sources.parquet.values import bytes_in, encodable, has_bytes, json_values

_ALWAYS = ("body", *PROMPTS)
"""Columns whose null a row without another of them shows, for then it asks for nothing."""


def row_objects(batch: pa.RecordBatch, columns: Columns) -> Iterator[tuple[bytes, BadCell | None]]:
    """Yield the JSON object of each row, from the columns that make it, and what is wrong with one of these.

    A column that is null is left out, unless a template judges it. A row with a text that should be JSON and is not, or
    is not UTF-8, gives that text instead of an object.
    """
    try:
        yield from _together(batch, columns)
    except UnicodeDecodeError:
        yield from _one_by_one(batch, columns)


def _together(batch: pa.RecordBatch, columns: Columns) -> list[tuple[bytes, BadCell | None]]:
    cells = [_cells(batch.column(name), name, columns) for name in columns.request]
    with_bytes = [name for name in columns.request if has_bytes(batch.schema.field(name).type)]
    encode = msgspec.json.Encoder(enc_hook=encodable).encode
    made: list[tuple[bytes, BadCell | None]] = []
    for row in zip(*cells, strict=True) if cells else [()] * batch.num_rows:
        values = dict(zip(columns.request, row, strict=True))
        bad = next((name for name, v in values.items() if type(v) is _NotJson), None)
        if bad is not None:
            made.append((values[bad].text, BadCell(bad, _id(values))))
            continue
        not_text = tuple(path for name in with_bytes for path in bytes_in(values[name], (name,)))
        if not columns.templated:
            values = _without_nulls(values)
        made.append((encode(values), BadCell(column_name(not_text[0]), _id(values), not_text) if not_text else None))
    return made


def _one_by_one(batch: pa.RecordBatch, columns: Columns) -> Iterator[tuple[bytes, BadCell | None]]:
    for i in range(batch.num_rows):
        row = batch.slice(i, 1)
        try:
            yield from _together(row, columns)
        except UnicodeDecodeError as e:
            yield b'"' + bytes(e.object) + b'"', _not_utf8(row, columns)


def _not_utf8(row: pa.RecordBatch, columns: Columns) -> BadCell:
    """Name the first column of one row that holds a text which is not UTF-8, and the id that the row gives."""
    cells: dict[str, Any] = {}
    bad = ""
    for name in columns.request:
        try:
            cells[name] = _cells(row.column(name), name, columns)[0]
        except UnicodeDecodeError:
            bad = bad or name
    return BadCell(bad, _id(cells))


def _id(cells: dict[str, Any]) -> str | None:
    return id_text(cells.get(CUSTOM_ID))


class _NotJson:
    """A text that should be JSON."""

    __slots__ = ("text",)

    def __init__(self, text: bytes) -> None:
        self.text = text


def _cells(array: pa.Array, name: str, columns: Columns) -> list[Any]:
    if name in columns.json_text:
        return [None if text is None else _raw(text) for text in _bytes(array)]
    values = json_values(array, drop_nulls=not columns.templated)
    if name == CUSTOM_ID and types.is_integer(plain(array.type)):
        return [None if v is None else str(v) for v in values]
    if name == "tool_choice" and not columns.templated:
        return [_raw(v.encode()) if isinstance(v, str) and v.lstrip().startswith("{") else v for v in values]
    return values


def _raw(text: bytes) -> "msgspec.Raw | _NotJson":
    text = text.removeprefix(BOM)
    try:
        strict_json.decode(text)
    except strict_json.BadJson:
        return _NotJson(text)
    return msgspec.Raw(text)


def _bytes(array: pa.Array) -> list[bytes | None]:
    while isinstance(array, pa.ExtensionArray) or types.is_dictionary(array.type):
        array = array.storage if isinstance(array, pa.ExtensionArray) else array.dictionary_decode()
    texts: list[bytes | None] = array.cast(_bytes_type(array.type)).to_pylist()
    return texts


def _bytes_type(kind: pa.DataType) -> pa.DataType:
    if types.is_string_view(kind) or types.is_binary_view(kind):
        return pa.binary_view()
    return pa.large_binary() if types.is_large_string(kind) or types.is_large_binary(kind) else pa.binary()


def _without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    kept = {name: v for name, v in values.items() if v is not None}
    if not any(name in kept for name in _ALWAYS):
        kept |= {name: None for name in _ALWAYS if name in values}
    return kept
