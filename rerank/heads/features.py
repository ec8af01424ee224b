"""What every head of a model pays to every document of a judged list."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import InvalidInputError
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.heads.examples import JudgedList
from ranklens.rerank.profile import Profile
from ranklens.rerank.scores import baseline, per_head_scores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

_TINY = 1e-30
# What is kept in single precision.
_ROUNDED = ("mass", "null", "calibrated")


@dataclass(frozen=True, slots=True)
class HeadFeatures:
    """One judged list, read by every head.

    ``heads`` [heads, 2] are (layer, head). ``mass`` and ``null`` [heads, documents] are the
    attention that the query's and the content-free query's tokens pay to a document, summed
    over its tokens; ``calibrated`` [heads, documents] is the difference after the profile's
    token filter, as each head alone would score. ``lengths`` [documents] in tokens.
    """

    collection: str
    query: str
    grades: NDArray[np.int64]
    heads: NDArray[np.int64]
    mass: Matrix
    null: Matrix
    calibrated: Matrix
    lengths: NDArray[np.int64]

    def log_ratio(self) -> Matrix:
        """Return log(mass / null), [heads, documents]."""
        import numpy as np

        return np.log(np.maximum(self.mass, _TINY)) - np.log(np.maximum(self.null, _TINY))


def every_head(profile: Profile) -> Profile:
    """Return a profile's method with every head of the model kept apart.

    Raises InvalidInputError for a profile without content-free queries, and for a rollout.
    """
    if profile.signal.values == "rollout":
        raise InvalidInputError(
            f"profile {profile.name!r} reads a rollout, which has no heads apart; heads are found "
            "with one that reads attention, such as 'icr'"
        )
    signal = dataclasses.replace(profile.signal, heads=None, layers=None, combine="documents")
    if not profile.calibration.nulls:
        raise InvalidInputError(
            f"profile {profile.name!r} has no content-free query to compare with; heads are found "
            "with one that has, such as 'icr'"
        )
    return dataclasses.replace(profile, signal=signal)


def read_features(reranker: AttentionReranker, judged: JudgedList) -> HeadFeatures:
    """Run a judged list through a reranker whose profile is ``every_head`` of some method."""
    import numpy as np
    import torch

    layout = reranker.layout(judged.query.text, judged.documents)
    signal = reranker.read(layout)
    masses = signal.mass.double()
    # Sums over spans are differences of running sums.
    running = torch.nn.functional.pad(masses.cumsum(-1), (1, 0))
    starts, ends = (list(edge) for edge in zip(*layout.spans, strict=True))
    sums = running[..., ends] - running[..., starts]
    null = baseline(sums, layout, reranker.profile.calibration)
    assert null is not None, "every_head has content-free queries"
    return HeadFeatures(
        collection=judged.collection,
        query=judged.query.id,
        grades=np.array(judged.grades),
        heads=np.array(signal.plan.heads),
        mass=sums[:, 0].numpy(),
        null=null.numpy(),
        calibrated=per_head_scores(masses, layout, reranker.profile).numpy(),
        lengths=np.array(ends) - np.array(starts),
    )


class FeatureStore:
    """Features on disk, so that an interrupted detection goes on where it was.

    One file a list, under a name made of all that the features depend on.
    """

    def __init__(self, folder: str | Path, reranker: AttentionReranker) -> None:
        if reranker.model is None:
            # Nothing would tell its features from another's.
            raise InvalidInputError(
                "features are kept by the model's revision; use AttentionReranker.from_pretrained"
            )
        self._folder = Path(folder)
        self._reranker = reranker
        self._revision = reranker.model.revision

    def get(self, judged: JudgedList) -> HeadFeatures:
        """Return the features of a list, computed where they are not there yet or damaged."""
        path = self._folder / f"{self._key(judged)}.npz"
        if path.is_file():
            known = _load(path)
            if known is not None:
                # Judgements may have changed, or be another query's of the same text; the attention
                # is the same.
                import numpy as np

                return dataclasses.replace(
                    known,
                    collection=judged.collection,
                    query=judged.query.id,
                    grades=np.array(judged.grades),
                )
        features = _as_kept(read_features(self._reranker, judged))
        _save(path, features)
        return features

    def _key(self, judged: JudgedList) -> str:
        reranker = self._reranker
        profile = reranker.profile.to_dict()
        what: list[Any] = [
            self._revision,
            reranker.engine.placement.dtype,
            [profile[part] for part in ("prompt", "layout", "signal", "calibration", "pooling")],
            dataclasses.asdict(reranker.frame),
            judged.query.text,
            [(document.title, document.text) for document in judged.documents],
        ]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def _save(path: Path, features: HeadFeatures) -> None:
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        np.savez_compressed(temporary, **_arrays(features))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _as_kept(features: HeadFeatures) -> HeadFeatures:
    """Return the features as they come back from disk: what is learned must not depend on it."""
    rounded = {name: getattr(features, name).astype("float32") for name in _ROUNDED}
    return dataclasses.replace(
        features, **{name: values.astype("float64") for name, values in rounded.items()}
    )


def _arrays(features: HeadFeatures) -> dict[str, Any]:
    values = dataclasses.asdict(features)
    for name in _ROUNDED:
        values[name] = values[name].astype("float32")
    return values


def _load(path: Path) -> HeadFeatures | None:
    import numpy as np

    try:
        # numpy leaves a file open that it cannot read.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            values: dict[str, Any] = {
                field.name: stored[field.name] for field in dataclasses.fields(HeadFeatures)
            }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    for name in _ROUNDED:
        values[name] = values[name].astype("float64")
    named: dict[str, Any] = {name: str(values.pop(name)) for name in ("collection", "query")}
    return HeadFeatures(**named, **values)
