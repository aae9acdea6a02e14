"""Bytes of a table that are not UTF-8 text, in a template."""

from collections.abc import Iterable
from typing import Any, NoReturn

from xbatch.rows.row import CellPath


class BytesError(Exception):
    """A template uses bytes as text that are none."""


class NotText:
    """Bytes that are not UTF-8: whatever a template does with them fails, but for the filter `base64`."""

    def __init__(self, base64: str, column: str) -> None:
        self.base64 = base64
        self.column = column

    def refuse(self, *_: Any) -> NoReturn:
        """Raise BytesError, which tells how to send the bytes."""
        as_base64 = f"{{{{ {self.column} | base64 }}}}"
        raise BytesError(f"column {self.column} holds bytes that are not UTF-8 text; {as_base64} sends them as base64")

    def __bool__(self) -> bool:
        """Bytes that are no text are not empty, so templates can ask whether there are any."""
        return True

    __str__ = __repr__ = __len__ = __iter__ = __getitem__ = __contains__ = __format__ = __eq__ = __hash__ = refuse
    __lt__ = __le__ = __gt__ = __ge__ = __add__ = __radd__ = __mul__ = __mod__ = refuse


def mark_not_text(row: dict[str, Any], cells: Iterable[CellPath]) -> None:
    """Put a NotText in the place of each of these cells of a row, which hold base64."""
    for path in cells:
        holder: Any = row
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = NotText(holder[path[-1]], column_name(path))


def column_name(path: CellPath) -> str:
    """Return the name of a value inside a row, as templates write it; places in lists are left out."""
    return ".".join(step for step in path if isinstance(step, str))


def refuse_not_text(value: Any) -> None:
    """Raise BytesError if a value holds bytes that are no text."""
    if isinstance(value, NotText):
        value.refuse()
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        refuse_not_text(each)
