"""What tells requests of one shape from others."""

from typing import Any

import pytest

from xbatch.engines.vllm.shape import shape_of
from xbatch.rows.request import CHAT, COMPLETIONS, Request

CHATTED = {"model": "demo", "messages": [{"role": "user", "content": "Why?"}]}
COMPLETED = {"model": "demo", "prompt": "Why?"}


def shape(body: dict[str, Any], *, to_context_end: bool = False) -> Any:
    endpoint = CHAT if "messages" in body else COMPLETIONS
    return shape_of(Request(0, "a", endpoint, body, 100, to_context_end))


def messages(*parts: Any) -> dict[str, Any]:
    return CHATTED | {"messages": list(parts)}


SAME = [
    (CHATTED, messages({"role": "system", "content": "Be brief."}, {"role": "user", "content": "How?"})),
    (CHATTED | {"max_tokens": 3}, CHATTED | {"max_tokens": 700}),
    (CHATTED | {"max_completion_tokens": 3}, CHATTED | {"max_completion_tokens": 4}),
    (CHATTED | {"seed": 0}, CHATTED | {"seed": 12345}),
    (CHATTED | {"user": "a"}, CHATTED | {"user": "b"}),
    (CHATTED | {"stream": True, "stream_options": {"include_usage": True}}, CHATTED),
    (CHATTED | {"temperature": 0, "top_p": 0.5}, CHATTED | {"top_p": 0.5, "temperature": 0}),
    (COMPLETED, COMPLETED | {"prompt": "How?"}),
    (COMPLETED | {"prompt": [1, 2]}, COMPLETED | {"prompt": [3]}),
]
OTHER = [
    (CHATTED, COMPLETED),
    (COMPLETED, COMPLETED | {"prompt": [1, 2]}),
    (CHATTED, CHATTED | {"max_tokens": 3}),
    (CHATTED | {"max_tokens": 3}, CHATTED | {"max_completion_tokens": 3}),
    (CHATTED | {"max_tokens": 3}, CHATTED | {"max_tokens": 0}),
    (CHATTED | {"max_tokens": 1}, CHATTED | {"max_tokens": True}),
    (CHATTED | {"max_tokens": 1}, CHATTED | {"max_tokens": 1.0}),
    (CHATTED | {"max_tokens": 3}, CHATTED | {"max_tokens": None}),
    (CHATTED | {"max_tokens": 3, "max_completion_tokens": 4}, CHATTED | {"max_tokens": 3, "max_completion_tokens": 5}),
    (CHATTED | {"seed": 1}, CHATTED),
    (CHATTED | {"seed": 1}, CHATTED | {"seed": -1}),
    (CHATTED | {"seed": 1}, CHATTED | {"seed": 1 << 63}),
    (CHATTED | {"temperature": 0}, CHATTED | {"temperature": 0.5}),
    (CHATTED | {"model": "other"}, CHATTED),
    (CHATTED | {"tools": []}, CHATTED),
]


@pytest.mark.parametrize(("one", "another"), SAME)
def test_prompts_limits_and_seeds_make_no_shape(one: dict[str, Any], another: dict[str, Any]) -> None:
    """Requests that differ in what the engine is told with each of them are of one shape."""
    assert shape(one).key == shape(another).key


@pytest.mark.parametrize(("one", "another"), OTHER)
def test_everything_else_does(one: dict[str, Any], another: dict[str, Any]) -> None:
    """Requests that vLLM may judge, run or answer in another way are of two shapes."""
    assert shape(one).key != shape(another).key


def test_what_is_a_requests_own() -> None:
    """Prompt, limit and seed are told beside the shape."""
    found = shape(CHATTED | {"max_tokens": 7, "seed": 8})
    assert (found.prompt, found.limit, found.seed) == (CHATTED["messages"], 7, 8)
    found = shape(COMPLETED)
    assert (found.prompt, found.limit, found.seed) == ("Why?", None, None)


@pytest.mark.parametrize(
    "body",
    [
        CHATTED | {"messages": []},
        CHATTED | {"messages": "Why?"},
        messages({"role": "user", "content": ""}),
        messages({"role": "user", "content": None}),
        messages({"role": "user", "content": [{"type": "text", "text": "Why?"}]}),
        messages({"role": "user", "content": "Why?", "name": "me"}),
        messages({"role": "tool", "content": "4"}),
        messages({"role": "developer", "content": "Be brief."}),
        messages({"role": ["user"], "content": "Why?"}),
        messages({"content": "Why?"}),
        messages("Why?"),
        COMPLETED | {"prompt": ""},
        COMPLETED | {"prompt": []},
        COMPLETED | {"prompt": ["Why?", "How?"]},
        COMPLETED | {"prompt": [[1, 2]]},
        COMPLETED | {"prompt": [1, True]},
        COMPLETED | {"prompt": None},
    ],
)
def test_other_prompts_have_no_shape(body: dict[str, Any]) -> None:
    """What is no plain prompt is left to vLLM as a whole."""
    assert shape(body) is None


def test_completions_to_the_end_have_no_shape() -> None:
    """Completions of which the end of the context is the limit go through vLLM's own classes."""
    assert shape(COMPLETED, to_context_end=True) is None
