"""An experiment runs wherever its function is defined."""

import os
import pty
import sys

import pytest

from tests.acceptance.project import MODELS, RUN, SQUARES, STUDY, TIMEOUT, Project

GUARDED = f"{STUDY}\nif __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in RUN.strip().splitlines())


def test_a_script_with_a_guard(project: Project) -> None:
    project.write("study.py", GUARDED)
    assert SQUARES in project.run("study.py").stdout


def test_a_script_without_a_guard(project: Project) -> None:
    project.write("study.py", STUDY + RUN + "print('end of script')\n")
    output = project.run("study.py").stdout
    assert output.count(SQUARES) == 1
    assert output.count("end of script") == 1


def test_a_script_that_reads_its_arguments_at_the_top(project: Project) -> None:
    project.write("study.py", f"import sys\nn = int(sys.argv[1])\n{STUDY}{RUN}")
    assert SQUARES in project.run("study.py", "20").stdout


def test_a_script_in_another_folder_that_imports_its_neighbour(project: Project) -> None:
    project.write("scripts/helpers.py", "def square(x):\n    return x**2\n")
    body = "from helpers import square\nreturn Result(y=square(input_spec.x))"
    project.write("scripts/study.py", GUARDED.replace("return Result(y=input_spec.x**2)", body.replace("\n", "\n    ")))
    assert SQUARES in project.run("scripts/study.py").stdout


@pytest.mark.parametrize("text", [GUARDED, STUDY + RUN], ids=["with a guard", "without a guard"])
def test_a_module_of_a_package_run_with_m(project: Project, text: str) -> None:
    project.write("package/__init__.py", "")
    project.write("package/helpers.py", "")
    project.write("package/study.py", "from . import helpers\n" + text)
    output = project.run("-m", "package.study").stdout
    assert output.count(SQUARES) == 1


def test_a_function_of_an_imported_module(project: Project) -> None:
    project.write("package/__init__.py", "")
    project.write("package/models/__init__.py", "")
    project.write("package/models/study.py", STUDY)
    project.write("main.py", f"from scythe import BaseExperiment\nfrom package.models.study import *\n{RUN}")
    assert SQUARES in project.run("main.py").stdout


def test_a_module_that_is_found_by_a_path_added_by_the_script(project: Project) -> None:
    project.write("elsewhere/study.py", STUDY)
    project.write("main.py", f"import sys\nsys.path.insert(0, 'elsewhere')\nfrom study import *\n{RUN}")
    assert SQUARES in project.run("main.py").stdout


@pytest.mark.parametrize("mode", ["prepend", "importlib"])
def test_a_function_of_a_test_file(project: Project, mode: str) -> None:
    test = "def test_it():\n" + "".join(f"    {line}\n" for line in RUN.strip().splitlines())
    project.write(
        "tests/unit/test_study.py", f"import pytest\n{STUDY}\n{test}    assert run.scalars().shape == (20, 1)"
    )
    output = project.run("-m", "pytest", f"--import-mode={mode}", "-q", "-p", "no:cacheprovider", "tests").stdout
    assert "1 passed" in output


def test_a_script_from_standard_input(project: Project) -> None:
    assert SQUARES in project.run("-", input=STUDY + RUN).stdout


def test_a_script_as_an_argument(project: Project) -> None:
    assert SQUARES in project.run("-c", STUDY + RUN).stdout


