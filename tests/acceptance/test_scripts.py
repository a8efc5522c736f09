"""What users' scripts do, and what may go wrong in them."""

import os
import pty
import re

import pytest

from tests.acceptance.project import MODELS, RUN, SQUARES, STUDY, TIMEOUT, Project, until


def test_a_script_that_ends_without_waiting_has_its_run_finished(project: Project) -> None:
    project.write("study.py", STUDY + "BaseExperiment(runnable=simulate).allocate([Design(x=x) for x in range(20)])\n")
    project.run("study.py")
    assert counts(project) == ("finished", 20, 20)


def test_a_script_that_fails_has_its_run_finished(project: Project) -> None:
    project.write("study.py", f"{STUDY}BaseExperiment(runnable=simulate).allocate([Design(x=1)])\n1 / 0\n")
    assert "ZeroDivisionError" in project.run("study.py", code=1).stderr
    assert counts(project) == ("finished", 1, 1)


def counts(project: Project) -> tuple[str, int, int]:
    run = project.open_run()
    return run.progress().state, run.progress().total, len(run.scalars())


def test_ten_of_a_thousand_that_raise_are_warned_of_and_the_script_succeeds(project: Project) -> None:
    text = STUDY.replace(
        "    return", "    if input_spec.x % 100 == 7:\n        raise RuntimeError('no flow')\n    return"
    )
    project.write("study.py", text + RUN.replace("range(20)", "range(1000)") + "print(run.errors()['traceback'])")
    ended = project.run("study.py")
    assert "SpecsFailedWarning: 10 of 1,000 specs" in ended.stderr
    assert "RuntimeError: no flow" in ended.stderr
    run = project.open_run()
    assert len(run.scalars()) == 990
    errors = run.errors()
    assert errors.index.get_level_values("x").tolist() == list(range(7, 1000, 100))
    assert errors["traceback"].str.contains("raise RuntimeError").all()


@pytest.mark.parametrize(
    ("trouble", "clue"),
    [
        ("raise ImportError('no licence for the solver')", "no licence for the solver"),
        ("sys.exit('bad settings')", "bad settings"),
        ("print('famous last words', flush=True); os.kill(os.getpid(), 9)", "famous last words"),
        ("del simulate", "simulate"),
    ],
)
def test_a_module_that_a_worker_cannot_import_is_a_clear_error(project: Project, trouble: str, clue: str) -> None:
    project.write("study.py", f"{STUDY}\nif 'MAIN' not in os.environ:\n    {trouble}\n")
    start = "import os\nos.environ['MAIN'] = ''\nfrom study import *\ndel os.environ['MAIN']\n"
    project.write("main.py", start + RUN)
    errors = project.run("main.py", code=1).stderr
    assert "RunFailedError" in errors
    assert clue in errors
    assert project.open_run().progress().state == "failed"


def test_a_run_that_could_not_be_imported_goes_on_once_it_can(project: Project) -> None:
    project.write("study.py", f"{STUDY}\nif os.path.exists('broken'):\n    raise ImportError('later')\n")
    project.write("main.py", "from study import *\nopen('broken', 'w').close()\n" + RUN)
    project.run("main.py", code=1)
    (project.folder / "broken").unlink()
    resume = "import scythe, study\nscythe.open_run('simulate').resume().result()\n"
    project.run("-c", resume)
    assert counts(project) == ("finished", 20, 20)


def test_control_c_while_workers_import_stops(project: Project) -> None:
    project.write("study.py", f"{STUDY}\nif 'MAIN' not in os.environ:\n    time.sleep(1000)\n")
    start = "import os, signal, threading\nos.environ['MAIN'] = ''\nfrom study import *\ndel os.environ['MAIN']\n"
    interrupt = "threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
    project.write("main.py", start + RUN.replace("ref.result()", f"{interrupt}ref.result()"))
    errors = project.run("main.py", code=-2).stderr
    assert "0 of 20 specs have ended and are kept" in errors


def test_processes_and_threads_that_user_code_leaves_do_not_hold_a_run_up(project: Project) -> None:
    leave = """
    import multiprocessing, subprocess, threading
    threading.Thread(target=time.sleep, args=[1000]).start()
    threading.Thread(target=time.sleep, args=[1000], daemon=True).start()
    subprocess.Popen(["sleep", "1000"])
    multiprocessing.get_context("fork").Process(target=time.sleep, args=[1000]).start()
    return"""
    project.write("study.py", STUDY.replace("\n    return", leave) + RUN.replace("range(20)", "range(3)"))
    assert "squares: [0, 1, 4]" in project.run("study.py").stdout


