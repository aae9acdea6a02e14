"""Parquet inputs: what its columns ask, whatever its row groups are, and what is carried along."""

import base64
import bz2
import datetime as dt
import decimal
import gzip
import json
import lzma
import math
import subprocess
import sys
import tempfile
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.parquet import encryption

from xbatch.errors import StorageError, UsageError
from xbatch.planning.shards import ShardCutter
from xbatch.rows.request import CHAT, ParsedRow, Rejected, Request, parse
from xbatch.rows.row import Row
from xbatch.rows.shard import Shard
from xbatch.rows.template import RequestTemplate
from xbatch.sources import Source
from xbatch.sources.opening import SourceOptions, open_source

ROOT = Path(__file__).resolve().parent.parent


def written(folder: Path, table: pa.Table, options: SourceOptions | None = None, **how: Any) -> Source:
    pq.write_table(table, folder / "in.parquet", **how)
    source = open_source(str(folder / "in.parquet"), "in.parquet", options or SourceOptions())
    source.check()
    return source


def values(source: Source) -> list[Any]:
    return [json.loads(row.data) for row in source.scan(0)]


def parsed(source: Source) -> list[ParsedRow]:
    return [parse(row) for row in source.scan(0)]


def failures(source: Source) -> list[tuple[str, str]]:
    return [(p.failure.code, p.failure.message) for p in parsed(source) if isinstance(p, Rejected)]


def shards(rows: list[Row], max_rows: int, max_bytes: int = 32 << 20) -> list[Shard]:
    cutter = ShardCutter(max_rows, max_bytes)
    cut = [cutter.add(0, row.offset, row.line, row.num_bytes) for row in rows]
    return [shard for shard in [*cut, cutter.close()] if shard is not None]


# --- the same requests, whatever the file --------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": TEXT}, optional={"name": TEXT})
BODIES = st.lists(
    st.fixed_dictionaries(
        {"messages": st.lists(MESSAGE, min_size=1, max_size=3)},
        optional={
            "max_tokens": st.integers(-(2**63), 2**63 - 1),
            "temperature": st.floats(0, 2),
            "stop": st.lists(TEXT, max_size=2),
            "response_format": st.fixed_dictionaries({"type": TEXT}, optional={"strict": st.booleans()}),
        },
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=50)
@given(BODIES, st.integers(1, 9))
def test_every_format_gives_the_same_requests(bodies: list[dict[str, Any]], group_rows: int) -> None:
    """The same rows as JSONL, compressed in four ways, and Parquet with structs, JSON text and columns are the same."""
    ids = [f"id-{i}" for i in range(len(bodies))]
    rows = [{"custom_id": i, "body": body} for i, body in zip(ids, bodies, strict=True)]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    texts = [json.dumps(body) for body in bodies]
    names = list(dict.fromkeys(name for body in bodies for name in body))
    columns = {name: [body.get(name) for body in bodies] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / name for name in ("plain", "gz", "bz2", "xz", "zst", "struct", "text", "columns")}
        paths["plain"].write_bytes(text)
        paths["gz"].write_bytes(gzip.compress(text))
        paths["bz2"].write_bytes(bz2.compress(text))
        paths["xz"].write_bytes(lzma.compress(text))
        paths["zst"].write_bytes(zstandard.ZstdCompressor().compress(text))
        pq.write_table(pa.table({"custom_id": ids, "body": bodies}), paths["struct"], row_group_size=group_rows)
        pq.write_table(pa.table({"custom_id": ids, "body": texts}), paths["text"], row_group_size=group_rows)
        pq.write_table(pa.table({"custom_id": ids, **columns}), paths["columns"], row_group_size=group_rows)
        found = {}
        for name, path in paths.items():
            source = open_source(str(path), name, SourceOptions())
            source.check()
            found[name] = [
                msgspec.structs.replace(p, num_bytes=0) if isinstance(p, Request) else p for p in parsed(source)
            ]
        assert all(isinstance(p, Request) for p in found["plain"])
        assert [name for name in found if found[name] != found["plain"]] == []


# --- a column `body` ---------------------------------------------------------------------------------------------


def test_structs(tmp_path: Path) -> None:
    """Of a struct what is null is left out on every level, but not in lists and maps; whole numbers stay exact."""
    body = {"prompt": "a", "seed": 2**63 - 1, "x": {"y": None, "z": [{"a": 1, "b": None}, None]}, "none": None}
    kind = pa.struct(
        [
            ("prompt", pa.string()),
            ("seed", pa.int64()),
            ("none", pa.int64()),
            ("x", pa.struct([("y", pa.int8()), ("z", pa.list_(pa.struct([("a", pa.int8()), ("b", pa.int8())])))])),
            ("m", pa.map_(pa.string(), pa.int64())),
        ]
    )
    table = pa.table({"body": pa.array([body, {"prompt": "b", "m": [("k", None), ("l", 2)]}, {}], kind)})
    assert values(written(tmp_path, table)) == [
        {"body": {"prompt": "a", "seed": 2**63 - 1, "x": {"z": [{"a": 1}, None]}}},
        {"body": {"prompt": "b", "m": {"k": None, "l": 2}}},
        {"body": {}},
    ]


def test_maps(tmp_path: Path) -> None:
    """A map is an object, also as the body itself."""
    kind = pa.map_(pa.string(), pa.string())
    source = written(tmp_path, pa.table({"body": pa.array([[("prompt", "a"), ("user", None)], None], kind)}))
    assert values(source) == [{"body": {"prompt": "a", "user": None}}, {"body": None}]


TEXT_TYPES = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
    "json": pa.json_(),
}


