"""Memory does not grow with the number of rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FEW, MANY = 20_000, 200_000
MAX_GROWTH_KIB = 60 << 10


def peak_kib(folder: Path, rows: int) -> int:
    """The most memory that a job of so many rows ever holds, having checked that it answers them all."""
    path = folder / f"{rows}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for index in range(rows):
            file.write(json.dumps({"custom_id": f"id-{index}", "model": "m", "prompt": f"text {index}"}) + "\n")
    command = [
        sys.executable,
        "-m",
        "xbatch",
        "run",
        path.name,
        "-o",
        f"{rows}.out.jsonl",
        "--engine",
        "fake",
        "--quiet",
    ]
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)})
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    with (folder / f"{rows}.out.jsonl").open("rb") as file:
        assert sum(1 for _ in file) == rows
    return used.ru_maxrss


def test_memory_is_flat(tmp_path: Path) -> None:
    """Ten times the rows take at most 60 MiB more, as far as the look-ahead goes."""
    assert peak_kib(tmp_path, MANY) - peak_kib(tmp_path, FEW) < MAX_GROWTH_KIB
