"""Jobs in one process, each with stores, credentials and patience of its own."""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import object_store
import pytest
import s3fs
from object_store import ObjectStore
from test_cli_run import chat

from xbatch import storage
from xbatch.assemble.job import Job
from xbatch.assemble.watching import Watcher
from xbatch.errors import StorageUnavailable
from xbatch.job.spec import JobSpec
from xbatch.run import Stop
from xbatch.storage import StorageSettings
from xbatch.storage.filesystems import open_fs
from xbatch.threads import Executor, Thread, Timer

ROWS = 20
TIMES = 5


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[ObjectStore, ObjectStore]]:
    """Two servers, each with a folder of its own below one bucket; nothing in the environment leads to either."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    (tmp_path / "home/xbatch").mkdir(parents=True)
    with object_store.running() as one, object_store.running() as other:
        fs = _own(one)
        if not fs.exists("data"):  # what moto holds is of the process, not of a server
            fs.mkdir("data")
        for number in (0, 1):
            rows = [chat(number * 1000 + i) for i in range(ROWS)]
            fs.pipe_file(f"data/{number}/in/a.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        for store in (one, other):
            store.keys.clear()
            store.seen.clear()
        yield one, other
        fs.rm("data", recursive=True)


def _saw_its_own(two: tuple[ObjectStore, ObjectStore]) -> None:
    for which, store in enumerate(two):
        assert set(store.keys) == {f"KEY{which}"}
        assert {path.removeprefix("/data").strip("/")[:1] for _, path in store.seen} <= {"", str(which)}


def _ids(fs: s3fs.S3FileSystem, path: str) -> list[str]:
    return [json.loads(line)["custom_id"] for line in fs.cat_file(path).splitlines()]


def _expected(which: int) -> list[str]:
    return [f"id-{which * 1000 + i}" for i in range(ROWS)]


def _own(store: ObjectStore) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(
        key="setup", secret="b", endpoint_url=store.address, skip_instance_cache=True, use_listings_cache=False
    )


def _spec(store: ObjectStore, key: str, **fields: Any) -> JobSpec:
    options = {"client_kwargs.endpoint_url": store.address, "key": key, "secret": "secret"}
    options |= {"client_kwargs.region_name": "us-east-1"}
    more = {"engine": {"name": "fake"}, "model": "m", "storage_options": options, "storage_timeout": "30s"}
    return JobSpec(**{**more, **fields})


def _job(two: tuple[ObjectStore, ObjectStore], which: int, scratch: Path, name: str = "out") -> Job:
    scratch.mkdir(parents=True)
    places = {"inputs": [f"s3://data/{which}/in/a.jsonl"], "output": f"s3://data/{which}/{name}.jsonl"}
    return Job(_spec(two[which], f"KEY{which}", **places), scratch, Stop(1), lambda _: None)


def _answer(job: Job) -> None:
    try:
        report = asyncio.run(job.run())
    finally:
        job.close()
    assert report["request_counts"]["completed"] == ROWS


def test_two_jobs_at_once_see_their_own_stores_only(two: tuple[ObjectStore, ObjectStore], tmp_path: Path) -> None:
    """Jobs in threads of one process, whose stores bear the same names, never ask each other's, or with its key."""
    together = threading.Barrier(2)

    def run(which: int) -> None:
        for number in range(TIMES):
            together.wait(60)
            _answer(_job(two, which, tmp_path / f"{which}-{number}", f"out-{number}"))

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(run, which) for which in (0, 1)]:
            done.result()
    _saw_its_own(two)
    for which, number in itertools.product((0, 1), range(TIMES)):
        assert _ids(_own(two[0]), f"data/{which}/out-{number}.jsonl") == _expected(which)


def test_two_jobs_that_take_turns_in_one_thread(two: tuple[ObjectStore, ObjectStore], tmp_path: Path) -> None:
    """A job that was made last has not taken over the stores of one that was made before, in one event loop even."""

    async def both() -> None:
        jobs = [_job(two, which, tmp_path / f"{which}") for which in (0, 1)]
        await asyncio.gather(*(job.run() for job in jobs))
        for job in jobs:
            job.close()

    before = storage.current_settings()
    asyncio.run(both())
    assert storage.current_settings() is before
    _saw_its_own(two)
    for which in (0, 1):
        assert _ids(_own(two[0]), f"data/{which}/out.jsonl") == _expected(which)


