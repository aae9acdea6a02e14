"""The journal: what is settled stays settled, once, whatever happens in between."""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from xbatch.errors import Interrupted, StorageError, StorageUnavailable, XbatchError
from xbatch.rows.outcome import Usage
from xbatch.rows.shard import Shard
from xbatch.state import journal as journal_module
from xbatch.state import segments, wal
from xbatch.state.journal import Journal, old_logs
from xbatch.state.layer import Done, Layer
from xbatch.state.records import Counts, Kind, Record
from xbatch.state.shard_log import ShardLog, Strikes
from xbatch.state.wal import Submission
from xbatch.storage import LocalStore, Store

JOB = "job-1"
HEADER = {"job": JOB, "shard": "00000000"}
SHARD = Shard(0, 0, 0, 1, 0, 4, 100)
SECOND = Shard(1, 0, 100, 5, 4, 3, 100)
WIDE = Shard(0, 0, 0, 1, 0, 1000, 100)
EPOCHS = count(10)
"""Every process has a lease of its own."""


def record(index: int, text: str = "") -> Record:
    kind = (Kind.COMPLETED, Kind.FAILED, Kind.COMPLETED, Kind.RETRYABLE)[index % 4]
    return Record(index, kind, Usage(index, 2 * index), b'{"row":%d%b}' % (index, text.encode()))


def layer(folder: Path, store: Store | None = None) -> Layer:
    return Layer(store or LocalStore(str(folder)), folder, "", JOB, next(EPOCHS))


def opened(folder: Path, *shards: Shard, store: Store | None = None, **settings: object) -> Journal:
    """What the next process finds: a journal under a new lease, read back."""
    journal = Journal(layer(folder, store), **settings)  # type: ignore[arg-type]
    journal.resume(shards)
    return journal


def settle(folder: Path, shard: Shard, *indexes: int) -> None:
    journal = opened(folder, shard)
    for index in indexes:
        journal.append(shard, record(index))
    journal.close()


def sealed_in(store: Store, shard: Shard = SHARD) -> list[dict[int, bytes]]:
    """The rows of every segment of a shard, read by this test's own means."""
    found = []
    for name in store.names(f"seg/{shard.name}"):
        data = store.get(f"seg/{shard.name}/{name}")
        assert data is not None
        _, *lines, end = zstandard.ZstdDecompressor().decompress(data).split(b"\n")
        assert end == b""
        assert lines == sorted(lines)
        found.append({int(line[:16], 16): line[19:] for line in lines})
    return found


def found(folder: Path, shard: Shard = SHARD) -> list[int]:
    """Rows that a fresh journal finds, having checked that it counts them and that the segments hold them, once."""
    journal = opened(folder, shard)
    total = journal.counts.total
    journal.close()
    rows = [item for segment in sealed_in(LocalStore(str(folder)), shard) for item in segment.items()]
    assert {*rows} == {(index, record(index).line) for index, _ in rows}
    assert total == len(rows) == len(dict(rows))
    if total == shard.rows:
        expected = [(r.index, r.kind, r.line) for r in map(record, sorted(dict(rows)))]
        assert [(row.row, row.kind, row.line) for row in journal.rows(shard)] == expected
    return sorted(dict(rows))


class Puts(LocalStore):
    """A store in a folder of which a test sees every exclusive put before it happens."""

    def __init__(self, folder: Path, before: Callable[[str], None]) -> None:
        super().__init__(str(folder))
        self._before = before

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._before(key)
        return super().put_if_absent(key, data)


def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


def as_killed(folder: Path, copy: Path) -> None:
    """Copy what a kill at this moment would leave, while the journal's threads go on.

    Logs come first, so that what is sealed in between stands in both.
    """
    for part in ("wal/*/*.wal", "seg/*/*.zst"):
        for path in folder.glob(part):
            (target := copy / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                shutil.copy(path, target)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal's threads look again after a moment instead of half a second."""
    monkeypatch.setattr(journal_module, "SYNC_S", 0.002)


# What several processes leave, one after the other.


def test_partial_shard_resumes(tmp_path: Path) -> None:
    """Rows settled in several runs are each kept once, counted once and come back in order."""
    settle(tmp_path, SHARD, 2)
    settle(tmp_path, SHARD, 0, 3)
    journal = opened(tmp_path, SHARD, SECOND)
    assert journal.settled(SHARD) == {0, 2, 3}
    assert journal.settled(SECOND) == frozenset()
    assert journal.counts == Counts(2, 1, 1, 5, 10)
    journal.append(SHARD, record(1))
    assert journal.settled(SHARD) is None
    assert journal.counts == Counts(2, 2, 1, 6, 12)
    journal.close()
    assert journal.sealed == journal.counts_of(SHARD) == journal.counts
    assert journal.counts_of(SECOND) == Counts()
    assert found(tmp_path) == [0, 1, 2, 3]


def test_complete_shard(tmp_path: Path) -> None:
    """A shard whose rows are all settled is sealed, marked done and leaves no log."""
    settle(tmp_path, SHARD, 3, 1, 0, 2)
    assert (tmp_path / "done" / "00000000.json").exists()
    assert not list((tmp_path / "wal").iterdir())
    assert found(tmp_path) == [0, 1, 2, 3]


def test_appended_rows_survive_the_process(tmp_path: Path) -> None:
    """A row counts from the moment `append` returns: without any close, another journal finds it."""
    journal = opened(tmp_path)
    journal.append(SHARD, record(1))
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "wal", copy / "wal")
    assert found(copy) == [1]
    journal.close()


