"""Every client of the page, in the versions that its users have, against a real server.

The checks are in `clients/`, in scripts for the environments of the clients. They run all at once when the first of
these tests asks; each test tells what became of one check.
"""

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from client_environments import CLIENTS, ENVIRONMENTS, python_of, variables
from online import Online, fake_online

from xbatch.demo import questions

KEY = "sesame-open"
PATIENCE_S = 300
CHECKED = {
    "a": (
        *("with_openai", "with_openai_batches", "with_xinference", "with_langchain_openai", "with_langchain_community"),
        *("with_openai_like", "with_llama_index_xinference_today", "with_gradio_example"),
    ),
    "b": ("with_openai", "with_openai_batches", "with_xinference", "with_langchain_xinference"),
    "c": ("with_llama_index_xinference",),
    "d": ("with_legacy_xinference", "with_gradio_page"),
}
"""The clients that each environment has; `<name>.in` beside the scripts says in which versions."""


def checks_of(module: str) -> list[str]:
    """The names of a script's checks, read from it because it can't be imported here."""
    tree = ast.parse((CLIENTS / f"{module}.py").read_text("utf-8"))
    functions = [each for each in tree.body if isinstance(each, ast.FunctionDef)]
    return [f"{module}.{each.name}" for each in functions if "check" in map(ast.unparse, each.decorator_list)]


@dataclass(frozen=True)
class Running:
    """The checks of one environment while they run."""

    process: "subprocess.Popen[bytes]"
    told: Path
    log: Path

    def result(self, check: str) -> str:
        """What became of a check, when all of this environment are over."""
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
        found = {}
        for line in self.told.read_text("utf-8").splitlines():
            found |= json.loads(line)
        return str(found.get(check) or f"not run: {self.log.read_text(errors='replace')[-3000:]}")


@pytest.fixture(scope="session")
def running(demo_server: Online, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Running]]:
    """The checks of all environments, against the real server and one that wants a key."""
    folder = tmp_path_factory.mktemp("clients")
    with fake_online(folder, "--api-key", KEY) as keyed:
        env = variables(XBATCH_URL=demo_server.address, XBATCH_KEYED_URL=keyed.address, XBATCH_KEY=KEY)
        started = {}
        for name in ENVIRONMENTS:
            told, log = folder / f"{name}.jsonl", folder / f"{name}.log"
            words = [python_of(name), str(CLIENTS / "checking.py"), *CHECKED[name]]
            with told.open("wb") as out, log.open("wb") as err:
                process = subprocess.Popen(words, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
            started[name] = Running(process, told, log)
        yield started
        for each in started.values():
            each.process.kill()
            each.process.wait()


@pytest.mark.parametrize(
    ("environment", "check"),
    [
        pytest.param(name, check, id=f"{name}-{check.removeprefix('with_')}")
        for name, modules in CHECKED.items()
        for module in modules
        for check in checks_of(module)
    ],
)
def test_client(running: dict[str, Running], environment: str, check: str) -> None:
    """A client does what its documents say, in the environment of that name."""
    told = running[environment].result(check)
    assert told == "ok", told


def test_every_check_is_run() -> None:
    """No script of checks lies there unused."""
    assert {path.stem for path in CLIENTS.glob("with_*.py")} == {each for every in CHECKED.values() for each in every}


def test_the_checks_know_what_the_demo_model_knows() -> None:
    """The questions and answers in the scripts are of the demo model."""
    text = (CLIENTS / "checking.py").read_text("utf-8")
    pairs = re.findall(r'^(?:OTHER_)?QUESTION, \w+ = "(.+)", "(.+)"$', text, re.MULTILINE)
    assert len(pairs) == 2
    assert set(pairs) <= set(questions())


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environments_are_pinned(name: str) -> None:
    """What an environment holds is the same everywhere: exact versions, and no place that they come from."""

    def pins_of(file: Path) -> list[str]:
        lines = file.read_text("utf-8").splitlines()
        return [line.partition(" ;")[0] for line in lines if not line.startswith("#")]

    pins = pins_of(CLIENTS / f"{name}.txt")
    assert all(re.fullmatch(r"[a-z0-9.-]+==[\w.+]+", pin) for pin in pins)
    assert set(pins_of(CLIENTS / f"{name}.in")) <= set(pins)
    assert not {pin.partition("==")[0] for pin in pins} & {"torch", "vllm", "transformers", "xinference"}
