"""What users are told about fields that the engine ignores, and about requests that its settings do not allow."""

import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from xbatch.display import counted
from xbatch.errors import UsageError
from xbatch.job.fingerprint import model_folder
from xbatch.job.spec import JobSpec
from xbatch.planning.body_notes import BodyNotes, Noted
from xbatch.rows import needs
from xbatch.rows.needs import DEFAULT_MAX_LOGPROBS, Allowed

_SHOWN = 12
"""Ignored fields that one sentence names."""
_TRUE = ("true", "1", "yes", "on")
_OF_TOOLS = (
    "tools, for which vLLM needs the parser of the model's calls: "
    "give --tool-call-parser, or set tool_choice to none in the rows"
)
_WORDS = {
    needs.TOOLS: _OF_TOOLS,
    needs.TEMPLATE: "a chat template of their own: give --engine-arg trust_request_chat_template=true to allow it",
    needs.EMBEDS: "prompt_embeds: give --engine-arg enable_prompt_embeds=true to allow them",
    needs.LOGPROBS: "more log probabilities than vLLM allows: raise them by --engine-arg max_logprobs=N",
    needs.LENGTH: "more tokens than --max-model-len allows: raise it, or lower max_tokens in the rows",
}
"""By need, what rows ask for and what to do about it."""
_OF_PARSERS = (needs.TOOLS, needs.TEMPLATE)
"""Needs that models with a format of their own do not have."""
_MODELS_WORDS = {
    needs.CHATS: "a chat, and the model has no chat template: give one by --chat-template, or send prompts",
    needs.MEDIA: "an answer to media, and the model takes texts only: give one that takes them by --model",
}
"""By need, what rows ask for that the model can't do."""


def allowed_by(spec: JobSpec) -> Allowed | None:
    """Return what the settings of a job allow requests to ask for; None where that can't be told.

    The fake engine refuses nothing, and a file that is given to vLLM as `config` may hold any setting.
    """
    args = spec.engine_args
    if spec.engine_name == "fake" or "config" in args:
        return None
    logprobs, length = _whole(args.get("max_logprobs", DEFAULT_MAX_LOGPROBS)), _whole(args.get("max_model_len"))
    return Allowed(
        tools="tool_call_parser" in args,
        templates=_is_true(args.get("trust_request_chat_template")),
        embeds=_is_true(args.get("enable_prompt_embeds")),
        max_logprobs=None if logprobs is None or logprobs < 0 else logprobs,
        max_tokens=length if length is not None and length > 0 else None,
    )


def ignored_sentence(ignored: Iterable[tuple[str, Noted]], rows: int, engine: str) -> str:
    """Say how many rows have fields that the engine ignores, and name those of `ignored`."""
    named = [f"{name if name.isprintable() else repr(name)} ({_about(noted)})" for name, noted in ignored]
    more = f", and {len(named) - _SHOWN:,} more" if len(named) > _SHOWN else ""
    names = f": {', '.join(named[:_SHOWN])}{more}" if named else ""
    return f"{counted(rows, 'row has', 'rows have')} fields that {engine} does not know and ignores{names}"


def check_needs(notes: BodyNotes, sendable: int, model: str, args: Mapping[str, Any]) -> str | None:
    """Say which rows the engine will refuse because its settings do not allow what they ask for; None if none.

    `sendable` rows can be sent at all; `model` is where the model is loaded from. Raises UsageError if that is true of
    every one of them, so that nothing needs to be loaded.
    """
    unmet = {need: noted for need, noted in notes.unmet.items() if need not in _OF_PARSERS or _is_plain(model, args)}
    if not unmet:
        return None
    rows = sum(noted.rows for noted in unmet.values())
    if rows == sendable and len(unmet) == 1:
        need, noted = next(iter(unmet.items()))
        raise UsageError(f"every row asks for {_WORDS[need]} (first: {noted.first_place})")
    told = "; ".join(f"{_rows(noted)} for {_WORDS[need]}" for need, noted in unmet.items())
    if rows == sendable:
        raise UsageError(f"every row asks for something that the settings do not allow: {told}")
    which = "which asks" if rows == 1 else "which ask"
    return f"vLLM will refuse {counted(rows, 'row')}, {which} for what the settings do not allow: {told}"


def check_abilities(notes: BodyNotes, sendable: int, unable: Collection[str]) -> str | None:
    """Say which rows the model itself is `unable` to answer; None if there are none.

    `sendable` rows can be sent at all. Raises UsageError if it is unable to answer every one of them.
    """
    wanting = {needs.MEDIA: notes.media}
    if notes.first_chat is not None:
        wanting[needs.CHATS] = Noted(sendable - notes.completions, notes.first_chat)
    found = {need: noted for need, noted in wanting.items() if noted is not None and need in unable}
    for need, noted in found.items():
        if noted.rows == sendable:
            raise UsageError(f"every row asks for {_MODELS_WORDS[need]} (first: {noted.first_place})")
    told = [f"{_rows(noted)} for {_MODELS_WORDS[need]}" for need, noted in found.items()]
    return f"vLLM will refuse rows that the model can't answer: {'; '.join(told)}" if told else None


def _is_plain(model: str, args: Mapping[str, Any]) -> bool:
    """Tell whether vLLM surely serves a model by a tokenizer and a chat template as most models have them.

    It reads the calls of gpt-oss, and of models with Mistral's tokenizer, without a parser. False also where the
    model's files are not on this machine yet.
    """
    if any(name in args for name in ("tokenizer", "hf_config_path", "config_format")):
        return False
    if args.get("tokenizer_mode", "auto") not in ("auto", "hf", "slow"):
        return False
    folder, config = model_folder(model, args.get("revision")), {}
    if folder is None or (folder / "tekken.json").exists() or any(folder.glob("tokenizer.model.v*")):
        return False
    with suppress(OSError, ValueError):
        config = json.loads((folder / "config.json").read_bytes())
    kind = config.get("model_type") if isinstance(config, dict) else None
    is_whole = Path(model).is_dir()  # of a model in the hub's cache, some files may not have been fetched yet
    return isinstance(kind, str) and kind != "gpt_oss" and (is_whole or "stral" not in kind)


def _about(noted: Noted) -> str:
    where = f"{counted(noted.rows, 'row')}, {'' if noted.rows == 1 else 'first '}{noted.first_place}"
    return where if noted.hint is None else f"{noted.hint}; {where}"


def _rows(noted: Noted) -> str:
    first, ask = ("", "asks") if noted.rows == 1 else ("first ", "ask")
    return f"{counted(noted.rows, 'row')} ({first}{noted.first_place}) {ask}"


def _is_true(value: object) -> bool:
    return str(value).lower() in _TRUE


def _whole(value: object) -> int | None:
    with suppress(ValueError):
        return int(str(value))
    return None
