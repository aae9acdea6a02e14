"""Counts of tokens, exact in their quantiles and bounded in memory."""

from collections import Counter
from hashlib import blake2b
from typing import Any

from xbatch.rows.request import TOKEN_BYTES

BLOCK_TOKENS = 16
"""Engines keep what they have computed of prompts in blocks of so many."""
MAX_BLOCKS = 1 << 20
"""Blocks of prompts that are remembered; what only later ones share is not told."""
_DIGEST_BYTES = 8


class TokenCounts:
    """Tokens of prompts and, at most, of answers."""

    def __init__(self) -> None:
        self._lengths: Counter[int] = Counter()
        self._max_completion_tokens = 0
        self._shared_tokens = 0
        self._blocks: set[bytes] = set()

    def add(self, prompts: tuple[bytes, ...], max_tokens: int) -> None:
        """Take in a request's prompts, as bytes of their token ids, and the most tokens that its answers have."""
        self._max_completion_tokens += max_tokens
        for prompt in prompts:
            self._lengths[len(prompt) // TOKEN_BYTES] += 1
            self._shared_tokens += self._shared(prompt)

    def facts(self) -> dict[str, Any]:
        """Everything, as JSON."""
        lengths = sorted(self._lengths.items())
        return {
            "prompts": self._lengths.total(),
            "prompt_tokens": sum(length * times for length, times in lengths),
            "shortest_prompt": lengths[0][0] if lengths else 0,
            "median_prompt": self._quantile(0.5),
            "p95_prompt": self._quantile(0.95),
            "longest_prompt": lengths[-1][0] if lengths else 0,
            "max_completion_tokens": self._max_completion_tokens,
            "shared_prefix_tokens": self._shared_tokens,
        }

    def _quantile(self, share: float) -> int:
        """The shortest length that so large a share of the prompts does not exceed."""
        left = share * self._lengths.total()
        for length, times in sorted(self._lengths.items()):
            left -= times
            if left <= 0:
                return length
        return 0

    def _shared(self, prompt: bytes) -> int:
        """Tokens at the beginning of a prompt that an earlier one has, in whole blocks."""
        size, digest, shared, known = BLOCK_TOKENS * TOKEN_BYTES, b"", 0, True
        for start in range(0, len(prompt) - size + 1, size):
            digest = blake2b(digest + prompt[start : start + size], digest_size=_DIGEST_BYTES).digest()
            known = known and digest in self._blocks
            if known:
                shared += BLOCK_TOKENS
            elif len(self._blocks) < MAX_BLOCKS:
                self._blocks.add(digest)
            else:
                break
        return shared
