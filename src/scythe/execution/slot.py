"""A slot's process: the only place where user code is called.

It loads an experiment once and runs batches of specs. A user's exception becomes plain text here; what the simulation
prints goes to a file, whose last lines are kept with a spec that fails. When its parent is gone, it goes too.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import gc
import mmap
import os
import pickle
import queue
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel, ValidationError
from typing_extensions import override

from scythe.errors import OutputError, ScytheError, SpecError
from scythe.execution.messages import (
    Batch,
    Broken,
    End,
    Gauge,
    Launch,
    Load,
    Park,
    Ready,
    Reply,
    Report,
    Run,
    Work,
)
from scythe.files import is_url
from scythe.keys import check_frame_name
from scythe.origins import load_origin
from scythe.outcomes import FEATURE, FILE, RESERVED_TABLES, SCALAR, OutcomeList, failure, task
from scythe.registry import Experiment
from scythe.specs import (
    ExperimentInputSpec,
    ExperimentOutputSpec,
    file_fields,
    parse_json,
    text_fields,
    to_plain,
)

REPORT_SECONDS = 0.25
"""Outcomes are reported at least this often; a slot that dies loses no older ones."""

_NOTICEABLE_SECONDS = 0.001
"""A shorter spec is not worth asking the system for its memory."""

_MAX_LOG = 2**20
_TAIL = 4096
_MAX_MESSAGE = 10_000
_MAX_TRACEBACK = 20_000

_this: Slot | None = None


def current() -> Slot | None:
    """Return the slot this process is, or None in a process that is none."""
    return _this


class Slot:
    """The state of a slot's process."""

    def __init__(self, connection: Connection, gauge: Gauge, *, worker: str) -> None:
        self._connection = connection
        self._gauge = gauge
        self._worker = worker
        self._inbox: queue.SimpleQueue[Load | Run] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._request_lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._outcomes = OutcomeList()
        self._outcomes_lock = threading.Lock()
        self._loaded: dict[str, SpecRunner] = {}
        self._log = OutputFile()
        os.register_at_fork(after_in_child=_forget)
        threading.Thread(target=self._read, name="scythe-slot-reader", daemon=True).start()

    def _read(self) -> None:
        """Take what the parent says, and report outcomes now and then, however long a spec takes."""
        while True:
            try:
                if not self._connection.poll(REPORT_SECONDS):
                    self._report()
                    continue
                message = pickle.loads(self._connection.recv_bytes())
            except (EOFError, OSError):
                _kill_group()
            if isinstance(message, Reply):
                self._replies.put(message)
            else:
                self._inbox.put(message)

    def _report(self) -> None:
        """Send the outcomes there are; those of a batch in their order."""
        with self._send_lock:
            with self._outcomes_lock:
                outcomes = self._outcomes.take() if len(self._outcomes) else None
            if outcomes is not None:
                self._connection.send_bytes(pickle.dumps(Report(outcomes), protocol=5))

    def _send(self, message: Any) -> None:
        data = pickle.dumps(message, protocol=5)
        with self._send_lock:
            self._connection.send_bytes(data)

    def serve(self) -> None:
        """Do what the parent says until it is gone."""
        while True:
            match self._inbox.get():
                case Load(work):
                    self._load(work)
                case Run(batch):
                    self._run(self._loaded[batch.work], batch)

    def _load(self, work: Work) -> None:
        try:
            experiment: Experiment[Any, Any] = Experiment(
                load_origin(work.origin), name=work.experiment, options=work.options
            )
        except BaseException as error:
            text = _bounded("".join(traceback.format_exception(error)), _MAX_TRACEBACK)
            self._send(Broken(text))
            return
        self._loaded[work.key] = SpecRunner(experiment, work, worker=self._worker, log=self._log)
        gc.collect()
        gc.freeze()  # what is loaded stays; collecting garbage need not look at it again
        self._send(Ready())

    def _run(self, runner: SpecRunner, batch: Batch) -> None:
        rows, specs = batch.rows, spec_values(batch)
        position = 0
        for values in specs:
            self._gauge.begin(position, time.monotonic(), self._log.position())
            if position >= self._gauge.limit:
                break
            outcome, frames, ok = runner.run(values, batch.paths)
            with self._outcomes_lock:
                self._outcomes.add(rows[position], outcome, frames, ok=ok)
            position += 1
        self._gauge.begin(-1, time.monotonic())
        self._report()
        self._send(End(position))

    def request(self, message: Launch | Park) -> None:
        """Ask the parent for something on behalf of user code.

        Raises:
            ScytheError: The parent says no.
        """
        with self._request_lock:  # user code may have several threads, some left over from specs before
            self._send(message)
            reply = self._replies.get()
        if reply.error is not None:
            raise ScytheError(reply.error)


