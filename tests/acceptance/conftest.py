from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A user's project; it must leave nothing behind."""
    project = Project(tmp_path)
    try:
        yield project
        project.assert_clean()
    finally:
        project.end_all()
