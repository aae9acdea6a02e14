"""What keeps a row from being answered, and where it stands."""

from dataclasses import dataclass

from xbatch.rows.outcome import Failure


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with one row."""

    file: str
    """The input as the user called it."""
    line: int
    """Number of the line, or of the row of a table, from 1."""
    place: str
    """Both, as messages have them."""
    custom_id: str | None
    """None where it is not known."""
    code: str
    message: str
    param: str | None = None
    """The field of the body that is wrong, where one is."""
    status_code: int | None = None
    """What the API would answer; None for a row that can't be sent to it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a row is none that gets an answer, without where it stands."""

    code: str
    message: str
    param: str | None = None
    status_code: int | None = None


def unplaced(failure: Failure, place: str) -> str:
    """A failure's message without the place that it begins with."""
    return failure.message.removeprefix(f"{place}: ")
