"""LangChain Community's class Xinference against xbatch."""

import asyncio
import json
from typing import Any

from checking import ANSWER, KEY, KEYED_URL, MODEL, OTHER_ANSWER, OTHER_QUESTION, QUESTION, URL, check, raises, same
from langchain_community.llms import Xinference

SERVER = {"server_url": URL, "model_uid": MODEL}
CONFIG = {"temperature": 0, "max_tokens": 64}

llm = Xinference(**SERVER, **CONFIG)


@check
def invokes() -> None:
    same(llm.invoke(QUESTION), ANSWER)
    same(llm.invoke(QUESTION, generate_config={"max_tokens": 32}), ANSWER)
    same(llm.batch([QUESTION, OTHER_QUESTION]), [ANSWER, OTHER_ANSWER])
    assert "blue" not in llm.invoke(QUESTION, stop=["blue"])


@check
def invokes_to_the_end_without_max_tokens() -> None:
    whole = Xinference(**SERVER, temperature=0, min_tokens=40)
    assert len(whole.invoke(QUESTION)) > 2 * len(ANSWER)
    same(Xinference(**SERVER, temperature=0).invoke(QUESTION), ANSWER)


@check
def invokes_over_a_stream() -> None:
    same(Xinference(**SERVER, **CONFIG, stream=True).invoke(QUESTION), ANSWER)


@check
def streams_if_built_to_stream() -> None:
    same("".join(Xinference(**SERVER, **CONFIG, stream=True).stream(QUESTION)), ANSWER)
    # Whatever the server: without stream=True the class takes a whole answer for chunks.
    with raises(TypeError):
        list(llm.stream(QUESTION))


@check
def works_with_asyncio() -> None:
    async def ask() -> None:
        same(await llm.ainvoke(QUESTION), ANSWER)
        # Each line of the body is read as JSON, so the body must be one line.
        same([each async for each in llm.astream(QUESTION)], [ANSWER])

    asyncio.run(ask())


@check
def streams_with_asyncio_up_to_the_last_event() -> None:
    found: list[str] = []

    async def ask() -> Any:
        async for piece in Xinference(**SERVER, **CONFIG, stream=True).astream(QUESTION):
            found.append(piece)  # noqa: PERF401 - what came before the error counts

    # The class reads even OpenAI's `data: [DONE]` as JSON; everything before it has come.
    with raises(json.JSONDecodeError):
        asyncio.run(ask())
    same("".join(found), ANSWER)


@check
def tells_what_is_wrong() -> None:
    unknown = Xinference(server_url=URL, model_uid="an/unknown")
    with raises(RuntimeError, "detail:", "an/unknown"):
        unknown.invoke(QUESTION)

    async def ask(one: Xinference) -> list[str]:
        return [each async for each in one.astream(QUESTION)]

    with raises(FileNotFoundError):
        asyncio.run(ask(unknown))
    wrong = Xinference(**SERVER, temperature=-1)
    with raises(RuntimeError, "detail:", "temperature"):
        wrong.invoke(QUESTION)
    with raises(ValueError, "400"):
        asyncio.run(ask(wrong))


@check
def needs_the_key_where_there_is_one() -> None:
    same(Xinference(server_url=KEYED_URL, model_uid=MODEL, api_key=KEY).invoke(QUESTION), QUESTION)
    with raises(RuntimeError, "detail:", "key"):
        Xinference(server_url=KEYED_URL, model_uid=MODEL, api_key="wrong").invoke(QUESTION)
