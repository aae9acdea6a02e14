"""The contract of sources: every row, exactly as it stands in the file, as often as it is asked for."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xbatch.errors import StorageError, UsageError
from xbatch.planning.shards import ShardCutter
from xbatch.rows.row import Row
from xbatch.rows.shard import Shard
from xbatch.sources import Source, kept
from xbatch.sources.jsonl import JsonlSource
from xbatch.sources.opening import SourceOptions, open_source

ROOT = Path(__file__).resolve().parent.parent
BOM = b"\xef\xbb\xbf"
NOBODY = 65534


def source(folder: Path, data: bytes, max_line_bytes: int = 1 << 20) -> JsonlSource:
    path = folder / "in.jsonl"
    path.write_bytes(data)
    return JsonlSource(str(path), max_line_bytes)


def opened(folder: Path, data: bytes) -> Source:
    (folder / "in").write_bytes(data)
    return open_source(str(folder / "in"), "in", SourceOptions())


def rows(folder: Path, data: bytes) -> list[tuple[int, bytes]]:
    return [(row.line, row.data) for row in source(folder, data).scan(0)]


def shards(scanned: list[Row], max_rows: int, max_bytes: int) -> list[Shard]:
    cutter = ShardCutter(max_rows, max_bytes)
    cut = [cutter.add(0, row.offset, row.line, row.num_bytes) for row in scanned]
    return [shard for shard in [*cut, cutter.close()] if shard is not None]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n\n", []),
        (BOM, []),
        (b"{}\n", [(1, b"{}")]),
        (b"{}", [(1, b"{}")]),
        (b'{"a":1}\n{"b":2}', [(1, b'{"a":1}'), (2, b'{"b":2}')]),
        (b'{"a":1}\r\n{"b":2}\r\n', [(1, b'{"a":1}'), (2, b'{"b":2}')]),
        (BOM + b"{}\n{}\n", [(1, b"{}"), (2, b"{}")]),
        (b"{}\n" + BOM + b"[]\n", [(1, b"{}"), (2, b"[]")]),
        (b"\n \n{}\n\t\r\n\n[]\n\n", [(3, b"{}"), (6, b"[]")]),
        (b'"\xe2\x80\xa8\xc2\x85\xe2\x80\xa9"\n{}\n', [(1, b'"\xe2\x80\xa8\xc2\x85\xe2\x80\xa9"'), (2, b"{}")]),
        (b'"a\rb"\n{}\n', [(1, b'"a\rb"'), (2, b"{}")]),
        (b'"a\x0bb\x0c\x1c"\n{}\n', [(1, b'"a\x0bb\x0c\x1c"'), (2, b"{}")]),
        (b"\x00\xff\n{}", [(1, b"\x00\xff"), (2, b"{}")]),
    ],
)
def test_lines(tmp_path: Path, data: bytes, expected: list[tuple[int, bytes]]) -> None:
    """Lines end at a line feed only; marks, carriage returns and blank lines are no rows; lines keep their number."""
    assert rows(tmp_path, data) == expected


def test_blank_lines_are_counted_once(tmp_path: Path) -> None:
    """Blank lines are counted, anew with each whole scan."""
    jsonl = source(tmp_path, b"\n{}\n \t\n\r\n{}\n\n")
    for _ in range(2):
        assert len(list(jsonl.scan(0))) == 2
        assert jsonl.blank_lines == 4


def test_indexes_and_places(tmp_path: Path) -> None:
    """Rows are numbered on from the first index, and their place names file and physical line."""
    jsonl = source(tmp_path, b"\n{}\n\n{}\n")
    assert [(r.index, r.place) for r in jsonl.scan(7)] == [(7, f"{jsonl.uri}:2"), (8, f"{jsonl.uri}:4")]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""], ids=["LF", "CRLF", "none"])
def test_the_limit_on_a_line(tmp_path: Path, end: bytes) -> None:
    """A row of exactly the limit is read, one byte more is not; the rows after it are read, with their numbers."""
    for size, too_long in ((10, False), (11, True), (12, True), (13, True), (5_000, True)):
        data = b"{}\n" + b"x" * size + end
        more = [] if not end else [(False, 3, b"[]")]
        found = list(source(tmp_path, data + (b"[]" if end else b""), 10).scan(0))
        assert [r.too_long for r in found] == [False, too_long, *[m[0] for m in more]], size
        assert [(r.line, r.data) for r in found[2:]] == [m[1:] for m in more]
        assert found[1].num_bytes >= size


def test_a_long_line_is_always_a_row(tmp_path: Path) -> None:
    """A line over the limit is a row even if it begins with many blanks, for it never disappears."""
    found = list(source(tmp_path, b" " * 5_000 + b'{"prompt":"a"}\n[]\n', 1_000).scan(0))
    assert [(r.line, r.too_long) for r in found] == [(1, True), (2, False)]


def test_a_huge_line_costs_no_memory(tmp_path: Path) -> None:
    """A line of 200 MB over a limit of 1 MB is passed over without being held, and the next row is read."""
    path = tmp_path / "huge.jsonl"
    with path.open("wb") as file:
        file.write(b'{"prompt": "')
        for _ in range(200):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"prompt": "b"}\n')
    script = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from xbatch.sources.jsonl import JsonlSource\n"
        "def peak_kib():\n"
        "    # The peak that getrusage tells is at least that of the process which has started this one.\n"
        "    return int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "source = JsonlSource(sys.argv[1], 1_000_000)\n"
        "before = peak_kib()\n"
        "rows = list(source.scan(0))\n"
        "print([(r.too_long, r.num_bytes, len(r.data) < 1000) for r in rows])\n"
        "print(peak_kib() - before)\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    verdicts, grown_kib = done.stdout.splitlines()
    assert verdicts == "[(True, 200000015, True), (False, 16, True)]"
    assert int(grown_kib) < 20_000


LINES = st.lists(
    st.sampled_from([b"", b" ", b"\r", BOM, b"{}", b'{"a":1}', b'"\xe2\x80\xa8"', b"a\rb", b"x" * 30, BOM + b"[]\r"]),
    max_size=30,
)


@settings(deadline=None)
@given(LINES, st.booleans(), st.integers(1, 5), st.integers(1, 60))
def test_shards_give_what_the_scan_gave(lines: list[bytes], end: bool, max_rows: int, max_bytes: int) -> None:
    """Read shard by shard, a file gives exactly the rows of its scan, wherever the shards are cut."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        jsonl = source(Path(folder), b"\n".join(lines) + (b"\n" if end else b""), 20)
        scanned = list(jsonl.scan(0))
        cut = shards(scanned, max_rows, max_bytes)
        assert [row for shard in cut for row in jsonl.read(shard)] == scanned
        assert [row for shard in reversed(cut) for row in jsonl.read(shard)] == [
            row for shard in reversed(cut) for row in scanned[shard.first_row : shard.first_row + shard.rows]
        ]
        jsonl.close()


