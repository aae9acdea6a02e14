"""Xinference's client since 0.15, without and with asyncio, against xbatch."""

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

from checking import (
    ANSWER,
    CALL,
    CALLING,
    KEY,
    KEYED_URL,
    MESSAGES,
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
from xinference_client import AsyncRESTfulClient, RESTfulClient

CONFIG = {"max_tokens": 64, "temperature": 0}
STREAM = {**CONFIG, "stream": True}

client = RESTfulClient(URL)
model = client.get_model(MODEL)


def said(answer: Any) -> str:
    return answer["choices"][0]["message"]["content"]


@check
def lists_and_describes_models() -> None:
    same(list(client.list_models()), [MODEL])
    card = client.describe_model(MODEL)
    same((card["model_type"], card["model_name"], card["context_length"]), ("LLM", MODEL, 2048))
    assert {"chat", "generate"} <= set(card["model_ability"])
    documented = {
        *("model_lang", "model_description", "model_format", "model_size_in_billions", "quantization", "revision"),
    }
    same(documented - set(card), set())
    same(client.list_models()[MODEL], card)


@check
def gets_a_model_that_chats_and_generates() -> None:
    same(type(model).__name__, "RESTfulChatModelHandle")
    assert model.chat
    assert model.generate


@check
def chats() -> None:
    done = model.chat([{"role": "system", "content": SYSTEM}, *MESSAGES], generate_config=CONFIG)
    same((said(done), done["choices"][0]["finish_reason"]), (ANSWER, "stop"))
    assert done["id"].startswith("chat")
    assert done["usage"]["prompt_tokens"] > 0
    same(said(model.chat(MESSAGES, generate_config={"temperature": 0})), ANSWER)
    assert said(model.chat(MESSAGES))


@check
def streams_a_chat() -> None:
    chunks = list(model.chat(MESSAGES, generate_config=STREAM))
    same({len(chunk["choices"]) for chunk in chunks}, {1})
    same("".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks), ANSWER)
    same(chunks[-1]["choices"][0]["finish_reason"], "stop")


@check
def generates() -> None:
    done = model.generate(QUESTION, generate_config=CONFIG)
    same((done["choices"][0]["text"], done["choices"][0]["finish_reason"]), (ANSWER, "stop"))
    assert done["id"].startswith("cmpl-")
    echoed = model.generate(QUESTION, generate_config={**CONFIG, "echo": True})
    same(echoed["choices"][0]["text"], QUESTION + ANSWER)


@check
def generates_to_the_end_without_max_tokens() -> None:
    done = model.generate(QUESTION, generate_config={"temperature": 0, "min_tokens": 24})
    assert done["usage"]["completion_tokens"] >= 24


@check
def streams_a_generation() -> None:
    chunks = list(model.generate(OTHER_QUESTION, generate_config=STREAM))
    same("".join(chunk["choices"][0]["text"] for chunk in chunks), OTHER_ANSWER)


@check
def takes_keys_of_xinferences_own() -> None:
    config = {
        **CONFIG,
        "stream_interval": 2,
        "lora_name": None,
        "repetition_penalty": 1.0,
        "top_k": 1,
        "stop_token_ids": [],
        "request_id": "mine",
        "ignore_eos": False,
        "enable_thinking": False,
        "n": 1,
    }
    same(said(model.chat(MESSAGES, generate_config=config)), ANSWER)
    same(model.generate(QUESTION, generate_config=config)["choices"][0]["text"], ANSWER)
    if "enable_thinking" in inspect.signature(model.chat).parameters:
        same(said(model.chat(MESSAGES, enable_thinking=False, generate_config=CONFIG)), ANSWER)


@check
def calls_tools() -> None:
    config = {**CONFIG, **CALLING, "max_tokens": 100}
    message = model.chat(MESSAGES, tools=[TOOL], generate_config=config)["choices"][0]["message"]
    (call,) = message["tool_calls"]
    same((call["function"]["name"], json.loads(call["function"]["arguments"])), (CALL["name"], CALL["arguments"]))


@check
def attaches_to_the_model_that_is_served() -> None:
    same(client.launch_model(MODEL), MODEL)
    sizes = {"model_size_in_billions": 7, "model_format": "ggmlv3", "quantization": "q2_K", "n_ctx": 2048}
    same(client.launch_model(model_name=MODEL, **sizes), MODEL)
    same(client.launch_model("anything", model_uid=MODEL), MODEL)
    same(client.launch_model(MODEL, wait_ready=False), MODEL)


