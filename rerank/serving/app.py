"""The HTTP application around a service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from ranklens import __version__
from ranklens.data.errors import RanklensError
from ranklens.rerank.serving import about
from ranklens.rerank.serving.dialects.routes import routers
from ranklens.rerank.serving.failures import answer_to
from ranklens.rerank.serving.reception import Reception
from ranklens.rerank.serving.service import REQUEST_ID, Service


def create_app(service: Service) -> FastAPI:
    """Return the application.

    When it starts the model is loaded in the service's own thread: ``/health`` answers 503 until
    it is warm. When it ends the service is closed, and what was accepted is answered.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.begin()
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="ranklens",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # Behind a proxy that ends TLS it would lead to http.
        redirect_slashes=False,
    )
    included = [about.router(service), *routers(service)]
    for router in included:
        app.include_router(router)
    about.add_page(app)

    async def failed(request: Request, error: Exception) -> Response:
        tei = getattr(request.state, "body_is_tei", None)
        return answer_to(error, request.url.path, REQUEST_ID.get(), tei)

    app.add_exception_handler(RanklensError, failed)
    app.add_exception_handler(HTTPException, failed)
    paths = {
        route.path for router in included for route in router.routes if isinstance(route, Route)
    }
    app.add_middleware(Reception, service=service, paths=paths)
    return app
