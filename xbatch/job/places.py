"""Where a job's inputs, outputs and state lie."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from xbatch import storage
from xbatch.errors import UsageError
from xbatch.job.inputs import STDIN, find_inputs, is_stdin, stem_of
from xbatch.job.spec import JobSpec

__all__ = [
    "STDIN",
    "STDOUT",
    "Places",
    "answers_name",
    "check_length",
    "default_output",
    "find_places",
    "inputs_of",
    "is_answers",
    "state_of",
    "storage_of",
    "streams_of",
    "watched_state_of",
]

STDOUT = "-"
_ANSWERS = ".responses"
_ANSWERS_NAME = re.compile(r".*\.responses(-\d{5,}-of-\d{5,})?\.(jsonl(\.gz|\.zst)?|parquet)", re.DOTALL)
_STREAM_FORMAT = re.compile(r"\.((jsonl|ndjson)(\.gz|\.zst)?|parquet)$", re.IGNORECASE)
_DEFAULT_FORMAT = "jsonl"
_PARQUET = ".parquet"
_STATE = ".xbatch"
_MAX_NAME_BYTES = 255
"""Longest name of a file on Linux."""


@dataclass(frozen=True, slots=True)
class Places:
    """Every place of a job, resolved; each a URI of this machine or of a store."""

    inputs: list[str]
    targets: list[str]
    """The output of each input."""
    errors: str | None
    state: str
    shown_output: str
    notes: list[str] = field(default_factory=list)
    """Sentences about what was left out, for the user."""
    streams: dict[str, str] = field(default_factory=dict)
    """For each output that goes to a stream in the end, the file in which it is made, and the stream's name."""

    def in_order(self, order: list[int]) -> "Places":
        """Return the same places with the inputs in another order, given by their positions."""
        return replace(self, inputs=[self.inputs[i] for i in order], targets=[self.targets[i] for i in order])


def storage_of(spec: JobSpec, tell: Callable[[str], None]) -> storage.StorageSettings:
    """Return how the stores of a job are reached; `tell` is called when one has to be waited for. Raises UsageError."""
    return storage.StorageSettings(storage.parse_options(spec.storage_options), spec.storage_timeout, tell)


def inputs_of(spec: JobSpec) -> tuple[list[str], list[str]]:
    """Find out which files a job reads, and say what was left out.

    Raises UsageError, or StorageError if a store can't be asked.
    """
    return find_inputs(spec.inputs, _is_output(spec))


def find_places(spec: JobSpec, scratch: Path) -> Places:
    """Find out which files a job reads and writes; `scratch` holds what has no place of its own.

    As for `inputs_of`.
    """
    inputs, notes = inputs_of(spec)
    output = spec.output or default_output(inputs, spec.output_format)
    streams = _streams(output, spec, scratch)
    places = {uri: made for uri, (made, _) in streams.items()}
    if output not in places:
        check_length(output.rstrip("/"))
    targets = [places[output]] * len(inputs) if output in places else _targets(output, inputs, spec.output_format)
    errors = places.get(spec.errors or "", spec.errors)
    state = spec.state or (str(scratch / "state") if output in places else state_of(output))
    _check_overlap(inputs, targets, errors)
    return Places(inputs, targets, errors, state, output, notes, dict(streams.values()))


def streams_of(spec: JobSpec) -> dict[str, str]:
    """Return the names of the streams to which the `output` and the `errors` of a job go, as far as they do."""
    output = spec.output or (STDOUT if _is_piped(spec.inputs) else None)
    found: dict[str, str] = {}
    for flag, uri in (("output", output), ("errors", spec.errors)):
        with suppress(UsageError):  # whoever looks for the places tells what is wrong
            if uri is not None and not uri.endswith("/") and (stream := storage.stream_of(uri)) is not None:
                found[flag] = stream
    return found


def state_of(output: str) -> str:
    """Return where the state of a job with this output lies, unless it was told otherwise."""
    place = output.rstrip("/")
    # Beside a bucket there is nothing, so it lies inside.
    is_bucket = "://" in place and "/" not in place.split("://", 1)[1]
    return f"{place}/{_STATE}" if is_bucket else f"{place}{_STATE}"


def watched_state_of(output: str) -> str:
    """Return where a watcher keeps the state of the job with this output: in a folder beside all outputs."""
    folder, slash, name = output.rpartition("/")
    return f"{folder}{slash}{_STATE}/{name}"


def default_output(inputs: list[str], output_format: str | None = None) -> str:
    """Return where the output goes unless it was told otherwise: for a pipe, as for standard input, standard output.

    Raises UsageError if that can't be told, as for inputs that are not on this machine.
    """
    if _is_piped(inputs):
        return STDOUT
    if any(storage.is_special(uri) for uri in inputs):
        raise UsageError("some inputs are pipes: say by -o where the output should go")
    if not all(storage.is_local(uri) for uri in inputs):
        raise UsageError("the inputs are not on this machine: say by -o where the output should go")
    if len(inputs) == 1:
        table = "parquet" if inputs[0].lower().endswith(_PARQUET) else _DEFAULT_FORMAT
        return check_length(answers_name(inputs[0], output_format or table))
    return storage.as_text(str(_common_folder(inputs) / "responses")) + "/"


