"""Rows: what becomes a request, what is turned away and why, and what stands in the response."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xbatch.rows import body, request, strict_json
from xbatch.rows.given_id import recovered_id
from xbatch.rows.outcome import Completion, Failure, Usage
from xbatch.rows.request import CHAT, COMPLETIONS, Rejected, Request, parse
from xbatch.rows.response import response_line
from xbatch.rows.row import Row

GOOD: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
BOTH_LINES = b'{"prompt":"a"} {"prompt":"b"}'


def row(data: bytes | dict[str, Any] | list[Any], **more: Any) -> Row:
    raw = data if isinstance(data, bytes) else json.dumps(data, ensure_ascii=False).encode()
    return Row(3, "in.jsonl:", 7, 100, raw, more.pop("num_bytes", len(raw)), **more)


def line(**keys: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {"custom_id": "a", "method": "POST", "url": CHAT, "body": GOOD}
    return {k: v for k, v in {**whole, **keys}.items() if v is not ...}


def nested(depth: int) -> bytes:
    """A body whose whole row is nested `depth` levels deep."""
    inner = depth - 1
    return b'{"prompt":"a","x":' + b"[" * inner + b"]" * inner + b"}"


def rejected(given: bytes | dict[str, Any] | list[Any], **more: Any) -> Rejected:
    parsed = parse(row(given, **more))
    assert isinstance(parsed, Rejected)
    return parsed


def accepted(given: bytes | dict[str, Any]) -> Request:
    parsed = parse(row(given))
    assert isinstance(parsed, Request), parsed
    return parsed


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"prompt": "a"', "invalid_json_line"),
        (b'{"prompt": "a",}', "invalid_json_line"),
        (b"{'prompt': 'a'}", "invalid_json_line"),
        (BOTH_LINES, "invalid_json_line"),
        (b'{"prompt": "a"} // why', "invalid_json_line"),
        (b"nonsense", "invalid_json_line"),
        (b'{"prompt": "a", "temperature": NaN}', "invalid_json_line"),
        (b'{"prompt": "a", "temperature": Infinity}', "invalid_json_line"),
        (b'{"prompt": "a", "temperature": -Infinity}', "invalid_json_line"),
        (b'{"prompt": "a", "temperature": 1e999}', "invalid_json_line"),
        (b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}", "invalid_json_line"),
        (b'{"prompt": "a", "n": 01}', "invalid_json_line"),
        (b'{"prompt": "a\tb"}', "invalid_json_line"),
        (b'{"prompt": "\\ud800"}', "invalid_unicode"),
        (b'{"prompt": "\\udc00\\ud800"}', "invalid_unicode"),
        (b'{"custom_id": "\\udfff", "prompt": "a"}', "invalid_unicode"),
        (b'{"prompt": "\xff\xfe"}', "invalid_unicode"),
        (b'{"prompt": "\xed\xa0\x80"}', "invalid_unicode"),
        (b'{"prompt": "\xc0\xaf"}', "invalid_unicode"),
        (b'{"\xff": "a"}', "invalid_unicode"),
        (nested(501), "json_too_deep"),
        (nested(2_000), "json_too_deep"),
        (nested(100_000), "json_too_deep"),
        (b"[" * 100_000, "json_too_deep"),
        (b'{"a":' * 100_000, "json_too_deep"),
        (line(custom_id=""), "invalid_custom_id"),
        (line(custom_id=1.5), "invalid_custom_id"),
        (line(custom_id=False), "invalid_custom_id"),
        (line(custom_id=["a"]), "invalid_custom_id"),
        (line(url="/v1/embeddings"), "invalid_url"),
        (line(url="/v1/responses"), "invalid_url"),
        (line(url="/v1/chat/completions/messages"), "invalid_url"),
        (line(url="/chat"), "invalid_url"),
        (line(url="/v1/audio/completions"), "invalid_url"),
        (line(url="ftp://host/v1/chat/completions"), "invalid_url"),
        (line(url="http://[/v1/completions"), "invalid_url"),
        (line(url="/"), "invalid_url"),
        (line(url=""), "invalid_url"),
        (line(url=7), "invalid_url"),
        (line(url=[]), "invalid_url"),
        (line(url=..., body={"input": "a"}), "unknown_row_shape"),
        ({"model": "m"}, "unknown_row_shape"),
        ({}, "unknown_row_shape"),
        (line(method="GET"), "invalid_method"),
        (line(method="post"), "invalid_method"),
        (line(method=7), "invalid_method"),
        (b"[]", "body_not_object"),
        (b'"text"', "body_not_object"),
        (b"7", "body_not_object"),
        (b"1.5", "body_not_object"),
        (b"true", "body_not_object"),
        (b"null", "body_not_object"),
        (line(body=...), "body_not_object"),
        (line(body=None), "body_not_object"),
        (line(body=[GOOD]), "body_not_object"),
        (line(body=json.dumps(GOOD)), "body_not_object"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_rows(data: bytes | dict[str, Any], code: str) -> None:
    """A row that can't be sent is told apart by its code, and its message names the place and is short."""
    found = rejected(data)
    assert found.failure.code == code
    assert found.failure.message.startswith("in.jsonl:7: ")
    assert len(found.failure.message) < 600
    json.loads(response_line("j", found.index, found.custom_id, found.failure, "batch"))


