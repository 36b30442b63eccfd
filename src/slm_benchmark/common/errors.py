"""The two ways in which a run can go wrong that are not a bug of this project."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from pathlib import Path

_ABSENT = object()


class UserError(Exception):
    """Bad input: names the file, the field, the value and the fix, in one line.

    Args:
        message: What is wrong, as a clause without a final full stop.
        file: The file that holds the offending value.
        field: Dotted path of the field inside the file, such as ``source.sha256``.
        value: The offending value as it was read.
        fix: What to do about it, as an imperative sentence.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        field: str | None = None,
        value: object = _ABSENT,
        fix: str | None = None,
    ) -> None:
        self.message, self.file, self.field, self.fix = message, file, field, fix
        where = ": ".join(_one_line(str(part)) for part in (file, field) if part is not None)
        what = message if value is _ABSENT else f"{message} (got {value!r})"
        text = f"{where}: {what}" if where else what
        super().__init__(f"{text}. Fix: {fix}" if fix else text)


def _one_line(text: str) -> str:
    """``text`` with the control characters written out: a key can be any text."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class RunEnvironmentError(UserError):
    """An environment error (memory, disk, network): retried, never recorded as a score."""


class NotRun(UserError):
    """A measurement that this machine or configuration cannot make; recorded as not_run."""


class NotApplicable(UserError):
    """A measurement that the model does not allow for; recorded as not_applicable."""


def require_known(
    kind: str,
    value: str,
    known: Collection[str],
    file: str | Path | None = None,
    field: str | None = None,
) -> None:
    """Refuse a name that stands for nothing, and suggest the nearest one that does.

    Args:
        kind: What the name should stand for, such as task.
        value: The name.
        known: The names that stand for something.
        file: The file that holds it, or the one whose entries are known.
        field: Dotted path of the field inside the file.

    Raises:
        UserError: when ``value`` is not among ``known``.
    """
    if value not in known:
        raise UserError(
            f"unknown {kind}", file=file, field=field, value=value, fix=suggestion(value, known)
        )


def suggestion(word: str, known: Iterable[str]) -> str:
    """A fix for an unknown word: the nearest known one, or the list of all."""
    choices = sorted(known)
    near = difflib.get_close_matches(word, choices, n=1)
    return f"did you mean {near[0]!r}?" if near else f"use one of: {', '.join(choices)}"
