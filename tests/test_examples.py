"""Every file of `examples/` runs as it is, against a real server."""

import subprocess
from pathlib import Path

import pytest
from client_environments import REPOSITORY, python_of, variables
from online import Online

from xbatch.demo import questions

EXAMPLES = REPOSITORY / "examples"
ANSWERS = dict(questions())
RUN = {
    "chat.sh": ("",),
    "openai_chat.py": ("a", "b"),
    "xinference_chat.py": ("a", "b"),
    "langchain_openai_chat.py": ("a",),
    "langchain_xinference_chat.py": ("b",),
    "llama_index_chat.py": ("a",),
}
"""The environments that each example is run in; none for what is no Python."""
SUBJECTS = ("largest animal", "tallest animal", "largest bird")
"""What every example asks about."""


def run(server: Online, words: list[str], folder: Path) -> str:
    done = subprocess.run(
        words,
        cwd=folder,
        env=variables(XBATCH_URL=server.address, XBATCH_MODEL="demo"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "environment"), [(name, each) for name, environments in RUN.items() for each in environments]
)
def test_example(demo_server: Online, tmp_path: Path, name: str, environment: str) -> None:
    """It ends well, and shows the right answers."""
    shell = python_of(environment) if environment else "bash"
    shown = run(demo_server, [shell, str(EXAMPLES / name)], tmp_path)
    for subject in SUBJECTS:
        assert ANSWERS[f"What is the {subject}?"] in shown


def test_no_example_is_left_out() -> None:
    """The page in Gradio is driven by a client of Gradio's, as one of the clients' checks."""
    by_check = {"gradio_chat.py"}
    assert "examples/gradio_chat.py" in (REPOSITORY / "tests/clients/with_gradio_example.py").read_text("utf-8")
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {*RUN} | by_check


@pytest.mark.parametrize("name", [path.name for path in EXAMPLES.glob("*.*")])
def test_examples_say_what_they_need(name: str) -> None:
    """What is to be installed, and the variables, are said at the beginning."""
    beginning = "\n".join((EXAMPLES / name).read_text("utf-8").splitlines()[:9])
    assert "XBATCH_URL, XBATCH_MODEL and XBATCH_API_KEY" in beginning
    assert "pip install" in beginning or name.endswith(".sh")
