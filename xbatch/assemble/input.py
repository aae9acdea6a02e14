"""The sources of a job, from what its specification says about the inputs."""

import sys
from pathlib import Path

from xbatch import storage
from xbatch.job.places import STDIN
from xbatch.job.spec import JobSpec
from xbatch.rows.template import RequestTemplate
from xbatch.sources import Source
from xbatch.sources.looking import reading
from xbatch.sources.opening import SourceOptions, open_source


def input_files(inputs: list[str], scratch: Path, *, copies: bool = False) -> dict[str, str]:
    """The file to read for each input by the user's name for it; standard input is read to its end first.

    With `copies`, so is every file that lies in a store. Raises UsageError if one can't be read.
    """
    if inputs == [STDIN]:
        return {STDIN: storage.spool(sys.stdin.buffer, scratch / "stdin")}
    if not copies:
        return {uri: uri for uri in inputs}
    return {uri: _copied(uri, scratch / f"input-{i}") for i, uri in enumerate(inputs)}


def open_inputs(spec: JobSpec, files: dict[str, str]) -> dict[str, Source]:
    """The source of each input.

    Raises UsageError if one can't be read.
    """
    return {uri: open_input(spec, uri, file) for uri, file in files.items()}


def open_input(spec: JobSpec, uri: str, file: str, *, digests: bool = True) -> Source:
    """The source of one input, which the user calls `uri`; with `digests`, it may be asked for its own.

    Raises UsageError if it can't be read.
    """
    template = RequestTemplate(spec.request) if spec.request else None
    options = SourceOptions(
        max_line_bytes=spec.max_line_bytes,
        template_columns=template.columns if template else None,
        template_names_rows="custom_id" in (spec.request or {}),
        template_use=template.use if template else None,
        digests=digests,
    )
    return open_source(file, "stdin" if uri == STDIN else uri, options)


def _copied(uri: str, path: Path) -> str:
    if storage.is_local(uri):
        return uri
    with reading(uri), storage.open_read(uri) as file:
        return storage.spool(file, path)
