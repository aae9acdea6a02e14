"""The code on the page runs against xbatch as it is written there, with host, port and model filled in."""

import ast
import json
import re
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
from client_environments import CLIENTS, REPOSITORY, WHOLE_XINFERENCE, python_of, variables
from online import Online
from serving import Body

PAGE = (REPOSITORY / "tests/cases/page/chat-and-generate.rst").read_text("utf-8")
APIS = ("Chat API", "Generate API")
TABS = ("OpenAI Python Client", "Xinference Python Client")
MENDS = {
    # A bracket is opened that nothing closes.
    ("Generate API", "OpenAI Python Client"): ('model=("<MODEL_UID>"', 'model="<MODEL_UID>"'),
}
"""What does not run on any server, and the smallest change by which it does. Besides these, `xinference.client` is an
alias of `xinference_client` (tests/clients/alias), under which name Xinference's client installs by itself."""


def block(api: str, tab: str) -> str:
    """The code of one tab, as it stands on the page."""
    section = PAGE.partition(f"{api}\n-")[2].partition("\nGenerate API\n")[0]
    found = re.search(rf"\.\. code-tab:: \w+ {re.escape(tab)}\n\n((?: {{4}}.*\n|\n)+)", section)
    assert found, (api, tab)
    return textwrap.dedent(found[1]).strip() + "\n"


def filled(text: str, server: Online) -> str:
    host, _, port = server.address.removeprefix("http://").partition(":")
    for name, value in {"XINFERENCE_HOST": host, "XINFERENCE_PORT": port, "MODEL_UID": "demo"}.items():
        text = text.replace(f"<{name}>", value)
    return text


def output_of(words: list[str], folder: Path) -> Body:
    """The object that a command shows, as JSON or as Python writes it."""
    done = subprocess.run(
        words, cwd=folder, env=variables(**WHOLE_XINFERENCE), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    found: Body = json.loads(done.stdout) if done.stdout.startswith('{"') else ast.literal_eval(done.stdout)
    return found


def assert_has_the_shape_of(found: Any, documented: Any) -> None:
    """Everything that is documented is there, with a value of that type; there may be more."""
    assert type(found) is type(documented)
    if isinstance(documented, dict):
        for name, value in documented.items():
            assert_has_the_shape_of(found[name], value)
    elif isinstance(documented, list):
        assert len(found) == len(documented)
        for each, value in zip(found, documented, strict=True):
            assert_has_the_shape_of(each, value)


def assert_documented(found: Body, api: str) -> None:
    documented = json.loads(block(api, "output"))
    assert_has_the_shape_of(found, documented)
    assert (found["model"], found["object"]) == ("demo", documented["object"])
    assert found["id"].startswith(documented["id"].partition("-")[0])
    (choice,) = found["choices"]
    assert choice["finish_reason"] in ("stop", "length")
    assert choice["message"]["content"] if api == "Chat API" else choice["text"]
    usage = found["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert min(usage["prompt_tokens"], usage["completion_tokens"]) > 0


@pytest.mark.parametrize("api", APIS)
def test_curl(demo_server: Online, tmp_path: Path, api: str) -> None:
    """The commands of the tab "cURL"."""
    script = tmp_path / "block.sh"
    script.write_text(filled(block(api, "cURL"), demo_server), "utf-8")
    assert_documented(output_of(["bash", str(script)], tmp_path), api)


@pytest.mark.parametrize("environment", ["a", "b"])
@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("api", APIS)
def test_python(demo_server: Online, tmp_path: Path, api: str, tab: str, environment: str) -> None:
    """The code of the other tabs, with the clients of today and with older ones; the value at its end is the answer."""
    code = block(api, tab)
    if (api, tab) in MENDS:
        broken, mended = MENDS[api, tab]
        assert code.count(broken) == 1
        code = code.replace(broken, mended)
    script = tmp_path / "block.py"
    script.write_text(filled(code, demo_server), "utf-8")
    found = output_of([python_of(environment), str(CLIENTS / "run_block.py"), str(script)], tmp_path)
    # The page's code for the Generate API and OpenAI's client asks the Chat API.
    assert_documented(found, "Chat API" if tab == "OpenAI Python Client" else api)


def test_mends_are_needed() -> None:
    """What is mended is broken: no Python takes it."""
    for api, tab in MENDS:
        with pytest.raises(SyntaxError):
            ast.parse(block(api, tab))
