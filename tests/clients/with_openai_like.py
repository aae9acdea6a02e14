"""LlamaIndex's OpenAILike against xbatch."""

import asyncio

import openai
from checking import ANSWER, CALL, CALLING, MODEL, QUESTION, SYSTEM, TOOL, URL, check, raises, same
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

SERVER = {"api_base": f"{URL}/v1", "model": MODEL, "api_key": "cannot be empty", "max_retries": 0}
CONFIG = {"temperature": 0, "max_tokens": 64}
ASKED = [ChatMessage(role="user", content=QUESTION)]

chat = OpenAILike(**SERVER, **CONFIG, is_chat_model=True)
llm = OpenAILike(**SERVER, **CONFIG, is_chat_model=False)


@check
def chats() -> None:
    done = chat.chat([ChatMessage(role="system", content=SYSTEM), *ASKED])
    same((done.message.role, done.message.content), ("assistant", ANSWER))
    same(chat.complete(QUESTION).text, ANSWER)


@check
def streams_a_chat() -> None:
    pieces = list(chat.stream_chat(ASKED))
    same(("".join(piece.delta for piece in pieces), pieces[-1].message.content), (ANSWER, ANSWER))
    same(list(chat.stream_complete(QUESTION))[-1].text, ANSWER)


@check
def completes_and_streams() -> None:
    same(llm.complete(QUESTION).text, ANSWER)
    same(list(llm.stream_complete(QUESTION))[-1].text, ANSWER)


@check
def works_with_asyncio() -> None:
    async def ask() -> None:
        same((await chat.achat(ASKED)).message.content, ANSWER)
        pieces = [piece async for piece in await chat.astream_chat(ASKED)]
        same(pieces[-1].message.content, ANSWER)
        same((await llm.acomplete(QUESTION)).text, ANSWER)
        pieces = [piece async for piece in await llm.astream_complete(QUESTION)]
        same(pieces[-1].text, ANSWER)

    asyncio.run(ask())


@check
def calls_tools() -> None:
    fields = {"extra_body": CALLING, "tools": [TOOL]}
    one = OpenAILike(
        **SERVER,
        temperature=0,
        max_tokens=100,
        is_chat_model=True,
        is_function_calling_model=True,
        additional_kwargs=fields,
    )
    (call,) = one.get_tool_calls_from_response(one.chat(ASKED))
    same((call.tool_name, call.tool_kwargs), (CALL["name"], CALL["arguments"]))
    *_, last = one.stream_chat(ASKED)
    same(one.get_tool_calls_from_response(last)[0].tool_kwargs, CALL["arguments"])


@check
def tells_what_is_wrong() -> None:
    for is_chat in (True, False):
        with raises(openai.NotFoundError, "gpt-0"):
            OpenAILike(**{**SERVER, "model": "gpt-0"}, is_chat_model=is_chat).complete(QUESTION)
        with raises(openai.BadRequestError, "top_p"):
            wrong = OpenAILike(**SERVER, additional_kwargs={"top_p": -1}, is_chat_model=is_chat)
            list(wrong.stream_complete(QUESTION))
