"""Semantic versions of an experiment, and the names of its runs."""

from __future__ import annotations

import re
from datetime import datetime
from functools import total_ordering
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from scythe.errors import SettingsError

VersioningStrategy = Literal["bumpmajor", "bumpminor", "bumppatch", "keep"]

_NUMBER = "(0|[1-9][0-9]*)"
_VERSION = re.compile(rf"v?{_NUMBER}\.{_NUMBER}\.{_NUMBER}")
_TIMESTAMP = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}_[0-9]{2}-[0-9]{2}-[0-9]{2})(?:-(0[2-9]|[1-9][0-9]+))?")
_TIMESTAMP_FORMAT = "%Y-%m-%d_%H-%M-%S"


@total_ordering
class SemVer(BaseModel):
    """A semantic version, written `v1.2.3`.

    >>> SemVer(1, 2) < SemVer.FromString("v1.10.0")
    True
    >>> str(SemVer(1, 2, 3).next_minor_version())
    'v1.3.0'
    """

    model_config = ConfigDict(frozen=True)

    major: int = Field(ge=0)
    minor: int = Field(default=0, ge=0)
    patch: int = Field(default=0, ge=0)

    def __init__(self, major: int, minor: int = 0, patch: int = 0) -> None:
        super().__init__(major=major, minor=minor, patch=patch)

    @classmethod
    def FromString(cls, text: str) -> SemVer:  # noqa: N802 - the name of 1.x
        """Parse `v1.2.3` or `1.2.3`.

        Raises:
            ValueError: The text is not a version.
        """
        match = _VERSION.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a version; write it as v1.2.3")
        major, minor, patch = map(int, match.groups())
        return cls(major, minor, patch)

    def next_major_version(self) -> SemVer:
        """Return the next version that may break what read the last one."""
        return SemVer(self.major + 1)

    def next_minor_version(self) -> SemVer:
        """Return the next version that adds something."""
        return SemVer(self.major, self.minor + 1)

    def next_patch_version(self) -> SemVer:
        """Return the next version that repairs something."""
        return SemVer(self.major, self.minor, self.patch + 1)

    def __str__(self) -> str:
        """Write the version as it stands in keys."""
        return f"v{self.major}.{self.minor}.{self.patch}"

    def __lt__(self, other: object) -> bool:
        """Order by major, then minor, then patch."""
        if not isinstance(other, SemVer):
            return NotImplemented
        return (self.major, self.minor, self.patch) < (other.major, other.minor, other.patch)


def find_version(text: str) -> SemVer | None:
    """Parse a version, or return None where the text is not one."""
    return SemVer.FromString(text) if _VERSION.fullmatch(text) else None


def next_version(latest: SemVer | None, strategy: VersioningStrategy | SemVer) -> SemVer:
    """Say which version a new run gets.

    Args:
        latest: The experiment's highest version so far, if it has any.
        strategy: How to count on, or the version itself.

    >>> str(next_version(None, "bumpminor"))
    'v1.0.0'
    >>> str(next_version(SemVer(1, 4), "bumppatch"))
    'v1.4.1'
    """
    match strategy:
        case SemVer():
            return strategy
        case "bumpmajor":
            return latest.next_major_version() if latest else SemVer(1)
        case "bumpminor":
            return latest.next_minor_version() if latest else SemVer(1)
        case "bumppatch":
            return latest.next_patch_version() if latest else SemVer(1)
        case "keep":
            return latest or SemVer(1)
    hint = "use 'bumpmajor', 'bumpminor', 'bumppatch', 'keep' or a SemVer such as SemVer(1, 2)"  # type: ignore[unreachable]
    raise SettingsError("version", strategy, hint)


def render_timestamp(time: datetime, attempt: int = 0) -> str:
    """Name a run by the second it was allocated in.

    Args:
        time: When the run was allocated.
        attempt: 0 for the first run of that second; a further one gets a counter behind its second.

    >>> render_timestamp(datetime(2026, 11, 23, 9, 5, 1))
    '2026-11-23_09-05-01'
    >>> render_timestamp(datetime(2026, 11, 23, 9, 5, 1), 1)
    '2026-11-23_09-05-01-02'
    """
    stamp = time.strftime(_TIMESTAMP_FORMAT)
    return stamp if attempt == 0 else f"{stamp}-{attempt + 1:02d}"


def parse_timestamp(text: str) -> tuple[datetime, int]:
    """Return the time and the attempt that `render_timestamp` wrote.

    Raises:
        ValueError: The text is not the name of a run.
    """
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not the timestamp of a run (such as 2026-11-23_09-05-01)")
    return datetime.strptime(match[1], _TIMESTAMP_FORMAT), int(match[2] or 1) - 1


def is_timestamp(text: str) -> bool:
    """Tell whether a name is that of a run."""
    try:
        parse_timestamp(text)
    except ValueError:
        return False
    return True
