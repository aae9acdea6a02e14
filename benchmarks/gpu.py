"""xbatch against `vllm run-batch` and `vllm.LLM` on a GPU, with models of real shapes and random weights.

    python benchmarks/gpu.py --minutes 9 [--model 0.6b|8b] [--workloads short,shared-2 --peers xbatch,tuned]
    python benchmarks/gpu.py --small --minutes 9      the same with tiny shapes on a CPU, to see that it works

One file that needs xbatch and its vLLM and nothing else, no network either. Every result is printed at once as a line
of JSON, and all of them as a table in the end; the most telling workloads come first. Whole is the whole command's
time. Rates and GPU utilisation are from the moment that vLLM says its engine is ready to the command's end, and so is
the front end's CPU time: of all processes but vLLM's own. `-` is what could not be seen.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import psutil

TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
READY = b"init engine ("  # what vLLM logs then
COMMON = {"max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "hidden_act": "silu", "torch_dtype": "bfloat16"}
COMMON |= {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0, "attention_bias": False}
QWEN = COMMON | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "rope_theta": 1e6}
LLAMA = COMMON | {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rope_theta": 5e5}


SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
SIZES += ("head_dim", "tie_word_embeddings")
MODELS = {
    "0.6b": QWEN | dict(zip(SIZES, (1024, 3072, 28, 16, 8, 128, True), strict=True)),
    "8b": LLAMA | dict(zip(SIZES, (4096, 14336, 32, 32, 8, 128, False), strict=True)),
    "small": QWEN | dict(zip(SIZES, (128, 384, 2, 4, 2, 32, True), strict=True)),
}
TUNED = {"gpu": (1024, 16384), "cpu": (512, 8192)}
BLOCK_TOKENS = {"gpu": 16, "cpu": 128}
"""vLLM's own choice."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Rows, each with its text and the tokens of its answer, and the cache's size if it is not vLLM's choice."""

    name: str
    rows: list[tuple[str, int]]
    in_tokens: int
    blocks: int | None = None
    peers: tuple[str, ...] = ("xbatch", "tuned", "shipped", "generate")


