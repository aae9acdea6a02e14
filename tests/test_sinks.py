"""The contract of sinks: every file appears whole or not at all, and the same rows give the same bytes."""

import gzip
import hashlib
import io
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import object_store
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from object_store import ObjectStore

from xbatch import storage
from xbatch.errors import StorageError, UsageError
from xbatch.finish import _AllReasoning
from xbatch.rows.outcome import Completion, Failure, Usage
from xbatch.rows.response import response_line
from xbatch.rows.shard import Shard
from xbatch.sinks import OutputRow, Sink
from xbatch.sinks.answers import is_all_reasoning
from xbatch.sinks.opening import SinkOptions, open_sink

FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet")
PLACES = ("local", "memory", "s3")
BUCKET = "sinks"


@pytest.fixture(scope="module")
def s3() -> Iterator[ObjectStore]:
    with object_store.running() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.address)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir(BUCKET)
        yield server


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that no other test uses."""
    request.getfixturevalue("s3")
    unused = secrets.token_hex(4)
    return {"local": str(tmp_path / "out"), "memory": f"memory://{unused}", "s3": f"s3://{BUCKET}/{unused}"}[
        request.param
    ]


@pytest.fixture(params=FORMATS)
def extension(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def files(folder: str | Path) -> dict[str, bytes]:
    """Every file below a folder by its name from there on."""
    fs, root = fsspec.url_to_fs(str(folder), use_listings_cache=False)
    found = {path: fs.cat_file(path) for path in fs.find(root)} if fs.exists(root) else {}
    return {path.split(root.strip("/"), 1)[1].strip("/"): data for path, data in found.items()}


def put(uri: str, data: bytes) -> None:
    fs, path = fsspec.url_to_fs(uri)
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    fs.pipe_file(path, data)


def completed(index: int, file: int = 0, text: str | None = None) -> OutputRow:
    message = {"role": "assistant", "content": f"täxt\u2028 {index}" if text is None else text}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}, {"index": 1, "message": {"content": "no"}}]
    body = {"object": "chat.completion", "choices": choices, "usage": {"prompt_tokens": 7, "completion_tokens": index}}
    outcome = Completion(json.dumps(body).encode(), Usage(7, index))
    return OutputRow(file, True, response_line("job", index, f"id-{index}", outcome, "batch"))


def failed(index: int, file: int = 0, status: int | None = None) -> OutputRow:
    body = b'{"error":{"message":"no","type":"BadRequest"}}' if status else None
    failure = Failure("engine_crashed", "why", status_code=status, body=body)
    return OutputRow(file, False, response_line("job", index, f"id-{index}", failure, "batch"))


ROWS = [completed(0), failed(1), completed(2), failed(3, 1, 400), completed(4, 1)]


def sink(place: str | Path, spool: Path, *names: str, errors: str | None = None, **options: Any) -> Sink:
    where = errors and f"{place}/{errors}"
    made = open_sink([f"{place}/{n}" for n in names], where, spool / "spool", SinkOptions(**options))
    assert made.check() == []
    return made


def ids(name: str, data: bytes) -> list[str]:
    """The custom_ids of an output file in their order, read with other libraries than those that wrote it."""
    if name.endswith(".parquet"):
        found: list[str] = pq.read_table(io.BytesIO(data)).column("custom_id").to_pylist()
        return found
    if name.endswith(".gz"):
        data = gzip.decompress(data)
    elif name.endswith(".zst"):
        data = zstandard.ZstdDecompressor().stream_reader(data).read()
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(line)["custom_id"] for line in data.split(b"\n")[:-1]]


def all_ids(place: str | Path) -> dict[str, list[str]]:
    return {name: ids(name, data) for name, data in files(place).items()}


def test_one_file(place: str, extension: str, tmp_path: Path) -> None:
    """Inputs with one target follow each other in it, in order."""
    name = f"deep/out.{extension}"
    sink(place, tmp_path, name, name).publish(ROWS)
    assert all_ids(place) == {name: [f"id-{i}" for i in range(5)]}


def test_a_file_for_each_input(place: str, extension: str, tmp_path: Path) -> None:
    """Each input's responses go to its own target, one without responses gets an empty one."""
    names = [f"{stem}.{extension}" for stem in ("a", "empty", "b")]
    rows = [row._replace(file=2 * row.file) for row in ROWS]
    sink(place, tmp_path, *names).publish(rows)
    assert all_ids(place) == {names[0]: ["id-0", "id-1", "id-2"], names[1]: [], names[2]: ["id-3", "id-4"]}


