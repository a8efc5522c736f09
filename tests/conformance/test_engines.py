from pathlib import Path
from typing import Any

import pytest

from scythe.engines import Engine
from scythe.engines.inline import InlineEngine
from scythe.engines.local import LocalEngine
from scythe.testing import EngineSuite


class TestLocalEngineOnFolder(EngineSuite):
    def make_engine(self, *, slots: int = 2) -> Engine:
        return LocalEngine(slots=slots)

    def make_store_url(self, tmp_path: Path) -> str:
        return (tmp_path / "a store ü").as_uri()


class TestLocalEngineOnMemory(EngineSuite):
    def make_engine(self, *, slots: int = 2) -> Engine:
        return LocalEngine(slots=slots)

    def make_store_url(self, tmp_path: Path) -> str:
        return f"memory://{tmp_path}"

    @pytest.mark.xfail(strict=True, reason="this version fetches input files from folders only")
    def test_input_files_are_at_hand(self, *args: Any, **kwargs: Any) -> None:
        super().test_input_files_are_at_hand(*args, **kwargs)

    @pytest.mark.xfail(strict=True, reason="a task runs in another process, which has another memory")
    def test_a_task_may_allocate_runs_and_wait_for_them_with_one_slot(self, *args: Any, **kwargs: Any) -> None:
        super().test_a_task_may_allocate_runs_and_wait_for_them_with_one_slot(*args, **kwargs)

    @pytest.mark.xfail(
        run=False, reason="a task runs in another process, which has another memory; this would wait for it in vain"
    )
    def test_a_stopped_run_stops_the_runs_its_tasks_allocated(self) -> None: ...


BLOCKS = pytest.mark.xfail(
    run=False, reason="the inline engine runs a whole run within `start`; there is nothing to stop"
)
NO_ISOLATION = pytest.mark.xfail(
    run=False, reason="the inline engine isolates nothing; this would end or spoil pytest itself"
)


class TestInlineEngineOnFolder(EngineSuite):
    def make_engine(self, *, slots: int = 2) -> Engine:
        return InlineEngine()

    def make_store_url(self, tmp_path: Path) -> str:
        return tmp_path.as_uri()

    @NO_ISOLATION
    def test_the_last_lines_of_output_are_kept_with_a_failure(self) -> None: ...

    @NO_ISOLATION
    def test_a_spec_that_leaves_a_mess_does_not_harm_the_next(self) -> None: ...

    @NO_ISOLATION
    def test_a_worker_that_dies_costs_only_what_it_was_running(self) -> None: ...

    @NO_ISOLATION
    def test_a_run_in_which_every_spec_kills_its_worker_ends(self) -> None: ...

    @NO_ISOLATION
    def test_a_spec_that_takes_too_long_is_stopped(self) -> None: ...

    @BLOCKS
    def test_a_run_that_is_stopped_keeps_what_finished_and_goes_on(self) -> None: ...

    @BLOCKS
    def test_a_run_that_is_stopped_says_so_to_whoever_waits(self) -> None: ...

    @BLOCKS
    def test_a_run_that_is_being_run_is_not_started_again(self) -> None: ...

    @BLOCKS
    def test_a_stopped_run_stops_the_runs_its_tasks_allocated(self) -> None: ...
