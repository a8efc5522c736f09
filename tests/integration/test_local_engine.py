"""The embedded engine in detail: nothing is lost, nothing hangs, nothing is left over."""

import random
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from scythe import (
    BaseExperiment,
    ExperimentInputSpec,
    ExperimentOutputSpec,
    ExperimentRegistry,
    SpecsFailedWarning,
    find_runs,
)
from scythe.engines.local import LocalEngine
from scythe.errors import AllSpecsFailedError, RunFailedError
from scythe.runs import ExperimentRun, RunRef
from scythe.settings import ScytheStorageSettings
from scythe.testing.engines import level, until
from scythe.testing.simulations import Deed, Trial, hasty_trial, trial


class Starter:
    """Starts runs on one engine, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.url = (folder / "store").as_uri()
        self._settings = ScytheStorageSettings(URL=self.url)
        self.engine = LocalEngine(slots=2)
        self.runs: list[ExperimentRun] = []

    def __call__(self, specs: Any, experiment: Any = trial) -> tuple[ExperimentRun, RunRef]:
        base: BaseExperiment[Any, Any] = BaseExperiment(runnable=experiment, storage_settings=self._settings)
        run, ref = base.allocate(specs, "keep", engine=self.engine)
        self.runs.append(run)
        return run, ref

    def finish(self, run: ExperimentRun) -> None:
        until(lambda: (self.engine.watch(run.prefix) or run.progress()).ended)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starter]:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    start = Starter(tmp_path)
    yield start
    for run in start.runs:
        start.engine.stop(run.prefix)
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("scythe-")])
    assert list(temporary.iterdir()) == []


def counted(journal: Path) -> list[int]:
    return sorted(int(line) for line in journal.read_text().split())


# ---------------------------------------------------------------------------------------------------------------------
# sharing


def test_what_lies_behind_a_long_spec_is_given_to_idle_slots(start: Starter, tmp_path: Path) -> None:
    """The specs are fast until number 400, so that the ranges are long by then."""
    journal = tmp_path / "journal"
    specs = [Trial(x=x, journal=str(journal), pause=3.0 if x == 400 else 0.0) for x in range(800)]
    run, _ = start(specs)
    start.finish(run)
    tasks = run.tasks().reset_index().set_index("x")
    long = tasks.loc[400]
    behind = tasks.loc[401:]
    ends = behind["started"] + pd.to_timedelta(behind["seconds"], unit="s")
    assert (ends < long["started"] + pd.Timedelta(seconds=long["seconds"])).all()
    assert set(behind["worker"]) == {"ScytheWorker--Local-0", "ScytheWorker--Local-1"} - {long["worker"]}
    assert counted(journal) == list(range(800))


def test_specs_that_become_slow_are_shared_though_none_is_long(start: Starter, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    specs = [Trial(x=x, journal=str(journal), pause=0.0 if x < 3000 else 0.1) for x in range(3060)]
    run, _ = start(specs)
    start.finish(run)
    tasks = run.tasks().reset_index()
    slow = tasks[tasks["x"] >= 3000].groupby("worker").size()
    assert len(slow) == 2
    assert slow.min() >= 15
    assert counted(journal) == list(range(3060))


@pytest.mark.parametrize("seed", range(2))
def test_each_spec_runs_once_however_long_each_takes(start: Starter, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    pauses = [dice.choice([0.0] * 60 + [0.001] * 30 + [0.05] * 6 + [0.4]) for _ in range(400)]
    journals = [tmp_path / f"journal-{i}" for i in range(2)]
    runs = [
        start([Trial(x=x, journal=str(journal), pause=pause) for x, pause in enumerate(pauses)])[0]
        for journal in journals
    ]
    for run, journal in zip(runs, journals, strict=True):
        start.finish(run)
        assert counted(journal) == list(range(400))
        assert run.scalars()["square"].tolist() == [x**2 for x in range(400)]


def test_what_finished_before_a_long_spec_is_in_the_store_while_that_runs(start: Starter) -> None:
    run, _ = start([Trial(x=x, pause=1000 if x == 5 else 0.0) for x in range(6)])
    until(lambda: run.progress().done == 5)
    assert level(run.scalars(partial=True), "x") == [0, 1, 2, 3, 4]


# ---------------------------------------------------------------------------------------------------------------------
# crashes and time-outs


@pytest.mark.parametrize("bad", [[0, 1, 9]], ids=str)
def test_a_crash_anywhere_costs_only_that_spec(start: Starter, bad: list[int]) -> None:
    run, ref = start([Trial(x=x, do="exit" if x in bad else "square") for x in range(10)])
    start.finish(run)
    with pytest.warns(SpecsFailedWarning):
        ref.result()
    assert level(run.errors(), "x") == bad
    assert level(run.scalars(), "x") == [x for x in range(10) if x not in bad]


@pytest.mark.filterwarnings("ignore::scythe.SpecsFailedWarning")
@pytest.mark.parametrize("do", ["exit", "raise"])
def test_a_run_whose_only_spec_fails_ends(start: Starter, do: Deed) -> None:
    run, ref = start(Trial(do=do))
    start.finish(run)
    with pytest.raises(AllSpecsFailedError):
        ref.result()
    assert run.progress().state == "finished"


def test_storms_of_crashes_and_time_outs_lose_nothing(start: Starter, tmp_path: Path) -> None:
    dice = random.Random(1)
    deeds: list[Deed] = ["exit", "segfault", "kill", "raise", "sleep"]
    plan: list[Deed] = [dice.choice(deeds) if dice.random() < 0.1 else "square" for _ in range(60)]
    specs = [Trial(x=x, do=do, pause=1000 if do == "sleep" else 0.0) for x, do in enumerate(plan)]
    runs = [start(specs, hasty_trial)[0] for _ in range(2)]
    expected = {"exit": "crashed", "segfault": "crashed", "kill": "crashed", "raise": "error", "sleep": "timed_out"}
    for run in runs:
        start.finish(run)
        assert run.errors()["class"].tolist() == [expected[do] for do in plan if do != "square"]
        assert level(run.scalars(), "x") == [x for x, do in enumerate(plan) if do == "square"]


def test_a_worker_that_is_killed_between_specs_costs_nothing(start: Starter) -> None:
    """By the system, say; the run whose specs it would have run next is none the worse."""
    blocked, _ = start([Trial(x=0, pause=1000)])
    until(lambda: blocked.progress().running == 1)
    for _ in range(2):
        other, _ = start([Trial(x=x) for x in range(4)])
        start.finish(other)
        for thread in threading.enumerate():
            process = getattr(thread, "_process", None)
            if process is not None and not getattr(thread, "busy", True):
                process._process.kill()
    other, _ = start([Trial(x=x) for x in range(4)])
    start.finish(other)
    assert other.scalars()["square"].tolist() == [0, 1, 4, 9]


# ---------------------------------------------------------------------------------------------------------------------
# many runs


def test_quick_runs_one_after_the_other(start: Starter) -> None:
    """Each may meet the pool of the one before as it winds up."""
    for x in range(10):
        run, ref = start(Trial(x=x))
        start.finish(run)
        ref.result()
        assert run.scalars()["square"].tolist() == [x**2]


def test_many_runs_are_stopped_and_go_on(start: Starter, tmp_path: Path) -> None:
    journals = [tmp_path / f"journal-{i}" for i in range(6)]
    started = [start([Trial(x=x, pause=0.05, journal=str(journal)) for x in range(40)]) for journal in journals]
    first = started[0][0].prefix
    until(lambda: (progress := start.engine.watch(first)) is not None and progress.done > 5)
    threads = [threading.Thread(target=start.engine.stop, args=[run.prefix]) for run, _ in started]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for (run, ref), journal in zip(started, journals, strict=True):
        progress = run.progress()
        assert progress.done == (len(counted(journal)) if journal.exists() else 0)
        if progress.done < 40:
            assert progress.state == "interrupted"
            with pytest.raises(RunFailedError):
                ref.result()
    assert started[-1][0].progress().done < 40
    for run, _ in started:
        run.resume(engine=start.engine)
    for (run, _), journal in zip(started, journals, strict=True):
        start.finish(run)
        assert counted(journal) == list(range(40))
        assert len(run.scalars()) == 40


def test_a_run_is_stopped_at_any_moment(start: Starter) -> None:
    for wait in (0.0, 0.3, 0.6, 0.9):
        run, _ = start([Trial(x=x, pause=0.005) for x in range(100)])
        threading.Event().wait(wait)
        start.engine.stop(run.prefix)
        progress = run.progress()
        assert progress.state in ("interrupted", "finished")
        assert len(run.scalars(partial=True)) == progress.done


# ---------------------------------------------------------------------------------------------------------------------
# runs within runs


class Study(ExperimentInputSpec):
    store: str
    n_runs: int
    pause: float


class StudyResult(ExperimentOutputSpec):
    total: int


def _study(spec: Study) -> StudyResult:
    """Allocate runs from several threads and wait for all of them at once."""
    settings = ScytheStorageSettings(URL=spec.store)

    def study(number: int) -> int:
        name = f"inner/{spec.workflow_run_id}/{number}"
        inner: BaseExperiment[Any, Any] = BaseExperiment(runnable=trial, run_name=name, storage_settings=settings)
        run, ref = inner.allocate([Trial(x=x, pause=spec.pause) for x in range(3)])
        ref.result()
        return int(run.scalars()["square"].sum())

    with ThreadPoolExecutor(spec.n_runs) as threads:
        return StudyResult(total=sum(threads.map(study, range(spec.n_runs))))


@ExperimentRegistry.Register(retries=0)
def run_study(input_spec: Study) -> StudyResult:
    return _study(input_spec)


@ExperimentRegistry.Register(retries=0, execution_timeout="3s")
def run_hasty_study(input_spec: Study) -> StudyResult:
    return _study(input_spec)


def at_once(tasks: pd.DataFrame) -> int:
    """Say how many specs ran at the same time at most."""
    tasks = tasks.sort_values("started")
    ends = (tasks["started"] + pd.to_timedelta(tasks["seconds"], unit="s")).to_numpy()
    return max(int((ends[:i] > start).sum()) + 1 for i, start in enumerate(tasks["started"].to_numpy()))


def test_a_task_may_wait_for_several_runs_at_once_with_one_slot(start: Starter) -> None:
    start.engine = LocalEngine(slots=1)
    run, _ = start([Study(store=start.url, n_runs=3, pause=0.05) for _ in range(2)], run_study)
    start.finish(run)
    assert run.scalars()["total"].tolist() == [15, 15]
    inner = [inner.tasks().reset_index() for name in range(3) for inner in find_inner(start, run, name)]
    assert len(inner) == 6
    assert at_once(pd.concat(inner)) == 1


def test_a_task_that_times_out_as_it_waits_leaves_no_slot_too_many(start: Starter) -> None:
    start.engine = LocalEngine(slots=1)
    run, _ = start([Study(store=start.url, n_runs=1, pause=1000)], run_hasty_study)
    start.finish(run)
    assert run.errors()["class"].tolist() == ["timed_out"]
    [inner] = find_inner(start, run, 0)
    other, _ = start([Trial(x=x, pause=0.1) for x in range(4)])
    start.engine.stop(inner.prefix)
    start.finish(other)
    assert at_once(other.tasks()) == 1


def find_inner(start: Starter, run: ExperimentRun, name: int) -> list[ExperimentRun]:
    ids = level(run.tasks(), "workflow_run_id")
    return [found for id_ in ids for found in find_runs(f"inner/{id_}/{name}", store=start.url)]
