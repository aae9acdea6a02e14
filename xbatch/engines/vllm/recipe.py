"""What vLLM makes of requests of one shape, found out by having it serve one of them."""

import copy
import time
from dataclasses import dataclass
from typing import Any

import msgspec
from vllm.entrypoints.serve.utils.api_utils import get_max_tokens
from vllm.sampling_params import RequestOutputKind, SamplingParams

from xbatch.engines.vllm.rehearsal import Line, Rehearsal, Rendering, Scene
from xbatch.engines.vllm.rendering import BatchRenderer
from xbatch.engines.vllm.shape import Shape
from xbatch.rows.outcome import Completion, Usage
from xbatch.rows.request import CHAT, Request

_LINES = (Line("first, \u00e9\n", [1, 2, 3], "stop", 7), Line("second", [4], "length", None))
"""Two answers that have nothing in common, so that what bodies have in common does not come of the answer."""
_MAX_RECIPES = 1024
_FREE_LESSONS = 64
_ASKED_A_LESSON = 8
"""After the first ones, so many requests must have come for each shape that was learnt, or be alike."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What requests of one shape have in common once vLLM has served one of them."""

    rendering: Rendering
    serving: Any
    """vLLM's serving class for them."""
    default_limit: int | None
    """Tokens that the answer may have where the body does not say so."""
    direct: "Direct | None"
    """None where more has to be done with the engine's tokens than to write them down."""

    def limit(self, shape: Shape, num_tokens: int) -> int | None:
        """The tokens that the answer may have, None if vLLM refuses the request or cuts its prompt."""
        context, given = self.serving.model_config.max_model_len, shape.limit or self.default_limit
        if not 0 < num_tokens < context or (given or 0) > context:
            return None
        serving = self.serving
        limit: int = get_max_tokens(
            context, given, num_tokens, serving.default_sampling_params, serving.override_max_tokens
        )
        return limit if limit > 0 else None


@dataclass(frozen=True, slots=True)
class Direct:
    """How to ask vLLM's engine without its serving classes, and how to word its answer as they do."""

    core: Any
    """An EngineCoreRequest of this shape."""
    body: dict[str, Any]
    """A response body of this shape."""
    prefix: str
    """What its id begins with."""

    def ask(self, token_ids: list[int], limit: int, seed: int | None, number: str) -> Any:
        """The EngineCoreRequest for a prompt; None if it asks for more tokens than it may have."""
        params = copy.copy(self.core.sampling_params)
        if params.min_tokens > limit:
            return None
        params.max_tokens = limit
        if seed is not None:
            params.seed = seed
        core = copy.copy(self.core)
        core.request_id = core.external_req_id = number
        core.prompt_token_ids = token_ids
        core.sampling_params = params
        core.arrival_time = time.time()
        return core

    def word(self, number: str, line: Line, num_prompt: int, created: int, fingerprint: str | None) -> Completion:
        """The body that vLLM answers."""
        usage = Usage(num_prompt, len(line.token_ids))
        choice: dict[str, Any] = self.body["choices"][0]
        if "message" in choice:
            said: dict[str, Any] = {"message": choice["message"] | {"content": line.text}}
        else:
            said = {"text": line.text}
        ended = {"finish_reason": line.finish_reason, "stop_reason": line.stop_reason}
        counts = {
            "prompt_tokens": usage.prompt_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "completion_tokens": usage.completion_tokens,
        }
        body = self.body | {
            "id": self.prefix + number,
            "created": created,
            "choices": [choice | said | ended],
            "usage": self.body["usage"] | counts,
        }
        if "system_fingerprint" in body:
            body["system_fingerprint"] = fingerprint
        return Completion(msgspec.json.encode(body), usage)


class _Refused(Exception):
    """vLLM does not serve the request; others of its shape it may."""


class Recipes:
    """The recipes of all shapes that came along, the last ones of them.

    Learning one costs some milliseconds, so it is given up where hardly two requests are of one shape.
    """

    def __init__(self, rehearsal: Rehearsal, renderer: BatchRenderer) -> None:
        self._rehearsal = rehearsal
        self._renderer = renderer
        self._recipes: dict[bytes, Recipe | None] = {}
        self._asked = self._learnt = 0

    def known(self, shape: Shape) -> Recipe | None:
        """The recipe for a shape, if it was learnt."""
        return self._recipes.get(shape.key)

    def expect(self, requests: int) -> None:
        """So many more requests have come, whatever their shapes."""
        self._asked += requests

    def learn(self, request: Request, shape: Shape, alike: int) -> Recipe | None:
        """The recipe for the shape of a request; None if there is none, or none can be had of this request.

        So many requests at hand are `alike`.
        """
        if shape.key in self._recipes:
            return self._recipes[shape.key]
        is_rare = alike < _ASKED_A_LESSON and self._learnt * _ASKED_A_LESSON > self._asked
        if is_rare and self._learnt > _FREE_LESSONS:
            return None
        self._learnt += 1
        try:
            recipe = self._make(request, shape)
        except _Refused:
            return None
        except Exception:  # noqa: BLE001 - whatever vLLM raises, its own way with the request tells why
            recipe = None
        if len(self._recipes) >= _MAX_RECIPES:
            del self._recipes[next(iter(self._recipes))]
        self._recipes[shape.key] = recipe
        return recipe

    def _make(self, request: Request, shape: Shape) -> Recipe | None:
        scenes = [scene for line in _LINES if (scene := self._rehearsal.play(request, line)) is not None]
        if len(scenes) < len(_LINES):
            raise _Refused
        scene, serving = scenes[0], self._rehearsal.serving(request.endpoint)
        if self._renderer.token_ids(scene.rendering, [shape.prompt]) != [scene.prompt["prompt_token_ids"]]:
            return None
        limit = getattr(scene.typed, "max_completion_tokens", None)
        limit = scene.typed.max_tokens if limit is None else limit
        return Recipe(scene.rendering, serving, limit, self._direct(request, scenes))

    def _direct(self, request: Request, scenes: list[Scene]) -> Direct | None:
        scene = scenes[0]
        serving = self._rehearsal.serving(request.endpoint)
        if getattr(serving, "parser_cls", None) is not None and request.endpoint == CHAT:
            return None
        if not _is_written_down(scene.params) or scene.options.get("lora_request") is not None:
            return None
        core = self._rehearsal.core_request(scene)
        direct = Direct(core, scene.body.model_dump(mode="json"), _prefix(scene))
        num_prompt = len(core.prompt_token_ids)
        for each, line in zip(scenes, _LINES, strict=True):
            number = each.typed.request_id
            fingerprint = getattr(each.body, "system_fingerprint", None)
            said = direct.word(number, line, num_prompt, each.body.created, fingerprint).body
            if "request_id" in request.body or msgspec.json.decode(said) != msgspec.json.decode(
                each.body.model_dump_json()
            ):
                return None
        return direct


def _prefix(scene: Scene) -> str:
    prefix: str = scene.body.id.removesuffix(scene.typed.request_id)
    return prefix


def _is_written_down(params: Any) -> bool:
    """An answer under these SamplingParams is the text of the engine's tokens, as they come at its end."""
    return (
        isinstance(params, SamplingParams)
        and params.n == 1
        and params.logprobs is None
        and params.prompt_logprobs is None
        and getattr(params, "logprob_token_ids", None) is None
        and getattr(params, "thinking_token_budget", None) is None
        and not params.stop
        and params.detokenize
        and params.output_kind is RequestOutputKind.FINAL_ONLY
    )
