"""Parts: the outcomes of some specs, as columns, written while a run goes on.

An outcome part has a record for every spec that ended; see `outcomes` for its columns. Frames have parts of their own,
one folder a frame, with as many records for a spec as its frame had rows.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scythe.keys import OUTCOMES, PartKey, RunKeys, current_parts, frame_parts_name
from scythe.outcomes import STARTED, Outcomes
from scythe.stores import Store
from scythe.tables import ROW, concat, encode_column

OK = "ok"
SEALED_ROWS = 20_000
SEALED_BYTES = 16 * 2**20


def outcome_table(outcomes: Outcomes) -> pa.Table:
    """Return the outcome records as columns."""
    fields = [pa.field(ROW, pa.int64()), pa.field(OK, pa.bool_())]
    arrays = [pa.array(outcomes.rows, pa.int64()), pa.array(outcomes.ok, pa.bool_())]
    for name, values in outcomes.columns.items():
        if name == STARTED:
            microseconds = np.asarray(values, np.float64) * 1e6
            array = pa.array(microseconds.astype(np.int64)).cast(pa.timestamp("us", "UTC"))
            column = pa.field(name, array.type)
        else:
            column, array = encode_column(name, values, exact=False)
        fields.append(column)
        arrays.append(array)
    return pa.table(arrays, schema=pa.schema(fields))


def frame_table(frames: Sequence[tuple[int, bytes]]) -> pa.Table:
    """Return the records of several specs' frames of one name, each with the row of its spec."""
    tables = []
    for row, stream in frames:
        records = pa.ipc.open_stream(stream).read_all()
        rows = pa.array([row] * records.num_rows, pa.int64())
        tables.append(records.add_column(0, pa.field(ROW, pa.int64()), rows))
    return concat(tables)


class PartWriter:
    """Writes outcomes as parts of one run, few and large.

    The part at hand grows: each flush writes it again, under a key with its new counts, and then deletes the key
    before. Once it is large it is sealed and the next one begun. So every outcome is in the store soon after it is
    known, and the number of objects follows from the volume of results and not from how long they took.

    Not safe for use by several threads at once.
    """

    def __init__(self, store: Store, run: RunKeys, *, writer: str) -> None:
        self._store = store
        self._run = run
        self._writer = writer
        self._waiting: list[Outcomes] = []
        self._open: dict[str, _OpenPart] = {}

    def add(self, outcomes: Outcomes) -> None:
        """Take outcomes in; `flush` writes them."""
        self._waiting.append(outcomes)

    def take(self) -> Callable[[], None]:
        """Take out what was added, and return what writes it; new outcomes may be added meanwhile.

        What could not be written is put back, and nothing of it counts as written.
        """
        waiting, self._waiting = self._waiting, []

        def write() -> None:
            try:
                self._write(waiting)
            except BaseException:
                self._waiting[:0] = waiting
                raise

        return write

    def flush(self) -> None:
        """Write what was added since the last flush."""
        self.take()()

    def _write(self, waiting: list[Outcomes]) -> None:
        """Write outcomes, their frames first, so that an outcome never lacks its frames."""
        if not waiting:
            return
        tables = {
            frame_parts_name(name): [
                frame_table(outcomes.frames[name]) for outcomes in waiting if name in outcomes.frames
            ]
            for name in sorted({name for outcomes in waiting for name in outcomes.frames})
        }
        tables[OUTCOMES] = [outcome_table(outcomes) for outcomes in waiting]
        done = sum(outcomes.done for outcomes in waiting)
        failed = sum(outcomes.failed for outcomes in waiting)
        grown = {name: self._grow(name, added, done=done, failed=failed) for name, added in tables.items()}
        for name, part in grown.items():
            before = self._open.get(name)
            self._open[name] = part.sealed() if part.is_large else part
            if before is not None and before.key is not None and before.key != part.key:
                self._store.delete(before.key.render())

    def _grow(self, name: str, tables: list[pa.Table], *, done: int, failed: int) -> _OpenPart:
        """Write the part at hand again, with more in it; the counts of a frame's part are of the specs it came with."""
        part = self._open.get(name, _OpenPart())
        table = concat([*([part.table] if part.table is not None else []), *tables])
        table = table.take(pc.sort_indices(table, sort_keys=[(ROW, "ascending")]))
        rows = table.column(ROW)
        first, last = (rows[0].as_py(), rows[-1].as_py()) if table.num_rows else (0, 0)
        done, failed = part.done + done, part.failed + failed
        key = PartKey(self._run.parts(name), self._writer, part.index, first, last, done, failed)
        content = render_parquet(table)
        self._store.put(key.render(), content)
        is_large = table.num_rows >= SEALED_ROWS or len(content) >= SEALED_BYTES
        return _OpenPart(part.index, table, key, done, failed, is_large=is_large)


@dataclass(frozen=True)
class _OpenPart:
    index: int = 0
    table: pa.Table | None = None
    key: PartKey | None = None
    done: int = 0
    failed: int = 0
    is_large: bool = False

    def sealed(self) -> _OpenPart:
        """Return the part that follows when this one is large enough."""
        return _OpenPart(self.index + 1)


def render_parquet(table: pa.Table) -> bytes:
    """Write a table as the content of a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def find_parts(store: Store, run: RunKeys, name: str = OUTCOMES) -> list[PartKey]:
    """List the parts of one table of a run, in row order."""
    return current_parts(entry.key for entry in store.list_objects(run.parts(name)))


@contextmanager
def open_parquet(store: Store, key: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet object for reading."""
    with store.open(key) as source, pq.ParquetFile(source) as file:
        yield file
