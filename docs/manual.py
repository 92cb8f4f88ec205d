#!/usr/bin/env python3
"""A preprocessor of mdBook: the manual pages of tutee, as chapters.

They are what `tutee explain` prints. TUTEE is the command; without it, `tutee` on the path.
"""

import json
import os
import re
import subprocess
import sys
from typing import Any

SUBJECTS = ["recipe", "tables", "data", "targets", "budgets", "search", "jobs", "prune", "quantize"]


def tutee(*arguments: str) -> str:
    command = os.environ.get("TUTEE", "tutee")
    try:
        return subprocess.run([command, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout
    except FileNotFoundError:
        sys.exit(f"{command}: no such command: install it (cargo install --path .), or set TUTEE")


def passes() -> list[str]:
    """The first column, but for the head and for lines that go on."""
    lines = tutee("passes").splitlines()[1:]
    return [line.split()[0] for line in lines if line and not line.startswith(" ")]


def chapter(name: str, number: list[int], parents: list[str]) -> dict[str, Any]:
    page = tutee("explain", name).split("\n", 1)[1]
    # Where a list begins, Markdown asks for a line between that terminals need not have.
    page = re.sub(r"(?m)^(?![*\s]|\d\.)(.+)\n(?=\* )", r"\1\n\n", page)
    path = f"manual/{name}.md"
    content = f"# {name}\n\n{page}"
    return {
        "Chapter": {
            "name": name,
            "content": content,
            "number": number,
            "sub_items": [],
            "path": path,
            "source_path": None,
            "parent_names": parents,
        }
    }


def main() -> None:
    if sys.argv[1:2] == ["supports"]:
        return
    _, book = json.load(sys.stdin)
    # mdBook 0.4 has another word for it.
    items = book["items"] if "items" in book else book["sections"]
    chapters = [i["Chapter"] for i in items if "Chapter" in i]
    for path, names in [("passes.md", [p for p in passes() if p != "none"]), ("forms.md", SUBJECTS)]:
        parent = next(c for c in chapters if c["path"] == path)
        parent["sub_items"] += [
            chapter(name, [*parent["number"], i + 1], [parent["name"]]) for i, name in enumerate(names)
        ]
    json.dump(book, sys.stdout)


if __name__ == "__main__":
    main()
