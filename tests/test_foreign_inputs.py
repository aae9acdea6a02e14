"""Files that are not what they seem: refused once, by what they are, before anything is written."""

import asyncio
import bz2
import gzip
import json
import lzma
import os
import pickle
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from offline import desk
from test_cli_run import ENV, chat, listing, responses, run, write
from test_cli_validate import validate

from xbatch.errors import UsageError
from xbatch.sources.converting import Conversion
from xbatch.sources.first_rows import FIRST_ROWS
from xbatch.sources.opening import SourceOptions, open_source
from xbatch.sources.sniffing import HEAD_BYTES, Head, foreign

ROWS = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
VENDORS = {
    "anthropic": {"custom_id": "c", "params": {"model": "demo", "messages": []}},
    "gemini": {"key": "k", "request": {"contents": [{"parts": [{"text": "x"}]}]}},
    "vertex": {"contents": [{"parts": [{"text": "x"}]}]},
    "bedrock": {"recordId": "1", "modelInput": {"messages": []}},
    "sharegpt": {"conversations": [{"from": "human", "value": "hi"}]},
    "responses": {"model": "demo", "input": "hi"},
    "output": {"id": "batch_req_1", "custom_id": "z", "response": {"status_code": 200}, "error": None},
    "answer": {"id": "chatcmpl-1", "choices": []},
    "table": {"question": "q?"},
    "wrapped": {"data": ROWS},
}


def check(folder: Path, data: bytes, name: str = "in.jsonl", **options: Any) -> str | None:
    """Why a file is refused, None if it is not."""
    (folder / name).write_bytes(data)
    try:
        open_source(str(folder / name), name, SourceOptions(**options)).check()
    except UsageError as e:
        return str(e)
    return None


def made(folder: Path, write_to: Callable[[str], object]) -> bytes:
    write_to(str(folder / "made"))
    return (folder / "made").read_bytes()


def sqlite(path: str) -> None:
    with sqlite3.connect(path) as base:
        base.execute("create table t(c)")


def arrow_stream(path: str) -> None:
    table = pa.table({"prompt": ["a"]})
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


MADE: dict[str, tuple[Callable[[str], object], str]] = {
    "sqlite": (sqlite, "an SQLite database"),
    "feather": (lambda path: pa.feather.write_feather(pa.table({"prompt": ["a"]}), path), "an Arrow file"),
    "stream": (arrow_stream, "an Arrow stream"),
    "orc": (lambda path: pa.orc.write_table(pa.table({"prompt": ["a"]}), path), "ORC"),
    "elf": (lambda path: shutil.copy(os.path.realpath(sys.executable), path), "a program"),
}


@pytest.mark.parametrize("name", MADE)
def test_real_files_of_other_formats(tmp_path: Path, name: str) -> None:
    """Files that other libraries have written are known by their first bytes."""
    write_to, what = MADE[name]
    assert f"in.jsonl is {what}" in str(check(tmp_path, made(tmp_path, write_to)))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (pickle.dumps(ROWS), "a Python pickle"),
        (b"\x93NUMPY\x01\x00", "a numpy array"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        ((64).to_bytes(8, "little") + b'{"__metadata__":{}}', "safetensors"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "PNG"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "JPEG"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF"),
        (b"ORC\x08\x03", "ORC"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>\n", "HTML or XML"),
        (b"\n  <html>\n{}\n</html>", "HTML or XML"),
        (b'<?xml version="1.0"?>\n<rows/>\n', "HTML or XML"),
        (bytes(range(256)) * 64, "a binary file"),
        (random.Random(1).randbytes(HEAD_BYTES), "a binary file"),
        (b'id,prompt\n1,hello\n2,"a, b"\n', "CSV"),
        (b'id,prompt\n1,"over\ntwo lines"\n2,"x"\n', "CSV"),
        (b"id;prompt\n1;hello\n", "CSV"),
        (b"id\tprompt\n1\thello\n", "TSV"),
        (b"a: 1\nb:\n  - c\n", "YAML"),
        (b"What is the largest animal?\nWho was it?\n", "plain text"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress], ids=["", "gz", "bz2", "xz"])
def test_formats(tmp_path: Path, data: bytes, what: str, pack: Callable[[bytes], bytes]) -> None:
    """Foreign formats are told from the beginning, compressed or not."""
    assert what in str(check(tmp_path, pack(data)))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "BOM"])
