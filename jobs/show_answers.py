"""Shows requests beside their answers, one pair a line: `python show_answers.py REQUESTS RESPONSES`."""

import json
import sys
from pathlib import Path
from typing import Any


def read(path: str) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def asked(request: dict[str, Any]) -> str:
    """The last message of a chat, or the prompt."""
    body = request.get("body", request)
    return str(body["messages"][-1]["content"] if "messages" in body else body["prompt"])


def told(response: dict[str, Any]) -> str:
    """The text of the first choice, or why there is none."""
    body = (response["response"] or {}).get("body") or {}
    if "choices" not in body:
        return "failed: " + (response["error"] or body["error"])["message"]
    choice = body["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def one_line(text: str) -> str:
    """A text without its line breaks."""
    return " ".join(text.split())


if __name__ == "__main__":
    requests, responses = read(sys.argv[1]), read(sys.argv[2])
    for request, response in zip(requests, responses, strict=True):
        print(f"{one_line(asked(request))}\n    -> {one_line(told(response))}")
