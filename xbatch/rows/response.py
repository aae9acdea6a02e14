"""From an outcome to the line that stands for the row in the output."""

from hashlib import blake2b
from typing import Literal, TypeAlias

import msgspec

from xbatch.rows.outcome import Completion, Outcome

ResponseFormat: TypeAlias = Literal["batch", "body"]
"""`batch`: OpenAI's batch output lines. `body`: the bare response objects."""


def row_digest(job_id: str, index: int) -> str:
    """Name a row of a job by 24 hex digits that are the same on every attempt."""
    return blake2b(f"{job_id}|{index}".encode(), digest_size=12).hexdigest()


def response_line(job_id: str, index: int, custom_id: str, outcome: Outcome, form: ResponseFormat) -> bytes:
    """Write a row's response as one line of JSON, without the line end.

    Format: the output lines of OpenAI's Batch API; `error` also tells whether trying again could help.
    """
    if form == "body":
        return outcome.body or msgspec.json.encode({"error": _error(outcome)})
    digest = row_digest(job_id, index)
    line = {
        "id": f"batch_req_{digest}",
        "custom_id": custom_id,
        "response": _response(digest, outcome),
        "error": _error(outcome),
    }
    return msgspec.json.encode(line)


def repeated(job_id: str, index: int, outcome: Outcome) -> Outcome:
    """The outcome of another row that has asked for just the same, as this row's: a body has an id of its own."""
    if not isinstance(outcome, Completion):
        return outcome
    body = msgspec.json.decode(outcome.body, type=dict[str, msgspec.Raw])
    kind, dash, _ = msgspec.json.decode(body["id"], type=str).partition("-")
    body["id"] = msgspec.Raw(msgspec.json.encode(f"{kind}{dash}{row_digest(job_id, index)}"))
    return Completion(msgspec.json.encode(body), outcome.usage)


def _response(digest: str, outcome: Outcome) -> dict[str, object] | None:
    if outcome.body is None:
        return None
    status_code = 200 if isinstance(outcome, Completion) else outcome.status_code
    return {"status_code": status_code, "request_id": f"req_{digest}", "body": msgspec.Raw(outcome.body)}


def _error(outcome: Outcome) -> dict[str, object] | None:
    if isinstance(outcome, Completion) or outcome.body is not None:
        return None
    return {"code": outcome.code, "message": outcome.message, "retryable": outcome.retryable}
