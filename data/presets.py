"""What is special about well-known test sets, by the id that ir_datasets gives them.

Figures are those of the sets' own qrels, of Pyserini's reproduction matrix and of the BEIR and
MTEB leaderboards: numbers of other conditions are not comparable with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_OWN = "retrieval leaves out documents with the query's own id (--no-remove-query keeps them)"
_CHANCE = f"ids of queries and documents coincide by chance; as BEIR, MTEB and Pyserini, {_OWN}"


@dataclass(frozen=True, slots=True)
class Preset:
    """What holds for sets whose id ends with the regular expression ``ids``.

    ``remove_query``: documents with the query's own id are no answers. ``relevance_level`` as
    in Collection. ``notes`` are for the user. ``versions`` are the qrels that exist, by their
    number of judged pairs. ``queries`` are the numbers of judged queries of the set's splits.
    """

    ids: str
    remove_query: bool = False
    relevance_level: int = 1
    notes: tuple[str, ...] = ()
    versions: tuple[tuple[int, str], ...] = ()
    queries: tuple[int, ...] = ()


def _two_ways(flat: float, multifield: float) -> str:
    return (
        f"Lucene's BM25 has nDCG@10 {flat} with title and text as one field, {multifield} with "
        "two (--retriever lucene --multifield): compare like with like"
    )


_PARTS = {
    "android": 699, "english": 1570, "gaming": 1595, "gis": 885, "mathematica": 804,
    "physics": 1039, "programmers": 876, "stats": 652, "tex": 2906, "unix": 1072,
    "webmasters": 506, "wordpress": 541,
}  # fmt: skip

PRESETS = (
    Preset(
        r"beir/arguana(/test)?",
        remove_query=True,
        notes=(
            f"queries are documents of the corpus: {_OWN}; BM25's nDCG@10 is 0.41 then, else 0.31",
            "1 judged document of 1,406 is not in the corpus: no recall reaches 1",
        ),
        queries=(1406,),
    ),
    Preset(
        r"beir/quora(/dev|/test)?",
        remove_query=True,
        notes=(f"queries are documents of the corpus: {_OWN}",),
        queries=(5000, 10000),
    ),
    Preset(
        r"beir/fiqa(/train|/dev|/test)?",
        remove_query=True,
        notes=(_CHANCE,),
        queries=(5500, 500, 648),
    ),
    Preset(
        r"beir/msmarco(/train|/dev|/test)?",
        remove_query=True,
        notes=(_CHANCE,),
        queries=(502939, 6980, 43),
    ),
    Preset(
        r"beir/msmarco/test",
        notes=(
            "these are the 43 queries of TREC DL 2019; papers report beir/msmarco/dev "
            "(6,980 queries, BM25's nDCG@10 0.228)",
        ),
        queries=(43,),
    ),
    *(
        Preset(
            rf"beir/cqadupstack/{part}(/test)?",
            notes=("one of 12 parts: CQADupStack's published value is their unweighted mean",),
            queries=(queries,),
        )
        for part, queries in _PARTS.items()
    ),
    Preset(
        r"beir/trec-covid(/test)?",
        notes=(
            "493 relevant documents a query: R@100 cannot exceed 0.27; the BEIR paper's is "
            "capped (divided by at most 100)",
            _two_ways(0.5947, 0.6559),
        ),
        queries=(50,),
    ),
    Preset(r"beir/fever/test", notes=(_two_ways(0.6513, 0.7530),), queries=(6666,)),
    Preset(r"beir/climate-fever(/test)?", notes=(_two_ways(0.1651, 0.2129),), queries=(1535,)),
    Preset(
        r"beir/webis-touche2020(/v2|/test)?",
        notes=(
            "MTEB's Touche2020Retrieval.v3 is another set (BM25's nDCG@10 0.66)",
            _two_ways(0.4422, 0.3673),
        ),
        versions=(
            (2962, "version 1, not BEIR's"),
            (2214, "version 2, as BEIR's (irds:beir/webis-touche2020/v2)"),
            (932, "version 2 without its grade 0"),
        ),
        queries=(49,),
    ),
    # The track counts grades 2 and 3 of passages as relevant, 1 to 3 of documents.
    Preset(r"msmarco-passage(-v2)?/trec-dl-.+", relevance_level=2),
    Preset(
        r"msmarco-passage-v2/trec-dl-20(21|22|23)(/judged)?",
        notes=("AP is published of the first 100: -m 'AP(rel=2)@100'",),
    ),
    Preset(
        r"msmarco-document(-v2)?/trec-dl-20(19|20|21|22|23)(/judged)?",
        notes=("AP is published of the first 100, grades from 1: -m AP@100",),
    ),
    Preset(
        r"msmarco-passage-v2/trec-dl-2022(/judged)?",
        versions=(
            (386416, "expanded to textual duplicates"),
            (23522, "de-duplicated"),
        ),
    ),
    Preset(
        r"msmarco-passage-v2/trec-dl-2023(/judged)?",
        versions=(
            (22327, "as released, with textual duplicates"),
            (18878, "de-duplicated"),
        ),
    ),
)


def find_preset(identifier: str, pairs: int) -> Preset:
    """Return all that holds for a set, as one Preset; ``pairs`` is how many pairs its qrels have.

    What stands before a known id is a prefix of the user's own.
    """
    known = [preset for preset in PRESETS if re.search(rf"(^|/){preset.ids}$", identifier)]
    return Preset(
        ids=re.escape(identifier),
        remove_query=any(preset.remove_query for preset in known),
        relevance_level=max((preset.relevance_level for preset in known), default=1),
        notes=tuple(note for preset in known for note in (*preset.notes, *_version(preset, pairs))),
    )


def find_folder_preset(name: str, split: str, queries: int, pairs: int) -> Preset:
    """Return what holds for a folder in BEIR's layout that has the name of a BEIR set.

    A name alone is no proof: only with one of the set's numbers of judged ``queries`` is it the
    set; otherwise nothing holds and a note says so.
    """
    identifier = f"beir/{name}/{split}"
    known = [preset for preset in PRESETS if re.fullmatch(preset.ids, identifier)]
    if all(queries in preset.queries for preset in known):
        return find_preset(identifier, pairs)
    expected = " or ".join(f"{count:,}" for count in known[0].queries)
    option = "; see --remove-query" if known[0].remove_query else ""
    return Preset(
        ids=re.escape(identifier),
        notes=(
            f"called {name}, but with {queries:,} judged queries it is not BEIR's ({expected}): "
            f"nothing is assumed about it{option}",
        ),
    )


def _version(preset: Preset, pairs: int) -> Iterator[str]:
    if not preset.versions or not pairs:
        return
    others = ", ".join(f"{what} ({count:,})" for count, what in preset.versions if count != pairs)
    known = dict(preset.versions)
    if pairs in known:
        yield f"the qrels are {known[pairs]} ({pairs:,} pairs); not comparable: {others}"
    else:
        yield f"the qrels have {pairs:,} pairs, as no known version has: {others}"
