"""Made-up content of a report, in the shape of ``Content.as_json``."""

from __future__ import annotations

import random
from typing import Any

WORDS = [
    "the",
    "axon",
    "terminals",
    "release",
    "neurotransmitter",
    "where",
    "a",
    "synaptic",
    "knob",
    "meets",
    "next",
    "cell",
    "membrane",
    "and",
    "calcium",
    "opens",
    "channels",
    "while",
    "vesicles",
    "fuse",
    "with",
    "it",
    "causing",
    "diffusion",
    "across",
    "cleft",
    "receptors",
    "bind",
    "signal",
    "strength",
    "depends",
    "on",
    "frequency",
    "of",
    "action",
    "potentials",
]
QUESTIONS = (
    "axon terminals or synaptic knob definition",
    "how long is life cycle of flea",
    "causes of military suicide",
    "what is durable medical equipment consist of",
    "exons definition biology",
    "do goldfish grow",
    "who formed the commonwealth of independent states",
    "what are the social determinants of health",
    "is cdg airport in main paris",
    "what is the most popular food in switzerland",
    "cost of interior concrete flooring",
    "what types of food can you cook sous vide",
)
MEASURES = ["nDCG@10", "RR(rel=2)@10", "AP(rel=2)", "R(rel=2)@20"]
FACTORS = dict(zip(MEASURES, (1, 1.2, 0.7, 0.9), strict=True))
FIRST, RERANKED = "bm25:lucene", "attention:smollm2-135m"


def tokens_of(text: str, seed: int) -> list[list[int]]:
    """Return [start, end, calibrated, raw] of the words of ``text``."""
    chance = random.Random(seed)
    found, place = [], 0
    for word in text.split(" "):
        size = int(255 * chance.random() ** 4)
        sign = 1 if chance.random() < 0.6 else -1
        found.append([place, place + len(word), sign * size, int(255 * chance.random() ** 3)])
        place += len(word) + 1
    return found