def test_opening_while_another_sets() -> None:
    """However the options of others change meanwhile, a file system is opened with its own, whole."""
    opened = threading.Barrier(4)

    def work(number: int) -> None:
        opened.wait(60)
        for i in range(200):
            given = {f"option_{number}_{each}": number * 1000 + i for each in range(8)}
            with storage.using(StorageSettings(given)):
                fs, _ = open_fs("memory://x", storage.current_settings(), fresh=True)
                seen = {name: value for name, value in fs.storage_options.items() if name.startswith("option_")}
                assert seen == given

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, number) for number in range(4)]:
            done.result()


def test_what_is_made_keeps_its_settings(two: tuple[ObjectStore, ObjectStore]) -> None:
    """A store and an open file go on with the options under which they were made, credentials that are renewed too."""
    settings = [
        StorageSettings(storage.parse_options(_spec(store, f"KEY{i}", inputs=["a"]).storage_options), 20)
        for i, store in enumerate(two)
    ]
    with storage.using(settings[0]):
        made = storage.FsspecStore("s3://data/0/state")
        file = storage.open_read("s3://data/0/in/a.jsonl")
    with storage.using(settings[1]):
        made.put("a", b"1")
        two[0].faults[:] = ["expired"]
        made.put("a", b"2")
        with closing(file):
            two[0].fault_method, two[0].faults[:] = "GET", ["expired"]
            assert b'"id-0"' in file.read()
        assert not two[0].faults
        assert storage.size_of("s3://data/1/state/a") is None
    _saw_its_own(two)


def test_patience_is_of_one_job_alone() -> None:
    """Who waits for long does not make others wait, nor is hurried by them."""
    begun, ended = threading.Event(), threading.Event()

    def patient() -> None:
        with storage.using(StorageSettings(budget_s=600)):
            begun.set()
            ended.wait(60)
            assert storage.current_settings().budget_s == 600

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(patient)
        begun.wait(60)
        with storage.using(StorageSettings(budget_s=0.1)):
            asked_at = time.monotonic()
            with pytest.raises(StorageUnavailable, match=r"within 0\.1 s"):
                storage.stat("http://127.0.0.1:9/x")
            assert time.monotonic() - asked_at < 60
        ended.set()
        waiting.result()


def _in_thread(look: Callable[[], None]) -> None:
    thread = Thread(target=look)
    with storage.using(StorageSettings()):
        made = Thread(target=look)  # where a thread is made does not matter
    thread.start()
    made.start()
    thread.join()
    made.join()


def _in_timer(look: Callable[[], None]) -> None:
    timer = Timer(0, look)
    timer.start()
    timer.join()


def _in_pool(look: Callable[[], None]) -> None:
    with Executor(1) as pool:
        with storage.using(StorageSettings()):
            pool.submit(lambda: None).result()  # the pool's thread was started by somebody else
        pool.submit(look).result()
        list(pool.map(lambda _: look(), range(2)))


async def _in_default_pool(look: Callable[[], None]) -> None:
    await asyncio.to_thread(look)


@pytest.mark.parametrize("start", [_in_thread, _in_timer, _in_pool, lambda look: asyncio.run(_in_default_pool(look))])
def test_threads_work_for_who_started_them(start: Callable[[Callable[[], None]], None]) -> None:
    """Every way to start a thread takes along how the starter's stores are reached."""
    seen = []
    settings = StorageSettings(budget_s=1.5)
    with storage.using(settings):
        start(lambda: seen.append(storage.current_settings()))
    assert seen
    assert all(each is settings for each in seen)


def test_watch_reaches_its_prefix_from_the_beginning(two: tuple[ObjectStore, ObjectStore], tmp_path: Path) -> None:
    """A watcher has the options of its stores before it has made any job."""
    spec = _spec(two[0], "KEY0", inputs=["s3://data/0/in/"], output="s3://data/0/out/")

    async def watch() -> None:
        watcher = Watcher(spec, tmp_path, lambda _: None, lambda _: None, settle_s=0)
        try:
            await watcher.watch(0.1, once=True)
        finally:
            watcher.close()

    asyncio.run(watch())
    assert set(two[0].keys) == {"KEY0"}
    assert not two[1].keys
    assert _ids(_own(two[0]), "data/0/out/a.responses.jsonl") == _expected(0)


def test_first_jobs_of_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that begin at once look whether they may write, and none takes away the folder in which another looks."""
    mkdir, removed = Path.mkdir, []

    def with_another(self: Path, *given: Any, **how: Any) -> None:
        if self.name == "job" and not removed:
            removed.append(self.parent)
            self.parent.rmdir()
        mkdir(self, *given, **how)

    monkeypatch.setattr(Path, "mkdir", with_another)
    storage.check_writable(tmp_path / "home/job/lock")
    assert removed == [tmp_path / "home"]
