"""The contract of sinks: every file appears whole or not at all, and the same rows give the same bytes."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from xbatch.errors import StorageError, UsageError
from xbatch.sinks import OutputRow
from xbatch.sinks.jsonl import JsonlSink

ROWS = [OutputRow(0, True, b'{"a":1}'), OutputRow(0, False, b'{"b":2}'), OutputRow(1, True, "{ü\u2028}".encode())]


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and every folder as nothing."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"<folder>" for p in sorted(folder.rglob("*"))
    }


def sink(folder: Path, *names: str, errors: str | None = None) -> JsonlSink:
    return JsonlSink([folder / n for n in names], folder / errors if errors else None, folder / "spool")


def test_one_file(tmp_path: Path) -> None:
    """Inputs with one target follow each other in it, byte for byte."""
    sink(tmp_path, "out.jsonl", "out.jsonl").publish(ROWS)
    assert (tmp_path / "out.jsonl").read_bytes() == b"".join(row.line + b"\n" for row in ROWS)


def test_a_file_for_each_input(tmp_path: Path) -> None:
    """Each input's responses go to its own target; folders are made."""
    sink(tmp_path, "deep/er/a.jsonl", "deep/b.jsonl").publish(ROWS)
    assert (tmp_path / "deep/er/a.jsonl").read_bytes() == b'{"a":1}\n{"b":2}\n'
    assert (tmp_path / "deep/b.jsonl").read_bytes() == ROWS[2].line + b"\n"


def test_errors_of_their_own(tmp_path: Path) -> None:
    """With an errors file, failures stand there and nowhere else."""
    sink(tmp_path, "out.jsonl", "out.jsonl", errors="errors.jsonl").publish(ROWS)
    assert (tmp_path / "out.jsonl").read_bytes() == ROWS[0].line + b"\n" + ROWS[2].line + b"\n"
    assert (tmp_path / "errors.jsonl").read_bytes() == ROWS[1].line + b"\n"


def test_receipts(tmp_path: Path) -> None:
    """Each receipt tells rows, size and checksum of the file as it lies there."""
    for receipt in sink(tmp_path, "a.jsonl", "b.jsonl", errors="e.jsonl").publish(ROWS):
        data = Path(receipt.uri).read_bytes()
        assert (receipt.rows, receipt.num_bytes) == (data.count(b"\n"), len(data))
        assert receipt.sha256 == hashlib.sha256(data).hexdigest()


def test_nothing_gives_empty_files(tmp_path: Path) -> None:
    """Without rows every file is there and empty, so that the next step finds it."""
    sink(tmp_path, "out.jsonl", errors="errors.jsonl").publish([])
    assert (tmp_path / "out.jsonl").read_bytes() == b""
    assert (tmp_path / "errors.jsonl").read_bytes() == b""


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    """Published again, the same rows give the same files."""
    first = sink(tmp_path, "a.jsonl", "b.jsonl").publish(ROWS)
    before = files(tmp_path)
    assert sink(tmp_path, "a.jsonl", "b.jsonl").publish(ROWS) == first
    assert files(tmp_path) == before


def test_trouble_halfway_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """If rows stop coming, no output exists, an older one stays as it was, and no rest is left."""
    (tmp_path / "out.jsonl").write_bytes(b"old\n")
    (tmp_path / "spool").mkdir()
    before = files(tmp_path)

    def broken() -> Iterator[OutputRow]:
        yield ROWS[0]
        raise StorageError("a segment is damaged")

    with pytest.raises(StorageError):
        sink(tmp_path, "out.jsonl", "new.jsonl").publish(broken())
    assert files(tmp_path) == before


def test_readers_keep_the_old_file(tmp_path: Path) -> None:
    """Whoever has the old output open goes on reading the old one, whole."""
    (tmp_path / "out.jsonl").write_bytes(b"old\n")
    with (tmp_path / "out.jsonl").open("rb") as reader:
        sink(tmp_path, "out.jsonl", "out.jsonl").publish(ROWS)
        assert reader.read() == b"old\n"


def test_spool_on_another_device(tmp_path: Path) -> None:
    """A state folder on another device than the output changes nothing."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as spool:
        same = Path(spool).stat().st_dev == tmp_path.stat().st_dev
        assert not same, "the test needs two devices"
        JsonlSink([tmp_path / "out.jsonl"] * 2, None, Path(spool)).publish(ROWS)
        assert not list(Path(spool).iterdir())
    assert sorted(files(tmp_path)) == ["out.jsonl"]


def test_check_leaves_nothing(tmp_path: Path) -> None:
    """Finding out whether outputs can be written leaves no trace, not even of folders."""
    (tmp_path / "old.jsonl").write_bytes(b"old\n")
    before = files(tmp_path)
    sink(tmp_path, "old.jsonl", "some/new/folder/out.jsonl", errors="other/errors.jsonl").check()
    assert files(tmp_path) == before


@pytest.mark.parametrize("target", ["folder", "file/out.jsonl", "file/deep/out.jsonl"])
def test_check_refuses(tmp_path: Path, target: str) -> None:
    """A folder in the output's place, or a file where its folder should be, is refused and leaves no trace."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    before = files(tmp_path)
    with pytest.raises(UsageError, match="can't be written"):
        sink(tmp_path, target).check()
    assert files(tmp_path) == before
