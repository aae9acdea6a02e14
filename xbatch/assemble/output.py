"""The sink of a job, from what its specification says about the output."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xbatch.errors import UsageError
from xbatch.job.places import Places
from xbatch.job.spec import JobSpec
from xbatch.sinks import Sink
from xbatch.sinks.opening import SinkOptions, open_sink
from xbatch.sources import Source


def open_output(spec: JobSpec, places: Places, sources: Sequence[Source], spool: Path) -> Sink:
    """Return the sink that writes a job's output.

    Raises UsageError if what the specification says of it doesn't go together.
    """
    options = SinkOptions(
        carried=sources,
        columns=spec.columns,
        max_file_bytes=spec.max_output_file,
        parsed=_answers_schema(spec.request or {}) if spec.parse == "json" else None,
        with_input=spec.with_input,
        reasoning=bool(spec.engine_args.get("reasoning_parser")),
        bodies=spec.format == "body",
        output_format=spec.output_format,
    )
    return open_sink(places.targets, places.errors, spool, options)


def output_settings(spec: JobSpec) -> dict[str, Any]:
    """What of a specification changes the output and no answer: with others it is made anew from the same answers."""
    return {
        "columns": spec.columns,
        "with_input": spec.with_input,
        "max_output_file": None if spec.max_output_file is None else int(spec.max_output_file),
        "parse": spec.parse,
    }


def _answers_schema(request: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON Schema that all answers follow. Raises UsageError if there is none."""
    given: Any = request
    for name in ("response_format", "json_schema", "schema"):
        given = given.get(name) if isinstance(given, dict) else None
    if not isinstance(given, dict):
        raise UsageError("parse: json needs a JSON Schema under request.response_format.json_schema.schema")
    return given
