"""Request templates: from the columns of a row to a body, or to the failure that says why there is none."""

import json
import time
from typing import Any

import pytest

from xbatch.errors import UsageError
from xbatch.rows.request import CHAT, COMPLETIONS, Rejected, Request, parse
from xbatch.rows.row import Row
from xbatch.rows.template import RequestTemplate, TemplateError

COLUMNS: dict[str, Any] = {
    "text": "so & <so>",
    "stars": 5,
    "share": 0.5,
    "good": True,
    "none": None,
    "tags": ["a", "b"],
    "meta": {"items": 3, "name": "n"},
    "a name": "spaced",
    "__proto__": "odd",
}


def value(template: Any, key: str = "x") -> Any:
    return RequestTemplate({key: template}).body(COLUMNS)[key]


def failure(template: Any, key: str = "x") -> str:
    with pytest.raises(TemplateError) as raised:
        value(template, key)
    assert raised.value.code == "template_failed"
    return str(raised.value)


def row(data: Any, **more: Any) -> Row:
    encoded = data if isinstance(data, bytes) else json.dumps(data).encode()
    return Row(3, "t.parquet:", 4, 0, encoded, len(encoded), **more)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ tags }}", ["a", "b"]),
        ("{{ meta }}", {"items": 3, "name": "n"}),
        ("{{ stars }}", 5),
        ("{{ share }}", 0.5),
        ("{{ good }}", True),
        ("{{ none }}", None),
        ("{{ stars * 2 }}\n", 10),
        ("{{ tags | map('upper') | list }}", ["A", "B"]),
        ("{{ (stars, 1) }}", [5, 1]),
        ("{{ meta.items }}", 3),
        ("{{ row['a name'] }}", "spaced"),
        ("{{ absent | default('d') }}", "d"),
        ("{{ absent is defined }}", False),
        (" {{ stars }}", " 5"),
        ("{{ stars }} of 5", "5 of 5"),
        ("{{ text }}", "so & <so>"),
        ("{{ meta | tojson }}", '{"items": 3, "name": "n"}'),
        ("{{ text | tojson }}", '"so & <so>"'),
        ("{% for tag in tags %}\n  {{ tag }}\n{% endfor %}\nend", "  a\n  b\nend"),
        ("plain }} text", "plain }} text"),
        (0.25, 0.25),
        (None, None),
        ([{"y": ["{{ stars }}", 1]}], [{"y": [5, 1]}]),
    ],
    ids=str,
)
def test_values(template: Any, expected: Any) -> None:
    """A text that is one expression gives its value, any other text gives text, and everything else stays."""
    found = value(template)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("key", ["content", "prompt", "text", "custom_id"])
def test_text_keys(key: str) -> None:
    """Where the API wants text a number becomes text; a list or an object stays, for parts and token ids are those."""
    assert value("{{ stars }}", key) == "5"
    assert value("{{ share }}", key) == "0.5"
    assert value("{{ tags }}", key) == ["a", "b"]
    assert value("{{ meta }}", key) == {"items": 3, "name": "n"}


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ absent }}", "column 'absent' is missing; the row has: text, stars, share, good, none, tags, meta"),
        ("so {{ absent }}", "column 'absent' is missing; the row has: text"),
        ("{{ absent.deeper }}", "column 'absent' is missing"),
        ("{{ [absent] }}", "column 'absent' is missing"),
        ("{{ meta.absent }}", "no attribute 'absent'"),
        ("so {{ none }}", "a text would hold null (null in this row: none)"),
        ("{{ 1 / (stars - 5) }}", "division by zero"),
        ("{{ text.__class__.__mro__ }}", "unsafe"),
        ("{{ text | attr('__class__') }}", "unsafe"),
        ("{{ tags.append(1) }}", "unsafe"),
        ("{{ row.update(a=1) }}", "unsafe"),
        ("{{ text.format.__globals__ }}", "unsafe"),
        ("{{ '{0.__class__}'.format(text) }}", "unsafe"),
        ("{{ cycler }}", "column 'cycler' is missing"),
        ("{{ range(10 ** 9) | list }}", "Range too big"),
        ("{% for i in range(10 ** 9) %}a{% endfor %}", "Range too big"),
        ("{{ tags | map('upper') }}", "a generator, which JSON does not have"),
        ("{{ share * 1e308 * 1e308 }}", "inf, which JSON does not have"),
        ("{% include 'x' %}", "no loader"),
        ("{{ stars + text }}", "unsupported operand"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    ],
)
def test_failures(template: str, said: str) -> None:
    """Whatever goes wrong in a template is a failure of the row that says why; nothing dangerous can be reached."""
    assert said in failure(template)


