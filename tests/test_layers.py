"""The shape of the code: who may import whom, how large a file may be, what `--help` may load."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "xbatch"
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60

MAY_IMPORT: dict[str, set[str]] = {
    "masking": set(),
    "errors": {"masking"},
    "crash": set(),
    "threads": set(),
    "storage": {"masking", "errors", "crash", "threads"},
    "rows": {"errors"},
    "planning": {"rows", "threads"},
    "job": {"rows", "storage", "planning", "errors"},
    "engines": {"rows", "errors", "threads"},
    "sources": {"rows", "storage", "errors"},
    "sinks": {"rows", "sources", "storage", "errors", "crash"},
    "state": {"rows", "storage", "errors", "crash", "threads"},
    "report": {"state", "rows", "errors", "threads"},
    "demo": set(),
    "intake": {"planning", "rows"},
    "flight": {"intake", "engines", "planning", "rows", "state", "errors", "crash"},
    "run": {"flight", "intake", "engines", "planning", "state", "errors"},
    "finish": {"sinks", "state", "report", "masking", "errors", "crash"},
    "assemble": {
        *("run", "flight", "finish", "demo", "engines", "sources", "sinks", "state", "planning", "report"),
        *("rows", "job", "storage", "errors", "crash"),
    },
    "schema": {"job", "storage", "errors"},
    "cli": {"assemble", "run", "report", "state", "job", "errors", "engines", "schema", "serve", "threads"},
    "serve": {
        *("assemble", "run", "report", "job", "engines", "rows", "state", "sources", "storage", "schema"),
        *("planning", "errors", "crash", "threads"),
    },
    "__main__": {"cli"},
    "__init__": set(),
}
"""Parts of the package by name, each with the other parts that it may import; its own are always allowed."""

OWNERS: dict[str, tuple[str, ...]] = {
    "vllm": ("xbatch.engines.vllm",),
    "fsspec": ("xbatch.storage",),
    "click": ("xbatch.cli",),
    "pyarrow": ("xbatch.sources", "xbatch.sinks"),
    "fastapi": ("xbatch.serve", "xbatch.engines.vllm"),
    "uvicorn": ("xbatch.serve.serving",),
    "prometheus_client": ("xbatch.serve.metrics",),
    "starlette": ("xbatch.serve", "xbatch.engines.vllm"),
    "python_multipart": ("xbatch.serve.uploads",),
    "torch": ("xbatch.demo", "xbatch.engines.vllm"),
    "transformers": ("xbatch.demo",),
    "ray": ("xbatch.cluster",),
    "pydantic": ("xbatch.job.spec", "xbatch.job.loading", "xbatch.schema", "xbatch.engines.vllm", "xbatch.serve"),
    "jinja2": ("xbatch.rows.template", "xbatch.rows.template_use", "xbatch.engines.vllm.card"),
    "yaml": ("xbatch.job.yaml_text",),
    "rich": (
        "xbatch.report",
        "xbatch.cli.run",
        "xbatch.cli.status",
        "xbatch.cli.watch",
        "xbatch.cli.serve",
        "xbatch.cli.validate",
    ),
}
"""Libraries, each with the only modules that may import it."""

MEANINGLESS = {"util", "utils", "common", "helpers", "base", "core", "types", "manager", "misc"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(p): ast.parse(p.read_text("utf-8")) for p in sorted(PACKAGE.rglob("*.py"))}
PATHS = {module_name(p): p for p in sorted(PACKAGE.rglob("*.py"))}


def imports(name: str) -> Iterator[tuple[str, int]]:
    """Every module that a module imports anywhere, type-only imports included, with the line."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno} imports relatively"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in TREES else node.module), node.lineno


