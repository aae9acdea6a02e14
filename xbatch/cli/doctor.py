"""`xbatch doctor`: what this machine can run, what is missing, and how to mend it."""

import json
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from xbatch import __version__
from xbatch.display import counted, shown, shown_json
from xbatch.engines.vllm.installed import EngineState, Problem, Trial, inspect_engine, try_import
from xbatch.errors import ExitCode

# A cold import reads some 2 GB from disk; on a slow network disk that takes minutes.
IMPORT_TIMEOUT_S = 300


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="Look at the files only; don't try to import vLLM.")
@click.pass_context
def doctor(context: click.Context, *, as_json: bool, quick: bool) -> None:
    """Tell what this machine can run, what is missing and how to mend it.

    Exits 0 if an engine can run here, 2 if not.
    """
    state = inspect_engine()
    trial = None
    if state.engine is not None and not quick:
        trial = try_import(IMPORT_TIMEOUT_S)
    problems = _judged(state, trial)
    can_run = not any(problem.blocking for problem in problems)
    findings = _findings(state, trial, problems, can_run=can_run)
    page = shown_json(json.dumps(findings, indent=2)) if as_json else _page(findings, color=sys.stdout.isatty())
    with suppress(BrokenPipeError):  # the exit code tells it to whoever doesn't read
        click.echo(page)
    context.exit(ExitCode.COMPLETE if can_run else ExitCode.UNUSABLE)


def _judged(state: EngineState, trial: Trial | None) -> list[Problem]:
    """The problems on disk, and what the import says: where it was tried, it decides whether they block."""
    if trial is None:
        return list(state.problems)
    if trial.error is None:
        return [replace(problem, blocking=False) for problem in state.problems]
    if not state.can_run:
        return list(state.problems)  # the error is explained already
    unexplained = f"vLLM can't be imported ({trial.error}); the command shows the whole error."
    return [*state.problems, Problem(unexplained, f'{sys.executable} -c "from vllm import LLM"')]


def _findings(state: EngineState, trial: Trial | None, problems: list[Problem], *, can_run: bool) -> dict[str, Any]:
    """All that the command tells, as JSON; sizes in bytes."""
    total_bytes, free_bytes = _memory_bytes()
    here = Path.cwd()
    return {
        "can_run": can_run,
        "xbatch": __version__,
        "python": {"version": state.python, "executable": sys.executable},
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": {"total_bytes": total_bytes, "free_bytes": free_bytes},
        "disk": {"path": str(here), "free_bytes": shutil.disk_usage(here).free},
        "gpus": list(state.gpus),
        "engine": {"name": state.engine.name, "version": state.engine.version} if state.engine else None,
        "torch": {"version": state.torch.version, "build": state.torch.build} if state.torch else None,
        "companions": {each.name: each.version for each in state.companions},
        "import": {"device": trial.device, "error": trial.error} if trial else None,
        "problems": [{"message": each.message, "remedy": each.remedy, "blocking": each.blocking} for each in problems],
    }


def _memory_bytes() -> tuple[int | None, int | None]:
    """Memory of the machine and how much of it is free, both lowered to the limit of the container."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None, None
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    total, free = kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return total, free
    return min(total, limit), min(free, max(limit - used, 0))


def _page(findings: dict[str, Any], *, color: bool) -> str:
    """Write the findings for a reader, one thing a line; `color` marks the verdict and the commands."""

    def paint(text: str, **style: Any) -> str:
        return click.style(text, **style) if color else text

    lines = [f"{name:<10}{shown(value)}" for name, value in _facts(findings)]
    for problem in findings["problems"]:
        mark = paint("problem", fg="red") if problem["blocking"] else paint("hint", fg="yellow")
        remedy = paint(shown(problem["remedy"]), bold=True)
        lines += ["", f"{mark}: {shown(problem['message'])}", f"  mend it: {remedy}"]
    if findings["can_run"]:
        lines += ["", paint("An engine can run here.", fg="green")]
    else:
        lines += ["", paint("No engine can run here.", fg="red")]
    return "\n".join(lines)


def _facts(findings: dict[str, Any]) -> list[tuple[str, str]]:
    engine, torch, trial = findings["engine"], findings["torch"], findings["import"]
    memory, disk, python = findings["memory"], findings["disk"], findings["python"]
    facts = [
        ("xbatch", findings["xbatch"]),
        ("Python", f"{python['version']} ({python['executable']})"),
        ("CPU", counted(findings["cpu_cores"], "core") if findings["cpu_cores"] else "?"),
        ("Memory", f"{_gib(memory['free_bytes'])} free of {_gib(memory['total_bytes'])}"),
        ("Disk", f"{_gib(disk['free_bytes'])} free at {disk['path']}"),
        ("GPU", ", ".join(findings["gpus"]) or "none visible"),
        ("Engine", f"{engine['name']} {engine['version']}" if engine else "none"),
        ("torch", torch["version"] if torch else "none"),
    ]
    if trial:
        facts.append(("Import", trial["error"] or f"works, runs on {trial['device']}"))
    return facts


def _gib(size_bytes: int | None) -> str:
    return "?" if size_bytes is None else f"{size_bytes / 2**30:.1f} GiB"
