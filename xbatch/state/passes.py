"""The passes over a job's rows: the first over all of them, later ones over rows that had failed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from xbatch.errors import XbatchError
from xbatch.rows.shard import Shard
from xbatch.state.folder import StateFolder, round_prefix
from xbatch.state.journal import Journal
from xbatch.state.layer import Layer
from xbatch.state.reasons import Reasons, reasons_of
from xbatch.state.records import Counts, Kind
from xbatch.state.segments import Settled

Targets: TypeAlias = Mapping[int, frozenset[int]]
"""Rows to settle, by the id of their shard."""
Kept: TypeAlias = Callable[[Shard], Reasons]
"""Tells why those rows of a shard failed that a pass does not run again."""


class Passes:
    """Every row's last response, over all passes.

    `open_journal` opens the journal of a pass over shards, by its number from 0, and reads it back.
    """

    def __init__(
        self, shards: list[Shard], open_journal: Callable[[list[Shard], int, Targets | None, Kept], Journal]
    ) -> None:
        self.shards = shards
        self._open_journal = open_journal
        self._journals = [open_journal(shards, 0, None, lambda _: Reasons())]
        self._targets: list[Targets] = []
        self._retryable: list[int] = []

    @property
    def current(self) -> Journal:
        """The last pass's journal."""
        return self._journals[-1]

    @property
    def rounds(self) -> int:
        """Passes over failed rows so far."""
        return len(self._targets)

    @property
    def targets(self) -> Targets | None:
        """What the last pass is to settle; None stands for every row."""
        return self._targets[-1] if self._targets else None

    @property
    def total(self) -> int:
        """Rows that the last pass is to settle."""
        if self._targets:
            return sum(map(len, self._targets[-1].values()))
        return sum(shard.rows for shard in self.shards)

    @property
    def complete(self) -> bool:
        """Every row of the last pass is settled."""
        return self.current.counts.total >= self.total

    def failed(self, *, every: bool, rows: int) -> tuple[Targets, int]:
        """Of the first `rows` rows those whose last response is a failure, or only those that could be tried again.

        Also how many of them could be. All passes must be complete and closed.
        """
        found, retryable = {}, 0
        for shard in self.shards:
            counts = [journal.counts_of(shard) for journal in self._journals]
            if any(each.failed if every else each.retryable for each in counts):
                failed = [row for row in self.rows(shard) if row.kind is not Kind.COMPLETED and row.row < rows]
                again = {row.row for row in failed if row.kind is Kind.RETRYABLE}
                if targets := frozenset(row.row for row in failed) if every else frozenset(again):
                    found[shard.id] = targets
                retryable += len(again)
        return found, retryable

    def begin(self, targets: Targets, retryable: int) -> None:
        """Open the next pass, over rows of which so many could be tried again."""
        earlier = len(self._journals)

        def kept(shard: Shard) -> Reasons:
            again = targets[shard.id]
            return reasons_of(row for row in self._rows(shard, earlier) if row.row not in again)

        self._targets.append(targets)
        self._retryable.append(retryable)
        self._journals.append(self._open_journal(self.shards, earlier, targets, kept))

    def rows(self, shard: Shard) -> Iterator[Settled]:
        """Yield every row of a shard in order, each with its last response."""
        return self._rows(shard, len(self._journals))

    def _rows(self, shard: Shard, passes: int) -> Iterator[Settled]:
        """Return every row of a shard in order, as it stood after the first `passes` passes."""
        again = [
            journal
            for journal, targets in zip(self._journals[1:passes], self._targets[: passes - 1], strict=True)
            if shard.id in targets
        ]
        rows = self._journals[0].rows(shard)
        if not again:
            return rows
        last = {row.row: row for journal in again for row in journal.rows(shard)}
        return (last.get(row.row, row) for row in rows)

    def counts(self) -> Counts:
        """Counts over all rows. A row that was run again counts once, its tokens as often as they were spent."""
        first, *again = (journal.sealed for journal in self._journals)
        counts = Counts()
        counts.add(first)
        for later, retryable in zip(again, self._retryable, strict=True):
            counts.completed += later.completed
            counts.failed -= later.completed
            counts.retryable += later.retryable - retryable
            counts.prompt_tokens += later.prompt_tokens
            counts.completion_tokens += later.completion_tokens
        return counts


def next_round(passes: Passes, folder: StateFolder, wanted: Literal["retryable", "all"] | None) -> bool:
    """Open the next pass over failed rows that has work left; False if there is none.

    That is one which an earlier run has begun; if there is none, and one is wanted, a new one over the rows that have
    failed by now. A round that a run has ended without coming to its report was the one that was wanted. Everything
    before must be complete and closed.
    """
    begun = folder.rounds()
    while passes.rounds < len(begun):
        last = begun[passes.rounds]
        passes.begin(*passes.failed(every=last.every, rows=last.rows))
        if not passes.complete:
            return True
        passes.current.close()
        if passes.rounds == len(begun) and folder.report() is None:
            return False
    if wanted is None:
        return False
    every, rows = wanted == "all", sum(shard.rows for shard in passes.shards)
    targets, retryable = passes.failed(every=every, rows=rows)
    if not targets:
        return False
    folder.begin_round(every=every, rows=rows, targets=sum(map(len, targets.values())), retryable=retryable)
    passes.begin(targets, retryable)
    return True


@dataclass(frozen=True, slots=True)
class JournalMaker:
    """Opens the journal of each pass of a job and reads it back; `opened` is then called with it."""

    folder: StateFolder
    job: str
    epoch: int
    commit_s: float
    fence: Callable[[], None]
    alarm: Callable[[XbatchError], None]
    opened: Callable[[Journal], None]

    def __call__(self, shards: list[Shard], number: int, targets: Targets | None, kept: Kept) -> Journal:
        """Open the journal of one pass."""
        prefix = round_prefix(number)
        layer = Layer(self.folder.store, self.folder.path / prefix, prefix, self.job, self.epoch)
        journal = Journal(layer, targets=targets, kept=kept, commit_s=self.commit_s, fence=self.fence, alarm=self.alarm)
        journal.resume(shards)
        self.opened(journal)
        return journal
