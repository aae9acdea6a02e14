"""A row as a source delivers it, before anybody has looked inside."""

import msgspec


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

    @property
    def place(self) -> str:
        """Where a user finds it: `requests.jsonl:7`."""
        return f"{self.within}{self.line}"
