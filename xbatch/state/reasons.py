"""Why rows failed: counts by reason, each with its first row; in bounded memory, however many rows there are."""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from xbatch.rows.reason import advice, explain
from xbatch.rows.shard import Shard
from xbatch.state.records import Kind

SHARD_REASONS = 16
"""Reasons that are told apart in one shard."""
JOB_REASONS = 50
"""Reasons that are told apart in one job."""


class Reason(msgspec.Struct):
    """Rows that failed for the same reason."""

    code: str
    status_code: int | None
    message: str
    """Of the first of them."""
    retryable: bool
    rows: int
    row: int
    """Index of the first of them."""
    line: int
    """Number of its line in its input, 0 if it is not known."""
    custom_id: str | None

    def absorb(self, other: "Reason") -> None:
        """Count other rows that failed for this reason."""
        rows = self.rows + other.rows
        if other.row < self.row:
            self.message, self.row, self.line, self.custom_id = other.message, other.row, other.line, other.custom_id
        self.rows = rows


class Reasons(msgspec.Struct):
    """Counts of failed rows by reason."""

    found: dict[str, Reason] = {}
    others: int = 0
    """Failed rows whose reason is not told apart, or not known."""

    def take(self, row: int, kind: Kind, response: bytes, input_line: int, *, most: int = SHARD_REASONS) -> None:
        """Count a row, if it failed; at most `most` reasons are told apart."""
        if kind == Kind.COMPLETED:
            return
        why = explain(response)
        retryable, line = kind == Kind.RETRYABLE, input_line or why.line
        reason = Reason(why.code, why.status_code, why.message, retryable, 1, row, line, why.custom_id)
        self._count(f"{kind.name} {why.kind}", reason, most)

    def add(self, other: "Reasons", *, most: int = SHARD_REASONS) -> None:
        """Count everything that another has counted."""
        for key, reason in other.found.items():
            self._count(key, msgspec.structs.replace(reason), most)
        self.others += other.others

    def told(self, shards: list[Shard], inputs: list[str]) -> dict[str, Any]:
        """Tell the reasons as JSON, the most frequent first; `inputs` names the job's inputs."""
        files = _files(shards, inputs)
        by_rows = sorted(self.found.values(), key=lambda each: (-each.rows, each.row))
        return {"failures": [_told(each, files(each.row)) for each in by_rows], "other_failures": self.others}

    def _count(self, key: str, reason: Reason, most: int) -> None:
        if (known := self.found.get(key)) is not None:
            known.absorb(reason)
        elif len(self.found) < most:
            self.found[key] = reason
        else:
            self.others += reason.rows


def reasons_of(rows: Iterable[tuple[int, Kind, bytes, int]]) -> Reasons:
    """Count the reasons of the failed ones among settled rows of a shard."""
    reasons = Reasons()
    for row, kind, response, input_line in rows:
        reasons.take(row, kind, response, input_line)
    return reasons


def _told(reason: Reason, file: str | None) -> dict[str, Any]:
    return {
        "code": reason.code,
        "status_code": reason.status_code,
        "message": reason.message,
        "rows": reason.rows,
        "retryable": reason.retryable,
        "file": file,
        "line": reason.line or None,
        "custom_id": reason.custom_id,
        "advice": advice(reason.code, status_code=reason.status_code, retryable=reason.retryable),
    }


def _files(shards: list[Shard], inputs: list[str]) -> Callable[[int], str | None]:
    """Return what tells the input of a row by its index."""
    firsts = [shard.first_row for shard in shards]

    def file(row: int) -> str | None:
        place = bisect_right(firsts, row) - 1
        return inputs[shards[place].file] if 0 <= place < len(shards) else None

    return file
