"""What every engine must do."""

# ruff: noqa: D102 - the name of a test says it

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from scythe.engines import Engine
from scythe.errors import AllSpecsFailedError, EngineError, ExperimentTypeNotFound, RunFailedError, SettingsError
from scythe.progress import RunStatus
from scythe.registry import Experiment
from scythe.runs import BaseExperiment, ExperimentRun, RunRef, SpecsFailedWarning
from scythe.settings import ScytheStorageSettings
from scythe.stores import open_store
from scythe.testing.simulations import (
    Deed,
    Document,
    Nest,
    Trial,
    copy_document,
    hasty_trial,
    nest,
    trial,
    trial_again,
    trial_by_default,
)
from scythe.tree import RecursionMap

TIMEOUT = 120.0
"""For how long a run may take, which nobody should ever see [s]."""


class EngineSuite:
    """Subclass it, and define `make_engine` and `make_store_url`."""

    def make_engine(self, *, slots: int = 2) -> Engine:
        """Return an engine that runs so many specs at once."""
        raise NotImplementedError("a subclass of EngineSuite defines make_engine")

    def make_store_url(self, tmp_path: Path) -> str:
        """Return the URL of an empty store."""
        raise NotImplementedError("a subclass of EngineSuite defines make_store_url")

    @pytest.fixture
    def store_url(self, tmp_path: Path) -> str:
        """Return the URL of the store that runs are in."""
        return self.make_store_url(tmp_path)

    @pytest.fixture
    def start(self, store_url: str) -> Iterator[Start]:
        """Return what starts runs; those that are still going are stopped in the end."""
        start = Start(store_url, self.make_engine)
        yield start
        start.stop_all()

    # ---------------------------------------------------------------------------------------------------------- results

    def test_every_spec_gets_a_row_in_order(self, start: Start) -> None:
        run, ref = start(trial, [Trial(x=x) for x in range(500)])
        result = start.finish(run, ref)
        assert set(result.uris) == {"scalars"}
        scalars = run.scalars()
        assert scalars["square"].tolist() == [x**2 for x in range(500)]
        assert level(scalars, "x") == level(scalars, "sort_index") == list(range(500))
        assert set(level(scalars, "experiment_id")) == {run.experiment_id}
        tasks = run.tasks()
        assert len(tasks) == 500
        assert set(tasks["attempts"]) == {1}
        assert tasks["worker"].str.startswith("ScytheWorker--").all()
        assert counts(run) == (500, 0, 0, 500, "finished")
        assert len(run.errors()) == 0

    def test_one_spec_is_a_run(self, start: Start) -> None:
        run, ref = start(trial, Trial(x=7))
        start.finish(run, ref)
        assert run.scalars()["square"].tolist() == [49]

    def test_data_frames_arrive_under_the_index_of_their_specs(self, start: Start) -> None:
        run, ref = start(copy_document, [Document(n=n) for n in (2, 0, 3)])
        assert set(start.finish(run, ref).uris) == {"scalars", "result_file_refs", "squares"}
        frame = run.frame("squares")
        assert frame["square"].tolist() == [0, 1, 0, 1, 4]
        assert level(frame, "n") == [2, 2, 3, 3, 3]
        assert level(frame, "i") == [0, 1, 0, 1, 2]

    def test_output_files_arrive_in_the_store(self, start: Start, store_url: str) -> None:
        run, ref = start(copy_document, [Document(n=n) for n in range(5)])
        start.finish(run, ref)
        store = open_store(store_url)
        urls = run.files()["copy_"].tolist()
        keys = {store.object_url(entry.key): entry.key for entry in store.list_objects(f"{run.prefix}/results")}
        assert set(urls) == set(keys)
        assert [store.get(keys[url]) for url in urls] == [b"document %d" % n for n in range(5)]

    def test_input_files_are_at_hand(self, start: Start, tmp_path: Path) -> None:
        source = tmp_path / "a source ü.txt"
        source.write_text("what it says")
        run, ref = start(copy_document, [Document(n=1, source=source) for _ in range(2)])
        start.finish(run, ref)
        assert run.scalars()["characters"].tolist() == [12, 12]

    def test_a_tree_with_one_slot_finishes(self, start: Start) -> None:
        specs = [Trial(x=x) for x in range(40)]
        run, ref = start(trial, specs, slots=1, recursion_map=RecursionMap(factor=2, max_depth=3))
        start.finish(run, ref)
        assert run.scalars()["square"].tolist() == [x**2 for x in range(40)]

    def test_runs_at_once_do_not_mix(self, start: Start) -> None:
        started = [start(trial, [Trial(x=1000 * i + x) for x in range(60)]) for i in range(4)]
        for i, (run, ref) in enumerate(started):
            start.finish(run, ref)
            assert level(run.scalars(), "x") == [1000 * i + x for x in range(60)]

    # --------------------------------------------------------------------------------------------------------- failures

    def test_an_exception_comes_with_type_message_and_traceback(self, start: Start) -> None:
        run, ref = start(trial, [Trial(x=1), Trial(x=2, do="raise"), Trial(x=3)])
        with pytest.warns(SpecsFailedWarning, match="1 of 3 specs"):
            start.finish(run, ref)
        [error] = records(run.errors())
        assert (error["class"], error["type"]) == ("error", "ValueError")
        assert error["message"] == "x = 2 is out of the question"
        assert "simulations.py" in error["traceback"]
        assert error["traceback"].rstrip().endswith("ValueError: x = 2 is out of the question")
        assert (error["x"], error["attempts"]) == (2, 1)

    def test_failures_spare_the_rest(self, start: Start) -> None:
        run, ref = start(trial, [Trial(x=x, do="raise" if x % 100 == 50 else "square") for x in range(1000)])
        with pytest.warns(SpecsFailedWarning, match="10 of 1,000 specs"):
            start.finish(run, ref)
        assert level(run.scalars(), "x") == [x for x in range(1000) if x % 100 != 50]
        assert level(run.errors(), "x") == list(range(50, 1000, 100))
        assert counts(run) == (990, 10, 0, 1000, "finished")

    @pytest.mark.filterwarnings("ignore::scythe.SpecsFailedWarning")
    def test_a_run_in_which_all_fail_says_so_and_keeps_every_failure(self, start: Start) -> None:
        run, ref = start(trial, [Trial(x=x, do="raise") for x in range(30)])
        with pytest.raises(AllSpecsFailedError, match=r"All 30 specs.*x = 0 is out of the question"):
            start.finish(run, ref)
        assert run.errors()["message"].tolist() == [f"x = {x} is out of the question" for x in range(30)]
        assert len(run.scalars()) == 0
        assert counts(run) == (0, 30, 0, 30, "finished")

    def test_whatever_a_spec_raises_or_returns_is_one_failure(self, start: Start) -> None:
        expected: dict[Deed, tuple[str, str, str]] = {
            "raise_unpicklable": ("error", "scythe.testing.simulations.UnpicklableError", "here, now"),
            "raise_unprintable": ("error", "scythe.testing.simulations.UnprintableError", "cannot be shown"),
            "raise_surrogate": ("error", "OSError", "caf"),
            "sys_exit": ("error", "SystemExit", "that is all"),
            "recurse": ("error", "RecursionError", "recursion"),
            "return_none": ("invalid_output", "scythe.errors.OutputError", "returned NoneType"),
            "return_surrogate": ("invalid_output", "scythe.errors.OutputError", "unicode"),
        }
        specs = [Trial(x=x, do=do) for x, do in enumerate(["square", *expected, "square"])]
        run, ref = start(trial, specs)
        with pytest.warns(SpecsFailedWarning, match="7 of 9 specs"):
            start.finish(run, ref)
        errors = records(run.errors())
        for error, (do, (class_, type_, message)) in zip(errors, expected.items(), strict=True):
            assert (error["do"], error["class"], error["type"]) == (do, class_, type_)
            assert message in error["message"]
        assert run.scalars()["square"].tolist() == [0, 64]

    def test_a_spec_that_raises_is_tried_again_as_often_as_it_should_be(self, start: Start) -> None:
        specs = [Trial(x=1, do="raise"), Trial(x=2)]
        started = [start(experiment, specs) for experiment in (trial, trial_by_default, trial_again)]
        for attempts, (run, ref) in enumerate(started, start=1):
            with pytest.warns(SpecsFailedWarning):
                start.finish(run, ref)
            assert run.errors()["attempts"].tolist() == [attempts]
            assert run.tasks()["attempts"].tolist() == [attempts, 1]

    def test_a_spec_that_succeeds_in_the_end_is_no_failure(self, start: Start, tmp_path: Path) -> None:
        specs = [Trial(x=x, do="fail_twice", journal=str(tmp_path / "journal")) for x in range(3)]
        run, ref = start(trial_again, specs)
        start.finish(run, ref)
        assert run.scalars()["square"].tolist() == [0, 1, 4]
        assert run.tasks()["attempts"].tolist() == [3, 3, 3]

    def test_the_last_lines_of_output_are_kept_with_a_failure(self, start: Start) -> None:
        specs = [
            Trial(x=1, text="before"),
            Trial(x=2, text="told", do="raise"),
            Trial(x=3, text="told", do="exit"),
            Trial(x=4, text="after"),
        ]
        run, ref = start(trial, specs, slots=1)
        with pytest.warns(SpecsFailedWarning, match="2 of 4 specs"):
            start.finish(run, ref)
        for error in records(run.errors()):
            for how in ("print", "stderr", "write", "a program"):
                assert f"told by {how}" in error["output"]
            assert "before" not in error["output"]
            assert "after" not in error["output"]

    def test_a_spec_that_leaves_a_mess_does_not_harm_the_next(self, start: Start) -> None:
        deeds: list[Deed] = ["square", "meddle", "square", "raise", "fork", "square"]
        specs = [Trial(x=x, do=do, text=f"number {x}", pause=0.01) for x, do in enumerate(deeds)]
        run, ref = start(trial, specs, slots=1)
        with pytest.warns(SpecsFailedWarning, match="1 of 6 specs"):
            start.finish(run, ref)
        [error] = records(run.errors())
        assert error["x"] == 3
        assert "number 3 by print" in error["output"]
        assert "number 3 by stderr" in error["output"]
        run, ref = start(copy_document, [Document(n=1)])
        start.finish(run, ref)

    # -------------------------------------------------------------------------------------------- crashes and time-outs

    def test_a_worker_that_dies_costs_only_what_it_was_running(self, start: Start) -> None:
        deeds: dict[int, Deed] = {0: "kill", 37: "exit", 61: "segfault", 99: "abort"}
        run, ref = start(trial, [Trial(x=x, do=deeds.get(x, "square")) for x in range(100)])
        with pytest.warns(SpecsFailedWarning, match="4 of 100 specs"):
            start.finish(run, ref)
        errors = run.errors()
        assert level(errors, "x") == list(deeds)
        assert set(errors["class"]) == {"crashed"}
        assert errors["type"].tolist() == ["SIGKILL", "exit code 3", "SIGSEGV", "SIGABRT"]
        assert all(type_ in message for type_, message in zip(errors["type"], errors["message"], strict=True))
        assert level(run.scalars(), "x") == [x for x in range(100) if x not in deeds]

    @pytest.mark.filterwarnings("ignore::scythe.SpecsFailedWarning")
    def test_a_run_in_which_every_spec_kills_its_worker_ends(self, start: Start) -> None:
        run, ref = start(trial, [Trial(x=x, do="exit") for x in range(6)])
        with pytest.raises(AllSpecsFailedError, match="All 6 specs"):
            start.finish(run, ref)
        assert level(run.errors(), "x") == list(range(6))

    def test_a_spec_that_takes_too_long_is_stopped(self, start: Start) -> None:
        slow: dict[int, Deed] = {1: "sleep", 2: "spin"}
        specs = [Trial(x=x, do=slow[x], pause=1000, text="on it") if x in slow else Trial(x=x) for x in range(20)]
        run, ref = start(hasty_trial, specs)
        with pytest.warns(SpecsFailedWarning, match="2 of 20 specs"):
            start.finish(run, ref)
        errors = run.errors()
        assert level(errors, "x") == [1, 2]
        assert set(errors["class"]) == {"timed_out"}
        assert errors["message"].str.contains("execution_timeout is 1 s").all()
        assert errors["output"].str.contains("on it").all()
        assert (errors["seconds"] >= 1).all()
        assert level(run.scalars(), "x") == [0, *range(3, 20)]

    # -------------------------------------------------------------------------------------------------- stop and resume

    def test_a_run_that_is_stopped_keeps_what_finished_and_goes_on(self, start: Start, tmp_path: Path) -> None:
        journal = tmp_path / "journal"
        specs = [Trial(x=x, journal=str(journal), pause=0.02 if x < 60 else 1.0) for x in range(64)]
        run, _ = start(trial, specs)
        until(lambda: journal.exists() and len(journal.read_text().split()) >= 50)
        start.engine_of(run).stop(run.prefix)
        first = journal.read_text().split()
        progress = run.progress()
        assert progress.state == "interrupted"
        assert progress.done == len(first) == len(set(first)) < 64
        assert level(run.scalars(partial=True), "x") == sorted(map(int, first))
        ref = start.resume(run)
        start.finish(run, ref)
        assert sorted(map(int, journal.read_text().split())) == list(range(64))
        assert run.scalars()["square"].tolist() == [x**2 for x in range(64)]
        assert counts(run) == (64, 0, 0, 64, "finished")

    def test_a_run_that_is_stopped_says_so_to_whoever_waits(self, start: Start) -> None:
        run, ref = start(trial, [Trial(x=x, pause=1000) for x in range(4)])
        until(lambda: run.progress().running > 0)
        start.engine_of(run).stop(run.prefix)
        with pytest.raises(RunFailedError, match=r"interrupted.*\n.*resume"):
            start.finish(run, ref)
        assert counts(run) == (0, 0, 0, 4, "interrupted")

    def test_a_run_that_is_finished_may_be_resumed(self, start: Start, tmp_path: Path) -> None:
        journal = tmp_path / "journal"
        run, ref = start(trial, [Trial(x=x, journal=str(journal)) for x in range(20)])
        start.finish(run, ref)
        before = run.scalars()
        start.finish(run, start.resume(run))
        assert len(journal.read_text().split()) == 20
        pd.testing.assert_frame_equal(run.scalars(), before)
        assert counts(run) == (20, 0, 0, 20, "finished")

    def test_stopping_or_watching_a_run_that_is_not_there_does_nothing(self, start: Start) -> None:
        engine = self.make_engine()
        engine.stop("no/v1.0.0/run")
        assert engine.watch("no/v1.0.0/run") is None
        run, ref = start(trial, [Trial(x=1)])
        start.finish(run, ref)
        start.engine_of(run).stop(run.prefix)
        assert run.progress().state == "finished"

    def test_a_run_that_is_being_run_is_not_started_again(self, start: Start) -> None:
        run, _ = start(trial, [Trial(pause=1000)])
        with pytest.raises(EngineError, match="already"):
            start.resume(run)

    # --------------------------------------------------------------------------------------------------------- refusals

    def test_an_unknown_experiment_is_refused_before_anything_is_written(self, store_url: str) -> None:
        experiment: BaseExperiment[Any, Any] = BaseExperiment(
            runnable="scythe_testing_unheard_of", storage_settings=ScytheStorageSettings(URL=store_url)
        )
        with pytest.raises(ExperimentTypeNotFound, match="scythe_testing_unheard_of"):
            experiment.allocate([{"x": 1}], engine=self.make_engine())
        assert list(open_store(store_url).list_objects()) == []

    def test_an_unknown_engine_is_refused_before_anything_is_written(self, store_url: str) -> None:
        experiment: BaseExperiment[Any, Any] = BaseExperiment(
            runnable=trial, storage_settings=ScytheStorageSettings(URL=store_url)
        )
        with pytest.raises(SettingsError, match="no such engine"):
            experiment.allocate([{"x": 1}], engine="steam")
        assert list(open_store(store_url).list_objects()) == []

    # ------------------------------------------------------------------------------------------------------ nested runs

    def test_a_task_may_allocate_runs_and_wait_for_them_with_one_slot(self, start: Start, store_url: str) -> None:
        engine = self.make_engine(slots=1)
        shapes = [(3, 1), (1, 3), (0, 1)]
        specs = [Nest(depth=depth, width=width, store=store_url, engine=engine.name) for depth, width in shapes]
        run, ref = start(nest, specs, slots=1)
        start.finish(run, ref)
        assert run.scalars()["leaves"].tolist() == [1, 3, 1]

    def test_a_stopped_run_stops_the_runs_its_tasks_allocated(self, start: Start, store_url: str) -> None:
        engine = self.make_engine(slots=1)
        specs = [Nest(depth=2, width=10_000, store=store_url, engine=engine.name)]
        run, _ = start(nest, specs, slots=1)
        store = open_store(store_url)

        def states() -> list[str]:
            keys = [entry.key for entry in store.list_objects("nests") if entry.key.endswith("/status.json")]
            return [RunStatus.model_validate_json(store.get(key)).state for key in keys]

        until(lambda: "running" in states())
        start.engine_of(run).stop(run.prefix)
        assert run.progress().state == "interrupted"
        assert set(states()) <= {"interrupted", "finished"}


