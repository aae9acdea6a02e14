"""Which endpoint a request is for."""

import re
from typing import Any
from urllib.parse import urlsplit

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
ENDPOINTS = (CHAT, COMPLETIONS)

_VERSION = re.compile(r"v\d+\w*")
_AZURE_PREFIX = 2
"""Azure's paths are `/openai/deployments/NAME/completions`: `deployments` stands this far before the last word."""


def endpoint_of(url: Any) -> str | None:
    """Return the endpoint that a url names, None if that can't be known.

    The same endpoint is written in several ways: without `/v1` (Azure, LiteLLM), as a whole address, with a slash at
    the end, with a query. Whatever comes before `chat/completions` is the place of a server; `completions` alone must
    follow a version, an Azure deployment or nothing, because other APIs have other things of that name.
    """
    if type(url) is not str:
        return None
    words = _path(url)
    if words[-2:] == ["chat", "completions"]:
        return CHAT
    if words[-1:] != ["completions"]:
        return None
    before = words[:-1]
    is_azure = before[-_AZURE_PREFIX:-1] == ["deployments"]
    return COMPLETIONS if not before or is_azure or _VERSION.fullmatch(before[-1]) else None


def _path(url: str) -> list[str]:
    """Return the parts of a url's path; none if it is no url of a web server."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return []
    return [word for word in parts.path.split("/") if word] if parts.scheme in ("", "http", "https") else []


def is_conversation(prompt: Any) -> bool:
    """Tell whether a prompt is a list of messages, as TRL's and verl's data sets have it."""
    return type(prompt) is list and bool(prompt) and all(type(each) is dict and "role" in each for each in prompt)
