"""What can go wrong, in the terms of the command's exit codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping

if TYPE_CHECKING:
    from ._report import Report


class Error(Exception):
    """What happened, where, why, and what to do.

    `kind` is "input" (model, recipe, data or arguments are wrong, or there is no room for them), "target" (the student
    missed one) or "internal" (a bug in tutee). `place` has the outermost place last: a node, then its file.
    """

    def __init__(
        self, what: str, *, kind: str = "input", place: tuple[str, ...] = (), because: str | None = None, help: str | None = None
    ) -> None:
        self.what = what
        self.kind = kind
        self.place = place
        self.because = because
        self.help = help
        lines = [what]
        lines += [f"  at       {', '.join(place)}"] if place else []
        lines += [f"  because  {because}"] if because else []
        lines += [f"  help     {help}"] if help else []
        super().__init__("\n".join(lines))

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Error:
        """The error that the command wrote."""
        return cls(
            str(message.get("what", "")),
            kind=str(message.get("kind", "internal")),
            place=tuple(message.get("place", ())),
            because=message.get("because"),
            help=message.get("help"),
        )


class TargetMissed(Error):
    """The student was written, and missed a target. `report` has what it is, and `report.missed` which targets."""

    def __init__(self, report: Report) -> None:
        super().__init__("the student missed its target", kind="target", because="; ".join(report.missed))
        self.report = report


class Interrupted(KeyboardInterrupt):
    """The run was interrupted before there was a student: nothing was written."""