def report_content(queries: int = 12, depth: int = 8, words: int = 55) -> dict[str, Any]:
    """Return content with every section; the first query is named ``q1``."""
    chance = random.Random(7)
    documents: dict[str, Any] = {}
    records, attention = [], {}
    for q in range(queries):
        ids = [f"{q}-{d}" for d in range(depth + 3)]
        for doc in ids:
            text = " ".join(chance.choice(WORDS) for _ in range(words)).capitalize() + "."
            title = " ".join(chance.choice(WORDS) for _ in range(4)).capitalize()
            documents[doc] = {
                "title": title if chance.random() < 0.5 else "",
                "text": text,
                "cut": chance.random() < 0.1,
                "missing": False,
            }
        grades = {doc: (3, 2, 0, None, 1)[i % 5] for i, doc in enumerate(ids)}
        orders = {FIRST: chance.sample(ids, depth), RERANKED: chance.sample(ids, depth)}
        before = round(0.2 + 0.5 * chance.random(), 4)
        after = before if q == 5 else round(min(0.9, before + chance.gauss(0.08, 0.15)), 4)
        values = {
            run: {name: round(value * factor, 4) for name, factor in FACTORS.items()}
            for run, value in ((FIRST, before), (RERANKED, after))
        }
        records.append(
            {
                "id": f"q{q + 1}",
                "text": QUESTIONS[q % len(QUESTIONS)] + (f" {q}" if q >= 12 else ""),
                "values": values,
                "ceiling": {RERANKED: {"nDCG@10": round(min(1.0, after + 0.2), 4)}},
                "lists": {
                    run: [
                        {"doc": doc, "score": round(12 - 1.37 * i, 2), "grade": grades[doc]}
                        for i, doc in enumerate(order)
                    ]
                    for run, order in orders.items()
                },
            }
        )
        shown = {
            doc: (f"{record['title']}\n" if record["title"] else "") + record["text"]
            for doc, record in documents.items()
            if doc in orders[RERANKED]
        }
        attention[f"q{q + 1}"] = {
            doc: {"score": 0.1234, "tokens": tokens_of(text, i), "tokens_cut": 12 if i == 1 else 0}
            for i, (doc, text) in enumerate(shown.items())
        }
    return {
        "title": "bm25:lucene reranked by attention:smollm2-135m",
        "made_with": "ranklens 0.1.0",
        "collection": {
            "name": "msmarco-passage/trec-dl-2019",
            "queries": queries,
            "judged_documents": 9260,
            "relevance_level": 2,
        },
        "measures": MEASURES,
        "runs": [
            _run(FIRST, "first stage", 100, (0.5058, 0.7024, 0.3013, 0.4321)),
            _run(RERANKED, "reranked", 100, (0.5713, 0.7811, 0.3312, 0.4714)),
        ],
        "comparisons": [
            {
                "run": RERANKED,
                "against": FIRST,
                "measure": measure,
                "difference": d,
                "ci95": [round(d - 0.044, 4), round(d + 0.045, 4)],
                "p": p,
                "wins": queries - 4,
                "ties": 1,
                "losses": 3,
            }
            for measure, d, p in zip(
                MEASURES,
                (0.0655, 0.0787, 0.0299, 0.0393),
                (0.004, 0.0004, 0.12, 0.051),
                strict=True,
            )
        ],
        "queries": records,
        "documents": documents,
        "attention": {
            "run": RERANKED,
            "profile": "icr-block",
            "model": "smollm2-135m",
            "adds_up": True,
            "raw": True,
            "documents": attention,
            "what": "Attention from the query, less what a query without content draws.",
        },
        "heads": {
            "layers": 30,
            "heads": 9,
            "cells": [
                [layer, head, round(chance.random() ** 3, 4)]
                for layer in range(30)
                for head in range(9)
                if chance.random() < 0.3
            ],
            "what": "Heads that the profile reads, by weight.",
        },
        "bias": {
            "run": RERANKED,
            "what": "Scores by slot, over 4 shuffled orders.",
            "orders": 4,
            "slot": [
                [slot, round(0.4 - 0.06 * slot + chance.gauss(0, 0.1), 4), 0.08]
                for slot in range(1, 21)
            ],
            "length": [
                [int(chance.gauss(80, 25)), round(chance.gauss(0, 1), 4)] for _ in range(300)
            ],
            "length_unit": "tokens",
            "slot_rho": -0.61,
            "length_rho": 0.08,
        },
        "agreement": {
            "against": "NIST",
            "labels": [
                {
                    "name": "judge:qwen",
                    "measures": [
                        ["Cohen's kappa", 0.4312, "0.401..0.462"],
                        ["Krippendorff's alpha", 0.5011, None],
                    ],
                    "confusion": {
                        "grades": [0, 1, 2, 3],
                        "counts": [
                            [412, 80, 21, 2],
                            [90, 130, 44, 9],
                            [22, 60, 121, 30],
                            [3, 12, 41, 77],
                        ],
                    },
                }
            ],
        },
        "environment": [
            ["ranklens", "0.1.0"],
            ["Python", "3.11.9"],
            ["torch", "2.9.1"],
            ["Machine", "Linux x86_64, 2 cores"],
            ["Model", "smollm2-135m (sha256 0a1b…)"],
        ],
        "warnings": ["2 queries have fewer than 10 judged documents at the top."],
        "commands": ["ranklens report bm25.trec rerank.trec --collection dl19 --out report.html"],
    }


def _run(name: str, role: str, depth: int, values: tuple[float, ...]) -> dict[str, Any]:
    return {
        "name": name,
        "role": role,
        "depth": depth,
        "values": {
            measure: {"value": value, "ci95": [round(value - 0.07, 4), round(value + 0.07, 4)]}
            for measure, value in zip(MEASURES, values, strict=True)
        },
        "ceiling": dict(zip(MEASURES, (0.8011, 0.9302, 0.5544, 0.6011), strict=True)),
    }
