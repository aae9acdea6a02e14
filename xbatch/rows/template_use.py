"""Which columns a template uses, told without a row."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jinja2 import nodes

ROW = "row"
"""The name under which a template has all columns of a row."""

_PLACEHOLDER = re.compile(
    r"(?<![{$])\{\s*(\w+)\s*\}(?!\})|\$\{(\w+)\}|%\((\w+)\)s|\$([A-Za-z_]\w*)|<([A-Za-z_]\w*)>|\[([A-Za-z_]\w*)\]"
)
_COMMENT = "{#"
_ASKS_WHETHER = ("defined", "undefined")
_HAS_DEFAULT = ("default", "d")


@dataclass(frozen=True, slots=True)
class TemplateUse:
    """What the texts of a request template do with columns."""

    required: frozenset[str] = frozenset()
    """Columns without which every row fails: they are used whatever a row holds, and nothing asks for them first."""
    placeholders: tuple[tuple[str, str], ...] = ()
    """What looks like a column in the style of another language, such as `{text}`: as it stands, and the name."""
    constant: bool = False
    """No column is used at all, and no comment says that this is meant."""

    @property
    def trouble(self) -> str | None:
        """Why the template can't be meant, None if it can."""
        if not self.constant:
            return None
        meant = "write {{ name }} where the value of a column is meant"
        if self.placeholders:
            text, name = self.placeholders[0]
            meant = f"{text} is sent as it stands; write {{{{ {name} }}}} for the value of a column"
        return (
            f"the template uses no column, so that all rows would ask the same: {meant}, "
            "or add {# constant #} if all rows are to ask the same"
        )


def use_of(texts: list[str], trees: list[nodes.Template], columns: frozenset[str]) -> TemplateUse:
    """Look at the texts of a template; `trees` are the same parsed, `columns` what they name at the top."""
    optional = {name for tree in trees for name in _optional(tree)}
    of_row = {name for tree in trees for name in _of_row(tree)}
    found = {
        match.group(): next(filter(None, match.groups())) for text in texts for match in _PLACEHOLDER.finditer(text)
    }
    constant = not columns and not any(_COMMENT in text for text in texts)
    named = {node.name for tree in trees for node in _certain(tree) if isinstance(node, nodes.Name)}
    return TemplateUse((columns & named - {ROW} | of_row) - optional, tuple(found.items()), constant)


def _optional(tree: nodes.Template) -> Iterator[str]:
    """Columns of which a template asks whether they are there."""
    for test in tree.find_all(nodes.Test):
        if test.name in _ASKS_WHETHER:
            yield from _named(test.node)
    for filtered in tree.find_all(nodes.Filter):
        if filtered.name in _HAS_DEFAULT and filtered.node is not None:
            yield from _named(filtered.node)
    for compared in tree.find_all(nodes.Compare):
        if isinstance(compared.expr, nodes.Const):
            yield str(compared.expr.value)  # 'text' in row


def _of_row(tree: nodes.Template) -> Iterator[str]:
    """Yield the columns that a template takes from `row` by their names, whatever the row holds."""
    for node in _certain(tree):
        is_method = isinstance(node, nodes.Getattr) and hasattr(dict, node.attr)  # row.items() and the like
        if isinstance(node, (nodes.Getattr, nodes.Getitem)) and not is_method:
            yield from _named(node)


def _certain(node: nodes.Node) -> Iterator[nodes.Node]:
    """Yield the nodes of a template that are evaluated for every row: no branches, loops, macros or later operands."""
    yield node
    if isinstance(node, (nodes.If, nodes.CondExpr)):
        below = [node.test]
    elif isinstance(node, nodes.For):
        below = [node.iter]
    elif isinstance(node, (nodes.And, nodes.Or)):
        below = [node.left]
    elif isinstance(node, (nodes.Macro, nodes.CallBlock)):
        below = []
    else:
        below = list(node.iter_child_nodes())
    for each in below:
        yield from _certain(each)


def _named(node: Any) -> Iterator[str]:
    if isinstance(node, nodes.Name):
        yield node.name
    elif isinstance(node, nodes.Getattr) and _is_row(node.node):
        yield node.attr
    elif isinstance(node, nodes.Getitem) and _is_row(node.node) and isinstance(node.arg, nodes.Const):
        yield str(node.arg.value)


def _is_row(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == ROW
