"""A job whose state lies in an object store: the same protocol, with only the log on this machine."""

import glob
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import object_store
import pytest
from object_store import ObjectStore
from test_cli_run import ENV, SLOW, chat, command, ids, wait_for, write

BUCKET = "jobs"


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store.running() as served:
        urllib.request.urlopen(urllib.request.Request(f"{served.address}/{BUCKET}", method="PUT")).close()
        yield served


class Machine:
    """One machine with its own disk: runs commands on jobs whose state all machines share."""

    def __init__(self, name: str, folder: Path, store: ObjectStore) -> None:
        self.folder = folder
        self.state = f"s3://{BUCKET}/{folder.name}"
        own = {"XDG_STATE_HOME": str(folder / name), "XBATCH_HOST": name, "XBATCH_LEASE_S": "2"}
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": store.address}
        self.env = {**ENV, **own, **keys}

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        pipe: Any = subprocess.PIPE
        whole = command("in.jsonl", "--state", self.state, *words)
        return subprocess.Popen(whole, cwd=self.folder, env=self.env, stdout=pipe, stderr=pipe)

    def run(self, *words: str) -> tuple[int, bytes]:
        process = self.start(*words)
        _, told = process.communicate(timeout=120)
        return process.returncode, told


@pytest.fixture
def machines(tmp_path: Path, store: ObjectStore) -> tuple[Machine, Machine]:
    write(tmp_path / "in.jsonl", [chat(i) for i in range(300)])
    return Machine("one", tmp_path, store), Machine("two", tmp_path, store)


def has_logged(folder: Path) -> bool:
    """Rows stand in the log of a machine."""
    logs = glob.glob(f"{folder}/**/*.wal", recursive=True)  # noqa: PTH207 - a folder may vanish meanwhile
    return any(b'"custom_id"' in Path(log).read_bytes() for log in logs)


def rows_asked(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if line != "start"]


def test_kill_and_resume(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    """Killed and run again on the same machine, no finished row is asked again, though no segment was sealed."""
    one, _ = machines
    log = ("--engine-arg", f"log={tmp_path / 'log'}")
    process = one.start(*SLOW, *log)
    wait_for(process, lambda: has_logged(tmp_path / "one"))
    process.kill()
    process.communicate()
    assert one.run(*log)[0] == 0
    assert ids(tmp_path / "in.responses.jsonl") == [f"id-{i}" for i in range(300)]
    rows = rows_asked(tmp_path / "log")
    assert len(set(rows)) == 300
    assert len(rows) <= 300 + 4
    assert not list((tmp_path / "one").rglob("*.wal"))
    code, told = one.run(*log)
    assert code == 0
    assert b"already complete" in told
    assert not (tmp_path / "in.responses.jsonl.xbatch").exists()


def test_another_machine_goes_on(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    """When a machine is lost with its disk, another one goes on from the last segments once the lease has run out."""
    one, two = machines
    log = ("--engine-arg", f"log={tmp_path / 'log'}")
    crawling = ("--engine-arg", "delay_s=0.8", "--engine-arg", "max_in_flight=4")  # a minute, were it not killed
    process = one.start(*crawling, *log, "--commit-interval-s", "0.5")
    wait_for(process, lambda: has_logged(tmp_path / "one"))
    time.sleep(1.5)
    code, told = two.run()
    assert code == 75
    assert b"on one is running this job" in told
    process.kill()
    process.communicate()
    time.sleep(2)
    code, told = two.run(*log)
    assert code == 0, told
    assert b"going on: " in told
    assert ids(tmp_path / "in.responses.jsonl") == [f"id-{i}" for i in range(300)]
    rows = rows_asked(tmp_path / "log")
    assert len(rows) < 300 + 150
    assert len(set(rows)) == 300


def test_store_that_goes_away(machines: tuple[Machine, Machine], tmp_path: Path, store: ObjectStore) -> None:
    """A short outage is waited out; one that is too long ends in exit code 75, and nothing finished is asked again."""
    one, _ = machines
    log = ("--engine-arg", f"log={tmp_path / 'log'}", "--commit-interval-s", "0.5")
    process = one.start(*SLOW, *log, "--storage-timeout", "20s")
    wait_for(process, lambda: has_logged(tmp_path / "one"))
    store.stop()
    time.sleep(2)
    store.start()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    (tmp_path / "in.jsonl").write_bytes((tmp_path / "in.jsonl").read_bytes().replace(b"id-", b"new-"))
    process = one.start(*SLOW, *log, "--storage-timeout", "2s", "--restart")
    wait_for(process, lambda: has_logged(tmp_path / "one"))
    store.stop()
    _, told = process.communicate(timeout=60)
    store.start()
    assert process.returncode == 75, told
    assert b"no answer within 2 s" in told
    assert one.run(*log)[0] == 0
    assert ids(tmp_path / "in.responses.jsonl") == [f"new-{i}" for i in range(300)]
    assert len(rows_asked(tmp_path / "log")) <= 2 * (300 + 4)
