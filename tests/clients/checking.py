"""Checks of clients: registered by name, run in the client's own environment, told as one JSON object.

`python checking.py MODULE...` runs every check of these modules and prints {"module.check": "ok" | what went wrong},
an object a line, so that those before one that hangs are told.
The server's address is in XBATCH_URL; XBATCH_KEYED_URL is that of one that wants the key in XBATCH_KEY.
"""

import gc
import importlib
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

URL = os.environ.get("XBATCH_URL", "http://127.0.0.1:8000")
KEYED_URL = os.environ.get("XBATCH_KEYED_URL", URL)
KEY = os.environ.get("XBATCH_KEY", "")
MODEL = "demo"

QUESTION, ANSWER = "What is the largest animal?", "The largest animal is the blue whale."
OTHER_QUESTION, OTHER_ANSWER = "What is the tallest animal?", "The tallest animal is the giraffe."
SYSTEM = "You are a helpful assistant."
MESSAGES = [{"role": "user", "content": QUESTION}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weigh",
        "description": "Weighs an animal.",
        "parameters": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 6}, "legs": {"type": "integer", "enum": [2, 4]}},
            "required": ["name", "legs"],
            "additionalProperties": False,
        },
    },
}
CALL = {"name": "weigh", "arguments": {"name": "cat", "legs": 4}}
# The demo model knows no tools, so its answer is narrowed down to the one that calls this one.
CALLING = {"structured_outputs": {"choice": [f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>"]}}

CHECKS: dict[str, Callable[[], None]] = {}


def check(function: Callable[[], None]) -> Callable[[], None]:
    """Make a function one of its module's checks."""
    CHECKS[f"{function.__module__}.{function.__name__}"] = function
    return function


@contextmanager
def raises(kind: type[BaseException], *words: str) -> Iterator[None]:
    """What is inside raises this kind of error, and its text has these words."""
    raised = None
    try:
        yield
    except kind as e:
        raised = e
    assert raised is not None, f"no {kind.__name__} was raised"
    missing = [word for word in words if word not in str(raised)]
    assert not missing, f"{missing} is not in: {raised}"


def same(found: object, wanted: object) -> None:
    """The two are equal; else the text of the error shows both."""
    assert found == wanted, f"{found!r} is not {wanted!r}"


@contextmanager
def whole_xinference() -> Iterator[None]:
    """Inside, the client is also `xinference.client`, as where all of Xinference is installed."""
    before = set(sys.modules)
    sys.path.insert(0, str(Path(__file__).with_name("alias")))
    try:
        yield
    finally:
        del sys.path[0]
        for name in {each for each in sys.modules if each.partition(".")[0] == "xinference"} - before:
            del sys.modules[name]


def run(name: str) -> str:
    """Run a check; what went wrong is the end of the traceback."""
    try:
        CHECKS[name]()
    except Exception:  # noqa: BLE001 - a check's trouble is its result
        return traceback.format_exc(limit=-6)
    else:
        return "ok"
    finally:
        # A stream that a check has left open ends here, not in the middle of a later request, whose lock it would want.
        gc.collect()


def main(modules: list[str]) -> int:
    """Run all checks of the modules in their order; the exit code says whether all went well."""
    warnings.simplefilter("ignore")
    sys.modules["checking"] = sys.modules["__main__"]
    for module in modules:
        importlib.import_module(module)
    failed = 0
    for name in CHECKS:
        began = time.monotonic()
        told = run(name)
        failed += told != "ok"
        print(json.dumps({name: told}), flush=True)
        print(f"{time.monotonic() - began:6.2f} s {name}", file=sys.stderr, flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
