"""Compressed inputs: found by what they are, read as a whole, and never silently cut."""

import bz2
import gzip
import hashlib
import lzma
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from xbatch.errors import StorageError, UsageError
from xbatch.planning.shards import ShardCutter
from xbatch.rows.row import Row
from xbatch.rows.shard import Shard
from xbatch.sources import DIGEST_BYTES
from xbatch.sources.decompress import Damaged, decompressed
from xbatch.sources.jsonl import JsonlSource
from xbatch.sources.opening import SourceOptions, open_source

ROOT = Path(__file__).resolve().parent.parent
Compress = Callable[[bytes], bytes]


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(data)


CODECS: dict[str, Compress] = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd}
every_codec = pytest.mark.parametrize("name", CODECS)
LINES = [b'{"custom_id":"%d","prompt":"text %d"}\n' % (i, i * i) for i in range(40)]
TEXT = b"".join(LINES)


def opened(folder: Path, data: bytes, name: str = "in.jsonl") -> JsonlSource:
    (folder / name).write_bytes(data)
    source = open_source(str(folder / name), name, SourceOptions())
    assert isinstance(source, JsonlSource)
    return source


def scanned(folder: Path, data: bytes) -> list[bytes]:
    """The rows of a file, once it is found to be fit."""
    source = opened(folder, data)
    source.check()
    return [row.data + b"\n" for row in source.scan(0)]


def shards(rows: list[Row], max_rows: int) -> list[Shard]:
    cutter = ShardCutter(max_rows)
    cut = [cutter.add(0, row.offset, row.line, row.num_bytes) for row in rows]
    return [shard for shard in [*cut, cutter.close()] if shard is not None]


@every_codec
@pytest.mark.parametrize("file_name", ["in", "in.jsonl", "in.gz", "in.zst", "in.parquet"])
def test_the_name_does_not_matter(tmp_path: Path, name: str, file_name: str) -> None:
    """A compressed file is known by its first bytes, whatever it is called, and gives the rows of the plain one."""
    plain, packed = opened(tmp_path, TEXT, "plain"), opened(tmp_path, CODECS[name](TEXT), file_name)
    packed.check()
    wanted = [(r.index, r.line, r.offset, r.data, r.num_bytes) for r in plain.scan(5)]
    assert [(r.index, r.line, r.offset, r.data, r.num_bytes) for r in packed.scan(5)] == wanted


@every_codec
@pytest.mark.parametrize("padding", [0, 1, 4, 511, 200_000])
def test_members(tmp_path: Path, name: str, padding: int) -> None:
    """All members of a file are read, empty ones and zero bytes after any of them are passed over."""
    pack = CODECS[name]
    members = [pack(b""), *(pack(line) for line in LINES), pack(TEXT[:100]), pack(TEXT[100:]), pack(b"")]
    assert b"".join(scanned(tmp_path, b"".join(m + b"\0" * padding for m in members))) == TEXT * 2


def test_many_tiny_members(tmp_path: Path) -> None:
    """Ten thousand members of no bytes at all cost neither stack nor rows."""
    assert scanned(tmp_path, gzip.compress(b"") * 10_000 + gzip.compress(TEXT)) == LINES


def test_skippable_frames(tmp_path: Path) -> None:
    """Frames of zstd that hold no data, as parallel writers add them, are passed over wherever they are."""
    frame = b"\x5e\x2a\x4d\x18\x05\x00\x00\x00hello"
    assert scanned(tmp_path, frame + zstd(TEXT) + frame + frame + zstd(b"{}\n") + frame) == [*LINES, b"{}\n"]


@every_codec
@pytest.mark.parametrize("text", [b"", b"\n\n"], ids=["empty", "blank"])
def test_no_rows(tmp_path: Path, name: str, text: bytes) -> None:
    """A compressed file without rows is a file without rows."""
    assert scanned(tmp_path, CODECS[name](text)) == []


