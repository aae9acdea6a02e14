"""Fields of request bodies that vLLM knows; its server ignores all others without a word.

Source: the fields of vLLM 0.32's ChatCompletionRequest and CompletionRequest and of what they hold. They are listed
here so that nothing has to import vLLM; `tests/test_vllm_known_fields.py` compares them with the installed version.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from xbatch.rows.request import CHAT, COMPLETIONS

_BOTH = frozenset(
    (
        *("add_special_tokens", "allowed_token_ids", "bad_words", "cache_salt", "ec_transfer_params", "echo"),
        *("frequency_penalty", "ignore_eos", "include_stop_str_in_output", "kv_transfer_params", "length_penalty"),
        *("logit_bias", "logprob_token_ids", "logprobs", "max_tokens", "min_p", "min_tokens", "mm_payload", "model"),
        *("n", "presence_penalty", "priority", "prompt_logprobs", "repetition_detection", "repetition_penalty"),
        *("request_id", "response_format", "return_mm_kwargs", "return_token_ids", "return_token_offsets"),
        *("return_tokens_as_token_ids", "routed_experts_prompt_start", "seed", "session_id", "skip_special_tokens"),
        *("spaces_between_special_tokens", "stop", "stop_token_ids", "stream", "stream_interval", "stream_options"),
        *("structured_outputs", "temperature", "thinking_token_budget", "top_k", "top_p", "truncate_prompt_tokens"),
        *("truncation_side", "use_beam_search", "user", "vllm_xargs", "watermarking"),
    )
)
CHAT_FIELDS = _BOTH | frozenset(
    (
        *("add_generation_prompt", "chat_template", "chat_template_kwargs", "continue_final_message", "documents"),
        *("include_reasoning", "max_completion_tokens", "media_io_kwargs", "messages", "mm_processor_kwargs"),
        *("parallel_tool_calls", "reasoning_effort", "return_prompt_text", "tool_choice", "tools", "top_logprobs"),
    )
)
COMPLETION_FIELDS = _BOTH | {"prompt", "prompt_embeds", "suffix"}
RESPONSE_FORMAT_FIELDS = frozenset({"type", "json_schema", "structures", "triggers", "format"})
JSON_SCHEMA_FIELDS = frozenset({"name", "description", "schema", "json_schema", "strict"})
STRUCTURED_OUTPUTS_FIELDS = frozenset(
    (
        *("json", "regex", "choice", "grammar", "json_object", "disable_any_whitespace"),
        *("disable_additional_properties", "whitespace_pattern", "structural_tag"),
    )
)
TOOL_FIELDS = frozenset({"type", "function", "defer_loading"})
FUNCTION_FIELDS = frozenset({"name", "description", "parameters", "strict", "defer_loading"})
MESSAGE_FIELDS = frozenset(
    (
        *("role", "content", "name", "tool_call_id", "tool_calls", "reasoning", "reasoning_content", "tools", "task"),
        *("refusal", "audio", "function_call"),
    )
)

HARMLESS = frozenset(
    (
        *("store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
        *("prompt_cache_options", "cache_control", "timeout", "extra_headers", "extra_query", "custom_id"),
    )
)
"""Fields that change no answer, neither at OpenAI nor in its client, so nobody misses them where they are ignored."""

NOT_MISSED = {CHAT: CHAT_FIELDS | HARMLESS, COMPLETIONS: COMPLETION_FIELDS | HARMLESS}
"""By endpoint, fields at the top of a body that vLLM knows, or that nobody misses."""

_RENAMED = "vLLM calls it {}"
_TEMPLATE_KWARG = "put it into chat_template_kwargs"
_NOW = "now {}"
_HINTS = {
    "guided_choice": _NOW.format("structured_outputs.choice"),
    "guided_json": _NOW.format("structured_outputs.json"),
    "guided_regex": _NOW.format("structured_outputs.regex"),
    "guided_grammar": _NOW.format("structured_outputs.grammar"),
    "guided_whitespace_pattern": _NOW.format("structured_outputs.whitespace_pattern"),
    "guided_decoding_backend": "now vLLM's setting structured_outputs_config",
    "extra_body": "put its fields into the body",
    "options": "put its fields into the body",
    "sampling_params": "put its fields into the body",
    "generation_config": "put its fields into the body",
    "enable_thinking": _TEMPLATE_KWARG,
    "thinking": _TEMPLATE_KWARG,
    "chat_template_args": _RENAMED.format("chat_template_kwargs"),
    "thinking_budget": _RENAMED.format("thinking_token_budget"),
    "reasoning": _RENAMED.format("reasoning_effort"),
    "system": "make it a message whose role is system",
    "instructions": "make it a message whose role is system",
    "functions": _NOW.format("tools"),
    "function_call": _NOW.format("tool_choice"),
    "input": _RENAMED.format("messages"),
    "json_schema": _RENAMED.format("response_format"),
    "format": _RENAMED.format("response_format"),
    "grammar": _RENAMED.format("structured_outputs.grammar"),
    "regex": _RENAMED.format("structured_outputs.regex"),
    "stop_sequences": _RENAMED.format("stop"),
    "max_output_tokens": _RENAMED.format("max_tokens"),
    "max_new_tokens": _RENAMED.format("max_tokens"),
    "max_length": _RENAMED.format("max_tokens"),
    "max_completion_tokens": _RENAMED.format("max_tokens"),
    "n_predict": _RENAMED.format("max_tokens"),
    "num_predict": _RENAMED.format("max_tokens"),
    "min_new_tokens": _RENAMED.format("min_tokens"),
    "repeat_penalty": _RENAMED.format("repetition_penalty"),
    "num_return_sequences": _RENAMED.format("n"),
    "best_of": "vLLM has none; n asks for several answers",
    "num_beams": "use_beam_search with n as its width",
    "do_sample": "temperature 0 switches sampling off",
    "random_seed": _RENAMED.format("seed"),
    "top_logprobs": _RENAMED.format("logprobs"),
    "response_format.schema": "put it into response_format.json_schema.schema, with type json_schema",
    "tools[].function.input_schema": _RENAMED.format("parameters"),
}
"""What to write instead of fields that other versions, servers and clients know."""


def ignored_fields(body: dict[str, Any], endpoint: str) -> Iterator[str]:
    """Yield the names of a body's fields at its top that vLLM ignores and that might change its answer.

    A field that is null says nothing and is passed over.
    """
    known = NOT_MISSED[endpoint]
    if not body.keys() <= known:
        for name, value in body.items():
            if value is not None and name not in known:
                yield name


def ignored_inside(body: dict[str, Any]) -> Iterator[str]:
    """Yield the names of ignored fields that stand deeper in a body, each with its path."""
    if type(wanted := body.get("response_format")) is dict:
        yield from _unknown(wanted, RESPONSE_FORMAT_FIELDS, "response_format.")
        if type(schema := wanted.get("json_schema")) is dict:
            yield from _unknown(schema, JSON_SCHEMA_FIELDS, "response_format.json_schema.")
    if type(wanted := body.get("structured_outputs")) is dict:
        yield from _unknown(wanted, STRUCTURED_OUTPUTS_FIELDS, "structured_outputs.")
    if type(tools := body.get("tools")) is list:
        yield from dict.fromkeys(name for tool in tools if type(tool) is dict for name in _inside_tool(tool))


def ignored_in_messages(messages: Any) -> Iterator[str]:
    """Yield the names of ignored fields of messages that have no content, which their fields seem to hold."""
    if type(messages) is list:
        for message in messages:
            if type(message) is dict and "content" not in message:
                yield from _unknown(message, MESSAGE_FIELDS, "messages[].")


def hint(name: str, endpoint: str) -> str | None:
    """Tell what to write instead of an ignored field, None if that is anybody's guess."""
    if endpoint == CHAT and name == "prompt":
        return "a row with url /v1/completions takes it"
    if endpoint != CHAT and name in CHAT_FIELDS and name not in _HINTS:
        return "a row with url /v1/chat/completions takes it"
    if (known := _HINTS.get(name)) is not None:
        return known
    path, _, last = name.rpartition(".")
    close = get_close_matches(
        last, _SIBLINGS.get(path, CHAT_FIELDS if endpoint == CHAT else COMPLETION_FIELDS), 1, 0.75
    )
    return f"did you mean {close[0]}?" if close else None


_SIBLINGS = {
    "response_format": RESPONSE_FORMAT_FIELDS,
    "response_format.json_schema": JSON_SCHEMA_FIELDS,
    "structured_outputs": STRUCTURED_OUTPUTS_FIELDS,
    "tools[]": TOOL_FIELDS,
    "tools[].function": FUNCTION_FIELDS,
    "messages[]": MESSAGE_FIELDS,
}
"""Known fields by the path of what holds them."""


def _inside_tool(tool: dict[str, Any]) -> Iterator[str]:
    yield from _unknown(tool, TOOL_FIELDS, "tools[].")
    if type(function := tool.get("function")) is dict:
        yield from _unknown(function, FUNCTION_FIELDS, "tools[].function.")


def _unknown(value: dict[str, Any], known: frozenset[str], path: str) -> Iterator[str]:
    if not value.keys() <= known:
        for name, each in value.items():
            if name not in known and name not in HARMLESS and each is not None:
                yield path + name