@pytest.mark.parametrize("name", TEXT_TYPES)
def test_json_text(tmp_path: Path, name: str) -> None:
    """JSON text is read alike in any type of text, with its nulls, its exact numbers and over several lines."""
    texts = ['{"prompt": "a",\n "n": null, "seed": 123456789012345678901234567890}', None, '\ufeff{"prompt": "b"}']
    kind = TEXT_TYPES[name]
    storage = pa.array(texts, pa.string()).cast(kind.storage_type if name == "json" else kind)
    array = pa.ExtensionArray.from_storage(kind, storage) if name == "json" else storage
    source = written(tmp_path, pa.table({"body": array}))
    assert values(source) == [
        {"body": {"prompt": "a", "n": None, "seed": 123456789012345678901234567890}},
        {"body": None},
        {"body": {"prompt": "b"}},
    ]
    [(code, message)] = failures(source)
    assert (code, message) == ("body_not_object", "in.parquet:row 2: body is null, not an object")


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        (b"{bad", "invalid_json_line"),
        (b"", "invalid_json_line"),
        (b'{"prompt": NaN}', "invalid_json_line"),
        (b'{"prompt": "a"}, "custom_id": "mine"', "invalid_json_line"),
        (b'{"prompt": "\xff"}', "invalid_unicode"),
        (b"[" * 600 + b"]" * 600, "json_too_deep"),
        (b"[]", "body_not_object"),
        (b'"text"', "body_not_object"),
        (b"7", "body_not_object"),
    ],
)
def test_a_bad_cell(tmp_path: Path, cell: bytes, code: str) -> None:
    """A cell that holds no JSON object is a failure of its row with the row's number, and of no other row."""
    good = b'{"prompt":"a"}'
    source = written(tmp_path, pa.table({"body": [good, good, cell, good]}))
    first, second, bad, last = parsed(source)
    assert [type(each) for each in (first, second, last)] == [Request] * 3
    assert isinstance(bad, Rejected)
    assert bad.failure.code == code
    assert bad.failure.message.startswith("in.parquet:row 3: ")


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    """A text that is not UTF-8 is a failure of its row, also inside a struct, and of no other row."""
    broken = pa.array([b"a", b"\xff\xfe", b"c"]).view(pa.string())
    struct = pa.StructArray.from_arrays([broken], ["prompt"])
    for table in (pa.table({"prompt": broken}), pa.table({"body": struct})):
        first, bad, last = parsed(written(tmp_path, table))
        assert [type(first), type(last)] == [Request] * 2
        assert isinstance(bad, Rejected)
        assert (bad.failure.code, bad.failure.message[:16]) == ("invalid_unicode", "in.parquet:row 2")


BINARY_TYPES = [pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary()), pa.binary(2)]
IDS = ["a", "b", "c", "d"]


def binary(kind: pa.DataType) -> pa.Array:
    """Four values of two bytes each; the second is no text."""
    cells = pa.array([b"ab", b"\xff\xfe", None, "ü".encode()])
    return cells.dictionary_encode() if pa.types.is_dictionary(kind) else cells.cast(kind)


@pytest.mark.parametrize("kind", BINARY_TYPES, ids=str)
@pytest.mark.parametrize("nested", [False, True])
def test_bytes_in_requests(tmp_path: Path, kind: pa.DataType, nested: bool) -> None:
    """Binary columns of requests are text; a row whose bytes are none fails by its id, and no other row changes."""
    cells, column = binary(kind), "prompt"
    if nested:
        if pa.types.is_binary_view(kind):
            cells = cells.cast(pa.binary())  # pyarrow can't write views inside of lists
        message = pa.StructArray.from_arrays([pa.array(["user"] * 4), cells], ["role", "content"])
        cells, column = pa.ListArray.from_arrays([0, 1, 2, 3, 4], message), "messages.content"
    elif pa.types.is_fixed_size_binary(kind):
        column = "stop"
    table = {"custom_id": IDS, "prompt": ["p"] * 4, column.partition(".")[0]: cells}
    rows = parsed(written(tmp_path, pa.table(table)))
    assert [each.custom_id for each in rows] == IDS
    assert [type(each) for each in rows] == [Request, Rejected, Request, Request]
    assert isinstance(bad := rows[1], Rejected)
    said = f"in.parquet:row 2: column {column} holds bytes that are not UTF-8 text"
    assert (bad.failure.code, bad.failure.message) == ("invalid_unicode", said)
    assert isinstance(last := rows[3], Request)
    assert "ü" in str(last.body)


