"""The embedded engine: a pool of worker processes on this machine, one a slot.

All runs of a process share the pool. A run that a task allocates is handed up to the process that owns it, and the slot
of a task that waits is free meanwhile: so runs nest to any depth on one slot.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

from typing_extensions import override

from scythe.engines.base import Engine, Job
from scythe.engines.pool import Pool
from scythe.execution import slot as slot_process
from scythe.execution.messages import Launch, Park
from scythe.progress import Progress
from scythe.settings import slots as default_slots


class LocalEngine(Engine):
    """The embedded engine; all its runs in a process share one pool."""

    name: ClassVar[str] = "local"

    def __init__(self, *, slots: int | None = None) -> None:
        """Make an engine.

        Args:
            slots: How many specs run at once; see `settings.slots` for the default.
        """
        self._slots = slots
        self._lock = threading.Lock()
        self._pool: Pool | None = None
        self._unwritten: dict[str, Progress] = {}
        """How runs ended whose end could not be written to the store."""
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """In a forked child: the pool is the parent's."""
        self._lock = threading.Lock()
        if self._pool is not None:
            atexit.unregister(self._pool.end)
            self._pool = None

    @override
    def check(self) -> None:
        default_slots()

    @override
    def start(self, job: Job) -> None:
        options = replace(job.options, task_config={}, desired_worker_labels={})  # Hatchet's; who knows if they pickle
        job = replace(job, options=options)
        if (slot := slot_process.current()) is not None:
            slot.request(Launch(job))
            return
        with self._lock:
            if self._pool is None or not self._pool.add(job):
                self._pool = Pool(self._slots or default_slots(), self._unwritten)
                atexit.register(self._pool.end)
                self._pool.add(job)

    @override
    def stop(self, prefix: str) -> None:
        if self._pool is not None:
            self._pool.stop(prefix)

    @override
    def watch(self, prefix: str) -> Progress | None:
        if self._pool is not None and (progress := self._pool.progress(prefix)) is not None:
            return progress
        return self._unwritten.get(prefix)

    @override
    @contextmanager
    def waiting(self) -> Iterator[None]:
        slot = slot_process.current()
        if slot is None:
            yield
            return
        slot.request(Park(True))
        try:
            yield
        finally:
            slot.request(Park(False))
