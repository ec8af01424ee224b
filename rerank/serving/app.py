"""The HTTP application around a service."""

from __future__ import annotations

from ranklens.data.extras import require

require("server", "fastapi", "prometheus_client", "uvicorn")

import contextlib
from collections.abc import AsyncIterator

import asyncio

from fastapi import FastAPI

from ranklens.rerank.serving.service import Service


def create_app(service: Service) -> FastAPI:
    """Return the application; the model is loaded while it starts, off the event loop."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(service.start)
        yield

    app = FastAPI(title="ranklens", lifespan=lifespan, docs_url=None, redoc_url=None)
    with contextlib.suppress(ImportError):
        from ranklens.rerank.serving.dialects.routes import routers

        for router in routers(service):
            app.include_router(router)
    return app
