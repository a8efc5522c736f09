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

from scythe.errors import ObjectNotFoundError, StoreError
from scythe.keys import check_key
from scythe.stores.base import Store, StoredObject

_STAGING = ".scythe-staging"
"""Where files are written before they get their name; on the same file system, so that renaming is atomic."""


class FolderStore(Store):
    """Objects as files under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.url = self.folder.as_uri()

    @override
    def put(self, key: str, content: bytes | Path) -> None:
        path = self.path(key)
        with self._staged(content) as staged, self._translated(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, path)

    @override
    def create(self, key: str, content: bytes) -> bool:
        path = self.path(key)
        with self._staged(content) as staged, self._translated(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(staged, path)
            except FileExistsError:
                return False
        return True

    @override
    def open(self, key: str) -> BinaryIO:
        path = self.path(key)
        with self._translated(key):
            return path.open("rb")

    @override
    def list_objects(self, prefix: str = "") -> Iterator[StoredObject]:
        top = self.path(prefix) if prefix else self.folder
        found = []
        for folder, folders, names in os.walk(top):
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
        try:
            return sorted(entry.name for entry in os.scandir(top) if entry.is_dir() and entry.name != _STAGING)
        except (FileNotFoundError, NotADirectoryError):
            return []

    @override
    def delete(self, key: str) -> None:
        path = self.path(key)
        with suppress(FileNotFoundError), self._translated(key, missing_ok=True):
            path.unlink()

    @override
    def exists(self, key: str) -> bool:
        return self.path(key).is_file()

    def path(self, key: str) -> Path:
        """Return the file behind a key."""
        return self.folder / check_key(key)

    @contextmanager
    def _staged(self, content: bytes | Path) -> Iterator[Path]:
        """Write content to a file that nobody lists; what is left of it is removed."""
        staging = self.folder / _STAGING
        staged = staging / uuid.uuid4().hex
        try:
            with self._translated(str(content) if isinstance(content, Path) else "the folder"):
                staging.mkdir(parents=True, exist_ok=True)
                if isinstance(content, Path):
                    shutil.copyfile(content, staged)
                else:
                    staged.write_bytes(content)
            yield staged
        finally:
            with suppress(FileNotFoundError):
                staged.unlink()

    @contextmanager
    def _translated(self, key: str, *, missing_ok: bool = False) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if missing_ok:
                raise
            raise ObjectNotFoundError(key, self.url) from error
        except IsADirectoryError as error:
            raise ObjectNotFoundError(key, self.url) from error
        except OSError as error:
            raise StoreError(
                f"{self.folder}: cannot use {key!r}: {error.strerror or error}. "
                "Check the folder, its free space and its permissions, or choose another with SCYTHE_STORAGE_URL."
            ) from error
