"""What came of a request: a completion, or a failure that says why there is none."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one outcome cost."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """The engine's answer."""

    body: bytes
    """A chat completion or completion object of OpenAI's API, as JSON."""
    usage: Usage

    def __post_init__(self) -> None:
        if not self.body:
            raise ValueError("a completion without a body is no answer")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row has no completion.

    With `status_code` the API itself refused the request, and `body` is the error object that it answers.
    Without, the request never got that far, and `code` and `message` tell why.
    """

    code: str
    message: str
    retryable: bool = False
    status_code: int | None = None
    body: bytes | None = None


Outcome: TypeAlias = Completion | Failure
