"""What is claimed of xbatch, in numbers: its own, a peer's from the same run, and what their ratio must reach."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a number is."""

    name: str
    digits: int = 0
    of_times: bool = False
    """A peer's number over xbatch's is how many times as fast xbatch is; else the other way round."""


RATE = Quantity("rows/s while answering")
WHOLE = Quantity("s, whole command", 1, of_times=True)
START = Quantity("s, whole command over 16 rows", 1, of_times=True)
CPU = Quantity("ms of CPU a row, own processes", 2)
MEMORY = Quantity("bytes of own peak memory a row")
GROWTH = Quantity("MB of own peak memory more", 1)
PIPELINE = Quantity("rows/s on one core, engine of no time")
VALIDATE = Quantity("rows/s validated")
HELP = Quantity("ms, `xbatch --help`")
JOURNAL = Quantity("rows/s that the journal keeps")
KEEPING = Quantity("rows/s while answering, the journal kept")


@dataclass(frozen=True, slots=True)
class Claim:
    """One row of the table; `ours` and `theirs` have a number for each round."""

    workload: str
    quantity: Quantity
    ours: tuple[float, ...]
    against: str = ""
    theirs: tuple[float, ...] = ()
    bar: float | None = None
    """What the ratio, or xbatch's own number where there is no peer, must reach."""
    at_most: bool = False
    """The bar must not be passed rather than reached."""

    @property
    def ratios(self) -> tuple[float, ...]:
        """Round by round, for the two of a round had the same machine."""
        pairs = list(zip(self.ours, self.theirs, strict=True)) if self.theirs else []
        return tuple(theirs / ours if self.quantity.of_times else ours / theirs for ours, theirs in pairs)

    @property
    def figures(self) -> tuple[float, ...]:
        """What the bar is for."""
        return self.ratios or self.ours

    @property
    def holds(self) -> bool | None:
        """Whether the median reaches the bar; None where there is none, or nothing was measured."""
        return None if (margin := self.margin) is None else margin >= 1

    @property
    def margin(self) -> float | None:
        """By what factor the median is better than the bar; None where `holds` is."""
        if self.bar is None or not self.figures:
            return None
        found = median(self.figures)
        return self.bar / max(found, 1e-9) if self.at_most else found / self.bar


def spread(numbers: Sequence[float], show: Callable[[float], str]) -> str:
    """`median (min..max)`."""
    if not numbers:
        return "-"
    if len(numbers) == 1:
        return show(numbers[0])
    return f"{show(median(numbers))} ({show(min(numbers))}..{show(max(numbers))})"