def test_errors_of_their_own(place: str, extension: str, tmp_path: Path) -> None:
    """With an errors file, failures stand there and nowhere else."""
    name = f"out.{extension}"
    sink(place, tmp_path, name, name, errors="bad/errors.jsonl").publish(ROWS)
    assert all_ids(place) == {name: ["id-0", "id-2", "id-4"], "bad/errors.jsonl": ["id-1", "id-3"]}


def test_receipts(place: str, extension: str, tmp_path: Path) -> None:
    """Each receipt tells rows, size and checksum of the file as it lies there."""
    published = sink(place, tmp_path, f"a.{extension}", f"b.{extension}", errors=f"e.{extension}").publish(ROWS)
    there = files(place)
    assert len(published) == len(there) == 3
    for receipt in published:
        name = receipt.uri.rpartition("/")[2]
        assert (receipt.rows, receipt.num_bytes) == (len(ids(name, there[name])), len(there[name]))
        assert receipt.sha256 == hashlib.sha256(there[name]).hexdigest()


def test_same_rows_same_bytes(place: str, extension: str, tmp_path: Path) -> None:
    """Published again at another time and with other files in the spool, the same rows give the same bytes."""
    first = sink(place, tmp_path, f"a.{extension}", f"b.{extension}").publish(ROWS)
    before = files(place)
    assert sink(place, tmp_path, f"a.{extension}", f"b.{extension}").publish(iter(ROWS)) == first
    assert files(place) == before


def test_trouble_halfway_leaves_everything_as_it_was(place: str, extension: str, tmp_path: Path) -> None:
    """If rows stop coming, no output exists, an older one stays as it was, and no rest is left."""
    put(f"{place}/out.{extension}", b"old\n")
    before = files(place)

    def broken() -> Iterator[OutputRow]:
        yield from ROWS
        raise StorageError("a segment is damaged")

    with pytest.raises(StorageError):
        sink(place, tmp_path, f"out.{extension}", f"new.{extension}").publish(broken())
    assert files(place) == before
    assert files(tmp_path / "spool") == {}


def test_a_put_that_fails_leaves_the_old_file(s3: ObjectStore, tmp_path: Path) -> None:
    """If the store refuses the new output for good, the old one stays."""
    place = f"s3://{BUCKET}/{secrets.token_hex(4)}"
    put(f"{place}/out.jsonl", b"old\n")
    whole = sink(place, tmp_path, "out.jsonl", "out.jsonl")
    s3.faults[:] = ["bad"]
    with pytest.raises(StorageError, match=r"out\.jsonl"):
        whole.publish(ROWS)
    assert files(place) == {"out.jsonl": b"old\n"}


@pytest.mark.parametrize("fault", ["slow-down", "drop-before", "drop-after", "expired"])
def test_trouble_that_passes_is_waited_out(s3: ObjectStore, tmp_path: Path, fault: str) -> None:
    """Throttling, lost answers and credentials that are renewed change nothing about the output."""
    place = f"s3://{BUCKET}/{secrets.token_hex(4)}"
    whole = sink(place, tmp_path, "out.jsonl", "out.jsonl")
    s3.faults[:] = [fault] * 2
    whole.publish(ROWS)
    assert not s3.faults
    assert all_ids(place) == {"out.jsonl": [f"id-{i}" for i in range(5)]}


