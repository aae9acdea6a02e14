"""Going on with a job as a user or a scheduler meets it: status, deadlines, changes, retries, two processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from test_cli_run import ENV, SLOW, answering, chat, command, ids, listing, responses, run, start, wait_for, write

from xbatch.state.folder import StateFolder

STATE = "in.responses.jsonl.xbatch"


def status(folder: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "xbatch", "status", "--json", *words],
        cwd=folder,
        env=ENV,
        capture_output=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def asked(log: Path) -> list[str]:
    """What the fake engine has logged: `start`, and the index of each row that it was asked."""
    return log.read_text().splitlines()


def test_status_while_it_runs_and_after(tmp_path: Path) -> None:
    """`xbatch status` tells rows, workers and speed of a job that runs, is dead or complete, and changes nothing."""
    write(tmp_path / "in.jsonl", [*[chat(i) for i in range(300)], "nonsense"])
    process = start(tmp_path, "in.jsonl", *SLOW, "--shard-rows", "50", "--lease-s", "1")
    wait_for(process, answering(tmp_path / STATE))
    time.sleep(0.6)
    found = status(tmp_path, "in.jsonl")
    assert found["status"] == "running"
    assert found["request_counts"]["total"] == 301
    assert 0 < found["request_counts"]["completed"] < 300
    (worker,) = found["workers"]
    assert worker["alive"]
    assert (worker["pid"], worker["state"]) == (process.pid, "running")
    assert worker["heartbeat_age_s"] < 1
    assert found["rows_per_s"] > 0
    assert found["eta_s"] > 0
    process.kill()
    process.communicate(timeout=30)
    before = listing(tmp_path)
    dead = status(tmp_path, "in.responses.jsonl")
    assert dead["status"] == "interrupted"
    assert not dead["workers"][0]["alive"]
    assert dead["request_counts"]["completed"] >= found["request_counts"]["completed"]
    settled = dead["request_counts"]["completed"] + dead["request_counts"]["failed"]
    # The last shard is a row that can't be sent, which is settled as soon as it is read.
    assert settled == 50 * (dead["shards"]["done"] - 1) + 1 + dead["open_rows"]
    assert listing(tmp_path) == before
    assert run(tmp_path, "in.jsonl", "--max-failures", "1").returncode == 0
    done = status(tmp_path, STATE)
    assert done["status"] == "complete"
    assert done["request_counts"] == {"total": 301, "completed": 300, "failed": 1, "retryable": 0}
    assert done["shards"] == {"total": 7, "done": 7}
    assert done["outputs"][0]["rows"] == 301


def test_status_for_people(tmp_path: Path) -> None:
    """Without --json the same stands in a table; where no job has begun the exit code is 2."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(3)])
    words = [sys.executable, "-m", "xbatch", "status", "in.jsonl"]
    nothing = subprocess.run(words, cwd=tmp_path, env=ENV, capture_output=True, check=False)
    assert (nothing.returncode, nothing.stdout) == (2, b"")
    assert b"no job has begun" in nothing.stderr
    run(tmp_path, "in.jsonl")
    table = subprocess.run(words, cwd=tmp_path, env=ENV, capture_output=True, check=True).stdout.decode()
    assert re.search(r"^status +complete$", table, re.MULTILINE)
    assert re.search(r"^rows +3 of 3 \(3 completed, 0 failed\)$", table, re.MULTILINE)


def test_deadline(tmp_path: Path) -> None:
    """At its deadline a job drains, exits 75 and can be resumed; nothing that was finished is asked again."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(200)])
    log = ("--engine-arg", f"log={tmp_path / 'log'}")
    began = time.monotonic()
    stopped = run(tmp_path, "in.jsonl", *SLOW, *log, "--deadline", "1.5s")
    assert stopped.returncode == 75, stopped.stderr
    assert b"the deadline has come" in stopped.stderr
    assert time.monotonic() - began < 10
    assert run(tmp_path, "in.jsonl", *log).returncode == 0
    assert ids(tmp_path / "in.responses.jsonl") == [f"id-{i}" for i in range(200)]
    rows = [line for line in asked(tmp_path / "log") if line != "start"]
    assert len(rows) == len(set(rows)) == 200


def test_deadline_that_is_over(tmp_path: Path) -> None:
    """A deadline that is over is a mistake of the command."""
    write(tmp_path / "in.jsonl", [chat(0)])
    assert run(tmp_path, "in.jsonl", "--deadline", "2020-01-01T00:00").returncode == 2


def test_request_timeout(tmp_path: Path) -> None:
    """A row that takes too long fails as `request_timeout`, retryable, and the others are answered."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(6)])
    slow = ("--engine-arg", "delay_s=60", "--engine-arg", "max_in_flight=2")
    done = run(tmp_path, "in.jsonl", *slow, "--request-timeout", "0.2")
    assert done.returncode == 1
    errors = [row["error"] for row in responses(tmp_path / "in.responses.jsonl")]
    assert {(error["code"], error["retryable"]) for error in errors} == {("request_timeout", True)}


