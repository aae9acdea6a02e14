"""The job specification: everything that a command or a job file says."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)

from xbatch.errors import UsageError
from xbatch.job.deadline import LONGEST_S, seconds, seconds_until
from xbatch.planning.scheduler import LOOK_AHEAD
from xbatch.planning.waiting import Order
from xbatch.rows.response import ResponseFormat
from xbatch.rows.template import RequestTemplate

ENGINE_SECRETS = frozenset(("hf_token", "api_key"))
"""Settings of the engine that are kept and shown nowhere."""
_DAY_S = 86_400
_LARGEST = 1 << 60
"""Bytes that a size may be."""


def _one_or_several(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


def _seconds(given: Any) -> Any:
    return seconds(given) if isinstance(given, str) else given


def _size(given: Any, read: ValidatorFunctionWrapHandler) -> ByteSize:
    try:
        size: ByteSize = read(given)
    except OverflowError:
        size = ByteSize(_LARGEST + 1)
    if not 0 < size <= _LARGEST:
        raise ValueError("should be from 1 byte to 1 EiB")
    return size


def _has_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_nul, (*value, *value.values())))
    return any(map(_has_nul, value)) if isinstance(value, list) else isinstance(value, str) and "\0" in value


def _flat(given: Any) -> Any:
    """Options as `--storage-option` has them: nested ones by dotted names, values as texts."""
    if not isinstance(given, dict):
        return given
    flat: dict[str, str] = {}
    for name, value in given.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": each for inner, each in _flat(value).items()}
        else:
            flat[name] = value if isinstance(value, str) else json.dumps(value)
    return flat


OutputFormat: TypeAlias = Literal["jsonl", "jsonl.gz", "jsonl.zst", "parquet"]
EngineName: TypeAlias = Literal["vllm", "fake"]
EngineArg: TypeAlias = str | bool | int | float | list[Any] | dict[str, Any]
Texts: TypeAlias = Annotated[list[str], BeforeValidator(_one_or_several, json_schema_input_type=list[str] | str)]
Inputs: TypeAlias = Annotated[
    list[str],
    BeforeValidator(_one_or_several, json_schema_input_type=Annotated[list[str], Field(min_length=1)] | str),
]
Positive: TypeAlias = Annotated[float, Field(gt=0, le=LONGEST_S, allow_inf_nan=False)]
DurationS: TypeAlias = Annotated[Positive, BeforeValidator(_seconds, json_schema_input_type=str | Positive)]
Size: TypeAlias = Annotated[ByteSize, WrapValidator(_size)]
Options: TypeAlias = Annotated[dict[str, str], BeforeValidator(_flat, json_schema_input_type=dict[str, Any])]


_RETRIED = {"retryable": "retryable", "all": "failed"}
"""What of a report's counts each way to retry takes."""


