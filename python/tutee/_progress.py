"""A bar for long work: tqdm's if it is there, else a line on a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Progress:
    """Shows what the command says while it works."""

    def __init__(self, shown: bool) -> None:
        self._bar: Any = None
        self._width = 0
        self._line = shown and sys.stderr.isatty()
        self._title = "search"
        if shown:
            try:
                from tqdm.auto import tqdm  # type: ignore[import-untyped, unused-ignore]
            except ImportError:
                return
            self._line = False
            form = "{desc} {percentage:3.0f}%|{bar:24}| {postfix}"
            self._bar = tqdm(total=100, leave=False, bar_format=form)

    def show(self, message: dict[str, Any]) -> None:
        """Takes one message of type `step`, `progress` or `news`."""
        if message.get("type") == "step":
            self._title = f"step {message.get('step')}/{message.get('of')} {message.get('name')}"
            self._put(0.0, "")
        elif message.get("type") == "progress":
            share = float(message.get("done", 0)) / max(1.0, float(message.get("all", 1)))
            left = message.get("seconds_left")
            self._put(share, str(message.get("site", "")) if left is None else f"about {left:.0f} s left")
        elif message.get("type") == "news":
            self._put(None, str(message.get("what", "")))

    def _put(self, share: float | None, words: str) -> None:
        if self._bar is not None:
            if share is not None:
                self._bar.n = round(100 * share)
            self._bar.set_description_str(self._title, refresh=False)
            self._bar.set_postfix_str(words[:60])
        elif self._line:
            percent = "" if share is None else f"{100 * share:3.0f} % "
            text = f"{self._title} {percent}{words}"[:79]
            print("\r" + text.ljust(self._width), end="", file=sys.stderr, flush=True)
            self._width = len(text)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._line and self._width:
            print("\r" + " " * self._width + "\r", end="", file=sys.stderr, flush=True)
