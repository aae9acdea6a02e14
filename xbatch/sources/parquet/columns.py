"""Which columns of a table make the requests."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import types

from xbatch.errors import UsageError
from xbatch.rows.suggest import did_you_mean, listed

CUSTOM_ID = "custom_id"
BODY = "body"
PROMPTS = ("messages", "prompt")

_BESIDE_BODY = (CUSTOM_ID, "method", "url")
_STRUCTURES = frozenset(
    (
        *("messages", "response_format", "tools", "logit_bias", "stop_token_ids", "allowed_token_ids", "bad_words"),
        *("logprob_token_ids", "chat_template_kwargs", "mm_processor_kwargs", "media_io_kwargs", "structured_outputs"),
        *("repetition_detection", "vllm_xargs"),
    )
)
"""Fields of a body that are objects or arrays: a text in their column is JSON."""
_PLAIN = frozenset(
    (
        *("model", "frequency_penalty", "logprobs", "top_logprobs", "max_tokens", "max_completion_tokens", "n"),
        *("presence_penalty", "seed", "stop", "temperature", "top_p", "tool_choice", "reasoning_effort"),
        *("thinking_token_budget", "include_reasoning", "parallel_tool_calls", "use_beam_search", "top_k", "min_p"),
        *("repetition_penalty", "length_penalty", "include_stop_str_in_output", "ignore_eos", "min_tokens", "echo"),
        *("skip_special_tokens", "spaces_between_special_tokens", "truncate_prompt_tokens", "truncation_side"),
        *("prompt_logprobs", "add_generation_prompt", "continue_final_message", "add_special_tokens"),
        *("chat_template", "return_tokens_as_token_ids", "return_token_ids"),
    )
)
"""Fields of a body that change the answer, by OpenAI's and vLLM's names.

Left out is what does not (`user`, `metadata`, `priority`), for such a column is data more often than a setting.
"""
SAMPLING = _STRUCTURES | _PLAIN
_EXPECTED = (
    "a column body (struct, map or JSON text), or messages (list of structs, or JSON text) or prompt (text or list) "
    "with columns such as max_tokens and temperature, or a template for the request"
)


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of a table are for, by name, in the table's order."""

    request: list[str]
    """Those that make a row's object."""
    carried: list[str]
    """Those that go to the output as they are."""
    json_text: frozenset[str]
    """Those of `request` whose texts are JSON."""
    templated: bool
    """A template makes the requests, from whatever the columns hold, nulls included."""

    @property
    def settings(self) -> list[str]:
        """Those of `request` that say how rows are answered, not what they ask, because of their names alone."""
        return [] if self.templated else [name for name in self.request if name in SAMPLING - {*PROMPTS}]


def choose_columns(
    schema: pa.Schema,
    template_columns: frozenset[str] | None,
    *,
    template_names_rows: bool = False,
    required: frozenset[str] = frozenset(),
) -> Columns:
    """Decide what each column is for.

    With a template, those that it looks at make the row and all but `custom_id` are carried: they are data. So is
    `custom_id` if the template gives the rows others. `required` are those without which every row would fail. Raises
    UsageError if one of them is missing or the columns make no request; its text follows the name of the file.
    """
    if twice := _twice(schema.names, [field.type for field in schema]):
        raise UsageError(f"has the column {twice} twice")
    if missing := sorted(required - {*schema.names}):
        guess = did_you_mean(missing[0], schema.names)
        raise UsageError(
            f"has no column {missing[0]!r}, which the template uses{guess}; it has: {listed(schema.names)}"
        )
    if template_columns is not None:
        wanted = {*(template_columns or schema.names), CUSTOM_ID}
        request = [name for name in schema.names if name in wanted]
        carried = [name for name in schema.names if name != CUSTOM_ID or template_names_rows]
        columns = Columns(request, carried, frozenset(), templated=True)
    else:
        wanted = _wanted(schema)
        request = [name for name in schema.names if name in wanted]
        carried = [name for name in schema.names if name not in wanted]
        json_text = frozenset(n for n in request if n in _STRUCTURES | {BODY} and is_text(schema.field(n).type))
        columns = Columns(request, carried, json_text, templated=False)
    if CUSTOM_ID in request and not _is_id(kind := plain(schema.field(CUSTOM_ID).type)):
        raise UsageError(f"has a column custom_id of type {kind}; it must be text or whole numbers")
    return columns


def plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values themselves, whatever they are coded or called as."""
    while types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType):
        kind = kind.value_type if types.is_dictionary(kind) else kind.storage_type
    return kind


def is_text(kind: pa.DataType) -> bool:
    """Whether values are text, or bytes that may hold some."""
    kind = plain(kind)
    return any(is_kind(kind) for is_kind in (_is_string, is_bytes))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether values are bytes."""
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether values are lists, but no maps."""
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_string(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_id(kind: pa.DataType) -> bool:
    return is_text(kind) or types.is_integer(kind) or types.is_null(kind) or types.is_fixed_size_binary(kind)


def _wanted(schema: pa.Schema) -> set[str]:
    """Names of the columns that make requests without a template."""
    kinds = {field.name: plain(field.type) for field in schema}
    fits: dict[str, Callable[[pa.DataType], bool]] = {
        BODY: lambda kind: types.is_struct(kind) or types.is_map(kind) or is_text(kind),
        "messages": lambda kind: is_list(kind) or is_text(kind),
        "prompt": lambda kind: is_list(kind) or is_text(kind),
    }
    if any(name in kinds and not (types.is_null(kinds[name]) or fit(kinds[name])) for name, fit in fits.items()):
        raise UsageError(_unfit(schema))
    if BODY in kinds:
        return {BODY, *_BESIDE_BODY}
    if kinds.keys().isdisjoint(PROMPTS):
        raise UsageError(_unfit(schema))
    return {CUSTOM_ID, *PROMPTS, *SAMPLING}


def _unfit(schema: pa.Schema) -> str:
    found = ", ".join(f"{field.name} ({field.type})" for field in schema) or "no columns"
    return f"makes no requests: found {found}; expected {_EXPECTED}"


def _twice(names: Iterable[str], kinds: Iterable[pa.DataType], above: str = "") -> str | None:
    """The first name that stands twice side by side, in the table or in one of its structs."""
    names = list(names)
    for name, times in Counter(names).items():
        if times > 1:
            return f"{above}{name}"
    for name, kind in zip(names, kinds, strict=True):
        below = [kind.field(i) for i in range(kind.num_fields)] if types.is_nested(kind) else []
        # The two halves of a map have no names of their own.
        labels = [field.name for field in below] if not types.is_map(kind) else ["key", "value"]
        below_kinds = [field.type for field in below] if not types.is_map(kind) else [kind.key_type, kind.item_type]
        if found := _twice(labels, below_kinds, f"{above}{name}."):
            return found
    return None
