"""Leases: one process works on a job, and the next one takes over as soon as it may."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from xbatch.errors import Interrupted, StorageError
from xbatch.state import lease as lease_module
from xbatch.state.lease import Heartbeat, Holder, Lease, read_heartbeat
from xbatch.storage import LocalStore

TERM_S = 0.6

CLAIM = """
import sys, time
from pathlib import Path
from xbatch.state.lease import Lease
from xbatch.storage import LocalStore
folder = Path(sys.argv[1])
lease = Lease(LocalStore(str(folder)), folder, term_s=60.0)
lease.claim()
print(lease.epoch, flush=True)
time.sleep(3600)
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Lease]]:
    """Makes leases over one store; all of them end with the test."""
    made: list[Lease] = []

    def one(folder: str = "here", **settings: Any) -> Lease:
        store = LocalStore(str(tmp_path / "store"))
        made.append(Lease(store, tmp_path / folder, **{"term_s": TERM_S, **settings}))
        return made[-1]

    yield one
    for each in made:
        die(each)


def die(lease: Lease) -> None:
    """Have a lease's process end, as far as others can see: no heartbeat, no lock, no word of farewell."""
    lease._ended.set()
    if lease._thread.is_alive():
        lease._thread.join()
    if lease._lock_fd is not None:
        os.close(lease._lock_fd)
        lease._lock_fd = None


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "store"))


def beat_at(store: LocalStore, worker: str, at: float, number: int = 1, state: str = "running") -> None:
    beat = Heartbeat(worker, "elsewhere", 4321, number, at, state)
    store.put(f"workers/{worker}.json", msgspec.json.encode(beat))


def hold(store: LocalStore, *, at: float, beaten: float | None = None, epoch: int = 1, state: str = "running") -> None:
    """Have a process of another host hold the job: since when, and with its last heartbeat when, by its own clock."""
    holder = Holder(f"w{epoch}", "elsewhere", "boot", "1:1", 4321, TERM_S, at)
    store.put(f"lease/{epoch:06d}.json", msgspec.json.encode(holder))
    if beaten is not None:
        beat_at(store, f"w{epoch}", beaten, state=state)


def test_fresh_store(make: Callable[..., Lease], store: LocalStore) -> None:
    """The first process gets the first lease and shows its signs of life, with what it is at."""
    lease = make(look=lambda: ("loading", {"rows": 7}))
    began = time.time()
    lease.claim()
    assert lease.epoch == 1
    lease.check()
    [name] = store.names("workers")
    worker = name.removesuffix(".json")
    first = read_heartbeat(store, worker)
    assert first is not None
    assert (first.state, first.progress, first.pid) == ("loading", {"rows": 7}, os.getpid())
    assert began <= first.at <= time.time()
    time.sleep(TERM_S / 2)
    later = read_heartbeat(store, worker)
    assert later is not None
    assert later.number >= first.number + 2
    assert later.at > first.at


def test_second_process_on_this_host(make: Callable[..., Lease], store: LocalStore) -> None:
    """While the holder lives, another process on its host is turned away at once, and told who holds the job."""
    make().claim()
    began_s = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        make().claim()
    assert time.monotonic() - began_s < TERM_S / 3
    [name] = store.names("workers")
    beat = read_heartbeat(store, name.removesuffix(".json"))
    assert beat is not None
    for part in (f"process {os.getpid()}", beat.host, "0 s ago", store.uri):
        assert part in str(caught.value)
    assert store.names("lease") == ["000001.json"]


def test_next_process_on_this_host(make: Callable[..., Lease], store: LocalStore) -> None:
    """Once the holder is dead, the next process on its host goes on at once, however fresh the heartbeat is."""
    for epoch in range(1, 5):
        lease = make(term_s=60.0)
        began_s = time.monotonic()
        lease.claim()
        assert time.monotonic() - began_s < 5
        assert lease.epoch == epoch
        assert len(store.names("workers")) == 1
        die(lease)
    assert store.names("lease") == ["000003.json", "000004.json"]


