"""``--documents``: a folder where documents are kept, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import InvalidInputError

if TYPE_CHECKING:
    from ranklens.rerank.kv.cache import Counts, DocumentCache
    from ranklens.rerank.kv.entry import Storage


@dataclass(frozen=True, slots=True)
class KeptDocuments:
    """A folder of kept documents, and how they are kept there: see ``DocumentCache``.

    ``memory`` is the budget beside it in bytes, None for the default.
    """

    folder: Path
    storage: Storage
    keep_tokens: int | None
    memory: int | None = None

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        storage: Storage | None = None,
        keep_tokens: int | None = None,
        memory: int | None = None,
    ) -> KeptDocuments:
        """Settle how documents are kept in a folder: as those that are there already.

        In a new folder exact and whole, where nothing else is said. Raises InvalidInputError
        for a file, for a folder that keeps them in several ways, and in another than wanted.
        """
        from ranklens.data.extras import require

        require("llm", "torch", "transformers", "safetensors")
        from ranklens.rerank.kv.entry import STORAGES

        folder = folder.expanduser()
        if folder.exists() and not folder.is_dir():
            raise InvalidInputError(
                f"cannot keep documents in {folder}: it is a file; give a folder"
            )
        found = _ways(folder)
        if len(found) > 1:
            raise InvalidInputError(
                f"{folder} keeps documents in several ways ({'; '.join(map(_said, found))}); "
                "use a folder for each"
            )
        if not found:
            return cls(folder, storage or "exact", keep_tokens, memory)
        [(name, kept)] = found
        known = next((known for known in STORAGES if known == name), None)
        if known is None:
            raise InvalidInputError(
                f"{folder} keeps documents as {name!r}, which this version does not read (it "
                f"reads {', '.join(STORAGES)}); use another folder"
            )
        wanted = (storage or known, kept if keep_tokens is None else keep_tokens)
        if wanted != found[0]:
            raise InvalidInputError(
                f"{folder} keeps documents {_said(found[0])}, not {_said(wanted)}; use a folder "
                "for each"
            )
        return cls(folder, known, kept, memory)

    def cache(self) -> DocumentCache:
        """Return the cache over the folder."""
        from ranklens.rerank.kv.cache import MEMORY, DocumentCache

        return DocumentCache(
            memory=MEMORY if self.memory is None else self.memory,
            folder=self.folder,
            storage=self.storage,
            keep_tokens=self.keep_tokens,
        )

    def describe(self) -> dict[str, Any]:
        """Return what scores depend on: where documents are kept has no part in them."""
        return {"storage": self.storage, "keep_tokens": self.keep_tokens}


def kept_documents(folder: Path | None) -> KeptDocuments | None:
    """Return what ``--documents`` stands for."""
    return None if folder is None else KeptDocuments.open(folder)


def tell_origins(documents: DocumentCache | None) -> dict[str, Any] | None:
    """Say where a command's documents came from, and return it for machines."""
    from ranklens.cli.output import note, warn

    if documents is None:
        return None
    counts = documents.counts
    note(
        f"documents: {counts.computed} computed, {counts.disk} from {documents.folder}, "
        f"{counts.memory} from memory"
    )
    warn_of_damaged(counts)
    if documents.not_written:
        warn([f"not all are kept in {documents.folder}: {documents.not_written}"])
    return {
        "computed": counts.computed,
        "disk": counts.disk,
        "memory": counts.memory,
        "damaged": counts.damaged,
        "not_written": documents.not_written,
    }


def warn_of_damaged(counts: Counts) -> None:
    """Say how many kept documents were found damaged."""
    from ranklens.cli.output import warn

    if counts.damaged:
        warn([f"{counts.damaged} kept documents were damaged, and are computed and kept anew"])


def _ways(folder: Path) -> list[tuple[Any, Any]]:
    """Return the pairs of storage and keep_tokens in a folder, each once."""
    from ranklens.rerank.kv.disk import described, spaces

    found = []
    for space in spaces(folder):
        description = described(space)
        if description is None or "storage" not in description:
            raise InvalidInputError(
                f"{space / 'space.json'} is damaged, so nothing says how the documents beside it "
                f"are kept; remove {space}, and they are computed again"
            )
        found.append((description["storage"], description.get("keep_tokens")))
    return sorted(set(found), key=repr)


def _said(way: tuple[Any, Any]) -> str:
    storage, keep_tokens = way
    return f"{storage}" if keep_tokens is None else f"{storage}, {keep_tokens} tokens each"
