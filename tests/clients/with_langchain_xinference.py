"""The classes of langchain-xinference against xbatch."""

import asyncio

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
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_xinference import ChatXinference, Xinference

SERVER = {"server_url": URL, "model_uid": MODEL}
CONFIG = {"temperature": 0, "max_tokens": 64}

chat = ChatXinference(**SERVER, **CONFIG)
llm = Xinference(**SERVER, **CONFIG)


@check
def chats() -> None:
    same(chat.invoke([SystemMessage(SYSTEM), HumanMessage(QUESTION)]).content, ANSWER)
    same([each.content for each in chat.batch([QUESTION, OTHER_QUESTION])], [ANSWER, OTHER_ANSWER])


@check
def streams_a_chat() -> None:
    chunks = list(chat.stream(QUESTION))
    same("".join(chunk.content for chunk in chunks), ANSWER)


@check
def chats_over_a_stream() -> None:
    same(ChatXinference(**SERVER, **CONFIG, stream=True).invoke(QUESTION).content, ANSWER)


@check
def calls_tools() -> None:
    done = ChatXinference(**SERVER, **CALLING, temperature=0, max_tokens=100).bind_tools([TOOL]).invoke(QUESTION)
    (call,) = done.tool_calls
    same((call["name"], call["args"]), (CALL["name"], CALL["arguments"]))


@check
def cannot_stream_tool_calls() -> None:
    bound = ChatXinference(**SERVER, **CALLING, temperature=0, max_tokens=100).bind_tools([TOOL])
    # Whatever the server, if its stream is as OpenAI's: the class wants the whole calls in the last chunk.
    with raises(KeyError, "tool_calls"):
        list(bound.stream(QUESTION))


@check
def completes_and_streams() -> None:
    same(llm.invoke(QUESTION), ANSWER)
    same(Xinference(**SERVER, **CONFIG, stream=True).invoke(QUESTION), ANSWER)
    same("".join(Xinference(**SERVER, **CONFIG, stream=True).stream(QUESTION)), ANSWER)


@check
def completes_to_the_end_without_max_tokens() -> None:
    whole = Xinference(**SERVER, temperature=0, min_tokens=40)
    assert len(whole.invoke(QUESTION)) > 2 * len(ANSWER)


@check
def works_with_asyncio() -> None:
    async def ask() -> None:
        # Only an object that is made while a loop runs has an asynchronous client.
        one, other = ChatXinference(**SERVER, **CONFIG), Xinference(**SERVER, **CONFIG)
        same((await one.ainvoke(QUESTION)).content, ANSWER)
        same("".join([chunk.content async for chunk in one.astream(QUESTION)]), ANSWER)
        same(await other.ainvoke(QUESTION), ANSWER)
        streaming = Xinference(**SERVER, **CONFIG, stream=True)
        same("".join([piece async for piece in streaming.astream(QUESTION)]), ANSWER)
        for each in (one, other, streaming):
            await each.async_client.close()

    asyncio.run(ask())


@check
def tells_what_is_wrong() -> None:
    for kind in (ChatXinference, Xinference):
        with raises(RuntimeError, "detail:", "an/unknown"):
            kind(server_url=URL, model_uid="an/unknown").invoke(QUESTION)
        with raises(RuntimeError, "detail:", "temperature"):
            kind(**SERVER, temperature=-1).invoke(QUESTION)
        with raises(RuntimeError, "detail:", "temperature"):
            list(kind(**SERVER, temperature=-1, stream=True).stream(QUESTION))


@check
def needs_the_key_where_there_is_one() -> None:
    keyed = {"server_url": KEYED_URL, "model_uid": MODEL}
    same(ChatXinference(**keyed, api_key=KEY).invoke(QUESTION).content, QUESTION)
    same(Xinference(**keyed, api_key=KEY).invoke(QUESTION), QUESTION)
    with raises(RuntimeError, "detail:", "key"):
        ChatXinference(**keyed, api_key="wrong").invoke(QUESTION)
