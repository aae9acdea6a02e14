"""What `xbatch validate --json` tells: a line for each problem, and one with the totals at the end."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, RootModel

Count = Annotated[int, Field(ge=0)]


class _Told(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class ProblemLine(_Told):
    """One thing that is wrong with one row."""

    file: str
    line: Annotated[int, Field(ge=1)]
    """Number of the line, or of the row of a table."""
    custom_id: str | None
    """None where it is not known."""
    code: str
    """Such as `invalid_json_line`, `unknown_row_shape`, `duplicate_custom_id`, `invalid_request`, `model_not_found`."""
    message: str
    param: str | None
    """The field of the body that is wrong, where one is."""
    status_code: int | None
    """What the API would answer; None for a row that can't be sent to it."""


class ModelRows(_Told):
    """Rows that name one model."""

    name: str | None
    """None for rows that name none."""
    rows: Count


class IgnoredField(_Told):
    """A field of bodies that vLLM does not know and ignores."""

    name: str
    """With its path: `guided_choice`, `response_format.schema`."""
    rows: Count
    """Rows that have it."""
    first_place: str
    hint: str | None
    """What to write instead, where that is known."""


class TokenTotals(_Told):
    """Tokens of all rows that can be sent."""

    prompts: Count
    prompt_tokens: Count
    shortest_prompt: Count
    median_prompt: Count
    p95_prompt: Count
    longest_prompt: Count
    max_completion_tokens: Count
    """So many tokens the answers have at most."""
    shared_prefix_tokens: Count
    """Tokens with which a prompt begins as an earlier one begins, in whole blocks of 16."""


class Totals(_Told):
    """The last line."""

    rows: Count
    failed: Count
    """Rows that can't be sent, or would be refused."""
    problems: dict[str, Count]
    """All of them by their code, also those that were not shown."""
    models: list[ModelRows]
    endpoints: dict[str, Count]
    repeated_requests: Count
    """Rows that ask at temperature 0 what an earlier row asks."""
    files: Count
    num_bytes: Count
    """Of all rows, uncompressed."""
    blank_lines: Count
    ignored_fields: list[IgnoredField]
    """Fields that vLLM does not know and ignores, without those that change no answer anyway."""
    tokens: TokenTotals | None
    """None without `--tokens`."""
    refused: list[str]
    """Why the job as a whole can't be run."""


class ValidationLine(RootModel[ProblemLine | Totals]):
    """A line of `xbatch validate --json`."""