def test_null_is_no_text() -> None:
    """A null never becomes the word None in a prompt."""
    assert "write {{ x or '' }}" in failure("{{ none }}", "content")
    assert value("{{ none or '' }}", "content") == ""


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"messages": [{"role": "user", "content": "{{ text"}]}, "messages[0].content: "),
        ({"prompt": "a\nb {% if %}"}, "prompt, line 2: "),
        ({"prompt": "{{ text | nofilter }}"}, "prompt: No filter named 'nofilter'"),
        ({"prompt": "{{ tags | random }}"}, "prompt: No filter named 'random'"),
    ],
)
def test_mistakes_are_found_at_once(spec: dict[str, Any], said: str) -> None:
    """A text that is no template, or that would differ from run to run, is refused by its place before any row."""
    with pytest.raises(UsageError) as raised:
        RequestTemplate(spec)
    assert str(raised.value).startswith(said)


def test_columns() -> None:
    """A template tells which columns it may look at, so that others need not be read; none stands for all."""
    spec = {"prompt": "{{ a }}{% for x in b %}{{ x.c }}{% endfor %}", "n": [{"m": "{{ d | default(e) }}"}]}
    assert RequestTemplate(spec).columns == {"a", "b", "d", "e"}
    assert RequestTemplate({"prompt": "{{ a }} {{ row | tojson }}"}).columns == frozenset()


def test_rows_do_not_share() -> None:
    """What one row's body becomes in the engine never shows in another's."""
    template = RequestTemplate({"messages": [], "stop": ["a"], "response_format": {"schema": {}}})
    body = template.body({})
    body["stop"].append("b")
    body["response_format"]["schema"]["x"] = 1
    assert template.body({}) == {"messages": [], "stop": ["a"], "response_format": {"schema": {}}}


def test_data_is_no_template() -> None:
    """What stands in a column is never read as a template."""
    body = RequestTemplate({"prompt": "say {{ text }}"}).body({"text": "{{ 1 / 0 }} ${HOME}"})
    assert body == {"prompt": "say {{ 1 / 0 }} ${HOME}"}


def test_requests() -> None:
    """A row becomes a request by the template; it is named by the template's custom_id, its own one or its index."""
    chat = RequestTemplate({"messages": [{"role": "user", "content": "{{ text }}"}], "model": "m"})
    parsed = parse(row({"text": "hi", "body": 1, "url": "odd", "messages": 2}), chat)
    assert parsed == Request(
        3,
        "row-3",
        CHAT,
        {"messages": [{"role": "user", "content": "hi"}], "model": "m"},
        parsed.num_bytes,
        nameless=True,
        line=4,
    )
    assert parse(row({"text": "hi", "custom_id": "mine"}), chat).custom_id == "mine"
    named = RequestTemplate({"custom_id": "{{ id }}", "prompt": "{{ text }}"})
    parsed = parse(row({"text": "hi", "custom_id": "mine", "id": 7}), named)
    assert (parsed.custom_id, parsed.endpoint, parsed.body) == ("7", COMPLETIONS, {"prompt": "hi"})
    again = parse(row({"text": "hi", "id": 7}, first_use="t.parquet:1"), named)
    assert isinstance(again, Rejected)
    assert again.failure.code == "duplicate_custom_id"


