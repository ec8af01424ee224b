"""What the commands of ``ranklens udcg`` share: options, the reader of a file, what to warn of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ranklens.data.errors import InvalidInputError, UsageError

if TYPE_CHECKING:
    from ranklens.eval.udcg.dataset import Example
    from ranklens.eval.udcg.learned import LearnedUdcg

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="Questions with passages, in UDCG's JSON format.")
]
GammaOption = Annotated[
    float, typer.Option(min=0, help="Weight of an irrelevant passage's distraction.")
]
ModelOption = Annotated[
    str | None, typer.Option(help="The reader; needed where the file has several.")
]
TargetOption = Annotated[
    str, typer.Option(help="What of the answers: f1, exact_match, or a figure of your own.")
]


def reader_of(examples: Sequence[Example], model: str | None, file: Path) -> str:
    """Return the model whose p_abs is meant; raises where the file does not say which."""
    from ranklens.eval.udcg.dataset import models

    known = models(examples)
    if not known:
        raise InvalidInputError(
            f"{file}: no passage has a p_abs (no_res_prob); `ranklens udcg score` computes it"
        )
    if model is None:
        if len(known) > 1:
            raise UsageError(f"{file} has p_abs of {', '.join(known)}; choose one with --model")
        return known[0]
    if model not in known:
        raise InvalidInputError(f"{file}: no p_abs of {model!r}; it has {', '.join(known)}")
    return model


def weights_at(path: Path | None, depths: Sequence[int | None]) -> LearnedUdcg | None:
    """Return the weights of a file, if one is given; UsageError where no depth is theirs."""
    if path is None:
        return None
    from ranklens.eval.udcg.learned import read_learned

    weights = read_learned(path)
    if weights.k not in depths and depths != [None]:
        given = ", ".join(map(str, depths))
        raise UsageError(
            f"{path}: these weights are for depth {weights.k} only, not for {given}; "
            "fit others for that depth"
        )
    return weights


def holes(examples: Sequence[Example], reader: str) -> list[str]:
    """Return what to say of passages that lack something, nothing where none does."""
    used = [one for example in examples for one in example.utilities(reader)]
    missing = sum(one.missing for one in used)
    if not missing:
        return []
    return [
        f"{missing} of {len(used)} passages have no p_abs or no relevance: they add nothing and "
        "count in n"
    ]


def shown_rho(rho: float | None) -> str:
    """Return a correlation as tables show it."""
    return "none" if rho is None else f"{rho:+.4f}"


def shown_correlation(rho: float | None, ci95: tuple[float, float] | None) -> list[str]:
    """Return a correlation and its interval as tables show them."""
    return [shown_rho(rho), "" if ci95 is None else f"[{ci95[0]:+.3f}, {ci95[1]:+.3f}]"]
