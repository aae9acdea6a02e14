"""Rows a second and memory of `xbatch run` against `vllm run-batch`, as shipped and tuned, in one run.

    python benchmarks/throughput.py [--rows 10000] [--rounds 1]

All answer the same unique short chat rows with the bundled model, one after the other in every round, each as a whole
command. What remains of its time after that of the same command over 16 rows, start-up that is, is the time of
answering. Memory is the peak resident size of the command's own process, and of the whole tree.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from xbatch.demo import MODEL_PATH

FEW = 16
RUN_BATCH = [sys.executable, "-m", "vllm.entrypoints.openai.run_batch", "--model", str(MODEL_PATH)]
RUN_BATCH += ["--served-model-name", "demo", "--kv-cache-memory-bytes", str(1 << 29), "--enforce-eager"]
COMMANDS = {
    "run-batch as shipped": [*RUN_BATCH, "-i"],
    "run-batch tuned": [*RUN_BATCH, "--max-num-seqs", "512", "--max-num-batched-tokens", "8192", "-i"],
    "xbatch": [sys.executable, "-m", "xbatch", "run"],
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One command's run."""

    took_s: float
    own_peak_bytes: int
    tree_peak_bytes: int


def write_rows(path: Path, rows: int) -> None:
    """Write unique chat rows of about 39 tokens in and 16 out."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(rows):
            messages = [{"role": "user", "content": f"Row {i}: what is the largest animal?"}]
            body = {"model": "demo", "messages": messages, "max_tokens": 16, "min_tokens": 16, "temperature": 0}
            line = {"custom_id": f"r-{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def measure(command: list[str], log: Path) -> Measured:
    """Run a command to its end and watch its memory."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    began_s = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
        peaks = [0, 0]
        watcher = threading.Thread(target=_watch, args=(process, peaks), daemon=True)
        watcher.start()
        if process.wait() != 0:
            raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text(errors='replace')[-3000:]}")
    took_s = time.monotonic() - began_s
    watcher.join()
    return Measured(took_s, peaks[0], peaks[1])


def _watch(process: "subprocess.Popen[bytes]", peaks: list[int]) -> None:
    own = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            mine = own.memory_info().rss
            tree = mine + sum(child.memory_info().rss for child in own.children(recursive=True))
        except psutil.Error:
            continue
        peaks[0], peaks[1] = max(peaks[0], mine), max(peaks[1], tree)
        time.sleep(0.1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    results: dict[str, list[tuple[Measured, Measured]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few, many = folder / "few.jsonl", folder / "many.jsonl"
        write_rows(few, FEW)
        write_rows(many, args.rows)
        for number in range(args.rounds):
            for peer, words in COMMANDS.items():
                runs = [
                    measure([*words, str(rows), "-o", str(folder / f"{number}-{peer}-{rows.name}")], folder / "log")
                    for rows in (few, many)
                ]
                results[peer].append((runs[0], runs[1]))
    show(results, args.rows - FEW)


def show(results: dict[str, list[tuple[Measured, Measured]]], rows: int) -> None:
    """Print medians, and how many times as fast xbatch answers."""
    speeds = {peer: rows / median(many.took_s - few.took_s for few, many in runs) for peer, runs in results.items()}
    print(
        f"{'':22}{'whole command':>15}{'start-up':>12}{'rows/s':>9}{'own peak':>12}{'tree peak':>12}{'xbatch is':>11}"
    )
    for peer, runs in results.items():
        few_s, many_s = (median(run[i].took_s for run in runs) for i in (0, 1))
        own, tree = (median(getattr(run[1], field) for run in runs) for field in ("own_peak_bytes", "tree_peak_bytes"))
        print(
            f"{peer:22}{many_s:13.1f} s{few_s:10.1f} s{speeds[peer]:9.0f}"
            f"{own / 2**20:8.0f} MiB{tree / 2**20:8.0f} MiB{speeds['xbatch'] / speeds[peer]:9.2f} x"
        )


if __name__ == "__main__":
    main()
