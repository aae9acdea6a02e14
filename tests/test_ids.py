"""Which `custom_id` a row has in the output: given ones are never changed, and no made one is like any other."""

import json
import subprocess
from pathlib import Path
from typing import Any

from test_cli_run import ENV, command, ids, responses, run, write

NAMELESS = {"model": "m", "prompt": "p"}


def given(custom_id: str | int, **more: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, **NAMELESS, **more}


def test_made_ids_are_never_given_ones(tmp_path: Path) -> None:
    """A row without an id is `row-<index>`, and something else where another row gives that; it is so on a resume."""
    rows = [NAMELESS, NAMELESS, given("row-1"), given("row-1.5"), given("row-4"), NAMELESS, given("row-0"), NAMELESS]
    write(tmp_path / "in.jsonl", rows)
    expected = ["row-0.10", "row-1.10", "row-1", "row-1.5", "row-4", "row-5", "row-0", "row-7"]
    killed = subprocess.run(command("in.jsonl"), cwd=tmp_path, env={**ENV, "XBATCH_CRASH": "plan-written"}, check=False)
    assert killed.returncode == -9
    assert run(tmp_path, "in.jsonl").returncode == 0
    assert ids(tmp_path / "in.responses.jsonl") == expected
    assert run(tmp_path, "in.jsonl", "-o", "again.jsonl").returncode == 0
    assert ids(tmp_path / "again.jsonl") == expected


def test_files_that_number_their_rows_alike(tmp_path: Path) -> None:
    """Each file may have the same ids: nothing fails, and of a joint output it is said that they are not unique."""
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", [given(f"request-{i}") for i in (1, 2)])
    done = run(tmp_path, "a.jsonl", "b.jsonl")
    assert done.returncode == 0
    assert b"another input" not in done.stderr
    for name in ("a", "b"):
        assert ids(tmp_path / f"responses/{name}.responses.jsonl") == ["request-1", "request-2"]
    joint = run(tmp_path, "a.jsonl", "b.jsonl", "-o", "joint.jsonl")
    assert joint.returncode == 0
    assert b"2 rows have custom_ids that another input has too (b.jsonl:1 has that of a.jsonl:1)" in joint.stderr
    assert ids(tmp_path / "joint.jsonl") == ["request-1", "request-2"] * 2


def test_a_made_id_is_like_none_of_another_file(tmp_path: Path) -> None:
    """A row without an id is told from rows of all files, for they may share an output."""
    write(tmp_path / "a.jsonl", [NAMELESS])
    write(tmp_path / "b.jsonl", [given("row-0"), given("row-0")])
    assert run(tmp_path, "a.jsonl", "b.jsonl", "-o", "joint.jsonl").returncode == 1
    assert ids(tmp_path / "joint.jsonl") == ["row-0.1", "row-0", "row-0"]
    codes = [each["error"] and each["error"]["code"] for each in responses(tmp_path / "joint.jsonl")]
    assert codes == [None, None, "duplicate_custom_id"]


def test_an_extension_changes_no_id(tmp_path: Path) -> None:
    """Ids that were made stay when inputs come; it is said if a new row gives one of them."""
    write(tmp_path / "a.jsonl", [NAMELESS, given("row-0"), NAMELESS])
    write(tmp_path / "b.jsonl", [NAMELESS, given("row-0"), given("row-3"), given("c")])
    assert run(tmp_path, "a.jsonl", "-o", "out.jsonl").returncode == 0
    before = (tmp_path / "out.jsonl").read_bytes()
    assert ids(tmp_path / "out.jsonl") == ["row-0.1", "row-0", "row-2"]
    done = run(tmp_path, "a.jsonl", "b.jsonl", "-o", "out.jsonl", "--extend")
    assert done.returncode == 0
    assert b"made before" not in done.stderr
    assert (tmp_path / "out.jsonl").read_bytes().startswith(before)
    assert ids(tmp_path / "out.jsonl")[3:] == ["row-3.1", "row-0", "row-3", "c"]
    write(tmp_path / "c.jsonl", [given("row-2")])
    done = run(tmp_path, "a.jsonl", "b.jsonl", "c.jsonl", "-o", "out.jsonl", "--extend")
    assert done.returncode == 0
    assert b"new rows give custom_ids that the job has made before for rows without one: row-2" in done.stderr
    assert ids(tmp_path / "out.jsonl")[2::5] == ["row-2", "row-2"]


def test_rows_that_cannot_be_read_keep_their_ids(tmp_path: Path) -> None:
    """The responses of rows that can't be read have the ids that the rows give."""
    lines = [
        '{"custom_id":"nan","temperature":NaN,"model":"m","prompt":"p"}',
        '{"model":"m","prompt":"\\ud800","custom_id":"half"}',
        json.dumps(given(12)),
        '{"custom_id":"cut","prompt":',
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines), "utf-8")
    assert run(tmp_path, "in.jsonl").returncode == 1
    assert ids(tmp_path / "in.responses.jsonl") == ["nan", "half", "12", "cut"]