def test_a_row_is_settled_once(tmp_path: Path) -> None:
    """The first outcome of a row stands; a later one changes neither it nor the counts."""
    journal = opened(tmp_path)
    for again in ("", "again"):
        for index in range(4):
            journal.append(SHARD, record(index, again))
    assert journal.counts == Counts(2, 2, 1, 6, 12)
    journal.close()
    assert found(tmp_path) == [0, 1, 2, 3]


def test_targets(tmp_path: Path) -> None:
    """A pass over some rows is done with a shard when these are settled; all others need no answer."""
    targets = {0: frozenset({1, 3})}
    journal = opened(tmp_path, SHARD, SECOND, targets=targets)
    assert journal.settled(SHARD) == {0, 2}
    assert journal.settled(SECOND) is None
    journal.append(SHARD, record(3))
    journal.close()
    journal = opened(tmp_path, SHARD, SECOND, targets=targets)
    assert journal.settled(SHARD) == {0, 2, 3}
    journal.append(SHARD, record(1))
    assert journal.settled(SHARD) is None
    journal.close()
    assert [row.row for row in journal.rows(SHARD)] == [1, 3]


def _log(folder: Path, *indexes: int, header: dict[str, str] = HEADER, epoch: int = 1) -> tuple[Path, list[int]]:
    """A log as a crash leaves it, and the size that it had after its header and after each record."""
    path = folder / "wal" / f"{epoch:06d}" / "00000000-0000.wal"
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = wal.create(path, header)
    sizes = [path.stat().st_size]
    for index in indexes:
        wal.write(fd, record(index))
        sizes.append(path.stat().st_size)
    os.close(fd)
    return path, sizes


def test_log_keeps_the_order(tmp_path: Path) -> None:
    """A log gives back what was written, outcomes and submissions, in the order of writing."""
    fd = wal.create(tmp_path / "log", HEADER)
    wal.write_submitted(fd, [Submission(7, alone=False), Submission(2**40, alone=True)])
    wal.write(fd, record(7))
    wal.write_submitted(fd, [Submission(8, alone=False)])
    os.close(fd)
    assert list(wal.read(tmp_path / "log", HEADER)) == [(7, False), (2**40, True), record(7), (8, False)]
    with pytest.raises(FileNotFoundError):
        list(wal.read(tmp_path / "absent", HEADER))


def test_torn_tail_at_every_byte(tmp_path: Path) -> None:
    """A log cut at any byte gives exactly the records that are whole."""
    path, sizes = _log(tmp_path, 0, 1, 2)
    data = path.read_bytes()
    torn = tmp_path / "torn.wal"
    for cut in range(len(data)):
        torn.write_bytes(data[:cut])
        whole = sum(size <= cut for size in sizes[1:])
        assert list(wal.read(torn, HEADER)) == [*map(record, range(whole))], cut


@pytest.mark.parametrize("cut", [0, 1, 9, 40, -1, -20])
def test_what_a_torn_log_lost_is_settled_anew(tmp_path: Path, cut: int) -> None:
    """Behind a torn log the next processes' rows are kept: nobody writes to a log that was torn."""
    path, _ = _log(tmp_path, 0, 1, 2)
    path.write_bytes(path.read_bytes()[:cut])
    journal = opened(tmp_path, SHARD)
    kept = journal.settled(SHARD)
    assert kept is not None
    rest = sorted({0, 1, 2, 3} - kept)
    journal.append(SHARD, record(rest[0]))
    crashed = tmp_path / "crashed"
    as_killed(tmp_path, crashed)
    journal.close()
    for folder in (tmp_path, crashed):
        assert found(folder) == sorted({*kept, rest[0]})
        settle(folder, SHARD, *rest[1:])
        assert found(folder) == [0, 1, 2, 3]


def test_bit_flips_never_give_wrong_records(tmp_path: Path) -> None:
    """A flipped bit anywhere in a log ends it there; what comes before stays, and nothing wrong comes out."""
    path, sizes = _log(tmp_path, 0, 1, 2)
    data = path.read_bytes()
    broken = tmp_path / "broken.wal"
    for position in range(len(data)):
        for bit in (0, 3, 7):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            broken.write_bytes(flipped)
            whole = 0 if position < sizes[0] else sum(size <= position for size in sizes[1:])
            assert list(wal.read(broken, HEADER)) == [record(i) for i in range(whole)], (position, bit)


