"""A row as a source delivers it, before anybody has looked inside."""

import msgspec

CellPath = tuple[str | int, ...]
"""A column, and the fields and positions that lead from it to a value inside."""


class BadCell(msgspec.Struct, frozen=True, gc=False):
    """What a table's row has that no request can hold."""

    column: str
    """Where it is: `body`, or `image.bytes` for a field of a struct."""
    custom_id: str | None = None
    """The `custom_id` that the row gives."""
    not_text: tuple[CellPath, ...] = ()
    """The row's binary values that are not UTF-8, each as base64 in the row's data. If there are none, the row's data
    is the text that can't be read, not an object."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """One unparsed row and where it stands.

    A struct, for it is made for each row of the input, and to make a frozen dataclass takes many times as long.
    """

    index: int
    """Position in the job, from 0, over all its inputs."""
    within: str
    """What a user finds its line behind: `requests.jsonl:`."""
    line: int
    """Number of its line in its input, from 1."""
    offset: int
    """Byte of its input at which reading starts again to get it."""
    data: bytes
    """The row without its line end; only its beginning if `too_long`."""
    num_bytes: int
    """The row's size in its input."""
    too_long: bool = False
    """The row is over the limit on a row's size and was skipped unread."""
    first_use: str | None = None
    """Where the row's `custom_id` stands for the first time, if that is another row."""
    fallback_id: str | None = None
    """The `custom_id` of the row if it gives none; None stands for `row-<index>`."""
    bad_cell: BadCell | None = None
    """Only rows of tables have one."""

    @property
    def place(self) -> str:
        """Where a user finds it: `requests.jsonl:7`."""
        return f"{self.within}{self.line}"
