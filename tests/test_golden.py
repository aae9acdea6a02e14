"""Whole jobs: folders in `cases/` with an input, perhaps more words of the command, and the expected output.

`XBATCH_GOLDEN=write` writes the expected outputs anew; read the difference before committing it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
CASES = sorted(folder for folder in (ROOT / "tests/cases").iterdir() if (folder / "input.jsonl").exists())
OUTPUTS = {"out.jsonl": "expected.jsonl", "errors.jsonl": "expected_errors.jsonl"}


def normalised(path: Path) -> str:
    """An output without what differs from job to job; everything else, order included, stays."""
    return "".join(json.dumps(_normal(json.loads(line))) + "\n" for line in path.read_bytes().splitlines())


def _normal(row: dict[str, Any]) -> dict[str, Any]:
    if str(row.get("id", "")).startswith("batch_req_"):
        row["id"] = "batch_req_*"
        if row["response"]:
            row["response"]["request_id"] = "req_*"
    if (row.get("error") or {}).get("code") == "invalid_json_line":
        # What follows is in the words of the standard library, which differ between versions of Python.
        row["error"]["message"] = row["error"]["message"].partition("not valid JSON")[0] + "not valid JSON"
    return row


@pytest.mark.parametrize("case", CASES, ids=lambda folder: folder.name)
def test_case(tmp_path: Path, case: Path) -> None:
    """The job gives exactly the expected output, and one response for every row."""
    shutil.copy(case / "input.jsonl", tmp_path)
    words = (case / "command.txt").read_text("utf-8").split() if (case / "command.txt").exists() else []
    command = [sys.executable, "-m", "xbatch", "run", "input.jsonl", "-o", "out.jsonl", "--engine", "fake", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for output, expected in OUTPUTS.items():
        if os.environ.get("XBATCH_GOLDEN") == "write" and (tmp_path / output).exists():
            (case / expected).write_text(normalised(tmp_path / output), "utf-8")
        assert (tmp_path / output).exists() == (case / expected).exists()
        if (case / expected).exists():
            assert normalised(tmp_path / output).splitlines() == (case / expected).read_text("utf-8").splitlines()