def _is_piped(inputs: list[str]) -> bool:
    """Tell whether the one input is standard input or another pipe."""
    return len(inputs) == 1 and (is_stdin(inputs[0]) or storage.is_special(inputs[0]))


def check_length(output: str) -> str:
    """Return the name of an output on this machine. Raises UsageError if no file and no state could be called so."""
    if storage.is_local(output) and len(os.fsencode(storage.local_path(output).name + _STATE)) > _MAX_NAME_BYTES:
        raise UsageError(f"{storage.shown_name(output)}: the name of the output would be too long; choose one by -o")
    return output


def is_answers(uri: str) -> bool:
    """Tell whether a file has a name that `answers_name` gives, or is a part of one."""
    return _ANSWERS_NAME.fullmatch(uri) is not None


def answers_name(uri: str, output_format: str | None, mark: str = "") -> str:
    """Return what the output for an input is called, unless it was told otherwise; `mark` tells it from others."""
    return f"{stem_of(uri)}{mark}{_ANSWERS}.{output_format or _DEFAULT_FORMAT}"


def _is_output(spec: JobSpec) -> Callable[[str], bool]:
    """Return what tells this job's own output, and any job's under the usual names, among the files of a folder."""
    own: list[str] = []
    for uri in filter(None, (spec.output, spec.errors)):
        place = re.escape(storage.same_place(uri))
        stem, dot, extension = storage.same_place(uri).rpartition(".")
        own.append(place + ("/.*" if uri.endswith("/") else ""))
        own.append(rf"{re.escape(stem)}-\d{{5,}}-of-\d{{5,}}{re.escape(dot + extension)}")
    mine = re.compile("|".join(f"(?:{each})" for each in own) or "(?!)", re.DOTALL)
    return lambda uri: is_answers(uri) or mine.fullmatch(storage.same_place(uri)) is not None


def _streams(output: str, spec: JobSpec, scratch: Path) -> dict[str, tuple[str, str]]:
    """Return, for each output that is a stream, the file in `scratch` in which it is made, and the stream's name.

    Raises UsageError.
    """
    if spec.errors is not None and spec.errors.endswith("/"):
        raise UsageError(f"--errors {spec.errors} is the name of a folder: give that of a file")
    found: dict[str, tuple[str, str]] = {}
    for flag, uri in (("output", output), ("errors", spec.errors)):
        if uri is None or uri.endswith("/") or (stream := storage.stream_of(uri)) is None:
            continue
        if stream in (name for _, name in found.values()):
            raise UsageError(f"--errors names the output itself: {uri}")
        if spec.max_output_file is not None:
            raise UsageError(f"--max-output-file is for files, and {uri} is none")
        told = _STREAM_FORMAT.search(uri)
        extension = told[0].lower() if told else f".{spec.output_format or _DEFAULT_FORMAT}"
        found[uri] = str(scratch / f"{flag}{extension}"), stream
    return found


def _targets(output: str, inputs: list[str], output_format: str | None) -> list[str]:
    extension = output_format or _DEFAULT_FORMAT
    if not output.endswith("/"):
        return [output] * len(inputs)
    plain = [storage.without_secrets(uri) for uri in inputs]
    names = [answers_name(uri.rsplit("/", 1)[-1] if uri != STDIN else "stdin", extension) for uri in plain]
    if len(set(names)) < len(names):
        # From several folders: the output has them too.
        names = [answers_name(uri, extension) for uri in _below_common(inputs)]
    if len(set(names)) < len(names):
        raise UsageError("two inputs have the same name: give an output file by -o instead of a folder")
    return [output + name for name in names]


def _common_folder(inputs: list[str]) -> Path:
    folders = [storage.local_path(uri).absolute().parent for uri in inputs]
    return next(each for each in (folders[0], *folders[0].parents) if all(f.is_relative_to(each) for f in folders))


def _below_common(inputs: list[str]) -> list[str]:
    """Return each input's name from the folder on that they have in common."""
    parts = [storage.same_place(uri).split("/") for uri in inputs]
    shared = 0
    while all(len(each) > shared + 1 and each[shared] == parts[0][shared] for each in parts):
        shared += 1
    return ["/".join(part for part in each[shared:] if part) for each in parts]


def _check_overlap(inputs: list[str], targets: list[str], errors: str | None) -> None:
    outputs = {storage.same_place(uri): uri for uri in targets}
    if errors is not None:
        if (place := storage.same_place(errors)) in outputs:
            raise UsageError(f"--errors names the output itself: {errors}")
        outputs[place] = errors
    for uri in inputs:
        if uri != STDIN and (output := outputs.get(storage.same_place(uri))) is not None:
            raise UsageError(f"{output} is both an input and the output")
