"""Which of a job's inputs each input of this run is.

A job knows its inputs by position. A run may name them from another folder, through a link, or with an address that
was signed anew, and they may have moved since.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from xbatch import storage
from xbatch.errors import StorageError
from xbatch.job.fingerprint import edges
from xbatch.job.inputs import STDIN
from xbatch.storage import Stat

Input: TypeAlias = dict[str, Any]
"""An input as job.json has it: `uri` as the user wrote it, but for secrets; `place`, which other spellings of it share;
`size_bytes`, `version`, and `edges` if it lies on this machine. Jobs that began with an older xbatch have no `place`,
and perhaps secrets in `uri`."""


def describe_input(uri: str, found: Stat) -> Input:
    """Return what tells one version of an input from another."""
    known = {"size_bytes": found.size_bytes, "version": found.version}
    if uri == STDIN:
        return {"uri": uri, **known}
    return {"uri": name_of(uri), "place": storage.same_place(uri), **known, "edges": edges(uri)}


def name_of(uri: str) -> str:
    """Return what an input is called in the state: as the user calls it, but for secrets."""
    return storage.without_secrets(uri)


def place_of(each: Input) -> str:
    """Return the place of an input; a relative name of an older xbatch is taken to start here."""
    uri: str = each["uri"]
    return uri if uri == STDIN else each.get("place") or storage.same_place(uri)


def is_same_version(was: Input, uri: str, found: Stat) -> bool:
    """Tell whether a file is an input as it was, without reading all of it; its folder may have moved."""
    if was["size_bytes"] != found.size_bytes:
        return False
    if place_of(was) == storage.same_place(uri) and was["version"] == found.version:
        return True
    now = describe_input(uri, found)
    return _content_and_name(now) is not None and _content_and_name(now) == _content_and_name(was)


def pair_inputs(before: Sequence[Input], now: Sequence[Input]) -> list[int | None]:
    """Return, for each input of this run, the position of the job's input that it is or may be; None if it is new.

    The same place is the same input, whatever lies there. Elsewhere it may be one of the same size and content, or of
    the same size and name; then the caller has to find out whether it is.
    """
    return _paired(before, now, (place_of, _content_and_name, _content, _size_and_name, _uri))


def pair_uris(before: Sequence[Input], uris: Sequence[str]) -> list[int | None]:
    """Do the same for inputs of which only the URIs are known; those that are not where they were are looked at."""
    now: list[Input] = [{"uri": uri, "place": storage.same_place(uri)} for uri in uris]
    pairs = _paired(before, now, (place_of,))
    if None not in pairs or len({*pairs}) > len(before):
        return pairs
    for j, uri in enumerate(uris):
        if pairs[j] is None:
            with suppress(OSError, StorageError):  # whoever opens it will tell what is wrong
                now[j] = describe_input(uri, storage.stat(uri))
    return pair_inputs(before, now)


def _paired(
    before: Sequence[Input], now: Sequence[Input], keys: Sequence[Callable[[Input], Hashable]]
) -> list[int | None]:
    """Pair what has the same key, by one key after the other, each time in order."""
    pairs: list[int | None] = [None] * len(now)
    for key in keys:
        paired = {*pairs}
        waiting: dict[Hashable, deque[int]] = defaultdict(deque)
        for i, was in enumerate(before):
            if i not in paired:
                waiting[key(was)].append(i)
        for j, found in enumerate(now):
            if waiting and pairs[j] is None and (value := key(found)) is not None and waiting[value]:
                pairs[j] = waiting[value].popleft()
    return pairs


def _content_and_name(each: Input) -> Hashable:
    content = _content(each)
    return content and (content, _name(each))


def _content(each: Input) -> Hashable:
    mark = each.get("edges") or (not _is_local(each) and each.get("version"))
    return ("size_bytes" in each and mark and (each["size_bytes"], mark)) or None


def _size_and_name(each: Input) -> Hashable:
    return (each["size_bytes"], _name(each)) if "size_bytes" in each else None


def _uri(each: Input) -> Hashable:
    return name_of(each["uri"])


def _name(each: Input) -> str:
    return place_of(each).rpartition("/")[2]


def _is_local(each: Input) -> bool:
    return storage.is_local(each["uri"])
