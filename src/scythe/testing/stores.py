"""What every store must do."""

# ruff: noqa: D102 - the name of a test says it

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest

from scythe.errors import InvalidKeyError, ObjectNotFoundError, StoreError
from scythe.stores import Store, StoredObject, open_store

HOSTILE_KEYS = [
    "", "/", "/etc/passwd", "a/", "/a", "a//b", ".", "..", "./a", "a/.", "../outside", "a/../../outside", "a/..",
    "a/./b", "a\\b", "..\\outside", "a\nb", "a\0b", "a\x7fb", "\ud800", "a" * 300,
]  # fmt: skip
"""Names that must not be keys anywhere: most would leave a folder that is used as a store."""

ODD_KEYS = [
    "a b", "ü/ñ", "日本/語.pq", "x=1/y.pq", "a#1", "a?b", "a%20b", "a+b", "a&b", "a:b", "a'b", 'a"b', "a*b", "~a", "-a",
    ".a", "a.", "a/b.c/d", "c" * 200, ".scythe-staging/a", "a/.tmp",
]  # fmt: skip
"""Names that stores like to get wrong: each is kept under exactly that name, or refused."""

_TIMEOUT = 120

_CREATE = """
import sys
from scythe.stores import open_store
store = open_store(sys.argv[1])
sys.stdin.readline()
print(*[i for i in range(int(sys.argv[2])) if store.create(f"race/{i}", sys.argv[3].encode())])
"""

_REPLACE = """
import itertools, sys
from scythe.stores import open_store
store = open_store(sys.argv[1])
for i in itertools.count():
    store.put("big", bytes([65 + i % 2]) * 5_000_000)
    print(i, flush=True)
"""


