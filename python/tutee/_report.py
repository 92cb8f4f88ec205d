"""What the command says of a student."""

from __future__ import annotations

from typing import Any, Iterator, Mapping

from ._recipe import Recipe


class _Data(Mapping[str, Any]):
    """JSON that the command wrote, as a mapping."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = dict(data)

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


def _frame(page: str) -> str:
    """A page for a notebook. The frame keeps the page's style away from the notebook's."""
    if not page:
        return ""
    page = page.replace("&", "&amp;").replace('"', "&quot;")
    return f'<iframe srcdoc="{page}" sandbox style="width:100%;height:32em;border:0"></iframe>'


class Check(_Data):
    """Teacher and student side by side on data; the mapping is what `tutee check --json` prints."""

    missed: list[str]

    def __init__(self, data: Mapping[str, Any], missed: list[str] | None = None) -> None:
        super().__init__(data)
        self.missed = missed or []

    @property
    def agreement(self) -> float | None:
        """The share of samples, or of what was lost of the worst output, on which both agree."""
        value = self.data.get("agreement")
        return None if value is None else float(value)

    def __repr__(self) -> str:
        return f"Check({self.data!r})"


class Sensitivity(_Data):
    """What the model loses by each layer alone; the mapping is what `tutee sensitivity --json` prints."""

    def __init__(self, data: Mapping[str, Any], *, html: str = "") -> None:
        super().__init__(data)
        self.html = html

    @property
    def choices(self) -> list[dict[str, Any]]:
        """One row a layer and setting: `layer`, `pass`, `choice`, and what was lost as `predicted`, `loss` and `drop`."""
        return list(self.data["choices"])

    @property
    def layers(self) -> dict[str, float]:
        """The largest loss that was measured of each layer, the most sensitive layer first."""
        worst: dict[str, float] = {}
        for row in self.choices:
            # JSON has no number for a loss that is not finite.
            loss = float("inf") if row["loss"] is None else float(row["loss"])
            worst[row["layer"]] = max(loss, worst.get(row["layer"], loss))
        return dict(sorted(worst.items(), key=lambda item: -item[1]))

    def _repr_html_(self) -> str:
        return _frame(self.html)

    def __repr__(self) -> str:
        return f"<tutee.Sensitivity: {len(self.choices)} choices at {len(self.layers)} layers>"


class Report(_Data):
    """The account of one compression; the mapping is what `tutee compress --report report.json` writes."""

    def __init__(
        self, data: Mapping[str, Any], *, html: str = "", text: str = "", recipe: str = "", interrupted: bool = False
    ) -> None:
        super().__init__(data)
        self.html = html
        self.text = text
        self.interrupted = interrupted
        self._recipe = recipe

    @property
    def missed(self) -> list[str]:
        """Targets that were asked for and not reached."""
        return list(self.data.get("missed", []))

    @property
    def warnings(self) -> list[str]:
        return list(self.data.get("warnings", []))

    @property
    def ratio(self) -> float:
        """How many times smaller the student's file is."""
        return float(self.data["teacher"]["bytes"]) / max(1.0, float(self.data["student"]["bytes"]))

    @property
    def check(self) -> Check | None:
        """Teacher and student on the test data, if there was any."""
        data = self.data.get("check")
        return None if data is None else Check(data)

    @property
    def recipe(self) -> Recipe:
        """What was done, every choice written down: running it gives the same student."""
        return Recipe(self._recipe)

    def _repr_html_(self) -> str:
        return _frame(self.html)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        teacher, student = self.data["teacher"]["bytes"], self.data["student"]["bytes"]
        return f"<tutee.Report: {teacher:,} to {student:,} bytes, {self.ratio:.2f}x>"