def test_ids_that_are_bytes(tmp_path: Path) -> None:
    """A `custom_id` of bytes is text; a row where it is none fails under an id that was made for it."""
    rows = parsed(written(tmp_path, pa.table({"custom_id": binary(pa.binary()), "prompt": ["p"] * 4})))
    assert [each.custom_id for each in rows] == ["ab", "row-1", "row-2", "ü"]
    assert [each.nameless for each in rows] == [False, True, True, False]
    assert isinstance(rows[1], Rejected)
    assert rows[1].failure.message.endswith("column custom_id holds bytes that are not UTF-8 text")


@pytest.mark.parametrize("kind", BINARY_TYPES, ids=str)
def test_bytes_in_templates(tmp_path: Path, kind: pa.DataType) -> None:
    """A template has bytes as text, and by the filter `base64` as what they are, whatever they hold."""
    table = pa.table({"custom_id": IDS, "image": pa.StructArray.from_arrays([binary(kind)], ["bytes"])})

    def made(prompt: str) -> list[Any]:
        template = RequestTemplate({"prompt": prompt})
        options = SourceOptions(template_columns=template.columns, template_use=template.use)
        rows = [parse(row, template) for row in written(tmp_path, table, options).scan(0)]
        assert [each.custom_id for each in rows] == IDS
        return [each.body["prompt"] if isinstance(each, Request) else each.failure.code for each in rows]

    assert made("{{ image.bytes or '' }}") == ["ab", "invalid_unicode", "", "ü"]
    assert made("{% if image.bytes %}{{ image.bytes | base64 }}{% endif %}") == ["YWI=", "//4=", "", "w7w="]


def test_the_id_of_a_row_that_cannot_be_read(tmp_path: Path) -> None:
    """A row with a cell that can't be read keeps its id, whether the cell is no JSON, no UTF-8 or too long."""
    bodies = [b"{bad", b'{"prompt":"\xff"}', b'{"prompt":"a"}', b'{"prompt":"' + b"a" * 5000 + b'"}']
    source = written(tmp_path, pa.table({"body": bodies, "custom_id": IDS}), SourceOptions(max_line_bytes=4096))
    assert [each.custom_id for each in parsed(source)] == IDS
    assert [code for code, _ in failures(source)] == ["invalid_json_line", "invalid_unicode", "line_too_long"]
    assert failures(source)[0][1].startswith("in.parquet:row 1: column body: not valid JSON: ")
    broken = pa.array([b"a", b"\xff", b"c", b"d"]).view(pa.string())
    for options in (SourceOptions(), SourceOptions(template_columns=frozenset(("prompt",)))):
        source = written(tmp_path, pa.table({"custom_id": IDS, "prompt": broken}), options)
        assert [each.custom_id for each in parsed(source)] == IDS
        assert failures(source)[0][1].startswith("in.parquet:row 2: column prompt: not valid UTF-8")


def test_prompts_of_messages(tmp_path: Path) -> None:
    """A column `prompt` of conversations, as TRL and verl have it, makes chats."""
    prompt = [[{"role": "user", "content": "a", "name": None}], [{"role": "user", "content": "b", "name": "n"}]]
    first, second = parsed(written(tmp_path, pa.table({"prompt": prompt, "ground_truth": ["1", "2"]})))
    assert isinstance(first, Request)
    assert isinstance(second, Request)
    assert (first.endpoint, first.body) == (CHAT, {"messages": [{"role": "user", "content": "a"}]})
    assert (second.endpoint, second.body) == (CHAT, {"messages": [{"role": "user", "content": "b", "name": "n"}]})


def test_columns_that_a_template_lacks(tmp_path: Path) -> None:
    """A column that the template names and the file has not is refused at once, with the one that is likely meant."""
    table = pa.table({"id": [1], "Text": ["a"], "stars": [5]})

    def refused(prompt: str) -> str:
        template = RequestTemplate({"prompt": prompt})
        with pytest.raises(UsageError) as raised:
            written(tmp_path, table, SourceOptions(template_columns=template.columns, template_use=template.use))
        return str(raised.value)

    said = "in.parquet has no column 'txet', which the template uses (did you mean 'Text'?); it has: id, Text, stars"
    assert refused("{{ txet }}") == said
    assert refused("{{ row.txet }} {{ row | tojson }}") == said
    assert (
        refused("{{ quite }}") == "in.parquet has no column 'quite', which the template uses; it has: id, Text, stars"
    )
    optional = RequestTemplate({"prompt": "{% if txet is defined %}{{ txet }}{% endif %}{{ lang | default('en') }}"})
    options = SourceOptions(template_columns=optional.columns, template_use=optional.use)
    (row,) = written(tmp_path, table, options).scan(0)
    assert isinstance(found := parse(row, optional), Request)
    assert found.body == {"prompt": "en"}


