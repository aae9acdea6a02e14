"""Jobs whose real engine dies: it is started again, and every row still has its response."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import serving
from serving import Body

START_S = 300


@contextmanager
def running(rows: Path, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """`xbatch run`, its messages in the file `err` beside the input."""
    with open(rows.with_name("err"), "wb") as err:
        process = subprocess.Popen(
            serving.command(rows, *words),
            env=serving.environment(),
            cwd=rows.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=err,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[bytes]", rows: Path) -> None:
    until = time.monotonic() + START_S
    while not condition():
        assert process.poll() is None, rows.with_name("err").read_text()
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.02)


def engine_core(parent: int) -> psutil.Process:
    """The process of vLLM's EngineCore, which has the workers as children."""
    children = [p for p in psutil.Process(parent).children() if p.children()]
    assert len(children) == 1, children
    return children[0]


def responses(rows: Path) -> list[Body]:
    return [json.loads(line) for line in serving.output_of(rows).read_bytes().splitlines()]


def test_job_outlives_its_engine(tmp_path: Path) -> None:
    """EngineCore is killed in the middle, then the parent, leaving nothing behind: the same command ends the job."""
    requests = serving.demo_and_long_requests()
    lines = [serving.batch_line(name, *request) for name, request in requests.items()]
    rows = serving.write_rows(tmp_path / "rows.jsonl", lines)
    words = ("--model", "demo")
    output = serving.output_of(rows)
    with running(rows, *words) as process:
        wait_until(lambda: serving.has_settled(output), process, rows)
        engine_core(process.pid).kill()
        wait_until(lambda: "starting it again" in rows.with_name("err").read_text(), process, rows)
        wait_until(lambda: len(psutil.Process(process.pid).children(recursive=True)) > 2, process, rows)
        family = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive
    again = serving.run_xbatch(rows, *words)
    assert again.code == 0, again.err
    assert "going on: " in again.err
    found = responses(rows)
    assert [row["custom_id"] for row in found] == list(requests)
    assert {row["response"]["status_code"] for row in found} == {200}


def test_engine_is_started_again(tmp_path: Path) -> None:
    """A worker of the engine is killed in the middle: the job goes on with a new engine and exits 0, each row once."""
    requests = serving.demo_and_long_requests()
    lines = [serving.batch_line(name, *request) for name, request in requests.items()]
    rows = serving.write_rows(tmp_path / "rows.jsonl", lines)
    with running(rows, "--model", "demo") as process:
        wait_until(lambda: serving.has_settled(serving.output_of(rows)), process, rows)
        for worker in engine_core(process.pid).children():
            worker.kill()
        assert process.wait(START_S) == 0, rows.with_name("err").read_text()
    told = rows.with_name("err").read_text()
    assert told.count("starting it again") == 1, told
    found = responses(rows)
    assert [row["custom_id"] for row in found] == list(requests)
    assert {row["response"]["status_code"] for row in found} == {200}


def test_row_that_kills_the_engine(tmp_path: Path) -> None:
    """A seeded row whose prompt is split kills vLLM on CPUs every time: it fails as `engine_crashed`, others do not."""
    words = " ".join(["word"] * 600)
    good = {"model": "demo", "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 8}
    poison = {**good, "messages": [{"role": "user", "content": f"Poison: {words}"}], "seed": 7, "temperature": 0.9}
    long = {**good, "messages": [{"role": "user", "content": f"Long: {words}"}]}
    bodies = {"good": good, "poison": poison, "long": long}
    lines = [serving.batch_line(name, serving.CHAT, body) for name, body in bodies.items()]
    rows = serving.write_rows(tmp_path / "rows.jsonl", lines)
    unprotected = {"enable_chunked_prefill": "true", "long_prefill_token_threshold": "32"}
    settings = [word for name, value in unprotected.items() for word in ("--engine-arg", f"{name}={value}")]
    done = serving.run_xbatch(rows, *settings, "--max-num-batched-tokens", "512", "--max-num-seqs", "16", timeout_s=600)
    assert done.code == 1, done.err
    found = {row["custom_id"]: row for row in responses(rows)}
    assert found["poison"]["error"]["code"] == "engine_crashed"
    assert found["poison"]["error"]["retryable"] is False
    assert [found[name]["response"]["status_code"] for name in ("good", "long")] == [200, 200]
