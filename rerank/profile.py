"""Profiles: an attention reranking method as data.

Published methods differ in what is prompted, which attention is read, how it is calibrated
and how token scores become document scores. A profile states these choices; the engine has no
method classes. What stands in a JSON file of a profile are these fields.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from ranklens.data.errors import InvalidInputError
from ranklens.data.score_map import ScoreMap
from ranklens.rerank.prompt_choice import BlockChoice as BlockChoice
from ranklens.rerank.prompt_choice import OrderChoice as OrderChoice
from ranklens.rerank.prompt_choice import PromptChoice as PromptChoice
from ranklens.rerank.prompt_choice import at_least

_ROWS_OF_BLOCKS = ("instruction-to-end", "last", "last-two")
# One spelling a head, or "03-1" and "3-1" would be two.
_HEAD = re.compile(r"(0|[1-9][0-9]*)-(0|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class LayoutChoice:
    """What a document's tokens see, and at which positions.

    ``attend``: ``causal``: all that stands before them (ICR); ``block``: the prefix and their
    own document only (BlockRank, Block-Attention), so that documents do not depend on each
    other. Tails see everything either way.
    ``positions``: ``sequential``; or, in blocks, ``shared``: every document begins where the
    prefix ends, so that order has no part in a score, and the context limits the longest
    document instead of the list. Tails then begin where the longest document ends, or at
    ``tail_position`` (BlockRank: 16384). Or ``moved``: documents are computed as if shared, and
    tails see their keys turned to sequential places (Block-Attention's re-rotation,
    arXiv 2409.15355).
    """

    attend: Literal["causal", "block"] = "causal"
    positions: Literal["sequential", "shared", "moved"] = "sequential"
    tail_position: int | None = None

    def __post_init__(self) -> None:
        if self.positions != "sequential" and self.attend != "block":
            raise InvalidInputError(
                f"layout.positions {self.positions!r} needs layout.attend 'block'"
            )
        if self.tail_position is not None and self.positions != "shared":
            raise InvalidInputError("layout.tail_position needs layout.positions 'shared'")
        at_least("layout.tail_position", self.tail_position, 1)


@dataclass(frozen=True, slots=True)
class SignalChoice:
    """Which attention is read.

    ``rows``: the tokens after the documents whose attention is averaged.
        instruction-to-end: instruction, query and the frame's end (ICR, QRHead)
        instruction-to-query: without the frame's end
        instruction-to-query-and-next: with its first token (CoRe's inclusive end)
        query: the query's own text (Selective-ICR for Qwen)
        last: the last token of the prompt (attention sorting)
        last-two: with the one before it (BlockRank)
    ``layers``: first and last layer, counted from 0, both included; None reads all.
    ``heads``: weight by ``"layer-head"``; None reads every head of the layers with weight 1.
    ``reduce``: weighted heads are summed, or their sum is divided by their number (BlockRank,
    whose scores then add up to 1 over a list).
    ``values``: softmax attention; the scaled logits before it; or attention rolled out through
    the layers from the last to the first, mean over heads (see ``rollout``).
    ``over``: what the softmax of a row runs over: all keys; all but the first token, which
    takes attention that has nowhere else to go; the tokens of documents.
    ``combine``: heads are summed token by token before pooling, or each head's documents are
    calibrated and pooled by themselves and document scores are summed.
    """

    rows: Literal[
        "instruction-to-end",
        "instruction-to-query",
        "instruction-to-query-and-next",
        "query",
        "last",
        "last-two",
    ]
    layers: tuple[int, int] | None = None
    heads: dict[str, float] | None = None
    values: Literal["attention", "logits", "rollout"] = "attention"
    over: Literal["all-keys", "without-sink", "documents"] = "all-keys"
    combine: Literal["tokens", "documents"] = "tokens"
    reduce: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        if self.layers is not None and not 0 <= self.layers[0] <= self.layers[1]:
            raise InvalidInputError(f"signal.layers {list(self.layers)} is no range of layers")
        if self.heads is not None:
            if self.layers is not None:
                raise InvalidInputError("signal.heads names layers itself; set signal.layers null")
            wrong = [head for head in self.heads if not _HEAD.fullmatch(head)]
            if wrong or not self.heads:
                what = repr(wrong[0]) if wrong else "no head"
                raise InvalidInputError(f"signal.heads has {what}; expected 'layer-head' names")
        if self.values == "logits" and self.over != "all-keys":
            raise InvalidInputError("signal.over concerns a softmax; logits have none")
        if self.values == "rollout":
            whole = self.heads is None and self.over == "all-keys" and self.combine == "tokens"
            if not whole or self.reduce != "sum":
                raise InvalidInputError(
                    "signal.values 'rollout' goes through whole layers: set signal.heads null, "
                    "signal.over 'all-keys', signal.combine 'tokens' and signal.reduce 'sum'"
                )

    @property
    def weights(self) -> dict[int, dict[int, float]] | None:
        """The weight of each head by layer, None for all."""
        if self.heads is None:
            return None
        layers: dict[int, dict[int, float]] = {}
        for name, weight in self.heads.items():
            layer, head = map(int, name.split("-"))
            layers.setdefault(layer, {})[head] = weight
        return layers

    @property
    def layers_needed(self) -> int | None:
        """How many of a model's layers have to be loaded and run, None for all."""
        if self.heads is not None:
            return 1 + max(self.weights or ())
        return None if self.layers is None else 1 + self.layers[1]


@dataclass(frozen=True, slots=True)
class CalibrationChoice:
    """What a document's attention is compared with.

    ``nulls`` are content-free queries, averaged; none at all means no calibration.
    ``instruction_share`` λ mixes the null with the instruction (1: ICR's) and without it
    (0: the bare null), arXiv 2609.17764. ``compare`` subtracts token by token, or takes the
    logarithm of the ratio of whole documents. ``temperature`` makes the scores of one ranking
    a softmax over its documents; None leaves them as they are.
    """

    nulls: tuple[str, ...]
    instruction_share: float = 1.0
    compare: Literal["difference", "log-ratio"] = "difference"
    temperature: float | None = None

    def __post_init__(self) -> None:
        if not all(null.strip() for null in self.nulls):
            raise InvalidInputError("calibration.nulls must not hold an empty query")
        if not 0 <= self.instruction_share <= 1:
            raise InvalidInputError(
                f"calibration.instruction_share must lie in [0, 1]: {self.instruction_share}"
            )
        if self.compare == "log-ratio" and not self.nulls:
            raise InvalidInputError("calibration.compare 'log-ratio' needs calibration.nulls")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise InvalidInputError(
                f"calibration.temperature must be positive and finite: {self.temperature}"
            )


@dataclass(frozen=True, slots=True)
class PoolingChoice:
    """How a document's tokens become its score.

    ``drop_below_stds`` leaves out tokens that are not above mean − that many standard
    deviations of their document (None leaves out none). ``reduce`` adds the kept tokens up,
    averages them, or averages the ``top_k`` highest. ``length_exponent`` α divides a sum by
    (number of kept tokens)^α. ``idf`` weights a token by how few of the candidates contain it,
    ``entropy`` > 0 damps a score that few tokens carry; see ``scores``. ``scale`` ``log`` takes
    the logarithm of what a document has then.
    """

    drop_below_stds: float | None
    reduce: Literal["sum", "mean", "top-k-mean"]
    top_k: int | None = None
    length_exponent: float = 0.0
    idf: bool = False
    entropy: float = 0.0
    scale: Literal["plain", "log"] = "plain"

    def __post_init__(self) -> None:
        at_least("pooling.top_k", self.top_k, 1)
        if (self.reduce == "top-k-mean") != (self.top_k is not None):
            raise InvalidInputError("pooling.top_k belongs to reduce 'top-k-mean', and only there")
        if self.length_exponent and self.reduce != "sum":
            raise InvalidInputError("pooling.length_exponent belongs to reduce 'sum'")
        if self.entropy < 0:
            raise InvalidInputError(f"pooling.entropy must not be negative: {self.entropy}")


@dataclass(frozen=True, slots=True)
class Origin:
    """What a profile's heads were chosen with; other models and prompts need other heads."""

    model: str
    method: str
    revision: str | None = None
    dtype: str | None = None
    prompt_sha256: str | None = None
    data: tuple[str, ...] = ()
    figures: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """A complete method; see the module.

    ``score_map`` turns scores into probabilities; rankings do not depend on it.
    """

    name: str
    source: str
    prompt: PromptChoice
    signal: SignalChoice
    calibration: CalibrationChoice
    pooling: PoolingChoice
    made_with: Origin | None = None
    score_map: ScoreMap | None = None
    layout: LayoutChoice = LayoutChoice()

    def __post_init__(self) -> None:
        if self.layout.positions == "moved" and self.signal.values == "rollout":
            raise InvalidInputError(
                "signal.values 'rollout' follows documents where they were computed; with it "
                "layout.positions cannot be 'moved'"
            )
        if self.prompt.query_in_opening and self.calibration.nulls:
            raise InvalidInputError(
                "prompt.introduction holds {query}: a content-free query would have other "
                "documents to compare with; set calibration.nulls to []"
            )
        if self.prompt.blocks is not None and self.signal.rows not in _ROWS_OF_BLOCKS:
            raise InvalidInputError(
                f"signal.rows {self.signal.rows!r} names tokens that prompt.blocks does not tell "
                f"apart; choose {', '.join(map(repr, _ROWS_OF_BLOCKS))}"
            )
        if self.pooling.scale == "log" and self.calibration.nulls:
            raise InvalidInputError(
                "pooling.scale 'log' has no logarithm of a difference; set calibration.nulls to "
                "[], or pooling.scale to 'plain' and calibration.compare to 'log-ratio'"
            )
        for name, value in (
            ("calibration.compare 'log-ratio'", self.calibration.compare == "log-ratio"),
            ("pooling.scale 'log'", self.pooling.scale == "log"),
        ):
            if value:
                self._check_logarithm(name)

    def _check_logarithm(self, name: str) -> None:
        if self.signal.values == "logits":
            raise InvalidInputError(f"{name} needs signal.values attention")
        negative = any(weight < 0 for weight in (self.signal.heads or {}).values())
        if negative and self.signal.combine == "tokens":
            raise InvalidInputError(
                f"{name} has no logarithm of a sum with negative weights; set signal.combine to "
                "'documents'"
            )

    def prompt_digest(self) -> str:
        """Return a SHA-256 of what the prompt says and of what its documents see."""
        said = self.prompt.digest()
        if self.layout == LayoutChoice():
            return said
        layout = json.dumps(dataclasses.asdict(self.layout), sort_keys=True)
        return hashlib.sha256(f"{said} {layout}".encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as what its JSON file holds."""
        return dataclasses.asdict(self)
