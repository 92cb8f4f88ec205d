"""A search on the machines of a Dask cluster.

    import distributed, tutee.distributed
    client = distributed.Client("tcp://scheduler:8786")
    report = tutee.distributed.search(client, "teacher.onnx", "student.onnx", target_size="10x", calib=images)

Candidates are jobs of `tutee search`, each a run of the command on a worker. The student is the same, byte for byte, as that
of `tutee.compress` with as many candidates, however many workers there are, whichever of them come and go.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
import uuid
from concurrent.futures import CancelledError
from typing import Any, Iterable, Iterator, Sequence

try:
    import distributed
except ImportError as error:
    raise ImportError("tutee.distributed needs Dask distributed: pip install 'tutee[distributed]'") from error

from ._api import Path, Share, Target, goal, normalise, report_of, told, values
from ._data import Data, path_of
from ._errors import Error
from ._progress import Progress
from ._report import Report
from ._run import run

#: Times that a job is done again where a worker fails at it, beside those that Dask does again after it lost a worker.
RETRIES = 2


def search(
    client: distributed.Client,
    teacher: Path,
    student: Path,
    *,
    target_size: Target | None = None,
    target_weights: Target | None = None,
    target_macs: Target | None = None,
    target_latency: str | None = None,
    latency_table: Path | None = None,
    max_drop: Share | None = None,
    calib: Data | None = None,
    calib_samples: int | None = None,
    train: Data | None = None,
    test: Data | None = None,
    scale: float | str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    candidates: int | None = None,
    techniques: Sequence[str] = (),
    skip: Sequence[str] = (),
    jobs: int | None = None,
    threads: int = 1,
    folder: Path | None = None,
    options: Iterable[str] = (),
    raise_missed: bool = True,
    progress: bool = True,
) -> Report:
    """Writes the best student that a search finds, and says what was done. Arguments are those of `tutee.compress`;
    `target_latency` needs a `latency_table` here.

    At most `jobs` candidates are made at the same time, each with so many `threads`: by default one for each thread that the
    workers have at the beginning. `options` go to `tutee search plan` as they are.

    The model and the data go to each worker once, through the scheduler, and lie on its disk until the search ends. `folder`
    keeps the search: called again with the same folder, it goes on where it was. Workers need this package in the same
    version.
    """
    with tempfile.TemporaryDirectory(prefix="tutee-") as name, Progress(progress) as bar:
        own = pathlib.Path(name)
        place = pathlib.Path(folder) if folder is not None else own / "jobs"
        plan = ["search", "plan", os.fspath(teacher), "-o", str(place), "--quiet"]
        plan += goal(target_size, target_weights, target_macs, target_latency, latency_table)
        plan += values(
            max_drop=max_drop, calib_samples=calib_samples, candidates=candidates,
            jobs=jobs or max(1, sum(client.nthreads().values())),
        )  # fmt: skip
        for key, data in (("calib", calib), ("train", train)):
            if data is not None:
                plan += [f"--{key}", path_of(data, key, own)]
        plan += [f"--techniques={','.join(techniques)}"] if techniques else []
        plan += [f"--skip={glob}" for glob in skip] + normalise(scale, mean, std)
        run([*plan, *options], progress=False, folder=name)
        merge = ["search", "merge", str(place), "-o", os.fspath(student), *told(own)]
        if test is not None:
            merge += ["--test", path_of(test, "test", own)]
        with _shipped(client, place) as plugin:
            jobs_of = _Jobs(client, place, plugin, threads)
            try:
                while True:
                    # The first time there may be results of an earlier call.
                    if jobs_of.results() or not jobs_of.round():
                        done = run(merge, progress=False, folder=name)
                        if not jobs_of.round():
                            return report_of(done, own, raise_missed)
                    bar.show(jobs_of.told())
                    jobs_of.submit()
                    jobs_of.wait()
            finally:
                jobs_of.cancel()


class _Jobs:
    """The jobs of a folder, on their way."""

    def __init__(self, client: distributed.Client, folder: pathlib.Path, plugin: str, threads: int) -> None:
        self.client = client
        self.folder = folder
        self.plugin = plugin
        self.threads = threads
        self.running: dict[str, distributed.Future[Any]] = {}
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        self.candidates = int(plan["content"]["search"]["question"]["options"]["candidates"])

    def round(self) -> list[str]:
        """Jobs that are to be done, those that are needed most before the others."""
        return (self.folder / "round").read_text(encoding="utf-8").split()

    def results(self) -> list[pathlib.Path]:
        """What is done of the round."""
        places = [self.folder / "results" / pathlib.Path(job).name for job in self.round()]
        return [place for place in places if place.exists()]

    def told(self) -> dict[str, Any]:
        """What is shown."""
        done = len(list((self.folder / "results").glob("*.json")))
        words = f"{done} done, {len(self.client.nthreads())} workers"
        return {"type": "progress", "done": min(done, self.candidates), "all": self.candidates, "site": words}

    def submit(self) -> None:
        """Starts what is to be done, and gives up what is not needed any more."""
        wanted = self.round()
        for job in set(self.running) - set(wanted):
            self.running.pop(job).cancel()
        for place, job in enumerate(wanted):
            future = self.running.get(job)
            # Dask gives up what was lost with its workers; it is begun anew.
            if future is None or future.status in ("cancelled", "lost"):
                text = (self.folder / job).read_text(encoding="utf-8")
                self.running[job] = self.client.submit(
                    _done, job, text, self.plugin, self.threads,
                    key=f"{self.plugin}-{pathlib.Path(job).stem}", retries=RETRIES, priority=-place,
                )  # fmt: skip

    def wait(self) -> None:
        """Waits for a result, and puts what there is into the folder."""
        with contextlib.suppress(CancelledError):
            distributed.wait(list(self.running.values()), return_when="FIRST_COMPLETED")
        for job, future in list(self.running.items()):
            if future.status == "error":
                error = future.exception()
                if isinstance(error, Error):
                    raise error
                raise Error(f"a job failed on a worker: {type(error).__name__}", because=str(error), kind="input") from error
            if future.status == "finished":
                _put(self.folder / "results" / pathlib.Path(job).name, future.result())
                del self.running[job]

    def cancel(self) -> None:
        """Gives up what is on its way."""
        self.client.cancel(list(self.running.values()))


class _Inputs(distributed.WorkerPlugin):
    """What jobs read, on the disk of each worker, those too that come later."""

    def __init__(self, name: str, files: dict[str, bytes | None]) -> None:
        """Without content it is a folder."""
        self.name = name
        self.files = files
        self.folder = pathlib.Path()

    def setup(self, worker: distributed.Worker) -> None:
        self.folder = pathlib.Path(worker.local_directory) / self.name
        for name, content in self.files.items():
            if content is None:
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            else:
                _put(self.folder / name, content)
        self.files = {}

    def teardown(self, worker: distributed.Worker) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def _shipped(client: distributed.Client, folder: pathlib.Path) -> Iterator[str]:
    """Brings what jobs of a folder read to all workers, and takes it away at the end. Gives the name it has there."""
    name = f"tutee-{uuid.uuid4().hex[:12]}"
    inputs = {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in (folder / "inputs").rglob("*")
    }
    client.register_plugin(_Inputs(name, inputs))
    try:
        yield name
    finally:
        client.unregister_worker_plugin(name)


def _done(job: str, text: str, plugin: str, threads: int) -> bytes:
    """Does a job on a worker, and gives its result."""
    inputs = distributed.get_worker().plugins[plugin]
    assert isinstance(inputs, _Inputs)
    place, result = inputs.folder / job, inputs.folder / "results" / pathlib.Path(job).name
    _put(place, text.encode())
    run(["search", "run", str(place), "--threads", str(threads), "--quiet"], progress=False)
    return result.read_bytes()


def _put(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file, name = tempfile.mkstemp(dir=path.parent, prefix=".tutee-")
    with os.fdopen(file, "wb") as stream:
        stream.write(content)
    os.replace(name, path)
