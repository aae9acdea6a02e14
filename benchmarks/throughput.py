"""Rows a second and memory of `xbatch run` against `vllm run-batch`, as shipped and tuned, in one run.

    python benchmarks/throughput.py [--rows 10000] [--rounds 1]

All answer the same unique short chat rows with the bundled model, one after the other in every round, each as a whole
command with its start-up. A row's time is taken between the first and the last rows' own `created` stamps where they
span enough seconds, so the whole command's time and the answering time are both printed. Memory is the peak resident
size of the command's own process, and of the whole tree.
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

SHIPPED: list[str] = []
TUNED = ["--max-num-seqs", "512", "--max-num-batched-tokens", "8192"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One command's run."""

    took_s: float
    answering_s: float
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


def measure(command: list[str], output: Path, log: Path) -> Measured:
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
    with output.open(encoding="utf-8") as file:
        stamps = [json.loads(line)["response"]["body"]["created"] for line in file]
    return Measured(took_s, max(stamps) - min(stamps) + 1, peaks[0], peaks[1])


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
    results: dict[str, list[Measured]] = {"run-batch as shipped": [], "run-batch tuned": [], "xbatch": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = folder / "rows.jsonl"
        write_rows(rows, args.rows)
        for number in range(args.rounds):
            for peer, flags in (("run-batch as shipped", SHIPPED), ("run-batch tuned", TUNED)):
                output = folder / f"{number}-{len(flags)}.jsonl"
                command = [
                    sys.executable,
                    "-m",
                    "vllm.entrypoints.openai.run_batch",
                    "-i",
                    str(rows),
                    "-o",
                    str(output),
                ]
                command += ["--model", str(MODEL_PATH), "--served-model-name", "demo", *flags]
                command += ["--kv-cache-memory-bytes", str(1 << 29), "--enforce-eager"]
                results[peer].append(measure(command, output, folder / "log"))
            output = folder / f"{number}-xbatch.jsonl"
            command = [sys.executable, "-m", "xbatch", "run", str(rows), "-o", str(output)]
            results["xbatch"].append(measure(command, output, folder / "log"))
    show(results, args.rows)


def show(results: dict[str, list[Measured]], rows: int) -> None:
    """Print medians, and ratios to xbatch."""
    ours = median(m.answering_s for m in results["xbatch"])
    print(
        f"{'':22}{'whole command':>15}{'answering':>12}{'rows/s':>9}{'own peak':>11}{'tree peak':>11}{'xbatch is':>12}"
    )
    for name, measured in results.items():
        took_s, answering_s = median(m.took_s for m in measured), median(m.answering_s for m in measured)
        own, tree = median(m.own_peak_bytes for m in measured), median(m.tree_peak_bytes for m in measured)
        print(
            f"{name:22}{took_s:13.1f} s{answering_s:10.1f} s{rows / answering_s:9.0f}"
            f"{own / 2**20:7.0f} MiB{tree / 2**20:7.0f} MiB{answering_s / ours:10.2f} x"
        )


if __name__ == "__main__":
    main()
