"""The servers that tests of several dialects ask.

Loaded by ``pytest_plugins = ["dialect_fixtures"]``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.dialect_servers import WordsReranker, served

from ranklens.rerank.serving.settings import Settings


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Return the URL of a server with a ``WordsReranker`` that takes five documents a request."""
    with served(WordsReranker, Settings(max_documents=5)) as address:
        yield address


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """Return the URL of a server that wants the token ``sesame`` and its own model's name."""
    with served(WordsReranker, Settings(token="sesame", strict_model=True)) as address:
        yield address
