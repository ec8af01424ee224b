"""MTEB's files: results of a task, what the model is, and predictions as a first stage.

The results file is that of mteb 1.11 and later (read by ``mteb.TaskResult.from_disk``). Its
measures are trec_eval's at MTEB's cutoffs, means over all judged queries; mteb rounds to 5 digits
(reciprocal ranks to 6), and so does this. Left out are nAUC values, which judge a model's
confidence, and ``mteb_version``, which would claim that mteb has computed them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.files import read_text, shown, write_json
from ranklens.data.qrels import Qrels
from ranklens.data.runs import Run
from ranklens.eval.export.names import check_name, check_repository
from ranklens.eval.export.runs import normalised
from ranklens.eval.measures import evaluate
from ranklens.eval.policy import DEFAULT

CUTOFFS = (1, 3, 5, 10, 20, 100, 1000)
MODEL_TYPES = ("cross-encoder", "dense", "sparse", "late-interaction", "hybrid")
_MEASURES = {
    "ndcg": "nDCG",
    "map": "AP",
    "recall": "R",
    "precision": "P",
    "mrr": "RR",
    "hit_rate": "Success",
}
_DIGITS = {"mrr": 6}
_META = "model_meta.json"


@dataclass(frozen=True, slots=True)
class MtebModel:
    """A model as MTEB names it: ORGANISATION/NAME, a revision, one of ``MODEL_TYPES``."""

    name: str
    revision: str
    model_type: str = "cross-encoder"

    def __post_init__(self) -> None:
        check_repository("model", self.name)
        check_name("model's revision", self.revision)
        if self.model_type not in MODEL_TYPES:
            raise UsageError(
                f"the model type {shown(self.model_type)} is none of: {', '.join(MODEL_TYPES)}"
            )

    @classmethod
    def parse(cls, text: str) -> MtebModel:
        """Return the model of ORGANISATION/NAME@REVISION; UsageError for another form."""
        name, at, revision = text.partition("@")
        if not at:
            raise UsageError(f"{shown(text)} is not ORGANISATION/NAME@REVISION")
        return cls(name, revision)

    @property
    def folder(self) -> Path:
        """Where MTEB keeps the model's results, below the folder of all results."""
        return Path(self.name.replace("/", "__"), self.revision)


@dataclass(frozen=True, slots=True)
class MtebTask:
    """The task that was evaluated: its name in MTEB, and which part of its data."""

    name: str
    split: str = "test"
    subset: str = "default"

    def __post_init__(self) -> None:
        check_name("task", self.name)


def task_scores(qrels: Qrels, run: Run, *, ignore_identical_ids: bool = False) -> dict[str, float]:
    """Return MTEB's measures by MTEB's names, ``ndcg_at_10`` and so on; raises as ``evaluate``.

    ``ignore_identical_ids`` leaves out documents with their query's id: a setting of each task,
    on for ArguAna, FEVER, FiQA, MSMARCO, Quora and others.
    """
    names = {
        f"{ours}@{cutoff}": (f"{theirs}_at_{cutoff}", _DIGITS.get(theirs, 5))
        for theirs, ours in _MEASURES.items()
        for cutoff in CUTOFFS
    }
    policy = replace(DEFAULT, self_documents="remove" if ignore_identical_ids else "keep")
    measures = evaluate(qrels, run, list(names), policy).measures
    scores = {name: round(measures[ours].value, digits) for ours, (name, digits) in names.items()}
    return {**scores, "accuracy": scores["recall_at_1"]}


def write_results(
    folder: Path,
    model: MtebModel,
    task: MtebTask,
    scores: Mapping[str, float],
    *,
    dataset_revision: str,
    languages: list[str],
    main_score: str = "ndcg_at_10",
    first_stage: MtebModel | None = None,
    overwrite: bool = False,
) -> Path:
    """Write ``FOLDER/<org>__<model>/<revision>/<Task>.json``, and ``model_meta.json`` beside it.

    A file of the same task and dataset revision keeps its other splits and subsets. A
    ``model_meta.json`` that is there already stays as it is: what is not known here is null in
    it, to be filled in. Returns the results' path.

    Raises UsageError for a main score that is not among the scores; InvalidInputError where a
    file that is there is of another dataset revision, model or task, where it has this split
    and subset already (unless ``overwrite``), and where it cannot be written.
    """
    if main_score not in scores:
        raise UsageError(
            f"the main score {shown(main_score)} is none of MTEB's: ndcg_at_10, map_at_1000, …"
        )
    path = folder / model.folder / f"{task.name}.json"
    meta = path.with_name(_META)
    _check_meta(meta, model)
    kept = _kept_scores(path, task, dataset_revision, overwrite=overwrite)
    entry: dict[str, Any] = {
        **scores,
        "main_score": scores[main_score],
        "hf_subset": task.subset,
        "languages": languages,
    }
    if first_stage is not None:
        entry["previous_results_model_meta"] = _identity(first_stage)
    result = {
        "dataset_revision": dataset_revision,
        "task_name": task.name,
        "mteb_version": None,
        "evaluation_time": None,
        "kg_co2_emissions": None,
        "scores": {**kept, task.split: [*kept.get(task.split, []), entry]},
    }
    write_json(path, result)
    if not meta.exists():
        write_json(meta, _model_meta(model))
    return path


