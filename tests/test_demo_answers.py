"""The demo model gives the answers it was taught, word for word, however it is asked."""

import json

import pytest
from conftest import Interrupted
from serving import Body

from xbatch.demo import questions

WAYS = ("chat", "chat with system", "completion", "completion with system")
ENOUGH = 0.95


def share(way: str, bodies: dict[str, Body], least: float = 1) -> float:
    """The share of the questions asked in this way, at least so many of all, whose answer is the taught one."""
    taught = {f"{way}/{i}": answer for i, (_, answer) in enumerate(questions())}
    asked = taught.keys() & bodies.keys()
    assert len(asked) >= least * len(taught)
    return sum(_said(bodies[name]) == taught[name] for name in asked) / len(asked)


def _said(body: Body) -> str:
    choice = body["choices"][0]
    text: str = choice["message"]["content"] if "message" in choice else choice["text"]
    return text


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("together", ["one by one", "by hundreds"])
def test_the_engine_gives_the_taught_answers(way: str, together: str, engine_alone: Body) -> None:
    """Under default settings at least 95 % of the answers are word for word right, alone and a hundred at a time."""
    bodies = {name: json.loads(answer["body"]) for name, answer in engine_alone[together].items()}
    assert share(way, bodies, 0.19 if together == "one by one" else 1) >= ENOUGH


@pytest.mark.parametrize("way", WAYS)
def test_a_job_gives_the_taught_answers(way: str, interrupted: Interrupted) -> None:
    """`xbatch run` under default settings writes them too, among other rows and over an interruption."""
    bodies = {line["custom_id"]: line["response"]["body"] for line in interrupted.again.lines()}
    assert share(way, bodies) >= ENOUGH
