"""Runs a script as a notebook runs a cell: the value of its last expression is shown, as JSON if it is anything."""

import ast
import json
import sys
from pathlib import Path


def main(path: str) -> None:
    """Run the script at this path."""
    tree = ast.parse(Path(path).read_text("utf-8"), path)
    last = tree.body.pop()
    assert isinstance(last, ast.Expr)
    names: dict[str, object] = {}
    exec(compile(tree, path, "exec"), names)
    value = eval(compile(ast.Expression(last.value), path, "eval"), names)
    if value is not None:
        print(json.dumps(value if isinstance(value, dict) else value.model_dump()))


if __name__ == "__main__":
    main(sys.argv[1])
