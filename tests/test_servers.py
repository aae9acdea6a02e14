"""Every sort of store that users keep their data in, as a real server: state, inputs and outputs on each of them."""

import errno
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pytest
import test_stores
from servers import Place, Servers, reached
from test_cli_run import ENV, SLOW, chat, command, ids, wait_for

from xbatch import storage
from xbatch.errors import UsageError
from xbatch.storage import FsspecStore, Store, filesystems
from xbatch.storage.retrying import Retrying
from xbatch.storage.settings import StorageSettings
from xbatch.storage.trouble import Trouble
from xbatch.threads import Executor

# aiohttp about what gcsfs and adlfs give it: a large body is sent at once.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")

EXCLUSIVE = {"s3": True, "azure": True, "gcs": True, "sftp": False, "rclone": False}
"""The stores that can be written, and whether they keep two writers apart."""
if os.environ.get("XBATCH_LONG"):
    EXCLUSIVE["ceph"] = True
READABLE = (*EXCLUSIVE, "http")
NOT_KEPT = {
    "azure": {"q?versionid=1&x=#f", "'\"\\<>|:;,$!~@^`{}()", "tab\there"},
    # It stands over a folder, and asks by a pattern what lies there.
    "rclone": {"a/*?[x]"},
}
"""Names that a store itself, or its fsspec library, makes other names of."""
CONTRACT = (
    test_stores.test_put_if_absent_takes_a_free_key_only,
    test_stores.test_put_replaces,
    test_stores.test_what_is_missing_is_none,
    test_stores.test_names_are_the_last_parts_in_order,
    test_stores.test_delete,
    test_stores.test_delete_folder,
)


on_each = pytest.mark.parametrize("place", EXCLUSIVE, indirect=True)


def state_in(place: Place) -> Store:
    """The store there as a job uses it, after the probe."""
    store = storage.open_store(place.uri)
    storage.is_exclusive(store)
    return store


def fill(place: Place, files: dict[str, bytes]) -> None:
    """Put files there by other means than xbatch's."""
    for name, data in files.items():
        if place.path is None:
            fsspec.open(f"{place.uri}/{name}").fs.pipe_file(f"{place.uri}/{name}", data)
        else:
            (place.path / name).parent.mkdir(parents=True, exist_ok=True)
            (place.path / name).write_bytes(data)


# What a job's state asks of a store.


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__.removeprefix("test_"))
@on_each
def test_contract(place: Place, promise: Callable[[Store], None]) -> None:
    """What a job's state asks of a store holds on all of them, for a single process also where conditions don't."""
    promise(state_in(place))


@on_each
def test_odd_keys(place: Place, request: pytest.FixtureRequest) -> None:
    """A key is what it is, but for what a store can't hold at all."""
    not_kept = NOT_KEPT.get(request.node.callspec.params["place"], set())
    store = state_in(place)
    for key in test_stores.ODD_KEYS:
        if key not in not_kept:
            test_stores.test_odd_keys(store, key)
            store.delete_folder("")


@pytest.mark.parametrize("place", [name for name, is_so in EXCLUSIVE.items() if is_so], indirect=True)
def test_exactly_one_wins(place: Place) -> None:
    """Of many who put under one key at once exactly one is told that it did."""
    test_stores.test_exactly_one_wins(storage.open_store(place.uri))


@on_each
def test_the_probe_tells_the_truth(place: Place, request: pytest.FixtureRequest) -> None:
    """A store that ignores the condition, or can't do better than to look first, is found out."""
    store = storage.open_store(place.uri)
    assert storage.is_exclusive(store) == EXCLUSIVE[request.node.callspec.params["place"]]
    assert store.names("") == []


@pytest.mark.parametrize("place", ["rclone"], indirect=True)
def test_who_ignores_conditions_is_looked_at_first(place: Place) -> None:
    """Where a condition is ignored, the probe has xbatch look before it puts, so that nothing is put over."""
    store = storage.open_store(place.uri)
    assert store.put_if_absent("a", b"first")
    assert store.put_if_absent("a", b"put over")
    assert not storage.is_exclusive(store)
    assert not store.put_if_absent("a", b"third")
    assert store.get("a") == b"put over"


# What is read, and what is published.


