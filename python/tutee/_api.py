"""The functions of the package: each is one run of the command."""

from __future__ import annotations

import html
import json
import os
import pathlib
import re
import tempfile
from typing import Any, Iterable, Sequence, Union

from ._data import Data, path_of
from ._errors import TargetMissed
from ._recipe import Recipe
from ._report import Check, Report, Sensitivity
from ._run import Done, run

Path = Union[str, "os.PathLike[str]"]
Share = Union[float, str]
Target = Union[float, int, str]


def version() -> str:
    """The version of the command."""
    return run(["--version"], progress=False).out.strip().removeprefix("tutee ")


def compress(
    teacher: Path,
    student: Path,
    *,
    target_size: Target | None = None,
    target_weights: Target | None = None,
    target_macs: Target | None = None,
    target_latency: str | None = None,
    latency_table: Path | None = None,
    max_drop: Share | None = None,
    min_agreement: Share | None = None,
    max_error: Share | None = None,
    recipe: Recipe | Path | None = None,
    passes: Sequence[str] = (),
    calib: Data | None = None,
    calib_samples: int | None = None,
    train: Data | None = None,
    test: Data | None = None,
    scale: float | str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    minutes: float | None = None,
    candidates: int | None = None,
    best_effort: bool = False,
    external_data: bool = False,
    in_place: bool = False,
    threads: int | None = None,
    options: Iterable[str] = (),
    raise_missed: bool = True,
    progress: bool = True,
) -> Report:
    """Writes a smaller model and says what was done.

    With a target (`target_size="10x"`, `"40%"` or 0.4, `"250kB"` or 250000, and the same of weights and MACs;
    `target_latency="2x"` or `"5ms"`, measured here or by the costs in `latency_table`) or `max_drop` and no `recipe` or
    `passes`, the recipe is searched for. `passes` are steps as on the command line, `"cluster-weights:bits=4"`.

    `calib` (no labels needed), `train` and `test` are an array [N, …], a mapping of input names (or `x`, and labels `y`) to
    arrays, or a path. Float inputs become `(x * scale - mean) / std`. `options` go to the command as they are.

    Raises `Error` where nothing was written, and `TargetMissed` where the student was, but missed a target, unless
    `raise_missed` is false. After Ctrl-C the report is that of the best so far (`report.interrupted`), if there is one.
    """
    with tempfile.TemporaryDirectory(prefix="tutee-") as name:
        folder = pathlib.Path(name)
        arguments = ["compress", os.fspath(teacher), "-o", os.fspath(student), *told(folder)]
        arguments += goal(target_size, target_weights, target_macs, target_latency, latency_table)
        arguments += values(
            max_drop=max_drop, min_agreement=min_agreement, max_error=max_error, calib_samples=calib_samples, minutes=minutes,
            candidates=candidates, threads=threads,
        )  # fmt: skip
        arguments += _flags(best_effort=best_effort, external_data=external_data, in_place=in_place)
        if isinstance(recipe, Recipe):
            recipe.save(folder / "recipe.toml")
            recipe = folder / "recipe.toml"
        if recipe is not None:
            arguments += ["--recipe", os.fspath(recipe)]
        for step in passes:
            arguments += ["--pass", step]
        for key, data in (("calib", calib), ("train", train), ("test", test)):
            if data is not None:
                arguments += [f"--{key}", path_of(data, key, folder)]
        arguments += normalise(scale, mean, std)
        return report_of(run([*arguments, *options], progress, name), folder, raise_missed)


def told(folder: pathlib.Path) -> list[str]:
    """Arguments that let the command write into a folder what `report_of` reads."""
    report, page, recipe = (str(folder / name) for name in ("report.json", "report.html", "found.toml"))
    return ["--report", report, "--report", page, "--save-recipe", recipe]


def report_of(done: Done, folder: pathlib.Path, raise_missed: bool) -> Report:
    """What a run wrote into a folder that goes."""
    files = (folder / name for name in ("report.json", "report.html", "found.toml"))
    written = [path.read_text(encoding="utf-8") if path.exists() else "" for path in files]
    name = str(folder)
    report = Report(
        _without(json.loads(written[0]), os.path.join(name, "")),
        html=written[1].replace(html.escape(os.path.join(name, "")), ""),
        text=re.sub(r", report in report.json.*", "", done.out),
        recipe="".join(line for line in written[2].splitlines(True) if not _is_array(line, name)),
        interrupted=done.interrupted,
    )
    if done.code == 2 and raise_missed and not done.interrupted:
        raise TargetMissed(report)
    return report


