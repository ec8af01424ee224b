"""What a server says of itself: ``/health``, ``/info``, ``/metrics`` and a page of its paths."""

from __future__ import annotations

import html
import json
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.responses import HTMLResponse, JSONResponse, Response

from ranklens import __version__
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.serving.metrics import CONTENT_TYPE
from ranklens.rerank.serving.service import Service

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color-scheme:light dark}pre{overflow:auto;padding:.5rem;border:1px solid #8888}"
    "summary{cursor:pointer}"
)


def router(service: Service) -> APIRouter:
    """Return the paths that are about the server itself."""
    made = APIRouter(tags=["server"])

    @made.get("/health", summary="200 when requests are taken, else 503")
    async def health() -> JSONResponse:
        if service.ready:
            return JSONResponse({"status": "ok"})
        state = "stopping" if service.stopping else "failed" if service.failed else "loading"
        return JSONResponse({"status": state}, 503, {"Retry-After": "5"})

    # Probes that want no body; not a second entry of the page.
    made.add_api_route("/health", health, methods=["HEAD"], include_in_schema=False)

    @made.get("/info", summary="Model, limits and version")
    async def info() -> JSONResponse:
        return JSONResponse(information(service))

    @made.get("/metrics", summary="Counters, as Prometheus reads them")
    async def metrics() -> Response:
        return Response(service.metrics.page(), media_type=CONTENT_TYPE)

    return made


def information(service: Service) -> dict[str, Any]:
    """Return TEI's fields as far as they apply, and ours: what scores are, and where they run.

    Before the model is loaded all that depends on it is None.
    """
    settings, reranker = service.settings, service.reranker
    attention = reranker if isinstance(reranker, AttentionReranker) else None
    engine = None if attention is None else attention.engine
    model = None if attention is None else attention.model
    dtype = None if engine is None else str(engine.model.dtype).removeprefix("torch.")
    return {
        "model_id": service.model,
        "model_sha": None if model is None else model.revision,
        "model_dtype": dtype,
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_concurrent_requests": settings.max_waiting,
        "max_input_length": None if engine is None else engine.context,
        "max_batch_requests": settings.max_batch,
        "max_client_batch_size": settings.max_documents,
        "auto_truncate": True,
        "version": __version__,
        "profile": None if attention is None else attention.profile.name,
        "scale": service.scale,
        "device": None if engine is None else str(engine.model.device),
        "dtype": dtype,
        "max_body_bytes": settings.max_body_bytes,
        "max_query_tokens": settings.max_query_tokens,
        "max_tokens_per_doc": settings.max_tokens_per_doc,
    }


def add_page(app: FastAPI) -> None:
    """Give the application ``/docs``: what ``/openapi.json`` says, readable without a network."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        return HTMLResponse(page(app.openapi()), headers={"Content-Security-Policy": policy})


def page(description: dict[str, Any]) -> str:
    """Return an OpenAPI description as one HTML page without scripts."""
    sections = [
        _section(path, method, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = description.get("components", {}).get("schemas", {})
    shapes = [f"<h2>Shapes</h2>{_details(name, shape)}" for name, shape in schemas.items()]
    title = html.escape(description["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style><h1>{title} {html.escape(description['info']['version'])}</h1>"
        '<p>For machines: <a href="openapi.json">openapi.json</a></p>'
        f"{''.join(sections)}{''.join(shapes)}</html>"
    )


def _section(path: str, method: str, operation: dict[str, Any]) -> str:
    said = html.escape(operation.get("description") or operation.get("summary") or "")
    parts = {
        name: operation[name]
        for name in ("parameters", "requestBody", "responses")
        if operation.get(name)
    }
    head = f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{said}</p>"
    return head + "".join(_details(name, part) for name, part in parts.items())


def _details(name: str, value: object) -> str:
    text = html.escape(json.dumps(value, indent=2, ensure_ascii=False))
    return f"<details><summary>{html.escape(name)}</summary><pre>{text}</pre></details>"
