"""OpenAI's batch object, and what is sent to have one made."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from xbatch.serve.batches import BatchStatus, Standing
from xbatch.serve.filing import LIFETIME_S
from xbatch.state.records import Counts


class OutputExpiresAfter(BaseModel):
    """When the files that a batch makes are removed."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=LIFETIME_S[0], le=LIFETIME_S[1])]


class CreateBatch(BaseModel):
    """What is asked for."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: OutputExpiresAfter | None = None


class BatchError(BaseModel):
    """What is wrong with a line of the input."""

    code: str
    message: str
    line: int | None
    param: str | None


class BatchErrors(BaseModel):
    """What is wrong with the input."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(BaseModel):
    """Rows of a batch."""

    total: int
    completed: int
    failed: int


class InputTokensDetails(BaseModel):
    """Of the tokens of prompts."""

    cached_tokens: int = 0


class OutputTokensDetails(BaseModel):
    """Of the tokens of answers."""

    reasoning_tokens: int = 0


class BatchUsage(BaseModel):
    """Tokens that a batch has cost."""

    input_tokens: int
    input_tokens_details: InputTokensDetails = InputTokensDetails()
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class BatchObject(BaseModel):
    """OpenAI's batch object."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None
    usage: BatchUsage

    @classmethod
    def of(cls, standing: Standing, settled: Counts) -> "BatchObject":
        """The object of a batch; `settled` counts rows while it has not ended."""
        asked, begun, ended = standing.asked, standing.begun, standing.ended
        total = begun.total if begun else 0
        rows, tokens = (total, settled.completed, settled.failed), (settled.prompt_tokens, settled.completion_tokens)
        if ended is not None:
            rows, tokens = (ended.total, ended.completed, ended.failed), (ended.input_tokens, ended.output_tokens)
        mistakes = ended.mistakes if ended else []
        told = [BatchError(code=e.code, message=e.message, line=e.line, param=e.param) for e in mistakes]
        facts = {
            "id": asked.id,
            "endpoint": asked.endpoint,
            "model": begun.models[0] if begun and len(begun.models) == 1 else None,
            "errors": BatchErrors(data=told) if told else None,
            "input_file_id": asked.input_file_id,
            "completion_window": asked.completion_window,
            "status": standing.status,
            "output_file_id": ended.output_file_id if ended else None,
            "error_file_id": ended.error_file_id if ended else None,
            "created_at": asked.created_at,
            "expires_at": asked.expires_at,
            "request_counts": dict(zip(("total", "completed", "failed"), rows, strict=True)),
            "metadata": asked.metadata,
            "usage": BatchUsage(input_tokens=tokens[0], output_tokens=tokens[1], total_tokens=sum(tokens)),
        }
        return cls.model_validate(facts | _times(standing))


class BatchList(BaseModel):
    """A page of batches."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    has_more: bool
    first_id: str | None
    last_id: str | None


def _times(standing: Standing) -> dict[str, int | None]:
    ended = standing.ended
    happened = {
        "in_progress_at": standing.begun,
        "finalizing_at": standing.finalizing,
        "cancelling_at": standing.cancelling,
        **{f"{status}_at": None for status in ("completed", "failed", "expired", "cancelled")},
    }
    times = {name: event.at if event else None for name, event in happened.items()}
    return times | ({f"{ended.status}_at": ended.at} if ended else {})
