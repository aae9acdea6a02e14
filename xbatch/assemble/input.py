"""The sources of a job, from what its specification says about the inputs."""

from pathlib import Path

from xbatch import storage
from xbatch.job.places import STDIN
from xbatch.job.spec import JobSpec
from xbatch.rows.template import RequestTemplate
from xbatch.sources import Source
from xbatch.sources.looking import reading
from xbatch.sources.opening import SourceOptions, open_source


def input_files(inputs: list[str], scratch: Path, *, copies: bool = False) -> dict[str, str]:
    """Return the file to read for each input by the user's name for it.

    Standard input and pipes are read to their end first; with `copies`, so is every file that lies in a store. Raises
    UsageError if one can't be read.
    """
    if inputs == [STDIN]:
        return {STDIN: storage.spool_stdin(scratch / "stdin")}
    return {uri: _file(uri, scratch / f"input-{i}", copies=copies) for i, uri in enumerate(inputs)}


def open_inputs(spec: JobSpec, files: dict[str, str], *, begun: bool = False) -> dict[str, Source]:
    """Return the source of each input; of a job that has `begun` the rows are what they were then.

    Raises UsageError if one can't be read.
    """
    return {uri: open_input(spec, uri, file, begun=begun) for uri, file in files.items()}


def open_input(spec: JobSpec, uri: str, file: str, *, digests: bool = True, begun: bool = False) -> Source:
    """Return the source of one input, which the user calls `uri`; with `digests`, it may be asked for its own.

    Raises UsageError if it can't be read.
    """
    template = RequestTemplate(spec.request) if spec.request else None
    options = SourceOptions(
        max_line_bytes=spec.max_line_bytes,
        template_columns=template.columns if template else None,
        template_names_rows="custom_id" in (spec.request or {}),
        template_use=template.use if template else None,
        digests=digests,
        first_rows=not begun,
    )
    return open_source(file, "stdin" if uri == STDIN else storage.shown_name(uri), options)


def _file(uri: str, path: Path, *, copies: bool) -> str:
    if storage.is_special(uri):
        with reading(storage.shown_name(uri)):
            return storage.spool_special(uri, path)
    if storage.is_local(uri) or not copies:
        return uri
    with reading(uri), storage.open_read(uri) as file:
        return storage.spool(file, path)
