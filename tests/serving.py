"""Runs of the real engine for the tests: `xbatch run`, `vllm serve`, and the rows that both are asked."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx
import psutil

from xbatch.demo import MODEL_PATH, questions

REPOSITORY = Path(__file__).parent.parent
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
CONTEXT_TOKENS = 2048
START_S = 300.0
"""How long an engine may take to start on a machine that others use too."""
KV_CACHE_BYTES = 256 << 20
SYSTEM = "You are a helpful assistant."

Body = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """A run of `xbatch run` that is over."""

    code: int
    out: str
    err: str
    output: Path

    @property
    def state(self) -> Path:
        return Path(f"{self.output}.xbatch")

    @property
    def sentences(self) -> list[str]:
        """What it said on stderr, progress left out."""
        return [line for line in self.err.splitlines() if line.strip() and not line.startswith("{")]

    def lines(self) -> list[Body]:
        return [json.loads(line) for line in self.output.read_text(encoding="utf-8").splitlines()]

    def responses(self) -> dict[str, Body]:
        """Each line of the output by its custom_id."""
        return {line["custom_id"]: line for line in self.lines()}


def environment(**changes: str | None) -> dict[str, str]:
    """This process's environment, with this checkout importable and nothing that reports or downloads."""
    values = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    values |= {name: value for name, value in changes.items() if value is not None}
    return {name: value for name, value in values.items() if name not in changes or changes[name] is not None}


def command(rows: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "xbatch", "run", str(rows), *arguments]


def output_of(rows: Path) -> Path:
    return rows.with_name(f"{rows.stem}.responses.jsonl")


def run_xbatch(rows: Path, *arguments: str, timeout_s: float = START_S, **changes: str | None) -> Ended:
    """`xbatch run` from beginning to end."""
    done = subprocess.run(
        command(rows, *arguments),
        env=environment(**changes),
        cwd=rows.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr, output_of(rows))


