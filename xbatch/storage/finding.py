"""Which files a URI names: itself, the matches of a glob, or what a folder holds."""

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from os.path import commonprefix
from pathlib import Path
from typing import Any

from fsspec.utils import glob_translate

from xbatch.storage.filesystems import READ_ONLY, protocol_of, same_place
from xbatch.storage.naming import as_text, is_local, local_path
from xbatch.storage.reading import ask
from xbatch.storage.trouble import Trouble, if_there

_GLOB = "*?["
_EVERY = "**"
_HIDDEN = (".", "_")


def is_folder(uri: str) -> bool:
    """Tell whether a URI names a folder. Raises StorageError."""
    if is_local(uri):
        return local_path(uri).is_dir()
    if protocol_of(uri) in READ_ONLY:
        return False
    return bool(ask(uri, lambda fs, path: _kind_of(fs, path) == "directory"))


def expand(uri: str) -> list[str]:
    """List the files that a URI names: itself, the matches of a glob, or what a folder holds, in name order.

    A glob that ends in a slash stands for what the folders that match hold. Whatever exists under the name itself is
    meant before a glob is. Left out unless they are named themselves are files and folders whose names begin with a
    dot or an underscore. Links are followed; one that leads nowhere is listed, so that opening it says so. Raises
    OSError for a place on this machine that can't be looked at, StorageError for one in a store.
    """
    if is_local(uri):
        found = _local_matches(local_path(uri), ends_in_slash=uri.endswith("/"))
        return [uri] if found is None else [_relative(each) for each in found]
    if protocol_of(uri) in READ_ONLY:
        return [uri]
    named = ask(uri, lambda fs, path: _matches(fs, path, uri), {Trouble.REFUSED: None})
    return [uri] if named is None else named


def files_below(uri: str, most: int) -> list[str]:
    """List at most `most` files that lie in the folders below a folder, but not in itself; hidden ones are left out.

    Raises as `expand` does.
    """
    found: list[str] = []
    if is_local(uri):
        for folder in islice(_folders_below(local_path(uri)), 1, None):
            found += [_relative(each) for each in _files_in(folder)]
            if len(found) >= most:
                break
        return found[:most]

    def walk(fs: Any, path: str) -> list[str]:
        folders = deque([path.rstrip("/")])
        names: list[str] = []
        while folders and len(names) < most:
            for info in sorted(fs.ls(folders.popleft(), detail=True), key=lambda info: str(info["name"])):
                name = str(info["name"]).rstrip("/")
                if name.rpartition("/")[2].startswith(_HIDDEN):
                    continue
                if info["type"] == "directory" and name != path.rstrip("/"):
                    folders.append(name)
                elif info["type"] == "file" and name.rpartition("/")[0] != path.rstrip("/"):
                    names.append(_uri_of(name, path, uri))
        return names[:most]

    return list(ask(uri, walk))


def file_key(uri: str) -> object:
    """Return what two URIs share if they name one file, by links of any kind too."""
    if is_local(uri):
        try:
            found = local_path(uri).stat()
        except OSError:
            return same_place(uri)
        if found.st_ino:
            return found.st_dev, found.st_ino
    return same_place(uri)


def glob_root(uri: str) -> str:
    """Return the folder in which a glob begins to look; empty if that is the working directory."""
    at = min((at for c in _GLOB if (at := uri.find(c)) >= 0), default=len(uri))
    return uri[:at].rpartition("/")[0]


def _local_matches(path: Path, *, ends_in_slash: bool) -> list[str] | None:
    """Return the files that a path names if it is a glob or a folder, None if it is neither."""
    if str(path).startswith("~/") and not os.path.lexists(path):
        path = path.expanduser()
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if os.path.lexists(path) or not _is_pattern(str(path)):
            return None
    else:
        return sorted(_files_in(path.absolute())) if path.is_dir() else None
    root, *parts = path.absolute().parts
    return sorted(set(_walk([Path(root)], [*parts, "*"] if ends_in_slash else parts)))


def _walk(folders: Iterable[Path], parts: list[str]) -> Iterator[str]:
    """Yield the files that lie in the folders by a path whose parts may be globs."""
    part, *rest = parts
    if part == _EVERY:
        yield from _walk((each for folder in folders for each in _folders_below(folder)), rest or ["*"])
        return
    for folder in folders:
        place = folder / part
        if not _is_pattern(part) or os.path.lexists(place):
            if rest:
                yield from _walk([place], rest)
            elif not part.startswith(_HIDDEN) and not place.is_dir() and os.path.lexists(place):
                yield str(place)
            continue
        fits = _fitting(part)
        if rest:
            yield from _walk([each for each in _folders_in(folder, part[:1]) if fits(each.name)], rest)
        else:
            yield from (each for each in _files_in(folder) if fits(each.rpartition("/")[2]))


def _is_pattern(name: str) -> bool:
    return any(c in name for c in _GLOB)


