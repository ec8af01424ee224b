"""Evaluation results for a model's repository on the Hugging Face hub (``.eval_results/*.yaml``).

The format is that of ``huggingface_hub.EvalResultEntry``. The hub shows entries whose dataset is
registered there as a benchmark.
"""

from __future__ import annotations

import datetime
from typing import Any

from ranklens.data.errors import UsageError
from ranklens.data.files import shown
from ranklens.eval.export.names import check_repository


def eval_result(
    dataset: str,
    task: str,
    value: float,
    *,
    revision: str | None = None,
    date: str | None = None,
    source_url: str | None = None,
    source_name: str | None = None,
    notes: str | None = None,
) -> dict[str, Any]:
    """Return one entry; UsageError for a dataset, date or source that the hub would not take."""
    if not task.strip():
        raise UsageError("the task id must not be empty; the benchmark's eval.yaml has it")
    of: dict[str, Any] = {"id": check_repository("dataset", dataset), "task_id": task}
    if revision is not None:
        of["revision"] = revision
    entry: dict[str, Any] = {"dataset": of, "value": value}
    if date is not None:
        try:
            datetime.datetime.fromisoformat(date)
        except ValueError:
            raise UsageError(f"the date {shown(date)} is not of ISO 8601, as 2026-01-31") from None
        entry["date"] = date
    if source_url is not None:
        entry["source"] = {"url": source_url}
        if source_name is not None:
            entry["source"]["name"] = source_name
    elif source_name is not None:
        raise UsageError("a source's name needs its address too")
    if notes is not None:
        entry["notes"] = notes
    return entry
