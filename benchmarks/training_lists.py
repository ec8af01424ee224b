"""The training lists of the shipped adapter, from the test collections.

    python benchmarks/training_lists.py COLLECTIONS --out FOLDER

COLLECTIONS holds trec-dl-2021, trec-dl-2022, llmjudge-dl23, fiqa-positives and scifact. The test
half of llmjudge-dl23 is what training is validated on; the last queries of FiQA and of SciFact's
training set, which no list asks, are there to choose between models with. Kept out of everything
trained on, by id and by text: the queries and judged passages of TREC DL 2019, of that half, and of
SciFact's test queries. TREC DL 2020 and the classic collections are not touched. What a step has
made is not made again. In the end the two commands that train on them are printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ranklens.rerank.profile_file import load_profile, save_profile

# A profile reads every head of these layers, with weights that add up to SCALE.
FIRST, END, HEADS, SCALE = 14, 18, 9, 4.0
DOCUMENT_TOKENS = 128


def main() -> None:
    """Make queries, lists, and the profile to start from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("collections", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    source, out = given.collections.resolve(), given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    halves = [dl23_half(source, out, half) for half in ("dev", "test")]
    scifact_train = folder(
        out / "scifact-train",
        name="scifact-train",
        docs=source / "scifact/corpus.jsonl.gz",
        queries=source / "scifact/queries.jsonl",
        qrels=source / "scifact/qrels/train.tsv",
    )
    says(scifact_train, "SciFact's queries with training judgements.", source / "scifact")
    last_queries(source / "fiqa-positives", "test", out / "fiqa-last")
    last_queries(source / "scifact", "train", out / "scifact-train-last")
    made = [
        queries(source / name, out / f"queries-{name}", limit, source / "trec-dl-2019")
        for name, limit in (
            ("trec-dl-2021", 1700), ("trec-dl-2022", 1700), ("llmjudge-dl23", 1000),
        )
    ]  # fmt: skip
    splade = source / "trec-dl-2022/candidates/SPLADE_P_P_ENSEMBLE_DISTIL.top100.run"
    real = [
        f"{source}/trec-dl-2021", f"{source}/trec-dl-2021@splade",
        f"{source}/trec-dl-2022", f"{source}/trec-dl-2022@splade={splade}", str(halves[0]),
    ]  # fmt: skip
    evaluation = [source / "trec-dl-2019", halves[1], source / "scifact"]
    teachers = ["bi-encoder:minilm-l6"]
    run = ["candidates:splade"]
    lists = [
        training_lists(out / "A", real, evaluation, run + teachers, seed=1, per_query=3),
        training_lists(out / "B", [*real, *map(str, made)], evaluation, run + teachers, seed=2),
        training_lists(
            out / "C", [f"{source}/fiqa-positives"], evaluation, teachers,
            seed=3, documents=14, limit=250,
        ),
        training_lists(
            out / "D", [str(scifact_train)], [source / "scifact"], teachers,
            seed=4, documents=10, limit=120,
        ),
    ]  # fmt: skip
    everything = " ".join(str(path) for path in (lists[0], *lists))
    common = (
        "--objective 'graded + kl(splade, 0.1) + kl(minilm-l6, 0.05)' --dtype bfloat16 "
        "--head-lr 3e-3 --warmup 30"
    )
    first = out / "first"
    print(
        f"ranklens train model {everything} -o {first} --profile {start(out / 'start.json')} "
        f"{common} --all-weights --as-lora 20 --lr 6e-5 --steps 640 "
        f"--validation {halves[1]} --validation-depth 20 --validate-every 160"
    )
    print(
        f"ranklens train model {everything} -o {out / 'ranklens-135m'} --model {first / 'model'} "
        f"{common} --lr 2e-4 --steps 1200 --seed 1"
    )


def ranklens(*arguments: str) -> None:
    """Run a command of ranklens, showing it."""
    print("$ ranklens", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "ranklens.cli.main", *arguments], check=True)


def folder(path: Path, **files: object) -> Path:
    """Write a collection.toml over files that stay where they are."""
    path.mkdir(exist_ok=True)
    lines = [f"{key} = {quoted(value)}\n" for key, value in files.items()]
    (path / "collection.toml").write_text("".join(lines), encoding="utf-8")
    return path


