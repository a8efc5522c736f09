from __future__ import annotations

import functools
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from scythe import ExperimentInputSpec, ExperimentOutputSpec, ExperimentRegistry
from scythe.errors import (
    ExperimentTypeExists,
    ExperimentTypeNotFound,
    RegistrationError,
    ScytheError,
    SettingsError,
)

PRELUDE = """
from pathlib import Path
from scythe import ExperimentInputSpec, ExperimentOutputSpec, ExperimentRegistry

class Design(ExperimentInputSpec):
    size: float = 1.0

class Result(ExperimentOutputSpec):
    y: float = 0.0
"""


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Let a test register what it likes."""
    before = dict(ExperimentRegistry._experiments)
    ExperimentRegistry._experiments.clear()
    yield
    ExperimentRegistry._experiments.clear()
    ExperimentRegistry._experiments.update(before)


def run_cell(
    code: str, *, module: str = "project", file: str = "project.py", future: bool = False, names: Mapping[str, Any] = {}
) -> dict[str, Any]:
    """Run code as the top level of a module and return its names."""
    names = {"__name__": module, **names}
    source = ("from __future__ import annotations\n" if future else "") + PRELUDE + textwrap.dedent(code)
    exec(compile(source, file, "exec", dont_inherit=True), names)
    return names


SIMULATE = """
@ExperimentRegistry.Register()
def simulate(input_spec: Design, tempdir: Path) -> Result:
    "Simulate a design."
    (tempdir / "trace.txt").write_text("a")
    return Result(y=2 * input_spec.size)
