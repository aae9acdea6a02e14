"""Why rows failed: told by `run`, `status` and the report, from the state alone, over kills, resumes and rounds."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from test_cli_run import ENV, chat, command, responses, run, write

from xbatch.rows.outcome import Failure, Outcome
from xbatch.rows.reason import explain
from xbatch.rows.response import ResponseFormat, response_line
from xbatch.state import wal
from xbatch.state.reasons import SHARD_REASONS, Reasons
from xbatch.state.records import Kind, Record

STATE = "in.responses.jsonl.xbatch"
FAILING = (3, 4, 6, 11)
"""Rows that the engine fails; blank lines make their lines others than their indexes."""
INPUT = [
    *("", chat(0), chat(1), "", "", "nonsense", chat(3), chat(4), "", chat(0), chat(6)),
    *("[]", "{", *map(chat, range(9, 16))),
]


def fails(*rows: int) -> tuple[str, ...]:
    return ("--engine-arg", f"fail_on={','.join(map(str, rows))}")


def status(folder: Path, *words: str) -> "subprocess.CompletedProcess[bytes]":
    words = (sys.executable, "-m", "xbatch", "status", "in.jsonl", *words)
    return subprocess.run(words, cwd=folder, env=ENV, capture_output=True, check=True)


def told(folder: Path) -> list[tuple[str, int, int | None]]:
    """Code, rows and first line of each reason that `status --json` tells, having checked that none is missing."""
    found = json.loads(status(folder, "--json").stdout)
    assert sum(each["rows"] for each in found["failures"]) == found["request_counts"]["failed"]
    assert found["other_failures"] == 0
    assert {each["file"] for each in found["failures"]} <= {"in.jsonl"}
    return [(each["code"], each["rows"], each["line"]) for each in found["failures"]]


COMPLETE = [
    ("fake_failure", 4, 7),
    ("invalid_json_line", 2, 6),
    ("duplicate_custom_id", 1, 10),
    ("body_not_object", 1, 12),
]


def test_the_end_tells_why(tmp_path: Path) -> None:
    """The closing table, status and report name each reason: its count, first place, message and a remedy."""
    write(tmp_path / "in.jsonl", INPUT)
    done = run(tmp_path, "in.jsonl", *fails(*FAILING), "--shard-rows", "5")
    assert done.returncode == 1
    assert told(tmp_path) == COMPLETE
    report = json.loads((tmp_path / STATE / "report.json").read_bytes())
    assert report["failures"] == json.loads(status(tmp_path, "--json").stdout)["failures"]
    first = report["failures"][0]
    assert (first["message"], first["custom_id"]) == ("the fake engine was told to fail this row", "id-3")
    assert first["retryable"]
    for text in (done.stderr.decode(), status(tmp_path).stdout.decode()):
        reasons = [line.removeprefix("failed").strip() for line in text.splitlines() if line.startswith("failed")]
        assert reasons[0] == (
            "fake_failure the fake engine was told to fail this row: 4 rows, first in in.jsonl:7"
            " (--retry-failed runs them again)"
        )
        assert reasons[1].startswith("invalid_json_line not valid JSON")
        assert reasons[2].startswith(
            "duplicate_custom_id custom_id 'id-0' is already used in in.jsonl:2: 1 row, in in.jsonl:10 ("
        )
        assert reasons[3].startswith("body_not_object the row is an array, not an object: 1 row, in in.jsonl:12 (")


def test_a_row_is_told_of_once(tmp_path: Path) -> None:
    """What is said of rows that can't be sent before the job begins does not repeat what its end says."""
    write(tmp_path / "in.jsonl", ["nonsense", chat(1)])
    text = run(tmp_path, "in.jsonl").stderr.decode()
    assert "1 row can't be sent, first in in.jsonl:1;" in text
    assert text.count("not valid JSON") == 1