def test_rejected() -> None:
    """A row whose template fails is rejected by its place, under its own name."""
    template = RequestTemplate({"prompt": "{{ text }}"})
    rejected = parse(row({"txt": "hi", "custom_id": "mine"}), template)
    assert isinstance(rejected, Rejected)
    assert (rejected.custom_id, rejected.failure.code) == ("mine", "template_failed")
    assert rejected.failure.message == (
        "t.parquet:4: the template failed: column 'text' is missing (did you mean 'txt'?); the row has: txt, custom_id"
    )
    broken = parse(row(b"{"), template)
    assert isinstance(broken, Rejected)
    assert broken.failure.code == "invalid_json_line"


def test_fast_enough() -> None:
    """Templates are no bottleneck: far more rows a second than any engine answers."""
    template = RequestTemplate(
        {"messages": [{"role": "user", "content": "Sort {{ text }}: {{ tags | join(', ') }}"}], "n": "{{ stars }}"}
    )
    began_s = time.perf_counter()
    for _ in range(5_000):
        template.body(COLUMNS)
    assert 5_000 / (time.perf_counter() - began_s) > 5_000


# --- what can be told before any row -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("Say: {text}", "{text} is sent as it stands; write {{ text }} for the value of a column"),
        ("Say: { text }", "{ text } is sent as it stands; write {{ text }}"),
        ("Say: ${text}", "${text} is sent as it stands; write {{ text }}"),
        ("Say: $text!", "$text is sent as it stands; write {{ text }}"),
        ("Say: %(text)s", "%(text)s is sent as it stands; write {{ text }}"),
        ("Say: <text>", "<text> is sent as it stands; write {{ text }}"),
        ("Say: [text]", "[text] is sent as it stands; write {{ text }}"),
        ("Say it", "write {{ name }} where the value of a column is meant"),
        ("Say {{ 1 + 1 }}{% set x = 1 %}{{ x }}{% for i in range(2) %}{{ i }}{% endfor %}", "uses no column"),
    ],
)
def test_a_template_without_columns(template: str, said: str) -> None:
    """A template that asks the same of every row is not meant: what is likely meant is said."""
    trouble = RequestTemplate({"messages": [{"role": "user", "content": template}], "n": 1}).use.trouble
    assert trouble is not None
    assert said in trouble
    assert trouble.endswith("or add {# constant #} if all rows are to ask the same")


@pytest.mark.parametrize(
    "template", ["{{ text }}", "{text} {{ n }}", "{{ row['a b'] }}", "{{ row | tojson }}", "a {# b #}"]
)
def test_a_template_with_columns(template: str) -> None:
    """A template that uses a column, or says by a comment that it needs none, is taken."""
    assert RequestTemplate({"prompt": template}).use.trouble is None


@pytest.mark.parametrize(
    ("template", "required"),
    [
        ("{{ a }} {{ b.c }} {{ d[0] }}", {"a", "b", "d"}),
        ("{{ row['a b'] }} {{ row.c }}", {"a b", "c"}),
        ("{{ row | tojson }} {% for k, v in row.items() %}{{ k }}{% endfor %}{{ row.get('x') }}", set()),
        ("{% if a is defined %}{{ a }}{% endif %}{{ b }}", {"b"}),
        ("{% if row.a is undefined %}no{% else %}{{ row.a }}{% endif %}", set()),
        ("{{ a | default('x') }} {{ row['b'] | d('') }}", set()),
        ("{% if 'a' in row %}{{ row.a }}{% endif %}", set()),
        ("{% if kind == 'a' %}{{ a }}{% else %}{{ b }}{% endif %}{{ a2 if kind else b2 }}", {"kind"}),
        ("{% if row.get('a') %}{{ a }}{{ row.b }}{% endif %}{{ row.get('c') and c }}", set()),
        ("{% for x in list %}{{ other }}{% endfor %}{% macro m(y) %}{{ y }}{{ z }}{% endmacro %}", {"list"}),
        ("{% for x in list %}{{ x }}{% endfor %}{% set y = 1 %}{{ y }}{{ range(3) | join }}", {"list"}),
    ],
)
def test_required_columns(template: str, required: set[str]) -> None:
    """Columns that are used for every row must be there, unless the template asks whether they are."""
    assert RequestTemplate({"prompt": template}).use.required == required


