"""Rerankers and candidates on the command line, and what their names stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.rerank.from_spec import DEFAULT

if TYPE_CHECKING:
    from ranklens.cli.documents import KeptDocuments
    from ranklens.data.collection import Collection
    from ranklens.data.parts import Passages
    from ranklens.data.records import Query, ScoredDoc
    from ranklens.data.runs import Run
    from ranklens.rerank.attention_reranker import AttentionReranker
    from ranklens.rerank.base import Reranker

ATTENTION = "attention"
LONG_LISTS = ("refuse", "anchors")
DEFAULT_RERANKER = DEFAULT
DEFAULT_MODEL = "smollm2-135m"
"""The decoder of commands that look into an untrained one: heads, positions, find."""
# What a score can depend on, besides the model and the profile.
_VERSIONS = ("ranklens", "tokenizers", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class RerankerSpec:
    """A reranker that is described but not loaded: its kind and model, with default settings."""

    kind: str
    model: str
    device: str | None
    dtype: str | None

    @classmethod
    def parse(
        cls,
        text: str,
        profile: str | None,
        device: str | None,
        dtype: str | None,
        long_lists: str = "refuse",
        passages: str | None = None,
        documents: KeptDocuments | None = None,
    ) -> RerankerSpec:
        """Read ``KIND:MODEL``; UsageError names the kinds, or an option of attention's alone.

        For attention see ``AttentionSpec.parse``.
        """
        from ranklens.rerank.from_spec import split_spec

        kind, model = split_spec(text)
        if kind == ATTENTION:
            return AttentionSpec.parse(
                text, profile, device, dtype, long_lists, passages, documents
            )
        given = {
            "--profile": profile is not None,
            "--long-lists": long_lists != "refuse",
            "--passages": passages is not None,
            "--documents": documents is not None,
        }
        for option, is_given in given.items():
            if is_given:
                raise UsageError(
                    f"{option} is for --reranker attention:MODEL; {text} goes without it"
                )
        return RerankerSpec(kind, model, device, dtype)

    @property
    def text(self) -> str:
        """The specification as it is written."""
        return f"{self.kind}:{self.model}" if self.model else self.kind

    def describe(self) -> dict[str, Any]:
        """Return all that a ranking depends on: weights, method, device, dtype, software.

        The model is pulled when it is a named one that is not there yet; nothing is loaded.
        """
        if not self.model:
            return {"kind": self.kind, "versions": _versions(("ranklens",))}
        from ranklens.rerank.from_spec import default_settings

        return self._describe(default_settings(self.kind))

    def load(self) -> Reranker:
        """Load the reranker."""
        from ranklens.rerank.base import Reranker

        if self.model:
            pull_model(self.model)
        return Reranker.from_spec(self.text, device=self.device, dtype=self.dtype)

    def _describe(self, settings: dict[str, Any]) -> dict[str, Any]:
        from ranklens.data.extras import require

        require("llm", "torch", "transformers", "safetensors")
        needed = ("sentence-transformers",) if self.kind == "bi-encoder" else ()
        if needed:
            require("dense", "sentence_transformers")
        from ranklens.data.device import choose_placement
        from ranklens.data.models import resolve

        placement = choose_placement(self.device, self.dtype)
        path = pull_model(self.model)
        if needed:
            from ranklens.data.encoder import modules_digest

            settings = {**settings, "modules": modules_digest(path)}
        return {
            "kind": self.kind,
            # Where a folder lies is the machine's business, not the result's.
            "model": path.name if Path(self.model).expanduser().is_dir() else self.model,
            "revision": resolve(self.model).revision,
            **settings,
            "device": placement.device,
            "dtype": placement.dtype,
            "versions": _versions((*_VERSIONS, *needed)),
        }


@dataclass(frozen=True, slots=True)
class AttentionSpec(RerankerSpec):
    """An attention reranker that is described but not loaded."""

    profile: str
    long_lists: str
    passages: Passages | None
    documents: KeptDocuments | None = None

    @classmethod
    def parse(
        cls,
        text: str,
        profile: str | None,
        device: str | None,
        dtype: str | None,
        long_lists: str = "refuse",
        passages: str | None = None,
        documents: KeptDocuments | None = None,
    ) -> AttentionSpec:
        """Read ``attention:MODEL``, for commands that need its attention; else UsageError.

        Without a profile it is the model's own where one is shipped; it must exist.
        ``passages`` is read by ``parse_passages``. With ``documents`` the profile must be one
        whose documents can be kept, else InvalidInputError.
        """
        from ranklens.rerank.from_spec import split_spec
        from ranklens.rerank.profile_file import default_profile, load_profile

        kind, model = split_spec(text)
        if kind != ATTENTION:
            raise UsageError(
                f"this command reads attention, which {text} does not give; use attention:MODEL"
            )
        profile = profile or default_profile(model)
        split = parse_passages(passages)
        chosen = load_profile(profile)
        if documents is not None:
            from ranklens.rerank.kv.reading import check_profile

            check_profile(chosen, documents.keep_tokens)
        if long_lists not in LONG_LISTS:
            raise UsageError(f"--long-lists is {long_lists!r}; choose {' or '.join(LONG_LISTS)}")
        return cls(kind, model, device, dtype, profile, long_lists, split, documents)

    def describe(self) -> dict[str, Any]:
        """Return all that a ranking depends on; see ``RerankerSpec.describe``."""
        from ranklens.rerank.profile_file import load_profile

        return self._describe(
            {
                "profile": load_profile(self.profile).to_dict(),
                "long_lists": self.long_lists,
                "passages": None if self.passages is None else dataclasses.asdict(self.passages),
                "documents": None if self.documents is None else self.documents.describe(),
            }
        )

    def load(self) -> AttentionReranker:
        """Load the reranker."""
        from ranklens.rerank.attention_reranker import AttentionReranker
        from ranklens.rerank.long_lists import LongLists

        pull_model(self.model)
        return AttentionReranker.from_pretrained(
            self.model,
            profile=self.profile,
            device=self.device,
            dtype=self.dtype,
            long_lists=LongLists(self.long_lists),
            passages=self.passages,
            documents=None if self.documents is None else self.documents.cache(),
        )


def _versions(names: Sequence[str]) -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in names}


def parse_passages(text: str | None) -> Passages | None:
    """Read ``max``, ``sum`` or ``first``, with a passage's size after a colon (``max:128``).

    The size is the reranker's tokens or a retriever's words; neighbours share a quarter of it.
    Raises UsageError for anything else.
    """
    if text is None:
        return None
    from ranklens.data.parts import COMBINE, Passages

    how, colon, size = text.partition(":")
    whole = Passages()
    most = whole.size
    if colon:
        most = int(size) if size.isascii() and size.isdecimal() else 0
    known = {name: name for name in COMBINE}
    if how not in known or most < 1:
        raise UsageError(
            f"--passages is {text!r}; expected max, sum or first, with a size as max:128"
        )
    return dataclasses.replace(whole, size=most, overlap=most // 4, combine=known[how])


def pull_model(model: str) -> Path:
    """Bring a model to this machine, telling the user what happens when that takes time."""
    from ranklens.cli.output import note
    from ranklens.data.models import pull

    return pull(model, progress=note)


def find_candidates(collection: Collection, spec: str, queries: Sequence[Query]) -> Run:
    """Return candidates by the collection's name for them or from a run file.

    Raises InvalidInputError when they have no document for any of the queries. Candidates without
    an order of their own, such as the reranking sets of MS MARCO, are warned of.
    """
    from ranklens.cli.output import warn

    path = Path(spec).expanduser()
    if spec not in collection.candidate_runs and path.is_file():
        from ranklens.data.runs import read_run

        found = read_run(path)
    else:
        found = collection.candidates(spec)
    if not any(found.values()):
        raise InvalidInputError(
            f"the candidates {spec!r} of collection {collection.name!r} list no document"
        )
    if not any(found.get(query.id) for query in queries):
        raise InvalidInputError(
            f"the candidates {spec!r} have none of the {len(queries)} queries of collection "
            f"{collection.name!r} (theirs: {next(iter(found))!r}, …; wanted: {queries[0].id!r}, "
            "…); are they of the same test set?"
        )
    unordered = sum(_one_score(found.get(query.id, ())) for query in queries)
    if unordered:
        warn(
            [
                f"{unordered} queries of the candidates {spec!r} have one score for all their "
                "documents: their order says nothing, only a --depth that takes all is fair"
            ]
        )
    return found


def _one_score(docs: Sequence[ScoredDoc]) -> bool:
    return len(docs) > 1 and docs[0].score == docs[-1].score
