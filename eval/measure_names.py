"""Measures by name: ir_measures' names, a few of ours, and trec_eval's own.

* ir_measures' names and parameters: ``nDCG@10``, ``AP(rel=2)``, ``IPrec@0.1``, ``RBP(p=0.8)``,
  ``nDCG(dcg='exp-log2')@10``. ``RBP`` and ``ERR`` are described in ``ranked_measures``.
* Ours, in the same form: ``R_cap@100``, ``WSS@95``, ``LastRel`` (``ranked_measures``,
  ``screening``).
* trec_eval's names, with ``-l`` in brackets: ``ndcg_cut_10``, ``map(rel=2)``, ``gm_map``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from ranklens.data.errors import UsageError
from ranklens.eval import ranked_measures as ranked
from ranklens.eval import screening
from ranklens.eval.ranked_measures import Ranked

EXAMPLES = "nDCG@10, AP, RR@10, P@5, R@100, Judged@10, AP(rel=2)"
_NO_CUTOFF = "the measure {!r}: {} must be an integer of at least 1, at most 2147483647"
Aggregate = Literal["mean", "sum", "geometric"]


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure as it is computed.

    ``trec`` is trec_eval's name for it, where it has one. It is computed by ``own`` from one
    query's ranking or, without one, by pytrec_eval under the name ``trec`` and the relevance
    level ``rel``. ``aggregate``: how the values of queries become one; counts are added up.
    ``kind`` is ir_measures' name without parameters, empty where it has none, ``params`` are the
    parameters as written.
    """

    name: str
    trec: str | None
    rel: int = 1
    own: Callable[[Ranked], float] | None = None
    judged_only: bool = False
    aggregate: Aggregate = "mean"
    kind: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lower_is_better(self) -> bool:
        """Whether the lowest value is the best one."""
        return self.kind == "LastRel"


def check_comparable(name: str) -> str:
    """Return the name of a measure whose mean over queries is compared, higher being better.

    Raises UsageError for another one, and as ``parse_measure``.
    """
    measure = parse_measure(name)
    if measure.aggregate != "mean":
        raise UsageError(
            f"the measure {name!r} is not the mean of its queries, which is what tests are about; "
            "take one that is, as nDCG@10"
        )
    if measure.lower_is_better:
        raise UsageError(
            f"the measure {name!r} is better when it is lower, which a comparison cannot show; "
            "take WSS@95"
        )
    return name


def parse_measure(name: str) -> Measure:
    """Return the measure of this name.

    Raises UsageError for one that does not exist, lacks a parameter or cannot be computed here.
    """
    if measure := _of_trec_eval(name):
        return measure
    parsed = _parsed(name)
    params = {key: parsed[key] for key in parsed.SUPPORTED_PARAMS}
    given = {key: value for key, value in params.items() if key in parsed.params}
    rel = params.get("rel")
    if parsed.NAME not in _BUILDERS:
        raise UsageError(f"the measure {name!r} is not supported; examples: {EXAMPLES}")
    try:
        trec, own, aggregate = _BUILDERS[parsed.NAME](given)
    except ValueError as error:
        raise UsageError(f"the measure {name!r}: {error}") from None
    return Measure(
        name,
        trec,
        rel if isinstance(rel, int) else 1,
        own,
        judged_only=params.get("judged_only") is True,
        aggregate=aggregate,
        kind=parsed.NAME,
        params=given,
    )


def _parsed(name: str) -> Any:
    import ir_measures

    _register()
    try:
        measure = ir_measures.parse_measure(name)
    except (NameError, ValueError, SyntaxError, TypeError, KeyError, AssertionError):
        raise UsageError(f"unknown measure {name!r}; examples: {EXAMPLES}") from None
    try:
        measure.validate_params()
    except AssertionError:
        raise UsageError(
            f"the measure {name!r} lacks a parameter or has a wrong one; examples: {EXAMPLES}"
        ) from None
    # trec_eval ends the whole process for a cutoff of 0.
    for key in ("cutoff", "rel"):
        value = measure.params.get(key, 1)
        if type(value) is not int or not 1 <= value < 2**31:
            raise UsageError(_NO_CUTOFF.format(name, key))
    return measure


