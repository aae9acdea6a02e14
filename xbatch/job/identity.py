"""What makes a job this job: its inputs and everything that changes its answers."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from xbatch import storage
from xbatch.display import counted, lines
from xbatch.errors import UsageError
from xbatch.job.fingerprint import edges, model_version
from xbatch.job.inputs import STDIN
from xbatch.job.pairing import Input, describe_input, pair_inputs, place_of
from xbatch.job.spec import ENGINE_SECRETS, JobSpec
from xbatch.storage import Stat

SPEED_ONLY = frozenset(
    (
        "max_num_seqs",
        "max_num_batched_tokens",
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "enforce_eager",
        "enable_chunked_prefill",
        "enable_prefix_caching",
    )
)
"""Settings of the engine that make it faster or slower and may change while a job is unfinished."""
FIXED = frozenset(("format",))
"""Rows that are settled have it already."""
FAKE_ONLY = frozenset(("delay_s", "start_s", "cache_tokens", "max_in_flight", "crash_on", "fail_on", "poison", "log"))
"""Settings of the fake engine, none of which changes what it answers."""
_NO_PART = SPEED_ONLY | FAKE_ONLY | ENGINE_SECRETS
_WITH_CONTENT = re.compile(r"(.*) \(([0-9a-f]{32})\)", re.DOTALL)
"""A setting that names a file or a folder, with a digest of what is in it."""


@dataclass(frozen=True, slots=True)
class Change:
    """A field of the identity that differs from what the job began with."""

    field: str
    before: str
    now: str
    way_on: str
    """The flag that accepts it; empty if there is none."""
    hint: str = ""
    """A sentence about what has happened and what to do."""
    harmless: bool = False
    """It needs no flag; the hint is told, and the job goes on."""


def identify(
    spec: JobSpec, inputs: Mapping[str, Stat], model: str | None, versions: Mapping[str, Any]
) -> dict[str, Any]:
    """Name everything that must not change between two runs of one job.

    `versions` adds what is known of the engine and the model.
    """
    return {
        "inputs": [describe_input(uri, found) for uri, found in inputs.items()],
        "model": model,
        **versions,
        "served_model_name": spec.served_model_name,
        "lora_modules": {name: _adapter(place) for name, place in spec.lora_modules.items()},
        "engine_args": {n: _content(v) for n, v in spec.engine_args.items() if n not in _NO_PART},
        "request": spec.request,
        "parse": spec.parse,
        "format": spec.format,
        "max_line_bytes": spec.max_line_bytes,
    }


def changes(before: dict[str, Any], now: dict[str, Any], same_bytes: Callable[[int, int], bool]) -> list[Change]:
    """Return the fields that differ.

    `same_bytes` compares all of what the job has read of an input, by its position in the job, with what an input of
    this run holds, by its position there.
    """
    found = list(_input_changes(before["inputs"], now["inputs"], same_bytes))
    flat_before, flat_now = _flat(before), _flat(now)
    for name in sorted({*flat_before, *flat_now}):
        old, new = flat_before.get(name), flat_now.get(name)
        unknown = name == "model_version" and None in (old, new)  # its download is still to come
        unknown |= name == "model" and old is None  # no row could be sent before, so no model has answered any
        if not (unknown or _alike(old, new)):
            way_on = "" if name in FIXED else f"--accept-change {name}"
            found.append(Change(name, _shown(old), _shown(new), way_on))
    return found


def agree(job: str, changed: list[Change], accept: Iterable[str], *, extend: bool) -> list[str]:
    """Return the names of the fields that have changed, all of them accepted.

    Raises UsageError with a table of the others.
    """
    accepted = {storage.without_secrets(name) for name in accept}
    wanted = [each for each in changed if not each.harmless]
    refused = [
        each
        for each in wanted
        if not (each.way_on == "--extend" and extend)
        and not (each.way_on.startswith("--accept-change") and any(_covers(name, each.field) for name in accepted))
    ]
    if not refused:
        return [each.field for each in wanted]
    width = max(len(each.field) for each in refused)
    rows = [f"  {each.field:{width}}  {each.before} -> {each.now}" for each in refused]
    hints = dict.fromkeys(each.hint for each in refused if each.hint)
    ways = list(dict.fromkeys(each.way_on for each in refused if each.way_on))
    knowingly = f", go on knowingly by {' '.join(ways)}," if all(each.way_on for each in refused) else ","
    ways_on = f"choose another output by -o{knowingly} or throw away what it has done by --restart"
    raise UsageError(lines(f"{job} with other inputs or settings:", *rows, *hints, f"Run it as it was, {ways_on}"))


def merged(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return the identity of a job that goes on with changes: its inputs keep their places, new ones come last."""
    kept, new = list(before["inputs"]), []
    for i, found in zip(pair_inputs(before["inputs"], now["inputs"]), now["inputs"], strict=True):
        if i is None:
            new.append(found)
        else:
            kept[i] = found
    known = {"model_version": now["model_version"] or before["model_version"]}
    return {**now, **known, "inputs": [*kept, *new], "extended": bool(new) or before.get("extended", False)}