def test_body_as_string_hint() -> None:
    """A body that is a string of JSON is refused with the way to write it."""
    assert "not as a string" in rejected(line(body=json.dumps(GOOD))).failure.message


def test_too_long() -> None:
    """A row that was skipped for its size says how large it is, without being looked into."""
    found = rejected(b"garbage", too_long=True, num_bytes=123_456)
    assert found.failure.code == "line_too_long"
    assert "123,456" in found.failure.message


def test_duplicate_names_first_place() -> None:
    """The later of two rows with one custom_id fails, naming the place of the first, and keeps its id."""
    found = rejected(line(), first_use="in.jsonl:2")
    assert (found.failure.code, found.custom_id) == ("duplicate_custom_id", "a")
    assert "in.jsonl:2" in found.failure.message


@pytest.mark.parametrize("what", ["custom_id", "url", "method"])
def test_messages_stay_short(what: str) -> None:
    """A message never repeats a huge value of the row."""
    found = rejected(line(**{what: "x" * 100_000}), first_use="in.jsonl:2")
    assert len(found.failure.message) < 1_000


@pytest.mark.parametrize("key", ["custom_id", "method", "url"])
@pytest.mark.parametrize("value", [None, ...])
def test_optional_keys(key: str, value: object) -> None:
    """custom_id, method and url may be absent or null."""
    found = accepted(line(**{key: value}))
    assert (found.endpoint, found.body) == (CHAT, GOOD)
    assert found.custom_id == ("row-3" if key == "custom_id" else "a")


@pytest.mark.parametrize(
    ("value", "endpoint"),
    [
        (GOOD, CHAT),
        ({"prompt": "a"}, COMPLETIONS),
        (line(), CHAT),
        (line(url=COMPLETIONS, body={"prompt": "a"}), COMPLETIONS),
        (line(url=..., body={"prompt": "a"}), COMPLETIONS),
    ],
)
def test_endpoints(value: dict[str, Any], endpoint: str) -> None:
    """Batch lines and bare bodies go to the endpoint they name, or the one that fits them."""
    assert accepted(value).endpoint == endpoint


CHAT_URLS = (
    *("/chat/completions", "chat/completions", "v1/chat/completions", "/v1/chat/completions/", "/v1//chat/completions"),
    *("https://api.openai.com/v1/chat/completions", "http://localhost:8000/v1/chat/completions/?x=1#y"),
    *("/openai/v1/chat/completions", "/openai/deployments/gpt/chat/completions?api-version=2024-10-21"),
    "https://x.openai.azure.com/openai/deployments/gpt/chat/completions",
)
COMPLETION_URLS = (
    *("/completions", "completions", "/v1/completions/", "https://host/v1/completions", "/v1beta/completions?x"),
    "/openai/deployments/gpt/completions",
)