"""


@pytest.mark.parametrize("future", [False, True])
def test_a_function_is_registered_with_its_models_and_goes_by_its_name(future: bool) -> None:
    names = run_cell(SIMULATE, future=future)
    experiment = names["simulate"]
    assert experiment.name == "scythe_experiment_simulate"
    assert experiment.input_type is experiment.input_validator_type is names["Design"]
    assert experiment.output_type is names["Result"]
    assert experiment.wants_tempdir
    assert experiment.options.description == "Simulate a design."
    assert ExperimentRegistry.experiments() == [experiment]


@pytest.mark.parametrize("name", ["simulate", "scythe_experiment_simulate"])
def test_an_experiment_is_found_by_its_name_with_and_without_the_prefix(name: str) -> None:
    experiment = run_cell(SIMULATE)["simulate"]
    assert ExperimentRegistry.get_runnable(name) is experiment
    assert ExperimentRegistry.get_experiment(name) is experiment


def test_a_name_that_is_not_registered_is_reported_with_those_that_are() -> None:
    run_cell(SIMULATE)
    with pytest.raises(ExperimentTypeNotFound, match=r"No experiment named 'simulte'.*'scythe_experiment_simulate'"):
        ExperimentRegistry.get_runnable("simulte")


def test_a_path_imported_for_type_checkers_only_is_still_a_tempdir() -> None:
    code = """
    from typing import TYPE_CHECKING
    if TYPE_CHECKING:
        from pathlib import Path as Folder

    @ExperimentRegistry.Register()
    def simulate(input_spec: Design, tempdir: Folder) -> Result:
        return Result(y=float(tempdir.is_dir()))
    """
    names = run_cell(code, future=True)
    assert names["simulate"](names["Design"]()).y == 1.0


def noted(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        return function(*args, **options)

    return wrapper


def test_annotations_are_looked_up_where_a_wrapped_function_was_written() -> None:
    code = """
    @ExperimentRegistry.Register()
    @noted
    def simulate(input_spec: Design) -> Result:
        return Result(y=1)
    """
    names = run_cell(code, future=True, names={"noted": noted})
    assert names["simulate"](names["Design"]()).y == 1


@pytest.mark.parametrize(
    ("definition", "complaint"),
    [
        ("def simulate(input_spec) -> Result: ...", "input_spec of simulate has no annotation"),
        ("def simulate(input_spec: Design): ...", "the return value of simulate has no annotation"),
        ("def simulate(input_spec: Design) -> None: ...", "the return value of simulate is annotated None"),
        ("def simulate(input_spec: dict) -> Result: ...", "is annotated dict, which is not a subclass of Experi"),
        ("def simulate(input_spec: Result) -> Result: ...", "annotated Result, which is not a subclass of Experi"),
        ("def simulate(input_spec: 'Design | None') -> Result: ...", "not a subclass of ExperimentInputSpec"),
        ("def simulate(input_spec: Design) -> dict: ...", "annotated dict, which is not a subclass of ExperimentOut"),
        ("def simulate(input_spec: Design) -> Design: ...", "not a subclass of ExperimentOutputSpec"),
        ("def simulate(spec: Design) -> Result: ...", "must be called input_spec, not spec"),
        ("def simulate() -> Result: ...", "must be called input_spec, not missing"),
        ("def simulate(input_spec: Design, seed: int) -> Result: ...", "may only take tempdir"),
        ("def simulate(input_spec: Design, *args) -> Result: ...", "may only take tempdir"),
        ("def simulate(input_spec: Design, **more) -> Result: ...", "may only take tempdir"),
        ("def simulate(input_spec: Design, tempdir: str) -> Result: ...", "it is a Path"),
        ("async def simulate(input_spec: Design) -> Result: ...", "simulate is async"),
        ("def simulate(input_spec: 'Missing') -> Result: ...", "'Missing' of simulate cannot be resolved"),
        ("def simulate(input_spec: Design) -> 'Path.Missing': ...", "'Path.Missing' of simulate cannot be resolved"),
        ("def simulate(input_spec: 'Design[') -> Result: ...", "of simulate cannot be resolved"),
        ("simulate = lambda input_spec: None", "lambda"),
        ("class simulate: ...", "is not a plain function"),
        ("simulate = print", "is not a plain function"),
    ],
)
def test_a_function_that_cannot_be_an_experiment_is_refused_with_what_to_write(definition: str, complaint: str) -> None:
    with pytest.raises(RegistrationError) as caught:
        run_cell(f"{definition}\nExperimentRegistry.Register()(simulate)\n")
    message = str(caught.value)
    assert complaint in message
    assert re.search("[Ww]rite|Define", message), "it does not say what to do about it"
    assert ExperimentRegistry.experiments() == []


def test_a_function_inside_another_is_refused_as_no_worker_could_find_it() -> None:
    factor = 2.0

    def simulate(input_spec: ExperimentInputSpec) -> ExperimentOutputSpec:
        return ExperimentOutputSpec(y=factor)  # type: ignore[call-arg]

    with pytest.raises(RegistrationError, match="simulate is defined inside another function"):
        ExperimentRegistry.Register()(simulate)


def test_register_without_parentheses_is_refused_with_what_to_write() -> None:
    code = """
    @ExperimentRegistry.Register
    def simulate(input_spec: Design) -> Result: ...
    """
    with pytest.raises(RegistrationError, match=r"given 'simulate' instead.*@ExperimentRegistry\.Register\(\)"):
        run_cell(code)


def test_every_option_of_1x_is_taken() -> None:
    experiment = run_cell("""
    @ExperimentRegistry.Register(
        worker=None, description="d", name="mine", desired_worker_labels={"has_gpu": {"value": True}},
        schedule_timeout="2h", execution_timeout="90s", retries=0, inject_workflow_run_id=False, auto_fetch_files=False,
        local_file_location="copied-to-tempdir", overwrite_log_method=False, default_priority=3,
    )
    def simulate(input_spec: Design) -> Result:
        "The docstring."
    """)["simulate"]
    options = experiment.options
    assert experiment.name == "mine"
    assert options.description == "d"
    assert options.desired_worker_labels == {"has_gpu": {"value": True}}
    assert (options.schedule_timeout, options.execution_timeout) == (timedelta(hours=2), timedelta(seconds=90))
    assert options.retries == 0
    assert (options.inject_workflow_run_id, options.auto_fetch_files, options.overwrite_log_method) == (False,) * 3
    assert options.local_file_location == "copied-to-tempdir"
    assert options.task_config == {"default_priority": 3}


@pytest.mark.parametrize(
    ("option", "error", "complaint"),
    [
        ({"retry": 3}, RegistrationError, "Register has no option 'retry'; it has: .*retries"),
        ({"retries": -1}, SettingsError, "retries=-1"),
        ({"retries": 1.5}, SettingsError, "retries=1.5"),
        ({"retries": True}, SettingsError, "retries=True"),
        ({"execution_timeout": "soon"}, SettingsError, "execution_timeout='soon'"),
        ({"execution_timeout": ""}, SettingsError, "execution_timeout=''"),
        ({"execution_timeout": timedelta(0)}, SettingsError, "execution_timeout=.*longer than nothing"),
        ({"schedule_timeout": "0s"}, SettingsError, "schedule_timeout='0s'.*longer than nothing"),
        ({"local_file_location": "tempdir"}, SettingsError, "local_file_location='tempdir'"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_by_name(
    option: dict[str, Any], error: type[ScytheError], complaint: str
) -> None:
    names = run_cell("def simulate(input_spec: Design) -> Result: ...")
    with pytest.raises(error, match=complaint):
        ExperimentRegistry.Register(**option)(names["simulate"])


def test_a_name_that_another_function_has_is_refused_with_both_functions() -> None:
    run_cell(SIMULATE, module="one", file="one.py")
    with pytest.raises(ExperimentTypeExists, match=r"two\.simulate.*one\.simulate") as caught:
        run_cell(SIMULATE, module="two", file="two.py")
    assert caught.value.name == "scythe_experiment_simulate"
    assert ExperimentRegistry.get_runnable("simulate").__module__ == "one"


def test_two_functions_of_one_module_cannot_share_a_name() -> None:
    with pytest.raises(ExperimentTypeExists, match=r"project\.b as 'shared': project\.a"):
        run_cell("""
        @ExperimentRegistry.Register(name="shared")
        def a(input_spec: Design) -> Result: ...

        @ExperimentRegistry.Register(name="shared")
        def b(input_spec: Design) -> Result: ...
        """)


def test_a_notebook_cell_run_again_replaces_its_own() -> None:
    first = run_cell(SIMULATE, module="__main__", file="<ipython-input-1>")["simulate"]
    second = run_cell(SIMULATE, module="__main__", file="<ipython-input-2>")["simulate"]
    assert ExperimentRegistry.get_runnable("simulate") is second is not first
    assert len(ExperimentRegistry.experiments()) == 1


def test_a_script_that_is_loaded_under_a_second_name_replaces_its_own() -> None:
    run_cell(SIMULATE, module="__main__", file="study.py")
    second = run_cell(SIMULATE, module="__mp_main__", file="study.py")["simulate"]
    assert ExperimentRegistry.get_runnable("simulate") is second


def test_called_directly_it_runs_the_plain_function_in_the_folder_given(tmp_path: Path) -> None:
    names = run_cell(SIMULATE)
    assert names["simulate"](names["Design"](size=3), tmp_path).y == 6
    assert names["simulate"](names["Design"](size=3), tempdir=str(tmp_path)).y == 6
    assert (tmp_path / "trace.txt").exists()


def test_called_directly_without_a_folder_it_makes_one_and_removes_it() -> None:
    names = run_cell("""
    @ExperimentRegistry.Register()
    def simulate(input_spec: Design, tempdir: Path) -> Result:
        (tempdir / "trace.txt").write_text("a")
        return Result(folder=str(tempdir))
    """)
    folder = Path(names["simulate"](names["Design"]()).folder)
    assert folder.is_absolute()
    assert not folder.exists()


def test_called_directly_a_function_without_a_folder_gets_the_spec_alone() -> None:
    names = run_cell("""
    @ExperimentRegistry.Register()
    def simulate(input_spec: Design) -> Result:
        if input_spec.size < 0:
            raise ValueError("too small")
        return Result(y=input_spec.size)
    """)
    assert names["simulate"](names["Design"](size=4)).y == 4
    with pytest.raises(ValueError, match="too small"):
        names["simulate"](names["Design"](size=-1))


class Workflow:
    """Something with a name, as Hatchet's workflows are."""

    def __init__(self, name: str) -> None:
        self.name = name