@pytest.mark.parametrize("text", [LINES, '{"prompt":"日本語"}\n', "[]"], ids=["ascii", "kanji", "short"])
def test_other_encodings(tmp_path: Path, encoding: str, mark: str, text: str) -> None:
    """UTF-16 and UTF-32 are known with and without a byte order mark, and iconv's command makes UTF-8 of them."""
    why = str(check(tmp_path, (mark + text).encode(encoding)))
    assert f"is {encoding[:6].upper()} text" in why
    subprocess.run(["bash", "-c", why.rpartition(": ")[2]], cwd=tmp_path, check=True)
    assert (tmp_path / "in.converted.jsonl").read_text("utf-8-sig") == text


ARRAY = "a JSON array"
PRETTY = "a pretty-printed JSON array"
OBJECT = "is pretty-printed JSON,"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (json.dumps(ROWS), ARRAY),
        (json.dumps(ROWS) + "\n\n", ARRAY),
        ('[{"a":1}]', ARRAY),
        ("[]", ARRAY),
        ("[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n", ARRAY),
        ("[" + ",\n".join(map(json.dumps, ROWS)) + "]", "JSON array"),
        ("[\n" + "".join(json.dumps(row) + ",\n" for row in ROWS) + "]\n", ARRAY),
        (json.dumps(ROWS, indent=2), PRETTY),
        (json.dumps(ROWS, indent=2)[:-9], PRETTY),
        (json.dumps(ROWS * 9000, indent=2), PRETTY),
        (json.dumps(ROWS * 9000), ARRAY),
        (json.dumps(ROWS[0], indent=2), OBJECT),
        (json.dumps(ROWS[0], indent="\t").replace("\n", "\r\n"), OBJECT),
        ("\ufeff" + json.dumps(ROWS[0], indent=2), OBJECT),
        ("".join(json.dumps(row, indent=2) + "\n" for row in ROWS), OBJECT),
        ('{\n"messages": [\n{"role": "user", "content": "a"}\n]\n}\n', OBJECT),
        ('{"prompt": "a", "n": NaN,\n "stop": ["x",],\n}\n', OBJECT),
        ("".join(json.dumps(row) + ",\n" for row in [*ROWS, *ROWS]), "has a comma behind every object"),
        (",\n".join(map(json.dumps, [*ROWS, *ROWS])), "has a comma behind every object"),
        ('["a","b"]\n' * 5, "holds no requests"),
        ("1\n2\n3\n", "holds no requests"),
        ('"a"\n', "holds no requests"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_json_that_is_no_jsonl(tmp_path: Path, text: str, what: str) -> None:
    """Arrays and documents over several lines are told from lines, however long they are."""
    assert what in str(check(tmp_path, text.encode()))


def test_arrays_are_converted_by_jq() -> None:
    """The command fits the file: its name, its compression, standard input."""
    head = Head(json.dumps(ROWS).encode(), whole=True)
    for name, codec, command in (
        ("array.json", None, "jq -c '.[]' array.json > array.jsonl"),
        ("d/a b.json", None, "jq -c '.[]' 'd/a b.json' > 'd/a b.jsonl'"),
        ("array.json.gz", "gzip", "gzip -dc array.json.gz | jq -c '.[]' > array.jsonl"),
        ("s3://bucket/array.json", None, "jq -c '.[]' array.json > array.jsonl"),
        ("stdin", None, "pipe it through jq -c '.[]'"),
    ):
        assert str(foreign(head, Conversion(name, codec))).endswith(f": {command}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "{}",
        '{"prompt":"a"}',
        LINES,
        "nonsense\n" + LINES,
        "several words of nonsense\n" + LINES,
        "id,prompt\n1,a\n" + LINES,
        "[\n" + LINES,
        "[1]\n" + LINES,
        '{"prompt": "a"\n{"prompt": "b"}\n',
        '{"prompt": [\n' + LINES,
        '{"prompt": "a"},\n{"prompt": "b"}\n',
        '{"prompt": "a"',
        '{"prompt": ["a",\n',
        "- a\n" + LINES,
        "\x00\x01\x02\n" + LINES,
        "{'prompt': 'a'}\n" * 5,
        '{"prompt": "' + "x" * HEAD_BYTES + '"}\n',
        "nonsense",
        "\n".join(["nonsense"] * 1000),
        json.dumps(VENDORS["anthropic"]) + "\n" + '{"prompt": "a"}\n',
        (json.dumps(VENDORS["anthropic"]) + "\n") * (FIRST_ROWS - 1) + '{"prompt": "a"}\n',
        (json.dumps(VENDORS["anthropic"]) + "\n") * 5 + "nonsense\n",
    ],
    ids=lambda value: repr(value[:30]),
)
def test_broken_rows_among_others_are_let_in(tmp_path: Path, text: str) -> None:
    """Where any line is or may be a row, the file is JSONL, and its other lines are rows that fail."""
    assert check(tmp_path, text.encode()) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.lists(JSON, min_size=1, max_size=5), st.lists(st.sampled_from(["nonsense", "[", "a,b", "", "{"]), max_size=3))
