"""How long the rows of a job are, told by a histogram of fixed size."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from xbatch.rows.request import Request

BYTES_A_TOKEN = 4
"""Of a row's text in JSON, roughly; more only makes the guess of what it needs smaller."""
_DEFAULT_ANSWER = 256
"""Tokens that an answer may be expected to have where its row sets no limit."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a row needs."""

    rows: int
    """So many were looked at."""
    typical_tokens: int
    """Prompt and answer of a row in the middle."""
    long_tokens: int
    """Prompt and answer of a row that is longer than nine of ten."""


@dataclass(slots=True)
class RowSizes:
    """A histogram of the tokens that rows need at most, by eighths of powers of two."""

    counts: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    """By numbers that are made of the highest bit of the tokens and the three below it."""

    def take(self, request: Request) -> None:
        """Count one row."""
        tokens = request.num_bytes // BYTES_A_TOKEN + (request.limit or _DEFAULT_ANSWER)
        bits = tokens.bit_length() - 4
        self.counts[bits << 4 | tokens >> bits if bits > 0 else tokens] += 1

    def expect(self) -> Expectation | None:
        """What is to be expected of a row; None before any was seen."""
        rows = sum(self.counts.values())
        return Expectation(rows, self._quantile(rows // 2), self._quantile(rows * 9 // 10)) if rows else None

    def facts(self) -> dict[str, int]:
        """The histogram as JSON."""
        return {str(bucket): count for bucket, count in sorted(self.counts.items())}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """The histogram that gave these facts."""
        return cls(defaultdict(int, {int(bucket): count for bucket, count in facts.items()}))

    def _quantile(self, rank: int) -> int:
        for bucket in sorted(self.counts):
            rank -= self.counts[bucket]
            if rank < 0:
                break
        return _upper(bucket)


def _upper(bucket: int) -> int:
    """The most tokens of a bucket."""
    bits, top = bucket >> 4, bucket & 15
    return ((top + 1) << bits) - 1
