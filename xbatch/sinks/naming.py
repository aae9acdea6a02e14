"""What the name of an output file says about its format."""

import re

from xbatch.errors import UsageError

PARQUET = "parquet"
JSONL = "jsonl"
FORMATS = (JSONL, "jsonl.gz", "jsonl.zst", PARQUET)
"""The formats in which responses are written."""

_NAME = re.compile(r".*?(?:\.(jsonl|ndjson|parquet))?(?:\.(gz|zst|bz2|xz|lz4|br|zip))?", re.DOTALL | re.IGNORECASE)
_EXTENSION = re.compile(r".+\.[a-z]\w*", re.DOTALL | re.IGNORECASE | re.ASCII)
"""Numbers behind a dot, as in `answers-v1.2`, are no extension."""


def format_of(uri: str, given: str | None, flag: str) -> str:
    """Return the format of an output file: the one that its name tells, else the given one, one of FORMATS.

    `flag` is the option that has named the file. A name without any extension stands for JSONL. Raises UsageError if
    the name has an extension that tells no format, or a format that is not written.
    """
    kind, packed = _told(uri)
    told = ".".join(part for part in (kind, packed) if part)
    if told in FORMATS:
        return told
    fits = given is not None and kind in (None, given.partition(".")[0]) and packed in (None, given.partition(".")[2])
    if given is not None and fits:
        return given
    if not told and _EXTENSION.fullmatch(_last(uri)) is None:
        return JSONL
    raise UsageError(
        f"{flag} {uri}: this name tells no format that xbatch writes: end it in .jsonl, .jsonl.gz, .jsonl.zst or "
        f".parquet{'' if told else ', or say --output-format'}"
    )


def _told(uri: str) -> tuple[str | None, str | None]:
    """Return the format and the compression that a name tells, each None if it tells none."""
    found = _NAME.fullmatch(_last(uri))
    kind, packed = (part and part.lower() for part in found.groups()) if found else (None, None)
    return JSONL if kind == "ndjson" else kind, packed


def _last(uri: str) -> str:
    return uri.rpartition("/")[2]
