"""Leases: who may work on a job, and how others learn that it has died.

A lease saves work and nothing else: that no row is kept twice follows from how segments are numbered. `lease/<epoch>`
is put if absent, so of several processes one gets the next epoch; the highest one holds the job. Its holder writes a
heartbeat, `workers/<worker>.json`, several times a term.
"""

import contextlib
import fcntl
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from xbatch import crash, storage
from xbatch.errors import Interrupted, StorageError
from xbatch.storage import Store
from xbatch.threads import Thread

TERM_S = 60.0
"""After so long without a heartbeat another machine may take a job over."""
BEATS_A_TERM = 6
_LEASE = re.compile(r"\d{6,}\.json")
_FAREWELL_S = 1.0
"""A store that hangs holds nobody up who leaves."""
_BEHIND_S = 5.0
"""Clocks of machines may differ by this much before the age of a heartbeat is not believed."""


class Holder(msgspec.Struct, frozen=True):
    """`lease/<epoch>.json`: who took the job, and when."""

    worker: str
    host: str
    boot: str
    """The host's running system, so that a restarted machine or another one of the same name is not taken for it."""
    lock: str
    """The lock file that the process holds on its host."""
    pid: int
    term_s: float
    at: float
    """Seconds since 1970 by the holder's clock."""


class Heartbeat(msgspec.Struct, frozen=True):
    """`workers/<worker>.json`: a sign of life, and how far the work has come."""

    worker: str
    host: str
    pid: int
    number: int
    at: float
    state: str
    """What the worker does (`loading`, `running`, ...), or `gone`."""
    progress: dict[str, Any] = {}