def test_notes(tmp_path: Path) -> None:
    """Columns that become settings are named, and what in a template may stand for a column and doesn't."""
    table = pa.table({"prompt": ["a"], "custom_id": ["i"], "n": [1], "model": ["m"], "note": ["x"]})
    assert written(tmp_path, table).notes == ["columns that become settings of the requests: n, model"]
    assert written(tmp_path, table.select(["prompt", "note"])).notes == []
    assert written(tmp_path, pa.table({"body": ['{"prompt":"a"}'], "n": [1]})).notes == []
    template = RequestTemplate({"prompt": "{{ prompt }} {note} {other}"})
    options = SourceOptions(template_columns=template.columns, template_use=template.use)
    said = "the template holds {note}, which is sent as it stands; {{ note }} is the column's value"
    assert written(tmp_path, table, options).notes == [said]


def test_the_batch_line_s_other_columns(tmp_path: Path) -> None:
    """`custom_id`, `method` and `url` make the request with `body`; nulls count as left out; the rest is carried."""
    table = pa.table(
        {
            "extra": [1, 2, 3],
            "custom_id": ["a", None, "c"],
            "method": ["POST", None, "GET"],
            "url": ["/v1/completions", None, None],
            "body": [{"prompt": "x"}] * 3,
            "max_tokens": [1, 2, 3],
        }
    )
    source = written(tmp_path, table)
    first, second, third = parsed(source)
    assert (first.custom_id, second.custom_id) == ("a", "row-1")
    assert isinstance(first, Request)
    assert first.body == {"prompt": "x"}
    assert isinstance(third, Rejected)
    assert third.failure.code == "invalid_method"
    assert source.carried_schema == pa.schema([("extra", pa.int64()), ("max_tokens", pa.int64())])


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint8(), pa.dictionary(pa.int8(), pa.int64())], ids=str)
def test_ids_that_are_numbers(tmp_path: Path, kind: pa.DataType) -> None:
    """A `custom_id` of whole numbers is taken as text."""
    array = pa.array([7, None]).cast(kind) if pa.types.is_integer(kind) else pa.array([7, None]).dictionary_encode()
    assert [p.custom_id for p in parsed(written(tmp_path, pa.table({"custom_id": array, "prompt": ["a", "b"]})))] == [
        "7",
        "row-1",
    ]


# --- columns of a request ----------------------------------------------------------------------------------------


def test_sampling_columns(tmp_path: Path) -> None:
    """Columns by OpenAI's and vLLM's names go into the request, JSON texts as what they hold; nulls do not."""
    table = pa.table(
        {
            "prompt": ["a", "b"],
            "max_tokens": [5, None],
            "temperature": [math.nan, 0.5],
            "stop": ["END", None],
            "response_format": ['{"type": "json_object", "x": null}', None],
            "tool_choice": ["auto", '{"type": "function"}'],
            "stop_token_ids": [[1, 2], None],
            "user": ["u", "v"],
            "metadata": ["m", "n"],
        }
    )
    source = written(tmp_path, table)
    assert values(source) == [
        {
            "prompt": "a",
            "max_tokens": 5,
            "stop": "END",
            "response_format": {"type": "json_object", "x": None},
            "tool_choice": "auto",
            "stop_token_ids": [1, 2],
        },
        {"prompt": "b", "temperature": 0.5, "tool_choice": {"type": "function"}},
    ]
    assert source.carried_schema is not None
    assert source.carried_schema.names == ["user", "metadata"]


def test_messages(tmp_path: Path) -> None:
    """Messages are lists of structs or JSON text; with `prompt` beside them, each row has what it has."""
    messages = [{"role": "user", "content": "a", "name": None}]
    said = [{"role": "user", "content": "a"}]
    lists = written(tmp_path, pa.table({"messages": [messages, None, None], "prompt": [None, "b", None]}))
    assert values(lists) == [{"messages": said}, {"prompt": "b"}, {"messages": None, "prompt": None}]
    texts = written(tmp_path, pa.table({"messages": [json.dumps(messages), "nope"]}))
    assert values_of_good(texts) == [{"messages": said}]
    assert [code for code, _ in failures(texts)] == ["invalid_json_line"]


def test_messages_without_content(tmp_path: Path) -> None:
    """A message's content that is null stays null: only the API knows whose may be, and nobody is asked nothing."""
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": None}]}
    said = {"role": "user", "content": "a", "tool_calls": None}
    source = written(tmp_path, pa.table({"messages": [[said, call], [said | {"content": None}]]}))
    assert values_of_good(source) == [
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]},
            ]
        },
        {"messages": [{"role": "user", "content": None}]},
    ]
    # A job whose plan has counted rows without these nulls goes on.
    rows = list(source.scan(0))
    (shard,) = shards(rows, 9)
    assert list(source.read(shard)) == rows
    counted = sum(len(row.data.replace(b'"content":null,', b"").replace(b',"content":null', b"")) for row in rows)
    assert counted < shard.num_bytes
    assert list(source.read(replace(shard, num_bytes=counted))) == rows
    with pytest.raises(StorageError):
        list(source.read(replace(shard, num_bytes=counted - 1)))


