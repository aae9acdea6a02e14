"""Passes: failed rows run again, and every row's last response counts."""

from collections.abc import Mapping
from itertools import count
from pathlib import Path

import pytest

from xbatch.rows.outcome import Usage
from xbatch.rows.shard import Shard
from xbatch.state.folder import StateFolder, round_prefix
from xbatch.state.journal import Journal
from xbatch.state.layer import Layer
from xbatch.state.passes import Kept, Passes, Targets, next_round
from xbatch.state.records import Counts, Kind, Record

SHARDS = [Shard(0, 0, 0, 1, 0, 4, 100), Shard(1, 0, 100, 5, 4, 3, 100), Shard(2, 0, 200, 8, 7, 2, 100)]
GOOD, BAD, AGAIN = Kind.COMPLETED, Kind.FAILED, Kind.RETRYABLE
FIRST = {0: GOOD, 1: AGAIN, 2: BAD, 3: GOOD, 4: AGAIN, 5: GOOD, 6: AGAIN, 7: BAD, 8: GOOD}
EPOCHS = count(1)


class Process:
    """One run over a job's state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = StateFolder(str(folder))
        job = self.folder.create({"model": "m"}).job

        def open_journal(_: list[Shard], number: int, targets: Targets | None, kept: Kept) -> Journal:
            prefix = round_prefix(number)
            layer = Layer(self.folder.store, self.folder.path / prefix, prefix, job, next(EPOCHS))
            journal = Journal(layer, targets=targets, kept=kept)
            journal.resume(SHARDS)
            return journal

        self.passes = Passes(SHARDS, open_journal)

    def settle(self, kinds: Mapping[int, Kind], text: str) -> None:
        """Settle rows of the current pass, each at the cost of 1 and 10 tokens, and end it."""
        journal = self.passes.current
        for index, kind in kinds.items():
            [shard] = [s for s in SHARDS if s.first_row <= index < s.first_row + s.rows]
            settled = journal.settled(shard)
            assert settled is not None
            assert index not in settled, "the row needs no answer"
            journal.append(shard, Record(index, kind, Usage(1, 10), f"{text} {index}".encode()))
        journal.close()

    def wanted(self) -> set[int]:
        """The rows of the current pass that need an answer."""
        rows = set()
        for shard in SHARDS:
            settled = self.passes.current.settled(shard)
            if settled is not None:
                rows |= {*range(shard.first_row, shard.first_row + shard.rows)} - settled
        return rows

    def lines(self) -> dict[int, str]:
        rows = [row for shard in SHARDS for row in self.passes.rows(shard)]
        assert [row.row for row in rows] == list(range(9))
        return {row.row: row.line.decode().split()[0] for row in rows}

    def close(self) -> None:
        self.passes.current.close()


def begun(folder: Path) -> Process:
    """A job whose first pass is complete."""
    process = Process(folder)
    assert process.passes.targets is None
    assert process.passes.total == 9
    assert not process.passes.complete
    process.settle(FIRST, "first")
    assert process.passes.complete
    return process


def test_retryable_rows_run_again(tmp_path: Path) -> None:
    """A round over what is worth a retry asks for just these rows; their new responses count, the others stay."""
    process = begun(tmp_path)
    assert process.passes.counts() == Counts(4, 5, 3, 9, 90)
    assert next_round(process.passes, process.folder, "retryable")
    assert (process.passes.rounds, process.passes.total) == (1, 3)
    assert process.wanted() == {1, 4, 6}
    process.settle({1: GOOD, 4: AGAIN, 6: BAD}, "again")
    expected = dict.fromkeys(range(9), "first") | dict.fromkeys((1, 4, 6), "again")
    for one in (process, Process(tmp_path)):
        assert not next_round(one.passes, one.folder, None)
        one.close()
        assert one.lines() == expected
        assert one.passes.counts() == Counts(5, 4, 1, 12, 120)
        assert one.passes.failed(every=False, rows=100)[0] == {1: frozenset({4})}
        assert one.passes.failed(every=True, rows=100)[0] == {
            0: frozenset({2}),
            1: frozenset({4, 6}),
            2: frozenset({7}),
        }


def test_all_failed_rows_run_again(tmp_path: Path) -> None:
    """A round over every failed row asks for those, too, that were not worth a retry."""
    process = begun(tmp_path)
    assert next_round(process.passes, process.folder, "all")
    assert process.wanted() == {1, 2, 4, 6, 7}
    process.settle({1: GOOD, 2: GOOD, 4: GOOD, 6: BAD, 7: GOOD}, "again")
    assert process.passes.counts() == Counts(8, 1, 0, 14, 140)
    assert not next_round(process.passes, process.folder, "retryable")
    assert next_round(process.passes, process.folder, "all")
    assert process.wanted() == {6}
    process.settle({6: GOOD}, "third")
    assert process.passes.counts() == Counts(9, 0, 0, 15, 150)
    assert process.lines()[6] == "third"
    assert process.lines()[7] == "again"
    assert not next_round(process.passes, process.folder, "all")
    assert process.passes.rounds == 2


def test_what_became_worth_a_retry_later(tmp_path: Path) -> None:
    """A row whose last failure is worth a retry gets one, also if its first failure was not."""
    process = begun(tmp_path)
    assert next_round(process.passes, process.folder, "all")
    process.settle({1: GOOD, 2: GOOD, 4: GOOD, 6: GOOD, 7: AGAIN}, "again")
    assert process.passes.counts().retryable == 1
    assert next_round(process.passes, process.folder, "retryable")
    assert process.wanted() == {7}
    process.settle({7: GOOD}, "third")
    assert process.passes.counts() == Counts(9, 0, 0, 15, 150)


@pytest.mark.parametrize("wanted", [None, "retryable", "all"])
def test_unfinished_round_goes_on(tmp_path: Path, wanted: str | None) -> None:
    """A round that an earlier run has begun goes on with what it lacks, whether or not another one is asked for."""
    first = begun(tmp_path)
    assert next_round(first.passes, first.folder, "retryable")
    first.settle({4: GOOD}, "again")
    assert not first.passes.complete
    second = Process(tmp_path)
    assert second.passes.complete
    second.close()
    assert next_round(second.passes, second.folder, wanted)  # type: ignore[arg-type]
    assert second.wanted() == {1, 6}
    assert len(second.folder.rounds()) == 1
    second.settle({1: GOOD, 6: GOOD}, "later")
    assert second.passes.complete
    assert [second.lines()[i] for i in (1, 4, 6, 7)] == ["later", "again", "later", "first"]
    assert second.passes.counts() == Counts(7, 2, 0, 12, 120)


def test_round_begun_and_nothing_done(tmp_path: Path) -> None:
    """A round of which a crash left only the beginning is run, by its own rule."""
    first = begun(tmp_path)
    first.folder.begin_round(every=True, rows=100, targets=4, retryable=1)
    second = Process(tmp_path)
    second.close()
    assert next_round(second.passes, second.folder, None)
    assert second.wanted() == {1, 2, 4, 6, 7}
    second.close()


def test_several_rounds_over_several_processes(tmp_path: Path) -> None:
    """Rounds follow each other over any number of processes; each goes over what has failed until then."""
    begun(tmp_path)
    for number, failing in enumerate(({1, 4}, {4}, set[int]()), 1):
        process = Process(tmp_path)
        process.close()
        assert next_round(process.passes, process.folder, "retryable")
        assert process.passes.rounds == number
        wanted = process.wanted()
        process.settle({index: AGAIN if index in failing else GOOD for index in wanted}, f"r{number}")
        process.folder.write_report({})
    last = Process(tmp_path)
    last.close()
    assert not next_round(last.passes, last.folder, "retryable")
    assert {index: line for index, line in last.lines().items() if line != "first"} == {1: "r2", 4: "r3", 6: "r1"}
    assert last.passes.counts() == Counts(7, 2, 0, 15, 150)


def test_nothing_failed(tmp_path: Path) -> None:
    """Where nothing has failed there is no round to begin."""
    process = Process(tmp_path)
    process.settle(dict.fromkeys(range(9), GOOD), "first")
    for wanted in (None, "retryable", "all"):
        assert not next_round(process.passes, process.folder, wanted)  # type: ignore[arg-type]
    assert not process.folder.rounds()


def test_a_new_round_takes_the_report_away(tmp_path: Path) -> None:
    """A job that runs failed rows again is not complete until that is done."""
    process = begun(tmp_path)
    process.folder.write_report({"outputs": []})
    assert next_round(process.passes, process.folder, "retryable")
    assert process.folder.report() is None
    process.close()