@pytest.mark.usefixtures("s3")
def test_uploads_that_never_ended_are_removed(tmp_path: Path) -> None:
    """What a killed process has left of an upload is removed, and nobody else's."""
    place = f"s3://{BUCKET}/{secrets.token_hex(4)}"
    fs, path = fsspec.url_to_fs(place)
    for name in ("out.jsonl", "out.jsonl2", "out-00000-of-00003.jsonl"):
        fs.call_s3("create_multipart_upload", Bucket=BUCKET, Key=f"{path.partition('/')[2]}/{name}")

    def left() -> list[str]:
        return sorted(each["Key"].rpartition("/")[2] for each in fs.list_multipart_uploads(BUCKET))

    sink(place, tmp_path, "out.jsonl").clean()
    assert left() == ["out-00000-of-00003.jsonl", "out.jsonl2"]
    sink(place, tmp_path, "out.jsonl", max_file_bytes=1000).clean()
    assert left() == ["out.jsonl2"]
    fs.clear_multipart_uploads(BUCKET)


def test_published_is_what_is_there(place: str, extension: str, tmp_path: Path) -> None:
    """An output counts as published if every file of its receipts is there, and is its own."""
    names = f"a.{extension}", f"b.{extension}"
    whole = sink(place, tmp_path, *names)
    receipts = [{"uri": each.uri, "num_bytes": each.num_bytes} for each in whole.publish(ROWS)]
    assert whole.published(receipts)
    assert not sink(place, tmp_path, *names, errors="e.jsonl").published(receipts)
    storage.remove(f"{place}/{names[1]}")
    assert not whole.published(receipts)


def test_readers_keep_the_old_file(tmp_path: Path) -> None:
    """Whoever has the old output open goes on reading the old one, whole."""
    (tmp_path / "out.jsonl").write_bytes(b"old\n")
    with (tmp_path / "out.jsonl").open("rb") as reader:
        sink(tmp_path, tmp_path, "out.jsonl", "out.jsonl").publish(ROWS)
        assert reader.read() == b"old\n"


def test_spool_on_another_device(tmp_path: Path) -> None:
    """A state folder on another device than the output changes nothing."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as spool:
        same = Path(spool).stat().st_dev == tmp_path.stat().st_dev
        assert not same, "the test needs two devices"
        sink(tmp_path, Path(spool), "out.jsonl", "out.jsonl").publish(ROWS)
        assert files(spool) == {}
    assert sorted(files(tmp_path)) == ["out.jsonl"]


def test_check_leaves_nothing(place: str, tmp_path: Path) -> None:
    """Finding out whether outputs can be written leaves no trace, not even of folders."""
    put(f"{place}/old.jsonl", b"old\n")
    before, folders = files(place), sorted(tmp_path.rglob("*"))
    sink(place, tmp_path, "old.jsonl", "some/new/folder/out.jsonl", errors="other/errors.jsonl").check()
    assert files(place) == before
    assert sorted(tmp_path.rglob("*")) == folders


@pytest.mark.parametrize("target", ["folder", "file/out.jsonl", "file/deep/out.jsonl"])
def test_check_refuses(tmp_path: Path, target: str) -> None:
    """A folder in the output's place, or a file where its folder should be, is refused and leaves no trace."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="can't be written"):
        sink(tmp_path, tmp_path, target)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("s3")
def test_check_refuses_stores(tmp_path: Path) -> None:
    """A bucket that is missing, a store that nobody knows and one that can't be written are refused."""
    for there in ("s3://no-such-bucket", "nowhere://host", "https://127.0.0.1:9"):
        with pytest.raises(UsageError, match="can't be written"):
            sink(there, tmp_path, "out.jsonl")


@pytest.mark.parametrize("options", [{"bodies": True}, {"columns": ["nothing"]}])
def test_options_that_do_not_fit(tmp_path: Path, options: dict[str, Any]) -> None:
    """Bare bodies can't be Parquet, and a column must exist."""
    with pytest.raises(UsageError, match=r"--format body|no column nothing; the output has custom_id, "):
        sink(tmp_path, tmp_path, "out.parquet", **options)


# Parts.