def spec_values(batch: Batch) -> Any:
    """Yield each spec's field values."""
    columns = {
        name: [None if v is None else parse_json(v) for v in values] if name in batch.json_columns else values
        for name, values in batch.columns.items()
    }
    names = list(columns)
    rows = zip(*columns.values(), strict=True)
    if not batch.extra_columns:
        return (dict(zip(names, row, strict=True)) for row in rows)
    return (
        {n: v for n, v in zip(names, row, strict=True) if n not in batch.extra_columns or _is_given(n, v, batch, i)}
        for i, row in enumerate(rows)
    )


def _is_given(name: str, value: Any, batch: Batch, position: int) -> bool:
    """Tell an extra field that is None from one that is not there: the first is the JSON text `null`."""
    return value is not None or batch.columns[name][position] is not None


class SpecRunner:
    """Runs single specs of one experiment."""

    def __init__(self, experiment: Experiment[Any, Any], work: Work, *, worker: str, log: Log) -> None:
        self._experiment = experiment
        self._work = work
        self._worker = worker
        self._host = socket.gethostname()
        self._log = log
        self._validate: Callable[..., ExperimentInputSpec] = (
            experiment.input_type.__pydantic_validator__.validate_python
        )
        self._has_features = experiment.input_type.computed_features is not ExperimentInputSpec.computed_features
        self._input_files = file_fields(experiment.input_type) if work.options.auto_fetch_files else ()
        copies = bool(self._input_files) and work.options.local_file_location == "copied-to-tempdir"
        self._needs_folder = experiment.wants_tempdir or copies
        self._copies = copies
        self._outputs = _OutputReader(experiment.output_type)
        self._peak_memory = 0
        self._home: str | None = None
        with contextlib.suppress(OSError):
            self._home = os.getcwd()

    def run(
        self, values: dict[str, Any], paths: Mapping[str, str]
    ) -> tuple[dict[str, Any], list[tuple[str, bytes]], bool]:
        """Run a spec, again after an exception while it has retries left.

        Returns:
            Its outcome: values by column, data frames by name, and whether it succeeded.
        """
        log_start = self._log.position()
        attempts = 0
        while True:
            attempts += 1
            started, clock = time.time(), time.perf_counter()
            features: dict[str, Any] = {}
            folder: str | None = None
            try:
                if self._needs_folder:
                    folder = tempfile.mkdtemp(prefix="spec-", dir=self._work.folder)
                spec = self._validate(values, strict=False, by_alias=True, by_name=True)
                if paths:
                    self._localize(spec, paths, folder)
                if self._has_features:
                    features = _features(spec)
                output = self._call(spec, folder)
                result = self._outputs.read(output)
                frames = self._frames(output)
                result |= self._keep_files(output)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                result, frames, again = self._describe(error, log_start)
                if again and attempts <= self._work.options.retries:
                    continue
                ok = False
            else:
                ok = True
            finally:
                self._log.restore()
                if self._home is not None:  # where specs start, wherever user code went
                    with contextlib.suppress(OSError):
                        os.chdir(self._home)
                if folder is not None:
                    shutil.rmtree(folder, ignore_errors=True)
            break
        seconds = time.perf_counter() - clock
        if seconds > _NOTICEABLE_SECONDS or self._peak_memory == 0:
            self._peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        how = task(
            attempts=attempts, worker=self._worker, host=self._host, started=started, seconds=seconds,
            peak_memory=self._peak_memory,
        )  # fmt: skip
        return {**result, **features, **how}, frames, ok

    def _call(self, spec: ExperimentInputSpec, folder: str | None) -> ExperimentOutputSpec:
        function = self._experiment.function
        output: Any
        if self._experiment.wants_tempdir:
            assert folder is not None
            output = function(spec, tempdir=Path(folder))
        else:
            output = function(spec)
        if isinstance(output, self._experiment.output_type):
            return output  # type: ignore[no-any-return]
        if isinstance(output, dict):
            try:
                return self._experiment.output_type.model_validate(output)  # type: ignore[no-any-return]
            except ValidationError as error:
                raise OutputError(f"{self._experiment.__name__} returned a dict that is not valid: {error}") from error
        raise OutputError(
            f"{self._experiment.__name__} returned {type(output).__name__} instead of "
            f"{self._experiment.output_type.__name__}; return {self._experiment.output_type.__name__}(…)"
        )

    def _localize(self, spec: ExperimentInputSpec, paths: Any, folder: str | None) -> None:
        for name in self._input_files:
            reference = spec.__dict__.get(name)
            if reference is None or not is_url(reference):
                continue
            path = Path(paths[str(reference)])
            if self._copies:
                assert folder is not None
                target = Path(folder, path.name)
                if target.exists():
                    target = Path(folder, name, path.name)
                    target.parent.mkdir()
                path = Path(shutil.copyfile(path, target))
            spec.__dict__[name] = path

    def _keep_files(self, output: ExperimentOutputSpec) -> dict[str, Any]:
        """Move output files out of the temporary folder, to where the parent takes them from."""
        kept: dict[str, Any] = {}
        for name in self._outputs.files:
            reference = getattr(output, name, None)
            if reference is None or is_url(reference):
                kept[FILE + name] = None if reference is None else str(reference)
                continue
            path = Path(reference)
            if not path.is_absolute() and not path.exists() and self._experiment.wants_tempdir:
                raise OutputError(
                    f"{name} = {path}: a relative path is taken from {Path.cwd()}; use tempdir / {path.name!r}"
                )
            if not path.is_file():
                what = "is a folder" if path.is_dir() else "was not written"
                raise OutputError(f"{name} = {path}: the output file {what}")
            outbox = Path(tempfile.mkdtemp(prefix="out-", dir=self._work.folder), path.name)
            if path.is_relative_to(self._work.folder):
                os.replace(path, outbox)
            else:
                shutil.copyfile(path, outbox)
            kept[FILE + name] = str(outbox)
        return kept

    def _frames(self, output: ExperimentOutputSpec) -> list[tuple[str, bytes]]:
        if not output.dataframes:
            return []
        return [
            (_check_frame_name(name), _render_frame(name, frame, self._work.levels))
            for name, frame in output.dataframes.items()
        ]

    def _describe(self, error: BaseException, log_start: int) -> tuple[dict[str, Any], list[Any], bool]:
        """Turn an exception into text; also say whether trying again may help."""
        kind = type(error)
        again = not isinstance(error, SpecError | ValidationError)
        at_home = kind.__module__ in ("builtins", "__main__", "__mp_main__")
        name = kind.__qualname__ if at_home else f"{kind.__module__}.{kind.__qualname__}"
        text = _bounded(_render_traceback(error), _MAX_TRACEBACK)
        class_ = "invalid_output" if isinstance(error, OutputError) else "error"
        return (
            failure(class_, name, _message(error), traceback=text, output=self._log.tail(log_start)),
            [],
            again,
        )


