"""Every exception Scythe raises, in one tree whose branches say who must act.

    ScytheError
    ├── SpecError                        fix your code
    │   ├── InvalidSpecsError            rows of a batch that break the input model
    │   ├── InvalidColumnsError          columns of a batch that are not the model's fields
    │   ├── RegistrationError            a function that cannot be an experiment
    │   │   └── ExperimentTypeExists     its name is taken
    │   ├── ExperimentTypeNotFound       no experiment of that name is registered here
    │   ├── ExperimentSpecsMismatchError specs of another model than the experiment's
    │   ├── DuplicateInputArtifactsError kept for code written for 1.x; no longer raised
    │   └── OutputError                  a simulation returned what cannot be stored
    ├── StoreError                       fix the place
    │   ├── ObjectNotFoundError          nothing at that key
    │   └── InvalidKeyError              a name that cannot be an object key
    ├── RunError                         look at the run
    │   ├── ExperimentNotFoundError, ExperimentVersionNotFoundError, ExperimentRunNotFoundError
    │   ├── RunIncompleteError           not finished yet
    │   ├── RunFailedError               ended without final tables
    │   ├── AllSpecsFailedError          finished, and not one spec succeeded
    │   └── TableClashError              one column, two types that do not go together
    ├── EngineError                      look at the worker
    └── SettingsError                    the environment variable or argument it names

Facts are attributes; the message is made from them and ends with what to do next. All of them survive pickling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def _rebuild(cls: type[ScytheError], args: tuple[Any, ...], facts: dict[str, Any]) -> ScytheError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(facts)
    return error


class ScytheError(Exception):
    """The root of every error Scythe raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as message and facts, whatever the constructor of the class asks for."""
        return (_rebuild, (type(self), self.args, self.__dict__))


class SpecError(ScytheError):
    """The user's models, specs or function have to change."""


class InvalidSpecsError(SpecError, ValueError):
    """Rows of a batch break the input model; nothing was written and nothing started.

    Attributes:
        problems: (row, field, value, reason) of every bad value that was kept; rows count from 0.
        bad_rows: How many rows are bad in all.
        total: How many rows the batch has.
    """

    def __init__(
        self,
        model: str,
        problems: Sequence[tuple[int, str, str, str]],
        *,
        bad_rows: int,
        total: int,
        shown: int = 20,
    ) -> None:
        self.model = model
        self.problems = list(problems)
        self.bad_rows = bad_rows
        self.total = total
        rows: dict[int, list[str]] = {}
        for row, field, value, reason in self.problems:
            rows.setdefault(row, []).append(f"{field} = {value}: {reason}")
        lines = [f"  row {row}: {'; '.join(reasons)}" for row, reasons in list(rows.items())[:shown]]
        if bad_rows > len(lines):
            lines.append(f"  … and {bad_rows - len(lines):,} more rows")
        super().__init__(
            f"{bad_rows:,} of {total:,} specs are not a valid {model} (rows count from 0):\n"
            + "\n".join(lines)
            + "\nNothing was written or started. Correct or drop these rows and allocate again."
        )


class InvalidColumnsError(SpecError, ValueError):
    """The columns of a table of specs are not the fields of the input model; nothing was written."""

    def __init__(self, model: str, problems: Sequence[str]) -> None:
        self.model = model
        self.problems = list(problems)
        super().__init__(f"This table does not hold {model} specs: {'; '.join(self.problems)}.")


class RegistrationError(SpecError, TypeError):
    """A function cannot be registered as an experiment."""


class ExperimentTypeExists(RegistrationError):
    """The name of an experiment is taken by another function."""

    def __init__(self, name: str, *, holder: str = "", function: str = "") -> None:
        self.name = name
        self.holder = holder
        self.function = function
        super().__init__(
            f"Cannot register {function or 'this function'} as {name!r}: {holder or 'another function'} has that name. "
            'Give one of them a name of its own: @ExperimentRegistry.Register(name="…").'
        )


class ExperimentTypeNotFound(SpecError, KeyError):
    """No experiment of this name is registered in this process."""

    def __init__(self, name: str, *, known: Sequence[str] = ()) -> None:
        self.name = name
        self.known = list(known)
        names = ", ".join(repr(k) for k in self.known) or "none"
        super().__init__(
            f"No experiment named {name!r} is registered in this process (registered: {names}). "
            "Import the module that registers it first."
        )

    def __str__(self) -> str:
        """Show the message as it is; a KeyError would show its repr."""
        return str(self.args[0])


