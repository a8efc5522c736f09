"""What is kept, and what is left behind, when somebody or something ends a run."""

import os
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.acceptance.project import MODELS, Project, until

STUDY = f"""{MODELS}
@ExperimentRegistry.Register()
def simulate(input_spec: Design) -> Result:
    time.sleep(1000 if os.path.exists("block") and input_spec.x >= 40 else 0.01)
    with open("journal", "a") as file:
        file.write(f"{{input_spec.x}}\\n")
    return Result(y=input_spec.x**2)

experiment = BaseExperiment(runnable=simulate)
"""

START = """
if __name__ == "__main__":
    run, ref = experiment.allocate([Design(x=x) for x in range(100)])
    print("allocated", run.experiment_id, flush=True)
"""

RESUME = """
import scythe, study
run = scythe.open_run("simulate")
before = run.progress()
print(before.state, before.done, len(run.scalars(partial=True)), flush=True)
run.resume().result()
print(run.progress().state, run.scalars()["y"].tolist() == [x**2 for x in range(100)])
"""

TIME_TO_STOP = 20.0
"""It is two seconds on a machine that has nothing else to do [s]."""

WAITS = {
    "in result": "    ref.result()\n",
    "somewhere else": "    time.sleep(1000)\n",
    "at the end of the script": "",
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_control_c_keeps_what_finished_and_says_how_to_go_on(project: Project, wait: str) -> None:
    project.write("study.py", STUDY + START + wait)
    block, journal = project.write("block", ""), project.folder / "journal"
    process = project.start("study.py")
    project.read(process.stdout, "allocated")
    until(lambda: len(read_journal(journal)) == 40)

    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    ended = project.end(process, code=-signal.SIGINT)
    assert time.monotonic() - began < TIME_TO_STOP
    assert "40 of 100 specs have ended and are kept" in ended.stderr
    assert "Go on with scythe.open_run(" in ended.stderr
    project.assert_clean()

    block.unlink()
    resumed = project.run("-c", RESUME).stdout.split("\n")
    assert resumed[:2] == ["interrupted 40 40", "finished True"]
    assert sorted(read_journal(journal)) == list(range(100))


FOLLOW = """
import contextlib, scythe
run = scythe.open_run("simulate")
with contextlib.suppress(TimeoutError):
    run.wait(timeout=0.1)
print("waiting", flush=True)
run.wait()
"""


def test_control_c_in_another_process_that_follows_leaves_the_run_alone(project: Project) -> None:
    project.write("study.py", STUDY + START + "    ref.result()\n")
    block = project.write("block", "")
    process = project.start("study.py")
    project.read(process.stdout, "allocated")
    follower = project.start("-c", FOLLOW)
    project.read(follower.stdout, "waiting")
    until(lambda: len(read_journal(project.folder / "journal")) == 40)
    time.sleep(0.2)
    os.kill(follower.pid, signal.SIGINT)
    assert "it goes on where it runs" in project.end(follower, code=-signal.SIGINT).stderr
    assert process.poll() is None
    block.unlink()
    os.kill(process.pid, signal.SIGINT)
    project.end(process, code=-signal.SIGINT)


def test_a_second_control_c_ends_it_too(project: Project) -> None:
    project.write("study.py", STUDY + START + "    ref.result()\n")
    project.write("block", "")
    process = project.start("study.py")
    project.read(process.stdout, "allocated")
    until(lambda: len(read_journal(project.folder / "journal")) == 40)
    for _ in range(3):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.05)
    project.end(process, code=-signal.SIGINT)


KILLED = f"""{MODELS}
import pandas as pd, subprocess
@ExperimentRegistry.Register()
def simulate(input_spec: Design) -> Result:
    if input_spec.x == 5_000:
        subprocess.run(["sleep", "1000"])
    with open("journal", "a") as file:
        file.write(f"{{input_spec.x}}\\n")
    frames = {{"rows": pd.DataFrame({{"z": [input_spec.x]}})}} if input_spec.x % 50 == 0 else {{}}
    return Result(y=input_spec.x**2, dataframes=frames)

experiment = BaseExperiment(runnable=simulate)
if __name__ == "__main__":
    run, ref = experiment.allocate([Design(x=x) for x in range(20_000)])
    print("allocated", flush=True)
    ref.result()
"""

READ = """
import scythe
run = scythe.open_run("simulate")
progress = run.progress()
scalars = run.scalars(partial=True)
x = scalars.index.get_level_values("x")
assert (scalars["y"] == x**2).all() and x.is_monotonic_increasing and x.is_unique
assert set(run.frame("rows", partial=True)["z"]) >= {i for i in x if i % 50 == 0}
print(progress.done, len(scalars), len(run.tasks(partial=True)), progress.total)
"""


def test_a_main_process_that_is_killed_leaves_what_finished_and_nothing_else(project: Project) -> None:
    project.write("study.py", KILLED)
    process = project.start("study.py")
    project.read(process.stdout, "allocated")
    runs = project.folder / "scythe-runs"
    until(lambda: sum(done for done in map(count_done, runs.rglob("parts/outcomes/*.pq"))) > 3_000)
    assert len(project.processes()) > 2
    process.kill()
    process.wait()
    until(lambda: not project.processes())  # the program that a worker had started included

    tables = [path for path in runs.rglob("*.pq") if ".scythe-staging" not in path.parts]
    assert len(tables) >= 3
    for path in tables:
        pq.read_table(path)
    done, scalars, tasks, total = map(int, project.run("-c", READ).stdout.split())
    assert 3_000 < done == scalars == tasks < total == 20_000
    assert done <= len(set(read_journal(project.folder / "journal")))
    kept = set(read_kept(project))

    code = "import scythe\nprint(scythe.open_run('simulate').wait(timeout=100).state)"
    assert project.run("-c", code).stdout.split() == ["interrupted"]

    (project.folder / "journal").unlink()
    project.write("study.py", KILLED.replace("== 5_000", "== -1"))
    resume = "import scythe, study\nrun = scythe.open_run('simulate')\nrun.resume().result()\nprint(len(run.scalars()))"
    assert project.run("-c", resume).stdout.split() == ["20000"]
    again = read_journal(project.folder / "journal")
    assert set(again) == set(range(20_000)) - kept
    project.forgive_temporary_files()


def count_done(path: Path) -> int:
    done, _, failed = path.name.split(".")[-2].partition("+")
    return int(done) + int(failed)


def read_kept(project: Project) -> list[int]:
    code = "import scythe\nprint(*scythe.open_run('simulate').scalars(partial=True).index.get_level_values('x'))"
    return [int(x) for x in project.run("-c", code).stdout.split()]


def read_journal(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []
