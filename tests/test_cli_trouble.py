"""Trouble around a job: terminals and pipes that go away, stops at bad moments, states cut short, places in the way."""

import errno
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from test_cli_resume import asked, status
from test_cli_run import ENV, SLOW, answering, chat, command, ids, run, start, wait_for, write

from xbatch.cli.ending import explain, to_exit
from xbatch.errors import UsageError

STATE = "in.responses.jsonl.xbatch"


def test_stops_when_nobody_reads_its_messages(tmp_path: Path) -> None:
    """A job whose standard error has lost its reader still stops on SIGTERM, and would still finish."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(400)])
    reader, writer = os.pipe()
    process = subprocess.Popen(command("in.jsonl", *SLOW), cwd=tmp_path, env=ENV, stderr=writer)
    os.close(writer)
    wait_for_rows(tmp_path, process)
    os.close(reader)
    process.terminate()
    assert process.wait(15) == 75
    assert run(tmp_path, "in.jsonl").returncode == 0


def wait_for_rows(folder: Path, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 30
    while not answering(folder / STATE)():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("words", [["-o", "out.jsonl"], ["-o", "-"]], ids=" ".join)
def test_messages_and_answers_that_nobody_reads(tmp_path: Path, words: list[str]) -> None:
    """Readers of standard output or error that end early don't change the exit code."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(300)])
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command("in.jsonl", *words), cwd=tmp_path, env=ENV, stdout=writer, stderr=writer, check=False, timeout=60
    )
    os.close(writer)
    assert done.returncode == 0


def test_stops_while_it_waits_for_its_input(tmp_path: Path) -> None:
    """Signals and the deadline work while standard input has not come to its end."""
    for words, send in (([], True), (["--deadline", "1s"], False)):
        process = start(tmp_path, "-", "-o", "out.jsonl", *words, stdin=subprocess.PIPE)
        if send:
            assert process.stdin is not None
            process.stdin.write(b"\n" * (1 << 20))  # far more than a pipe holds, so that the process is reading it
            process.terminate()
        assert process.wait(15) == 75
        process.communicate()