def test_what_is_kept_open_is_bounded(tmp_path: Path) -> None:
    """However many files a job has, only a few of them stay open between two shards."""
    before, sources = len(os.listdir("/proc/self/fd")), []
    for i in range(4 * kept.MAX_KEPT):
        (tmp_path / str(i)).write_bytes(gzip.compress(b"{}\n" * 4))
        jsonl = JsonlSource(str(tmp_path / str(i)))
        sources.append(jsonl)
        first, _ = shards(list(jsonl.scan(0)), 2, 1000)
        assert len(list(jsonl.read(first))) == 2
    assert len(os.listdir("/proc/self/fd")) <= before + kept.MAX_KEPT
    for jsonl in sources:
        jsonl.close()


def test_a_reading_that_is_given_up_keeps_nothing(tmp_path: Path) -> None:
    """A shard of which only some rows were read leaves no file open, and is read again from its first row."""
    jsonl = source(tmp_path, b"{}\n" * 9)
    scanned = list(jsonl.scan(0))
    _, second, _ = shards(scanned, 3, 1000)
    before = len(os.listdir("/proc/self/fd"))
    half = jsonl.read(second)
    assert next(half) == scanned[3]
    del half
    assert len(os.listdir("/proc/self/fd")) == before
    assert list(jsonl.read(second)) == scanned[3:6]
    jsonl.close()


def test_read_tells_of_repeats(tmp_path: Path) -> None:
    """A row whose custom_id is used before comes with the place of the first use."""
    jsonl = source(tmp_path, b"{}\n{}\n")
    shard = Shard(0, 0, 0, 1, 0, 2, 6, {1: "in.jsonl:1"})
    assert [row.first_use for row in jsonl.read(shard)] == [None, "in.jsonl:1"]
    jsonl.close()


