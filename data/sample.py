"""The bundled sample ``pydocs``: find the function of Python's standard library that does it.

Documents are the docstrings of the user's own interpreter, so they are made on the first use
and kept; queries and judgements come with the package (``pydocs/README.md`` says how they
were made).
"""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path

from filelock import FileLock

from ranklens.data import pydocs
from ranklens.data.collection import Collection, assemble
from ranklens.data.documents import FileDocuments, read_queries
from ranklens.data.errors import MissingResourceError
from ranklens.data.files import sha256
from ranklens.data.home import home
from ranklens.data.qrels import Qrels, read_qrels
from ranklens.data.records import Judgement

_FOLDER = Path(pydocs.__file__).parent


def load_sample(name: str) -> Collection:
    """Load a bundled sample; ``pydocs`` is the one there is (MissingResourceError otherwise)."""
    if name != "pydocs":
        raise MissingResourceError(f"no sample {name!r}; there is sample:pydocs")
    documents = FileDocuments(_corpus())
    queries, qrels = _FOLDER / "queries.jsonl", _FOLDER / "qrels.txt"
    judged = read_qrels(qrels)
    present = documents.get_many({doc_id for grades in judged.values() for doc_id in grades})
    absent = {doc_id for grades in judged.values() for doc_id in grades} - set(present)
    notes: tuple[str, ...] = ()
    if absent:
        notes = (
            f"{len(absent)} judged documents do not exist in Python "
            f"{platform.python_version()} (first: {min(absent)!r}); their judgements are left out",
        )
    return assemble(
        name="pydocs",
        documents=documents,
        queries=read_queries(queries),
        qrels=Qrels(
            Judgement(query_id, doc_id, grade)
            for query_id, grades in judged.items()
            for doc_id, grade in grades.items()
            if doc_id not in absent
        ),
        relevance_level=2,
        notes=notes,
        sources={"queries": f"sha256:{sha256(queries)}", "qrels": f"sha256:{sha256(qrels)}"},
    )


def _corpus() -> Path:
    """Return the corpus of this interpreter, made once per interpreter and version of the maker."""
    from ranklens.data.pydocs.corpus import build

    maker = hashlib.sha256()
    for source in ("_introspect.py", "corpus.py"):
        maker.update((_FOLDER / source).read_bytes())
    # Two interpreters of one version can be built with different modules.
    maker.update(sys.version.encode() + sys.base_prefix.encode())
    name = f"{platform.python_version()}-{maker.hexdigest()[:12]}"
    path = home() / "samples" / f"pydocs-{name}.jsonl"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                build(path)
    return path
