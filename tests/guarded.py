"""Whole commands, each in a process of its own that is forked from one which has imported everything.

A command ends its process, changes its streams and blocks signals, so it can't run in the one of the tests; and to
start Python for each would take a second.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SANE = frozenset((0, 1, 2, 3, 4, 75))
"""Exit codes of commands in which xbatch makes no mistake."""
_LIMIT_S = 60

_SERVER = """
import faulthandler, importlib, json, os, signal, sys
for name in ("assemble.job", "assemble.validating", "assemble.watching", "report.validation", "report.closing",
             "report.progress", "schema.generate", "state.standing", "job.loading", "job.places", "cli.guard",
             "cli.suggesting", "cli.ending", "cli.stopping", "sources.parquet.source", "sinks.parquet", "rows.template",
             *(f"cli.{name}" for name in "run validate watch serve models status schema doctor".split())):
    try:
        importlib.import_module(f"xbatch.{name}")
    except ImportError:
        pass
import fsspec.implementations.memory, rich.console
import xbatch.cli

for line in sys.stdin.buffer:
    asked = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"])
        for number, path in ((0, asked["stdin"]), (1, asked["stdout"]), (2, asked["stderr"])):
            if path is not None:
                flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                opened = os.open(path, flags)
                os.dup2(opened, number)
                os.close(opened)
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            if asked[name] is None:
                os.close(number)
        sys.stdin = sys.stdout = sys.stderr = None
        if asked["stdin"] is not None:
            sys.stdin = os.fdopen(0, "r", closefd=False)
        if asked["stdout"] is not None:
            sys.stdout = os.fdopen(1, "w", closefd=False)
        if asked["stderr"] is not None:
            sys.stderr = os.fdopen(2, "w", closefd=False)
        signal.alarm(asked["limit_s"])
        code = 254
        try:
            xbatch.cli.main(asked["words"])
        except SystemExit as e:
            code = int(e.code or 0)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\\n")
    sys.stdout.flush()
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended; a negative code is a signal's, 254 is an exception that nobody has caught."""

    code: int
    out: str
    err: str

    @property
    def is_sane(self) -> bool:
        """The code is one for what comes from outside, and no traceback was shown."""
        return self.code in SANE and "Traceback" not in self.out + self.err


class Commands:
    """Runs commands."""

    def __init__(self, folder: Path) -> None:
        self._streams = folder
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )

    def run(
        self,
        folder: Path,
        words: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        closed: Sequence[str] = (),
        stdin: bytes = b"",
    ) -> Ended:
        """Run a command in `folder`; of its streams those are missing that are named in `closed`."""
        files = {name: self._streams / name for name in ("stdin", "stdout", "stderr")}
        files["stdin"].write_bytes(stdin)
        asked: dict[str, Any] = {name: None if name in closed else str(path) for name, path in files.items()}
        plain = {"PATH": os.environ.get("PATH", ""), "HOME": str(folder)}
        asked |= {"words": list(words), "cwd": str(folder), "env": {**plain, **(env or {})}, "limit_s": _LIMIT_S}
        for name in ("stdout", "stderr"):
            files[name].write_bytes(b"")
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(asked).encode() + b"\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        out, err = (files[name].read_bytes().decode("utf-8", "replace") for name in ("stdout", "stderr"))
        return Ended(code, out, err)

    def close(self) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(_LIMIT_S)
        self._server.stdout.close()


@contextmanager
def commands(folder: Path) -> Iterator[Commands]:
    """Run commands whose streams go through files in `folder`."""
    found = Commands(folder)
    try:
        yield found
    finally:
        found.close()
