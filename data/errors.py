"""The exceptions of ranklens, one tree, each with the exit code its command ends with.

    RanklensError                     6
    ├── UsageError                    2   the call itself is wrong
    ├── MissingPrerequisiteError      3   a package or program is not installed
    ├── MissingResourceError          4   a model, collection or file is not there
    ├── InvalidInputError             5   a file or argument has unusable content
    ├── NumericalError                6   NaN or Inf where a number was due
    └── PartialError                  7   only part of the work was done; what was done is kept

Every message names the bad
value, where it was found, and the way out.
"""

from __future__ import annotations


class RanklensError(Exception):
    """Base of every error that ranklens raises on purpose."""

    exit_code = 6


class UsageError(RanklensError, ValueError):
    """The call is wrong: an unknown option value, or options that exclude each other."""

    exit_code = 2


class MissingPrerequisiteError(RanklensError, ImportError):
    """A package or program that this call needs is not installed; the message says how."""

    exit_code = 3


class MissingResourceError(RanklensError, FileNotFoundError):
    """A model, collection or file does not exist; the message lists what does."""

    exit_code = 4

    def __str__(self) -> str:
        # OSError.__str__ shows errno and file name fields, which are not set here.
        return str(self.args[0]) if self.args else ""


class InvalidInputError(RanklensError, ValueError):
    """A file or argument holds something unusable; the message names file, line and value."""

    exit_code = 5


class NumericalError(RanklensError, ArithmeticError):
    """A model produced NaN or Inf; the message names layer and document."""


class PartialError(RanklensError):
    """The work was interrupted; what was done is kept, and the message says how to go on."""

    exit_code = 7