@pytest.mark.parametrize("place", READABLE, indirect=True)
def test_reading(place: Place, request: pytest.FixtureRequest) -> None:
    """Size and version are known, a file is read from anywhere in it, and what is missing is reported as such."""
    data = secrets.token_bytes(3 << 20)
    fill(place, {"in/a b.jsonl": data})
    name = "a%20b.jsonl" if request.node.callspec.params["place"] == "http" else "a b.jsonl"
    uri = f"{place.uri}/in/{name}"
    version = storage.stat(uri)
    assert version.size_bytes == len(data)
    assert version.version
    with storage.open_read(uri) as file:
        assert file.read(10) == data[:10]
        assert file.seek(2 << 20) == 2 << 20
        assert file.read() == data[2 << 20 :]
        file.seek(5)
        assert file.read() == data[5:]
    with pytest.raises(FileNotFoundError):
        storage.stat(f"{place.uri}/in/none")
    assert storage.expand(uri) == [uri]


@on_each
def test_globs_and_folders(place: Place) -> None:
    """What a glob or a folder names is named in full, so that it is found again; hidden files are left out."""
    fill(place, {f"in/{name}": b"1\n" for name in ("b.jsonl", "a.jsonl", ".hidden", "_SUCCESS", "c.txt", "x/d.jsonl")})
    a, b, c, d = (f"{place.uri}/in/{name}" for name in ("a.jsonl", "b.jsonl", "c.txt", "x/d.jsonl"))
    assert storage.expand(f"{place.uri}/in/*.jsonl") == [a, b]
    assert storage.expand(f"{place.uri}/in/") == storage.expand(f"{place.uri}/in") == [a, b, c]
    assert storage.expand(f"{place.uri}/**/*.jsonl") == [a, b, d]
    assert storage.expand(f"{place.uri}/in/*.none") == []
    for uri in (a, d):
        with storage.open_read(uri) as file:
            assert file.read() == b"1\n"


@on_each
def test_publishing(place: Place, tmp_path: Path) -> None:
    """A finished file gets its name in a store whole, in place of what was there, and nothing lies beside it."""
    uri, data = f"{place.uri}/out/new/a.jsonl", secrets.token_bytes(9 << 20)
    storage.check_uri_writable(uri)
    assert not storage.exists(uri)
    for body in (b"earlier", data):
        spooled = tmp_path / "spooled"
        spooled.write_bytes(body)
        storage.publish_to(uri, spooled)
        assert storage.exists(uri)
        with storage.open_read(uri) as file:
            assert file.read() == body
    assert storage.names_beside(uri) == ["a.jsonl"]
    storage.remove(uri)
    assert not storage.exists(uri)


@pytest.mark.parametrize("place", ["http"], indirect=True)
def test_http_is_read_only(place: Place) -> None:
    """An output on a web server is refused before anything is run."""
    with pytest.raises(UsageError, match="HTTP is for inputs only"):
        storage.check_uri_writable(f"{place.uri}/out.jsonl")


