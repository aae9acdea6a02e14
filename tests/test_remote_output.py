"""`xbatch run` from stores and to stores, as a user meets it."""

import gzip
import io
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import object_store
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from object_store import ObjectStore
from test_cli_run import ENV, chat, command, write

from xbatch import storage
from xbatch.errors import StorageError, UsageError

ROWS = 40
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store.running() as served:
        yield served


@pytest.fixture
def bucket(store: ObjectStore) -> s3fs.S3FileSystem:
    """The store with an empty bucket that holds two inputs."""
    fs = s3fs.S3FileSystem(
        key="a", secret="b", endpoint_url=store.address, skip_instance_cache=True, use_listings_cache=False
    )
    if fs.exists("data"):
        fs.rm("data", recursive=True)
    fs.mkdir("data")
    for name, rows in (("a", range(ROWS)), ("b", range(ROWS, ROWS + 5))):
        fs.pipe_file(f"data/in/{name}.jsonl", b"".join(json.dumps(chat(i)).encode() + b"\n" for i in rows))
    return fs


def run(folder: Path, store: ObjectStore, *words: str, **env: str) -> "subprocess.CompletedProcess[bytes]":
    whole = {**ENV, **KEYS, "AWS_ENDPOINT_URL": store.address, "XDG_STATE_HOME": str(folder / "home"), **env}
    return subprocess.run(command(*words), cwd=folder, env=whole, capture_output=True, check=False)


def found(fs: s3fs.S3FileSystem) -> dict[str, tuple[str, Any]]:
    """Every object with ETag and time, but for the claims that any run may make anew."""
    objects = fs.find("data", detail=True)
    return {
        path: (info["ETag"], info["LastModified"])
        for path, info in objects.items()
        if not {"lease", "workers"} & set(path.split("/"))
    }


def ids(name: str, data: bytes) -> list[str]:
    if name.endswith(".parquet"):
        read: list[str] = pq.read_table(io.BytesIO(data)).column("custom_id").to_pylist()
        return read
    data = gzip.decompress(data) if name.endswith(".gz") else data
    return [json.loads(line)["custom_id"] for line in data.splitlines()]


FIRST = [f"id-{i}" for i in range(ROWS)]
SECOND = [f"id-{i}" for i in range(ROWS, ROWS + 5)]


