"""Which files the words on the command line name."""

import re
from collections.abc import Callable, Sequence

from xbatch import storage
from xbatch.errors import UsageError

STDIN = "-"
_LIST = "@"
_COMPRESSED = r"\.(gz|bz2|xz|zst)"
_KNOWN = re.compile(rf".*(\.(jsonl|ndjson|json)({_COMPRESSED})?|\.parquet)", re.DOTALL)
_EXTENSION = re.compile(rf"(\.(jsonl|ndjson|json))?({_COMPRESSED})?$|\.parquet$")
_SHOWN = 5


def find_inputs(given: Sequence[str], is_output: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """The files that the given words name, and sentences about what was left out.

    A word is a file, a glob, a folder, a URI of any of them, `@` and a file that holds one such word a line, or `-`.
    What a glob or a folder finds of which `is_output` is true is left out, and so is what a folder holds
    besides JSONL and Parquet. Raises UsageError, or StorageError if a store can't be asked.
    """
    if STDIN in given:
        if len(given) > 1:
            raise UsageError("- (standard input) can't be mixed with other inputs")
        return [STDIN], []
    inputs: list[str] = []
    unknown: list[str] = []
    for uri in _unlisted(given):
        if uri.endswith((".yaml", ".yml")):
            raise UsageError(f"{uri} is YAML; the inputs are files of JSONL or Parquet")
        found = _found(uri, is_output, unknown)
        if not found:
            raise UsageError(f"{uri} matches no file")
        inputs += found
    if len(set(inputs)) < len(inputs):
        twice = next(uri for i, uri in enumerate(inputs) if uri in inputs[:i])
        raise UsageError(f"{twice} is named twice among the inputs")
    return inputs, _notes(unknown)


def stem_of(uri: str) -> str:
    """A file's name without what tells its format."""
    folder, slash, name = uri.rpartition("/")
    at = found.start() if (found := _EXTENSION.search(name)) else len(name)
    return folder + slash + (name[:at] or name)


def _found(uri: str, is_output: Callable[[str], bool], unknown: list[str]) -> list[str]:
    try:
        found = storage.expand(uri)
        if found == [uri]:
            return found
        found = [one for one in found if not is_output(one)]
        if uri.endswith("/") or storage.is_folder(uri):
            unknown += [one for one in found if not _KNOWN.fullmatch(one)]
            found = [one for one in found if _KNOWN.fullmatch(one)]
    except OSError as e:
        raise UsageError(f"{uri} can't be read: {e.strerror or e}") from e
    return found


def _unlisted(given: Sequence[str]) -> list[str]:
    """The words, with lists of them read."""
    words: list[str] = []
    for word in given:
        if not word.startswith(_LIST):
            words.append(word)
            continue
        try:
            with storage.open_read(word[1:]) as file:
                lines = [line.strip() for line in file.read().decode("utf-8-sig").splitlines()]
        except FileNotFoundError:
            raise UsageError(f"the list {word[1:]} does not exist") from None
        except (OSError, UnicodeDecodeError) as e:
            raise UsageError(f"the list {word[1:]} can't be read: {e}") from e
        listed = [line for line in lines if line and not line.startswith("#")]
        if not listed:
            raise UsageError(f"the list {word[1:]} names no input")
        words += listed
    return words


def _notes(unknown: list[str]) -> list[str]:
    if not unknown:
        return []
    more = f" and {len(unknown) - _SHOWN:,} more" if len(unknown) > _SHOWN else ""
    return [f"left out, being neither JSONL nor Parquet by name: {', '.join(unknown[:_SHOWN])}{more}"]