@pytest.mark.parametrize("place", ["local", "s3"], indirect=True)
def test_parts(place: str, extension: str, tmp_path: Path) -> None:
    """An output is cut into parts of at most the given size, in order, whose names tell how many there are."""
    rows = [completed(i, text=secrets.token_hex(300)) for i in range(400)]
    largest = 60_000
    whole = sink(place, tmp_path, f"out.{extension}", max_file_bytes=largest)
    receipts = whole.publish(rows)
    there = files(place)
    count = len(there)
    assert list(there) == [f"out-{i:05d}-of-{count:05d}.{extension}" for i in range(count)]
    assert [row for name, data in there.items() for row in ids(name, data)] == [f"id-{i}" for i in range(400)]
    assert [receipt.rows for receipt in receipts] == [len(ids(name, data)) for name, data in there.items()]
    sizes = list(map(len, there.values()))
    assert max(sizes) <= largest
    assert min(sizes[:-1]) > largest * 0.6
    assert whole.published([{"uri": receipt.uri, "num_bytes": receipt.num_bytes} for receipt in receipts])
    assert not whole.published([{"uri": receipt.uri, "num_bytes": receipt.num_bytes} for receipt in receipts[1:]])
    assert not whole.published([])


@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_other_parts_go(place: str, tmp_path: Path) -> None:
    """Published with another number of parts, the old ones are gone, and nothing else is."""
    for other in ("out.jsonl", "out-1-of-2.jsonl", "out-00000-of-00002.jsonl.gz", "about-00000-of-00002.jsonl"):
        put(f"{place}/{other}", b"mine\n")
    before = set(files(place))
    sink(place, tmp_path, "out.jsonl", max_file_bytes=1000).publish([completed(i) for i in range(9)])
    sink(place, tmp_path, "out.jsonl", max_file_bytes=10_000).publish([completed(0)])
    assert set(files(place)) - before == {"out-00000-of-00001.jsonl"}
    assert before <= set(files(place))


# Tables.


class Carrying:
    """An input of which only the carried columns count."""

    blank_lines = 0
    digest = ""

    def __init__(self, table: "pa.Table | None", name: str = "in.parquet", batch_rows: int = 2) -> None:
        self.uri = self.shown_as = name
        self.carried_schema = None if table is None else table.schema
        self._table = table
        self._batch_rows = batch_rows

    def check(self) -> None:
        pass

    def scan(self, first_row: int) -> Iterator[Any]:
        raise NotImplementedError

    def read(self, shard: Shard) -> Iterator[Any]:
        raise NotImplementedError

    def carried(self, first: int, rows: int) -> "Iterator[pa.RecordBatch]":
        assert self._table is not None
        yield from self._table.slice(first, rows).to_batches(max_chunksize=self._batch_rows)


CARRIED = pa.schema(
    [
        pa.field("n", pa.int8(), nullable=False),
        ("when", pa.timestamp("ns", tz="Europe/Berlin")),
        ("kind", pa.dictionary(pa.int32(), pa.string())),
        ("tags", pa.large_list(pa.struct([("a", pa.float32()), ("b", pa.large_string())]))),
        ("price", pa.decimal128(12, 3)),
        ("raw", pa.binary()),
        ("vector", pa.list_(pa.float32(), 2)),
    ]
)


def carried_table(rows: int) -> "pa.Table":
    return pa.table(
        {
            "n": pa.array(range(rows), pa.int8()),
            "when": pa.array([1_700_000_000_000_000_001 + i for i in range(rows)], CARRIED.field("when").type),
            "kind": pa.array(["x" if i % 2 else None for i in range(rows)]).dictionary_encode(),
            "tags": pa.array([[{"a": 0.5, "b": "ß"}] * i or None for i in range(rows)], CARRIED.field("tags").type),
            "price": pa.array(range(rows), pa.int64()).cast(pa.decimal128(22, 3)).cast(pa.decimal128(12, 3)),
            "raw": pa.array([b"\xff\x00"] * rows),
            "vector": pa.array([[i, 1] for i in range(rows)], CARRIED.field("vector").type),
        }
    ).cast(CARRIED)


def read_table(place: str | Path, name: str = "out.parquet") -> "pa.Table":
    return pq.read_table(io.BytesIO(files(place)[name]))


ANSWERS = [
    ("custom_id", pa.string()),
    ("status_code", pa.int16()),
    ("text", pa.string()),
    ("finish_reason", pa.string()),
    ("prompt_tokens", pa.int64()),
    ("completion_tokens", pa.int64()),
    ("response", pa.string()),
    ("error", pa.string()),
]


