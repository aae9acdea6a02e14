"""The commands that are compared: xbatch and its peers, on one engine with one cache, and what they have written."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.peers.machine import dtype
from benchmarks.peers.rows import MODEL

OFFLINE = Path(__file__).parent / "offline.py"
RAY = Path(__file__).parent.parent / "ray_data.py"
RAY_PYTHON = Path(__file__).parent.parent.parent / ".venv/bench-ray/bin/python"
SEQUENCES, BATCHED_TOKENS = 512, 8192
"""The limits with which run-batch was found to be fastest on CPUs."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same for all who are compared."""

    size: str = "1M"
    """The model's, as in `models.SHAPES`."""
    kv_bytes: int = 512 << 20
    kv_blocks: int | None = None
    """The cache's size in blocks, if it is to be smaller than `kv_bytes` would make it."""

    def scaled(self, scale: float) -> "Setting":
        """The same for a share of the rows: what is too small a cache for all of them must be so for these."""
        return self if self.kv_blocks is None else replace(self, kv_blocks=max(1, round(self.kv_blocks * scale)))

    def words(self) -> list[tuple[str, str]]:
        """Settings of vLLM by name."""
        named = [("kv_cache_memory_bytes", str(self.kv_bytes))]
        return named + ([("num_gpu_blocks_override", str(self.kv_blocks))] if self.kv_blocks else [])


@dataclass(frozen=True, slots=True)
class Task:
    """A file of rows for a command to answer."""

    model: Path
    setting: Setting
    rows: Path
    answers: Path


def xbatch(task: Task) -> list[str]:
    """`xbatch run`, with its own choice of limits and order."""
    command = [sys.executable, "-m", "xbatch", "run", str(task.rows), "-o", str(task.answers)]
    command += ["--model", str(task.model), "--served-model-name", MODEL, "--dtype", dtype()]
    for name, value in task.setting.words():
        command += ["--engine-arg", f"{name}={value}"]
    return command


def run_batch(task: Task) -> list[str]:
    """`vllm run-batch` as it is shipped."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.run_batch", "-i", str(task.rows), "-o", str(task.answers)]
    command += ["--model", str(task.model), "--served-model-name", MODEL, "--dtype", dtype(), "--enforce-eager"]
    for name, value in task.setting.words():
        command += [f"--{name.replace('_', '-')}", value]
    return command


def run_batch_tuned(task: Task) -> list[str]:
    """`vllm run-batch` with the limits that suit CPUs."""
    limits = ["--max-num-seqs", str(SEQUENCES), "--max-num-batched-tokens", str(BATCHED_TOKENS)]
    return [*run_batch(task), *limits]


def llm_chat(task: Task) -> list[str]:
    """A script around `vllm.LLM.chat`, with the same limits; it keeps texts only."""
    return _offline("chat", task)


def llm_generate(task: Task) -> list[str]:
    """A script around `vllm.LLM.generate` on token ids, with the same limits; it keeps texts only."""
    return _offline("generate", task)


def ray_data(task: Task) -> list[str]:
    """A script around Ray Data LLM with one replica, in an environment of its own."""
    if not RAY_PYTHON.exists():
        raise SystemExit("Ray's environment is missing: make bench-ray")
    return [str(RAY_PYTHON), "-P", str(RAY), str(task.rows), str(task.answers), *_engine(task)]


def _offline(how: str, task: Task) -> list[str]:
    return [sys.executable, "-P", str(OFFLINE), how, str(task.rows), str(task.answers), *_engine(task)]


def _engine(task: Task) -> list[str]:
    settings = {name: int(value) for name, value in task.setting.words()}
    settings |= {"max_num_seqs": SEQUENCES, "max_num_batched_tokens": BATCHED_TOKENS}
    return [str(task.model), json.dumps(settings | {"enforce_eager": True, "dtype": dtype()})]


COMMANDS: dict[str, Callable[[Task], list[str]]] = {
    "xbatch": xbatch,
    "run-batch tuned": run_batch_tuned,
    "run-batch as shipped": run_batch,
    "LLM.chat": llm_chat,
    "LLM.generate": llm_generate,
    "Ray Data LLM": ray_data,
}


def count_answers(path: Path) -> int:
    """The rows that a command has answered and not failed."""
    with path.open(encoding="utf-8") as lines:
        return sum(_is_answer(json.loads(line)) for line in lines)


def _is_answer(line: dict[str, object]) -> bool:
    if "text" in line:
        return True
    response = line["response"]
    return isinstance(response, dict) and response["status_code"] == 200 and not line["error"]
