"""What every store promises a job's state, wherever it lies, and what a remote one bears."""

import ast
import errno
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import object_store
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from object_store import ObjectStore

from xbatch import storage
from xbatch.errors import ExitCode, StorageError, StorageUnavailable
from xbatch.storage import FsspecStore, LocalStore, Store

BUCKET = "bucket"
MANY = 1001
ODD_KEYS = (
    "a b/ c ",
    "a+b%2Fc",
    "ä/日本語/😀",
    "a/*?[x]",
    "q?versionid=1&x=#f",
    "'\"\\<>|:;,$!~@^`{}()",
    "a.b/..c",
    "UP/up",
    "tab\there",
    "x" * 255,
    ".hidden/.tmp",
)


class Ignoring(MemoryFileSystem):
    """A place that takes no notice of a condition."""

    protocol = "ignoring"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("ignoring://"))


class Unable(Ignoring):
    """A place that says that it knows no condition."""

    protocol = "unable"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if mode == "create":
            raise NotImplementedError
        super().pipe_file(path, value)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("unable://"))


@pytest.fixture(scope="module")
def s3() -> Iterator[ObjectStore]:
    with object_store.running() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.address)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir(BUCKET)
        for each in (Ignoring, Unable):
            fsspec.register_implementation(each.protocol, each, clobber=True)
        yield server


@pytest.fixture
def remote(s3: ObjectStore) -> Iterator[FsspecStore]:
    """A place on the S3 server that no other test uses, with a small budget."""
    yield FsspecStore(f"s3://{BUCKET}/{secrets.token_hex(4)}", budget_s=20)
    s3.faults.clear()
    s3.fault_method = "PUT"


KINDS = ("local", "memory", "s3", "through-fsspec", "unable")
EXCLUSIVE = ("local", "memory", "s3")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each implementation, empty. Through fsspec, a local folder stands for SFTP and others that can't do better."""
    request.getfixturevalue("s3")
    unused = secrets.token_hex(4)
    uris = {
        "local": str(tmp_path / "new" / "store"),
        "memory": f"memory://{unused}",
        "s3": f"s3://{BUCKET}/{unused}",
        "through-fsspec": f"local://{tmp_path}/store",
        "unable": f"unable://{unused}",
    }
    return storage.open_store(uris[request.param])


only_exclusive = pytest.mark.parametrize("store", EXCLUSIVE, indirect=True)


def test_put_if_absent_takes_a_free_key_only(store: Store) -> None:
    assert store.put_if_absent("a/b", b"first")
    assert not store.put_if_absent("a/b", b"second")
    assert store.get("a/b") == b"first"


def test_put_replaces(store: Store) -> None:
    store.put("a", b"longer than the other")
    store.put("a", b"other")
    assert store.get("a") == b"other"
    assert not store.put_if_absent("a", b"third")
    store.put("empty", b"")
    assert store.get("empty") == b""


def test_what_is_missing_is_none(store: Store) -> None:
    assert store.get("missing") is None
    assert store.get("missing/too") is None
    store.put("folder/a", b"1")
    assert store.get("folder") is None
    assert store.get("fold") is None


def test_names_are_the_last_parts_in_order(store: Store) -> None:
    assert store.names("") == []
    assert store.names("none") == []
    for key in ("f/b", "f/a", "f/B", "f/a0", "f/sub/x/y", "f/ä", "fa/c", "top"):
        store.put(key, b"1")
    assert store.names("f") == ["B", "a", "a0", "b", "sub", "ä"]
    assert store.names("f/sub") == ["x"]
    assert store.names("") == ["f", "fa", "top"]
    assert store.names("f/a") == []


@pytest.mark.parametrize("store", ["local", "memory", "s3"], indirect=True)
def test_many_names(store: Store) -> None:
    """More than an object store lists at once are listed, and deleted."""
    names = [f"{n:06d}" for n in range(MANY)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda name: store.put_if_absent(f"many/{name}", b"1"), names))
    assert store.names("many") == names
    store.delete_folder("many")
    assert store.names("many") == []