def test_one_request_is_enough(values: list[Any], broken: list[str]) -> None:
    """A file with one line that is a request is never refused for what others are, and a document always is."""
    conversion = Conversion("in.jsonl", None)
    lines = [*broken, *map(json.dumps, values), '{"prompt":"a"}', '{"prompt":"b"}']
    assert foreign(Head("\n".join(lines).encode(), whole=True), conversion) is None
    assert "JSON array" in str(foreign(Head(json.dumps(values, indent=1).encode(), whole=True), conversion))


@pytest.mark.parametrize("cut", [0, 1])
def test_a_cut_beginning_is_judged_by_whole_lines(cut: int) -> None:
    """Where only the beginning is looked at, a line that is cut off says nothing."""
    data = (json.dumps(ROWS) + "\n").encode()
    assert foreign(Head(data + b'{"prom' * cut, whole=not cut), Conversion("x", None)) is not None or cut
    assert foreign(Head(b'{"a":1}\n[\n{"prom', whole=False), Conversion("x", None)) is None


@pytest.mark.parametrize("name", VENDORS)
def test_rows_of_other_shapes(tmp_path: Path, name: str) -> None:
    """A file whose first rows are all of a foreign shape is refused with the keys that they have."""
    row = VENDORS[name]
    why = str(check(tmp_path, (json.dumps(row) + "\n").encode() * 300))
    assert why.startswith("in.jsonl holds no requests")
    assert f"(it has: {', '.join(row)})" in why
    if name not in ("table", "wrapped"):
        assert check(tmp_path, json.dumps(row).encode(), template_columns=frozenset({"question"})) is None


def test_keys_are_shown_short(tmp_path: Path) -> None:
    """Many keys, long ones and control characters in them don't get into a message as they are."""
    row = {f"key-{i}": i for i in range(30)} | {"x" * 5000: 1}
    why = str(check(tmp_path, json.dumps({"\x1b[31m": 1, **row}).encode()))
    assert "and 24 more" in why
    assert "\x1b" not in why
    assert len(why) < 500


def test_shapes_among_good_rows(tmp_path: Path) -> None:
    """Among good rows, each foreign one is a failure `unknown_row_shape` that names its keys."""
    write(tmp_path / "in.jsonl", [chat(0), *VENDORS.values()])
    assert run(tmp_path, "in.jsonl").returncode == 1
    errors = [row["error"] for row in responses(tmp_path / "in.responses.jsonl")]
    assert errors[0] is None
    for error, row in zip(errors[1:], VENDORS.values(), strict=True):
        assert error["code"] == "unknown_row_shape"
        assert f"it has: {', '.join(row)}" in error["message"]


