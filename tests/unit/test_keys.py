from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scythe.errors import InvalidKeyError
from scythe.keys import (
    OUTCOMES,
    PartKey,
    RunKeys,
    artifact_key,
    check_frame_name,
    check_key,
    current_parts,
    frame_parts_name,
    join,
    parse_frame_parts_name,
    parse_part_key,
    result_key,
    run_prefix,
)

counts = st.integers(0, 10**12)
part_keys = st.builds(
    PartKey,
    folder=st.sampled_from(["a/v1.0.0/t/scatter-gather/parts/outcomes", "x/parts/frame=ü %2F.1-2.3+4.pq"]),
    writer=st.text("0123456789abcdef", min_size=1, max_size=32),
    index=counts,
    first=counts,
    last=counts,
    done=counts,
    failed=counts,
)


@given(part_keys)
def test_what_the_key_of_a_part_tells_is_read_back(part: PartKey) -> None:
    assert parse_part_key(part.render()) == part
    assert part.name == part.folder.split("/")[-1]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "a/specs.pq",
        "a/0a-000001.00000000-00000001.1.pq",
        "a/XY-000001.00000000-00000001.1+0.pq",
        "a/0a-000001.00000000-00000001.1+0.pq.tmp",
    ],
)
def test_what_is_not_the_key_of_a_part_is_not_parsed(key: str) -> None:
    assert parse_part_key(key) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(1, 50)), max_size=20))
def test_of_a_part_that_grew_the_largest_counts_once(grown: list[tuple[int, int, int]]) -> None:
    keys = [PartKey("p/outcomes", f"{writer:x}", index, 0, n, n, 0).render() for writer, index, n in grown]
    largest: dict[tuple[str, int], int] = {}
    for writer, index, n in grown:
        largest[f"{writer:x}", index] = max(n, largest.get((f"{writer:x}", index), 0))
    found = {(part.writer, part.index): part.done for part in current_parts([*keys, "p/specs.pq"])}
    assert found == largest


def test_parts_are_listed_in_row_order_within_their_folder() -> None:
    parts = [
        PartKey(f, w, 0, a, b, 1, 0) for f, w, a, b in [("f", "b", 50, 60), ("f", "a", 70, 70), ("e", "c", 90, 90)]
    ]
    assert [part.first for part in current_parts(part.render() for part in parts)] == [90, 50, 70]


@given(st.text())
def test_the_name_of_a_frame_is_read_back_from_its_folder(frame: str) -> None:
    folder = frame_parts_name(frame)
    assert parse_frame_parts_name(folder) == frame
    assert "/" not in folder
    assert folder != OUTCOMES


def test_the_folder_of_outcomes_is_no_frame() -> None:
    assert parse_frame_parts_name(OUTCOMES) is None


@pytest.mark.parametrize(
    "name", ["a", "a b", "ü/ñ", "x=1/y.pq", "a%2Fb", "a#b?c", "日本語" * 20, "...", "a..b", "a" * 190]
)
def test_a_name_that_every_store_can_keep_is_accepted(name: str) -> None:
    assert check_key(name) == name
    assert check_frame_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "../a",
        "a/../b",
        "a/.",
        "a\\b",
        "a\0b",
        "a\nb",
        "a\x7fb",
        "\ud800",
        "a" * 201,
        "ü" * 101,
    ],
)
def test_a_name_that_some_store_cannot_keep_is_refused_with_the_reason(name: str) -> None:
    for check in (check_key, check_frame_name):
        with pytest.raises(InvalidKeyError, match="cannot be a name in a store") as caught:
            check(name)
        assert caught.value.reason


@pytest.mark.parametrize("frame", ["a" * 198, "a/" * 60 + "a"])
def test_a_frame_whose_parts_would_have_too_long_a_key_is_refused(frame: str) -> None:
    assert check_key(frame) == frame
    with pytest.raises(InvalidKeyError, match="longer than 200 bytes"):
        check_frame_name(frame)


def test_the_keys_of_a_run_are_those_of_1x() -> None:
    run = RunKeys(run_prefix("study/a b", "v1.2.0", "2026-01-02_03-04-05"))
    prefix = "study/a b/v1.2.0/2026-01-02_03-04-05"
    assert run.prefix == prefix
    assert run.manifest == f"{prefix}/manifest.yml"
    assert run.io_spec == f"{prefix}/experiment_io_spec.yml"
    assert run.input_artifacts == f"{prefix}/input_artifacts.yml"
    assert run.specs == f"{prefix}/specs.pq"
    assert run.workflow_spec == f"{prefix}/workflow_spec.yml"
    assert run.table("daily/north") == f"{prefix}/final/daily/north.pq"
    assert artifact_key(prefix, "weather", "a.epw") == f"{prefix}/artifacts/weather/a.epw"
    assert result_key(prefix, "report", "0b8e", ".rpt") == f"{prefix}/results/report/0b8e.rpt"


def test_parts_and_status_lie_under_scatter_gather() -> None:
    run = RunKeys("a/v1.0.0/t")
    assert run.parts() == "a/v1.0.0/t/scatter-gather/parts"
    assert run.parts(OUTCOMES).startswith(run.parts() + "/")
    assert run.status.startswith("a/v1.0.0/t/scatter-gather/")


@pytest.mark.parametrize("base", ["", "../x", "a//b", "/a"])
def test_a_run_cannot_lie_outside_its_store(base: str) -> None:
    with pytest.raises(InvalidKeyError):
        run_prefix(base, "v1.0.0", "t")


def test_an_artifact_cannot_lie_outside_its_run() -> None:
    with pytest.raises(InvalidKeyError):
        artifact_key("a/v1.0.0/t", "field", "../b")


def test_joining_leaves_out_what_is_empty() -> None:
    assert join("", "a", "", "b/c") == "a/b/c"