@pytest.mark.parametrize("rows", [ROWS[:3], [failed(0), failed(1), failed(2)], []], ids=["some", "failed", "none"])
def test_types_are_fixed(tmp_path: Path, rows: list[OutputRow]) -> None:
    """Whatever the rows are, the columns have the same names, order and types, carried ones just as in the input."""
    sink(tmp_path, tmp_path, "out.parquet", carried=[Carrying(carried_table(3))]).publish(rows)
    found = read_table(tmp_path).schema
    assert found.equals(pa.schema([*ANSWERS, *CARRIED]))
    assert pq.read_schema(tmp_path / "out.parquet").field("n").nullable is False


def test_values(tmp_path: Path) -> None:
    """Each row has what its response says, `response` and `error` as the JSONL line has them, and what it carries."""
    both = [Carrying(carried_table(3)), Carrying(None)]
    sink(tmp_path, tmp_path, "out.parquet", "out.parquet", carried=both).publish([*ROWS[:3], failed(3, 1, 400)])
    table = read_table(tmp_path)
    first, crashed, _, refused = table.select([name for name, _ in ANSWERS]).to_pylist()
    line = json.loads(ROWS[0].line)
    assert json.loads(first["response"]) == line["response"]
    assert len(json.loads(first["response"])["body"]["choices"]) == 2
    expected = {"custom_id": "id-0", "status_code": 200, "text": "täxt\u2028 0", "finish_reason": "stop"}
    expected |= {"prompt_tokens": 7, "completion_tokens": 0, "error": None}
    assert {name: first[name] for name in expected} == expected
    nothing = dict.fromkeys(("status_code", "text", "finish_reason", "prompt_tokens", "response"))
    assert {name: crashed[name] for name in nothing} == nothing
    assert json.loads(crashed["error"])["code"] == "engine_crashed"
    assert (refused["status_code"], refused["text"], refused["error"]) == (400, None, None)
    assert table.slice(0, 3).select(CARRIED.names).equals(carried_table(3).cast(table.select(CARRIED.names).schema))
    assert [table.column(name).slice(3).null_count for name in CARRIED.names] == [1] * len(CARRIED)


@pytest.mark.parametrize("batch_rows", [1, 700])
def test_carried_rows_stay_with_their_responses(tmp_path: Path, batch_rows: int) -> None:
    """However the input is cut, with failures elsewhere and over several parts, each response has its own row."""
    rows = [failed(i) if i % 3 == 1 else completed(i) for i in range(1500)]
    source = Carrying(pa.table({"i": range(1500)}), batch_rows=batch_rows)
    sink(tmp_path, tmp_path, "out.parquet", errors="bad.parquet", carried=[source], max_file_bytes=60_000).publish(rows)
    seen = []
    for name in files(tmp_path):
        for row in read_table(tmp_path, name).to_pylist():
            assert row["custom_id"] == f"id-{row['i']}"
            assert (row["text"] is None) is name.startswith("bad") is (row["i"] % 3 == 1)
            seen.append(row["i"])
    assert sorted(seen) == list(range(1500))


def test_an_input_that_has_changed(tmp_path: Path) -> None:
    """An input with fewer rows than responses ends the job; no output appears."""
    with pytest.raises(StorageError, match=r"in\.parquet has other rows"):
        sink(tmp_path, tmp_path, "out.parquet", carried=[Carrying(carried_table(2))]).publish(ROWS[:3])
    assert files(tmp_path) == {}


def test_clashing_names(tmp_path: Path) -> None:
    """A carried column whose name is taken gets `_input` behind it, and the user is told."""
    table = pa.table({"text": [1, 2, 3], "text_input": [4, 5, 6]})
    made = open_sink([f"{tmp_path}/out.parquet"], None, tmp_path / "spool", SinkOptions(carried=[Carrying(table)]))
    assert made.check()[0] == "the column text is called text_input in the output, where text is taken"
    made.publish(ROWS[:3])
    found = read_table(tmp_path)
    assert found.column_names == [*(name for name, _ in ANSWERS), "text_input", "text_input_input"]
    assert found.column("text_input").to_pylist() == [1, 2, 3]


