"""What judges requests as an engine would, without being one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from xbatch.rows.problem import Refusal
from xbatch.rows.request import Request


@dataclass(frozen=True, slots=True)
class Rendered:
    """What an engine would make of a request."""

    prompts: tuple[bytes, ...]
    """The token ids of each prompt, TOKEN_BYTES each."""
    max_tokens: int
    """So many tokens all its answers together have at most."""


Verdict: TypeAlias = Rendered | Refusal


class Judge(Protocol):
    """Tells what an engine would refuse, and the tokens of what it would not."""

    def judge(self, requests: Sequence[Request]) -> list[Verdict]:
        """What would become of each request."""
        ...
