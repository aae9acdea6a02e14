"""The lists of fields and needs that xbatch keeps without importing vLLM, compared with vLLM itself."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_ignored_fields import FIVE, IMAGE, NEEDS, chat, write, xbatch

from xbatch.demo import MODEL_PATH
from xbatch.rows import known_fields
from xbatch.rows.request import CHAT

FUNCTION = {"name": "f", "description": "d", "parameters": {}, "strict": True, "defer_loading": False}
SCHEMA = {"name": "s", "description": "d", "schema": {}, "strict": True}
BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hi"}],
    "tools": [{"type": "function", "function": FUNCTION | {"paramters": {}}, "defer_loading": False, "x": 1}],
    "response_format": {"type": "json_schema", "json_schema": SCHEMA | {"shema": {}}, "y": 1},
    "temprature": 1,
}
ASK = """
import dataclasses, json, sys
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.sampling_params import StructuredOutputsParams

def known(model):
    return [*model.model_fields, *(field.alias for field in model.model_fields.values() if field.alias)]

made = ChatCompletionRequest.model_validate(json.load(sys.stdin))
(tool,), wanted = made.tools, made.response_format
print(json.dumps({
    "chat": known(ChatCompletionRequest),
    "completions": known(CompletionRequest),
    "structured": [field.name for field in dataclasses.fields(StructuredOutputsParams) if field.init],
    "top": [*made.model_extra],
    "inside": [
        *(f"response_format.{name}" for name in wanted.model_extra),
        *(f"response_format.json_schema.{name}" for name in wanted.json_schema.model_extra),
        *(f"tools[].{name}" for name in tool.model_extra),
        *(f"tools[].function.{name}" for name in tool.function.model_extra),
    ],
}))
"""
"""Prints what vLLM knows, and what it passes over in the body that it reads."""


@pytest.fixture(scope="module")
def vllm_says() -> dict[str, list[str]]:
    command = [sys.executable, "-W", "ignore", "-c", ASK]
    done = subprocess.run(command, input=json.dumps(BODY), capture_output=True, text=True, check=True)
    said: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_fields_of_the_installed_version(vllm_says: dict[str, list[str]]) -> None:
    """vLLM's request models know just the fields that are listed, aliases included."""
    assert set(vllm_says["chat"]) == known_fields.CHAT_FIELDS
    assert set(vllm_says["completions"]) == known_fields.COMPLETION_FIELDS
    assert set(vllm_says["structured"]) == known_fields.STRUCTURED_OUTPUTS_FIELDS


def test_what_is_ignored(vllm_says: dict[str, list[str]]) -> None:
    """What is called ignored is an extra field of vLLM's models, at the top and deeper, and no known one is."""
    assert list(known_fields.ignored_fields(BODY, CHAT)) == vllm_says["top"] == ["temprature"]
    assert set(known_fields.ignored_inside(BODY)) == set(vllm_says["inside"])


def test_vllm_refuses_what_is_called_refused(tmp_path: Path) -> None:
    """vLLM refuses just the rows of which xbatch says so without asking it, and none for an ignored field."""
    write(tmp_path / "in.jsonl", *(body for body, _ in NEEDS), *FIVE)
    done = xbatch(tmp_path, "validate", "in.jsonl", "--tokens", "--json", "--max-model-len", "1024")
    *problems, totals = map(json.loads, done.stdout.splitlines())
    expected = [line for line, (_, need) in enumerate(NEEDS, 1) if need is not None]
    assert [problem["line"] for problem in problems] == expected, done.stderr
    assert f"vLLM will refuse {len(expected)} rows" in done.stderr
    assert [each["name"] for each in totals["ignored_fields"]][-1] == "temprature"


def test_a_model_that_can_answer_no_row_is_not_loaded(tmp_path: Path) -> None:
    """Chats for a model without a chat template end with exit 2 and the flag that helps, and leave nothing behind."""
    model = tmp_path / "bare"
    shutil.copytree(MODEL_PATH, model, ignore=shutil.ignore_patterns("chat_template*"))
    write(tmp_path / "in.jsonl", chat(), IMAGE)
    done = xbatch(tmp_path, "run", "in.jsonl", "--model", "./bare", "--served-model-name", "demo")
    assert done.returncode == 2, done.stderr
    assert "every row asks for a chat" in done.stderr
    assert "--chat-template" in done.stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bare", "in.jsonl"]