UNUSABLE = {
    "array": json.dumps(ROWS).encode(),
    "csv": b"id,prompt\n1,hello\n",
    "utf-16": LINES.encode("utf-16"),
    "vendor": (json.dumps(VENDORS["anthropic"]) + "\n").encode() * 3,
    "csv.gz": gzip.compress(b"id,prompt\n1,hello\n", mtime=0),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_run_and_validate_agree(tmp_path: Path, name: str) -> None:
    """Both refuse with the same sentence and exit code 2, nothing is written, and the mended file runs."""
    (tmp_path / "in.jsonl").write_bytes(UNUSABLE[name])
    before = listing(tmp_path)
    ran, looked = run(tmp_path, "in.jsonl", "--model", "m"), validate(tmp_path, "in.jsonl", "--model", "m")
    assert (ran.returncode, looked.returncode) == (2, 2)
    assert ran.stderr.decode().splitlines()[-1] == looked.stderr.splitlines()[-1]
    assert listing(tmp_path) == before
    write(tmp_path / "in.jsonl", [chat(0)])
    assert run(tmp_path, "in.jsonl").returncode == 0


def test_rows_of_a_job_that_has_begun(tmp_path: Path) -> None:
    """The first rows decide whether a job begins, and not whether one that has begun goes on."""
    write(tmp_path / "in.jsonl", [chat(0)])
    assert run(tmp_path, "in.jsonl").returncode == 0
    write(tmp_path / "in.jsonl", [VENDORS["anthropic"]])
    assert b"holds no requests" not in run(tmp_path, "in.jsonl").stderr
    assert b"holds no requests" in run(tmp_path, "in.jsonl", "--restart").stderr
    assert check(tmp_path, json.dumps(VENDORS["anthropic"]).encode(), first_rows=False) is None


def test_standard_input_is_judged_too(tmp_path: Path) -> None:
    """An array on standard input is refused with what to pipe it through."""
    done = run(tmp_path, "-", "--model", "m", stdin=json.dumps(ROWS).encode())
    assert done.returncode == 2
    assert b"stdin is a JSON array" in done.stderr
    assert b"pipe it through jq -c '.[]'" in done.stderr


def test_watch_refuses_one_file_only(tmp_path: Path) -> None:
    """A watcher tells each unusable file in one sentence and answers the others."""
    (tmp_path / "in").mkdir()
    for name, data in UNUSABLE.items():
        (tmp_path / f"in/{name}.jsonl").write_bytes(data)
    write(tmp_path / "in/good.jsonl", [chat(0)])
    words = ["watch", "in", "-o", "out", "--once", "--settle", "0.1s", "--every", "0.1s", "--engine", "fake"]
    done = subprocess.run(
        [sys.executable, "-m", "xbatch", *words, "--model", "m"],
        cwd=tmp_path,
        env=ENV,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 2
    for name in UNUSABLE:
        assert [line.startswith(f"in/{name}.jsonl ") for line in done.stderr.splitlines()].count(True) == 1
    assert [path.name for path in (tmp_path / "out").glob("*.jsonl")] == ["good.responses.jsonl"]


@pytest.mark.parametrize("name", UNUSABLE)
def test_batches_of_the_server(tmp_path: Path, name: str) -> None:
    """A batch over such a file fails with one error that says what the file is."""

    async def visit() -> None:
        async with desk(tmp_path) as at:
            failed = await at.until((await at.begin(UNUSABLE[name])).id)
            assert failed.errors is not None
            assert failed.errors.data is not None
            (mistake,) = failed.errors.data
            assert mistake.code == "invalid_file"
            why = str(check(tmp_path, UNUSABLE[name])).removeprefix("in.jsonl").partition(":")[0]
            assert why in str(mistake.message)

    asyncio.run(visit())


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.csv", b"id,prompt\n1,hello\n"),
        ("x y.tsv", b"id\tprompt\n1\thello\n"),
        ("x.txt", b"id;prompt\n1;hello\n"),
        ("x.csv.gz", gzip.compress(b"id,prompt\n1,hello\n", mtime=0)),
        ("x.csv", gzip.compress(b"id,prompt\n1,hello\n", mtime=0)),
        ("x.arrow", None),
        ("y.arrow", None),
        ("x.orc", None),
    ],
)
def test_commands_make_parquet(tmp_path: Path, name: str, data: bytes | None) -> None:
    """The command in the message makes a Parquet file of the table."""
    writers = {"x.arrow": MADE["feather"][0], "y.arrow": MADE["stream"][0], "x.orc": MADE["orc"][0]}
    data = made(tmp_path, writers[name]) if data is None else data
    why = str(check(tmp_path, data, name))
    command = re.sub(
        r"\bpython -c", f"{sys.executable} -c", why.partition("UTF-8: ")[2].removesuffix(" makes Parquet of it")
    )
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    (table,) = tmp_path.glob("*.parquet")
    assert pq.read_table(table)["prompt"].to_pylist() == ["hello" if "arrow" not in name and "orc" not in name else "a"]


def test_command_takes_commas_away(tmp_path: Path) -> None:
    """The inside of an array becomes JSONL by the command in the message."""
    why = str(check(tmp_path, ",\n".join(map(json.dumps, [*ROWS, *ROWS])).encode()))
    subprocess.run(["bash", "-c", why.rpartition(": ")[2]], cwd=tmp_path, check=True)
    assert responses(tmp_path / "in.converted.jsonl") == [*ROWS, *ROWS]