def _fitting(part: str) -> Callable[[str], object]:
    """Match names against one part of a glob."""
    return re.compile(glob_translate(re.sub(r"\*\*+", "*", part))).match


def _files_in(folder: Path) -> Iterator[str]:
    """Yield the files of a folder that are not hidden; links that lead nowhere are among them."""
    for entry in _entries(folder):
        if not entry.name.startswith(_HIDDEN) and (_is(entry.is_file) or (entry.is_symlink() and not _leads(entry))):
            yield entry.path


def _folders_in(folder: Path, first: str = "") -> Iterator[Path]:
    """Yield the folders of a folder; a hidden one only if its name begins as `first` says."""
    for entry in _entries(folder):
        if (not entry.name.startswith(_HIDDEN) or entry.name[0] == first) and _is(entry.is_dir):
            yield Path(entry.path)


def _folders_below(folder: Path) -> Iterator[Path]:
    """Yield a folder and all that lie below it, each once even where links lead back up."""
    seen, waiting = set(), deque([folder])
    while waiting:
        place = waiting.popleft()
        try:
            found = place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if (found.st_dev, found.st_ino) not in seen:
            seen.add((found.st_dev, found.st_ino))
            yield place
            waiting.extend(sorted(_folders_in(place)))


def _entries(folder: Path) -> "list[os.DirEntry[str]]":
    """List what a folder holds; nothing if it is gone by now, or is none."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is(asked: Callable[[], bool]) -> bool:
    """Tell what an entry is, False for a link that leads round in a circle."""
    try:
        return asked()
    except OSError:
        return False


def _leads(entry: "os.DirEntry[str]") -> bool:
    """Tell whether a link leads to something."""
    try:
        entry.stat()
    except OSError:
        return False
    return True


def _relative(path: str) -> str:
    """Name a file as the user would: from here, if it lies below here."""
    below = as_text(os.path.relpath(path))
    if below.startswith(".."):
        return as_text(path)
    # Words that begin with @ are lists, and - is standard input.
    return f"./{below}" if below.startswith(("@", "-")) else below


def _matches(fs: Any, path: str, uri: str) -> list[str] | None:
    """Return the files of a store that a URI with this path names; None if it is neither a glob nor a folder."""
    kind = _kind_of(fs, path)
    if kind == "file":
        return None
    if kind == "directory":
        listed = fs.ls(path, detail=True)
        # A store may have an object that stands for the folder itself.
        found = {info["name"]: info for info in listed if info["name"].strip("/") != path.strip("/")}
        parts: list[str] = []
    elif _is_pattern(path):
        pattern = f"{path.rstrip('/')}/*" if uri.endswith("/") else path
        # fsspec's own way lists every level where it must, and leaves out in silence what it can't list.
        found = fs.glob(pattern, detail=True) if fs.async_impl and _EVERY in pattern else _glob(fs, pattern)
        parts = pattern.split("/")
    else:
        return None
    root = glob_root(path) if parts else path.rstrip("/")
    files = [
        name
        for name, info in found.items()
        if info["type"] == "file" and not name.endswith("/") and not _is_hidden(name, root, parts)
    ]
    return [_uri_of(name, path, uri) for name in sorted(files)]


def _kind_of(fs: Any, path: str) -> str | None:
    """Return what lies at a path of a store, None if nothing does. fs.exists() and fs.isdir() hide errors."""
    found = if_there(lambda: fs.info(path))
    return None if found is None else str(found["type"])


def _is_hidden(name: str, root: str, pattern: list[str]) -> bool:
    """Tell whether a file, or a folder above it that no part of the glob spells out, is hidden."""
    *folders, last = name.removeprefix(root).split("/")
    spelt = {part[:1] for part in pattern}
    return last.startswith(_HIDDEN) or any(each.startswith(_HIDDEN) and each[0] not in spelt for each in folders)


def _glob(fs: Any, pattern: str) -> dict[str, dict[str, Any]]:
    """Return what a glob names in a store."""
    root = glob_root(pattern)
    levels = float("inf") if _EVERY in pattern else pattern.count("/") - root.count("/")
    matches = re.compile(glob_translate(pattern)).match
    found: dict[str, dict[str, Any]] = {}
    folders = [(root, 1)]
    for folder, level in folders:
        for info in if_there(partial(fs.ls, folder or fs.root_marker, detail=True)) or ():
            if info["type"] == "directory" and level < levels and info["name"].rstrip("/") != folder:
                folders.append((info["name"].rstrip("/"), level + 1))
            elif matches(info["name"]):
                found[info["name"]] = info
    return found


def _uri_of(name: str, path: str, uri: str) -> str:
    """Return the URI of a file of which only the path is known, on the host and in the archive of another URI."""
    own, chained, outer = uri.rstrip("/").partition("::")
    own, path = own.rstrip("/"), path.rstrip("/")
    same = len(commonprefix([own[::-1], path[::-1]]))  # noqa: RUF071 - characters are what is to be compared
    return own[: len(own) - same] + name.removeprefix(path[: len(path) - same]) + chained + outer