@pytest.mark.parametrize("url", CHAT_URLS + COMPLETION_URLS)
def test_urls_mean_what_they_say(url: str) -> None:
    """Other spellings of the two endpoints are taken as what they can only mean."""
    found = accepted(line(url=url, body={"messages": [], "prompt": "a"}))
    assert found.endpoint == (CHAT if url in CHAT_URLS else COMPLETIONS)


@pytest.mark.parametrize(("given", "text"), [(7, "7"), (0, "0"), (-3, "-3"), (10**30, "1" + "0" * 30)])
def test_whole_numbers_are_ids(given: int, text: str) -> None:
    """A `custom_id` that is a whole number is taken by its digits, in a batch line and in a bare body."""
    assert accepted(line(custom_id=given)).custom_id == text
    assert accepted({"custom_id": given, "prompt": "a"}).custom_id == text


CONVERSATION = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]


def test_a_prompt_of_messages_is_a_chat() -> None:
    """A bare body whose prompt is a list of messages is a chat; where a url says completions, the API decides."""
    for bare in ({"prompt": CONVERSATION, "n": 2}, {"body": {"prompt": CONVERSATION, "n": 2, "messages": None}}):
        found = accepted(bare)
        assert (found.endpoint, found.body) == (CHAT, {"messages": CONVERSATION, "n": 2})
    explicit = accepted(line(url=COMPLETIONS, body={"prompt": CONVERSATION}))
    assert (explicit.endpoint, explicit.body) == (COMPLETIONS, {"prompt": CONVERSATION})
    said = body.refusal(explicit)
    assert said is not None
    assert said.message == "prompt holds an object; messages are for /v1/chat/completions"


@pytest.mark.parametrize("prompt", [[], ["a"], [1, 2], [[1]], [{"text": "a"}], [{"role": "user"}, "a"], "a"])
def test_other_prompts_are_none(prompt: Any) -> None:
    """Every other prompt stays what it is."""
    found = accepted({"prompt": prompt})
    assert (found.endpoint, found.body) == (COMPLETIONS, {"prompt": prompt})


SCHEMA = {"type": "object", "properties": {"a": {"enum": [None, "b"], "default": None, "const": None}, "b": None}}
WITH_NULLS: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "user", "name": None, "content": [{"type": "text", "text": "a", "image_url": None}]},
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [
                {"id": "a", "type": "function", "index": None, "function": {"name": "f", "arguments": {"x": None}}}
            ],
        },
        {"role": "tool", "tool_call_id": "a", "name": None, "tool_calls": None, "content": "1"},
        None,
    ],
    "tools": [{"type": "function", "x": None, "function": {"name": "f", "strict": None, "parameters": SCHEMA}}],
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": None, "schema": SCHEMA}},
    "tool_choice": None,
    "max_tokens": None,
    "n": None,
    "min_tokens": None,
    "metadata": {"x": None},
}
WITHOUT_NULLS: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": {"x": None}}}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        None,
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
    "tool_choice": None,
    "max_tokens": None,
    "n": None,
    "min_tokens": None,
    "metadata": {"x": None},
}


@pytest.mark.parametrize("given", [WITH_NULLS, line(body=WITH_NULLS), line(url="/chat/completions", body=WITH_NULLS)])
def test_nulls_of_struct_writers(given: dict[str, Any]) -> None:
    """Nulls that stand for a field left out are removed from messages; values stay, and settings are the API's."""
    assert accepted(given).body == WITHOUT_NULLS


