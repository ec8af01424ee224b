"""What ``ranklens train model`` validates on: training lists, or a collection's candidates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ranklens.rerank.training.lists import TrainingList
    from ranklens.rerank.training.validation import HeldOut


def held_out_lists(spec: str, depth: int, limit: int | None) -> HeldOut:
    """Return the lists to validate on: those of a folder, or ``COLLECTION[@CANDIDATES]``.

    Of a collection it is the first ``depth`` candidates of its first ``limit`` judged queries
    that have any, and the figure is what ``ranklens evaluate`` gives for them: the ideal is of
    all judgements, and (without a limit) a judged query without candidates counts as 0.
    """
    from ranklens.rerank.training.folder import read_lists
    from ranklens.rerank.training.validation import HeldOut

    if (Path(spec).expanduser() / "lists.jsonl").is_file():
        folder = Path(spec).expanduser()
        return HeldOut(tuple(read_lists(folder)[:limit]), f"the lists of {folder.resolve().name}")
    return _of_collection(spec, depth, limit)


def _of_collection(given: str, depth: int, limit: int | None) -> HeldOut:
    from ranklens.cli.lists import candidate_lists, with_candidates
    from ranklens.rerank.training.lists import TrainingList, TrainingQuery
    from ranklens.rerank.training.validation import HeldOut

    spec, candidates = with_candidates(given)
    loaded, found = candidate_lists(spec, candidates, depth, limit=limit, judged=True)
    grades = loaded.judgements("validation")
    lists = []
    for query, documents in found:
        judged = grades[query.id]
        of_list = tuple(judged.get(document.id) for document in documents)
        asked = TrainingQuery(query.id, query.text, of_list, {})
        lists.append(TrainingList(tuple(documents), (asked,)))
    ids = {query.id for query, _ in found}
    lacking = [query for query in loaded.queries if query.id in grades and query.id not in ids]
    source = Path(candidates or "bm25").name
    return HeldOut(
        tuple(lists),
        f"{loaded.name} (first {depth} of {source})",
        judged={i: tuple(g for g in grades[i].values() if g > 0) for i in ids},
        unanswered=0 if limit is not None else len(lacking),
    )


def seen_in_training(held_out: HeldOut, lists: Sequence[TrainingList]) -> list[str]:
    """Return the ids of held-out queries whose text is that of a training query."""
    trained = {_folded(query.text) for part in lists for query in part.queries}
    asked = {query.id: query.text for part in held_out.lists for query in part.queries}
    return sorted(i for i, text in asked.items() if _folded(text) in trained)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
