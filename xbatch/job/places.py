"""Where a job's inputs, outputs and state lie."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from xbatch import storage
from xbatch.errors import UsageError
from xbatch.job.spec import JobSpec

STDIN = STDOUT = "-"
_ANSWERS = ".responses.jsonl"
_SUFFIXES = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True, slots=True)
class Places:
    """Every place of a job, resolved."""

    inputs: list[str]
    targets: list[Path]
    """The output of each input."""
    errors: Path | None
    state: str
    shown_output: str

    def in_order(self, first: list[str]) -> "Places":
        """The same places with some inputs in front, in the order given."""
        rank = {uri: i for i, uri in enumerate(first)}
        order = sorted(range(len(self.inputs)), key=lambda i: rank.get(self.inputs[i], len(first) + i))
        return replace(self, inputs=[self.inputs[i] for i in order], targets=[self.targets[i] for i in order])


def find_places(spec: JobSpec, scratch: Path) -> Places:
    """Find out which files a job reads and writes; `scratch` holds what has no place of its own.

    Raises UsageError.
    """
    inputs = _inputs(spec.inputs)
    output = spec.output or default_output(inputs)
    for uri in [output, spec.errors or ""]:
        if not storage.is_local(uri):
            raise UsageError(f"{uri} is not on this machine: outputs and errors must be local files")
    targets = _targets(output, inputs, scratch)
    errors = Path(spec.errors) if spec.errors else None
    state = spec.state or (str(scratch / "state") if output == STDOUT else state_of(output))
    _check_overlap(inputs, [*targets, *([errors] if errors else [])])
    return Places(inputs, targets, errors, state, output)


def state_of(output: str) -> str:
    """Where the state of a job with this output lies, unless it was told otherwise."""
    return output.rstrip("/") + ".xbatch"


def _inputs(given: Sequence[str]) -> list[str]:
    if STDIN in given:
        if len(given) > 1:
            raise UsageError("- (standard input) can't be mixed with other inputs")
        return [STDIN]
    inputs: list[str] = []
    for uri in given:
        if uri.endswith((".yaml", ".yml")):
            raise UsageError(f"{uri} is YAML; the inputs are files of JSONL")
        found = storage.expand(uri)
        if found != [uri]:
            found = [one for one in found if not one.endswith(_ANSWERS)]
        if not found:
            raise UsageError(f"{uri} matches no file")
        inputs += found
    return inputs


def default_output(inputs: list[str]) -> str:
    """Where the output goes unless it was told otherwise. Raises UsageError if the inputs are not on this machine."""
    if inputs == [STDIN]:
        return STDOUT
    if not all(storage.is_local(uri) for uri in inputs):
        raise UsageError("the inputs are not on this machine: say by -o where the output should go")
    if len(inputs) == 1:
        return _answers_name(Path(inputs[0]))
    return str(Path(os.path.commonpath([Path(uri).absolute().parent for uri in inputs])) / "responses") + "/"


def _targets(output: str, inputs: list[str], scratch: Path) -> list[Path]:
    if output == STDOUT:
        return [scratch / "stdout.jsonl"] * len(inputs)
    if not output.endswith("/"):
        return [Path(output)] * len(inputs)
    names = [_answers_name(Path(uri.rsplit("/", 1)[-1]) if uri != STDIN else Path("stdin")) for uri in inputs]
    if len(set(names)) < len(names):
        raise UsageError("two inputs have the same name: give an output file by -o instead of a folder")
    return [Path(output) / name for name in names]


def _answers_name(path: Path) -> str:
    stem = path.name.removesuffix(path.suffix) if path.suffix in _SUFFIXES else path.name
    return str(path.with_name(f"{stem}{_ANSWERS}"))


def _check_overlap(inputs: list[str], outputs: list[Path]) -> None:
    if len(outputs) > len(inputs) and outputs[-1].resolve() in {output.resolve() for output in outputs[:-1]}:
        raise UsageError(f"--errors names the output itself: {outputs[-1]}")
    read = {Path(uri).resolve() for uri in inputs if uri != STDIN and storage.is_local(uri)}
    for output in outputs:
        if output.resolve() in read:
            raise UsageError(f"{output} is both an input and the output")