def test_retry_failed(tmp_path: Path) -> None:
    """--retry-failed asks again only what failed retryably, replaces these responses, and nothing else changes."""
    write(tmp_path / "in.jsonl", [*[chat(i) for i in range(30)], "nonsense"])
    first = run(tmp_path, "in.jsonl", "--engine-arg", "fail_on=3,17,18", "--shard-rows", "8")
    assert first.returncode == 1
    before = responses(tmp_path / "in.responses.jsonl")
    log = tmp_path / "log"
    again = run(tmp_path, "in.jsonl", "--engine-arg", "fail_on=17", "--engine-arg", f"log={log}", "--retry-failed")
    assert again.returncode == 1
    assert sorted(asked(log)) == ["17", "18", "3", "start"]
    after = responses(tmp_path / "in.responses.jsonl")
    assert [row["id"] for row in after] == [row["id"] for row in before]
    changed = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert changed == [3, 18]
    assert after[3]["response"]["status_code"] == 200
    assert status(tmp_path, "in.jsonl")["request_counts"] == {"total": 31, "completed": 29, "failed": 2, "retryable": 1}
    log.unlink()
    third = run(tmp_path, "in.jsonl", "--engine-arg", f"log={log}", "--retry-failed", "--max-failures", "1")
    assert third.returncode == 0, third.stderr
    assert asked(log) == ["start", "17"]
    log.unlink()
    none_left = run(tmp_path, "in.jsonl", "--engine-arg", f"log={log}", "--retry-failed", "--max-failures", "1")
    assert none_left.returncode == 0
    assert b"already complete" in none_left.stderr
    assert not log.exists()


def test_retry_all(tmp_path: Path) -> None:
    """--retry-failed=all asks again what failed for good, such as a row that killed the engine."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(12)])
    crashed = run(tmp_path, "in.jsonl", "--engine-arg", "poison=5", "--engine-arg", "delay_s=0.01")
    assert crashed.returncode == 1
    row = responses(tmp_path / "in.responses.jsonl")[5]
    assert (row["error"]["code"], row["error"]["retryable"]) == ("engine_crashed", False)
    assert run(tmp_path, "in.jsonl", "--retry-failed").returncode == 1
    assert run(tmp_path, "in.jsonl", "--retry-failed=all").returncode == 0
    assert all(row["error"] is None for row in responses(tmp_path / "in.responses.jsonl"))


def test_retry_of_the_same_run(tmp_path: Path) -> None:
    """Given at the first run, --retry-failed gives rows that failed a second chance in the same run."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(5)])
    log = tmp_path / "log"
    words = ("--engine-arg", "fail_on=2", "--engine-arg", f"log={log}")
    assert run(tmp_path, "in.jsonl", *words, "--retry-failed").returncode == 1
    assert asked(log).count("2") == 2
    assert asked(log).count("1") == 1


def test_accept_change(tmp_path: Path) -> None:
    """A change is refused with a table until it is accepted; then the job goes on, also if it is accepted again."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(400)])
    process = start(tmp_path, "in.jsonl", *SLOW)
    wait_for(process, answering(tmp_path / STATE))
    process.kill()
    process.communicate(timeout=30)
    changed = ("in.jsonl", "--engine-arg", "dtype=float16", "--max-line-bytes", "1000")
    refused = run(tmp_path, *changed, "--accept-change", "max_line_bytes")
    assert refused.returncode == 2
    assert re.search(rb"engine_args.dtype +none -> float16", refused.stderr)
    assert b"--accept-change engine_args.dtype" in refused.stderr
    assert b"max_line_bytes" not in refused.stderr
    accept = ("--accept-change", "engine_args", "--accept-change", "max_line_bytes")
    done = run(tmp_path, *changed, *accept)
    assert done.returncode == 0, done.stderr
    assert ids(tmp_path / "in.responses.jsonl") == [f"id-{i}" for i in range(400)]
    before = listing(tmp_path)
    for words in ([], accept):
        again = run(tmp_path, *changed, *words)
        assert again.returncode == 0
        assert b"already complete" in again.stderr
    assert listing(tmp_path) == before
    assert run(tmp_path, "in.jsonl").returncode == 2


def test_touched_input(tmp_path: Path) -> None:
    """An input whose time has changed and whose bytes have not is the same input."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(3)])
    assert run(tmp_path, "in.jsonl").returncode == 0
    os.utime(tmp_path / "in.jsonl", (1, 1))
    again = run(tmp_path, "in.jsonl")
    assert again.returncode == 0
    assert b"already complete" in again.stderr


