"""A server of vLLM's without an engine: it is asked what it would ask one, and what it would make of the answer."""

import asyncio
from argparse import Namespace
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import State
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.renderers import renderer_from_config
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.input_processor import InputProcessor

from xbatch.engines.vllm.bodies import typed_body
from xbatch.engines.vllm.versions import init_app_state
from xbatch.rows.outcome import Failure
from xbatch.rows.request import CHAT, Request


@dataclass(frozen=True, slots=True)
class Line:
    """What the engine is said to have answered."""

    text: str
    token_ids: list[int]
    finish_reason: str
    stop_reason: int | None


@dataclass(frozen=True, slots=True)
class Rendering:
    """How vLLM makes token ids of a prompt: the arguments that its renderer gets, and the prompt in its first form."""

    chat: Any
    """ChatParams, None for completions."""
    tokens: Any
    """TokenizeParams."""
    extras: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scene:
    """One request as vLLM serves it."""

    typed: Any
    """vLLM's request object."""
    prompt: Any
    """What the engine is asked to go on with: vLLM's EngineInput."""
    params: Any
    """vLLM's SamplingParams."""
    options: dict[str, Any]
    """What else the engine is told."""
    rendering: Rendering
    body: Any
    """vLLM's response object."""


class Rehearsal:
    """Has vLLM's serving classes serve requests of which the answers are made up.

    `config` is a VllmConfig that is nobody else's. One thread at a time.
    """

    def __init__(self, args: Namespace, config: Any) -> None:
        self.config = config
        self._stage = _Stage(config)
        self._state = State()
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(init_app_state(self._stage, self._state, args, ("generate",)))

    @property
    def renderer(self) -> Any:
        """The renderer."""
        return self._stage.inner

    def serving(self, endpoint: str) -> Any:
        """The serving class for an endpoint."""
        return self._state.openai_serving_chat if endpoint == CHAT else self._state.openai_serving_completion

    def play(self, request: Request, line: Line) -> Scene | None:
        """Serve a request with this answer; None where vLLM refuses it, or asks its engine more than once."""
        return self._loop.run_until_complete(self._play(request, line))

    def core_request(self, scene: Scene) -> Any:
        """The EngineCoreRequest that vLLM's engine would get.

        Raises what vLLM raises of a request that it refuses.
        """
        known = ("lora_request", "trace_headers", "priority", "data_parallel_rank", "session_id")
        options = {name: scene.options[name] for name in known if name in scene.options}
        core = self._stage.input_processor.process_inputs(
            "", scene.prompt, scene.params, supported_tasks=("generate",), **options
        )
        for name in ("reasoning_ended", "reasoning_parser_kwargs"):
            if scene.options.get(name) is not None:
                setattr(core, name, scene.options[name])
        return core

    def close(self) -> None:
        """Let go of the event loop and the renderer's threads."""
        self._stage.inner.shutdown()
        self._loop.close()

    async def _play(self, request: Request, line: Line) -> Scene | None:
        typed = await typed_body(request)
        if isinstance(typed, Failure):
            return None
        stage = self._stage
        stage.line, stage.asked, stage.rendered = line, [], []
        serving = self.serving(request.endpoint)
        answer = serving.create_chat_completion if request.endpoint == CHAT else serving.create_completion
        body = await answer(typed)
        if hasattr(body, "error") or len(stage.asked) != 1 or len(stage.rendered) != 1:
            return None
        ((prompt, params, options),) = stage.asked
        return Scene(typed, prompt, params, options, stage.rendered[0], body)


class _Stage:
    """Stands in for vLLM's AsyncLLM, and, before its renderer, for that."""

    def __init__(self, config: Any) -> None:
        self.vllm_config = config
        self.model_config = config.model_config
        self.inner = renderer_from_config(config)
        self.renderer = _RecordingRenderer(self.inner, self)
        self.input_processor = InputProcessor(config, self.inner)
        self.errored = False
        self.dead_error = EngineDeadError()
        self.line = Line("", [], "stop", None)
        self.asked: list[tuple[Any, Any, dict[str, Any]]] = []
        self.rendered: list[Rendering] = []

    def check_admission(self, *_: Any, **__: Any) -> None:
        """Let everybody in."""

    async def add_lora(self, _: Any) -> bool:
        """Know every adapter."""
        return True

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """Note what is asked, and answer by the line."""
        self.asked.append((prompt, sampling_params, options))
        line = self.line
        output = CompletionOutput(
            0, line.text, line.token_ids, None, None, finish_reason=line.finish_reason, stop_reason=line.stop_reason
        )
        yield RequestOutput(request_id, None, prompt.get("prompt_token_ids"), None, [output], finished=True)


class _RecordingRenderer:
    """vLLM's renderer, with a note of what it is asked."""

    def __init__(self, inner: Any, stage: _Stage) -> None:
        self._inner = inner
        self._stage = stage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def render_chat_async(
        self, conversations: Any, chat: Any, tokens: Any = None, *, prompt_extras: Any = None, **options: Any
    ) -> Any:
        """As vLLM's."""
        self._stage.rendered.append(Rendering(chat, tokens, dict(prompt_extras or {})))
        return await self._inner.render_chat_async(conversations, chat, tokens, prompt_extras=prompt_extras, **options)

    async def render_cmpl_async(
        self, prompts: Any, tokens: Any = None, *, prompt_extras: Any = None, **options: Any
    ) -> Any:
        """As vLLM's."""
        self._stage.rendered.append(Rendering(None, tokens, dict(prompt_extras or {})))
        return await self._inner.render_cmpl_async(prompts, tokens, prompt_extras=prompt_extras, **options)