def _features(spec: ExperimentInputSpec) -> dict[str, Any]:
    features = {}
    for name, value in spec.computed_features.items():
        if name in spec.__dict__ or name in (spec.__pydantic_extra__ or {}):
            raise SpecError(f"computed feature {name!r} has the name of a field; call it something else")
        plain = to_plain(value)
        if isinstance(plain, list | dict):
            raise SpecError(f"computed feature {name!r} is a {type(value).__name__}; an index level is a scalar")
        features[FEATURE + name] = plain
    return features


class _OutputReader:
    """Reads the scalar fields of outputs of one model."""

    def __init__(self, model: type[ExperimentOutputSpec]) -> None:
        self.files = file_fields(model)
        self._names = {name: SCALAR + name for name in model.model_fields if name not in {*self.files, "dataframes"}}
        self._text = text_fields(model)

    def read(self, output: ExperimentOutputSpec) -> dict[str, Any]:
        """Return an output's scalars by column name."""
        data = output.__dict__
        values = {column: data[name] for name, column in self._names.items()}
        for name, value in (output.__pydantic_extra__ or {}).items():
            values[SCALAR + name] = value
        for column, value in values.items():
            kind = type(value)
            if kind not in (float, int, bool) and not (kind is str and value.isascii()):
                values[column] = _output_plain(value, column.removeprefix(SCALAR))
        for name in self._text:
            value = values[SCALAR + name]
            if value is not None and not isinstance(value, str):
                values[SCALAR + name] = str(value)
        return values


def _output_plain(value: Any, name: str) -> Any:
    if isinstance(value, BaseModel):
        return {key: _output_plain(item, name) for key, item in value}
    if isinstance(value, dict):
        return {str(key): _output_plain(item, name) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_output_plain(item, name) for item in value]
    try:
        plain = to_plain(value)
        if isinstance(plain, str):
            _check_text(plain)
        return plain
    except OutputError as error:
        raise OutputError(f"output field {name!r}: {error}") from error


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise OutputError(f"the text {text!a} is not valid unicode") from error


