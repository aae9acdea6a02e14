"""How long answers will be, learnt from those that have come."""

from typing import TypeAlias

from xbatch.rows.request import Request

ENOUGH = 8
"""So many answers to requests of one shape tell how long the next ones will be."""
MAX_SHAPES = 4096

Shape: TypeAlias = tuple[str, int, int]
"""Endpoint, most tokens of the answer, and the prompt's length to a power of two."""


class Lengths:
    """Expects of a request the mean length of the answers to others of its shape; at first, the most that is allowed.

    Requests whose answers have no limit that could be told are expected to be of length 0, which means nothing.
    """

    def __init__(self) -> None:
        self._seen: dict[Shape, tuple[int, int]] = {}

    def expected(self, request: Request) -> int:
        """Tokens that the answer is expected to have."""
        shape = _shape(request)
        answers, tokens = self._seen.get(shape, (0, 0))
        return shape[1] if answers < ENOUGH else max(1, tokens // answers)

    def learn(self, request: Request, tokens: int) -> None:
        """Take in how long an answer was."""
        shape = _shape(request)
        if (known := self._seen.get(shape)) is not None:
            self._seen[shape] = (known[0] + 1, known[1] + tokens)
        elif len(self._seen) < MAX_SHAPES:
            self._seen[shape] = (1, tokens)


def length_class(expected: int, median: int) -> int:
    """How far an answer stands out: 0 below four times the median, 1 below sixteen times, and so on."""
    return ((expected // max(median, 1)) | 1).bit_length() - 1 >> 1


def _shape(request: Request) -> Shape:
    if (prompt := request.prompt) is not None:
        return request.endpoint, prompt.max_tokens, prompt.num_tokens.bit_length()
    return request.endpoint, request.limit or 0, 0
