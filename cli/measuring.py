"""What commands that measure runs have in common: the judgements, the measures, the policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ranklens.data.errors import MissingResourceError

if TYPE_CHECKING:
    from ranklens.data.qrels import Qrels
    from ranklens.eval.policy import Policy


def asked(
    preset: str | None, measures: Sequence[str] | None, policy: str | None
) -> tuple[list[str], Policy]:
    """Return a preset's measures and those named, each once, and the policy.

    The policy that is named takes the place of the preset's.
    """
    from ranklens.eval import measure_presets
    from ranklens.eval.policy import DEFAULT, parse_policy

    official = measure_presets.preset(preset) if preset is not None else None
    names = [*(official.measures if official else ()), *(measures or ())]
    if policy is not None:
        chosen = parse_policy(policy)
    else:
        chosen = official.policy if official else DEFAULT
    return list(dict.fromkeys(names)), chosen


def load_qrels(spec: str) -> tuple[Qrels, int, tuple[str, ...]]:
    """Return judgements, the grade from which they count as relevant, and what to tell the user."""
    path = Path(spec).expanduser()
    # Of files, these are collections.
    requests = path.name.removesuffix(".gz").endswith(".jsonl")
    if path.is_file() and not requests:
        from ranklens.data.qrels import read_qrels

        return read_qrels(path), 1, ()
    from ranklens.data.coverage import absent_judged
    from ranklens.data.load import load_collection

    try:
        collection = load_collection(spec)
    except MissingResourceError as error:
        raise MissingResourceError(f"no qrels file {spec!r}, and {error}") from None
    judged = collection.judgements("evaluation")
    return judged, collection.relevance_level, (*collection.notes, *absent_judged(collection))
