"""Models by hub id, kept in the cache that transformers uses too."""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.extras import require
from ranklens.data.models import folder

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
# The same weights again, in the layout of another library.
_UNWANTED = ["consolidated*.safetensors", "original/*", "onnx/*", "openvino/*"]
_SECONDS = 2.0


def is_hub_id(spec: str) -> bool:
    """Tell whether `spec` looks like `org/name`."""
    return _HUB_ID.fullmatch(spec) is not None


def pull(hub_id: str, revision: str | None, progress: Callable[[str], None] | None) -> Path:
    """Download a snapshot of `hub_id` to the hub cache; its folder's name is the commit hash.

    Raises `MissingPrerequisiteError` without the extra `llm`, `MissingResourceError` if the
    model cannot be had, and `InvalidInputError` if it has no safetensors.
    """
    require("llm", "huggingface_hub")
    from huggingface_hub import errors, snapshot_download

    at = f"{hub_id} at {revision}" if revision else hub_id
    local = "give the path of a local model folder"
    if progress:
        progress(f"downloading {at}")
    try:
        path = Path(
            snapshot_download(
                hub_id,
                revision=revision,
                allow_patterns=_WANTED,
                ignore_patterns=_UNWANTED,
                tqdm_class=_reporting_bar(hub_id, progress),
            )
        )
    except errors.GatedRepoError as error:
        raise MissingResourceError(
            f"{at} is gated: accept its terms on its page and run `hf auth login`, or {local}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise MissingResourceError(
            f"the hub has no model {hub_id}, or a private one: check the id, run `hf auth login` "
            f"if it is yours, or {local}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise MissingResourceError(f"{hub_id} has no revision {revision!r}") from error
    except errors.HFValidationError as error:
        raise MissingResourceError(f"{hub_id!r} is not a hub id: {error}") from error
    # Connection errors come as OSErrors and as whatever the HTTP library of the day raises.
    except Exception as error:
        cause = error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        if isinstance(cause, errors.OfflineModeIsEnabled):
            reason = "HF_HUB_OFFLINE is set"
        raise MissingResourceError(
            f"{at} could not be downloaded and the hub cache lacks it ({reason}): check the "
            f"network and HF_HUB_OFFLINE, or {local}"
        ) from error
    lacks = folder.problem(path)
    if lacks:
        raise InvalidInputError(f"the hub model {at} {lacks}")
    return path


def cached(hub_id: str, revision: str | None) -> Path | None:
    """Return the complete snapshot of `hub_id` in the hub cache, without network, or None."""
    require("llm", "huggingface_hub")
    from huggingface_hub import errors, snapshot_download

    try:
        path = Path(
            snapshot_download(
                hub_id, revision=revision, allow_patterns=[folder.CONFIG], local_files_only=True
            )
        )
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        return None
    return None if folder.problem(path) else path


def cached_models() -> list[tuple[str, Path, int]]:
    """List the models in the hub cache: id, folder, size in bytes."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return []
    from huggingface_hub import constants, errors, scan_cache_dir

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except errors.CacheNotFound:
        return []
    found = [(r.repo_id, r.repo_path, r.size_on_disk) for r in repos if r.repo_type == "model"]
    return sorted(found)


def _reporting_bar(hub_id: str, progress: Callable[[str], None] | None) -> type[Any]:
    """Make a progress bar that draws nothing and tells `progress` how many bytes have come."""
    from huggingface_hub import utils

    untyped: Any = utils
    told = 0

    class Bar(untyped.tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            silent = {"file": io.StringIO(), "disable": progress is None, "mininterval": _SECONDS}
            super().__init__(*args, **{**kwargs, **silent})

        def display(self, *args: Any, **kwargs: Any) -> bool:
            nonlocal told
            # One bar counts what comes over the wire, another what is written: the same bytes.
            if progress and self.unit == "B" and self.n > told:
                told = self.n
                done, total = (self.format_sizeof(n, "B") for n in (self.n, self.total or 0))
                progress(f"downloading {hub_id}: {done} of {total}")
            return True

    return Bar
