"""The page at `/` and the reader of the OpenAPI document at `/docs`: files of this folder, and no foreign host."""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter, Request, Response

_HTML, _SCRIPT, _STYLE = "text/html", "text/javascript", "text/css"
_FILES = {
    "/": ("index.html", _HTML),
    "/page.js": ("page.js", _SCRIPT),
    "/page.css": ("page.css", _STYLE),
    "/docs": ("docs.html", _HTML),
    "/docs.js": ("docs.js", _SCRIPT),
}
PAGE_PATHS = frozenset(_FILES)
"""The routes of the page: they hold no secret, and a browser can't send a key before it has them."""

# Whatever a model or a file's name says, the browser runs and loads nothing but these files.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page_router() -> APIRouter:
    """The routes of the page, none of them in the OpenAPI document; the files are read once, here."""
    router = APIRouter(include_in_schema=False)
    for path, (name, media_type) in _FILES.items():
        router.add_api_route(path, _sender(name, media_type), methods=["GET", "HEAD"])
    return router


def _sender(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = Path(__file__).with_name(name).read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": _POLICY,
        "ETag": etag,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }

    async def send(request: Request) -> Response:
        # A proxy that compresses marks the tag as weak, and a browser may know several.
        if etag in request.headers.get("If-None-Match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=f"{media_type}; charset=utf-8", headers=headers)

    return send