@every_codec
def test_cut_at_every_byte(tmp_path: Path, name: str) -> None:
    """Wherever a compressed file is cut, it is refused, or gives what is no request: never silently fewer rows."""
    data = CODECS[name](TEXT)
    for end in range(1, len(data)):
        try:
            rows = scanned(tmp_path, data[:end])
        except UsageError:
            continue
        # Too short to be known as compressed: one row, which is no JSON.
        assert (end < 6, rows) == (True, [data[:end] + b"\n"])


@every_codec
def test_the_second_member_cut_at_every_byte(tmp_path: Path, name: str) -> None:
    """The same for a file that is cut inside its last member, whose first bytes need not look like anything."""
    first, second = CODECS[name](TEXT), CODECS[name](TEXT)
    for end in range(1, len(second)):
        with pytest.raises(UsageError, match="damaged"):
            scanned(tmp_path, first + second[:end])


@every_codec
def test_a_byte_that_was_damaged(tmp_path: Path, name: str) -> None:
    """Whichever byte is wrong, a file is refused, or its rows are right, or its text is no JSON at all."""
    data = CODECS[name](TEXT)
    for at in range(len(data)):
        for flip in (0xFF, 0x01, 0x80):
            try:
                rows = scanned(tmp_path, data[:at] + bytes((data[at] ^ flip,)) + data[at + 1 :])
            except UsageError:
                continue
            assert rows == LINES or (at < 6 and not any(row.startswith(b"{") for row in rows)), at


@every_codec
@pytest.mark.parametrize("tail", [b"x", b"{}\n", b"\0\0x", TEXT, b"\x1f", b"BZ", b"\xfd7z", b"(\xb5"])
def test_what_follows_the_last_member(tmp_path: Path, name: str, tail: bytes) -> None:
    """Anything after the last member that is neither padding nor a member is damage."""
    with pytest.raises(UsageError, match="damaged"):
        scanned(tmp_path, CODECS[name](TEXT) + tail)


@every_codec
def test_damage_is_described(tmp_path: Path, name: str) -> None:
    """A damaged file is refused with its name, what is wrong, and how much before that is fine."""
    source = opened(tmp_path, CODECS[name](TEXT) + CODECS[name](TEXT)[:-3])
    with pytest.raises(UsageError) as caught:
        list(source.scan(0))
    assert f"in.jsonl is damaged: the {name} data end too early" in str(caught.value)
    assert re.search(r"the [\d,]+ bytes of text before that, (40|80) rows, can be read", str(caught.value))


