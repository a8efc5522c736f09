"""The memory of this process as a store; for tests and trials."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, ClassVar

from typing_extensions import override

from scythe.errors import ObjectNotFoundError, StoreError
from scythe.keys import check_key
from scythe.stores.base import Store, StoredObject


class MemoryStore(Store):
    """Objects in a dict; all stores of one URL in a process share it."""

    _contents: ClassVar[dict[str, dict[str, bytes]]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, name: str = "") -> None:
        self.url = f"memory://{name}"
        with self._lock:
            self._objects = self._contents.setdefault(name, {})

    @override
    def put(self, key: str, content: bytes | Path) -> None:
        check_key(key)
        try:
            data = content.read_bytes() if isinstance(content, Path) else bytes(content)
        except OSError as error:
            raise StoreError(f"{self.url}: cannot put a file there: {error}.") from error
        with self._lock:
            self._objects[key] = data

    @override
    def create(self, key: str, content: bytes) -> bool:
        with self._lock:
            if check_key(key) in self._objects:
                return False
            self._objects[key] = bytes(content)
        return True

    @override
    def open(self, key: str) -> BinaryIO:
        try:
            return BytesIO(self._objects[check_key(key)])
        except KeyError as error:
            raise ObjectNotFoundError(key, self.url) from error

    @override
    def list_objects(self, prefix: str = "") -> Iterator[StoredObject]:
        start = f"{check_key(prefix)}/" if prefix else ""
        with self._lock:
            found = [StoredObject(key, len(data)) for key, data in self._objects.items() if key.startswith(start)]
        return iter(sorted(found))

    @override
    def list_folders(self, prefix: str = "") -> list[str]:
        start = f"{prefix}/" if prefix else ""
        deeper = (entry.key[len(start) :] for entry in self.list_objects(prefix))
        return sorted({rest.partition("/")[0] for rest in deeper if "/" in rest})

    @override
    def delete(self, key: str) -> None:
        with self._lock:
            self._objects.pop(check_key(key), None)