def test_delete(store: Store) -> None:
    store.put("f/a", b"1")
    store.put("f/b", b"2")
    for _ in range(2):
        store.delete("f/a")
        store.delete("no/such")
        assert store.get("f/a") is None
    assert store.names("f") == ["b"]
    assert store.put_if_absent("f/a", b"again")


def test_delete_folder(store: Store) -> None:
    for key in ("f/a", "f/sub/b", "f/[x]*", "fa", "f0/c"):
        store.put(key, b"1")
    for _ in range(2):
        store.delete_folder("f")
        store.delete_folder("none")
        assert store.names("f") == []
        assert store.get("f/sub/b") is None
        assert store.names("") == ["f0", "fa"]
    store.delete_folder("")
    assert store.get("fa") is None
    assert store.put_if_absent("f/a", b"again")


@pytest.mark.parametrize("key", ODD_KEYS, ids=ascii)
def test_odd_keys(store: Store, key: str) -> None:
    """A key is what it is, whatever patterns, versions or addresses its characters look like elsewhere."""
    folder, _, name = f"odd/{key}".rpartition("/")
    store.put("odd/other", b"0")
    assert store.put_if_absent(f"odd/{key}", b"1")
    assert not store.put_if_absent(f"odd/{key}", b"2")
    store.put(f"odd/{key}", b"3")
    assert store.get(f"odd/{key}") == b"3"
    assert name in store.names(folder)
    store.delete(f"odd/{key}")
    assert store.get(f"odd/{key}") is None
    assert store.names("odd")[-1] == "other" or store.get("odd/other") == b"0"


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", ".", "a/../b", "a\0b", "a/.x.0123456789ab.tmp"], ids=ascii)
def test_impossible_keys(store: Store, key: str) -> None:
    with pytest.raises(StorageError, match="can't be the key"):
        store.put_if_absent(key, b"1")
    with pytest.raises(StorageError, match="can't be the key"):
        store.get(key)


@pytest.mark.parametrize("size", [1, 10 << 20], ids=str)
def test_sizes(store: Store, size: int) -> None:
    data = secrets.token_bytes(size)
    assert store.put_if_absent("a", data)
    store.put("b", data)
    assert store.get("a") == store.get("b") == data


def test_bodies_that_not_every_store_puts_exclusively(store: Store) -> None:
    for body in (b"", bytes(storage.MAX_BODY_BYTES)):
        with pytest.raises(StorageError, match="a: "):
            store.put_if_absent("a", body)
    assert store.get("a") is None


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@only_exclusive
@pytest.mark.usefixtures("restless")
def test_exactly_one_wins(store: Store) -> None:
    """Of many who put under one key at once exactly one is told that it did, and its content is what lies there."""
    racers = 8
    barrier = threading.Barrier(racers)

    def race(n: int, key: str) -> bool:
        barrier.wait()
        return store.put_if_absent(key, b"racer %d" % n)

    with ThreadPoolExecutor(racers) as pool:
        for number in range(15):
            key = f"race/{number}"
            won = list(pool.map(race, range(racers), [key] * racers))
            assert won.count(True) == 1
            assert store.get(key) == b"racer %d" % won.index(True)
    assert len(store.names("race")) == 15


@only_exclusive
def test_readers_never_see_half(store: Store) -> None:
    bodies = [bytes([n]) * (1 << 18) for n in range(4)]
    store.put("a", bodies[0])
    seen: set[bytes] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(store.get("a") or b"")

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for body in bodies * 5:
            store.put("a", body)
        stop.set()
        for reader in readers:
            reader.result()
    assert seen <= set(bodies)


def test_the_probe_tells_the_truth_and_leaves_nothing(store: Store, request: pytest.FixtureRequest) -> None:
    assert storage.is_exclusive(store) == (request.node.callspec.params["store"] in EXCLUSIVE)
    assert store.names("") == []


