"""Errors that a user can act on.

Every message is one line: what is wrong, what was got, what was expected and the remedy.
The command line prints it and exits with ``exit_code``; a traceback is a bug.
"""

from __future__ import annotations

__all__ = [
    "CfpairsError",
    "ConfigError",
    "DataError",
    "MissingDependencyError",
    "UnknownNameError",
    "WorkspaceError",
]


class CfpairsError(Exception):
    """Base of every error that cfpairs raises on purpose.

    Parameters
    ----------
    problem : str
        What is wrong, in a few words.
    got, expected : object, optional
        The value that was met, and what it should have been.
    remedy : str, optional
        What the user can do about it.

    Examples
    --------
    >>> print(CfpairsError("r is too large", got=40, expected="at most 12", remedy="lower --r"))
    r is too large: got 40, expected at most 12; lower --r
    """

    exit_code = 1

    def __init__(
        self,
        problem: str,
        *,
        got: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.got = got
        self.expected = expected
        self.remedy = remedy
        super().__init__(self._line())

    def _line(self) -> str:
        facts = []
        if self.got is not None:
            facts.append(f"got {self.got}")
        if self.expected is not None:
            facts.append(f"expected {self.expected}")
        line = self.problem
        if facts:
            line += ": " + ", ".join(facts)
        if self.remedy:
            line += f"; {self.remedy}"
        return " ".join(line.split())


class ConfigError(CfpairsError, ValueError):
    """The command line or the configuration is wrong (exit status 2)."""

    exit_code = 2


class UnknownNameError(ConfigError):
    """A name that no registry holds; the message suggests the nearest ones."""


class DataError(CfpairsError, ValueError):
    """The data cannot be used as they are (shape, values, labels, files)."""


class WorkspaceError(CfpairsError):
    """The workspace cannot be read or written, is locked, or lacks an earlier stage."""


class MissingDependencyError(CfpairsError, ImportError):
    """An optional library is not installed; the message names the extra that brings it."""
