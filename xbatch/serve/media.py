"""Pictures, sounds and films that a request names by URL: only what is public may be fetched for a stranger."""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

_SCHEMES = ("http", "https")
_AMBIGUOUS = re.compile(r"[\\\s\x00-\x1f\x7f]")
"""Readers of URLs don't agree on where a host ends that has one of these before or behind it."""
_BRIDGES = {ipaddress.IPv6Network("64:ff9b::/96"): 0, ipaddress.IPv6Network("2002::/16"): 80}
"""Addresses that stand for one of IPv4 (RFC 6052, RFC 3056), each with the number of bits behind that."""


async def private_media(body: Mapping[str, Any]) -> str | None:
    """Say what is wrong with the URLs in the messages of a chat, None if nothing is.

    `data:` is always right; `http:` and `https:` are if the host has public addresses only; nothing else is.
    """
    for url in set(_urls(body)):
        if (trouble := await _trouble(url)) is not None:
            return trouble
    return None


def _urls(body: Mapping[str, Any]) -> Iterator[str]:
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict):
                for name, value in part.items():
                    url = value.get("url") if isinstance(value, dict) else value
                    if isinstance(url, str) and (name.endswith("_url") or name == "url"):
                        yield url


async def _trouble(url: str) -> str | None:
    if url[:5].lower() == "data:":
        return None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return f"{url[:200]!r} is not a URL"
    if _AMBIGUOUS.search(url) or parts.scheme.lower() not in _SCHEMES or not host:
        return f"{url[:200]!r} is not fetched: media come as data:, http: or https: URLs"
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port or 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return f"{url[:200]!r} is not fetched: its host is not known"
    if not all(_is_public(str(address[0])) for *_, address in found):
        return f"{url[:200]!r} is not fetched: its host is not public"
    return None


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    for network, behind in _BRIDGES.items():
        if address in network:
            address = ipaddress.IPv4Address(int(address) >> behind & 0xFFFFFFFF)
    site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    return address.is_global and not address.is_multicast and not site_local
