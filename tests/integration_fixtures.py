"""A plugin for the tests of adapters: what they load, and frameworks that are not there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from tests.stand_in_rerankers import Overlap

from ranklens.rerank.base import Reranker


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Let every spec load an ``Overlap`` of its name, and return the list of what was loaded."""
    found: list[tuple[str, dict[str, Any]]] = []

    def from_spec(spec: str, **settings: Any) -> Reranker:
        found.append((spec, settings))
        return Overlap(spec)

    monkeypatch.setattr(Reranker, "from_spec", staticmethod(from_spec))
    return found


@pytest.fixture
def uninstall(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Return a function that makes a framework's package missing, and its adapter not imported."""

    def remove(package: str, adapter: str) -> None:
        # None in sys.modules is what both the import statement and find_spec take for missing.
        monkeypatch.setitem(sys.modules, package, None)
        for name in list(sys.modules):
            if name.startswith(f"{package}."):
                monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, adapter, raising=False)

    return remove


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of specs that are loaded, in which each appears as it is."""
    found: list[str] = []
    real = Reranker.from_spec

    def from_spec(spec: str, **settings: Any) -> Reranker:
        found.append(spec)
        return real(spec, **settings)

    monkeypatch.setattr(Reranker, "from_spec", staticmethod(from_spec))
    return found
