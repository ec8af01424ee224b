"""Computing documents ahead of any query: which ones, and one chunk after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from ranklens.cli.progress import progress
from ranklens.cli.specs import find_candidates
from ranklens.cli.stages import fetch_texts
from ranklens.data.errors import PartialError, RanklensError

if TYPE_CHECKING:
    from ranklens.data.collection import Collection
    from ranklens.data.records import Document
    from ranklens.rerank.attention_reranker import AttentionReranker
    from ranklens.rerank.kv.cache import Counts

CHUNK = 64
"""Documents that are given to the reranker at a time."""


def documents_of(
    collection: Collection, candidates: str | None, depth: int, limit: int | None
) -> tuple[Iterable[Document], int]:
    """Return the first ``limit`` documents of a collection, as a stream, and their number.

    With ``candidates`` those among the first ``depth`` of every query. Raises as reading the
    collection does, for the whole of it: before the work, not after hours.
    """
    if candidates is not None:
        run = find_candidates(collection, candidates, collection.queries)
        texts = fetch_texts(collection, run, depth, collection.queries)
        found = list(texts.values())[:limit]
        return found, len(found)
    return islice(collection.documents, limit), sum(1 for _ in islice(collection.documents, limit))


def keep_all(reranker: AttentionReranker, documents: Iterable[Document], total: int) -> Counts:
    """Keep documents, and return how many were computed.

    Raises PartialError on Ctrl-C and RanklensError when they can no longer be written; what is
    kept by then stays usable.
    """
    cache = reranker.documents
    assert cache is not None
    # Where documents stand one behind the other, many together may be shortened, and are then
    # others than in the lists to be ranked.
    chunk = CHUNK if reranker.profile.layout.positions == "shared" else 1
    done = 0
    try:
        with progress("keeping", total, "docs") as advance:
            for some in _chunks(documents, chunk):
                reranker.keep(some)
                if cache.not_written is not None:
                    raise RanklensError(
                        f"cannot keep documents in {cache.folder}: {cache.not_written}; at "
                        f"least {done} of {total} are kept and stay usable, and the same "
                        "command goes on when there is room"
                    )
                done += len(some)
                advance(len(some))
    except KeyboardInterrupt:
        raise PartialError(
            f"interrupted with at least {done} of {total} documents kept; the same command "
            f"goes on from there ({cache.folder})"
        ) from None
    return cache.counts


def _chunks(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    rest = iter(documents)
    while chunk := list(islice(rest, size)):
        yield chunk
