from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest

from scythe import errors
from scythe.errors import ScytheError

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ScytheError)]

ARGUMENTS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "InvalidSpecsError": (("Design", [(3, "size", "-1", "too small")]), {"bad_rows": 1, "total": 10}),
    "InvalidColumnsError": (("Design", ["column 'a' is no field"]), {}),
    "ExperimentTypeExists": (("simulate",), {"holder": "one.simulate", "function": "two.simulate"}),
    "ExperimentTypeNotFound": (("simulate",), {"known": ["other"]}),
    "ExperimentSpecsMismatchError": (("Design", "Other"), {"row": 3}),
    "ObjectNotFoundError": (("a/b", "file:///runs"), {}),
    "InvalidKeyError": (("a/../b", "it leaves its folder"), {}),
    "ExperimentNotFoundError": (("simulate",), {"store": "file:///runs", "known": ["other"]}),
    "ExperimentVersionNotFoundError": (("simulate", "v2.0.0"), {"known": ["v1.0.0"]}),
    "ExperimentRunNotFoundError": (("simulate/v1.0.0/t",), {"known": ["u"]}),
    "RunIncompleteError": (("simulate/v1.0.0/t",), {"done": 3, "failed": 1, "total": 10}),
    "RunFailedError": (("simulate/v1.0.0/t", "the disk is full"), {}),
    "AllSpecsFailedError": (("simulate/v1.0.0/t",), {"total": 10, "example": "ValueError: no"}),
    "TableClashError": (("scalars", "y", [("int", 0), ("str", 7)]), {}),
    "SettingsError": (("SCYTHE_ENGINE", "x", "there is no such engine"), {}),
}
"""How each class is made whose constructor is its own; the others take a message."""


def make(kind: type[ScytheError]) -> ScytheError:
    if kind.__name__ in ARGUMENTS:
        arguments, facts = ARGUMENTS[kind.__name__]
        return kind(*arguments, **facts)
    return kind("what is wrong and what to do")


def test_every_constructor_of_its_own_is_tried_here() -> None:
    assert {kind.__name__ for kind in CLASSES if "__init__" in vars(kind)} == set(ARGUMENTS)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickling_with_its_facts(kind: type[ScytheError], protocol: int) -> None:
    error = make(kind)
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is kind
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_an_error_survives_copying_with_its_facts(kind: type[ScytheError], duplicate: Any) -> None:
    error = make(kind)
    error.add_note("seen in slot 3")
    again = duplicate(error)
    assert type(again) is kind
    assert (str(again), vars(again)) == (str(error), vars(error))
    assert again.__notes__ == ["seen in slot 3"]


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_says_who_must_act(kind: type[ScytheError]) -> None:
    branches = (errors.SpecError, errors.StoreError, errors.RunError, errors.EngineError, errors.SettingsError)
    assert kind is ScytheError or sum(issubclass(kind, branch) for branch in branches) == 1


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_is_in_the_tree_that_its_module_draws(kind: type[ScytheError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_a_message_has_the_facts_in_it(name: str) -> None:
    error = make(getattr(errors, name))
    arguments, _ = ARGUMENTS[name]
    assert str(arguments[0]) in str(error)
    assert "\\n" not in str(error)  # a KeyError would show the repr of its message


def test_bad_rows_past_the_first_twenty_are_counted() -> None:
    problems = [(row, "size", "-1", "too small") for row in range(20)]
    error = errors.InvalidSpecsError("Design", problems, bad_rows=1234, total=5678)
    lines = str(error).splitlines()
    assert lines[0] == "1,234 of 5,678 specs are not a valid Design (rows count from 0):"
    assert sum(line.startswith("  row ") for line in lines) == 20
    assert "  … and 1,214 more rows" in lines


def test_all_that_is_wrong_with_a_row_is_on_its_line() -> None:
    problems = [(3, "size", "-1", "too small"), (3, "name", "''", "too short"), (5, "size", "'a'", "no number")]
    lines = str(errors.InvalidSpecsError("Design", problems, bad_rows=2, total=9)).splitlines()
    assert lines[1] == "  row 3: size = -1: too small; name = '': too short"
    assert lines[2] == "  row 5: size = 'a': no number"