@pytest.mark.parametrize(
    ("words", "outputs"),
    [
        (["-o", "s3://data/out.jsonl"], {"out.jsonl": [*FIRST, *SECOND]}),
        (["-o", "s3://data/new/out.parquet"], {"new/out.parquet": [*FIRST, *SECOND]}),
        (
            ["-o", "s3://data/folder/", "--output-format", "jsonl.gz", "--errors", "s3://data/errors.jsonl"],
            {"folder/a.responses.jsonl.gz": FIRST, "folder/b.responses.jsonl.gz": SECOND, "errors.jsonl": []},
        ),
        (
            ["-o", "s3://data/out.jsonl", "--max-output-file", "8KiB"],
            {"out-00000-of-00003.jsonl": None, "out-00001-of-00003.jsonl": None, "out-00002-of-00003.jsonl": None},
        ),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_from_store_to_store(
    tmp_path: Path, store: ObjectStore, bucket: s3fs.S3FileSystem, words: list[str], outputs: dict[str, list[str]]
) -> None:
    """Rows of a bucket are answered into a bucket, in order; run again, nothing is rewritten and no answer asked."""
    log = ["--engine-arg", f"log={tmp_path / 'log'}"]
    done = run(tmp_path, store, "s3://data/in/", *words, *log)
    assert done.returncode == 0, done.stderr
    before = found(bucket)
    seen = {name: ids(name, bucket.cat_file(f"data/{name}")) for name in outputs}
    assert [row for rows in seen.values() for row in rows] == [*FIRST, *SECOND]
    assert all(expected is None or seen[name] == expected for name, expected in outputs.items())
    asked = (tmp_path / "log").read_bytes()
    again = run(tmp_path, store, "s3://data/in/", *words, *log)
    assert again.returncode == 0, again.stderr
    assert b"already complete" in again.stderr
    assert found(bucket) == before
    assert (tmp_path / "log").read_bytes() == asked
    assert sorted(os.listdir(tmp_path)) == ["home", "log"]


@pytest.mark.parametrize("crash", ["output-half:20", "output-built:1", "output-named:1", "output-published:1"])
@pytest.mark.parametrize("roll", [[], ["--max-output-file", "8KiB"]], ids=["whole", "parts"])
def test_killed_while_publishing(
    tmp_path: Path, store: ObjectStore, bucket: s3fs.S3FileSystem, crash: str, roll: list[str]
) -> None:
    """Killed at any moment of publishing, no half file is there, and the next run finishes without the engine."""
    words = ["s3://data/in/*", "-o", "s3://data/out/", *roll, "--engine-arg", f"log={tmp_path / 'log'}"]
    assert run(tmp_path, store, *words, XBATCH_CRASH=crash).returncode == -9
    asked = (tmp_path / "log").read_bytes()
    halfway = {path: bucket.cat_file(path) for path in bucket.find("data/out/")}
    assert len(halfway) >= {"output-named": 1, "output-published": 2}.get(crash.partition(":")[0], 0)
    done = run(tmp_path, store, *words)
    assert done.returncode == 0, done.stderr
    whole = {path: bucket.cat_file(path) for path in sorted(bucket.find("data/out/"))}
    assert [row for data in whole.values() for row in ids("", data)] == [*FIRST, *SECOND]
    assert halfway.items() <= whole.items()
    assert (tmp_path / "log").read_bytes() == asked


def test_parts_after_a_retry(tmp_path: Path, store: ObjectStore, bucket: s3fs.S3FileSystem) -> None:
    """When a later round makes the output smaller or larger, the parts are those of the last round alone."""
    words = ["s3://data/in/a.jsonl", "-o", "s3://data/out.jsonl", "--max-output-file", "8KiB", "--max-failures", "100%"]
    every = ",".join(map(str, range(ROWS)))
    assert run(tmp_path, store, *words, "--engine-arg", f"fail_on={every}").returncode == 0
    few = set(bucket.find("data/", maxdepth=1))
    assert run(tmp_path, store, *words, "--retry-failed=all").returncode == 0
    parts = sorted(bucket.glob("data/out-*.jsonl"))
    assert [row for path in parts for row in ids("", bucket.cat_file(path))] == FIRST
    assert set(parts) != {path for path in few if "/out-" in path}
    assert len({path[-len("00001.jsonl") :] for path in parts}) == 1


@pytest.mark.parametrize("inputs", [1, 20])
def test_object_of_somebody_else(tmp_path: Path, store: ObjectStore, bucket: s3fs.S3FileSystem, inputs: int) -> None:
    """An object that no run of the job has put is refused, asked for by itself or among many; --overwrite takes it."""
    for number in range(inputs):
        bucket.pipe_file(f"data/many/{number:02}.jsonl", json.dumps(chat(number)).encode() + b"\n")
    bucket.pipe_file("data/out/00.responses.jsonl", b"mine")
    words = ["s3://data/many/*", "-o", "s3://data/out/"]
    before = found(bucket)
    refused = run(tmp_path, store, *words)
    assert refused.returncode == 2, refused.stderr
    assert b"s3://data/out/00.responses.jsonl exists, and no run of this job has written it" in refused.stderr
    assert found(bucket) == before
    assert run(tmp_path, store, *words, "--overwrite").returncode == 0
    assert len(bucket.ls("data/out")) == inputs
    assert run(tmp_path, store, *words, "--restart").returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "s3://none/out.jsonl"], b"none"),
        (["-o", "s3://data/out.parquet", "--format", "body"], b"--format body can't be Parquet"),
        (["-o", "s3://data/out.parquet", "--columns", "text,nothing"], b"no column nothing"),
        (["-o", "https://127.0.0.1:9/out.jsonl", "--state", "state"], b"HTTP is for inputs only"),
        (["-o", "s3://data/in/a.jsonl"], b"both an input and the output"),
        (["-o", "s3://data/out.jsonl", "--storage-option", "a.b=1", "--storage-option", "a=2"], b"not a name"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_refused(
    tmp_path: Path, store: ObjectStore, bucket: s3fs.S3FileSystem, words: list[str], message: bytes
) -> None:
    """An output that can't be is refused before anything is asked or written, with exit code 2 or 4."""
    before = found(bucket)
    done = run(tmp_path, store, "s3://data/in/a.jsonl", *words)
    assert done.returncode in ({2, 4} if "none" in words[1] else {2}), done.stderr
    assert message in done.stderr
    assert b"Traceback" not in done.stderr
    assert found(bucket) == before


@pytest.mark.parametrize(
    ("words", "env"),
    [
        (["--storage-option", "client_kwargs.endpoint_url={}", "--storage-option", "key=1", "--storage-option"], {}),
        (["--storage-option", "s3.endpoint_url={}", "--storage-option", "s3.key=1", "--storage-option"], {}),
        ([], {"FSSPEC_S3_ENDPOINT_URL": "{}", "FSSPEC_S3_KEY": "a", "FSSPEC_S3_SECRET": "b"}),
        ([], {"FSSPEC_S3": '{{"key": "a", "secret": "b", "client_kwargs": {{"endpoint_url": "{}"}}}}'}),
    ],
    ids=["nested", "by protocol", "fsspec's variables", "fsspec's variable"],
)
def test_options_reach_every_store(
    tmp_path: Path, store: ObjectStore, bucket: s3fs.S3FileSystem, words: list[str], env: dict[str, str]
) -> None:
    """Where the store is and how to get in may be said on the command line or by fsspec's variables."""
    given = [word.format(store.address) for word in words]
    given += [f"{'s3.' if 's3.' in ''.join(words) else ''}secret=b"] if words else []
    bare = {name: value.format(store.address) for name, value in env.items()}
    bare |= {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    done = run(tmp_path, store, "s3://data/in/a.jsonl", "-o", "s3://data/out.jsonl", *given, **bare)
    assert done.returncode == 0, done.stderr
    assert ids("", bucket.cat_file("data/out.jsonl")) == FIRST


def test_options_are_values() -> None:
    """Dotted names nest, values are what JSON makes of them, and secrets stay texts."""
    parsed = storage.parse_options({"a.b.c": "1", "a.b.d": "false", "key": "123", "x": '"7"', "y": "plain=text"})
    assert parsed == {"a": {"b": {"c": 1, "d": False}}, "key": "123", "x": "7", "y": "plain=text"}
    for wrong in ({"a": "1", "a.b": "2"}, {"a.b": "1", "a": "2"}, {"": "1"}, {"a..b": "1"}):
        with pytest.raises(UsageError, match="--storage-option"):
            storage.parse_options(wrong)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A web server over the test's folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *given: _Quiet(*given, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_http_inputs(tmp_path: Path, store: ObjectStore, site: str) -> None:
    """A file behind a web server is an input, even with a `?` in its name; run again the job is complete."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(ROWS)])
    words = [f"{site}/in.jsonl?version=1", "-o", "out.jsonl"]
    done = run(tmp_path, store, *words)
    assert done.returncode == 0, done.stderr
    assert ids("", (tmp_path / "out.jsonl").read_bytes()) == FIRST
    assert b"already complete" in run(tmp_path, store, *words).stderr


@pytest.mark.parametrize("fault", ["slow-down", "drop-before", "drop-after"])
def test_reading_bears_trouble(
    store: ObjectStore, bucket: s3fs.S3FileSystem, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """While a file is read, trouble of the store that passes changes nothing of what is read."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": store.address}.items():
        monkeypatch.setenv(name, value)
    data = os.urandom(20 << 20)
    bucket.pipe_file("data/large", data)
    with storage.open_read("s3://data/large") as file:
        head = file.read(1000)
        store.fault_method, store.faults[:] = "GET", [fault] * 5
        assert head + file.read() == data
    assert not store.faults
    store.fault_method = "PUT"


def test_a_file_that_changes_while_it_is_read(
    store: ObjectStore, bucket: s3fs.S3FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is replaced while it is read ends the job: rows of two versions are never mixed."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": store.address}.items():
        monkeypatch.setenv(name, value)
    bucket.pipe_file("data/large", b"a" * (20 << 20))
    with storage.open_read("s3://data/large") as file:
        file.read(1000)
        bucket.pipe_file("data/large", b"b" * (20 << 20))
        with pytest.raises(StorageError):
            file.read()


def test_parquet_types(tmp_path: Path, store: ObjectStore, bucket: s3fs.S3FileSystem) -> None:
    """A Parquet output in a store has the fixed columns with their types."""
    assert run(tmp_path, store, "s3://data/in/a.jsonl", "-o", "s3://data/out.parquet").returncode == 0
    table = pq.read_table(io.BytesIO(bucket.cat_file("data/out.parquet")))
    texts = ("custom_id", "text", "finish_reason", "response", "error")
    types = {field.name: field.type for field in table.schema}
    assert types == {
        **dict.fromkeys(texts, pa.string()),
        **dict.fromkeys(("prompt_tokens", "completion_tokens"), pa.int64()),
        "status_code": pa.int16(),
    }
    assert set(table.column("status_code").to_pylist()) == {200}


def test_a_table_in_a_store(tmp_path: Path, store: ObjectStore, bucket: s3fs.S3FileSystem) -> None:
    """A table's rows come out in order, each with its response and its other columns, unchanged."""
    table = pa.table({"k": pa.array(range(50), pa.int8()), "prompt": ["hello"] * 50, "tag": [["a"], None] * 25})
    with bucket.open("data/table.parquet", "wb") as file:
        pq.write_table(table, file, row_group_size=7)
    words = ["s3://data/table.parquet", "-m", "m", "-o", "s3://data/out.parquet"]
    done = run(tmp_path, store, *words)
    assert done.returncode == 0, done.stderr
    answered = pq.read_table(io.BytesIO(bucket.cat_file("data/out.parquet")))
    assert answered.select(["k", "tag"]).equals(table.select(["k", "tag"]))
    assert answered.column("text").null_count == 0
    before = found(bucket)
    assert b"already complete" in run(tmp_path, store, *words).stderr
    assert found(bucket) == before