class Start:
    """Starts runs, each on an engine of its own."""

    def __init__(self, store_url: str, make_engine: Callable[..., Engine]) -> None:
        self._settings = ScytheStorageSettings(URL=store_url)
        self._make_engine = make_engine
        self._engines: dict[int, Engine] = {}
        self._runs: dict[str, tuple[ExperimentRun, Engine]] = {}

    def __call__(
        self, experiment: Experiment[Any, Any], specs: Any, *, slots: int = 2, recursion_map: RecursionMap | None = None
    ) -> tuple[ExperimentRun, RunRef]:
        """Allocate a run."""
        engine = self._engines.setdefault(slots, self._make_engine(slots=slots))
        base: BaseExperiment[Any, Any] = BaseExperiment(runnable=experiment, storage_settings=self._settings)
        run, ref = base.allocate(specs, engine=engine, recursion_map=recursion_map)
        self._runs[run.prefix] = (run, engine)
        return run, ref

    def engine_of(self, run: ExperimentRun) -> Engine:
        """Return the engine that runs a run."""
        return self._runs[run.prefix][1]

    def resume(self, run: ExperimentRun) -> RunRef:
        """Go on with a run on the same engine."""
        return run.resume(engine=self.engine_of(run))

    def finish(self, run: ExperimentRun, ref: RunRef) -> Any:
        """Wait for a run, but not for ever, and return its result."""
        engine = self.engine_of(run)
        until(lambda: (engine.watch(run.prefix) or run.progress()).ended)
        return ref.result()

    def stop_all(self) -> None:
        """Stop what is still going."""
        for run, engine in self._runs.values():
            engine.stop(run.prefix)


def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    ends = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < ends, "this takes too long"
        time.sleep(0.02)


def level(frame: pd.DataFrame, name: str) -> list[Any]:
    """Return an index level's values."""
    return frame.index.get_level_values(name).tolist()


def records(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return a frame's rows, index levels included."""
    return frame.reset_index().to_dict("records")


def counts(run: ExperimentRun) -> tuple[int, int, int, int, str]:
    """Return a run's counts, from the store alone."""
    progress = run.progress()
    return progress.done, progress.failed, progress.running, progress.total, progress.state
