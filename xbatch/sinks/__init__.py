"""Where responses go."""

from collections.abc import Iterable, Mapping, Sequence
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

    def check(self) -> list[str]:
        """Find out whether the output could be published, leaving nothing behind; every source must be checked before.

        Returns sentences that the user should see. Raises UsageError, or StorageError if it is trouble that goes away
        without a change of the command.
        """

    def published(self, outputs: Sequence[Mapping[str, Any]]) -> bool:
        """Tell whether the files of earlier receipts, given as a report has them, are the whole output and still there.

        Raises StorageError.
        """

    def clean(self) -> None:
        """Remove what killed processes have left of files that were to be published."""

    def publish(self, rows: Iterable[OutputRow]) -> list[Published]:
        """Publish all responses, which come in input order; every file appears whole or not at all.

        The same rows give the same bytes. Raises StorageError.
        """
