"""Whether a model is there at all, found out in seconds and said in one sentence."""

from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from xbatch.errors import UsageError

ANSWER_S = 10.0
"""The hub is given this long."""
_CONFIGS = ("config.json", "params.json")


def check_model(model: str, revision: str | None) -> None:
    """Refuse a model that is neither a folder with a configuration nor on the model hub or in its local cache.

    Raises UsageError.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if not any((path / name).is_file() for name in _CONFIGS) and not list(path.glob("*.gguf")):
            raise UsageError(f"the model folder {model} has no config.json")
    elif model.startswith((".", "/", "~")) or model.count("/") > 1:
        if not path.exists() and "://" not in model:
            raise UsageError(f"the model folder {model} does not exist")
    elif not path.exists():
        _check_hub(model, revision)


def _check_hub(model: str, revision: str | None) -> None:
    try:
        hf_hub_download(model, "config.json", revision=revision, etag_timeout=ANSWER_S)
    except GatedRepoError as e:
        raise UsageError(f"the model {model!r} is gated: ask for access on the model hub, then set HF_TOKEN") from e
    except (RepositoryNotFoundError, HFValidationError) as e:
        raise UsageError(f"the model {model!r} is neither a folder here nor on the model hub") from e
    except LocalEntryNotFoundError as e:
        why = "is in offline mode" if constants.HF_HUB_OFFLINE else "can't be reached"
        raise UsageError(f"the model {model!r} is not a folder here nor downloaded, and the model hub {why}") from e
    except EntryNotFoundError:
        pass  # Mistral's own format and GGUF have no config.json; vLLM will see.
    except (HfHubHTTPError, OSError) as e:
        raise UsageError(f"the model hub does not answer for {model!r}: {e}") from e
