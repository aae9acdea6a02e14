"""From Arrow's columns to values that JSON has."""

import base64
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from xbatch.sources.parquet.columns import is_bytes, is_list

_SECONDS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def json_values(array: pa.Array, *, drop_nulls: bool) -> list[Any]:
    """The values of an array, each as JSON has it.

    Structs and maps become objects, lists arrays; whole numbers stay exact; what is no number (NaN, infinities) becomes
    null; times are in the form of ISO 8601, durations in seconds, decimals text with all their digits, bytes text if
    they are UTF-8, else base64. With `drop_nulls`, a struct's fields that are null are left out, for a struct has every
    field in every row. Raises UnicodeDecodeError if a text is not UTF-8.
    """
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        is_uuid = str(kind) == "extension<arrow.uuid>"
        return _each(array, str) if is_uuid else json_values(array.storage, drop_nulls=drop_nulls)
    if types.is_dictionary(kind):
        return json_values(array.dictionary_decode(), drop_nulls=drop_nulls)
    if types.is_struct(kind):
        return _objects(array, drop_nulls=drop_nulls)
    if types.is_map(kind):
        return _maps(array, drop_nulls=drop_nulls)
    if is_list(kind):
        return _lists(array, drop_nulls=drop_nulls)
    return _leaves(array)


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
    elif is_bytes(kind) or types.is_fixed_size_binary(kind):
        return _each(array, _text_of_bytes)
    values: list[Any] = array.to_pylist()
    return values


def _timestamps(array: pa.Array) -> list[Any]:
    # As UTC, in which each of them has one form only; a text of a local time may name two.
    zone = "Z" if array.type.tz else ""
    utc = array.cast(pa.timestamp(array.type.unit)) if zone else array
    return _each(pc.cast(utc, pa.string()), lambda v: _trimmed(v.replace(" ", "T")) + zone)


def _objects(array: pa.StructArray, *, drop_nulls: bool) -> list[Any]:
    names = [array.type.field(i).name for i in range(array.type.num_fields)]
    # `field` knows of the array's slice but not of its nulls.
    columns = [json_values(array.field(i), drop_nulls=drop_nulls) for i in range(len(names))]
    rows = zip(*columns, strict=True) if columns else iter([()] * len(array))
    if drop_nulls:
        objects = [{name: v for name, v in zip(names, row, strict=True) if v is not None} for row in rows]
    else:
        objects = [dict(zip(names, row, strict=True)) for row in rows]
    return _masked(array, objects)


def _maps(array: pa.MapArray, *, drop_nulls: bool) -> list[Any]:
    bounds, start, size = _bounds(array)
    keys = json_values(array.keys.slice(start, size), drop_nulls=False)
    items = json_values(array.items.slice(start, size), drop_nulls=drop_nulls)
    pairs = [(key if isinstance(key, str) else str(key), item) for key, item in zip(keys, items, strict=True)]
    return _masked(array, [dict(pairs[a - start : b - start]) for a, b in bounds])


def _lists(array: pa.Array, *, drop_nulls: bool) -> list[Any]:
    if types.is_fixed_size_list(array.type):
        size = array.type.list_size
        values = json_values(array.values.slice(array.offset * size, len(array) * size), drop_nulls=drop_nulls)
        return _masked(array, [values[i * size : (i + 1) * size] for i in range(len(array))])
    bounds, start, size = _bounds(array)
    values = json_values(array.values.slice(start, size), drop_nulls=drop_nulls)
    return _masked(array, [values[a - start : b - start] for a, b in bounds])


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


def _text_of_bytes(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return base64.b64encode(data).decode()


def _trimmed(time: str) -> str:
    """Without a fraction of a second that is zero."""
    whole, _, fraction = time.partition(".")
    return time if fraction.strip("0") else whole
