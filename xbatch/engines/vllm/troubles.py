"""What vLLM raises, translated into the two kinds of trouble that a user can act on."""

import contextlib
import re
from collections.abc import Iterator

from packaging.specifiers import SpecifierSet
from pydantic import ValidationError

from xbatch.engines.vllm.installed import inspect_engine, is_supported, supported_versions
from xbatch.errors import EngineError, UsageError, XbatchError

_MISFIT = (ImportError, AttributeError, TypeError, NameError)
"""What Python raises where vLLM's parts are not where another version of it has them."""
_NOT_OF_SETTINGS = (ImportError, AttributeError, NameError, RuntimeError)
"""What vLLM raises where neither a setting nor the model is wrong: it lacks a device, or a library."""


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn whatever is raised inside into a sentence that begins with `what`.

    Raises UsageError where a setting or the model is wrong, EngineError where vLLM itself can't work: it is a version
    that xbatch does not know, it finds no device, or it is broken.
    """
    try:
        yield
    except XbatchError:
        raise
    except SystemExit as e:
        raise UsageError(f"{what}: vLLM has ended at once; a setting may ask it to show something") from e
    except Exception as e:
        if isinstance(e, _MISFIT) and (other := other_version()) is not None:
            raise EngineError(f"{other} ({first_line(e)})") from e
        if isinstance(e, _NOT_OF_SETTINGS) and not isinstance(e, RecursionError):
            raise EngineError(f"vLLM can't work here: {because(e)}; `xbatch doctor` tells more") from e
        raise UsageError(f"{what}: {first_line(e)}") from e


def because(error: Exception) -> str:
    """Describe an exception in one line, and what is wrong with the installation, if anything is."""
    problem = next((problem for problem in inspect_engine().problems if problem.blocking), None)
    if problem is None:
        return first_line(error)
    return f"{first_line(error)}. {problem.message} Mend it by `{problem.remedy}`"


def first_line(error: Exception) -> str:
    """Describe an exception in one line."""
    text = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
    text = text.strip().removeprefix("Value error, ") or type(error).__name__
    first, *rest = text.splitlines()
    return f"{first} {rest[0].strip()}" if first.endswith(":") and rest else first


def other_version() -> str | None:
    """Name the installed version of vLLM and those that xbatch works with; None if it is one of these."""
    for engine in inspect_engine().engines:
        if not is_supported(engine):
            wanted = supported_versions(engine.name)
            install = f"pip install '{engine.name}{','.join(sorted(map(str, wanted or ()), reverse=True))}'"
            return f"{engine.name} {engine.version} is installed, and xbatch works with {_range_of(wanted)}: {install}"
    return None


def _range_of(wanted: SpecifierSet | None) -> str:
    """Return a range of versions in words: `0.23 to 0.32` for `>=0.23,<0.33`."""
    bounds = {each.operator: each.version for each in wanted or ()}
    first, end = bounds.get(">=", ""), re.fullmatch(r"(\d+\.)(\d+)", bounds.get("<", ""))
    if not first or end is None:
        return str(wanted)
    last = f"{end[1]}{int(end[2]) - 1}"
    return first if first == last else f"{first} to {last}"
