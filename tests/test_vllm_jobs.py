"""The job files that come with xbatch do what they say, on the real engine."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import serving

ROOT = Path(__file__).resolve().parent.parent


def run_job(name: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "xbatch", "run", f"jobs/{name}", *words],
        cwd=ROOT,
        env=serving.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=serving.START_S,
    )


def test_questions(tmp_path: Path) -> None:
    """`jobs/questions.yaml` answers the bundled questions rightly."""
    output = tmp_path / "out.jsonl"
    done = run_job("questions.yaml", "-o", str(output))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert len(rows) == len((ROOT / "jobs/questions.jsonl").read_bytes().splitlines())
    assert all(row["response"]["status_code"] == 200 for row in rows)


def test_classify_table(tmp_path: Path) -> None:
    """`jobs/classify-table.yaml` makes typed columns of answers that follow a schema, beside the table's own."""
    output = tmp_path / "out.parquet"
    done = run_job("classify-table.yaml", "-o", str(output))
    assert done.returncode == 0, done.stderr
    given, answered = pq.read_table(ROOT / "jobs/reviews.parquet"), pq.read_table(output)
    assert answered.num_rows == given.num_rows
    for name in given.schema.names:
        kept = f"{name}_input" if f"{name}_input" in answered.schema.names else name
        assert answered.column(kept).to_pylist() == given.column(name).to_pylist()
    rows = answered.to_pylist()
    assert all(row["parse_error"] is None for row in rows)
    assert all(json.loads(row["text"]).items() <= row.items() for row in rows)
