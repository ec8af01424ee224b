"""Rerankers by name: ``KIND:MODEL``, and what each kind takes.

attention        attention of a decoder while it reads the query
cross-encoder    a sequence classifier over (query, document)
bi-encoder       the cosine of two vectors
pointwise        a decoder asked of each document whether it answers the query: yes or no
listwise         a decoder asked to write the order, in windows from the back to the front
listwise-logits  the same, read off its choice of the first identifier
identity         the order of the stage before; has no model
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from ranklens.data.errors import UsageError

DEFAULT = "attention:ranklens-135m"
"""The reranker where none is named: of the command line, the server and every adapter."""
IDENTITY = "identity"
# Modules are imported when a kind is asked for: they load torch.
_CLASSES = {
    "attention": ("attention_reranker", "AttentionReranker"),
    "cross-encoder": ("cross_encoder", "CrossEncoderReranker"),
    "bi-encoder": ("bi_encoder", "BiEncoderReranker"),
    "pointwise": ("pointwise", "PointwiseReranker"),
    "listwise": ("listwise.generated", "ListwiseReranker"),
    "listwise-logits": ("listwise.first_identifier", "FirstIdentifierReranker"),
    IDENTITY: ("identity", "IdentityReranker"),
}
KINDS = tuple(_CLASSES)
"""The kinds of rerankers; all but ``identity`` are followed by a model."""
FORMS = ", ".join(kind if kind == IDENTITY else f"{kind}:MODEL" for kind in KINDS)
"""The forms of a specification, as messages list them."""
_PLACEMENT = ("device", "dtype")
_PLAIN = {"int", "str", "bool", "None"}


def split_spec(spec: str) -> tuple[str, str]:
    """Return a specification's kind and model ("" for identity); UsageError names the kinds."""
    if not isinstance(spec, str):
        raise UsageError(f"a reranker is named by a str, got {type(spec).__name__}: {FORMS}")
    kind, colon, model = spec.partition(":")
    right = not colon if kind == IDENTITY else kind in _CLASSES and bool(model.strip())
    if not right:
        raise UsageError(f"unknown reranker {spec!r}; expected {FORMS}")
    return kind, model.strip()


def from_spec(
    spec: str, *, device: str | None = None, dtype: str | None = None, **settings: Any
) -> Any:
    """Load the ``Reranker`` that ``spec`` names, ``attention:smollm2-135m``, with its settings.

    The model is pulled when it is a named one that is not here yet. Settings are the keywords of
    the class's ``from_pretrained``, such as ``profile`` of attention and ``window`` of listwise.
    Raises UsageError for an unknown kind or setting, with the list, and what the class raises.
    """
    kind, model = split_spec(spec)
    if kind == IDENTITY:
        _check_settings(spec, settings, ())
        return _class(kind)()
    _check_settings(spec, settings, tuple(default_settings(kind)))
    _check_types(spec, settings, kind)
    return _loader(kind)(model, device=device, dtype=dtype, **settings)


def default_settings(kind: str) -> dict[str, Any]:
    """Return the settings of a kind that has a model, with what they are where none is given."""
    parameters = inspect.signature(_loader(kind)).parameters.values()
    return {
        one.name: one.default
        for one in parameters
        if one.kind is one.KEYWORD_ONLY and one.name not in _PLACEMENT
    }


def _loader(kind: str) -> Callable[..., Any]:
    load: Callable[..., Any] = _class(kind).from_pretrained
    return load


def _class(kind: str) -> Any:
    module, name = _CLASSES[kind]
    return getattr(import_module(f"ranklens.rerank.{module}"), name)


def _check_types(spec: str, settings: dict[str, Any], kind: str) -> None:
    """Refuse text for a number and the like before a model is loaded for it."""
    parameters = inspect.signature(_loader(kind)).parameters
    for name, value in settings.items():
        # As it is written: the modules postpone annotations.
        wanted = str(parameters[name].annotation).split(" | ")
        if set(wanted) <= _PLAIN and type(value).__name__.replace("NoneType", "None") not in wanted:
            raise UsageError(
                f"{spec}: {name} must be {' or '.join(wanted)}, got {type(value).__name__}"
            )


def _check_settings(spec: str, settings: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in settings:
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise UsageError(f"{spec} has no setting {name!r}; {takes}")