def says(path: Path, origin: str, source: Path) -> None:
    """Write a SOURCE.txt: where a folder's data come from, with the licence of their source."""
    text = (source / "SOURCE.txt").read_text(encoding="utf-8")
    licences = [line for line in text.splitlines() if line.startswith("Licence:")]
    (path / "SOURCE.txt").write_text("\n".join([origin, *licences]) + "\n", encoding="utf-8")


def quoted(value: object) -> str:
    """Return a number or a path as TOML."""
    return str(value) if isinstance(value, int) else f"'{value}'"


def dl23_half(source: Path, out: Path, half: str) -> Path:
    """Return the collection of the queries that one half of the LLMJudge labels judges."""
    data = source / "llmjudge-dl23"
    qrels = data / f"qrels.{half}.txt"
    judged = {line.split()[0] for line in qrels.read_text(encoding="utf-8").splitlines()}
    path = folder(
        out / f"dl23-{half}",
        name=f"llmjudge-dl23-{half}",
        docs=data / "passages.jsonl.gz",
        queries="queries.tsv",
        qrels=qrels,
        relevance_level=2,
    )
    says(path, f"LLMJudge (TREC DL 2023), the queries of its {half} half.", data)
    lines = (data / "queries.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.split("\t")[0] in judged]
    (path / "queries.tsv").write_text("".join(kept), encoding="utf-8")
    return path


def last_queries(source: Path, split: str, to: Path, count: int = 60) -> Path:
    """Return the collection of the last judged queries; lists are made of the first ones."""
    qrels = source / f"qrels/{split}.tsv"
    judged = {line.split("\t")[0] for line in qrels.read_text(encoding="utf-8").splitlines()}
    path = folder(
        to, name=to.name, docs=source / "corpus.jsonl.gz", queries="queries.jsonl", qrels=qrels
    )
    lines = (source / "queries.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    asked = [line for line in lines if json.loads(line)["_id"] in judged]
    (path / "queries.jsonl").write_text("".join(asked[-count:]), encoding="utf-8")
    return path


def queries(collection: Path, to: Path, limit: int, keep_out: Path) -> Path:
    """Let smollm2-135m write queries for passages of a collection."""
    if not (to / "collection.toml").is_file():
        ranklens(
            "train", "queries", str(collection), "-o", str(to), "--keep-out", str(keep_out),
            "--limit", str(limit), "--within", "20", "--dtype", "bfloat16", "--seed", "1",
        )  # fmt: skip
    return to


def training_lists(
    to: Path,
    sources: Sequence[str],
    keep_out: Sequence[Path],
    teachers: Sequence[str],
    *,
    seed: int,
    documents: int = 24,
    per_query: int = 1,
    limit: int | None = None,
) -> Path:
    """Make a folder of lists, unless it is there."""
    if (to / "manifest.json").is_file():
        return to
    options = [part for path in keep_out for part in ("--keep-out", str(path))]
    options += [part for teacher in teachers for part in ("--teacher", teacher)]
    options += [] if limit is None else ["--limit", str(limit)]
    ranklens(
        "train", "lists", *sources, "-o", str(to), *options, "--documents", str(documents),
        "--lists-per-query", str(per_query), "--seed", str(seed), "--dtype", "bfloat16",
    )  # fmt: skip
    return to


def start(path: Path) -> Path:
    """Write the profile that training starts from: uniform heads of the later layers."""
    base = load_profile("icr-block")
    weight = round(SCALE / ((END - FIRST) * HEADS), 6)
    heads = {f"{layer}-{head}": weight for layer in range(FIRST, END) for head in range(HEADS)}
    save_profile(
        dataclasses.replace(
            base,
            name="start",
            source="uniform heads of later layers; prompt of icr-block",
            made_with=None,
            layout=dataclasses.replace(base.layout, positions="shared"),
            calibration=dataclasses.replace(base.calibration, nulls=()),
            signal=dataclasses.replace(base.signal, heads=heads, layers=None, combine="documents"),
            pooling=dataclasses.replace(base.pooling, drop_below_stds=None, scale="log"),
            prompt=dataclasses.replace(
                base.prompt,
                instruction="Search the paragraphs.",
                document_tokens=DOCUMENT_TOKENS,
            ),
        ),
        path,
    )
    return path


if __name__ == "__main__":
    main()
