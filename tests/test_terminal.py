"""What reaches the terminal: xbatch's own sentences only, without control characters, and with counts that agree."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pseudo_terminal import on_terminal
from test_cli_run import ENV, chat, command, run, write

from xbatch.display import Lines, counted, escaped, lines, shown_json
from xbatch.errors import UsageError
from xbatch.report.closing import _rows
from xbatch.report.progress import Snapshot, duration, measure
from xbatch.state.records import Counts

PRINTING_LIBRARY = """
import os, sys, threading, time

def chatter():
    while not any(thread.name == "progress" for thread in threading.enumerate()):
        time.sleep(0.001)
    while True:
        print("LIBRARY prints", flush=True)
        print("LIBRARY warns", file=sys.stderr, flush=True)
        os.write(1, b"LIBRARY writes\\n")
        time.sleep(0.01)

threading.Thread(target=chatter, daemon=True).start()
"""
"""Prints while the progress bar is there; Python imports a module of this name at its start."""

EVIL = "\x1b[31m\x07\x9b2J\x7f\u202eabc\u2066"
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def xbatch(folder: Path, *words: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "xbatch", *words], cwd=folder, env=ENV, capture_output=True, check=False
    )


def test_the_screen_has_only_our_lines(tmp_path: Path) -> None:
    """On a terminal there is a bar, and what libraries print meanwhile stands in the engine's log and nowhere else."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/sitecustomize.py").write_text(PRINTING_LIBRARY)
    write(tmp_path / "in.jsonl", [chat(i) for i in range(40)])
    env = {**ENV, "PYTHONPATH": f"{tmp_path / 'lib'}{os.pathsep}{ENV['PYTHONPATH']}"}
    slow = ("--engine-arg", "delay_s=0.2", "--engine-arg", "max_in_flight=8", "--engine-arg", "start_s=0.5")
    seen = on_terminal(command("in.jsonl", *slow), tmp_path, env)
    assert seen.returncode == 0, seen.text
    assert "LIBRARY" not in seen.text
    assert re.search(r"running .*/40 rows", seen.text), "there is no bar"
    names = ["a fake engine", "rows", "tokens", "time", "speed", "output", "state", "vLLM's log"]
    assert len(seen.lines) == len(names)
    assert all(line.startswith(name) for line, name in zip(seen.lines, names, strict=True)), seen.lines
    log = (tmp_path / "in.responses.jsonl.xbatch/vllm.log").read_text()
    assert {"LIBRARY prints", "LIBRARY warns", "LIBRARY writes"} <= set(log.splitlines())


