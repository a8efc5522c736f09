"""What runs the specs of a run: the port, its adapters, and the one function that opens them by name."""

from __future__ import annotations

from functools import cache

from scythe.engines.base import Engine, Job
from scythe.errors import SettingsError
from scythe.settings import engine_name

__all__ = ["Engine", "Job", "open_engine"]

_NAMES = ("local", "inline")


def open_engine(name: str | Engine | None = None) -> Engine:
    """Return an engine: by name, by `SCYTHE_ENGINE`, or the embedded one.

    Raises:
        SettingsError: There is no engine of that name.
    """
    if isinstance(name, Engine):
        return name
    chosen = engine_name(name)
    if chosen not in _NAMES:
        setting = "engine" if name is not None else "SCYTHE_ENGINE"
        raise SettingsError(setting, chosen, f"there is no such engine; use one of: {', '.join(_NAMES)}")
    return _engine(chosen)


@cache
def _engine(name: str) -> Engine:
    """Make an engine when it is first asked for; an adapter loads much that `import scythe` must not."""
    if name == "inline":
        from scythe.engines.inline import InlineEngine

        return InlineEngine()
    from scythe.engines.local import LocalEngine

    return LocalEngine()