def test_what_can_not_be_listed_is_not_left_out(tmp_path: Path) -> None:
    """A folder that can't be looked into is trouble, not a folder without files."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.jsonl").write_bytes(b"1\n")

    def scandir(path: Path) -> Any:
        if path.name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return whole(path)

    with pytest.MonkeyPatch.context() as patch:
        whole = os.scandir
        patch.setattr(os, "scandir", scandir)
        with pytest.raises(PermissionError, match=r"Permission denied.*a/b"):
            storage.expand(f"{tmp_path}/**/*.jsonl")
    assert storage.expand(f"{tmp_path}/**/*.jsonl") == [f"{tmp_path}/a/b/c.jsonl"]


# Whole jobs.

ROWS = 40


class Command:
    """`xbatch run` in a folder of this machine, on places in a store."""

    def __init__(self, place: Place, folder: Path) -> None:
        self._folder = folder
        self._env = {**ENV, **place.env, "XDG_STATE_HOME": str(folder / "state")}

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        pipe: Any = subprocess.PIPE
        return subprocess.Popen(command(*words), cwd=self._folder, env=self._env, stdout=pipe, stderr=pipe)

    def run(self, *words: str) -> tuple[int, str]:
        with self.start(*words) as process:
            try:
                _, told = process.communicate(timeout=120)
            finally:
                process.kill()
        return process.returncode, told.decode()


@pytest.fixture
def run(place: Place, tmp_path: Path) -> Command:
    return Command(place, tmp_path)


def lines(numbers: range) -> bytes:
    return "".join(json.dumps(chat(n)) + "\n" for n in numbers).encode()


def answered(uri: str) -> list[str]:
    """The `custom_id`s of an output, in its order."""
    with storage.open_read(uri) as file:
        return [json.loads(line)["custom_id"] for line in file]


@on_each
def test_a_job_on_a_store(place: Place, run: Command, request: pytest.FixtureRequest) -> None:
    """Inputs, outputs and state all lie in one store; a second run finds everything done."""
    fill(place, {"in/a.jsonl": lines(range(ROWS)), "in/b.jsonl": lines(range(ROWS, 2 * ROWS))})
    words = (f"{place.uri}/in/*.jsonl", "-o", f"{place.uri}/out/")
    code, told = run.run(*words)
    assert code == 0, told
    is_exclusive = EXCLUSIVE[request.node.callspec.params["place"]]
    assert ("does not keep two writers apart: run one process at a time" in told) == (not is_exclusive)
    names = [uri.rpartition("/")[2] for uri in storage.expand(f"{place.uri}/out/")]
    assert names == ["a.responses.jsonl", "b.responses.jsonl"]
    assert [answered(f"{place.uri}/out/{name}") for name in names] == [
        [f"id-{n}" for n in range(ROWS)],
        [f"id-{n}" for n in range(ROWS, 2 * ROWS)],
    ]
    code, told = run.run(*words)
    assert code == 0, told
    assert "already complete" in told


@pytest.mark.parametrize("place", ["http"], indirect=True)
def test_a_job_on_a_web_server(place: Place, run: Command, tmp_path: Path) -> None:
    """An input on a web server is answered into a local file."""
    fill(place, {"in.jsonl": lines(range(ROWS))})
    code, told = run.run(f"{place.uri}/in.jsonl", "-o", "out.jsonl")
    assert code == 0, told
    assert ids(tmp_path / "out.jsonl") == [f"id-{n}" for n in range(ROWS)]


@pytest.mark.parametrize("place", [name for name in ("s3", "ceph") if name in EXCLUSIVE], indirect=True)
def test_killed_and_run_again(place: Place, run: Command) -> None:
    """Killed amid a job whose every file lies in a store, the same command finishes it, each row once and in order."""
    fill(place, {"in.jsonl": lines(range(300))})
    words = (f"{place.uri}/in.jsonl", "-o", f"{place.uri}/out.jsonl", "--commit-interval-s", "0.2")
    process = run.start(*words, *SLOW)
    state = FsspecStore(f"{place.uri}/out.jsonl.xbatch")
    wait_for(process, lambda: bool(state.names("seg")))
    process.kill()
    process.communicate()
    assert not storage.exists(f"{place.uri}/out.jsonl")
    code, told = run.run(*words)
    assert code == 0, told
    assert "going on: " in told
    assert answered(f"{place.uri}/out.jsonl") == [f"id-{n}" for n in range(300)]


# Trouble.


@pytest.mark.parametrize("place", ["sftp"], indirect=True)
def test_sftp_connections_that_end(place: Place, tmp_path: Path) -> None:
    """A server that ends its connections, as one does that starts anew, costs neither what is read nor what is put."""

    def hang_up() -> None:
        for child in psutil.Process(place.pid).children():
            child.kill()
            child.wait(5)

    data = secrets.token_bytes(5 << 20)
    fill(place, {"a": data})
    store = FsspecStore(f"{place.uri}/state", budget_s=20)
    hang_up()
    assert store.put_if_absent("b", b"1")
    hang_up()
    assert store.names("") == ["b"]
    with storage.open_read(f"{place.uri}/a") as file:
        assert file.read(5) == data[:5]
        hang_up()
        assert file.read() == data[5:]
    hang_up()
    assert storage.expand(f"{place.uri}/*") == [f"{place.uri}/a"]
    hang_up()
    (tmp_path / "spooled").write_bytes(data)
    storage.publish_to(f"{place.uri}/c", tmp_path / "spooled")
    assert storage.stat(f"{place.uri}/c").size_bytes == len(data)


@on_each
def test_many_threads_on_one_store(place: Place) -> None:
    """Threads that share a store each get their own answers, even where all have but one connection."""
    store = FsspecStore(f"{place.uri}/state")
    names = [f"done/{n:02d}.json" for n in range(24)]
    with Executor(8) as pool:
        assert all(pool.map(lambda name: store.put_if_absent(name, name.encode()), names, timeout=60))
        assert list(pool.map(store.get, names * 4, timeout=60)) == [name.encode() for name in names * 4]


def test_sftp_servers_that_fall_silent(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stops answering without ending the connection is asked again over another one."""
    monkeypatch.setattr(filesystems, "LONGEST_SILENCE_S", 1.0)
    with reached(servers.place("sftp")) as place:
        store = FsspecStore(f"{place.uri}/state", budget_s=60)
        store.put("a", b"1")
        sessions = psutil.Process(place.pid).children(recursive=True)
        for session in sessions:
            session.suspend()
        try:
            assert store.get("a") == b"1"
        finally:
            for session in sessions:
                session.kill()