def test_something_made_elsewhere_can_be_included_and_found() -> None:
    workflow = Workflow("nightly")
    assert ExperimentRegistry.Include(workflow) is workflow
    assert ExperimentRegistry.Include(workflow) is workflow
    assert ExperimentRegistry.get_runnable("nightly") is workflow


def test_what_has_no_name_cannot_be_included() -> None:
    with pytest.raises(RegistrationError, match="has no name; Include takes a Hatchet task or workflow"):
        ExperimentRegistry.Include(object())


def test_an_included_workflow_and_a_function_cannot_share_a_name() -> None:
    ExperimentRegistry.Include(Workflow("scythe_experiment_simulate"))
    with pytest.raises(ExperimentTypeExists, match="Workflow object"):
        run_cell(SIMULATE)
    with pytest.raises(ExperimentTypeExists):
        ExperimentRegistry.Include(Workflow("scythe_experiment_simulate"))


def test_a_copy_of_a_model_refers_to_the_same_experiment() -> None:
    experiment = run_cell(SIMULATE)["simulate"]
    assert deepcopy({"runnable": experiment})["runnable"] is experiment


def test_an_experiment_shows_what_it_maps_to_what() -> None:
    assert repr(run_cell(SIMULATE)["simulate"]) == "<experiment scythe_experiment_simulate: Design -> Result>"
