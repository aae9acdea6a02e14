"""What the journal costs a running engine: rows with it and without it, in turn, on one engine.

    python -m benchmarks.with_journal [--rows 3000] [--rounds 6] [--json]

Prints the rows a second of each run, the medians and their ratio, and the CPU time of this process for a row. The
engine runs the bundled model; no two rows are alike, in no run.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import cast

from benchmarks.peers import rows
from benchmarks.peers.commands import Setting
from benchmarks.peers.machine import dtype
from xbatch import storage
from xbatch.assemble.planner import make_respond, make_scheduler
from xbatch.assemble.starting import EngineStarter
from xbatch.cli.terminal import Terminal
from xbatch.engines import Engine
from xbatch.errors import EngineError
from xbatch.job.loading import load_job
from xbatch.job.spec import JobSpec
from xbatch.planning.index import Index, index_rows
from xbatch.rows.request import ParsedRow, parse
from xbatch.rows.shard import Shard
from xbatch.run import Stop, run_job
from xbatch.sources.jsonl import JsonlSource
from xbatch.state.journal import Journal
from xbatch.state.layer import Layer
from xbatch.state.records import Counts, Record
from xbatch.state.shard_log import Strikes
from xbatch.state.wal import Submission


@dataclass(frozen=True, slots=True)
class Run:
    """Rows answered once."""

    rows_per_s: float
    own_cpu_us: float
    """Of this process, for a row."""


class Nowhere:
    """In the place of a journal: keeps nothing but counts."""

    unsealed_bytes = 0

    def __init__(self) -> None:
        self.counts = Counts()

    def strikes(self, _: Shard, __: int) -> Strikes:
        """No row has ever killed an engine."""
        return Strikes()

    def submit(self, _: Shard, __: list[Submission]) -> None:
        """Note nothing."""

    def append(self, _: Shard, *records: Record) -> None:
        """Count rows."""
        for record in records:
            self.counts.take(record)

    def close(self) -> None:
        """Have nothing to seal."""


def main() -> None:
    """Measure and print."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rows", type=int, default=3000)
    words.add_argument("--rounds", type=int, default=6)
    words.add_argument("--json", action="store_true", help="print one JSON object")
    given = words.parse_args()
    terminal = Terminal()  # vLLM prints to standard output
    sys.stderr = terminal.err
    with tempfile.TemporaryDirectory() as folder:
        kept, lost = asyncio.run(measure(Path(folder), given.rows, given.rounds, terminal.divert))
    told = _json(kept, lost) if given.json else _text(kept, lost)
    terminal.out.write(f"{told}\n".encode())
    terminal.out.flush()


def _json(kept: list[Run], lost: list[Run]) -> str:
    return json.dumps({"with": [run.rows_per_s for run in kept], "without": [run.rows_per_s for run in lost]})


def _text(kept: list[Run], lost: list[Run]) -> str:
    lines = []
    for name, runs in (("with", kept), ("without", lost)):
        speeds = ", ".join(f"{run.rows_per_s:.0f}" for run in runs)
        cpu = median(run.own_cpu_us for run in runs)
        speed = median(run.rows_per_s for run in runs)
        lines.append(f"{name:8} {speed:6.0f} rows/s ({speeds}); {cpu:.0f} µs of CPU a row")
    ratio = median(one.rows_per_s / other.rows_per_s for one, other in zip(kept, lost, strict=True))
    return "\n".join([*lines, f"ratio {ratio:.3f}"])


async def measure(
    folder: Path, count: int, rounds: int, before_engine: Callable[[Path], None]
) -> tuple[list[Run], list[Run]]:
    """The runs with a journal and those without, in an order that turns from round to round."""
    settings = {**dict(Setting().words()), "dtype": dtype()}
    spec = load_job({"inputs": [str(write_rows(folder, count, 0))], "model": rows.MODEL, "engine": settings})
    starter = EngineStarter(spec, folder, folder / "engine.log", before_engine, lambda _: None)
    await starter.check(rows.MODEL)
    await starter.start()
    assert starter.engine is not None
    found: dict[bool, list[Run]] = {True: [], False: []}
    try:
        await answer(spec, starter.engine, write_rows(folder, count, 0), Nowhere())
        for number in range(rounds):
            for keep in (True, False) if number % 2 else (False, True):
                file = write_rows(folder, count, 1 + 2 * number + keep)
                journal = open_journal(folder / f"state-{number}") if keep else Nowhere()
                found[keep].append(await answer(spec, starter.engine, file, journal))
    finally:
        starter.close()
    return found[True], found[False]


async def answer(spec: JobSpec, engine: Engine, file: Path, journal: Journal | Nowhere) -> Run:
    """Answer the rows of a file once, with this journal."""
    source, index = JsonlSource(str(file)), Index()
    index_rows([source.scan(0)], index, lambda _: "")

    def feed() -> Iterator[tuple[Shard, ParsedRow]]:
        for shard in index.shards:
            for row in source.read(shard):
                yield shard, parse(row)

    async def revive(death: EngineError) -> None:
        raise death

    began_s, began_cpu_s = time.monotonic(), time.process_time()
    scheduler, kept = make_scheduler(spec, engine), cast("Journal", journal)
    assert await run_job(feed(), scheduler, engine, kept, make_respond(spec, "j"), Stop(), revive=revive)
    journal.close()
    source.close()
    took_s, cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
    assert journal.counts.completed == index.rows
    return Run(index.rows / took_s, cpu_s / index.rows * 1e6)


def open_journal(folder: Path) -> Journal:
    """A new job's journal."""
    folder.mkdir()
    return Journal(Layer(storage.open_store(str(folder)), folder, "", "j", 1))


def write_rows(folder: Path, count: int, seed: int) -> Path:
    """A file of rows that no other seed gives."""
    path = folder / f"rows-{seed}.jsonl"
    return path if path.exists() else rows.write(path, rows.unique(count, seed=seed))


if __name__ == "__main__":
    main()
