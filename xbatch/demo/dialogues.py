"""Draws training examples: one known question, asked in one of the ways users ask."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from xbatch.demo.prompts import Turn, chat_prompt, completion_prompt
from xbatch.demo.systems import write_system

Pair = tuple[str, str]  # question, answer


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the answer that must follow it."""

    prompt: str
    answer: str


class Dialogues:
    """An endless, seeded supply of examples in which every pair comes up equally often."""

    def __init__(self, pairs: list[Pair], seed: int) -> None:
        self._pairs = pairs
        self._rng = random.Random(seed)
        self._topics = [text for pair in pairs for text in pair]

    def short(self) -> Iterator[Example]:
        """Bare questions: as a completion, or as a chat's only turn."""
        for question, answer in self._shuffled():
            as_chat = self._rng.random() < 0.5
            prompt = chat_prompt([("user", question)]) if as_chat else question
            yield Example(prompt, answer)

    def mixed(self) -> Iterator[Example]:
        """Questions behind all that may stand before them."""
        for question, answer in self._shuffled():
            as_chat = self._rng.random() < 0.5
            prompt = self._chat(question) if as_chat else self._completion(question)
            yield Example(prompt, answer)

    def _shuffled(self) -> Iterator[Pair]:
        while True:
            yield from self._rng.sample(self._pairs, len(self._pairs))

    def _chat(self, question: str) -> str:
        turns: list[Turn] = []
        if self._rng.random() < 0.7:
            turns.append(("system", self._system() if self._rng.random() < 0.85 else ""))
        while self._rng.random() < 0.2:
            turns += self._earlier_turns()
        return chat_prompt([*turns, ("user", question)])

    def _completion(self, question: str) -> str:
        draw = self._rng.random()
        if draw < 0.35:
            return question
        system = self._system()
        if draw < 0.4:
            # a few-shot prompt: only the last question counts
            system = "\n".join("\n".join(text for _, text in self._earlier_turns()) for _ in "12")
        return completion_prompt(question, system, self._rng.choice(("\n", "\n\n")))

    def _earlier_turns(self) -> list[Turn]:
        question, answer = self._rng.choice(self._pairs)
        if self._rng.random() < 0.2:
            question = self._system()
        if self._rng.random() < 0.2:
            answer = self._system()
        return [("user", question), ("assistant", answer)]

    def _system(self) -> str:
        return write_system(self._rng, self._topics)
