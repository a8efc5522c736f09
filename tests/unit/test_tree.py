from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scythe.tree import RecursionMap, missing_ranges


@given(st.lists(st.booleans()))
def test_missing_ranges_are_the_rows_that_are_not_finished(finished: list[bool]) -> None:
    ranges = list(missing_ranges(finished))
    assert [row for first, end in ranges for row in range(first, end)] == [
        row for row, done in enumerate(finished) if not done
    ]


@given(st.lists(st.booleans()))
def test_missing_ranges_are_never_empty_and_never_touch(finished: list[bool]) -> None:
    ranges = list(missing_ranges(finished))
    assert all(first < end for first, end in ranges)
    assert all(end < first for (_, end), (first, _) in pairwise(ranges))


@given(st.integers(1, 100), st.integers(0, 20))
def test_a_recursion_map_survives_json(factor: int, max_depth: int) -> None:
    tree = RecursionMap(factor=factor, max_depth=max_depth)
    assert RecursionMap.model_validate_json(tree.model_dump_json()) == tree


def test_a_recursion_map_is_ten_levels_deep_at_most_where_nobody_says() -> None:
    assert RecursionMap(factor=3).max_depth == 10


@pytest.mark.parametrize("values", [{"factor": 0}, {"factor": 2, "max_depth": -1}, {}])
def test_a_recursion_map_that_splits_into_nothing_is_refused(values: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        RecursionMap(**values)
