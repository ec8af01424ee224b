"""What each choice of the shipped adapter's training gives: one change at a time, short runs.

    python benchmarks/training_ablations.py LISTS COLLECTION [VARIANT...] --candidates RUN --out DIR

LISTS are a folder of `train lists` with the teachers splade and minilm-l6 (A of training_lists.py),
RUN is a BM25 run of COLLECTION. Every variant trains smollm2-135m for ``--steps`` steps, one list a
step cut to some documents, with one thing changed, in a folder of its own. Then it reranks the
first 20 of the run: nDCG@10, the difference to `base` with a 95% bootstrap interval, and its p
(paired randomisation), each of 100,000 rounds over queries. What is there is not trained again.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from training_lists import HEADS, SCALE, start

from ranklens import AttentionReranker, Run, ScoredDoc, evaluate, load_collection
from ranklens.cli.specs import find_candidates
from ranklens.rerank.profile import Profile
from ranklens.rerank.profile_file import load_profile, save_profile
from ranklens.rerank.training.folder import read_lists, read_manifest, write_lists
from ranklens.rerank.training.lists import TrainingList, TrainingQuery

TEACHERS = "kl(splade, 0.1) + 0.5*kl(minilm-l6, 0.05)"
DOCUMENT_TOKENS = 96
DEPTH = 20
ROUNDS = 100_000


@dataclass(frozen=True)
class Variant:
    """One change to the base: what is read, what is trained, how, and with how many documents.

    With an ``opening`` documents are in BlockRank's wording behind it: only such a prompt may have
    the query in front of the documents.
    """

    layers: tuple[int, int] = (14, 18)
    log: bool = True
    objective: str = f"graded + {TEACHERS}"
    options: Sequence[str] = ("--all-weights", "--lr", "5e-5", "--head-lr", "3e-3")
    documents: int = 12
    opening: str | None = None


VARIANTS = {
    "base": Variant(),
    "layers 8 to 11": Variant(layers=(8, 12)),
    "layers 20 to 23": Variant(layers=(20, 24)),
    "layers 0 to 17": Variant(layers=(0, 18)),
    "labels only": Variant(objective="graded"),
    "teachers only": Variant(objective=TEACHERS),
    "LoRA 16": Variant(options=("--lora", "16", "--lr", "4e-4", "--head-lr", "3e-3")),
    "mass, not its logarithm": Variant(log=False),
    "6 documents": Variant(documents=6),
    "24 documents": Variant(documents=24),
    "BlockRank's wording": Variant(opening="Search these documents.\n\nDocuments:"),
    "the same, query in front": Variant(
        opening="Search these documents.\nQuery: {query}\n\nDocuments:"
    ),
    "head weights uniform": Variant(options=("--all-weights", "--lr", "5e-5", "--head-lr", "0")),
}


def main() -> None:
    """Run the variants, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lists", type=Path)
    parser.add_argument("collection")
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--candidates", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=50)
    given = parser.parse_args()
    unknown = set(given.variants) - VARIANTS.keys()
    if unknown:
        parser.error(f"no variant {sorted(unknown)[0]!r}; there are {', '.join(VARIANTS)}")
    given.out.mkdir(parents=True, exist_ok=True)
    print(f"command: python benchmarks/training_ablations.py {' '.join(sys.argv[1:])}")
    print(f"{'variant':26} nDCG@10   to base   95% interval          p")
    base = measured(trained("base", VARIANTS["base"], given), None, given)
    print(line("base", base, None), flush=True)
    start_profile = given.out / "base/start.json"
    print(line("base, not trained", measured("smollm2-135m", start_profile, given), base))
    for name in given.variants or VARIANTS:
        if name != "base":
            found = measured(trained(name, VARIANTS[name], given), None, given)
            print(line(name, found, base), flush=True)


def trained(name: str, variant: Variant, given: argparse.Namespace) -> str:
    """Train a variant, and return its model's folder."""
    folder = given.out / name.replace(" ", "-").replace(",", "").replace("'", "")
    folder.mkdir(exist_ok=True)
    model: Path = folder / "run/model"
    if model.is_dir():
        return str(model)
    save_profile(profile(variant, folder), folder / "start.json")
    lists = cut_lists(given.lists, given.out / f"lists-{variant.documents}", variant.documents)
    command = [
        sys.executable, "-m", "ranklens.cli.main", "train", "model", str(lists),
        "-o", str(model.parent), "--profile", str(folder / "start.json"),
        "--objective", variant.objective, "--steps", str(given.steps),
        "--schedule", "constant", "--warmup", "10", "--dtype", "bfloat16", *variant.options,
    ]  # fmt: skip
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        sys.exit(f"{name}: `ranklens train model` ended with {done.returncode}; see {log.name}")
    return str(model)


