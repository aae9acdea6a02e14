"""`xbatch run` as a user or a scheduler meets it: exit codes, places, interruptions, reruns."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FAKE = ("--engine", "fake")
SLOW = ("--engine-arg", "delay_s=0.05", "--engine-arg", "max_in_flight=4")
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "xbatch", "run", *map(str, words), *FAKE]


def run(folder: Path, *words: str | Path, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(command(*words), cwd=folder, env=ENV, input=stdin, capture_output=True, check=False)


def start(folder: Path, *words: str | Path, **more: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command(*words), cwd=folder, env=ENV, stderr=subprocess.PIPE, stdout=subprocess.PIPE, **more
    )


def chat(index: int, model: str | None = "m") -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": f"text {index}"}]}
    return {"custom_id": f"id-{index}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def responses(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def ids(path: Path) -> list[str]:
    return [row["custom_id"] for row in responses(path)]


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with inode and modification time, but for the claims that any run may make anew."""
    return {
        str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns if p.is_file() else 0)
        for p in folder.rglob("*")
        if not p.name.startswith("lock-") and not {"lease", "workers"} & {p.name, p.parent.name}
    }


def without_ids(path: Path) -> list[dict[str, Any]]:
    """Responses without what differs from job to job."""
    rows = responses(path)
    for row in rows:
        del row["id"]
        if row["response"]:
            del row["response"]["request_id"]
    return rows