def part(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


def within(name: str, owners: tuple[str, ...]) -> bool:
    return any(name == owner or name.startswith(owner + ".") for owner in owners)


def test_every_part_has_a_rule() -> None:
    """No part of the package grows without a place in the order."""
    assert {part(name) for name in TREES} <= set(MAY_IMPORT)


def test_the_rules_go_one_way() -> None:
    """The order itself has no loop."""
    left = dict(MAY_IMPORT)
    while left:
        lowest = [name for name, below in left.items() if not below & set(left)]
        assert lowest, f"a loop among {sorted(left)}"
        for name in lowest:
            del left[name]


@pytest.mark.parametrize("name", sorted(TREES))
def test_direction(name: str) -> None:
    """Imports go one way, from the command line down to the errors."""
    own = part(name)
    wrong = [
        f"line {line}: {imported}"
        for imported, line in imports(name)
        if imported.split(".")[0] == "xbatch" and part(imported) not in {own, "__init__", *MAY_IMPORT[own]}
    ]
    assert not wrong


@pytest.mark.parametrize("name", sorted(TREES))
def test_libraries_stay_where_they_belong(name: str) -> None:
    """vLLM, fsspec, click and the like are known to as few modules as possible."""
    wrong = [
        f"line {line}: {imported}"
        for imported, line in imports(name)
        if (owners := OWNERS.get(imported.split(".")[0])) is not None and not within(name, owners)
    ]
    assert not wrong


def test_the_run_loop_knows_no_implementation() -> None:
    """The run loop, and everything else outside of a family, imports its interface or what opens it, nothing more."""
    implementations = (
        "xbatch.engines.fake",
        "xbatch.engines.vllm.engine",
        "xbatch.sources.jsonl",
        "xbatch.sources.parquet.source",
        "xbatch.sinks.files",
    )
    known_by = {
        name
        for name in TREES
        for imported, _ in imports(name)
        if imported in implementations and part(name) != part(imported)
    }
    assert not known_by


def test_no_loops() -> None:
    """No module imports itself by way of others, not even for types."""
    edges = {name: {i for i, _ in imports(name) if i in TREES and i != name} for name in TREES}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for below in edges[name]:
                visit(below, (*way, name))
            done.add(name)

    for name in edges:
        visit(name, ())


@pytest.mark.parametrize("name", sorted(TREES))
def test_sizes(name: str) -> None:
    """A file and a function can be read in one go."""
    assert len(PATHS[name].read_text("utf-8").splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, node.name


def test_names_mean_something() -> None:
    """No module is a drawer for whatever has no place."""
    assert not [name for name in TREES if set(name.split(".")) & MEANINGLESS]


def test_files_are_only_published_by_storage() -> None:
    """Nothing writes in place: `open` for writing over what is there occurs where a spool file is built only."""
    writers = set()
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
                modes = [a.value for a in node.args[1:2] if isinstance(a, ast.Constant)]
                modes += [k.value.value for k in node.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)]
                if any("w" in str(mode) or "a" in str(mode) for mode in modes):
                    writers.add(name)
    assert {name for name in writers if part(name) != "demo"} <= {"xbatch.sinks.building"}


BARE = {"Thread", "Timer", "ThreadPoolExecutor"}
"""What starts threads with an empty context; `xbatch.threads` has their like that take the starter's along."""


def test_threads_keep_the_context() -> None:
    """Every thread runs in a copy of its starter's context, so that it uses the stores as its job was told to."""
    bare = set()
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in BARE:
                bare.add(f"{name}:{node.lineno}")
            elif isinstance(node, ast.ImportFrom) and node.module in {"threading", "concurrent.futures"}:
                bare |= {f"{name}:{node.lineno}" for alias in node.names if alias.name in BARE}
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                to_default = node.func.attr == "run_in_executor" and isinstance(node.args[0], ast.Constant)
                bare |= {f"{name}:{node.lineno}"} if to_default else set()
    assert {where for where in bare if not where.startswith("xbatch.threads:")} == set()


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["run", "--help"], ["validate", "--help"]], ids=" ".join)
def test_help_is_light(words: list[str]) -> None:
    """Help needs none of the heavy libraries, and so answers at once."""
    script = (
        "import sys, xbatch.cli\n"
        "try:\n    xbatch.cli.main(sys.argv[1:])\n"
        "except SystemExit as e:\n    assert not e.code, e.code\n"
        "heavy = {'vllm', 'torch', 'pydantic', 'fsspec', 'rich', 'pyarrow', 'transformers', 'msgspec', 'asyncio'}\n"
        "heavy |= {'jinja2', 'yaml'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"