def test_flipped_log_resumes(tmp_path: Path) -> None:
    """After damage in the middle of a log the lost rows are open again and can be settled anew."""
    path, sizes = _log(tmp_path, 0, 1, 2)
    data = bytearray(path.read_bytes())
    data[sizes[1] + 15] ^= 4
    path.write_bytes(data)
    journal = opened(tmp_path, SHARD)
    assert journal.settled(SHARD) == {0}
    for index in (1, 2, 3):
        journal.append(SHARD, record(index))
    journal.close()
    assert found(tmp_path) == [0, 1, 2, 3]


def test_logs_of_several_processes(tmp_path: Path) -> None:
    """What several killed processes have left is taken together, in the order of their leases."""
    for epoch, rows in ((3, (0, 1)), (12, (1, 2)), (7, (3,))):
        _log(tmp_path, *rows, epoch=epoch)
    assert [path.parent.name for path in old_logs(tmp_path)["00000000"]] == ["000003", "000007", "000012"]
    assert found(tmp_path) == [0, 1, 2, 3]
    assert not list((tmp_path / "wal").iterdir())


@pytest.mark.parametrize("rows", [(0, 2), (0, 1, 2, 3)], ids=["some", "all"])
def test_crash_between_segment_and_log_reset(tmp_path: Path, rows: tuple[int, ...]) -> None:
    """Rows that stand both in a segment and in the log, as after a crash between the two, count once."""
    path, _ = _log(tmp_path, *rows)
    data = path.read_bytes()
    assert found(tmp_path) == list(rows)
    path.parent.mkdir()
    path.write_bytes(data)
    for done in (tmp_path / "done").glob("*"):
        done.unlink()
    settle(tmp_path, SHARD, *({0, 1, 2, 3} - {*rows}))
    assert found(tmp_path) == [0, 1, 2, 3]


def test_crash_before_log_of_done_shard_is_reset(tmp_path: Path) -> None:
    """A log that is left beside the mark of a finished shard changes nothing, and goes away."""
    path, _ = _log(tmp_path, 0, 1, 2, 3)
    data = path.read_bytes()
    assert found(tmp_path) == [0, 1, 2, 3]
    path.parent.mkdir()
    path.write_bytes(data)
    assert found(tmp_path) == [0, 1, 2, 3]
    assert not path.exists()


def test_crash_before_the_shard_is_marked_done(tmp_path: Path) -> None:
    """A shard all of whose rows are sealed is marked by the next process, without a row being asked for."""
    settle(tmp_path, SHARD, 0, 1, 2, 3)
    mark = (tmp_path / "done" / "00000000.json").read_bytes()
    (tmp_path / "done" / "00000000.json").unlink()
    journal = opened(tmp_path, SHARD)
    assert journal.settled(SHARD) is None
    journal.close()
    assert (tmp_path / "done" / "00000000.json").read_bytes() == mark
    assert journal.sealed.total == 4


@pytest.mark.parametrize("cut", [0.5, 1.0], ids=["torn", "whole"])
def test_crash_while_a_segment_is_published(tmp_path: Path, cut: float) -> None:
    """What a crash leaves under a temporary name beside a segment is never taken for one."""
    _log(tmp_path, 0, 2)
    folder = tmp_path / "seg" / "00000000"
    folder.mkdir(parents=True)
    _, data = segments.encode(JOB, "00000000", 0, 1, [record(0), record(2)])
    (folder / ".000000.jsonl.zst.0123456789ab.tmp").write_bytes(data[: int(len(data) * cut)])
    settle(tmp_path, SHARD, 1)
    assert found(tmp_path) == [0, 1, 2]
    settle(tmp_path, SHARD, 3)
    assert found(tmp_path) == [0, 1, 2, 3]


# What is another job's.


def test_log_of_another_job_is_ignored(tmp_path: Path) -> None:
    """Records of another job's log are not taken for this one's, and rows of this one are kept all the same."""
    _log(tmp_path, 0, 1, header={"job": "another", "shard": "00000000"})
    journal = opened(tmp_path, SHARD)
    assert journal.settled(SHARD) == frozenset()
    assert journal.counts.total == 0
    for index in range(4):
        journal.append(SHARD, record(index))
    journal.close()
    assert found(tmp_path) == [0, 1, 2, 3]


def test_a_log_of_another_job_under_the_same_lease_number(tmp_path: Path) -> None:
    """A log that another job left under a number which leases have come to again is no obstacle."""
    epoch = next(EPOCHS) + 1
    _log(tmp_path, 0, 1, header={"job": "another", "shard": "00000000"}, epoch=epoch)
    here = layer(tmp_path)
    assert here.epoch == epoch
    log = ShardLog(here, SHARD, 4)
    log.recover(old_logs(tmp_path)["00000000"])
    try:
        for index in range(4):
            log.append(record(index))
        log.seal()
    finally:
        log.close()
    assert found(tmp_path) == [0, 1, 2, 3]


