"""No file is replaced that a job has not written, and nothing that is no regular file."""

import json
import os
import signal
import socket
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from test_cli_run import ENV, SLOW, answering, chat, command, ids, listing, responses, run, start, wait_for, write

from xbatch import storage
from xbatch.errors import StorageError, UsageError

MINE = b"nobody may touch this\n"
FOREIGN = b"no run of this job has written it"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an input of three rows, one of which can't be sent."""
    write(tmp_path / "in.jsonl", [chat(0), "nonsense", chat(2)])
    return tmp_path


def answer(folder: Path, *words: str) -> "subprocess.CompletedProcess[bytes]":
    return run(folder, "in.jsonl", "--max-failures", "1", *words)


def killed(folder: Path, point: str, *words: str) -> None:
    env = {**ENV, "XBATCH_CRASH": point}
    given = command("in.jsonl", "--max-failures", "1", *words)
    assert subprocess.run(given, cwd=folder, env=env, capture_output=True, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("words", "name", "told"),
    [
        (("-o", "o.jsonl"), "o.jsonl", b"-o"),
        ((), "in.responses.jsonl", b"-o"),
        (("-o", "out/"), "out/in.responses.jsonl", b"-o"),
        (("-o", "o.jsonl", "--errors", "e.jsonl"), "e.jsonl", b"--errors"),
        (("-o", "o.jsonl", "--state", "state"), "o.jsonl", b"-o"),
        (("-o", "o.jsonl", "--max-output-file", "1KiB"), "o-00000-of-00007.jsonl", b"-o"),
    ],
    ids=str,
)
def test_file_of_somebody_else(folder: Path, words: tuple[str, ...], name: str, told: bytes) -> None:
    """It is refused and stays as it is, and nothing else is written; with --overwrite it is replaced."""
    foreign = folder / name
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_bytes(MINE)
    before = listing(folder)
    refused = answer(folder, *words)
    assert refused.returncode == 2
    assert name.encode() in refused.stderr
    assert FOREIGN in refused.stderr
    assert b"another output by " + told in refused.stderr
    assert listing(folder) == before
    assert answer(folder, *words, "--overwrite").returncode == 0
    assert not foreign.exists() or foreign.read_bytes() != MINE
    again = answer(folder, *words)
    assert again.returncode == 0
    assert b"already complete" in again.stderr
    assert answer(folder, *words, "--restart").returncode == 0


def test_job_file_says_overwrite(folder: Path) -> None:
    """`overwrite: true` is a field of a job file."""
    (folder / "o.jsonl").write_bytes(MINE)
    (folder / "job.yaml").write_text("inputs: in.jsonl\noutput: o.jsonl\nmax_failures: 1\noverwrite: true\n")
    assert run(folder, "job.yaml").returncode == 0
    assert len(responses(folder / "o.jsonl")) == 3


@pytest.mark.parametrize("point", ["outputs-noted:2", "output-named:1", "output-named:2", "output-published:1"])
@pytest.mark.parametrize("state", [(), ("--state", "kept")], ids=["beside", "elsewhere"])
def test_killed_while_it_publishes(folder: Path, point: str, state: tuple[str, ...]) -> None:
    """A run that was killed between its files and its report is known as the one who wrote them."""
    words = ("-o", "o.jsonl", "--errors", "e.jsonl", *state)
    killed(folder, point, *words)
    done = answer(folder, *words)
    assert done.returncode == 0, done.stderr
    assert (ids(folder / "o.jsonl"), ids(folder / "e.jsonl")) == (["id-0", "id-2"], ["row-1"])


def test_file_that_came_after_the_job_had_begun(folder: Path) -> None:
    """An interrupted job does not take a file for its own that was put there since; nothing settled is lost."""
    killed(folder, "all-done:1", "-o", "o.jsonl")
    (folder / "o.jsonl").write_bytes(MINE)
    refused = answer(folder, "-o", "o.jsonl")
    assert refused.returncode == 2
    assert FOREIGN in refused.stderr
    assert (folder / "o.jsonl").read_bytes() == MINE
    (folder / "o.jsonl").rename(folder / "mine")
    done = answer(folder, "-o", "o.jsonl", "--engine-arg", f"log={folder / 'log'}")
    assert done.returncode == 0
    assert not (folder / "log").exists() or (folder / "log").read_text() == "", "rows ran again"
    assert len(responses(folder / "o.jsonl")) == 3


@pytest.mark.parametrize("roll", [(), ("--max-output-file", "1KiB")], ids=["whole", "parts"])
def test_file_that_comes_while_the_job_runs(tmp_path: Path, roll: tuple[str, ...]) -> None:
    """It is not replaced: the job keeps what it has settled and exits 4, and ends once the file is out of the way."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(40)])
    words = ("in.jsonl", "-o", "o.jsonl", *roll, *SLOW)
    process = start(tmp_path, *words)
    wait_for(process, answering(tmp_path / "o.jsonl.xbatch"))
    foreign = tmp_path / ("o-00000-of-00099.jsonl" if roll else "o.jsonl")
    foreign.write_bytes(MINE)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 4, err
    assert b"has come to exist while the job ran" in err
    assert [path for path in tmp_path.glob("o*.jsonl") if path.is_file()] == [foreign]
    assert foreign.read_bytes() == MINE
    foreign.rename(tmp_path / "mine")
    done = run(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert b"already" not in done.stderr
    whole = [row for path in sorted(tmp_path.glob("o*.jsonl")) if path.is_file() for row in ids(path)]
    assert whole == [f"id-{i}" for i in range(40)]


def test_another_output_for_the_same_state(folder: Path) -> None:
    """A state of its own place owns what it has written, not what has the same name elsewhere."""
    words = ("--state", "kept")
    assert answer(folder, "-o", "a/o.jsonl", *words).returncode == 0
    (folder / "b").mkdir()
    (folder / "b/o.jsonl").write_bytes(MINE)
    refused = answer(folder, "-o", "b/o.jsonl", *words)
    assert refused.returncode == 2
    assert (folder / "b/o.jsonl").read_bytes() == MINE


def test_file_of_the_same_name_in_another_folder(tmp_path: Path) -> None:
    """Of a folder with the output, a file is known by its whole name, also after the folder has moved."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "in.jsonl", [chat(0)])
    foreign = tmp_path / "out/b/in.responses.jsonl"
    assert run(tmp_path, "a/in.jsonl", "-o", "out/").returncode == 0
    (tmp_path / "out/in.responses.jsonl").rename(tmp_path / "out/other")
    foreign.parent.mkdir()
    foreign.write_bytes(MINE)
    refused = run(tmp_path, "a/in.jsonl", "b/in.jsonl", "-o", "out/", "--extend")
    assert (refused.returncode, FOREIGN in refused.stderr) == (2, True), refused.stderr
    assert foreign.read_bytes() == MINE
    foreign.unlink()
    assert run(tmp_path, "a/in.jsonl", "b/in.jsonl", "-o", "out/", "--extend").returncode == 0
    (tmp_path / "out").rename(tmp_path / "moved")
    (tmp_path / "out.xbatch").rename(tmp_path / "moved.xbatch")
    (tmp_path / "moved/b/in.responses.jsonl").write_bytes(b"")
    assert run(tmp_path, "a/in.jsonl", "b/in.jsonl", "-o", "moved/").returncode == 0
    assert ids(tmp_path / "moved/b/in.responses.jsonl") == ["id-0"]


def test_job_of_an_earlier_version(folder: Path) -> None:
    """A state without a list of outputs was begun before there was one: its output is replaced as it was then."""
    killed(folder, "output-published:1", "-o", "o.jsonl")
    (folder / "o.jsonl.xbatch/outputs.json").unlink()
    assert answer(folder, "-o", "o.jsonl").returncode == 0
    (folder / "o.jsonl.xbatch/outputs.json").unlink()
    assert answer(folder, "-o", "o.jsonl", "--restart").returncode == 0
    assert len(responses(folder / "o.jsonl")) == 3


def test_symbolic_link(folder: Path) -> None:
    """The file behind a link is replaced, and the link stays; also a link that leads nowhere yet."""
    (folder / "far").mkdir()
    for name in ("there", "new"):
        (folder / f"{name}.jsonl").symlink_to(f"far/{name}")
    (folder / "far/there").write_bytes(MINE)
    assert answer(folder, "-o", "there.jsonl").returncode == 2
    assert answer(folder, "-o", "there.jsonl", "--overwrite").returncode == 0
    assert answer(folder, "-o", "new.jsonl").returncode == 0
    assert answer(folder, "-o", "new.jsonl", "--restart").returncode == 0
    for name in ("there", "new"):
        assert (folder / f"{name}.jsonl").is_symlink()
        assert len(responses(folder / "far" / name)) == 3
    assert sorted(path.name for path in (folder / "far").iterdir()) == ["new", "there"]


def test_folder_without_a_slash(folder: Path) -> None:
    """A folder is told from a file by its slash, and the sentence says so."""
    (folder / "out").mkdir()
    refused = answer(folder, "-o", "out")
    assert refused.returncode == 2
    assert b"give its name with a / at the end" in refused.stderr
    assert answer(folder, "-o", "out/").returncode == 0


@pytest.mark.parametrize("words", [("-o", "pipe"), ("-o", "o.jsonl", "--errors", "pipe")], ids=str)
def test_named_pipe(folder: Path, words: tuple[str, ...]) -> None:
    """What goes to a named pipe is written once to its reader; it stays a pipe, and no state is left beside it."""
    os.mkfifo(folder / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((folder / "pipe").read_bytes()))
    reader.start()
    done = answer(folder, *words)
    reader.join(30)
    assert done.returncode == 0, done.stderr
    wanted = ["row-1"] if "--errors" in words else ["id-0", "row-1", "id-2"]
    assert [json.loads(line)["custom_id"] for line in read[0].splitlines()] == wanted
    assert stat.S_ISFIFO((folder / "pipe").stat().st_mode)
    assert not (folder / "pipe.xbatch").exists()


