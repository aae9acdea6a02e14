"""Where a job's inputs, outputs and state lie, on this machine and in stores."""

import secrets
from pathlib import Path
from typing import Any

import fsspec
import pytest

from xbatch.errors import UsageError
from xbatch.job.inputs import stem_of
from xbatch.job.places import Places, default_output, find_places, state_of
from xbatch.job.spec import JobSpec


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder that no other test uses, the working directory if it is local."""
    monkeypatch.chdir(tmp_path)
    return "" if request.param == "local" else f"memory://{secrets.token_hex(4)}/"


def touch(folder: str, *names: str) -> None:
    for name in names:
        fs, path = fsspec.url_to_fs(f"{folder}{name}")
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(path, b"x")


def places(*inputs: str, **fields: Any) -> Places:
    return find_places(JobSpec(inputs=list(inputs), **fields), Path("/scratch"))


def below(folder: str, found: list[str]) -> list[str]:
    """Names from the folder on; memory's URIs come back with one more slash."""
    return [uri.replace("memory:///", "memory://").removeprefix(folder) for uri in found]


EVERY = ("a.jsonl", "b.ndjson", "c.json", "d.jsonl.gz", "e.json.bz2", "f.ndjson.xz", "g.jsonl.zst", "h.parquet")
SKIPPED = (".hidden.jsonl", "_SUCCESS", "_x.jsonl", "a.responses.jsonl", "d.responses-00000-of-00002.jsonl.zst")


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_folder(folder: str, slash: str) -> None:
    """A folder stands for its files of known formats, in name order; others are named once, hidden ones never."""
    touch(folder, *[f"in/{name}" for name in (*EVERY, *SKIPPED, "notes.txt", "x.csv", "deeper/z.jsonl")])
    found = places(f"{folder}in{slash}", output="out.jsonl")
    assert below(folder, found.inputs) == [f"in/{name}" for name in EVERY]
    assert len(found.notes) == 1
    assert "in/notes.txt, " in found.notes[0].replace("memory:///", "memory://").replace(folder, "")
    assert "x.csv" in found.notes[0]


def test_a_glob(folder: str) -> None:
    """A glob stands for whatever it matches, whatever the name, but for hidden files and responses."""
    touch(folder, "a.jsonl", "a.txt", ".a.txt", "a.responses.jsonl", "b.txt")
    found = places(f"{folder}a*", output="out.jsonl")
    assert below(folder, found.inputs) == ["a.jsonl", "a.txt"]
    assert found.notes == []
    with pytest.raises(UsageError, match="matches no file"):
        places(f"{folder}no*", output="out.jsonl")


def test_a_glob_of_folders(folder: str) -> None:
    """A glob that ends in a slash stands for the files of the folders that match; the output has the folders too."""
    touch(folder, "in/2026-11-01/part.jsonl", "in/2026-11-02/part.jsonl", "in/2026-12-01/part.jsonl", "in/2026-11-x")
    found = places(f"{folder}in/2026-11-*/", output="s3://bucket/out/")
    assert below(folder, found.inputs) == ["in/2026-11-01/part.jsonl", "in/2026-11-02/part.jsonl"]
    names = ["2026-11-01/part.responses.jsonl", "2026-11-02/part.responses.jsonl"]
    assert found.targets == [f"s3://bucket/out/{name}" for name in names]


@pytest.mark.parametrize(
    "fields",
    [
        {"output": "in/out.jsonl"},
        {"output": "in/results.parquet", "errors": "in/errors.jsonl"},
        {"output": "in/big.jsonl", "max_output_file": 1000},
    ],
)
def test_outputs_are_no_inputs(folder: str, fields: dict[str, Any]) -> None:
    """What a job has written into its input's folder is not read when the same command runs again."""
    touch(folder, "in/a.jsonl")
    fields = {name: f"{folder}{value}" if isinstance(value, str) else value for name, value in fields.items()}
    first = places(f"{folder}in/", **fields)
    touch("", *[uri for uri in (*first.targets, first.errors) if uri], f"{folder}in/big-00000-of-00001.jsonl")
    again = places(f"{folder}in/*", **{"output": f"{folder}in/big.jsonl", **fields})
    mine = {first.errors, *first.targets, f"{folder}in/big-00000-of-00001.jsonl"}
    if "max_output_file" in fields:
        assert again.inputs == first.inputs
    assert not set(below("", again.inputs)) & mine - {f"{folder}in/big-00000-of-00001.jsonl"}