def test_input_of_the_same_size(tmp_path: Path) -> None:
    """An input edited in place is refused, also if its edges and its size are as they were; then it may be accepted."""
    rows = [chat(i) for i in range(2000)]
    write(tmp_path / "in.jsonl", rows)
    assert run(tmp_path, "in.jsonl").returncode == 0
    rows[1000] = chat(9999)
    write(tmp_path / "in.jsonl", rows)
    refused = run(tmp_path, "in.jsonl")
    assert refused.returncode == 2
    assert b"--accept-change inputs.in.jsonl" in refused.stderr
    assert run(tmp_path, "in.jsonl", "--accept-change", "inputs.in.jsonl").returncode == 0


def test_extend(tmp_path: Path) -> None:
    """New inputs are refused, and with --extend taken in behind the others, wherever the command names them."""
    write(tmp_path / "b.jsonl", [chat(i) for i in range(10)])
    log = ("--engine-arg", f"log={tmp_path / 'log'}")
    assert run(tmp_path, "b.jsonl", "-o", "out.jsonl", *log).returncode == 0
    first = (tmp_path / "out.jsonl").read_bytes()
    write(tmp_path / "a.jsonl", [chat(i) for i in (7, *range(10, 15))])
    refused = run(tmp_path, "a.jsonl", "b.jsonl", "-o", "out.jsonl", *log)
    assert refused.returncode == 2
    assert b"--extend" in refused.stderr
    done = run(tmp_path, "a.jsonl", "b.jsonl", "-o", "out.jsonl", *log, "--extend", "--max-failures", "1")
    assert done.returncode == 0, done.stderr
    data = (tmp_path / "out.jsonl").read_bytes()
    assert data.startswith(first)
    found = responses(tmp_path / "out.jsonl")
    assert [row["custom_id"] for row in found] == [f"id-{i}" for i in (*range(10), 7, *range(10, 15))]
    # Another input may have the same id; that they share an output is said.
    assert found[10]["error"] is None
    assert b"1 row has a custom_id that another input has too" in done.stderr
    rows = [line for line in asked(tmp_path / "log") if line != "start"]
    assert len(rows) == len(set(rows)) == 16
    again = run(tmp_path, "a.jsonl", "b.jsonl", "-o", "out.jsonl", "--max-failures", "1")
    assert b"already complete" in again.stderr


def test_job_that_begins_without_a_model_learns_it(tmp_path: Path) -> None:
    """Whatever makes the first rows of a job that can be sent, they are answered by the model that they name."""
    write(tmp_path / "bad.jsonl", [chat(0) | {"method": "GET"}])
    write(tmp_path / "more.jsonl", [chat(1), chat(2)])
    words = ("-o", "out.jsonl", "--max-failures", "1", "--engine-arg", "fail_on=1")
    assert run(tmp_path, "bad.jsonl", *words).returncode == 0
    job = StateFolder(str(tmp_path / "out.jsonl.xbatch"))
    assert job.job().identity["model"] is None
    assert run(tmp_path, "bad.jsonl", "more.jsonl", *words, "--extend").returncode == 1
    assert job.job().identity["model"] == "m"
    done = run(tmp_path, "bad.jsonl", "more.jsonl", "-o", "out.jsonl", "--max-failures", "1", "--retry-failed=all")
    assert done.returncode == 0, done.stderr
    report = job.report()
    assert report is not None
    assert (report["model"], report["engine"]) == ("m", "a fake engine, for tests")
    other = run(tmp_path, "bad.jsonl", "more.jsonl", *words, "--model", "other")
    assert other.returncode == 2
    assert b"--accept-change model" in other.stderr


def test_row_that_can_be_sent_since_its_input_has_changed(tmp_path: Path) -> None:
    """A job without a model loads one when an input that was edited in place has rows that can be sent now."""
    good = json.dumps(chat(1))
    (tmp_path / "in.jsonl").write_text(good.replace("POST", "NOPE") + "\n")
    log = ("--engine-arg", f"log={tmp_path / 'log'}")
    assert run(tmp_path, "in.jsonl", *log).returncode == 1
    (tmp_path / "in.jsonl").write_text(good + "\n")
    words = ("--accept-change", "inputs", "--retry-failed=all", *log)
    done = run(tmp_path, "in.jsonl", *words)
    assert done.returncode == 0, done.stderr
    assert asked(tmp_path / "log") == ["start", "0"]