@every_codec
def test_damage_that_comes_later(tmp_path: Path, name: str) -> None:
    """A file that was damaged after it was looked at is trouble of the storage, and gives no row twice or wrong."""
    many = b"".join(
        b'{"n":%d,"text":"%b"}\n' % (i, hashlib.sha256(b"%d" % i).hexdigest().encode()) for i in range(9000)
    )
    source = opened(tmp_path, CODECS[name](many))
    cut = shards(list(source.scan(0)), 4000)
    packed = Path(source.uri).read_bytes()
    Path(source.uri).write_bytes(packed[: len(packed) * 2 // 3])
    with pytest.raises(StorageError, match=r"in\.jsonl is damaged"):
        [row for shard in cut for row in source.read(shard)]


@every_codec
def test_consecutive_shards_are_decompressed_once(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards in order cost one reading of the file; going back costs another; a scan beside them disturbs nothing."""
    source = opened(tmp_path, CODECS[name](TEXT))
    rows = list(source.scan(0))
    opened_times = 0

    def counted(*args: object) -> object:
        nonlocal opened_times
        opened_times += 1
        return decompressed(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("xbatch.sources.jsonl.decompressed", counted)
    cut = shards(rows, 7)
    assert [row for shard in cut for row in source.read(shard)] == rows
    assert opened_times == 1
    assert list(source.read(cut[2])) == rows[14:21]
    assert opened_times == 2
    assert list(source.read(cut[4])) == rows[28:35]
    assert opened_times == 2
    seen: list[list[Row]] = []
    beside = threading.Thread(target=lambda: seen.append(list(source.scan(0))))
    reading = source.read(cut[5])
    first = next(reading)
    beside.start()
    beside.join()
    assert [first, *reading] == rows[35:]
    assert seen == [rows]
    source.close()


@every_codec
def test_the_digest_is_that_of_the_file(tmp_path: Path, name: str) -> None:
    """The digest of an input is that of its bytes as they lie there, so that it can be taken without decompressing."""
    data = CODECS[name](TEXT) + b"\0" * 70_000
    source = opened(tmp_path, data)
    assert len(list(source.scan(0))) == len(LINES)
    assert source.digest == hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(CODECS)),
    st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), max_size=20),
    st.lists(st.integers(0, 600), max_size=4),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_any_text_in_any_members(name: str, lines: list[bytes], cuts: list[int], size: int, chance: object) -> None:
    """Wherever members and shards are cut, in whatever order they are read, the rows are those of the plain text."""
    # The first line keeps the plain text from looking as if it were compressed.
    text = b"{}\n" + b"".join(line + b"\n" for line in lines)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    packed = b"".join(CODECS[name](text[a:b]) for a, b in pairwise(edges))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "plain").write_bytes(text)
        (Path(folder) / "packed").write_bytes(packed)
        wanted = list(JsonlSource(str(Path(folder) / "plain"), shown_as="x").scan(0))
        source = JsonlSource(str(Path(folder) / "packed"), shown_as="x")
        assert list(source.scan(0)) == wanted
        order = shards(wanted, size)
        chance.shuffle(order)  # type: ignore[attr-defined]
        for shard in order:
            assert list(source.read(shard)) == wanted[shard.first_row : shard.first_row + shard.rows]
        source.close()


def test_a_window_that_is_too_large(tmp_path: Path) -> None:
    """A zstd file that needs gigabytes to be read is refused with a sentence."""
    how = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=how).compressobj()
    with pytest.raises(UsageError, match="memory"):
        scanned(tmp_path, packer.compress(TEXT) + packer.flush())


BOMB = """
import bz2, lzma, re, sys, zlib, zstandard
from pathlib import Path
from xbatch.sources.jsonl import JsonlSource
def peak_mib():
    # The peak that getrusage tells is at least that of the process which has started this one.
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10
name, path, size = sys.argv[1], Path(sys.argv[2]), 400
packer = {
    "gzip": lambda: zlib.compressobj(1, wbits=31),
    "bzip2": bz2.BZ2Compressor,
    "xz": lambda: lzma.LZMACompressor(preset=0),
    "zstd": lambda: zstandard.ZstdCompressor().compressobj(),
}[name]()
with path.open("wb") as file:
    for _ in range(size):
        file.write(packer.compress(b" " * 1_000_000))
    file.write(packer.compress(b'\\n{"prompt":"a"}\\n') + packer.flush())
before = peak_mib()
print([(r.too_long, r.num_bytes) for r in JsonlSource(str(path), 1_000_000).scan(0)])
print(peak_mib() - before)
"""


@every_codec
def test_a_bomb_costs_no_memory(tmp_path: Path, name: str) -> None:
    """A few bytes that stand for 400 MB are passed over in bounded memory, and the row after them is read."""
    command = [sys.executable, "-c", BOMB, name, str(tmp_path / "bomb")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    verdicts, grown_mib = done.stdout.splitlines()
    assert verdicts == "[(True, 400000001), (False, 15)]"
    assert int(grown_mib) < 100


def test_the_stream_itself(tmp_path: Path) -> None:
    """Only a plain file that nobody watches can be sought in; the file is closed with the stream."""
    path = tmp_path / "in"
    path.write_bytes(gzip.compress(b"abc")[:-1])
    file = path.open("rb")
    stream = decompressed(file)
    assert not stream.seekable()
    with pytest.raises(Damaged):
        stream.read()
    stream.close()
    assert file.closed
    path.write_bytes(b"abc")
    with path.open("rb") as plain:
        assert decompressed(plain) is plain
