"""A plugin for the tests of exports: graded judgements and runs with all that goes wrong in them.

Loaded by ``pytest_plugins = ["export_fixtures"]``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from ranklens.data.qrels import Qrels, read_qrels
from ranklens.data.runs import Run, read_run


@dataclass(frozen=True)
class Files:
    """Files of one test set: judgements, and two runs of different quality."""

    folder: Path
    qrels_path: Path
    paths: tuple[Path, Path]

    @property
    def qrels(self) -> Qrels:
        return read_qrels(self.qrels_path)

    @property
    def runs(self) -> tuple[Run, Run]:
        first, second = map(read_run, self.paths)
        return first, second

    def order(self, which: int) -> dict[str, list[str]]:
        """Return a run's document ids by score, ties by id, descending: trec_eval's order."""
        return {
            query: [
                doc.doc_id
                for doc in sorted(docs, key=lambda doc: (doc.score, doc.doc_id), reverse=True)
            ]
            for query, docs in self.runs[which].items()
        }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Make 30 queries: grades 0 to 3, ties, documents with a query's id, one query missing."""
    folder = tmp_path_factory.mktemp("exports")
    rng = random.Random(6)
    qrels = [
        f"q{query} 0 {doc} {rng.choice([0, 0, 1, 2, 3])}"
        for query in range(30)
        for doc in [*(f"d{n}" for n in rng.sample(range(200), 25)), f"q{query}"]
    ]
    judged = {tuple(line.split()[::2]): int(line.split()[3]) for line in qrels}
    paths = folder / "first.run", folder / "second.run"
    for path, skill in zip(paths, (0.5, 1.5), strict=True):
        lines = []
        for query in range(29):
            pool = [*(f"d{n}" for n in rng.sample(range(200), 120)), f"q{query}"]
            scores = {
                doc: round(skill * judged.get((f"q{query}", doc), 0) + rng.gauss(0, 1), 1)
                for doc in pool
            }
            ranked = sorted(pool, key=lambda doc: -scores[doc])
            lines += [
                f"q{query} Q0 {doc} {rank} {scores[doc]} {path.stem}"
                for rank, doc in enumerate(ranked, start=1)
            ]
        path.write_text("\n".join(lines) + "\n")
    (folder / "qrels.txt").write_text("\n".join(qrels) + "\n")
    return Files(folder, folder / "qrels.txt", paths)
