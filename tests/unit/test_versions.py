from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scythe.versions import (
    SemVer,
    find_version,
    is_timestamp,
    next_version,
    parse_timestamp,
    render_timestamp,
)

versions = st.builds(SemVer, *[st.integers(0, 10**6)] * 3)
seconds = st.datetimes(min_value=datetime(1000, 1, 1)).map(lambda time: time.replace(microsecond=0))


@given(versions)
def test_a_version_is_read_back_from_its_text(version: SemVer) -> None:
    assert SemVer.FromString(str(version)) == version
    assert find_version(str(version)) == version


@given(versions)
def test_a_version_survives_json(version: SemVer) -> None:
    assert SemVer.model_validate_json(version.model_dump_json()) == version


@given(versions, versions)
def test_versions_are_ordered_by_number_and_not_by_text(a: SemVer, b: SemVer) -> None:
    numbers = (a.major, a.minor, a.patch), (b.major, b.minor, b.patch)
    assert (a < b, a <= b, a == b, a >= b, a > b) == (
        numbers[0] < numbers[1],
        numbers[0] <= numbers[1],
        numbers[0] == numbers[1],
        numbers[0] >= numbers[1],
        numbers[0] > numbers[1],
    )
    assert len({a, b}) == 1 + (a != b)


@given(versions)
def test_each_next_version_is_higher_and_resets_what_is_below_it(version: SemVer) -> None:
    major, minor, patch = version.next_major_version(), version.next_minor_version(), version.next_patch_version()
    assert version < patch < minor < major
    assert (major.minor, major.patch, minor.patch) == (0, 0, 0)


def test_a_version_needs_only_its_major_number() -> None:
    assert str(SemVer(2)) == "v2.0.0"
    assert str(SemVer(2, patch=3)) == "v2.0.3"
    assert SemVer.FromString("1.2.3") == SemVer(1, 2, 3)


def test_a_version_is_not_compared_with_text() -> None:
    with pytest.raises(TypeError):
        SemVer(1) < "v2.0.0"  # noqa: B015
    assert SemVer(1) != "v1.0.0"


@pytest.mark.parametrize(
    "text", ["", "v1", "v1.2", "v1.2.3.4", "1.2.x", " v1.2.3", "v1.2.3\n", "v01.2.3", "v\u0661.2.3"]
)
def test_what_is_not_a_version_is_refused_and_not_found(text: str) -> None:
    assert find_version(text) is None
    with pytest.raises(ValueError, match=r"write it as v1\.2\.3"):
        SemVer.FromString(text)


def test_a_version_has_no_negative_numbers() -> None:
    with pytest.raises(ValidationError):
        SemVer(-1)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("bumpmajor", "v2.0.0"),
        ("bumpminor", "v1.5.0"),
        ("bumppatch", "v1.4.3"),
        ("keep", "v1.4.2"),
        (SemVer(1), "v1.0.0"),
        (SemVer(7, 1), "v7.1.0"),
    ],
)
def test_a_strategy_counts_on_from_the_latest_version(strategy: object, expected: str) -> None:
    assert str(next_version(SemVer(1, 4, 2), strategy)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", ["bumpmajor", "bumpminor", "bumppatch", "keep"])
def test_the_first_version_is_1_0_0_whatever_the_strategy(strategy: object) -> None:
    assert str(next_version(None, strategy)) == "v1.0.0"  # type: ignore[arg-type]


@pytest.mark.parametrize("latest", [None, SemVer(1)])
@pytest.mark.parametrize("strategy", ["bump", "", None, 1, "v1.2.0"])
def test_an_unknown_strategy_is_refused_with_those_there_are(latest: SemVer | None, strategy: object) -> None:
    with pytest.raises(ValueError, match="'bumpmajor', 'bumpminor', 'bumppatch', 'keep' or a SemVer"):
        next_version(latest, strategy)  # type: ignore[arg-type]


@given(seconds, st.integers(0, 2000))
def test_the_time_and_attempt_of_a_run_are_read_back_from_its_name(time: datetime, attempt: int) -> None:
    name = render_timestamp(time, attempt)
    assert parse_timestamp(name) == (time, attempt)
    assert is_timestamp(name)


def test_the_first_run_of_a_second_is_named_as_in_1x() -> None:
    assert render_timestamp(datetime(2026, 1, 2, 3, 4, 5)) == "2026-01-02_03-04-05"


@given(seconds, st.lists(st.integers(0, 300), unique=True, min_size=2))
def test_runs_of_one_second_are_in_order_of_their_attempts(time: datetime, attempts: list[int]) -> None:
    names = [render_timestamp(time, attempt) for attempt in attempts]
    assert sorted(names, key=parse_timestamp) == [render_timestamp(time, attempt) for attempt in sorted(attempts)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "final",
        "2026-01-02",
        "2026-01-02 03:04:05",
        "2026-13-02_03-04-05",
        "2026-01-02_25-04-05",
        "2026-01-02_03-04-05-1",
        "2026-01-02_03-04-05-00",
        "2026-01-02_03-04-05-01",
        "2026-01-02_03-04-05\n",
    ],
)
def test_what_is_not_the_name_of_a_run_is_refused(text: str) -> None:
    assert not is_timestamp(text)
    with pytest.raises(ValueError, match=r"not the timestamp of a run|does not match|unconverted|time data"):
        parse_timestamp(text)