def test_segments_and_marks_of_another_job_are_passed_over(tmp_path: Path) -> None:
    """A segment of another job takes up a number and nothing more; its mark does not make a shard done."""
    store = LocalStore(str(tmp_path))
    for number in (0, 2):
        _, data = segments.encode("another", SHARD.name, number, 1, [record(0, "wrong"), record(3, "wrong")])
        store.put(f"seg/{SHARD.name}/{number:06d}.jsonl.zst", data)
    store.put(f"done/{SHARD.name}.json", msgspec.json.encode(Done("another", 1, Counts(4))))
    journal = opened(tmp_path, SHARD)
    assert journal.settled(SHARD) == frozenset()
    assert journal.counts == Counts()
    journal.append(SHARD, record(2))
    journal.close()
    settle(tmp_path, SHARD, 0, 1, 3)
    ours = [segment for number, segment in enumerate(sealed_in(store)) if number not in (0, 2)]
    assert ours[0] == {2: record(2).line}
    assert sorted(row for segment in ours for row in segment) == [0, 1, 2, 3]
    journal = opened(tmp_path, SHARD)
    assert journal.sealed == Counts(2, 2, 1, 6, 12)
    assert [(row.row, row.line) for row in journal.rows(SHARD)] == [(i, record(i).line) for i in range(4)]
    journal.close()


# Damage.


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip(data: bytes) -> bytes:
    return data[:-6] + bytes([data[-6] ^ 1]) + data[-5:]


def _empty(_: bytes) -> bytes:
    return b""