def check(
    teacher: Path,
    student: Path,
    data: Data,
    *,
    max_drop: Share | None = None,
    min_agreement: Share | None = None,
    max_error: Share | None = None,
    scale: float | str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    threads: int | None = None,
    options: Iterable[str] = (),
    progress: bool = True,
) -> Check:
    """Runs teacher and student side by side on data. Targets that are missed are in `missed` of what it returns."""
    with tempfile.TemporaryDirectory(prefix="tutee-") as name:
        arguments = ["check", os.fspath(teacher), os.fspath(student), "--json"]
        arguments += ["--data", path_of(data, "data", pathlib.Path(name))]
        arguments += values(
            max_drop=max_drop, min_agreement=min_agreement, max_error=max_error, threads=threads
        )  # fmt: skip
        arguments += normalise(scale, mean, std)
        done = run([*arguments, *options], progress, name)
    return Check(json.loads(done.out), _missed(done))


def sensitivity(
    model: Path,
    calib: Data,
    *,
    calib_samples: int | None = None,
    skip: Sequence[str] = (),
    scale: float | str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    threads: int | None = None,
    options: Iterable[str] = (),
    progress: bool = True,
) -> Sensitivity:
    """What the model loses when one layer alone is pruned, split or encoded, for each layer and several settings.

    Layers are fitted to some samples of `calib` (at most `calib_samples`), the model is judged by the others. `skip` are
    globs over names of layers to leave alone.
    """
    with tempfile.TemporaryDirectory(prefix="tutee-") as name:
        folder = pathlib.Path(name)
        page = folder / "layers.html"
        arguments = ["sensitivity", os.fspath(model), "--json", "--report", str(page)]
        arguments += ["--calib", path_of(calib, "calib", folder)]
        arguments += values(calib_samples=calib_samples, threads=threads)
        arguments += [f"--skip={glob}" for glob in skip]
        arguments += normalise(scale, mean, std)
        done = run([*arguments, *options], progress, name)
        shown = page.read_text(encoding="utf-8")
    return Sensitivity(json.loads(done.out), html=shown)


def values(**named: Any) -> list[str]:
    """Options with values, those that are not given left out."""
    given = {key: value for key, value in named.items() if value is not None}
    return [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]


def goal(size: Target | None, weights: Target | None, macs: Target | None, latency: str | None, table: Path | None) -> list[str]:
    """Options that say how small a student is to be."""
    return values(
        target_size=_amount(size), target_weights=_amount(weights), target_macs=_amount(macs), target_latency=latency,
        latency_table=None if table is None else os.fspath(table),
    )  # fmt: skip


def _amount(target: Target | None) -> str | None:
    """A share is a percentage to the command."""
    return f"{100 * target:.10g}%" if isinstance(target, float) and 0 < target < 1 else None if target is None else str(target)


def _flags(**flags: bool) -> list[str]:
    return [f"--{key.replace('_', '-')}" for key, given in flags.items() if given]


def normalise(scale: float | str | None, mean: Sequence[float] | None, std: Sequence[float] | None) -> list[str]:
    """Options that say how numbers become inputs."""
    words = [] if scale is None else ["--scale", str(scale)]
    for key, values in (("mean", mean), ("std", std)):
        if values is not None:
            words.append(f"--{key}={','.join(str(float(v)) for v in values)}")
    return words


def _without(value: Any, path: str) -> Any:
    """A JSON value, the names of temporary files in it without their folder."""
    if isinstance(value, dict):
        return {key: _without(item, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_without(item, path) for item in value]
    return value.replace(path, "") if isinstance(value, str) else value


def _is_array(line: str, folder: str) -> bool:
    """Whether a line of a recipe names data that was an array, and is gone with its file."""
    return re.match(r"(calib|train|test) = ", line) is not None and json.dumps(folder)[1:-1] in line


def _missed(done: Done) -> list[str]:
    return [done.error.because or done.error.what] if done.code == 2 and done.error else []
