"""The sources of a job, from what its specification says about the inputs."""

import sys
from pathlib import Path

from xbatch import storage
from xbatch.job.places import STDIN, Places
from xbatch.job.spec import JobSpec
from xbatch.rows.template import RequestTemplate
from xbatch.sources import Source
from xbatch.sources.looking import reading
from xbatch.sources.opening import SourceOptions, open_source


def input_files(places: Places, scratch: Path, *, copies: bool = False) -> dict[str, str]:
    """The file to read for each input by the user's name for it; standard input is read to its end first.

    With `copies`, so is every file that lies in a store. Raises UsageError if one can't be read.
    """
    if places.inputs == [STDIN]:
        return {STDIN: storage.spool(sys.stdin.buffer, scratch / "stdin")}
    if not copies:
        return {uri: uri for uri in places.inputs}
    return {uri: _copied(uri, scratch / f"input-{i}") for i, uri in enumerate(places.inputs)}


def open_inputs(spec: JobSpec, files: dict[str, str]) -> dict[str, Source]:
    """The source of each input.

    Raises UsageError if one can't be read.
    """
    columns = RequestTemplate(spec.request).columns if spec.request else None
    options = SourceOptions(spec.max_line_bytes, columns, "custom_id" in (spec.request or {}))
    return {uri: open_source(file, "stdin" if uri == STDIN else uri, options) for uri, file in files.items()}


def _copied(uri: str, path: Path) -> str:
    if storage.is_local(uri):
        return uri
    with reading(uri), storage.open_read(uri) as file:
        return storage.spool(file, path)
