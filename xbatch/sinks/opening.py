"""From the names of outputs to a sink."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec

from xbatch.errors import UsageError
from xbatch.sinks import Sink
from xbatch.sinks.answers import read_answer
from xbatch.sinks.blocks import Block
from xbatch.sinks.building import Format
from xbatch.sinks.files import FileSink
from xbatch.sinks.jsonl import CODECS, Additions, JsonlFormat
from xbatch.sinks.naming import PARQUET, format_of
from xbatch.sinks.parsed import Field, fields_of, parse_answer
from xbatch.sources import Source


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """How outputs are written."""

    carried: Sequence[Source] | None = None
    """The inputs, in order, if their columns are to be written: to Parquet always, to JSONL with `with_input`."""
    columns: Sequence[str] | None = None
    """The columns to write; None for all."""
    max_file_bytes: int | None = None
    """Outputs are cut into parts of at most so many bytes."""
    parsed: Mapping[str, Any] | None = None
    """The JSON Schema of the answers, if they are to be parsed."""
    with_input: bool = False
    """JSONL has what a row carries as `input`."""
    reasoning: bool = False
    """Parquet has a column for the reasoning of the model."""
    bodies: bool = False
    """The lines are bare bodies, not lines of OpenAI's batch output."""
    output_format: str | None = None
    """The format of outputs whose names tell none."""


def open_sink(targets: Sequence[str], errors: str | None, spool: Path, options: SinkOptions) -> Sink:
    """Return the sink for outputs, each in the format that its name tells.

    Raises UsageError if a name tells no format that is written, or the options don't go together.
    """
    formats = _formats(targets, errors, options.output_format)
    parquet = PARQUET in formats.values()
    if parquet and options.bodies:
        raise UsageError("--format body can't be Parquet, which has columns of its own")
    if options.columns is not None and not (parquet or options.with_input):
        raise UsageError("--columns is for Parquet, or for JSONL with --with-input")
    if options.parsed is not None and options.bodies:
        raise UsageError("--parse json is for batch lines or Parquet, not for --format body")
    if options.with_input and options.carried and all(source.carried_schema is None for source in options.carried):
        raise UsageError("--with-input is for tables: these inputs have no columns beside their requests")
    fields = fields_of(options.parsed) if options.parsed is not None else None

    @cache
    def form(kind: str) -> Format:
        if kind == PARQUET:
            from xbatch.sinks.parquet import ParquetFormat

            carried, limit, reasoning = options.carried or (), options.max_file_bytes, options.reasoning
            return ParquetFormat(carried, options.columns, fields, limit, reasoning=reasoning)
        return JsonlFormat(CODECS[kind], tuple(_additions(options, fields)))

    carried = options.carried if parquet or options.with_input else None
    return FileSink(targets, errors, spool, lambda name: form(formats[name]), carried, options.max_file_bytes)


def _formats(targets: Sequence[str], errors: str | None, given: str | None) -> dict[str, str]:
    """Return the format of each output file. Raises UsageError."""
    formats = {name: format_of(name, given, "-o") for name in targets}
    if wrong := [name for name, told in formats.items() if given not in (None, told)]:
        raise UsageError(f"--output-format {given} doesn't fit {wrong[0]}, whose name tells its format")
    return formats | ({errors: format_of(errors, given, "--errors")} if errors else {})


def _additions(options: SinkOptions, fields: list[Field] | None) -> list[Additions]:
    found: list[Additions] = []
    if fields is not None and not options.bodies:
        found.append(partial(_parsed, fields))
    if options.with_input:
        from xbatch.sinks.parquet import input_fields

        found.append(partial(input_fields, columns=options.columns))
    return found


def _parsed(fields: list[Field], block: Block) -> list[bytes]:
    """The parsed answer of each row as `,"parsed":{...}`, and with `,"parse_error":"..."` what is wrong with it."""
    lines = []
    for row in block.rows:
        parsed = parse_answer(read_answer(row.line), fields)
        line = b',"parsed":' + parsed.text.encode() if parsed.text is not None else b""
        lines.append(line + (b',"parse_error":' + msgspec.json.encode(parsed.error) if parsed.error else b""))
    return lines
