"""What xbatch tells about a job: while it goes on, and at its end."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from xbatch.schema.validation import IgnoredField

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class _Told(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class RequestCounts(_Told):
    """Rows of a job, in OpenAI's words."""

    total: Count
    completed: Count
    failed: Count
    retryable: Count
    """Of the failed ones those that may succeed when they are tried again."""


class RequestCountsSoFar(RequestCounts):
    """Rows of a job that may still be counted."""

    total: Count | None  # type: ignore[assignment]
    """None until every input was looked at."""


class FailedRows(_Told):
    """Rows that failed for the same reason: their messages differ at most in numbers and quoted values."""

    code: str
    """The status that the API answers, such as `400`, or a code of xbatch's own, such as `invalid_json_line`."""
    status_code: int | None
    """None for rows that never got as far as the API."""
    message: str
    """Of the first of them, cut if it is long."""
    rows: Count
    retryable: bool
    """They may succeed when they are tried again."""
    file: str | None
    """The input of the first of them."""
    line: int | None
    """The number of its line, or of the row of a table, from 1; None where an earlier version did not keep it."""
    custom_id: str | None
    """Of the first of them; None with `--format body`."""
    advice: str
    """What helps."""


class Usage(_Told):
    """Tokens of all rows that have a response."""

    prompt_tokens: Count
    completion_tokens: Count


class Output(_Told):
    """A file of the output."""

    uri: str
    rows: Count
    num_bytes: Count
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Shards(_Told):
    """Shards of a job."""

    total: Count
    done: Count


class Progress(_Told):
    """How far a worker has come."""

    rows: Count = 0
    """Rows of the job, as far as they are known."""
    completed: Count = 0
    failed: Count = 0
    in_flight: Count = 0
    rows_per_s: float | None = None
    prompt_tokens_per_s: float | None = None
    completion_tokens_per_s: float | None = None
    eta_s: float | None = None
    """Seconds to go."""


class Worker(_Told):
    """A process that works on a job, or did."""

    worker: str
    host: str
    pid: int
    state: str
    """What it does (`indexing`, `loading`, `running`, `draining`, `writing`), or `gone`."""
    progress: Progress
    heartbeat_age_s: Seconds
    alive: bool


class Status(_Told):
    """`xbatch status --json`: where a job stands."""

    job: str
    """Names the job."""
    created: str
    """ISO 8601."""
    model: str | None
    state: str
    """Where the state lies."""
    status: Literal["complete", "running", "interrupted"]
    request_counts: RequestCountsSoFar
    failures: list[FailedRows]
    """Why rows failed, the most frequent reason first; a row that was run again counts by its last response."""
    other_failures: Count
    """Failed rows beyond those reasons."""
    usage: Usage
    shards: Shards
    open_rows: Count
    """Rows with a response whose shard is not done."""
    rounds: Count
    """How often failed rows were run again."""
    rows_per_s: float | None
    """None if nobody works on it, and until a rate was measured."""
    eta_s: float | None
    """Seconds to go, where that is known."""
    outputs: list[Output]
    """Empty until the job is complete."""
    workers: list[Worker]


class ThisRun(_Told):
    """What the run that completed the job has done."""

    rows: Count
    repeated: Count
    """Of these rows, those that were answered by another row's answer: they had asked for just the same."""
    prompt_tokens: Count
    completion_tokens: Count


class Report(_Told):
    """`report.json`: a job's totals; its presence means that the job is complete."""

    job: str
    """Names the job."""
    model: str | None
    request_counts: RequestCounts
    failures: list[FailedRows] = []
    """Why rows failed, the most frequent reason first; reports of earlier versions don't say it."""
    other_failures: Count = 0
    """Failed rows beyond those reasons."""
    usage: Usage
    this_run: ThisRun
    rounds: Count
    """How often failed rows were run again."""
    blank_lines: Count
    ignored_fields: list[IgnoredField] = []
    """Fields of bodies that vLLM does not know and ignores; reports of earlier versions do not have them."""
    running_s: Seconds
    """Time in which rows were answered."""
    elapsed_s: Seconds
    """Time from the start of the run."""
    all_reasoning: Count = 0
    """Answers that have reasoning and no text, most often because `max_tokens` ended them before."""
    state: str | None
    """Where the state lies."""
    engine: str | None
    """The engine and the settings that were chosen for it; None if it was not needed."""
    engine_log: str | None
    output_settings: dict[str, Any]
    """Settings of the output that change what is in it, and no answer."""
    outputs: list[Output]
