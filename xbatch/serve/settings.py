"""What a server is told when it is started."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError

from xbatch.errors import UsageError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ServeSettings(BaseModel):
    """Settings of the server; those of the model and its engine are a JobSpec's."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    files: str = "xbatch-files"
    """Where files and batches lie: a folder, or a URI of a store."""
    api_keys: frozenset[str] = frozenset()
    """Without any everybody may ask."""
    cors_origins: tuple[str, ...] = ()
    max_waiting: int = 1024
    """Online requests beyond those that the engine works on."""
    max_body: ByteSize = ByteSize(32 << 20)
    max_file: ByteSize = ByteSize(200 << 20)
    max_batch_rows: int = 50_000
    max_running_batches: int = 4
    batch_share: float = 0.75
    """Of the engine's places, those that rows of batches may take."""

    @property
    def is_public(self) -> bool:
        """Other machines may ask."""
        return self.host not in LOOPBACK


def make_settings(given: Mapping[str, Any]) -> ServeSettings:
    """Settings from the words of a command, by their names; None leaves one to its default.

    Raises UsageError.
    """
    try:
        return ServeSettings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as e:
        mistake = e.errors()[0]
        raise UsageError(f"--{str(mistake['loc'][0]).replace('_', '-')}: {mistake['msg']}") from e


def read_keys(given: tuple[str, ...], file: str | None) -> frozenset[str]:
    """API keys from words, with white space between them, and from a file with one on each line.

    Raises UsageError if a file has none, or a word.
    """
    if not all(word.strip() for word in given):
        raise UsageError("--api-key: an empty key would let everybody in")
    keys = [key for word in given for key in word.split()]
    if file is not None:
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise UsageError(f"{file}: can't be read: {e}") from e
        found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not found:
            raise UsageError(f"{file} holds no API key")
        keys += found
    return frozenset(keys)
