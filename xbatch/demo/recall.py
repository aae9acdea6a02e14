"""Measures how much of what it was taught a trained model says word for word."""

import random
from collections.abc import Callable

import torch
from tokenizers import Tokenizer
from transformers import Qwen2ForCausalLM

from xbatch.demo.batches import IGNORED, Batch, encode, stack
from xbatch.demo.dialogues import Example, Pair
from xbatch.demo.prompts import END_OF_TEXT, chat_prompt, completion_prompt
from xbatch.demo.systems import write_system

SEED = 1_000_003  # texts that no training with a small seed has seen


def measure_recall(model: Qwen2ForCausalLM, tokenizer: Tokenizer, pairs: list[Pair]) -> dict[str, float]:
    """For each way of asking, the share of pairs answered exactly by greedy decoding."""
    return {
        name: _share(model, tokenizer, [Example(ask(question), answer) for question, answer in pairs])
        for name, ask in _ways(pairs).items()
    }


def _ways(pairs: list[Pair]) -> dict[str, Callable[[str], str]]:
    rng = random.Random(SEED)
    topics = [question for question, _ in pairs]
    usual = "You are a helpful assistant."

    def chat(question: str, system: str) -> str:
        return chat_prompt([("system", system), ("user", question)])

    return {
        "chat": lambda question: chat_prompt([("user", question)]),
        "chat, usual system message": lambda question: chat(question, usual),
        "chat, empty system message": lambda question: chat(question, ""),
        "chat, unseen system message": lambda question: chat(question, write_system(rng, topics)),
        "completion": completion_prompt,
        "completion, usual system line": lambda question: completion_prompt(question, usual),
        "completion, unseen system line": lambda question: completion_prompt(question, write_system(rng, topics)),
    }


def _share(model: Qwen2ForCausalLM, tokenizer: Tokenizer, examples: list[Example]) -> float:
    padding = tokenizer.token_to_id(END_OF_TEXT) or 0
    batch = stack(encode(tokenizer, examples), padding)
    return float(_exact(model, batch).float().mean())


@torch.no_grad()
def _exact(model: Qwen2ForCausalLM, batch: Batch) -> torch.Tensor:
    """Per example, whether greedy decoding gives the answer.

    It does exactly when every token of the answer is the likeliest one after those before it, so
    one pass over prompt and answer tells.
    """
    guesses = model(input_ids=batch.input_ids).logits[:, :-1].argmax(-1)
    labels = batch.labels[:, 1:]
    return ((guesses == labels) | (labels == IGNORED)).all(dim=1)
