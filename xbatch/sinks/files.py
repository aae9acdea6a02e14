"""Responses as files: built in the spool, closed and synced, then each given its name by one put."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from xbatch import crash, storage
from xbatch.sinks import Claim, OutputRow, Published
from xbatch.sinks.blocks import blocks
from xbatch.sinks.building import Building, Format, part_pattern, part_uri, split_name, whole_name
from xbatch.sources import Source


class FileSink:
    """One output file for each target, in input order.

    `targets` holds the output of each input; inputs with the same target follow each other in it. With `errors`,
    failures go to that file instead. `format_of` tells how a file is written by its name; `carried` are the inputs
    whose columns are written too. With `max_file_bytes` every output is cut into parts, whose names tell how many
    there are.
    """

    def __init__(
        self,
        targets: Sequence[str],
        errors: str | None,
        spool: Path,
        format_of: Callable[[str], Format],
        carried: Sequence[Source] | None = None,
        max_file_bytes: int | None = None,
    ) -> None:
        self._targets = targets
        self._errors = errors
        self._spool = spool
        self._format_of = format_of
        self._carried = carried
        self._max_file_bytes = max_file_bytes

    def check(self) -> list[str]:
        """Refuse outputs that can't be written."""
        formats = list(dict.fromkeys(map(self._format_of, self._files)))
        notes = [note for form in formats for note in form.check()]
        # A folder of a store holds any name; to ask for each of thousands would take long.
        tried = {target if storage.is_local(target) else target.rpartition("/")[0]: target for target in self._files}
        for target in tried.values():
            storage.check_uri_writable(target)
        return notes

    def published(self, outputs: Sequence[Mapping[str, Any]]) -> bool:
        """The files that an earlier report tells of are this output, whole, and there."""
        # The folder may have been moved since, and then the files with it.
        sizes: dict[str, set[int]] = {}
        for each in outputs:
            sizes.setdefault(each["uri"].rpartition("/")[2], set()).add(each["num_bytes"])
        mine = [name for target in self._files for name in self._names_of(target, sizes)]
        return {*mine} == sizes.keys() and all(self._is_published(target, sizes) for target in self._files)

    def clean(self) -> None:
        """Remove half-written files beside the output."""
        for target in self._files:
            if self._max_file_bytes is None:
                storage.sweep_beside(target)
            else:
                storage.sweep_beside(f"{split_name(target)[0]}-0", prefix=True)

    def occupied(self) -> list[str]:
        """Return the files that lie at the names of the output, or at names that parts of it could have."""
        if self._max_file_bytes is None:
            return storage.existing(self._files)
        return self._parts()

    def publish(self, rows: Iterable[OutputRow], claim: Claim = lambda _: None) -> list[Published]:
        """Build every file in the spool, then give each its name."""
        with storage.translated(self._files[0]), ExitStack() as stack:
            outputs: dict[str, Building] = {}
            for i, target in enumerate(self._files):
                outputs[target] = Building(self._spool / f"part-{i}", self._format_of(target), self._max_file_bytes)
                stack.callback(outputs[target].clear)
            self._build(rows, outputs)
            finished = {target: output.close() for target, output in outputs.items()}
            crash.here("output-built")
            named = {target: self._names(target, len(files)) for target, files in finished.items()}
            mine = dict.fromkeys(uri for uris in named.values() for uri in uris)
            stale = [uri for uri in self._parts() if uri not in mine]
            claim([*mine, *stale])
            published = []
            for target, files in finished.items():
                for uri, built in zip(named[target], files, strict=True):
                    published.append(built.publish(uri))
                    crash.here("output-named")
            for uri in stale:
                storage.remove(uri)
            return published

    def _build(self, rows: Iterable[OutputRow], outputs: dict[str, Building]) -> None:
        before = self._targets[0]
        for block in blocks(rows, self._carried):
            if (target := self._targets[block.file]) != before:
                # Inputs come one after the other, and only so many files can be open.
                outputs[before].close()
                before = target
            for completed, run in block.runs() if self._errors else [(True, block)]:
                outputs[target if completed else self._errors or target].write(run)
            for _ in block.rows:
                crash.here("output-half")

    def _names_of(self, target: str, names: Iterable[str]) -> list[str]:
        """Those of the names that belong to a target."""
        name = target.rpartition("/")[2]
        if self._max_file_bytes is None:
            return [each for each in names if each == name]
        pattern = part_pattern(name)
        return [each for each in names if pattern.fullmatch(each)]

    def _is_published(self, target: str, sizes: Mapping[str, set[int]]) -> bool:
        names = self._names_of(target, sizes)
        if self._max_file_bytes is not None:
            pattern = part_pattern(target.rpartition("/")[2])
            totals = [int(found[1]) for each in names if (found := pattern.fullmatch(each))]
            if any(total != len(names) for total in totals):
                return False
        folder = target[: target.rfind("/") + 1]
        return bool(names) and all(storage.size_of(folder + each) in sizes[each] for each in names)

    def _names(self, target: str, files: int) -> list[str]:
        """Return the names of the files of an output."""
        return [target] if self._max_file_bytes is None else [part_uri(target, i, files) for i in range(files)]

    def _parts(self) -> list[str]:
        """Return what has the name of a part of the output: an earlier round may have made more parts, or fewer."""
        if self._max_file_bytes is None:
            return []
        folders = {target[: target.rfind("/") + 1]: target for target in self._files}
        found = (folder + name for folder, target in folders.items() for name in storage.names_beside(target))
        mine = set(self._files)
        return [uri for uri in found if whole_name(uri) in mine]

    @cached_property
    def _files(self) -> list[str]:
        return list(dict.fromkeys([*self._targets, *([self._errors] if self._errors else [])]))
