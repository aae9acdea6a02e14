"""The journal: what is settled stays settled, once, whatever happens in between."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from xbatch.errors import StorageError
from xbatch.rows.outcome import Usage
from xbatch.rows.shard import Shard
from xbatch.state import segments, wal
from xbatch.state.journal import Journal
from xbatch.state.records import Counts, Record

JOB = "job-1"
HEADER = {"job": JOB, "shard": "00000000"}
SHARD = Shard(0, 0, 0, 1, 0, 4, 100)
SECOND = Shard(1, 0, 100, 5, 4, 3, 100)


def record(index: int) -> Record:
    return Record(index, index % 2 == 0, Usage(index, 2 * index), b'{"row":%d}' % index)


def settle(folder: Path, shard: Shard, *indexes: int) -> None:
    journal = Journal(folder, JOB)
    journal.resume([shard])
    for index in indexes:
        journal.append(shard, record(index))
    journal.close()


def found(folder: Path, shard: Shard = SHARD) -> list[int]:
    """Rows that a fresh journal finds, having checked that it counts them and can give them out."""
    journal = Journal(folder, JOB)
    journal.resume([shard])
    total = journal.counts.total
    journal.close()
    if not (folder / "seg" / shard.name).exists():
        assert total == 0
        return []
    rows = list(journal.rows(shard))
    indexes = [index for index, _, _ in rows]
    expected = [record(index) for index in sorted(indexes)]
    assert [tuple(row) for row in rows] == [(r.index, r.completed, r.line) for r in expected]
    assert total == len(rows)
    return indexes


def test_partial_shard_resumes(tmp_path: Path) -> None:
    """Rows settled in several runs are each kept once, counted once and come back in order."""
    settle(tmp_path, SHARD, 2)
    settle(tmp_path, SHARD, 0, 3)
    journal = Journal(tmp_path, JOB)
    journal.resume([SHARD, SECOND])
    assert journal.settled(SHARD) == {0, 2, 3}
    assert journal.settled(SECOND) == frozenset()
    assert journal.counts == Counts(2, 1, 5, 10)
    journal.append(SHARD, record(1))
    assert journal.settled(SHARD) is None
    assert journal.counts == Counts(2, 2, 6, 12)
    journal.close()
    assert found(tmp_path) == [0, 1, 2, 3]


def test_complete_shard(tmp_path: Path) -> None:
    """A shard whose rows are all settled is sealed, marked done and leaves no log."""
    settle(tmp_path, SHARD, 3, 1, 0, 2)
    assert (tmp_path / "done" / "00000000.json").exists()
    assert not list((tmp_path / "wal").iterdir())
    assert found(tmp_path) == [0, 1, 2, 3]


def test_appended_rows_survive_the_process(tmp_path: Path) -> None:
    """A row counts from the moment `append` returns: without any close, another journal finds it."""
    journal = Journal(tmp_path, JOB)
    journal.append(SHARD, record(1))
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "wal", copy / "wal")
    assert found(copy) == [1]
    journal.close()


def _log(folder: Path, *indexes: int, header: dict[str, str] = HEADER) -> tuple[Path, list[int]]:
    """A log as a crash leaves it, and the size that it had after each record."""
    path = folder / "wal" / "00000000.wal"
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = []
    for index in indexes:
        os.close(wal.append(path, header, record(index)))
        sizes.append(path.stat().st_size)
    return path, sizes


def test_torn_tail_at_every_byte(tmp_path: Path) -> None:
    """A log cut at any byte gives exactly the records that are whole, and takes new ones behind them."""
    path, sizes = _log(tmp_path / "whole", 0, 1, 2)
    data = path.read_bytes()
    for cut in range(len(data)):
        torn = tmp_path / "torn.wal"
        torn.write_bytes(data[:cut])
        whole = sum(size <= cut for size in sizes)
        assert [r.index for r in wal.read(torn, HEADER)] == list(range(whole)), cut
        os.close(wal.append(torn, HEADER, record(3)))
        assert list(wal.read(torn, HEADER)) == [*map(record, range(whole)), record(3)], cut


def test_bit_flips_never_give_wrong_records(tmp_path: Path) -> None:
    """A flipped bit anywhere in a log ends it there; what comes before stays, and nothing wrong comes out."""
    path, sizes = _log(tmp_path / "whole", 0, 1, 2)
    data = path.read_bytes()
    broken = tmp_path / "broken.wal"
    start = sizes[0] - (sizes[1] - sizes[0])
    for position in range(len(data)):
        for bit in (0, 3, 7):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            broken.write_bytes(flipped)
            whole = 0 if position < start else sum(size <= position for size in sizes)
            assert list(wal.read(broken, HEADER)) == [record(i) for i in range(whole)], (position, bit)


def test_flipped_log_resumes(tmp_path: Path) -> None:
    """After damage in the middle of a log the lost rows are open again and can be settled anew."""
    path, sizes = _log(tmp_path, 0, 1, 2)
    data = bytearray(path.read_bytes())
    data[sizes[0] + 15] ^= 4
    path.write_bytes(data)
    journal = Journal(tmp_path, JOB)
    journal.resume([SHARD])
    assert journal.settled(SHARD) == {0}
    for index in (1, 2, 3):
        journal.append(SHARD, record(index))
    journal.close()
    assert found(tmp_path) == [0, 1, 2, 3]


@pytest.mark.parametrize("rows", [(0, 2), (0, 1, 2, 3)], ids=["some", "all"])
def test_crash_between_segment_and_log_reset(tmp_path: Path, rows: tuple[int, ...]) -> None:
    """Rows that stand both in a segment and in the log, as after a crash between the two, count once."""
    path, _ = _log(tmp_path, *rows)
    data = path.read_bytes()
    assert found(tmp_path) == list(rows)
    path.write_bytes(data)
    for done in (tmp_path / "done").iterdir():
        done.unlink()
    settle(tmp_path, SHARD, *({0, 1, 2, 3} - {*rows}))
    assert found(tmp_path) == [0, 1, 2, 3]


def test_crash_before_log_of_done_shard_is_reset(tmp_path: Path) -> None:
    """A log that is left beside the mark of a finished shard changes nothing."""
    path, _ = _log(tmp_path, 0, 1, 2, 3)
    data = path.read_bytes()
    assert found(tmp_path) == [0, 1, 2, 3]
    path.write_bytes(data)
    assert found(tmp_path) == [0, 1, 2, 3]


@pytest.mark.parametrize("cut", [0.5, 1.0], ids=["torn", "whole"])
def test_crash_while_a_segment_is_published(tmp_path: Path, cut: float) -> None:
    """What a crash leaves under a temporary name beside a segment is never taken for one."""
    _log(tmp_path, 0, 2)
    folder = tmp_path / "seg" / "00000000"
    folder.mkdir(parents=True)
    data = segments.encode(JOB, "00000000", 0, [record(0), record(2)])
    (folder / ".000000.jsonl.zst.0123456789ab.tmp").write_bytes(data[: int(len(data) * cut)])
    settle(tmp_path, SHARD, 1)
    assert found(tmp_path) == [0, 1, 2]
    settle(tmp_path, SHARD, 3)
    assert found(tmp_path) == [0, 1, 2, 3]


def test_log_of_another_job_is_ignored(tmp_path: Path) -> None:
    """Records of another job's log are not taken for this one's."""
    _log(tmp_path, 0, 1, header={"job": "another", "shard": "00000000"})
    journal = Journal(tmp_path, JOB)
    journal.resume([SHARD])
    assert journal.settled(SHARD) == frozenset()
    assert journal.counts.total == 0
    journal.close()


def test_rows_settled_over_the_log_of_another_job_are_kept(tmp_path: Path) -> None:
    """Where another job's log lies, rows of this one are kept all the same."""
    _log(tmp_path, 0, 1, header={"job": "another", "shard": "00000000"})
    settle(tmp_path, SHARD, 0, 1, 2, 3)
    assert found(tmp_path) == [0, 1, 2, 3]


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip(data: bytes) -> bytes:
    return data[:-6] + bytes([data[-6] ^ 1]) + data[-5:]


