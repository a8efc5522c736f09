"""Links lead somewhere, and no page names a path of somebody's machine."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, all_pages, find_anchors, find_links, page_name

MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|Users|root|tmp|work|var|mnt|opt|private)/|\b[A-Z]:\\")


@pytest.mark.parametrize("page", all_pages(), ids=page_name)
def test_every_relative_link_of_a_page_resolves(page: Path) -> None:
    broken = []
    for link in find_links(page):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in find_anchors(target)):
            broken.append(link)
    assert not broken


def test_the_index_lists_every_page() -> None:
    pages = {page.name for page in DOCS.glob("*.md")} - {"index.md"}
    assert pages <= set(find_links(DOCS / "index.md"))


@pytest.mark.parametrize("page", [*all_pages(), *sorted(ROOT.glob("examples/**/*.py"))], ids=page_name)
def test_no_page_names_a_path_of_a_machine(page: Path) -> None:
    assert not MACHINE_PATH.findall(page.read_text(encoding="utf-8"))