def wait_for(process: "subprocess.Popen[bytes]", condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def answering(state: Path) -> Callable[[], bool]:
    """Some rows are in the log of a running job."""
    return lambda: any(path.stat().st_size > 1_000 for path in state.glob("wal/*/*"))


def test_complete(tmp_path: Path) -> None:
    """A job whose rows are all answered exits 0, with one response a row beside its input, in its order."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(30)])
    done = run(tmp_path, "in.jsonl")
    assert (done.returncode, done.stdout) == (0, b"")
    assert ids(tmp_path / "in.responses.jsonl") == [f"id-{i}" for i in range(30)]
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "in.responses.jsonl", "in.responses.jsonl.xbatch"]
    report = json.loads((tmp_path / "in.responses.jsonl.xbatch/report.json").read_bytes())
    assert report["request_counts"] == {"total": 30, "completed": 30, "failed": 0, "retryable": 0}


@pytest.mark.parametrize(
    ("allowed", "code"), [(None, 1), ("0", 1), ("1", 1), ("2", 0), ("19%", 1), ("20%", 0), ("100%", 0)]
)
def test_max_failures(tmp_path: Path, allowed: str | None, code: int) -> None:
    """A complete job exits 1 if more rows failed than allowed, 0 if not; every row has its response either way."""
    write(tmp_path / "in.jsonl", [*[chat(i) for i in range(8)], "nonsense", "[]"])
    words = ["--max-failures", allowed] if allowed else []
    assert run(tmp_path, "in.jsonl", *words).returncode == code
    assert len(responses(tmp_path / "in.responses.jsonl")) == 10
    assert run(tmp_path, "in.jsonl", *words).returncode == code


@pytest.mark.parametrize(
    "words",
    [
        ["--max-failures", "some"],
        ["--max-failures", "-1"],
        ["--max-line-bytes", "0"],
        ["--format", "xml"],
        ["--engine-arg", "novalue"],
        ["--nonsense"],
        ["--drain-s", "-1"],
        ["none.jsonl"],
        ["no*thing.jsonl"],
        ["-"],
        ["job.yaml"],
        ["-o", "folder"],
        ["-o", "in.jsonl"],
        ["-o", "folder/../in.jsonl"],
        ["--errors", "in.jsonl"],
        ["--errors", "in.responses.jsonl"],
        ["-o", "in.jsonl/out.jsonl"],
        ["--errors", "in.jsonl/errors.jsonl"],
        ["--state", "in.jsonl"],
        ["--state", "in.jsonl/state"],
        ["--model", "another"],
        ["several.jsonl"],
        ["folder/a.gz"],
    ],
    ids=" ".join,
)
def test_unusable(tmp_path: Path, words: list[str]) -> None:
    """A command, input or output that can't be used exits 2 with one sentence, and nothing at all is written."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(3)])
    write(tmp_path / "several.jsonl", [chat(0, "a"), chat(1, "b")])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.gz").write_bytes(b"\x1f\x8b\x08\x00")
    before = listing(tmp_path)
    done = run(tmp_path, "in.jsonl", *words)
    assert done.returncode == 2, done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stderr.strip()
    assert done.stdout == b""
    assert listing(tmp_path) == before


def test_several_models_named(tmp_path: Path) -> None:
    """Rows that name several models are refused with the names, where they stand, and the flags that mend it."""
    write(tmp_path / "in.jsonl", [chat(0, "one"), chat(1, "two")])
    text = run(tmp_path, "in.jsonl").stderr.decode()
    assert all(word in text for word in ("'one'", "'two'", "in.jsonl:1", "in.jsonl:2", "--model"))


def test_no_model_named(tmp_path: Path) -> None:
    """Rows that name no model are refused unless the command names one."""
    write(tmp_path / "in.jsonl", [chat(0, None)])
    done = run(tmp_path, "in.jsonl")
    assert done.returncode == 2
    assert b"--model" in done.stderr
    assert run(tmp_path, "in.jsonl", "--model", "m").returncode == 0


def test_served_model_name(tmp_path: Path) -> None:
    """Rows may name the model by any of its served names."""
    write(tmp_path / "in.jsonl", [chat(0, "alias"), chat(1, "m")])
    assert run(tmp_path, "in.jsonl", "--model", "m", "--served-model-name", "alias").returncode == 0


def test_unreadable_and_unwritable(tmp_path: Path) -> None:
    """What this user may not read or write is found before anything runs: exit 2, nothing written."""
    write(tmp_path / "in.jsonl", [chat(0)])
    write(tmp_path / "secret.jsonl", [chat(0)]).chmod(0)
    (tmp_path / "locked").mkdir(mode=0o555)
    before = listing(tmp_path)
    # Root reads and writes everything unless it gives up these two capabilities: DAC_OVERRIDE and DAC_READ_SEARCH.
    script = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "[libc.prctl(24, capability, 0, 0, 0) for capability in (1, 2)]\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'xbatch', 'run', *sys.argv[1:], '--engine', 'fake'])\n"
    )
    for words in (
        ["secret.jsonl"],
        ["in.jsonl", "-o", "locked/out.jsonl"],
        ["in.jsonl", "-o", "locked/new/"],
        ["in.jsonl", "--errors", "locked/errors.jsonl"],
        ["in.jsonl", "--state", "locked/state"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, *words], cwd=tmp_path, env=ENV, capture_output=True, check=False
        )
        assert (done.returncode, b"Traceback" in done.stderr) == (2, False), (words, done.stderr)
        assert listing(tmp_path) == before, words


@pytest.mark.parametrize("data", [b"", b"\n \r\n\n"], ids=["empty", "blank"])
def test_empty_input(tmp_path: Path, data: bytes) -> None:
    """An input without rows gives an empty output and exits 0."""
    (tmp_path / "in.jsonl").write_bytes(data)
    for _ in range(2):
        assert run(tmp_path, "in.jsonl").returncode == 0
        assert (tmp_path / "in.responses.jsonl").read_bytes() == b""


def test_several_inputs(tmp_path: Path) -> None:
    """Several inputs give a folder with an output for each, in which ids must be unique."""
    write(tmp_path / "a.jsonl", [chat(0), chat(1)])
    write(tmp_path / "b.jsonl", [chat(0), chat(0)])
    assert run(tmp_path, "a.jsonl", "b.jsonl").returncode == 1
    assert ids(tmp_path / "responses/a.responses.jsonl") == ["id-0", "id-1"]
    second = responses(tmp_path / "responses/b.responses.jsonl")
    assert second[1]["error"]["code"] == "duplicate_custom_id"
    assert "b.jsonl:1" in second[1]["error"]["message"]


