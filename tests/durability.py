"""What the durability tests share: a small job for the fake engine, and a reading of its files that is not xbatch's."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

ROOT = Path(__file__).resolve().parent.parent
MAIN = "from xbatch.cli import main\nmain()\n"
RETRYABLE = 2
_FRAME = struct.Struct("<2sII")
_RECORD = struct.Struct("<QBII")
_KINDS = {"E": 0, "R": 1, "T": RETRYABLE}


class Ended(NamedTuple):
    """How a run ended."""

    code: int
    """Negative: the signal that killed it."""
    told: str
    took_s: float


@dataclass
class Seen:
    """What lay on disk, and what the engine had been asked, when a run had ended."""

    durable: set[int]
    started: list[int]
    """Rows that this run started, in order."""
    engine_starts: int
    rerun: list[int]
    """Rows that this run started although they had been durable before."""


@dataclass
class Exactness:
    """How an output differs from what it should be."""

    lost: int = 0
    twice: int = 0
    wrong: list[str] = field(default_factory=list)


class Trial:
    """One job in `base/<name>/`, and all that was seen of it; what the tests keep lies in `base/notes/`.

    Every 13th row is no JSON, every 13th one asks for an unknown endpoint; there is one blank line.
    """

    def __init__(
        self,
        base: Path,
        rows: int = 60,
        *,
        name: str = "work",
        output: str = "out.jsonl",
        shard_rows: int = 16,
        delay_s: float = 0.01,
        start_s: float = 0.0,
        in_flight: int = 8,
        commit_s: float = 0.1,
        padding: int = 0,
        lease_s: float = 60.0,
    ) -> None:
        self.rows = rows
        self.in_flight = in_flight
        self.work = base / name
        self.output = self.work / output
        self.state = self.work / f"{output}.xbatch"
        self.padding = "x" * padding
        self.env = {**os.environ, "PYTHONPATH": str(ROOT), "XBATCH_SHARD_ROWS": str(shard_rows)}
        self.env["XBATCH_LEASE_S"] = str(lease_s)
        # The log's path is part of the job's identity: as a relative one it is the same in a copy of the folder.
        engine = {"delay_s": delay_s, "start_s": start_s, "max_in_flight": in_flight, "log": "../notes/log"}
        self.words = ["in.jsonl", "-o", output, "--max-failures", "100%", "--commit-interval-s", str(commit_s)]
        self.words += [word for pair in engine.items() for word in ("--engine-arg", "{}={}".format(*pair))]
        self.kept: set[int] = set()
        self._notes = base / "notes"
        self._log = self._notes / "log"
        self._read_to = 0
        self._runs = 0
        self._notes.mkdir(parents=True, exist_ok=True)
        self.work.mkdir(exist_ok=True)
        if not (self.work / "in.jsonl").exists():
            self.write_input("in.jsonl", range(rows))

    def write_input(self, name: str, indexes: range) -> None:
        lines = [self._line(i) + "\n" for i in indexes]
        (self.work / name).write_text("".join([*lines[:2], "\n", *lines[2:]]), "utf-8")

    def _line(self, index: int) -> str:
        if index % 13 == 5:
            return f"nonsense {index}"
        body = {"model": "m", "messages": [{"role": "user", "content": self.text(index)}]}
        url = "/v1/nothing" if index % 13 == 9 else "/v1/chat/completions"
        return json.dumps({"custom_id": f"id-{index}", "method": "POST", "url": url, "body": body})

    def text(self, index: int) -> str:
        return f"text {index}{self.padding}"

    def start(
        self, *words: str, crash: str = "", before: str = "", env: dict[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Begin a run; `crash` is where it kills itself, `before` a script that it runs first."""
        program = ["-c", before + MAIN] if before else ["-m", "xbatch"]
        self._runs += 1
        with (self._notes / f"told-{self._runs}").open("xb") as told:
            process = subprocess.Popen(
                [sys.executable, *program, "run", *self.words, "--engine", "fake", *words],
                cwd=self.work,
                env={**self.env, "XBATCH_CRASH": crash, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
            )
        process.told = Path(told.name)  # type: ignore[attr-defined]
        process.began_s = time.monotonic()  # type: ignore[attr-defined]
        return process

    def run(self, *words: str, **more: Any) -> Ended:
        return end(self.start(*words, **more))

    def running(self, *words: str, rows: int = 8, **more: Any) -> "subprocess.Popen[bytes]":
        """A run of which so many rows are durable already."""
        process = self.start(*words, **more)
        deadline = time.monotonic() + 30
        while len(durable(self.state)) < rows:
            assert process.poll() is None, end(process)
            assert time.monotonic() < deadline, "no rows became durable"
            time.sleep(0.005)
        return process

    def stopped(self) -> Seen:
        """Look at what the run that has just ended left, and assert what holds after every end of a run."""
        seen = self.look()
        assert not seen.rerun, f"durable rows were started again: {seen.rerun}"
        assert self.kept <= seen.durable, f"durable rows were forgotten: {self.kept - seen.durable}"
        assert not (torn := self.torn()), torn
        if self.output.exists():
            assert (found := self.exactness()) == Exactness(), found
        self.kept = seen.durable
        return seen

    def look(self) -> Seen:
        """What the run that has just ended left."""
        started, engine_starts = self.read_log()
        return Seen(durable(self.state), started, engine_starts, [row for row in started if row in self.kept])

    def read_log(self) -> tuple[list[int], int]:
        """What the engine has been asked since this was last called: rows, and how often it started."""
        data = self._log.read_bytes()[self._read_to :] if self._log.exists() else b""
        self._read_to += len(data)
        lines = data.decode().split()
        return [int(line) for line in lines if line != "start"], lines.count("start")

    def finish(self, *words: str) -> Seen:
        """Run the job to its end, which must be exact and must start no durable row again."""
        ended = self.run(*words)
        assert ended.code == 0, ended
        seen = self.stopped()
        self.check_exact()
        assert not (logs := list(self.state.rglob("*.wal"))), logs
        return seen

    def check_exact(self) -> None:
        """Every row once, in order, as the engine answered it; the report agrees; nothing temporary lies beside it."""
        assert (found := self.exactness()) == Exactness(), found
        report = json.loads((self.state / "report.json").read_bytes())
        failed = sum(i % 13 in {5, 9} for i in range(self.rows))
        counts = {"total": self.rows, "completed": self.rows - failed, "failed": failed}
        assert {name: report["request_counts"][name] for name in counts} == counts, report
        data = self.output.read_bytes()
        assert [(o["rows"], o["sha256"]) for o in report["outputs"]] == [(self.rows, sha256(data).hexdigest())], report
        assert not (left := [str(path) for path in self.output.parent.glob(".*.tmp")]), left

    def exactness(self) -> Exactness:
        lines = self.output.read_bytes().splitlines()
        found = Exactness()
        ids, rows = Counter[str](), Counter[int]()
        for place, line in enumerate(lines):
            response = json.loads(line)
            ids[response["id"]] += 1
            if (trouble := self._differs(place, response)) is not None:
                found.wrong.append(trouble)
            # A row that is no JSON has no name: its place stands for it.
            name = re.fullmatch(r"id-(\d+)", response["custom_id"] or "")
            rows[int(name[1]) if name else place] += 1
        found.lost = sum(rows[i] == 0 for i in range(self.rows))
        found.twice = sum(n - 1 for n in rows.values() if n > 1)
        if len(lines) != self.rows or len(ids) != len(lines):
            found.wrong.append(f"{len(lines)} lines with {len(ids)} ids for {self.rows} rows")
        return found

    def _differs(self, index: int, response: dict[str, Any]) -> str | None:
        if index % 13 in {5, 9}:
            whole = response["response"] is None and response["error"]["code"].startswith("invalid_")
        else:
            body = (response["response"] or {}).get("body") or {"choices": [{"message": {"content": None}}]}
            content = body["choices"][0]["message"]["content"]
            whole = response["custom_id"] == f"id-{index}" and content == self.text(index)
        return None if whole else f"line {index}: {str(response)[:200]}"

    def torn(self) -> list[str]:
        """Objects under their final names that are not whole."""
        found = []
        for path in [p for p in self.state.rglob("[!.]*") if p.is_file() and "spool" not in p.parts]:
            try:
                if path.suffix == ".json":
                    json.loads(path.read_bytes())
                elif path.suffix == ".zst" and "seg" in path.parts:
                    segment_rows(path)
                elif path.suffix == ".zst":
                    unpacked(path)
            except ValueError as e:
                found.append(f"{path}: {e}")
        return found

    def listing(self) -> dict[str, tuple[int, int]]:
        """Every file with inode and modification time, but for locks, which any run may claim anew."""
        files = [p for p in self.work.rglob("*") if p.is_file() and not p.name.startswith("lock")]
        return {str(p.relative_to(self.work)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in files}

    @property
    def job(self) -> str:
        return str(json.loads((self.state / "job.json").read_bytes())["job"])


def end(process: "subprocess.Popen[bytes]", limit_s: float = 60) -> Ended:
    """Wait for a run; one that takes too long is killed, and found out by its exit code."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(limit_s)
    if process.poll() is None:
        process.send_signal(signal.SIGABRT)
        process.send_signal(signal.SIGCONT)
        process.wait(10)
    took_s = time.monotonic() - process.began_s  # type: ignore[attr-defined]
    return Ended(process.returncode, process.told.read_text("utf-8", "replace"), took_s)  # type: ignore[attr-defined]


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Every whole frame of a log up to the first damaged one: where it starts, and its payload."""
    start = 0
    while start + _FRAME.size <= len(data):
        magic, length, crc = _FRAME.unpack_from(data, start)
        payload = data[start + _FRAME.size : start + _FRAME.size + length]
        if magic != b"XW" or len(payload) < length or zlib.crc32(payload) != crc:
            return
        yield start, payload
        start += _FRAME.size + length


def log_rows(path: Path) -> list[tuple[int, int, int]]:
    """The settled rows of a log: where the frame starts, row, kind."""
    found = list(frames(path.read_bytes()))
    return [(start, *_RECORD.unpack_from(data, 1)[:2]) for start, data in found if data[:1] == b"C"]


def unpacked(path: Path) -> bytes:
    """The content of a zstd file, whole or ValueError."""
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    try:
        data = unpacker.decompress(path.read_bytes())
    except zstandard.ZstdError as e:
        raise ValueError(str(e)) from e
    if not unpacker.eof:
        raise ValueError("cut off")
    return data


def segment_rows(path: Path) -> dict[int, int]:
    """The rows of a segment with their kinds, whole or ValueError."""
    head, *rows = unpacked(path).decode().split("\n")[:-1]
    counts = json.loads(head)["counts"]
    found = {int(row[:16], 16): _KINDS[row[17]] for row in rows}
    if len(found) != len(rows) or len(rows) != counts["completed"] + counts["failed"]:
        raise ValueError("its rows are not those that its header counts")
    return found


def durable(state: Path) -> set[int]:
    """Rows that are settled for good on the disk, as far as one can see from outside.

    The logs are read first, for a row moves from them to the segments.
    """
    rows: set[int] = set()
    for path in (Path(place, name) for place, _, names in os.walk(state) for name in names if name.endswith(".wal")):
        with suppress(FileNotFoundError):
            rows |= {row for _, row, kind in log_rows(path) if kind != RETRYABLE}
    for path in segments(state):
        rows |= {row for row, kind in segment_rows(path).items() if kind != RETRYABLE}
    return rows


def segments(state: Path) -> list[Path]:
    found = (Path(place, name) for place, _, names in os.walk(state) for name in names)
    return sorted(path for path in found if path.parts[-3] == "seg" and re.fullmatch(r"\d+\.jsonl\.zst", path.name))
