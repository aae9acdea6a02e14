"""From a job file and the flags of a command to a JobSpec."""

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias

from pydantic import ValidationError

from xbatch import storage
from xbatch.display import lines
from xbatch.errors import StorageError, UsageError
from xbatch.job.spec import ENGINE_SECRETS, JobSpec
from xbatch.job.yaml_text import BadYaml, YamlText, dumped

JOB_FILE_SUFFIXES = (".yaml", ".yml")

Path: TypeAlias = tuple[int | str, ...]
"""Where a value stands among the fields."""

_MERGED = ("engine", "lora_modules", "storage_options", "request")
_PLACES = ("inputs", "output", "errors", "state")
_MESSAGES = "messages"
_LARGEST = 1 << 20
"""Bytes that a job file may have."""
_SHOWN = 80
"""Characters of a wrong value that are shown."""
_BEYOND = ("greater_than", "less_than", "finite_number")
"""What pydantic's types of error begin with where a number is out of its range."""
_TYPE = re.compile(r"(str|int|float|bool|list|dict|function|constrained)\b")
_SECRET = re.compile("key|secret|token|password|passphrase|credential|connection_string", re.IGNORECASE)
_MARK = "\ue000"
"""Stands around the name of a variable until the text is YAML, where a `$` would be escaped."""
_FLAGS = {
    "inputs": "INPUT",
    "storage_options": "--storage-option",
    "engine": "--engine-arg",
    "request": "--prompt, --system or --messages",
}


