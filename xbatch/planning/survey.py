"""What is to be said about a job's rows before any of them is answered; in bounded memory, however many there are."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import msgspec

from xbatch.planning.index import Index
from xbatch.planning.repeats import RepeatCounter, RepeatFinder
from xbatch.rows.body import refusal
from xbatch.rows.problem import Problem, Refusal, unplaced
from xbatch.rows.request import ParsedRow, Rejected, Request
from xbatch.rows.row import Row

_GOOD, _BAD = range(2)
"""A row that can be sent so far; one that can't."""
_STATE_BITS = 1
_LINE_BITS = 40
_MODEL_CHARS = 200
_encode = msgspec.json.Encoder().encode

Place = Callable[[int, int], tuple[str, str]]
"""From an input's position and a line in it to the input's name and the place as messages have it."""


class Survey:
    """Counts rows and judges them.

    `served` are the names under which the model is asked for, None while they are not known. What goes on from row to
    row is kept in sorted digests, in `spool_folder` where they are many.
    """

    def __init__(self, served: Collection[str] | None, place: Place, spool_folder: Path | None = None) -> None:
        self.index = Index()
        self.failed = 0
        """Rows that can't be sent, or would be refused."""
        self.codes: Counter[str] = Counter()
        self.endpoints: dict[str, int] = {}
        self._served = served
        self._place = place
        self._ids = RepeatFinder(spool_folder)
        self._bodies = RepeatCounter(spool_folder)

    def take(
        self, file: int, row: Row, parsed: ParsedRow, verdict: Refusal | None = None, *, judged: bool = False
    ) -> Problem | None:
        """Count one row of the input at position `file`; say what is wrong with it, if anything is.

        With `judged` an engine has judged its body, and `verdict` is what it found wrong.
        """
        line, found, state = row.line, None, _GOOD
        self.index.take(row, parsed)
        if isinstance(parsed, Rejected):
            failure = parsed.failure
            found = Refusal(failure.code, unplaced(failure, row.place))
            state = _BAD
        else:
            self.endpoints[parsed.endpoint] = self.endpoints.get(parsed.endpoint, 0) + 1
            if (found := verdict if judged else self._refused(parsed)) is not None:
                state = _BAD
            elif parsed.body.get("temperature") == 0:
                self._bodies.add(_encode(parsed.body))
        code = ((file << _LINE_BITS) | line) << _STATE_BITS | state
        self._ids.add(parsed.custom_id.encode(), code, file, line, generated=parsed.nameless)
        return None if found is None else self._problem(file, line, parsed.custom_id, found)

    def repeats(self) -> Iterator[Problem]:
        """Yield the rows whose `custom_id` an earlier one of their file has; called when every row was taken."""
        for code, first in self._ids.repeats():
            if first is None:
                continue  # it gets an id that no other row has
            place, state = code >> _STATE_BITS, code & ((1 << _STATE_BITS) - 1)
            text = f"its custom_id is already used in {self._place(*first)[1]}"
            file, line = place >> _LINE_BITS, place & ((1 << _LINE_BITS) - 1)
            yield self._problem(file, line, None, Refusal("duplicate_custom_id", text), counted=state == _BAD)

    @property
    def shared_ids(self) -> tuple[int, str | None]:
        """Rows whose `custom_id` an earlier file has too, and where the first of them stands; known after `repeats`."""
        if self._ids.first_shared is None:
            return 0, None
        place, first = (self._place(*each)[1] for each in self._ids.first_shared)
        return self._ids.shared, f"{place} has that of {first}"

    def repeated_requests(self) -> int:
        """Rows that must get the answer of an earlier one: the same body, at temperature 0."""
        return self._bodies.count()

    def close(self) -> None:
        """Give the spool files back."""
        self._ids.close()
        self._bodies.close()

    def _refused(self, request: Request) -> Refusal | None:
        if (found := refusal(request)) is not None:
            return found
        if self._served is None:
            return None
        model = request.model
        if not model or model in self._served or not isinstance(model, str):
            return None
        return _unknown_model(model)

    def _problem(
        self, file: int, line: int, custom_id: str | None, found: Refusal, *, counted: bool = False
    ) -> Problem:
        self.codes[found.code] += 1
        self.failed += not counted
        name, place = self._place(file, line)
        return Problem(name, line, place, custom_id, found.code, found.message, found.param, found.status_code)


def _unknown_model(name: str) -> Refusal:
    """What vLLM's server says to a request for a model that it doesn't serve."""
    shown = name if len(name) <= _MODEL_CHARS else f"{name[:_MODEL_CHARS]}..."
    return Refusal("model_not_found", f"The model `{shown}` does not exist.", "model", 404)
