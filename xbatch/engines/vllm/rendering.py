"""Token ids of many prompts at once, as vLLM's renderer makes them one by one."""

import copy
from collections.abc import Sequence
from typing import Any

from vllm.renderers.hf import (
    HfRenderer,
    resolve_chat_template,
    resolve_chat_template_content_format,
    resolve_chat_template_kwargs,
)

from xbatch.engines.vllm.rehearsal import Rendering
from xbatch.engines.vllm.versions import parse_chat_messages


class BatchRenderer:
    """Renders and tokenizes lists of prompts with a tokenizer of its own; from any thread, one at a time.

    Raises TypeError if vLLM renders in another way for this model, or the tokenizer is not one of the `tokenizers`
    library.
    """

    def __init__(self, renderer: Any, model_config: Any) -> None:
        self._model_config = model_config
        self._tokenizer = renderer.get_tokenizer()
        self._renderer = renderer
        backend: Any = getattr(self._tokenizer, "_tokenizer", None)
        if type(renderer) is not HfRenderer or not hasattr(backend, "encode_batch_fast"):
            raise TypeError(f"{type(renderer).__name__} with a {type(self._tokenizer).__name__} has ways of its own")
        # Truncation and padding are switched on and off at vLLM's, which must not happen while this one is at work.
        self.backend: Any = copy.deepcopy(backend)
        self.backend.no_truncation()
        self.backend.no_padding()

    def token_ids(self, rendering: Rendering, prompts: Sequence[Any]) -> list[list[int] | None]:
        """The token ids of each prompt; None where vLLM's renderer would do something else, or refuse.

        Prompts are lists of messages that have nothing but a role and a text, or texts, or lists of token ids.
        """
        if not _is_plain(rendering):
            return [None] * len(prompts)
        if rendering.chat is not None:
            return self._encoded(self._rendered(rendering.chat, prompts), rendering)
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        encoded = iter(self._encoded(texts, rendering))
        return [next(encoded) if isinstance(prompt, str) else self._in_vocabulary(prompt) for prompt in prompts]

    def _rendered(self, chat: Any, conversations: Sequence[Any]) -> list[str | None]:
        options = chat.get_apply_chat_template_kwargs()
        if options.pop("tokenize", False):
            return [None] * len(conversations)
        given, tools = options.pop("chat_template", None), options.pop("tools", None)
        template = resolve_chat_template(self._tokenizer, given, tools, model_config=self._model_config)
        if template is None:
            return [None] * len(conversations)
        content_format = resolve_chat_template_content_format(
            given, tools, chat.chat_template_content_format, self._tokenizer, model_config=self._model_config
        )
        options = resolve_chat_template_kwargs(self._tokenizer, template, options)
        parsed = [
            parse_chat_messages(messages, self._model_config, content_format=content_format)[0]
            for messages in conversations
        ]
        options |= {"tools": tools, "chat_template": template, "tokenize": False}
        try:
            texts: list[str | None] = self._tokenizer.apply_chat_template(conversation=parsed, **options)
        except Exception:  # noqa: BLE001 - a template may raise anything about one of them
            return [self._one(messages, options) for messages in parsed]
        return texts

    def _one(self, conversation: Any, options: dict[str, Any]) -> str | None:
        try:
            text: str = self._tokenizer.apply_chat_template(conversation=conversation, **options)
        except Exception:  # noqa: BLE001 - as above; vLLM words the refusal
            return None
        return text

    def _encoded(self, texts: Sequence[str | None], rendering: Rendering) -> list[list[int] | None]:
        special = rendering.tokens.add_special_tokens
        encodings = self.backend.encode_batch_fast([text or "" for text in texts], add_special_tokens=special)
        return [encoding.ids if text else None for text, encoding in zip(texts, encodings, strict=True)]

    def _in_vocabulary(self, token_ids: list[int]) -> list[int] | None:
        try:
            self._renderer.validate_token_ids(token_ids)
        except Exception:  # noqa: BLE001 - vLLM words the refusal
            return None
        return token_ids


def _is_plain(rendering: Rendering) -> bool:
    """No prompt is cut, filled up, put in lower case, or goes with media."""
    tokens = rendering.tokens
    return not (
        rendering.extras
        or tokens is None
        or tokens.truncate_prompt_tokens is not None
        or tokens.pad_prompt_tokens is not None
        or getattr(tokens, "truncation_side", None) is not None
        or tokens.do_lower_case
        or tokens.needs_detokenization
        or getattr(tokens, "return_token_offsets", False)
    )
