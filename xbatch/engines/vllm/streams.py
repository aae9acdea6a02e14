"""What vLLM's serving classes stream, without the framing of server-sent events."""

from typing import Any

import msgspec
from starlette.requests import Request as HttpRequest

from xbatch.engines.vllm.refusals import refuse_streamed
from xbatch.rows.outcome import Failure, Usage

_DATA, _DONE = "data: ", "[DONE]"


class Scope:
    """Stands in for the HTTP request that vLLM's serving classes leave their counts with."""

    def __init__(self) -> None:
        self.raw_request = HttpRequest({"type": "http", "headers": []})

    @property
    def usage(self) -> Usage:
        """Tokens of the whole answer, once it was streamed; nothing if it ended in an error."""
        metadata = getattr(self.raw_request.state, "request_metadata", None)
        counted: Any = getattr(metadata, "final_usage_info", None)
        return Usage(0, 0) if counted is None else Usage(counted.prompt_tokens, counted.completion_tokens or 0)


def piece_of(event: str) -> bytes | Failure | None:
    """The JSON of a chunk, the failure that an event tells, or None for what is framing only.

    Format: server-sent events as vLLM writes them, each one line of `data: `.
    """
    data = event.strip().removeprefix(_DATA)
    if not data or data == _DONE or event.startswith(":"):
        return None
    encoded = data.encode()
    if data.startswith('{"error"'):
        return refuse_streamed(msgspec.json.decode(encoded))
    return encoded