def _empty(_: bytes) -> bytes:
    return b""


def _of_another_job(_: bytes) -> bytes:
    return segments.encode("another", "00000000", 0, [record(0), record(2)])


def _short(_: bytes) -> bytes:
    lines = zstandard.ZstdDecompressor().decompress(segments.encode(JOB, "0", 0, [record(0), record(2)]))
    return zstandard.ZstdCompressor().compress(lines.split(b"\n")[0] + b"\n")


@pytest.mark.parametrize("damage", [_cut, _flip, _empty, _of_another_job, _short])
def test_damaged_segment(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """A segment that is not whole, or not of this job, stops the job with a sentence that names the file."""
    settle(tmp_path, SHARD, 0, 2)
    segment = tmp_path / "seg" / "00000000" / "000000.jsonl.zst"
    segment.write_bytes(damage(segment.read_bytes()))
    journal = Journal(tmp_path, JOB)
    with pytest.raises(StorageError, match=r"000000\.jsonl\.zst"):
        journal.resume([SHARD])
    journal.close()


def test_every_flipped_bit_of_a_segment_is_noticed() -> None:
    """One flipped bit anywhere in a segment never changes what it says: it is damaged, or reads the same."""
    data = segments.encode(JOB, "00000000", 0, [record(0), record(2)])
    whole = list(segments.decode(data, "s", JOB)[1])
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            rows = list(segments.decode(bytes(flipped), "s", JOB)[1])
        except StorageError:
            continue
        assert rows == whole, bit


def test_damaged_done_mark(tmp_path: Path) -> None:
    """A mark that can't be read stops the job with a sentence that names the file."""
    settle(tmp_path, SHARD, 0, 1, 2, 3)
    (tmp_path / "done" / "00000000.json").write_bytes(b"{")
    journal = Journal(tmp_path, JOB)
    with pytest.raises(StorageError, match=r"00000000\.json"):
        journal.resume([SHARD])
    journal.close()


def test_many_shards_at_once(tmp_path: Path) -> None:
    """Many shards, settled in turns, are all sealed and none is mixed up with another."""
    shards = [Shard(i, 0, 0, 1, 10 * i, 10, 1) for i in range(50)]
    journal = Journal(tmp_path, JOB)
    for offset in range(10):
        for shard in shards:
            journal.append(shard, record(shard.first_row + offset))
    journal.close()
    assert [row[0] for shard in shards for row in journal.rows(shard)] == list(range(500))
    assert journal.counts.total == 500
    assert len(list((tmp_path / "done").iterdir())) == 50


def test_trouble_of_the_thread_reaches_the_caller(tmp_path: Path) -> None:
    """If shards can't be sealed, the job learns it instead of believing that all is well."""
    journal = Journal(tmp_path, JOB)
    (tmp_path / "seg").rmdir()
    (tmp_path / "seg").write_bytes(b"a file in the way")
    for index in range(4):
        journal.append(SHARD, record(index))
    with pytest.raises(StorageError):
        journal.close()
