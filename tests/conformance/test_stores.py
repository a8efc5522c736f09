from pathlib import Path

from scythe.stores import FolderStore, MemoryStore, Store
from scythe.testing import StoreSuite


class TestFolderStore(StoreSuite):
    def make_store(self, tmp_path: Path) -> Store:
        return FolderStore(tmp_path / "store")

    def raw_content(self, store: Store, key: str) -> bytes:
        assert isinstance(store, FolderStore)
        return (store.folder / key).read_bytes()

    def raw_put(self, store: Store, key: str, content: bytes) -> None:
        assert isinstance(store, FolderStore)
        path = store.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def raw_names(self, store: Store) -> set[str]:
        assert isinstance(store, FolderStore)
        return {path.relative_to(store.folder).as_posix() for path in store.folder.rglob("*") if path.is_file()}


class TestMemoryStore(StoreSuite):
    shared = False

    def make_store(self, tmp_path: Path) -> Store:
        return MemoryStore(tmp_path.as_posix().strip("/"))