def _content(value: Any) -> Any:
    """Return a setting; if it names a small file, such as a chat template, with a digest of what the file holds."""
    if isinstance(value, str) and os.path.isfile(value):  # noqa: PTH113 - a text that no file can be called raises nothing
        return f"{value} ({edges(value)})"
    return storage.masked_all(value)


def _adapter(place: str) -> str:
    """Return an adapter's name or folder, a folder with a digest of its files."""
    return f"{place} ({model_version(place, None)})" if os.path.isdir(place) else storage.masked(place)  # noqa: PTH112


def _alike(old: Any, new: Any) -> bool:
    """Tell whether two values of a setting are the same, or name files or folders that hold the same."""
    if old == new or not (isinstance(old, str) and isinstance(new, str)):
        return bool(old == new)
    was, found = _WITH_CONTENT.fullmatch(old), _WITH_CONTENT.fullmatch(new)
    if was and found:
        return was[2] == found[2]
    # Jobs that began with an older xbatch have no digest of a folder.
    return (was[1] if was else old) == (found[1] if found else new)


def _input_changes(before: list[Input], now: list[Input], same_bytes: Callable[[int, int], bool]) -> Iterator[Change]:
    pairs = pair_inputs(before, now)
    now_of = {i: j for j, i in enumerate(pairs) if i is not None}
    for i, was in enumerate(before):
        if (j := now_of.get(i)) is None:
            yield _vanished(was)
        elif (change := _compared(was, now[j], partial(same_bytes, i, j))) is not None:
            yield change
    for found in (found for i, found in zip(pairs, now, strict=True) if i is None):
        name = _name(found)
        hint = f"--extend takes {name} in behind the inputs that the job has."
        yield Change(f"inputs.{name}", "not among the inputs", _version(found), "--extend", hint)
    known = [i for i in pairs if i is not None]
    if known != sorted(known) or None in pairs[: len(known)]:
        old, new = (" ".join(map(_name, inputs)) for inputs in (before, now))
        yield Change("inputs", old, new, "", "The inputs are in another order than those of the job.")


def _vanished(was: Input) -> Change:
    name = _name(was)
    hint = f"{name} is not among the inputs any more: name it again, for a job can only get more inputs."
    return Change(f"inputs.{name}", _version(was), "not among the inputs", "", hint)


def _compared(was: Input, found: Input, same_bytes: Callable[[], bool]) -> Change | None:
    """Tell how an input differs from what the job knows of it; None if it doesn't."""
    name, grown = _name(found), found["size_bytes"] - was["size_bytes"]
    field, versions = f"inputs.{name}", (_version(was), _version(found))
    moved, places = place_of(was) != place_of(found), (_address(was), _address(found))
    began = f"{name} was {places[0]} when the job began"
    if grown:
        what = f"{began}, and is another file now." if moved else _grown(name) if grown > 0 else _shrunk(name)
        return Change(field, *versions, "", what)
    same_version, local = was["version"] == found["version"], bool(found.get("edges"))
    alike = was.get("edges", "") == found.get("edges", "")
    if alike and same_version and not moved:
        return None
    accept = f"--accept-change {field}"
    if alike and local and same_bytes():
        hint = f"{began}, and holds the same"
        return Change(field, *places, "", hint, harmless=True) if moved else None
    if moved and same_version and was["version"] and not local:
        hint = f"{began}, and has the same size and version: {accept} goes on with it."
        return Change(field, *places, accept, hint)
    changed = f"{began}, and was changed" if moved else f"{name} was changed"
    hint = f"{changed}: {accept} goes on with it as it is now, and rows that are settled keep their answers."
    return Change(field, *versions, accept, hint)


def _grown(name: str) -> str:
    return (
        f"{name} has grown, and --extend takes only further files: put the new rows into a file of their own, "
        f"have {name} as it was, and name both with --extend."
    )


def _shrunk(name: str) -> str:
    return f"{name} has become shorter, and a job knows its rows by their position: have {name} as it was."


def _name(each: Input) -> str:
    return "standard input" if each["uri"] == STDIN else storage.without_secrets(each["uri"])


def _address(each: Input) -> str:
    return place_of(each) if storage.is_local(each["uri"]) else _name(each)


def _version(found: dict[str, Any]) -> str:
    return f"{counted(found['size_bytes'], 'byte')}, version {found['version']}"


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    """Return the settings by dotted names, without what is no part of them, which older jobs may hold."""
    flat: dict[str, Any] = {}
    for name, value in identity.items():
        if name in ("inputs", "extended"):
            continue
        if not isinstance(value, dict):
            flat[name] = value
        elif name == "request":
            flat |= {f"{name}.{key}": each for key, each in value.items()}
        else:
            flat |= {
                f"{name}.{key}": storage.masked_all(each) for key, each in value.items() if key not in ENGINE_SECRETS
            }
    return flat


def _covers(name: str, field: str) -> bool:
    return field == name or field.startswith(f"{name}.")


def _shown(value: Any) -> str:
    return "none" if value in (None, [], {}) else str(value)
