"""YAML as job files have it: the plain types of JSON, environment variables in texts, and every line remembered."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from xbatch.display import escaped

# Of what YAML 1.1 makes of bare words only what JSON has too: 10:30, 007 and 12e34 are no
# numbers, `no` is no boolean.
_SCALARS = {
    "tag:yaml.org,2002:null": ("~|null|Null|NULL|", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": ("true|True|TRUE|false|False|FALSE", list("tTfF")),
    "tag:yaml.org,2002:int": ("[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    "tag:yaml.org,2002:float": (
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+][0-9]+",
        list("-+.0123456789"),
    ),
}
_DEEPEST = 50
"""Levels of nesting that a job file may have."""
_MOST_VALUES = 100_000
"""Values that a job file may have, those that an alias repeats included."""
_VARIABLE = re.compile(r"\$(\$\{)|\$\{([^}]*)(\}?)")
_NAMED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:-)(.*))?", re.DOTALL)


class BadYaml(Exception):
    """The text is not what a job file can be; `line` counts from 1."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that refuses a key which stands twice and fills in environment variables."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - as the class above it

    def __init__(self, text: str, environment: Mapping[str, str]) -> None:
        super().__init__(text)
        self.environment = environment
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, unless it lies too deep for what comes after."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise BadYaml(f"nested deeper than {_DEEPEST} levels", None)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise BadYaml("a key must be plain text; put a template in quotes: '{{ text }}'", _line(key))
            if key.value in seen:
                raise BadYaml(f"{key.value} stands twice", _line(key))
            if key.tag != "tag:yaml.org,2002:merge":
                seen.add(key.value)
        return super().construct_mapping(node, deep=True)

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        text = str(self.construct_scalar(node))
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise BadYaml("half of a character, which no text can have", _line(node))
        return filled_in(text, self.environment, _line(node))

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        try:
            return int(text)
        except ValueError:  # Python reads no longer ones
            raise BadYaml(f"{text[:20]}… is no number that can be used", _line(node)) from None


for _tag, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), _first)
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile("<<$"), ["<"])
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_yaml_str)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


class YamlText:
    """A YAML document that is a mapping; `fields` holds what it says.

    Raises BadYaml.
    """

    def __init__(self, text: str, environment: Mapping[str, str]) -> None:
        try:
            loader = _Loader(text, environment)
            self._node = loader.get_single_node()
            if self._node is not None:
                _count_values(self._node, {})
            value = {} if self._node is None else loader.construct_document(self._node)
        except yaml.MarkedYAMLError as e:
            mark = e.problem_mark or e.context_mark
            raise BadYaml(f"not valid YAML: {e.problem or e.context}", mark.line + 1 if mark else None) from None
        except yaml.YAMLError as e:
            raise BadYaml(f"not valid YAML: {e}", None) from None
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as e:
            raise BadYaml(f"a value does not fit its tag: {e}", None) from None
        if not isinstance(value, dict):
            raise BadYaml(f"holds {type(value).__name__}, not fields with values", 1)
        self.fields: dict[str, Any] = {str(key): each for key, each in value.items()}

    def line(self, path: tuple[int | str, ...]) -> int | None:
        """The line, from 1, of the key or item at the end of a path, or of as much of the path as there is."""
        node, line = self._node, None
        for step in path:
            found = _child(node, step)
            if found is None:
                break
            node, line = found
        return line


def filled_in(text: str, environment: Mapping[str, str], line: int | None = None) -> str:
    """A text with its `${NAME}` and `${NAME:-default}` filled in; `$${` is a plain `${`.

    As in a shell, the default also stands for a variable that is empty. Raises BadYaml if a variable without a default
    is not set.
    """

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return match[1]
        named = _NAMED.fullmatch(match[2]) if match[3] else None
        if named is None:
            raise BadYaml(f"{match[0]} is neither ${{NAME}} nor ${{NAME:-default}}; write $${{ for a plain ${{", line)
        name, has_default, default = named.groups()
        if has_default:
            return environment.get(name) or default
        if name not in environment:
            raise BadYaml(f"the environment variable {name} is not set; ${{{name}:-…}} gives a default", line)
        return environment[name]

    return _VARIABLE.sub(value, text)


def dumped(fields: Mapping[str, Any]) -> str:
    """Write fields as YAML that reads back as the same and can be shown on a terminal."""
    text = yaml.dump(_escaped(dict(fields)), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return _shown(text)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines are blocks, and nothing is an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if _shown(text) != text:  # YAML has escapes in quotes only
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


def _shown(text: str) -> str:
    """Escape what a terminal would act on, except line breaks and tabs; YAML reads such escapes in quoted texts."""
    return "\n".join("\t".join(map(escaped, line.split("\t"))) for line in text.split("\n"))


_Dumper.add_representer(str, _represent_text)
for _tag, (_pattern, _first) in _SCALARS.items():  # besides YAML 1.1's own: a text that either would misread is quoted
    _Dumper.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), _first)


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {_escaped(key): _escaped(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_escaped(each) for each in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


def _count_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values of a node, with those that aliases repeat; `known` holds the counts by the node's identity.

    Raises BadYaml if they are too many.
    """
    if id(node) not in known:
        known[id(node)] = 1  # a node that holds itself is refused later
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        values = [each for part in parts for each in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] += sum(_count_values(each, known) for each in values)
        if known[id(node)] > _MOST_VALUES:
            raise BadYaml(f"holds more than {_MOST_VALUES:,} values", _line(node))
    return known[id(node)]


def _child(node: yaml.Node | None, step: int | str) -> tuple[yaml.Node, int] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return value, _line(key)
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], _line(node.value[step])
    return None


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
