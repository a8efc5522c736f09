"""The inline engine: runs specs in this process, one after the other, so that a debugger can stop in them.

Nothing isolates the simulation: a crash takes the script along, and no time-out is enforced.
"""

from __future__ import annotations

import tempfile
import uuid
from typing import ClassVar

from typing_extensions import override

from scythe.engines.base import Engine, Job
from scythe.execution.batches import BatchReader, output_ids
from scythe.execution.messages import Work
from scythe.execution.slot import Log, SpecRunner, spec_values
from scythe.gathering import finished_rows
from scythe.keys import RunKeys
from scythe.outcomes import OutcomeList
from scythe.progress import Progress
from scythe.recording import Recorder
from scythe.registry import ExperimentRegistry
from scythe.stores import open_store
from scythe.tree import missing_ranges

_BATCH = 1_000


class InlineEngine(Engine):
    """Runs a whole job within `start`."""

    name: ClassVar[str] = "inline"

    @override
    def start(self, job: Job) -> None:
        store, keys = open_store(job.store_url), RunKeys(job.prefix)
        recorder = Recorder(
            store,
            keys,
            total=job.total,
            engine=self.name,
            writer=uuid.uuid4().hex[:8],
            output_fields=job.output_fields,
        )
        experiment = ExperimentRegistry.get_runnable(job.experiment)
        fetched = job.file_columns if job.options.auto_fetch_files else ()
        reader = BatchReader(store, keys, work="", file_columns=fetched, extra_columns=job.extra_columns)
        finished = finished_rows(store, keys, job.total)
        recorder.tell("running")
        interrupted = True
        with tempfile.TemporaryDirectory(prefix="scythe-") as folder:
            work = Work("", job.experiment, job.origin, job.options, job.levels, folder)
            runner = SpecRunner(experiment, work, worker="ScytheWorker--Inline", log=Log())
            try:
                for first, end in missing_ranges(finished):
                    for start in range(first, end, _BATCH):
                        batch = reader.read(start, min(end, start + _BATCH))
                        ids = output_ids(batch)
                        for row, values in zip(batch.rows, spec_values(batch), strict=True):
                            outcome, frames, ok = runner.run(values, batch.paths)
                            outcomes = OutcomeList()
                            outcomes.add(row, outcome, frames, ok=ok)
                            recorder.record(outcomes.take(), ids)
                            recorder.flush(running=1)
                interrupted = False
            finally:
                reader.close()
                recorder.close(interrupted=interrupted)

    @override
    def stop(self, prefix: str) -> None:
        return None

    @override
    def watch(self, prefix: str) -> Progress | None:
        return None
