"""The name of an output tells its format, and what is in the file is what its name tells."""

import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_cli_run import chat, run, write

from xbatch.errors import UsageError
from xbatch.sinks.building import part_uri
from xbatch.sinks.naming import FORMATS, format_of

NO_FORMAT = "this name tells no format that xbatch writes"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("o.jsonl", "jsonl"),
        ("o.ndjson", "jsonl"),
        ("o.JSONL.GZ", "jsonl.gz"),
        ("o.ndjson.zst", "jsonl.zst"),
        ("o.PARQUET", "parquet"),
        (".parquet", "parquet"),
        ("s3://bucket/day.csv/o.Parquet", "parquet"),
        ("answers", "jsonl"),
        ("answers-v1.2", "jsonl"),
        ("folder.csv/answers", "jsonl"),
        (".hidden", "jsonl"),
    ],
)
def test_told(name: str, told: str) -> None:
    """A name tells its format by its extension, in capitals too; a name without one stands for JSONL."""
    assert format_of(name, None, "-o") == told


@pytest.mark.parametrize("name", ["o.csv", "o.txt", "o.json", "o.jsonl.tmp", "s3://bucket/o.arrow"])
def test_name_that_tells_nothing(name: str) -> None:
    """A name with an extension of another kind is refused, unless --output-format says what it holds."""
    with pytest.raises(UsageError, match=f"--errors {name}: {NO_FORMAT}.*or say --output-format"):
        format_of(name, None, "--errors")
    assert [format_of(name, given, "--errors") for given in FORMATS] == list(FORMATS)


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("o.jsonl.bz2", []),
        ("o.parquet.gz", []),
        ("o.parquet.zst", []),
        ("o.jsonl.xz", []),
        ("o.gz", ["jsonl.gz"]),
        ("o.txt.zst", ["jsonl.zst"]),
    ],
)
def test_name_that_tells_what_is_not_written(name: str, fits: list[str]) -> None:
    """A compression that is not written, or of what is not compressed, is refused whatever --output-format says."""
    with pytest.raises(UsageError, match=NO_FORMAT):
        format_of(name, None, "-o")
    for given in FORMATS:
        if given in fits:
            assert format_of(name, given, "-o") == given
        else:
            with pytest.raises(UsageError, match=NO_FORMAT):
                format_of(name, given, "-o")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "o.csv"], NO_FORMAT),
        (["-o", "o.jsonl.bz2", "--output-format", "jsonl"], NO_FORMAT),
        (["-o", "o.parquet", "--output-format", "jsonl"], "doesn't fit o.parquet, whose name tells its format"),
        (["-o", "o.jsonl", "--output-format", "jsonl.gz"], "doesn't fit o.jsonl, whose name tells its format"),
        (["-o", "o.jsonl", "--errors", "bad.csv"], f"--errors bad.csv: {NO_FORMAT}"),
        (["-o", "s3://bucket/o.csv", "--state", "state"], NO_FORMAT),
        (["--errors", "folder/"], "--errors folder/ is the name of a folder"),
        (["-o", "-", "--max-output-file", "1MiB"], "--max-output-file is for files, and - is none"),
    ],
    ids=" ".join,
)
def test_refused(tmp_path: Path, words: list[str], message: str) -> None:
    """Nothing is written under a name that does not fit: exit 2, and one sentence."""
    write(tmp_path / "in.jsonl", [chat(1)])
    done = run(tmp_path, "in.jsonl", *words)
    assert done.returncode == 2
    assert message in done.stderr.decode()
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_what_is_in_the_file(tmp_path: Path) -> None:
    """Names in capitals, and names whose format was given, hold that format."""
    write(tmp_path / "in.jsonl", [chat(1), "nonsense"])
    allowed = ("--max-failures", "1")
    assert run(tmp_path, "in.jsonl", "-o", "o.PARQUET", "--errors", "E.JSONL.GZ", *allowed).returncode == 0
    assert pq.read_table(tmp_path / "o.PARQUET").column("custom_id").to_pylist() == ["id-1"]
    with gzip.open(tmp_path / "E.JSONL.GZ") as file:
        assert json.loads(file.read())["custom_id"] == "row-1"
    given = ("-o", "o.csv", "--errors", "e.tmp", "--output-format", "parquet")
    assert run(tmp_path, "in.jsonl", *given, *allowed).returncode == 0
    assert pq.read_table(tmp_path / "o.csv").num_rows == 1
    assert pq.read_table(tmp_path / "e.tmp").num_rows == 1


def test_default_output_of_a_table_in_capitals(tmp_path: Path) -> None:
    """The output for `IN.PARQUET` is Parquet as it is for `in.parquet`."""
    from xbatch.job.places import default_output

    assert default_output([str(tmp_path / "IN.PARQUET")]).endswith(".responses.parquet")


def test_parts_in_capitals() -> None:
    """Parts keep the whole extension at their end."""
    assert part_uri("o.JSONL.GZ", 0, 2) == "o-00000-of-00002.JSONL.GZ"
