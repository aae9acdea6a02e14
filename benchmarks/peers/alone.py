"""What is measured of xbatch without an engine: its pipeline, its memory, its small commands."""

import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, run

from benchmarks import journal
from benchmarks.peers import rows
from benchmarks.peers.bench import Bench
from benchmarks.peers.claims import (
    GROWTH,
    HELP,
    JOURNAL,
    JOURNAL_SHARE,
    MEMORY,
    PIPELINE,
    START,
    VALIDATE,
    Claim,
)
from benchmarks.peers.commands import Setting
from benchmarks.peers.contest import OURS
from benchmarks.peers.measuring import Measured

XBATCH = [sys.executable, "-m", "xbatch"]
TUNED = "run-batch tuned"


def on_one_core(command: list[str]) -> list[str]:
    """The command on one core."""
    taskset = shutil.which("taskset")
    return [taskset, "--cpu-list", "0", *command] if taskset else command


@dataclass(slots=True)
class Pipeline:
    """Rows through everything but a model, on one core; and how memory grows with them, run-batch's too."""

    count: int = 200_000
    peer_count: int = 12_000
    name: str = "pipeline"
    says: str = "39 tokens in, a fake engine of zero latency for xbatch; the real one for run-batch's memory"
    took_s: float = 0.0
    _speeds: list[float] = field(default_factory=list)
    _growths: list[float] = field(default_factory=list)
    _a_row: list[tuple[float, float]] = field(default_factory=list)
    _kept: list[float] = field(default_factory=list)

    def round(self, bench: Bench, number: int) -> None:
        """Measure once; run-batch in the first round only, for its memory does not vary."""
        began_s = time.monotonic()
        small, large = (bench.scaled(count) for count in (self.count // 10, self.count))
        few, many = (self._ours(bench, count) for count in (small, large))
        self._speeds.append((large - small) / (many.took_s - few.took_s))
        growth = many.own_peak_bytes - few.own_peak_bytes
        self._growths.append(growth / 1e6)
        if not number:
            small_peer, large_peer = (bench.scaled(count) for count in (self.peer_count // 6, self.peer_count))
            peaks = [self._theirs(bench, count) for count in (small_peer, large_peer)]
            theirs = (peaks[1] - peaks[0]) / (large_peer - small_peer)
            self._a_row.append((growth / (large - small), theirs))
        state = bench.folder / "journal"
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        self._kept.append(journal.keep_and_merge(state, bench.scaled(self.count // 2), line_bytes=600)["kept"])
        self.took_s = time.monotonic() - began_s

    def _ours(self, bench: Bench, count: int) -> Measured:
        file = _rows(bench, count)
        answers = bench.folder / "fake" / "answers.jsonl"
        shutil.rmtree(answers.parent, ignore_errors=True)
        answers.parent.mkdir()
        command = [*XBATCH, "run", str(file), "-o", str(answers), "--engine", "fake"]
        found = bench.run(self.name, OURS, on_one_core(command), count)
        with answers.open("rb") as lines:
            assert sum(1 for _ in lines) == count
        return found

    def _theirs(self, bench: Bench, count: int) -> int:
        return bench.answer(self.name, TUNED, Setting(), _rows(bench, count), count).own_peak_bytes

    def claims(self, _: Bench) -> list[Claim]:
        """What has been found so far."""
        ours, theirs = zip(*self._a_row, strict=True) if self._a_row else ((), ())
        shares = zip(self._speeds, self._kept, strict=True)
        return [
            Claim(self.name, PIPELINE, tuple(self._speeds), bar=8000),
            Claim(self.name, GROWTH, tuple(self._growths), bar=60, at_most=True),
            Claim(self.name, MEMORY, ours, TUNED, theirs),
            Claim(self.name, JOURNAL, tuple(self._kept)),
            Claim(self.name, JOURNAL_SHARE, tuple(100 * speed / kept for speed, kept in shares)),
        ]


@dataclass(slots=True)
class Small:
    """Commands that take no engine."""

    name: str = "small"
    says: str = "read by commands that take no engine"
    count: int = 200_000
    took_s: float = 0.0
    _helps: list[float] = field(default_factory=list)
    _validated: list[float] = field(default_factory=list)

    def round(self, bench: Bench, number: int) -> None:
        """Measure each."""
        began_s = time.monotonic()
        for _ in range(5):
            self._helps.append(1000 * _took_s([*XBATCH, "--help"]))
        if run([*XBATCH, "validate", "--help"], stdout=DEVNULL, stderr=DEVNULL, check=False).returncode == 0:
            small, large = (bench.scaled(count) for count in (self.count // 10, self.count))
            times = [_took_s([*XBATCH, "validate", str(_rows(bench, count))]) for count in (small, large)]
            self._validated.append((large - small) / (times[1] - times[0]))
        self.took_s = time.monotonic() - began_s

    def claims(self, bench: Bench) -> list[Claim]:
        """What has been found so far."""
        return [
            Claim(self.name, HELP, tuple(self._helps)),
            Claim(self.name, VALIDATE, tuple(self._validated)),
        ]


def starts(bench: Bench) -> list[Claim]:
    """The short runs of xbatch against those of the others, round by round."""
    made = []
    for (peer, size), theirs in bench.starts.items():
        ours = bench.starts.get((OURS, size), [])
        both = min(len(ours), len(theirs))
        if peer != OURS and both:
            numbers = [tuple(each.took_s for each in runs[:both]) for runs in (ours, theirs)]
            made.append(Claim(f"start, {size}", START, numbers[0], peer, numbers[1]))
    return made


def _took_s(command: list[str]) -> float:
    began_s = time.monotonic()
    run(command, stdout=DEVNULL, stderr=DEVNULL, check=True)
    return time.monotonic() - began_s


def _rows(bench: Bench, count: int) -> Path:
    path = bench.folder / f"unique-{count}.jsonl"
    return path if path.exists() else rows.write(path, rows.unique(count))