class StoreSuite:
    """Subclass it, and define `make_store`.

    The other hooks look at the bytes past the store, where an adapter can: tests are then sure that what is written is
    what lies there, and that nothing else does.

    Attributes:
        shared: Whether another process that opens the store by its URL sees the same objects.
    """

    shared: ClassVar[bool] = True

    def make_store(self, tmp_path: Path) -> Store:
        """Return an empty store.

        Args:
            tmp_path: An empty folder; a store that needs one must use a folder in it and not itself.
        """
        raise NotImplementedError("a subclass of StoreSuite defines make_store")

    def raw_content(self, store: Store, key: str) -> bytes:
        """Return what lies under a key, past the store."""
        return store.get(key)

    def raw_put(self, store: Store, key: str, content: bytes) -> None:
        """Lay something under a key, past the store."""
        store.put(key, content)

    def raw_names(self, store: Store) -> set[str]:
        """Return the names of all that lies there, past the store: objects, and whatever else is left behind."""
        return {entry.key for entry in store.list_objects()}

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        """Return the store under test."""
        return self.make_store(tmp_path)

    # --------------------------------------------------------------------------------------------------- single objects

    def test_what_is_put_is_read_back(self, store: Store) -> None:
        store.put("a/b.txt", b"content \x00\xff")
        assert store.get("a/b.txt") == b"content \x00\xff"
        assert store.exists("a/b.txt")
        assert self.raw_content(store, "a/b.txt") == b"content \x00\xff"
        assert self.raw_names(store) == {"a/b.txt"}

    def test_what_others_lay_there_is_read(self, store: Store) -> None:
        self.raw_put(store, "a/b.txt", b"by others")
        assert store.get("a/b.txt") == b"by others"
        assert list(store.list_objects("a")) == [StoredObject("a/b.txt", 9)]

    def test_put_replaces_whatever_the_length(self, store: Store) -> None:
        for content in (b"short", b"a much longer content", b"", b"s"):
            store.put("a", content)
            assert store.get("a") == content
            assert list(store.list_objects()) == [StoredObject("a", len(content))]

    def test_an_absent_key_is_an_error_that_names_key_and_store(self, store: Store) -> None:
        store.put("a/b", b"")
        for key in ("b", "a", "a/b/c", "a/bb"):
            assert not store.exists(key)
            for read in (store.get, store.open):
                with pytest.raises(ObjectNotFoundError) as caught:
                    read(key)
                assert repr(key) in str(caught.value)
                assert store.url in str(caught.value)

    def test_delete_may_be_repeated(self, store: Store) -> None:
        store.put("a/b", b"content")
        for key in ("a/b", "a/b", "a", "a/b/c", "never"):
            store.delete(key)
            assert not store.exists(key)
        assert list(store.list_objects()) == []
        assert self.raw_names(store) == set()

    def test_deleting_what_is_no_object_leaves_others_alone(self, store: Store) -> None:
        store.put("a/b", b"content")
        store.delete("a")
        store.delete("a/b/c")
        assert store.get("a/b") == b"content"

    def test_a_deleted_key_can_be_used_again(self, store: Store) -> None:
        store.put("a/b", b"old")
        store.delete("a/b")
        assert store.create("a/b", b"new")
        assert store.get("a/b") == b"new"

    def test_an_empty_object_is_an_object(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        store.put("a", b"")
        store.put("b", tmp_path / "empty")
        assert store.create("c", b"")
        assert not store.create("c", b"x")
        assert list(store.list_objects()) == [StoredObject(key, 0) for key in "abc"]
        assert [store.get(key) for key in "abc"] == [b""] * 3

    def test_a_large_object_is_read_back_and_can_be_read_in_pieces(self, store: Store) -> None:
        content = os.urandom(1_000_000) * 20
        store.put("large", content)
        assert store.get("large") == content
        assert list(store.list_objects()) == [StoredObject("large", 20_000_000)]
        with store.open("large") as reader:
            assert reader.seek(-10, os.SEEK_END) == 19_999_990
            assert reader.read() == content[-10:]
            assert reader.seek(12_345_678) == 12_345_678
            assert reader.read(1000) == content[12_345_678:12_346_678]
            assert reader.tell() == 12_346_678

    def test_the_content_of_a_file_is_put(self, store: Store, tmp_path: Path) -> None:
        path = tmp_path / "a file"
        path.write_bytes(b"content" * 1000)
        store.put("a/copy", path)
        assert store.get("a/copy") == path.read_bytes()
        path.write_bytes(b"changed later")
        assert store.get("a/copy") == b"content" * 1000

    def test_a_reader_keeps_what_it_opened(self, store: Store) -> None:
        store.put("a", b"old" * 1000)
        with store.open("a") as reader:
            store.put("a", b"new" * 1000)
            assert reader.read() == b"old" * 1000

    def test_an_objects_url_begins_with_the_stores_and_is_one_word(self, store: Store) -> None:
        urls = [store.object_url(key) for key in ODD_KEYS]
        assert all(url.startswith(store.url.rstrip("/") + "/") for url in urls)
        assert not [url for url in urls if not url.isascii() or set(' #?"') & set(url.removeprefix(store.url))]
        assert len(set(urls)) == len(ODD_KEYS)

    def test_its_url_opens_the_same_store(self, store: Store) -> None:
        store.put("a/b", b"content")
        again = open_store(store.url)
        assert again.url == store.url
        assert again.get("a/b") == b"content"
        again.put("c", b"")
        assert store.exists("c")

    # ---------------------------------------------------------------------------------------------------------- listing

    def test_an_empty_store_lists_nothing(self, store: Store) -> None:
        assert list(store.list_objects()) == list(store.list_objects("a")) == []
        assert store.list_folders() == store.list_folders("a") == []

    def test_a_listing_is_sorted_by_key_and_tells_sizes(self, store: Store) -> None:
        keys = ["b", "a/b/c", "a-b/c", "a/b", "a.b", "a/a", "ab/c", "A/a", "ü", "a b/c", "a0"]
        keys.remove("a/b")  # which is a folder here
        for key in keys:
            store.put(key, key.encode())
        assert list(store.list_objects()) == [StoredObject(key, len(key.encode())) for key in sorted(keys)]

    def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_name(self, store: Store) -> None:
        for key in ("ab/x", "a/x", "a/y/z", "a.x", "b/a/x"):
            store.put(key, b"")
        assert [entry.key for entry in store.list_objects("a")] == ["a/x", "a/y/z"]
        assert [entry.key for entry in store.list_objects("a/y")] == ["a/y/z"]
        assert [entry.key for entry in store.list_objects("b/a")] == ["b/a/x"]

    def test_an_object_is_not_in_the_listing_of_its_own_name(self, store: Store) -> None:
        store.put("a/b", b"")
        assert list(store.list_objects("a/b")) == []
        assert store.list_folders("a/b") == []

    def test_folders_are_the_next_names_below_each_once(self, store: Store) -> None:
        for key in ("x", "b/x", "a/b/x", "a/b/y", "a/c/d/x", "a/z", "ab/x"):
            store.put(key, b"")
        assert store.list_folders() == ["a", "ab", "b"]
        assert store.list_folders("a") == ["b", "c"]
        assert store.list_folders("a/c") == ["d"]
        assert store.list_folders("b") == store.list_folders("nothing") == []

    def test_a_folder_whose_objects_are_deleted_is_not_listed(self, store: Store) -> None:
        store.put("a/b/x", b"")
        store.put("c/x", b"")
        store.delete("a/b/x")
        assert store.list_folders() == ["c"]
        assert store.list_folders("a") == []

    # ------------------------------------------------------------------------------------------------------------- keys

    @pytest.mark.parametrize("key", HOSTILE_KEYS, ids=ascii)
    def test_a_key_that_could_leave_the_store_is_refused_before_anything_is_touched(
        self, store: Store, tmp_path: Path, key: str
    ) -> None:
        store.put("a/b", b"mine")
        before = sorted(tmp_path.rglob("*"))
        uses: list[Callable[[], object]] = [
            lambda: store.put(key, b"x"),
            lambda: store.put(key, tmp_path / "missing"),
            lambda: store.create(key, b"x"),
            lambda: store.get(key),
            lambda: store.open(key),
            lambda: store.exists(key),
            lambda: store.delete(key),
        ]
        if key:  # all there is, for a listing
            uses += [lambda: list(store.list_objects(key)), lambda: store.list_folders(key)]
        for use in uses:
            with pytest.raises(InvalidKeyError):
                use()
        assert sorted(tmp_path.rglob("*")) == before
        assert self.raw_names(store) == {"a/b"}

    @pytest.mark.parametrize("key", ODD_KEYS, ids=ascii)
    def test_an_odd_key_is_kept_as_it_is_or_refused(self, store: Store, key: str) -> None:
        try:
            store.put(key, b"odd")
        except InvalidKeyError:
            assert list(store.list_objects()) == []
            return
        assert store.get(key) == b"odd"
        assert store.exists(key)
        assert list(store.list_objects()) == [StoredObject(key, 3)]
        assert self.raw_names(store) == {key}
        folder = key.rpartition("/")[0]
        if folder:
            assert [entry.key for entry in store.list_objects(folder)] == [key]
            assert store.list_folders() == [folder.partition("/")[0]]
        assert not store.create(key, b"again")
        store.delete(key)
        assert list(store.list_objects()) == []

    def test_a_name_is_an_object_or_a_folder_or_both_but_none_is_lost(self, store: Store) -> None:
        store.put("a/b", b"below")
        for write in (store.put, store.create):
            try:
                write("a", b"above")
            except StoreError:
                continue
            assert store.get("a") == b"above"
            store.delete("a")
        assert store.get("a/b") == b"below"
        store.put("c", b"above")
        for write in (store.put, store.create):
            try:
                write("c/d", b"below")
            except StoreError:
                continue
            assert store.get("c/d") == b"below"
            store.delete("c/d")
        assert store.get("c") == b"above"

    # ------------------------------------------------------------------------------------------------- writes that fail

    def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(self, store: Store, tmp_path: Path) -> None:
        store.put("kept", b"old")
        for key in ("kept", "new", "folder/new"):
            with pytest.raises(StoreError):
                store.put(key, tmp_path / "missing")
            with pytest.raises(StoreError):
                store.put(key, tmp_path)
        assert store.get("kept") == b"old"
        assert [entry.key for entry in store.list_objects()] == ["kept"]
        assert self.raw_names(store) == {"kept"}
        assert store.list_folders() == []

    def test_a_writer_that_is_killed_leaves_the_old_content_or_the_new(self, store: Store) -> None:
        if not self.shared:
            pytest.xfail("another process does not see this store")
        for _ in range(3):
            with _python(_REPLACE, store.url) as writer:
                assert writer.stdout is not None
                for _ in range(3):
                    assert writer.stdout.readline()
                writer.kill()
            content = store.get("big")
            assert content in (b"A" * 5_000_000, b"B" * 5_000_000)
            assert list(store.list_objects()) == [StoredObject("big", 5_000_000)]

    # ------------------------------------------------------------------------------------------------------ concurrency

    def test_a_reader_during_a_write_sees_the_old_content_or_the_new(self, store: Store) -> None:
        versions = [bytes([letter]) * 3_000_000 for letter in b"AB"]
        store.put("a", versions[0])
        stop = threading.Event()

        def write() -> int:
            count = 0
            while not stop.is_set():
                count += 1
                store.put("a", versions[count % 2])
            return count

        with ThreadPoolExecutor() as threads:
            writer = threads.submit(write)
            try:
                seen: set[int] = set()
                ends = time.monotonic() + _TIMEOUT
                while len(seen) < 2 or not writer.running():
                    for _ in range(20):
                        content = store.get("a")
                        assert content in versions
                        assert list(store.list_objects()) == [StoredObject("a", 3_000_000)]
                        seen.add(content[0])
                    assert time.monotonic() < ends, "the writer did not get on"
            finally:
                stop.set()
            assert writer.result(timeout=_TIMEOUT) > 0

    def test_create_tells_whether_it_was_the_first(self, store: Store) -> None:
        assert store.create("a/b", b"first")
        assert not store.create("a/b", b"second")
        assert store.get("a/b") == b"first"
        store.put("c", b"put")
        assert not store.create("c", b"third")
        assert store.get("c") == b"put"

    def test_of_racing_threads_one_creates(self, store: Store) -> None:
        n_threads, n_keys = 8, 20
        barrier = threading.Barrier(n_threads)

        def race(me: int) -> list[bool]:
            barrier.wait(timeout=_TIMEOUT)
            return [store.create(f"race/{i}", b"%d" % me) for i in range(n_keys)]

        with ThreadPoolExecutor(n_threads) as threads:
            won = list(threads.map(race, range(n_threads)))
        for i in range(n_keys):
            winners = [me for me in range(n_threads) if won[me][i]]
            assert len(winners) == 1
            assert store.get(f"race/{i}") == b"%d" % winners[0]
        assert len(self.raw_names(store)) == n_keys

    def test_of_racing_processes_one_creates(self, store: Store) -> None:
        if not self.shared:
            pytest.xfail("another process does not see this store")
        n_keys, names = 200, "ABC"
        racers = [_python(_CREATE, store.url, str(n_keys), name) for name in names]
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        won = {name: _numbers(racer) for name, racer in zip(names, racers, strict=True)}
        assert sorted(i for numbers in won.values() for i in numbers) == list(range(n_keys))
        for name, numbers in won.items():
            assert {store.get(f"race/{i}") for i in numbers} <= {name.encode()}

    def test_many_threads_may_write_list_and_delete_at_once(self, store: Store) -> None:
        def work(me: int) -> None:
            for i in range(30):
                key = f"{me % 3}/{i % 5}/{me}-{i}"
                store.put(key, key.encode())
                assert store.get(key) == key.encode()
                assert key in {entry.key for entry in store.list_objects(f"{me % 3}")}
                if i % 2:
                    store.delete(key)

        with ThreadPoolExecutor(6) as threads:
            list(threads.map(work, range(6), timeout=_TIMEOUT))
        assert len(list(store.list_objects())) == len(self.raw_names(store)) == 6 * 15


def _python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def _numbers(process: subprocess.Popen[str]) -> list[int]:
    output, _ = process.communicate(timeout=_TIMEOUT)
    assert process.returncode == 0
    return [int(number) for number in output.split()]
