"""The package on a real network of the repository, with the real command."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import tracemalloc
from typing import Callable

import numpy as np
import pytest

import tutee
from tutee._data import path_of
from tutee._run import binary

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures"
TEACHER = FIXTURES / "resnet_small_bn.onnx"
NORMALISE = {"scale": "1/255", "mean": [0.2860], "std": [0.3530]}


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "fashion_test.npz") as data:
        return {key: data[key][:64] for key in data.files}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, np.ndarray]:
    """A teacher that is quick to search for, and pictures."""
    file = str(tmp_path_factory.mktemp("small") / "teacher.onnx")
    arguments = ["new", "student-net", "--classes", "10", "--input", "1x16x16", "--base", "4", "-o", file]
    subprocess.run([binary(), *arguments], check=True, capture_output=True)
    return file, np.random.default_rng(1).normal(size=(80, 1, 16, 16)).astype(np.float32)


def test_arrays_in_report_out(tmp_path: pathlib.Path, images: dict[str, np.ndarray]) -> None:
    student = tmp_path / "student.onnx"
    report = tutee.compress(
        TEACHER, student, passes=["clean", "cluster-weights:bits=4"], calib=images["x"], test=images, progress=False, **NORMALISE
    )
    assert student.stat().st_size == report["student"]["bytes"]
    assert report.ratio > 5 and not report.missed and report.check is not None
    assert str(report) and dict(report)["version"] == 1


def test_arrays_of_different_shapes_are_a_list(tmp_path: pathlib.Path) -> None:
    parts = [np.full((1, n), n, np.float32) for n in (1, 2, 2)]
    folder = pathlib.Path(path_of(parts, "calib", tmp_path))
    assert [np.load(file).tolist() for file in sorted(folder.iterdir())] == [part.tolist() for part in parts]
    assert path_of(parts[1:], "test", tmp_path).endswith("test.npy")


def test_the_recipe_of_a_report_gives_the_same_student(tmp_path: pathlib.Path, images: dict[str, np.ndarray]) -> None:
    recipe = tutee.Recipe().data(**NORMALISE).step("clean").step("factorize-convs", params="80%")
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    report = tutee.compress(TEACHER, first, recipe=recipe, calib=images["x"], progress=False)
    assert "rank = {" in str(report.recipe) and "calib =" not in str(report.recipe)
    tutee.compress(TEACHER, second, recipe=report.recipe, calib=images["x"], progress=False)
    assert first.read_bytes() == second.read_bytes()


def test_a_size_is_enough(tmp_path: pathlib.Path) -> None:
    student = tmp_path / "student.onnx"
    calib = np.load(FIXTURES / "fashion_calib.npz")["x"][:40]
    report = tutee.compress(TEACHER, student, target_size=0.15, candidates=1, calib=calib, progress=False, **NORMALISE)
    assert report.ratio > 1 / 0.15 and len(report["search"]["tried"]) == 1
    assert "cluster-weights" in str(report.recipe) and "calib =" not in str(report.recipe)


def test_layers_say_what_they_cost(small: tuple[str, np.ndarray]) -> None:
    teacher, pictures = small
    alone = tutee.sensitivity(teacher, pictures, skip=["block*"], progress=False)
    assert {row["layer"] for row in alone.choices} == {"classifier.weight"}
    assert alone["fit_samples"] + alone["choose_samples"] == len(pictures)
    first, *others = tutee.sensitivity(teacher, pictures, calib_samples=40, progress=False).layers.items()
    assert len(others) > 5 and all(loss <= first[1] for _, loss in others)
    assert "heat" in alone._repr_html_() and "at 1 layers" in repr(alone)


def test_a_layer_without_a_finite_loss_is_the_most_sensitive() -> None:
    rows = [("a", 1.0), ("b", 2.0), ("c", None), ("b", 0.5)]
    lost = tutee.Sensitivity({"choices": [{"layer": layer, "loss": loss} for layer, loss in rows]})
    assert list(lost.layers.items()) == [("c", float("inf")), ("b", 2.0), ("a", 1.0)]


def test_no_folder_that_is_gone_is_named(tmp_path: pathlib.Path, images: dict[str, np.ndarray]) -> None:
    student = tmp_path / "student.onnx"
    report = tutee.compress(
        TEACHER, student, passes=["none"], calib=images["x"], test=images, progress=False, **NORMALISE
    )
    for text in (str(report), str(dict(report)), report.html, str(report.recipe)):
        assert "tutee-" not in text
    with pytest.raises(tutee.Error) as error:
        tutee.compress(TEACHER, student, recipe=tutee.Recipe().step("cleen"), progress=False)
    assert "recipe.toml" in error.value.place[-1] and "/" not in error.value.place[-1]


def test_a_report_shows_itself(tmp_path: pathlib.Path) -> None:
    report = tutee.compress(TEACHER, tmp_path / "student.onnx", progress=False)
    shown = report._repr_html_()
    assert shown.startswith("<iframe") and "resnet_small_bn" in shown
    assert "tutee.Report: " in repr(report) and str(report).splitlines()[1].startswith("file")


@pytest.mark.parametrize("order", ["C", "F", "channels last", "every second", "float16", "float64", "int64"])
def test_arrays_of_any_form_are_the_same_data(tmp_path: pathlib.Path, images: dict[str, np.ndarray], order: str) -> None:
    x = np.repeat(images["x"], 2, axis=0)
    forms = {
        "C": lambda: images["x"],
        "F": lambda: np.asfortranarray(images["x"]),
        "channels last": lambda: np.ascontiguousarray(images["x"].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        "every second": lambda: x[::2],
    }
    given = forms[order]() if order in forms else images["x"].astype(order)
    check = tutee.check(TEACHER, TEACHER, {"x": given, "y": images["y"]}, progress=False, **NORMALISE)
    want = tutee.check(TEACHER, TEACHER, images, progress=False, **NORMALISE)
    assert check["teacher"]["top1"] == want["teacher"]["top1"] and check.agreement == 1.0


@pytest.mark.parametrize("as_mapping", [True, False])
@pytest.mark.parametrize("form", [lambda a: a, lambda a: a[::2], lambda a: a.transpose(0, 3, 1, 2)])
def test_arrays_are_not_copied(tmp_path: pathlib.Path, form: Callable[[np.ndarray], np.ndarray], as_mapping: bool) -> None:
    array = form(np.zeros((100, 300, 300, 3), np.float32))
    tracemalloc.start()
    path_of({"x": array} if as_mapping else array, "calib", tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < array.nbytes


def test_a_check_says_which_targets_are_missed(tmp_path: pathlib.Path, images: dict[str, np.ndarray]) -> None:
    student = tmp_path / "student.onnx"
    with pytest.warns(UserWarning, match="few networks survive"):
        tutee.compress(TEACHER, student, passes=["clean", "cluster-weights:levels=2"], progress=False)
    check = tutee.check(TEACHER, student, images, max_drop=0.01, progress=False, **NORMALISE)
    assert check.missed and check["samples"] == 64


def test_a_missed_target_has_the_report(tmp_path: pathlib.Path, images: dict[str, np.ndarray]) -> None:
    student = tmp_path / "student.onnx"
    with pytest.raises(tutee.TargetMissed) as missed, pytest.warns(UserWarning):
        tutee.compress(
            TEACHER, student, passes=["cluster-weights:levels=2"], test=images, max_drop=0.01, progress=False, **NORMALISE
        )
    assert missed.value.kind == "target" and missed.value.report.missed and student.exists()


@pytest.mark.parametrize(
    ("what", "arguments"),
    [
        ("no such file", {"teacher": "nothing.onnx"}),
        ("unknown pass", {"passes": ["cluster-weight"]}),
        ("not finite", {"calib": np.full((20, 1, 28, 28), np.nan, np.float32), "passes": ["cluster-weights"]}),
    ],
)
def test_errors_have_kind_and_help(tmp_path: pathlib.Path, what: str, arguments: dict[str, object]) -> None:
    student = tmp_path / "student.onnx"
    with pytest.raises(tutee.Error) as error:
        tutee.compress(arguments.pop("teacher", TEACHER), student, progress=False, **arguments)
    assert error.value.kind == "input" and error.value.what and not student.exists()


def test_no_array_of_numbers_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(tutee.Error, match="`calib` is no array"):
        tutee.compress(TEACHER, tmp_path / "student.onnx", calib=np.array([object()]))


def test_without_dask_it_is_said_how_to_get_it() -> None:
    code = "import sys; sys.modules['distributed'] = None; import tutee.distributed"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.returncode == 1 and "pip install 'tutee[distributed]'" in told.stderr


def test_recipes_are_text() -> None:
    recipe = tutee.Recipe().data(scale="1/255").step("clean").step("prune-channels", width={"a\"*": 0.5}, skip_first=0)
    assert str(recipe) == (
        'version = 1\n\n[data]\nscale = "1/255"\n\n[[step]]\npass = "clean"\n\n'
        '[[step]]\npass = "prune-channels"\nwidth = { "a\\"*" = 0.5 }\nskip-first = 0\n'
    )
    with pytest.raises(TypeError):
        recipe.step("clean", x=object())


class Interruptible:
    """A call in a process of its own, which Ctrl-C reaches once the command has said a certain word."""

    def __init__(self, teacher: str | pathlib.Path, call: str) -> None:
        code = (
            "import sys, tutee, tutee._progress as p\n"
            "p.Progress.show = lambda self, message: print(message, flush=True)\n"
            f"try:\n    r = tutee.compress({str(teacher)!r}, {call}, progress=False)\n"
            "    print('interrupted', r.interrupted)\n"
            "except KeyboardInterrupt as e:\n    print(type(e).__name__)\n"
        )
        self.child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)

    def after(self, word: str) -> str:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            if word in line:
                break
        self.child.send_signal(signal.SIGINT)
        return self.child.communicate(timeout=300)[0].splitlines()[-1]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_gives_what_was_learned_so_far(tmp_path: pathlib.Path, small: tuple[str, np.ndarray]) -> None:
    student, data = tmp_path / "s.onnx", tmp_path / "x.npy"
    np.save(data, small[1])
    step = "distill:epochs=5000,learning-rate=0.001"
    run = Interruptible(small[0], f"{str(student)!r}, passes=['clean', {step!r}], train={str(data)!r}")
    assert run.after("epoch 0") == "interrupted True" and student.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_gives_the_best_that_was_found(tmp_path: pathlib.Path, small: tuple[str, np.ndarray]) -> None:
    student, data = tmp_path / "s.onnx", tmp_path / "x.npy"
    np.save(data, small[1])
    run = Interruptible(small[0], f"{str(student)!r}, target_size='2x', candidates=1000, calib={str(data)!r}")
    assert run.after("'done': 1,") == "interrupted True" and student.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_before_there_is_anything(tmp_path: pathlib.Path) -> None:
    student = tmp_path / "s.onnx"
    data = str(FIXTURES / "fashion_calib.npz")
    run = Interruptible(TEACHER, f"{str(student)!r}, passes=['clean', 'cluster-weights:bits=4'], calib={data!r}")
    assert run.after("clean") == "Interrupted" and not student.exists()
