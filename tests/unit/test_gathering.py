"""Parts, and the tables they are merged into; over the memory store."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scythe import parts
from scythe.errors import StoreError
from scythe.gathering import Gatherer, SpecTable, finished_rows, frame_names, outcome_counts, write_tables
from scythe.keys import RunKeys
from scythe.outcomes import ERRORS, SCALARS, TASKS, OutcomeList, failure, task
from scythe.parts import PartWriter, find_parts
from scythe.stores import MemoryStore, Store
from scythe.tables import frame_to_table

RUN = RunKeys("study/v1.0.0/2026-01-02_03-04-05")
LEVELS = ["experiment_id", "sort_index", "workflow_run_id", "root_workflow_run_id", "size"]


def new_store(total: int, *, row_group_size: int = 7) -> MemoryStore:
    """Make a store with the specs of a run, in several row groups."""
    specs = pa.table(
        {
            "experiment_id": [RUN.prefix] * total,
            "sort_index": range(total),
            "workflow_run_id": [f"id-{i}" for i in range(total)],
            "root_workflow_run_id": ["root"] * total,
            "size": [i / 2 for i in range(total)],
        }
    )
    sink = io.BytesIO()
    pq.write_table(specs, sink, row_group_size=row_group_size)
    store = MemoryStore(uuid4().hex)
    store.put(RUN.specs, sink.getvalue())
    return store


def how() -> dict[str, Any]:
    return task(attempts=1, worker="w", host="h", started=0.0, seconds=0.1, peak_memory=1)


def stream(frame: pd.DataFrame) -> bytes:
    table = frame_to_table(frame, drop_levels=LEVELS)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def outcomes(*rows: int, failed: bool = False, value: int = 0, n_frame: int | None = None) -> Any:
    """Make outcomes of some specs, each with a frame of some rows."""
    found = OutcomeList()
    for row in rows:
        if failed:
            found.add(row, {**failure("error", "ValueError", f"no {row}"), **how()}, ok=False)
        else:
            frame = pd.DataFrame(
                {"a": range(row, row + (n_frame or 0))}, index=pd.RangeIndex(n_frame or 0, name="hour")
            )
            frames = [] if n_frame is None else [("f", stream(frame))]
            found.add(row, {"out:y": row + value, **how()}, frames, ok=True)
    return found.take()


def tables(store: Store, name: str) -> pd.DataFrame:
    return Gatherer(store, RUN, output_fields={SCALARS: ["y"]}).read(name).to_pandas()  # type: ignore[no-any-return]


plans = st.integers(1, 30).flatmap(
    lambda total: st.tuples(
        st.permutations(range(total)),
        st.lists(st.integers(1, total), max_size=6),
        st.lists(st.booleans(), min_size=total, max_size=total),
        st.lists(st.integers(0, 3), min_size=total, max_size=total),
        st.integers(1, 3),
    )
)


@settings(max_examples=40)
@given(plans)
def test_tables_have_every_outcome_in_row_order_however_they_were_written(
    plan: tuple[list[int], list[int], list[bool], list[int], int],
) -> None:
    order, cuts, fails, sizes, n_writers = plan
    store = new_store(len(order))
    writers = [PartWriter(store, RUN, writer=f"{i:x}") for i in range(n_writers)]
    for number, (a, b) in enumerate(zip([0, *sorted(cuts)], [*sorted(cuts), len(order)], strict=True)):
        writer = writers[number % n_writers]
        for row in order[a:b]:
            writer.add(outcomes(row, failed=fails[row], n_frame=sizes[row]))
        writer.flush()
    good = [row for row, fail in enumerate(fails) if not fail]
    assert outcome_counts(store, RUN) == (len(good), len(order) - len(good))
    assert finished_rows(store, RUN, len(order)).all()
    scalars, failed = tables(store, SCALARS), tables(store, ERRORS)
    assert scalars["y"].tolist() == good
    assert list(scalars.index.get_level_values("size")) == [row / 2 for row in good]
    assert failed["message"].tolist() == [f"no {row}" for row, fail in enumerate(fails) if fail]
    assert list(tables(store, TASKS)["ok"]) == [not fail for fail in fails]
    if good:
        frame = tables(store, "f")
        assert frame["a"].tolist() == [row + k for row in good for k in range(sizes[row])]
        assert list(frame.index.get_level_values("sort_index")) == [row for row in good for _ in range(sizes[row])]


def test_a_part_that_grows_is_one_object_with_its_counts_in_its_key() -> None:
    store = new_store(10)
    writer = PartWriter(store, RUN, writer="0a")
    for rows, failed in (((4, 5), False), ((2,), True), ((9,), False)):
        writer.add(outcomes(*rows, failed=failed))
        writer.flush()
    (part,) = find_parts(store, RUN)
    assert (part.first, part.last, part.done, part.failed) == (2, 9, 3, 1)
    assert [row for row, done in enumerate(finished_rows(store, RUN, 10)) if done] == [2, 4, 5, 9]


def test_a_large_part_is_sealed_and_the_next_one_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "SEALED_ROWS", 10)
    store = new_store(20)
    writer = PartWriter(store, RUN, writer="0a")
    for rows in (range(8), range(8, 12), range(12, 13), range(13, 20)):
        writer.add(outcomes(*rows))
        writer.flush()
    assert [(part.index, part.done) for part in find_parts(store, RUN)] == [(0, 12), (1, 8)]
    assert tables(store, SCALARS)["y"].tolist() == list(range(20))


class FullStore(MemoryStore):
    """A store that is full for a while."""

    full = False

    def put(self, key: str, content: bytes | Path) -> None:
        if self.full and "outcomes" in key:
            raise StoreError("no space left")
        super().put(key, content)


def test_what_a_full_store_refused_is_written_once_there_is_space() -> None:
    store = FullStore(uuid4().hex)
    store.put(RUN.specs, new_store(4).get(RUN.specs))
    writer = PartWriter(store, RUN, writer="0a")
    writer.add(outcomes(0, n_frame=2))
    writer.flush()
    store.full = True
    writer.add(outcomes(1, n_frame=2))
    for _ in range(2):
        with pytest.raises(StoreError, match="no space left"):
            writer.flush()
    assert outcome_counts(store, RUN) == (1, 0)
    store.full = False
    writer.add(outcomes(2, n_frame=1))
    writer.flush()
    assert outcome_counts(store, RUN) == (3, 0)
    assert tables(store, "f")["a"].tolist() == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("good_first", [True, False])
def test_of_a_spec_that_ran_twice_the_success_counts_with_its_own_frame(good_first: bool) -> None:
    store = new_store(3)
    runs = [outcomes(0, 1, 2, n_frame=2), outcomes(1, failed=True)]
    for name, found in zip("ab", runs if good_first else runs[::-1], strict=True):
        writer = PartWriter(store, RUN, writer=name)
        writer.add(found)
        writer.flush()
    assert tables(store, SCALARS)["y"].tolist() == [0, 1, 2]
    assert tables(store, ERRORS).empty
    assert tables(store, "f")["a"].tolist() == [0, 1, 1, 2, 2, 3]


def test_of_a_spec_that_succeeded_twice_one_row_and_one_frame_are_kept() -> None:
    store = new_store(3)
    for name in "ab":
        writer = PartWriter(store, RUN, writer=name)
        writer.add(outcomes(1, n_frame=2))
        writer.flush()
    assert tables(store, SCALARS)["y"].tolist() == [1]
    assert tables(store, "f")["a"].tolist() == [1, 2]


@pytest.fixture
def written() -> Iterator[MemoryStore]:
    store = new_store(3)
    writer = PartWriter(store, RUN, writer="0a")
    writer.add(outcomes(0, 2, n_frame=1))
    writer.add(outcomes(1, failed=True))
    writer.flush()
    return store  # type: ignore[return-value]


def test_final_tables_are_written_if_there_is_anything_in_them(written: MemoryStore) -> None:
    assert write_tables(written, RUN, output_fields={SCALARS: ["y"]}) == [SCALARS, ERRORS, TASKS, "f"]
    assert frame_names(written, RUN) == ["f"]
    for name in (SCALARS, ERRORS, TASKS, "f"):
        final = pq.read_table(pa.BufferReader(written.get(RUN.table(name)))).to_pandas()
        pd.testing.assert_frame_equal(final, tables(written, name))


def test_a_table_without_anything_in_it_is_taken_away(written: MemoryStore) -> None:
    write_tables(written, RUN, output_fields={SCALARS: ["y"]})
    writer = PartWriter(written, RUN, writer="0b")
    writer.add(outcomes(1))
    writer.flush()
    assert ERRORS not in write_tables(written, RUN, output_fields={SCALARS: ["y"]})
    assert not written.exists(RUN.table(ERRORS))


def test_a_table_has_its_declared_columns_before_there_is_any_outcome() -> None:
    scalars = tables(new_store(3), SCALARS)
    assert (list(scalars.columns), list(scalars.index.names), len(scalars)) == (["y"], LEVELS, 0)


def test_specs_are_read_by_ranges_across_row_groups() -> None:
    with SpecTable(new_store(20), RUN) as specs:
        assert specs.windows == [(0, 7), (7, 14), (14, 20)]
        for first, end in ((0, 20), (3, 5), (6, 8), (13, 20), (7, 7)):
            assert specs.read(first, end).column("sort_index").to_pylist() == list(range(first, end))
