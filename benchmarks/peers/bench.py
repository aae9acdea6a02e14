"""What the workloads of one run share: the folder, the models, each run so far, and the starts."""

import shutil
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers import rows
from benchmarks.peers.commands import COMMANDS, Setting, Task, count_answers
from benchmarks.peers.measuring import Measured, measure
from benchmarks.peers.models import make_model

FEW = 16
"""Rows of the short runs: what a long run's numbers have beyond a short one's is of answering, not of starting and
ending. Of speeds, the time until vLLM's engine is ready is left out besides, for it varies most."""


@dataclass(slots=True)
class Bench:
    """Runs commands and remembers what they took."""

    folder: Path
    scale: float = 1.0
    """Share of the rows that are run."""
    engine_scale: float = 1.0
    """Share of these where an engine answers them."""
    runs: list[dict[str, Any]] = field(default_factory=list)
    """Every run, as it goes into the results."""
    starts: dict[tuple[str, str], list[Measured]] = field(default_factory=lambda: defaultdict(list))
    """By peer and size of the model."""

    def scaled(self, count: int) -> int:
        """So many rows, or fewer in a trial."""
        return max(2 * FEW, round(count * self.scale))

    def answered(self, count: int, shrinks: float = 1.0) -> int:
        """So many rows, or fewer in a trial or where an engine takes long."""
        return self.scaled(round(count * self.engine_scale**shrinks))

    def answer(self, workload: str, peer: str, setting: Setting, file: Path, count: int) -> Measured:
        """Have a peer answer a file of `count` rows. Raises SystemExit if it fails, or answers fewer."""
        answers = self.folder / "answers" / f"{len(self.runs)}.jsonl"
        shutil.rmtree(answers.parent, ignore_errors=True)
        answers.parent.mkdir()
        task = Task(make_model(setting.size, self.folder), setting, file, answers)
        found = self.run(workload, peer, COMMANDS[peer](task), count, Path(f"{answers}.xbatch/vllm.log"))
        if (answered := count_answers(answers)) != count:
            raise SystemExit(f"{peer} has answered {answered} of {count} rows")
        return found

    def run(
        self, workload: str, label: str, command: list[str], count: int, engine_log: Path | None = None
    ) -> Measured:
        """Measure a command, tell of it, and keep it for the results; xbatch keeps the engine's log by itself."""
        found = measure(command, self.folder / "log", engine_log)
        self.runs.append({"workload": workload, "command": label, "rows": count, **asdict(found)})
        print(
            f"{workload:12} {label:22} {count:>7} rows {found.took_s:7.1f} s   CPU {found.own_cpu_s:6.1f} s own"
            f" {found.engine_cpu_s:7.1f} s engine   own peak {found.own_peak_bytes / 1e6:6.0f} MB",
            file=sys.stderr,
            flush=True,
        )
        return found

    def start(self, peer: str, setting: Setting, number: int) -> Measured:
        """The peer's short run of a round: it is made once for all workloads with the same model."""
        starts = self.starts[peer, setting.size]
        if len(starts) <= number:
            file = rows.write(self.folder / "few.jsonl", rows.unique(FEW))
            starts.append(self.answer("start", peer, setting, file, FEW))
        return starts[-1]
