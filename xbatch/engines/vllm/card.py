"""What a model is and can do, from its configuration, its tokenizer and the settings of the engine."""

import contextlib
from argparse import Namespace
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
from vllm.renderers.hf import resolve_chat_template
from vllm.tokenizers import cached_tokenizer_from_config

from xbatch.engines import ModelCard
from xbatch.engines.vllm.versions import load_chat_template
from xbatch.engines.vllm.weights import count_parameters
from xbatch.rows.needs import CHATS, MEDIA

_USUAL_TOKENIZERS = ("auto", "hf", "slow")


def make_card(args: Namespace, config: Any) -> ModelCard:
    """Describe the model that an engine of these settings serves."""
    model = config.model_config
    template, has_none = _chat_template(args, model)
    abilities = ["generate"]
    if template is not None:
        abilities.append("chat")
        if args.tool_call_parser and "tools" in _variables(template):
            abilities.append("tools")
        if args.structured_outputs_config.reasoning_parser:
            abilities.append("reasoning")
    if model.is_multimodal_model:
        abilities.append("vision")
    unable = ([CHATS] if has_none else []) + ([] if model.is_multimodal_model else [MEDIA])
    return ModelCard(
        abilities=tuple(abilities),
        context_tokens=model.max_model_len,
        parameters=count_parameters(Path(model.model)),
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=model.quantization,
        revision=model.revision,
        adapters=tuple(each.name for each in args.lora_modules or ()),
        unable=tuple(unable),
    )


def _chat_template(args: Namespace, model: Any) -> tuple[str | None, bool]:
    """Return a model's chat template, None if none is known, and whether it surely has none.

    Only a tokenizer of Hugging Face's needs a template: models with one of their own are left to vLLM.
    """
    given: str | None = load_chat_template(args.chat_template)
    has_none = False
    with contextlib.suppress(Exception):  # tokenizers that bring no template of Jinja2 say so in ways of their own
        tokenizer = cached_tokenizer_from_config(model)
        given = resolve_chat_template(tokenizer, given, None, model_config=model)
        is_usual = model.tokenizer_mode in _USUAL_TOKENIZERS and "Mistral" not in type(tokenizer).__name__
        has_none = given is None and is_usual and model.hf_config.model_type != "gpt_oss"
    return given, has_none and not args.trust_request_chat_template


def _variables(template: str) -> set[str]:
    with contextlib.suppress(jinja2.TemplateError):
        return set(jinja2.meta.find_undeclared_variables(jinja2.Environment(autoescape=False).parse(template)))  # noqa: S701 - nothing is rendered
    return set()