def _rewritten(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        return zstandard.ZstdCompressor().compress(change(zstandard.ZstdDecompressor().decompress(data)))

    return damage


DAMAGES = {
    "cut": _cut,
    "flipped": _flip,
    "empty": _empty,
    "without rows": _rewritten(lambda text: text.split(b"\n")[0] + b"\n"),
    "without the last row": _rewritten(lambda text: text[: text.rindex(b"\n", 0, -1) + 1]),
    "without its end": _rewritten(lambda text: text[:-1]),
    "only a header": _rewritten(lambda text: text.split(b"\n")[0]),
    "no header": _rewritten(lambda _: b"{}\n"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("rows", [(0, 2), (0, 1, 2, 3)], ids=["open", "done"])
def test_damaged_segment(tmp_path: Path, damage: Callable[[bytes], bytes], rows: tuple[int, ...]) -> None:
    """A segment that is not whole stops the job with a sentence that names the file."""
    settle(tmp_path, SHARD, *rows)
    segment = tmp_path / "seg" / "00000000" / "000000.jsonl.zst"
    segment.write_bytes(damage(segment.read_bytes()))
    journal = Journal(layer(tmp_path))

    def look() -> None:
        journal.resume([SHARD])
        list(journal.rows(SHARD))

    with pytest.raises(StorageError, match=r"000000\.jsonl\.zst"):
        look()
    journal.close()


def test_every_flipped_bit_of_a_segment_is_noticed() -> None:
    """One flipped bit anywhere in a segment never changes what it says: it is damaged, or reads the same."""
    _, data = segments.encode(JOB, "00000000", 0, 1, [record(0), record(2), record(3)])
    whole = list(segments.merge([segments.Segment(data, "s")]))
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            rows = list(segments.merge([segments.Segment(bytes(flipped), "s")]))
        except StorageError:
            continue
        assert rows == whole, bit


def test_missing_segment_of_a_done_shard(tmp_path: Path) -> None:
    """A done shard of which a segment is gone is never read as if it were whole."""
    settle(tmp_path, SHARD, 0, 2)
    settle(tmp_path, SHARD, 1, 3)
    (tmp_path / "seg" / "00000000" / "000000.jsonl.zst").unlink()
    journal = opened(tmp_path, SHARD)
    with pytest.raises(StorageError, match=r"000000\.jsonl\.zst is missing"):
        list(journal.rows(SHARD))
    journal.close()


def test_a_row_in_two_segments_is_noticed(tmp_path: Path) -> None:
    """A row that somebody has put into two segments is never given out twice."""
    settle(tmp_path, SHARD, 0, 2)
    settle(tmp_path, SHARD, 1, 3)
    folder = tmp_path / "seg" / "00000000"
    shutil.copy(folder / "000000.jsonl.zst", folder / "000001.jsonl.zst")
    journal = opened(tmp_path, SHARD)
    with pytest.raises(StorageError, match="row 0 stands twice"):
        list(journal.rows(SHARD))
    journal.close()


def test_damaged_done_mark(tmp_path: Path) -> None:
    """A mark that can't be read stops the job with a sentence that names the file."""
    settle(tmp_path, SHARD, 0, 1, 2, 3)
    (tmp_path / "done" / "00000000.json").write_bytes(b"{")
    journal = Journal(layer(tmp_path))
    with pytest.raises(StorageError, match=r"00000000\.json"):
        journal.resume([SHARD])
    journal.close()


# The threads.


def test_many_shards_at_once(tmp_path: Path) -> None:
    """Many shards, settled in turns, are all sealed and none is mixed up with another."""
    shards = [Shard(i, 0, 0, 1, 10 * i, 10, 1) for i in range(50)]
    journal = opened(tmp_path)
    for offset in range(10):
        for shard in shards:
            journal.append(shard, record(shard.first_row + offset))
    journal.close()
    assert [row[0] for shard in shards for row in journal.rows(shard)] == list(range(500))
    assert journal.counts.total == 500
    assert len(list((tmp_path / "done").iterdir())) == 50


@pytest.mark.usefixtures("quick")
def test_sealed_by_age(tmp_path: Path) -> None:
    """Rows of an open shard become a segment when they are `commit_s` old, time and again, and not before."""
    journal = opened(tmp_path, commit_s=0.1)
    store = LocalStore(str(tmp_path))
    for index in range(3):
        began_s = time.monotonic()
        journal.append(SHARD, record(index))
        until(lambda: len(store.names(f"seg/{SHARD.name}")) == index + 1)  # noqa: B023 - called at once
        assert time.monotonic() - began_s >= 0.1
    journal.close()
    assert [*map(list, sealed_in(store))] == [[0], [1], [2]]


@pytest.mark.usefixtures("quick")
def test_sealed_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of an open shard become a segment when they are many, however young they are."""
    monkeypatch.setattr(journal_module, "COMMIT_BYTES", len(record(0).line) + 1)
    journal = opened(tmp_path, commit_s=3600.0)
    store = LocalStore(str(tmp_path))
    journal.append(SHARD, record(0))
    time.sleep(0.05)
    assert not store.names("seg")
    journal.append(SHARD, record(1))
    until(lambda: store.names("seg"))
    journal.close()
    assert [*map(list, sealed_in(store))] == [[0, 1]]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
def test_rotation_while_rows_go_on_arriving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool) -> None:
    """However often the logs are sealed while rows arrive, each row stands in one segment, also after a kill."""
    monkeypatch.setattr(journal_module, "COMMIT_BYTES", 300)
    shards = [Shard(i, 0, 0, 1, 1000 * i, 1000, 1) for i in range(3)]
    journal = opened(tmp_path, commit_s=3600.0)
    store, left = LocalStore(str(tmp_path)), tmp_path / "left"
    for offset in range(950):
        for shard in shards:
            index = shard.first_row + offset
            journal.submit(shard, [Submission(index, alone=False), Submission(index + 1, alone=False)])
            journal.append(shard, record(index))
        if killed and offset == 700:
            as_killed(tmp_path, left)
        if offset % 100 == 99:
            until(lambda: len(store.names(f"seg/{shards[0].name}")) > offset // 100)  # noqa: B023 - called at once
    journal.close()
    expected = 701 if killed else 950
    folder = left if killed else tmp_path
    assert len(sealed_in(store, shards[0])) > 9
    for shard in shards:
        assert found(folder, shard) == list(range(shard.first_row, shard.first_row + expected))


@pytest.mark.usefixtures("quick")
def test_rows_that_arrive_while_a_segment_is_put(tmp_path: Path) -> None:
    """What is settled while a segment is on its way to a slow store goes into the next one, and is safe meanwhile."""
    here, go_on = threading.Event(), threading.Event()

    def before(key: str) -> None:
        if key.startswith("seg/") and not here.is_set():
            here.set()
            assert go_on.wait(10)

    journal = opened(tmp_path, store=Puts(tmp_path, before), commit_s=0.01)
    journal.append(SHARD, record(0))
    assert here.wait(10)
    journal.append(SHARD, record(1))
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "wal", copy / "wal")
    go_on.set()
    journal.close()
    assert found(copy) == [0, 1]
    assert [*map(list, sealed_in(LocalStore(str(tmp_path))))] == [[0], [1]]


def test_trouble_of_the_thread_reaches_the_caller(tmp_path: Path) -> None:
    """If shards can't be sealed, the job learns it instead of believing that all is well; the rows stay."""
    alarms: list[XbatchError] = []
    journal = opened(tmp_path, alarm=alarms.append)
    (tmp_path / "seg").write_bytes(b"a file in the way")
    for index in range(4):
        journal.append(SHARD, record(index))
    until(lambda: alarms)
    with pytest.raises(StorageError):
        journal.append(SECOND, record(4))
    with pytest.raises(StorageError):
        journal.close()
    (tmp_path / "seg").unlink()
    assert found(tmp_path) == [0, 1, 2, 3]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("a mistake")], ids=["os", "bug"])
def test_trouble_of_any_kind(tmp_path: Path, error: Exception) -> None:
    """Whatever a thread of the journal dies of, it becomes an exception of xbatch in the caller's thread."""

    def before(_: str) -> None:
        raise error

    journal = opened(tmp_path, store=Puts(tmp_path, before), commit_s=0.01)
    journal.append(SHARD, record(0))
    with pytest.raises(XbatchError, match=r"Input/output error|a mistake"):
        until(lambda: journal.append(SHARD, record(0)))
    with pytest.raises(XbatchError):
        journal.close()
    assert found(tmp_path) == [0]


def test_failed_sync_reaches_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails to keep a log stops the job."""

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(journal_module, "SYNC_S", 0.002)
    journal = opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        journal.append(SHARD, record(0))
        with pytest.raises(StorageError, match="Input/output error"):
            until(lambda: journal.append(SHARD, record(0)))
        with pytest.raises(StorageError):
            journal.close()


@pytest.mark.usefixtures("quick")
def test_fence(tmp_path: Path) -> None:
    """A process that has lost its lease learns it after its next segment at the latest."""

    def fence() -> None:
        raise Interrupted("taken over")

    alarms: list[XbatchError] = []
    journal = opened(tmp_path, commit_s=0.01, fence=fence, alarm=alarms.append)
    journal.append(SHARD, record(0))
    until(lambda: alarms)
    with pytest.raises(Interrupted, match="taken over"):
        journal.append(SHARD, record(1))
    with pytest.raises(Interrupted):
        journal.close()
    assert found(tmp_path) == [0]


def test_the_name_of_a_rotated_log_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before rows leave for a store that may not answer for long, their log is on the disk with its name."""
    synced: list[Path] = []
    monkeypatch.setattr("xbatch.storage.sync_folder", synced.append)

    def before(_: str) -> None:
        raise StorageUnavailable("no answer")

    log = ShardLog(layer(tmp_path, Puts(tmp_path, before)), SHARD, 4)
    log.append(record(0))
    with pytest.raises(StorageUnavailable):
        log.seal()
    log.close()
    [path] = old_logs(tmp_path)["00000000"]
    assert path.parent in synced


# Several processes that believe to be the one.


class Process:
    """A process that writes a shard into a store that it shares with others, on a machine of its own."""

    def __init__(self, folder: Path, store: Store, shard: Shard = SHARD) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.log = ShardLog(layer(folder, store), shard, shard.rows)
        self.log.recover(old_logs(folder).get(shard.name, ()))

    def append(self, *indexes: int) -> list[bool]:
        return [bool(self.log.append(record(index, self.folder.name))) for index in indexes]


def test_number_taken_by_another_process(tmp_path: Path) -> None:
    """Who finds its number taken drops the rows that stand there and seals the others under the next one."""
    store = LocalStore(str(tmp_path / "store"))
    one, two = Process(tmp_path / "a", store), Process(tmp_path / "b", store)
    one.append(0, 1)
    two.append(1, 2)
    two.log.seal()
    one.log.seal()
    assert [*map(list, sealed_in(store))] == [[1, 2], [0]]
    assert one.log.counts == Counts(2, 1, 0, 3, 6)
    assert not old_logs(tmp_path / "a")
    assert one.log.settled == {0, 1, 2}


def test_several_numbers_taken(tmp_path: Path) -> None:
    """Whoever is behind by several segments reads them all, and no row of them comes in again."""
    store = LocalStore(str(tmp_path / "store"))
    one, two = Process(tmp_path / "a", store, WIDE), Process(tmp_path / "b", store, WIDE)
    for index in range(5):
        two.append(index)
        two.log.seal()
    one.append(*range(6))
    one.log.seal()
    assert [*map(list, sealed_in(store))] == [[0], [1], [2], [3], [4], [5]]
    one.append(*range(8))
    one.log.seal()
    two.append(*range(5, 8))
    two.log.seal()
    assert [*map(list, sealed_in(store))] == [[0], [1], [2], [3], [4], [5], [6, 7]]


def test_results_that_finish_after_a_lost_race(tmp_path: Path) -> None:
    """A row that another process has sealed stays out, also if its own outcome comes after the race was lost."""
    store = LocalStore(str(tmp_path / "store"))
    one, two = Process(tmp_path / "a", store), Process(tmp_path / "b", store)
    two.append(1, 2)
    two.log.seal()
    one.append(0)
    one.log.seal()
    assert one.append(1, 2, 3) == [False, False, True]
    one.log.seal()
    assert [*map(list, sealed_in(store))] == [[1, 2], [0], [3]]
    assert store.get(f"done/{SHARD.name}.json") is not None


@pytest.mark.parametrize("moment", [0, 1], ids=["before the lost put", "before the won put"])
def test_results_that_finish_during_a_lost_race(tmp_path: Path, moment: int) -> None:
    """The same holds for outcomes that come between the rotation of the log and the reading of the other's rows."""
    store = LocalStore(str(tmp_path / "store"))
    two = Process(tmp_path / "b", store)
    two.append(1, 2)
    two.log.seal()
    puts = count()

    def before(_: str) -> None:
        if next(puts) == moment:
            one.append(1, 2, 3)

    one = Process(tmp_path / "a", store)
    one.log = ShardLog(layer(tmp_path / "a", Puts(tmp_path / "store", before)), SHARD, 4)
    one.append(0)
    one.log.seal()
    one.log.seal()
    assert [*map(list, sealed_in(store))] == [[1, 2], [0], [3]]


def test_a_zombie_wakes_after_the_shard_was_done(tmp_path: Path) -> None:
    """A process that slept while another finished the shard adds nothing, and leaves the mark as it was."""
    store = LocalStore(str(tmp_path / "store"))
    zombie = Process(tmp_path / "a", store)
    zombie.append(0, 1)
    heir = Process(tmp_path / "b", store)
    heir.append(0, 1, 2, 3)
    heir.log.seal()
    mark = store.get(f"done/{SHARD.name}.json")
    zombie.append(2, 3)
    zombie.log.seal()
    assert store.get(f"done/{SHARD.name}.json") == mark
    assert [*map(list, sealed_in(store))] == [[0, 1, 2, 3]]


def test_two_journals_over_one_store(tmp_path: Path) -> None:
    """Two journals that both believe to hold the job settle every row once between them."""
    store = LocalStore(str(tmp_path / "store"))
    shards = [SHARD, SECOND]
    journals = [opened(tmp_path / name, *shards, store=store) for name in "ab"]
    for index, shard in ((0, SHARD), (1, SHARD), (2, SHARD), (3, SHARD), (4, SECOND), (5, SECOND)):
        for journal in journals[index % 2 :]:
            journal.append(shard, record(index))
    for journal in reversed(journals):
        journal.close()
    last = opened(tmp_path / "a", *shards, store=store)
    assert last.settled(SHARD) is None
    assert last.settled(SECOND) == {4, 5}
    assert last.counts.total == 6
    last.append(SECOND, record(6))
    last.close()
    assert [row.row for shard in shards for row in last.rows(shard)] == list(range(7))
    assert last.sealed.total == 7


# Rows that were handed to an engine.


def test_strikes_survive_rotation_and_death(tmp_path: Path) -> None:
    """How often a row was handed to an engine is known after any number of rotations and deaths."""
    log = ShardLog(layer(tmp_path), SHARD, 4)
    log.submit([Submission(1, alone=False), Submission(2, alone=False)])
    log.append(record(0))
    log.seal()
    log.submit([Submission(1, alone=True)])
    log.close()
    for _ in range(3):
        again = ShardLog(layer(tmp_path), SHARD, 4)
        again.recover(old_logs(tmp_path)["00000000"])
        assert [again.strikes(i) for i in range(4)] == [(0, 0), (2, 1), (1, 0), (0, 0)]
        again.seal()
        assert [again.strikes(i) for i in range(4)] == [(0, 0), (2, 1), (1, 0), (0, 0)]
        again.close()


def test_strikes_vanish_when_the_row_is_settled(tmp_path: Path) -> None:
    """A row that has its outcome is suspected of nothing, in this process and in the next."""
    log = ShardLog(layer(tmp_path), SHARD, 4)
    log.submit([Submission(1, alone=True), Submission(2, alone=False)])
    log.append(record(1))
    assert log.strikes(1) == Strikes()
    log.close()
    again = ShardLog(layer(tmp_path), SHARD, 4)
    again.recover(old_logs(tmp_path)["00000000"])
    assert (again.strikes(1), again.strikes(2)) == (Strikes(), Strikes(1, 0))


@pytest.mark.parametrize("settled", [(), (0,)], ids=["only submitted", "one settled"])
def test_strikes_are_not_counted_twice(tmp_path: Path, settled: tuple[int, ...]) -> None:
    """A death, or a store in trouble, between a log's rotation and its end does not make a row look worse."""

    def before(_: str) -> None:
        raise StorageUnavailable("no answer")

    store = Puts(tmp_path, before)
    log = ShardLog(layer(tmp_path, store), SHARD, 4)
    log.submit([Submission(3, alone=True)])
    for index in settled:
        log.append(record(index))
    for _ in range(3):
        if settled:
            with pytest.raises(StorageUnavailable):
                log.seal()
        else:
            log._rotate()  # and then it is killed
        log.close()
        log = ShardLog(layer(tmp_path, store), SHARD, 4)
        log.recover(old_logs(tmp_path)["00000000"])
        assert log.strikes(3) == Strikes(1, 1)
    log.close()


def test_strikes_by_shard(tmp_path: Path) -> None:
    """A journal tells strikes of the shard that was asked for, and none of one it has never seen."""
    journal = opened(tmp_path, SHARD, SECOND)
    journal.submit(SECOND, [Submission(5, alone=False)])
    assert journal.strikes(SECOND, 5) == Strikes(1, 0)
    assert journal.strikes(SHARD, 5) == Strikes()
    journal.close()


# Any order of anything.


class Fault:
    """What may befall a put on its way."""

    NONE = "none"
    LOST = "answer lost"
    RETRIED = "answer lost, asked again by the store's client"
    DELAYED = "no answer, and it arrives later"
    NEVER = "no answer, and it never arrives"


class DictStore:
    """Objects in memory, exclusive and consistent, over a network that loses answers and delays requests."""

    uri = "memory://"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.late: list[tuple[str, bytes]] = []
        self.faults: list[str] = []

    def put_if_absent(self, key: str, data: bytes) -> bool:
        fault = self.faults.pop() if self.faults else Fault.NONE
        if fault == Fault.DELAYED:
            self.late.append((key, data))
        if fault in (Fault.DELAYED, Fault.NEVER):
            raise StorageUnavailable(f"{key}: no answer")
        taken = key in self.objects
        self.objects.setdefault(key, data)
        if fault == Fault.LOST:
            raise StorageUnavailable(f"{key}: no answer")
        return not taken or self.objects[key] == data

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = data

    def get(self, key: str) -> bytes | None:
        return self.objects.get(key)

    def names(self, folder: str) -> list[str]:
        start = f"{folder}/" if folder else ""
        return sorted({key.removeprefix(start).split("/")[0] for key in self.objects if key.startswith(start)})

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def delete_folder(self, folder: str) -> None:
        for key in [key for key in self.objects if key.startswith(f"{folder}/")]:
            del self.objects[key]


MACHINES = st.integers(0, 2)
ROWS = Shard(0, 0, 0, 1, 0, 8, 1)
FAULTS = st.lists(st.sampled_from([Fault.NONE, Fault.LOST, Fault.RETRIED, Fault.DELAYED, Fault.NEVER]), max_size=2)


class Writers(RuleBasedStateMachine):
    """Processes on three machines that write one shard, die, come back, and never agree on who holds the job."""

    @initialize()
    def begin(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="writers-"))
        self.store = DictStore()
        self.alive: dict[int, Process] = {}
        self.appended: dict[int, set[bytes]] = {}
        self.seen: dict[int, bytes] = {}

    @rule(machine=MACHINES)
    def start(self, machine: int) -> None:
        self.kill(machine)
        self.alive[machine] = Process(self.base / str(machine), self.store, ROWS)

    @rule(machine=MACHINES)
    def kill(self, machine: int) -> None:
        if (process := self.alive.pop(machine, None)) is not None:
            process.log.close()

    @rule(machine=MACHINES, row=st.integers(0, 7), alone=st.booleans())
    def submit(self, machine: int, row: int, alone: bool) -> None:
        if (process := self.alive.get(machine)) is not None:
            process.log.submit([Submission(row, alone)])

    @rule(machine=MACHINES, rows=st.sets(st.integers(0, 7), min_size=1, max_size=4))
    def append(self, machine: int, rows: set[int]) -> None:
        if (process := self.alive.get(machine)) is None:
            return
        for row in rows:
            one = record(row, f" {process.log._layer.epoch}")
            if process.log.append(one):
                self.appended.setdefault(row, set()).add(one.line)

    @rule(machine=MACHINES, faults=FAULTS, dies=st.booleans())
    def seal(self, machine: int, faults: list[str], dies: bool) -> None:
        if (process := self.alive.get(machine)) is None:
            return
        self.store.faults = list(faults)
        try:
            process.log.seal()
        except StorageError:
            if dies:
                self.kill(machine)
        self.store.faults = []

    @precondition(lambda self: self.store.late)
    @rule(which=st.integers(0, 9))
    def arrive(self, which: int) -> None:
        key, data = self.store.late.pop(which % len(self.store.late))
        self.store.put_if_absent(key, data)

    @invariant()
    def every_row_once(self) -> None:
        if not hasattr(self, "store"):
            return
        found = sealed_in(self.store, ROWS)
        assert self.store.names(f"seg/{ROWS.name}") == [f"{i:06d}.jsonl.zst" for i in range(len(found))]
        rows = [item for segment in found for item in segment.items()]
        assert len(rows) == len(dict(rows)), "a row stands in two segments"
        assert self.seen.items() <= dict(rows).items(), "a row was lost or changed"
        assert all(line in self.appended.get(row, ()) for row, line in rows)
        self.seen = dict(rows)

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        for machine in range(3):
            self.start(machine)
            self.seal(machine, [], False)
            self.every_row_once()
        assert self.seen.keys() == self.appended.keys(), "a settled row was lost"
        self.append(0, set(range(8)))
        self.seal(0, [], False)
        while self.store.late:
            self.arrive(0)
        self.seal(1, [], False)
        self.every_row_once()
        for machine in range(3):
            self.kill(machine)
        journal = opened(self.base / "0", ROWS, store=self.store)
        assert journal.sealed.total == 8
        assert [row.row for row in journal.rows(ROWS)] == list(range(8))
        journal.close()
        shutil.rmtree(self.base)


TestWriters = Writers.TestCase
TestWriters.settings = settings(
    max_examples=150, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