def test_a_killed_process(tmp_path: Path) -> None:
    """The lock of a process that is killed is free at once, and not before."""
    with subprocess.Popen([sys.executable, "-c", CLAIM, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "1\n"
            lease = Lease(LocalStore(str(tmp_path)), tmp_path)
            with pytest.raises(Interrupted, match=f"process {process.pid} on "):
                lease.claim()
            process.send_signal(signal.SIGSTOP)
            with pytest.raises(Interrupted, match=f"process {process.pid} on "):
                lease.claim()
        finally:
            process.kill()
    lease.claim()
    assert lease.epoch == 2
    lease.release()
    die(lease)


def test_released(make: Callable[..., Lease]) -> None:
    """A holder that lets go lets others go on at once, on its own host and on any other, though it lives on."""
    first = make(term_s=60.0)
    first.claim()
    first.release()
    first.release()
    second = make(term_s=60.0)
    second.claim()
    assert second.epoch == 2


def test_refused_process_can_try_again(make: Callable[..., Lease], store: LocalStore) -> None:
    """A process that was turned away keeps nothing, and gets the job when it asks after the holder's end."""
    hold(store, at=time.time(), beaten=time.time())
    lease = make()
    for _ in range(2):
        with pytest.raises(Interrupted, match="process 4321 on elsewhere"):
            lease.claim()
    beat_at(store, "w1", time.time(), state="gone")
    lease.claim()
    assert lease.epoch == 2


def test_other_host(make: Callable[..., Lease], monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh heartbeat from another host turns a process away at once, with the other's name."""
    monkeypatch.setenv("XBATCH_HOST", "north")
    make().claim()
    monkeypatch.setenv("XBATCH_HOST", "south")
    began_s = time.monotonic()
    with pytest.raises(Interrupted, match=rf"process {os.getpid()} on north .*\b0 s ago"):
        make("there").claim()
    assert time.monotonic() - began_s < TERM_S / 3


def test_other_host_has_gone(make: Callable[..., Lease], monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder on another host that has said farewell is followed at once."""
    monkeypatch.setenv("XBATCH_HOST", "north")
    first = make(term_s=60.0)
    first.claim()
    first.release()
    monkeypatch.setenv("XBATCH_HOST", "south")
    second = make("there", term_s=60.0)
    second.claim()
    assert second.epoch == 2


@pytest.mark.parametrize("beaten", [True, False], ids=["heartbeat", "only a lease"])
def test_stale_heartbeat(make: Callable[..., Lease], store: LocalStore, beaten: bool) -> None:
    """A heartbeat that is older than the term is watched for a while, which the user is told, and the job taken."""
    at = time.time() - 2 * TERM_S
    hold(store, at=at, beaten=at if beaten else None)
    told: list[str] = []
    lease = make(tell=told.append)
    began_s = time.monotonic()
    lease.claim()
    assert time.monotonic() - began_s >= TERM_S / 2
    assert lease.epoch == 2
    [sentence] = told
    assert sentence.startswith("no heartbeat of process 4321 on elsewhere for 1 s: watching")


@pytest.mark.parametrize("hours", [-1, 1], ids=["behind", "ahead"])
def test_wrong_clock_of_a_living_holder(make: Callable[..., Lease], store: LocalStore, hours: int) -> None:
    """A holder whose clock is an hour wrong keeps the job as long as its heartbeat moves."""
    hold(store, at=time.time() + 3600 * hours, beaten=time.time() + 3600 * hours)
    ended = threading.Event()

    def live() -> None:
        number = 1
        while not ended.wait(TERM_S / 6):
            number += 1
            beat_at(store, "w1", time.time() + 3600 * hours, number)

    living = threading.Thread(target=live)
    living.start()
    try:
        with pytest.raises(Interrupted, match="process 4321 on elsewhere is running this job"):
            make().claim()
    finally:
        ended.set()
        living.join()
    assert store.names("lease") == ["000001.json"]


@pytest.mark.parametrize("hours", [-1, 1], ids=["behind", "ahead"])
def test_wrong_clock_of_a_dead_holder(make: Callable[..., Lease], store: LocalStore, hours: int) -> None:
    """A dead holder's wrong clock delays a takeover by a term at most."""
    hold(store, at=time.time() + 3600 * hours, beaten=time.time() + 3600 * hours)
    began_s = time.monotonic()
    lease = make()
    lease.claim()
    took_s = time.monotonic() - began_s
    assert TERM_S / 2 <= took_s < 2 * TERM_S
    assert lease.epoch == 2


def test_heartbeat_that_moves_while_watched(make: Callable[..., Lease], store: LocalStore) -> None:
    """A heartbeat that moves once is a living holder's, however old it looked."""
    at = time.time() - 3600
    hold(store, at=at, beaten=at)
    timer = threading.Timer(TERM_S / 4, beat_at, [store, "w1", at + 1, 2])
    timer.start()
    began_s = time.monotonic()
    with pytest.raises(Interrupted, match="process 4321 on elsewhere"):
        make().claim()
    timer.join()
    assert time.monotonic() - began_s < TERM_S


def test_restarted_host(make: Callable[..., Lease], monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of the same name whose system is another one is another machine."""
    monkeypatch.setattr(lease_module, "_boot", lambda: "before")
    first = make(term_s=60.0)
    first.claim()
    die(first)
    monkeypatch.setattr(lease_module, "_boot", lambda: "after")
    with pytest.raises(Interrupted, match=f"process {os.getpid()}"):
        make().claim()


def test_race(make: Callable[..., Lease], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several processes on several hosts that claim a free job at once, one gets it."""
    leases = []
    for number in range(6):
        monkeypatch.setenv("XBATCH_HOST", f"host-{number}")
        leases.append(make(f"host-{number}", term_s=60.0))
    start, refused = threading.Barrier(6), []

    def claim(lease: Lease) -> None:
        start.wait()
        try:
            lease.claim()
        except Interrupted:
            refused.append(lease)

    threads = [threading.Thread(target=claim, args=[lease]) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 5
    assert [lease.epoch for lease in leases if lease not in refused] == [1]


def test_taken_over(make: Callable[..., Lease], store: LocalStore) -> None:
    """A holder whose job was taken over is told so within a moment, by name of the new one, and beats no more."""
    lost: list[Interrupted] = []
    lease = make(lost=lost.append)
    lease.claim()
    hold(store, at=time.time(), epoch=2)
    with pytest.raises(Interrupted, match="process 4321 on elsewhere has taken this job over"):
        lease.check()
    end = time.monotonic() + 5
    while lease._thread.is_alive():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert "process 4321 on elsewhere has taken this job over" in str(lost[0])
    [name] = store.names("workers")
    before = store.get(f"workers/{name}")
    time.sleep(TERM_S / 3)
    assert store.get(f"workers/{name}") == before
    assert len(lost) == 1


def test_store_in_trouble(make: Callable[..., Lease], store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder whose store does not answer for a while goes on, and beats again when it does."""
    lost: list[Interrupted] = []
    lease = make(lost=lost.append)
    lease.claim()
    worker = store.names("workers")[0].removesuffix(".json")

    def fail(_: object, folder: str) -> list[str]:
        raise StorageError(f"{folder}: no answer")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "names", fail)
        time.sleep(TERM_S / 2)
    before = read_heartbeat(store, worker)
    time.sleep(TERM_S / 2)
    after = read_heartbeat(store, worker)
    assert before is not None
    assert after is not None
    assert after.number > before.number
    assert not lost


def test_damaged_lease(make: Callable[..., Lease], store: LocalStore) -> None:
    """A lease that can't be read stops the process with a sentence that names it."""
    store.put("lease/000001.json", b"{")
    with pytest.raises(StorageError, match=r"lease/000001\.json is damaged"):
        make().claim()


def test_release_before_claim(make: Callable[..., Lease], store: LocalStore) -> None:
    """Letting go of what one does not have is harmless."""
    make().release()
    assert store.names("") == []