@pytest.mark.parametrize("cut", [9, 8, 0], ids=["inside a row", "between rows", "everything"])
def test_a_file_that_became_shorter(tmp_path: Path, cut: int) -> None:
    """A file that is cut after it was looked at ends the job instead of giving fewer or other rows."""
    jsonl = source(tmp_path, b'{"a":1}\n{"b":2}\n')
    [shard] = shards(list(jsonl.scan(0)), 10, 1000)
    os.truncate(jsonl.uri, cut)
    with pytest.raises(StorageError, match="shorter"):
        list(jsonl.read(shard))


def test_a_file_that_vanished(tmp_path: Path) -> None:
    """A file that is gone when its rows are read is trouble of the storage, with its name."""
    jsonl = source(tmp_path, b"{}\n")
    [shard] = shards(list(jsonl.scan(0)), 10, 1000)
    Path(jsonl.uri).unlink()
    with pytest.raises(StorageError, match=r"in\.jsonl"):
        list(jsonl.read(shard))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"PK\x03\x04\x14\x00", "zip"),
        (b"\x04\x22\x4d\x18\x64\x40", "lz4"),
        (b"Obj\x01\x04\x14", "Avro"),
        (b"in.jsonl".ljust(257, b"\0") + b"ustar\x0000", "tar"),
        ('{"a":1}\n'.encode("utf-16"), "UTF-16"),
        (b"\xfe\xff" + '{"a":1}\n'.encode("utf-16-be"), "UTF-16"),
        ('{"a":1}\n'.encode("utf-16-le"), "UTF-16"),
        (gzip.compress('{"a":1}\n'.encode("utf-16")), "UTF-16"),
        (gzip.compress(b"in.jsonl".ljust(257, b"\0") + b"ustar\x0000"), "tar"),
        (gzip.compress(b"PAR1\x15\x04"), "Parquet"),
        (gzip.compress(gzip.compress(b"{}\n")), "compressed twice"),
    ],
    ids=["zip", "lz4", "avro", "tar", "utf-16", "utf-16-be", "no-mark", "utf-16.gz", "tar.gz", "parquet.gz", "gz.gz"],
)
def test_other_formats_are_refused(tmp_path: Path, data: bytes, what: str) -> None:
    """A file that evidently is no JSONL is refused at once by the name of what it is."""
    with pytest.raises(UsageError, match=what):
        opened(tmp_path, data).check()


@pytest.mark.parametrize("data", [b"", b"\n", b"{}", BOM + b"{}", b"nonsense"])
def test_anything_else_is_let_in(tmp_path: Path, data: bytes) -> None:
    """Whatever might be lines of text is let in: single rows are judged later, an empty file has none."""
    jsonl = opened(tmp_path, data)
    jsonl.check()
    assert isinstance(jsonl, JsonlSource)
    assert jsonl.carried_schema is None
    assert list(jsonl.carried(0, 1)) == []


def test_missing_and_folders_are_refused(tmp_path: Path) -> None:
    """A path that does not exist, or is a folder, is refused with a sentence."""
    for path, what in ((tmp_path / "none.jsonl", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(UsageError, match=what):
            JsonlSource(str(path)).check()
        with pytest.raises(UsageError, match=what):
            open_source(str(path), "shown", SourceOptions())


def test_unreadable_is_refused(tmp_path: Path) -> None:
    """A file that this user may not read is refused with a sentence."""
    jsonl = source(tmp_path, b"{}\n")
    Path(jsonl.uri).chmod(0)
    script = (
        "import os, sys\n"
        "from xbatch.errors import UsageError\n"
        "from xbatch.sources.jsonl import JsonlSource\n"
        "os.chdir(os.path.dirname(sys.argv[1]))\n"
        f"os.getuid() or (os.setgid({NOBODY}), os.setuid({NOBODY}))\n"
        "try:\n    JsonlSource('in.jsonl').check()\n"
        "except UsageError as e:\n    print(e)\n"
    )
    command = [sys.executable, "-c", script, jsonl.uri]
    for folder in (tmp_path, *tmp_path.parents[:2]):
        if folder.name.startswith(("pytest", "test_")):
            folder.chmod(0o755)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "in.jsonl can't be read" in done.stdout
