"""The environment, read when asked and never at import."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from scythe.errors import SettingsError

DEFAULT_FOLDER = "scythe-runs"

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: str | timedelta | float, *, setting: str) -> timedelta:
    """Read a duration as users write it.

    Args:
        value: A timedelta, seconds, or text such as "90s", "10h" or "1h30m".
        setting: What to name in the error.

    >>> parse_duration("1h30m", setting="execution_timeout")
    datetime.timedelta(seconds=5400)
    """
    try:
        duration = value if isinstance(value, timedelta) else timedelta(seconds=_seconds(value))
    except (ValueError, OverflowError) as error:
        hint = 'write a duration such as "90s", "30m", "10h" or "1h30m"'
        raise SettingsError(setting, value, hint) from error
    if duration <= timedelta(0):
        raise SettingsError(setting, value, "a time-out must be longer than nothing")
    return duration


def _seconds(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    text = str(value).replace(" ", "")
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{value!r} is not a duration")
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)


def _variable(name: str) -> str | None:
    """Return an environment variable; an empty one counts as unset."""
    return os.environ.get(name) or None


class ScytheStorageSettings(BaseModel):
    """Where runs are kept.

    Attributes:
        URL: Any store, as a URL or a folder's path.
        BUCKET: An S3 bucket.
        BUCKET_PREFIX: The folder in the bucket under which all runs lie.
    """

    URL: str | None = Field(default_factory=lambda: _variable("SCYTHE_STORAGE_URL"))
    BUCKET: str | None = Field(default_factory=lambda: _variable("SCYTHE_STORAGE_BUCKET"))
    BUCKET_PREFIX: str = Field(default_factory=lambda: _variable("SCYTHE_STORAGE_BUCKET_PREFIX") or "scythe")

    def store_url(self) -> str:
        """Return the URL of the store these settings choose."""
        if self.URL is not None:
            return self.URL if "://" in self.URL else Path(self.URL).expanduser().absolute().as_uri()
        if self.BUCKET is not None:
            return f"s3://{self.BUCKET}/{self.BUCKET_PREFIX.strip('/')}".rstrip("/")
        return (Path.cwd() / DEFAULT_FOLDER).as_uri()

    @property
    def chosen(self) -> bool:
        """Whether somebody chose a place, or the default folder is used."""
        return self.URL is not None or self.BUCKET is not None


class TimeoutSettings(BaseModel):
    """Time-outs of tasks where an experiment sets none; names are those of 1.x."""

    SCATTER_GATHER_SCHEDULE: timedelta = Field(default_factory=lambda: _timeout("SCATTER_GATHER_SCHEDULE", "10h"))
    SCATTER_GATHER_EXECUTION: timedelta = Field(default_factory=lambda: _timeout("SCATTER_GATHER_EXECUTION", "10h"))
    EXPERIMENT_SCHEDULE: timedelta = Field(default_factory=lambda: _timeout("EXPERIMENT_SCHEDULE", "10h"))
    EXPERIMENT_EXECUTION: timedelta = Field(default_factory=lambda: _timeout("EXPERIMENT_EXECUTION", "10h"))


def _timeout(name: str, default: str) -> timedelta:
    variable = f"SCYTHE_TIMEOUT_{name}"
    return parse_duration(_variable(variable) or default, setting=variable)


def slots(environment: Mapping[str, str] | None = None, *, cpus: int | None = None) -> int:
    """Return how many specs run at once here: `SCYTHE_WORKER_SLOTS`, or what the CPUs allow.

    Below 8 CPUs every one is used; from 8 on, one is left to the machine.
    """
    text = (os.environ if environment is None else environment).get("SCYTHE_WORKER_SLOTS")
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise SettingsError("SCYTHE_WORKER_SLOTS", text, "use a whole number from 1 on, or leave it unset")
        return int(text)
    count = (
        cpus
        if cpus is not None
        else len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else (os.cpu_count() or 1)
    )
    return count if count < 8 else count - 1


EngineName = Literal["local", "inline"]


def engine_name(argument: str | None) -> str:
    """Return the engine an argument or `SCYTHE_ENGINE` chooses; the embedded one where neither does."""
    return argument or _variable("SCYTHE_ENGINE") or "local"


def progress_style() -> Literal["auto", "off", "plain"]:
    """Return how waiting shows progress: `SCYTHE_PROGRESS` is `auto`, `plain` or `off`."""
    value = _variable("SCYTHE_PROGRESS") or "auto"
    if value not in ("auto", "off", "plain"):
        raise SettingsError("SCYTHE_PROGRESS", value, "use auto, plain or off")
    return value  # type: ignore[return-value]
