"""Shards: contiguous ranges of rows of one file, the unit of ordering, of handing out and of resume."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Shard:
    """A contiguous range of rows of one input."""

    id: int
    file: int
    """Position of the input in the job."""
    offset: int
    """Byte of the input at which the first row's line begins."""
    line: int
    """Number of that line, from 1."""
    first_row: int
    """Index of the first row in the job."""
    rows: int
    num_bytes: int
    repeats: dict[int, str] = field(default_factory=dict)
    """Rows whose `custom_id` is used by an earlier row: index to the place of that row."""

    @property
    def name(self) -> str:
        """How the shard is called in the state."""
        return f"{self.id:08d}"
