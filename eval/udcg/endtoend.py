"""Measures of a context beside how well its reader answered, question by question."""

from __future__ import annotations

from collections.abc import Sequence

from ranklens.data.errors import InvalidInputError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Judgement, ScoredDoc
from ranklens.data.runs import Run
from ranklens.eval.measures import evaluate
from ranklens.eval.udcg.dataset import Example
from ranklens.eval.udcg.discounted import log2_utility
from ranklens.eval.udcg.practical import practical_udcg


def outcomes(
    examples: Sequence[Example], model: str, target: str
) -> tuple[list[Example], int, list[float]]:
    """Return the examples that ``model`` answered, with how many passages, and the accuracies.

    ``target`` is a figure of ``generated`` in [0, 1]: ``f1``, ``exact_match``, or one that
    somebody else's grading has put there. Raises InvalidInputError where no example has it, where
    it is no such number, and for answers made at different depths.
    """
    answered = [example for example in examples if target in example.generated.get(model, {})]
    if not answered:
        known = {key for e in examples for key in e.generated.get(model, {})} - {"depth", "text"}
        there = f"its answers have {', '.join(sorted(known))}" if known else "it has no answers"
        raise InvalidInputError(
            f"no question has {target!r} of {model}: {there}; `ranklens udcg answer` makes them"
        )
    accuracy = []
    for example in answered:
        value = example.generated[model][target]
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InvalidInputError(
                f"example {example.example_id!r}: {target!r} of {model} must be a number in "
                f"[0, 1], got {value!r}"
            )
        accuracy.append(float(value))
    depths = sorted({example.generated[model]["depth"] for example in answered})
    if len(depths) > 1 or depths[0] < 1:
        raise InvalidInputError(
            f"the answers of {model} were made with {', '.join(map(str, depths))} passages; a "
            "measure of the context needs one depth of at least 1"
        )
    return answered, depths[0], accuracy


def context_measures(
    examples: Sequence[Example], model: str, depth: int, gamma: float, names: Sequence[str]
) -> dict[str, list[float]]:
    """Return by measure the values of the examples, in their order.

    UDCG and ``log2_utility`` at ``depth``, and the measures ``names`` of ``eval.measures`` on the
    examples' own passages in their order, with binary grades. An example without a judged
    passage has 0 in these.
    """
    found = {
        f"UDCG@{depth}": [
            practical_udcg(example.utilities(model), gamma, depth=depth).value
            for example in examples
        ],
        f"log2_utility@{depth}": [
            log2_utility(example.utilities(model), gamma, depth=depth) for example in examples
        ],
    }
    qrels = Qrels(
        Judgement(example.example_id, passage.doc_id, int(passage.is_relevant))
        for example in examples
        for passage in example.passages
        if passage.is_relevant is not None
    )
    run = Run(
        {
            example.example_id: [
                ScoredDoc(passage.doc_id, -float(place))
                for place, passage in enumerate(example.passages)
            ]
            for example in examples
        }
    )
    if not qrels:
        raise InvalidInputError("no passage has a relevance: there is nothing to measure")
    for name, result in evaluate(qrels, run, names).measures.items():
        found[name] = [result.per_query.get(example.example_id, 0.0) for example in examples]
    return found


def abstained_share(examples: Sequence[Example], model: str) -> float | None:
    """Return the share of answers that abstain, None where the file does not say."""
    said = [example.generated[model].get("abstained") for example in examples]
    if not all(isinstance(one, bool) for one in said):
        return None
    return sum(map(bool, said)) / len(said)
