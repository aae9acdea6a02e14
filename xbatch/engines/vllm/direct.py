"""The short way to vLLM's engine and back, for requests of a shape that is known.

vLLM's serving classes spend more than a millisecond of this process on a short request. What they do is the same for
requests of one shape, so it is found out once (`recipe`), and the rest goes straight to the engine's process: prompts
are rendered in batches, tokens are taken as they come and made a text at the end.
"""

import secrets
import sys
import threading
import time
from argparse import Namespace
from array import array
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from tokenizers import decoders
from vllm.v1.engine import FinishReason
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from xbatch.engines.vllm.line import EngineLine, Spoken
from xbatch.engines.vllm.recipe import Recipe, Recipes
from xbatch.engines.vllm.rehearsal import Line, Rehearsal
from xbatch.engines.vllm.rendering import BatchRenderer
from xbatch.engines.vllm.shape import Shape, shape_of
from xbatch.rows.outcome import Completion
from xbatch.rows.request import Prompt, Request

_WRITTEN = (FinishReason.STOP, FinishReason.LENGTH, FinishReason.REPETITION)
_TEACHERS = 4
"""So many of a shape are tried until vLLM has served one."""
_BROKEN = "\ufffd"
"""Stands for bytes that are no character, or not yet."""
_FOUR_BYTES = "I"
assert array(_FOUR_BYTES).itemsize == 4, "tokens are kept in four bytes"


class ShortWay:
    """Prepares prompts, and answers prepared requests.

    `config` is a VllmConfig that is nobody else's. Raises TypeError for tokenizers that can't be used in this way.
    """

    def __init__(self, args: Namespace, config: Any) -> None:
        rehearsal = Rehearsal(args, config)
        self.context_tokens: int = config.model_config.max_model_len
        """With which prompts were judged."""
        self._renderer = BatchRenderer(rehearsal.renderer, config.model_config)
        self._recipes = Recipes(rehearsal, self._renderer)
        self._texts = _Texts(rehearsal.renderer.get_tokenizer(), self._renderer.backend)
        self._lock = threading.Lock()

    def prepare(self, requests: Sequence[Request]) -> list[Prompt | None]:
        """The prompts of those requests whose prompts are plain, from any thread."""
        prompts: list[Prompt | None] = [None] * len(requests)
        alike: dict[bytes, list[tuple[int, Shape]]] = defaultdict(list)
        for place, request in enumerate(requests):
            if (shape := shape_of(request)) is not None:
                alike[shape.key].append((place, shape))
        with self._lock:
            self._recipes.expect(len(requests))
            for members in alike.values():
                if (recipe := self._recipe(requests, members)) is not None:
                    self._render(recipe, members, prompts)
        return prompts

    def _recipe(self, requests: Sequence[Request], members: list[tuple[int, Shape]]) -> Recipe | None:
        """The recipe for requests of one shape, of one of the first that vLLM does not refuse."""
        for place, shape in members[:_TEACHERS]:
            if (recipe := self._recipes.learn(requests[place], shape, len(members))) is not None:
                return recipe
        return None

    def _render(self, recipe: Recipe, members: list[tuple[int, Shape]], prompts: list[Prompt | None]) -> None:
        token_ids = self._renderer.token_ids(recipe.rendering, [shape.prompt for _, shape in members])
        for (place, shape), ids in zip(members, token_ids, strict=True):
            if ids is not None and (limit := recipe.limit(shape, len(ids))) is not None:
                prompts[place] = Prompt(_packed(ids), limit)

    async def answer(self, line: EngineLine, request: Request, fingerprint: str | None) -> Completion | None:
        """Answer a prepared request; None if it has to go the long way.

        Raises EngineDeadError.
        """
        if request.prompt is None or (shape := shape_of(request)) is None:
            return None
        recipe = self._recipes.known(shape)
        if recipe is None or (direct := recipe.direct) is None:
            return None
        number = secrets.token_hex(8)
        core = direct.ask(_unpacked(request.prompt.tokens), request.prompt.max_tokens, shape.seed, number)
        if core is None:
            return None
        created = int(time.time())
        spoken = await line.ask(core)
        if spoken.finish_reason not in _WRITTEN:
            return None
        is_text = not isinstance(shape.prompt, list) or isinstance(shape.prompt[0], dict)
        text = self._texts.of(spoken, core, after_text=is_text)
        answered = Line(text, spoken.token_ids, str(spoken.finish_reason), spoken.stop_reason)
        return direct.word(number, answered, request.prompt.num_tokens, created, fingerprint)


class _Texts:
    """Texts of token ids, as vLLM's detokenizer makes them token by token."""

    def __init__(self, tokenizer: Any, backend: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = backend
        # Each token is so many bytes, whatever stands before it.
        self._is_bytewise = isinstance(backend.decoder, decoders.ByteLevel)

    def of(self, spoken: Spoken, core: Any, *, after_text: bool) -> str:
        """The text of an answer; `after_text` tells that the prompt ends with a whole character."""
        params, token_ids = core.sampling_params, spoken.token_ids
        is_stop = spoken.finish_reason is FinishReason.STOP
        if self._is_bytewise and after_text and params.skip_special_tokens:
            written = token_ids[:-1] if is_stop and not params.include_stop_str_in_output else token_ids
            text: str = self._backend.decode(written, skip_special_tokens=True)
            if _BROKEN not in text:
                return text
        detokenizer = IncrementalDetokenizer.from_new_request(self._tokenizer, core)
        detokenizer.update(token_ids, is_stop)
        whole: str = detokenizer.get_next_output_text(finished=True, delta=False)
        return whole


def _packed(token_ids: list[int]) -> bytes:
    packed = array(_FOUR_BYTES, token_ids)
    if sys.byteorder == "little":
        packed.byteswap()
    return packed.tobytes()


def _unpacked(tokens: bytes) -> list[int]:
    packed = array(_FOUR_BYTES)
    packed.frombytes(tokens)
    if sys.byteorder == "little":
        packed.byteswap()
    return packed.tolist()
