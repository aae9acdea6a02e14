"""Text for a terminal: control characters are escaped, secrets masked, and counts agree with their nouns.

Whatever the user reads passes `shown` or `shown_json` last, for names of files, rows and errors of libraries may hold
anything.
"""

import re

from xbatch.masking import masked

_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\U0010f080-\U0010f0ff]"
)
"""Control characters (C0, DEL, C1), line separators, marks that change the direction of text, lone surrogates, and the
private characters in which `storage` keeps the bytes of file names that are not UTF-8."""
_UNSAFE_IN_JSON = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", ""))
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Lines(str):
    """A message of several lines: its line breaks are meant and each line is escaped already."""

    __slots__ = ()

    def __str__(self) -> str:
        """Return the same object, so that `str(error)` keeps the line breaks of a message."""
        return self


def lines(*parts: str) -> Lines:
    """Make one message of several lines; line breaks inside a part are escaped, except in parts that are `Lines`."""
    return Lines("\n".join(escaped(part) for part in parts))


def prefixed(prefix: str, message: str) -> str:
    """Write something before a message, which keeps its line breaks."""
    return Lines(f"{escaped(prefix)}: {message}") if isinstance(message, Lines) else f"{prefix}: {message}"


def shown(text: str) -> str:
    """Return a text as the user may see it: masked and escaped. Every text for a terminal passes here."""
    return escaped(masked(text))


def shown_json(text: str) -> str:
    """Return JSON as the user may see it. JSON allows characters in strings that a terminal would act on."""
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", masked(text))


def escaped(text: str) -> str:
    """Return the text with everything escaped that a terminal would not show as a character."""
    if isinstance(text, Lines):
        return text
    return _UNSAFE.sub(_escape, text)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Write a count with its noun: "1 row", "2,000 rows"."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def _escape(found: "re.Match[str]") -> str:
    char = found[0]
    if char >= "\U0010f080":
        return f"\\x{ord(char) & 0xFF:02x}"
    if (short := _SHORT.get(char)) is not None:
        return short
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{ord(char):04x}"
