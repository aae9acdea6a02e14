"""Rows in the shape of something else than a request: what they are, and how to make requests of them."""

from typing import Any

_SHOWN = 8
_LONGEST = 40
_TEXTS = ("text", "question", "instruction", "query", "input", "content")


def describe(value: dict[str, Any], what: str) -> str:
    """Say why an object is no request's body, which keys it has, and where its shape is known, what to do."""
    known = _known(value)
    return f'{what} has neither "messages" nor "prompt" (it has: {keys_of(value)}){f"; {known}" if known else ""}'


def keys_of(value: dict[str, Any]) -> str:
    """Name an object's keys, the first of many."""
    if not value:
        return "no keys"
    names = [key if len(key) <= _LONGEST else f"{key[:_LONGEST]}..." for key in list(value)[:_SHOWN]]
    more = f" and {len(value) - _SHOWN:,} more" if len(value) > _SHOWN else ""
    return ", ".join(name if name.isprintable() else repr(name) for name in names) + more


def _known(value: dict[str, Any]) -> str | None:
    """Say what an object of a known shape is; None for any other."""
    if "response" in value and "error" in value:
        return "it is a line of a batch's output, not of its input"
    if "choices" in value:
        return "it is an answer, not a request"
    for fits, text in (
        (_holds(value, "params"), 'it is a row of Anthropic\'s batches: write "body" for "params" and add "url"'),
        (_holds(value, "request"), "it is a row of Gemini's batches: write its contents as messages"),
        ("contents" in value, "it is a request of Gemini's: write its contents as messages"),
        (_holds(value, "modelInput"), 'it is a row of Bedrock\'s batches: write "body" for "modelInput" and add "url"'),
        (_is_sharegpt(value), "it is a ShareGPT conversation: write role and content for from and value, as messages"),
        (isinstance(value.get("data"), list), "it holds a list of rows: jq -c '.data[]' takes them out"),
        (isinstance(value.get("requests"), list), "it holds a list of rows: jq -c '.requests[]' takes them out"),
        ("input" in value and "model" in value, "it is a request of OpenAI's /v1/responses or /v1/embeddings"),
    ):
        if fits:
            return text
    column = next((name for name in _TEXTS if isinstance(value.get(name), str)), None)
    return f"--prompt '{{{{ {column} }}}}' makes a request of each" if column else None


def _holds(value: dict[str, Any], key: str) -> bool:
    return isinstance(value.get(key), dict)


def _is_sharegpt(value: dict[str, Any]) -> bool:
    turns = value.get("conversations")
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and "from" in turns[0]