@check
def refuses_to_launch_and_to_terminate() -> None:
    with raises(RuntimeError, "Failed to launch model", "vicuna-v1.3"):
        client.launch_model("vicuna-v1.3", model_size_in_billions=7)
    with raises(RuntimeError, "Failed to terminate", MODEL):
        client.terminate_model(MODEL)
    same(said(model.chat(MESSAGES, generate_config=CONFIG)), ANSWER)


@check
def tells_what_is_wrong() -> None:
    for ask in (client.get_model, client.describe_model):
        with raises(RuntimeError, "Failed to get the model description, detail:", "an/unknown"):
            ask("an/unknown")
    for config in ({"temperature": -1}, {"temperature": -1, "stream": True}):
        with raises(RuntimeError, "Failed to generate chat completion, detail:", "temperature"):
            model.chat(MESSAGES, generate_config=config)
        with raises(RuntimeError, "Failed to generate completion, detail:", "temperature"):
            model.generate(QUESTION, generate_config=config)
    with raises(RuntimeError, "detail:", "messages"):
        model.chat([])
    with raises(RuntimeError, "detail:", "2048"):
        model.generate("word " * 4000)


@check
def works_without_a_login() -> None:
    same(client.login("somebody", "secret"), None)
    same(said(RESTfulClient(URL, api_key="any").get_model(MODEL).chat(MESSAGES, generate_config=CONFIG)), ANSWER)


@check
def needs_the_key_where_there_is_one() -> None:
    keyed = RESTfulClient(KEYED_URL, api_key=KEY).get_model(MODEL)
    same(said(keyed.chat(MESSAGES)), QUESTION)
    same(keyed.generate(QUESTION)["choices"][0]["text"], QUESTION)
    for key in (None, "wrong"):
        with raises(RuntimeError, "detail:", "key"):
            RESTfulClient(KEYED_URL, api_key=key).get_model(MODEL)


def told(detail: str) -> tuple[str, ...]:
    """The words of an error: the asynchronous client reads the server's detail, and before 2.0 it forgot it again."""
    return ("detail:", "400") if version("xinference-client") < "2" else ("detail:", detail)


def with_async_client(ask: Callable[[AsyncRESTfulClient], Awaitable[None]], url: str = URL, **fields: Any) -> None:
    async def run() -> None:
        one = AsyncRESTfulClient(url, **fields)
        await ask(one)
        await one.close()

    asyncio.run(run())


@check
def works_with_asyncio() -> None:
    async def ask(one: AsyncRESTfulClient) -> None:
        same(list(await one.list_models()), [MODEL])
        same((await one.describe_model(MODEL))["model_type"], "LLM")
        same(await one.launch_model(MODEL), MODEL)
        handle = await one.get_model(MODEL)
        done = await asyncio.gather(*(handle.chat(MESSAGES, generate_config=CONFIG) for _ in range(8)))
        same({said(each) for each in done}, {ANSWER})
        same((await handle.generate(QUESTION, generate_config=CONFIG))["choices"][0]["text"], ANSWER)

    with_async_client(ask)


@check
def streams_with_asyncio() -> None:
    async def ask(one: AsyncRESTfulClient) -> None:
        handle = await one.get_model(MODEL)
        chunks = [chunk async for chunk in await handle.chat(MESSAGES, generate_config=STREAM)]
        same("".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks), ANSWER)
        chunks = [chunk async for chunk in await handle.generate(QUESTION, generate_config=STREAM)]
        same("".join(chunk["choices"][0]["text"] for chunk in chunks), ANSWER)

    with_async_client(ask)


@check
def tells_what_is_wrong_with_asyncio() -> None:
    async def ask(one: AsyncRESTfulClient) -> None:
        with raises(RuntimeError, "detail:", "an/unknown"):
            await one.get_model("an/unknown")
        with raises(RuntimeError, *told("vicuna-v1.3")):
            await one.launch_model("vicuna-v1.3")
        with raises(RuntimeError, *told(MODEL)):
            await one.terminate_model(MODEL)
        handle = await one.get_model(MODEL)
        with raises(RuntimeError, *told("temperature")):
            await handle.chat(MESSAGES, generate_config={"temperature": -1, "stream": True})

    with_async_client(ask)


@check
def needs_the_key_with_asyncio_where_there_is_one() -> None:
    async def ask(one: AsyncRESTfulClient) -> None:
        same(said(await (await one.get_model(MODEL)).chat(MESSAGES)), QUESTION)

    with_async_client(ask, KEYED_URL, api_key=KEY)
