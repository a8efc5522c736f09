"""What `import scythe` gives, and what it does not do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import scythe


def test_the_public_names_are_those_that_can_be_imported() -> None:
    assert len(set(scythe.__all__)) == len(scythe.__all__)
    homes = {name for names in scythe._HOMES.values() for name in names}
    assert set(scythe.__all__) == homes | {"errors"}
    assert all(getattr(scythe, name) is not None for name in scythe.__all__)
    assert set(scythe.__all__) <= set(dir(scythe))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'BaseExperimnt'"):
        scythe.BaseExperimnt  # noqa: B018


PROBE = """
import json, os, sys, threading
before = set(os.listdir())
import scythe
from scythe import *
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