def measured(model: str, profile: Path | None, given: argparse.Namespace) -> Mapping[str, float]:
    """Return nDCG@10 of a collection's judged queries, the first 20 of its run reranked."""
    collection = load_collection(given.collection)
    queries = [query for query in collection.queries if query.id in collection.qrels]
    candidates = find_candidates(collection, given.candidates, queries)
    reranker = AttentionReranker.from_pretrained(model, profile=profile, dtype="bfloat16")
    found = {}
    for query in queries:
        ids = [doc.doc_id for doc in candidates[query.id][:DEPTH]]
        texts = collection.documents.get_many(ids)
        ranking = reranker.rank(query, [texts[name] for name in ids])
        found[query.id] = [ScoredDoc(ranked.id, ranked.score) for ranked in ranking]
    return evaluate(collection.qrels, Run(found), ["nDCG@10"]).measures["nDCG@10"].per_query


def profile(variant: Variant, folder: Path) -> Profile:
    """Return the profile a variant starts from: uniform heads, as the shipped adapter's."""
    base = load_profile(start(folder / "start.json"))
    first, end = variant.layers
    # Masses are small: what the logarithm gives a scale gets one of 1/τ = 20, as BlockRank's.
    weight = SCALE / ((end - first) * HEADS) * (1 if variant.log else 20)
    heads = {f"{layer}-{head}": weight for layer in range(first, end) for head in range(HEADS)}
    prompt = dataclasses.replace(base.prompt, document_tokens=DOCUMENT_TOKENS)
    if variant.opening is not None:
        wording = load_profile("blockrank").prompt
        assert wording.blocks is not None
        prompt = dataclasses.replace(
            wording,
            introduction=variant.opening,
            frame=None,
            order=prompt.order,
            blocks=dataclasses.replace(wording.blocks, tokens=DOCUMENT_TOKENS),
        )
    pooling = dataclasses.replace(base.pooling, scale="log" if variant.log else "plain")
    signal = dataclasses.replace(base.signal, heads=heads)
    return dataclasses.replace(base, prompt=prompt, pooling=pooling, signal=signal)


def cut_lists(lists: Path, to: Path, documents: int) -> Path:
    """Write the lists with so many of their documents: the best judged, and the first others."""
    if not (to / "manifest.json").is_file():
        write_lists(to, [cut(one, documents) for one in read_lists(lists)], read_manifest(lists))
    return to


def cut(one: TrainingList, documents: int) -> TrainingList:
    """Keep a quarter for each query's most relevant, whose queries would have none otherwise."""
    (query, *others) = one.queries
    grades = [grade or 0 for grade in query.grades or [0] * len(one.documents)]
    order = sorted(range(len(grades)), key=lambda place: -grades[place])
    best = [place for place in order[: max(1, documents // 4)] if grades[place] > 0]
    rest = [place for place in range(len(grades)) if place not in best]
    kept = sorted([*best, *rest[: documents - len(best)]])
    return TrainingList(
        tuple(one.documents[place] for place in kept),
        tuple(
            TrainingQuery(
                asked.id,
                asked.text,
                None if asked.grades is None else tuple(asked.grades[place] for place in kept),
                {name: tuple(x[place] for place in kept) for name, x in asked.teachers.items()},
            )
            for asked in (query, *others)
        ),
    )


def line(name: str, found: Mapping[str, float], base: Mapping[str, float] | None) -> str:
    """Return a variant's line: its mean, and how surely it differs from the base."""
    mean = f"{name:26} {np.mean(list(found.values())):7.4f}"
    if base is None:
        return mean
    differences = np.array([found[query] - base[query] for query in base])
    generator = np.random.default_rng(0)
    drawn = generator.choice(differences, (ROUNDS, len(differences))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    signs = generator.choice([-1.0, 1.0], (ROUNDS, len(differences)))
    extreme = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12).sum()
    p = (extreme + 1) / (ROUNDS + 1)
    return f"{mean}  {differences.mean():+8.4f}   [{low:+.4f}, {high:+.4f}]  {p:7.4f}"


if __name__ == "__main__":
    main()
