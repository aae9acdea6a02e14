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
    """Rows whose `custom_id` is used by an earlier row of the same input: index to the place of that row."""
    fallback_ids: dict[int, str] = field(default_factory=dict)
    """Rows that give no `custom_id` and can't be called `row-<index>`, for another row has given that: index to id."""

    def has_rows_of(self, other: "Shard") -> bool:
        """Tell whether both are the same range of rows."""
        mine = (self.id, self.file, self.offset, self.line, self.first_row, self.rows, self.num_bytes)
        return mine == (other.id, other.file, other.offset, other.line, other.first_row, other.rows, other.num_bytes)

    @property
    def name(self) -> str:
        """How the shard is called in the state."""
        return f"{self.id:08d}"
