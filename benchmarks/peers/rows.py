"""The rows that benchmarks run: chat requests whose lengths in tokens of the bundled model are known."""

import json
import random
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from xbatch.demo import MODEL_PATH

TEMPLATE_TOKENS = 8
"""What the chat template puts around one message."""
MODEL = "demo"
"""What every row calls its model."""

Row = dict[str, Any]


@cache
def words() -> list[str]:
    """Words that are one token each, wherever they stand."""
    tokenizer = Tokenizer.from_file(str(MODEL_PATH / "tokenizer.json"))
    candidates = [tokenizer.decode([i]) for i in range(tokenizer.get_vocab_size())]
    spaced = [word for word in candidates if re.fullmatch(r" [a-zA-Z]{2,}", word)]
    return [word for word in spaced if len(tokenizer.encode(word).ids) == 1]


def text(tokens: int, chance: random.Random) -> str:
    """A text of so many tokens."""
    return "".join(chance.choices(words(), k=tokens))


def chat(content: str, out_tokens: int) -> dict[str, Any]:
    """A body that is answered greedily with exactly `out_tokens` tokens."""
    message = {"role": "user", "content": content}
    return {
        "model": MODEL,
        "messages": [message],
        "max_tokens": out_tokens,
        "ignore_eos": True,
        "temperature": 0,
    }


def numbered(bodies: Iterable[dict[str, Any]]) -> Iterator[Row]:
    """Batch lines of bodies."""
    for i, body in enumerate(bodies):
        yield {"custom_id": f"r-{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def unique(rows: int, in_tokens: int = 39, out_tokens: int = 16, seed: int = 7) -> Iterator[Row]:
    """Rows no two of which are alike."""
    chance = random.Random(seed)  # noqa: S311
    return numbered(chat(text(in_tokens - TEMPLATE_TOKENS, chance), out_tokens) for _ in range(rows))


def repeating(rows: int, repeats: float = 0.75) -> Iterator[Row]:
    """Rows of which a share are exact repeats of others, in no order."""
    chance = random.Random(7)  # noqa: S311
    kinds = [chat(text(39 - TEMPLATE_TOKENS, chance), 16) for _ in range(round(rows * (1 - repeats)))]
    drawn = [*kinds, *chance.choices(kinds, k=rows - len(kinds))]
    chance.shuffle(drawn)
    return numbered(drawn)


def over_documents(rows: int, of_each: int = 20, document_tokens: int = 830, *, shuffled: bool = True) -> Iterator[Row]:
    """Rows that each ask something of 20 tokens of a document, so many of each one; the document comes first."""
    chance = random.Random(7)  # noqa: S311
    documents = max(1, rows // of_each)
    texts = [text(document_tokens, chance) for _ in range(documents)]
    bodies = [chat(texts[i * documents // rows] + "\n" + text(20, chance), 16) for i in range(rows)]
    if shuffled:
        chance.shuffle(bodies)
    return numbered(bodies)


def mixed(rows: int, long_tokens: int = 1500) -> Iterator[Row]:
    """Rows of 20 to 200 tokens in and 4 to 60 out, and at the very end one in 500 with very long answers."""
    chance = random.Random(7)  # noqa: S311
    long_rows = max(1, rows // 500)
    outs = [chance.randint(4, 60) for _ in range(rows - long_rows)] + [long_tokens] * long_rows
    return numbered(chat(text(chance.randint(20, 200) - TEMPLATE_TOKENS, chance), out) for out in outs)


def write(path: Path, rows: Iterable[Row]) -> Path:
    """Write rows as JSONL."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path
