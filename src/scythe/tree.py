"""The scatter/gather tree: its arithmetic, pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import BaseModel, Field


class RecursionMap(BaseModel):
    """How an engine of many machines splits a run into a tree of fans and leaves.

    The embedded engine needs no tree: it hands out ranges of specs as slots become free.

    Attributes:
        factor: Into how many children a fan splits.
        max_depth: How many levels of fans there are at most.
    """

    factor: int = Field(ge=1)
    max_depth: int = Field(default=10, ge=0)


def missing_ranges(finished: Iterable[bool]) -> Iterator[tuple[int, int]]:
    """Yield the ranges (first, end) of rows that are not finished.

    >>> list(missing_ranges([True, False, False, True, False]))
    [(1, 3), (4, 5)]
    """
    first: int | None = None
    row = -1
    for row, done in enumerate(finished):
        if done and first is not None:
            yield first, row
            first = None
        elif not done and first is None:
            first = row
    if first is not None:
        yield first, row + 1