def values_of_good(source: Source) -> list[Any]:
    return [p.body for p in parsed(source) if isinstance(p, Request)]


def test_prompts_of_tokens(tmp_path: Path) -> None:
    """A prompt may be a list of token numbers."""
    assert values(written(tmp_path, pa.table({"prompt": [[1, 2], [3]]}))) == [{"prompt": [1, 2]}, {"prompt": [3]}]


# --- templates ---------------------------------------------------------------------------------------------------


def test_every_type_as_json(tmp_path: Path) -> None:
    """With a template every column is in the row, as JSON has it: exact numbers, ISO times, bytes as text or base64."""
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=dt.UTC)
    name = uuid.UUID(int=7)
    columns: dict[str, tuple[pa.Array, Any]] = {
        "text": (pa.array(["é\n"]), "é\n"),
        "json": (pa.array(['{"a": 1}']), '{"a": 1}'),
        "big": (pa.array([2**63 + 5], pa.uint64()), 2**63 + 5),
        "flag": (pa.array([True]), True),
        "half": (pa.array([0.5], pa.float32()), 0.5),
        "infinite": (pa.array([math.inf]), None),
        "null": (pa.array([None], pa.int8()), None),
        "day": (pa.array([moment.date()]), "2026-01-02"),
        "clock": (pa.array([moment.time()]), "03:04:05.678000"),
        "hour": (pa.array([dt.time(3)], pa.time32("s")), "03:00:00"),
        "naive": (pa.array([moment.replace(tzinfo=None, microsecond=0)]), "2026-01-02T03:04:05"),
        "zoned": (pa.array([moment], pa.timestamp("us", "Europe/Berlin")), "2026-01-02T03:04:05.678000Z"),
        "nano": (pa.array([1], pa.timestamp("ns")), "1970-01-01T00:00:00.000000001"),
        "long": (pa.array([dt.timedelta(seconds=90)]), 90),
        "short": (pa.array([1500], pa.duration("ms")), 1.5),
        "money": (pa.array([decimal.Decimal("1234567890.10")]), "1234567890.10"),
        "bytes": (pa.array([b"\xff\x00"]), base64.b64encode(b"\xff\x00").decode()),
        "utf8": (pa.array(["ü".encode()]), "ü"),
        "fixed": (pa.array([b"abc"], pa.binary(3)), "abc"),
        "uuid": (pa.array([name.bytes], pa.uuid()), str(name)),
        "word": (pa.array(["w"]).dictionary_encode(), "w"),
        "list": (pa.array([[1, None]]), [1, None]),
        "pair": (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), [1, 2]),
        "struct": (pa.array([{"a": None, "b": [{"c": None}]}]), {"a": None, "b": [{"c": None}]}),
        "map": (pa.array([[(1, None)]], pa.map_(pa.int8(), pa.int8())), {"1": None}),
    }
    table = pa.table({column: array for column, (array, _) in columns.items()})
    source = written(tmp_path, table, SourceOptions(template_columns=frozenset()))
    assert values(source) == [{column: wanted for column, (_, wanted) in columns.items()}]


def test_columns_of_a_template(tmp_path: Path) -> None:
    """A template gets the columns that it looks at and `custom_id`; all others and these go to the output as well."""
    table = pa.table({"custom_id": ["a"], "text": ["t"], "vector": [[0.5] * 9], "body": ["no JSON"]})
    options = SourceOptions(template_columns=frozenset(("text", "missing")))
    source = written(tmp_path, table, options)
    assert values(source) == [{"custom_id": "a", "text": "t"}]
    assert source.carried_schema is not None
    assert source.carried_schema.names == ["text", "vector", "body"]


@settings(deadline=None, max_examples=100)
@given(st.data(), st.sampled_from(["ints", "texts", "structs", "maps", "nested"]), st.integers(0, 5), st.integers(0, 5))
def test_values_of_slices(data: Any, what: str, start: int, size: int) -> None:
    """Nested values are the same wherever an array is sliced and whatever is null."""
    from xbatch.sources.parquet.values import json_values

    number, text = st.none() | st.integers(-5, 5), st.none() | TEXT
    struct = st.none() | st.fixed_dictionaries({"a": number, "b": text})
    kinds: dict[str, tuple[Any, pa.DataType]] = {
        "ints": (st.lists(number, max_size=3), pa.list_(pa.int64())),
        "texts": (text, pa.string()),
        "structs": (struct, pa.struct([("a", pa.int64()), ("b", pa.string())])),
        "maps": (st.dictionaries(TEXT, number, max_size=3), pa.map_(pa.string(), pa.int64())),
        "nested": (st.lists(st.lists(struct, max_size=2) | st.none(), max_size=3), None),
    }
    strategy, kind = kinds[what]
    if kind is None:
        kind = pa.large_list(pa.list_(kinds["structs"][1]))
    rows = data.draw(st.lists(st.none() | strategy, max_size=8))
    given = [list(row.items()) if isinstance(row, dict) and what == "maps" else row for row in rows]
    array = pa.array(given, kind).slice(start, size)
    assert json_values(array, drop_nulls=False) == rows[start : start + size]


