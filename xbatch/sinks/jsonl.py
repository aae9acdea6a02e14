"""Responses as JSONL files."""

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from xbatch import crash, storage
from xbatch.errors import StorageError, UsageError
from xbatch.sinks import OutputRow, Published

_BUFFER_BYTES = 1 << 20


class JsonlSink:
    """One line a response, in input order.

    `targets` holds the output of each input; inputs with the same target follow each other in it. With `errors`,
    failures go to that file instead.
    """

    def __init__(self, targets: list[Path], errors: Path | None, spool: Path) -> None:
        self._targets = targets
        self._errors = errors
        self._spool = spool

    def check(self) -> None:
        """Refuse outputs that can't be written."""
        for target in self._files():
            try:
                storage.check_writable(target)
            except OSError as e:
                kind = StorageError if storage.is_disk_trouble(e) else UsageError
                raise kind(f"the output {target} can't be written: {e.strerror or e}") from e

    def published(self, receipts: Iterable[dict[str, Any]]) -> bool:
        """Every file of the output is there, as the receipts say."""
        sizes = {Path(receipt["uri"]): receipt["num_bytes"] for receipt in receipts}
        return {*sizes} == {*self._files()} and all(
            target.is_file() and target.stat().st_size == size for target, size in sizes.items()
        )

    def clean(self) -> None:
        """Remove half-written files beside the output."""
        for target in self._files():
            storage.sweep_beside(target)

    def publish(self, rows: Iterable[OutputRow]) -> list[Published]:
        """Build every file in the spool, then give each its name."""
        with storage.translated(str(self._targets[0])), ExitStack() as stack:
            parts = {t: stack.enter_context(_Part(self._spool / f"part-{i}", t)) for i, t in enumerate(self._files())}
            for row in rows:
                target = self._errors if self._errors and not row.completed else self._targets[row.file]
                parts[target].write(row.line)
                crash.here("output-half")
            crash.here("output-built")
            return [part.publish() for part in parts.values()]

    def _files(self) -> list[Path]:
        return list(dict.fromkeys([*self._targets, *([self._errors] if self._errors else [])]))


class _Part:
    """One output file while it is built."""

    def __init__(self, spooled: Path, target: Path) -> None:
        self._spooled = spooled
        self._target = target
        self._rows = 0
        self._bytes = 0
        self._hash = hashlib.sha256()
        spooled.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(spooled, "wb", buffering=_BUFFER_BYTES)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._spooled.unlink(missing_ok=True)

    def write(self, line: bytes) -> None:
        line += b"\n"
        self._file.write(line)
        self._hash.update(line)
        self._rows += 1
        self._bytes += len(line)

    def publish(self) -> Published:
        storage.sync_file(self._file)
        self._file.close()
        self._target.parent.mkdir(parents=True, exist_ok=True)
        storage.publish_file(self._spooled, self._target)
        return Published(str(self._target), self._rows, self._bytes, self._hash.hexdigest())
