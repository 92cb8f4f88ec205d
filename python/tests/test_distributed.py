"""A search on a Dask cluster of real processes, whose workers come and go."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Iterator

import numpy as np
import pytest

import tutee
from tutee._run import binary

distributed = pytest.importorskip("distributed", reason="Dask distributed is not installed: pip install 'tutee[distributed]'")
import tutee.distributed  # noqa: E402

SEARCH: dict[str, Any] = {"target_size": "3x", "candidates": 8, "progress": False}


class Cluster:
    """A scheduler and workers, each a process."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(self.file))
        until(self.file.exists)
        self.client = distributed.Client(scheduler_file=str(self.file), timeout=60)

    def _start(self, what: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *arguments, "--no-dashboard"]
        log = (self.folder / f"{what}{len(self.processes)}.log").open("wb")
        self.processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
        return self.processes[-1]

    def worker(self, name: str) -> subprocess.Popen[bytes]:
        """A worker without a nanny, which would start it again."""
        process = self._start(
            "worker", "--scheduler-file", str(self.file), "--name", name, "--nthreads", "1", "--no-nanny", "--memory-limit", "400MiB",
            "--local-directory", str(self.folder / name),
        )  # fmt: skip
        until(lambda: name in self.names())
        return process

    def names(self) -> list[str]:
        return [worker["name"] for worker in self.client.scheduler_info(n_workers=-1)["workers"].values()]

    def results(self, name: str) -> int:
        """How many jobs a worker has done."""
        return len(list((self.folder / name).rglob("results/*.json")))

    def close(self) -> None:
        self.client.close()
        for process in self.processes:
            process.kill()
            process.wait()


def until(is_so: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


@pytest.fixture
def cluster(tmp_path: pathlib.Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = str(tmp_path_factory.mktemp("teacher") / "teacher.onnx")
    arguments = ["new", "student-net", "--classes", "10", "--input", "1x16x16", "--base", "4", "-o", file]
    subprocess.run([binary(), *arguments], check=True, capture_output=True)
    return file


PICTURES = np.random.default_rng(1).normal(size=(80, 1, 16, 16)).astype(np.float32)


def test_workers_come_and_go_and_the_student_is_the_same(tmp_path: pathlib.Path, cluster: Cluster, teacher: str) -> None:
    alone, student = tmp_path / "alone.onnx", tmp_path / "student.onnx"
    tutee.compress(teacher, alone, calib=PICTURES, minutes=60, **SEARCH)
    killed = cluster.worker("killed")
    cluster.worker("stays")
    reports: list[tutee.Report] = []

    def search() -> None:
        reports.append(tutee.distributed.search(cluster.client, teacher, student, calib=PICTURES, jobs=3, **SEARCH))

    running = threading.Thread(target=search)
    running.start()
    # In the middle of a job: one that it had before is done.
    address = next(a for a, w in cluster.client.scheduler_info(n_workers=-1)["workers"].items() if w["name"] == "killed")
    until(lambda: cluster.results("killed") > 0 and bool(cluster.client.processing().get(address)))
    os.kill(killed.pid, signal.SIGKILL)
    cluster.worker("late")
    until(lambda: cluster.results("late") > 0 or not running.is_alive())
    late = cluster.results("late")
    running.join()
    assert late > 0, "the late worker had nothing to do"
    assert "killed" not in cluster.names() and len(reports) == 1
    assert student.read_bytes() == alone.read_bytes()
    assert len(reports[0]["search"]["tried"]) == SEARCH["candidates"]
    # Nothing stays on the workers.
    until(lambda: not list((tmp_path / "stays").rglob("inputs")))


def test_a_search_goes_on_where_it_was(tmp_path: pathlib.Path, cluster: Cluster, teacher: str) -> None:
    cluster.worker("one")
    few = {**SEARCH, "candidates": 2}
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    for student in (first, second):
        tutee.distributed.search(cluster.client, teacher, student, calib=PICTURES, folder=tmp_path / "jobs", **few)
    assert first.read_bytes() == second.read_bytes()
    with pytest.raises(tutee.Error, match="another search"):
        tutee.distributed.search(cluster.client, teacher, first, calib=PICTURES[1:], folder=tmp_path / "jobs", **few)


def test_what_fails_on_a_worker_is_raised_here(
    tmp_path: pathlib.Path, cluster: Cluster, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = binary()
    monkeypatch.setenv("TUTEE_BINARY", str(tmp_path / "none"))
    cluster.worker("without the command")
    monkeypatch.setenv("TUTEE_BINARY", own)
    with pytest.raises((tutee.Error, FileNotFoundError), match="none|command"):
        tutee.distributed.search(cluster.client, teacher, tmp_path / "s.onnx", calib=PICTURES, **SEARCH)
    assert not (tmp_path / "s.onnx").exists()