def test_processes_that_user_code_forks_in_a_worker_may_use_scythe(project: Project) -> None:
    text = f"""{STUDY}
def inner(queue):
    run, ref = BaseExperiment(runnable=simulate, run_name="inner").allocate([Design(x=3)])
    ref.result()
    queue.put(int(run.scalars()["y"].sum()))

@ExperimentRegistry.Register()
def outer(input_spec: Design) -> Result:
    import multiprocessing
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=inner, args=[queue])
    process.start()
    return Result(y=queue.get(timeout=60))

if __name__ == "__main__":
    run, ref = BaseExperiment(runnable=outer).allocate([Design(x=1)])
    ref.result()
    print("inner:", run.scalars()["y"].tolist())
"""
    project.write("study.py", text)
    assert "inner: [9]" in project.run("study.py").stdout


def test_the_number_of_slots_follows_the_environment_and_runs_at_once_share_them(project: Project) -> None:
    text = f"""{MODELS}
import pandas as pd
@ExperimentRegistry.Register()
def simulate(input_spec: Design) -> Result:
    time.sleep(0.05)
    return Result(y=os.getpid())

if __name__ == "__main__":
    started = [BaseExperiment(runnable=simulate).allocate([Design(x=x) for x in range(12)]) for _ in range(2)]
    for run, ref in started:
        ref.result()
    tasks = pd.concat([run.tasks() for run, _ in started]).sort_values("started")
    ends = tasks["started"] + pd.to_timedelta(tasks["seconds"], unit="s")
    at_once = [(ends[: i].to_numpy() > start).sum() + 1 for i, start in enumerate(tasks["started"].to_numpy())]
    pids = pd.concat([run.scalars() for run, _ in started])["y"]
    print("slots:", max(at_once), pids.nunique(), tasks["worker"].nunique())
"""
    project.write("study.py", text)
    project.environment["SCYTHE_WORKER_SLOTS"] = "3"
    assert "slots: 3 3 3\n" in project.run("study.py").stdout


def test_allocate_waits_if_asked_to_and_wait_gives_up_if_asked_to(project: Project) -> None:
    project.write(
        "study.py",
        f"""{MODELS}
@ExperimentRegistry.Register()
def simulate(input_spec: Design) -> Result:
    while not os.path.exists("go"):
        time.sleep(0.01)
    return Result(y=1)

if __name__ == "__main__":
    experiment = BaseExperiment(runnable=simulate)
    run, ref = experiment.allocate([Design(x=x) for x in range(2)])
    try:
        run.wait(timeout=0.2)
    except TimeoutError as error:
        print("gave up:", error)
    open("go", "w").close()
    print(run.wait().state)
    run, ref = experiment.allocate([Design(x=1)], wait=True)
    print("waited:", run.progress().state)
""",
    )
    output = project.run("study.py").stdout
    assert "has not ended after 0.2 s: 0 of 2 specs have" in output
    assert "finished\nwaited: finished\n" in output


def test_another_process_sees_the_counts_while_a_run_goes_on(project: Project) -> None:
    project.write(
        "study.py",
        f"""{MODELS}
@ExperimentRegistry.Register()
def simulate(input_spec: Design) -> Result:
    if input_spec.x == 1:
        raise ValueError
    while input_spec.x > 2 and not os.path.exists("go"):
        time.sleep(0.01)
    return Result(y=1)

if __name__ == "__main__":
    BaseExperiment(runnable=simulate).allocate([Design(x=x) for x in range(9)])
    print("allocated", flush=True)
""",
    )
    process = project.start("study.py")
    project.read(process.stdout, "allocated")
    follow = """
import scythe, time
run = scythe.open_run("simulate")
while True:
    now = run.progress()
    if (now.done, now.failed, now.running) == (2, 1, 2):
        break
    time.sleep(0.05)
print(now.total, now.state, len(run.scalars(partial=True)), len(run.errors(partial=True)))
open("go", "w").close()
print(run.wait().state)
"""
    output = project.run("-c", follow).stdout.split("\n")
    assert output[0] == "9 running 2 1"
    assert output[1] == "finished"
    project.end(process)


