"""Which files the words on the command line name."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from xbatch import storage
from xbatch.errors import UsageError
from xbatch.job.folders import few, nothing_in, rows_of_folder

STDIN = "-"
_STDIN = (STDIN, "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
_LIST = "@"
_MAX_LIST_BYTES = 64 << 20
_COMPRESSED = r"\.(gz|bz2|xz|zst)"
_KNOWN = re.compile(rf".*(\.(jsonl|ndjson|json)({_COMPRESSED})?|\.parquet)", re.DOTALL)
_EXTENSION = re.compile(rf"(\.(jsonl|ndjson|json))?({_COMPRESSED})?$|\.parquet$")


def find_inputs(
    given: Sequence[str], is_output: Callable[[str], bool], *, watched: bool = False
) -> tuple[list[str], list[str]]:
    """Return the files that the given words name, and sentences about what was left out.

    A word is a file, a glob, a folder, a URI of any of them, `@` and a file that holds one such word a line, or `-`.
    What a glob or a folder finds of which `is_output` is true is left out, and so is what a folder holds besides JSONL
    and Parquet. A file that globs or folders find again, also by a link, is taken once; one that two words name
    is refused. Of a `watched` folder links are files of their own, and an empty one is nothing unusual. Raises
    UsageError, or StorageError if a store can't be asked.
    """
    if any(map(is_stdin, given)):
        if len(given) > 1:
            raise UsageError("- (standard input) can't be mixed with other inputs")
        return [STDIN], []
    taken = _Taken(links_apart=watched)
    unknown: list[str] = []
    for word in _unlisted(given):
        if not word or "\0" in word:
            raise UsageError("an input has no name" if not word else f"{word!r} can't be the name of a file")
        if word.endswith((".yaml", ".yml")):
            raise UsageError(f"{storage.shown_name(word)} is YAML; the inputs are files of JSONL or Parquet")
        for uri in _found(word, is_output, unknown, watched=watched):
            taken.add(uri, named=uri == word)
    return taken.inputs, [*_notes(unknown), *taken.notes()]


class _Taken:
    """The inputs found so far, each file once."""

    def __init__(self, *, links_apart: bool) -> None:
        self.inputs: list[str] = []
        self._links_apart = links_apart
        self._by_key: dict[object, tuple[str, bool]] = {}
        self._again: list[str] = []

    def add(self, uri: str, *, named: bool) -> None:
        """Take a file in unless it is there; `named` tells that a word names it itself. Raises UsageError."""
        key = uri if self._links_apart else storage.file_key(uri)
        if key not in self._by_key:
            self._by_key[key] = uri, named
            self.inputs.append(uri)
            return
        first, first_named = self._by_key[key]
        if named and first_named:
            one, other = storage.shown_name(first), storage.shown_name(uri)
            if one == other:
                raise UsageError(f"{one} is named twice among the inputs")
            raise UsageError(f"{one} and {other} are the same file, which may be named once among the inputs")
        self._by_key[key] = first, first_named or named
        if first != uri:
            self._again.append(f"{storage.shown_name(uri)} ({storage.shown_name(first)})")

    def notes(self) -> list[str]:
        """Say which files were found under two names."""
        return [f"left out, being the same file as another input: {few(self._again)}"] if self._again else []


def is_stdin(word: str) -> bool:
    """Tell whether a word names standard input."""
    return word in _STDIN


def stem_of(uri: str) -> str:
    """Return a file's name without what tells its format."""
    folder, slash, name = uri.rpartition("/")
    at = found.start() if (found := _EXTENSION.search(name)) else len(name)
    return folder + slash + (name[:at] or name)


def _found(word: str, is_output: Callable[[str], bool], unknown: list[str], *, watched: bool) -> list[str]:
    """Return the files that a word names. Raises UsageError if there are none."""
    try:
        listed = storage.expand(word)
        if listed == [word]:
            return listed
        found = [one for one in listed if not is_output(one)]
        if not (word.endswith("/") or storage.is_folder(word)):
            if not found:
                raise UsageError(nothing_in(word, listed, [], pattern=True))
            return found
        known = rows_of_folder(word, found, [one for one in found if _KNOWN.fullmatch(one)])
        if watched and not known:
            raise UsageError(f"{storage.shown_name(word)} matches no file")
        if not known:
            raise UsageError(nothing_in(word, listed, found, pattern=not storage.is_folder(word)))
        taken = set(known)
        unknown += [one for one in found if one not in taken]
    except OSError as e:
        which, where = (storage.shown_name(storage.as_text(str(each))) for each in (word, e.filename or word))
        raise UsageError(f"{which} can't be read: {where + ': ' if where != which else ''}{e.strerror or e}") from e
    return known


def _unlisted(given: Sequence[str]) -> list[str]:
    """Return the words, with lists of them read."""
    words: list[str] = []
    for word in given:
        words += _listed(word[1:]) if word.startswith(_LIST) else [word]
    return words


def _listed(uri: str) -> list[str]:
    """Read the words of a list, one a line. Raises UsageError."""
    name = f"the list {storage.shown_name(uri)}"
    try:
        with TemporaryDirectory(prefix="xbatch-") as scratch:
            file = storage.spool_special(uri, Path(scratch) / "list") if storage.is_special(uri) else uri
            with storage.open_read(file) as lines:
                data = lines.read(_MAX_LIST_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"{name} does not exist") from None
    except OSError as e:
        raise UsageError(f"{name} can't be read: {e.strerror or e}") from e
    if len(data) > _MAX_LIST_BYTES or b"\0" in data:
        what = "is no text in UTF-8" if b"\0" in data else f"has more than {_MAX_LIST_BYTES >> 20} MiB"
        raise UsageError(f"{name} {what}")
    # Names of files are bytes, and need not be UTF-8.
    text = storage.as_text(data.decode("utf-8-sig", "surrogateescape"))
    words = [line.strip() for line in text.split("\n")]
    if not (found := [word for word in words if word and not word.startswith("#")]):
        raise UsageError(f"{name} names no input")
    return found


def _notes(unknown: list[str]) -> list[str]:
    return [f"left out, being neither JSONL nor Parquet by name: {few(unknown)}"] if unknown else []
