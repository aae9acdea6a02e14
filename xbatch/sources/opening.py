"""From a URI to a source."""

from dataclasses import dataclass

from xbatch import storage
from xbatch.errors import UsageError
from xbatch.rows.template_use import TemplateUse
from xbatch.sources import Source
from xbatch.sources.decompress import MAGIC_BYTES, codec_of
from xbatch.sources.jsonl import MAX_LINE_BYTES, JsonlSource
from xbatch.sources.looking import reading

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_PARQUET = (b"PAR1", b"PARE")
"""How Parquet files begin; the second if even their schema is encrypted."""


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How inputs are read."""

    max_line_bytes: int = MAX_LINE_BYTES
    """Longest row; a longer one is passed over."""
    template_columns: frozenset[str] | None = None
    """With a template, the columns that it looks at, or none for all; None without a template."""
    template_names_rows: bool = False
    """The template gives every row its `custom_id`."""
    template_use: TemplateUse | None = None
    """What can be told of the template before it sees a row; None without a template."""
    digests: bool = True
    """Inputs will be asked for their digest."""
    first_rows: bool = True
    """Files none of whose first rows can be a request are refused."""


def open_source(uri: str, shown_as: str, options: SourceOptions) -> Source:
    """Return the source for an input, by what its first bytes are; an empty file is JSONL without rows.

    What is said of it, in the responses of its rows too, calls it `shown_as` without the secrets of a URI. Raises
    UsageError if it can't be read.
    """
    shown_as = storage.masked(shown_as)
    with reading(shown_as), storage.open_read(uri) as file:
        head = file.read(MAGIC_BYTES)
    if head.startswith(_PARQUET):
        from xbatch.sources.parquet.source import ParquetSource

        columns, names_rows, use = options.template_columns, options.template_names_rows, options.template_use
        limit = options.max_line_bytes
        return ParquetSource(uri, shown_as, limit, columns, template_names_rows=names_rows, template_use=use)
    if uri.endswith(".parquet") and codec_of(head) is None:
        raise UsageError(f"{shown_as} is no Parquet file, though its name says so")
    if not head and uri.endswith(_COMPRESSED):
        raise UsageError(f"{shown_as} is empty, though its name says that it is compressed")
    return JsonlSource(
        uri,
        options.max_line_bytes,
        shown_as,
        digests=options.digests,
        templated=options.template_columns is not None,
        first_rows=options.first_rows,
    )
