"""Where responses go."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

Claim: TypeAlias = Callable[[Sequence[str]], None]
"""A function that notes that files at some places are the job's own. It raises StorageError if one is not."""


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

    def occupied(self) -> list[str]:
        """Return the places in the way of the output at which files lie, this job's own among them.

        Raises StorageError.
        """

    def clean(self) -> None:
        """Remove what killed processes have left of files that were to be published."""

    def publish(self, rows: Iterable[OutputRow], claim: Claim) -> list[Published]:
        """Publish all responses, which come in input order; every file appears whole or not at all.

        The same rows give the same bytes. `claim` is called with all places that get a file or lose one, once every
        file is built and before anything is changed. Raises StorageError, and what `claim` raises.
        """