def write_rows(path: Path, rows: list[Body]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def batch_line(custom_id: str, url: str, body: Body) -> Body:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


@contextmanager
def served(log: Path, *arguments: str) -> Iterator[str]:
    """The address of vLLM's own server while it runs with the demo model."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL_PATH)]
    words += ["--served-model-name", "demo", "--host", "127.0.0.1", "--port", str(port), *arguments]
    with open(log, "wb") as file:
        process = subprocess.Popen(
            words,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(process, address, log)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        try:
            if httpx.get(f"{address}/health", timeout=5).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(log.read_text(errors="replace")[-4000:])


def post_all(address: str, requests: dict[str, tuple[str, Body]], at_a_time: int = 16) -> dict[str, tuple[int, Body]]:
    """Status code and body that a server answers to each request."""
    with httpx.Client(base_url=address, timeout=300, trust_env=False) as client:

        def post(name: str) -> tuple[str, tuple[int, Body]]:
            url, body = requests[name]
            answer = client.post(url, json=body)
            return name, (answer.status_code, answer.json())

        with ThreadPoolExecutor(at_a_time) as pool:
            return dict(pool.map(post, requests))


def make_lora(folder: Path) -> Path:
    """An adapter for the demo model whose weights are large enough to change its answers."""
    config = json.loads((MODEL_PATH / "config.json").read_text())
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {}
    for layer in range(layers):
        for name, size in (("q_proj", hidden), ("v_proj", kv)):
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            shapes[f"{stem}.lora_A.weight"], shapes[f"{stem}.lora_B.weight"] = (8, hidden), (size, 8)
    folder.mkdir()
    write_safetensors(folder / "adapter_model.safetensors", shapes)
    adapter = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "lora_dropout": 0.0}
    adapter |= {"bias": "none", "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    return folder


def write_safetensors(path: Path, shapes: dict[str, tuple[int, int]]) -> None:
    """Random matrices of these shapes; format: safetensors (a length, a JSON header, the numbers)."""
    header, data, random = {}, bytearray(), Random(5)
    for name, (height, width) in shapes.items():
        start = len(data)
        data += struct.pack(f"<{height * width}f", *(random.gauss(0, 0.2) for _ in range(height * width)))
        header[name] = {"dtype": "F32", "shape": [height, width], "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))


def mixed_requests() -> dict[str, tuple[str, Body]]:
    """Some three hundred requests of every sort that the two endpoints take or refuse, by name."""
    asked = [pair[0] for pair in questions()]
    found: dict[str, tuple[str, Body]] = {}

    def chat(name: str, messages: Any = None, /, **fields: Any) -> None:
        said = [_user(asked[len(found) % len(asked)])] if messages is None else messages
        found[f"chat {name}"] = (
            CHAT,
            {"model": "demo", "messages": said, "temperature": 0, "max_tokens": 24} | fields,
        )

    def complete(name: str, prompt: Any = None, /, **fields: Any) -> None:
        said = asked[len(found) % len(asked)] if prompt is None else prompt
        body = {"model": "demo", "prompt": said, "temperature": 0, "max_tokens": 16}
        found[f"completion {name}"] = (COMPLETIONS, body | fields)

    _plain(asked, chat, complete)
    _sampled(asked, chat, complete)
    _logprobs(chat, complete)
    _structured(chat, complete)
    _tools(chat)
    _limits(chat, complete)
    _conversations(chat)
    for endpoint in (chat, complete):
        _out_of_range(endpoint)
        _unusual(endpoint)
    _wrong_bodies(chat, complete)
    return found


def _user(text: Any) -> Body:
    return {"role": "user", "content": text}


def _plain(asked: list[str], chat: Any, complete: Any) -> None:
    for i in range(20):
        system = {"role": "system", "content": ("Be brief.", "", "Answer like a pirate, in rhymes.")[i % 3]}
        chat(f"plain {i}", [_user(asked[i])])
        chat(f"system {i}", [system, _user(asked[i])])
        complete(f"plain {i}", asked[i])
    complete("two prompts", asked[:2])
    complete("five prompts, one empty answer", [*asked[:4], "."], max_tokens=4)
    complete("token ids", [272, 262, 266, 335, 452, 33])
    complete("two lists of token ids", [[272, 262, 266, 335, 452, 33], [272, 262]])
    complete("other scripts", "çøл 中文 🙂 \x00 \u2028", max_tokens=8)
    chat("adapter", model="styled")
    chat(
        "adapter with a system message",
        [{"role": "system", "content": "Be brief."}, _user("Why?")],
        model="styled",
    )
    complete("adapter", model="styled")
    for name in ("unknown", "", "DEMO", str(MODEL_PATH)):
        chat(f"model {name!r}", model=name)
        complete(f"model {name!r}", model=name)
    chat("no model", model=None)
    complete("no model", model=None)
    chat("model of a wrong type", model=5)


def _sampled(asked: list[str], chat: Any, complete: Any) -> None:
    # Sampling takes a threshold's nearest side, so only clear-cut or seeded draws can be compared.
    for seed in (0, 1, 7, 2**31, -3, 2**63 - 1):
        chat(f"seed {seed}", temperature=1.0, seed=seed)
        complete(f"seed {seed}", temperature=0.7, top_p=0.9, seed=seed)
    chat("n", temperature=0.8, seed=3, n=2)
    complete("n", temperature=0.8, seed=3, n=2)
    complete("n of two prompts", asked[:2], temperature=0.8, seed=3, n=2)
    complete("best_of", temperature=0.8, seed=3, best_of=2)
    chat("n greedy", n=2)
    complete("n greedy", n=2)
    chat("beam search", use_beam_search=True, n=2, max_tokens=6)
    complete("beam search", use_beam_search=True, n=2, max_tokens=6)
    for endpoint in (chat, complete):
        endpoint("stop", stop="is")
        endpoint("stops", stop=["the", ".", "zebra"])
        endpoint("stop, kept", stop=[" the"], include_stop_str_in_output=True)
        endpoint("stop token ids", stop_token_ids=[266, 262])
        endpoint("top_k", temperature=1.0, top_k=1)
        endpoint("min_p", temperature=1.0, min_p=1.0)
        endpoint("penalties", presence_penalty=1.5, frequency_penalty=0.5, repetition_penalty=1.2)
        endpoint("min_tokens", min_tokens=20, max_tokens=30)
        endpoint("ignore_eos", ignore_eos=True, max_tokens=40)
        endpoint("logit_bias", logit_bias={"300": 100}, max_tokens=5)
        endpoint("allowed_token_ids", allowed_token_ids=[300, 301, 302], max_tokens=5)
        endpoint("bad_words", bad_words=["the", "is"])
        endpoint("special tokens shown", skip_special_tokens=False, ignore_eos=True)
        endpoint("no spaces between special tokens", spaces_between_special_tokens=False)
        endpoint("token ids returned", return_token_ids=True)
        endpoint("truncated prompt", truncate_prompt_tokens=4)
        endpoint("truncated prompt, -1", truncate_prompt_tokens=-1)


def _logprobs(chat: Any, complete: Any) -> None:
    chat("logprobs", logprobs=True)
    chat("top_logprobs", logprobs=True, top_logprobs=3)
    chat("top_logprobs 20", logprobs=True, top_logprobs=20, max_tokens=4)
    chat("top_logprobs without logprobs", top_logprobs=3)
    chat("top_logprobs 21", logprobs=True, top_logprobs=21)
    chat("top_logprobs negative", logprobs=True, top_logprobs=-2)
    chat(
        "logprobs of a forbidden token",
        logprobs=True,
        top_logprobs=5,
        allowed_token_ids=[300, 301],
        max_tokens=4,
    )
    chat(
        "echo",
        [_user("Who?"), {"role": "assistant", "content": "It is"}],
        echo=True,
        add_generation_prompt=False,
    )
    chat("prompt_logprobs", prompt_logprobs=2, max_tokens=3)
    chat("token ids as text", logprobs=True, top_logprobs=2, return_tokens_as_token_ids=True)
    complete("logprobs", logprobs=1)
    complete("logprobs 0", logprobs=0)
    complete("logprobs 5", logprobs=5)
    complete("logprobs 25", logprobs=25)
    complete("logprobs -1", logprobs=-1)
    complete("logprobs -2", logprobs=-2)
    complete("echo", echo=True)
    complete("echo, logprobs", echo=True, logprobs=2)
    complete("echo alone", echo=True, max_tokens=0)
    complete("echo alone, logprobs", echo=True, max_tokens=0, logprobs=1)
    complete("echo of a list", ["One.", "Two."], echo=True)
    complete("prompt_logprobs", prompt_logprobs=2, max_tokens=3)
    complete("prompt_logprobs -2", prompt_logprobs=-2)
    complete("token ids as text", logprobs=2, return_tokens_as_token_ids=True)
    complete("suffix", suffix="the end")


_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "legs": {"type": "integer", "enum": [2, 4]}},
    "required": ["name", "legs"],
    "additionalProperties": False,
}


def _structured(chat: Any, complete: Any) -> None:
    for endpoint in (chat, complete):
        for name, form in {
            "json_schema": {"type": "json_schema", "json_schema": {"name": "animal", "schema": _SCHEMA}},
            "strict": {
                "type": "json_schema",
                "json_schema": {"name": "a", "strict": True, "schema": _SCHEMA},
            },
            "json_object": {"type": "json_object"},
            "text": {"type": "text"},
            "no schema": {"type": "json_schema"},
            "empty schema": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
            "bad schema": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"type": "nonsense"}},
            },
            "schema is a text": {"type": "json_schema", "json_schema": {"name": "a", "schema": "x"}},
            "unknown reference": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"$ref": "#/no"}},
            },
            "unknown type": {"type": "yaml"},
            "a text": "json_object",
        }.items():
            endpoint(f"response_format {name}", response_format=form, max_tokens=40)
        for name, rule in {
            "regex": {"regex": "[ab]{3}"},
            "bad regex": {"regex": "[ab"},
            "choice": {"choice": ["yes", "no"]},
            "no choice": {"choice": []},
            "grammar": {"grammar": 'root ::= "yes" | "no"'},
            "bad grammar": {"grammar": "root ::= ("},
            "json": {"json": _SCHEMA},
            "two rules": {"regex": "a", "choice": ["a"]},
        }.items():
            endpoint(f"structured_outputs {name}", structured_outputs=rule, max_tokens=40)


def _tools(chat: Any) -> None:
    tool = {
        "type": "function",
        "function": {"name": "weigh", "description": "Weighs.", "parameters": _SCHEMA},
    }
    other = {
        "type": "function",
        "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
    }
    call = '{"name": "weigh", "arguments": {"name": "cat", "legs": 4}}'
    chat("tools", tools=[tool])
    chat("tools auto", tools=[tool, other], tool_choice="auto")
    chat("tools none", tools=[tool], tool_choice="none")
    chat("tools required", tools=[tool], tool_choice="required", max_tokens=60)
    chat("tools required of two", tools=[tool, other], tool_choice="required", max_tokens=60)
    chat(
        "tools named",
        tools=[tool],
        tool_choice={"type": "function", "function": {"name": "weigh"}},
        max_tokens=60,
    )
    chat("tools unknown name", tools=[tool], tool_choice={"type": "function", "function": {"name": "fly"}})
    chat("tools cut short", tools=[tool], tool_choice="required", max_tokens=3)
    chat(
        "tool call in plain words",
        tools=[tool],
        structured_outputs={"choice": [f"<tool_call>\n{call}\n</tool_call>"]},
    )
    long = {"choice": [f"<tool_call>\n{call}\n</tool_call>"]}
    chat("tool call parsed", tools=[tool], tool_choice="auto", structured_outputs=long, max_tokens=100)
    chat("tool_choice without tools", tool_choice="auto")
    chat("tool_choice required without tools", tool_choice="required")
    chat("no tools", tools=[])
    chat("tools of a wrong type", tools="weigh")
    chat("tool without a name", tools=[{"type": "function", "function": {}}])
    chat("tool with a bad schema", tools=[{"type": "function", "function": {"name": "a", "parameters": "x"}}])
    chat("one call at most", tools=[tool], tool_choice="required", parallel_tool_calls=False, max_tokens=60)
    chat("tool_choice of a wrong type", tools=[tool], tool_choice=7)


def _limits(chat: Any, complete: Any) -> None:
    ids = [266] * (CONTEXT_TOKENS - 8)
    complete("up to the limit", ids, max_tokens=8, ignore_eos=True)
    complete("one beyond the limit", ids, max_tokens=9)
    complete("to the limit by default", ids, max_tokens=None, ignore_eos=True)
    complete("prompt as long as the context", [266] * CONTEXT_TOKENS, max_tokens=1)
    complete("prompt longer than the context", [266] * (CONTEXT_TOKENS + 60))
    complete("text longer than the context", "word " * 4000)
    complete("long text of many answers", ["word " * 30, "word " * 4000])
    complete("text truncated", "word " * 4000, truncate_prompt_tokens=20)
    complete("truncated beyond the context", truncate_prompt_tokens=CONTEXT_TOKENS + 1)
    chat("text longer than the context", [_user("word " * 4000)])
    chat("answer longer than the context", max_tokens=CONTEXT_TOKENS)
    chat("max_completion_tokens", max_tokens=None, max_completion_tokens=5)
    chat("max_completion_tokens and max_tokens", max_tokens=3, max_completion_tokens=5)
    chat(
        "answer to the limit",
        [_user("word " * 480)],
        max_tokens=None,
        ignore_eos=True,
        logit_bias={"300": 100},
    )
    for name, prompt in {
        "empty": "",
        "empty list": [],
        "empty ids": [[]],
        "texts and ids": ["a", [1]],
        "id too large": [1280],
        "id far too large": [2**40],
        "negative id": [-1],
        "a number": 5,
        "an object": {"a": 1},
        "a fraction": [1.5],
        "a boolean": True,
    }.items():
        complete(f"prompt {name}", prompt)
    complete("prompt null", prompt=None)


def _conversations(chat: Any) -> None:
    said = [_user("What is two plus two?"), {"role": "assistant", "content": "The answer"}]
    calls = [{"id": "a1", "type": "function", "function": {"name": "weigh", "arguments": '{"name": "cat"}'}}]
    for name, messages in {
        "empty": [],
        "null": None,
        "a text": "Hello",
        "an object": {"role": "user"},
        "without role": [{"content": "Hello"}],
        "without content": [{"role": "user"}],
        "null content": [{"role": "user", "content": None}],
        "number as content": [_user(5)],
        "empty content": [_user("")],
        "empty parts": [_user([])],
        "text parts": [_user([{"type": "text", "text": "What is"}, {"type": "text", "text": "the sun?"}])],
        "part without type": [_user([{"text": "What is the sun?"}])],
        "unknown part": [_user([{"type": "smell", "smell": "rose"}])],
        "picture": [_user([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}])],
        "unknown role": [{"role": "pirate", "content": "Hello"}],
        "number as role": [{"role": 5, "content": "Hello"}],
        "developer": [{"role": "developer", "content": "Be brief."}, _user("Why?")],
        "names": [{"role": "user", "name": "Ann", "content": "Why?"}],
        "unknown field": [{"role": "user", "content": "Why?", "mood": "good"}],
        "assistant last": said,
        "assistant only": [said[1]],
        "tool answers": [
            said[0],
            {"role": "assistant", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "a1", "content": "4 kg"},
        ],
        "bad arguments": [
            said[0],
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [calls[0] | {"function": {"name": "w", "arguments": "{"}}],
            },
        ],
        "tool without call": [{"role": "tool", "content": "4 kg"}],
        "refusal": [said[0], {"role": "assistant", "refusal": "No."}, _user("Why?")],
        "two systems": [
            {"role": "system", "content": "A"},
            {"role": "system", "content": "B"},
            _user("Why?"),
        ],
        "numbers": [1, 2],
    }.items():
        chat(f"messages {name}", [], messages=messages)
    chat("continued", said, add_generation_prompt=False, continue_final_message=True)
    chat("continued and begun", said, add_generation_prompt=True, continue_final_message=True)
    chat("not begun", said, add_generation_prompt=False)
    chat("own template", chat_template="{{ messages[0].content }}")
    chat("template's words", chat_template_kwargs={"enable_thinking": False})
    chat("template's words of a wrong type", chat_template_kwargs="no")
    chat("documents", documents=[{"title": "A", "text": "B"}])
    chat("reasoning_effort", reasoning_effort="low")
    chat("reasoning_effort unknown", reasoning_effort="lots")
    chat("special tokens added", add_special_tokens=True)


def _out_of_range(endpoint: Any) -> None:
    for value in (-1, 3, "hot", None, 1e30):
        endpoint(f"temperature={value!r}", temperature=value, seed=3)  # None is taken for 1
    for field, values in {
        "top_p": (0, 1.5, -0.1, "x"),
        "top_k": (-2, 0.5, "x", 0),
        "min_p": (-0.1, 1.1),
        "n": (0, -1, 1.5, "two", None, 100000),
        "max_tokens": (-1, 1.5, "many", 10**12, 0),
        "min_tokens": (-1, 100),
        "presence_penalty": (3, "x"),
        "frequency_penalty": (-2.5,),
        "repetition_penalty": (0, -1),
        "seed": (1.5, "x", 2**64, -(2**63) - 1),
        "stop": ("", [""], 5, [5]),
        "stop_token_ids": ("x", [-1], [99999]),
        "logit_bias": ({"x": 1}, {"5000": 1}, {"-1": 1}, [1], {"300": 500}, {"300": "much"}),
        "allowed_token_ids": ([], [99999], "x"),
        "bad_words": ([""], "x"),
        "logprobs": ("x", -5),
        "truncate_prompt_tokens": (-2, 0, "x"),
    }.items():
        for value in values:
            endpoint(f"{field}={value!r}", **{field: value})


def _unusual(endpoint: Any) -> None:
    endpoint("unknown field", wizard=True)
    endpoint("known elsewhere", user="ann", metadata={"a": "b"}, store=True, service_tier="auto")
    endpoint("metadata of a wrong type", metadata=5, user=5)
    endpoint("priority", priority=3)
    endpoint("cache_salt", cache_salt="salt")
    endpoint("cache_salt empty", cache_salt="")
    endpoint("logits_processors", logits_processors=["no.such"])
    endpoint("vllm_xargs", vllm_xargs={"a": 1})
    endpoint("vllm_xargs of a wrong type", vllm_xargs=[1])
    endpoint("request_id", request_id="mine")
    endpoint("guided_json of old", guided_json=_SCHEMA)
    endpoint("stream null", stream=None)
    endpoint("kv_transfer_params", kv_transfer_params={"a": 1})
    endpoint("thinking_token_budget", thinking_token_budget=4)


def _wrong_bodies(chat: Any, complete: Any) -> None:
    chat("several mistakes", temperature="x", top_p="y", n="z")
    complete("several mistakes", temperature="x", top_p="y", n="z")
    chat("names of Python", self=1, cls=2, __class__=3, model_config={}, model_fields=1)
    complete("names of Python", **{"self": 1, "cls": 2, "__dict__": 3, "": 4})
    chat("deep", deep=json.loads("[" * 60 + "]" * 60))


def seeded_requests() -> dict[str, tuple[str, Body]]:
    """Seeded rows with prompts of 120 tokens, enough of them to overfill a step."""
    fields = {"model": "demo", "temperature": 0.9, "max_tokens": 12, "ignore_eos": True}
    prompts = [[300 + (i * 7 + j) % 900 for j in range(120)] for i in range(64)]
    return {f"seeded {i}": (COMPLETIONS, fields | {"prompt": prompts[i], "seed": 1000 + i}) for i in range(64)}


def rows_of(requests: dict[str, tuple[str, Body]]) -> list[Body]:
    """Rows that ask the same: batch lines and bare bodies in turn, some of them wanting a stream."""
    rows: list[Body] = []
    for i, (name, (url, body)) in enumerate(requests.items()):
        streaming: Body = {"stream": True, "stream_options": {"include_usage": True}} if i % 7 == 0 else {}
        if i % 3 == 0 and ("messages" in body) == (url == CHAT):
            rows.append({"custom_id": name} | body | streaming)
        else:
            rows.append(batch_line(name, url, body | streaming))
    return rows


def demo_requests() -> dict[str, tuple[str, Body]]:
    """Every question that the demo model knows, asked in each way at temperature 0."""
    found: dict[str, tuple[str, Body]] = {}
    for i, (question, _) in enumerate(questions()):
        fields = {"model": "demo", "temperature": 0, "max_tokens": 64}
        system = {"role": "system", "content": SYSTEM}
        found[f"chat/{i}"] = (CHAT, fields | {"messages": [_user(question)]})
        found[f"chat with system/{i}"] = (CHAT, fields | {"messages": [system, _user(question)]})
        found[f"completion/{i}"] = (COMPLETIONS, fields | {"prompt": question})
        found[f"completion with system/{i}"] = (COMPLETIONS, fields | {"prompt": f"{SYSTEM}\n{question}"})
    return found


def demo_and_long_requests() -> dict[str, tuple[str, Body]]:
    """The demo's questions among rows whose answers are long."""
    fields = {"model": "demo", "temperature": 0, "max_tokens": 40, "ignore_eos": True}
    found: dict[str, tuple[str, Body]] = {}
    for i, (name, request) in enumerate(demo_requests().items()):
        found[name] = request
        for k in range(1 + i % 2):
            found[f"long/{i}/{k}"] = (COMPLETIONS, fields | {"prompt": [300 + i % 900, 266 + k]})
    return found


def interrupt(rows: Path, *arguments: str) -> tuple[Ended, list[str]]:
    """`xbatch run`, its process group sent SIGINT once rows are settled; also the processes that outlived it."""
    out, err = rows.with_name("out"), rows.with_name("err")
    output = output_of(rows)
    with open(out, "wb") as out_file, open(err, "wb") as err_file:
        process = subprocess.Popen(
            command(rows, *arguments),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=out_file,
            stderr=err_file,
            start_new_session=True,
        )
        family: list[psutil.Process] = []
        try:
            until = time.monotonic() + START_S
            while not has_settled(output):
                assert process.poll() is None, err.read_text()
                assert time.monotonic() < until, "no row was settled"
                time.sleep(0.02)
            family = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGINT)
            code = process.wait(START_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL if process.poll() is None else 0)
            process.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert family, "the engine has no process of its own"
    return Ended(code, out.read_text(), err.read_text(), output), [str(p) for p in alive]


