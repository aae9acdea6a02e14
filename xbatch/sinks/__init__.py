"""Where responses go."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class OutputRow(NamedTuple):
    """A response on its way to the output."""

    file: int
    """Position of the input that the row came from."""
    completed: bool
    line: bytes


@dataclass(frozen=True, slots=True)
class Published:
    """The receipt for one output file."""

    uri: str
    rows: int
    num_bytes: int
    sha256: str


class Sink(Protocol):
    """The output of a job."""

    def check(self) -> None:
        """Find out whether the output could be published, leaving nothing behind.

        Raises UsageError.
        """

    def published(self, receipts: Iterable[dict[str, Any]]) -> bool:
        """Every file of the output is there, as these receipts (of the class below, as JSON) say."""
        ...

    def clean(self) -> None:
        """Remove what killed processes have left of files that were to be published."""

    def publish(self, rows: Iterable[OutputRow]) -> list[Published]:
        """Publish all responses, which come in input order; every file appears whole or not at all.

        The same rows give the same bytes. Raises StorageError.
        """
