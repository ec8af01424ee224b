"""A judge-agreement report as JSON holds it: every figure, None where there is none."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ranklens.eval.agree.circularity import SelfPreference
from ranklens.eval.agree.labels import Agreement, LabelAgreement
from ranklens.eval.agree.report import AgreementReport, Circularity, Ranked


def as_json(report: AgreementReport) -> dict[str, Any]:
    """Return a report with the families ``label_agreement``, ``rankings``, …, or None for each."""
    ranked = report.ranked
    return {
        "labels": report.name,
        "label_agreement": None if report.labels is None else _labels(report.labels),
        "rankings": None if ranked is None else _rankings(ranked),
        "significance": None if ranked is None else _significance(ranked),
        "top_system": None if ranked is None else _top_system(ranked),
        "circularity": None if report.circularity is None else _circularity(report.circularity),
        "warnings": list(report.warnings),
    }


def _labels(labels: LabelAgreement) -> dict[str, Any]:
    return {
        "scale": str(labels.scale),
        "gold_pairs": labels.gold_pairs,
        "judge_pairs": labels.judge_pairs,
        **_agreement(labels.overall),
        "confusion": labels.confusion.tolist(),
        "gold_histogram": _named(labels.gold_histogram),
        "judge_histogram": _named(labels.judge_histogram),
        "clipped": {"gold": _named(labels.gold_clipped), "judge": _named(labels.judge_clipped)},
        "by_length": [
            {"words": [row.shortest, row.longest], **_agreement(row.agreement)}
            for row in labels.by_length
        ],
    }


def _agreement(figures: Agreement) -> dict[str, Any]:
    return {
        "pairs": figures.pairs,
        "exact": figures.exact,
        "kappa": figures.kappa,
        "kappa_binary": {f">={grade}": value for grade, value in figures.binary.items()},
        "alpha_ordinal": figures.alpha,
        "mean_signed_error": figures.signed_error,
    }


def _named(counts: Any) -> dict[str, int]:
    return {str(label): count for label, count in counts.items()}


def _rankings(ranked: Ranked) -> dict[str, Any]:
    found = ranked.agreement
    return {
        "systems": found.systems,
        "topics": dict(zip(("gold", "judge"), ranked.topics, strict=True)),
        "tau_b": found.tau,
        "tau_ap": found.tau_ap,
        "rbo_ext": found.rbo,
        "rho": found.rho,
        "top": [asdict(row) for row in found.top],
        "winner": {
            "gold": found.gold_winner,
            "judge": found.judge_winner,
            "same": found.same_winner,
        },
        "score_bias": found.bias,
        "score_rmse": found.rmse,
        "tied_pairs": {"gold": found.gold_ties, "judge": found.judge_ties},
        "means": {
            system: {"gold": mean, "judge": ranked.judge_means[system]}
            for system, mean in ranked.gold_means.items()
        },
    }


def _significance(ranked: Ranked) -> dict[str, Any]:
    counts = ranked.cells
    return {
        "pairs": counts.pairs,
        "cells": {
            "AA": counts.aa, "AD": counts.ad,
            "MA_g": counts.ma_g, "MA_j": counts.ma_j, "MD_g": counts.md_g, "MD_j": counts.md_j,
            "PA": counts.pa, "PD": counts.pd,
        },
        "rates": {name: asdict(rate) for name, rate in counts.rates.items()},
    }  # fmt: skip


def _top_system(ranked: Ranked) -> dict[str, Any]:
    top = ranked.top_system
    return {**asdict(top), "FPR": top.fpr, "FNR": top.fnr}


def _circularity(found: Circularity) -> dict[str, Any]:
    return {
        "judge_model": found.judge_model,
        "families": list(found.families),
        "own": _preference(found.own),
        "family": _preference(found.family),
        "unknown_systems": list(found.unknown),
        "judge_as_reranker": None if found.reranker is None else asdict(found.reranker),
    }


def _preference(found: SelfPreference | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {**asdict(found), "systems": list(found.systems), "self_preference": found.preference}
