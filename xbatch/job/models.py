"""Which model a job needs, from what its rows name."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from xbatch.display import counted
from xbatch.errors import UsageError
from xbatch.planning.index import NamedModel

_SHOWN = 5


def choose_model(given: str | None, named: Mapping[str | None, NamedModel]) -> str | None:
    """Return the model to load: the one that was given, or the one name that the rows agree on.

    None if no row needs one. Raises UsageError.
    """
    if given is not None or not named:
        return given
    names = [name for name in named if name is not None]
    if not names:
        raise UsageError(f"no row names a model ({named[None].first_place} is the first without): give one by --model")
    if len(names) > 1:
        raise UsageError(
            f"the rows name {len(names)} models ({_list(names, named)}): "
            "split the input, or say by --model which one answers, and by --served-model-name what else it is called"
        )
    return names[0]


def check_names(served: AbstractSet[str], named: Mapping[str | None, NamedModel]) -> None:
    """Refuse a job none of whose rows can be answered under the served names.

    Raises UsageError.
    """
    if named and not any(name is None or name in served for name in named):
        wrong = [name for name in named if name is not None]
        raise UsageError(
            f"every row names a model that is not served ({_list(wrong, named)}; served: {', '.join(sorted(served))}): "
            "change --model, or add the rows' name by --served-model-name"
        )


def _list(names: list[str], named: Mapping[str | None, NamedModel]) -> str:
    shown = [
        f"{name!r} in {counted(named[name].rows, 'row')}, first in {named[name].first_place}" for name in names[:_SHOWN]
    ]
    return ", ".join(shown) + (f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
