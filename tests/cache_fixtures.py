"""A plugin for the tests of kept documents, beside ``cli_fixtures``."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def build(call: Call, collection: Path, decoder: str) -> Call:
    """Return a function that builds the folder ``kept`` from the collection."""
    return lambda *more: call(
        "cache", "build", collection, "--reranker", decoder, "-o", "kept", *more
    )


@pytest.fixture
def rerank(call: Call, collection: Path, decoder: str) -> Call:
    """Return a function that reranks all candidates with documents kept in a folder."""
    return lambda folder, out, *more: call(
        "rerank", collection, "all", "--reranker", decoder, "--profile", "icr-block",
        "--documents", folder, "-o", out, *more,
    )  # fmt: skip
