"""The app: every route, behind what every request passes first."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from xbatch import __version__
from xbatch.serve.errors import Json, add_handlers
from xbatch.serve.front import AccessLog, Guard
from xbatch.serve.keeper import EngineKeeper
from xbatch.serve.metrics import CONTENT_TYPE, Figures
from xbatch.serve.models import models_router
from xbatch.serve.openai import Online, openai_router
from xbatch.serve.settings import ServeSettings
from xbatch.serve.xinference import xinference_router


def make_app(
    settings: ServeSettings,
    online: Online,
    routers: Sequence[APIRouter],
    running_batches: Callable[[], int],
    write_log: Callable[[str], None] | None,
) -> FastAPI:
    """Make the app from what answers online, and the routers of files, batches and the page.

    `write_log` gets the lines of the access log.
    """
    # FastAPI's own page of the API loads its script from a foreign host, so there is one of ours.
    app = FastAPI(title="xbatch", version=__version__, docs_url=None, redoc_url=None)
    add_handlers(app)
    xinference = xinference_router(online.served, auth=bool(settings.api_keys))
    operation = _operation_router(online.keeper, online, running_batches)
    for router in (openai_router(online), models_router(online.served), xinference, *routers, operation):
        app.include_router(router)
    # FastAPI describes 422 for what is answered with 400 here.
    for route in app.openapi()["paths"].values():
        for described in route.values():
            described["responses"].pop("422", None)
    app.add_middleware(Guard, keys=settings.api_keys, origins=settings.cors_origins, max_body_bytes=settings.max_body)
    if settings.cors_origins:
        origins = list(settings.cors_origins)
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(AccessLog, figures=online.figures, write=write_log)
    return app


def add_gauges(figures: Figures, online: Online, batch_rows: Callable[[], dict[str, float]]) -> None:
    """Let Prometheus see what goes on at the moment."""
    admission, keeper = online.admission, online.keeper
    figures.gauge(
        "xbatch_online_requests",
        "Online requests at this moment.",
        "state",
        lambda: {"running": admission.running, "waiting": admission.waiting},
    )
    figures.gauge(
        "xbatch_engine_state",
        "1 for the state that the engine is in.",
        "state",
        lambda: {state: float(keeper.state == state) for state in ("loading", "ready", "restarting", "failed")},
    )
    figures.gauge(
        "xbatch_engine_restarts",
        "Restarts of the engine since the server began.",
        "kind",
        lambda: {"death": float(keeper.restarts)},
    )
    figures.gauge("xbatch_batch_rows", "Rows of the batches that run at this moment.", "state", batch_rows)


def _operation_router(keeper: EngineKeeper, online: Online, running_batches: Callable[[], int]) -> APIRouter:
    router = APIRouter(tags=["Operation"])

    @router.get("/health", summary="Tell whether the engine answers", responses={503: {"description": "Not yet"}})
    async def health() -> Response:
        _ = keeper.engine
        return Json({"status": "ready"})

    @router.get("/metrics", summary="Figures for Prometheus")
    async def metrics() -> Response:
        return Response(online.figures.text(), media_type=CONTENT_TYPE)

    @router.get("/status", summary="Figures for the page")
    async def status() -> Response:
        return Json(_status(keeper, online, running_batches()))

    return router


def _status(keeper: EngineKeeper, online: Online, running_batches: int) -> dict[str, Any]:
    engine, totals = keeper.known, online.figures.totals
    return {
        "version": __version__,
        "model": online.served.names[0],
        "abilities": [] if engine is None else list(engine.card.abilities),
        "context_length": None if engine is None else engine.card.context_tokens,
        "engine": {
            "state": keeper.state,
            "description": None if engine is None else engine.description,
            "restarts": keeper.restarts,
        },
        "uptime_s": round(time.monotonic() - online.figures.began_s, 1),
        "requests": {
            "running": online.admission.running,
            "waiting": online.admission.waiting,
            "completed": totals.completed,
            "failed": totals.failed,
        },
        "tokens": {"prompt": totals.prompt_tokens, "completion": totals.completion_tokens},
        "batches": {"running": running_batches},
    }
