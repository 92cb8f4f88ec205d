"""The package on a real network of the repository, with the real command."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import tutee

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures"
TEACHER = FIXTURES / "resnet_small_bn.onnx"
NORMALISE = {"scale": "1/255", "mean": [0.2860], "std": [0.3530]}


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "fashion_test.npz") as data:
        return {key: data[key][:64] for key in data.files}


def test_arrays_in_report_out(tmp_path: pathlib.Path, images: dict[str, np.ndarray]) -> None:
    student = tmp_path / "student.onnx"
    report = tutee.compress(
        TEACHER, student, passes=["clean", "cluster-weights:bits=4"], calib=images["x"], test=images, progress=False, **NORMALISE
    )
    assert student.stat().st_size == report["student"]["bytes"]
    assert report.ratio > 5 and not report.missed and report.check is not None
    assert str(report) and dict(report)["version"] == 1


def test_the_recipe_of_a_report_gives_the_same_student(tmp_path: pathlib.Path) -> None:
    recipe = tutee.Recipe().step("clean").step("factorize-linear", params="90%", best_effort=True)
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    report = tutee.compress(TEACHER, first, recipe=recipe, raise_missed=False, progress=False)
    tutee.compress(TEACHER, second, recipe=report.recipe, progress=False)
    assert first.read_bytes() == second.read_bytes()


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


def test_recipes_are_text() -> None:
    recipe = tutee.Recipe().data(scale="1/255").step("clean").step("prune-channels", width={"a\"*": 0.5}, skip_first=0)
    assert str(recipe) == (
        'version = 1\n\n[data]\nscale = "1/255"\n\n[[step]]\npass = "clean"\n\n'
        '[[step]]\npass = "prune-channels"\nwidth = { "a\\"*" = 0.5 }\nskip-first = 0\n'
    )
    with pytest.raises(TypeError):
        recipe.step("clean", x=object())


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_the_command(tmp_path: pathlib.Path) -> None:
    code = (
        "import sys, tutee\n"
        f"r = tutee.compress({str(TEACHER)!r}, {str(tmp_path / 's.onnx')!r}, passes=['clean', 'distill:epochs=500'], "
        f"train={str(FIXTURES / 'fashion_test.npz')!r}, scale='1/255', progress=False)\n"
        "print('interrupted', r.interrupted)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    time.sleep(15)
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=120)
    assert out.strip() == "interrupted True" and (tmp_path / "s.onnx").exists()
