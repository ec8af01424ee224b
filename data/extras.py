"""Optional dependencies: found missing before they are needed, with the line that installs them."""

from __future__ import annotations

import importlib.util

from ranklens.data.errors import MissingPrerequisiteError


def require(extra: str, *modules: str) -> None:
    """Check that the top-level `modules`, which the optional dependency `extra` brings, exist.

    Nothing is imported. Raises `MissingPrerequisiteError` that names the missing modules and
    the line that installs them.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise MissingPrerequisiteError(
            f"{', '.join(missing)} {verb} not installed: pip install 'ranklens[{extra}]'"
        )
