"""What the journal keeps of a settled row."""

from dataclasses import dataclass

from xbatch.rows.outcome import Usage


@dataclass(frozen=True, slots=True)
class Record:
    """A settled row: its response as it will stand in the output, and what it cost."""

    index: int
    completed: bool
    """False for a failure of any kind."""
    usage: Usage
    line: bytes
    """The response, one line of JSON without its end."""


@dataclass(slots=True)
class Counts:
    """Sums over records; OpenAI's `request_counts` and `usage`."""

    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total(self) -> int:
        """Settled rows."""
        return self.completed + self.failed

    def take(self, record: Record) -> None:
        """Count one record."""
        self.completed += record.completed
        self.failed += not record.completed
        self.prompt_tokens += record.usage.prompt_tokens
        self.completion_tokens += record.usage.completion_tokens

    def add(self, other: "Counts") -> None:
        """Count everything that another has counted."""
        self.completed += other.completed
        self.failed += other.failed
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