def test_second_process_is_told_by_whom(tmp_path: Path) -> None:
    """The second process on a job exits 75 at once, naming host, pid and the age of the heartbeat."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(1000)])
    first = start(tmp_path, "in.jsonl", *SLOW)
    wait_for(first, answering(tmp_path / STATE))
    second = run(tmp_path, "in.jsonl")
    assert second.returncode == 75
    host = os.uname().nodename.encode()
    told = rb"process %d on %b is running this job \(its last heartbeat was \d+ s ago\)" % (first.pid, host)
    assert re.search(told, second.stderr), second.stderr
    elsewhere = subprocess.run(
        command("in.jsonl"), cwd=tmp_path, env={**ENV, "XBATCH_HOST": "elsewhere"}, capture_output=True, check=False
    )
    assert elsewhere.returncode == 75
    assert re.search(told, elsewhere.stderr), elsewhere.stderr
    first.kill()
    first.communicate(timeout=30)
    began = time.monotonic()
    assert run(tmp_path, "in.jsonl").returncode == 0
    assert time.monotonic() - began < 10


def test_takeover_after_the_term(tmp_path: Path) -> None:
    """Another host takes a dead process's job over after the lease's term; when that process wakes up, it gives in."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(400)])
    words = ("in.jsonl", *SLOW, "--lease-s", "2")
    first = start(tmp_path, *words)
    wait_for(first, answering(tmp_path / STATE))
    first.send_signal(signal.SIGSTOP)
    try:
        time.sleep(2)
        other = subprocess.run(
            command("in.jsonl", "--lease-s", "2"),
            cwd=tmp_path,
            env={**ENV, "XBATCH_HOST": "elsewhere"},
            capture_output=True,
            check=False,
        )
        assert other.returncode == 0, other.stderr
        data = (tmp_path / "in.responses.jsonl").read_bytes()
    finally:
        first.send_signal(signal.SIGCONT)
    _, told = first.communicate(timeout=30)
    assert first.returncode == 75, told
    assert b"has taken this job over" in told
    assert (tmp_path / "in.responses.jsonl").read_bytes() == data
    assert ids(tmp_path / "in.responses.jsonl") == [f"id-{i}" for i in range(400)]


def test_engine_dies_and_comes_back(tmp_path: Path) -> None:
    """An engine that dies once is started again, only rows in flight run again, and the job exits 0."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(60)])
    log = tmp_path / "log"
    done = run(tmp_path, "in.jsonl", *SLOW, "--engine-arg", "crash_on=30", "--engine-arg", f"log={log}")
    assert done.returncode == 0, done.stderr
    assert asked(log).count("start") == 2
    assert len(asked(log)) <= 60 + 4 + 2
    assert ids(tmp_path / "in.responses.jsonl") == [f"id-{i}" for i in range(60)]


def test_engine_that_keeps_dying(tmp_path: Path) -> None:
    """An engine that dies whatever it is asked ends the job with exit code 3, with a bounded number of restarts."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(64)])
    log = tmp_path / "log"
    poison = ",".join(map(str, range(64)))
    words = ("--engine-arg", f"poison={poison}", "--engine-arg", f"log={log}", "--max-engine-restarts", "5")
    done = run(tmp_path, "in.jsonl", *words)
    assert done.returncode == 3, done.stderr
    assert b"with no row settled in between" in done.stderr
    assert asked(log).count("start") == 6
    assert run(tmp_path, "in.jsonl").returncode == 0


def test_state_that_nothing_can_reach(tmp_path: Path) -> None:
    """A state in a place that fsspec does not know is a mistake of the command."""
    write(tmp_path / "in.jsonl", [chat(0)])
    done = run(tmp_path, "in.jsonl", "--state", "carrier-pigeon://coop/state")
    assert done.returncode == 2, done.stderr


def test_extension_reopens_no_round(tmp_path: Path) -> None:
    """Rows that an extension adds are not run again for an earlier --retry-failed."""
    write(tmp_path / "a.jsonl", [chat(i) for i in range(3)])
    words = ("-o", "out.jsonl", "--engine-arg", "fail_on=1,4", "--max-failures", "100%")
    assert run(tmp_path, "a.jsonl", *words, "--retry-failed").returncode == 0
    write(tmp_path / "b.jsonl", [chat(i) for i in range(3, 6)])
    log = tmp_path / "log"
    assert run(tmp_path, "a.jsonl", "b.jsonl", *words, "--extend", "--engine-arg", f"log={log}").returncode == 0
    assert asked(log) == ["start", "3", "4", "5"]
