"""What vLLM's server would make of requests, told by its own request models, chat template and tokenizer alone.

Source: `vllm launch render`, which prepares requests on machines without a GPU.
"""

import asyncio
from array import array
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
from vllm import envs
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs

from xbatch.engines.judging import Rendered, Verdict
from xbatch.engines.vllm import arguments, refusals
from xbatch.engines.vllm.bodies import typed_body
from xbatch.engines.vllm.troubles import translated
from xbatch.engines.vllm.versions import init_render_app_state
from xbatch.rows.outcome import Failure
from xbatch.rows.problem import Refusal
from xbatch.rows.request import CHAT, Request

_NOT_FOUND = 404


class VllmJudge:
    """Judges requests for a model that is called by `names`.

    Raises UsageError if vLLM doesn't take the model or the settings, EngineError if vLLM can't work here.
    """

    def __init__(self, model: str, names: list[str], settings: Mapping[str, Any]) -> None:
        args = arguments.parse({"model": model, "served_model_name": names, **settings})
        self._loop = asyncio.new_event_loop()
        state = SimpleNamespace()
        with translated(f"the model {model!r} can't be used"):
            self._config = _make_config(args)
            self._loop.run_until_complete(init_render_app_state(self._config, state, args))
            self._render = getattr(state, "serving_render", None) or state.openai_serving_render
            self._renderer: Any = getattr(self._render, "online_renderer", self._render).renderer

    def judge(self, requests: Sequence[Request]) -> list[Verdict]:
        """What would become of each request."""

        async def all_of_them() -> list[Verdict]:
            return list(await asyncio.gather(*map(self._judge, requests)))

        return self._loop.run_until_complete(all_of_them())

    async def _judge(self, request: Request) -> Verdict:
        typed = await typed_body(request)
        if isinstance(typed, Failure):
            return _refusal(typed)
        beams, typed.use_beam_search = typed.use_beam_search, False  # which is not rendered, though it is answered
        try:
            if request.endpoint == CHAT:
                made = await self._render.render_chat_request(typed)
            else:
                made = await self._render.render_completion_request(typed)
            if hasattr(made, "error"):
                return _refusal(refusals.refuse(made))
            parts = made if isinstance(made, list) else [made]
            for part in parts:
                self._verify(part, beams=beams)
            prompts = tuple(array("I", part.token_ids).tobytes() for part in parts)
        except Exception as e:  # noqa: BLE001 - vLLM's server answers any exception with an error body
            return _refusal(refusals.refuse_exception(e))
        answers = sum(part.sampling_params.max_tokens * part.sampling_params.n for part in parts)
        return Rendered(prompts, answers)

    def _verify(self, part: Any, *, beams: bool) -> None:
        """Check a rendered prompt and its parameters as the engine does before it takes a request in.

        Raises what vLLM raises.
        """
        if hasattr(self._renderer, "validate_token_ids"):
            self._renderer.validate_token_ids(part.token_ids)
        if beams:
            return
        config = self._config
        part.sampling_params.verify(
            config.model_config,
            config.speculative_config,
            config.structured_outputs_config,
            self._renderer.tokenizer,
        )


def _make_config(args: Any) -> VllmConfig:
    engine_args = AsyncEngineArgs.from_cli_args(args)
    model_config = engine_args.create_model_config()
    model_config.quantization = None  # which may need a GPU, and changes no prompt
    envs.VLLM_CPU_KVCACHE_SPACE = 0  # there will be no cache
    return VllmConfig(
        model_config=model_config, structured_outputs_config=engine_args.create_structured_outputs_config()
    )


def _refusal(failure: Failure) -> Refusal:
    assert failure.body is not None
    error = msgspec.json.decode(failure.body)["error"]
    code = "invalid_request"
    if failure.status_code == _NOT_FOUND:
        code = "model_not_found"
    return Refusal(code, error["message"], error["param"], failure.status_code)
