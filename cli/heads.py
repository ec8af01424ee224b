"""``ranklens heads``: which heads of a model find relevant documents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ranklens.cli import options
from ranklens.cli.specs import DEFAULT_MODEL
from ranklens.data.errors import UsageError

if TYPE_CHECKING:
    from ranklens.rerank.attention_reranker import AttentionReranker
    from ranklens.rerank.heads.detect import HeadScores
    from ranklens.rerank.heads.examples import JudgedList
    from ranklens.rerank.heads.features import HeadFeatures
    from ranklens.rerank.profile import Profile

app = typer.Typer(help="Find the heads of a model that tell relevant documents from others.")

CollectionsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="COLLECTION[@CANDIDATES]...",
        help=f"{options.COLLECTION_HELP} @NAME takes other candidates than --candidates.",
    ),
]
ModelOption = Annotated[
    str, typer.Option(help="A name of `ranklens models list`, a folder, or a hub id.")
]
ProfileFile = Annotated[Path, typer.Option("--output", "-o", help="The profile to write (JSON).")]
BaseOption = Annotated[str, typer.Option(help="The profile whose prompt and rows are used.")]
CacheOption = Annotated[
    Path | None, typer.Option(help="Keep what was read here, to go on after an interruption.")
]
PictureOption = Annotated[Path | None, typer.Option(help="Write a map of all heads (SVG).")]
CompareOption = Annotated[
    list[str] | None, typer.Option(help="Profiles to count shared heads with.")
]


@app.command()
def detect(
    collections: CollectionsArgument,
    output: ProfileFile,
    model: ModelOption = DEFAULT_MODEL,
    method: Annotated[
        str, typer.Option(help="qrhead, qrhead-mass, qrhead-ndcg, core or needle.")
    ] = "qrhead",
    top: Annotated[int, typer.Option(min=1, help="Heads to keep.")] = 16,
    temperature: Annotated[float, typer.Option(help="CoRe's t.")] = 0.1,
    level: Annotated[int, typer.Option(min=1, help="Grade from which documents count.")] = 1,
    base: BaseOption = "icr",
    candidates: options.FirstStageOption = None,
    depth: options.DepthOption = 20,
    limit: options.LimitOption = None,
    cache: CacheOption = None,
    picture: PictureOption = None,
    compare: CompareOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Choose heads by a published procedure; every fourth list is held out to check them.

    Example: ranklens heads detect sample:pydocs --method core --top 8 -o core.json
    """
    from ranklens.cli.lists import load_judged_lists
    from ranklens.cli.output import check_output
    from ranklens.cli.progress import progress
    from ranklens.rerank.heads.detect import METHODS, detect_heads
    from ranklens.rerank.heads.examples import check_level
    from ranklens.rerank.heads.features import every_head
    from ranklens.rerank.heads.needle import NEEDLES, needle_heads
    from ranklens.rerank.heads.profiles import origin_of, profile_of_heads
    from ranklens.rerank.profile_file import load_profile, save_profile

    if method not in (*METHODS, "needle"):
        raise UsageError(f"unknown method {method!r}; choose {', '.join((*METHODS, 'needle'))}")
    if not 0 < temperature < math.inf:
        raise UsageError(f"--temperature must be positive and finite, got {temperature}")
    check_output(output)
    others = {spec: load_profile(spec) for spec in compare or ()}
    method_base = load_profile(base)
    every = every_head(method_base)
    lists = load_judged_lists(collections, candidates, depth, limit)
    training = [x for i, x in enumerate(lists) if i % 4 != 3]
    if method != "needle":
        check_level(training, level)
    reranker = _load(model, every, device, dtype)
    checking = [x for i, x in enumerate(lists) if i % 4 == 3]
    if method == "needle":
        hay = [" ".join(document.text for document in x.documents[:8]) for x in training[:4]]
        with progress("hiding needles", len(hay) * len(NEEDLES) * 3, "prompts") as advance:
            scores = needle_heads(reranker.engine, hay, advance=advance)
    else:
        features = _read(training, reranker, cache)
        scores = detect_heads(features, method, level=level, temperature=temperature)
    chosen = list(scores)[:top]
    weights = {f"{layer}-{head}": 1.0 for layer, head in chosen}
    data = sorted({f"{x.collection} (lists of {depth} of {x.candidates})" for x in lists})
    profile = profile_of_heads(
        output.stem, method_base, weights, origin_of(reranker, method, data, {})
    )
    figures = _held_out(checking, reranker, method_base, profile)
    figures["training_lists"] = len(training)
    figures |= {f"head {layer}-{head}": scores[layer, head] for layer, head in chosen}
    profile = profile_of_heads(
        output.stem, method_base, weights, origin_of(reranker, method, data, figures)
    )
    save_profile(profile, output)
    _picture(picture, scores, chosen, f"{model}: {method} on {', '.join(data)}")
    _tell(output, profile, figures, others, as_json)


