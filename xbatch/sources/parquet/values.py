"""From Arrow's columns to values that JSON has."""

import base64
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from xbatch.rows.row import CellPath
from xbatch.sources.parquet.columns import is_bytes, is_list

KEPT_NULL = b'"content":null,'
"""How a message without content stands in a row's JSON, with a comma before or behind it."""
_ROLE, _CONTENT = "role", "content"
_SECONDS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class Bytes:
    """Bytes where text is needed that are not UTF-8. In JSON they are base64, and the row fails for it."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __str__(self) -> str:
        return base64.b64encode(self.data).decode()


class Values:
    """Makes values that JSON has of Arrow's.

    Structs and maps become objects, lists arrays; whole numbers stay exact; what is no number (NaN, infinities) becomes
    null; times are in the form of ISO 8601, durations in seconds, decimals text with all their digits. With
    `drop_nulls`, a struct's fields that are null are left out, for a struct has every field in every row; only the
    content of a message stays, which the assistant's messages that call tools do not have. Bytes become
    text, or a `Bytes` where they are not UTF-8; with `only_carried` they become base64, whatever they hold, and texts
    that are not UTF-8 get the replacement character in the place of what is wrong.
    """

    def __init__(self, *, drop_nulls: bool, only_carried: bool = False) -> None:
        self._drop_nulls = drop_nulls
        self._only_carried = only_carried

    def of(self, array: pa.Array) -> list[Any]:
        """Return the values of an array. Raises UnicodeDecodeError if a text is not UTF-8."""
        kind = array.type
        if isinstance(array, pa.ExtensionArray):
            is_uuid = str(kind) == "extension<arrow.uuid>"
            return _each(array, str) if is_uuid else self.of(array.storage)
        if types.is_dictionary(kind):
            return self.of(array.dictionary_decode())
        return self._nested(array) if types.is_nested(kind) else self._leaves(array)

    def _nested(self, array: pa.Array) -> list[Any]:
        if types.is_struct(array.type):
            return self._objects(array)
        if types.is_map(array.type):
            return self._maps(array)
        return self._lists(array) if is_list(array.type) else _leaves(array)

    def _leaves(self, array: pa.Array) -> list[Any]:
        if is_bytes(array.type) or types.is_fixed_size_binary(array.type):
            return _each(array, _base64 if self._only_carried else _text_of_bytes)
        is_string = types.is_string(array.type) or types.is_large_string(array.type)
        return _replaced(array) if is_string and self._only_carried else _leaves(array)

    def _objects(self, array: pa.StructArray) -> list[Any]:
        names = [array.type.field(i).name for i in range(array.type.num_fields)]
        # `field` knows of the array's slice but not of its nulls.
        columns = [self.of(array.field(i)) for i in range(len(names))]
        rows = zip(*columns, strict=True) if columns else iter([()] * len(array))
        if self._drop_nulls:
            # A message without content is none that somebody wrote: the API says whether it takes it.
            kept = _CONTENT if _ROLE in names else None
            objects = [
                {name: v for name, v in zip(names, row, strict=True) if v is not None or name == kept} for row in rows
            ]
        else:
            objects = [dict(zip(names, row, strict=True)) for row in rows]
        return _masked(array, objects)

    def _maps(self, array: pa.MapArray) -> list[Any]:
        bounds, start, size = _bounds(array)
        keys = Values(drop_nulls=False, only_carried=self._only_carried).of(array.keys.slice(start, size))
        items = self.of(array.items.slice(start, size))
        pairs = [(key if isinstance(key, str) else str(key), item) for key, item in zip(keys, items, strict=True)]
        return _masked(array, [dict(pairs[a - start : b - start]) for a, b in bounds])

    def _lists(self, array: pa.Array) -> list[Any]:
        if types.is_fixed_size_list(array.type):
            size = array.type.list_size
            values = self.of(array.values.slice(array.offset * size, len(array) * size))
            return _masked(array, [values[i * size : (i + 1) * size] for i in range(len(array))])
        bounds, start, size = _bounds(array)
        values = self.of(array.values.slice(start, size))
        return _masked(array, [values[a - start : b - start] for a, b in bounds])


def json_values(array: pa.Array, *, drop_nulls: bool, only_carried: bool = False) -> list[Any]:
    """Return the values of an array, each as JSON has it, as `Values` tells. Raises UnicodeDecodeError."""
    return Values(drop_nulls=drop_nulls, only_carried=only_carried).of(array)


def has_bytes(kind: pa.DataType) -> bool:
    """Tell whether values of a type are or hold bytes."""
    if isinstance(kind, pa.BaseExtensionType):
        return str(kind) != "extension<arrow.uuid>" and has_bytes(kind.storage_type)
    if types.is_dictionary(kind):
        return has_bytes(kind.value_type)
    if types.is_map(kind):
        return has_bytes(kind.key_type) or has_bytes(kind.item_type)
    if types.is_nested(kind):
        return any(has_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return bool(is_bytes(kind) or types.is_fixed_size_binary(kind))


def bytes_in(value: Any, path: CellPath) -> Iterator[CellPath]:
    """Yield the places at which a value holds `Bytes`, from `path` on."""
    if type(value) is Bytes:
        yield path
    elif type(value) is dict:
        for name, each in value.items():
            yield from bytes_in(each, (*path, name))
    elif type(value) is list:
        for i, each in enumerate(value):
            yield from bytes_in(each, (*path, i))


def encodable(value: Any) -> str:
    """Return the base64 of a `Bytes`, for an encoder of JSON, which knows what to do with everything else."""
    if type(value) is not Bytes:
        raise TypeError(f"a {type(value).__name__} is nothing that JSON has")
    return str(value)


def _leaves(array: pa.Array) -> list[Any]:
    kind = array.type
    if types.is_timestamp(kind):
        return _timestamps(array)
    if types.is_time(kind):
        return _each(pc.cast(array, pa.string()), _trimmed)
    if types.is_date(kind) or types.is_decimal(kind):
        array = pc.cast(array, pa.string())
    elif types.is_duration(kind):
        a_second = _SECONDS[kind.unit]
        return _each(array.cast(pa.int64()), lambda v: v // a_second if v % a_second == 0 else v / a_second)
    elif types.is_floating(kind):
        return _each(array, lambda v: v if math.isfinite(v) else None)
    values: list[Any] = array.to_pylist()
    return values


def _timestamps(array: pa.Array) -> list[Any]:
    # As UTC, in which each of them has one form only; a text of a local time may name two.
    zone = "Z" if array.type.tz else ""
    utc = array.cast(pa.timestamp(array.type.unit)) if zone else array
    return _each(pc.cast(utc, pa.string()), lambda v: _trimmed(v.replace(" ", "T")) + zone)


def _bounds(array: pa.Array) -> tuple[list[tuple[int, int]], int, int]:
    """Where each list begins and ends among all values, where the first one begins, and how many values there are."""
    offsets = array.offsets.to_pylist()
    return list(pairwise(offsets)), offsets[0], offsets[-1] - offsets[0]


def _masked(array: pa.Array, values: list[Any]) -> list[Any]:
    if not array.null_count:
        return values
    return [v if valid else None for v, valid in zip(values, array.is_valid().to_pylist(), strict=True)]


def _each(array: pa.Array, convert: Callable[[Any], Any]) -> list[Any]:
    return [None if v is None else convert(v) for v in array.to_pylist()]


def _text_of_bytes(data: bytes) -> "str | Bytes":
    try:
        return data.decode()
    except UnicodeDecodeError:
        return Bytes(data)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _replaced(array: pa.Array) -> list[Any]:
    try:
        texts: list[Any] = array.to_pylist()
    except UnicodeDecodeError:
        whole = pa.large_binary() if types.is_large_string(array.type) else pa.binary()
        return _each(array.cast(whole), lambda data: data.decode(errors="replace"))
    return texts


def _trimmed(time: str) -> str:
    """Without a fraction of a second that is zero."""
    whole, _, fraction = time.partition(".")
    return time if fraction.strip("0") else whole