class JobSpec(BaseModel):
    """One job, as a job file or the command line gives it.

    In a job file every text may hold `${NAME}` or `${NAME:-default}`, which stand for environment variables; `$${` is
    a plain `${`. Relative paths start at the working directory, not at the job file. Flags of the command override
    fields of the file.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, coerce_numbers_to_str=True, title="xbatch job file"
    )

    inputs: Inputs
    """Files, globs, folders or URIs; `-` is standard input."""
    output: str | None = None
    """A file, a folder (ending in `/`), or a stream: `-` for standard output, a named pipe, `/dev/null`.

    Without it, beside the input. A file's name tells its format: `.jsonl` (or `.ndjson`), also with `.gz` or `.zst`, or
    `.parquet`.
    """
    output_format: OutputFormat | None = None
    """Format of the files in a folder, of streams, and of files whose names tell none."""
    errors: str | None = None
    """A file or stream for the failures, in the format that its name tells; without it they stay in their place."""
    state: str | None = None
    """Where the state lies, also in a store; without it beside the output."""
    storage_options: Options = {}
    """Settings for the stores of inputs, outputs and state, by fsspec's names; `s3.anon` is for one sort of store."""
    request: dict[str, Any] | None = None
    """The body of a row's request, each text in it a Jinja2 template over the row's columns.

    A text that is one `{{ expression }}` and nothing else gives the value with its type. `custom_id` in it names the
    row.
    """
    parse: Literal["json"] | None = None
    """`json`: the fields of an answer that is a JSON object become columns of the output."""
    format: ResponseFormat = "batch"
    """`batch`: OpenAI's batch output lines. `body`: the bare response objects."""
    columns: Texts | None = None
    """Columns to write to Parquet output, or with `with_input` to JSONL; without it all of them."""
    with_input: bool = False
    """JSONL output carries the input's columns under `input`."""
    overwrite: bool = False
    """Replace output files that no run of this job has written, which is refused otherwise."""
    max_output_file: Size | None = None
    """Size in bytes, or as `2GiB`, from which on the output goes on in a further file."""
    model: str | None = None
    """A name or folder of a model, or `demo`; without it the one that the rows name."""
    served_model_name: Texts = []
    """Further names under which rows may ask for the model."""
    lora_modules: dict[str, str] = {}
    """Adapters by the name under which rows ask for them."""
    engine: dict[str, EngineArg] = {}
    """Settings of the engine by vLLM's names. `name: fake` chooses an engine without a model, for tests."""
    order: Order = "auto"
    """The order in which rows run: that of the `input`, those together that begin alike (`prefix`), or whichever costs
    less."""
    look_ahead: Size = ByteSize(LOOK_AHEAD)
    """Memory for rows that are read and wait, in bytes, or as `256MiB`: the order is chosen among them."""
    dedupe: bool = True
    """Rows that are sure to get the same answer are asked once: those alike at temperature 0, or with a seed."""
    max_failures: Annotated[str, Field(pattern=r"^\d+(\.\d+)?%$|^\d+$")] = "0"
    """Failed rows that still count as success: a number or a share such as `1%`."""
    max_line_bytes: Annotated[int, Field(ge=1, le=1 << 31)] = 64 << 20
    """Longest row that is read."""
    max_engine_restarts: Annotated[int, Field(ge=0, le=1_000_000)] = 20
    """Restarts of an engine that dies time and again without a row settled in between."""
    request_timeout: DurationS | None = None
    """Seconds, or as `5m`, that a row may take in the engine before it fails."""
    deadline: str | None = None
    """When the job stops, to be resumed: a time span such as `90m`, a time of day such as `06:00`, a date and time."""
    drain_s: Annotated[float, Field(ge=0, le=_DAY_S, allow_inf_nan=False)] = 20.0
    """Seconds that rows in flight get when the job is stopped."""
    storage_timeout: DurationS = 900.0
    """Seconds, or as `15m`, that a store may leave without an answer before the job stops, to be resumed."""
    spool_limit: Size = ByteSize(20 << 30)
    """Settled rows that wait for a store that does not answer: so much is kept on this machine, then none is asked."""
    commit_interval_s: Annotated[float, Field(ge=0.01, le=_DAY_S, allow_inf_nan=False)] = 15.0
    """Settled rows become a segment after so many seconds at the latest."""
    lease_s: Annotated[float, Field(ge=0.1, le=_DAY_S, allow_inf_nan=False)] = 60.0
    """After so many seconds without a heartbeat another machine may take the job over."""
    shard_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """Rows of a shard, the unit of handing out and of resume."""
    restart: bool = False
    """Throw away what an earlier run has left and begin anew."""
    extend: bool = False
    """Inputs that the job does not have yet become part of it."""
    accept_change: Texts = []
    """Fields of the job's identity that may have changed."""
    retry_failed: Literal["retryable", "all"] | None = None
    """Once every row has a response, run failed rows again."""

    @field_validator("output", "errors", "state", "model", "deadline", mode="before")
    @classmethod
    def _empty_is_none(cls, given: Any) -> Any:
        return None if given == "" else given  # a variable with an empty default

    @field_validator("inputs")
    @classmethod
    def _are_some(cls, given: list[str]) -> list[str]:
        if not given:
            raise ValueError("give files, globs, folders or URIs")
        if not all(map(str.strip, given)):
            raise ValueError("an input has an empty name: a variable may not be set")
        return given

    @field_validator("inputs", "output", "errors", "state", "model", "lora_modules", "storage_options", "engine")
    @classmethod
    def _has_no_nul(cls, given: Any) -> Any:
        if _has_nul(given):
            raise ValueError("holds a NUL character, which no name can have")
        return given

    @field_validator("model", "served_model_name", "lora_modules", "storage_options", "engine", "request", "columns")
    @classmethod
    def _is_text(cls, given: Any) -> Any:
        try:
            json.dumps(given, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("holds bytes that are no text in UTF-8") from None
        return given

    @field_validator("max_failures")
    @classmethod
    def _is_a_share(cls, given: str) -> str:
        if given.endswith("%") and float(given[:-1]) > 100:
            raise ValueError("should be a number or a share from 0% to 100%")
        return given

    @field_validator("request")
    @classmethod
    def _is_a_template(cls, given: dict[str, Any] | None) -> dict[str, Any] | None:
        if given is None:
            return None
        if not {"messages", "prompt"} & set(given):
            raise ValueError("has neither messages nor prompt")
        try:
            trouble = RequestTemplate(given).use.trouble
        except UsageError as e:
            raise ValueError(str(e)) from e
        if trouble is not None:
            raise ValueError(trouble)
        return given

    @field_validator("deadline")
    @classmethod
    def _is_ahead(cls, given: str | None) -> str | None:
        if given is not None:
            seconds_until(given, datetime.now().astimezone())
        return given

    @field_validator("engine")
    @classmethod
    def _is_known(cls, given: dict[str, EngineArg]) -> dict[str, EngineArg]:
        if given.get("name", "vllm") not in get_args(EngineName):
            raise ValueError(f"there is no engine called {given['name']!r}")
        return {name.lstrip("-").replace("-", "_"): value for name, value in given.items()}

    @property
    def engine_name(self) -> EngineName:
        """The engine that answers."""
        return "fake" if self.engine.get("name") == "fake" else "vllm"

    @property
    def engine_args(self) -> dict[str, Any]:
        """Settings of the engine as texts, or lists of them, as its command line has them."""
        args = {name: _argument(value) for name, value in self.engine.items() if name != "name"}
        if "tool_call_parser" in args:
            args.setdefault("enable_auto_tool_choice", "true")
        return args

    @property
    def answers_schema(self) -> dict[str, Any] | None:
        """The JSON Schema of the answers that are to be parsed, empty if the job does not say it; None if none are."""
        found: Any = self.request
        for key in ("response_format", "json_schema", "schema"):
            found = found.get(key) if isinstance(found, dict) else None
        return (found if isinstance(found, dict) else {}) if self.parse else None

    def wants_retry(self, request_counts: Mapping[str, int]) -> bool:
        """Rows are to be run again, and of a complete job with these counts some are left for it."""
        return self.retry_failed is not None and request_counts[_RETRIED[self.retry_failed]] > 0

    def allowed_failures(self, rows: int) -> float:
        """Failed rows that still count as success, of this many."""
        if self.max_failures.endswith("%"):
            return rows * float(self.max_failures[:-1]) / 100
        return float(self.max_failures)


def _argument(value: EngineArg) -> str | list[str]:
    if isinstance(value, list):
        return [str(_argument(each)) for each in value]
    if isinstance(value, dict):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
