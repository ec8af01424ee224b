"""The paths of all dialects, bound to a service.

    POST /v1/rerank    Cohere v1, Jina, vLLM    one answer for all, see ``rerank``
    POST /v2/rerank    Cohere v2, vLLM          the same
    POST /rerank       vLLM, TEI                a body with `texts` is TEI's, else the same
    POST /score, /v1/score    vLLM

Status: 400 not JSON, 404 another model where the server is strict, 413 too large, 415 not
JSON by its headers, 422 JSON of the wrong shape or that cannot be ranked, 429 too much waits, 500
the model failed (424 for TEI), 503 not ready or too slow.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from ranklens.rerank.serving.dialects.body import check_headers, names_texts, parse
from ranklens.rerank.serving.dialects.errors import (
    RequestError,
    error_response,
    json_response,
)
from ranklens.rerank.serving.dialects.fields import check_number, headers, ignored, read
from ranklens.rerank.serving.dialects.rerank import RerankAnswer, RerankRequest, rerank_answer
from ranklens.rerank.serving.dialects.tei import TeiRank, TeiRequest, tei_answer
from ranklens.rerank.serving.dialects.vllm import ScoreAnswer, ScoreRequest, score_answer
from ranklens.rerank.serving.service import Service

_Handler = Callable[[dict[str, Any]], Awaitable[Response]]


def routers(service: Service) -> list[APIRouter]:
    """Return the routers of all dialects, for an application to include."""
    router = APIRouter(tags=["rerank"])
    settings = service.settings

    async def rerank(body: dict[str, Any], version: str) -> Response:
        check_number(body.get("documents"), settings.max_documents)
        request = read(RerankRequest, body)
        request.check_model(service.model, settings.strict_model)
        job = request.job()
        answer = await service.rank(job)
        unread = ignored(RerankRequest, body)
        value = rerank_answer(version, request, job, answer, unread)
        return json_response(value, headers=headers([answer], unread))

    async def tei(body: dict[str, Any]) -> Response:
        check_number(body["texts"], settings.max_documents)
        request = read(TeiRequest, body)
        request.check_model(service.model, settings.strict_model)
        job = request.job()
        answer = await service.rank(job)
        request.check_cut(answer)
        unread = ignored(TeiRequest, body)
        return json_response(tei_answer(request, job, answer), headers=headers([answer], unread))

    async def score(body: dict[str, Any]) -> Response:
        for texts in body.values():
            check_number(texts, settings.max_documents)
        request = read(ScoreRequest, body)
        request.check_model(service.model, settings.strict_model)
        jobs = request.jobs()
        answers = await service.rank_each(job for job, _ in jobs)
        answered = [(answer, of) for answer, (_, of) in zip(answers, jobs, strict=True)]
        unread = ignored(ScoreRequest, body)
        value = score_answer(service.model, answered)
        return json_response(value, headers=headers(answers, unread))

    async def v1(request: Request) -> Response:
        return await _answered(request, lambda body: rerank(body, "1"))

    async def v2(request: Request) -> Response:
        return await _answered(request, lambda body: rerank(body, "2"))

    async def plain(request: Request) -> Response:
        return await _answered(
            request, lambda body: tei(body) if "texts" in body else rerank(body, "1")
        )

    async def scores(request: Request) -> Response:
        return await _answered(request, score)

    ranked = ("Rank documents", RerankRequest, RerankAnswer)
    either = ("Rank documents", RerankRequest | TeiRequest, RerankAnswer | list[TeiRank])
    paths: tuple[tuple[str, Any, tuple[str, Any, Any]], ...] = (
        ("/v1/rerank", v1, ranked),
        ("/v2/rerank", v2, ranked),
        ("/rerank", plain, either),
        ("/v1/score", scores, ("Score pairs", ScoreRequest, ScoreAnswer)),
        ("/score", scores, ("Score pairs", ScoreRequest, ScoreAnswer)),
    )
    for path, handler, (summary, asked, answer) in paths:
        router.add_api_route(
            path,
            handler,
            methods=["POST"],
            summary=summary,
            operation_id=path.strip("/").replace("/", "_"),
            response_model=None,
            responses={200: {"description": "The ranking", **_content(answer, "serialization")}},
            openapi_extra={"requestBody": {"required": True, **_content(asked, "validation")}},
        )
    return [router]


async def _answered(request: Request, handle: _Handler) -> Response:
    """Return what a handler answers to the body, or the error that is the body's fault.

    Errors of the service go on to the application, which counts them; ``state.body_is_tei``
    tells it how they are to be written.
    """
    path = str(request.scope["path"])
    tei = None
    try:
        check_headers(request)
        data = await request.body()
        request.state.body_is_tei = tei = path == "/rerank" and names_texts(data)
        body = parse(data)
        request.state.body_is_tei = tei = path == "/rerank" and "texts" in body
        return await handle(body)
    except RequestError as error:
        return error_response(path, tei, error.status, str(error), param=error.param)


def _content(shape: Any, mode: Literal["validation", "serialization"]) -> dict[str, Any]:
    """Return a body's place in OpenAPI, with what its schema refers to written out in it."""
    schema = TypeAdapter(shape).json_schema(mode=mode)
    definitions = schema.pop("$defs", {})
    return {"content": {"application/json": {"schema": _inlined(schema, definitions)}}}


def _inlined(value: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_inlined(each, definitions) for each in value]
    if not isinstance(value, dict):
        return value
    if name := value.get("$ref", "").removeprefix("#/$defs/"):
        return _inlined(definitions[name], definitions)
    return {key: _inlined(each, definitions) for key, each in value.items()}