def test_a_stop_removes_the_bar(tmp_path: Path) -> None:
    """A job that leaves at once says so on a line of its own, and the cursor is there again."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(40)])
    slow = ("--engine-arg", "start_s=60", "--deadline", "1.5s")
    seen = on_terminal(command("in.jsonl", *slow), tmp_path, ENV)
    assert seen.returncode == 75
    assert "loading" in seen.text
    assert seen.lines[-1].startswith("xbatch: stopped (the deadline has come)")
    assert seen.raw.rindex(b"\x1b[?25h") > seen.raw.rindex(b"\x1b[?25l")


@pytest.mark.parametrize("screen", [True, False], ids=["terminal", "pipe"])
def test_nothing_from_inputs_acts_on_the_terminal(tmp_path: Path, *, screen: bool) -> None:
    """Control characters in rows, ids, models and names of files are shown escaped, by every command."""
    name = f"in{EVIL}\n.jsonl"
    rows = [
        f'{{"custom_id": "x{EVIL}", oops',
        {**chat(1, EVIL), "custom_id": EVIL},
        {**chat(2, EVIL), "custom_id": EVIL},
    ]
    (tmp_path / name).write_text(
        "".join((r if isinstance(r, str) else json.dumps(r, ensure_ascii=False)) + "\n" for r in rows)
    )
    commands = (
        ("run", name, "-o", "out.jsonl", "--engine", "fake"),
        ("status", "out.jsonl"),
        ("status", "out.jsonl", "--json"),
        ("status", EVIL),
        ("validate", name),
        ("validate", name, "--json"),
        ("validate", name, "--model", "m"),
        ("run", name, "-o", "out.jsonl", "--engine", "fake", "--model", EVIL, "--columns", EVIL),
        ("run", name, "-o", "out.jsonl", "--engine", "fake", "--accept-change", "model", "--seed", "5"),
        ("run", EVIL, "-o", "other.jsonl"),
        ("run", name, "--print-job"),
        ("models", EVIL),
        ("schema", "--write", f"{name}/{EVIL}"),
    )
    for words in commands:
        if screen:
            written = on_terminal([sys.executable, "-m", "xbatch", *words], tmp_path, ENV).raw.decode()
            assert "\x1b[31m" not in written, words
            written = re.sub("\x1b\\[[0-9;?]*[A-Za-z]|\r", "", written)
        else:
            done = xbatch(tmp_path, *words)
            written = (done.stdout + done.stderr).decode()
        assert written, words
        assert not UNSAFE.search(written), (words, written)


def test_escaping() -> None:
    """Everything that would act on a terminal is escaped; what is meant as a line break stays one."""
    assert escaped("a\x1b[0m\r\n\t\x85\x7f\u202e\u2066\ud800é日😀") == (
        "a\\x1b[0m\\r\\n\\t\\x85\\x7f\\u202e\\u2066\\ud800é日😀"
    )
    assert lines("a", "b\nc") == "a\nb\\nc"
    assert escaped(str(UsageError(lines("a", "b\x1b")))) == "a\nb\\x1b"
    assert isinstance(lines("a", lines("b", "c")), Lines)
    text = '{"a": "é\x7f\x9b\u202e\\u001b"}\n'
    assert json.loads(shown_json(text)) == json.loads(text)
    assert shown_json(text) == '{"a": "é\\u007f\\u009b\\u202e\\u001b"}\n'


def test_a_message_of_several_lines_keeps_them(tmp_path: Path) -> None:
    """The table of what has changed is a table, also where names of files hold line breaks."""
    write(tmp_path / "in.jsonl", [chat(0)])
    run(tmp_path, "in.jsonl", "-o", "o\nut.jsonl")
    text = run(tmp_path, "in.jsonl", "-o", "o\nut.jsonl", "--seed", "5").stderr.decode()
    assert text.startswith("xbatch: o\\nut.jsonl.xbatch belongs to job ")
    assert "with other inputs or settings:\n  " in text
    assert "\nRun it as it was, " in text
    many = xbatch(tmp_path, "run", "in.jsonl", "--drain-s", "-1", "--lease-s", "-1").stderr.decode()
    assert len(many.splitlines()) == 2


@pytest.mark.parametrize(("number", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (12345, "12,345 rows")])
def test_counting(number: int, text: str) -> None:
    """A count agrees with its noun."""
    assert counted(number, "row") == text
    assert counted(number, "try", "tries").startswith(text.split(maxsplit=1)[0])


def test_one_of_each(tmp_path: Path) -> None:
    """Where there is one row, no sentence speaks of "1 rows"."""
    write(tmp_path / "in.jsonl", ["", chat(0, "demo")])
    told = [
        xbatch(tmp_path, *words)
        for words in (
            ("run", "in.jsonl", "--engine", "fake"),
            ("status", "in.jsonl"),
            ("validate", "in.jsonl"),
            ("validate", "in.jsonl", "--model", "other", "--max-problems", "1"),
            ("run", "in.jsonl", "--engine", "fake", "-o", "o.jsonl", "--model", "other"),
        )
    ]
    for done in told:
        text = (done.stdout + done.stderr).decode()
        assert text
        assert not re.search(
            r"(?<![\d.,])1 (more )?(rows|files|tokens|shards|blank lines|problems|bytes|tries|times)\b", text
        ), text


def test_no_rate_before_one_was_measured() -> None:
    """Just after the start nothing is said of speed, instead of thousands of millions of rows a second."""
    early = measure(Snapshot("running", 10, Counts(5, 0, 0, 50, 50), Counts(), 1e-7, 2))
    assert set(early.values()) == {None}
    later = measure(Snapshot("running", 10, Counts(5, 0, 0, 50, 50), Counts(), 2.0, 2))
    assert later == {"rows_per_s": 2.5, "prompt_tokens_per_s": 25.0, "completion_tokens_per_s": 25.0, "eta_s": 2.0}
    assert duration(0) == "0 s"


def test_an_output_that_was_made_again(tmp_path: Path) -> None:
    """A run that asks nothing says where the output comes from instead of a speed."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(3)])
    assert b"rebuilt" not in run(tmp_path, "in.jsonl").stderr
    (tmp_path / "in.responses.jsonl").unlink()
    text = run(tmp_path, "in.jsonl").stderr.decode()
    assert re.search(
        "^speed +nothing was run: the output was rebuilt from what was answered before$", text, re.MULTILINE
    )
    assert "rows/s" not in "".join(line for line in text.splitlines() if not line.startswith("{"))


def test_a_report_of_an_earlier_version_is_shown() -> None:
    """A report without reasons is shown without them."""
    report = {
        "request_counts": {"total": 1, "completed": 0, "failed": 1, "retryable": 0},
        "usage": {"prompt_tokens": 1, "completion_tokens": 0},
        "this_run": {"rows": 1, "prompt_tokens": 1, "completion_tokens": 0},
        "elapsed_s": 1.0,
        "running_s": 0.5,
        "outputs": [],
        "state": None,
        "engine_log": None,
    }
    assert [name for name, _ in _rows(report)] == ["rows", "tokens", "time", "speed"]


def test_status_of_an_input_in_a_store(tmp_path: Path) -> None:
    """Of an input that lies in a store, `status` says that no job has begun, and gives no advice about `run`."""
    done = xbatch(tmp_path, "status", "memory://bucket/in.jsonl")
    assert done.returncode == 2
    assert done.stderr.decode() == "xbatch: no job has begun for memory://bucket/in.jsonl\n"


def test_no_totals_of_what_does_not_exist(tmp_path: Path) -> None:
    """`validate` says that a file does not exist, and nothing else; of an empty one it tells the totals."""
    done = xbatch(tmp_path, "validate", "none.jsonl")
    assert (done.returncode, done.stdout) == (2, b"")
    assert len(done.stderr.splitlines()) == 1
    write(tmp_path / "empty.jsonl", [])
    assert b"0 (0 can be sent, 0 can't)" in xbatch(tmp_path, "validate", "empty.jsonl").stderr
