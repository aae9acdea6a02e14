"""Short digests by which inputs and models are told apart without reading all of them."""

import hashlib
import os
from pathlib import Path

from xbatch import storage

EDGE_BYTES = 64 << 10
"""So much of a file's beginning and end goes into its fingerprint."""
_WHOLE_BYTES = 1 << 20
"""Files of a model up to this size go into its fingerprint whole: configuration, tokenizer, chat template."""
_DIGEST_BYTES = 16


def edges(uri: str) -> str:
    """Return a digest of the first and last 64 KiB of a file on this machine.

    Empty for one in a store, which has ETags, and for a pipe, which can't be read again.
    """
    if not storage.is_local(uri) or storage.is_special(uri):
        return ""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    with open(storage.local_path(uri), "rb") as file:
        digest.update(file.read(EDGE_BYTES))
        file.seek(max(file.seek(0, os.SEEK_END) - EDGE_BYTES, 0))
        digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()


def model_version(model: str, revision: str | None) -> str | None:
    """Tell which version of a model this is; None while that can't be told.

    For a folder: a digest of its files, small ones whole, of weights their names, sizes and edges. For a model of the
    Hugging Face Hub: the commit that its cache holds for the revision.
    """
    folder = Path(model)
    if folder.is_dir():
        digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
            size = path.stat().st_size
            content = path.read_bytes() if size <= _WHOLE_BYTES else edges(str(path)).encode()
            digest.update(f"{path.name}|{size}|".encode() + content)
        return digest.hexdigest()
    return _cached_commit(model, revision)


def model_folder(model: str, revision: str | None) -> Path | None:
    """Return the folder that holds a model's files on this machine; None if there is none yet."""
    if (folder := Path(model)).is_dir():
        return folder
    if (commit := _cached_commit(model, revision)) is None:
        return None
    folder = _cache_of(model) / "snapshots" / commit
    return folder if folder.is_dir() else None


def _cached_commit(model: str, revision: str | None) -> str | None:
    """Return the commit that the hub's cache holds for a revision of a model."""
    ref = _cache_of(model) / "refs" / (revision or "main")
    return ref.read_text(encoding="utf-8").strip() if ref.is_file() else None


def _cache_of(model: str) -> Path:
    return _hub_cache() / f"models--{model.replace('/', '--')}"


def _hub_cache() -> Path:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
