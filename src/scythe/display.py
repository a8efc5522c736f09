"""Shows how runs go on: a bar in a terminal or notebook, now and then a line elsewhere. The one door to rich."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from scythe.progress import Progress
from scythe.settings import progress_style

_LINE_SECONDS = (5.0, 60.0)


class ProgressBar:
    """Shows the progress of runs, by name; `SCYTHE_PROGRESS` says how."""

    def __init__(self) -> None:
        style = progress_style()
        self._drawn = _open_bar() if style == "auto" else None
        self._plain = style != "off" and self._drawn is None
        self._tasks: dict[str, Any] = {}
        self._began = time.monotonic()
        self._next_line = self._began + _LINE_SECONDS[0]

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def show(self, name: str, progress: Progress) -> None:
        """Show how far a run is, under its experiment and version."""
        title = name.rpartition("/")[0].removeprefix("scythe_experiment_").replace("/v", " v")
        ended = progress.done + progress.failed
        if self._drawn is not None:
            if name not in self._tasks:
                self._tasks[name] = self._drawn.add_task(title, total=progress.total, failed="")
            failed = f"[red]{progress.failed:,} failed" if progress.failed else ""
            self._drawn.update(self._tasks[name], completed=ended, failed=failed)
            self._drawn.refresh()
        elif self._plain and time.monotonic() >= self._next_line:
            elapsed = time.monotonic() - self._began
            self._next_line = time.monotonic() + min(_LINE_SECONDS[1], max(_LINE_SECONDS[0], elapsed / 5))
            rate = f", {ended / elapsed:,.1f}/s" if ended else ""
            failed = f" ({progress.failed:,} failed)" if progress.failed else ""
            say(f"{title}: {ended:,} of {progress.total:,}{failed} after {elapsed:,.0f} s{rate}")

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._drawn is not None:
            self._drawn.stop()
            self._drawn = None


def say(text: str) -> None:
    """Write a line for people, to standard error; nobody may be there to read it."""
    if progress_style() != "off":
        with suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


def say_stopped(run: str, progress: Progress) -> None:
    """Say that a run was stopped, what is kept of it and how to go on."""
    say(
        f"\nStopped {run}: {progress.done + progress.failed:,} of {progress.total:,} specs have ended and are kept. "
        f'Go on with scythe.open_run("{run}").resume().'
    )


def _open_bar() -> Any | None:
    """Return a running rich progress bar where one can be drawn."""
    in_notebook = "ipykernel" in sys.modules and find_spec("ipywidgets") is not None
    if not (in_notebook or (sys.stderr is not None and sys.stderr.isatty())):
        return None
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[failed]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        console=Console(stderr=True), auto_refresh=False,
    )  # fmt: skip
    bar.start()
    return bar
