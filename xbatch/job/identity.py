"""What makes a job this job: its inputs and everything that changes its answers."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xbatch.display import counted, lines
from xbatch.errors import UsageError
from xbatch.job.fingerprint import edges
from xbatch.job.spec import JobSpec
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


@dataclass(frozen=True, slots=True)
class Change:
    """A field of the identity that differs from what the job began with."""

    field: str
    before: str
    now: str
    way_on: str
    """The flag that accepts it; empty if there is none."""


def identify(
    spec: JobSpec, inputs: Mapping[str, Stat], model: str | None, versions: Mapping[str, Any]
) -> dict[str, Any]:
    """Name everything that must not change between two runs of one job.

    `versions` adds what is known of the engine and the model.
    """
    return {
        "inputs": [_input(uri, found) for uri, found in inputs.items()],
        "model": model,
        **versions,
        "served_model_name": spec.served_model_name,
        "lora_modules": spec.lora_modules,
        "engine_args": {n: _content(v) for n, v in spec.engine_args.items() if n not in SPEED_ONLY | FAKE_ONLY},
        "request": spec.request,
        "parse": spec.parse,
        "format": spec.format,
        "max_line_bytes": spec.max_line_bytes,
    }


def changes(before: dict[str, Any], now: dict[str, Any], same_bytes: Callable[[str], bool]) -> list[Change]:
    """Fields that differ; `same_bytes` compares all of an input with what the job has read."""
    found = list(_input_changes(before, now, same_bytes))
    flat_before, flat_now = _flat(before), _flat(now)
    for name in sorted({*flat_before, *flat_now}):
        old, new = flat_before.get(name), flat_now.get(name)
        unknown = name == "model_version" and None in (old, new)  # its download is still to come
        if old != new and not unknown:
            way_on = "" if name in FIXED else f"--accept-change {name}"
            found.append(Change(name, _shown(old), _shown(new), way_on))
    return found


def agree(job: str, changed: list[Change], accept: Iterable[str], *, extend: bool) -> list[str]:
    """Names of the fields that have changed, all of them accepted.

    Raises UsageError with a table of the others.
    """
    accepted = set(accept)
    refused = [
        each
        for each in changed
        if not (each.way_on == "--extend" and extend)
        and not (each.way_on.startswith("--accept-change") and any(_covers(name, each.field) for name in accepted))
    ]
    if not refused:
        return [each.field for each in changed]
    width = max(len(each.field) for each in refused)
    rows = [f"  {each.field:{width}}  {each.before} -> {each.now}" for each in refused]
    ways = list(dict.fromkeys(each.way_on for each in refused if each.way_on))
    knowingly = f", go on knowingly by {' '.join(ways)}," if all(each.way_on for each in refused) else ","
    ways_on = f"choose another output by -o{knowingly} or throw away what it has done by --restart"
    raise UsageError(lines(f"{job} with other inputs or settings:", *rows, f"Run it as it was, {ways_on}"))


def merged(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The identity of a job that goes on with changes: its inputs keep their places, new ones come last."""
    by_uri = {each["uri"]: each for each in now["inputs"]}
    kept = [by_uri.pop(each["uri"], each) for each in before["inputs"]]
    known = {"model_version": now["model_version"] or before["model_version"]}
    return {
        **now,
        **known,
        "inputs": [*kept, *by_uri.values()],
        "extended": bool(by_uri) or before.get("extended", False),
    }


def _input(uri: str, found: Stat) -> dict[str, Any]:
    local = {"edges": edges(uri)} if uri != "-" else {}
    return {"uri": uri, "size_bytes": found.size_bytes, "version": found.version, **local}


def _content(value: Any) -> Any:
    """A setting; if it is the name of a small file, such as a chat template, with what the file holds."""
    if isinstance(value, str) and len(value) < 1024 and "\n" not in value and Path(value).is_file():
        return f"{value} ({edges(value)})"
    return value


def _input_changes(before: dict[str, Any], now: dict[str, Any], same_bytes: Callable[[str], bool]) -> Iterable[Change]:
    old, new = ({each["uri"]: each for each in identity["inputs"]} for identity in (before, now))
    for uri, was in old.items():
        field = f"inputs.{uri}"
        if (found := new.get(uri)) is None:
            yield Change(field, _version(was), "not among the inputs", "")
        elif found != was:
            alike = found["size_bytes"] == was["size_bytes"]
            if not (alike and found.get("edges") and found.get("edges") == was.get("edges") and same_bytes(uri)):
                yield Change(field, _version(was), _version(found), f"--accept-change {field}" if alike else "")
    for uri in new.keys() - old.keys():
        yield Change(f"inputs.{uri}", "not among the inputs", _version(new[uri]), "--extend")
    if not before.get("extended") and old.keys() == new.keys() and list(old) != list(new):
        yield Change("inputs", " ".join(old), " ".join(new), "")


def _version(found: dict[str, Any]) -> str:
    return f"{counted(found['size_bytes'], 'byte')}, version {found['version']}"


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in identity.items():
        if name in ("inputs", "extended"):
            continue
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": each for key, each in value.items()}
        else:
            flat[name] = value
    return flat


def _covers(name: str, field: str) -> bool:
    return field == name or field.startswith(f"{name}.")


def _shown(value: Any) -> str:
    return "none" if value in (None, [], {}) else str(value)