def test_placeholders_of_other_languages() -> None:
    """What looks like a column and is none is found, but not inside of what is Jinja."""
    assert RequestTemplate({"prompt": "{a} $b {{ c }} {{d}} {%if e%}<f>{%endif%}"}).use.placeholders == (
        ("{a}", "a"),
        ("$b", "b"),
        ("<f>", "f"),
    )


# --- bytes that are no text ---------------------------------------------------------------------------------------


def bytes_row() -> dict[str, Any]:
    return {"text": "a", "image": {"bytes": "/9g=", "path": "p"}, "list": [{"data": "/w=="}]}


NOT_TEXT = (("image", "bytes"), ("list", 0, "data"))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ image.bytes | base64 }}", "/9g="),
        ("data:image/png;base64,{{ image['bytes'] | base64 }}", "data:image/png;base64,/9g="),
        ("{{ text | base64 }}", "YQ=="),
        ("{% if image.bytes %}yes{% endif %} {{ image.path }}", "yes p"),
        ("{{ image.bytes is none }}", "False"),
        ("{% for each in list %}{{ each.data | base64 }}{% endfor %}", "/w=="),
    ],
)
def test_bytes_as_base64(template: str, expected: str) -> None:
    """Bytes are sent by the filter `base64`, which does the same to text."""
    assert RequestTemplate({"prompt": template}).body(bytes_row(), NOT_TEXT) == {"prompt": expected}


@pytest.mark.parametrize(
    "template",
    [
        "{{ image.bytes }}",
        "so {{ image.bytes }}",
        "{{ image.bytes | upper }}",
        "{{ image.bytes | length }}",
        "{{ image.bytes[0] }}",
        "{{ image.bytes.split() }}",
        "{{ image.bytes ~ 'a' }}",
        "{{ image.bytes + 'a' }}",
        "{{ 'a' + image.bytes }}",
        "{{ image.bytes == 'a' }}",
        "{{ 'a' in image.bytes }}",
        "{{ '%s' % image.bytes }}",
        "{{ image.bytes | default('a') }}",
        "{{ image.bytes or 'a' }}",
        "{{ row | tojson }}",
        "{{ image }}",
        "so {{ image }}",
        "{{ [image] }}",
        "{{ image.bytes | replace('a', 'b') }}",
    ],
)
def test_bytes_as_text(template: str) -> None:
    """Whatever else a template does with bytes that are no text is a failure that names the column and the filter."""
    with pytest.raises(TemplateError) as raised:
        RequestTemplate({"prompt": template, "custom_id": "{{ text }}"}).body(bytes_row(), NOT_TEXT)
    assert raised.value.code == "invalid_unicode"
    assert "column image.bytes holds bytes that are not UTF-8 text; {{ image.bytes | base64 }}" in str(raised.value)
    assert raised.value.custom_id == "a"


def test_a_failed_row_keeps_the_id_of_its_template() -> None:
    """A row of which the template makes no body is called as the template calls it, if that part of it works."""
    template = RequestTemplate({"prompt": "{{ text }}", "custom_id": "{{ id }}"})
    found = parse(row({"id": 7, "custom_id": "mine"}), template)
    assert (found.custom_id, found.nameless) == ("7", False)
    assert parse(row({"custom_id": "mine"}), template).custom_id == "mine"
    assert parse(row({}), template).custom_id == "row-3"


def test_nulls_of_structs_in_a_template() -> None:
    """Messages that come from a column of structs lose the nulls that stand for fields left out."""
    template = RequestTemplate({"messages": "{{ messages }}"})
    found = parse(row({"messages": [{"role": "user", "content": "a", "name": None}]}), template)
    assert isinstance(found, Request)
    assert found.body == {"messages": [{"role": "user", "content": "a"}]}