def test_a_list(folder: str) -> None:
    """`@` and a file stand for the files, globs and folders that it names, one a line."""
    touch(folder, "a.jsonl", "b c.jsonl", "in/d.jsonl", "in/e.jsonl")
    fs, path = fsspec.url_to_fs(f"{folder}list.txt")
    lines = ["# what to run", "", f"{folder}b c.jsonl", f" {folder}in/*", f"{folder}a.jsonl"]
    fs.pipe_file(path, "\r\n".join(lines).encode())
    found = places(f"@{folder}list.txt", output="out.jsonl")
    assert below(folder, found.inputs) == ["b c.jsonl", "in/d.jsonl", "in/e.jsonl", "a.jsonl"]


@pytest.mark.parametrize(
    ("inputs", "fields", "message"),
    [
        (["@none.txt"], {}, r"the list none\.txt does not exist"),
        (["@empty.txt"], {}, "names no input"),
        (["a.jsonl", "a.jsonl"], {}, "named twice"),
        (["-", "a.jsonl"], {}, "standard input"),
        (["a.jsonl"], {"output": "./a.jsonl"}, "both an input and the output"),
        (["s3://b/a.jsonl"], {"output": "s3a://b/a.jsonl"}, "both an input and the output"),
        (["a.jsonl"], {"output": "s3://b/o.jsonl", "errors": "s3a://b/o.jsonl"}, "--errors names the output"),
        (["a.jsonl"], {"output": "o.jsonl", "errors": "./x/../o.jsonl"}, "--errors names the output"),
        (["s3://b/a.jsonl"], {}, "say by -o where"),
    ],
)
def test_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str], fields: dict[str, Any], message: str
) -> None:
    """Places that can't be right are refused with one sentence, also if they are written in two ways."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xbatch.storage.expand", lambda uri: [uri])
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(UsageError, match=message):
        places(*inputs, **fields)


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("x.jsonl", "x.responses.jsonl"),
        ("x.jsonl.gz", "x.responses.jsonl"),
        ("d.ir/x.y.ndjson.zst", "d.ir/x.y.responses.jsonl"),
        ("x.parquet", "x.responses.parquet"),
        ("x.csv", "x.csv.responses.jsonl"),
        ("x", "x.responses.jsonl"),
        (".jsonl", ".jsonl.responses.jsonl"),
        ("-", "-"),
    ],
)
def test_default_output(name: str, output: str) -> None:
    """Without -o the responses lie beside the input, named after it without what tells its format."""
    assert default_output([name]) == output
    if name != "-":
        assert default_output([name], "jsonl.zst") == f"{stem_of(name)}.responses.jsonl.zst"


def test_parts_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder holds one part for each input, in the format that was asked for, JSONL if none was."""
    monkeypatch.chdir(tmp_path)
    touch("", "a.jsonl.gz", "b.parquet")
    given = "a.jsonl.gz", "b.parquet"
    assert places(*given, output="o/").targets == ["o/a.responses.jsonl", "o/b.responses.jsonl"]
    found = places(*given, output="s3://b/o/", output_format="parquet")
    assert found.targets == ["s3://b/o/a.responses.parquet", "s3://b/o/b.responses.parquet"]
    assert found.state == "s3://b/o.xbatch"
    assert places(*given).targets == [f"{tmp_path}/responses/{name}.responses.jsonl" for name in "ab"]


@pytest.mark.parametrize(
    ("output", "state"),
    [
        ("o.jsonl", "o.jsonl.xbatch"),
        ("o/", "o.xbatch"),
        ("s3://b/o.parquet", "s3://b/o.parquet.xbatch"),
        ("s3://b/", "s3://b/.xbatch"),
        ("s3://b", "s3://b/.xbatch"),
    ],
)
def test_state(output: str, state: str) -> None:
    """The state lies beside the output, inside it if that is a whole bucket."""
    assert state_of(output) == state
