"""Print the standard library's docstrings as JSON Lines; run as a script by corpus.py.

Needs nothing but the standard library and is never imported by ranklens: importing a few
hundred modules has side effects, which belong in a process of their own.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import json
import os
import pkgutil
import re
import sys
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

MAX_WORDS = 120

# Programs and demos (some open a window or a browser, or print), what needs a display,
# packaging machinery, and modules that are another module's implementation.
SKIPPED = {
    "antigravity", "distutils", "ensurepip", "idlelib", "lib2to3", "msilib", "pip", "pydoc_data",
    "this", "tkinter", "turtle", "turtledemo",
    "genericpath", "nt", "ntpath", "nturl2path", "opcode", "posix", "posixpath", "pyexpat",
    "sre_compile", "sre_constants", "sre_parse",
}  # fmt: skip
SKIPPED_ANYWHERE = {"test", "tests"}
# One module a character set, all with the same classes.
NOT_DESCENDED = {"encodings"}
# Documented names that their module left out of its __all__.
FORGOTTEN = {
    "contextlib.AsyncContextDecorator", "email.utils.localtime", "hashlib.scrypt",
    "http.cookies.Morsel", "importlib.metadata.EntryPoint", "importlib.metadata.EntryPoints",
    "linecache.getlines", "os.PathLike", "pkgutil.resolve_name", "tokenize.open",
}  # fmt: skip

BOILERPLATE = re.compile(
    r"Initialize self\.|(Alias for field number \d+|An enumeration\.|None|\*\*DEPRECATED\*\*)$"
)
RULER = re.compile(r"([^\w\s])\1{3,}")
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Named(NamedTuple):
    """A public name for an object: module and attribute, and the sort key of the name."""

    key: tuple[bool, bool, bool, int, str]
    module: str
    name: str
    value: Any


class Source(str):
    """Text that is its own repr, so that a signature shows it without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def public_modules() -> dict[str, types.ModuleType]:
    """Every importable public module by name; one that this platform lacks is left out."""
    found: dict[str, types.ModuleType] = {}
    # os.path is an attribute, not a submodule that pkgutil could find.
    names = [*sorted(sys.stdlib_module_names, reverse=True), "os.path"]
    while names:
        name = names.pop()
        last = name.rpartition(".")[2]
        if last.startswith("_") or last in SKIPPED_ANYWHERE or name in SKIPPED:
            continue
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit):
            continue
        found[name] = module
        if hasattr(module, "__path__") and name not in NOT_DESCENDED:
            names += [info.name for info in pkgutil.iter_modules(module.__path__, f"{name}.")]
    return found


def qualified(module: str, name: str) -> str:
    """The id: what one writes after ``import module``, so builtins go without a prefix."""
    return name if module == "builtins" else f"{module}.{name}"


def exported(module: str, modules: dict[str, types.ModuleType]) -> Iterator[tuple[str, Any]]:
    """The names that a module offers: its __all__, else what it does not merely import."""
    namespace = vars(modules[module])
    listed = getattr(modules[module], "__all__", None)
    for name in sorted({*namespace, *(listed or ())}):
        value = getattr(modules[module], name, None)
        if name.startswith("_") or isinstance(value, types.ModuleType | types.GenericAlias):
            continue
        home = str(getattr(value, "__module__", None))
        if listed is None:
            offered = module in ("builtins", home) or home not in modules
        else:
            offered = name in listed or qualified(module, name) in FORGOTTEN
        if home.startswith(f"{module}.") and home in modules:
            # asyncio offers TaskGroup, yet 3.11 has it in the __all__ of asyncio.taskgroups only.
            offered = offered or name in getattr(modules[home], "__all__", ())
        # socket.SocketType is what socket.socket is built on.
        other = isinstance(value, type) and name != value.__name__ in namespace
        if offered and (module == "builtins" or not other):
            yield name, value


def own_doc(value: object) -> str:
    """The docstring of this very object, not one looked up on its type or a base class."""
    if isinstance(value, type):
        # The __doc__ of type and property is a descriptor.
        doc = value.__doc__ if value.__dict__.get("__doc__") else None
        if isinstance(doc, str):
            fields = hasattr(value, "__dataclass_fields__") or hasattr(value, "_fields")
            return "" if fields and doc.startswith(f"{value.__name__}(") else doc
        value = value.__dict__.get("__init__")
    doc = getattr(value, "__doc__", None)
    return doc if isinstance(doc, str) and doc != type(value).__doc__ else ""


def best_names(modules: dict[str, types.ModuleType]) -> list[Named]:
    """Each documented object once, under the public name that a reader would expect."""
    best: dict[object, Named] = {}
    for module in modules:
        for name, value in exported(module, modules):
            if not own_doc(value) and not isinstance(value, type):
                continue
            home = str(getattr(value, "__module__", None) or module)
            key = (
                getattr(value, "__name__", name) != name,  # IOError is OSError
                module != "builtins",  # open before io.open
                home.split(".")[0].lstrip("_") != module.split(".")[0],
                module.count("."),  # asyncio.run before asyncio.runners.run
                qualified(module, name),
            )
            # secrets.choice and random.choice are one function, bound to different objects.
            bound = isinstance(value, types.MethodType)
            identity = (id(value.__func__), module, name) if bound else id(value)
            candidate = Named(key, module, name, value)
            best[identity] = min(best.get(identity, candidate), candidate, key=lambda n: n.key)
    return sorted(best.values(), key=lambda n: qualified(n.module, n.name))


def unwrapped(raw: object) -> object:
    """The function inside a classmethod or staticmethod, else the value itself."""
    return raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw


def members(cls: type, public: set[int]) -> Iterator[tuple[str, object, int]]:
    """A class's public methods and properties, each with how far up it is defined.

    Those of a private base class count as the class's own where no public class between
    the two has them already: argparse.ArgumentParser.add_argument is written in one.
    """
    bases = cls.__mro__[1:]
    open_to_all = [base for base in bases if id(base) in public]
    for distance, owner in enumerate(cls.__mro__):
        if owner in bases and any(owner in base.__mro__ for base in open_to_all):
            continue
        for name, raw in list(vars(owner).items()):
            function = unwrapped(raw)
            kind = inspect.isroutine(function) or inspect.isdatadescriptor(function)
            if name.startswith("_") or not kind or isinstance(function, type):
                continue
            doc = own_doc(function)
            # A docstring repeated from the base class says nothing new.
            if doc and all(doc != getattr(vars(b).get(name), "__doc__", "") for b in open_to_all):
                yield name, raw, distance


def best_members(classes: list[Named], taken: set[object]) -> dict[str, tuple[Named, object]]:
    """The methods of all classes by id; one that classes share goes to the nearest class."""
    public = {id(named.value) for named in classes}
    best: dict[object, tuple[Any, str, Named, object]] = {}
    for named in classes:
        seen: set[str] = set()
        for name, raw, distance in members(named.value, public):
            function = unwrapped(raw)
            if name in seen or (id(function), named.module, name) in taken:
                continue
            seen.add(name)
            full = f"{qualified(named.module, named.name)}.{name}"
            alias = getattr(function, "__name__", name) != name
            key = (distance, alias, full.count("."), full)
            entry = (key, full, named, raw)
            best[id(function)] = min(best.get(id(function), entry), entry, key=lambda e: e[0])
    return {full: (named, raw) for _, full, named, raw in best.values()}


def default_text(value: object) -> str:
    """A default value, without memory addresses, set order or paths of this machine."""
    if isinstance(value, enum.Enum | type) or inspect.isroutine(value):
        return str(getattr(value, "__name__", None) or getattr(value, "name", "..."))
    if isinstance(value, tuple | list) and value and type(value) in (tuple, list):
        items = ", ".join(map(default_text, value))
        return f"[{items}]" if isinstance(value, list) else f"({items})"
    plain = value is None or isinstance(value, bool | int | float | str | bytes | tuple | list)
    path = isinstance(value, str) and len(value) > 1 and os.path.isabs(value)  # noqa: PTH117
    text = repr(value)
    return text if plain and not path and not ADDRESS.search(text) else "..."


def signature(value: Any, skip_first: bool = False) -> str:
    """The call as one writes it, without annotations; nothing where Python knows none."""
    try:
        found = inspect.signature(value)
    except (ValueError, TypeError, AttributeError, NameError):
        return ""
    parameters = list(found.parameters.values())[skip_first:]
    if isinstance(value, type) and [p.kind for p in parameters] == [2, 4]:
        return ""  # (*args, **kwargs), which says nothing
    shown = []
    for parameter in parameters:
        default = parameter.default
        if default is not inspect.Parameter.empty:
            default = Source(default_text(default))
        shown.append(parameter.replace(annotation=inspect.Parameter.empty, default=default))
    return str(inspect.Signature(shown))


def member_signature(cls: type, name: str, raw: object) -> str:
    """The signature of a method as its caller sees it, so without self."""
    if isinstance(raw, classmethod | staticmethod | types.ClassMethodDescriptorType):
        return signature(getattr(cls, name))
    return signature(raw, skip_first=True) if inspect.isroutine(raw) else ""


def tidy(doc: str) -> str:
    """A docstring as paragraphs, cut before the paragraph that would pass MAX_WORDS."""
    kept: list[str] = []
    words = 0
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(doc)):
        tokens = ADDRESS.sub("", RULER.sub(" ", paragraph)).split()
        words += len(tokens)
        if words > MAX_WORDS and kept:
            # What announces the paragraph that is cut goes with it.
            while len(kept) > 1 and kept[-1].endswith(":"):
                kept.pop()
            break
        if tokens:
            kept.append(" ".join(tokens[:MAX_WORDS]))
    return "\n\n".join(kept)


def documents() -> Iterator[tuple[str, str, str]]:
    """Every (id, title, text), in no order; an empty text is one to leave out."""
    modules = public_modules()
    for name, module in modules.items():
        yield name, name, tidy(own_doc(module))
    objects = best_names(modules)
    for named in objects:
        full = qualified(named.module, named.name)
        is_callable = inspect.isroutine(named.value) or isinstance(named.value, type)
        call = signature(named.value) if is_callable else ""
        yield full, full + call, tidy(own_doc(named.value))
    taken: set[object] = {
        (id(n.value.__func__), n.module, n.name)
        for n in objects
        if isinstance(n.value, types.MethodType)
    }
    classes = [named for named in objects if isinstance(named.value, type)]
    for full, (named, raw) in best_members(classes, taken).items():
        name = full.rpartition(".")[2]
        yield full, full + member_signature(named.value, name, raw), tidy(own_doc(unwrapped(raw)))


def main() -> None:
    """Write the documents, sorted by id, to the standard output that the caller gave."""
    out = os.dup(1)
    # What a module prints while it is imported must not get between the documents.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    found: dict[str, dict[str, str]] = {}
    for doc_id, title, text in documents():
        if text and text != doc_id.rpartition(".")[2] and not BOILERPLATE.match(text):
            found.setdefault(doc_id, {"id": doc_id, "title": title, "text": text})
    with open(out, "w", encoding="utf-8", newline="\n") as stream:  # noqa: PTH123 (a descriptor)
        for doc_id in sorted(found):
            stream.write(json.dumps(found[doc_id], ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
