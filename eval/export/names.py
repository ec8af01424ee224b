"""Names that become file and folder names: checked, so that none leads out of its folder."""

from __future__ import annotations

import re

from ranklens.data.errors import UsageError
from ranklens.data.files import shown

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


def check_name(kind: str, value: str) -> str:
    """Return a name of letters, digits, dots, dashes and underscores; UsageError for another."""
    if not re.fullmatch(_NAME, value):
        raise UsageError(
            f"the {kind} {shown(value)} is not a name: letters, digits, '.', '_' and '-' make one, "
            "and a letter or a digit begins it"
        )
    return value


def check_repository(kind: str, value: str) -> str:
    """Return a name as the Hugging Face hub has it, ORGANISATION/NAME; UsageError for another."""
    if not re.fullmatch(f"{_NAME}/{_NAME}", value):
        raise UsageError(
            f"the {kind} {shown(value)} is not ORGANISATION/NAME, as the Hugging Face hub has it"
        )
    return value