def test_named_pipe_without_a_reader(folder: Path) -> None:
    """It is waited for; whoever does not want to wait stops the job, which exits 75."""
    os.mkfifo(folder / "pipe")
    process = start(folder, "in.jsonl", "-o", "pipe")
    assert process.stderr is not None
    while b"writing to " not in (line := process.stderr.readline()):
        assert line, "it has ended"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 75


def test_terminal(folder: Path) -> None:
    """A terminal gets the responses, and nothing is renamed over it."""
    ours, theirs = os.openpty()
    name = os.ttyname(theirs)
    process = start(folder, "in.jsonl", "-o", name, "--max-failures", "1")
    seen = b""
    while seen.count(b"\n") < 3:
        seen += os.read(ours, 65536)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert os.ttyname(theirs) == name
    os.close(ours)
    os.close(theirs)


def test_descriptors(folder: Path) -> None:
    """The streams that the process was given are written to, not what has their name later."""
    done = answer(folder, "-o", "/dev/stdout", "--errors", "/dev/stderr", "--quiet")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["custom_id"] for line in done.stdout.splitlines()] == ["id-0", "id-2"]
    assert [json.loads(line)["custom_id"] for line in done.stderr.splitlines()] == ["row-1"]
    with (folder / "given").open("wb") as given:
        given.write(MINE)
        given.flush()
        words = command("in.jsonl", "--max-failures", "1", "-o", f"/dev/fd/{given.fileno()}")
        subprocess.run(words, cwd=folder, env=ENV, pass_fds=[given.fileno()], check=True, capture_output=True)
    assert (folder / "given").read_bytes().startswith(MINE), "the file behind the descriptor was replaced"
    assert len((folder / "given").read_bytes().splitlines()) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "/dev/fd/77"), b"/dev/fd/77 is not open for writing"),
        (("-o", "/dev/stdin"), b"/dev/stdin is not open for writing"),
        (("-o", "-", "--errors", "/dev/stdout"), b"--errors names the output itself"),
        (("-o", "socket"), b"socket is a socket, to which no output can be written"),
        (("--state", "pipe"), b"the state folder pipe can't be written: Not a directory"),
        (("-o", "pipe/"), b"can't be written: Not a directory"),
    ],
    ids=str,
)
def test_refused(folder: Path, words: tuple[str, ...], message: bytes) -> None:
    """What can't be written to is refused with exit 2 before anything runs, and left as it is."""
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(folder / "socket"))
        before = listing(folder)
        done = run(folder, "in.jsonl", *words, stdin=b"")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert listing(folder) == before


@pytest.mark.parametrize("major_minor", [(1, 3), (1, 9)] if os.geteuid() == 0 else [])
def test_device(folder: Path, major_minor: tuple[int, int]) -> None:
    """A device like /dev/null takes the output, one of another kind is refused; each stays what it is."""
    device = folder / "device"
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(*major_minor))
    done = answer(folder, "-o", "device")
    assert done.returncode == (0 if major_minor == (1, 3) else 2), done.stderr
    assert device.stat().st_rdev == os.makedev(*major_minor)
    for put in (lambda: storage.put(device, MINE), lambda: storage.publish_file(folder / "in.jsonl", device)):
        with pytest.raises(StorageError, match="is a device, which no file may replace"):
            put()
    with pytest.raises(UsageError, match="is a device"):
        storage.check_uri_writable(str(device))
    assert device.stat().st_rdev == os.makedev(*major_minor)


@pytest.mark.parametrize("scheme", ["", "file://", "local://"])
def test_second_line_of_defence(folder: Path, scheme: str) -> None:
    """Whoever publishes over a pipe is refused by the storage itself, which also removes none."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    uri = f"{scheme}{pipe}"
    with pytest.raises(StorageError, match="no file may replace"):
        storage.publish_to(uri, write(folder / "built.jsonl", [chat(1)]))
    if scheme != "local://":
        storage.remove(uri)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(path.name for path in folder.iterdir()) == ["built.jsonl", "in.jsonl", "pipe"]


def test_state_folder_of_somebody_else(folder: Path) -> None:
    """A folder with other things in it is not taken for a state, whose cleaning would remove them."""
    for name in ("work/spool", "work/done"):
        (folder / name).mkdir(parents=True)
        (folder / name / "mine").write_bytes(MINE)
    before = listing(folder)
    for words in ((), ("--restart",)):
        refused = answer(folder, "--state", "work", *words)
        assert refused.returncode == 2
        assert b"work holds done and no state of a job: give an empty folder by --state" in refused.stderr
        assert listing(folder) == before
    (folder / "empty").mkdir()
    assert answer(folder, "--state", "empty").returncode == 0
