"""How far other labels agree with the judgements of a report's collection."""

from __future__ import annotations

from collections.abc import Mapping

from ranklens.cli.html_report.content import Agreement, Confusion, LabelAgreement
from ranklens.data.collection import Collection
from ranklens.data.errors import InvalidInputError
from ranklens.data.qrels import Qrels
from ranklens.eval.agree.labels import Scale, label_agreement


def agreement(
    collection: Collection, labels: Mapping[str, Qrels]
) -> tuple[Agreement | None, tuple[str, ...]]:
    """Return κ, α and counts of label sets by name, and what to be careful about.

    Raises InvalidInputError for labels that share no pair with the judgements, by their name.
    """
    if not labels:
        return None, ()
    gold = collection.judgements("--labels")
    scale = Scale.of(gold)
    level = min(max(collection.relevance_level, scale.lowest + 1), scale.highest)
    found, warnings = [], []
    for name, judge in labels.items():
        try:
            table = label_agreement(gold, judge, scale)
        except InvalidInputError as error:
            raise InvalidInputError(f"{name}: {error}") from None
        figures = table.overall
        known = {
            "pairs": figures.pairs,
            "equal labels": figures.exact,
            "Cohen's κ": figures.kappa,
            f"Cohen's κ, grade {level} and above": figures.binary[level],
            "Krippendorff's α, ordinal": figures.alpha,
            "mean signed error": figures.signed_error,
        }
        counts = tuple(tuple(map(int, row)) for row in table.confusion.tolist())
        found.append(
            LabelAgreement(
                name,
                tuple(
                    (measure, float("nan") if value is None else value, None)
                    for measure, value in known.items()
                ),
                Confusion(tuple(scale.labels), counts),
            )
        )
        clipped = sum(table.judge_clipped.values())
        if clipped:
            warnings.append(
                f"{name}: {clipped} labels are beyond the scale {scale} and count as its end"
                + ("; is its scale another one?" if table.other_scale else "")
            )
    return Agreement(collection.name, tuple(found)), tuple(warnings)
