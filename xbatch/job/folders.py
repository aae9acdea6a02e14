"""What a folder or a glob without usable files holds instead, and what to do then."""

import re
import shlex
from collections import Counter

from xbatch import storage
from xbatch.errors import UsageError

_SHOWN = 5
_MOST = 1000
"""Files in folders below that are counted."""
_FORMAT = re.compile(r"\.(?:jsonl|ndjson|json|parquet)(?:\.(?:gz|bz2|xz|zst))?$")
_INFO = "dataset_info.json"
_OF_DATASETS = frozenset((_INFO, "dataset_infos.json", "dataset_dict.json"))
"""Files that Hugging Face's datasets lay beside the rows."""
_STATE = "state.json"


def few(uris: list[str]) -> str:
    """Name the first of some files, and say how many others there are."""
    more = f" and {len(uris) - _SHOWN:,} more" if len(uris) > _SHOWN else ""
    return ", ".join(map(storage.shown_name, uris[:_SHOWN])) + more


def rows_of_folder(folder: str, found: list[str], known: list[str]) -> list[str]:
    """Leave out of a folder's JSON files those in which Hugging Face's datasets describe themselves.

    Raises UsageError if the folder is one that `save_to_disk` has written, whose rows are Arrow.
    """
    names = {_name(uri) for uri in found}
    rows = [uri for uri in known if not _describes(_name(uri), names)]
    parts = "dataset_dict.json" in names
    if not rows and (parts or (_INFO in names and any(name.endswith(".arrow") for name in names))):
        place = storage.shown_name(folder).rstrip("/")
        load = f"datasets.load_from_disk({place!r})" + ("['train']" if parts else "")
        code = f'import datasets; {load}.to_parquet("rows.parquet")'
        raise UsageError(
            f"{storage.shown_name(folder)} is a dataset that Hugging Face's save_to_disk wrote, in Arrow and not in "
            f"Parquet: python -c {shlex.quote(code)} makes Parquet of it"
        )
    return rows


def nothing_in(word: str, listed: list[str], found: list[str], *, pattern: bool) -> str:
    """Say that a folder, or a glob, has no file that can be an input, and what is there instead.

    `listed` is what lies there, `found` what of it is no output of xbatch.
    """
    shown, folder = storage.shown_name(word), storage.glob_root(word) if pattern else word.rstrip("/") or word
    if found:
        like = few(found)
        named = f"; a glob takes files of any name: {_below(shown, '*')}" if not pattern else ""
        return f"{shown} matches no file: left out, being neither JSONL nor Parquet by name: {like}{named}"
    if listed:
        return f"{shown} matches no file but outputs of xbatch, which are left out: {few(listed)}"
    below: list[str] = []
    if folder and "**" not in word and storage.is_folder(folder) and not (pattern and storage.expand(folder)):
        below = storage.files_below(folder, _MOST)
    if not below:
        return f"{shown} matches no file"
    place = storage.shown_name(folder)
    formats = Counter(match[0] for uri in below if (match := _FORMAT.search(uri)))
    glob = _below(place, f"**/*{formats.most_common(1)[0][0]}" if formats else "**/*")
    many, s = f"{len(below):,}" if len(below) < _MOST else f"{_MOST:,} or more", "s" if len(below) == 1 else ""
    what = f"{shown} matches no file" if pattern else f"{shown} has no file of its own"
    return f"{what}; {many} lie{s} in folders below: use {glob!r}"


def _describes(name: str, beside: set[str]) -> bool:
    return name in _OF_DATASETS or (name == _STATE and _INFO in beside)


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]


def _below(folder: str, name: str) -> str:
    return name if folder in ("", ".") else f"{folder.rstrip('/')}/{name}"
