"""The files of a model's folder: whether they are whole, and how many numbers the weights hold."""

import json
import math
import struct
from pathlib import Path
from typing import Any

from xbatch.errors import UsageError

_LFS = b"version https://git-lfs"
_MAPPINGS = ("config.json", "tokenizer_config.json")
_TOKENIZER = "tokenizer.json"
_WEIGHTS = ("consolidated*.safetensors", "*.safetensors", "*.bin", "*.pt", "*.gguf")
_OF_TRAINING = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")
_HEADER_LENGTH = struct.Struct("<Q")


class Cut(Exception):
    """A file of weights that is not whole; the text says how."""


def check_files(folder: Path) -> None:
    """Refuse a folder in which a file of the model is empty, cut, or only a pointer to the real one.

    Raises UsageError, which names the file.
    """
    for name in _MAPPINGS:
        _check_mapping(folder / name)
    _check_tokenizer(folder / _TOKENIZER)
    for file in _loaded(folder):
        try:
            _check_weights(file)
        except Cut as e:
            raise UsageError(f"the model's file {file} {e}: copy or download it again") from None
        except OSError as e:
            raise UsageError(f"the model's file {file} can't be read: {e.strerror or e}") from e


def _loaded(folder: Path) -> list[Path]:
    """Return the files of weights that vLLM loads; it leaves all others alone, so they need not be whole.

    Source: vLLM's `DefaultModelLoader._prepare_weights`.
    """
    for pattern in _WEIGHTS:
        if found := sorted(path for path in folder.glob(pattern) if path.name not in _OF_TRAINING):
            return found
    return []


def count_parameters(folder: Path) -> int | None:
    """Count the numbers in a model's weights; None where they are no safetensors in a folder."""
    total = 0
    for file in folder.glob("*.safetensors"):
        try:
            total += sum(math.prod(tensor["shape"]) for tensor in _tensors(file).values())
        except (Cut, OSError, ValueError, KeyError, TypeError):
            return None
    return total or None


def _check_mapping(file: Path) -> None:
    try:
        if file.is_file() and not isinstance(json.loads(file.read_bytes()), dict):
            raise UsageError(f"the model's file {file} is no JSON object")
    except (ValueError, RecursionError) as e:
        raise UsageError(f"the model's file {file} is not valid JSON: {e}") from e
    except OSError as e:
        raise UsageError(f"the model's file {file} can't be read: {e.strerror or e}") from e


def _check_tokenizer(file: Path) -> None:
    """Look at the end only: the file of a large vocabulary takes a while to read."""
    try:
        with file.open("rb") as opened:
            opened.seek(max(file.stat().st_size - 64, 0))
            if not opened.read().rstrip().endswith(b"}"):
                raise UsageError(f"the model's file {file} is empty or cut: copy or download it again")
    except FileNotFoundError:
        return  # other tokenizers have other files
    except OSError as e:
        raise UsageError(f"the model's file {file} can't be read: {e.strerror or e}") from e


def _check_weights(file: Path) -> None:
    with file.open("rb") as opened:
        first = opened.read(len(_LFS))
    if not first:
        raise Cut("is empty")
    if first == _LFS:
        raise Cut("is only Git LFS's pointer to the weights (`git lfs pull` gets them)")
    if file.suffix == ".safetensors":
        tensors = _tensors(file)
        try:
            ends = [int(tensor["data_offsets"][1]) for tensor in tensors.values()]
        except (LookupError, TypeError, ValueError):
            raise Cut("holds no safetensors: its header has no places of tensors") from None
        with file.open("rb") as opened:
            whole = _HEADER_LENGTH.size + _HEADER_LENGTH.unpack(opened.read(8))[0] + max(ends, default=0)
        if (size := file.stat().st_size) < whole:
            raise Cut(f"is cut: it holds {size:,} of {whole:,} bytes")


def _tensors(file: Path) -> dict[str, Any]:
    """Return the header of a file of weights: the tensors by name, each with its type, shape and place.

    Format: safetensors, whose first 8 bytes are the length of the header, which is JSON. Raises Cut.
    """
    with file.open("rb") as opened:
        length = opened.read(_HEADER_LENGTH.size)
        if len(length) < _HEADER_LENGTH.size:
            raise Cut("is cut: it has no header")
        (num_bytes,) = _HEADER_LENGTH.unpack(length)
        if num_bytes > file.stat().st_size:
            raise Cut("is cut, or holds no safetensors: its header is not whole")
        header = opened.read(num_bytes)
    try:
        tensors: dict[str, Any] = json.loads(header)
        return {name: tensor for name, tensor in tensors.items() if name != "__metadata__"}
    except (ValueError, AttributeError, RecursionError) as e:
        raise Cut("holds no safetensors: its header is not valid JSON") from e
