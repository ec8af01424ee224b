"""A small made-up report: three queries, three runs, hostile texts."""

from __future__ import annotations

from ranklens.cli.html_report.coding import Token
from ranklens.cli.html_report.content import (
    Agreement,
    AttendedDocument,
    Attention,
    Bias,
    Confusion,
    Content,
    HeadMap,
    LabelAgreement,
    Listed,
    ReportedCollection,
    ReportedPair,
    ReportedQuery,
    ReportedRun,
    Role,
    ShownDocument,
    Value,
)

MEASURES = ("nDCG@10", "RR(rel=2)@10")
NAMES = ("bm25", "attention", "other")
HOSTILE = '</script><script>document.title = "owned"</script><img src=x onerror=alert(1)>'
BIDI = "a \u202eright to left\u202c and a\x00 NUL, \x1b[31m red"


def made_up_content() -> Content:
    """Return a report that has every part: d1 is hostile, d4 is not in the collection."""
    return Content(
        title="Made up & small",
        made_with="ranklens 0.1.0",
        collection=ReportedCollection("made-up", 3, 6, 2),
        measures=MEASURES,
        runs=(
            _run("bm25", "first stage", 0.41, 3),
            _run("attention", "reranked", 0.62, 3),
            _run("other", "run", 0.55, None),
        ),
        comparisons=tuple(
            ReportedPair(run, "bm25", measure, 0.21, (0.05, 0.37), 0.0123, 2, 1, 0)
            for measure in MEASURES
            for run in NAMES[1:]
        ),
        queries=tuple(
            _query(f"q{i}", text, i)
            for i, text in enumerate(("what is attention", HOSTILE, "wie groß ist 🦒 das"))
        ),
        documents={
            "d0": ShownDocument("Giraffes 🦒", "A giraffe 🦒 is tall. It eats leaves.", False),
            "d1": ShownDocument(HOSTILE, HOSTILE, False),
            "d2": ShownDocument("", BIDI, False),
            "d3": ShownDocument("Long", "word " * 200, True),
            "d4": ShownDocument("", "", False, missing=True),
        },
        attention=Attention(
            run="attention",
            profile="icr",
            model="a-model",
            adds_up=True,
            raw=True,
            what="Calibrated attention of the query's tokens to each token.",
            documents={
                f"q{i}": {
                    "d0": AttendedDocument(
                        1.5,
                        (
                            Token(0, 8, 200 - 50 * i, 90),
                            Token(9, 10, 255, 255),
                            Token(11, 20, -40, 10),
                            Token(20, 22, 12, 3),
                            Token(22, 25, 0, 0),
                        ),
                        0,
                    ),
                    "d1": AttendedDocument(0.5, (Token(0, 9, 30, 30), Token(79, 88, -255, 5)), 4),
                }
                for i in range(3)
            },
        ),
        heads=HeadMap(3, 4, ((0, 1, 0.2), (1, 3, 1.0), (2, 0, 0.6)), "3 of 12 heads"),
        bias=Bias(
            run="attention",
            slot=((1, 0.4, 0.1), (2, -0.1, 0.1), (3, -0.3, None)),
            length=((12, 0.3), (40, -0.2), (80, 0.5)),
            length_unit="words",
            slot_rho=-0.8,
            length_rho=0.1,
            orders=0,
            what="The run's own lists: slots are ranks of the first stage.",
        ),
        agreement=Agreement(
            "made-up",
            (
                LabelAgreement(
                    "labels.qrels",
                    (("kappa", 0.61, "0.40..0.80"), ("alpha", 0.7, None)),
                    Confusion((0, 1, 2), ((3, 1, 0), (0, 2, 1), (0, 0, 2))),
                ),
            ),
        ),
        environment=(("ranklens", "0.1.0"), ("python", "3.12.0"), ("model", "a-model")),
        warnings=("1 judged query is not in other",),
        commands=("ranklens report runs/a other.run --collection made-up",),
    )


def _run(name: str, role: Role, value: float, depth: int | None) -> ReportedRun:
    return ReportedRun(
        name,
        role,
        depth,
        {measure: Value(value, (value - 0.1, value + 0.1)) for measure in MEASURES},
        None if role == "run" else dict.fromkeys(MEASURES, 0.9),
    )


def _query(query_id: str, text: str, number: int) -> ReportedQuery:
    values = {"bm25": 0.2 + 0.1 * number, "attention": 0.9 - 0.3 * number, "other": 0.5}
    order = ("d0", "d1", "d2", "d3", "d4")
    lists = {
        "bm25": order,
        "attention": ("d2", "d0", "d1", "d3", "d4"),
        "other": order[::-1] if number else (),
    }
    grades = {"d0": 3, "d1": 0, "d2": 2}
    return ReportedQuery(
        query_id,
        text,
        {name: dict.fromkeys(MEASURES, value) for name, value in values.items()},
        {name: dict.fromkeys(MEASURES, 0.95) for name in ("bm25", "attention")},
        {
            name: tuple(Listed(doc, 9.5 - i, grades.get(doc)) for i, doc in enumerate(docs))
            for name, docs in lists.items()
        },
    )