def test_several_inputs_one_output(tmp_path: Path) -> None:
    """Several inputs may share one output, in which they follow each other; a glob is in name order."""
    for index, name in enumerate("abc"):
        write(tmp_path / f"{name}.jsonl", [chat(index)])
    assert run(tmp_path, "*.jsonl", "-o", "out/all.jsonl").returncode == 0
    assert ids(tmp_path / "out/all.jsonl") == ["id-0", "id-1", "id-2"]


def test_output_folder(tmp_path: Path) -> None:
    """An output that ends in a slash is a folder."""
    write(tmp_path / "in.jsonl", [chat(0)])
    assert run(tmp_path, "in.jsonl", "-o", "new/folder/").returncode == 0
    assert ids(tmp_path / "new/folder/in.responses.jsonl") == ["id-0"]


def test_standard_input_and_output(tmp_path: Path) -> None:
    """From - to - only responses reach standard output, and nothing is left in the folder."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(5)])
    data = (tmp_path / "in.jsonl").read_bytes()
    (tmp_path / "in.jsonl").unlink()
    for words in (["-"], ["-", "-o", "-"]):
        done = run(tmp_path, *words, stdin=data)
        assert done.returncode == 0, done.stderr
        assert [json.loads(line)["custom_id"] for line in done.stdout.splitlines()] == [f"id-{i}" for i in range(5)]
    assert listing(tmp_path) == {}


def test_standard_output_of_a_file(tmp_path: Path) -> None:
    """`-o -` prints the responses of a file and writes nothing beside it."""
    write(tmp_path / "in.jsonl", [chat(0)])
    assert json.loads(run(tmp_path, "in.jsonl", "-o", "-").stdout)["custom_id"] == "id-0"
    assert os.listdir(tmp_path) == ["in.jsonl"]


def test_standard_output_again_from_kept_state(tmp_path: Path) -> None:
    """With a state folder of its own, a job to standard output prints the same responses when run again."""
    write(tmp_path / "in.jsonl", [chat(0)])
    first, second = (run(tmp_path, "in.jsonl", "-o", "-", "--state", "kept") for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), second.stderr
    assert first.stdout == second.stdout != b""


def test_errors_file_and_body_format(tmp_path: Path) -> None:
    """Failures go to the errors file; `body` writes bare objects."""
    write(tmp_path / "in.jsonl", [chat(0), "nonsense", chat(1)])
    assert run(tmp_path, "in.jsonl", "--errors", "bad/errors.jsonl", "--format", "body").returncode == 1
    good = responses(tmp_path / "in.responses.jsonl")
    assert [row["choices"][0]["message"]["content"] for row in good] == ["text 0", "text 1"]
    assert [row["error"]["code"] for row in responses(tmp_path / "bad/errors.jsonl")] == ["invalid_json_line"]


def test_quiet(tmp_path: Path) -> None:
    """`--quiet` says nothing about a job that goes well; otherwise progress is JSON where nobody watches."""
    write(tmp_path / "in.jsonl", [chat(0)])
    assert run(tmp_path, "in.jsonl", "-o", "a.jsonl", "--quiet").stderr == b""
    lines = run(tmp_path, "in.jsonl", "-o", "b.jsonl").stderr.splitlines()
    assert any(json.loads(line)["event"] == "progress" for line in lines if line.startswith(b"{"))


def test_finished_job_is_left_alone(tmp_path: Path) -> None:
    """A finished job that is run again rewrites nothing."""
    write(tmp_path / "in.jsonl", [chat(0)])
    assert run(tmp_path, "in.jsonl").returncode == 0
    before = listing(tmp_path)
    assert run(tmp_path, "in.jsonl").returncode == 0
    assert listing(tmp_path) == before


@pytest.mark.parametrize("lost", ["in.responses.jsonl", "errors.jsonl"])
def test_lost_output_is_written_again(tmp_path: Path, lost: str) -> None:
    """A finished job whose output is gone never says that all is well without it."""
    write(tmp_path / "in.jsonl", [chat(0), "nonsense"])
    words = ("in.jsonl", "--errors", "errors.jsonl", "--max-failures", "1")
    assert run(tmp_path, *words).returncode == 0
    data = (tmp_path / lost).read_bytes()
    (tmp_path / lost).unlink()
    assert run(tmp_path, *words).returncode == 0
    assert (tmp_path / lost).read_bytes() == data


def test_changed_input(tmp_path: Path) -> None:
    """A job whose input or settings changed is refused with what changed; --restart begins anew."""
    write(tmp_path / "in.jsonl", [chat(0)])
    assert run(tmp_path, "in.jsonl").returncode == 0
    before = (tmp_path / "in.responses.jsonl").read_bytes()
    body = run(tmp_path, "in.jsonl", "--format", "body")
    assert body.returncode == 2
    assert b"format  batch -> body" in body.stderr
    write(tmp_path / "in.jsonl", [chat(0), chat(1)])
    done = run(tmp_path, "in.jsonl")
    assert done.returncode == 2
    assert b"inputs.in.jsonl" in done.stderr
    assert b"--restart" in done.stderr
    assert (tmp_path / "in.responses.jsonl").read_bytes() == before
    assert run(tmp_path, "in.jsonl", "--restart").returncode == 0
    assert ids(tmp_path / "in.responses.jsonl") == ["id-0", "id-1"]


def test_restart_needs_a_usable_command(tmp_path: Path) -> None:
    """--restart with a command that can't be used throws nothing away."""
    write(tmp_path / "in.jsonl", [chat(0)])
    assert run(tmp_path, "in.jsonl").returncode == 0
    before = listing(tmp_path)
    assert run(tmp_path, "in.jsonl", "--restart", "--model", "another").returncode == 2
    assert listing(tmp_path) == before


