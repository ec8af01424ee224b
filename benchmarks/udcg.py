"""UDCG from end to end: does it say how well a small local model answers from its passages?

    python benchmarks/udcg.py FILE [--questions N] [--depth K] [--model NAME] [--output FILE]

FILE has multi-hop questions as JSON lines: ``question``, ``answer``, perhaps ``aliases``, and
``passages`` with ``title``, ``text`` and ``relevant`` (MuSiQue, HotpotQA). Each question's own
passages are put in two orders: by BM25, and the supporting ones first. The model gives p_abs for
the first K of each, and answers from them. Printed are UDCG at several depths, exact match and F1,
and Spearman's correlation of UDCG, the discounted sum, nDCG and P with F1, for each order and for
both together, with 95% bootstrap intervals (over lists: "both" has every question twice, so its
interval is somewhat narrow); and held-out figures of the learned metric.

Nothing is printed unless p_abs of the first prompts is what transformers' own forward pass gives.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ranklens import BM25Retriever, Document, Query
from ranklens.data.causal_lm import CausalLM
from ranklens.data.errors import InvalidInputError
from ranklens.eval.udcg.abstention import abstention_probabilities
from ranklens.eval.udcg.answers import grade
from ranklens.eval.udcg.correlation import correlation
from ranklens.eval.udcg.dataset import P_ABS, Example, Passage
from ranklens.eval.udcg.endtoend import abstained_share, context_measures, outcomes
from ranklens.eval.udcg.kept import Kept
from ranklens.eval.udcg.learned import fit_learned
from ranklens.eval.udcg.practical import GAMMA, practical_udcg
from ranklens.eval.udcg.prompt import abstention_token, question_with, reader_settings
from ranklens.eval.udcg.reading import answers_of

TARGET = "f1"
TOKENS = 24
CHECKED = 3


def main() -> None:
    arguments = _arguments()
    lm = CausalLM.load(arguments.model)
    orders = _orders(Path(arguments.file), arguments.questions, arguments.depth)
    with tempfile.TemporaryDirectory() as scratch:
        kept = Kept(Path(scratch) / "p_abs.jsonl", {})
        answers = Kept(Path(scratch) / "answers.jsonl", {})
        _compare(lm, orders["bm25"])
        read = {
            name: _read(lm, arguments.depth, examples, kept, answers)
            for name, examples in orders.items()
        }
    settings = reader_settings(lm)
    lines = [
        f"command: python benchmarks/udcg.py {' '.join(_shown(arguments))}",
        f"{arguments.questions} questions, {os.cpu_count()} cores, "
        + ", ".join(f"{key} {value}" for key, value in settings.items()),
        "",
        *_table(lm.name, arguments.depth, read),
    ]
    print("\n".join(lines))
    if arguments.output:
        Path(arguments.output).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _orders(path: Path, questions: int, depth: int) -> dict[str, list[Example]]:
    orders: dict[str, list[Example]] = {"bm25": [], "supporting first": []}
    for line in path.read_text(encoding="utf-8").splitlines()[:questions]:
        record = json.loads(line)
        rows = {str(row["id"]): row for row in record["passages"]}
        documents = [Document(doc_id, row["text"], row["title"]) for doc_id, row in rows.items()]
        engine = BM25Retriever()
        engine.index(documents)
        query = Query(record["id"], record["question"])
        found = [doc.doc_id for doc in engine.search([query], len(rows))[query.id]]
        by_bm25 = [*found, *(doc_id for doc_id in rows if doc_id not in found)]
        supporting = sorted(by_bm25, key=lambda doc_id: not rows[doc_id]["relevant"])
        for name, order in zip(orders, (by_bm25, supporting), strict=True):
            orders[name].append(_example(record, [rows[doc_id] for doc_id in order]))
    return orders


def _example(record: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Example:
    return Example(
        record["id"],
        record["question"],
        tuple(
            Passage(str(row["id"]), f"{row['title']} {row['text']}", bool(row["relevant"]))
            for row in rows
        ),
        answers=(record["answer"], *record.get("aliases", ())),
    )


def _compare(lm: CausalLM, examples: Sequence[Example]) -> None:
    """End without figures unless p_abs is what a plain forward pass of the model gives."""
    import torch

    for example in examples[:CHECKED]:
        prompt = lm.encode(question_with(example.question, [example.passages[0].text])).ids
        [found] = lm.next_log_probs([prompt], [abstention_token(lm)])[0]
        with torch.inference_mode():
            logits = lm.model(torch.tensor([prompt], device=lm.model.device)).logits[0, -1].float()
        expected = float(logits.log_softmax(-1)[abstention_token(lm)])
        if not math.isclose(found, expected, abs_tol=1e-3):
            sys.exit(f"{example.example_id}: log p_abs is {found}, transformers has {expected}")


def _read(
    lm: CausalLM, depth: int, examples: Sequence[Example], kept: Kept, answers: Kept
) -> tuple[list[Example], float]:
    """Return the examples with p_abs and answers, and the seconds they took."""
    start = time.perf_counter()
    pairs = [(e.question, p.text) for e in examples for p in e.passages[:depth]]
    values = dict(zip(pairs, abstention_probabilities(lm, pairs, kept), strict=True))
    asked = [(e.question, tuple(p.text for p in e.passages[:depth])) for e in examples]
    listed = answers_of(lm, asked, answers, TOKENS)
    found = [
        dataclasses.replace(
            example,
            passages=tuple(
                dataclasses.replace(
                    passage,
                    models_info={lm.name: {P_ABS: values[example.question, passage.text].p_abs}},
                )
                if (example.question, passage.text) in values
                else passage
                for passage in example.passages
            ),
            generated={
                lm.name: {
                    "depth": depth,
                    "text": text,
                    **dataclasses.asdict(grade(text, example.answers)),
                }
            },
        )
        for example, text in zip(examples, listed, strict=True)
    ]
    return found, time.perf_counter() - start


def _table(name: str, depth: int, read: dict[str, tuple[list[Example], float]]) -> Iterator[str]:
    depths = sorted({1, min(3, depth), depth})
    udcg = "  ".join(f"UDCG@{k}" for k in depths)
    yield f"order               {udcg}     EM      F1  abstained  seconds"
    for order, (examples, seconds) in read.items():
        values = [
            _mean([practical_udcg(e.utilities(name), depth=k).value for e in examples])
            for k in depths
        ]
        em, f1 = (
            _mean([e.generated[name][key] for e in examples]) for key in ("exact_match", "f1")
        )
        figures = "  ".join(f"{value:.4f}" for value in values)
        silent = abstained_share(examples, name) or 0.0
        yield f"{order:18}  {figures}  {em:.4f}  {f1:.4f}     {silent:.4f}  {seconds:7.0f}"
    groups = {order: examples for order, (examples, _) in read.items()}
    yield ""
    yield "Spearman with F1    measure           mean     rho  95% interval"
    columns: dict[str, list[float]] = {}
    everything: list[float] = []
    for order, examples in groups.items():
        _, _, accuracy = outcomes(examples, name, TARGET)
        everything += accuracy
        names = [f"nDCG@{depth}", f"P@{depth}"]
        for measure, values in context_measures(examples, name, depth, GAMMA, names).items():
            columns.setdefault(measure, []).extend(values)
            yield _correlated(order, measure, values, accuracy)
    for measure, values in columns.items():
        yield _correlated("both", measure, values, everything)
    yield ""
    yield "learned, held out   questions     rho  log-loss  practical rho  of the mean accuracy"
    for order, examples in groups.items():
        lists = [example.utilities(name) for example in examples]
        _, _, accuracy = outcomes(examples, name, TARGET)
        try:
            held = fit_learned(lists, accuracy, depth, model=name, target=TARGET, data="").held_out
        except InvalidInputError as error:
            yield f"{order:18}  none: {error}"
            continue
        yield (
            f"{order:18}  {len(lists):9d}  {_rho(held.spearman)}  {held.log_loss:8.4f}  "
            f"{_rho(held.practical_spearman):>13}  {held.constant_log_loss:20.4f}"
        )


def _correlated(
    order: str, measure: str, values: Sequence[float], accuracy: Sequence[float]
) -> str:
    found = correlation(values, accuracy)
    interval = "" if found.ci95 is None else f"[{found.ci95[0]:+.3f}, {found.ci95[1]:+.3f}]"
    return f"{order:18}  {measure:14}  {_mean(values):+.4f}  {_rho(found.rho)}  {interval}"


def _rho(rho: float | None) -> str:
    return "  none" if rho is None else f"{rho:+.3f}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _shown(arguments: argparse.Namespace) -> list[str]:
    return [
        arguments.file,
        f"--questions {arguments.questions} --depth {arguments.depth} --model {arguments.model}",
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--output")
    return parser.parse_args()


if __name__ == "__main__":
    main()
