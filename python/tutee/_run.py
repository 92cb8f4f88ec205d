"""Runs the command and passes on what it says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import warnings
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable

from ._errors import Error, Interrupted
from ._progress import Progress


def binary() -> str:
    """The `tutee` command: `TUTEE_BINARY` if that is set, the one of this package, or the first on PATH."""
    named = os.environ.get("TUTEE_BINARY")
    if named:
        return named
    own = os.path.join(sysconfig.get_path("scripts"), "tutee.exe" if os.name == "nt" else "tutee")
    found = own if os.path.exists(own) else shutil.which("tutee")
    if found is None:
        raise Error("there is no `tutee` command", help="install the package again, or set TUTEE_BINARY")
    return found


@dataclass
class Done:
    """What came of a run."""

    code: int
    out: str
    error: Error | None = None
    interrupted: bool = False
    warnings: list[str] = field(default_factory=list)


def run(arguments: Iterable[str], progress: bool, folder: str = "") -> Done:
    """Runs the command with these arguments. What it says of files in `folder`, which nobody knows, has their names alone.

    Raises `Error` where it ended with exit code 1 or 3, and `Interrupted` where a signal ended it with nothing written.
    Ctrl-C is passed on, and the command is waited for: it may have something to show.
    """
    command = [binary(), *arguments, "--message-format", "json"]
    # A session of its own: the terminal's Ctrl-C reaches it once, through here. On Windows it comes from the console.
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        errors="replace", start_new_session=True,
    )  # fmt: skip
    done = Done(0, "")
    path = os.path.join(folder, "") if folder else ""
    with Progress(progress) as bar:
        out: list[str] = []
        assert child.stdout is not None and child.stderr is not None
        readers = [
            threading.Thread(target=lambda stream: out.append(stream.read()), args=(child.stdout,), daemon=True),
            threading.Thread(target=_listen, args=(child.stderr, done, bar.show, path), daemon=True),
        ]
        try:
            # Ctrl-C may come as soon as the first reader has told of something.
            for reader in readers:
                reader.start()
            child.wait()
        except KeyboardInterrupt:
            done.interrupted = True
            if os.name != "nt":
                child.send_signal(signal.SIGINT)
            _wait_or_kill(child)
        except BaseException:
            child.kill()
            raise
        for reader in readers:
            if reader.ident is not None:
                reader.join()
    done.code, done.out = child.returncode, "".join(out)
    if path:
        done.out = done.out.replace(_in_json(path), "").replace(path, "")
    for what in done.warnings:
        warnings.warn(what, stacklevel=3)
    if done.code in (130, 143) or done.code < 0:
        if done.interrupted or done.code in (130, -signal.SIGINT):
            raise Interrupted
        raise Error(f"the command was ended by signal {abs(done.code) % 128}", kind="internal")
    if done.code in (1, 3) or (done.code == 2 and done.error is None):
        raise done.error or Error(f"the command ended with exit code {done.code}", kind="internal")
    return done


def _wait_or_kill(child: subprocess.Popen[str]) -> None:
    """A second Ctrl-C does not wait any more."""
    try:
        child.wait()
    except KeyboardInterrupt:
        child.kill()
        child.wait()
        raise


def _in_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _listen(stream: Iterable[str], done: Done, show: Callable[[dict[str, Any]], None], path: str) -> None:
    for line in stream:
        line = line.replace(_in_json(path), "") if path else line
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            print(line.rstrip(), file=sys.stderr)
        elif message.get("type") == "error":
            done.error = Error.of(message)
        elif message.get("type") == "warning":
            done.warnings.append(str(message.get("what", "")))
        else:
            show(message)