@pytest.mark.parametrize("words", [["--restart"], []], ids=["restart", "first run"])
def test_foreign_files_are_never_deleted(tmp_path: Path, words: list[str]) -> None:
    """A folder with other people's files, given as the state, keeps them."""
    write(tmp_path / "in.jsonl", [chat(0)])
    (tmp_path / "work").mkdir()
    (tmp_path / "work/thesis.txt").write_text("years of work")
    run(tmp_path, "in.jsonl", "--state", "work", *words)
    assert (tmp_path / "work/thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    "signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGTERM] * 2, [signal.SIGKILL]], ids=str
)
def test_interrupted(tmp_path: Path, signals: list[signal.Signals]) -> None:
    """Stopped by whatever signal, the same command goes on and ends with the output of an undisturbed run."""
    write(tmp_path / "in.jsonl", [*[chat(i) for i in range(80)], "nonsense"])
    assert run(tmp_path, "in.jsonl", "-o", "whole.jsonl", "--max-failures", "1").returncode == 0
    words = ("in.jsonl", "-o", "out.jsonl", "--max-failures", "1", *SLOW)
    process = start(tmp_path, *words)
    wait_for(process, answering(tmp_path / "out.jsonl.xbatch"))
    for each in signals:
        process.send_signal(each)
        time.sleep(0.01)
    _, told = process.communicate(timeout=30)
    assert process.returncode == (-9 if signal.SIGKILL in signals else 75), told
    assert not (tmp_path / "out.jsonl").exists()
    again = run(tmp_path, *words)
    assert again.returncode == 0, again.stderr
    assert b"going on: " in again.stderr
    assert without_ids(tmp_path / "out.jsonl") == without_ids(tmp_path / "whole.jsonl")
    report = json.loads((tmp_path / "out.jsonl.xbatch/report.json").read_bytes())
    assert 0 < report["this_run"]["rows"] < 81


