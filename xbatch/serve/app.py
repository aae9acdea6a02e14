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
from xbatch.serve.metrics import CONTENT_TYPE, Figures, Totals
from xbatch.serve.models import models_router
from xbatch.serve.openai import Online, openai_router
from xbatch.serve.running import BatchFigures
from xbatch.serve.settings import ServeSettings
from xbatch.serve.xinference import xinference_router
from xbatch.state.records import Counts


def make_app(
    settings: ServeSettings,
    online: Online,
    routers: Sequence[APIRouter],
    batches: Callable[[], BatchFigures],
    write_log: Callable[[str], None] | None,
) -> FastAPI:
    """Make the app from what answers online, and the routers of files, batches and the page.

    `batches` gives the figures of batches, `write_log` gets the lines of the access log.
    """
    # FastAPI's own page of the API loads its script from a foreign host, so there is one of ours.
    app = FastAPI(title="xbatch", version=__version__, docs_url=None, redoc_url=None)
    add_handlers(app)
    xinference = xinference_router(online.served, auth=bool(settings.api_keys))
    operation = _operation_router(online.keeper, online, batches)
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


def add_metrics(figures: Figures, online: Online, batches: Callable[[], BatchFigures]) -> None:
    """Let Prometheus see what goes on at the moment, and the rows of batches."""
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
    figures.gauge(
        "xbatch_batches",
        "Batches that have not ended, by whether their rows are being answered.",
        "state",
        lambda: {"running": (seen := batches()).running, "waiting": seen.open - seen.running},
    )
    figures.gauge(
        "xbatch_batch_rows",
        "Rows of batches: in flight and waiting at this moment, completed and failed since the server began.",
        "state",
        lambda: dict(batches().rows),
    )
    figures.counter(
        "xbatch_batch_rows_settled",
        "Rows of batches that have their response.",
        "status",
        lambda: {"completed": (seen := batches().settled).completed, "failed": seen.failed},
    )
    figures.counter("xbatch_batch_tokens", "Tokens of rows of batches.", "kind", lambda: _tokens(batches().settled))


def _operation_router(keeper: EngineKeeper, online: Online, batches: Callable[[], BatchFigures]) -> APIRouter:
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
        return Json(_status(keeper, online, batches()))

    return router


def _tokens(spent: Counts | Totals) -> dict[str, float]:
    return {"prompt": spent.prompt_tokens, "completion": spent.completion_tokens}


def _status(keeper: EngineKeeper, online: Online, batches: BatchFigures) -> dict[str, Any]:
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
        "tokens": _tokens(totals),
        "batches": {
            "running": batches.running,
            "open": batches.open,
            "rows": batches.rows,
            "tokens": _tokens(batches.settled),
        },
    }
