import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ranklens

CLASSES = {
    "AttentionReranker", "BM25Retriever", "Collection", "DenseRetriever", "Document",
    "DocumentCache", "EmbeddingFilter", "Encoder", "Fusion", "HybridRetriever", "Judgement",
    "LuceneRetriever", "PassageRetriever", "Passages", "Policy", "Profile", "Qrels", "Query",
    "RankedDocument", "Ranking", "RanklensError", "Reranker", "Retriever", "Run", "ScoredDoc",
}  # fmt: skip
FUNCTIONS = {
    "compare", "evaluate", "label_agreement", "load_collection", "load_profile", "open_index",
    "practical_udcg", "rank_agreement", "read_qrels", "read_run", "write_run",
}  # fmt: skip
HEAVY = (
    "faiss",
    "ranx",
    "numba",
    "sentence_transformers",
    "pyarrow",
    "torch",
    "transformers",
    "numpy",
    "ir_measures",
    "bm25s",
    "pydantic",
    "rich",
)
EVAL = Path(ranklens.__file__).parent / "eval"


def test_the_public_names_are_these_and_sorted() -> None:
    assert ranklens.__all__ == sorted(CLASSES | FUNCTIONS)


@pytest.mark.parametrize("name", sorted(CLASSES | FUNCTIONS))
def test_a_public_name_is_what_it_says_and_documented(name: str) -> None:
    thing = getattr(ranklens, name)
    assert thing.__name__ == name
    assert thing.__module__.startswith("ranklens.")
    assert inspect.isclass(thing) == (name in CLASSES)
    assert inspect.getdoc(thing)


def test_dir_lists_the_public_names_before_they_are_used() -> None:
    assert set(ranklens.__all__) <= set(dir(ranklens))
    assert "__version__" in dir(ranklens)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'ranklens' has no attribute 'rerank_all'"):
        _ = ranklens.rerank_all


def test_the_version_is_a_release() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", ranklens.__version__)


@pytest.mark.parametrize("module", ["ranklens", "ranklens.cli.main"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_evaluation_loads_neither_torch_nor_numba() -> None:
    modules = sorted(
        path.relative_to(EVAL.parent).with_suffix("").as_posix().replace("/", ".")
        for path in EVAL.rglob("*.py")
        if path.name != "__init__.py"
    )
    assert "eval.measures" in modules
    code = "\n".join(
        [
            "import importlib, sys",
            *(f"importlib.import_module('ranklens.{module}')" for module in modules),
            "from ranklens import Judgement, Qrels, Run, ScoredDoc, evaluate",
            "run = Run({'q': [ScoredDoc('d', 1.0)]})",
            "evaluate(Qrels([Judgement('q', 'd', 1)]), run, ['AP', 'RBP'])",
            "heavy = ('torch', 'numba', 'ranx', 'pandas', 'scipy')",
            "print([m for m in heavy if m in sys.modules])",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
