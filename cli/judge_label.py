"""``ranklens judge label``: labels of pairs by a language model."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ranklens.cli import options
from ranklens.data.errors import InvalidInputError, PartialError, UsageError

if TYPE_CHECKING:
    from ranklens.data.collection import Collection
    from ranklens.data.qrels import Qrels
    from ranklens.eval.judge.labelling import Judge, Labelling
    from ranklens.eval.judge.pairs import Ids, Texts
    from ranklens.eval.judge.prompt import JudgePrompt


def label(
    collection: options.CollectionArgument,
    model: Annotated[
        str,
        typer.Option(
            help="A name of `ranklens models list`, a folder or a hub id; with --endpoint, "
            "the name of a model there."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The qrels file to write.")],
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="QRELS|RUN",
            help="The pairs of a qrels or run file, or of the collection's candidates by name; "
            "may be repeated. Default: the collection's own qrels, else its candidates.",
        ),
    ] = None,
    depth: Annotated[
        int, typer.Option(callback=options.positive, help="Documents per query of a run.")
    ] = 100,
    fill: Annotated[
        Path | None,
        typer.Option(
            metavar="QRELS", help="Keep these labels, judge only pairs without one, write both."
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="PAIRS", callback=options.positive, help="Judge the first PAIRS."),
    ] = None,
    prompt: Annotated[str, typer.Option(help="graded, criteria, or a TOML file.")] = "graded",
    passage_tokens: Annotated[
        int | None,
        typer.Option(callback=options.positive, help="Shorten passages (local models)."),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Ask an OpenAI-compatible endpoint, https://host/v1."),
    ] = None,
    api_key_env: Annotated[
        str, typer.Option(metavar="NAME", help="The environment variable with the API key.")
    ] = "OPENAI_API_KEY",
    concurrency: Annotated[
        int, typer.Option(callback=options.positive, help="Requests at a time (endpoint).")
    ] = 4,
    timeout: Annotated[float, typer.Option(help="Seconds for a request (endpoint).")] = 60.0,
    retries: Annotated[int, typer.Option(min=0, help="Of a failed request (endpoint).")] = 5,
    price: Annotated[
        str | None,
        typer.Option(metavar="IN,OUT", help="Price of a million tokens in and out: says the cost."),
    ] = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Label query-passage pairs by a language model, as TREC qrels.

    A local model's label is the likeliest of the labels as its next token. An endpoint's answer
    has to be a label and nothing else, or say it behind the prompt's mark: anything else is
    UNPARSED. Such pairs are counted and left out of the labels, never taken as 0; the program
    then ends with exit code 7, as it does where requests failed.

    Verdicts are kept in LABELS.judged.jsonl as they come. Killed at any moment, the same command
    goes on from there; another model or prompt is refused. UNPARSED pairs are not asked again,
    failed ones are.

    Example: ranklens judge label sample:pydocs --model smollm2-135m --limit 8 -o labels.txt
    """
    from ranklens.cli.output import check_output, note, warn
    from ranklens.cli.progress import progress
    from ranklens.data.load import load_collection
    from ranklens.data.qrels import Qrels, check_qrels_ids, read_qrels, write_qrels
    from ranklens.eval.judge.labelling import label_pairs
    from ranklens.eval.judge.pairs import holes, united, with_texts
    from ranklens.eval.judge.prompt import load_prompt
    from ranklens.eval.judge.store import VerdictStore

    wording = load_prompt(prompt)
    prices = _prices(price)
    if endpoint is not None and passage_tokens is not None:
        raise UsageError("--passage-tokens is for local models: an endpoint's tokens are unknown")
    check_output(output)
    loaded = load_collection(collection)
    warn(loaded.notes)
    kept = Qrels([]) if fill is None else read_qrels(fill)
    wanted = holes(_pairs(loaded, pairs, depth), kept)[:limit]
    check_qrels_ids(wanted)
    texts = with_texts(wanted, loaded)
    warn(_missing(texts))
    if not texts.pairs:
        raise InvalidInputError(
            "there is no pair to judge"
            + (f": {fill} has a label for each" if fill is not None and not wanted else "")
        )
    if endpoint is None:
        note(f"loading {model}")
        judge, identity = _local(model, wording, passage_tokens, device, dtype)
    else:
        key = os.environ.get(api_key_env)
        judge, identity = _remote(endpoint, model, wording, key, concurrency, timeout, retries)
    identity |= {"prompt": wording.name, "prompt_digest": wording.digest}
    with VerdictStore(output.with_name(f"{output.name}.judged.jsonl"), identity) as store:
        done = sum(store.get(pair) is not None for pair in texts.pairs)
        if done:
            note(f"{done} of {len(texts.pairs)} pairs are judged already ({store.path})")
        with progress("judging", len(texts.pairs) - done, "pairs") as advance:
            found = label_pairs(judge, texts.pairs, store, advance)
    write_qrels(united(found.labels, kept), output)
    _tell(output, found, texts, kept, wording, prices, as_json)
    if found.unparsed or found.failures:
        raise typer.Exit(PartialError.exit_code)


