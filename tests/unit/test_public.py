"""What `import scythe` gives, and what it does not do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import scythe


def test_the_public_names_are_those_that_can_be_imported() -> None:
    assert len(set(scythe.__all__)) == len(scythe.__all__)
    modules = {name for name, value in vars(scythe).items() if isinstance(value, ModuleType)}
    public = {name for name in vars(scythe) if not name.startswith("_")}
    assert set(scythe.__all__) == public - (modules - {"errors"})


PROBE = """
import json, os, sys, threading
before = set(os.listdir())
import scythe
heavy = ["pandas", "pyarrow", "obstore", "rich", "typer", "yaml", "hatchet_sdk", "numpy", "cloudpickle"]
loaded = sorted({name.partition(".")[0] for name in sys.modules}.intersection(heavy))
print(json.dumps([loaded, sorted(set(os.listdir()) - before), threading.active_count()]))
"""


def test_importing_loads_nothing_heavy_makes_no_folder_and_starts_no_thread(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(found.stdout) == [[], [], 1]
    assert found.stderr == ""
