"""Recipes: lists of steps, as the command reads them from TOML."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any, Mapping, Union

Value = Union[bool, int, float, str, "list[Any]", "Mapping[str, Any]"]


class Recipe:
    """Steps with their options, and what data and targets they go with.

        tutee.Recipe().step("clean").step("cluster-weights", bits=4, skip=["head*"])

    An option `skip_first` is written `skip-first`. `str(recipe)` is the TOML text.
    """

    def __init__(self, text: str = "version = 1\n") -> None:
        self.text = text

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """The recipe in a file."""
        return cls(pathlib.Path(path).read_text(encoding="utf-8"))

    def step(self, name: str, /, **options: Value) -> Recipe:
        """This recipe with one more step: a pass, or one of the stages `distill`, `early-exit` and `cascade`."""
        return self._with("[[step]]", {"pass": name, **options})

    def data(self, **options: Value) -> Recipe:
        """This recipe with data: `scale`, `mean`, `std`, `calib`, `test`, `train`, …"""
        return self._with("[data]", options)

    def target(self, **options: Value) -> Recipe:
        """This recipe with targets for the check: `max_drop`, `min_agreement`, `max_error`, …"""
        return self._with("[target]", options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the TOML text to a file."""
        pathlib.Path(path).write_text(self.text, encoding="utf-8")

    def _with(self, section: str, options: Mapping[str, Value]) -> Recipe:
        lines = [f"{key.replace('_', '-')} = {_toml(value)}\n" for key, value in options.items()]
        return Recipe(f"{self.text.rstrip()}\n\n{section}\n{''.join(lines)}")

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Recipe({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (str, os.PathLike)):
        # A JSON string is a basic TOML string but for a surrogate pair and DEL.
        return json.dumps(os.fspath(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        items = [f"{json.dumps(str(key), ensure_ascii=False)} = {_toml(item)}" for key, item in value.items()]
        return "{ " + ", ".join(items) + " }" if items else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    raise TypeError(f"a recipe cannot have a {type(value).__name__}: {value!r}")
