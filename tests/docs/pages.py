"""Reads the Markdown of the repository: its pages, their code blocks, headings and links.

A block marked `text` right behind a block marked `python` is what that block prints; `...` in it stands for anything.
"""

import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A code block, and what the page says it prints (None where it says nothing)."""

    language: str
    code: str
    line: int
    output: str | None


def documentation_pages() -> list[Path]:
    """Return the pages whose code runs: the README and docs."""
    return [README, *sorted(DOCS.glob("*.md"))]


def all_pages() -> list[Path]:
    """Return every page of the repository."""
    return [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")), *sorted(ROOT.glob("examples/**/*.md"))]


def page_name(page: Path) -> str:
    """Return the name of a page, for test ids and messages."""
    return page.relative_to(ROOT).as_posix()


def find_blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    fences = list(_FENCE.finditer(text))
    blocks = []
    for fence, following in zip_longest(fences, fences[1:]):
        output = None
        if following is not None and following[1] == "text" and not text[fence.end() : following.start()].strip():
            output = following[2]
        blocks.append(Block(fence[1], fence[2], text.count("\n", 0, fence.start()) + 2, output))
    return blocks


def python_blocks(page: Path) -> list[Block]:
    """Return the blocks of a page that are Python."""
    return [block for block in find_blocks(page) if block.language == "python"]


def find_links(page: Path) -> list[str]:
    """Return the targets of a page's links, those in code left out."""
    return _LINK.findall(_INLINE_CODE.sub("", _FENCE.sub("", page.read_text(encoding="utf-8"))))


def find_anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