def test_nulls_that_are_values() -> None:
    """Nulls inside structural tags stay, and so does the content of media that a uuid names."""
    tag = {"type": "json_schema", "json_schema": {"properties": {"a": {"default": None}}}}
    cached = {"type": "image_url", "image_url": None, "uuid": "known"}
    body = {
        "messages": [{"role": "user", "content": [cached]}],
        "response_format": {"type": "structural_tag", "format": tag},
    }
    assert accepted(line(body=body)).body == body
    plain = {"type": "text", "text": "a", "image_url": None, "uuid": None}
    content = accepted(line(body={"messages": [{"role": "user", "content": [plain]}]})).body["messages"][0]["content"]
    assert content == [{"type": "text", "text": "a"}]


@pytest.mark.parametrize(
    ("data", "custom_id"),
    [
        (b'{"custom_id":"a","temperature":NaN}', "a"),
        (b'{"temperature":-Infinity,"x":[NaN,{"custom_id":"no"}],"custom_id":"a"}', "a"),
        (b' {"prompt":"\\ud800","custom_id" : "\\u00fc\\n"}', "ü\n"),
        (b'{"prompt":"\xff","custom_id":"a"}', "a"),
        (b'{"custom_id":12,"prompt":"\xff"}', "12"),
        (b'{"custom_id":"a","prompt":"cut', "a"),
        (b'{"custom_id":"a","prompt":"a"}}', "a"),
        (b'{"custom_id":"a","x":' + b"[" * 100_000, "a"),
        (b'{"custom_id":"a","x":' + b"[" * 600 + b"]" * 600 + b"}", "a"),
        (b'{"custom_id":"\\ud800","prompt":"a"}', None),
        (b'{"custom_id":"\xff","prompt":"a"}', None),
        (b'{"custom_id":"a', None),
        (b'{"body":{"custom_id":"no"},"x":NaN}', None),
        (b'{"x":' + b"[" * 100_000 + b',"custom_id":"a"}', None),
        (b'{"custom_id":"","x":NaN}', None),
        (b'{"custom_id":1.5,"x":NaN}', None),
        (b'{"custom_id":' + b"9" * 5000 + b',"x":NaN}', None),
        (b'{"custom_id":12', None),
        (b'["custom_id","a",NaN]', None),
        (b"", None),
        (b"{", None),
        (b'{"custom_id"', None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_ids_of_rows_that_cannot_be_read(data: bytes, custom_id: str | None) -> None:
    """A row that can't be read keeps the `custom_id` that it gives, wherever that can be told for certain."""
    found = rejected(data)
    assert (found.custom_id, found.nameless) == (custom_id or "row-3", custom_id is None)
    json.loads(response_line("j", found.index, found.custom_id, found.failure, "batch"))


def test_the_id_of_a_row_too_long() -> None:
    """What is kept of a row that was skipped for its size tells its `custom_id`, if it comes first."""
    assert rejected(b'{"custom_id":"a","prompt":"xxx', too_long=True).custom_id == "a"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(1, 40))
def test_a_recovered_id_is_the_given_one(custom_id: str, cut: int) -> None:
    """Whatever is cut off a line, the id that is found is that of the whole line, or none."""
    data = json.dumps({"prompt": "a", "custom_id": custom_id, "x": [1, {"custom_id": "no"}]}).encode()
    assert recovered_id(data) == custom_id
    assert recovered_id(data[: len(data) - cut]) in (custom_id, None)


def test_rows_without_an_id() -> None:
    """A row without an id is called by its index or what was found for it, and knows that it gave none."""
    for each in (row({"prompt": "a"}), row(b"nonsense")):
        assert (parse(each).custom_id, parse(each).nameless) == ("row-3", True)
        named = msgspec.structs.replace(each, fallback_id="row-3.1")
        assert (parse(named).custom_id, parse(named).nameless) == ("row-3.1", True)
    assert not accepted({"custom_id": "row-3", "prompt": "a"}).nameless
    assert not accepted(line(custom_id="row-3")).nameless


def test_bare_body_keeps_everything_else() -> None:
    """A bare body's custom_id is the row's and not the body's; every other field stays."""
    found = accepted({"custom_id": "x", "prompt": "a", "foo": {"bar": [1, None]}})
    assert (found.custom_id, found.body) == ("x", {"prompt": "a", "foo": {"bar": [1, None]}})


@pytest.mark.parametrize("number", [2**53 + 1, 2**63, 2**64, 2**70, -(2**70), 10**300])
def test_large_integers_are_exact(number: int) -> None:
    """Integers of any size are kept exactly."""
    found = accepted(b'{"prompt": "a", "seed": %d}' % number).body["seed"]
    assert found == number
    assert isinstance(found, int)


def test_depth_500_is_read() -> None:
    """Nesting up to 500 levels is accepted, also with thousands of shallow brackets around."""
    accepted(nested(500))
    accepted(b'{"prompt":"a","x":[' + b",".join([b"[]"] * 5_000) + b"]}")
    accepted(json.dumps({"prompt": "[" * 5_000}).encode())


def test_last_duplicate_key_wins() -> None:
    """Of two equal keys the last counts, as in every common parser."""
    assert accepted(b'{"prompt":"a","prompt":"b"}').body == {"prompt": "b"}


def _round_trips(custom_id: str) -> None:
    for ascii_only in (True, False):
        data = json.dumps({"custom_id": custom_id, "prompt": "a"}, ensure_ascii=ascii_only).encode()
        found = accepted(data)
        written = response_line("job", found.index, found.custom_id, Completion(b"{}", Usage(1, 1)), "batch")
        assert b"\n" not in written
        assert json.loads(written)["custom_id"] == custom_id


@pytest.mark.parametrize(
    "custom_id", ["a\x00b", "\U0001f600\u200d\U0001f469", "\u202eשלום", "e\u0301", "\u2028\r\n", "\x7f"]
)
def test_custom_ids_round_trip(custom_id: str) -> None:
    """Any text is a custom_id and comes back exactly."""
    _round_trips(custom_id)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_custom_id_round_trips(custom_id: str) -> None:
    """Any text is a custom_id and comes back exactly."""
    _round_trips(custom_id)


@given(st.binary(max_size=200))
def test_any_bytes_have_a_verdict(data: bytes) -> None:
    """No bytes whatever make anything but a request or a rejection with a writable response."""
    parsed = parse(row(data))
    if isinstance(parsed, Rejected):
        json.loads(response_line("j", parsed.index, parsed.custom_id, parsed.failure, "batch"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_agrees_with_the_standard_library(value: object) -> None:
    """What is accepted has the value that the standard library reads; what is not, is not JSON of RFC 8259."""
    text = json.dumps(value)
    try:
        strict = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, UnicodeEncodeError):
        with pytest.raises(strict_json.BadJson):
            strict_json.decode(text.encode())
    else:
        assert strict_json.decode(text.encode()) == value == strict_json.decode(strict)


_ODD = st.sampled_from(
    [None, True, 0, 1, -1, 2, -3, 10**30, 0.0, -0.0, 0.5, 1.5, -2.5, "", "1", "x", [], ["a"], [1], {}]
)
_FIELDS = sorted(body._OF_CHAT | body._OF_COMPLETIONS)
_MESSAGES = st.sampled_from([..., None, "hi", {}, [], [{}], [{"role": 1}], ["hi"], [None]])


@given(
    st.dictionaries(st.sampled_from(_FIELDS), _ODD, max_size=3),
    _MESSAGES,
    st.sampled_from([..., None, "", "a", ["a"], [1, 2], [[1]], 7, {}]),
    st.sampled_from([CHAT, COMPLETIONS]),
)
def test_usual_bodies_are_seen_at_once(odd: dict[str, Any], messages: Any, prompt: Any, endpoint: str) -> None:
    """A body that fits the usual types has nothing wrong in any of its fields."""
    given = {**odd, "messages": messages, "prompt": prompt}
    asked = Request(0, "a", endpoint, {name: value for name, value in given.items() if value is not ...}, 9)
    assert body.refusal(asked) == body._refusal(asked.body, is_chat=endpoint == CHAT)


@pytest.mark.parametrize(
    "inside", [b'"body":{"prompt":"a","x":%b}', b'"body":{"prompt":"a"},"x":%b'], ids=["body", "line"]
)
@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b'"\\ud800"', "invalid_unicode"),
        (b'"\xff"', "invalid_unicode"),
        (b'{"\\udc00":1}', "invalid_unicode"),
        (b'"\t"', "invalid_json_line"),
        (b"01", "invalid_json_line"),
        (b"1e999", "invalid_json_line"),
        (b"NaN", "invalid_json_line"),
        (b"9" * 5000, "invalid_json_line"),
        (b"[" * 600 + b"]" * 600, "json_too_deep"),
        (b"[" * 100_000 + b"]" * 100_000, "json_too_deep"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_no_line_is_taken_without_a_look_at_all_of_it(value: bytes, code: str, inside: bytes) -> None:
    line = b'{"custom_id":"a","method":"POST","url":"/v1/completions",%b}' % (inside % value)
    assert rejected(line).failure.code == code
    assert accepted(b'{"custom_id":"a","method":"POST","url":"/v1/completions",%b}' % (inside % b'"b"'))


_VALUES = st.sampled_from([..., None, "", "a", "POST", "GET", CHAT, COMPLETIONS, "/v1/x", 7, [], {}, GOOD])


@given(_VALUES, _VALUES, _VALUES, _VALUES, st.sampled_from([..., [], "p"]))
def test_usual_lines_are_parsed_at_once(custom_id: Any, method: Any, url: Any, body: Any, prompt: Any) -> None:
    """A line that is taken at first sight is what a closer look makes of it."""
    given = row(line(custom_id=custom_id, method=method, url=url, body=body, prompt=prompt))
    if (found := request._usual(given)) is not None:
        assert found == request._parse(given)


def test_completion_line() -> None:
    """A completion's line holds its body as it is, a null error and ids that depend on job and row only."""
    body = b'{"x":12345678901234567890123,"y":"\xe2\x80\xa8"}'
    one = json.loads(response_line("job", 3, "a", Completion(body, Usage(1, 1)), "batch"))
    assert one["response"]["status_code"] == 200
    assert one["response"]["body"] == json.loads(body)
    assert one["error"] is None
    assert set(one) == {"id", "custom_id", "response", "error"}
    again = json.loads(response_line("job", 3, "b", Failure("c", "m"), "batch"))
    other = json.loads(response_line("job", 4, "a", Completion(body, Usage(1, 1)), "batch"))
    assert one["id"] == again["id"] != other["id"]


def test_failure_lines() -> None:
    """A refusal by the API has its status and body; any other failure has an error that tells about retrying."""
    refused = json.loads(response_line("j", 0, "a", Failure("c", "m", status_code=404, body=b'{"error":1}'), "batch"))
    assert (refused["response"]["status_code"], refused["response"]["body"]) == (404, {"error": 1})
    assert refused["error"] is None
    failed = json.loads(response_line("j", 0, "a", Failure("c", "m", retryable=True), "batch"))
    assert failed["response"] is None
    assert failed["error"] == {"code": "c", "message": "m", "retryable": True}


def test_body_format() -> None:
    """`body` gives the bare object, also of refusals and failures."""
    assert response_line("j", 0, "a", Completion(b'{"a":1}', Usage(1, 1)), "body") == b'{"a":1}'
    assert response_line("j", 0, "a", Failure("c", "m", status_code=400, body=b'{"error":1}'), "body") == b'{"error":1}'
    assert json.loads(response_line("j", 0, "a", Failure("c", "m"), "body"))["error"]["code"] == "c"


def test_completion_without_a_body_is_none() -> None:
    """Nothing that has no body can pass for an answer."""
    with pytest.raises(ValueError, match="no answer"):
        Completion(b"", Usage(1, 1))