# --- files that can't be used --------------------------------------------------------------------------------------


def refusal(folder: Path, data: bytes | pa.Table, options: SourceOptions | None = None) -> str:
    path = folder / "in.parquet"
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        pq.write_table(data, path)
    source = open_source(str(path), "in.parquet", options or SourceOptions())
    with pytest.raises(UsageError) as caught:
        source.check()
    assert str(caught.value).startswith("in.parquet ")
    return str(caught.value)


def test_columns_that_make_no_request(tmp_path: Path) -> None:
    """A table without the columns of a request is refused with those it has and those it needs."""
    message = refusal(tmp_path, pa.table({"question": ["a"], "id": [1]}))
    assert "found question (string), id (int64)" in message
    assert "expected a column body (struct, map or JSON text), or messages" in message
    for name, array in (("body", [1]), ("messages", [1]), ("prompt", [1.5]), ("messages", [{"a": 1}])):
        assert f"found {name} (" in refusal(tmp_path, pa.table({name: array}))
    assert "custom_id of type double" in refusal(tmp_path, pa.table({"prompt": ["a"], "custom_id": [0.5]}))


def test_names_that_stand_twice(tmp_path: Path) -> None:
    """A table two columns of which have one name is refused, also inside of structs."""
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    assert "has the column prompt twice" in refusal(tmp_path, twice)
    struct = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["n", "n"])
    assert "has the column body.n twice" in refusal(tmp_path, pa.table({"body": struct}))


class Keys(encryption.KmsClient):
    """Keys that are wrapped in nothing."""

    def __init__(self, _: object) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, _: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, key: bytes, _: str) -> bytes:
        return base64.b64decode(key)


@pytest.mark.parametrize("plaintext_footer", [False, True])
@pytest.mark.parametrize("column", ["prompt", "extra"])
def test_encrypted_files(tmp_path: Path, plaintext_footer: bool, column: str) -> None:
    """A file that is encrypted, or of which one column is, is refused before anything is read, even a carried one."""
    table = pa.table({"prompt": ["a"] * 3, "extra": [1, 2, 3]})
    how = encryption.EncryptionConfiguration(
        footer_key="f", column_keys={"k": [column]}, plaintext_footer=plaintext_footer
    )
    keys = encryption.CryptoFactory(Keys).file_encryption_properties(encryption.KmsConnectionConfig(), how)
    with pq.ParquetWriter(tmp_path / "made", table.schema, encryption_properties=keys) as writer:
        writer.write_table(table)
    assert "crypt" in refusal(tmp_path, (tmp_path / "made").read_bytes())


def test_cut_at_every_byte(tmp_path: Path) -> None:
    """Wherever a Parquet file is cut, it is refused at the first look, unless nothing of its beginning is left."""
    pq.write_table(pa.table({"prompt": ["a", "b"]}), tmp_path / "made")
    data = (tmp_path / "made").read_bytes()
    for end in range(4, len(data)):
        refusal(tmp_path, data[:end])


def test_a_byte_that_was_damaged(tmp_path: Path) -> None:
    """Whichever byte is wrong, a file with checksums of its pages is refused, or gives every row; none is lost."""
    rows = [f"text {i}" for i in range(40)]
    table = pa.table({"prompt": rows, "extra": rows})
    pq.write_table(table, tmp_path / "made", write_page_checksum=True, row_group_size=13, store_schema=False)
    data = (tmp_path / "made").read_bytes()
    for at in range(4, len(data)):
        (tmp_path / "in").write_bytes(data[:at] + bytes((data[at] ^ 0xFF,)) + data[at + 1 :])
        source = open_source(str(tmp_path / "in"), "in", SourceOptions())
        try:
            source.check()
            found = [parse(row) for row in source.scan(0)]
        except UsageError:
            continue
        assert len(found) == len(rows), at


def test_damage_is_described(tmp_path: Path) -> None:
    """A file that is damaged further on, even in a column that is only carried, is refused by the scan."""
    rows = [f"text {i}" for i in range(40)]
    pq.write_table(
        pa.table({"prompt": rows, "extra": rows}),
        tmp_path / "made",
        row_group_size=10,
        write_page_checksum=True,
        use_dictionary=False,
        compression="none",
    )
    data = (tmp_path / "made").read_bytes()
    # In the last row group's second column; the footer holds the least and greatest values only.
    at = [i for i in range(len(data)) if data.startswith(b"text 35", i)][1]
    path = tmp_path / "in.parquet"
    path.write_bytes(data[:at] + b"T" + data[at + 1 :])
    source = open_source(str(path), "in.parquet", SourceOptions())
    source.check()
    with pytest.raises(UsageError, match=r"in.parquet is damaged: .*; the 30 rows before that can be read"):
        list(source.scan(0))


