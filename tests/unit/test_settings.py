from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scythe.errors import SettingsError
from scythe.settings import (
    ScytheStorageSettings,
    TimeoutSettings,
    engine_name,
    parse_duration,
    progress_style,
    slots,
)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("90s", 90),
        ("10h", 36_000),
        ("1h30m", 5_400),
        ("1h 30m", 5_400),
        (" 5 m ", 300),
        ("1.5h", 5_400),
        ("250ms", 0.25),
        ("2d", 172_800),
        (90, 90),
        (0.5, 0.5),
        (timedelta(minutes=2), 120),
    ],
)
def test_a_duration_is_read_as_people_write_it(value: object, seconds: float) -> None:
    assert parse_duration(value, setting="x") == timedelta(seconds=seconds)  # type: ignore[arg-type]


@given(st.integers(0, 99), st.integers(0, 99), st.integers(1, 99))
def test_a_duration_is_the_sum_of_its_parts(hours: int, minutes: int, seconds: int) -> None:
    expected = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    assert parse_duration(f"{hours}h{minutes}m{seconds}s", setting="x") == expected


@pytest.mark.parametrize(
    "value",
    ["", "h", "10", "1h30", "ten", "1x", "-5s", "1,5h", float("nan"), float("inf"), "9" * 30 + "d", True, None, []],
)
def test_what_is_not_a_duration_is_refused_by_name(value: object) -> None:
    with pytest.raises(SettingsError, match=r"retry_after=.*write a duration such as") as caught:
        parse_duration(value, setting="retry_after")  # type: ignore[arg-type]
    assert caught.value.setting == "retry_after"


@pytest.mark.parametrize("value", ["0s", 0, -1, timedelta(0), timedelta(seconds=-3)])
def test_a_duration_of_nothing_is_refused(value: object) -> None:
    with pytest.raises(SettingsError, match="longer than nothing"):
        parse_duration(value, setting="x")  # type: ignore[arg-type]


@pytest.mark.parametrize(("cpus", "expected"), [(1, 1), (2, 2), (7, 7), (8, 7), (64, 63)])
def test_every_cpu_is_a_slot_below_eight_and_one_is_left_from_then_on(cpus: int, expected: int) -> None:
    assert slots({}, cpus=cpus) == expected


def test_slots_can_be_set() -> None:
    assert slots({"SCYTHE_WORKER_SLOTS": "3"}, cpus=64) == 3
    assert slots({"SCYTHE_WORKER_SLOTS": ""}, cpus=2) == 2


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "²"])
def test_slots_that_are_no_number_from_1_on_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"SCYTHE_WORKER_SLOTS=.*whole number"):
        slots({"SCYTHE_WORKER_SLOTS": text})


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in ("SCYTHE_STORAGE_URL", "SCYTHE_STORAGE_BUCKET", "SCYTHE_STORAGE_BUCKET_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def test_runs_are_kept_in_a_folder_here_where_nobody_says(storage: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = ScytheStorageSettings()
    assert settings.store_url() == (tmp_path / "scythe-runs").as_uri()
    assert not settings.chosen


def test_a_bucket_means_s3_under_the_prefix_scythe(storage: pytest.MonkeyPatch) -> None:
    storage.setenv("SCYTHE_STORAGE_BUCKET", "water")
    assert ScytheStorageSettings().store_url() == "s3://water/scythe"
    storage.setenv("SCYTHE_STORAGE_BUCKET_PREFIX", "team/a")
    settings = ScytheStorageSettings()
    assert settings.store_url() == "s3://water/team/a"
    assert (settings.BUCKET, settings.BUCKET_PREFIX) == ("water", "team/a")
    assert settings.chosen


def test_a_url_means_any_store_and_wins_over_a_bucket(storage: pytest.MonkeyPatch) -> None:
    storage.setenv("SCYTHE_STORAGE_BUCKET", "water")
    storage.setenv("SCYTHE_STORAGE_URL", "memory://here")
    assert ScytheStorageSettings().store_url() == "memory://here"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("/runs/a b", "file:///runs/a%20b"),
        ("memory://here", "memory://here"),
        ("s3://water/a", "s3://water/a"),
        ("file:///runs", "file:///runs"),
    ],
)
def test_a_folder_can_be_given_by_its_path(given: str, url: str) -> None:
    assert ScytheStorageSettings(URL=given).store_url() == url


def test_a_relative_folder_is_taken_from_here(storage: pytest.MonkeyPatch, tmp_path: Path) -> None:
    storage.setenv("SCYTHE_STORAGE_URL", "some/runs")
    assert ScytheStorageSettings().store_url() == (tmp_path / "some/runs").as_uri()


def test_an_empty_variable_counts_as_unset(storage: pytest.MonkeyPatch) -> None:
    for name in ("SCYTHE_STORAGE_URL", "SCYTHE_STORAGE_BUCKET", "SCYTHE_STORAGE_BUCKET_PREFIX"):
        storage.setenv(name, "")
    assert not ScytheStorageSettings().chosen


def test_the_environment_is_read_when_asked_and_not_at_import(storage: pytest.MonkeyPatch) -> None:
    before = ScytheStorageSettings().store_url()
    storage.setenv("SCYTHE_STORAGE_URL", "memory://later")
    assert ScytheStorageSettings().store_url() == "memory://later" != before


def test_timeouts_are_ten_hours_and_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCYTHE_TIMEOUT_EXPERIMENT_EXECUTION", raising=False)
    timeouts = TimeoutSettings()
    assert timeouts.EXPERIMENT_EXECUTION.total_seconds() == 36_000
    monkeypatch.setenv("SCYTHE_TIMEOUT_EXPERIMENT_EXECUTION", "90s")
    timeouts = TimeoutSettings()
    assert timeouts.EXPERIMENT_EXECUTION.total_seconds() == 90


def test_a_timeout_that_cannot_be_read_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCYTHE_TIMEOUT_EXPERIMENT_SCHEDULE", "soon")
    with pytest.raises(SettingsError, match="SCYTHE_TIMEOUT_EXPERIMENT_SCHEDULE='soon'"):
        TimeoutSettings()


def test_the_engine_is_the_argument_then_the_variable_then_the_embedded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCYTHE_ENGINE", raising=False)
    assert engine_name(None) == "local"
    monkeypatch.setenv("SCYTHE_ENGINE", "inline")
    assert engine_name(None) == "inline"
    assert engine_name("local") == "local"


def test_an_unknown_way_of_showing_progress_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCYTHE_PROGRESS", "loud")
    with pytest.raises(SettingsError, match="SCYTHE_PROGRESS='loud': use auto, plain or off"):
        progress_style()
