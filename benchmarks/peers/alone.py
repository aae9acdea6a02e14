"""What is measured of xbatch by itself: its pipeline, its memory, its journal, its small commands."""

import json
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, PIPE, run

from benchmarks import journal
from benchmarks.peers import rows
from benchmarks.peers.bench import Bench
from benchmarks.peers.claims import (
    GROWTH,
    HELP,
    JOURNAL,
    KEEPING,
    PIPELINE,
    START,
    VALIDATE,
    Claim,
)
from benchmarks.peers.contest import OURS
from benchmarks.peers.measuring import Measured

XBATCH = [sys.executable, "-m", "xbatch"]


def on_one_core(command: list[str]) -> list[str]:
    """The command on one core."""
    taskset = shutil.which("taskset")
    return [taskset, "--cpu-list", "0", *command] if taskset else command


@dataclass(slots=True)
class Pipeline:
    """Rows through everything but a model, on one core; and how memory grows with them."""

    count: int = 200_000
    name: str = "pipeline"
    says: str = "39 tokens in, a fake engine of zero latency; memory is of a tenth of the rows to all of them"
    took_s: float = 0.0
    _speeds: list[float] = field(default_factory=list)
    _growths: list[float] = field(default_factory=list)
    _kept: list[float] = field(default_factory=list)

    def rows(self, bench: Bench) -> int:
        """So many are run."""
        return bench.scaled(self.count)

    def round(self, bench: Bench, _: int) -> None:
        """Measure once."""
        began_s = time.monotonic()
        small, large = bench.scaled(self.count // 10), self.rows(bench)
        few, many = (self._ours(bench, count) for count in (small, large))
        self._speeds.append((large - small) / (many.took_s - few.took_s))
        self._growths.append((many.own_peak_bytes - few.own_peak_bytes) / 1e6)
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

    def claims(self, _: Bench) -> list[Claim]:
        """What has been found so far."""
        return [
            Claim(self.name, PIPELINE, tuple(self._speeds), bar=8000),
            Claim(self.name, GROWTH, tuple(self._growths), bar=60, at_most=True),
            Claim(self.name, JOURNAL, tuple(self._kept)),
        ]


@dataclass(slots=True)
class Keeping:
    """An engine's rows with the journal and without, in turn; one start of it has many such turns."""

    count: int = 3000
    turns: int = 5
    name: str = "journal"
    says: str = "39 tokens in, 16 out, no two rows alike; 1M-parameter model; the journal on and off in turn"
    took_s: float = 0.0
    _kept: list[float] = field(default_factory=list)
    _lost: list[float] = field(default_factory=list)

    def rows(self, bench: Bench) -> int:
        """So many are run in each turn."""
        return bench.answered(self.count)

    def round(self, bench: Bench, _: int) -> None:
        """Measure some turns."""
        began_s = time.monotonic()
        words = ["--rows", str(self.rows(bench)), "--rounds", str(self.turns), "--json"]
        command = [sys.executable, "-m", "benchmarks.with_journal", *words]
        with (bench.folder / "log").open("wb") as log:
            found = json.loads(run(command, stdout=PIPE, stderr=log, check=True).stdout)
        self._kept += found["with"]
        self._lost += found["without"]
        self.took_s = time.monotonic() - began_s

    def claims(self, _: Bench) -> list[Claim]:
        """What has been found so far."""
        return [Claim(self.name, KEEPING, tuple(self._kept), "none", tuple(self._lost), bar=0.99)]


@dataclass(slots=True)
class Small:
    """Commands that take no engine."""

    name: str = "small"
    says: str = "read by commands that take no engine"
    count: int = 200_000
    took_s: float = 0.0
    _helps: list[float] = field(default_factory=list)
    _validated: list[float] = field(default_factory=list)

    def rows(self, bench: Bench) -> int:
        """So many are read."""
        return bench.scaled(self.count)

    def round(self, bench: Bench, _: int) -> None:
        """Measure each."""
        began_s = time.monotonic()
        for _ in range(5):
            self._helps.append(1000 * _took_s([*XBATCH, "--help"]))
        if run([*XBATCH, "validate", "--help"], stdout=DEVNULL, stderr=DEVNULL, check=False).returncode == 0:
            small, large = bench.scaled(self.count // 10), self.rows(bench)
            commands = [on_one_core([*XBATCH, "validate", str(_rows(bench, count))]) for count in (small, large)]
            times = [_took_s(command) for command in commands]
            self._validated.append((large - small) / (times[1] - times[0]))
        self.took_s = time.monotonic() - began_s

    def claims(self, bench: Bench) -> list[Claim]:
        """What has been found so far."""
        return [
            Claim(self.name, HELP, tuple(self._helps), bar=200, at_most=True),
            Claim(self.name, VALIDATE, tuple(self._validated), bar=100_000),
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