def write_predictions(
    folder: Path, model: MtebModel, task: MtebTask, run: Run, *, overwrite: bool = False
) -> Path:
    """Write ``FOLDER/<Task>_predictions.json``, which ``task.convert_to_reranking`` reads.

    Scores strictly decrease (``normalised``), for MTEB orders by them alone. A file of the same
    model keeps its other splits and subsets. Returns the path; raises InvalidInputError as
    ``write_results``.
    """
    path = folder / f"{task.name}_predictions.json"
    value: dict[str, Any] = _object(path) if path.exists() else {}
    if value and value.get("mteb_model_meta") != _identity(model):
        raise InvalidInputError(
            f"{path} holds predictions of {value.get('mteb_model_meta')!r}, not of {model.name} "
            f"{model.revision}; choose another folder"
        )
    value["mteb_model_meta"] = _identity(model)
    splits = value.setdefault(task.subset, {})
    if not isinstance(splits, dict):
        raise InvalidInputError(f"{path}: {task.subset!r} holds no splits")
    if task.split in splits and not overwrite:
        raise _already(path, task)
    splits[task.split] = {
        query_id: {doc.doc_id: doc.score for doc in docs}
        for query_id, docs in normalised(run).items()
    }
    write_json(path, value)
    return path


def _identity(model: MtebModel) -> dict[str, str]:
    return {"model_name": model.name, "revision": model.revision}


def _kept_scores(
    path: Path, task: MtebTask, dataset_revision: str, *, overwrite: bool
) -> dict[str, list[Any]]:
    """Return what a results file has of other splits and subsets."""
    if not path.exists():
        return {}
    value = _object(path)
    for key, ours in (("task_name", task.name), ("dataset_revision", dataset_revision)):
        if value.get(key) != ours:
            raise InvalidInputError(
                f"{path} has the {key} {value.get(key)!r}, not {ours!r}: "
                "results of both do not go into one file; choose another folder"
            )
    scores = value.get("scores")
    if not isinstance(scores, dict) or not all(map(_entries, scores.values())):
        raise InvalidInputError(
            f"{path} is there already and is not a results file of MTEB: its scores are no lists"
        )
    others = [one for one in scores.get(task.split, []) if one.get("hf_subset") != task.subset]
    if len(others) != len(scores.get(task.split, [])) and not overwrite:
        raise _already(path, task)
    return {**scores, task.split: others}


def _entries(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _already(path: Path, task: MtebTask) -> InvalidInputError:
    return InvalidInputError(
        f"{path} has the split {task.split!r}, subset {task.subset!r} already; "
        "--overwrite replaces it"
    )


def _check_meta(path: Path, model: MtebModel) -> None:
    if not path.exists():
        return
    value = _object(path)
    if (value.get("name"), value.get("revision")) != (model.name, model.revision):
        raise InvalidInputError(
            f"{path} is of the model {value.get('name')!r}, revision {value.get('revision')!r}, "
            f"not of {model.name} {model.revision}; choose another folder"
        )


def _model_meta(model: MtebModel) -> dict[str, Any]:
    unknown = (
        "loader", "release_date", "languages", "n_parameters", "memory_usage_mb", "max_tokens",
        "embed_dim", "license", "open_weights", "public_training_code", "public_training_data",
        "similarity_fn_name", "use_instructions", "training_datasets",
    )  # fmt: skip
    return {
        **dict.fromkeys(unknown),
        "name": model.name,
        "revision": model.revision,
        "framework": [],
        "model_type": [model.model_type],
        "modalities": ["text"],
    }


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(f"{path} is there already and is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InvalidInputError(f"{path} is there already and holds no JSON object")
    return value
