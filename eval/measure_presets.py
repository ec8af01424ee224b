"""Official settings by name: the measures that a test set's papers report, and their policy.

The grades that count as relevant and the depths are those of the reference commands of Pyserini's
reproductions, which are trec_eval's: ``-c -l 2 -m map``, ``-c -l 2 -M 100 -m map`` and so on.
``AP@100`` is ``-M 100 -m map``: both divide by all relevant documents.
"""

from __future__ import annotations

from dataclasses import dataclass

from ranklens.data.errors import UsageError
from ranklens.eval.policy import DEFAULT, Policy


@dataclass(frozen=True, slots=True)
class Preset:
    """Measures and policy of a family of test sets; ``about`` says which, and what is special."""

    name: str
    measures: tuple[str, ...]
    about: str
    policy: Policy = DEFAULT


def preset(name: str) -> Preset:
    """Return a preset by its name; UsageError lists the names."""
    if name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}; choose {', '.join(PRESETS)}")
    return PRESETS[name]


PRESETS = {
    one.name: one
    for one in (
        Preset(
            "trec-dl",
            ("nDCG@10", "AP(rel=2)", "RR(rel=2)", "R(rel=2)@1000", "Judged@10"),
            "TREC DL 2019 and 2020, passages: nDCG uses all grades, the others grades 2 and 3",
        ),
        Preset(
            "trec-dl-v2",
            ("nDCG@10", "AP(rel=2)@100", "RR(rel=2)@100", "R(rel=2)@100", "R(rel=2)@1000",
             "Judged@10"),
            "TREC DL 2021 to 2023, passages: as trec-dl, AP and RR of the first 100",
        ),
        Preset(
            "trec-dl-doc",
            ("nDCG@10", "AP@100", "R@100", "Judged@10"),
            "TREC DL 2019 to 2023, documents: grade 1 counts as relevant, AP of the first 100",
        ),
        Preset(
            "msmarco",
            ("RR@10", "R@100", "R@1000"),
            "MS MARCO passages, dev",
        ),
        Preset(
            "beir",
            ("nDCG@10", "R@100", "R_cap@100"),
            "BEIR: documents with the id of their query are removed, as BEIR's evaluation does",
            Policy(self_documents="remove"),
        ),
    )
}  # fmt: skip
