"""Where things lie in a store: the only builder and parser of object keys.

A run's keys share its prefix, `<base>/<version>/<timestamp>`. The key of a part tells who wrote it, which rows it spans
and how many outcomes are in it, so that progress is a listing and nothing has to be opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from scythe.errors import InvalidKeyError

_PART = re.compile(
    r"(?P<writer>[0-9a-f]+)-(?P<index>\d+)\.(?P<first>\d+)-(?P<last>\d+)\.(?P<done>\d+)\+(?P<failed>\d+)\.pq"
)
_SEGMENT_BYTES = 200

OUTCOMES = "outcomes"
"""The name under which outcome parts are kept; frames have theirs under `frame_parts_name`."""


def check_key(key: str) -> str:
    """Return the key if it is safe in every store.

    Raises:
        InvalidKeyError: It is empty, absolute, leaves its folder, or has characters or a length some store cannot keep.
    """
    if not key:
        raise InvalidKeyError(key, "it is empty")
    for segment in key.split("/"):
        if segment in ("", ".", ".."):
            raise InvalidKeyError(key, "it starts or ends with '/', or has an empty, '.' or '..' part")
        if any(ord(c) < 32 or ord(c) == 127 for c in segment) or "\\" in segment:
            raise InvalidKeyError(key, "it has a control character or a backslash")
        if len(segment.encode("utf-8", "surrogatepass")) > _SEGMENT_BYTES:
            raise InvalidKeyError(key, f"a part of it is longer than {_SEGMENT_BYTES} bytes")
        if any(0xD800 <= ord(c) <= 0xDFFF for c in segment):
            raise InvalidKeyError(key, "it is not valid unicode")
    return key


def join(*segments: str) -> str:
    """Join parts of a key, leaving out empty ones."""
    return "/".join(segment for segment in segments if segment)


def run_prefix(base: str, version: object, timestamp: str) -> str:
    """Return the prefix of one run."""
    return join(check_key(base), str(version), timestamp)


def artifact_key(prefix: str, field: str, filename: str) -> str:
    """Return the key of an uploaded input file."""
    return check_key(join(prefix, "artifacts", field, filename))


def result_key(prefix: str, field: str, spec_id: str, suffix: str) -> str:
    """Return the key of one spec's output file."""
    return check_key(join(prefix, "results", field, spec_id + suffix))


@dataclass(frozen=True)
class RunKeys:
    """The keys of one run."""

    prefix: str

    @property
    def manifest(self) -> str:
        """Identity, provenance and counts."""
        return f"{self.prefix}/manifest.yml"

    @property
    def io_spec(self) -> str:
        """JSON Schema of input and output."""
        return f"{self.prefix}/experiment_io_spec.yml"

    @property
    def input_artifacts(self) -> str:
        """Every uploaded input file, by field."""
        return f"{self.prefix}/input_artifacts.yml"

    @property
    def specs(self) -> str:
        """Every spec, in sort order."""
        return f"{self.prefix}/specs.pq"

    @property
    def workflow_spec(self) -> str:
        """The spec of a single-spec run."""
        return f"{self.prefix}/workflow_spec.yml"

    @property
    def status(self) -> str:
        """How the run stands, as its engine last said."""
        return f"{self.prefix}/scatter-gather/status.json"

    @property
    def final(self) -> str:
        """The folder of the final tables."""
        return f"{self.prefix}/final"

    def table(self, name: str) -> str:
        """Return the key of a final table."""
        return check_key(f"{self.final}/{name}.pq")

    def parts(self, name: str = "") -> str:
        """Return the folder of the parts of one table, or of all."""
        return join(self.prefix, "scatter-gather", "parts", name)


def frame_parts_name(frame: str) -> str:
    """Return the name under which the parts of a user's data frame are kept.

    >>> parse_frame_parts_name(frame_parts_name("daily/north"))
    'daily/north'
    """
    return "frame=" + frame.replace("%", "%25").replace("/", "%2F")


def check_frame_name(frame: str) -> str:
    """Return the name of a data frame if its table and its parts can be kept under it.

    Raises:
        InvalidKeyError: They cannot; see `check_key`.
    """
    for key in (frame, f"{frame}.pq", frame_parts_name(frame)):
        check_key(key)
    return frame


def parse_frame_parts_name(name: str) -> str | None:
    """Return the data frame whose parts have this name, or None if it is not one's."""
    return unquote(name.removeprefix("frame=")) if name.startswith("frame=") else None


@dataclass(frozen=True, order=True)
class PartKey:
    """What the key of a part tells.

    Attributes:
        folder: The folder it lies in; see `RunKeys.parts`.
        writer: Who wrote it (hex digits).
        index: Which of the writer's parts it is. A part that grows is written again under the same index.
        first: The lowest row in it.
        last: The highest row in it.
        done: How many specs in it succeeded.
        failed: How many specs in it failed.
    """

    folder: str
    writer: str
    index: int
    first: int
    last: int
    done: int
    failed: int

    @property
    def name(self) -> str:
        """The table the part belongs to."""
        return self.folder.rpartition("/")[2]

    def render(self) -> str:
        """Write the key."""
        span = f"{self.first:08d}-{self.last:08d}"
        return f"{self.folder}/{self.writer}-{self.index:06d}.{span}.{self.done}+{self.failed}.pq"


def parse_part_key(key: str) -> PartKey | None:
    """Return what the key of a part tells, or None if it is not a part's."""
    folder, _, name = key.rpartition("/")
    match = _PART.fullmatch(name)
    if match is None:
        return None
    numbers = {field: int(match[field]) for field in ("index", "first", "last", "done", "failed")}
    return PartKey(folder, match["writer"], **numbers)


def current_parts(keys: Iterable[str]) -> list[PartKey]:
    """Return the parts among some keys, the latest of each, in row order.

    A part that grows is written under a new key before its old one is deleted, so a listing may show both.
    """
    latest: dict[tuple[str, str, int], PartKey] = {}
    for key in keys:
        part = parse_part_key(key)
        if part is None:
            continue
        slot = (part.folder, part.writer, part.index)
        if slot not in latest or latest[slot].done + latest[slot].failed < part.done + part.failed:
            latest[slot] = part
    return sorted(latest.values(), key=lambda p: (p.folder, p.first, p.last, p.writer, p.index))
