"""What prompts have in common, told from their tokens in order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from xbatch.rows.request import TOKEN_BYTES

SAMPLE = 4096
"""So many prompts tell enough of any number: a look at all of them would hold the event loop up."""
_ZONES = 4
_PIVOTS = 256
_FIRST_STEP = 64


@dataclass(frozen=True, slots=True)
class Sharing:
    """How much of some prompts is the same."""

    tokens: float = 0
    """Of all prompts."""
    shared: float = 0
    """Those that a prompt has in common with the one before it in order: they need not be computed again."""
    distinct: float = 0
    """Those of the prefixes that several prompts share, each counted once: what a cache would have to hold."""


def common_tokens(one: bytes, two: bytes) -> int:
    """The number of tokens with which both prompts begin."""
    low, high, step = 0, min(len(one), len(two)), _FIRST_STEP
    while low + step < high and one[low : low + step] == two[low : low + step]:
        low, step = low + step, step * 2
    high = min(high, low + step)
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == two[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low // TOKEN_BYTES


def sharing(prompts: Sequence[bytes], block: int = 1, most: int = SAMPLE) -> Sharing:
    """How much prompts share, in whole blocks of tokens; estimated if there are more than `most` of them."""
    tokens = shared = distinct = looked_at = 0
    for run in _runs(prompts, most):
        looked_at += len(run)
        tokens += sum(map(len, run)) // TOKEN_BYTES
        # What the first ones of a stretch share may be shared by many before them.
        before = 0 if len(prompts) <= most else common_tokens(*run[:2]) if len(run) > 1 else 0
        for one, two in pairwise(run):
            common = common_tokens(one, two) // block * block
            shared += common
            distinct += max(0, common - before)
            before = common
    scale = len(prompts) / max(looked_at, 1)
    return Sharing(tokens * scale, shared * scale, distinct * scale)


def _runs(prompts: Sequence[bytes], most: int) -> Iterator[list[bytes]]:
    """All prompts in order, or whole stretches of that order from several places of it."""
    if len(prompts) <= most:
        yield sorted(prompts)
        return
    pivots = sorted(prompts[:: len(prompts) // _PIVOTS or 1])
    zone = len(pivots) // _ZONES
    kept = max(1, zone * most // len(prompts))
    none = True
    for start in range(0, zone * _ZONES, zone):
        first, end = pivots[start], pivots[start + kept]
        if run := [prompt for prompt in prompts if first <= prompt < end]:
            none = False
            yield sorted(run[: 2 * most])
    if none:  # most of them are the same
        yield sorted(prompts[:most])