def test_an_interactive_session(project: Project) -> None:
    """With its own terminal, in which a function is defined, run, defined again and run again."""
    terminal, theirs = pty.openpty()
    process = project.start("-i", "-q", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    again = STUDY.replace("x**2", "x**3").partition("@")[2]
    lines = f"{MODELS}\n@{STUDY.partition('@')[2]}\n\n{RUN}\n@{again}\n\n{RUN}\nquit()\n"
    os.write(terminal, lines.encode())
    output = read_terminal(terminal)
    process.wait(timeout=TIMEOUT)
    os.close(terminal)
    assert SQUARES in output
    assert f"squares: {[x**3 for x in range(20)]}" in output


def read_terminal(terminal: int) -> str:
    output = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        output += data
    return output.decode(errors="replace").replace("\r\n", "\n")


def test_a_notebook_and_a_cell_that_is_run_again_with_new_code(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    project.write("helpers.py", "def plus_one(x):\n    return x + 1\n")
    define = "@ExperimentRegistry.Register()\ndef simulate(input_spec: Design) -> Result:\n    return Result(y={})\n"
    cells = [
        MODELS + "from helpers import plus_one",
        define.format("input_spec.x**2"),
        RUN,
        define.format("plus_one(input_spec.x)"),
        RUN,
        "class Result(ExperimentOutputSpec):\n    y: int\n    z: str",
        define.format("7, z='new'"),
        "run, ref = BaseExperiment(runnable=simulate).allocate([Design(x=1)])",
        "ref.result()\nrun.scalars()['z'].tolist()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    for name, value in project.environment.items():
        monkeypatch.setenv(name, value)
    kernel = nbclient.NotebookClient(
        notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": str(project.folder)}}
    )
    kernel.execute()
    text = "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        for output in cell.outputs
    )
    assert SQUARES in text
    assert f"squares: {[x + 1 for x in range(20)]}" in text
    assert "['new']" in text


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_script_that_sets_a_start_method_and_allocates_in_processes_of_its_own(project: Project, method: str) -> None:
    """The script itself has used Scythe before, so that a forked process begins with all it has left in memory."""
    work = "".join(f"    {line}\n" for line in RUN.strip().splitlines())
    project.write(
        "study.py",
        f"""
import multiprocessing
{STUDY}
def work():
{work}
if __name__ == "__main__":
    multiprocessing.set_start_method("{method}")
    work()
    first = BaseExperiment(runnable=simulate).allocate([Design(x=x) for x in range(2000)])
    processes = [multiprocessing.Process(target=work) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    first[1].result()
    print(len(first[0].scalars()), [process.exitcode for process in processes])
""",
    )
    output = project.run("study.py").stdout
    assert output.count(SQUARES) == 3
    assert "2000 [0, 0]" in output


def test_a_process_that_allocates_and_ends_without_waiting(project: Project) -> None:
    project.write(
        "study.py",
        f"""
import multiprocessing, scythe
{STUDY}
def work():
    BaseExperiment(runnable=simulate).allocate([Design(x=x) for x in range(20)])
if __name__ == "__main__":
    for method in ("spawn", "fork"):
        process = multiprocessing.get_context(method).Process(target=work)
        process.start()
        process.join()
        assert process.exitcode == 0
        print(scythe.open_run("simulate").progress().state)
""",
    )
    assert project.run("study.py").stdout.split() == ["finished", "finished"]


def test_the_file_that_is_run_may_have_any_name(project: Project) -> None:
    project.write("my study, 2nd (ü).py", GUARDED)
    assert SQUARES in project.run("my study, 2nd (ü).py").stdout


def test_sys_path_may_have_entries_that_are_no_text(project: Project) -> None:
    project.write("study.py", f"import pathlib, sys\nsys.path.append(pathlib.Path('x'))\n{STUDY}{RUN}")
    assert SQUARES in project.run("study.py").stdout


def test_python_options_reach_the_workers(project: Project) -> None:
    text = STUDY.replace("y=input_spec.x**2", "y=sys.flags.optimize + sys.flags.utf8_mode")
    project.write("study.py", text + RUN)
    assert f"squares: {[3] * 20}" in project.run("-OO", "-X", "utf8", "study.py").stdout
    assert sys.flags.optimize == 0


def test_a_script_that_goes_to_another_folder_first(project: Project) -> None:
    project.write("elsewhere/study.py", STUDY)
    project.write(
        "main.py", f"import os, sys\nsys.path.insert(0, 'elsewhere')\nfrom study import *\nos.chdir('/')\n{RUN}"
    )
    project.environment["SCYTHE_STORAGE_URL"] = str(project.folder / "runs")
    assert SQUARES in project.run("main.py").stdout
    project.write("main.py", f"import os\n{STUDY}os.chdir('/')\n{RUN}")
    assert SQUARES in project.run("main.py").stdout


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def make():\n    {}\n    return simulate\nmake()", "defined inside another function"),
        ("ExperimentRegistry.Register()(lambda input_spec: Result(y=1))", "lambda"),
        ("import threading\nlock = threading.Lock()\n{}\nsimulate.function.__globals__['lock'] = lock", "lock"),
    ],
)
def test_a_function_that_cannot_reach_a_worker_is_refused_before_anything_is_written(
    project: Project, code: str, reason: str
) -> None:
    define = (
        "@ExperimentRegistry.Register()\ndef simulate(input_spec: Design) -> Result:\n    with lock:\n        return 1"
    )
    indented = define.replace("\n", "\n    ") if code.startswith("def make") else define
    errors = project.run("-", input=f"{MODELS}\n{code.format(indented)}\n{RUN}", code=1).stderr
    assert "RegistrationError" in errors
    assert reason in errors
    assert not (project.folder / "scythe-runs").exists()
