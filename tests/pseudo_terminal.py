"""A command on a terminal, as its user sees it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

COLUMNS, ROWS = 200, 50
_CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_STEP = re.compile(r"(\x1b\[[0-9;?]*[A-Za-z])|(.)", re.DOTALL)
"""What a terminal does next: obey a control sequence, or show a character."""


class Shown(NamedTuple):
    """What a command has written to its terminal, and how it ended."""

    returncode: int
    raw: bytes

    @property
    def text(self) -> str:
        """Everything that was ever shown, without colours and moves of the cursor."""
        return _CONTROL.sub(b"", self.raw).decode()

    @property
    def lines(self) -> list[str]:
        """The lines that remain on the screen, without empty ones."""
        screen, row, column = [""], 0, 0
        for control, char in _STEP.findall(self.raw.decode()):
            if control.endswith("A"):
                row -= int(control[2:-1] or 1)
            elif control.endswith("K"):
                screen[row] = ""
            elif char == "\r":
                column = 0
            elif char == "\n":
                row += 1
                screen += [""] * (row + 1 - len(screen))
            elif char:
                screen[row] = f"{screen[row]:{column}}"[:column] + char + screen[row][column + 1 :]
                column += 1
        return [line.rstrip() for line in screen if line.strip()]


def on_terminal(words: list[str], folder: Path, env: Mapping[str, str]) -> Shown:
    """Run a command on a terminal of its own."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    env = {**env, "TERM": "xterm-256color"}
    process = subprocess.Popen(words, cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    found = b""
    while True:
        try:
            data = os.read(ours, 1 << 16)
        except OSError:  # nobody has the terminal any more
            break
        if not data:
            break
        found += data
    os.close(ours)
    return Shown(process.wait(60), found)