# --- row groups and shards -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 10_000])
def test_tiny_row_groups(tmp_path: Path, rows: int) -> None:
    """A file without rows is fine; ten thousand row groups of one row are read in order and shard by shard."""
    schema = pa.schema([("prompt", pa.string()), ("extra", pa.int64())])
    source = written(
        tmp_path, pa.table({"prompt": map(str, range(rows)), "extra": range(rows)}, schema), row_group_size=1
    )
    scanned = list(source.scan(0))
    assert [(r.offset, r.line, r.place) for r in scanned] == [
        (i, i + 1, f"in.parquet:row {i + 1}") for i in range(rows)
    ]
    cut = shards(scanned, 4096)
    assert [row for shard in cut for row in source.read(shard)] == scanned
    carried = [
        n for shard in cut for batch in source.carried(shard.first_row, shard.rows) for n in batch["extra"].to_pylist()
    ]
    assert carried == list(range(rows))


def test_empty_row_groups(tmp_path: Path) -> None:
    """Row groups without rows are passed over wherever they are."""
    schema = pa.schema([("prompt", pa.string())])
    with pq.ParquetWriter(tmp_path / "in.parquet", schema) as writer:
        for texts in ([], ["a"], [], [], ["b", "c"], []):
            writer.write_table(pa.table({"prompt": texts}, schema))
    source = open_source(str(tmp_path / "in.parquet"), "x", SourceOptions())
    source.check()
    scanned = list(source.scan(0))
    assert [json.loads(row.data)["prompt"] for row in scanned] == ["a", "b", "c"]
    assert [row for shard in reversed(shards(scanned, 1)) for row in source.read(shard)] == scanned[::-1]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 60),
    st.integers(1, 70),
    st.integers(1, 20),
    st.integers(1, 400),
    st.randoms(use_true_random=False),
)
def test_shards_give_what_the_scan_gave(rows: int, group: int, max_rows: int, max_bytes: int, chance: Any) -> None:
    """Read shard by shard in any order, a file gives exactly the rows of its scan and what was carried with them."""
    prompts = ["x" * (i * 7 % 31) for i in range(rows)]
    schema = pa.schema([("prompt", pa.string()), ("extra", pa.int64())])
    with tempfile.TemporaryDirectory() as folder:
        source = written(
            Path(folder), pa.table({"prompt": prompts, "extra": range(rows)}, schema), row_group_size=group
        )
        scanned = list(source.scan(0))
        order = shards(scanned, max_rows, max_bytes)
        assert [row for shard in order for row in source.read(shard)] == scanned
        chance.shuffle(order)
        for shard in order:
            end = shard.first_row + shard.rows
            assert list(source.read(shard)) == scanned[shard.first_row : end]
            numbers = [n for b in source.carried(shard.first_row, shard.rows) for n in b["extra"].to_pylist()]
            assert numbers == list(range(shard.first_row, end))