def test_several_inputs_have_one_schema(tmp_path: Path) -> None:
    """All parts of a job have all columns of all inputs; two types of one name are refused."""
    one, two = Carrying(pa.table({"a": [1, 2, 3]})), Carrying(pa.table({"b": ["x", "y"], "a": [None, None]}))
    sink(tmp_path, tmp_path, "a.parquet", "b.parquet", carried=[one, two]).publish(ROWS)
    first, second = (read_table(tmp_path, name) for name in ("a.parquet", "b.parquet"))
    assert first.schema == second.schema == pa.schema([*ANSWERS, ("a", pa.int64()), ("b", pa.string())])
    assert second.column("b").to_pylist() == ["x", "y"]
    with pytest.raises(UsageError, match=r"the column a is int64 in in\.parquet and string in other"):
        sink(tmp_path, tmp_path, "c.parquet", carried=[one, Carrying(pa.table({"a": ["x"]}), "other")])


def test_columns_narrow(tmp_path: Path) -> None:
    """Only the named columns are written, in the table's order."""
    source = Carrying(carried_table(3))
    sink(tmp_path, tmp_path, "out.parquet", carried=[source], columns=["n", "text", "custom_id"]).publish(ROWS[:3])
    assert read_table(tmp_path).column_names == ["custom_id", "text", "n"]