@app.command()
def learn(
    collections: CollectionsArgument,
    output: ProfileFile,
    model: ModelOption = DEFAULT_MODEL,
    base: BaseOption = "icr",
    candidates: options.FirstStageOption = None,
    depth: options.DepthOption = 20,
    limit: options.LimitOption = None,
    windows: Annotated[
        int, typer.Option("--lists", min=1, help="Lists of DEPTH candidates per query.")
    ] = 1,
    cache: CacheOption = None,
    picture: PictureOption = None,
    compare: CompareOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Learn a weight per head by list-wise regression, and the layer to stop at.

    Cross-validated over queries; the figures shown are of lists that the weights did not see,
    and by which the setting was chosen.
    With --lists 3 each query teaches by its candidates 1 to DEPTH, and by the next two lists of
    as many, as far as these hold something relevant.

    Example: ranklens heads learn sample:pydocs --depth 20 -o learned.json
    """
    from ranklens.cli.lists import load_judged_lists
    from ranklens.cli.output import check_output
    from ranklens.cli.progress import progress
    from ranklens.rerank.heads.features import every_head
    from ranklens.rerank.heads.learn import check_queries, learn_heads, settings_tried
    from ranklens.rerank.heads.listwise import first_stage
    from ranklens.rerank.heads.profiles import origin_of, profile_of_heads
    from ranklens.rerank.profile_file import load_profile, save_profile

    check_output(output)
    others = {spec: load_profile(spec) for spec in compare or ()}
    method_base = load_profile(base)
    if method_base.signal.values != "attention":
        raise UsageError(
            f"profile {method_base.name!r} reads {method_base.signal.values}; learning compares "
            "shares of attention: use a --base that reads attention, such as icr"
        )
    every = every_head(method_base)
    lists = load_judged_lists(collections, candidates, depth, limit, windows)
    check_queries(len({(x.collection, x.query.id) for x in lists}))
    reranker = _load(model, every, device, dtype)
    features = _read(lists, reranker, cache)
    with progress("fitting", settings_tried(features[0].heads), "settings") as advance:
        learned = learn_heads(features, advance=advance)
    figures = {
        "lists": float(len(features)),
        "first stage nDCG@10": float(first_stage(features).mean()),
        "held-out nDCG@10": float(learned.held_out.mean()),
        "l2": learned.setting.l2,
    }
    data = [
        f"{name} ({sum((x.collection, x.candidates) == (name, source) for x in lists)} lists of "
        f"{depth} of {source})"
        for name, source in dict.fromkeys((x.collection, x.candidates) for x in lists)
    ]
    origin = origin_of(reranker, "list-wise regression over heads", data, figures)
    profile = profile_of_heads(
        output.stem, method_base, learned.weights, origin, compare=learned.setting.compare
    )
    save_profile(profile, output)
    scores = {_head(name): weight for name, weight in learned.weights.items()}
    _picture(picture, scores, [], f"{model}: learned on {', '.join(data)}")
    _tell(output, profile, figures, others, as_json)


@app.command()
def show(
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="A shipped name or a file.")],
    compare: CompareOption = None,
    picture: PictureOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show which heads a profile reads and what it was made with.

    Example: ranklens heads show qrhead-llama-3.1-8b --compare core-llama-3.1-8b
    """
    from ranklens.rerank.profile_file import load_profile

    loaded = load_profile(profile)
    others = {spec: load_profile(spec) for spec in compare or ()}
    weights = {_head(name): weight for name, weight in (loaded.signal.heads or {}).items()}
    if picture is not None and not weights:
        raise UsageError(f"profile {profile!r} reads every head alike: there is nothing to draw")
    _picture(picture, weights, [], f"{loaded.name}: weights")
    figures = dict((loaded.made_with.figures if loaded.made_with else None) or {})
    _tell(Path(profile), loaded, figures, others, as_json)


def _load(model: str, every: Profile, device: str | None, dtype: str | None) -> AttentionReranker:
    from ranklens.cli.output import note
    from ranklens.cli.specs import pull_model
    from ranklens.rerank.attention_reranker import AttentionReranker

    pull_model(model)
    note(f"loading {model}")
    return AttentionReranker.from_pretrained(model, profile=every, device=device, dtype=dtype)


def _read(
    lists: Sequence[JudgedList], reranker: AttentionReranker, cache: Path | None
) -> list[HeadFeatures]:
    from ranklens.cli.progress import progress
    from ranklens.rerank.heads.features import FeatureStore, read_features

    store = FeatureStore(cache, reranker) if cache else None
    features = []
    with progress("reading heads", sum(len(x.documents) for x in lists), "docs") as advance:
        for judged in lists:
            features.append(store.get(judged) if store else read_features(reranker, judged))
            advance(len(judged.documents))
    return features


def _held_out(
    lists: Sequence[JudgedList], reranker: AttentionReranker, base: Profile, found: Profile
) -> dict[str, float]:
    """Return mean nDCG@10 within the held-out lists: first stage, all heads, the chosen ones."""
    import numpy as np

    from ranklens.cli.progress import progress
    from ranklens.rerank.attention_reranker import AttentionReranker
    from ranklens.rerank.heads.listwise import ndcg

    figures: dict[str, list[float]] = {"first stage": [], "base profile": [], "chosen heads": []}
    rerankers = {
        "base profile": AttentionReranker(reranker.engine, base, reranker.model),
        "chosen heads": AttentionReranker(reranker.engine, found, reranker.model),
    }
    with progress("checking held-out lists", sum(len(x.documents) for x in lists), "docs") as go:
        for judged in lists:
            grades = np.array(judged.grades)
            figures["first stage"].append(
                float(ndcg(-np.arange(len(grades), dtype=float)[None], grades)[0])
            )
            for name, one in rerankers.items():
                ranking = one.rank(judged.query, judged.documents)
                scores = np.zeros((1, len(grades)))
                for place, ranked in enumerate(ranking):
                    scores[0, ranked.index] = -place
                figures[name].append(float(ndcg(scores, grades)[0]))
            go(len(grades))
    means = {f"{name} nDCG@10": float(np.mean(v)) for name, v in figures.items() if v}
    return {**means, "held_out_lists": float(len(lists))}


def _head(name: str) -> tuple[int, int]:
    layer, head = name.split("-")
    return int(layer), int(head)


def _picture(
    path: Path | None, scores: HeadScores, chosen: Sequence[tuple[int, int]], title: str
) -> None:
    if path is None:
        return
    from ranklens.data.files import atomic_writer
    from ranklens.rerank.heads.picture import head_map

    with atomic_writer(path) as stream:
        stream.write(head_map(scores, chosen, title))


def _tell(
    path: Path,
    profile: Profile,
    figures: dict[str, float],
    others: dict[str, Profile],
    as_json: bool,
) -> None:
    from ranklens.cli.output import print_json, print_table, print_text
    from ranklens.rerank.heads.detect import overlap

    heads = profile.signal.heads or {}
    shared = {
        spec: {"shared": overlap(list(heads), list(other.signal.heads or {})),
               "of": len(other.signal.heads or {})}
        for spec, other in others.items()
    }  # fmt: skip
    if as_json:
        value: dict[str, Any] = {
            "status": "ok", "profile": str(path), "heads": heads, "figures": figures,
            "layers_needed": profile.signal.layers_needed, "overlap": shared,
        }  # fmt: skip
        print_json(value)
        return
    strongest = sorted(heads.items(), key=lambda item: -abs(item[1]))[:16]
    print_text(f"{path}: {len(heads) or 'all'} heads, {profile.source}")
    if strongest:
        print_text("strongest: " + " ".join(f"{name} ({weight:.3g})" for name, weight in strongest))
    if figures:
        print_table("figures", ["figure", "value"], [[k, f"{v:.4f}"] for k, v in figures.items()])
    for spec, count in shared.items():
        print_text(f"shares {count['shared']} heads with the {count['of']} of {spec}")