class Words:
    """Texts of a known number of tokens."""

    def __init__(self, model: Path, block_tokens: int, scale: float) -> None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        found = [tokenizer.decode([i]) for i in range(tokenizer.get_vocab_size())]
        self._words = [w for w in found if re.fullmatch(r" [a-z]{2,}", w) and len(tokenizer.encode(w).ids) == 1]
        self._chance = random.Random(7)  # noqa: S311
        self._block_tokens, self._scale = block_tokens, scale
        self._around = len(tokenizer.encode(TURN.format(self._words[0])).ids) - 1

    def text(self, tokens: int) -> str:
        """A text of so many tokens."""
        return "".join(self._chance.choices(self._words, k=tokens))

    def plain(
        self, name: str, count: int, in_tokens: tuple[int, int], out_tokens: tuple[int, int], last: Sequence[int] = ()
    ) -> Workload:
        """Unique rows; those at the end have answers of the lengths in `last`."""
        lengths = [self._chance.randint(*in_tokens) for _ in range(max(24, round(count * self._scale)))]
        outs = [*(self._chance.randint(*out_tokens) for _ in lengths[len(last) :]), *last]
        rows = [(self.text(length), out) for length, out in zip(lengths, outs, strict=True)]
        return Workload(name, rows, sum(lengths) + len(rows) * self._around)

    def shared(self, share: float, blocks: int, tokens: int, count: int, peers: tuple[str, ...]) -> Workload:
        """Documents that together are `share` times as large as the cache, each asked by several shuffled rows."""
        documents = [self.text(tokens) for _ in range(max(2, round(share * blocks * self._block_tokens / tokens)))]
        each = max(4, round(count * self._scale) // len(documents))
        rows = [(document + self.text(16), 16) for document in documents for _ in range(each)]
        self._chance.shuffle(rows)
        return Workload(f"shared-{share:g}", rows, len(rows) * (tokens + 16 + self._around), blocks, peers)


def workloads(words: Words, small: bool) -> list[Workload]:  # noqa: FBT001
    """The most telling first."""
    blocks, document = (24, 400) if small else (8192, 2000)
    some, pair = ("xbatch", "tuned", "generate"), ("xbatch", "tuned")
    long_in, long_out, last = ((300, 300), (64, 64), [300] * 4) if small else ((2000, 2000), (512, 512), [4000] * 4)
    return [
        words.plain("short", 20_000, (64, 64), (16, 16)),
        words.shared(2, blocks, document, 1600, some),
        words.plain("mixed", 4000, (32, long_in[0]), (8, 40 if small else 256), last),
        words.plain("long-short", 2500, long_in, (16, 16)),
        words.plain("short-long", 4000, (64, 64), long_out),
        *(words.shared(share, blocks, document, 1600, pair) for share in (0.5, 1, 5, 0.2)),
    ]


def make_model(folder: Path, name: str) -> Path:
    """A configuration, and a tokenizer trained on made-up words; vLLM makes up the weights."""
    from xbatch.demo.tokenizer import save_tokenizer, train_tokenizer

    chance = random.Random(7)  # noqa: S311
    syllables = [a + b + c for a in "bdfgklmnprstvz" for b in "aeiou" for c in ("", "n", "r", "s", "l")]
    count, size = (2000, 2048) if name == "small" else (40_000, 32_768)
    made = ["".join(chance.choices(syllables, k=chance.randint(2, 3))) for _ in range(count)]
    tokenizer = train_tokenizer((" ".join(made) for _ in range(2)), size)
    folder.mkdir()
    config = MODELS[name] | {"vocab_size": (tokenizer.get_vocab_size() + 63) // 64 * 64}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_tokenizer(tokenizer, folder, config["max_position_embeddings"])
    return folder


def write(path: Path, work: Workload) -> None:
    """Write a workload's rows as lines of OpenAI's batches."""
    with path.open("w", encoding="utf-8") as file:
        for i, (text, tokens) in enumerate(work.rows):
            body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": tokens}
            body |= {"temperature": 0, "ignore_eos": True}
            line = {"custom_id": f"r-{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def settings(work: Workload, small: bool) -> dict[str, Any]:  # noqa: FBT001
    """Settings of vLLM that all get."""
    made: dict[str, Any] = {"load_format": "dummy", "dtype": "bfloat16"}
    if small:
        made |= {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": 256 << 20, "max_model_len": 2048}
    return made | ({"num_gpu_blocks_override": work.blocks} if work.blocks else {})


def command(peer: str, model: Path, rows: Path, answers: Path, given: dict[str, Any], limits: tuple[int, int]) -> Any:
    """The command line with which a peer answers a file."""
    if peer == "xbatch":
        words = [sys.executable, "-m", "xbatch", "run", str(rows), "-o", str(answers), "--served-model-name", "m"]
        return [*words, "--model", str(model), *(f"--engine-arg={n}={str(v).lower()}" for n, v in given.items())]
    if peer == "generate":
        return [sys.executable, __file__, "--generate", str(rows), str(answers), str(model), json.dumps(given)]
    words = [sys.executable, "-m", "vllm.entrypoints.openai.run_batch", "-i", str(rows), "-o", str(answers)]
    words += ["--model", str(model), "--served-model-name", "m"]
    if peer == "tuned":
        given = given | {"max_num_seqs": limits[0], "max_num_batched_tokens": limits[1]}
    flags = [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in given.items()]
    return words + flags


def generate(rows: str, answers: str, model: str, given: str) -> None:
    """Answer a file with `vllm.LLM.generate` on texts, and keep texts only."""
    from vllm import LLM, SamplingParams

    bodies = [json.loads(line)["body"] for line in Path(rows).read_text(encoding="utf-8").splitlines()]
    engine = LLM(model, **json.loads(given))
    texts = [TURN.format(body["messages"][0]["content"]) for body in bodies]
    params = [SamplingParams(temperature=0, max_tokens=body["max_tokens"], ignore_eos=True) for body in bodies]
    outputs = engine.generate(texts, params, use_tqdm=False)
    Path(answers).write_text("".join(json.dumps({"text": o.outputs[0].text}) + "\n" for o in outputs), encoding="utf-8")


@dataclass(slots=True)
class Watch:
    """What a running command uses, looked at every quarter of a second."""

    process: "subprocess.Popen[bytes]"
    logs: list[Path]
    ready_s: float | None = None
    own_s: float = 0.0
    _seen: dict[int, tuple[bool, float]] = field(default_factory=dict)

    def __call__(self) -> None:
        """Look until the command ends."""
        while self.process.poll() is None:
            with suppress(psutil.Error):
                main = psutil.Process(self.process.pid)
                for each in [main, *main.children(recursive=True)]:
                    self._look(each)
            if self.ready_s is None and any(READY in log.read_bytes() for log in self.logs if log.exists()):
                self.ready_s, self.own_s = time.monotonic(), self.own_cpu_s()
            time.sleep(0.25)

    def _look(self, process: psutil.Process) -> None:
        with suppress(psutil.Error):
            if title := process.cmdline():
                is_engine = title[0].startswith("VLLM::") or self._seen.get(process.ppid(), (False, 0))[0]
                self._seen[process.pid] = (is_engine, sum(process.cpu_times()[:2]))  # user, system

    def own_cpu_s(self) -> float:
        """CPU time of all processes but vLLM's."""
        return sum(used for is_engine, used in self._seen.values() if not is_engine)


def watch_gpu(seen: list[tuple[float, float]]) -> None:
    """Take down the GPU's utilisation every half second, for ever."""
    if tool := shutil.which("nvidia-smi"):
        words = [tool, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=500", "--id=0"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            seen.extend((time.monotonic(), float(line)) for line in process.stdout or () if line.strip().isdigit())


def measure(
    words: list[str], answers: Path, work: Workload, gpu: list[tuple[float, float]], limit_s: float
) -> dict[str, Any]:
    """Run a command over a workload and say what it took, or what went wrong."""
    log = answers.with_suffix(".log")
    began_s = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(words, stdout=stream, stderr=stream, start_new_session=True)
        watch = Watch(process, [log, Path(f"{answers}.xbatch/vllm.log")])
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
    ended_s = time.monotonic()
    watcher.join()
    found: dict[str, Any] = {"rows": len(work.rows), "whole_s": round(ended_s - began_s, 2)}
    lines = map(json.loads, answers.open(encoding="utf-8") if answers.exists() else ())
    answered = sum("text" in line or (line["response"] or {}).get("status_code") == 200 for line in lines)
    if status or answered < len(work.rows):
        tail = log.read_text(errors="replace")[-1500:]
        return found | {"failed": f"status {status}, {answered} answers", "log": tail}
    if watch.ready_s is not None:
        took_s = ended_s - watch.ready_s
        rates = {"rows_s": len(work.rows), "in_tokens_s": work.in_tokens, "out_tokens_s": sum(n for _, n in work.rows)}
        found |= {"answering_s": round(took_s, 2)} | {name: round(count / took_s, 1) for name, count in rates.items()}
        found["own_cpu_ms_a_row"] = round(1000 * (watch.own_cpu_s() - watch.own_s) / len(work.rows), 3)
        busy = [percent for at_s, percent in gpu if watch.ready_s <= at_s <= ended_s]
        found["gpu_percent"] = round(mean(busy), 1) if busy else None
    return found


COLUMNS = {"workload": "<11", "peer": "<9", "rows": ">6", "whole_s": ">8", "answering_s": ">12", "rows_s": ">8"}
COLUMNS |= {"in_tokens_s": ">12", "out_tokens_s": ">13", "gpu_percent": ">12", "own_cpu_ms_a_row": ">17"}
COLUMNS |= {"xbatch_is": ">10"}


def table(results: list[dict[str, Any]]) -> str:
    """All results, and how many times as fast as each peer xbatch answers."""
    lines = ["".join(f"{name:{how}}" for name, how in COLUMNS.items())]
    ours = {each["workload"]: each.get("rows_s") for each in results if each["peer"] == "xbatch"}
    for each in results:
        if (mine := ours.get(each["workload"])) and each.get("rows_s"):
            each["xbatch_is"] = round(mine / each["rows_s"], 2)
        shown = {name: "-" if each.get(name) is None else each[name] for name in COLUMNS}
        lines.append("".join(f"{shown[name]!s:{how}}" for name, how in COLUMNS.items()))
    return "\n".join(lines)


def main() -> None:
    """Measure for so many minutes."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--minutes", type=float, default=9, help="nothing runs on after them")
    words.add_argument("--model", choices=[name for name in MODELS if name != "small"], default="0.6b")
    words.add_argument("--small", action="store_true", help="tiny shapes on a CPU")
    words.add_argument("--workloads", help="some of short, shared-2, mixed, long-short, short-long, shared-0.5, ...")
    words.add_argument("--peers", help="some of xbatch, tuned, shipped, generate")
    words.add_argument("--scale", type=float, default=1, help="share of the rows to run")
    given = words.parse_args()
    ends_s = time.monotonic() + 60 * given.minutes
    os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    device, results, gpu = "cpu" if given.small else "gpu", [], []
    threading.Thread(target=watch_gpu, args=(gpu,), daemon=True).start()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_model(folder / "model", "small" if given.small else given.model)
        words_of = Words(model, BLOCK_TOKENS[device], given.scale * (0.02 if given.small else 1))
        for work in workloads(words_of, given.small):
            if given.workloads and work.name not in given.workloads.split(","):
                continue
            for peer in given.peers.split(",") if given.peers else work.peers:
                if (left_s := ends_s - time.monotonic()) < 0.7 * max((each["whole_s"] for each in results), default=0):
                    continue
                rows, answers = folder / f"{work.name}.jsonl", folder / f"{work.name}-{peer}.jsonl"
                write(rows, work)
                line = command(peer, model, rows, answers, settings(work, given.small), TUNED[device])
                found = measure(line, answers, work, gpu, left_s)
                results.append({"workload": work.name, "peer": peer, **found})
                print(json.dumps(results[-1]), flush=True)
    print(table(results), flush=True)


if __name__ == "__main__":
    generate(*sys.argv[2:]) if sys.argv[1:2] == ["--generate"] else main()
