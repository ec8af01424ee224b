"""``ranklens serve``: a reranker behind HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ranklens.cli import options
from ranklens.cli.specs import DEFAULT_RERANKER
from ranklens.data.errors import InvalidInputError, UsageError

if TYPE_CHECKING:
    from ranklens.cli.specs import RerankerSpec
    from ranklens.rerank.base import Reranker

_TOKEN = "RANKLENS_TOKEN"


def serve(
    reranker: options.RerankerOption = DEFAULT_RERANKER,
    profile: options.ProfileOption = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's need a token.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"What clients must bring as bearer token; else ${_TOKEN}, else none is asked.",
        ),
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Serve other machines without a token.")
    ] = False,
    max_documents: Annotated[
        int, typer.Option(callback=options.positive, help="Documents of one request.")
    ] = 1000,
    max_waiting: Annotated[
        int,
        typer.Option(callback=options.positive, help="Requests that may wait; more get a 429."),
    ] = 64,
    max_tokens_per_doc: Annotated[
        int | None,
        typer.Option(
            callback=options.positive,
            help="Tokens of a document where a request says nothing; else what the context holds.",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="From a request to its answer, else a 503.")
    ] = 60.0,
    long_lists: options.LongListsOption = "refuse",
    documents: options.DocumentsOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    strict_model: Annotated[
        bool,
        typer.Option("--strict-model", help="Refuse requests that name another model (404)."),
    ] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Serve a reranker over HTTP, as Cohere, Jina, vLLM and TEI do.

    Paths: /v1/rerank, /v2/rerank, /rerank, /score, /health, /info, /metrics and /docs. Documents
    are kept in memory where the profile is in blocks. Ctrl-C or SIGTERM ends it when what was
    accepted is answered; a second one at once.

    Example: ranklens serve --port 8000
    """
    from ranklens.cli.documents import kept_documents
    from ranklens.cli.output import note
    from ranklens.cli.specs import RerankerSpec
    from ranklens.data.extras import require

    require("server", "fastapi", "prometheus_client", "uvicorn")
    from ranklens.data.models.naming import name_of
    from ranklens.rerank.serving.running import bound, is_loopback, url_of
    from ranklens.rerank.serving.running import serve as run
    from ranklens.rerank.serving.service import Service
    from ranklens.rerank.serving.settings import Settings

    token = _token(token_file)
    if token is None and not no_token and not is_loopback(host):
        raise UsageError(
            f"--host {host} lets other machines in, and there is no token: give --token-file or "
            f"${_TOKEN}, or --no-token if everybody may use this server"
        )
    settings = Settings(
        max_documents=max_documents,
        max_waiting=max_waiting,
        max_tokens_per_doc=max_tokens_per_doc,
        timeout=timeout,
        token=token,
        strict_model=strict_model,
    )
    kept = kept_documents(documents)
    spec = RerankerSpec.parse(reranker, profile, device, dtype, long_lists, None, kept)
    if spec.model:
        require("llm", "torch", "transformers", "safetensors")
    name = f"{spec.kind}:{name_of(spec.model)}" if spec.model else spec.kind
    listening = bound(host, port)
    url = url_of(listening)

    service = Service(lambda: _loaded(spec), settings, model=name)

    def ready() -> None:
        said = {"status": "ready", "url": url, "model": name, "scale": service.scale}
        line = json.dumps(said) if as_json else f"ranklens serves {name} at {url}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    with contextlib.closing(listening), _logging_to_stderr():
        note(f"loading {name}")
        run(service, listening, ready)
    note("stopped; everything accepted was answered")


def _token(file: Path | None) -> str | None:
    """Return the token of a file or the environment; a command line is there for all to read."""
    if file is None:
        return os.environ.get(_TOKEN) or None
    from ranklens.data.files import read_text

    token = read_text(file).strip()
    if not token:
        raise InvalidInputError(f"{file}: there is no token in it")
    return token


def _loaded(spec: RerankerSpec) -> Reranker:
    """Load a reranker; it keeps documents in memory where its profile allows that."""
    from ranklens.rerank.attention_reranker import AttentionReranker
    from ranklens.rerank.kv.cache import DocumentCache
    from ranklens.rerank.kv.reading import check_profile

    found = spec.load()
    if not isinstance(found, AttentionReranker) or found.documents is not None:
        return found
    try:
        check_profile(found.profile)
    except InvalidInputError:
        return found
    if found.engine.rope_switch is not None:
        # Its long prompts could not be read with kept documents.
        return found
    return AttentionReranker(
        found.engine,
        found.profile,
        found.model,
        long_lists=found.long_lists,
        documents=DocumentCache(),
    )


@contextlib.contextmanager
def _logging_to_stderr() -> Iterator[None]:
    """Write what ranklens logs meanwhile, a line for each request, to standard error."""
    import logging

    from ranklens.cli.escape import printable
    from ranklens.rerank.serving.service import REQUEST_ID

    class Harmless(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            record.request = REQUEST_ID.get()
            return "\n".join(map(printable, super().format(record).split("\n")))

    handler = logging.StreamHandler()
    handler.setFormatter(Harmless("%(asctime)s %(levelname)s %(request)s %(message)s"))
    logger = logging.getLogger("ranklens")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
