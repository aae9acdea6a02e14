"""The first rows of a file, none of which may be a request."""

from collections.abc import Iterable
from itertools import islice

from xbatch.rows import strict_json
from xbatch.rows.request import Rejected, parse
from xbatch.rows.row import Row

FIRST_ROWS = 100
"""How many rows are looked at before a file is refused for what all of them are."""

_CODES = ("unknown_row_shape", "invalid_url", "body_not_object")


def unsendable(rows: Iterable[Row], *, templated: bool) -> str | None:
    """Say what is wrong with the first row, if the shape of none of the first rows can become a request.

    None if any row can, or can't be read, or has no keys. With a template any object can.
    """
    first: str | None = None
    for row in islice(rows, FIRST_ROWS):
        if row.too_long:
            return None
        try:
            value = strict_json.decode(row.data)
        except strict_json.BadJson:
            return None
        if isinstance(value, dict) and (templated or not value):
            return None
        parsed = parse(row)
        if not isinstance(parsed, Rejected) or parsed.failure.code not in _CODES:
            return None
        first = first or parsed.failure.message
    return first
