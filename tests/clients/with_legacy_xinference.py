"""Xinference's client 0.14, whose chat takes a prompt and always sends a system message, against xbatch."""

import json
from typing import Any

from checking import (
    ANSWER,
    CALL,
    CALLING,
    KEY,
    KEYED_URL,
    MODEL,
    OTHER_ANSWER,
    OTHER_QUESTION,
    QUESTION,
    SYSTEM,
    TOOL,
    URL,
    check,
    raises,
    same,
)
from xinference_client import RESTfulClient

CONFIG = {"max_tokens": 64, "temperature": 0}
STREAM = {**CONFIG, "stream": True}

client = RESTfulClient(URL)
model = client.get_model(MODEL)


def said(answer: Any) -> str:
    return answer["choices"][0]["message"]["content"]


@check
def chats_with_an_empty_system_message() -> None:
    same(said(model.chat(prompt=QUESTION, generate_config=CONFIG)), ANSWER)
    assert said(model.chat(QUESTION))


@check
def chats_with_a_system_message_and_a_history() -> None:
    same(said(model.chat(QUESTION, system_prompt=SYSTEM, generate_config=CONFIG)), ANSWER)
    history = [{"role": "user", "content": OTHER_QUESTION}, {"role": "assistant", "content": OTHER_ANSWER}]
    done = model.chat(QUESTION, system_prompt=SYSTEM, chat_history=history, generate_config=CONFIG)
    assert done["usage"]["prompt_tokens"] > 30
    assert said(done)


@check
def streams_a_chat() -> None:
    chunks = list(model.chat(QUESTION, generate_config=STREAM))
    same("".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks), ANSWER)


@check
def generates_and_streams() -> None:
    same(model.generate(QUESTION, CONFIG)["choices"][0]["text"], ANSWER)
    same("".join(chunk["choices"][0]["text"] for chunk in model.generate(QUESTION, STREAM)), ANSWER)


@check
def calls_tools() -> None:
    done = model.chat(QUESTION, tools=[TOOL], generate_config={**CONFIG, **CALLING, "max_tokens": 100})
    (call,) = done["choices"][0]["message"]["tool_calls"]
    same(json.loads(call["function"]["arguments"]), CALL["arguments"])


@check
def finds_and_attaches_to_models() -> None:
    same(list(client.list_models()), [MODEL])
    same(client.describe_model(MODEL)["model_name"], MODEL)
    same(client.launch_model(MODEL, model_size_in_billions=7, model_format="ggmlv3", n_ctx=2048), MODEL)


@check
def tells_what_is_wrong() -> None:
    with raises(RuntimeError, "an/unknown"):
        client.get_model("an/unknown")
    with raises(RuntimeError, "detail:", "vicuna-v1.3"):
        client.launch_model("vicuna-v1.3")
    with raises(RuntimeError, "detail:", MODEL):
        client.terminate_model(MODEL)
    for config in ({"temperature": -1}, {"temperature": -1, "stream": True}):
        with raises(RuntimeError, "detail:", "temperature"):
            model.chat(QUESTION, generate_config=config)


@check
def needs_the_key_where_there_is_one() -> None:
    same(said(RESTfulClient(KEYED_URL, api_key=KEY).get_model(MODEL).chat(QUESTION)), QUESTION)
    with raises(RuntimeError, "detail:", "key"):
        RESTfulClient(KEYED_URL).get_model(MODEL)
