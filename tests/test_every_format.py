"""The same rows in every format that is read and written give the same answers."""

import bz2
import gzip
import json
import lzma
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from servers import Place
from test_cli_run import ENV, chat, command, responses, run, write
from test_servers import fill

ROWS = 2000
COMPRESSED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.compress}
TABLES = ("struct", "text", "columns", "template")


def make(folder: Path, kind: str, prefix: str = "") -> list[str]:
    """Write the rows in a format, their ids with a prefix; return the words that have them answered."""
    rows = [chat(i) for i in range(ROWS)]
    for row in rows:
        row["custom_id"] = prefix + row["custom_id"]
    if kind == "jsonl" or kind in COMPRESSED:
        path = write(folder / "in.jsonl", rows)
        if kind in COMPRESSED:
            (folder / "in.data").write_bytes(COMPRESSED[kind](path.read_bytes()))
            return ["in.data"]
        return ["in.jsonl"]
    ids, bodies = [row["custom_id"] for row in rows], [row["body"] for row in rows]
    columns: dict[str, list[Any]] = {"custom_id": ids}
    if kind == "struct":
        columns["body"] = bodies
    elif kind == "text":
        columns["body"] = [json.dumps(body) for body in bodies]
    elif kind == "columns":
        columns |= {name: [body[name] for body in bodies] for name in ("model", "messages")}
    else:
        columns["said"] = [f"text {i}" for i in range(ROWS)]
    pq.write_table(pa.table(columns), folder / "in.parquet", row_group_size=700)
    return ["in.parquet", *(["--prompt", "{{ said }}", "--model", "m"] if kind == "template" else [])]


def texts(folder: Path, output: str) -> list[tuple[str, str]]:
    """`custom_id` and text of every answer."""
    if output.endswith(".parquet"):
        return [(row["custom_id"], row["text"]) for row in pq.read_table(folder / output).to_pylist()]
    data = (folder / output).read_bytes()
    if output.endswith(".gz"):
        data = gzip.decompress(data)
    elif output.endswith(".zst"):
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    (folder / "plain").write_bytes(data)
    found = responses(folder / "plain")
    return [(row["custom_id"], row["response"]["body"]["choices"][0]["message"]["content"]) for row in found]


@pytest.mark.parametrize("kind", ["jsonl", *COMPRESSED, *TABLES])
def test_inputs(tmp_path: Path, kind: str) -> None:
    """Plain or compressed JSONL, and tables with bodies, columns or a template, are answered alike and in order."""
    done = run(tmp_path, *make(tmp_path, kind), "-o", "out.jsonl", "--shard-rows", "300")
    assert done.returncode == 0, done.stderr
    assert texts(tmp_path, "out.jsonl") == [(f"id-{i}", f"text {i}") for i in range(ROWS)]


@pytest.mark.parametrize("output", ["out.jsonl", "out.jsonl.gz", "out.jsonl.zst", "out.parquet"])
def test_outputs(tmp_path: Path, output: str) -> None:
    """Every output format holds every answer, in order."""
    done = run(tmp_path, *make(tmp_path, "zst"), "-o", output)
    assert done.returncode == 0, done.stderr
    assert texts(tmp_path, output) == [(f"id-{i}", f"text {i}") for i in range(ROWS)]


def test_mixed_inputs(tmp_path: Path) -> None:
    """One job may have inputs of several formats."""
    write(tmp_path / "a.jsonl", [chat(i) for i in range(5)])
    pq.write_table(pa.table({"custom_id": ["x"], "body": [chat(5)["body"]]}), tmp_path / "b.parquet")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(json.dumps(chat(6)).encode()))
    assert run(tmp_path, "a.jsonl", "b.parquet", "c.jsonl.gz", "-o", "out.jsonl").returncode == 0
    assert [name for name, _ in texts(tmp_path, "out.jsonl")] == [*(f"id-{i}" for i in range(5)), "x", "id-6"]


def test_other_columns_of_a_finished_job(tmp_path: Path) -> None:
    """A finished job whose output is wanted with other columns is written anew from the same answers."""
    words = [*make(tmp_path, "template"), "-o", "out.parquet", "--engine-arg", f"log={tmp_path / 'log'}"]
    assert run(tmp_path, *words).returncode == 0
    asked = (tmp_path / "log").read_bytes()
    assert run(tmp_path, *words, "--columns", "custom_id,text").returncode == 0
    assert pq.read_schema(tmp_path / "out.parquet").names == ["custom_id", "text"]
    assert (tmp_path / "log").read_bytes() == asked


STORES = ("s3", "azure", "gcs", "sftp", "http", "rclone")


@pytest.mark.parametrize("place", STORES, indirect=True)
def test_every_format_from_every_store(place: Place, tmp_path: Path) -> None:
    """The same rows read from a store in every format, in one job, give the same answers as each other."""
    files: dict[str, bytes] = {}
    for kind in ("jsonl", "gz", "zst", "struct", "text"):
        folder = tmp_path / kind
        folder.mkdir()
        files[f"{kind}.{'parquet' if kind in TABLES else 'jsonl'}"] = (
            folder / make(folder, kind, f"{kind}-")[0]
        ).read_bytes()
    fill(place, files)
    words = [*(f"{place.uri}/{name}" for name in files), "-o", str(tmp_path / "out.jsonl")]
    done = subprocess.run(
        command(*words), cwd=tmp_path, env={**ENV, **place.env}, capture_output=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = [(name.partition("-")[2], text) for name, text in texts(tmp_path, "out.jsonl")]
    assert found == [(f"id-{i}", f"text {i}") for i in range(ROWS)] * len(files)


def test_ids_of_the_table_and_of_the_template(tmp_path: Path) -> None:
    """A template may give the rows other ids than the table; both stand in the output."""
    table = pa.table({"custom_id": ["a", "b"], "said": ["x", "y"]})
    pq.write_table(table, tmp_path / "in.parquet")
    (tmp_path / "job.yaml").write_text(
        "inputs: in.parquet\noutput: out.parquet\nmodel: m\n"
        "request: {custom_id: 'review-{{ custom_id }}', messages: [{role: user, content: '{{ said }}'}]}\n"
    )
    done = run(tmp_path, "job.yaml")
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["custom_id"], row["custom_id_input"], row["text"]) for row in rows] == [
        ("review-a", "a", "x"),
        ("review-b", "b", "y"),
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["in.jsonl", "--with-input"], "--with-input is for tables"),
        (["empty.jsonl.gz"], "is empty, though its name says that it is compressed"),
        (["text.parquet"], "is no Parquet file"),
        (["job.yaml"], "put a template in quotes"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes(tmp_path: Path, words: list[str], told: str) -> None:
    """Mistakes that would give less than was meant are told, with exit code 2."""
    write(tmp_path / "in.jsonl", [chat(0)])
    (tmp_path / "empty.jsonl.gz").write_bytes(b"")
    (tmp_path / "text.parquet").write_bytes(b'{"prompt": "?"}\n')
    (tmp_path / "job.yaml").write_text("inputs: in.jsonl\nrequest:\n  messages:\n    - content: {{ text }}\n")
    done = run(tmp_path, *words, "-o", "out.jsonl")
    assert done.returncode == 2, done.stderr
    assert told in done.stderr.decode()
