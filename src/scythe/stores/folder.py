"""A local (or shared) folder as a store: an object is a file, its key the path.

Plain files rather than the object-store library: that library's threads do not survive a fork, and a process forked
from one that had used it would hang in its first read.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from typing_extensions import override

from scythe.errors import InvalidKeyError, ObjectNotFoundError, StoreError
from scythe.keys import check_key
from scythe.stores.base import Store, StoredObject

_STAGING = ".scythe-staging"
"""Where files are written before they get their name; on the same file system, so that renaming is atomic."""

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class FolderStore(Store):
    """Objects as files under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.url = self.folder.as_uri()

    @override
    def put(self, key: str, content: bytes | Path) -> None:
        path = self.path(key)
        with self._translated(key), self._staged(content) as staged:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, path)

    @override
    def create(self, key: str, content: bytes) -> bool:
        path = self.path(key)
        with self._translated(key), self._staged(content) as staged:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(staged, path)
            except FileExistsError:
                if path.is_dir():
                    raise
                return False
        return True

    @override
    def open(self, key: str) -> BinaryIO:
        path = self.path(key)
        with self._translated(key):
            try:
                return path.open("rb")
            except _ABSENT as error:
                raise ObjectNotFoundError(key, self.url) from error

    @override
    def list_objects(self, prefix: str = "") -> Iterator[StoredObject]:
        top = self.path(prefix) if prefix else self.folder
        found = []
        with self._translated(prefix):
            for folder, folders, names in os.walk(top, onerror=_raise_unless_absent):
                if _STAGING in folders:
                    folders.remove(_STAGING)
                for name in names:
                    path = Path(folder, name)
                    with suppress(FileNotFoundError):  # deleted since the folder was read
                        found.append(StoredObject(path.relative_to(self.folder).as_posix(), path.stat().st_size))
        return iter(sorted(found))

    @override
    def list_folders(self, prefix: str = "") -> list[str]:
        top = self.path(prefix) if prefix else self.folder
        with self._translated(prefix), suppress(*_ABSENT):
            return sorted(e.name for e in os.scandir(top) if e.is_dir() and e.name != _STAGING and _has_files(e.path))
        return []

    @override
    def delete(self, key: str) -> None:
        path = self.path(key)
        with self._translated(key), suppress(*_ABSENT):
            path.unlink()

    @override
    def exists(self, key: str) -> bool:
        return self.path(key).is_file()

    def path(self, key: str) -> Path:
        """Return the file behind a key."""
        if _STAGING in check_key(key).split("/"):
            raise InvalidKeyError(key, f"{_STAGING} is where files are written before they get their name")
        return self.folder / key

    @contextmanager
    def _staged(self, content: bytes | Path) -> Iterator[Path]:
        """Write content to a file that nobody lists; what is left of it is removed."""
        staging = self.folder / _STAGING
        staged = staging / uuid.uuid4().hex
        staging.mkdir(parents=True, exist_ok=True)
        try:
            if isinstance(content, Path):
                shutil.copyfile(content, staged)
            else:
                staged.write_bytes(content)
            yield staged
        finally:
            with suppress(FileNotFoundError):
                staged.unlink()

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            culprit = f" ({error.filename})" if error.filename else ""
            raise StoreError(
                f"{self.folder}: cannot use {key!r}: {error.strerror or error}{culprit}. "
                "Check the folder, its free space and its permissions, or choose another with SCYTHE_STORAGE_URL."
            ) from error


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, _ABSENT):
        raise error


def _has_files(folder: str) -> bool:
    """Tell whether there is an object in a folder or below; folders stay when their last object is deleted."""
    return any(names for _, _, names in os.walk(folder))
