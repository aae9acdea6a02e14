"""The flags that plan rows, as a user meets them: order, look-ahead, repeats."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}
ROWS = 240
DIFFERENT = 24


def command(folder: Path, *words: str) -> list[str]:
    fake = ("--engine", "fake", "--engine-arg", f"log={folder / 'asked'}")
    return [sys.executable, "-m", "xbatch", "run", "in.jsonl", "-o", "out.jsonl", *words, *fake]


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(folder, *words), cwd=folder, env=ENV, capture_output=True, text=True, check=False)


def asked(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "asked").read_text().split() if line != "start"]


def answers(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out.jsonl").read_bytes().splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job of rows that ask for a few different things, at temperature 0."""
    with (tmp_path / "in.jsonl").open("w", encoding="utf-8") as file:
        for index in range(ROWS):
            prompt = f"{index % DIFFERENT:02} " * 40
            file.write(
                json.dumps({"custom_id": f"id-{index}", "model": "m", "prompt": prompt, "temperature": 0}) + "\n"
            )
    return tmp_path


def test_repeats_are_asked_once(folder: Path) -> None:
    """What is sure to get the same answer is asked once, and the end of the run tells of how many rows that was so."""
    done = run(folder)
    assert done.returncode == 0, done.stderr
    assert sorted(asked(folder)) == list(range(DIFFERENT))
    assert f"; {ROWS - DIFFERENT} of them answered by another row's answer)" in done.stderr
    report = json.loads((folder / "out.jsonl.xbatch/report.json").read_bytes())
    assert (report["this_run"]["rows"], report["this_run"]["repeated"]) == (ROWS, ROWS - DIFFERENT)
    rows = answers(folder)
    assert [row["custom_id"] for row in rows] == [f"id-{i}" for i in range(ROWS)]
    assert [row["response"]["body"]["choices"][0]["text"][:2] for row in rows] == [
        f"{i % DIFFERENT:02}" for i in range(ROWS)
    ]


def test_no_dedupe(folder: Path) -> None:
    """`--no-dedupe` asks each row; it may be said of a job that has begun without it."""
    assert run(folder, "--no-dedupe").returncode == 0
    assert sorted(asked(folder)) == list(range(ROWS))
    (folder / "out.jsonl").unlink()
    done = run(folder, "--order", "input")
    assert done.returncode == 0, done.stderr
    assert len(asked(folder)) == ROWS, "a row was asked again"


@pytest.mark.parametrize("order", ["auto", "input", "prefix"])
def test_order(folder: Path, order: str) -> None:
    """`--order` changes the order in which rows run, and no byte of the output."""
    words = ("--order", order, "--no-dedupe", "--engine-arg", "cache_tokens=200", "--engine-arg", "max_in_flight=2")
    done = run(folder, *words)
    assert done.returncode == 0, done.stderr
    assert (asked(folder) == list(range(ROWS))) == (order == "input")
    assert [row["custom_id"] for row in answers(folder)] == [f"id-{i}" for i in range(ROWS)]


def test_killed_with_repeats_waiting(folder: Path) -> None:
    """Killed at any time, a job goes on with what is left, and its repeats get their answers."""
    slow = ("--engine-arg", "delay_s=0.2", "--engine-arg", "max_in_flight=4")
    process = subprocess.Popen(command(folder, *slow), cwd=folder, env=ENV, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not ((folder / "asked").exists() and len(asked(folder)) > 12):
        assert time.monotonic() < until
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert run(folder).returncode == 0
    assert len(asked(folder)) <= DIFFERENT + 4, "more than what was in flight was asked again"
    assert [row["custom_id"] for row in answers(folder)] == [f"id-{i}" for i in range(ROWS)]


@pytest.mark.parametrize(
    ("words", "told"), [(("--order", "best"), "'best' is not one of"), (("--look-ahead", "much"), "--look-ahead")]
)
def test_unusable(folder: Path, words: tuple[str, str], told: str) -> None:
    """What can't be understood is refused by the flag's name."""
    done = run(folder, *words)
    assert done.returncode == 2
    assert told in done.stderr


def test_print_job(folder: Path) -> None:
    """A job file tells of all three."""
    done = run(folder, "--no-dedupe", "--look-ahead", "256MiB", "--order", "prefix", "--print-job")
    job = yaml.safe_load(done.stdout)
    assert (job["dedupe"], job["look_ahead"], job["order"]) == (False, 256 << 20, "prefix")
    assert yaml.safe_load(run(folder, "--print-job").stdout)["dedupe"] is True
