"""Tables and templates as a user meets them: what is refused before anything runs, and what is said of columns."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_cli_run import responses, run, write
from test_cli_validate import validate

TABLE = pa.table({"custom_id": ["a", "b"], "text": ["x", "y"], "stars": [1, 5]})


def refused(folder: Path, *words: str) -> str:
    """The sentence by which both commands refuse, having written nothing."""
    before = sorted(os.listdir(folder))
    ran, looked = run(folder, *words, "-m", "m"), validate(folder, *words, "--model", "m")
    assert (ran.returncode, looked.returncode) == (2, 2)
    assert sorted(os.listdir(folder)) == before
    said = ran.stderr.decode().splitlines()[-1]
    assert looked.stderr.splitlines()[-1] == said
    return said


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl"])
def test_a_template_without_columns(tmp_path: Path, name: str) -> None:
    """A template that would ask the same of all rows is refused, unless it says that this is meant."""
    pq.write_table(TABLE, tmp_path / "t.parquet")
    write(tmp_path / "t.jsonl", TABLE.to_pylist())
    assert "{text} is sent as it stands; write {{ text }}" in refused(tmp_path, name, "--prompt", "Say: {text}")
    meant = ("--prompt", "Say: {text} {# constant #}")
    assert run(tmp_path, name, *meant, "-m", "m", "-o", "out.jsonl").returncode == 0
    said = [each["response"]["body"]["choices"][0]["message"]["content"] for each in responses(tmp_path / "out.jsonl")]
    assert said == ["Say: {text} "] * 2


def test_a_misspelt_column(tmp_path: Path) -> None:
    """A column that a table lacks is refused at once; in JSONL rows fail, each with what it has."""
    pq.write_table(TABLE, tmp_path / "t.parquet")
    said = refused(tmp_path, "t.parquet", "--prompt", "Say: {{ txt }}")
    assert said.endswith(
        "t.parquet has no column 'txt', which the template uses (did you mean 'text'?); it has: custom_id, text, stars"
    )
    write(tmp_path / "t.jsonl", TABLE.to_pylist())
    told = validate(tmp_path, "t.jsonl", "--prompt", "Say: {{ txt }}", "--model", "m").stdout.splitlines()
    assert told[0].endswith("column 'txt' is missing (did you mean 'text'?); the row has: custom_id, text, stars")


def test_columns_that_become_settings(tmp_path: Path) -> None:
    """Columns that are settings by their names are named in one line, once for all inputs, by both commands."""
    table = pa.table({"prompt": ["x", "y"], "model": ["m", "m"], "n": [1, 1], "note": ["a", "b"]})
    for name in ("a.parquet", "b.parquet"):
        pq.write_table(table, tmp_path / name)
    said = "columns that become settings of the requests: model, n"
    ran, looked = run(tmp_path, "a.parquet", "b.parquet"), validate(tmp_path, "a.parquet", "b.parquet")
    assert (ran.returncode, looked.returncode) == (0, 0)
    assert ran.stderr.decode().splitlines().count(said) == 1
    assert looked.stderr.splitlines().count(said) == 1
