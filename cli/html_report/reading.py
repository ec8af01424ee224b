"""The reranker whose attention a report shows: which one, and reading with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ranklens.cli.html_report.attention import Task, read_attention
from ranklens.cli.html_report.content import Attention, ReportedQuery, ShownDocument
from ranklens.cli.html_report.sources import Manifest, Source
from ranklens.cli.output import note
from ranklens.cli.progress import progress
from ranklens.data.errors import MissingPrerequisiteError, MissingResourceError, UsageError
from ranklens.data.models.naming import name_of
from ranklens.data.records import Document, Query
from ranklens.data.runs import Run
from ranklens.rerank.profile import Profile
from ranklens.rerank.profile_file import default_profile, load_profile, profile_of

if TYPE_CHECKING:
    from ranklens.rerank.attention_reranker import AttentionReranker
    from ranklens.rerank.bias import Reading

_KIND = "attention"


@dataclass(frozen=True, slots=True)
class Read:
    """What was read: tokens (None: of no query), shuffled orders, what it was read with."""

    run: str
    attention: Attention | None = None
    readings: Sequence[Reading] = ()
    warnings: Sequence[str] = ()
    with_what: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Reader:
    """A reranker that is not loaded yet, and the lists that it is to read.

    ``scores`` is the run that it made, None where it is not known. ``required``: a model that is
    not there is an error, not a warning. ``expected`` are device, dtype and revision of the run.
    """

    run: str
    candidates: Run
    depth: int
    scores: Run | None
    model: str
    profile: Profile
    device: str | None = None
    dtype: str | None = None
    required: bool = False
    expected: Mapping[str, str] = field(default_factory=dict)

    def read(
        self,
        queries: Sequence[Query],
        numbers: Mapping[str, int],
        texts: Mapping[str, Document],
        listed: Sequence[ReportedQuery],
        documents: Mapping[str, ShownDocument],
        permutations: int,
    ) -> Read:
        """Read the lists of these queries; see ``read_attention``.

        Raises MissingResourceError and MissingPrerequisiteError, where ``required``, for a model
        or a package that is not there; without it that is a warning.
        """
        try:
            reranker = self._load()
        except (MissingResourceError, MissingPrerequisiteError) as error:
            if self.required:
                raise
            return Read(
                self.run,
                warnings=[
                    f"no tokens are coloured: {error} (--reranker attention:MODEL names another "
                    "place of the model)"
                ],
            )
        task = Task(
            self.run, self.candidates, self.depth, self.scores, queries, numbers, permutations
        )
        with progress("reading attention", task.total(texts), "docs") as advance:
            attention, readings, warnings = read_attention(
                reranker, task, texts, listed, documents, advance
            )
        placement = reranker.engine.placement
        now = {
            "model": name_of(self.model),
            "revision": reranker.model.revision if reranker.model else "",
            "profile": self.profile.name,
            "device": placement.device,
            "dtype": placement.dtype,
        }
        known = self.expected.get("revision")
        if known and known != now["revision"]:
            warnings.append(
                f"attention was read with revision {now['revision']} of {now['model']}; "
                f"{self.run} was made with {known}"
            )
        return Read(self.run, attention, readings, warnings, now)

    def _load(self) -> AttentionReranker:
        from ranklens.data.extras import require

        require("llm", "torch", "transformers", "safetensors")
        from ranklens.cli.specs import pull_model
        from ranklens.data.device import choose_placement
        from ranklens.data.models import resolve
        from ranklens.rerank.attention_reranker import AttentionReranker

        # A model of a few gigabytes is fetched only for somebody who asked for it.
        if self.required:
            pull_model(self.model)
        else:
            resolve(self.model)
        dtype = self.dtype
        if dtype is None and choose_placement(self.device).device == self.expected.get("device"):
            dtype = self.expected.get("dtype")
        note(f"loading {self.model}")
        reranker = AttentionReranker.from_pretrained(
            self.model, profile=self.profile, device=self.device, dtype=dtype
        )
        placement = reranker.engine.placement
        note(f"running on {placement.device}: {placement.reason}")
        return reranker


def find_reader(
    sources: Sequence[Source],
    depth: int,
    *,
    reranker: str | None = None,
    profile: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    required: bool = False,
) -> tuple[Reader | None, tuple[str, ...]]:
    """Return the reranker to read with, and why there is none although a run is of one.

    It is that of the first run folder of an attention reranker. ``reranker`` (attention:MODEL)
    names its model, in place of the manifest's; where all runs are files it reads the first
    ``depth`` documents of the first run. Raises UsageError for another kind of reranker, and
    where ``required`` without anything to read.
    """
    model = None
    if reranker is not None:
        kind, _, model = reranker.partition(":")
        if kind != _KIND or not model:
            raise UsageError(
                f"--reranker {reranker!r} has no attention to show; expected attention:MODEL"
            )
    made = next((source for source in sources if _is_attention(source)), None)
    if made is None:
        if model is None:
            if required:
                raise UsageError(
                    "no run is the folder of an attention reranker; --reranker attention:MODEL "
                    "names one to read the first run with"
                )
            return None, ()
        first = sources[0]
        chosen = load_profile(profile or default_profile(model))
        return (
            Reader(first.name, first.run, depth, None, model, chosen, device, dtype, required=True),
            (),
        )
    assert made.candidates is not None
    assert made.depth is not None
    said = _reranker(made.manifest)
    if said.get("passages"):
        reason = f"{made.name} splits documents into passages, whose tokens cannot be coloured"
        if required:
            raise UsageError(reason)
        return None, (f"{reason} yet",)
    used = said.get("profile")
    if profile is not None or not isinstance(used, dict):
        chosen = load_profile(profile or default_profile(model or str(said.get("model"))))
    else:
        chosen = profile_of(used, f"the profile of {made.label}")
    known = {name: said.get(name) for name in ("device", "dtype", "revision")}
    return (
        Reader(
            made.name,
            made.candidates,
            made.depth,
            made.run,
            model or str(said.get("model")),
            chosen,
            device,
            dtype,
            required=required or model is not None,
            expected={name: str(value) for name, value in known.items() if value},
        ),
        (),
    )


def _is_attention(source: Source) -> bool:
    return source.role == "reranked" and _reranker(source.manifest).get("kind") == _KIND


def _reranker(manifest: Manifest | None) -> Mapping[str, object]:
    said = (manifest or {}).get("reranker")
    return said if isinstance(said, dict) else {}