def test_killed_again_and_again(tmp_path: Path) -> None:
    """However often a job is killed, it ends, with every row once and in order."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(60)])
    words = ("in.jsonl", "-o", "out.jsonl", *SLOW)
    state = tmp_path / "out.jsonl.xbatch"
    for kept in (1_000, 5_000):
        process = start(tmp_path, *words)
        wait_for(process, lambda: any(p.stat().st_size > kept for p in state.glob("wal/*/*")))  # noqa: B023
        process.kill()
        process.communicate(timeout=30)
    assert run(tmp_path, *words).returncode == 0
    assert ids(tmp_path / "out.jsonl") == [f"id-{i}" for i in range(60)]


def test_interrupted_standard_input(tmp_path: Path) -> None:
    """A job that reads standard input and writes a file goes on when the same bytes are piped in again."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(100)])
    words = ("-", "-o", "out.jsonl", *SLOW)
    with (tmp_path / "in.jsonl").open("rb") as pipe:
        process = start(tmp_path, *words, stdin=pipe)
    wait_for(process, answering(tmp_path / "out.jsonl.xbatch"))
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 75
    done = run(tmp_path, *words, stdin=(tmp_path / "in.jsonl").read_bytes())
    assert done.returncode == 0, done.stderr
    assert ids(tmp_path / "out.jsonl") == [f"id-{i}" for i in range(100)]


def test_stopped_while_loading(tmp_path: Path) -> None:
    """Stopped while the engine loads, the job exits 75 at once, leaves no scratch, and goes on later."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    write(tmp_path / "in.jsonl", [chat(i) for i in range(3)])
    ended = "out.jsonl.xbatch"
    env = {**ENV, "TMPDIR": str(scratch)}
    slow = command("in.jsonl", "-o", "out.jsonl", "--engine-arg", "start_s=600")
    process = subprocess.Popen(slow, cwd=tmp_path, env=env, stderr=subprocess.PIPE)
    wait_for(process, lambda: any((tmp_path / ended).glob("lease/*")))
    time.sleep(0.2)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 75
    assert not os.listdir(scratch)
    assert run(tmp_path, "in.jsonl", "-o", "out.jsonl").returncode == 0


def test_stop_among_few_rows(tmp_path: Path) -> None:
    """A short job that is stopped at any moment is never complete with rows missing."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(20)])
    for after in (0, 2):
        words = ("in.jsonl", "-o", f"{after}.jsonl", "--engine-arg", "delay_s=0.02", "--engine-arg", "max_in_flight=1")
        process = start(tmp_path, *words)
        state = tmp_path / f"{after}.jsonl.xbatch"
        wait_for(process, lambda: (state / "wal").exists())  # noqa: B023
        time.sleep(after / 100)
        process.terminate()
        process.communicate(timeout=30)
        assert process.returncode in (0, 75)
        assert run(tmp_path, *words).returncode == 0
        assert ids(tmp_path / f"{after}.jsonl") == [f"id-{i}" for i in range(20)]


def test_two_at_once(tmp_path: Path) -> None:
    """A second process for the same job exits 75 and disturbs nothing."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(500)])
    process = start(tmp_path, "in.jsonl", *SLOW)
    wait_for(process, answering(tmp_path / "in.responses.jsonl.xbatch"))
    for words in ([], ["--restart"]):
        second = run(tmp_path, "in.jsonl", *SLOW, *words)
        assert second.returncode == 75
        assert str(process.pid).encode() in second.stderr
    _, told = process.communicate(timeout=30)
    assert process.returncode == 0, told
    assert ids(tmp_path / "in.responses.jsonl") == [f"id-{i}" for i in range(500)]


def test_folder_as_input_again(tmp_path: Path) -> None:
    """A folder given as the input gives a finished job when run again: outputs are never taken for inputs."""
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/a.jsonl", [chat(0)])
    assert run(tmp_path, "in").returncode == 0
    done = run(tmp_path, "in")
    assert done.returncode == 0, done.stderr
    assert b"already complete" in done.stderr


def test_damaged_state_is_storage_trouble(tmp_path: Path) -> None:
    """A damaged state exits 4 with the damaged file's name; nothing is published."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(100)])
    process = start(tmp_path, "in.jsonl", "-o", "out.jsonl", *SLOW)
    state = tmp_path / "out.jsonl.xbatch"
    wait_for(process, answering(state))
    process.terminate()
    process.communicate(timeout=30)
    [segment] = (state / "seg").rglob("*.zst")
    segment.write_bytes(segment.read_bytes()[:-5])
    done = run(tmp_path, "in.jsonl", "-o", "out.jsonl", *SLOW)
    assert done.returncode == 4, done.stderr
    assert segment.name.encode() in done.stderr
    assert not (tmp_path / "out.jsonl").exists()
