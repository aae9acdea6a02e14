"""How fast the journal takes rows and gives them back, on one core and this machine's disk.

    python benchmarks/journal.py [--rows 400000] [--line-bytes 600] [--folder FOLDER]

Prints the time of one append to the write-ahead log, the rows a second that the whole journal keeps (log, sync,
segments), and the rows a second at which the segments are merged into the output.
"""

import argparse
import tempfile
import time
from pathlib import Path

from xbatch import storage
from xbatch.rows.outcome import Usage
from xbatch.rows.shard import Shard
from xbatch.sinks import OutputRow
from xbatch.sinks.opening import SinkOptions, open_sink
from xbatch.state import wal
from xbatch.state.journal import Journal
from xbatch.state.layer import Layer
from xbatch.state.passes import Passes
from xbatch.state.records import Kind, Record

SHARD_ROWS = 4096
SEGMENTS_A_SHARD = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--line-bytes", type=int, default=600)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        log_us = append(Path(folder), min(given.rows, 100_000), given.line_bytes)
        found = keep_and_merge(Path(folder), given.rows, given.line_bytes)
    print(f"write-ahead log: {log_us:.1f} µs an append of {given.line_bytes} bytes")
    print(f"journal: {found['kept']:,.0f} rows/s kept, {SEGMENTS_A_SHARD} segments a shard")
    print(f"merge: {found['merged']:,.0f} rows/s")
    print(f"merge and publish: {found['published']:,.0f} rows/s, {found['published_mb']:,.0f} MB/s")


def records(shard: Shard, line_bytes: int) -> list[Record]:
    """Rows of a shard, in an order other than the input's, with lines that compress as text does."""
    rows = range(shard.first_row, shard.first_row + shard.rows)
    words = b"the quick brown fox jumps over the lazy dog and runs away " * (line_bytes // 58 + 1)
    lines = [b'{"row":%d,"text":"%b"}' % (row, words[row % 50 :][: line_bytes - 24]) for row in rows]
    made = [Record(row, Kind.COMPLETED, Usage(9, 9), line) for row, line in zip(rows, lines, strict=True)]
    return made[1::2] + made[::2]


def append(folder: Path, rows: int, line_bytes: int) -> float:
    """Microseconds of one append to the log alone."""
    made = records(Shard(0, 0, 0, 1, 0, rows, 0), line_bytes)
    fd = wal.create(folder / "alone.wal", {"job": "j", "shard": "s"})
    began = time.perf_counter()
    for record in made:
        wal.write(fd, record)
    return (time.perf_counter() - began) / rows * 1e6


def keep_and_merge(folder: Path, rows: int, line_bytes: int) -> dict[str, float]:
    """Rows a second of the journal, and of the way from its segments to the output."""
    shards = [
        Shard(i, 0, 0, 1, first, min(SHARD_ROWS, rows - first), 0) for i, first in enumerate(range(0, rows, SHARD_ROWS))
    ]
    layer = Layer(storage.open_store(str(folder / "state")), folder / "state", "", "j", 1)
    spent = 0.0
    for part in range(SEGMENTS_A_SHARD):
        journal = Journal(layer)
        journal.resume(shards)
        for shard in shards:
            made = records(shard, line_bytes)[part::SEGMENTS_A_SHARD]
            began = time.perf_counter()
            for record in made:
                journal.append(shard, record)
            spent += time.perf_counter() - began
        began = time.perf_counter()
        journal.close()
        spent += time.perf_counter() - began
    found = {"kept": rows / spent}

    def reopened(*_: object) -> Journal:
        journal = Journal(layer)
        journal.resume(shards)
        journal.close()
        return journal

    passes = Passes(shards, reopened)
    began = time.perf_counter()
    merged = sum(1 for shard in shards for _ in passes.rows(shard))
    found["merged"] = merged / (time.perf_counter() - began)
    sink = open_sink([str(folder / "out.jsonl")], None, folder / "spool", SinkOptions())
    began = time.perf_counter()
    sink.publish(OutputRow(0, True, row.line) for shard in shards for row in passes.rows(shard))
    spent = time.perf_counter() - began
    size = (folder / "out.jsonl").stat().st_size
    return found | {"published": rows / spent, "published_mb": size / spent / 1e6}


if __name__ == "__main__":
    main()