def test_row_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file has as many row groups as its size asks for, so that no more than one is in memory."""
    monkeypatch.setattr("xbatch.sinks.parquet.ROW_GROUP_BYTES", 1 << 20)
    sink(tmp_path, tmp_path, "out.parquet").publish(completed(i, text="x" * 5000) for i in range(2000))
    found = pq.ParquetFile(tmp_path / "out.parquet").metadata
    assert found.num_rows == 2000
    groups = [found.row_group(i).total_byte_size for i in range(found.num_row_groups)]
    assert len(groups) >= 15
    assert max(groups) < 8 << 20


def test_input_under_lines(tmp_path: Path) -> None:
    """Asked for, JSONL has what a row carries under `input`; the rest of the line is as it was."""
    source = Carrying(carried_table(3))
    sink(
        tmp_path, tmp_path, "out.jsonl", carried=[source], with_input=True, columns=["kind", "n", "tags", "when"]
    ).publish(ROWS[:3])
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [line.pop("input") for line in lines][1] == {
        "n": 1,
        "when": "2023-11-14T22:13:20.000000002Z",
        "kind": "x",
        "tags": [{"a": 0.5, "b": "ß"}],
    }
    assert lines == [json.loads(row.line) for row in ROWS[:3]]


def test_bytes_are_carried_as_base64(tmp_path: Path) -> None:
    """JSONL has bytes that are only carried as base64 in every row, and texts that are not UTF-8 with a mark."""
    broken = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    columns = {"data": pa.array([b"ab", b"\xff", None]), "word": pa.array([b"ab"] * 3, pa.binary(2)), "text": broken}
    sink(tmp_path, tmp_path, "out.jsonl", carried=[Carrying(pa.table(columns))], with_input=True).publish(ROWS[:3])
    lines = [json.loads(line)["input"] for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [line["data"] for line in lines] == ["YWI=", "/w==", None]
    assert [line["word"] for line in lines] == ["YWI="] * 3
    assert [line["text"] for line in lines] == ["a", "\ufffd", "c"]


def thoughtful(index: int, **message: Any) -> OutputRow:
    body = {"choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "length"}]}
    outcome = Completion(json.dumps(body, separators=(",", ":")).encode(), Usage(7, index))
    return OutputRow(0, True, response_line("job", index, f"id-{index}", outcome, "batch"))


THOUGHTFUL = [
    thoughtful(0, content="a", reasoning="b"),
    thoughtful(1, content=None, reasoning="b"),
    thoughtful(2, content="", reasoning="b"),
    thoughtful(3, content=None, reasoning=None),
    thoughtful(4, content=None, reasoning="b", tool_calls=[{"id": "c"}]),
    thoughtful(5, content="a"),
    failed(6, status=400),
]


def test_reasoning(tmp_path: Path) -> None:
    """Where reasoning is told from answers it has a column behind `text`, in every part of the output."""
    names = [*ANSWERS[:3], ("reasoning", pa.string()), *ANSWERS[3:]]
    sink(tmp_path, tmp_path, "out.parquet", "b.parquet", reasoning=True).publish(THOUGHTFUL)
    found = read_table(tmp_path)
    assert found.schema == read_table(tmp_path, "b.parquet").schema == pa.schema(names)
    assert found.column("reasoning").to_pylist() == ["b", "b", "b", None, "b", None, None]
    assert found.column("text").to_pylist() == ["a", None, "", None, None, "a", None]


def test_answers_that_are_all_reasoning() -> None:
    """Answers with reasoning and neither text nor calls are known, in batch lines and in bare bodies."""
    expected = [False, True, True, False, False, False, False]
    assert [is_all_reasoning(row.line) for row in THOUGHTFUL] == expected
    bodies = [msgspec.json.decode(row.line)["response"]["body"] for row in THOUGHTFUL]
    assert [is_all_reasoning(msgspec.json.encode(body)) for body in bodies] == expected
    assert not is_all_reasoning(b'{"choices":[{"text":"\\"reasoning\\":\\""}],"reasoning":"a"}')
    assert not is_all_reasoning(b'{"reasoning":"a","choices":7}')
    counter = _AllReasoning()
    assert list(counter.counted(iter(THOUGHTFUL))) == THOUGHTFUL
    assert counter.rows == 2


SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"enum": ["good", "bad"]},
        "score": {"type": ["number", "null"]},
        "count": {"type": "integer"},
        "sure": {"type": "boolean"},
        "tags": {"type": "array"},
        "text": {"type": "string"},
        "any": {},
    },
    "required": ["label"],
}


def parsed(tmp_path: Path, text: str | None) -> dict[str, Any]:
    row = failed(0) if text is None else completed(0, text=text)
    options = SinkOptions(parsed=SCHEMA)
    for extension in ("parquet", "jsonl"):
        made = open_sink([f"{tmp_path}/out.{extension}"], None, tmp_path / "spool", options)
        made.check()
        made.publish([row])
    table = read_table(tmp_path)
    fields = [("label", pa.string()), ("score", pa.float64()), ("count", pa.int64()), ("sure", pa.bool_())]
    fields += [("tags", pa.string()), ("text_parsed", pa.string()), ("any", pa.string()), ("parse_error", pa.string())]
    assert table.schema == pa.schema([*ANSWERS, *fields])
    found: dict[str, Any] = table.to_pylist()[0]
    assert found["text"] == text
    line = json.loads((tmp_path / "out.jsonl").read_bytes())
    assert line.get("parse_error") == found["parse_error"]
    return {name: found[name] for name, _ in fields if found[name] is not None} | {"line": line.get("parsed")}


def test_answers_become_typed_columns(tmp_path: Path) -> None:
    """The fields of an answer that is JSON become columns with the types of the schema."""
    whole = {"label": "good", "score": 1, "count": 2.0, "sure": True, "tags": ["a", {"b": 1}], "text": "t", "any": "x"}
    found = {"label": "good", "score": 1.0, "count": 2, "sure": True, "tags": '["a",{"b":1}]'}
    found |= {"text_parsed": "t", "any": '"x"', "line": whole}
    assert parsed(tmp_path, json.dumps(whole)) == found


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("no", r"the answer is not valid JSON: .*"),
        ("[1]", "the answer is JSON, but not an object"),
        ('{"score": 1}', "label is missing"),
        ('{"label": "x", "count": 1.5}', "count is not a 64-bit integer"),
        ('{"label": "x", "count": 1e300}', "count is not a 64-bit integer"),
        ('{"label": "x", "sure": 1}', "sure is not a boolean"),
        ('{"label": 1}', "label is not a text"),
    ],
)
def test_answers_that_do_not_parse(tmp_path: Path, text: str, error: str) -> None:
    """An answer that isn't what was asked for keeps its text and says why; fields that fit are kept."""
    import re

    found = parsed(tmp_path, text)
    assert re.fullmatch(error, found["parse_error"])
    assert found.get("score") == (1.0 if "score" in text else None)
    assert found.get("label") == ("x" if '"x"' in text else None)


def test_failures_are_not_parsed(tmp_path: Path) -> None:
    """A row without an answer has neither fields nor a parse error: its own error says why."""
    assert parsed(tmp_path, None) == {"line": None}
