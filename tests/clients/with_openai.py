"""OpenAI's client against xbatch: chat, completions and models."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
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
from pydantic import BaseModel

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="cannot be empty")


def chat(**fields: Any) -> Any:
    return client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, "temperature": 0, **fields})


def complete(**fields: Any) -> Any:
    body = {"model": MODEL, "prompt": QUESTION, "temperature": 0, "max_tokens": 32}
    return client.completions.create(**{**body, **fields})


@check
def answers_a_chat() -> None:
    done = chat(max_tokens=64)
    same((done.object, done.model, done.choices[0].index), ("chat.completion", MODEL, 0))
    same((done.choices[0].message.role, done.choices[0].message.content), ("assistant", ANSWER))
    same(done.choices[0].finish_reason, "stop")
    assert done.id.startswith("chatcmpl-")
    assert done.usage.prompt_tokens > 0
    assert done.usage.completion_tokens > 0
    same(done.usage.total_tokens, done.usage.prompt_tokens + done.usage.completion_tokens)


@check
def obeys_chat_parameters() -> None:
    nulls = {"seed": None, "stop": None, "logprobs": None, "top_p": None, "tools": None, "response_format": None}
    system = {"role": "system", "content": SYSTEM}
    same(chat(messages=[system, *MESSAGES], max_completion_tokens=64, **nulls).choices[0].message.content, ANSWER)
    short = chat(max_completion_tokens=3)
    same((short.choices[0].finish_reason, short.usage.completion_tokens), ("length", 3))
    assert chat(stop=["blue"]).choices[0].message.content.rstrip() == "The largest animal is the"
    same([each.index for each in chat(n=3, temperature=1, seed=7).choices], [0, 1, 2])
    drawn = [chat(temperature=1.5, seed=11, max_tokens=16).choices[0].message.content for _ in range(2)]
    same(drawn[0], drawn[1])


@check
def takes_content_in_parts_and_null_content() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    same(chat(messages=parts).choices[0].message.content, ANSWER)
    turns = [*MESSAGES, {"role": "assistant", "content": None}, {"role": "user", "content": QUESTION, "name": "a"}]
    assert chat(messages=turns, max_tokens=8).choices


@check
def gives_chat_logprobs() -> None:
    content = chat(logprobs=True, top_logprobs=2, max_tokens=4).choices[0].logprobs.content
    same([len(each.top_logprobs) for each in content], [2] * 4)
    assert all(each.logprob <= 0 for each in content)


@check
def streams_a_chat() -> None:
    chunks = list(chat(stream=True))
    same({len(chunk.choices) for chunk in chunks}, {1})
    assert all(isinstance(chunk.choices[0].delta.content, str) for chunk in chunks)
    same("".join(chunk.choices[0].delta.content for chunk in chunks), ANSWER)
    same(chunks[0].choices[0].delta.role, "assistant")
    same(chunks[-1].choices[0].finish_reason, "stop")
    same({chunk.object for chunk in chunks}, {"chat.completion.chunk"})
    same(len({chunk.id for chunk in chunks}), 1)
    assert len(chunks) > 1


@check
def streams_usage_if_asked() -> None:
    *chunks, last = chat(stream=True, stream_options={"include_usage": True})
    same((last.choices, last.usage.total_tokens > 0), ([], True))
    same("".join(chunk.choices[0].delta.content for chunk in chunks), ANSWER)


@check
def streams_several_choices() -> None:
    texts = ["", ""]
    for chunk in chat(stream=True, n=2, temperature=1, top_p=0.01):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content
    same(texts, [ANSWER, ANSWER])


@check
def streams_through_the_helper() -> None:
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES, temperature=0) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    same(("".join(deltas), final.choices[0].message.content), (ANSWER, ANSWER))


@check
def calls_tools() -> None:
    choice = chat(tools=[TOOL], extra_body=CALLING, max_tokens=100).choices[0]
    (call,) = choice.message.tool_calls
    same((call.type, call.function.name, choice.finish_reason), ("function", "weigh", "tool_calls"))
    same(json.loads(call.function.arguments), CALL["arguments"])
    said = {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]}
    result = {"role": "tool", "tool_call_id": call.id, "content": "4 kg"}
    assert chat(messages=[*MESSAGES, said, result], tools=[TOOL], max_tokens=8).choices
    same(chat(tools=[TOOL], tool_choice="none").choices[0].message.content, ANSWER)


@check
def streams_tool_calls() -> None:
    arguments, names, reason = "", [], None
    for chunk in chat(tools=[TOOL], extra_body=CALLING, max_tokens=100, stream=True):
        assert isinstance(chunk.choices[0].delta.content, str)
        reason = chunk.choices[0].finish_reason
        for call in chunk.choices[0].delta.tool_calls or []:
            names += [call.function.name] if call.function.name else []
            arguments += call.function.arguments or ""
    same((names, json.loads(arguments), reason), (["weigh"], CALL["arguments"], "tool_calls"))


class Animal(BaseModel):
    """What the model is made to answer with."""

    big: bool


@check
def parses_structured_answers() -> None:
    parsed = client.chat.completions.parse(
        model=MODEL, messages=MESSAGES, temperature=0, response_format=Animal, max_tokens=40
    )
    assert isinstance(parsed.choices[0].message.parsed, Animal)
    choice = chat(extra_body={"structured_outputs": {"choice": ["whale", "shark"]}}).choices[0]
    assert choice.message.content in {"whale", "shark"}


@check
def takes_keys_that_openai_does_not_know() -> None:
    extra = {"top_k": 1, "repetition_penalty": 1.0, "stream_interval": 2, "lora_name": None, "enable_thinking": False}
    same(chat(extra_body={**extra, "no_such_parameter": [1]}).choices[0].message.content, ANSWER)


@check
def completes() -> None:
    done = complete()
    same((done.object, done.choices[0].text, done.choices[0].finish_reason), ("text_completion", ANSWER, "stop"))
    assert done.id.startswith("cmpl-")
    assert done.usage.completion_tokens > 0


@check
def completes_lists_of_prompts() -> None:
    done = complete(prompt=[QUESTION, OTHER_QUESTION], n=2, temperature=1, top_p=0.01)
    same([each.text for each in done.choices], [ANSWER, ANSWER, OTHER_ANSWER, OTHER_ANSWER])
    same([each.index for each in done.choices], [0, 1, 2, 3])


@check
def completes_token_ids() -> None:
    ids = [272, 262, 266]
    same(len(complete(prompt=ids, max_tokens=4).choices), 1)
    two = complete(prompt=[ids, ids], max_tokens=4)
    same([each.index for each in two.choices], [0, 1])


@check
def completes_with_echo_and_logprobs() -> None:
    done = complete(echo=True, logprobs=2)
    same(done.choices[0].text, QUESTION + ANSWER)
    assert "".join(done.choices[0].logprobs.tokens).startswith(QUESTION + ANSWER)
    same(len(done.choices[0].logprobs.token_logprobs), done.usage.total_tokens)


@check
def streams_completions() -> None:
    chunks = list(complete(stream=True))
    same("".join(chunk.choices[0].text for chunk in chunks), ANSWER)
    same(chunks[-1].choices[0].finish_reason, "stop")
    texts = ["", ""]
    for chunk in complete(prompt=[QUESTION, OTHER_QUESTION], stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    same(texts, [ANSWER, OTHER_ANSWER])


@check
def completes_to_the_end_without_max_tokens() -> None:
    done = client.completions.create(
        model=MODEL, prompt=QUESTION, temperature=0, extra_body={"min_tokens": 24}, stop=None
    )
    assert done.usage.completion_tokens >= 24


@check
def lists_and_retrieves_models() -> None:
    (card,) = client.models.list().data
    same((card.id, card.object), (MODEL, "model"))
    same(client.models.retrieve(MODEL).id, MODEL)
    for name in ("no-such-model", "an/unknown one"):
        with raises(openai.NotFoundError, name):
            client.models.retrieve(name)


@check
def refuses_unknown_models() -> None:
    for stream in (False, True):
        for ask in (chat, complete):
            with raises(openai.NotFoundError, "gpt-0"):
                ask(model="gpt-0", stream=stream)


@check
def refuses_bad_parameters_before_a_stream_starts() -> None:
    for stream in (False, True):
        for fields in (
            {"temperature": -1},
            {"messages": []},
            {"messages": [{"role": "user", "content": "word " * 4000}]},
            {"logprobs": True, "top_logprobs": 500},
            {"max_tokens": "many"},
            {"n": 0},
        ):
            with raises(openai.BadRequestError):
                chat(stream=stream, **fields)
        for fields in ({"temperature": -1}, {"prompt": "word " * 4000}, {"logprobs": 500}, {"max_tokens": -1}):
            with raises(openai.BadRequestError):
                complete(stream=stream, **fields)


@check
def tells_errors_in_openais_words() -> None:
    try:
        chat(model="gpt-0")
    except openai.NotFoundError as e:
        same(sorted(e.body), ["code", "message", "param", "type"])
        same(e.body["message"], e.response.json()["detail"])
    else:
        raise AssertionError("an unknown model was answered")


@check
def works_without_blocking() -> None:
    async def ask() -> None:
        async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none") as one:
            fields = {"model": MODEL, "messages": MESSAGES, "temperature": 0}
            done = await asyncio.gather(*(one.chat.completions.create(**fields) for _ in range(8)))
            same({each.choices[0].message.content for each in done}, {ANSWER})
            stream = await one.chat.completions.create(**fields, stream=True)
            same("".join([chunk.choices[0].delta.content async for chunk in stream]), ANSWER)

    asyncio.run(ask())


@check
def answers_many_at_once_and_one_that_leaves() -> None:
    with ThreadPoolExecutor(16) as pool:
        leaving = chat(stream=True, max_tokens=1500, extra_body={"ignore_eos": True})
        next(iter(leaving))
        leaving.close()
        done = list(pool.map(lambda _: chat().choices[0].message.content, range(32)))
    same(set(done), {ANSWER})


@check
def needs_the_key_where_there_is_one() -> None:
    for key, kind in (("wrong", openai.AuthenticationError), (f"{KEY}2", openai.AuthenticationError)):
        with raises(kind):
            openai.OpenAI(base_url=f"{KEYED_URL}/v1", api_key=key).models.list()
    keyed = openai.OpenAI(base_url=f"{KEYED_URL}/v1", api_key=KEY)
    said = keyed.chat.completions.create(model=MODEL, messages=MESSAGES).choices[0].message.content
    same(said, QUESTION)