def has_settled(output: Path) -> bool:
    """Some rows of a running job stand in its log with their response."""
    return any(b'"custom_id"' in log.read_bytes() for log in Path(f"{output}.xbatch").glob("wal/*/*"))


def settled(run: Ended) -> int:
    """The rows that had their response when a run ended, as its last line of progress says."""
    last = [json.loads(line) for line in run.err.splitlines() if line.startswith("{")][-1]
    return int(last["completed"]) + int(last["failed"])


_ENGINE_SCRIPT = """
import asyncio, json, sys, time
from pathlib import Path
import psutil
from serving import CHAT, COMPLETIONS, demo_requests
from xbatch.demo import MODEL_PATH
from xbatch.engines.vllm.engine import VllmEngine
from xbatch.rows.outcome import Completion
from xbatch.rows.request import Request

def shown(outcome):
    kind = type(outcome).__name__
    if isinstance(outcome, Completion):
        usage = [outcome.usage.prompt_tokens, outcome.usage.completion_tokens]
        return {"kind": kind, "body": outcome.body.decode(), "usage": usage}
    body = (outcome.body or b"").decode()
    return {"kind": kind, "body": body, "status_code": outcome.status_code, "retryable": outcome.retryable}

async def main():
    engine = VllmEngine(str(MODEL_PATH), ["demo"], {})
    engine.check()
    await engine.start()

    async def ask(url, body):
        return shown(await engine.generate(Request(0, "a", url, body, 100)))

    why = {"model": "demo", "prompt": "Why?", "max_tokens": 5}
    contract = {
        "good": await ask(COMPLETIONS, why),
        "stream": await ask(COMPLETIONS, why | {"stream": True, "stream_options": {"include_usage": True}}),
        "unknown": await ask(COMPLETIONS, why | {"model": "other"}),
        "invalid": await ask(CHAT, {"model": "demo", "messages": 5}),
    }
    long = asyncio.create_task(ask(COMPLETIONS, why | {"max_tokens": 1900, "ignore_eos": True}))
    await asyncio.sleep(0.3)
    long.cancel()
    began_s = time.monotonic()
    ended = (await asyncio.gather(long, return_exceptions=True))[0]
    contract["cancelled"] = ended["kind"] if isinstance(ended, dict) else type(ended).__name__
    contract["cancel_s"] = time.monotonic() - began_s
    contract["after_cancel"] = await ask(COMPLETIONS, why)

    requests = demo_requests()
    names = list(requests)
    one_by_one = {name: await ask(*requests[name]) for name in names[::5]}  # each way in turn
    by_hundreds = {}
    for start in range(0, len(names), 100):
        some = names[start : start + 100]
        by_hundreds |= zip(some, await asyncio.gather(*(ask(*requests[name]) for name in some)))

    children = psutil.Process().children(recursive=True)
    engine.close()
    engine.close()
    alive = [p for p in psutil.wait_procs(children, timeout=10)[1] if "resource_tracker" not in " ".join(p.cmdline())]
    contract |= {"processes": len(children), "left": [str(p) for p in alive]}
    found = {"contract": contract, "one by one": one_by_one, "by hundreds": by_hundreds}
    Path(sys.argv[1]).write_text(json.dumps(found))

if __name__ == "__main__":
    asyncio.run(main())
"""


def run_engine_script(folder: Path, text: str = _ENGINE_SCRIPT) -> Body:
    """Drive `VllmEngine` through its interface in a process of its own; returns what it answered."""
    script, answers, log = folder / "drive.py", folder / "answers.json", folder / "log"
    script.write_text(text)
    with open(log, "wb") as file:
        done = subprocess.run(
            [sys.executable, str(script), str(answers)],
            env=environment(PYTHONPATH=f"{REPOSITORY}{os.pathsep}{Path(__file__).parent}"),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            timeout=2 * START_S,
            check=False,
        )
    assert answers.exists(), (done.returncode, log.read_text(errors="replace")[-4000:])
    found: Body = json.loads(answers.read_text())
    return found
