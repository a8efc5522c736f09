"""Places to keep runs in: the port, its adapters, and the one function that opens them by URL."""

from pathlib import Path
from urllib.parse import urlsplit

from scythe.errors import SettingsError
from scythe.files import file_url_path, is_url
from scythe.stores.base import Store, StoredObject
from scythe.stores.folder import FolderStore
from scythe.stores.memory import MemoryStore

__all__ = ["FolderStore", "MemoryStore", "Store", "StoredObject", "open_store"]


def open_store(url: str | Path) -> Store:
    """Open the store behind a URL or a folder's path.

    Args:
        url: `file:///folder`, a path, or `memory://name`.

    Raises:
        SettingsError: There is no adapter for such a URL.
    """
    text = str(url)
    if not is_url(text):
        return FolderStore(Path(text).expanduser())
    folder = file_url_path(text)
    if folder is not None:
        return FolderStore(folder)
    parts = urlsplit(text)
    if parts.scheme == "memory":
        return MemoryStore(parts.netloc + parts.path)
    raise SettingsError(
        "SCYTHE_STORAGE_BUCKET" if parts.scheme == "s3" else "SCYTHE_STORAGE_URL",
        text,
        f"there is no store for {parts.scheme}:// in this version; use a folder (file:///… or a path), or memory://",
    )
