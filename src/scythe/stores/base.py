"""The store port: named bytes. Every adapter passes `scythe.testing.StoreSuite`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from scythe.errors import ObjectNotFoundError
from scythe.files import key_url


@dataclass(frozen=True, order=True)
class StoredObject:
    """One entry of a listing: the object's key and its size in bytes."""

    key: str
    size: int


class Store(ABC):
    """A place that keeps bytes under keys.

    A key is a `/`-separated path that `keys.check_key` accepts; any other raises `InvalidKeyError` before anything is
    touched. Writing is atomic: a reader, and a writer that is killed, leave the old content or the new, never a part of
    one. Every method may be called from any thread. What the place refuses is a `StoreError`.

    Attributes:
        url: Where the store is; `scythe.stores.open_store(url)` opens it again, here or elsewhere.
    """

    url: str

    @abstractmethod
    def put(self, key: str, content: bytes | Path) -> None:
        """Store content, or the content of a file, in place of what was there."""

    @abstractmethod
    def create(self, key: str, content: bytes) -> bool:
        """Store content where nothing is, and say whether that was so; of racing creators one gets True."""

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """Open an object for reading; the reader can seek.

        Raises:
            ObjectNotFoundError: Nothing is stored there.
        """

    @abstractmethod
    def list_objects(self, prefix: str = "") -> Iterator[StoredObject]:
        """List all objects whose key starts with `prefix/` (all there are for ""), sorted by key."""

    @abstractmethod
    def list_folders(self, prefix: str = "") -> list[str]:
        """List the next key segment of all objects that lie deeper under `prefix/`, sorted, each once."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    def get(self, key: str) -> bytes:
        """Return an object's content.

        Raises:
            ObjectNotFoundError: Nothing is stored there.
        """
        with self.open(key) as reader:
            return reader.read()

    def exists(self, key: str) -> bool:
        """Tell whether something is stored at a key."""
        try:
            self.open(key).close()
        except ObjectNotFoundError:
            return False
        return True

    def object_url(self, key: str) -> str:
        """Return the URL of an object."""
        return key_url(self.url, key)

    def __repr__(self) -> str:
        """Name the place."""
        return f"{type(self).__name__}({self.url!r})"
