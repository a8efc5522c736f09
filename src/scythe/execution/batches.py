"""Reads a run's specs from the store as batches for a slot."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from scythe.execution.messages import Batch
from scythe.gathering import SpecTable
from scythe.keys import RunKeys
from scythe.stores import Store
from scythe.tables import encoding_of
from scythe.transfer import fetch


class BatchReader:
    """Reads ranges of specs; safe for use by several threads.

    Args:
        store: Where the run is.
        run: Its keys.
        work: The key under which slots know the work.
        file_columns: Columns that hold file references to be fetched.
        extra_columns: Columns that are not fields of the model.
    """

    def __init__(
        self,
        store: Store,
        run: RunKeys,
        *,
        work: str,
        file_columns: tuple[str, ...],
        extra_columns: frozenset[str],
    ) -> None:
        self._specs = SpecTable(store, run)
        self._work = work
        self._file_columns = file_columns
        self._extra_columns = extra_columns
        self._json_columns = frozenset(f.name for f in self._specs.schema if encoding_of(f) != "plain")
        self._lock = threading.Lock()
        self._paths: dict[str, str] = {}
        self._window: tuple[int, int] = (0, 0)
        self._table: pa.Table = self._specs.schema.empty_table()

    def read(self, first: int, end: int) -> Batch:
        """Return the specs from `first` up to `end`, with the files they refer to at hand.

        Raises:
            StoreError: A file cannot be fetched.
        """
        with self._lock:
            if not (self._window[0] <= first and end <= self._window[1]):
                spans = [w for w in self._specs.windows if w[0] < end and w[1] > first]
                self._window = (spans[0][0], spans[-1][1])
                self._table = self._specs.read(*self._window)
            table = self._table.slice(first - self._window[0], end - first)
        columns: Mapping[str, list[Any]] = {
            name: column.to_pylist() for name, column in zip(table.column_names, table.columns, strict=True)
        }
        urls = {url for name in self._file_columns for url in columns[name] if url is not None}
        with self._lock:
            for url in urls - self._paths.keys():
                self._paths[url] = str(fetch(url))
            paths = {url: self._paths[url] for url in urls}
        return Batch(self._work, range(first, end), columns, self._json_columns, self._extra_columns, paths)

    def close(self) -> None:
        """Let go of the specs."""
        with self._lock:
            self._specs.close()


def output_ids(batch: Batch) -> dict[int, tuple[str, str]]:
    """Return, by row, the run prefix and the id under which a spec's output files are kept."""
    ids = zip(batch.columns["experiment_id"], batch.columns["workflow_run_id"], strict=True)
    return dict(zip(batch.rows, ids, strict=True))
