"""What a model is and can do, without loading it."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xbatch.assemble.starting import EngineStarter
from xbatch.job.spec import JobSpec


def describe(spec: JobSpec, model: str, scratch: Path, before: Callable[[Path], None]) -> dict[str, Any]:
    """Return the fields of a model's ModelCard under the settings of a specification, and its name under `model`.

    `before` is called with a log in `scratch`, before anything that writes to it is imported. Raises UsageError.
    """
    engine = EngineStarter(spec, scratch, scratch / "engine.log", before, lambda _: None).build(model)
    engine.check()
    card = asdict(engine.card)
    del card["unable"]  # the abilities say it already
    return {"model": model, **card}
