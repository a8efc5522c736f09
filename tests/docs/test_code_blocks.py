"""The code of every page runs, in order, as one script, and prints what the page says."""

import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import README, ROOT, Block, documentation_pages, page_name, python_blocks

PAGES = [page for page in documentation_pages() if python_blocks(page)]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_the_code_of_a_page_runs_as_one_script_and_prints_what_the_page_says(page: Path, tmp_path: Path) -> None:
    blocks = python_blocks(page)
    script = tmp_path / "page.py"
    script.write_text(_script(blocks), encoding="utf-8")

    environment = {name: value for name, value in os.environ.items() if not name.startswith("SCYTHE_")}
    environment |= {"SCYTHE_WORKER_SLOTS": "1", "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )

    assert result.returncode == 0, f"{page_name(page)}:\n{result.stdout}\n{result.stderr}"
    printed = result.stdout.split(_MARK)[1:]
    assert len(printed) == len(blocks), result.stderr
    for block, output in zip(blocks, printed, strict=True):
        _check_output(page, block, output)


def test_the_first_code_block_of_the_readme_is_the_tiny_example() -> None:
    example = ROOT / "examples" / "tiny" / "tiny.py"
    assert python_blocks(README)[0].code == example.read_text(encoding="utf-8")


_MARK = "=== next block ===\n"


def _script(blocks: list[Block]) -> str:
    """Return one script that marks, in the main process only, where the output of each block begins."""
    marked = [
        f"# line {block.line} of the page\nif __name__ == '__main__': print({_MARK.strip()!r}, flush=True)\n"
        f"{block.code}"
        for block in blocks
    ]
    return "\n".join(marked)


def _check_output(page: Path, block: Block, printed: str) -> None:
    if block.output is None:
        return
    lines = "".join(f"{line.rstrip()}\n" for line in printed.splitlines())
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(block.output, lines, flags), (
        f"{page_name(page)}, line {block.line}: the block prints\n{lines}\nand not\n{block.output}"
    )
