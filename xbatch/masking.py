"""Secrets in URIs: passwords, and the signatures of addresses that were signed for a while.

They give access, so nobody should read them on a terminal or in a file that is kept. They say nothing about which
object a URI names, so an address that was signed anew still names the same one.
"""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

MASK = "***"
"""What a secret is shown as."""

_SECRETS = frozenset(
    (
        *("signature", "sig", "token", "auth", "authorization", "jwt", "key", "password", "passwd", "pwd", "secret"),
        *("access_token", "id_token", "refresh_token", "session_token", "security_token", "private_token", "sas_token"),
        *("api_key", "apikey", "access_key", "account_key", "secret_key", "subscription_key", "client_secret"),
        *("credential", "credentials", "awsaccesskeyid", "googleaccessid", "ossaccesskeyid"),
    )
)
"""Query parameters that are secrets, or say who has signed; in lower case, with `_` for `-`."""
_SECRET_PARTS = re.compile(
    "token|secret|signature|passw|hmac|bearer|credential|session_?id|(api|access|auth|account)_?key|^(auth|sign)_|_sig(n)?$"
    "|^(hdnts|hdnea|hdntl|rlkey)$"
)
"""What the names of other secrets hold."""
_PAGES = re.compile("page|next|cont|cursor")
"""A token with this in its name says which part of a list is meant."""
_SECRET_PREFIXES = ("x_amz_", "x_goog_", "x_oss_", "x_cos_", "x_obs_", "q_sign_")
_SIGNATURES = frozenset(("signature", "sig"))
_SIGNED = frozenset(
    (
        *("expires", "policy", "key_pair_id"),
        # Shared access signatures of Azure: https://learn.microsoft.com/rest/api/storageservices/create-service-sas
        *("se", "sp", "sv", "st", "sr", "ss", "srt", "spr", "sip", "si", "sdd", "ses", "skoid", "sktid", "skt", "ske"),
        *("sks", "skv", "saoid", "suoid", "scid"),
    )
)
"""Query parameters that belong to a signature; without one beside them they mean something else."""

_SCHEME = "[a-z][a-z0-9+.-]{0,30}"  # bounded, for a text may be one word of a million letters
_OBJECT = "key"
_FILE = re.compile(r"/|\.[a-z][a-z0-9]{0,8}$", re.IGNORECASE)
"""Some servers call what they serve its key, and a folder or an extension tells that from a secret."""

_URIS = re.compile(rf"{_SCHEME}://.*", re.IGNORECASE | re.DOTALL)
_LOGIN = re.compile(rf"({_SCHEME})://([^\s/?#\"'<>]*)@", re.IGNORECASE)
# An escape of JSON ends a query, for it has to stay whole.
_QUERY = re.compile(r"\?((?:(?!::|\\[\"\\/bfnrtu])[^\s\"'<>#])+)")
_AFTER = re.compile(r"(?::\d+)?[.,:;)\]]*$")
"""What may follow a URI in a sentence: a line's number, and punctuation."""


def masked(text: str) -> str:
    """Return a URI, or a text with URIs in it, with `***` in place of every secret in them.

    The type of the text is kept: a message of several lines stays one.
    """
    found = replace_secrets(text, lambda _: MASK)
    return found if found is text else type(text)(found)


def masked_all(value: Any) -> Any:
    """Return JSON in which every text is masked; names stay."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {name: masked_all(each) for name, each in value.items()}
    return [masked_all(each) for each in value] if isinstance(value, list) else value


def without_secrets(uri: str) -> str:
    """Return what of a URI says which object it names; masked or not, it is the same."""

    def name(match: re.Match[str]) -> str:
        user, has_password, _ = match[2].partition(":")
        is_login = match[1].lower() in ("http", "https") or user in ("", MASK)
        return f"{match[1]}://" + ("" if is_login else f"{user}@" if has_password else f"{match[2]}@")

    return replace_secrets(_LOGIN.sub(name, uri), lambda _: "")


def replace_secrets(text: str, instead: Callable[[str], str]) -> str:
    """Return a URI, or a text with URIs in it, with something else in place of every secret in them.

    `instead` is called with the secret: a password, or all parameters of one query that are secret, joined by `&`.
    """
    if "://" not in text or ("?" not in text and "@" not in text):
        return text

    def login(match: re.Match[str]) -> str:
        user, has_password, password = match[2].partition(":")
        if has_password:
            return f"{match[1]}://{user}:{instead(password)}@"
        # Alone, it is a token over HTTP, and who logs in, or part of the place, elsewhere.
        is_token = match[1].lower() in ("http", "https") and match[2]
        return f"{match[1]}://{instead(match[2])}@" if is_token else match[0]

    def query(match: re.Match[str]) -> str:
        after = _AFTER.search(match[1])
        end = after.start() if after else len(match[1])
        pairs = re.split("[&;]", match[1][:end])
        names = [unquote(pair.partition("=")[0]).lower().replace("-", "_") for pair in pairs]
        is_signed = not _SIGNATURES.isdisjoint(names)
        secret = [
            _is_secret(name, is_signed=is_signed) and not (name == _OBJECT and _FILE.search(unquote(pair)))
            for name, pair in zip(names, pairs, strict=True)
        ]
        if not any(secret):
            return match[0]
        left = [pair for pair, hidden in zip(pairs, secret, strict=True) if not hidden]
        shown = instead("&".join(pair for pair, hidden in zip(pairs, secret, strict=True) if hidden))
        joined = "&".join(filter(None, [*left, shown]))
        return ("?" if joined else "") + joined + match[1][end:]

    return _URIS.sub(lambda match: _QUERY.sub(query, _LOGIN.sub(login, match[0])), text)


def _is_secret(name: str, *, is_signed: bool) -> bool:
    known = name in _SECRETS or name == MASK or name.startswith(_SECRET_PREFIXES)
    known |= _SECRET_PARTS.search(name) is not None and _PAGES.search(name) is None
    return known or (is_signed and name in _SIGNED)