class ExperimentSpecsMismatchError(SpecError, TypeError):
    """Specs are of another model than the experiment takes."""

    def __init__(self, expected: type | str, actual: type | str, *, row: int | None = None) -> None:
        self.expected = expected if isinstance(expected, str) else expected.__name__
        self.actual = actual if isinstance(actual, str) else actual.__name__
        self.row = row
        where = "" if row is None else f" (row {row})"
        super().__init__(
            f"The experiment takes {self.expected} specs, but got {self.actual}{where}. "
            f"Build the specs as {self.expected}(…), or pass dicts or a table with its fields as columns."
        )


class DuplicateInputArtifactsError(SpecError, ValueError):
    """Kept so that code written for 1.x can import it; files of one name are told apart now."""


class OutputError(SpecError, TypeError):
    """A simulation returned something that cannot be stored as its output."""


class StoreError(ScytheError):
    """The store cannot do what was asked; look at the place where results are kept."""


class ObjectNotFoundError(StoreError, KeyError):
    """Nothing is stored at this key."""

    def __init__(self, key: str, store: str) -> None:
        self.key = key
        self.store = store
        super().__init__(f"Nothing is stored at {key!r} in {store}.")

    def __str__(self) -> str:
        """Show the message as it is; a KeyError would show its repr."""
        return str(self.args[0])


class InvalidKeyError(StoreError, ValueError):
    """A name cannot be (part of) an object key."""

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        self.reason = reason
        super().__init__(f"{key!r} cannot be a name in a store: {reason}. Choose another name.")


class RunError(ScytheError):
    """Something about one run."""


class ExperimentNotFoundError(RunError, LookupError):
    """The store holds no run of this experiment."""

    def __init__(self, name: str, *, store: str = "", known: Sequence[str] = ()) -> None:
        self.name = name
        self.store = store
        self.known = list(known)
        close = f" It holds: {', '.join(self.known)}." if self.known else ""
        super().__init__(
            f"No experiment {name!r} in {store or 'the store'}.{close} "
            "Check the name, or SCYTHE_STORAGE_URL if the runs are somewhere else."
        )


class ExperimentVersionNotFoundError(RunError, LookupError):
    """The experiment has no such version."""

    def __init__(self, name: str, version: str, *, known: Sequence[str] = ()) -> None:
        self.name = name
        self.version = version
        self.known = list(known)
        super().__init__(f"{name!r} has no version {version} (it has: {', '.join(self.known) or 'none'}).")


class ExperimentRunNotFoundError(RunError, LookupError):
    """The version has no such run."""

    def __init__(self, name: str, *, known: Sequence[str] = ()) -> None:
        self.name = name
        self.known = list(known)
        super().__init__(f"There is no run {name!r} (there are: {', '.join(self.known) or 'none'}).")


class RunIncompleteError(RunError):
    """The run has no final tables yet."""

    def __init__(self, run: str, *, done: int, failed: int, total: int) -> None:
        self.run = run
        self.done = done
        self.failed = failed
        self.total = total
        super().__init__(
            f"Run {run} has no final tables yet: {done + failed:,} of {total:,} specs have ended. Wait with "
            "run.wait(), read what is there with partial=True, or go on with run.resume() if nothing runs it any more."
        )


class RunFailedError(RunError):
    """The run ended without final tables; the outcomes it has are kept."""

    def __init__(self, run: str, reason: str) -> None:
        self.run = run
        self.reason = reason
        super().__init__(
            f"Run {run} ended without final tables: {reason}\nFinished specs are kept: partial=True reads what there "
            "is, and run.resume() goes on once the cause is mended."
        )


class AllSpecsFailedError(RunError):
    """The run is finished, and not one of its specs succeeded."""

    def __init__(self, run: str, *, total: int, example: str) -> None:
        self.run = run
        self.total = total
        self.example = example
        super().__init__(
            f"All {total:,} specs of run {run} failed. The first: {example}\n"
            "run.errors() has them all, with their tracebacks; calling the function with one spec runs it right here."
        )


class TableClashError(RunError, TypeError):
    """Specs gave values of types that do not go together in one column.

    Attributes:
        table: The table's name.
        column: The column's name.
        types: Each type with the row of the first spec that gave it.
    """

    def __init__(self, table: str, column: str, types: Sequence[tuple[str, int]]) -> None:
        self.table = table
        self.column = column
        self.types = list(types)
        seen = ", ".join(f"{name} (first from spec {row})" for name, row in self.types)
        super().__init__(
            f"Column {column!r} of table {table!r} has values of types that do not go together: {seen}. "
            "Make the simulation return one type; all parts are kept."
        )


class EngineError(ScytheError):
    """The engine or one of its workers cannot do its work."""


class SettingsError(ScytheError, ValueError):
    """A setting cannot be used; the message names the variable or argument."""

    def __init__(self, setting: str, value: object, reason: str) -> None:
        self.setting = setting
        self.value = value
        self.reason = reason
        super().__init__(f"{setting}={value!r}: {reason}")