def test_a_run_started_while_another_goes_on_has_the_code_of_now(project: Project) -> None:
    """The module is changed and loaded again meanwhile, as in a notebook."""
    slow = STUDY.replace("    return", "    time.sleep(0.05)\n    return")
    project.write("model.py", slow)
    change = """
import importlib, pathlib, time
while run.progress().done < 1:
    time.sleep(0.05)
path = pathlib.Path(model.__file__)
path.write_text(path.read_text().replace("x**2", "x**2 + 1000"))
os.utime(path, (1, 1))
model = importlib.reload(model)
second, second_ref = BaseExperiment(runnable=model.simulate).allocate([model.Design(x=x) for x in range(20)])
second_ref.result()
ref.result()
print(set(run.scalars()["y"] < 1000), set(second.scalars()["y"] < 1000))
"""
    start = (
        "run, ref = BaseExperiment(runnable=model.simulate).allocate([model.Design(x=x % 30) for x in range(100)])\n"
    )
    project.write("study.py", "import model, os\nfrom scythe import BaseExperiment\n" + start + change)
    assert "{True} {False}" in project.run("study.py").stdout


# ---------------------------------------------------------------------------------------------------------------------
# what is shown


NOISY = f"""{MODELS}
@ExperimentRegistry.Register()
def simulate(input_spec: Design) -> Result:
    print("NOISE by print")
    print("NOISE by stderr", file=sys.stderr)
    os.write(1, b"NOISE by write\\n")
    os.system("echo NOISE by a program; echo NOISE by a program >&2")
    time.sleep(0.02)
    return Result(y=input_spec.x)

experiment = BaseExperiment(runnable=simulate)
if __name__ == "__main__":
    run, ref = experiment.allocate([Design(x=x) for x in range(60)])
    WAIT
    print("THE END")
"""


@pytest.mark.parametrize("wait", ["ref.result()", "pass"])
def test_a_terminal_shows_progress_that_output_of_simulations_does_not_tear(project: Project, wait: str) -> None:
    project.write("study.py", NOISY.replace("WAIT", wait))
    terminal, theirs = pty.openpty()
    process = project.start("study.py", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    output = b""
    while data := read_some(terminal):
        output += data
    assert process.wait(timeout=TIMEOUT) == 0
    os.close(terminal)
    text = output.decode()
    assert "NOISE" not in text
    assert "60/60" in text
    assert "THE END" in text
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)  # colours; what else there is moves the cursor
    lines = [line.strip() for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "\r", text))]
    frames = [line for line in lines if re.search(r"\d+/60", line)]
    assert len(frames) > 3
    assert [frame for frame in frames if not re.fullmatch(r"simulate v1.0.0 \S+ +\d+/60 .*", frame)] == []


def read_some(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other side is closed
        return b""


def test_without_a_terminal_progress_is_a_line_now_and_then(project: Project) -> None:
    project.environment["SCYTHE_PROGRESS"] = "plain"
    project.write("study.py", NOISY.replace("range(60)", "range(2)").replace("0.02", "5.5").replace("WAIT", ""))
    ended = project.run("study.py")
    assert re.search(r"^simulate v1.0.0: 0 of 2 after 5 s", ended.stderr, re.MULTILINE)
    assert "NOISE" not in ended.stdout + ended.stderr


def test_a_terminal_that_goes_away_does_not_take_the_run_along(project: Project) -> None:
    project.write("study.py", NOISY.replace("WAIT", ""))
    process = project.start("study.py")
    assert process.stderr is not None
    process.stderr.close()
    process.wait(timeout=TIMEOUT)
    until(lambda: not project.processes())
    assert counts(project) == ("finished", 60, 60)


def test_many_threads_of_a_script_may_allocate_at_once(project: Project) -> None:
    text = f"""
from concurrent.futures import ThreadPoolExecutor
{STUDY}
def study(i):
    run, ref = BaseExperiment(runnable=simulate).allocate([Design(x=x + i) for x in range(10)], version="keep")
    ref.result()
    return run.scalars()["y"].tolist() == [(x + i) ** 2 for x in range(10)], run.experiment_id

if __name__ == "__main__":
    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(study, range(6)))
    print(all(ok for ok, _ in results), len(set(id for _, id in results)))
"""
    project.write("study.py", text)
    assert "True 6" in project.run("study.py").stdout


def test_the_inline_engine_runs_the_same_script(project: Project) -> None:
    project.environment["SCYTHE_ENGINE"] = "inline"
    project.write("study.py", STUDY + RUN)
    assert SQUARES in project.run("study.py").stdout
