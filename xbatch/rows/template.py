"""From the columns of a row to a request's body, by templates.

Language: Jinja2, in its sandbox. The templates are the user's own, like the command; what they see of a row is data and
is never read as a template.
"""

import base64
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeAlias

from jinja2 import StrictUndefined, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.environment import TemplateExpression
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing

from xbatch.errors import UsageError
from xbatch.rows.given_id import id_text
from xbatch.rows.not_text import BytesError, NotText, mark_not_text, refuse_not_text
from xbatch.rows.row import CellPath
from xbatch.rows.suggest import did_you_mean, listed
from xbatch.rows.template_use import ROW, use_of

TEXT_KEYS = frozenset(("content", "prompt", "text", "custom_id"))
"""Keys whose value is text, whatever the column's type, unless it is a list or an object."""

_MARKS = ("{{", "{%", "{#")
_SHOWN_COLUMNS = 20
_NOT_PURE = ("random",)
_CUSTOM_ID = "custom_id"
_GLOBALS = ("range", "dict", "namespace")
_MISSING = re.compile(r"column '(.*)' is missing", re.DOTALL)

Part: TypeAlias = Callable[[dict[str, Any]], Any]
"""What makes one value of the body from the names that a template may use."""


class TemplateError(Exception):
    """A row from which the template makes no body.

    `code` is the failure's code, `custom_id` what the template calls the row, None if it can't tell or doesn't.
    """

    def __init__(self, code: str, message: str, custom_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.custom_id = custom_id


class _Null(Exception):
    """A text would have held the word None."""


class _Missing(StrictUndefined):
    """A name that is no column."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        if self._undefined_obj is missing and not self._undefined_hint:
            return f"column {self._undefined_name!r} is missing"
        return super()._undefined_message


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, for JSON data: a row can't be changed, and the same row always gives the same text."""

    def __init__(self) -> None:
        super().__init__(undefined=_Missing, finalize=_not_null, trim_blocks=True, lstrip_blocks=True)
        self.globals = {name: self.globals[name] for name in _GLOBALS}
        self.filters["tojson"] = _to_json  # Jinja2's own is for HTML and writes < as \u003c
        self.filters["base64"] = _base64
        for name in _NOT_PURE:
            del self.filters[name]

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return the field of that name if there is one, such as `a.items`, else the method."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        if isinstance(obj, NotText):
            obj.refuse()
        return super().getattr(obj, attribute)


class RequestTemplate:
    """Makes bodies from rows.

    `spec` is the body, of any structure; each text in it is a template over the row's columns, all of which are also in
    `row`, as in `{{ row['a name'] }}`. A text that is one expression and nothing else, such as `{{ messages }}`, gives
    that value with its type; any other text gives text.

    Raises UsageError, which names the place, if a text is no template.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        environment = _Environment()
        texts = list(_texts(spec))
        try:
            self._part = _compile(environment, dict(spec), "", text_only=False)
            self._id_part = _compile(environment, spec.get(_CUSTOM_ID), _CUSTOM_ID, text_only=True)
            trees = [environment.parse(text) for text in texts]
            names = frozenset().union(*map(meta.find_undeclared_variables, trees))
        except UsageError:
            raise
        except (RecursionError, MemoryError):
            raise UsageError("the template is nested too deeply") from None
        except Exception as e:  # what Python says of the code that Jinja2 makes, such as of too many nested loops
            raise UsageError(f"the template can't be used: {e}") from e
        self.columns: frozenset[str] = frozenset() if ROW in names else names
        """The columns that the templates name; none if they may look at all of them."""
        self.use = use_of(texts, trees, names - {*_GLOBALS})
        """What can be told of the template before it sees a row."""

    def body(self, row: dict[str, Any], not_text: Collection[CellPath] = ()) -> dict[str, Any]:
        """Make the body for a row; `not_text` are its values that hold bytes which are no text, as base64.

        Raises TemplateError: `template_failed` if a column is missing or null where a text needs it, or for whatever
        else Jinja2 says; `invalid_unicode` if bytes are used as text that are none.
        """
        mark_not_text(row, not_text)
        try:
            body: dict[str, Any] = self._part({ROW: row} | row)
            if not_text:
                refuse_not_text(body)
        except Exception as e:  # noqa: BLE001 - whatever a template raises is the row's trouble
            code = "invalid_unicode" if isinstance(e, BytesError) else "template_failed"
            raise TemplateError(code, f"the template failed: {_explained(e, row)}", self._id_of(row)) from None
        return body

    def _id_of(self, row: dict[str, Any]) -> str | None:
        """Return what the template calls a row of which it makes no body, None if that can't be told."""
        try:
            return id_text(self._id_part({ROW: row} | row))
        except Exception:  # noqa: BLE001 - the row's failure tells of another part of the template, or of this one
            return None


def _compile(environment: _Environment, spec: Any, place: str, *, text_only: bool) -> Part:
    if isinstance(spec, dict):
        parts = {
            str(key): _compile(environment, value, f"{place}.{key}".lstrip("."), text_only=key in TEXT_KEYS)
            for key, value in spec.items()
        }
        return lambda names: {key: part(names) for key, part in parts.items()}
    if isinstance(spec, list):
        each = [_compile(environment, v, f"{place}[{i}]", text_only=text_only) for i, v in enumerate(spec)]
        return lambda names: [part(names) for part in each]
    if not isinstance(spec, str) or not any(mark in spec for mark in _MARKS):
        return lambda _: spec
    try:
        tree = environment.parse(spec)
        if (expression := _single_expression(tree)) is not None:
            return _value(environment, expression, place, text_only=text_only)
        render = environment.from_string(spec).render
    except TemplateSyntaxError as e:
        line = f", line {e.lineno}" if "\n" in spec else ""
        raise UsageError(f"{place}{line}: {e.message}") from None
    return render


def _texts(spec: Any) -> Iterator[str]:
    if isinstance(spec, (dict, list)):
        for each in spec.values() if isinstance(spec, dict) else spec:
            yield from _texts(each)
    elif isinstance(spec, str):
        yield spec


def _single_expression(tree: nodes.Template) -> nodes.Expr | None:
    if len(tree.body) != 1 or not isinstance(output := tree.body[0], nodes.Output) or len(output.nodes) != 1:
        return None
    return None if isinstance(output.nodes[0], nodes.TemplateData) else output.nodes[0]


def _value(environment: _Environment, expression: nodes.Expr, place: str, *, text_only: bool) -> Part:
    """The value of an expression, not its text; as `Environment.compile_expression` does it."""
    if isinstance(expression, nodes.Name) and expression.name not in _GLOBALS:
        name = expression.name

        def look_up(names: dict[str, Any]) -> Any:
            return names[name] if name in names else str(environment.undefined(name=name))
    else:
        assign = nodes.Assign(nodes.Name("result", "store"), expression, lineno=1)
        template = environment.from_string(nodes.Template([assign], lineno=1))
        evaluate = TemplateExpression(template, undefined_to_none=False)

        def look_up(names: dict[str, Any]) -> Any:
            return _json(evaluate(names), place)

    if not text_only:
        return look_up

    def as_text(names: dict[str, Any]) -> Any:
        value = look_up(names)
        return value if isinstance(value, (str, list, dict)) else str(_not_null(value))

    return as_text


def _json(value: Any, place: str) -> Any:
    """Return the value as JSON has it. Raises what names the column if it is undefined or bytes."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, (list, tuple)):
        return [_json(each, place) for each in value]
    if isinstance(value, dict):
        return {str(key): _json(each, place) for key, each in value.items()}
    if isinstance(value, (StrictUndefined, NotText)):
        return str(value)  # raises, and names what is missing
    what = value if isinstance(value, float) else f"a {type(value).__name__}"
    raise TypeError(f"{place} is {what}, which JSON does not have")


def _not_null(value: Any) -> Any:
    if value is None:
        raise _Null
    return value


def _null(row: dict[str, Any]) -> str:
    names = [name for name, value in row.items() if value is None]
    columns = f" (null in this row: {', '.join(names[:_SHOWN_COLUMNS])})" if names else ""
    return f"a text would hold null{columns}; write {{{{ x or '' }}}} where that is meant"


def _explained(e: Exception, row: dict[str, Any]) -> str:
    """Say why a template failed on a row."""
    if isinstance(e, _Null):
        return _null(row)
    if isinstance(e, UndefinedError):
        name = _MISSING.match(str(e))
        return f"{e}{did_you_mean(name[1], row) if name else ''}; the row has: {listed(row)}"
    return str(e) or type(e).__name__


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, default=_not_json)


def _not_json(value: Any) -> str:
    if isinstance(value, NotText):
        value.refuse()
    raise TypeError(f"tojson: a {type(value).__name__} is nothing that JSON has")


def _base64(value: Any) -> str:
    """Return the bytes of a binary column, or the UTF-8 bytes of a text, as base64."""
    if isinstance(value, NotText):
        return value.base64
    if not isinstance(value, str):
        raise TypeError("base64 is for binary columns and texts")
    return base64.b64encode(value.encode()).decode()