@pytest.mark.parametrize("fault", ["slow-down", "drop-before", "drop-after", "expired"])
def test_s3_faults_come_through(place: Place, servers: Servers, tmp_path: Path, fault: str) -> None:
    """Throttling, lost connections and credentials that have run out delay what is read and published, no more."""
    fill(place, {"in/a": b"data", "in/b": b"data"})
    for method in ("GET", "HEAD"):
        servers.s3.fault_method, servers.s3.faults[:] = method, [fault] * 2
        assert storage.expand(f"{place.uri}/in/*") == [f"{place.uri}/in/a", f"{place.uri}/in/b"]
        with storage.open_read(f"{place.uri}/in/a") as file:
            assert file.read() == b"data"
        for ask in (storage.exists, storage.stat, storage.names_beside):
            servers.s3.faults[:] = [fault]
            assert ask(f"{place.uri}/in/a")
    (tmp_path / "spooled").write_bytes(b"published")
    servers.s3.fault_method, servers.s3.faults[:] = "PUT", [fault] * 2
    storage.publish_to(f"{place.uri}/out", tmp_path / "spooled")
    assert servers.s3.faults == []
    with storage.open_read(f"{place.uri}/out") as file:
        assert file.read() == b"published"


def test_s3_expired_without_a_word(place: Place, servers: Servers) -> None:
    """The answer to a request for a header alone has no room for the reason: credentials may have run out."""
    fill(place, {"in/a": b"data"})
    for ask in (lambda uri: storage.expand(f"{uri}/*"), lambda uri: storage.exists(f"{uri}/a")):
        servers.s3.fault_method, servers.s3.faults[:] = "HEAD", ["expired"] * 3
        assert ask(f"{place.uri}/in")
        assert servers.s3.faults == []


def test_credentials_are_read_again(place: Place, servers: Servers, tmp_path: Path, monkeypatch: Any) -> None:
    """When credentials run out, those that stand in the file by then are used."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    keys = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))

    def write(key: str) -> None:
        keys.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n")

    write("OLD")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    store = FsspecStore(f"{place.uri}/state", budget_s=20)
    store.put("a", b"1")
    write("NEW")
    servers.s3.keys.clear()
    servers.s3.faults[:] = ["expired"]
    store.put("a", b"2")
    assert servers.s3.keys == ["OLD", "NEW"]


def test_a_refusal_is_believed_last() -> None:
    """Where something stands for a refusal, too, the credentials are read again before it counts."""
    renewed: list[int] = []

    def ask() -> str:
        if len(renewed) < 2:
            raise PermissionError
        return "answer"

    retrying = Retrying(StorageSettings(), lambda: renewed.append(1), 20)
    assert retrying.call("there", ask, {Trouble.REFUSED: "refused"}) == "answer"
    assert len(renewed) == 2


LARGE_BYTES = 101 << 20
"""What s3fs sends in parts."""


def test_uploads_of_killed_processes_are_aborted(place: Place, servers: Servers, tmp_path: Path) -> None:
    """The parts that a killed process has sent of a large output are removed by the next start, and nobody else's."""
    with open(tmp_path / "large", "wb") as file:
        file.truncate(LARGE_BYTES)
    uri, other = f"{place.uri}/out.jsonl", f"{place.uri}/out.jsonl.theirs"
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    bucket, key = other.removeprefix("s3://").split("/", 1)
    files.call_s3("create_multipart_upload", Bucket=bucket, Key=key)

    def uploads() -> list[str]:
        found = files.call_s3("list_multipart_uploads", Bucket=bucket).get("Uploads", [])
        return sorted(f"s3://{bucket}/{each['Key']}" for each in found)

    servers.s3.seen.clear()
    script = f"from pathlib import Path; from xbatch import storage; storage.publish_to({uri!r}, Path('large'))"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env={**ENV, **place.env})
    wait_for(process, lambda: any(method == "PUT" for method, _ in servers.s3.seen))
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert uploads() == [uri, other]
    assert not storage.exists(uri)
    storage.sweep_beside(uri)
    assert uploads() == [other]