def _pairs(collection: Collection, specs: Sequence[str] | None, depth: int) -> list[Ids]:
    from ranklens.data.qrels import read_qrels
    from ranklens.data.runs import Run, read_run
    from ranklens.eval.judge.pairs import judged_pairs

    def of_run(run: Run) -> list[Ids]:
        return [(query_id, doc.doc_id) for query_id, docs in run.items() for doc in docs[:depth]]

    if not specs and collection.qrels:
        return judged_pairs(collection.qrels)
    if not specs:
        names = sorted(collection.candidate_runs)
        if len(names) != 1:
            raise UsageError(
                f"collection {collection.name!r} has no judgements and "
                f"{len(names)} candidate runs ({', '.join(names) or 'none'}): say with --pairs "
                "what to judge"
            )
        specs = names
    found: list[Ids] = []
    for spec in specs:
        path = Path(spec).expanduser()
        if not path.is_file():
            found += of_run(collection.candidates(spec))
        elif _is_run(path):
            found += of_run(read_run(path))
        else:
            found += judged_pairs(read_qrels(path))
    return list(dict.fromkeys(found))


def _is_run(path: Path) -> bool:
    """Tell a run by its six columns; everything else is for the reader of qrels to judge."""
    from ranklens.data.files import read_lines

    if path.suffix.lower() == ".parquet":
        return False
    lines = (line for _, line in read_lines(path) if not line.startswith("#"))
    return len(next(lines, "").split()) >= 6


def _local(
    model: str, prompt: JudgePrompt, most: int | None, device: str | None, dtype: str | None
) -> tuple[Judge, dict[str, Any]]:
    from ranklens.cli.specs import pull_model
    from ranklens.data.causal_lm import CausalLM
    from ranklens.eval.judge.local import LocalJudge

    pull_model(model)
    lm = CausalLM.load(model, device, dtype)
    identity = {
        "model": lm.name,
        "revision": lm.revision,
        "dtype": lm.placement.dtype,
        "passage_tokens": most,
    }
    return LocalJudge(lm, prompt, most=most), identity


def _remote(
    url: str,
    model: str,
    prompt: JudgePrompt,
    key: str | None,
    concurrency: int,
    timeout: float,
    retries: int,
) -> tuple[Judge, dict[str, Any]]:
    from ranklens.eval.judge.endpoint import Endpoint, EndpointJudge

    if not 0 < timeout < math.inf:
        raise UsageError(f"--timeout must be positive and finite, got {timeout}")
    endpoint = Endpoint(url, model, concurrency, timeout, retries)
    return EndpointJudge(endpoint, prompt, key), {"model": model, "endpoint": url}


def _prices(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        price_in, price_out = map(float, text.split(","))
    except ValueError:
        price_in = price_out = math.nan
    if not (0 <= price_in < math.inf and 0 <= price_out < math.inf):
        raise UsageError(f"--price must be two numbers, such as 0.15,0.60, got {text!r}")
    return price_in, price_out


def _missing(texts: Texts) -> list[str]:
    counts = (
        (texts.without_query, "whose query the collection lacks or does not judge"),
        (texts.without_document, "whose document the collection lacks"),
    )
    return [f"{count} pairs {why} are left out" for count, why in counts if count]


def _tell(
    output: Path,
    found: Labelling,
    texts: Texts,
    kept: Qrels,
    prompt: JudgePrompt,
    prices: tuple[float, float] | None,
    as_json: bool,
) -> None:
    from ranklens.cli.output import note, print_json, print_table, warn

    human = sum(map(len, kept.values()))
    failed = sum(found.failures.values())
    cost = None
    if prices is not None:
        cost = (found.tokens_in * prices[0] + found.tokens_out * prices[1]) / 1e6
    if as_json:
        value = {
            "status": "partial" if found.unparsed or failed else "ok",
            "labels": str(output),
            "pairs": len(texts.pairs),
            "judged": len(found.labels),
            "kept": human,
            "unparsed": found.unparsed,
            "failed": dict(found.failures),
            "resumed": found.resumed,
            "without_query": texts.without_query,
            "without_document": texts.without_document,
            "shortened": found.cut,
            "histogram": {str(grade): count for grade, count in found.histogram.items()},
            "label_mass": found.mass,
            "tokens_in": found.tokens_in,
            "tokens_out": found.tokens_out,
            "without_tokens": found.uncounted,
            "cost": cost,
            "prompt": prompt.name,
            "prompt_digest": prompt.digest,
        }
        print_json(value)
        return
    rows = [
        [str(grade), str(count), f"{count / len(found.labels):.1%}"]
        for grade, count in found.histogram.items()
    ]
    print_table(f"labels by prompt {prompt.name}", ["label", "pairs", "share"], rows)
    reasons = [f"{count} pairs failed: {reason}" for reason, count in found.failures.items()]
    unparsed = f"{found.unparsed} pairs are UNPARSED: their answer is no label; they have none"
    cut = f"{found.cut} passages were shortened"
    uncounted = f"{found.uncounted} answers came without their tokens: these, and a cost, are more"
    warn([unparsed] * bool(found.unparsed) + reasons + [cut] * bool(found.cut))
    warn([uncounted] * bool(found.uncounted))
    if found.mass is not None:
        note(f"the labels have {found.mass:.1%} of the next token's probability (median)")
    told = f"{found.tokens_in} tokens in, {found.tokens_out} out"
    note(told if cost is None else f"{told}, cost {cost:.4f}")
    union = f" and {human} kept" if human else ""
    note(f"wrote {output}: {len(found.labels)} pairs judged{union}")
