"""LlamaIndex's class Xinference against xbatch; it wants a client of Xinference that is as old as it is (0.14)."""

from checking import (
    ANSWER,
    MODEL,
    OTHER_ANSWER,
    OTHER_QUESTION,
    QUESTION,
    SYSTEM,
    URL,
    check,
    raises,
    same,
    whole_xinference,
)
from llama_index.core.llms import ChatMessage
from llama_index.llms.xinference import Xinference

ASKED = [ChatMessage(role="user", content=QUESTION)]

with whole_xinference():
    llm = Xinference(model_uid=MODEL, endpoint=URL, temperature=0, max_tokens=64)


@check
def knows_the_model() -> None:
    same((llm.context_window, llm.model_description["model_name"]), (2048, MODEL))
    with whole_xinference():
        same(Xinference(model_uid=MODEL, endpoint=URL).max_tokens, 512)


@check
def chats() -> None:
    same(llm.chat(ASKED).message.content, ANSWER)
    turns = [
        ChatMessage(role="system", content=SYSTEM),
        ChatMessage(role="user", content=OTHER_QUESTION),
        ChatMessage(role="assistant", content=OTHER_ANSWER),
        *ASKED,
    ]
    assert llm.chat(turns).message.content


@check
def streams_a_chat() -> None:
    pieces = list(llm.stream_chat(ASKED))
    same(("".join(piece.delta for piece in pieces), pieces[-1].message.content), (ANSWER, ANSWER))


@check
def completes_and_streams() -> None:
    same(llm.complete(QUESTION).text, ANSWER)
    same(list(llm.stream_complete(QUESTION))[-1].text, ANSWER)


@check
def tells_what_is_wrong() -> None:
    with whole_xinference(), raises(RuntimeError, "an/unknown"):
        Xinference(model_uid="an/unknown", endpoint=URL)
