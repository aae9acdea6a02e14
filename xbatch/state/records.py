"""What the journal keeps of a settled row."""

from dataclasses import astuple, dataclass
from enum import IntEnum

from xbatch.rows.outcome import Completion, Outcome, Usage


class Kind(IntEnum):
    """How a row was settled; the numbers are those of the write-ahead log."""

    FAILED = 0
    COMPLETED = 1
    RETRYABLE = 2
    """Failed, but trying again could help."""


@dataclass(frozen=True, slots=True)
class Record:
    """A settled row: its response as it will stand in the output, and what it cost."""

    index: int
    kind: Kind
    usage: Usage
    line: bytes
    """The response, one line of JSON without its end."""
    input_line: int = 0
    """Number of a failed row's line in its input, from 1; 0 for a completed row, and where it is not known."""

    @classmethod
    def of(cls, index: int, outcome: Outcome, line: bytes, input_line: int = 0) -> "Record":
        """Make the record of an outcome and the response line made from it."""
        if isinstance(outcome, Completion):
            return cls(index, Kind.COMPLETED, outcome.usage, line)
        kind = Kind.RETRYABLE if outcome.retryable else Kind.FAILED
        return cls(index, kind, Usage(0, 0), line, input_line)


@dataclass(slots=True)
class Counts:
    """Sums over records; OpenAI's `request_counts` and `usage`."""

    completed: int = 0
    failed: int = 0
    retryable: int = 0
    """Of the failed ones, those that could be tried again."""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total(self) -> int:
        """Settled rows."""
        return self.completed + self.failed

    def take(self, record: Record) -> None:
        """Count one record."""
        self.completed += record.kind == Kind.COMPLETED
        self.failed += record.kind != Kind.COMPLETED
        self.retryable += record.kind == Kind.RETRYABLE
        self.prompt_tokens += record.usage.prompt_tokens
        self.completion_tokens += record.usage.completion_tokens

    def add(self, other: "Counts") -> None:
        """Count everything that another has counted."""
        self.completed += other.completed
        self.failed += other.failed
        self.retryable += other.retryable
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens

    def since(self, earlier: "Counts") -> "Counts":
        """What has been counted since then."""
        return Counts(*(now - before for now, before in zip(astuple(self), astuple(earlier), strict=True)))