def _register() -> None:
    """Make our names known to ir_measures, which reads the parameters of all."""
    from ir_measures import measures

    if "R_cap" in measures.registry:
        return
    cutoff = measures.ParamInfo(dtype=int, required=True)
    rel = measures.ParamInfo(dtype=int, default=1)
    recall = measures.ParamInfo(dtype=(int, float), required=True)
    for name, at, params in (
        ("R_cap", "cutoff", {"cutoff": cutoff, "rel": rel}),
        ("WSS", "recall", {"recall": recall, "rel": rel}),
        ("LastRel", "cutoff", {"rel": rel}),
    ):
        kind = type(
            name,
            (measures.Measure,),
            {"NAME": name, "__name__": name, "AT_PARAM": at, "SUPPORTED_PARAMS": params},
        )
        measures.register(kind())


_Built = tuple[str | None, Callable[[Ranked], float] | None, Aggregate]
_Given = Mapping[str, Any]


def _trec(name: str, cut: str | None = None) -> Callable[[_Given], _Built]:
    """Return the builder of a measure of trec_eval: its name, and the name with a cutoff."""

    def build(given: _Given) -> _Built:
        if "cutoff" in given:
            return f"{cut or name}_{given['cutoff']}", None, "mean"
        return name, None, "mean"

    return build


def _ndcg(given: _Given) -> _Built:
    gains = given.get("gains")
    if given.get("dcg") != "exp-log2" and gains is None:
        return _trec("ndcg", "ndcg_cut")(given)
    if gains is not None and not all(
        type(grade) is int and type(gain) in (int, float) and 0 <= gain < 1e9
        for grade, gain in gains.items()
    ):
        raise ValueError("gains must be numbers of at least 0 by grade, as {1:1,2:3}")
    gain = ranked.exponential if given.get("dcg") == "exp-log2" else ranked.linear
    return None, partial(ranked.ndcg, gain=gain, k=given.get("cutoff"), gains=gains or {}), "mean"


def _rr(given: _Given) -> _Built:
    if "cutoff" not in given:
        return "recip_rank", None, "mean"
    return None, partial(ranked.rr, k=given["cutoff"], rel=given.get("rel", 1)), "mean"


def _iprec(given: _Given) -> _Built:
    recall = given["recall"]
    if not 0 <= recall <= 1:
        raise ValueError(f"recall must be from 0 to 1, got {recall}")
    own = partial(ranked.iprec, recall=recall, rel=given.get("rel", 1))
    return f"iprec_at_recall_{recall:.2f}", own, "mean"


def _rbp(given: _Given) -> _Built:
    persistence = given.get("p", 0.8)
    if not 0 < persistence < 1:
        raise ValueError(f"p must lie between 0 and 1, got {persistence}")
    own = partial(ranked.rbp, p=persistence, rel=given.get("rel"), k=given.get("cutoff"))
    return None, own, "mean"


def _set_f(given: _Given) -> _Built:
    beta = given.get("beta", 1.0)
    if not 0 <= beta < 1e9:
        raise ValueError(f"beta must be at least 0, got {beta}")
    own = partial(ranked.set_f, beta=beta, rel=given.get("rel", 1))
    return "set_F" if beta == 1 else f"set_F_{beta:g}", own, "mean"


def _wss(given: _Given) -> _Built:
    recall = given["recall"]
    if type(recall) is int and 2 <= recall <= 100:
        recall /= 100
    if not 0 < recall <= 1:
        raise ValueError(f"recall must be above 0 and at most 1, or a percentage, got {recall}")
    return None, partial(screening.wss, recall=recall, rel=given.get("rel", 1)), "mean"


def _num_ret(given: _Given) -> _Built:
    return "num_rel_ret" if "rel" in given else "num_ret", None, "sum"