def test_a_killed_job_tells_why(tmp_path: Path) -> None:
    """After a kill at any row the status knows from logs and segments why rows failed, as does the end."""
    write(tmp_path / "in.jsonl", INPUT)
    words = command("in.jsonl", *fails(*FAILING), "--shard-rows", "5")
    seen = set()
    for _ in range(30):
        killed = subprocess.run(
            words, cwd=tmp_path, env={**ENV, "XBATCH_CRASH": "wal-appended:3"}, capture_output=True, check=False
        )
        if killed.returncode != -9:
            break
        found = told(tmp_path)
        seen.add(sum(rows for _, rows, _ in found))
        assert {code: line for code, _, line in found}.items() <= {code: line for code, _, line in COMPLETE}.items()
    assert killed.returncode == 1
    assert len(seen) > 2
    assert told(tmp_path) == COMPLETE


def test_a_round_replaces(tmp_path: Path) -> None:
    """A row that succeeds when it is tried again counts no more, while the round runs and after it."""
    write(tmp_path / "in.jsonl", INPUT)
    run(tmp_path, "in.jsonl", *fails(*FAILING), "--shard-rows", "5")
    again = command("in.jsonl", *fails(4, 11), "--shard-rows", "5", "--retry-failed")
    env = {**ENV, "XBATCH_CRASH": "wal-appended:2"}
    assert subprocess.run(again, cwd=tmp_path, env=env, capture_output=True, check=False).returncode == -9
    unread = [("invalid_json_line", 2, 6), ("duplicate_custom_id", 1, 10), ("body_not_object", 1, 12)]
    found = told(tmp_path)
    assert found[0] in (("fake_failure", 3, 8), ("fake_failure", 2, 8)), "row 3 has succeeded, rows 4 and 11 have not"
    assert [each for each in found if each[0] != "fake_failure"] == unread
    assert run(tmp_path, "in.jsonl", *fails(4, 11), "--shard-rows", "5").returncode == 1
    expected = [("fake_failure", 2, 8), ("invalid_json_line", 2, 6), *unread[1:]]
    assert sorted(told(tmp_path)) == sorted(expected)
    (tmp_path / STATE / "report.json").unlink()  # as before the output is written: from the markers of both passes
    assert sorted(told(tmp_path)) == sorted(expected)
    for words in ((), ("--retry-failed",)):
        assert run(tmp_path, "in.jsonl", "--shard-rows", "5", *words).returncode == 1
    assert told(tmp_path) == unread


@pytest.mark.parametrize("rounds", [0, 1])
def test_state_of_an_earlier_version(tmp_path: Path, rounds: int) -> None:
    """Where markers and report don't say why rows failed, segments do, and such a job goes on."""
    write(tmp_path / "in.jsonl", INPUT)
    run(tmp_path, "in.jsonl", *fails(*FAILING), "--shard-rows", "5")
    for _ in range(rounds):
        run(tmp_path, "in.jsonl", *fails(4, 11), "--shard-rows", "5", "--retry-failed")
    expected = told(tmp_path)
    for path in (tmp_path / STATE).glob("**/done/*.json"):
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_bytes()).items() if k != "reasons"}))
    path = tmp_path / STATE / "report.json"
    report = {k: v for k, v in json.loads(path.read_bytes()).items() if k not in ("failures", "other_failures")}
    path.write_text(json.dumps(report))
    assert told(tmp_path) == expected
    assert b"already complete" in run(tmp_path, "in.jsonl", "--shard-rows", "5").stderr
    path.unlink()
    assert run(tmp_path, "in.jsonl", "--shard-rows", "5").returncode == 1
    assert told(tmp_path) == expected


def test_bare_bodies_tell_why(tmp_path: Path) -> None:
    """With --format body the reasons are read from the bodies."""
    write(tmp_path / "in.jsonl", INPUT)
    assert run(tmp_path, "in.jsonl", *fails(*FAILING), "--format", "body").returncode == 1
    assert told(tmp_path) == COMPLETE


def refusal(message: str, status_code: int = 400) -> Failure:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status_code}
    return Failure("api_error", "", status_code=status_code, body=msgspec.json.encode({"error": error}))


def line(outcome: Outcome, form: ResponseFormat = "batch") -> bytes:
    return response_line("job", 7, "id", outcome, form)


