"""Latency online: `xbatch serve` alone, while it runs a batch, and `vllm serve` beside it, in one run.

    python benchmarks/serving.py

Each server is started on this machine with the bundled model and its own settings, and asked one streamed chat after
the other. A batch of long rows then keeps the engine of `xbatch serve` busy, and the same is asked again. Prints the
time to the first token and to the end of an answer, and what the batch did meanwhile.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from xbatch.demo import MODEL_PATH, questions

CHAT = "/v1/chat/completions"


def main() -> None:
    """Measure and print."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--requests", type=int, default=60, help="chats that are asked of each server, one at a time")
    words.add_argument("--rows", type=int, default=20_000, help="rows of the batch, which must not end before")
    given = words.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers end with this
    with tempfile.TemporaryDirectory() as folder:
        with served(Path(folder), "vllm") as client:
            show("vllm serve, idle", ask(client, given.requests))
        with served(Path(folder), "xbatch") as client:
            idle = ask(client, given.requests)
            show("xbatch serve, idle", idle)
            batch = start_batch(client, given.rows)
            began_s, before = time.monotonic(), completed(client, batch)
            busy = ask(client, given.requests)
            rows = completed(client, batch) - before
            show("xbatch serve, a batch running", busy)
            print(f"  the batch meanwhile: {rows / (time.monotonic() - began_s):.0f} rows/s")
            ratio = statistics.median(busy["first"]) / statistics.median(idle["first"])
            print(f"median time to first token with a batch: {ratio:.1f} times that without")


@contextmanager
def served(folder: Path, server: str) -> Iterator[httpx.Client]:
    """A client of a server that answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "xbatch", "serve", "--model", "demo", "--port", port, "--quiet"]
    if server == "vllm":
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL_PATH)]
        command += ["--served-model-name", "demo", "--port", port, "--enforce-eager"]
        command += ["--kv-cache-memory-bytes", str(512 << 20)]
    with open(folder / f"{server}.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
            wait_for(client, process)
            yield client
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(client: httpx.Client, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a server answers."""
    while process.poll() is None:
        try:
            if client.get("/health").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"the server has ended with status {process.returncode}")


def ask(client: httpx.Client, count: int) -> dict[str, list[float]]:
    """Milliseconds to the first token and to the end of each answer."""
    times: dict[str, list[float]] = {"first": [], "whole": []}
    asked = questions()
    for i in range(count + 5):
        message = {"role": "user", "content": asked[i % len(asked)][0]}
        body = {"model": "demo", "messages": [message], "temperature": 0, "max_tokens": 32, "stream": True}
        began_s, first_s = time.perf_counter(), 0.0
        with client.stream("POST", CHAT, json=body) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                if (
                    not first_s
                    and line.startswith("data: {")
                    and json.loads(line[6:])["choices"][0]["delta"]["content"]
                ):
                    first_s = time.perf_counter()
        if i >= 5:  # the first ones warm caches up
            times["first"].append(1000 * (first_s - began_s))
            times["whole"].append(1000 * (time.perf_counter() - began_s))
    return times


def start_batch(client: httpx.Client, rows: int) -> str:
    """Have a batch of long rows run."""
    body = {"model": "demo", "prompt": "Why?", "max_tokens": 200, "ignore_eos": True}
    line: dict[str, Any] = {"method": "POST", "url": "/v1/completions", "body": body}
    text = "".join(json.dumps({"custom_id": str(i), **line}) + "\n" for i in range(rows))
    file = client.post("/v1/files", files={"file": ("rows.jsonl", text)}, data={"purpose": "batch"}).json()["id"]
    asked = {"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}
    batch = str(client.post("/v1/batches", json=asked).json()["id"])
    while not completed(client, batch):
        time.sleep(0.2)
    return batch


def completed(client: httpx.Client, batch: str) -> int:
    """Rows of a batch that have an answer."""
    return int(client.get(f"/v1/batches/{batch}").json()["request_counts"]["completed"])


def show(name: str, times: dict[str, list[float]]) -> None:
    """Print the medians and the slow ones."""
    print(name)
    for what, label in (("first", "to the first token"), ("whole", "to the end")):
        found = sorted(times[what])
        median, p95 = statistics.median(found), found[int(0.95 * len(found))]
        print(f"  {label:20} median {median:7.1f} ms   p95 {p95:7.1f} ms   n={len(found)}", flush=True)


if __name__ == "__main__":
    main()