# By ir_measures' NAME; what each needs beyond trec_eval's name is in its function.
_BUILDERS: dict[str, Callable[[_Given], _Built]] = {
    "nDCG": _ndcg,
    "AP": _trec("map", "map_cut"),
    "RR": _rr,
    "P": _trec("P"),
    "R": _trec("recall"),
    "Rprec": _trec("Rprec"),
    "Bpref": _trec("bpref"),
    "infAP": _trec("infAP"),
    "Success": _trec("success"),
    "SetAP": _trec("set_map"),
    "SetP": lambda given: ("set_relative_P" if given.get("relative") else "set_P", None, "mean"),
    "SetR": _trec("set_recall"),
    "SetF": _set_f,
    "IPrec": _iprec,
    "Judged": lambda given: (None, partial(ranked.judged, k=given.get("cutoff")), "mean"),
    "RBP": _rbp,
    "ERR": lambda given: (None, partial(ranked.err, k=given.get("cutoff")), "mean"),
    "R_cap": lambda given: (
        None, partial(ranked.capped_recall, k=given["cutoff"], rel=given.get("rel", 1)), "mean",
    ),
    "WSS": _wss,
    "LastRel": lambda given: (
        None, partial(screening.last_relevant, rel=given.get("rel", 1)), "mean",
    ),
    "NumQ": lambda _: ("num_q", lambda _: 1.0, "sum"),
    "NumRel": lambda given: (
        "num_rel", partial(ranked.relevant_count, rel=given.get("rel", 1)), "sum",
    ),
    "NumRet": _num_ret,
}  # fmt: skip

# trec_eval's names with their twins of ir_measures, or None where only trec_eval has the measure.
# {} is what follows the name in trec_eval: a cutoff, a share.
_TWINS: dict[str, str | None] = {
    "map": "AP", "map_cut_{}": "AP@{}", "ndcg": "nDCG", "ndcg_cut_{}": "nDCG@{}", "P_{}": "P@{}",
    "recall_{}": "R@{}", "success_{}": "Success@{}", "iprec_at_recall_{}": "IPrec@{}",
    "recip_rank": "RR", "Rprec": "Rprec", "bpref": "Bpref", "infAP": "infAP", "set_P": "SetP",
    "set_relative_P": "SetP(relative=True)", "set_recall": "SetR", "set_map": "SetAP",
    "set_F": "SetF", "num_q": "NumQ", "num_ret": "NumRet", "num_rel": "NumRel",
    "num_rel_ret": "NumRet(rel=1)",
    "gm_map": None, "gm_bpref": None, "Rprec_mult_{}": None, "relative_P_{}": None,
    "utility": None, "11pt_avg": None, "binG": None, "G": None, "Rndcg": None, "ndcg_rel": None,
    "num_nonrel_judged_ret": None,
}  # fmt: skip
_SHARES = {"iprec_at_recall", "Rprec_mult"}
_UNLEVELLED = {"ndcg", "ndcg_cut_{}", "num_q", "num_ret"}
_TREC_NAME = re.compile(
    r"(?P<base>[0-9]*[A-Za-z]+(?:_[A-Za-z]+)*?)(?:_(?P<param>[0-9]{1,20}(?:\.[0-9]{1,20})?))?"
    r"(?:\(rel=(?P<rel>[1-9][0-9]{0,8})\))?"
)


def _of_trec_eval(name: str) -> Measure | None:
    """Return the measure of trec_eval of this name, if it is one."""
    found = _TREC_NAME.fullmatch(name)
    if not found:
        return None
    base, param, rel = found["base"], found["param"], int(found["rel"] or 1)
    form = base if param is None else f"{base}_{{}}"
    # What both call alike (Rprec, infAP) is read as ir_measures' name.
    if form not in _TWINS or form == _TWINS[form] or (form in _UNLEVELLED and found["rel"]):
        return None
    if "." in (param or "") and base not in _SHARES:
        return None
    if param is not None and base not in _SHARES:
        if not 1 <= int(param) < 2**31:
            raise UsageError(_NO_CUTOFF.format(name, "cutoff"))
        param = str(int(param))
    twin = _TWINS[form]
    if twin is not None:
        if "." not in (param or "") and base == "iprec_at_recall":
            param = f"{param}.0"
        if rel > 1 and form not in _UNLEVELLED:
            kind, at, cut = twin.partition("@")
            kind = kind.replace("(rel=1)", "").replace("(", f"(rel={rel},")
            twin = (kind if "(" in kind else f"{kind}(rel={rel})") + at + cut
        return replace(parse_measure(twin.format(param)), name=name)
    if base == "Rprec_mult":
        # trec_eval's name of the value has two decimals, whatever was asked for.
        param = f"{float(param):.2f}"
        if float(param) != float(found["param"]) or float(param) >= 1000:
            raise UsageError(f"the measure {name!r} takes a number below 1000 of two decimals")
    aggregate: Aggregate = "mean"
    if base.startswith("gm_"):
        aggregate = "geometric"
    elif base.startswith("num_"):
        aggregate = "sum"
    return Measure(name, form.format(param), rel, aggregate=aggregate)
