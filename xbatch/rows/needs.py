"""What a request asks for that vLLM's server refuses unless a setting allows it.

Source: vLLM's `OnlineRenderer.render_chat` and `validate_chat_template`, `safe_load_prompt_embeds`,
`SamplingParams.verify` and `TokenizeParams`.
"""

from dataclasses import dataclass
from typing import Any

from xbatch.rows.request import CHAT

DEFAULT_MAX_LOGPROBS = 20
"""vLLM's default for `--max-logprobs`."""
_SMALLEST_VOCABULARY = 256
"""No vocabulary has fewer tokens; -1 asks for log probabilities of all of them."""

TOOLS = "tools"
TEMPLATE = "template"
EMBEDS = "embeds"
LOGPROBS = "logprobs"
LENGTH = "length"
CHATS = "chats"
MEDIA = "media"
"""Needs that no setting of the engine meets, but another model does."""
_LENGTHS = ("max_tokens", "max_completion_tokens")
_TEXTS = frozenset(
    {"text", "input_text", "output_text", "refusal", "thinking", "tool_reference", "prompt_embeds", None}
)
"""Types of the parts of a message's content that are texts."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What an engine's settings allow requests to ask for."""

    tools: bool
    """A parser for tool calls is set."""
    templates: bool
    """Requests may bring a chat template."""
    embeds: bool
    """Requests may bring embeddings as their prompt."""
    max_logprobs: int | None
    """None for any number."""
    max_tokens: int | None
    """Tokens of the context; None where the settings do not say it."""

    @property
    def watched(self) -> frozenset[str]:
        """Fields without which a request needs nothing that the settings forbid."""
        names = set() if self.tools else {"tools"}
        names |= set() if self.templates else {"chat_template", "chat_template_kwargs"}
        names |= set() if self.embeds else {"prompt_embeds"}
        names |= set() if self.max_logprobs is None else {"logprobs", "prompt_logprobs"}
        return frozenset(names)

    @property
    def bounds(self) -> dict[str, int]:
        """Fields that ask for too much only if they are numbers above these."""
        return {} if self.max_tokens is None else dict.fromkeys(_LENGTHS, self.max_tokens)


def unmet_need(body: dict[str, Any], endpoint: str, allowed: Allowed) -> str | None:
    """Return the name of the first thing a request asks for that the settings do not allow, None if there is none."""
    is_chat = endpoint == CHAT
    if is_chat and not allowed.tools and _calls_tools(body):
        return TOOLS
    if is_chat and not allowed.templates and _brings_template(body):
        return TEMPLATE
    if not is_chat and not allowed.embeds and body.get("prompt_embeds"):
        return EMBEDS
    if _too_many_tokens(body, allowed.max_tokens, is_chat=is_chat):
        return LENGTH
    return LOGPROBS if _too_many_logprobs(body, allowed.max_logprobs, is_chat=is_chat) else None


def brings_media(messages: Any) -> bool:
    """Tell whether a message's content has parts that are no texts: images, audio, video."""
    if type(messages) is not list:
        return False
    contents = (message.get("content") for message in messages if type(message) is dict)
    parts = (part for content in contents if type(content) is list for part in content if type(part) is dict)
    return any(type(kind := part.get("type")) is str and kind not in _TEXTS for part in parts)


def _calls_tools(body: dict[str, Any]) -> bool:
    tools = body.get("tools")
    return type(tools) is list and bool(tools) and body.get("tool_choice", "auto") not in (None, "none")


def _brings_template(body: dict[str, Any]) -> bool:
    given = body.get("chat_template_kwargs")
    inside = given.get("chat_template") if type(given) is dict else None
    return body.get("chat_template") is not None or inside is not None


def _too_many_tokens(body: dict[str, Any], most: int | None, *, is_chat: bool) -> bool:
    wanted = body.get("max_completion_tokens") if is_chat else None
    if wanted is None:
        wanted = body.get("max_tokens")
    return most is not None and type(wanted) is int and wanted > most


def _too_many_logprobs(body: dict[str, Any], most: int | None, *, is_chat: bool) -> bool:
    if most is None or body.get("use_beam_search"):
        return False
    wanted = [body.get("prompt_logprobs")]
    if not body.get("logprob_token_ids"):
        wanted.append(body.get("top_logprobs") if is_chat and body.get("logprobs") else None)
        wanted.append(None if is_chat else body.get("logprobs"))
    return any(type(each) is int and (each > most or (each == -1 and most < _SMALLEST_VOCABULARY)) for each in wanted)
