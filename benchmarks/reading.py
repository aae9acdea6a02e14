"""How fast sources give rows, on one core and this machine's disk.

    python benchmarks/reading.py [--rows 1000000] [--folder FOLDER]

Writes the same rows as JSONL, compressed JSONL and Parquet, with bodies as structs and as JSON text, and prints for
each the rows and the megabytes of JSONL a second of the index pass's `scan` and of `read`, shard by shard in order, and
the most memory that a process of its own had doing it.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from xbatch.planning.shards import ShardCutter
from xbatch.sources.opening import SourceOptions, open_source

FORMATS = ("rows.jsonl", "rows.jsonl.gz", "rows.jsonl.zst", "struct.parquet", "text.parquet")
GROUP_ROWS = 100_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        write(folder, given.rows)
        text_mb = (folder / "rows.jsonl").stat().st_size / 1e6
        print(f"{given.rows:,} rows, {text_mb:,.0f} MB as JSONL")
        print(f"{'':16}{'file MB':>9}{'scan rows/s':>13}{'MB/s':>6}{'read rows/s':>13}{'MB/s':>6}{'peak MiB':>10}")
        for each in FORMATS:
            path = folder / each
            command = [sys.executable, __file__, "--measure", str(path)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout)
            speeds = (f"{given.rows / found[s]:>13,.0f}{text_mb / found[s]:>6,.0f}" for s in ("scan", "read"))
            print(f"{each:16}{path.stat().st_size / 1e6:>9,.0f}{''.join(speeds)}{found['peak_mib']:>10,.0f}")


def bodies(rows: int) -> Iterator[dict[str, Any]]:
    """Requests of about 500 bytes, no two alike."""
    chance = random.Random(7)  # noqa: S311
    words = ["".join(chance.choices("etaoinshrdlu", k=2 + i % 9)) for i in range(5000)]
    for i in range(rows):
        content = " ".join(chance.choices(words, k=60))
        messages = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": content}]
        yield {"model": "demo", "messages": messages, "max_tokens": 100 + i % 28, "temperature": 0.5}


def write(folder: Path, rows: int) -> None:
    """Write every format."""
    made, index = bodies(rows), 0
    kind = pa.Table.from_pylist([{"body": body} for body in bodies(1)]).schema.field("body").type
    structs = pa.schema([("custom_id", pa.string()), ("body", kind)])
    texts = pa.schema([("custom_id", pa.string()), ("body", pa.string())])
    with (
        (folder / "rows.jsonl").open("w", encoding="utf-8") as lines,
        pq.ParquetWriter(folder / "struct.parquet", structs) as as_struct,
        pq.ParquetWriter(folder / "text.parquet", texts) as as_text,
    ):
        while group := list(islice(made, GROUP_ROWS)):
            ids = [f"id-{i}" for i in range(index, index + len(group))]
            index += len(group)
            for name, body in zip(ids, group, strict=True):
                lines.write(json.dumps({"custom_id": name, "body": body}) + "\n")
            as_struct.write_table(pa.table({"custom_id": ids, "body": group}, structs))
            as_text.write_table(pa.table({"custom_id": ids, "body": [json.dumps(body) for body in group]}, texts))
    with (folder / "rows.jsonl.gz").open("wb") as packed:
        subprocess.run(["gzip", "-c", str(folder / "rows.jsonl")], check=True, stdout=packed)  # noqa: S607
    with (folder / "rows.jsonl").open("rb") as plain, (folder / "rows.jsonl.zst").open("wb") as packed:
        zstandard.ZstdCompressor(write_checksum=True).copy_stream(plain, packed)


def measure(path: Path) -> None:
    """Scan and read one file, and print the seconds and the memory that took."""
    source = open_source(str(path), path.name, SourceOptions())
    source.check()
    cutter = ShardCutter()
    began = time.perf_counter()
    cut = [ended for row in source.scan(0) if (ended := cutter.add(0, row.offset, row.line, row.num_bytes))]
    scanned = time.perf_counter()
    for shard in [*cut, *filter(None, [cutter.close()])]:
        for _ in source.read(shard):
            pass
    spent = {"scan": scanned - began, "read": time.perf_counter() - scanned}
    # The peak of `getrusage` would be that of the parent, which a child takes over when it is made.
    [peak_kib] = re.findall(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))
    print(json.dumps({**spent, "peak_mib": int(peak_kib) / 1024}))


if __name__ == "__main__":
    main()
