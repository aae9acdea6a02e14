"""LangChain's OpenAI classes against xbatch."""

import asyncio

import openai
from checking import (
    ANSWER,
    CALL,
    CALLING,
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
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

SERVER = {"base_url": f"{URL}/v1", "model": MODEL, "api_key": "cannot be empty", "temperature": 0}

chat = ChatOpenAI(**SERVER, max_tokens=64)
llm = OpenAI(**SERVER, max_tokens=64)


@check
def chats() -> None:
    done = chat.invoke([SystemMessage(SYSTEM), HumanMessage(QUESTION)])
    same(done.content, ANSWER)
    same(done.response_metadata["finish_reason"], "stop")
    assert done.usage_metadata["total_tokens"] > 0
    same([each.content for each in chat.batch([QUESTION, OTHER_QUESTION])], [ANSWER, OTHER_ANSWER])


@check
def streams_a_chat() -> None:
    chunks = list(chat.stream(QUESTION))
    same("".join(chunk.content for chunk in chunks), ANSWER)
    with_usage = list(ChatOpenAI(**SERVER, stream_usage=True).stream(QUESTION))
    assert any(chunk.usage_metadata for chunk in with_usage)


@check
def works_with_asyncio() -> None:
    async def ask() -> None:
        same((await chat.ainvoke(QUESTION)).content, ANSWER)
        same("".join([chunk.content async for chunk in chat.astream(QUESTION)]), ANSWER)
        same(await llm.ainvoke(QUESTION), ANSWER)
        same("".join([chunk async for chunk in llm.astream(QUESTION)]), ANSWER)

    asyncio.run(ask())


class Animal(BaseModel):
    """What the model is made to answer with."""

    big: bool


@check
def gives_structured_answers() -> None:
    found = chat.with_structured_output(Animal, method="json_schema").invoke(QUESTION)
    same(type(found), Animal)


@check
def calls_tools() -> None:
    bound = ChatOpenAI(**SERVER, max_tokens=100, extra_body=CALLING).bind_tools([TOOL])
    asked = HumanMessage(QUESTION)
    done = bound.invoke([asked])
    (call,) = done.tool_calls
    same((call["name"], call["args"]), (CALL["name"], CALL["arguments"]))
    assert chat.invoke([asked, done, ToolMessage("4 kg", tool_call_id=call["id"])]).response_metadata
    whole = None
    for chunk in bound.stream([asked]):
        whole = chunk if whole is None else whole + chunk
    same(whole.tool_calls[0]["args"], CALL["arguments"])


@check
def gives_logprobs() -> None:
    found = ChatOpenAI(**SERVER, max_tokens=4, logprobs=True, top_logprobs=2).invoke(QUESTION)
    same(len(found.response_metadata["logprobs"]["content"]), 4)


@check
def completes() -> None:
    same(llm.invoke(QUESTION), ANSWER)
    same("".join(llm.stream(QUESTION)), ANSWER)
    several = OpenAI(**{**SERVER, "temperature": 1}, n=2, top_p=0.01).generate([QUESTION, OTHER_QUESTION])
    same([[each.text for each in of_one] for of_one in several.generations], [[ANSWER] * 2, [OTHER_ANSWER] * 2])


@check
def tells_what_is_wrong() -> None:
    for kind in (ChatOpenAI, OpenAI):
        with raises(openai.NotFoundError, "gpt-0"):
            kind(**{**SERVER, "model": "gpt-0"}).invoke(QUESTION)
        with raises(openai.BadRequestError, "temperature"):
            list(kind(**{**SERVER, "temperature": -1}).stream(QUESTION))
