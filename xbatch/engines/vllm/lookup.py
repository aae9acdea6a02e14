"""Whether a model is there at all, found out in seconds, before vLLM is imported, and said in one sentence."""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from xbatch.engines.vllm.weights import check_files
from xbatch.errors import UsageError
from xbatch.threads import Thread

ANSWER_S = 10.0
"""Time that the hub is given for an answer once it can be reached."""
REACH_S = 3.0
"""Time that the hub, or the proxy before it, is given to take a connection: a lost packet is sent again after 1 s."""
_BUNDLED = "demo"
_CONFIGS = ("config.json", "params.json")
_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks5": 1080, "socks5h": 1080}
_YES = ("1", "true", "yes", "on")


def check_model(model: str, revision: str | None) -> None:
    """Refuse a model that is neither a folder with a configuration nor on the model hub or in its local cache.

    Raises UsageError.
    """
    if check_folder(model):
        check_hub(model, revision)


def check_folder(model: str) -> bool:
    """Refuse a folder that holds no model; tell whether the model is no folder, so that the hub must have it.

    Raises UsageError.
    """
    try:
        path = Path(model).expanduser()
    except RuntimeError as e:  # there is no such user
        raise UsageError(f"the model folder {model} does not exist: {e}") from e
    if os.path.isdir(path):  # noqa: PTH112 - it takes any text for a path, however long
        if not any((path / name).is_file() for name in _CONFIGS) and not list(path.glob("*.gguf")):
            raise UsageError(f"the model folder {model} has no config.json")
        check_files(path)
        return False
    exists = os.path.exists(path)  # noqa: PTH110 - as above
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        if not exists and "://" not in model:
            raise UsageError(f"the model folder {model} does not exist")
        return False
    return not exists


def check_hub(model: str, revision: str | None) -> None:
    """Refuse a model that the hub does not have, or that can't be had because the hub can't be reached.

    Settings of the hub's client hold: `HF_HUB_OFFLINE`, `HF_ENDPOINT`, `HF_HOME`, proxies. Raises UsageError.
    """
    if os.environ.get("VLLM_USE_MODELSCOPE", "").lower() in _YES:
        return  # vLLM asks another hub
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository = model.partition(":")[0]  # vLLM takes repository:quantization for GGUF
    near = f"; did you mean {_BUNDLED}, the bundled model?" if get_close_matches(model, [_BUNDLED]) else ""
    why = "is in offline mode" if constants.HF_HUB_OFFLINE else "can't be reached"
    nowhere = f"the model {model!r} is not a folder here nor downloaded, and the model hub {why}{near}"
    sentences: tuple[tuple[type[Exception], str], ...] = (
        (GatedRepoError, f"the model {model!r} is gated: ask for access on the model hub, then set HF_TOKEN"),
        (RevisionNotFoundError, f"the model {model!r} has no revision {revision!r} on the model hub"),
        (RepositoryNotFoundError, f"the model {model!r} is neither a folder here nor on the model hub{near}"),
        (HFValidationError, f"the model {model!r} is neither a folder here nor a name that the model hub can have"),
        (LocalEntryNotFoundError, nowhere),
    )
    try:
        if isinstance(try_to_load_from_cache(repository, "config.json", revision=revision), str):
            return
        is_up = constants.HF_HUB_OFFLINE or is_reachable(constants.ENDPOINT)
        if is_up:
            hf_hub_download(repository, "config.json", revision=revision, etag_timeout=ANSWER_S)
    except Exception as e:  # the hub's client hands on what its HTTP library raises
        known = next((text for kind, text in sentences if isinstance(e, kind)), None)
        if known is None and isinstance(e, EntryNotFoundError):
            return  # Mistral's own format and GGUF have no config.json; vLLM will see.
        raise UsageError(known or f"the model hub does not answer for {model!r}: {e}") from e
    if not is_up:
        raise UsageError(nowhere)


def is_reachable(endpoint: str) -> bool:
    """Tell whether a server, or the proxy that leads to it, takes a connection; True where that can't be tried.

    The hub's own client tries again for 23 seconds.
    """
    address = _address(endpoint)
    if address is None:
        return True
    connected = threading.Event()
    # The name service has timeouts of its own, which nobody can shorten.
    trying = Thread(target=_connect, args=(address, connected.set), daemon=True)
    trying.start()
    trying.join(REACH_S)
    return connected.is_set()


def _connect(address: tuple[str, int], tell: Callable[[], None]) -> None:
    with suppress(OSError, ValueError), socket.create_connection(address, REACH_S):
        tell()


def _address(endpoint: str) -> tuple[str, int] | None:
    """Return host and port that a connection for an endpoint goes to first; None if they are not understood."""
    try:
        url = urlsplit(endpoint)
        proxies = {} if not url.hostname or proxy_bypass(url.hostname) else getproxies()
        proxy = proxies.get(url.scheme) or proxies.get("all")
        if proxy:
            url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        port = url.port or _PORTS.get(url.scheme)
    except ValueError:
        return None
    return (url.hostname, port) if url.hostname and port else None
