"""What docs/integrations.md shows is what happens, with the real model."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import pytest

from ranklens.rerank.base import Reranker

# Haystack asks when it is imported whether it may report its use.
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

PAGE = Path(__file__).resolve().parents[1] / "docs" / "integrations.md"


@pytest.mark.model
def test_the_examples_print_what_they_show(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", text, flags=re.DOTALL)
    assert len(found) == text.count("```python") > 3
    # Every example says that it loads the model; here one is enough for all.
    monkeypatch.setattr(Reranker, "from_spec", staticmethod(cache(Reranker.from_spec)))
    for code, output in found:
        exec(compile(code, PAGE.name, "exec"), {})
        assert capsys.readouterr().out == output
