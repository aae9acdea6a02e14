"""The sources of a job, from what its specification says about the inputs."""

import sys
from pathlib import Path

from xbatch import storage
from xbatch.job.places import STDIN, Places
from xbatch.job.spec import JobSpec
from xbatch.rows.template import RequestTemplate
from xbatch.sources import Source
from xbatch.sources.opening import SourceOptions, open_source


def input_files(places: Places, scratch: Path) -> dict[str, str]:
    """The file to read for each input by the user's name for it; standard input is read to its end first."""
    if places.inputs == [STDIN]:
        return {STDIN: storage.spool(sys.stdin.buffer, scratch / "stdin")}
    return {uri: uri for uri in places.inputs}


def open_inputs(spec: JobSpec, files: dict[str, str]) -> dict[str, Source]:
    """The source of each input.

    Raises UsageError if one can't be read.
    """
    columns = RequestTemplate(spec.request).columns if spec.request else None
    options = SourceOptions(spec.max_line_bytes, columns, "custom_id" in (spec.request or {}))
    return {uri: open_source(file, "stdin" if uri == STDIN else uri, options) for uri, file in files.items()}