def load_job(given: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> JobSpec:
    """Return the job that a command asks for; `given` holds the fields that its words give.

    If the first of `inputs` is a job file, the job is what that file says, with every given field in place of the
    file's; of `engine`, `lora_modules` and `storage_options` single settings, of `request` its single fields.
    Raises UsageError, with file and line, for whatever can't be understood.
    """
    given = {name: _readable(value) if name in _PLACES else value for name, value in given.items()}
    inputs = given.get("inputs") or [""]
    if not inputs[0].endswith(JOB_FILE_SUFFIXES):
        return _checked(given, lambda where: (0, _flag(where[0])))
    path = inputs[0]
    given |= {"inputs": inputs[1:]}
    if not inputs[1:]:
        del given["inputs"]
    text = read_job_file(path, environment)

    def place(where: Path) -> tuple[int, str]:
        name = where[0]
        if name in given and (name not in text.fields or name not in _MERGED):
            return 0, _flag(name)
        line = text.line(where) or 0
        return line, f"{path}:{line}: {_name(where)}" if line else f"{path}: {name}"

    return _checked(_overridden(text.fields, given), place)


def read_job_file(path: str, environment: Mapping[str, str] = os.environ) -> YamlText:
    """Read what a job file says, wherever it lies.

    Raises UsageError.
    """
    if storage.is_local(path) and (place := storage.local_path(path)).exists() and not place.is_file():
        raise UsageError(f"{path}: not a file, so it can't be a job file")
    try:
        with storage.open_read(path) as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise UsageError(f"{path}: larger than {_LARGEST:,} bytes, so it can't be a job file")
        return YamlText(text.decode(), environment)
    except BadYaml as e:
        raise UsageError(f"{path}:{e.line}: {e}" if e.line else f"{path}: {e}") from None
    except UnicodeDecodeError as e:
        raise UsageError(f"{path}: not valid UTF-8: {e.reason} at byte {e.start}") from None
    except (OSError, StorageError) as e:
        raise UsageError(f"{path}: {getattr(e, 'strerror', None) or e}") from e


def make_request(prompt: str | None, system: str | None, messages: list[Any] | None) -> dict[str, Any] | None:
    """A chat's request template: a system message, messages, and a user's message at their end; None without any."""
    if prompt is None and system is None and messages is None:
        return None
    first = [{"role": "system", "content": system}] if system is not None else []
    last = [{"role": "user", "content": prompt}] if prompt is not None else []
    return {_MESSAGES: [*first, *(messages or []), *last]}


def shown_job(spec: JobSpec) -> str:
    """Return the job as a job file, with everything filled in but for secrets, which it takes from the environment."""
    said = spec.model_dump(mode="json").items()
    plain: tuple[Any, ...] = (None, [], {})
    fields = {n: v for n, v in said if v not in plain and not (v is False and JobSpec.model_fields[n].default is False)}
    secrets = _Secrets()
    for name in ("inputs", "output", "errors", "state", "storage_options", "engine"):
        if name in fields:
            fields[name] = secrets.taken_out(fields[name], name.removesuffix("_options").upper())
    return secrets.filled_in(dumped(fields))


class _Secrets:
    """The secrets of a job, each with the environment variable from which the job that is shown takes it."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._times: Counter[str] = Counter()

    def taken_out(self, value: Any, name: str) -> Any:
        """Return a value of a job with a mark in place of every secret; `name` is where the value stands."""
        if isinstance(value, str):
            return storage.replace_secrets(value, lambda _: self._mark(f"{name}_SECRET"))
        if isinstance(value, list):
            return [self.taken_out(each, name) for each in value]
        if not isinstance(value, dict):
            return value
        is_secret = ENGINE_SECRETS.__contains__ if name == "ENGINE" else _SECRET.search
        below = {key: f"{name}_{re.sub('[^A-Z0-9]', '_', key.upper())}" for key in value}
        return {
            key: self._mark(below[key]) if is_secret(key) else self.taken_out(each, below[key])
            for key, each in value.items()
        }

    def filled_in(self, text: str) -> str:
        """Return the text of a job with variables in place of the marks, and a comment that names them."""
        for name in self._names:
            text = text.replace(f"{_MARK}{name}{_MARK}", f"${{{name}}}")
        named = ", ".join(self._names)
        return (
            f"# Secrets are left out. Before this job runs, set in the environment: {named}\n{text}" if named else text
        )

    def _mark(self, name: str) -> str:
        self._times[name] += 1
        found = name if self._times[name] == 1 else f"{name}_{self._times[name]}"
        self._names.append(found)
        return f"{_MARK}{found}{_MARK}"


def _readable(place: Any) -> Any:
    """Return the names of files, which need not be UTF-8, as texts that can be written down."""
    if isinstance(place, list):
        return [_readable(each) for each in place]
    return storage.as_text(place) if isinstance(place, str) else place


def _overridden(fields: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    merged = fields | given
    for name in _MERGED:
        ours, theirs = fields.get(name), given.get(name)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            kept = {k: v for k, v in ours.items() if not (name == "request" and k in ("prompt", _MESSAGES))}
            merged[name] = kept | theirs
    return merged


def _checked(fields: dict[str, Any], place: Callable[[Path], tuple[int, str]]) -> JobSpec:
    try:
        return JobSpec.model_validate(fields)
    except ValidationError as e:
        mistakes: dict[tuple[int, str], str] = {}  # of several for one value, as a union has them, the first is told
        for each in e.errors():
            mistakes.setdefault(place(each["loc"]), _told(each))
    raise UsageError(lines(*(f"{where}: {what}" for (_, where), what in sorted(mistakes.items()))))


def _name(where: Path) -> str:
    """A field as users write it, without the types by which pydantic tells the parts of a union apart."""
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in where if not _TYPE.match(str(step))]
    return "".join(steps).lstrip(".")


def _flag(name: int | str) -> str:
    return _FLAGS.get(str(name), f"--{str(name).replace('_', '-')}")


def _told(mistake: Any) -> str:
    if mistake["type"] == "extra_forbidden":
        close = get_close_matches(str(mistake["loc"][0]), JobSpec.model_fields, 1)
        return f"no field of a job{f'; did you mean {close[0]}?' if close else ''}"
    if mistake["loc"] == ("inputs",) and mistake["type"] == "missing":
        return "give files, globs, folders or URIs"
    if mistake["type"] == "string_pattern_mismatch":
        return f"should be a number or a share such as 1%, not {_shown(mistake['input'])}"
    if mistake["type"].startswith(_BEYOND) and (bounds := _range(str(mistake["loc"][0]))):
        return f"should be {bounds}, not {_shown(mistake['input'])}"
    if mistake["type"].startswith("byte_size"):
        return f"should be a size such as 256MiB, not {_shown(mistake['input'])}"
    message = str(mistake["msg"]).removeprefix("Value error, ").removeprefix("Input ").replace("dictionary", "mapping")
    given = mistake["input"]
    return (
        f"{message}, not {_shown(given)}" if message.startswith("should") and not isinstance(given, dict) else message
    )


def _range(name: str) -> str:
    """Return the range of a field that is a number, in words; empty if it has none."""
    found: dict[str, float] = {}
    for each in JobSpec.model_fields[name].metadata if name in JobSpec.model_fields else ():
        found |= {bound: value for bound in ("ge", "le") if (value := getattr(each, bound, None)) is not None}
    if not {"ge", "le"} <= found.keys():
        return ""
    return f"from {found['ge']:,} to {found['le']:,}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