def test_second_signal_leaves_at_once(tmp_path: Path) -> None:
    """The second signal does not wait for rows in flight, and nothing finished is lost."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(400)])
    log = ("--engine-arg", f"log={tmp_path / 'log'}")
    process = start(tmp_path, "in.jsonl", *SLOW, *log)
    wait_for(process, answering(tmp_path / STATE))
    process.send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    time.sleep(0.05)
    process.terminate()
    began = time.monotonic()
    process.communicate(timeout=20)
    assert process.returncode == 75
    assert time.monotonic() - began < 6
    assert run(tmp_path, "in.jsonl", *log).returncode == 0
    rows = [line for line in asked(tmp_path / "log") if line != "start"]
    assert len(rows) <= 400 + 4


def test_lost_part_of_the_output_is_written_again(tmp_path: Path) -> None:
    """An output that was cut, or is another one than the report says, does not pass for complete."""
    write(tmp_path / "in.jsonl", [chat(0), chat(1), "nonsense"])
    words = ("in.jsonl", "-o", "out.jsonl", "--max-failures", "1")
    assert run(tmp_path, *words).returncode == 0
    whole = (tmp_path / "out.jsonl").read_bytes()
    (tmp_path / "out.jsonl").write_bytes(b"")
    assert run(tmp_path, *words).returncode == 0
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    assert run(tmp_path, *words, "--errors", "errors.jsonl").returncode == 0
    assert len((tmp_path / "errors.jsonl").read_bytes().splitlines()) == 1
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 2
    assert run(tmp_path, *words).returncode == 0
    assert (tmp_path / "out.jsonl").read_bytes() == whole


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_restart_that_was_cut_short(tmp_path: Path, at: int) -> None:
    """A --restart that was killed while it threw the old job away leaves none: any command begins anew."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(20)])
    assert run(tmp_path, "in.jsonl", "--shard-rows", "5").returncode == 0
    killed = subprocess.run(
        command("in.jsonl", "--restart"),
        cwd=tmp_path,
        env={**ENV, "XBATCH_CRASH": f"restart-clearing:{at}"},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert run(tmp_path, "in.jsonl").returncode == 0
    assert ids(tmp_path / "in.responses.jsonl") == [f"id-{i}" for i in range(20)]


def test_interrupted_restart_goes_on_without(tmp_path: Path) -> None:
    """Who stops a --restart is told to go on without it, and then nothing is asked twice."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(400)])
    assert run(tmp_path, "in.jsonl").returncode == 0
    log = ("--engine-arg", f"log={tmp_path / 'log'}")
    process = start(tmp_path, "in.jsonl", *SLOW, *log, "--restart")
    wait_for(process, answering(tmp_path / STATE))
    process.terminate()
    _, told = process.communicate(timeout=30)
    assert process.returncode == 75
    assert b"without --restart" in told
    assert run(tmp_path, "in.jsonl", *log).returncode == 0
    rows = [line for line in asked(tmp_path / "log") if line != "start"]
    assert len(rows) == len(set(rows)) == 400


def test_job_file_that_is_gone(tmp_path: Path) -> None:
    """What a job has done, without the file that says which job, is refused; --restart begins anew."""
    write(tmp_path / "in.jsonl", [chat(0)])
    assert run(tmp_path, "in.jsonl").returncode == 0
    (tmp_path / STATE / "job.json").unlink()
    refused = run(tmp_path, "in.jsonl")
    assert refused.returncode == 4
    assert b"job.json is missing" in refused.stderr
    assert run(tmp_path, "in.jsonl", "--restart").returncode == 0


def test_retryable_rows_of_an_extension(tmp_path: Path) -> None:
    """Failures that an extension brings after a retry are counted and run again when asked for."""
    write(tmp_path / "a.jsonl", [chat(i) for i in range(5)])
    words = ("-o", "out.jsonl", "--engine-arg", "fail_on=3,7", "--max-failures", "100%")
    run(tmp_path, "a.jsonl", *words)
    run(tmp_path, "a.jsonl", "-o", "out.jsonl", "--retry-failed")
    write(tmp_path / "b.jsonl", [chat(i) for i in range(5, 10)])
    assert run(tmp_path, "a.jsonl", "b.jsonl", *words, "--extend").returncode == 0
    report = json.loads((tmp_path / "out.jsonl.xbatch/report.json").read_bytes())
    assert report["request_counts"] == {"total": 10, "completed": 9, "failed": 1, "retryable": 1}
    assert status(tmp_path, "out.jsonl")["request_counts"] == report["request_counts"]
    assert run(tmp_path, "a.jsonl", "b.jsonl", "-o", "out.jsonl", "--retry-failed").returncode == 0


def test_extension_of_nothing(tmp_path: Path) -> None:
    """--extend without -o, where no job has begun, is a mistake: the default output of several inputs is another."""
    write(tmp_path / "a.jsonl", [chat(0)])
    write(tmp_path / "b.jsonl", [chat(1)])
    assert run(tmp_path, "a.jsonl").returncode == 0
    done = run(tmp_path, "a.jsonl", "b.jsonl", "--extend")
    assert done.returncode == 2
    assert b"by -o" in done.stderr


def test_round_that_ended_is_the_round(tmp_path: Path) -> None:
    """Killed after its last row and before its report, a retry is not done a second time by the same command."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(5)])
    log = ("--engine-arg", "fail_on=2", "--engine-arg", f"log={tmp_path / 'log'}")
    run(tmp_path, "in.jsonl", *log)
    words = command("in.jsonl", *log, "--retry-failed")
    env = {**ENV, "XBATCH_CRASH": "round-done:1"}
    assert subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert run(tmp_path, "in.jsonl", *log, "--retry-failed").returncode == 1
    assert asked(tmp_path / "log").count("2") == 2


def test_accepted_input_may_be_touched(tmp_path: Path) -> None:
    """An accepted input is what the job knows from then on, also when only its time changes later."""
    write(tmp_path / "in.jsonl", [chat(0)])
    assert run(tmp_path, "in.jsonl").returncode == 0
    write(tmp_path / "in.jsonl", [chat(9)])
    assert run(tmp_path, "in.jsonl", "--accept-change", "inputs").returncode == 0
    os.utime(tmp_path / "in.jsonl", (1, 1))
    assert run(tmp_path, "in.jsonl").returncode == 0


def test_format_is_never_accepted(tmp_path: Path) -> None:
    """The format of rows that are settled can't change."""
    write(tmp_path / "in.jsonl", [chat(0)])
    assert run(tmp_path, "in.jsonl").returncode == 0
    assert run(tmp_path, "in.jsonl", "--format", "body", "--accept-change", "format").returncode == 2


def test_places_in_the_way(tmp_path: Path) -> None:
    """A lock that can't be taken and an input that vanishes while the engine loads are trouble with storage."""
    write(tmp_path / "in.jsonl", [chat(0)])
    (tmp_path / STATE / f"lock-{os.uname().nodename}").mkdir(parents=True)
    done = run(tmp_path, "in.jsonl")
    assert done.returncode == 4, done.stderr
    assert b"Traceback" not in done.stderr
    write(tmp_path / "first.jsonl", [chat(i) for i in range(300)])
    write(tmp_path / "second.jsonl", [chat(i) for i in range(300, 310)])
    words = ("-o", "both/", "--look-ahead", "1", "--engine-arg", "start_s=2")  # so that only the first one is read
    process = start(tmp_path, "first.jsonl", "second.jsonl", *words)
    wait_for(process, lambda: any((tmp_path / "both.xbatch").glob("plan*")))
    (tmp_path / "second.jsonl").unlink()
    _, told = process.communicate(timeout=30)
    assert process.returncode == 4, told
    assert b"Traceback" not in told


def test_stop_while_the_engine_comes_back(tmp_path: Path) -> None:
    """Stopped while a dead engine is started again, what was finished is sealed, and the job goes on later."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(100)])
    words = ("--engine-arg", "crash_on=60", "--engine-arg", "start_s=3", "--engine-arg", f"log={tmp_path / 'log'}")
    process = start(tmp_path, "in.jsonl", *SLOW, *words)
    wait_for(process, lambda: (tmp_path / "log").exists() and asked(tmp_path / "log").count("start") == 2)
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 75
    assert any((tmp_path / STATE).glob("seg/*/*"))
    assert run(tmp_path, "in.jsonl").returncode == 0


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("no such thing"), 2, "no such thing"),
        (OSError(errno.ENOSPC, "No space left on device"), 4, "writing failed: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "a.jsonl"), 4, "a.jsonl: Permission denied"),
        (OSError(errno.EMFILE, "Too many open files"), 4, "this machine gives no more to this process: Too many"),
        (MemoryError(), 75, "there is not enough memory"),
        (ModuleNotFoundError("No module named 'yaml'", name="yaml"), 2, "No module named 'yaml', which xbatch needs"),
        (ModuleNotFoundError("No module named 'xbatch.x'", name="xbatch.x"), 70, "this is a bug in xbatch"),
        (KeyError("x"), 70, "this is a bug in xbatch"),
    ],
)
def test_what_ends_a_command(error: Exception, code: int, said: str) -> None:
    """What comes from outside has a code of its own and one sentence; only what is nobody else's is a bug."""
    found, text = explain(error)
    assert (found, text[: len(said)]) == (code, said)
    assert (len(text.splitlines()) > 1) == (code == 70)


def test_a_library_that_ends_the_process() -> None:
    """A library that calls sys.exit(0) in a job makes it no success."""

    def leave(_: Path) -> int:
        raise SystemExit(0)

    assert to_exit(leave)[0] == 3


def test_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no temporary folder can be written, TMPDIR is named."""

    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert to_exit(lambda _: 0) == (
        4,
        "No usable temporary directory found: set TMPDIR to a folder that can be written to",
    )


def test_working_directory_that_is_gone(tmp_path: Path) -> None:
    """A command in a folder that was removed says so."""
    write(tmp_path / "in.jsonl", [chat(0)])
    gone = tmp_path / "gone"
    gone.mkdir()
    words = command(tmp_path / "in.jsonl", "-o", "out.jsonl")
    done = subprocess.run(
        ["sh", "-c", 'rmdir ../gone && exec "$@"', "sh", *words], cwd=gone, env=ENV, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, b"xbatch: the working directory does not exist any more\n")


@pytest.mark.parametrize(
    "words",
    [["schema", "job"], ["validate", "in.jsonl", "--json"], ["status", "in.jsonl"], ["status", "in.jsonl", "--json"]],
    ids=" ".join,
)
def test_results_on_a_full_disk(tmp_path: Path, words: list[str]) -> None:
    """Results that can't be written are trouble with storage, not a success."""
    write(tmp_path / "in.jsonl", ["nonsense"])
    assert run(tmp_path, "in.jsonl").returncode == 1
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*command()[:3], *words], cwd=tmp_path, env=ENV, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1] == b"xbatch: writing failed: No space left on device"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["in.jsonl", "-o", "loop/out.jsonl"], "symbolic links"),
        (["in.jsonl", "-o", "out.jsonl", "--state", "loop"], "symbolic links"),
        (["in.jsonl", "-o", f"{'x' * 250}.jsonl"], "too long"),
        (["in.jsonl", "-o", "out.jsonl", "--state", "s3://"], "names no bucket"),
        (["http://127.0.0.1:99999/in.jsonl", "-o", "out.jsonl"], "Port out of range"),
        (["http:///in.jsonl", "-o", "out.jsonl"], "names no host"),
        (["dropbox://in.jsonl", "-o", "out.jsonl"], "dropbox"),
    ],
)
def test_places_that_can_not_be(tmp_path: Path, words: list[str], told: str) -> None:
    """A place that no file can have is a mistake of the command, and nothing is made anywhere."""
    write(tmp_path / "in.jsonl", [chat(0)])
    (tmp_path / "loop").symlink_to("loop")
    done = run(tmp_path, *words)
    assert done.returncode == 2, done.stderr
    assert told.encode() in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "loop"]


def test_an_empty_input_was_not_answered_before(tmp_path: Path) -> None:
    """A job without rows tells of no speed, and of no earlier answers."""
    write(tmp_path / "in.jsonl", [])
    done = run(tmp_path, "in.jsonl", "-o", "out.jsonl")
    assert (done.returncode, b"speed" in done.stderr) == (0, False), done.stderr