@pytest.mark.usefixtures("s3")
def test_the_probe_sees_through_a_store_that_ignores_the_condition() -> None:
    store = storage.open_store(f"ignoring://{secrets.token_hex(4)}")
    assert not storage.is_exclusive(store)
    assert store.names("") == []


@pytest.mark.usefixtures("s3")
def test_one_process_after_the_other_shares_a_store() -> None:
    """What one store object has put, another sees at once: nothing is remembered of listings."""
    uri = f"s3://{BUCKET}/{secrets.token_hex(4)}"
    one, two = storage.open_store(uri), storage.open_store(uri)
    for number in range(3):
        assert two.names("a") == [str(n) for n in range(number)]
        one.put(f"a/{number}", b"1")


def test_unknown_places(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nosuch://x"):
        storage.open_store("nosuch://x")
    assert isinstance(storage.open_store(f"file://{tmp_path}"), LocalStore)


# What a remote store bears.


@pytest.mark.parametrize("fault", ["drop-after", "drop-before"])
def test_a_lost_answer_is_not_a_lost_race(remote: FsspecStore, s3: ObjectStore, fault: str) -> None:
    s3.faults[:] = [fault]
    assert remote.put_if_absent("a", b"mine")
    assert s3.faults == []
    assert remote.get("a") == b"mine"
    assert not remote.put_if_absent("a", b"another")


def test_a_lost_answer_to_a_lost_race(remote: FsspecStore, s3: ObjectStore) -> None:
    remote.put("a", b"another")
    s3.faults[:] = ["drop-after"]
    assert not remote.put_if_absent("a", b"mine")


def test_a_refusal_counts_by_its_status(remote: FsspecStore, s3: ObjectStore) -> None:
    """Not every server says which condition failed."""
    remote.put("a", b"another")
    s3.faults[:] = ["unnamed-412"]
    assert not remote.put_if_absent("a", b"mine")


@pytest.mark.parametrize("fault", ["slow-down", "conflict", "expired", "forbidden"])
def test_three_faults_then_fine(remote: FsspecStore, s3: ObjectStore, fault: str) -> None:
    s3.faults[:] = [fault] * 3
    assert remote.put_if_absent("a", b"mine")
    s3.faults[:] = [fault]
    remote.put("b", b"mine")
    s3.fault_method, s3.faults[:] = "GET", [fault]
    assert remote.get("a") == b"mine"
    s3.faults[:] = [fault]
    assert remote.names("") == ["a", "b"]
    s3.fault_method, s3.faults[:] = "DELETE", [fault]
    remote.delete("a")
    assert s3.faults == []


def test_an_endpoint_that_comes_back(remote: FsspecStore, s3: ObjectStore) -> None:
    remote.put("a", b"1")
    s3.stop()
    back = threading.Timer(2, s3.start)
    back.start()
    began = time.monotonic()
    assert remote.put_if_absent("b", b"2")
    assert time.monotonic() - began > 1.5
    back.join()
    assert remote.names("") == ["a", "b"]


@pytest.mark.parametrize("fault", ["forbidden", "expired", "bad"])
def test_what_waiting_does_not_mend_ends_promptly(remote: FsspecStore, s3: ObjectStore, fault: str) -> None:
    s3.faults[:] = [fault] * 50
    began = time.monotonic()
    with pytest.raises(StorageError, match=f"{remote.uri}/a: as told") as raised:
        remote.put_if_absent("a", b"1")
    assert not isinstance(raised.value, StorageUnavailable)
    assert raised.value.exit_code == ExitCode.STORAGE
    assert time.monotonic() - began < 10


@pytest.mark.usefixtures("s3")
def test_no_such_bucket() -> None:
    store = storage.open_store("s3://no-such-bucket/x")
    with pytest.raises(StorageError, match="s3://no-such-bucket/x/a: "):
        store.put("a", b"1")


def test_a_budget_that_is_used_up(s3: ObjectStore, remote: FsspecStore) -> None:
    store = FsspecStore(remote.uri, budget_s=1)
    s3.faults[:] = ["slow-down"] * 500
    began = time.monotonic()
    with pytest.raises(StorageUnavailable, match=f"{remote.uri}/a: no answer within 1 s .*, last as told") as raised:
        store.put("a", b"1")
    assert raised.value.exit_code == ExitCode.INTERRUPTED
    assert time.monotonic() - began < 5


def test_an_endpoint_that_stays_away(remote: FsspecStore, s3: ObjectStore) -> None:
    store = FsspecStore(remote.uri, budget_s=1)
    s3.stop()
    try:
        with pytest.raises(StorageUnavailable):
            store.get("a")
    finally:
        s3.start()


# What the local store does in places that tests can't make, and after a kill.


def test_without_hard_links_a_rename_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", link)
    store = LocalStore(str(tmp_path / "store"))
    assert store.put_if_absent("a/b", b"first")
    assert not store.put_if_absent("a/b", b"second")
    assert store.get("a/b") == b"first"
    assert os.listdir(tmp_path / "store" / "a") == ["b"]


def test_a_link_that_is_reported_as_taken_after_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS does so when an answer was lost."""
    link = os.link

    def lossy(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "taken")

    monkeypatch.setattr(os, "link", lossy)
    assert storage.put_if_absent(tmp_path / "a", b"mine")


def test_local_trouble_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = LocalStore(str(tmp_path / "file"))
    with pytest.raises(StorageError, match=f"{tmp_path}/file/a: "):
        store.put("a", b"1")


def test_folders_are_synced_into_their_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    sync = storage.sync_folder
    monkeypatch.setattr("xbatch.storage.local.sync_folder", lambda folder: (synced.append(folder), sync(folder)))
    storage.put_if_absent(tmp_path / "a" / "b" / "c", b"1")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


HALF = "put-half"


@pytest.mark.parametrize("put", ["put", "put_if_absent"])
@pytest.mark.parametrize(("point", "there"), [(HALF, False), ("put-written", False), ("put-linked", True)])
def test_killed_while_publishing(tmp_path: Path, point: str, there: bool, put: str) -> None:
    """A kill leaves the whole object or none, and what it leaves besides is swept and never listed."""
    script = f"from xbatch.storage import LocalStore; LocalStore({str(tmp_path)!r}).{put}('f/a', b'0123456789')"
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | {"XBATCH_CRASH": point}, check=False)
    assert done.returncode == -signal.SIGKILL
    store = LocalStore(str(tmp_path))
    assert store.get("f/a") == (b"0123456789" if there else None)
    assert store.names("f") == (["a"] if there else [])
    left = {name: (tmp_path / "f" / name).read_bytes() for name in os.listdir(tmp_path / "f") if name != "a"}
    assert list(left.values()) == ([b"01234"] if point == HALF else [b"0123456789"] if left else [])
    assert store.sweep(older_than_s=3600) == 0
    assert store.sweep() == len(left)
    assert os.listdir(tmp_path / "f") == store.names("f")
    assert store.put_if_absent("f/a", b"new") == (not there)


def test_nothing_is_written_in_place_through_fsspec() -> None:
    """No file system's `open` is asked to write: an error on the way would publish what was written so far."""
    wrong = []
    for path in sorted(Path(storage.__file__).parent.parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "open":
                modes = [*node.args, *(k.value for k in node.keywords if k.arg == "mode")]
                words = [m.value for m in modes if isinstance(m, ast.Constant) and isinstance(m.value, str)]
                if any(set(word) <= set("rwabxt+") and set(word) & set("wax+") for word in words):
                    wrong.append(f"{path}:{node.lineno}")
    assert not wrong
