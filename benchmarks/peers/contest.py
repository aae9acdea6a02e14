"""A workload that xbatch and its peers answer in turn, and what is claimed of it."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers import rows
from benchmarks.peers.bench import FEW, Bench
from benchmarks.peers.claims import CPU, MEMORY, RATE, WHOLE, Claim, Quantity
from benchmarks.peers.commands import Setting
from benchmarks.peers.measuring import Measured

OURS = "xbatch"
USUAL = Setting()


@dataclass(frozen=True, slots=True)
class Entrant:
    """A peer, and which of a workload's files it gets."""

    peer: str
    file: str = ""

    def __str__(self) -> str:
        return f"{self.peer}, {self.file}" if self.file else self.peer


@dataclass(frozen=True, slots=True)
class Bar:
    """What xbatch must reach against an entrant; without a number it is only shown."""

    against: Entrant
    quantity: Quantity = RATE
    ratio: float | None = None
    at_most: bool = False


@dataclass(slots=True)
class Contest:
    """One workload."""

    name: str
    says: str
    """What it is, for the table's reader."""
    count: int
    """Rows."""
    files: dict[str, Callable[[int], Iterable[rows.Row]]]
    """Makers of so many rows by name of file; `""` is the one that xbatch gets."""
    bars: tuple[Bar, ...]
    setting: Setting = USUAL
    shrinks: float = 1.0
    """How much of the engine's scale is taken: 0 has all rows run on every machine, 2 the square of the share."""
    took_s: float = 0.0
    """The last round's time."""
    _found: dict[str, list[tuple[Measured, Measured]]] = field(default_factory=lambda: defaultdict(list))

    def rows(self, bench: Bench) -> int:
        """So many are run."""
        return bench.answered(self.count, self.shrinks)

    def round(self, bench: Bench, number: int) -> None:
        """Have everybody answer it once, in an order that turns from round to round."""
        began_s = time.monotonic()
        entrants = [Entrant(OURS), *dict.fromkeys(bar.against for bar in self.bars)]
        for entrant in entrants[:: -1 if number % 2 else 1]:
            file = self._file(bench, entrant.file)
            needs_start = any(bar.quantity is not WHOLE for bar in self.bars)
            few = bench.start(entrant.peer, self.setting, number) if needs_start else Measured(0, None, 0, 0, 0, 0)
            count = self.rows(bench)
            setting = self.setting.scaled(count / self.count)
            many = bench.answer(self.name, entrant.peer, setting, file, count)
            self._found[str(entrant)].append((few, many))
        self.took_s = time.monotonic() - began_s

    def claims(self, bench: Bench) -> list[Claim]:
        """What has been found so far."""
        ours = self._found[OURS]
        made = []
        for bar in self.bars:
            theirs = self._found[str(bar.against)]
            both = list(zip(ours, theirs, strict=False))  # the last round may have ended between the two
            numbers = [tuple(self._number(bench, bar.quantity, *pair[i]) for pair in both) for i in (0, 1)]
            made.append(
                Claim(self.name, bar.quantity, numbers[0], str(bar.against), numbers[1], bar.ratio, bar.at_most)
            )
        return made

    def _number(self, bench: Bench, quantity: Quantity, few: Measured, many: Measured) -> float:
        rows_between = self.rows(bench) - FEW
        if quantity is RATE:
            return rows_between / max(many.answering_s - few.answering_s, 0.001)
        if quantity is CPU:
            return 1000 * (many.own_cpu_s - few.own_cpu_s) / rows_between
        if quantity is MEMORY:
            return (many.own_peak_bytes - few.own_peak_bytes) / rows_between
        assert quantity is WHOLE
        return many.took_s

    def _file(self, bench: Bench, name: str) -> Path:
        path = bench.folder / f"{self.name}-{name or 'rows'}.jsonl"
        return path if path.exists() else rows.write(path, self.files[name](self.rows(bench)))