def test_consecutive_shards_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards in order, and what is carried with them, cost one reading of the file each, within one row group."""
    from xbatch.sources.parquet.table import Table

    table = pa.table({"prompt": map(str, range(5000)), "extra": range(5000)})
    source = written(tmp_path, table, row_group_size=5000)
    scanned = list(source.scan(0))
    begun = 0
    begin = Table._open

    def counted(self: Table, *args: Any) -> Any:
        nonlocal begun
        begun += 1
        return begin(self, *args)

    monkeypatch.setattr(Table, "_open", counted)
    for i, shard in enumerate(shards(scanned, 300)):
        if i not in (3, 4):  # settled already
            assert list(source.read(shard)) == scanned[shard.first_row : shard.first_row + shard.rows]
            assert sum(batch.num_rows for batch in source.carried(shard.first_row, shard.rows)) == shard.rows
    assert begun == 2


def test_the_limit_on_a_row(tmp_path: Path) -> None:
    """A row over the limit is skipped and says so, with its size; the others are read."""
    source = written(tmp_path, pa.table({"prompt": ["a", "b" * 5000, "c"]}), SourceOptions(max_line_bytes=1000))
    rows = list(source.scan(0))
    assert [(r.too_long, r.num_bytes > 5000, len(r.data) < 1000) for r in rows] == [
        (False, False, True),
        (True, True, True),
        (False, False, True),
    ]
    assert failures(source)[0][0] == "line_too_long"


def test_read_tells_of_repeats(tmp_path: Path) -> None:
    """A row whose custom_id is used before comes with the place of the first use."""
    source = written(tmp_path, pa.table({"prompt": ["a", "a"]}))
    [shard] = shards(list(source.scan(0)), 10)
    assert [r.first_use for r in source.read(replace(shard, repeats={1: "there"}))] == [None, "there"]


@pytest.mark.parametrize("texts", [["a"], ["a", "b"], ["aa", "b", "c"]], ids=["one", "two", "longer"])
def test_a_file_that_was_changed(tmp_path: Path, texts: list[str]) -> None:
    """A file that holds other rows when they are read than when they were counted ends the job."""
    source = written(tmp_path, pa.table({"prompt": ["a", "b", "c"], "extra": [1, 2, 3]}))
    [shard] = shards(list(source.scan(0)), 10)
    pq.write_table(pa.table({"prompt": texts, "extra": range(len(texts))}), source.uri)
    with pytest.raises(StorageError, match=r"in\.parquet has become shorter or was changed"):
        list(source.read(shard))
    if len(texts) < 3:
        with pytest.raises(StorageError, match=r"in\.parquet has become shorter"):
            list(source.carried(0, 3))
    for changed in (pa.table({"prompt": ["a", "b", "c"]}), pa.table({"prompt": [1, 2, 3], "extra": [1, 2, 3]})):
        pq.write_table(changed, source.uri)
        with pytest.raises(StorageError, match=r"in\.parquet has other columns than before"):
            list(source.read(shard))
    Path(source.uri).write_bytes(b"PAR1 and nothing else")
    for reading in (lambda: list(source.read(shard)), lambda: list(source.carried(0, 3))):
        with pytest.raises(StorageError, match=r"in\.parquet is damaged"):
            reading()


def test_the_digest_tells_contents_apart(tmp_path: Path) -> None:
    """The digest changes with any byte of a file on this machine, and with the version of one in a store."""
    found = set()
    for texts in (["abc", "def", "xyz"], ["abc", "dxf", "xyz"]):
        source = written(tmp_path, pa.table({"prompt": texts}), compression="none", use_dictionary=False)
        assert len(list(source.scan(0))) == 3
        found.add(source.digest)
    assert len(found) == 2


# --- carried columns -----------------------------------------------------------------------------------------------


def test_carried_columns_are_unchanged(tmp_path: Path) -> None:
    """Columns that are not part of the request come with their types, nulls and order, whatever they are."""
    table = pa.table(
        {
            "z": pa.array([1, None, 3], pa.int8()),
            "prompt": ["a", "b", "c"],
            "when": pa.array([1000, 2000, None], pa.timestamp("ns", "Asia/Tokyo")),
            "max_tokens": [1, 2, 3],
            "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
            "deep": [[{"a": 1}], None, []],
            "a": pa.array([decimal.Decimal("1.10")] * 3),
            "a.b": [1, 2, 3],
        }
    )
    source = written(tmp_path, table, row_group_size=2)
    wanted = table.select(["z", "when", "kind", "deep", "a", "a.b"])
    assert source.carried_schema is not None
    assert source.carried_schema.names == wanted.schema.names
    assert source.carried_schema.types == wanted.schema.types
    found = pa.Table.from_batches(source.carried(0, 3), source.carried_schema)
    assert found.to_pylist() == wanted.to_pylist()
    assert pa.Table.from_batches(source.carried(1, 1)).to_pylist() == wanted.slice(1, 1).to_pylist()


def test_nothing_to_carry(tmp_path: Path) -> None:
    """Where every column is part of the request there is no schema of carried ones, and nothing is carried."""
    source = written(tmp_path, pa.table({"prompt": ["a"]}))
    assert source.carried_schema is None
    assert list(source.carried(0, 1)) == []


# --- memory ------------------------------------------------------------------------------------------------------

HUGE_GROUP = """
import re, sys
from pathlib import Path
from xbatch.planning.shards import ShardCutter
from xbatch.sources.opening import SourceOptions, open_source
def peak_mib():
    # The peak that getrusage tells is at least that of the process which has started this one.
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10
source = open_source(sys.argv[1], "x", SourceOptions())
source.check()
list(zip(range(3), source.scan(0)))
before = peak_mib()
cutter = ShardCutter(1000)
cut = [cutter.add(0, row.offset, row.line, row.num_bytes) for row in source.scan(0)] + [cutter.close()]
cut = [shard for shard in cut if shard]
rows = sum(1 for shard in cut for row in source.read(shard))
carried = sum(batch.num_rows for shard in cut for batch in source.carried(shard.first_row, shard.rows))
print(rows, carried, peak_mib() - before)
"""


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_huge_row_group_costs_no_memory(tmp_path: Path, compression: str) -> None:
    """A row group of 400 MB is scanned, read and carried in less than a quarter of that."""
    text = "lorem ipsum dolor sit amet " * 400
    texts = pa.array([f"{i} {text}" for i in range(20_000)])
    table = pa.table({"prompt": texts, "extra": texts})
    how = {"compression": compression, "use_dictionary": False, "row_group_size": 20_000}
    pq.write_table(table, tmp_path / "huge.parquet", **how)
    del table, texts
    command = [sys.executable, "-c", HUGE_GROUP, str(tmp_path / "huge.parquet")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows, carried, grown_mib = map(int, done.stdout.split())
    assert (rows, carried) == (20_000, 20_000)
    assert grown_mib < 100


def test_pyarrow_is_only_loaded_for_parquet(tmp_path: Path) -> None:
    """Whoever reads JSONL waits for no Parquet library."""
    (tmp_path / "in.jsonl").write_bytes(b"{}\n")
    script = (
        "import sys\n"
        "from xbatch.sources.opening import SourceOptions, open_source\n"
        "print(len(list(open_source(sys.argv[1], 'x', SourceOptions()).scan(0))), 'pyarrow' in sys.modules)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "in.jsonl")]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "1 False\n"