@pytest.mark.parametrize("form", ["batch", "body"])
def test_reading_a_response(form: ResponseFormat) -> None:
    """Code, message and line of a failure come back from its response line, of either format."""
    found = explain(line(refusal("n must be 1"), form))
    assert found[:3] == ("400", 400, "n must be 1")
    found = explain(line(Failure("invalid_url", "s3://a/b c.jsonl:12: url is 'x': no"), form))
    assert found[:3] == ("invalid_url", None, "url is 'x': no")
    assert found.line == 12
    found = explain(line(Failure("engine_crashed", "the engine died"), form))
    assert found[:3] == ("engine_crashed", None, "the engine died")
    assert len(explain(line(refusal("x" * 10_000), form)).message) < 400


@pytest.mark.parametrize("damaged", [b"", b"[]", b"5", b'{"response": 3, "error": 4}', b'{"error": null}', b"\xff"])
def test_a_response_that_says_nothing(damaged: bytes) -> None:
    """Whatever a line holds, a reason comes of it."""
    assert explain(damaged)[:3] == ("unknown", None, "")


def test_alike_messages_are_one_reason() -> None:
    """Messages that differ in numbers and quoted values count together, under the first row's; others don't."""
    reasons = Reasons()
    messages = ["This model's limit is 2048 tokens, you asked for 3,000", "unknown role 'bot'", "`n` must be 1"]
    for row, text in enumerate(reversed([each.replace("2048", str(i)) for i in range(5) for each in messages])):
        reasons.take(100 - row, Kind.FAILED, line(refusal(text.replace("'bot'", f"'bot {row}'"))), 200 - row)
    assert sorted((each.rows, each.row, each.line) for each in reasons.found.values()) == [
        (5, 86, 186),
        (5, 87, 187),
        (5, 88, 188),
    ]
    assert "limit is 0 tokens" in next(each for each in reasons.found.values() if each.row == 86).message


def test_memory_is_bounded() -> None:
    """Beyond so many reasons the rest is one number, also where counts are added up."""
    reasons, whole = Reasons(), Reasons()
    for row in range(1000):
        reasons.take(row, Kind.RETRYABLE, line(refusal("".join(chr(97 + int(digit)) for digit in str(row)))), row + 1)
    assert (len(reasons.found), reasons.others) == (SHARD_REASONS, 1000 - SHARD_REASONS)
    for _ in range(2):
        whole.add(reasons, most=3)
    assert (len(whole.found), whole.others) == (3, 2000 - 6)
    assert reasons.found["RETRYABLE 400 a"].rows == 1


def test_a_log_keeps_the_line(tmp_path: Path) -> None:
    """A failed row's line comes back from the log; a log of an earlier version has none and is read as ever."""
    header = {"job": "j", "shard": "s"}
    records = [
        Record.of(1, Failure("x", "y"), b"{}", 2**40),
        Record.of(2, Failure("x", "y", retryable=True), b"{}", 3),
        Record.of(3, Failure("x", "y"), b"{}"),
    ]
    fd = wal.create(tmp_path / "log", header)
    wal.write(fd, *records)
    assert list(wal.read(tmp_path / "log", header)) == records


def test_reading_a_log_costs_no_more_for_what_completes() -> None:
    """Rows that complete are never looked into."""
    reasons = Reasons()
    reasons.take(1, Kind.COMPLETED, b"no JSON at all", 0)
    assert reasons == Reasons()


def test_every_failed_response_is_counted(tmp_path: Path) -> None:
    """The reasons of the report add up to the failed responses of the output, code by code."""
    write(tmp_path / "in.jsonl", INPUT)
    run(tmp_path, "in.jsonl", *fails(*FAILING), "--shard-rows", "4")
    codes: dict[str, int] = {}
    for row in responses(tmp_path / "in.responses.jsonl"):
        if row["error"]:
            codes[row["error"]["code"]] = codes.get(row["error"]["code"], 0) + 1
    assert codes == {code: rows for code, rows, _ in told(tmp_path)}