def _check_frame_name(name: str) -> str:
    if name in RESERVED_TABLES:
        raise OutputError(f"dataframes[{name!r}]: Scythe has a table of that name; call the data frame something else")
    try:
        return check_frame_name(name)
    except ScytheError as error:
        raise OutputError(f"dataframes[{name!r}]: {error}") from error


def _render_frame(name: str, frame: Any, levels: tuple[str, ...]) -> bytes:
    import pyarrow as pa

    from scythe.tables import frame_to_table

    try:
        table = frame_to_table(frame, drop_levels=levels)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise OutputError(f"dataframes[{name!r}] cannot be stored: {error}") from error
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


# ---------------------------------------------------------------------------------------------------------------------
# errors as text


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as second:  # a user's __str__ may fail too
        text = f"(its message cannot be shown: {type(second).__name__})"
    return _bounded(text, _MAX_MESSAGE)


def _render_traceback(error: BaseException) -> str:
    """Write a traceback from the user's own code on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except Exception:
        return "".join(traceback.format_tb(trace)) + type(error).__qualname__


def _bounded(text: str, limit: int) -> str:
    """Shorten a text, and make sure it can be written: a message may hold half a character of a file name."""
    text = text.encode(errors="backslashreplace").decode()
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}\n… {len(text) - limit:,} characters left out …\n{text[-limit // 2 :]}"


# ---------------------------------------------------------------------------------------------------------------------
# the captured output


class Log:
    """What a simulation writes to the console, where it goes on to the console and is not kept."""

    def position(self) -> int:
        """Return where the log stands now."""
        return 0

    def tail(self, start: int) -> str:
        """Return the last lines written since a position."""
        return ""

    def restore(self) -> None:
        """Undo what user code may have done to the streams."""


class OutputFile(Log):
    """The file that the standard output and error of a slot's process are."""

    def __init__(self) -> None:
        self._file = os.dup(1)
        self._streams = [_open_stream(1), _open_stream(2)]
        self.restore()

    @override
    def position(self) -> int:
        """Return where the log stands; once it is long it starts again, for only its end is ever read."""
        position = os.lseek(self._file, 0, os.SEEK_CUR)
        if position > _MAX_LOG:
            os.ftruncate(self._file, 0)
            return os.lseek(self._file, 0, os.SEEK_SET)
        return position

    @override
    def tail(self, start: int) -> str:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        end = os.lseek(self._file, 0, os.SEEK_CUR)
        start = max(start, end - _TAIL)
        return os.pread(self._file, max(0, end - start), start).decode(errors="replace")

    @override
    def restore(self) -> None:
        os.dup2(self._file, 1)
        os.dup2(self._file, 2)
        for i, stream in enumerate(self._streams):
            if stream.closed:
                self._streams[i] = _open_stream(i + 1)
        sys.stdout, sys.stderr = self._streams


def _open_stream(number: int) -> TextIO:
    """Open a standard stream, by line: what a crash cuts off is in the log."""
    return open(number, "w", buffering=1, closefd=False, errors="backslashreplace")


# ---------------------------------------------------------------------------------------------------------------------
# start and end of the process


def _kill_group() -> None:
    """End this process and what it started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _die_with_parent(lifeline: int) -> None:
    """Ask Linux to end this process and what it started with its parent, whatever native code it is in.

    The parent holds the other end of a pipe, and nobody writes to it: only the parent's end makes it readable.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # without it, the thread that reads from the parent notices, if it can run
            fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
            fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    gone = select.poll()
    gone.register(lifeline)
    if gone.poll(0):
        _kill_group()


def _forget() -> None:
    """In a child that user code forked: it is no slot."""
    global _this
    _this = None


def main(descriptor: int, lifeline: int, gauge_path: str, worker: str) -> None:
    """Be a slot. Arguments come from `process.SlotProcess`."""
    global _this
    os.set_inheritable(descriptor, False)
    os.set_inheritable(lifeline, False)
    _die_with_parent(lifeline)
    faulthandler.enable(file=2)
    with open(gauge_path, "r+b") as file:
        gauge = Gauge(mmap.mmap(file.fileno(), Gauge.SIZE))
    _this = Slot(Connection(descriptor), gauge, worker=worker)
    _this.serve()