class Lease:
    """This process's right to work on a job.

    `folder` is on this machine; a lock in it tells whether an earlier holder on this machine lives. `lost` is called
    from another thread once another process has taken the job over; `look` gives state and progress for heartbeats.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        *,
        term_s: float = TERM_S,
        look: Callable[[], tuple[str, dict[str, Any]]] = lambda: ("running", {}),
        lost: Callable[[Interrupted], None] = lambda _: None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.epoch = 0
        self._store = store
        self._folder = folder
        self._term_s = term_s
        self._look = look
        self._lost = lost
        self._tell = tell
        self._worker = uuid.uuid4().hex[:12]
        self._host = this_host()
        self._beats = 0
        self._lock_fd: int | None = None
        self._ended = threading.Event()
        self._thread = Thread(target=self._live, name="lease", daemon=True)

    def claim(self) -> None:
        """Take the job, at once if its last holder is known to be dead.

        Raises Interrupted, naming the holder, if it lives.
        """
        self._lock()
        try:
            self._take()
        except BaseException:
            self._unlock()
            raise
        crash.here("lease-taken")
        self._tidy()
        self._beat()
        self._thread.start()

    def _take(self) -> None:
        while True:
            epoch, holder = newest(self._store)
            if holder is not None:
                self._judge(holder)
            data = msgspec.json.encode(self._me())
            if self._store.put_if_absent(_key(epoch + 1), data):
                break
        self.epoch = epoch + 1

    def _unlock(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def check(self) -> None:
        """Raise Interrupted if another process has taken the job over."""
        epoch, holder = newest(self._store)
        if epoch > self.epoch and holder is not None:
            raise Interrupted(f"process {holder.pid} on {holder.host} has taken this job over ({self._store.uri})")

    def release(self, *, forget: bool = False) -> None:
        """Let others take the job at once; `forget` if nothing was begun and nobody need know."""
        if self.epoch and not self._ended.is_set():
            self._ended.set()
            farewell = Thread(target=self._farewell, args=[forget], daemon=True)
            farewell.start()
            farewell.join(_FAREWELL_S)
            self._unlock()

    def _farewell(self, forget: bool) -> None:  # noqa: FBT001 - a thread's argument
        if self._thread.is_alive():
            self._thread.join()
        if not forget:
            with contextlib.suppress(StorageError):
                self._beat("gone")

    def _lock(self) -> None:
        path = self._folder / f"lock-{self._host}"
        with storage.translated(str(path)):
            storage.make_folder(self._folder)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                _, holder = newest(self._store)
                who = self._named(holder) if holder else "another process on this host is about to run this job"
                raise Interrupted(f"{who} ({self._store.uri})") from None
        self._lock_fd = fd

    def _me(self) -> Holder:
        assert self._lock_fd is not None
        found = os.fstat(self._lock_fd)
        lock = f"{found.st_dev}:{found.st_ino}"
        return Holder(self._worker, self._host, _boot(), lock, os.getpid(), self._term_s, time.time())

    def _judge(self, holder: Holder) -> None:
        """Return if a holder is dead, else raise Interrupted."""
        me = self._me()
        if (holder.host, holder.boot, holder.lock) == (me.host, me.boot, me.lock):
            return  # it would hold the lock
        first = read_heartbeat(self._store, holder.worker)
        if first is not None and first.state == "gone":
            return
        age_s = time.time() - (first.at if first else holder.at)
        if -_BEHIND_S <= age_s < holder.term_s:
            raise Interrupted(f"{self._named(holder)} ({self._store.uri})")
        # Clocks may be wrong, so only a heartbeat that this process has seen standing still is a dead one's.
        watch_s = holder.term_s / 2 if age_s >= holder.term_s else holder.term_s
        self._tell(f"no heartbeat of process {holder.pid} on {holder.host} for {age_s:.0f} s: watching {watch_s:.0f} s")
        until = time.monotonic() + watch_s
        while time.monotonic() < until:
            time.sleep(min(holder.term_s / 20, 1.0))
            if read_heartbeat(self._store, holder.worker) != first:
                raise Interrupted(f"{self._named(holder)} ({self._store.uri})")

    def _named(self, holder: Holder) -> str:
        beat = read_heartbeat(self._store, holder.worker)
        age_s = max(time.time() - (beat.at if beat else holder.at), 0)
        return f"process {holder.pid} on {holder.host} is running this job (its last heartbeat was {age_s:.0f} s ago)"

    def _tidy(self) -> None:
        """Remove what earlier holders have left, but for the last one's lease, which numbers the next."""
        for name in self._store.names("workers"):
            self._store.delete(f"workers/{name}")
        for name in self._store.names("lease")[:-2]:
            self._store.delete(f"lease/{name}")

    def _live(self) -> None:
        while not self._ended.wait(self._term_s / BEATS_A_TERM):
            try:
                self.check()
                self._beat()
            except Interrupted as e:
                self._lost(e)
                return
            except StorageError:
                continue  # nobody may see it beat, and so take over; the journal will tell what is wrong

    def _beat(self, state: str | None = None) -> None:
        now, progress = self._look()
        self._beats += 1
        beat = Heartbeat(self._worker, self._host, os.getpid(), self._beats, time.time(), state or now, progress)
        self._store.put(f"workers/{self._worker}.json", msgspec.json.encode(beat))


def newest(store: Store) -> tuple[int, Holder | None]:
    """The highest epoch, 0 if there is none, and who holds it.

    Raises StorageError if its lease is damaged.
    """
    names = [name for name in store.names("lease") if _LEASE.fullmatch(name)]
    if not names:
        return 0, None
    epoch = int(names[-1].removesuffix(".json"))
    if (data := store.get(_key(epoch))) is None:
        return epoch, None
    try:
        return epoch, msgspec.json.decode(data, type=Holder)
    except msgspec.MsgspecError as e:
        raise StorageError(f"{store.uri}/{_key(epoch)} is damaged: {e}") from e


def this_host() -> str:
    """How this machine is called; XBATCH_HOST says so where the system's own name is not unique."""
    return os.environ.get("XBATCH_HOST") or socket.gethostname()


def read_heartbeat(store: Store, worker: str) -> Heartbeat | None:
    """The last sign of life of a worker, None if there is none that can be read."""
    data = store.get(f"workers/{worker}.json")
    try:
        return None if data is None else msgspec.json.decode(data, type=Heartbeat)
    except msgspec.MsgspecError:
        return None


def _key(epoch: int) -> str:
    return f"lease/{epoch:06d}.json"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
