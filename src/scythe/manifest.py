"""The manifest of a run: identity, time, provenance and counts, as YAML that people can read."""

from __future__ import annotations

import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from scythe.errors import RunError
from scythe.keys import RunKeys
from scythe.stores import Store


def render_yaml(data: Any) -> bytes:
    """Write plain data as YAML, in the order it has."""
    import yaml

    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True).encode()


def parse_yaml(content: bytes) -> Any:
    """Read YAML as plain data."""
    import yaml

    return yaml.safe_load(content)


def read_manifest(store: Store, run: RunKeys) -> dict[str, Any]:
    """Return a run's manifest.

    Raises:
        ObjectNotFoundError: There is no such run.
        RunError: It is not a manifest.
    """
    data = parse_yaml(store.get(run.manifest))
    if not isinstance(data, dict):
        raise RunError(f"{store.object_url(run.manifest)} is not a run's manifest; it was changed or is damaged.")
    return data


def update_manifest(store: Store, run: RunKeys, **changes: Any) -> None:
    """Change entries of a run's manifest; None takes one out. A run that ends gets the time of that."""
    data = {**read_manifest(store, run), **changes}
    if "state" in changes and changes["state"] not in ("allocated", "running"):
        data["ended"] = render_time(datetime.now(UTC))
    store.put(run.manifest, render_yaml({name: value for name, value in data.items() if value is not None}))


def render_time(time: datetime) -> str:
    """Write a time as ISO 8601 in UTC, to the second."""
    return time.astimezone(UTC).isoformat(timespec="seconds")


def provenance(source: Path | None) -> dict[str, Any]:
    """Say what made a run: versions of Python and its packages, the machine, and the state of the code's repository.

    Args:
        source: A file of the experiment's code; its git commit is looked up.
    """
    packages = _packages()
    return {
        "scythe": packages.get("scythe-engine", "unknown"),  # not installed, but found on the path
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "command": " ".join(sys.argv),
        "git": _git(source.parent if source is not None else Path.cwd()),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def _packages() -> Mapping[str, str]:
    found = (distribution.metadata for distribution in metadata.distributions())
    return {about["Name"]: about["Version"] for about in found if about["Name"]}


def _git(folder: Path) -> dict[str, Any] | None:
    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
