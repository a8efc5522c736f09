"""Files on their way: inputs up to the store at allocation, down to a local path for a simulation, outputs up again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scythe.errors import StoreError
from scythe.files import file_url_path
from scythe.keys import artifact_key, result_key
from scythe.stores import Store

_BLOCK = 2**20


@dataclass(frozen=True)
class Artifact:
    """An uploaded input file.

    Attributes:
        url: Where it is.
        size: Its size [bytes].
        sha256: The hash of its content.
    """

    url: str
    size: int
    sha256: str


def find_file_problem(path: Path) -> str | None:
    """Say why a local file cannot be an input, or None if it can."""
    if path.is_dir():
        return "is a folder; give a file"
    try:
        with path.open("rb"):
            return None
    except FileNotFoundError:
        return f"there is no such file (looked in {Path.cwd()})" if not path.is_absolute() else "there is no such file"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def find_url_problem(url: str) -> str | None:
    """Say why the file behind a URL cannot be an input, or None if it may be one."""
    if file_url_path(url) is None:
        return "cannot be fetched: this version reads local files and file:// URLs only; download it and give its path"
    return None


class Uploader:
    """Uploads the input files of one run, each path of a field once."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._artifacts: dict[tuple[str, Path], Artifact] = {}
        self._taken: dict[str, str] = {}

    def upload(self, field: str, path: Path) -> Artifact:
        """Upload a file of a field, unless that was done, and return where it is."""
        path = path.absolute()
        known = self._artifacts.get((field, path))
        if known is not None:
            return known
        digest, size = _hash(path)
        key = artifact_key(self._prefix, field, path.name)
        if self._taken.setdefault(key, digest) != digest:  # the name is taken by other content
            key = artifact_key(self._prefix, field, f"{digest[:12]}/{path.name}")
        self._store.put(key, path)
        artifact = Artifact(self._store.object_url(key), size, digest)
        self._artifacts[field, path] = artifact
        return artifact

    def by_field(self) -> Mapping[str, list[Artifact]]:
        """Return all that was uploaded, by field."""
        fields: dict[str, list[Artifact]] = {}
        for (field, _), artifact in self._artifacts.items():
            if artifact not in fields.setdefault(field, []):
                fields[field].append(artifact)
        return fields


def _hash(path: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def fetch(url: str) -> Path:
    """Return a local path with the content behind a URL.

    Raises:
        StoreError: There is no way to fetch from such a URL.
    """
    path = file_url_path(url)
    if path is None:
        raise StoreError(f"{url} {find_url_problem(url)}.")
    return path


def upload_output(store: Store, path: Path, *, prefix: str, field: str, spec_id: str) -> str:
    """Upload a spec's output file and return its URL."""
    key = result_key(prefix, field, spec_id, path.suffix)
    store.put(key, path)
    return store.object_url(key)
