"""Turns examples into padded batches of tensors, of about equal numbers of tokens."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from tokenizers import Tokenizer

from xbatch.demo.dialogues import Example
from xbatch.demo.prompts import END_OF_TEXT, END_OF_TURN

IGNORED = -100  # the label that transformers leaves out of the loss
POOL_EXAMPLES = 1024  # sorted by length before they are cut into batches, to save padding


@dataclass(frozen=True, slots=True)
class Sequence:
    """Tokens, and beside each the label it is learnt by: itself in an answer, else `IGNORED`."""

    tokens: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class Batch:
    """Two int64 tensors of shape (sequences, tokens), padded on the right."""

    input_ids: torch.Tensor
    labels: torch.Tensor


def encode(tokenizer: Tokenizer, examples: list[Example]) -> list[Sequence]:
    """One sequence for each example, in order."""
    prompts = tokenizer.encode_batch([example.prompt for example in examples])
    answers = tokenizer.encode_batch([example.answer + END_OF_TURN for example in examples])
    return [
        Sequence(prompt.ids + answer.ids, [IGNORED] * len(prompt.ids) + answer.ids)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def stack(sequences: list[Sequence], padding: int) -> Batch:
    """One batch of all the sequences."""
    width = max(len(sequence.tokens) for sequence in sequences)
    tokens = [_pad(sequence.tokens, width, padding) for sequence in sequences]
    labels = [_pad(sequence.labels, width, IGNORED) for sequence in sequences]
    return Batch(torch.tensor(tokens), torch.tensor(labels))


def batches(
    tokenizer: Tokenizer,
    examples: Iterator[Example],
    batch_tokens: int,
    rng: random.Random,
    joined_share: float = 0.0,
) -> Iterator[Batch]:
    """Endless batches of up to `batch_tokens` tokens each, padding included.

    Of the examples `joined_share` are laid end to end, so that each must be answered in spite of
    all that stands before it: the cheapest way to learn to look past a long text.
    """
    padding = tokenizer.token_to_id(END_OF_TEXT) or 0
    num_joined = int(joined_share * POOL_EXAMPLES)
    while True:
        pool = encode(tokenizer, list(islice(examples, POOL_EXAMPLES)))
        pool = [*_join(pool[:num_joined], rng), *pool[num_joined:]]
        groups = list(_cut(sorted(pool, key=lambda item: len(item.tokens)), batch_tokens))
        rng.shuffle(groups)
        yield from (stack(group, padding) for group in groups)


def _pad(values: list[int], width: int, padding: int) -> list[int]:
    return values + [padding] * (width - len(values))


def _join(sequences: list[Sequence], rng: random.Random) -> Iterator[Sequence]:
    """Lays sequences end to end, into longer ones of about 100 to 1,000 tokens."""
    tokens: list[int] = []
    labels: list[int] = []
    limit = rng.randint(100, 1000)
    for sequence in sequences:
        tokens = tokens + sequence.tokens
        labels = labels + sequence.labels
        if len(tokens) > limit:
            yield Sequence(tokens, labels)
            tokens, labels, limit = [], [], rng.randint(100, 1000)


def _cut(ordered: list[Sequence], batch_tokens: int) -> Iterator[list[Sequence]]:
    """Cuts sequences, shortest first, into groups whose padded size fits the budget."""
    group: list[Sequence] = []
    for sequence in ordered:
        if group and (len(group) + 1) * len(sequence.tokens) > batch_tokens:
            yield group
            group = []
        group.append(sequence)
    yield group
